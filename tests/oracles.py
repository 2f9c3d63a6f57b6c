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


def assemble(product, wigner, degrees, bandwidth):
    """T(m, m', h) = sum_l I^l_{m m'} d^l_{h m} d^l_{h m'} for h >= 0, from the flat tables."""
    out = np.zeros((2 * bandwidth - 1, 2 * bandwidth - 1, bandwidth), dtype=np.complex128)
    i = d = 0
    for l in degrees:
        width = 2 * l + 1
        block = product[i : i + width**2].reshape(width, width)
        table = wigner[d : d + width * (l + 1)].reshape(width, l + 1)
        i, d = i + width**2, d + width * (l + 1)
        for m, mp, h in itertools.product(range(width), range(width), range(l + 1)):
            c = bandwidth - 1 - l
            out[c + m, c + mp, h] += block[m, mp] * table[m, h] * table[mp, h]
    return out


def periodic_local_maxima(score):
    """1 where no neighbour of 26 is higher; of equal neighbours the first in memory is kept."""
    out = np.zeros(score.shape, dtype=np.uint8)
    steps = list(itertools.product((-1, 0, 1), repeat=3))
    for here in np.ndindex(score.shape):
        neighbours = {tuple((np.array(here) + d) % score.shape) for d in steps} - {here}
        out[here] = all(
            score[there] < score[here] or (score[there] == score[here] and there > here)
            for there in neighbours
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
