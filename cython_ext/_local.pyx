# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Poses moved to the nearest maximum of their log-likelihood: Levenberg and Marquardt's method."""

from libc.math cimport cos, fabs, floor, sin, sqrt

cdef double TWO_PI = 6.283185307179586476925286766559

cdef struct Problem:
    const float complex* table
    Py_ssize_t limit
    const float* points[3]
    const float complex* weighted
    const float* weight
    Py_ssize_t n_points
    double scale
    double n_box
    double shift_precision


cdef double _evaluate(Problem* p, const double* rotation, const double* shift,
                      double* gradient, double* hessian) noexcept nogil:
    """Log-likelihood of a pose (up to a constant), its gradient (6) and Gauss-Newton matrix (6, 6).

    A turn exp([v]) R of the rotation changes R^T k by R^T (k x v): dM/dv = (R grad A) x k.
    """
    cdef Py_ssize_t j, side = 2 * p.limit + 1, row = p.limit + 1, ix, iy, iz, a, b
    cdef double kx, ky, kz, qx, qy, qz, wx, wy, wz, sign, vr, vi, value = 0.0
    cdef double gr[3]
    cdef double gi[3]
    cdef double turned_r[3]
    cdef double turned_i[3]
    cdef double dr[6]
    cdef double di[6]
    cdef double phase, c, s, mr, mi, rr, ri, w
    cdef double c000r, c100r, c010r, c110r, c001r, c101r, c011r, c111r
    cdef double c000i, c100i, c010i, c110i, c001i, c101i, c011i, c111i
    cdef const float complex* cell
    cdef double step = -TWO_PI / p.n_box
    for a in range(6):
        gradient[a] = 0.0
    for a in range(36):
        hessian[a] = 0.0
    for j in range(p.n_points):
        kx, ky, kz = p.points[0][j], p.points[1][j], p.points[2][j]
        # R^T k, in samples of the table
        qx = p.scale * (rotation[0] * kx + rotation[3] * ky + rotation[6] * kz)
        qy = p.scale * (rotation[1] * kx + rotation[4] * ky + rotation[7] * kz)
        qz = p.scale * (rotation[2] * kx + rotation[5] * ky + rotation[8] * kz)
        sign = 1.0
        if qx < 0.0:
            qx, qy, qz, sign = -qx, -qy, -qz, -1.0
        ix, iy, iz = <Py_ssize_t>qx, <Py_ssize_t>floor(qy), <Py_ssize_t>floor(qz)
        wx, wy, wz = qx - ix, qy - iy, qz - iz
        cell = p.table + ((iz + p.limit) * side + iy + p.limit) * row + ix
        c000r, c000i = cell[0].real, cell[0].imag
        c100r, c100i = cell[1].real, cell[1].imag
        c010r, c010i = cell[row].real, cell[row].imag
        c110r, c110i = cell[row + 1].real, cell[row + 1].imag
        cell = cell + side * row
        c001r, c001i = cell[0].real, cell[0].imag
        c101r, c101i = cell[1].real, cell[1].imag
        c011r, c011i = cell[row].real, cell[row].imag
        c111r, c111i = cell[row + 1].real, cell[row + 1].imag
        gr[0] = ((1 - wz) * ((1 - wy) * (c100r - c000r) + wy * (c110r - c010r))
                 + wz * ((1 - wy) * (c101r - c001r) + wy * (c111r - c011r)))
        gi[0] = ((1 - wz) * ((1 - wy) * (c100i - c000i) + wy * (c110i - c010i))
                 + wz * ((1 - wy) * (c101i - c001i) + wy * (c111i - c011i)))
        # along x first: the four edges
        c000r, c000i = c000r + wx * (c100r - c000r), c000i + wx * (c100i - c000i)
        c010r, c010i = c010r + wx * (c110r - c010r), c010i + wx * (c110i - c010i)
        c001r, c001i = c001r + wx * (c101r - c001r), c001i + wx * (c101i - c001i)
        c011r, c011i = c011r + wx * (c111r - c011r), c011i + wx * (c111i - c011i)
        gr[1] = (1 - wz) * (c010r - c000r) + wz * (c011r - c001r)
        gi[1] = (1 - wz) * (c010i - c000i) + wz * (c011i - c001i)
        c000r, c000i = c000r + wy * (c010r - c000r), c000i + wy * (c010i - c000i)
        c001r, c001i = c001r + wy * (c011r - c001r), c001i + wy * (c011i - c001i)
        gr[2], gi[2] = c001r - c000r, c001i - c000i
        vr, vi = c000r + wz * gr[2], sign * (c000i + wz * gi[2])
        # Of F(q) = conj F(-q) the gradient is minus the conjugate of that at -q.
        for a in range(3):
            gr[a] = sign * p.scale * gr[a]
            gi[a] = p.scale * gi[a]
        for a in range(3):
            turned_r[a] = (rotation[3 * a] * gr[0] + rotation[3 * a + 1] * gr[1]
                           + rotation[3 * a + 2] * gr[2])
            turned_i[a] = (rotation[3 * a] * gi[0] + rotation[3 * a + 1] * gi[1]
                           + rotation[3 * a + 2] * gi[2])
        phase = step * (kx * shift[0] + ky * shift[1] + kz * shift[2])
        c, s = cos(phase), sin(phase)
        dr[0], di[0] = turned_r[1] * kz - turned_r[2] * ky, turned_i[1] * kz - turned_i[2] * ky
        dr[1], di[1] = turned_r[2] * kx - turned_r[0] * kz, turned_i[2] * kx - turned_i[0] * kz
        dr[2], di[2] = turned_r[0] * ky - turned_r[1] * kx, turned_i[0] * ky - turned_i[1] * kx
        for a in range(3):
            dr[a], di[a] = dr[a] * c - di[a] * s, dr[a] * s + di[a] * c
        mr, mi = vr * c - vi * s, vr * s + vi * c
        # dM/dt = i step k M
        dr[3], di[3] = -step * kx * mi, step * kx * mr
        dr[4], di[4] = -step * ky * mi, step * ky * mr
        dr[5], di[5] = -step * kz * mi, step * kz * mr
        w = p.weight[j]
        value = value + (p.weighted[j].real - 0.5 * w * mr) * mr
        value = value + (p.weighted[j].imag - 0.5 * w * mi) * mi
        rr, ri = p.weighted[j].real - w * mr, p.weighted[j].imag - w * mi
        for a in range(6):
            gradient[a] += rr * dr[a] + ri * di[a]
            for b in range(a + 1):
                hessian[6 * a + b] += w * (dr[a] * dr[b] + di[a] * di[b])
    for a in range(3):
        value = value - 0.5 * p.shift_precision * shift[a] * shift[a]
        gradient[3 + a] -= p.shift_precision * shift[a]
        hessian[6 * (3 + a) + 3 + a] += p.shift_precision
    return value


