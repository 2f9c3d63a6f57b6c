# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Trilinear interpolation on half spectra of real volumes at turned frequencies."""

from libc.math cimport floor

# A rotation moves a frequency on the border of the grid off it by rounding errors of this size.
cdef double BORDER = 1e-3


cdef inline bint _cell(double k, Py_ssize_t low, Py_ssize_t high,
                       Py_ssize_t* cell, double* weight) noexcept nogil:
    """Cell [cell, cell + 1] of low..high that holds k, and the weight of its upper end."""
    if k < low - BORDER or k > high + BORDER:
        return False
    cell[0] = <Py_ssize_t>floor(k)
    if cell[0] < low:
        cell[0] = low
    if cell[0] > high - 1:
        cell[0] = high - 1
    weight[0] = k - cell[0]
    return True


cdef inline bint _corners(const double* r, const float* f, Py_ssize_t n,
                          Py_ssize_t* index, double* weight, bint* is_mirrored) noexcept nogil:
    """Flat positions and weights of the 8 samples around r @ f; False where outside the grid."""
    cdef double kx = r[0] * f[0] + r[1] * f[1] + r[2] * f[2]
    cdef double ky = r[3] * f[0] + r[4] * f[1] + r[5] * f[2]
    cdef double kz = r[6] * f[0] + r[7] * f[1] + r[8] * f[2]
    cdef double wx, wy, wz
    cdef Py_ssize_t ix, iy, iz, jy, jz, corner, row, n_half = n // 2 + 1
    is_mirrored[0] = kx < 0.0
    if is_mirrored[0]:  # Friedel: F(-k) is the conjugate of F(k)
        kx, ky, kz = -kx, -ky, -kz
    if not (_cell(kx, 0, n // 2, &ix, &wx) and _cell(ky, -(n // 2), n // 2, &iy, &wy)
            and _cell(kz, -(n // 2), n // 2, &iz, &wz)):
        return False
    for corner in range(4):
        jz = iz + (corner >> 1)
        jy = iy + (corner & 1)
        # + 2n: C's remainder of a negative number is negative.
        row = ((jz + 2 * n) % n * n + (jy + 2 * n) % n) * n_half + ix
        index[2 * corner] = row
        index[2 * corner + 1] = row + 1
        weight[2 * corner] = ((wz if corner >> 1 else 1.0 - wz)
                              * (wy if corner & 1 else 1.0 - wy))
        weight[2 * corner + 1] = weight[2 * corner] * wx
        weight[2 * corner] *= 1.0 - wx
    return True


def gather_complex(
    const float complex[:, :, ::1] half not None,   # IN  (n, n, n // 2 + 1) spectrum, DC at 0
    const float[:, ::1] frequency_xyz not None,     # IN  (J, 3) (kx, ky, kz)
    const double[:, ::1] matrix not None,           # IN  (3, 3) applied to every frequency
    float complex[::1] out not None,                # OUT (J,) half at matrix @ frequency
):
    """Sample a Hermitian half spectrum. Oracle: tests/oracles.py::gather_complex."""
    cdef Py_ssize_t n = half.shape[0], n_sample = frequency_xyz.shape[0], j, c
    cdef Py_ssize_t index[8]
    cdef double weight[8]
    cdef double re, im
    cdef bint is_mirrored
    _check(half.shape[1], half.shape[2], n, frequency_xyz, matrix, out.shape[0])
    if n_sample == 0:
        return
    cdef const float complex* samples = &half[0, 0, 0]
    with nogil:
        for j in range(n_sample):
            re = 0.0
            im = 0.0
            if _corners(&matrix[0, 0], &frequency_xyz[j, 0], n, index, weight, &is_mirrored):
                for c in range(8):
                    re = re + weight[c] * samples[index[c]].real
                    im = im + weight[c] * samples[index[c]].imag
                if is_mirrored:
                    im = -im
            out[j].real = <float>re
            out[j].imag = <float>im


def gather_real(
    const float[:, :, ::1] half not None,           # IN  (n, n, n // 2 + 1) even weights, DC at 0
    const float[:, ::1] frequency_xyz not None,     # IN  (J, 3) (kx, ky, kz)
    const double[:, ::1] matrix not None,           # IN  (3, 3) applied to every frequency
    float[::1] out not None,                        # OUT (J,) half at matrix @ frequency
):
    """Sample an even real function given on a half spectrum. Oracle: tests/oracles.py::gather_real."""
    cdef Py_ssize_t n = half.shape[0], n_sample = frequency_xyz.shape[0], j, c
    cdef Py_ssize_t index[8]
    cdef double weight[8]
    cdef double total
    cdef bint is_mirrored
    _check(half.shape[1], half.shape[2], n, frequency_xyz, matrix, out.shape[0])
    if n_sample == 0:
        return
    cdef const float* samples = &half[0, 0, 0]
    with nogil:
        for j in range(n_sample):
            total = 0.0
            if _corners(&matrix[0, 0], &frequency_xyz[j, 0], n, index, weight, &is_mirrored):
                for c in range(8):
                    total = total + weight[c] * samples[index[c]]
            out[j] = <float>total


def _check(n_y, n_x, n, frequency_xyz, matrix, n_out):
    if n_y != n or n_x != n // 2 + 1 or n < 2:
        raise ValueError(f"shape ({n}, {n_y}, {n_x}) is not the half spectrum of a cube")
    if frequency_xyz.shape[1] != 3 or matrix.shape[0] != 3 or matrix.shape[1] != 3:
        raise ValueError("frequencies must be (J, 3) and the matrix (3, 3)")
    if n_out != frequency_xyz.shape[0]:
        raise ValueError(f"{frequency_xyz.shape[0]} frequencies but out holds {n_out}")
