# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Coefficients of the rotational correlation at every beta, before its FFT over alpha and gamma."""


def sum_degrees(
    const float complex[::1] product not None,  # IN  I^l_{m m'}, l after l, (l+1, 2l+1) each: m from 0, m' from -l
    const float[::1] wigner not None,           # IN  d^l_{m m'}(beta_j): for each m >= 0, for each m', (degrees, T)
    const long[::1] degree not None,            # IN  the degrees l to sum, ascending
    float complex[:, :, ::1] out not None,      # OUT (B + 1, 2B, T) sum_l I^l_{m m'} d^l_{m m'}(beta_j)
):
    """Sum over degrees l < B for m from 0 to B and m' wrapped as an FFT wants it; 0 where none exists.

    Oracle: tests/oracles.py::sum_degrees.
    """
    cdef Py_ssize_t bandwidth = out.shape[0] - 1, n_beta = out.shape[2], n_degree = degree.shape[0]
    cdef Py_ssize_t i, j, l, m, mp, lowest, column, size_product = 0, size_wigner = 0
    cdef const float complex* element
    cdef const float* d
    cdef float* row
    cdef float re, im
    if out.shape[1] != 2 * bandwidth or bandwidth < 1 or n_beta < 1:
        raise ValueError(f"out has shape ({out.shape[0]}, {out.shape[1]}, {out.shape[2]}), "
                         "(B + 1, 2B, T) is needed")
    for i in range(n_degree):
        l = degree[i]
        if l < 0 or l >= bandwidth or (i > 0 and l <= degree[i - 1]):
            raise ValueError(f"degree {l} does not ascend within 0..{bandwidth - 1}")
        size_product += (l + 1) * (2 * l + 1)
        size_wigner += (l + 1) * (2 * l + 1) * n_beta
    if product.shape[0] != size_product or wigner.shape[0] != size_wigner:
        raise ValueError(f"{product.shape[0]} products and {wigner.shape[0]} Wigner values; "
                         f"the degrees need {size_product} and {size_wigner}")
    out[:, :, :] = 0
    if n_degree == 0:
        return
    with nogil:
        d = &wigner[0]
        for m in range(bandwidth):
            for mp in range(1 - bandwidth, bandwidth):
                lowest = m if m > mp and m > -mp else (mp if mp > 0 else -mp)
                column = mp if mp >= 0 else mp + 2 * bandwidth
                row = <float*>&out[m, column, 0]
                element = &product[0]
                for i in range(n_degree):
                    l = degree[i]
                    if l >= lowest:
                        re = element[m * (2 * l + 1) + mp + l].real
                        im = element[m * (2 * l + 1) + mp + l].imag
                        for j in range(n_beta):
                            row[2 * j] = row[2 * j] + re * d[j]
                            row[2 * j + 1] = row[2 * j + 1] + im * d[j]
                        d += n_beta
                    element += (l + 1) * (2 * l + 1)
