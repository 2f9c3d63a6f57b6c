# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Turned averages against particles: interpolation, best shift and score (C in _scoring.h)."""

from libc.stdlib cimport free, malloc

cdef extern from "_scoring.h":
    enum: LANES
    ctypedef struct SpectrumTable:
        pass
    ctypedef struct RowSamples:
        int n_rows, n_padded, radius
        const int* rows
        const float* weight
        const float* re
        const float* im
    ctypedef struct ShiftWindow:
        int n_box, reach, n_lanes
        double step, max_shift
        const float* cosines
        const float* sines
    ctypedef struct Scratch:
        float* re
        float* im
        float* plane
        float* after_y
        float* parts
        float* ramp
    SpectrumTable spectrum_table(const float* samples, int limit) nogil
    int gather_points(SpectrumTable t, const float** points, long n_points, const double* matrix,
                      float* out) nogil
    void score_rotation(SpectrumTable t, RowSamples s, ShiftWindow w, Scratch work,
                        const double* matrix, double* out) nogil

ROW_PADDING = LANES  # rows of samples are padded to a multiple of this


def gather(
    const float complex[:, :, ::1] table not None,  # IN  (2K + 1, 2K + 1, K + 1) spectrum, DC at (K, K, 0)
    const float[:, ::1] points not None,            # IN  (3, J) kx, ky, kz
    const double[:, ::1] matrix not None,           # IN  (3, 3) rotation times scale, for every point
    float complex[::1] out not None,                # OUT (J,) table at matrix @ point
):
    """Trilinear interpolation within |k| < K. Oracle: tests/oracles.py::gather_table."""
    cdef long n_points = points.shape[1]
    cdef const float* axes[3]
    cdef int is_inside = 1
    _check_table(table.shape[0], table.shape[1], table.shape[2])
    if points.shape[0] != 3 or matrix.shape[0] != 3 or matrix.shape[1] != 3:
        raise ValueError("points must be (3, J) and the matrix (3, 3)")
    if out.shape[0] != n_points:
        raise ValueError(f"{n_points} points but out holds {out.shape[0]}")
    if n_points == 0:
        return
    axes[0], axes[1], axes[2] = &points[0, 0], &points[1, 0], &points[2, 0]
    cdef SpectrumTable t = spectrum_table(<const float*>&table[0, 0, 0], <int>(table.shape[2] - 1))
    with nogil:
        is_inside = gather_points(t, axes, n_points, &matrix[0, 0], <float*>&out[0])
    if not is_inside:
        raise ValueError(f"a point lies outside the table, which ends at |k| = {table.shape[2] - 1}")


