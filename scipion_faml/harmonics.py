"""Spherical harmonics of functions on shells, and rotational correlation over SO(3).

Y_lm are orthonormal with the Condon-Shortley phase; a rotation R = Rz(a) Ry(b) Rz(g) acts on
coefficients by D^l_{m m'} = exp(-i m a) d^l_{m m'}(b) exp(-i m' g). The correlation of p with the
turned q,

    C(R) = sum_r r^2 int p(r u) conj(q(r R^-1 u)) du
         = sum_l sum_{m m'} I^l_{m m'} exp(i m a) d^l_{m m'}(b) exp(i m' g),
    I^l_{m m'} = sum_r r^2 p_lm(r) conj(q_lm'(r)),

becomes one 3-D Fourier series once d^l(b) is written with d^l(pi/2) (Risbo 1996; Kovacs and
Wriggers 2002): d^l_{m m'}(b) = i^(m - m') sum_h d^l_{h m}(pi/2) d^l_{h m'}(pi/2) exp(-i h b).

Functions here are even, f(-u) = f(u), as Fourier magnitudes, powers and wedges of real volumes are:
only even l exist and half a sphere of samples is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy import fft
from scipy.special import roots_legendre

from scipion_faml.cython_ext import _so3
from scipion_faml.types import ComplexArray, FloatArray, IntArray


def wigner_d_half_pi(degree: int) -> FloatArray:
    """Return d^l_{h m}(pi/2), (2l + 1, 2l + 1) float64, rows h and columns m from -l to l.

    d^l(b) = exp(-i b J_y); J_y is Hermitian with eigenvalues -l..l, so its eigenvectors give the
    exponential to machine precision at every l in use.
    """
    m = np.arange(-degree, degree)
    raising = np.sqrt(degree * (degree + 1.0) - m * (m + 1.0))
    j_y = np.diag(raising, -1) / 2j - np.diag(raising, 1) / 2j
    values, vectors = np.linalg.eigh(j_y)
    rotated = (vectors * np.exp(-0.5j * np.pi * np.rint(values))) @ vectors.conj().T
    return np.ascontiguousarray(rotated.real)


def legendre_table(bandwidth: int, cosines: FloatArray) -> FloatArray:
    """Return Y_lm(theta, 0) for 0 <= m <= l < bandwidth, (l, m, cosine) float64, 0 where m > l."""
    sines = np.sqrt(1.0 - cosines**2)
    table = np.zeros((bandwidth, bandwidth, len(cosines)))
    diagonal = np.full(len(cosines), np.sqrt(1.0 / (4.0 * np.pi)))
    for m in range(bandwidth):
        if m > 0:
            diagonal = -np.sqrt((2.0 * m + 1.0) / (2.0 * m)) * sines * diagonal
        table[m, m] = diagonal
        if m + 1 < bandwidth:
            table[m + 1, m] = np.sqrt(2.0 * m + 3.0) * cosines * diagonal
        for degree in range(m + 2, bandwidth):
            a = np.sqrt((4.0 * degree**2 - 1.0) / (degree**2 - m**2))
            b = np.sqrt(((degree - 1.0) ** 2 - m**2) / (4.0 * (degree - 1.0) ** 2 - 1.0))
            table[degree, m] = a * (cosines * table[degree - 1, m] - b * table[degree - 2, m])
    return table


@dataclass(frozen=True, eq=False)
class ShellPlan:
    """Where to sample shells of radii 1..n_shells, and tables from samples to coefficients."""

    bandwidth: int
    n_shells: int
    points_xyz: FloatArray  # (n_shells * T * P, 3) float32: upper hemisphere, T rings of P points
    legendre: FloatArray  # (l / 2, m, T) float32 for even l, times quadrature weights
    wigner: FloatArray  # flat float32, d^l_{h m}(pi/2) for even l: (2l + 1 [m], l + 1 [h]) each
    degrees: IntArray  # the even l < bandwidth

    @cached_property
    def axes(self) -> FloatArray:
        """x, y and z of the points, (3, n_shells * T * P) float32."""
        return np.ascontiguousarray(self.points_xyz.T)

    @property
    def n_rings(self) -> int:
        return int(self.legendre.shape[-1])

    @property
    def n_points(self) -> int:
        """Points on a ring."""
        return len(self.points_xyz) // (self.n_shells * self.n_rings)

    @property
    def n_angles(self) -> int:
        """Samples of each Euler angle over 2 pi on the correlation's grid."""
        return 2 * self.bandwidth


