"""Crops for training: drawn anew in every step, each from a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from scipion_faml.detector.labels import Labelled
from scipion_faml.detector.settings import TrainingSettings
from scipion_faml.types import FloatArray, IntArray

AT_PARTICLE = 0.8  # share of crops around a particle; the others lie anywhere
BEYOND = 8  # voxels by which crops may reach out of the tomogram, as tiles do
JITTER = 0.35  # crops: how far from its centre that particle lies


@dataclass(frozen=True, eq=False)
class Crop:
    """A normalised cube with the particles in it."""

    volume: FloatArray  # (n, n, n) float32
    position_xyz: FloatArray  # (P, 3) voxels of the crop
    class_index: IntArray  # (P,)


class ParticleDraw:
    """Draws particles of labelled tomograms, each as often as its class weighs."""

    def __init__(self, tomograms: Sequence[Labelled], balance: float) -> None:
        """`balance` 1: all classes equally often; 0: all particles."""
        self.tomograms = tomograms
        classes = np.concatenate([t.class_index for t in tomograms])
        self._owner = np.repeat(np.arange(len(tomograms)), [len(t) for t in tomograms])
        self._row = np.concatenate([np.arange(len(t)) for t in tomograms])
        weight = np.bincount(classes)[classes].astype(np.float64) ** -balance
        self._cumulative = np.cumsum(weight) / weight.sum()

    def one(self, rng: np.random.Generator) -> tuple[Labelled, int]:
        """Return a tomogram and the row of a particle in it."""
        drawn = int(np.searchsorted(self._cumulative, rng.uniform(), side="right"))
        drawn = min(drawn, len(self._row) - 1)
        return self.tomograms[self._owner[drawn]], int(self._row[drawn])


class CropSampler:
    """Draws crops from labelled tomograms; crop i of a run depends on seed and i alone."""

    def __init__(self, tomograms: Sequence[Labelled], settings: TrainingSettings) -> None:
        self.tomograms = tomograms
        self.settings = settings
        self._particles = ParticleDraw(tomograms, settings.balance)
        volume = np.array([np.prod(t.view.shape, dtype=np.float64) for t in tomograms])
        self._by_volume = np.cumsum(volume) / volume.sum()

    def crop(self, number: int) -> Crop:
        """Return crop `number` of the run."""
        rng = np.random.default_rng([self.settings.seed, 7, number])
        n = self.settings.crop
        if rng.uniform() < AT_PARTICLE:
            chosen, row = self._particles.one(rng)
            centre = chosen.position_xyz[row][::-1]
            centre = centre + rng.uniform(-JITTER, JITTER, 3) * n
        else:
            which = int(np.searchsorted(self._by_volume, rng.uniform(), side="right"))
            chosen = self.tomograms[min(which, len(self.tomograms) - 1)]
            centre = rng.uniform(0.0, 1.0, 3) * chosen.view.shape
        last = np.maximum(np.array(chosen.view.shape) - n, 0) + BEYOND
        start = np.clip(np.rint(centre - n / 2), -BEYOND, last).astype(np.intp)
        volume = chosen.view.read(tuple(start), (n, n, n))
        position = chosen.position_xyz - start[::-1]
        inside = ((position > -0.5) & (position < n - 0.5)).all(axis=1)
        crop = Crop(volume, position[inside], chosen.class_index[inside])
        return with_other_contrast(mirrored(crop, rng, self.settings.turns), rng)


def mirrored(crop: Crop, rng: np.random.Generator, turns: bool) -> Crop:
    """Return the crop mirrored along some axes, with `turns` also by a quarter about the beam.

    Mirrors along x, y and z leave a missing wedge about y where it is (tilts are symmetric), and
    two of them are a half turn. A quarter turn about z moves the wedge to the other axis.
    """
    n = crop.volume.shape[0]
    volume, position = crop.volume, crop.position_xyz
    for axis in range(3):
        if rng.uniform() < 0.5:
            volume = np.flip(volume, 2 - axis)
            position = position.copy()
            position[:, axis] = n - 1 - position[:, axis]
    if turns and rng.uniform() < 0.5:
        volume = volume.swapaxes(1, 2)
        position = position[:, [1, 0, 2]]
    return Crop(volume, position, crop.class_index)


def with_other_contrast(crop: Crop, rng: np.random.Generator) -> Crop:
    """Return the crop as another microscope may have shown it: scale, level, sharpness, noise."""
    volume = crop.volume * np.float32(rng.uniform(0.8, 1.25)) + np.float32(rng.normal(0.0, 0.1))
    kind = rng.uniform()
    if kind < 0.2:  # less sharp, same noise level as far as a detector cares
        volume = ndimage.gaussian_filter(volume, rng.uniform(0.3, 0.7)).astype(np.float32)
    elif kind < 0.4:
        noise = rng.standard_normal(volume.shape, dtype=np.float32)
        volume = volume + np.float32(rng.uniform(0.1, 0.5)) * noise
    return Crop(np.ascontiguousarray(volume), crop.position_xyz, crop.class_index)
