# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Weighted sums over Fourier samples: what Eq. 1, 12 and 15 need of one candidate."""

def cross_and_power(
    const float complex[::1] model not None,        # IN  (J,) R_phi A_k without its shift
    const float complex[::1] observed not None,     # IN  (J,) X_i
    const float[::1] sample_weight not None,        # IN  (J,) wedge times Hermitian multiplicity
    const float[:, ::1] frequency_xyz not None,     # IN  (J, 3) integer frequencies
    const double complex[:, ::1] ramp not None,     # IN  (3, n | 1) exp(-2 pi i k t / n) by axis
    double[::1] out not None,                       # OUT (2,) Re <X, R_phi A>_w and |R_phi A|^2_w
):
    """Weighted inner product with the shifted model, and its power. Oracle: tests/oracles.py."""
    cdef Py_ssize_t j, k, n_sample = model.shape[0], limit = ramp.shape[1] // 2
    cdef double cross = 0.0, power = 0.0, re, im, ar, ai, br, bi
    if not (observed.shape[0] == sample_weight.shape[0] == frequency_xyz.shape[0] == n_sample):
        raise ValueError(f"{n_sample} samples in model, {observed.shape[0]} in observed, "
                         f"{sample_weight.shape[0]} weights, {frequency_xyz.shape[0]} frequencies")
    if ramp.shape[0] != 3 or frequency_xyz.shape[1] != 3 or out.shape[0] != 2:
        raise ValueError("ramp and frequencies need 3 components, out 2")
    with nogil:
        for j in range(n_sample):
            k = <Py_ssize_t>frequency_xyz[j, 0] + limit
            ar = ramp[0, k].real
            ai = ramp[0, k].imag
            k = <Py_ssize_t>frequency_xyz[j, 1] + limit
            br = ramp[1, k].real
            bi = ramp[1, k].imag
            re = ar * br - ai * bi
            im = ar * bi + ai * br
            k = <Py_ssize_t>frequency_xyz[j, 2] + limit
            br = ramp[2, k].real
            bi = ramp[2, k].imag
            ar = re * br - im * bi
            ai = re * bi + im * br
            # model times ramp
            re = model[j].real * ar - model[j].imag * ai
            im = model[j].real * ai + model[j].imag * ar
            cross = cross + sample_weight[j] * (re * observed[j].real + im * observed[j].imag)
            power = power + sample_weight[j] * (re * re + im * im)
        out[0] = cross
        out[1] = power
