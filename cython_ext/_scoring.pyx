# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Turned averages against particles: interpolation, best shift and score (C in _scoring.h)."""

from libc.stdlib cimport free

cdef extern from "_scoring.h":
    enum: LANES, BLOCK, LONGEST_RUN
    void* allocate(size_t n_bytes) nogil
    ctypedef struct SpectrumTable:
        pass
    ctypedef struct RunSamples:
        long n_samples
        int n_runs, n_rows, n_planes, n_tiles, radius
        const float* axes[3]
        const float* weight
        const float* re
        const float* im
        const int* runs
        const int* rows
        const int* tiles
    ctypedef struct ShiftWindow:
        int n_box, reach, n_lanes
        double step, max_shift
        const float* cosines
        const float* sines
    ctypedef struct Scratch:
        float* after_x
        float* after_y
        float* parts
        float* phase
        float* ramp
        float* row_ramp
    SpectrumTable spectrum_table(const float* samples, int limit) nogil
    int is_within(int limit, const float** points, long n_points, const double* matrix) nogil
    int gather_points(SpectrumTable t, const float** points, long n_points, const double* matrix,
                      float* out) nogil
    void c_add_turned_back "add_turned_back"(
        SpectrumTable t, const float* wedge, const float** points, const int* runs, int n_runs,
        const int* rows, const long* index, const double* matrices, int n_poses, const float* ramps,
        int radius, int width, const double* weights, double* signal, double* coverage) nogil
    void turn_and_multiply(SpectrumTable t, RunSamples s, const double* matrices, int n, int* start,
                           int* order, long stride, float* product, double* power) nogil
    void score_shifts(RunSamples s, ShiftWindow w, Scratch work, const float* product_re,
                      const float* product_im, double* out) nogil

cdef size_t BATCH_BYTES = 160 << 20  # of products: rotations that are worked on together
SHIFT_LANES = LANES  # tables over shifts hold a multiple of this many
RAMP_PADDING = LONGEST_RUN  # of a ramp's rows; no run of samples is longer


cdef class WorkingMemory:
    """What a kernel writes on its way: it keeps its pages for the next call, of the same thread."""
    cdef char* data
    cdef size_t size

    cdef char* reserve(self, size_t n_bytes) except NULL:
        """At least n_bytes; what was there is lost."""
        if n_bytes > self.size:
            free(self.data)
            self.size = 0
            self.data = <char*>allocate(n_bytes)
            if self.data == NULL:
                raise MemoryError(f"{n_bytes} bytes of working memory")
            self.size = n_bytes
        return self.data

    def __dealloc__(self):
        free(self.data)


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


