"""Scipion's matrices and our poses.

Scipion's matrix M of a subtomogram or coordinate takes a point of the particle to the reference,
r_ref = M r_part, about voxel n // 2, shifts in voxels of the set that holds it (for a coordinate:
of its set). That is the inverse of a pose of ours, [R | t], which takes the average into the
particle; `geometry.scipion_matrices` is the only formula. `convention=` arguments of tomo.objects
are never used: its RELION conversion turns the shift twice.
"""

from __future__ import annotations

import numpy as np
from pwem.objects import Transform
from tomo.objects import SubTomogram

from scipion_faml.geometry import RigidTransforms, scipion_matrices
from scipion_faml.types import FloatArray

IDENTITY = np.eye(4)


def matrix_of(item: SubTomogram) -> FloatArray:
    """Return Scipion's matrix of a subtomogram, the identity where it has none."""
    return np.array(item.getTransform().getMatrix()) if item.hasTransform() else IDENTITY.copy()


def transforms(poses: RigidTransforms) -> list[Transform]:
    """Return Scipion's transforms of `poses` (shifts in voxels of the set)."""
    return [Transform(matrix) for matrix in scipion_matrices(poses)]


def rescaled(matrix: FloatArray, factor: float) -> FloatArray:
    """Return `matrix` with its shifts in voxels that are `factor` times as many per angstrom."""
    scaled = np.array(matrix, dtype=float)
    scaled[:3, 3] *= factor
    return scaled