cdef void _factor(double* matrix) noexcept nogil:
    """Cholesky's factor of a symmetric (6, 6), in its lower half."""
    cdef Py_ssize_t a, b, c
    cdef double total
    for a in range(6):
        for b in range(a + 1):
            total = matrix[6 * a + b]
            for c in range(b):
                total = total - matrix[6 * a + c] * matrix[6 * b + c]
            if a == b:
                matrix[6 * a + a] = sqrt(total if total > 1e-30 else 1e-30)
            else:
                matrix[6 * a + b] = total / matrix[6 * b + b]


cdef void _solve(const double* factor, double* vector) noexcept nogil:
    """The solution of L L^T x = vector, in place."""
    cdef Py_ssize_t a, b
    for a in range(6):
        for b in range(a):
            vector[a] -= factor[6 * a + b] * vector[b]
        vector[a] /= factor[6 * a + a]
    for a in range(5, -1, -1):
        for b in range(a + 1, 6):
            vector[a] -= factor[6 * b + a] * vector[b]
        vector[a] /= factor[6 * a + a]


cdef void _turn(const double* vector, const double* rotation, double* out) noexcept nogil:
    """exp([vector]) @ rotation (Rodrigues)."""
    cdef double x = vector[0], y = vector[1], z = vector[2]
    cdef double angle = sqrt(x * x + y * y + z * z)
    cdef double a = 1.0, b = 0.5
    cdef double turn[9]
    cdef Py_ssize_t i, j
    if angle > 1e-8:
        a = sin(angle) / angle
        b = (1.0 - cos(angle)) / (angle * angle)
    turn[0], turn[1], turn[2] = 1 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y
    turn[3], turn[4], turn[5] = b * x * y + a * z, 1 - b * (x * x + z * z), b * y * z - a * x
    turn[6], turn[7], turn[8] = b * x * z - a * y, b * y * z + a * x, 1 - b * (x * x + y * y)
    for i in range(3):
        for j in range(3):
            out[3 * i + j] = (turn[3 * i] * rotation[j] + turn[3 * i + 1] * rotation[3 + j]
                              + turn[3 * i + 2] * rotation[6 + j])


