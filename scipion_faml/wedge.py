"""The missing wedge: which Fourier samples a tilt series has measured.

Tilt axis y, beam z. A specimen tilted by theta is seen as Ry(theta) r projected along z, so its
projection measures the plane through y and (cos theta, 0, sin theta): the sample (kx, ky, kz) is
measured when atan2(kz, kx), folded into (-90, 90] deg, lies between the extreme tilts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from scipion_faml.fourier import frequencies
from scipion_faml.types import BoolArray, FloatArray

SMALLEST_WEIGHT = 0.01  # of 1: samples below count as not measured, whatever they hold


@dataclass(frozen=True)
class MissingWedge:
    """The tilt range of a tomogram (deg); tilt axis y, beam z. Equal ranges share their masks."""

    tilt_min_deg: float
    tilt_max_deg: float

    def __post_init__(self) -> None:
        low, high = self.tilt_min_deg, self.tilt_max_deg
        if not (np.isfinite(low) and np.isfinite(high) and -90.0 <= low < high <= 90.0):
            raise ValueError(
                f"tilt range {low:g} to {high:g} deg is not possible: give the smallest and the "
                "largest tilt of the series, for example -60 and 60"
            )

    def mask(self, n: int) -> FloatArray:
        """Return weights (n, n, n // 2 + 1) float32: 1 measured, 0 missing; read-only."""
        return _wedge_mask(self.tilt_min_deg, self.tilt_max_deg, n)


NO_WEDGE = MissingWedge(-90.0, 90.0)  # everything is measured


def is_measured(weight: FloatArray) -> BoolArray:
    """Return where weights say that something was measured.

    A sample of weight w has the noise variance sigma^2 / w: sum w |noise|^2 is sigma^2 times the
    number of measured samples, not times the sum of their weights.
    """
    return np.asarray(weight > SMALLEST_WEIGHT)


@lru_cache(maxsize=32)
def _wedge_mask(tilt_min_deg: float, tilt_max_deg: float, n: int) -> FloatArray:
    kz, _, kx = frequencies(n)
    # kx >= 0 on the half spectrum, so the angle already lies in [-90, 90] deg. A column of the
    # tilt axis (kx = kz = 0) is measured by every image; +90 and -90 deg are the same plane.
    angle = np.rad2deg(np.arctan2(kz, kx))
    tolerance = 1e-6
    measured = (angle >= tilt_min_deg - tolerance) & (angle <= tilt_max_deg + tolerance)
    if tilt_min_deg <= -90.0 + tolerance or tilt_max_deg >= 90.0 - tolerance:
        measured = measured | (kx == 0)
    measured = measured | ((kx == 0) & (kz == 0))
    # An even box holds its Nyquist frequency once, for both signs: measured if either is.
    if n % 2 == 0:
        mirrored = np.rad2deg(np.arctan2(-kz, kx))
        either = (mirrored >= tilt_min_deg - tolerance) & (mirrored <= tilt_max_deg + tolerance)
        on_nyquist = (kx == n // 2) | (kz == -(n // 2))
        measured = measured | (either & on_nyquist)
    mask = np.ascontiguousarray(np.broadcast_to(measured, (n, n, n // 2 + 1)), dtype=np.float32)
    mask.flags.writeable = False
    return mask
