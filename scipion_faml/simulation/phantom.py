"""The benchmark phantom: a random structure without symmetry that needs no file."""

from __future__ import annotations

import numpy as np

from scipion_faml.simulation.density import BeadModel, centred, rasterise
from scipion_faml.types import FloatArray

N_BLOBS = 30
WITHIN = 0.3  # of the box size: radius of the ball that holds the blobs' centres
WIDTHS = (0.06, 0.09)  # of the box size: standard deviations of the blobs


def blob_model(n: int, seed: int, voxel_size_angst: float = 1.0) -> BeadModel:
    """Return about 30 random Gaussian blobs within 0.3 n of the centre of a box of n voxels.

    Centres are uniform in the ball, widths uniform in 0.06 n to 0.09 n, weights in 0.5 to 1.5. The
    same seed gives the same shape at every box and voxel size.
    """
    rng = np.random.default_rng([seed, 0xB10B5])
    direction = rng.normal(size=(N_BLOBS, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = rng.uniform(size=(N_BLOBS, 1)) ** (1.0 / 3.0)
    box_angst = n * voxel_size_angst
    model = BeadModel(
        position_angst=WITHIN * box_angst * radius * direction,
        width_angst=rng.uniform(*WIDTHS, size=N_BLOBS) * box_angst,
        weight=rng.uniform(0.5, 1.5, size=N_BLOBS),
        name=f"blobs-{seed}",
    )
    return centred(model)


def blobs(n: int, seed: int) -> FloatArray:
    """Return the phantom of `seed` as a volume (n, n, n) float32 (`blob_model`)."""
    return rasterise(blob_model(n, seed), n, 1.0)