cdef _check_inside(const float[:, ::1] points, const double[:, :, ::1] rotation, double scale,
                   Py_ssize_t limit):
    """Raise a ValueError if a rotation takes a point out of a table, or is none; NaN is outside."""
    cdef Py_ssize_t m, j, a, b
    cdef double squared, largest = 0.0, product
    for j in range(points.shape[1]):
        squared = points[0, j] ** 2 + points[1, j] ** 2 + points[2, j] ** 2
        if not squared <= largest:
            largest = squared
        if largest != largest:
            break
    if not scale * sqrt(largest) <= limit - 1e-3:
        raise ValueError(f"a point lies outside the table, which ends at |k| = {limit / scale:g}")
    for m in range(rotation.shape[0]):
        for a in range(3):
            for b in range(3):
                product = (rotation[m, 0, a] * rotation[m, 0, b]
                           + rotation[m, 1, a] * rotation[m, 1, b]
                           + rotation[m, 2, a] * rotation[m, 2, b])
                if not fabs(product - (1.0 if a == b else 0.0)) < 1e-6:
                    raise ValueError(f"matrix {m} is not a rotation")


def refine(
    const float complex[:, :, ::1] table not None,  # IN  (2K + 1, 2K + 1, K + 1) average, DC at (K, K, 0)
    double scale,                                   # IN  table samples per unit of frequency
    const float[:, ::1] points not None,            # IN  (3, J) kx, ky, kz of measured samples
    const float complex[::1] weighted not None,     # IN  (J,) w X / sigma^2 times multiplicity
    const float[::1] weight not None,               # IN  (J,) w / sigma^2 times multiplicity
    double n_box,                                   # IN  n
    double shift_precision,                         # IN  1 / zeta^2
    int max_steps,                                  # IN  trial steps at most; 0: only evaluate
    double max_turn,                                # IN  longest turn of a step, rad
    double max_move,                                # IN  longest shift of a step, voxels
    double[:, :, ::1] rotation not None,            # I/O (M, 3, 3)
    double[:, ::1] shift not None,                  # I/O (M, 3) voxels
    double[:, ::1] out not None,                    # OUT (M, 2) log-likelihood, trial steps taken
    double[:, :, ::1] curvature not None,           # OUT (M, 6, 6) turn x, y, z (rad) and shift x, y, z
):
    """Move M poses uphill. Oracle: tests/oracles.py::pose_log_likelihood."""
    cdef Py_ssize_t m, a, b, n_poses = rotation.shape[0], step
    cdef Problem p
    cdef double gradient[6]
    cdef double hessian[36]
    cdef double damped[36]
    cdef double move[6]
    cdef double trial_rotation[9]
    cdef double trial_shift[3]
    cdef double trial_gradient[6]
    cdef double trial_hessian[36]
    cdef double value, trial, damping, length_turn, length_move, shrink
    p.limit = table.shape[2] - 1
    if table.shape[0] != 2 * p.limit + 1 or table.shape[1] != 2 * p.limit + 1:
        raise ValueError(f"shape ({table.shape[0]}, {table.shape[1]}, {table.shape[2]}) is not "
                         "(2K + 1, 2K + 1, K + 1)")
    p.n_points = points.shape[1]
    if points.shape[0] != 3 or weighted.shape[0] != p.n_points or weight.shape[0] != p.n_points:
        raise ValueError(f"points are ({points.shape[0]}, {p.n_points}) but there are "
                         f"{weighted.shape[0]} values and {weight.shape[0]} weights")
    if (rotation.shape[1] != 3 or rotation.shape[2] != 3 or shift.shape[0] != n_poses
            or shift.shape[1] != 3 or out.shape[0] != n_poses or out.shape[1] != 2
            or curvature.shape[0] != n_poses or curvature.shape[1] != 6 or curvature.shape[2] != 6):
        raise ValueError("rotations must be (M, 3, 3), shifts (M, 3), out (M, 2), "
                         "curvature (M, 6, 6)")
    if p.n_points == 0 or n_poses == 0:
        return
    _check_inside(points, rotation, scale, p.limit)
    p.table = &table[0, 0, 0]
    p.points[0], p.points[1], p.points[2] = &points[0, 0], &points[1, 0], &points[2, 0]
    p.weighted, p.weight = &weighted[0], &weight[0]
    p.scale, p.n_box, p.shift_precision = scale, n_box, shift_precision
    with nogil:
        for m in range(n_poses):
            value = _evaluate(&p, &rotation[m, 0, 0], &shift[m, 0], gradient, hessian)
            damping = 1e-3
            step = 0
            while step < max_steps:
                step += 1
                for a in range(36):
                    damped[a] = hessian[a]
                for a in range(6):
                    damped[7 * a] += damping * hessian[7 * a] + 1e-12
                    move[a] = gradient[a]
                _factor(damped)
                _solve(damped, move)
                length_turn = sqrt(move[0] * move[0] + move[1] * move[1] + move[2] * move[2])
                length_move = sqrt(move[3] * move[3] + move[4] * move[4] + move[5] * move[5])
                # NaN or infinity in the data: no step leads anywhere.
                if not (length_turn < 1e12 and length_move < 1e12):
                    break
                shrink = 1.0
                if length_turn > max_turn:
                    shrink = max_turn / length_turn
                if length_move * shrink > max_move:
                    shrink = max_move / length_move
                for a in range(6):
                    move[a] *= shrink
                _turn(move, &rotation[m, 0, 0], trial_rotation)
                for a in range(3):
                    trial_shift[a] = shift[m, a] + move[3 + a]
                trial = _evaluate(&p, trial_rotation, trial_shift, trial_gradient, trial_hessian)
                if trial > value:
                    for a in range(3):
                        shift[m, a] = trial_shift[a]
                        for b in range(3):
                            rotation[m, a, b] = trial_rotation[3 * a + b]
                    for a in range(6):
                        gradient[a] = trial_gradient[a]
                    for a in range(36):
                        hessian[a] = trial_hessian[a]
                    damping *= 0.2
                    # A gain far below one unit of log-likelihood moves no posterior.
                    if trial - value < 1e-3:
                        value = trial
                        break
                    value = trial
                else:
                    damping = damping * 10.0 if damping > 1e-2 else 1e-1
                    if damping > 1e4:
                        break
            out[m, 0] = value
            out[m, 1] = step
            for a in range(6):
                for b in range(a + 1):
                    curvature[m, a, b] = hessian[6 * a + b]
                    curvature[m, b, a] = hessian[6 * a + b]


