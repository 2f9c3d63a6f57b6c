"""Equal noise on all shells, so that what a window mixes is worth the same.

A particle's window and every interpolation mix neighbouring Fourier samples. Where the weights of
a sample span orders of magnitude (zeros of the CTF, the dose), the worthless ones would bury the
good ones. So every shell is multiplied by the square root of its typical weight: the noise becomes
white, what remains of the weights tells samples of one shell apart, and the averages are divided by
the same gain at the end. Weights of 0 and 1, a missing wedge, leave everything as is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from scipion_faml.fourier import frequency_radius, spectrum, volume_from_spectrum
from scipion_faml.types import ComplexArray, FloatArray

FULL_WEIGHT_PERCENTILE = 99.0  # of the weights of a shell or a set: the full one
SMOOTH_SHELLS = 2.0
LARGEST_WEIGHT = 8.0  # of a typical one
TYPICAL_PERCENTILE = 50.0  # near the tilt axis weights are larger by far, but those are few


def weight_of_shells(weights: Iterable[FloatArray], percentile: float) -> FloatArray:
    """Return a percentile of the weights of every shell |k| = 0.. of some particles, (n // 2 + 1,).

    weights : each (n, n, n // 2 + 1); 0 is not counted. A shell without any takes that of the shell
    before.

    Raises
    ------
    ValueError
        If no sample has a weight.
    """
    stacked = np.stack(list(weights))
    n = stacked.shape[1]
    shell = np.minimum(np.rint(frequency_radius(n)).astype(np.intp), n // 2)
    found = np.zeros(n // 2 + 1)
    for radius in range(1, n // 2 + 1):
        values = stacked[:, shell == radius]
        measured = values[values > 0]
        found[radius] = (np.percentile(measured, percentile) if len(measured)
                         else found[radius - 1])
    if not found.any():
        raise ValueError("no Fourier sample has a weight: check the weight volumes")
    found[0] = found[1]
    found[found == 0] = found[found > 0][0]  # shells inside the first that has data
    return found


@dataclass(frozen=True, eq=False)
class Whitening:
    """The amplitude gain of every shell, linear between shells."""

    gain: FloatArray  # (n // 2 + 1,) of |k| = 0.., above 0

    @staticmethod
    def of(weights: Iterable[FloatArray]) -> Whitening:
        """Return the gains that make noise of variance 1 / weight white: sqrt(typical weight).

        Smooth over shells: a filter with the notches of the CTF would ring far beyond the window.
        """
        typical = weight_of_shells(weights, TYPICAL_PERCENTILE)
        smooth = gaussian_filter1d(np.log(typical), SMOOTH_SHELLS, mode="nearest")
        return Whitening(np.exp(0.5 * smooth))

    @property
    def is_flat(self) -> bool:
        """Whether all gains are 1."""
        return bool(np.all(self.gain == 1.0))

    def gains(self, n: int) -> FloatArray:
        """Return the gain of every sample of a half spectrum of a box of n, float32."""
        shells = np.arange(len(self.gain))
        gains: FloatArray = np.interp(frequency_radius(n), shells, self.gain).astype(np.float32)
        return gains

    def relative(self, weight: FloatArray) -> FloatArray:
        """Return the weights (n, n, n // 2 + 1) of whitened particles: 1 for a typical sample.

        Near the tilt axis all images meet, and weights rise to dozens. They are cut at
        LARGEST_WEIGHT: their neighbours would take them for their own, through the window.
        """
        if self.is_flat:
            return weight
        relative = weight / self.gains(weight.shape[0]) ** 2
        bounded: FloatArray = np.minimum(relative, LARGEST_WEIGHT).astype(np.float32)
        return bounded

    def applied(self, volume: FloatArray) -> FloatArray:
        """Return a particle or a map (n, n, n) as whitened particles show it."""
        return self._filtered(volume, self.gains(volume.shape[0]))

    def removed(self, volume: FloatArray) -> FloatArray:
        """Return an average (n, n, n) of whitened particles on the particles' own scale."""
        return self._filtered(volume, 1.0 / self.gains(volume.shape[0]))

    def _filtered(self, volume: FloatArray, gains: FloatArray) -> FloatArray:
        if self.is_flat:
            return volume
        half: ComplexArray = spectrum(volume) * gains
        return volume_from_spectrum(half, volume.shape[0]).astype(np.float32)
