# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Log joint probabilities over a grid of rotations and a few shifts (C in _posterior.h)."""

cdef extern from "_posterior.h":
    void c_add_prior "add_prior"(float* joint, const float* norm, const float* prior,
                                 float log_alpha, long n_rows, long n_beta, long n_columns,
                                 float* peak) nogil



def add_prior(
    float[:, ::1] joint not None,           # I/O (rotations, t) log-likelihoods; rotations: beta runs fastest
    const float[::1] norm not None,         # IN  (rotations,) subtracted from every shift
    const float[:, ::1] prior not None,     # IN  (n_beta, t) added
    float log_alpha,                        # IN  added to all
    float[::1] peak not None,               # OUT (t,) the highest value of each shift
):
    """Complete a log joint probability. Oracle: tests/oracles.py::add_prior."""
    if (norm.shape[0] != joint.shape[0] or prior.shape[1] != joint.shape[1]
            or peak.shape[0] != joint.shape[1] or prior.shape[0] == 0
            or joint.shape[0] % prior.shape[0]):
        raise ValueError(f"joint is ({joint.shape[0]}, {joint.shape[1]}), norm ({norm.shape[0]},), "
                         f"prior ({prior.shape[0]}, {prior.shape[1]}), peak ({peak.shape[0]},)")
    if joint.shape[0] == 0 or joint.shape[1] == 0:
        return
    with nogil:
        c_add_prior(&joint[0, 0], &norm[0], &prior[0, 0], log_alpha, joint.shape[0],
                    prior.shape[0], joint.shape[1], &peak[0])
