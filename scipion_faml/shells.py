"""Spectra of real volumes on shells, as coefficients of spherical harmonics of every degree.

A spectrum has F(-k) = conj F(k), so that Z_lm = i^-l F_lm are the coefficients of a real function:
Z_{l,-m} = (-1)^m conj(Z_lm). Only m >= 0 is stored, and only half a sphere is sampled. Degrees
l < bandwidth; Y_lm as in `harmonics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft
from scipy.special import roots_legendre

from scipion_faml.fourier import complex_fft
from scipion_faml.harmonics import legendre_table
from scipion_faml.types import ComplexArray, FloatArray


@dataclass(frozen=True, eq=False)
class ShellSampling:
    """Points on the upper halves of shells of radii 1..n_shells, and tables to coefficients.

    Build it with `shell_sampling`. Rings are Gauss-Legendre nodes in cos theta.
    """

    bandwidth: int
    n_shells: int
    n_points: int  # on a ring
    axes: FloatArray  # (3, n_shells * T * P) float32: kx, ky, kz of the points
    quadrature: FloatArray  # (n_shells, T, P) float32: volume of k-space each point stands for
    legendre: FloatArray  # (m, l, T) float32, Y_lm(theta, 0)
    ring_weight: FloatArray  # (T,) float32, of the integral over the sphere, per point

    @property
    def n_rings(self) -> int:
        """Rings on the upper half."""
        return len(self.ring_weight)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a spectrum on the points: shells, rings, points of a ring."""
        return self.n_shells, self.n_rings, self.n_points

    @property
    def radius(self) -> FloatArray:
        """(n_shells,) float32."""
        return np.arange(1, self.n_shells + 1, dtype=np.float32)

    def analyse(self, values: ComplexArray) -> ComplexArray:
        """Return Z (..., n_shells, l, m >= 0) complex64 of a spectrum at the points.

        Parameters
        ----------
        values : (..., n_shells, T, P) complex64
        """
        b = self.bandwidth
        orders = complex_fft(values, (-1,))
        positive = orders[..., :b]
        mirrored = np.empty_like(positive)  # F_{-m}, conjugated
        mirrored[..., 0] = orders[..., 0].conj()
        mirrored[..., 1:] = orders[..., : -b : -1].conj()
        out = np.zeros((*values.shape[:-2], b, b), dtype=np.complex64)
        weighted = self.legendre * self.ring_weight
        for parity, combined in ((0, positive + mirrored), (1, positive - mirrored)):
            # (m, l, T) @ (m, T, ...): a matrix product for every order.
            by_order = np.moveaxis(combined, (-1, -2), (0, 1)).reshape(b, self.n_rings, -1)
            product = np.matmul(weighted[:, parity::2], _as_columns(by_order))
            product = _as_complex(product).reshape(b, -1, *values.shape[:-2])
            out[..., parity::2, :] = np.moveaxis(product, (0, 1), (-1, -2))
        return out * _phase(b, -1)[:, None]

    def synthesise(self, coefficients: ComplexArray) -> ComplexArray:
        """Return the spectrum (..., n_shells, T, P) complex64 of Z (..., n_shells, l, m)."""
        b = self.bandwidth
        spectral = coefficients * _phase(b, 1)[:, None]
        lead = coefficients.shape[:-2]
        halves = []
        for parity in (0, 1):
            part = np.moveaxis(spectral[..., parity::2, :], (-1, -2), (0, 1))
            columns = _as_columns(np.ascontiguousarray(part).reshape(b, part.shape[1], -1))
            product = np.matmul(self.legendre[:, parity::2].transpose(0, 2, 1), columns)
            halves.append(
                np.moveaxis(_as_complex(product).reshape(b, self.n_rings, *lead), (0, 1), (-1, -2))
            )
        even, odd = halves
        orders = np.zeros((*lead, self.n_rings, self.n_points), dtype=np.complex64)
        orders[..., :b] = even + odd
        orders[..., : -b : -1] = (even - odd)[..., 1:].conj()
        return complex_fft(orders, (-1,), is_inverse=True, is_sum=True)


def _as_columns(values: ComplexArray) -> FloatArray:
    """Real and imaginary parts side by side: a real matrix times a complex one is one product."""
    return np.ascontiguousarray(values, dtype=np.complex64).view(np.float32)


def _as_complex(columns: FloatArray) -> ComplexArray:
    return np.ascontiguousarray(columns).view(np.complex64)


def _phase(bandwidth: int, sign: int) -> ComplexArray:
    """i^(sign l), (l,) complex64."""
    return (1j ** (sign * np.arange(bandwidth) % 4)).astype(np.complex64)


@lru_cache(maxsize=8)
def shell_sampling(bandwidth: int, n_shells: int) -> ShellSampling:
    """Return the sampling of a bandwidth and number of shells.

    A box of n voxels gives spectra of degrees up to about pi r on shell r, more than the bandwidth
    keeps: rings are dense enough that what lies above does not fold back.
    """
    if bandwidth < 2 or n_shells < 1:
        raise ValueError(f"bandwidth {bandwidth} and {n_shells} shells: need at least 2 and 1")
    highest = int(np.ceil(max(np.pi * n_shells, bandwidth))) + 4
    n_rings = (bandwidth + highest + 1) // 4 + 1  # on the upper half
    n_points = fft.next_fast_len(bandwidth + highest)
    cosines, weights = roots_legendre(2 * n_rings)
    upper = cosines > 0
    cosines, weights = cosines[upper], weights[upper]
    sines = np.sqrt(1 - cosines**2)
    azimuth = 2 * np.pi * np.arange(n_points) / n_points
    unit = np.stack(
        np.broadcast_arrays(
            sines[:, None] * np.cos(azimuth), sines[:, None] * np.sin(azimuth), cosines[:, None]
        ),
        axis=-1,
    )
    radius = np.arange(1, n_shells + 1)
    points = radius[:, None, None, None] * unit
    ring_weight = weights * (2 * np.pi / n_points)
    quadrature = np.broadcast_to(
        radius[:, None, None] ** 2 * ring_weight[:, None], (n_shells, n_rings, n_points)
    )
    table = legendre_table(bandwidth, cosines).transpose(1, 0, 2)
    return ShellSampling(
        bandwidth, n_shells, n_points,
        np.ascontiguousarray(points.reshape(-1, 3).T, dtype=np.float32),
        np.ascontiguousarray(quadrature, dtype=np.float32),
        np.ascontiguousarray(table, dtype=np.float32),
        ring_weight.astype(np.float32),
    )
