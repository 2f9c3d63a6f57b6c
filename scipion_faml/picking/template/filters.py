"""Isotropic filters of tomogram and template: low-pass, high-pass, whitening.

A filter is a gain over spatial frequency in cycles per voxel, so that one serves arrays of every
size. Whitening divides by the root of the tomogram's own power: noise is then as strong at all
frequencies, and the correlation the most sensitive linear detector (North 1963, Proc. IEEE 51).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from scipion_faml.fourier import inverse_real_fft, real_fft
from scipion_faml.types import FloatArray

BINS = 96  # of frequency, from 0 to the corner of the spectrum
HIGHEST = float(np.sqrt(0.75))  # cycles per voxel, at the corner
EDGE_START = 0.4  # cycles per voxel: from here gains fall to 0 at 0.5
MIN_POWER = 1e-3  # of the highest: whitening amplifies no more than this allows
MAX_REACH = 32  # voxels; what a filter carries farther is little
REACH_LEFT_OUT = 0.03  # of a filter's kernel


@dataclass(frozen=True, eq=False)
class Filter:
    """A gain over frequency."""

    frequency: FloatArray  # (F,) cycles per voxel, ascending
    gain: FloatArray  # (F,)

    def at(self, frequency: FloatArray) -> FloatArray:
        """Return the gain at frequencies in cycles per voxel, float32."""
        gain: FloatArray = np.interp(frequency, self.frequency, self.gain).astype(np.float32)
        return gain

    def on(self, shape: tuple[int, ...]) -> FloatArray:
        """Return the gain on the half spectrum of real values of a shape (z, y, x), read-only."""
        return _gain_on(self, shape)

    def applied(self, values: FloatArray) -> FloatArray:
        """Return values (z, y, x) filtered, as if repeated at their ends."""
        half = real_fft(np.asarray(values, dtype=np.float32))
        half *= self.on(values.shape)
        return inverse_real_fft(half, values.shape[2], may_overwrite=True)

    @property
    def reach(self) -> int:
        """Voxels over which its kernel spreads: all but 3 % of it, 32 at most."""
        n = 2 * MAX_REACH
        kernel = np.abs(inverse_real_fft(self.on((n, n, n)).astype(np.complex64), n)).ravel()
        offset = np.minimum(np.arange(n), n - np.arange(n))
        farthest = np.maximum(np.maximum(offset[:, None, None], offset[:, None]), offset).ravel()
        shell = np.bincount(farthest, weights=kernel)
        beyond = np.cumsum(shell[::-1])[::-1]  # at this distance or farther
        far = np.flatnonzero(beyond > REACH_LEFT_OUT * beyond[0])
        return int(far[-1])


@lru_cache(maxsize=8)
def _gain_on(of: Filter, shape: tuple[int, ...]) -> FloatArray:
    gain = of.at(half_frequencies(shape))
    gain.flags.writeable = False
    return gain


def half_frequencies(shape: tuple[int, ...]) -> FloatArray:
    """Return |k| in cycles per voxel on the half spectrum of real values of a shape (z, y, x)."""
    z, y, x = (np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2]))
    squared = z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2
    radius: FloatArray = np.sqrt(squared).astype(np.float32)
    return radius


def no_filter() -> Filter:
    """Return the filter that leaves everything as it is."""
    return Filter(np.array([0.0, HIGHEST]), np.ones(2))


def band_pass(
    voxel_size_angst: float, low_pass_angst: float | None, high_pass_angst: float | None
) -> Filter:
    """Return Gaussians that fall to one half at the resolutions given (angstrom).

    Nothing passes beyond Nyquist's frequency: there lie the corners of a spectrum, out of which a
    rotation carries a template, while a tomogram has noise in them.

    Raises
    ------
    ValueError
        If they leave nothing between them.
    """
    frequency = np.linspace(0.0, HIGHEST, 4 * BINS)
    edge = np.clip((frequency - EDGE_START) / (0.5 - EDGE_START), 0.0, 1.0)
    gain = 0.5 + 0.5 * np.cos(np.pi * edge)
    if low_pass_angst is not None:
        gain *= np.exp(-np.log(2.0) * (frequency * low_pass_angst / voxel_size_angst) ** 2)
    if high_pass_angst is not None:
        gain *= 1.0 - np.exp(-np.log(2.0) * (frequency * high_pass_angst / voxel_size_angst) ** 2)
        if low_pass_angst is not None and low_pass_angst >= high_pass_angst:
            raise ValueError(
                f"a low-pass to {low_pass_angst:g} A and a high-pass to {high_pass_angst:g} A "
                "leave nothing: the low-pass must be the finer one")
    return Filter(frequency, gain)


def combined(filters: Iterable[Filter]) -> Filter:
    """Return the product of filters."""
    frequency = np.linspace(0.0, HIGHEST, 4 * BINS)
    gain = np.ones_like(frequency)
    for each in filters:
        gain *= each.at(frequency)
    return Filter(frequency, gain)


def radial_power(blocks: Iterable[FloatArray], measured: FloatArray) -> Filter:
    """Return the mean power of equal blocks (n, n, n) of a tomogram at every frequency.

    Parameters
    ----------
    measured : (n, n, n // 2 + 1)
        Above 0 where the tomogram has measured something: its missing wedge is no weak signal.

    Raises
    ------
    ValueError
        If there is no block, or they are constant.
    """
    n = measured.shape[0]
    total: FloatArray = np.zeros(measured.shape)
    taper = np.hanning(n + 2)[1:-1].astype(np.float32)
    window = taper[:, None, None] * taper[None, :, None] * taper[None, None, :]
    for block in blocks:
        total = total + np.abs(real_fft((block - block.mean()) * window)) ** 2
    if not total.max() > 0:
        raise ValueError("the tomogram is constant: its spectrum cannot be measured")
    frequency = half_frequencies((n, n, n))
    kept = (measured > 0) & (frequency > 0)
    index = np.minimum((frequency[kept] / HIGHEST * BINS).astype(np.intp), BINS - 1)
    count = np.bincount(index, minlength=BINS)
    known = np.flatnonzero(count)
    sums = np.bincount(index, weights=total[kept], minlength=BINS)
    centre = (np.arange(BINS) + 0.5) * HIGHEST / BINS
    power = np.interp(centre, centre[known], sums[known] / count[known])
    # Shells of few samples scatter, and a rough gain has a kernel that reaches far.
    smooth = np.exp(ndimage.gaussian_filter1d(np.log(np.maximum(power, 1e-30)), 1.5))
    return Filter(centre, smooth)


def whitening(power: Filter) -> Filter:
    """Return 1 / sqrt(power), its highest gain 1."""
    gain = 1.0 / np.sqrt(np.maximum(power.gain, MIN_POWER * power.gain.max()))
    return Filter(power.frequency, gain / gain.max())
