# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Local maxima of a function on a periodic 3-D grid."""


def periodic_local_maxima(
    const float[:, :, ::1] score not None,      # IN  (A, B, C), periodic along every axis
    unsigned char[:, :, ::1] out not None,      # OUT (A, B, C) 1 where no neighbour of 26 is higher
):
    """Mark local maxima; of equal neighbours the first in memory wins. Oracle: tests/oracles.py."""
    cdef Py_ssize_t n_a = score.shape[0], n_b = score.shape[1], n_c = score.shape[2]
    cdef Py_ssize_t a, b, c, da, db, dc, p, q, r
    cdef float here, there
    cdef bint is_peak
    if (out.shape[0], out.shape[1], out.shape[2]) != (n_a, n_b, n_c):
        raise ValueError(f"score has shape ({n_a}, {n_b}, {n_c}), "
                         f"out ({out.shape[0]}, {out.shape[1]}, {out.shape[2]})")
    with nogil:
        for a in range(n_a):
            for b in range(n_b):
                for c in range(n_c):
                    here = score[a, b, c]
                    is_peak = True
                    for da in range(-1, 2):
                        p = (a + da + n_a) % n_a
                        for db in range(-1, 2):
                            q = (b + db + n_b) % n_b
                            for dc in range(-1, 2):
                                r = (c + dc + n_c) % n_c
                                there = score[p, q, r]
                                if there > here or (
                                    there == here
                                    and (p * n_b + q) * n_c + r < (a * n_b + b) * n_c + c
                                ):
                                    is_peak = False
                                    break
                            if not is_peak:
                                break
                        if not is_peak:
                            break
                    out[a, b, c] = is_peak
