"""Spherical harmonics and rotations straight from their definitions, in float64."""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm
from scipy.special import sph_harm


def wigner_d(degree, beta):
    """d^l(beta) = exp(-i beta J_y), (2l + 1, 2l + 1): rows m and columns m' from -l."""
    m = np.arange(-degree, degree)
    raising = np.diag(np.sqrt(degree * (degree + 1.0) - m * (m + 1.0)), -1)
    return expm(-1j * beta * (raising - raising.T) / 2j).real


def wigner_matrix(degree, euler_zyz):
    """D^l_{m m'} = exp(-i m a) d^l_{m m'}(b) exp(-i m' g)."""
    a, b, g = euler_zyz
    m = np.arange(-degree, degree + 1)
    return np.exp(-1j * m[:, None] * a) * wigner_d(degree, b) * np.exp(-1j * m * g)


def both_signs(coefficients, degree):
    """F_lm (..., 2l + 1), m from -l, of Z (..., l, m >= 0): F = i^l Z, Z_{l,-m} = +- conj Z_lm."""
    positive = coefficients[..., degree, : degree + 1].astype(complex)
    sign = (-1.0) ** np.arange(degree, 0, -1)
    return 1j**degree * np.concatenate([positive[..., :0:-1].conj() * sign, positive], axis=-1)


def one_sign(full, degree):
    """The m >= 0 of Z of F (..., 2l + 1)."""
    return full[..., degree:] / 1j**degree


def evaluate(coefficients, unit_xyz):
    """The spectrum with coefficients Z (..., l, m >= 0) at unit vectors (P, 3), (..., P)."""
    polar = np.arccos(np.clip(unit_xyz[:, 2], -1, 1))
    azimuth = np.arctan2(unit_xyz[:, 1], unit_xyz[:, 0])
    total = np.zeros((*coefficients.shape[:-2], len(unit_xyz)), dtype=complex)
    for l in range(coefficients.shape[-2]):
        basis = np.stack([sph_harm(m, l, azimuth, polar) for m in range(-l, l + 1)])
        total += both_signs(coefficients, l) @ basis
    return total


def random_coefficients(rng, n_shells, bandwidth):
    """Z (n_shells, l, m >= 0) complex64 of some real volume's spectrum."""
    z = rng.normal(size=(n_shells, bandwidth, bandwidth)) + 1j * rng.normal(
        size=(n_shells, bandwidth, bandwidth))
    z[..., 0] = z[..., 0].real  # Z_{l,0} of a real function
    return np.tril(z).astype(np.complex64)


def sphere(n_polar):
    """Unit vectors (P, 3) and areas (P,) of a quadrature exact to degree 2 n_polar - 1."""
    cosines, weights = np.polynomial.legendre.leggauss(n_polar)
    n_azimuth = 2 * n_polar
    azimuth = 2 * np.pi * np.arange(n_azimuth) / n_azimuth
    sines = np.sqrt(1 - cosines**2)
    unit = np.stack(
        np.broadcast_arrays(
            sines[:, None] * np.cos(azimuth), sines[:, None] * np.sin(azimuth), cosines[:, None]
        ),
        axis=-1,
    ).reshape(-1, 3)
    return unit, np.repeat(weights, n_azimuth) * 2 * np.pi / n_azimuth


def correlation(product, euler_zyz):
    """sum_l sum_{m m'} I^l_{m m'} exp(i m a) d^l_{m m'}(b) exp(i m' g); {l: (2l + 1, 2l + 1)}."""
    return sum(np.sum(i * wigner_matrix(l, euler_zyz).conj()) for l, i in product.items()).real
