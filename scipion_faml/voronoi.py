"""Voronoi volumes of candidate poses: the weights of the approximated integral (Eq. 4-6)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from scipion_faml.cython_ext import _voronoi
from scipion_faml.geometry import RigidTransforms, euler_to_matrix
from scipion_faml.types import FloatArray


@dataclass(frozen=True, eq=False)
class PosePoints:
    """Random points of pose space, shared by all candidate sets. Draw them with `pose_points`."""

    euler_zyz: FloatArray  # (P, 3) rad
    unit_shift: FloatArray  # (P, 3) in [0, 1): a place within the box of the candidates' shifts
    features: FloatArray  # (13, P) float32: rotation matrix, unit shift, 1

    def __len__(self) -> int:
        return len(self.euler_zyz)

    def within(self, candidates: RigidTransforms) -> RigidTransforms:
        """Return the points as poses over the pose space of `candidates`."""
        low, high = candidates.shift_xyz.min(axis=0), candidates.shift_xyz.max(axis=0)
        return RigidTransforms(self.euler_zyz, low + (high - low) * self.unit_shift)


@lru_cache(maxsize=4)
def pose_points(n_points: int = 10_000, seed: int = 0) -> PosePoints:
    """Return `n_points` random points of pose space (Section 2.2).

    Each Euler angle is uniform over [0, 2 pi), independent of the others, and each shift component
    is uniform between the smallest and the largest of the candidates: the paper's choice.
    """
    rng = np.random.default_rng([seed, n_points])
    euler_zyz = rng.uniform(0.0, 2 * np.pi, (n_points, 3))
    unit_shift = rng.uniform(0.0, 1.0, (n_points, 3))
    rotation = euler_to_matrix(euler_zyz).reshape(-1, 9)
    features = np.concatenate([rotation, unit_shift, np.ones((n_points, 1))], axis=1).T
    return PosePoints(euler_zyz, unit_shift, np.ascontiguousarray(features, dtype=np.float32))


def voronoi_weights(
    candidates: RigidTransforms, points: PosePoints, translation_weight: float = 1.0
) -> FloatArray:
    """Return the share of pose space nearest to each candidate (Zhao et al. 2018, Eq. 4-6).

    Parameters
    ----------
    candidates : M poses
        The candidates of one subtomogram and one class.
    points : PosePoints
        Monte Carlo points; the standard error of a share v is sqrt(v (1 - v) / len(points)).
    translation_weight : float
        alpha^trd of the distance tau, per squared voxel.

    Returns
    -------
    (M,) float64, sums to 1
        A candidate whose cell no point hit has weight 0 and takes no part in the integral.

    Raises
    ------
    ValueError
        If there is no candidate.
    """
    if len(candidates) == 0:
        raise ValueError("no candidate pose to weight")
    counts = np.empty(len(candidates), dtype=np.int_)
    _voronoi.nearest_counts(points.features, _closeness(candidates, translation_weight), counts)
    return counts / len(points)


def _closeness(candidates: RigidTransforms, translation_weight: float) -> FloatArray:
    """Rows (M, 13) float32 whose product with a point's features is a constant minus tau^2 / 2.

    tau^2 = 6 - 2 tr(R1^T R2) + w |t1 - t2|^2 with t1 = low + range u: what does not depend on the
    candidate is left out.
    """
    shift, low = candidates.shift_xyz, candidates.shift_xyz.min(axis=0)
    span = candidates.shift_xyz.max(axis=0) - low
    constant = shift @ low - 0.5 * np.sum(shift**2, axis=1)
    columns = [
        candidates.rotation.reshape(-1, 9),
        translation_weight * span * shift,
        translation_weight * constant[:, None],
    ]
    return np.ascontiguousarray(np.concatenate(columns, axis=1), dtype=np.float32)
