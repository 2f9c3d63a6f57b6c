"""Templates that are no structure, but as like one as can be: what they find is chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from scipion_faml.fourier import frequency_radius, spectrum, volume_from_spectrum
from scipion_faml.geometry import RigidTransforms
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.volume import move_volume, squared_radius

CONTROLS = ("phase", "mirror", "none")
ROUNDS = 6  # in which power and profile settle together


def phase_randomised(
    density: FloatArray, mask: FloatArray, symmetry: str, rng: np.random.Generator
) -> FloatArray:
    """Return a map (n, n, n) with random phases and, of what a density holds under its mask,

    the power on every Fourier shell, the variance at every distance from the centre, and the
    symmetry. How often chance makes a template fit depends on these: on how fast it changes when it
    is moved or turned, and how many of its rotations are different.
    """
    weight = mask.astype(np.float64)
    level = float((weight * density).sum() / weight.sum())
    inside = ((density - level) * mask).astype(np.float32)
    n = inside.shape[0]
    shell = np.minimum(np.rint(frequency_radius(n)).astype(np.intp), n // 2)
    distance = np.minimum(np.rint(np.sqrt(squared_radius(n))).astype(np.intp), n // 2)
    power, profile = _mean_of(np.abs(spectrum(inside)) ** 2, shell), _mean_of(inside**2, distance)
    control = rng.normal(size=inside.shape).astype(np.float32)
    group = symmetry_rotations(symmetry)
    if len(group) > 1:
        control = _symmetrised(_imposed(control, power, shell), group)
    for _ in range(ROUNDS):
        control = _imposed(control, power, shell)
        now = _mean_of(control**2, distance)
        control = control * np.sqrt(profile / np.maximum(now, 1e-30))[distance].astype(np.float32)
    return np.asarray(control, dtype=np.float32)


def _mean_of(values: ArrayLike, index: IntArray) -> FloatArray:
    """Means of values that share an index."""
    count = np.bincount(index.ravel())
    sums = np.bincount(index.ravel(), weights=np.asarray(values, dtype=np.float64).ravel())
    means: FloatArray = sums / np.maximum(count, 1)
    return means


def _imposed(density: FloatArray, power: FloatArray, shell: IntArray) -> FloatArray:
    """A map with the power given on every shell."""
    half = spectrum(density)
    now = _mean_of(np.abs(half) ** 2, shell)
    gain = np.sqrt(power / np.maximum(now, 1e-30))[shell]
    return volume_from_spectrum((half * gain).astype(np.complex64), density.shape[0])


def _symmetrised(density: FloatArray, group: FloatArray) -> FloatArray:
    """The mean of a map over the rotations of a group."""
    total = np.zeros_like(density)
    for rotation in group:
        pose = RigidTransforms.from_rotation(rotation[None], np.zeros((1, 3)))
        total += move_volume(density, pose)
    return total / np.float32(len(group))