def add_turned_back(
    const float complex[:, :, ::1] table not None,  # IN  (2K + 1, 2K + 1, K + 1) particle, DC at (K, K, 0)
    double scale,                                   # IN  table samples per unit of frequency
    const float[:, ::1] points not None,            # IN  (3, J) kx, ky, kz
    double n_box,                                   # IN  n
    const double[:, :, ::1] rotation not None,      # IN  (M, 3, 3)
    const double[:, ::1] shift not None,            # IN  (M, 3) voxels
    const double[::1] weight not None,              # IN  (M,)
    double complex[::1] out not None,               # I/O (J,) sum of weight times R^-1 T_-t of the table
):
    """Add a particle moved back by each of its poses. Oracle: tests/oracles.py::turned_back."""
    cdef Py_ssize_t m, j, n_points = points.shape[1], n_poses = rotation.shape[0]
    cdef Py_ssize_t limit = table.shape[2] - 1, side = 2 * limit + 1, row = limit + 1, ix, iy, iz
    cdef double kx, ky, kz, qx, qy, qz, wx, wy, wz, sign, phase, c, s, re, im
    cdef double step = TWO_PI / n_box / scale
    cdef const float complex* cell
    cdef const double* r
    cdef const double* t
    cdef bint moves
    if table.shape[0] != side or table.shape[1] != side:
        raise ValueError(f"shape ({table.shape[0]}, {table.shape[1]}, {table.shape[2]}) is not "
                         "(2K + 1, 2K + 1, K + 1)")
    if (points.shape[0] != 3 or out.shape[0] != n_points or rotation.shape[1] != 3
            or rotation.shape[2] != 3 or shift.shape[0] != n_poses or shift.shape[1] != 3
            or weight.shape[0] != n_poses):
        raise ValueError(f"points must be (3, J), out (J,); {n_poses} rotations (3, 3), "
                         f"{shift.shape[0]} shifts (3), {weight.shape[0]} weights")
    if n_points == 0 or n_poses == 0:
        return
    _check_inside(points, rotation, scale, limit)
    with nogil:
        for m in range(n_poses):
            r, t = &rotation[m, 0, 0], &shift[m, 0]
            moves = t[0] != 0.0 or t[1] != 0.0 or t[2] != 0.0
            for j in range(n_points):
                kx, ky, kz = points[0, j], points[1, j], points[2, j]
                qx = scale * (r[0] * kx + r[1] * ky + r[2] * kz)
                qy = scale * (r[3] * kx + r[4] * ky + r[5] * kz)
                qz = scale * (r[6] * kx + r[7] * ky + r[8] * kz)
                c, s = weight[m], 0.0
                if moves:  # moving by -t multiplies by exp(+2 pi i (R k) . t / n)
                    phase = step * (qx * t[0] + qy * t[1] + qz * t[2])
                    c, s = weight[m] * cos(phase), weight[m] * sin(phase)
                sign = 1.0
                if qx < 0.0:
                    qx, qy, qz, sign = -qx, -qy, -qz, -1.0
                ix, iy, iz = <Py_ssize_t>qx, <Py_ssize_t>floor(qy), <Py_ssize_t>floor(qz)
                wx, wy, wz = qx - ix, qy - iy, qz - iz
                cell = &table[iz + limit, iy + limit, ix]
                re = ((1 - wz) * ((1 - wy) * ((1 - wx) * cell[0].real + wx * cell[1].real)
                                  + wy * ((1 - wx) * cell[row].real + wx * cell[row + 1].real)))
                im = ((1 - wz) * ((1 - wy) * ((1 - wx) * cell[0].imag + wx * cell[1].imag)
                                  + wy * ((1 - wx) * cell[row].imag + wx * cell[row + 1].imag)))
                cell = cell + side * row
                re = re + wz * ((1 - wy) * ((1 - wx) * cell[0].real + wx * cell[1].real)
                                + wy * ((1 - wx) * cell[row].real + wx * cell[row + 1].real))
                im = im + wz * ((1 - wy) * ((1 - wx) * cell[0].imag + wx * cell[1].imag)
                                + wy * ((1 - wx) * cell[row].imag + wx * cell[row + 1].imag))
                im = sign * im
                out[j].real = out[j].real + (c * re - s * im)
                out[j].imag = out[j].imag + (c * im + s * re)