def score_rotations(
    const float complex[:, :, ::1] table not None,  # IN  (2K + 1, 2K + 1, K + 1) the average's spectrum
    const int[:, ::1] rows not None,                # IN  (R, 5) kz, ky, first kx, samples, offset
    const float[::1] weight not None,               # IN  (P,) wedge times multiplicity, 0 in the padding
    const float[::1] weighted_re not None,          # IN  (P,) weight times the particle, real part
    const float[::1] weighted_im not None,          # IN  (P,) and imaginary part
    const double[:, :, ::1] matrix not None,        # IN  (M, 3, 3) from the particle's k to the table's
    const float[:, ::1] cosines not None,           # IN  (radius + 1 + LANES, L) cos(2 pi k s step / n)
    const float[:, ::1] sines not None,             # IN  the same of the sine; s = 0..L - 1
    int n_box,                                      # IN  n
    int reach,                                      # IN  shifts of up to `reach` steps along an axis
    double step,                                    # IN  voxels
    double max_shift,                               # IN  voxels, from the centre
    double[:, ::1] out not None,                    # OUT (M, 5) shift x, y, z, cross and power there
):
    """Best shift of each rotation and its sums of Eq. 1. Oracle: tests/oracles.py::score_rotation."""
    cdef Py_ssize_t m, n_rotations = matrix.shape[0]
    cdef RowSamples s
    cdef ShiftWindow w
    cdef Scratch work
    cdef float* memory
    cdef size_t n_part, n_floats
    _check_table(table.shape[0], table.shape[1], table.shape[2])
    if not (weight.shape[0] == weighted_re.shape[0] == weighted_im.shape[0]):
        raise ValueError(f"{weight.shape[0]} weights, {weighted_re.shape[0]} real and "
                         f"{weighted_im.shape[0]} imaginary parts")
    if rows.shape[1] != 5 or matrix.shape[1] != 3 or matrix.shape[2] != 3:
        raise ValueError("rows must be (R, 5) and matrices (M, 3, 3)")
    if out.shape[0] != n_rotations or out.shape[1] != 5:
        raise ValueError(f"{n_rotations} rotations but out has shape ({out.shape[0]}, {out.shape[1]})")
    if (cosines.shape[0], cosines.shape[1]) != (sines.shape[0], sines.shape[1]):
        raise ValueError("tables of cosines and sines differ in shape")
    if reach < 0 or cosines.shape[1] < reach + 2 or cosines.shape[1] % LANES:
        raise ValueError(f"shifts up to {reach} steps do not fit {cosines.shape[1]} lanes")
    s.radius = <int>(cosines.shape[0] - 1 - LANES)
    _check_rows(rows, weight.shape[0], s.radius, table.shape[2] - 1, matrix)
    if n_rotations == 0 or rows.shape[0] == 0:
        out[:, :] = 0
        return
    s.n_rows, s.n_padded, s.rows = <int>rows.shape[0], <int>weight.shape[0], &rows[0, 0]
    s.weight, s.re, s.im = &weight[0], &weighted_re[0], &weighted_im[0]
    w.n_box, w.reach, w.n_lanes, w.step, w.max_shift = n_box, reach, <int>cosines.shape[1], step, max_shift
    w.cosines, w.sines = &cosines[0, 0], &sines[0, 0]
    n_part = <size_t>8 * (reach + 2) * (reach + 2) * w.n_lanes
    n_floats = (2 * <size_t>s.n_padded + (4 * (2 * s.radius + 1) + 8) * <size_t>w.n_lanes
                + n_part + 2 * (s.radius + 1 + LANES))
    memory = <float*>malloc(n_floats * sizeof(float))
    if memory == NULL:
        raise MemoryError(f"{n_floats * sizeof(float)} bytes to score a particle")
    work.re = memory
    work.im = work.re + s.n_padded
    work.plane = work.im + s.n_padded
    work.after_y = work.plane + 4 * (2 * s.radius + 1) * w.n_lanes
    work.parts = work.after_y + 8 * w.n_lanes
    work.ramp = work.parts + n_part
    cdef SpectrumTable t = spectrum_table(<const float*>&table[0, 0, 0], <int>(table.shape[2] - 1))
    with nogil:
        for m in range(n_rotations):
            score_rotation(t, s, w, work, &matrix[m, 0, 0], &out[m, 0])
        free(memory)


cdef _check_table(Py_ssize_t n_z, Py_ssize_t n_y, Py_ssize_t n_x):
    if n_x < 2 or n_y != 2 * n_x - 1 or n_z != n_y:
        raise ValueError(f"shape ({n_z}, {n_y}, {n_x}) is not a table (2K + 1, 2K + 1, K + 1)")


cdef _check_rows(const int[:, ::1] rows, Py_ssize_t n_padded, int radius, Py_ssize_t limit,
                 const double[:, :, ::1] matrix):
    """Every row lies in its arrays and, turned, in the table."""
    cdef Py_ssize_t r, m, a
    cdef long last_x, farthest = 0, used
    cdef double scale_sq, largest = 0.0
    for r in range(rows.shape[0]):
        last_x = rows[r, 2] + rows[r, 3] - 1
        used = (rows[r, 3] + LANES - 1) // LANES * LANES
        if (rows[r, 2] < 0 or rows[r, 3] < 1 or rows[r, 4] < 0 or rows[r, 4] + used > n_padded
                or abs(rows[r, 0]) > radius or abs(rows[r, 1]) > radius or last_x > radius):
            raise ValueError(f"row {r} does not fit {n_padded} samples within radius {radius}")
        if r > 0 and rows[r, 0] == rows[r - 1, 0] and rows[r, 1] <= rows[r - 1, 1]:
            raise ValueError(f"row {r}: ky does not ascend within its plane")
        farthest = max(farthest, rows[r, 0] * rows[r, 0] + rows[r, 1] * rows[r, 1] + last_x * last_x)
    for m in range(matrix.shape[0]):
        for a in range(3):
            scale_sq = (matrix[m, a, 0] * matrix[m, a, 0] + matrix[m, a, 1] * matrix[m, a, 1]
                        + matrix[m, a, 2] * matrix[m, a, 2])
            largest = max(largest, scale_sq)
    if not farthest * largest < limit * limit:
        raise ValueError(f"turned rows leave the table, which ends at |k| = {limit}")