def add_turned_back(
    const float complex[:, :, ::1] table not None,  # IN  (2K + 1, 2K + 1, K + 1) particle, DC at (K, K, 0)
    const float[:, :, ::1] wedge not None,          # IN  the same of its wedge
    const float[:, ::1] axes not None,              # IN  (3, J) kx, ky, kz of the samples, run after run
    const int[:, ::1] runs not None,                # IN  (S, 3) first kx, number of samples, row
    const int[:, ::1] rows not None,                # IN  (R, 2) kz, ky, ascending
    const Py_ssize_t[::1] index not None,           # IN  (J,) where each sample's sums are
    const double[:, :, ::1] matrix not None,        # IN  (M, 3, 3) rotation times scale, for every sample
    const float[:, :, :, ::1] ramp not None,        # IN  (M, 3, 2, 2 radius + 1 + RAMP_PADDING) cosines,
                                                    #     sines of factors of kx, ky, kz = -radius..radius
    const double[::1] weight not None,              # IN  (M,)
    double complex[::1] signal not None,            # I/O (J,) sums of weight times table times factors
    double[::1] coverage not None,                  # I/O (J,) sums of weight times wedge
):
    """Add a particle and its wedge, moved back by M poses. Oracle: tests/oracles.py::turned_back."""
    cdef Py_ssize_t j, m, n_poses = matrix.shape[0], n_samples = axes.shape[1]
    cdef Py_ssize_t radius = (ramp.shape[3] - RAMP_PADDING) // 2
    cdef const float* points[3]
    cdef bint is_inside = True
    _check_table(table.shape[0], table.shape[1], table.shape[2])
    if (wedge.shape[0], wedge.shape[1], wedge.shape[2]) != (
            table.shape[0], table.shape[1], table.shape[2]):
        raise ValueError(f"a wedge ({wedge.shape[0]}, {wedge.shape[1]}, {wedge.shape[2]}) does not "
                         f"fit a table ({table.shape[0]}, {table.shape[1]}, {table.shape[2]})")
    if (axes.shape[0] != 3 or index.shape[0] != n_samples or signal.shape[0] != n_samples
            or coverage.shape[0] != n_samples):
        raise ValueError(f"axes ({axes.shape[0]}, {n_samples}), {index.shape[0]} indices, "
                         f"{signal.shape[0]} and {coverage.shape[0]} sums: (3, J) and J are needed")
    if (matrix.shape[1] != 3 or matrix.shape[2] != 3 or ramp.shape[0] != n_poses
            or ramp.shape[1] != 3 or ramp.shape[2] != 2 or weight.shape[0] != n_poses):
        raise ValueError(f"{n_poses} matrices, {ramp.shape[0]} ramps and {weight.shape[0]} weights: "
                         "(M, 3, 3), (M, 3, 2, W) and (M,) are needed")
    _check_runs(axes, runs, rows, <int>radius)
    if n_samples == 0 or n_poses == 0:
        return
    points[0], points[1], points[2] = &axes[0, 0], &axes[1, 0], &axes[2, 0]
    cdef SpectrumTable t = spectrum_table(<const float*>&table[0, 0, 0], <int>(table.shape[2] - 1))
    with nogil:
        for j in range(n_samples):
            is_inside = is_inside and 0 <= index[j] < n_samples
        for j in range(runs.shape[0]):
            is_inside = is_inside and runs[j, 1] <= LONGEST_RUN
    if not is_inside:
        raise ValueError(f"an index lies beyond {n_samples} sums, or a run is longer than {LONGEST_RUN}")
    with nogil:
        for m in range(n_poses):
            is_inside = is_inside and is_within(<int>(table.shape[2] - 1), points, n_samples,
                                                &matrix[m, 0, 0])
    if not is_inside:
        raise ValueError(f"a point lies outside the table, which ends at |k| = {table.shape[2] - 1}")
    with nogil:
        c_add_turned_back(t, &wedge[0, 0, 0], points, &runs[0, 0], <int>runs.shape[0], &rows[0, 0],
                          <const long*>&index[0], &matrix[0, 0, 0], <int>n_poses, &ramp[0, 0, 0, 0],
                          <int>radius, <int>ramp.shape[3], &weight[0], <double*>&signal[0],
                          &coverage[0])


