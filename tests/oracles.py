"""Brute-force twins of the kernels and equations: straight from the definition, for tiny boxes."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.special import sph_harm


def full_spectrum(half, n):
    """The whole spectrum (n, n, n) of a half, by Friedel's law one sample at a time."""
    full = np.zeros((n, n, n), dtype=np.complex128)
    for iz, iy, ix in itertools.product(range(n), repeat=3):
        if ix <= n // 2:
            full[iz, iy, ix] = half[iz, iy, ix]
        else:
            full[iz, iy, ix] = np.conj(half[-iz % n, -iy % n, n - ix])
    return full


def gather_complex(half, frequency_xyz, matrix):
    """Trilinear interpolation of the whole periodic spectrum at matrix @ frequency."""
    n = half.shape[0]
    full = full_spectrum(half, n)
    out = np.zeros(len(frequency_xyz), dtype=np.complex128)
    for j, f in enumerate(frequency_xyz):
        k = matrix @ f.astype(float)
        base = np.floor(k).astype(int)
        for corner in itertools.product((0, 1), repeat=3):
            weight = np.prod([w if c else 1 - w for c, w in zip(corner, k - base, strict=True)])
            x, y, z = (base + corner) % n
            out[j] += weight * full[z, y, x]
    return out


def gather_real(half, frequency_xyz, matrix):
    """The same for even real weights."""
    return gather_complex(half.astype(complex), frequency_xyz, matrix).real


def gather_table(table, points, matrix):
    """Trilinear interpolation of a table (2K + 1, 2K + 1, K + 1), DC at (K, K, 0)."""
    limit = table.shape[2] - 1
    out = np.zeros(points.shape[1], dtype=np.complex128)
    for j, point in enumerate(points.T):
        k = matrix @ point.astype(float)
        base = np.floor(k).astype(int)
        for corner in itertools.product((0, 1), repeat=3):
            weight = np.prod([w if c else 1 - w for c, w in zip(corner, k - base, strict=True)])
            x, y, z = base + corner
            if max(abs(x), abs(y), abs(z)) > limit:
                continue
            value = table[z + limit, y + limit, x] if x >= 0 else np.conj(
                table[-z + limit, -y + limit, -x]
            )
            out[j] += weight * value
    return out


def score_rotation(table, axes, weight, weighted, matrix, n_box, n_shift, max_shift):
    """Shift (x, y, z), cross and power of Eq. 1: a scan of a grid, then a parabola on each axis."""
    model = gather_table(table, axes, matrix)
    product = (weighted[0] + 1j * weighted[1]) * np.conj(model)
    step = n_box / n_shift

    def cross(shift_xyz):
        return np.sum(product * np.exp(2j * np.pi / n_box * (shift_xyz @ axes))).real

    reach = range(-int(max_shift / step), int(max_shift / step) + 1)
    grid = [np.array(t) * step for t in itertools.product(reach, repeat=3)]
    grid = [t for t in grid if t @ t <= max_shift**2]
    best = max(grid, key=cross)
    shift = best.copy()
    for axis in range(3):
        unit = np.zeros(3)
        unit[axis] = step
        below, here, above = (cross(best + s * unit) for s in (-1, 0, 1))
        if below - 2 * here + above < 0:
            offset = 0.5 * (below - above) / (below - 2 * here + above)
            shift[axis] += step * np.clip(offset, -0.5, 0.5)
    return [*shift, cross(shift), np.sum(weight * np.abs(model) ** 2)]


def nearest_counts(points, closeness):
    """For each row of closeness the points whose product with it is the largest."""
    counts = np.zeros(len(closeness), dtype=int)
    for point in points.T.astype(float):
        counts[max(range(len(closeness)), key=lambda m: closeness[m].astype(float) @ point)] += 1
    return counts


def sum_degrees(product, wigner_d, degrees, bandwidth, n_beta):
    """sum_l I^l_{m m'} d^l_{m m'}(beta_j); product and wigner_d: {l: (l + 1, 2l + 1, ...)}."""
    out = np.zeros((bandwidth + 1, 2 * bandwidth, n_beta), dtype=np.complex128)
    for l in degrees:
        for m, mp in itertools.product(range(l + 1), range(-l, l + 1)):
            out[m, mp] += product[l][m, mp + l] * wigner_d[l][m, mp + l]
    return out


