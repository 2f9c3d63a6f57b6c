"""Equations 1 and 7 to 15 over the whole spectrum in float64, one candidate after the other.

Rotations are quarter turns, which only permute Fourier samples: nothing is interpolated. Sums run
over the J samples with 0 < |k| <= (n - 1) // 2, both Friedel mates.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

QUARTER_TURNS = [
    r
    for r in (
        np.array(p) * np.array(s)[:, None]
        for p in itertools.permutations(np.eye(3))
        for s in itertools.product((-1, 1), repeat=3)
    )
    if np.linalg.det(r) > 0
]


def quarter_turn(axis):
    """A turn by +90 deg about x, y or z (0, 1, 2)."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turn = np.zeros((3, 3))
    turn[axis, axis] = turn[b, a] = 1.0
    turn[a, b] = -1.0
    return turn


@dataclass
class Theta:
    """The parameters: averages (K, J) at the samples, alpha (K,), sigma, zeta."""

    averages: np.ndarray
    alpha: np.ndarray
    sigma: float
    zeta: float


class WholeSpectrum:
    """All samples of a box of n, as integer vectors."""

    def __init__(self, n):
        self.n = n
        axis = range(-((n - 1) // 2), (n - 1) // 2 + 1)
        limit = ((n - 1) // 2) ** 2
        self.k = np.array([
            k for k in itertools.product(axis, repeat=3) if 0 < np.dot(k, k) <= limit])
        self.place = {tuple(k): j for j, k in enumerate(self.k)}

    def of_volume(self, volume):
        """The spectrum of a volume (n, n, n), (J,): a sum over its voxels."""
        axis = np.arange(self.n) - self.n // 2
        wave = np.exp(-2j * np.pi / self.n * np.outer(np.arange(-self.n, self.n + 1), axis))
        x, y, z = (wave[self.k[:, a] + self.n] for a in range(3))
        return np.einsum("zyx,jx,jy,jz->j", volume.astype(float), x, y, z, optimize=True)

    def of_half(self, half):
        """Values on a half spectrum (n, n, n // 2 + 1) at the samples; Friedel for kx < 0."""
        out = np.empty(len(self.k), dtype=complex)
        for j, k in enumerate(self.k):
            x, y, z = k if k[0] >= 0 else -k
            out[j] = half[z, y, x] if k[0] >= 0 else np.conj(half[z, y, x])
        return out

    def to_volume(self, values):
        """The volume with these samples and no others."""
        axis = np.arange(self.n) - self.n // 2
        wave = np.exp(2j * np.pi / self.n * np.outer(np.arange(-self.n, self.n + 1), axis))
        x, y, z = (wave[self.k[:, a] + self.n] for a in range(3))
        volume = np.einsum("j,jx,jy,jz->zyx", values, x, y, z, optimize=True)
        return volume.real / self.n**3

    def turned(self, values, rotation):
        """Values at R^T k: a function of frequency, turned by R."""
        there = np.rint(self.k @ rotation).astype(int)  # rows k^T R = (R^T k)^T
        return values[[self.place[tuple(k)] for k in there]]

    def posed(self, values, rotation, shift_xyz):
        """R_phi A: turned, then shifted."""
        phase = np.exp(-2j * np.pi / self.n * (self.k @ shift_xyz))
        return self.turned(values, rotation) * phase

    def moved_back(self, values, rotation, shift_xyz):
        """R_phi^-1 X."""
        phase = np.exp(2j * np.pi / self.n * (self.k @ shift_xyz))
        return self.turned(values * phase, rotation.T)


@dataclass
class Em:
    """Particles X (N, J), weights w (N, J), and candidates: a list of (i, k, R, t, v)."""

    spectrum: WholeSpectrum
    observed: np.ndarray
    weight: np.ndarray
    candidates: list

    def of_particle(self, i):
        return [c for c in self.candidates if c[0] == i]

    def score(self, i, average, rotation, shift):
        """Equation 1, its real part."""
        model = self.spectrum.posed(average, rotation, shift)
        w = self.weight[i]  # of weights 0 and 1, w^2 = w
        cross = np.sum(w * self.observed[i] * model.conj()).real
        return cross / np.sqrt(np.sum(w * np.abs(model) ** 2))

    def squared_residual(self, candidate, theta):
        i, k, rotation, shift, _ = candidate
        model = self.spectrum.posed(theta.averages[k], rotation, shift)
        return np.sum(self.weight[i] * np.abs(model - self.observed[i]) ** 2)

    def log_joint(self, candidate, theta):
        """Equation 15."""
        _, k, _, shift, _ = candidate
        squared = self.squared_residual(candidate, theta)
        return (np.log(theta.alpha[k]) - squared / (2 * theta.sigma**2)
                - np.sum(shift**2) / (2 * theta.zeta**2))

    def posterior(self, i, theta):
        """Equation 14 times the Voronoi weight, for every candidate of a particle."""
        e = np.array([self.log_joint(c, theta) + np.log(c[4]) for c in self.of_particle(i)])
        return np.exp(e - logsumexp(e))

    def log_likelihood(self, theta):
        """Equation 9: densities of the observed samples and of the shift, over candidates."""
        total = 0.0
        for i in range(len(self.observed)):
            e = [self.log_joint(c, theta) + np.log(c[4]) for c in self.of_particle(i)]
            n_observed = (self.weight[i] > 0.01).sum()
            total += logsumexp(e) - 0.5 * n_observed * np.log(2 * np.pi * theta.sigma**2)
            total -= 1.5 * np.log(2 * np.pi * theta.zeta**2)
        return total

    def m_step(self, theta):
        """Equations 10 to 13, as they stand."""
        n_particles, n_samples = self.observed.shape
        averages = np.zeros_like(theta.averages)
        alpha, sigma_sq, zeta_sq = np.zeros(len(theta.alpha)), 0.0, 0.0
        for i in range(n_particles):
            for p, c in zip(self.posterior(i, theta), self.of_particle(i), strict=True):
                _, k, rotation, shift, _ = c
                w = self.spectrum.turned(self.weight[i], rotation.T)
                x = self.spectrum.moved_back(self.observed[i], rotation, shift)
                averages[k] += p * (w * x + (1 - w) * theta.averages[k])
                alpha[k] += p / n_particles
                missing = np.sum(self.weight[i] <= 0.01) * theta.sigma**2
                sigma_sq += p * (self.squared_residual(c, theta) + missing)
                zeta_sq += p * np.sum(shift**2)
        averages /= (n_particles * alpha)[:, None]
        return Theta(
            averages, alpha, np.sqrt(sigma_sq / (n_particles * n_samples)),
            np.sqrt(zeta_sq / (3 * n_particles)),
        )
