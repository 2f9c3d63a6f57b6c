# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Monte Carlo volumes of Voronoi cells (C in _voronoi.h)."""

cdef extern from "_voronoi.h":
    enum: FEATURES
    void count_nearest(const float* points, long n_points, long stride, const float* closeness,
                       int n_candidates, long* count) nogil


def nearest_counts(
    const float[:, ::1] points not None,     # IN  (13, P) features of the points
    const float[:, ::1] closeness not None,  # IN  (M, 13) of the candidates: the product is -tau^2 / 2
    long[::1] out not None,                  # OUT (M,) points that are nearest to each candidate
):
    """Count the points nearest to each candidate (Eq. 6). Oracle: tests/oracles.py::nearest_counts."""
    cdef long n_points = points.shape[1]
    cdef int n_candidates = <int>closeness.shape[0]
    if points.shape[0] != FEATURES or closeness.shape[1] != FEATURES:
        raise ValueError(f"{points.shape[0]} and {closeness.shape[1]} features: {FEATURES} are needed")
    if out.shape[0] != n_candidates:
        raise ValueError(f"{n_candidates} candidates but out holds {out.shape[0]}")
    out[:] = 0
    if n_points == 0 or n_candidates == 0:
        return
    with nogil:
        count_nearest(&points[0, 0], n_points, n_points, &closeness[0, 0], n_candidates, &out[0])