def local_maxima(score):
    """1 where no neighbour of 26 is higher, periodic along two axes; the third's ends are margin.

    Of equal neighbours the first in memory is kept.
    """
    n_a, n_b, n_c = score.shape
    out = np.zeros((n_a, n_b, n_c - 2), dtype=np.uint8)
    steps = [d for d in itertools.product((-1, 0, 1), repeat=3) if any(d)]
    for a, b, c in itertools.product(range(n_a), range(n_b), range(1, n_c - 1)):
        near = [((a + i) % n_a, (b + j) % n_b, c + k) for i, j, k in steps]
        out[a, b, c - 1] = all(
            score[there] < score[a, b, c] or (score[there] == score[a, b, c] and there > (a, b, c))
            for there in near
        )
    return out


def cross_and_power(model, observed, sample_weight, frequency_xyz, shift_xyz, n):
    """Re sum_j w_j X_j conj(e^{-2 pi i k.t / n} m_j) and sum_j w_j |m_j|^2."""
    shifted = model * np.exp(-2j * np.pi * (frequency_xyz @ shift_xyz) / n)
    cross = np.sum(sample_weight * observed * np.conj(shifted)).real
    return cross, np.sum(sample_weight * np.abs(shifted) ** 2)


def evaluate_harmonics(coefficients, degrees, unit_xyz):
    """A function with coefficients {l: (S, 2l + 1)} at unit vectors (P, 3), as (S, P) complex."""
    polar = np.arccos(np.clip(unit_xyz[:, 2], -1, 1))
    azimuth = np.arctan2(unit_xyz[:, 1], unit_xyz[:, 0])
    total = 0.0
    for l, c in zip(degrees, coefficients, strict=True):
        basis = np.stack([sph_harm(m, l, azimuth, polar) for m in range(-l, l + 1)])
        total = total + c @ basis
    return total


def rotational_correlation(p, q, degrees, rotation, n_shells):
    """sum_r r^2 int p(r u) conj(q(r R^-1 u)) du by Gauss-Legendre quadrature over the sphere."""
    cosines, weights = np.polynomial.legendre.leggauss(24)
    azimuth = 2 * np.pi * np.arange(48) / 48
    sines = np.sqrt(1 - cosines**2)
    unit = np.stack(
        np.broadcast_arrays(
            sines[:, None] * np.cos(azimuth), sines[:, None] * np.sin(azimuth), cosines[:, None]
        ),
        axis=-1,
    ).reshape(-1, 3)
    area = np.repeat(weights, 48) * 2 * np.pi / 48
    here = evaluate_harmonics(p, degrees, unit)
    turned = evaluate_harmonics(q, degrees, unit @ rotation)  # R^-1 u = R^T u, a row times R
    radius = np.arange(1, n_shells + 1) ** 2
    return np.sum(radius[:, None] * area * here * np.conj(turned)).real


def log_joint(observed, model, weight, alpha, sigma, zeta, shift_xyz):
    """log e(phi, k) of Eq. 15 as a sum over every observed Fourier sample of the whole spectrum."""
    squared = np.sum(weight * np.abs(model - observed) ** 2)
    return np.log(alpha) - squared / (2 * sigma**2) - np.sum(shift_xyz**2) / (2 * zeta**2)


def model_at_pose(table, scale, points, n_box, rotation, shift_xyz):
    """R_phi A at points: the table at R^T k, times exp(-2 pi i k t / n)."""
    phase = np.exp(-2j * np.pi / n_box * (shift_xyz @ points))
    return gather_table(table, points, scale * rotation.T) * phase


def pose_log_likelihood(
    table, scale, points, weighted, weight, n_box, shift_precision, rotation, shift_xyz
):
    """sum_j Re conj(x_j) M_j - w_j |M_j|^2 / 2, minus |t|^2 / (2 zeta^2): Eq. 15 for one pose."""
    model = model_at_pose(table, scale, points, n_box, rotation, shift_xyz)
    fit = np.sum((np.conj(weighted) * model).real - 0.5 * weight * np.abs(model) ** 2)
    return fit - 0.5 * shift_precision * np.sum(shift_xyz**2)


def turned_back(table, scale, points, n_box, rotation, shift_xyz, weight):
    """sum of weight R^-1 T_-t of a table: its value at R k, times exp(+2 pi i (R k) t / n)."""
    total = np.zeros(points.shape[1], dtype=np.complex128)
    for r, t, w in zip(rotation, shift_xyz, weight, strict=True):
        phase = np.exp(2j * np.pi / n_box * (t @ (r @ points)))
        total += w * gather_table(table, points, scale * r) * phase
    return total


def add_prior(joint, norm, prior, log_alpha):
    """A log-likelihood (rotations, t), beta fastest, less its norm, plus its priors; its peaks."""
    complete = np.empty(joint.shape)
    for r, t in itertools.product(range(joint.shape[0]), range(joint.shape[1])):
        complete[r, t] = joint[r, t] - norm[r] + prior[r % len(prior), t] + log_alpha
    return complete, complete.max(axis=0)