def score_rotations(
    const float complex[:, :, ::1] table not None,  # IN  (2K + 1, 2K + 1, K + 1) the average's spectrum
    const float[:, ::1] axes not None,              # IN  (3, J) kx, ky, kz of the samples, run after run
    const float[::1] weight not None,               # IN  (J,) wedge times multiplicity
    const float[:, ::1] weighted not None,          # IN  (2, J) real and imaginary part of weight times X
    const int[:, ::1] runs not None,                # IN  (S, 3) first kx, number of samples, row
    const int[:, ::1] rows not None,                # IN  (R, 2) kz, ky, ascending
    const int[::1] tiles not None,                  # IN  (T + 1,) first sample of each tile, then J
    const double[:, :, ::1] matrix not None,        # IN  (M, 3, 3) from a sample's k to the table's
    const float[:, ::1] cosines not None,           # IN  (2 radius + 1, L) cos(2 pi k s step / n)
    const float[:, ::1] sines not None,             # IN  and sin; k = -radius..radius, s = 0..L - 1
    int n_box,                                      # IN  n
    int reach,                                      # IN  shifts of up to `reach` steps along an axis
    double step,                                    # IN  voxels
    double max_shift,                               # IN  voxels, from the centre
    double[:, ::1] out not None,                    # OUT (M, 5) shift x, y, z, cross and power there
    WorkingMemory memory not None,                  # in use by no other thread
):
    """Best shift of each rotation and its sums of Eq. 1. Oracle: tests/oracles.py::score_rotation."""
    cdef Py_ssize_t m, r, n_rotations = matrix.shape[0]
    cdef RunSamples s
    cdef ShiftWindow w
    cdef Scratch work
    _check_table(table.shape[0], table.shape[1], table.shape[2])
    if not (axes.shape[1] == weight.shape[0] == weighted.shape[1]):
        raise ValueError(f"{axes.shape[1]} frequencies, {weight.shape[0]} weights and "
                         f"{weighted.shape[1]} values")
    if (axes.shape[0], weighted.shape[0], runs.shape[1], rows.shape[1]) != (3, 2, 3, 2):
        raise ValueError("axes must be (3, J), weighted (2, J), runs (S, 3) and rows (R, 2)")
    if matrix.shape[1] != 3 or matrix.shape[2] != 3:
        raise ValueError("matrices must be (M, 3, 3)")
    if out.shape[0] != n_rotations or out.shape[1] != 5:
        raise ValueError(f"{n_rotations} rotations but out has shape ({out.shape[0]}, {out.shape[1]})")
    if (cosines.shape[0], cosines.shape[1]) != (sines.shape[0], sines.shape[1]):
        raise ValueError("tables of cosines and sines differ in shape")
    if reach < 0 or cosines.shape[1] < reach + 2 or cosines.shape[1] % LANES:
        raise ValueError(f"shifts up to {reach} steps do not fit {cosines.shape[1]} lanes")
    s.n_samples, s.n_runs, s.n_rows = weight.shape[0], <int>runs.shape[0], <int>rows.shape[0]
    s.radius = <int>(cosines.shape[0] // 2)
    _check_runs(axes, runs, rows, s.radius)
    _check_tiles(tiles, axes.shape[1])
    _check_reach(axes, matrix, table.shape[2] - 1)
    if n_rotations == 0 or s.n_samples == 0:
        out[:, :] = 0
        return
    s.n_planes = 1
    for r in range(1, rows.shape[0]):
        s.n_planes += rows[r, 0] != rows[r - 1, 0]
    for r in range(3):
        s.axes[r] = &axes[r, 0]
    s.weight, s.re, s.im = &weight[0], &weighted[0, 0], &weighted[1, 0]
    s.runs, s.rows, s.tiles, s.n_tiles = &runs[0, 0], &rows[0, 0], &tiles[0], <int>tiles.shape[0] - 1
    w.n_box, w.reach, w.n_lanes, w.step, w.max_shift = n_box, reach, <int>cosines.shape[1], step, max_shift
    w.cosines, w.sines = &cosines[0, 0], &sines[0, 0]
    cdef size_t n = reach + 2, n_lanes = w.n_lanes, stride = s.n_samples + LANES
    cdef size_t n_batch = max(1, min(<size_t>n_rotations, BATCH_BYTES // (8 * stride)))
    cdef size_t n_across = 2 * (table.shape[2] - 1) // BLOCK + 1
    cdef size_t sizes[9]
    sizes[:] = [
        4 * s.n_rows * n_lanes, s.n_planes * n * 8 * n_lanes, 8 * n * n * n_lanes,
        2 * s.n_planes * n_lanes, 2 * (s.radius + 1 + LANES), 2 * s.n_rows, 2 * n_batch * stride,
        n_across * n_across * n_across + 1, n_batch * s.n_tiles,
    ]
    cdef size_t n_words = 0
    for r in range(9):
        n_words += sizes[r]
    cdef double* power = <double*>memory.reserve(n_batch * sizeof(double) + n_words * sizeof(float))
    work.after_x = <float*>(power + n_batch)
    work.after_y = work.after_x + sizes[0]
    work.parts = work.after_y + sizes[1]
    work.phase = work.parts + sizes[2]
    work.ramp = work.phase + sizes[3]
    work.row_ramp = work.ramp + sizes[4]
    cdef float* product = work.row_ramp + sizes[5]
    cdef int* start = <int*>(product + sizes[6])
    cdef int* order = start + sizes[7]
    cdef SpectrumTable t = spectrum_table(<const float*>&table[0, 0, 0], <int>(table.shape[2] - 1))
    cdef Py_ssize_t first = 0, n_here
    with nogil:
        while first < n_rotations:
            n_here = min(<Py_ssize_t>n_batch, n_rotations - first)
            turn_and_multiply(t, s, &matrix[first, 0, 0], <int>n_here, start, order, <long>stride,
                              product, power)
            for m in range(n_here):
                score_shifts(s, w, work, product + 2 * m * stride, product + (2 * m + 1) * stride,
                             &out[first + m, 0])
                out[first + m, 4] = power[m]
            first += n_here


cdef _check_table(Py_ssize_t n_z, Py_ssize_t n_y, Py_ssize_t n_x):
    if n_x < 2 or n_y != 2 * n_x - 1 or n_z != n_y:
        raise ValueError(f"shape ({n_z}, {n_y}, {n_x}) is not a table (2K + 1, 2K + 1, K + 1)")


cdef _check_runs(const float[:, ::1] axes, const int[:, ::1] runs, const int[:, ::1] rows, int radius):
    """Rows ascend, and runs cover the samples and belong to rows."""
    cdef Py_ssize_t r, n_samples = 0, bad_row = -1, bad_order = -1, bad_run = -1
    with nogil:
        for r in range(rows.shape[0]):
            if abs(rows[r, 0]) > radius or abs(rows[r, 1]) > radius:
                bad_row = r
                break
            if r > 0 and (rows[r, 0] < rows[r - 1, 0]
                          or (rows[r, 0] == rows[r - 1, 0] and rows[r, 1] <= rows[r - 1, 1])):
                bad_order = r
                break
        for r in range(runs.shape[0]):
            if (runs[r, 0] < 0 or runs[r, 1] < 1 or runs[r, 0] + runs[r, 1] > radius + 1
                    or not 0 <= runs[r, 2] < rows.shape[0]):
                bad_run = r
                break
            n_samples += runs[r, 1]
    if bad_row >= 0:
        raise ValueError(f"row {bad_row} lies beyond the radius of {radius}")
    if bad_order >= 0:
        raise ValueError(f"row {bad_order} is not above the row before it")
    if bad_run >= 0:
        raise ValueError(f"run {bad_run} lies beyond the radius of {radius} or in no row")
    if n_samples != axes.shape[1]:
        raise ValueError(f"the runs hold {n_samples} samples, the arrays {axes.shape[1]}")


cdef _check_tiles(const int[::1] tiles, Py_ssize_t n_samples):
    """Tiles follow each other and cover the samples."""
    cdef Py_ssize_t i
    if tiles.shape[0] < 1 or tiles[0] != 0 or tiles[tiles.shape[0] - 1] != n_samples:
        raise ValueError(f"the tiles do not cover {n_samples} samples")
    for i in range(1, tiles.shape[0]):
        if tiles[i] <= tiles[i - 1]:
            raise ValueError(f"tile {i - 1} holds no sample")


cdef _check_reach(const float[:, ::1] axes, const double[:, :, ::1] matrix, Py_ssize_t limit):
    """Every sample, turned, lies in the table."""
    cdef Py_ssize_t j, m
    cdef double farthest = 0.0, squared
    cdef bint is_inside = True
    with nogil:
        for j in range(axes.shape[1]):
            squared = axes[0, j] * axes[0, j] + axes[1, j] * axes[1, j] + axes[2, j] * axes[2, j]
            farthest = max(farthest, squared)
    for m in range(matrix.shape[0]):
        squared = matrix[m, 0, 0] ** 2 + matrix[m, 0, 1] ** 2 + matrix[m, 0, 2] ** 2
        is_inside = is_inside and farthest * squared < limit * limit  # False for NaN
    if not is_inside:
        raise ValueError(f"turned samples leave the table, which ends at |k| = {limit}")
