# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Local maxima of a function on a 3-D grid with two periodic axes."""


def local_maxima(
    const float[:, :, ::1] score not None,      # IN  (A, B, C + 2), periodic along A and B
    unsigned char[:, :, ::1] out not None,      # OUT (A, B, C) 1 where no neighbour of 26 is higher
):
    """Mark local maxima of score[:, :, 1:-1]; the ends of the last axis are neighbours only.

    Of equal neighbours the first in memory wins. Oracle: tests/oracles.py::local_maxima.
    """
    cdef Py_ssize_t n_a = score.shape[0], n_b = score.shape[1], n_c = score.shape[2]
    cdef Py_ssize_t a, b, c, i, j
    cdef const float* row
    cdef const float* near[9]
    cdef float here
    cdef bint is_peak
    if n_c < 3 or (out.shape[0], out.shape[1], out.shape[2]) != (n_a, n_b, n_c - 2):
        raise ValueError(f"score has shape ({n_a}, {n_b}, {n_c}), "
                         f"out ({out.shape[0]}, {out.shape[1]}, {out.shape[2]})")
    if n_a < 3 or n_b < 3:
        raise ValueError(f"periodic axes of {n_a} and {n_b} samples: at least 3 are needed")
    with nogil:
        for a in range(n_a):
            for b in range(n_b):
                row = &score[a, b, 0]
                for i in range(3):
                    for j in range(3):
                        near[3 * i + j] = &score[(a + i - 1 + n_a) % n_a, (b + j - 1 + n_b) % n_b, 0]
                for c in range(1, n_c - 1):
                    here = row[c]
                    is_peak = row[c - 1] < here and row[c + 1] <= here
                    i = 0
                    while is_peak and i < 9:
                        if i != 4:
                            # Rows that lie before this one in memory win a tie.
                            if near[i] < row:
                                is_peak = (near[i][c - 1] < here and near[i][c] < here
                                           and near[i][c + 1] < here)
                            else:
                                is_peak = (near[i][c - 1] <= here and near[i][c] <= here
                                           and near[i][c + 1] <= here)
                        i += 1
                    out[a, b, c - 1] = is_peak
