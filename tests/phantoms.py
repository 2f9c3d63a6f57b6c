"""Small structures and particles that the tests make for themselves."""

from __future__ import annotations

import numpy as np

from scipion_faml.fourier import spectrum, volume_from_spectrum
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.sources import ArraySource
from scipion_faml.volume import move_volume
from scipion_faml.wedge import MissingWedge


def blobs(n, seed, n_blobs=12, radius=0.2, width=0.06):
    """A chiral sum of Gaussian blobs within `radius` of the box."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    volume = np.zeros((n, n, n))
    for a, b, c in rng.uniform(-radius * n, radius * n, (n_blobs, 3)):
        volume += np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * (width * n) ** 2))
    return volume.astype(np.float32)


def particles(references, n_particles, snr, seed=0, max_shift=2.0, tilt_deg=60.0):
    """Turned, shifted, noisy copies with a wedge: (source, class_index, poses)."""
    rng = np.random.default_rng(seed)
    n = references[0].shape[0]
    wedge = MissingWedge(-tilt_deg, tilt_deg)
    class_index = np.arange(n_particles) % len(references)
    poses = RigidTransforms(
        random_rotations(n_particles, rng),
        rng.uniform(-1, 1, (n_particles, 3)) * max_shift / np.sqrt(3),
    )
    volumes = []
    for i, k in enumerate(class_index):
        moved = move_volume(references[k], poses[[i]])
        noisy = moved + rng.normal(0, references[k].std() / np.sqrt(snr), moved.shape)
        volumes.append(volume_from_spectrum(spectrum(noisy) * wedge.mask(n), n))
    return ArraySource(np.stack(volumes).astype(np.float32), wedge, 10.0), class_index, poses
