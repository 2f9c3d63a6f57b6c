"""Spherical harmonics of functions on shells, and rotational correlation over SO(3).

Y_lm are orthonormal with the Condon-Shortley phase; a rotation R = Rz(a) Ry(b) Rz(g) acts on
coefficients by D^l_{m m'} = exp(-i m a) d^l_{m m'}(b) exp(-i m' g). The correlation of p with the
turned q,

    C(R) = sum_r r^2 int p(r u) conj(q(r R^-1 u)) du
         = sum_l sum_{m m'} I^l_{m m'} exp(i m a) d^l_{m m'}(b) exp(i m' g),
    I^l_{m m'} = sum_r r^2 p_lm(r) conj(q_lm'(r)),

is a Fourier series in alpha and gamma for every beta; d^l(b) itself comes from d^l(pi/2) (Risbo
1996; Kovacs and Wriggers 2002): d^l_{m m'}(b) = i^(m - m') sum_h d^l_{h m} d^l_{h m'} exp(-i h b).
C is real, so the orders m >= 0 hold it all.

Functions here are even, f(-u) = f(u), as Fourier magnitudes, powers and wedges of real volumes are:
only even l exist and half a sphere of samples is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy.special import roots_legendre

from scipion_faml.cython_ext import _so3
from scipion_faml.fourier import inverse_real_fft, real_fft
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


def _wigner_d_even(degree: int, beta: FloatArray) -> FloatArray:
    """d^l_{m m'}(beta) of an even l, (l + 1 [m >= 0], 2l + 1 [m' from -l], T) float64."""
    half = wigner_d_half_pi(degree)[degree:]  # rows h = 0..l
    # Mates: d^l_{-h m} = (-1)^(l + m) d^l_{h m}, so h and -h join to a cosine or a sine.
    pairs = (half[:, degree:, None] * half[:, None, :]).reshape(degree + 1, -1)
    pairs[1:] *= 2.0
    angle = np.arange(degree + 1)[:, None] * beta
    shape = (degree + 1, 2 * degree + 1, len(beta))
    even = (pairs.T @ np.cos(angle)).reshape(shape)
    odd = (pairs.T @ np.sin(angle)).reshape(shape)
    turn = (np.arange(degree + 1)[:, None] - np.arange(-degree, degree + 1)) % 4
    # i^(m - m') times a cosine, or times -i and a sine.
    return np.select(
        [(turn == k)[..., None] for k in range(4)], [even, odd, -even, -odd]
    )


def _wigner_table(bandwidth: int, degrees: IntArray) -> FloatArray:
    """d^l_{m m'} at beta = 0, pi / B .. pi in the order that `_so3.sum_degrees` reads, float32."""
    beta = np.pi * np.arange(bandwidth + 1) / bandwidth
    table = np.zeros((bandwidth, 2 * bandwidth - 1, len(degrees), bandwidth + 1), dtype=np.float32)
    is_used = np.zeros(table.shape[:3], dtype=bool)
    for i, l in enumerate(degrees):
        orders = slice(bandwidth - 1 - l, bandwidth + l)
        table[: l + 1, orders, i] = _wigner_d_even(int(l), beta)
        is_used[: l + 1, orders, i] = True
    return table[is_used].ravel()


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
    legendre: FloatArray  # (m, l / 2, T) float32 for even l, times quadrature weights
    wigner: FloatArray  # flat float32, d^l_{m m'}(beta) for even l, as `_so3.sum_degrees` reads it
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
        """Samples of alpha and gamma over 2 pi on the correlation's grid."""
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
    return ShellPlan(
        bandwidth,
        n_shells,
        np.ascontiguousarray(points, dtype=np.float32),
        np.ascontiguousarray(legendre.transpose(1, 0, 2), dtype=np.float32),
        _wigner_table(bandwidth, degrees),
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
    orders = real_fft(rings, (2,))[:, :, : plan.bandwidth]  # (S, T, m >= 0)
    # (m, l, T) @ (m, T, re and im of S): a small real matrix product for every order.
    by_ring = np.ascontiguousarray(orders.transpose(2, 1, 0))
    by_order = np.matmul(plan.legendre, by_ring.view(np.float32)).view(np.complex64)
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
    (N, N, B + 1) float32, N = 2 bandwidth = 2 B
        Axes alpha, gamma, beta in steps of 2 pi / N: alpha and gamma over 2 pi, beta from 0 to pi.
    """
    radius_sq = np.arange(1, plan.n_shells + 1, dtype=np.float32)[:, None] ** 2
    blocks = [
        ((a[:, l:] * radius_sq).T @ b.conj()).ravel()
        for l, a, b in zip(plan.degrees, p, q, strict=True)
    ]
    b = plan.bandwidth
    series = np.empty((b + 1, 2 * b, b + 1), dtype=np.complex64)
    _so3.sum_degrees(np.concatenate(blocks), plan.wigner, plan.degrees, series)
    return inverse_real_fft(series, 2 * b, (1, 0), is_sum=True, may_overwrite=True)


def grid_euler_zyz(position: FloatArray, plan: ShellPlan) -> FloatArray:
    """Return ZYZ angles (M, 3) in rad of grid positions (M, 3): alpha, gamma, beta."""
    angles = np.asarray(position, float) * (2 * np.pi / plan.n_angles)
    return angles[:, [0, 2, 1]]
