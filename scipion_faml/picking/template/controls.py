"""Templates that are no structure, but as like one as can be: what they find is chance."""

from __future__ import annotations

import numpy as np

from scipion_faml.fourier import spectrum, volume_from_spectrum
from scipion_faml.types import FloatArray

CONTROLS = ("phase", "mirror", "none")


def phase_randomised(density: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return a map (n, n, n) with the same power at every frequency and random phases."""
    n = density.shape[0]
    # Phases of white noise are those of a real map: opposite frequencies have opposite ones.
    noise = spectrum(rng.normal(size=density.shape).astype(np.float32))
    half = spectrum(density)
    scrambled = np.abs(half) * noise / np.maximum(np.abs(noise), np.finfo(np.float32).tiny)
    scrambled[0, 0, 0] = half[0, 0, 0]
    return volume_from_spectrum(scrambled.astype(np.complex64), n).astype(np.float32)


def mirrored(density: FloatArray) -> FloatArray:
    """Return the other hand: z turned about the centre voxel n // 2."""
    flipped = density[::-1]
    shift = 1 - density.shape[0] % 2  # an even box has its centre beside the middle
    return np.ascontiguousarray(np.roll(flipped, shift, axis=0))


def control_of(
    density: FloatArray, mask: FloatArray, kind: str, rng: np.random.Generator
) -> FloatArray:
    """Return the control of a density (n, n, n) under its mask.

    Phases are drawn for what lies under the mask: it is that which is looked for.
    """
    if kind == "mirror":
        return mirrored(density)
    weight = mask.astype(np.float64)
    level = float((weight * density).sum() / weight.sum())
    inside = ((density - level) * mask).astype(np.float32)
    return phase_randomised(inside, rng)
