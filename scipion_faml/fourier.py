"""Spectra: the half of the Fourier samples that a real volume needs, and what lives on them.

`spectrum` = rfftn(ifftshift(volume)): DC at index 0, (n, n, n // 2 + 1), index order [kz, ky, kx].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from scipion_faml.types import ComplexArray, FloatArray, IntArray
from scipion_faml.volume import crop_or_pad

Values = TypeVar("Values", bound=np.generic)

OVERSAMPLING = 2  # padding before interpolation in Fourier space


def spectrum(volume: FloatArray) -> ComplexArray:
    """Return rfftn(ifftshift(volume)), (n, n, n // 2 + 1) complex64 (complex128 for float64)."""
    half: ComplexArray = fft.rfftn(fft.ifftshift(volume))
    return half


def volume_from_spectrum(half: ComplexArray, n: int) -> FloatArray:
    """Return the real volume (n, n, n) of a spectrum (n, n, n // 2 + 1)."""
    volume: FloatArray = fft.fftshift(fft.irfftn(half, (n, n, n)))
    return volume


@lru_cache(maxsize=8)
def frequencies(n: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return (kz, ky, kx), integer frequencies that broadcast to a spectrum's shape."""
    full = np.fft.fftfreq(n, 1.0 / n).round().astype(np.int32)
    half = np.arange(n // 2 + 1, dtype=np.int32)
    return full[:, None, None], full[None, :, None], half[None, None, :]


@lru_cache(maxsize=8)
def frequency_radius(n: int) -> FloatArray:
    """Return |k| of every sample of a spectrum, float32, read-only."""
    kz, ky, kx = frequencies(n)
    radius: FloatArray = np.sqrt((kz**2 + ky**2 + kx**2).astype(np.float32))
    radius.flags.writeable = False
    return radius


@lru_cache(maxsize=8)
def hermitian_multiplicity(n: int) -> IntArray:
    """Return how many of the J = n^3 samples each one of the half stands for: 1 or 2 (uint8)."""
    multiplicity = np.full((n, n, n // 2 + 1), 2, dtype=np.uint8)
    multiplicity[:, :, 0] = 1
    if n % 2 == 0:
        multiplicity[:, :, -1] = 1
    multiplicity.flags.writeable = False
    return multiplicity


def shell_sums(values: FloatArray, n: int) -> FloatArray:
    """Return sums of `values` (as a spectrum) over shells of rounded |k|, (n // 2,).

    Both Friedel mates are counted: the sums are over all J samples.
    """
    shell = np.rint(frequency_radius(n)).astype(np.intp).ravel()
    weighted = (values * hermitian_multiplicity(n)).astype(np.float64).ravel()
    sums: FloatArray = np.bincount(shell, weights=weighted)[: n // 2].astype(np.float64)
    return sums


def shift_spectrum(half: ComplexArray, shift_xyz: FloatArray) -> ComplexArray:
    """Return the spectrum of the volume moved by `shift_xyz` voxels."""
    n = half.shape[0]
    kz, ky, kx = frequencies(n)
    step = -2j * np.pi / n
    ramp = (
        np.exp(step * kz * shift_xyz[2])
        * np.exp(step * ky * shift_xyz[1])
        * np.exp(step * kx * shift_xyz[0])
    )
    return (half * ramp).astype(half.dtype)


def low_pass(volume: FloatArray, voxel_size_angst: float, cutoff_angst: float) -> FloatArray:
    """Return `volume` filtered by a Gaussian that falls to one half at `cutoff_angst`."""
    n = volume.shape[0]
    cutoff = n * voxel_size_angst / cutoff_angst  # as an integer-frequency radius
    gain = np.exp(-np.log(2.0) * (frequency_radius(n) / cutoff) ** 2)
    filtered = volume_from_spectrum(spectrum(volume) * gain, n)
    return filtered.astype(np.float32)


def resample(volume: FloatArray, n_new: int) -> FloatArray:
    """Return `volume` on n_new^3 voxels of the same field of view: spectrum cropped or padded."""
    n = volume.shape[0]
    full = fft.fftshift(fft.fftn(fft.ifftshift(volume)))
    small = crop_or_pad(full, (n_new, n_new, n_new))
    resampled = fft.fftshift(fft.ifftn(fft.ifftshift(small))).real
    return (resampled * (n_new / n) ** 3).astype(np.float32)


@dataclass(frozen=True, eq=False)
class SampleSet:
    """The samples of a half spectrum with 0 < |k| <= radius: what the method compares and averages.

    The corners beyond the sphere are left out, because a rotation carries them out of the spectrum.
    """

    n: int
    flat_index: IntArray  # (J,) into the raveled half spectrum
    frequency_xyz: FloatArray  # (J, 3) float32, integer values, (kx, ky, kz)
    multiplicity: FloatArray  # (J,) float32, 1 or 2
    n_shift: int  # the smallest box that holds the samples: where correlations over shifts live
    shift_index: IntArray  # (J,) into the raveled half spectrum of that box

    def __len__(self) -> int:
        return len(self.flat_index)

    @property
    def n_total(self) -> float:
        """J: the number of Fourier samples of the whole spectrum that the set stands for."""
        return float(self.multiplicity.sum(dtype=np.float64))

    def take(self, half: NDArray[Values]) -> NDArray[Values]:
        """Return the samples of `half` (n, n, n // 2 + 1) as (J,)."""
        return half.reshape(-1)[self.flat_index]

    def put(self, values: NDArray[Values]) -> NDArray[Values]:
        """Return a half spectrum with `values` (J,) at the samples and 0 elsewhere."""
        return _scatter(values, self.flat_index, self.n)

    def correlation(self, values: ComplexArray) -> FloatArray:
        """Return sum_j values_j exp(2 pi i k_j t / n) over both Friedel mates, for shifts t.

        values (..., J) complex64 give (..., n_shift, n_shift, n_shift) float32, [tz, ty, tx]
        wrapped, in steps of n / n_shift voxels.
        """
        half = _scatter(values, self.shift_index, self.n_shift)
        correlation: FloatArray = fft.irfftn(
            half, (self.n_shift,) * 3, axes=(-3, -2, -1), norm="forward"
        )
        return correlation


def _scatter(values: NDArray[Values], flat_index: IntArray, n: int) -> NDArray[Values]:
    """Half spectra of a box of n with `values` (..., J) at `flat_index` and 0 elsewhere."""
    half = np.zeros((*values.shape[:-1], n * n * (n // 2 + 1)), dtype=values.dtype)
    half[..., flat_index] = values
    return half.reshape(*values.shape[:-1], n, n, n // 2 + 1)


@lru_cache(maxsize=16)
def sample_set(n: int, radius: float | None = None) -> SampleSet:
    """Return the samples with 0 < |k| <= radius (default: (n - 1) // 2, just inside Nyquist)."""
    limit = (n - 1) // 2 if radius is None else min(radius, (n - 1) // 2)
    kept = (frequency_radius(n) > 0) & (frequency_radius(n) <= limit)
    flat_index = np.flatnonzero(kept)
    if not len(flat_index):
        raise ValueError(f"no Fourier sample of a box of {n} lies within radius {limit}")
    grids = np.broadcast_arrays(*frequencies(n))
    frequency_zyx = [g.ravel()[flat_index] for g in grids]
    frequency_xyz = np.stack(frequency_zyx[::-1], axis=-1).astype(np.float32)
    multiplicity = hermitian_multiplicity(n).ravel()[flat_index].astype(np.float32)
    n_shift = min(fft.next_fast_len(2 * int(limit) + 2, real=True), n)
    kx, ky, kz = frequency_xyz.T.astype(np.intp)
    shift_index = (kz % n_shift * n_shift + ky % n_shift) * (n_shift // 2 + 1) + kx
    return SampleSet(n, flat_index, frequency_xyz, multiplicity, n_shift, shift_index)


@lru_cache(maxsize=4)
def _interpolation_correction(n: int) -> FloatArray:
    """1 / sinc^2 per axis: the real-space window that trilinear interpolation multiplies by."""
    window = np.sinc((np.arange(n) - n // 2) / (OVERSAMPLING * n)) ** 2
    product = window[:, None, None] * window[None, :, None] * window[None, None, :]
    correction: FloatArray = (1.0 / product).astype(np.float32)
    return correction


def oversampled_spectrum(volume: FloatArray) -> ComplexArray:
    """Return the spectrum of `volume`, twice oversampled and corrected for trilinear interpolation.

    (2n, 2n, n + 1) complex64: sample 2k of it, interpolated, is sample k of `spectrum(volume)`.
    """
    n = volume.shape[0]
    padded = OVERSAMPLING * n
    corrected = (volume * _interpolation_correction(n)).astype(np.float32)
    box = crop_or_pad(corrected, (padded, padded, padded))
    return spectrum(box)
