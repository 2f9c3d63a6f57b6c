"""What a particle is like, whichever way it is turned: mean and power of its Fourier shells.

With X the spectrum of one particle, w its weights, |k| = s the samples of shell s that were
measured, N_s their number and N'_s that of the whole shell (both Friedel mates counted):

    mean   m_s = sum w Re X / sum w                       its spherical average, of Fourier samples
    power  p_s = (sum w |X|^2 - N_s sigma^2) / sum w      without the noise's

A turn moves samples within their shell: m_s and p_s of a full sphere do not change. p_s does not
change under shifts either, m_s by sin(x) / x of x = 2 pi s |t| / n. Missing samples are left out,
not taken for zeros: over random orientations a wedge changes the precision of both and, but for
the lattice within a shell, not their expectation. sigma^2 is the particle's own, of the shells
beyond the low-pass.

Both are scaled so that noise alone gives them a variance of N'_s / N_s, about 1:

    M_s = m_s sqrt(N'_s) / sigma,    P_s = log(1 + p_s / sigma^2) sqrt(N'_s / 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import CubicSpline

from scipion_faml.fourier import (
    frequency_radius,
    hermitian_multiplicity,
    spectrum,
    volume_from_spectrum,
)
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.volume import soft_sphere
from scipion_faml.wedge import is_measured

SMALLEST_BOX = 8
NOISE_SHELLS = 2  # at least, beyond the low-pass
SMALLEST_POWER = 0.1  # of the noise: less is a fluctuation
SMALLEST_NOISE = 1e-6  # of the mean power: particles that were low-passed have none beyond
EDGE = 3.0  # voxels of the mask


@dataclass(frozen=True)
class DescriptorSettings:
    """Box (voxels), shells 1..n_shells to describe, and the ball to look at, if any."""

    n: int
    n_shells: int
    mask_radius: float | None = None  # voxels

    @staticmethod
    def of(
        n: int, voxel_size_angst: float, low_pass_angst: float | None = None,
        diameter_angst: float | None = None,
    ) -> DescriptorSettings:
        """Return the settings of a box; without a low-pass, shells up to half of Nyquist.

        Raises
        ------
        ValueError
            If the box is too small, or low-pass or diameter leave nothing to look at.
        """
        if n < SMALLEST_BOX:
            raise ValueError(f"boxes of {n} voxels are too small to group: extract "
                             f"{SMALLEST_BOX} or more")
        most, box_angst = n // 2 - NOISE_SHELLS, n * voxel_size_angst
        n_shells = n // 4 if low_pass_angst is None else int(
            min(box_angst / low_pass_angst, most))
        if n_shells < 1:
            raise ValueError(f"low-pass {low_pass_angst:g} A leaves nothing of a box of "
                             f"{box_angst:g} A: give a smaller one")
        if diameter_angst is None:
            return DescriptorSettings(n, n_shells)
        radius = diameter_angst / (2.0 * voxel_size_angst)
        if radius < 1.0:
            raise ValueError(f"a particle diameter of {diameter_angst:g} A is less than 2 voxels "
                             f"of {voxel_size_angst:g} A: give it in angstrom")
        return DescriptorSettings(n, n_shells, radius)

    @property
    def names(self) -> list[str]:
        """Names of the descriptors, in order."""
        shells = range(1, self.n_shells + 1)
        return [f"mean_{s:03d}" for s in shells] + [f"power_{s:03d}" for s in shells]


@dataclass(frozen=True, eq=False)
class Described:
    """Descriptors of one particle."""

    values: FloatArray  # (2 * n_shells,) M_s, then P_s
    noise_variance: FloatArray  # (2 * n_shells,) that noise alone gives them
    shell_means: FloatArray  # (n // 2 + 1,) m_s in the particle's grey levels, 0..n // 2


@lru_cache(maxsize=4)
def _shells(n: int) -> IntArray:
    """Shell of every sample of a half spectrum, raveled; n // 2 + 1 stands for the corners."""
    rounded = np.rint(frequency_radius(n)).astype(np.intp)
    shell: IntArray = np.minimum(rounded, n // 2 + 1).ravel()
    shell.flags.writeable = False
    return shell


@lru_cache(maxsize=4)
def _full_counts(n: int) -> FloatArray:
    """N'_s, (n // 2 + 1,)."""
    return _sums(hermitian_multiplicity(n), n)


def _sums(values: FloatArray | IntArray, n: int) -> FloatArray:
    """Sums over shells 0..n // 2 of values on a half spectrum."""
    all_sums = np.bincount(_shells(n), weights=values.ravel()).astype(np.float64)
    sums: FloatArray = all_sums[: n // 2 + 1]
    return sums


def describe(
    volume: FloatArray, weight: FloatArray, settings: DescriptorSettings
) -> Described:
    """Return the descriptors of one particle.

    Parameters
    ----------
    volume : (n, n, n) float32
    weight : (n, n, n // 2 + 1) float32
        1 measured, 0 missing; noise of variance sigma^2 / weight.

    Raises
    ------
    ValueError
        If nothing was measured, or there is nothing but the mean.
    """
    n = settings.n
    half = spectrum(_masked(volume, settings.mask_radius))
    measured = np.where(is_measured(weight), hermitian_multiplicity(n), np.uint8(0))
    n_measured, full = _sums(measured, n), _full_counts(n)
    weighted = weight * measured
    total_weight = _sums(weighted, n)
    means = _sums(weighted * half.real, n) / np.maximum(total_weight, 1e-30)
    powers = _sums(weighted * (half.real**2 + half.imag**2), n)
    shells = slice(1, settings.n_shells + 1)
    if not total_weight[shells].any():
        raise ValueError("no Fourier sample was measured within the low-pass: check its weights")
    variance = _noise_variance(powers, n_measured, settings.n_shells)
    # 1 + p_s / sigma^2; weights of 0 and 1 make it the mean power over the noise's.
    ratio = (powers / variance - n_measured + total_weight) / np.maximum(total_weight, 1e-30)
    ratio[total_weight == 0] = 1.0  # nothing is known of the shell: as noise
    by_shell = (full / np.maximum(n_measured, 1.0))[shells]
    return Described(
        np.concatenate([
            (means * np.sqrt(full / variance))[shells],
            (np.log(np.maximum(ratio, SMALLEST_POWER)) * np.sqrt(full / 2.0))[shells]]),
        np.concatenate([by_shell, by_shell]),
        means,
    )


def _masked(volume: FloatArray, radius: float | None) -> FloatArray:
    """The volume within a soft ball, less the mean of what lies outside of it."""
    n = volume.shape[0]
    if radius is None or radius >= n / 2:
        return volume
    mask = soft_sphere(n, radius, EDGE)
    background = float(volume[mask == 0].mean(dtype=np.float64))
    masked: FloatArray = (volume - np.float32(background)) * mask
    return masked


def _noise_variance(powers: FloatArray, n_measured: FloatArray, n_shells: int) -> float:
    """sigma^2 of the shells beyond the low-pass."""
    mean_power = powers[1:].sum() / max(n_measured[1:].sum(), 1.0)
    if mean_power <= 0.0:
        raise ValueError("it holds nothing but its mean: exclude it")
    beyond = powers[n_shells + 1 :].sum() / max(n_measured[n_shells + 1 :].sum(), 1.0)
    return float(max(beyond, SMALLEST_NOISE * mean_power))


def radial_volume(shell_means: FloatArray, n: int) -> FloatArray:
    """Return the round volume (n, n, n) float32 whose shells have these means (n // 2 + 1,)."""
    radius = frequency_radius(n)
    # Samples of a shell lie further out than its number says, by a quarter in the first.
    mean_radius = _sums(radius * hermitian_multiplicity(n), n) / _full_counts(n)
    curve = CubicSpline(mean_radius, shell_means, bc_type=((1, 0.0), "not-a-knot"))
    half = np.where(radius <= mean_radius[-1], curve(radius), 0.0)
    return volume_from_spectrum(half.astype(np.complex128), n).astype(np.float32)


def radial_profile(volume: FloatArray) -> FloatArray:
    """Return the values of a round volume at 0..(n - 1) // 2 voxels from its centre."""
    n = volume.shape[0]
    profile: FloatArray = volume[n // 2, n // 2, n // 2 : n // 2 + (n + 1) // 2]
    return profile