@lru_cache(maxsize=8)
def shell_plan(bandwidth: int, n_shells: int) -> ShellPlan:
    """Return the plan of a bandwidth and number of shells.

    Rings are Gauss-Legendre nodes, twice as dense as the bandwidth asks for: the spectra of noise
    vary faster than the bandwidth can follow, and averaging more samples keeps more of the signal.
    """
    if bandwidth < 2 or n_shells < 1:
        raise ValueError(f"bandwidth {bandwidth} and {n_shells} shells: need at least 2 and 1")
    cosines, weights = roots_legendre(2 * bandwidth)
    upper = cosines > 0
    cosines, weights = cosines[upper], weights[upper]
    n_points = 4 * bandwidth
    azimuth = 2 * np.pi * np.arange(n_points) / n_points
    sines = np.sqrt(1 - cosines**2)
    unit = np.stack(
        np.broadcast_arrays(
            sines[:, None] * np.cos(azimuth), sines[:, None] * np.sin(azimuth), cosines[:, None]
        ),
        axis=-1,
    ).reshape(-1, 3)
    points = (np.arange(1, n_shells + 1)[:, None, None] * unit).reshape(-1, 3)
    degrees = np.arange(0, bandwidth, 2)
    # 2: the lower hemisphere holds the same values. 2 pi / P: the trapezoidal rule on a ring.
    quadrature = 2.0 * weights * 2.0 * np.pi / n_points
    legendre = legendre_table(bandwidth, cosines)[degrees] * quadrature
    wigner = [wigner_d_half_pi(int(l))[l:, :].T.ravel() for l in degrees]
    return ShellPlan(
        bandwidth,
        n_shells,
        np.ascontiguousarray(points, dtype=np.float32),
        np.ascontiguousarray(legendre, dtype=np.float32),
        np.concatenate(wigner).astype(np.float32),
        degrees.astype(np.int_),
    )


Coefficients = Sequence[ComplexArray]  # for each even l: (n_shells, 2l + 1) complex64, m from -l


def harmonic_coefficients(values: FloatArray, plan: ShellPlan) -> Coefficients:
    """Return the coefficients of a real even function sampled at `plan.points_xyz`.

    Parameters
    ----------
    values : (n_shells * T * P,) float32
        The function at the plan's points.

    Returns
    -------
    list of (n_shells, 2l + 1) complex64, one for each even l
    """
    rings = values.reshape(plan.n_shells, plan.n_rings, plan.n_points)
    orders = fft.rfft(rings, axis=-1)[:, :, : plan.bandwidth]  # (S, T, m >= 0)
    # (m, l, T) @ (m, T, S): a small matrix product for every order.
    by_order = np.matmul(
        plan.legendre.transpose(1, 0, 2).astype(np.complex64), orders.transpose(2, 1, 0)
    )
    coefficients = []
    for row, degree in enumerate(plan.degrees):
        positive = by_order[: degree + 1, row].T  # (S, m = 0..l)
        # A real function has a_{l,-m} = (-1)^m conj(a_lm).
        signs = (-1.0) ** np.arange(degree, 0, -1)
        negative = positive[:, :0:-1].conj() * signs
        joined = np.concatenate([negative, positive], axis=1)
        coefficients.append(np.ascontiguousarray(joined, dtype=np.complex64))
    return coefficients


def rotational_correlation(p: Coefficients, q: Coefficients, plan: ShellPlan) -> FloatArray:
    """Return C(R) of the module's head for p and q on all grid rotations.

    Returns
    -------
    (N, N, N) float32, N = 2 bandwidth
        Axes alpha, gamma, beta in steps of 2 pi / N. Beta runs over 2 pi, so every rotation
        occurs twice: (alpha, beta, gamma) and (alpha + pi, 2 pi - beta, gamma + pi).
    """
    radius = np.arange(1, plan.n_shells + 1, dtype=np.float32)[:, None] ** 2
    blocks = [(a * radius).T @ b.conj() for a, b in zip(p, q, strict=True)]
    product = np.concatenate([block.ravel() for block in blocks])
    b = plan.bandwidth
    series = np.empty((2 * b - 1, 2 * b - 1, b), dtype=np.complex64)
    _so3.assemble(product, plan.wigner, plan.degrees, b, series)
    # i^(m - m') of the factorisation, and exp(-i h b) -> exp(+i h b) by the symmetry
    # d^l_{-h m} = (-1)^(l + m) d^l_{h m} of the table: together i^(m' - m).
    m = np.arange(-(b - 1), b)
    series *= (1j ** ((m[None, :] - m[:, None]) % 4)).astype(np.complex64)[:, :, None]
    n = plan.n_angles
    padded = np.zeros((n, n, n // 2 + 1), dtype=np.complex64)
    padded[np.ix_(m % n, m % n, np.arange(b))] = series
    correlation: FloatArray = fft.irfftn(padded, (n, n, n), norm="forward")
    return correlation


def grid_euler_zyz(position: FloatArray, plan: ShellPlan) -> FloatArray:
    """Return ZYZ angles (M, 3) in rad of grid positions (M, 3): alpha, gamma, beta."""
    angles = np.asarray(position, float) * (2 * np.pi / plan.n_angles)
    return angles[:, [0, 2, 1]]
