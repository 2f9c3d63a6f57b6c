# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Trilinear spreading of samples onto a spectrum's table: the transpose of `_scoring.gather`."""

from libc.math cimport floor


def spread(
    const float[:, ::1] points not None,            # IN  (3, J) kx, ky, kz
    const float complex[::1] values not None,       # IN  (J,)
    double scale,                                   # IN  table samples per unit of frequency
    double complex[:, :, ::1] table not None,       # I/O (2K + 1, 2K + 1, K + 1), DC at (K, K, 0): added to
):
    """Add a Hermitian function given at points k (its mates at -k implied).

    Samples at kx = 0 stand for both mates in an inverse real FFT: they are counted twice.
    Oracle: tests/oracles.py::spread.
    """
    cdef Py_ssize_t j, n_points = points.shape[1], limit = table.shape[2] - 1, corner
    cdef Py_ssize_t ix, iy, iz
    cdef double kx, ky, kz, wx, wy, wz, re, im, weight
    cdef double complex* cell
    cdef bint is_inside = True
    if points.shape[0] != 3 or values.shape[0] != n_points:
        raise ValueError(f"points are ({points.shape[0]}, {n_points}) but there are "
                         f"{values.shape[0]} values")
    if table.shape[0] != 2 * limit + 1 or table.shape[1] != 2 * limit + 1:
        raise ValueError(f"shape ({table.shape[0]}, {table.shape[1]}, {table.shape[2]}) is not "
                         "(2K + 1, 2K + 1, K + 1)")
    with nogil:
        for j in range(n_points):
            kx, ky, kz = scale * points[0, j], scale * points[1, j], scale * points[2, j]
            re, im = values[j].real, values[j].imag
            if kx < 0.0:  # Friedel: F(-k) is the conjugate of F(k)
                kx, ky, kz, im = -kx, -ky, -kz, -im
            # Asked this way round, NaN is outside too.
            if not (kx < limit and -limit <= ky < limit and -limit <= kz < limit):
                is_inside = False
                break
            ix, iy, iz = <Py_ssize_t>kx, <Py_ssize_t>floor(ky), <Py_ssize_t>floor(kz)
            wx, wy, wz = kx - ix, ky - iy, kz - iz
            iy += limit
            iz += limit
            for corner in range(8):
                weight = ((wz if corner & 4 else 1.0 - wz) * (wy if corner & 2 else 1.0 - wy)
                          * (wx if corner & 1 else 1.0 - wx))
                if ix == 0 and not corner & 1:
                    weight = 2.0 * weight
                cell = &table[iz + (corner >> 2), iy + (corner >> 1 & 1), ix + (corner & 1)]
                cell[0].real = cell[0].real + weight * re
                cell[0].imag = cell[0].imag + weight * im
    if not is_inside:
        raise ValueError(f"a point lies outside the table, which ends at |k| = {limit}")
