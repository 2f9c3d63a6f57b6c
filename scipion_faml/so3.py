"""Fourier analysis on the rotation group: from products of coefficients to all rotations and back.

With I^l_{m m'} = sum_r p_lm(r) conj(q_lm'(r)) the correlation of p with the turned q is

    C(a, b, g) = sum_l sum_{m m'} I^l_{m m'} exp(i m a) d^l_{m m'}(b) exp(i m' g),

real where I^l_{-m,-m'} = (-1)^(m + m') conj(I^l_{m m'}), so that m >= 0 suffices. The grid has
Gauss-Legendre nodes in cos b and even steps in a and g: quadrature over rotations is exact for
functions of this bandwidth (Kostelec and Rockmore 2008), with half the points of even steps in b.
Every stage is a product of small real matrices with many columns, which BLAS does faster than an
FFT of these sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import gammaln, roots_legendre

from scipion_faml.types import FloatArray


def wigner_d(bandwidth: int, beta: FloatArray) -> FloatArray:
    """Return d^l_{m m'}(beta), (m >= 0, m' from -(B-1), beta, l) float64, 0 where l < |m|, |m'|.

    Three-term recursion in l from closed forms at l = max(|m|, |m'|), in float64: at degrees below
    100 it loses no more than a few digits.
    """
    b = bandwidth
    m = np.arange(b)[:, None, None]
    mp = np.arange(-(b - 1), b)[None, :, None]
    cos_b = np.cos(beta)
    log_c, log_s = np.log(np.cos(beta / 2)), np.log(np.sin(beta / 2))
    lowest = np.maximum(m, np.abs(mp))
    # Closed form at l = m >= |m'|; the other case follows from the symmetries of d.
    first = np.where(m >= np.abs(mp), m, np.abs(mp))
    second = np.where(m >= np.abs(mp), mp, np.where(mp >= 0, m, -m))
    magnitude = np.exp(
        0.5 * (gammaln(2 * first + 1) - gammaln(first + second + 1) - gammaln(first - second + 1))
        + (first + second) * log_c + (first - second) * log_s
    )
    # d^j_{j,k} = (-1)^(j - k) |.|, d^j_{k,j} = |.|, d^j_{k,-j} = d^j_{j,-k}.
    is_odd = np.where((m < np.abs(mp)) & (mp >= 0), 0, m - mp) % 2
    start = np.where(is_odd, -magnitude, magnitude)
    table = np.zeros((b, 2 * b - 1, len(beta), b))
    before, here = np.zeros_like(start), np.zeros_like(start)
    for l in range(b):
        if l > 0:
            j = l - 1.0
            with np.errstate(divide="ignore", invalid="ignore"):
                scale = l * (2 * j + 1) / np.sqrt((l**2 - m**2) * (l**2 - mp**2.0))
                shift = 0.0 if j == 0 else m * mp / (j * l)
                back = 0.0 if j == 0 else (
                    np.sqrt(np.maximum((j**2 - m**2) * (j**2 - mp**2.0), 0)) / (j * (2 * j + 1)))
                after = scale * ((cos_b - shift) * here - back * before)
            after = np.where(lowest < l, after, 0.0)
        else:
            after = np.zeros_like(start)
        before, here = here, np.where(lowest == l, start, after)
        table[..., l] = here
    return table


@dataclass(frozen=True, eq=False)
class RotationGrid:
    """A grid of rotations for functions of a bandwidth. Build it with `rotation_grid`.

    Functions on it are (alpha, gamma, beta) arrays.
    """

    bandwidth: int
    alpha: FloatArray  # (n_alpha,) rad
    gamma: FloatArray  # (n_gamma,)
    beta: FloatArray  # (n_beta,)
    weight: FloatArray  # (n_beta,) float32: share of all rotations that a grid point stands for
    wigner: FloatArray  # (m >= 0, 1, m', beta, l) float32
    turn_gamma: FloatArray  # (2 n_gamma, 2 (2B - 1)) float32, exp(i m' g) as a real matrix
    turn_alpha: FloatArray  # (n_alpha, 2B) float32, exp(i m a) and its real part

    @property
    def shape(self) -> tuple[int, int, int]:
        """Grid points along alpha, gamma and beta."""
        return len(self.alpha), len(self.gamma), len(self.beta)

    def __len__(self) -> int:
        return int(np.prod(self.shape))

    def inverse(self, product: FloatArray) -> FloatArray:
        """Return C on the grid, (alpha, gamma, beta, T) float32.

        Parameters
        ----------
        product : (m >= 0, 2, 2B - 1, l, T) float32
            Real and imaginary parts of I^l_{m m'}, m' from -(B - 1), for T functions at once.
        """
        b, t = self.bandwidth, product.shape[-1]
        columns = len(self.beta) * t
        by_beta = np.matmul(self.wigner, product).reshape(b, 2 * (2 * b - 1), columns)
        by_gamma = np.matmul(self.turn_gamma, by_beta).reshape(2 * b, len(self.gamma) * columns)
        return np.matmul(self.turn_alpha, by_gamma).reshape(*self.shape, t)

    def forward(self, values: FloatArray) -> FloatArray:
        """Return sum over the grid of values conj-transposed with the basis: `inverse`'s adjoint.

        (m >= 0, 2, 2B - 1, l, T) float32: real and imaginary parts of
        Q^l_{m m'} = sum values exp(-i m a) d^l_{m m'}(b) exp(-i m' g), for m = 0 halved.
        """
        b, t = self.bandwidth, values.shape[-1]
        columns = len(self.beta) * t
        flat = np.ascontiguousarray(values).reshape(len(self.alpha), -1)
        # turn_alpha counts every m > 0 twice; halved, it is exp(-i m a) and for m = 0 one half.
        by_alpha = np.matmul(0.5 * self.turn_alpha.T, flat).reshape(b, 2 * len(self.gamma), columns)
        by_gamma = np.matmul(self.turn_gamma.T, by_alpha)
        by_gamma = by_gamma.reshape(b, 2, 2 * b - 1, len(self.beta), t)
        return np.matmul(self.wigner.swapaxes(-1, -2), by_gamma)


@lru_cache(maxsize=8)
def rotation_grid(bandwidth: int, oversampling: float = 1.0) -> RotationGrid:
    """Return the grid of a bandwidth, finer by `oversampling` than exact quadrature asks for."""
    b = bandwidth
    n_angles = 2 * int(np.ceil(oversampling * b))
    n_beta = int(np.ceil(oversampling * b)) + 1
    cosines, weights = roots_legendre(n_beta)
    beta = np.arccos(cosines)
    angle = 2 * np.pi * np.arange(n_angles) / n_angles
    order = np.arange(-(b - 1), b)
    cos, sin = np.cos(np.outer(angle, order)), np.sin(np.outer(angle, order))
    turn_gamma = np.block([[cos, -sin], [sin, cos]])
    twice = np.where(np.arange(b) == 0, 1.0, 2.0)
    positive = np.outer(angle, np.arange(b))
    turn_alpha = np.stack([twice * np.cos(positive), -twice * np.sin(positive)], axis=-1)
    table = wigner_d(b, beta)[:, None]
    return RotationGrid(
        b, angle, angle, beta,
        (weights / 2 / n_angles**2).astype(np.float32),
        np.ascontiguousarray(table, dtype=np.float32),
        np.ascontiguousarray(turn_gamma, dtype=np.float32),
        np.ascontiguousarray(turn_alpha.reshape(n_angles, 2 * b), dtype=np.float32),
    )
