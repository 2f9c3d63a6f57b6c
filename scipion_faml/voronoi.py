"""Voronoi volumes of candidate poses: the weights of the approximated integral (Eq. 4-6)."""

from __future__ import annotations

import numpy as np

from scipion_faml.geometry import RigidTransforms, squared_pose_distance
from scipion_faml.types import FloatArray


def sample_poses(
    candidates: RigidTransforms, n_points: int, rng: np.random.Generator
) -> RigidTransforms:
    """Return `n_points` random poses over the candidates' pose space (Section 2.2).

    Each Euler angle is uniform over [0, 2 pi), independent of the others, and each shift component
    is uniform between the smallest and the largest of the candidates: the paper's choice.
    """
    low, high = candidates.shift_xyz.min(axis=0), candidates.shift_xyz.max(axis=0)
    euler_zyz = rng.uniform(0.0, 2 * np.pi, (n_points, 3))
    return RigidTransforms(euler_zyz, rng.uniform(low, high, (n_points, 3)))


def voronoi_weights(
    candidates: RigidTransforms,
    rng: np.random.Generator,
    n_points: int = 10_000,
    translation_weight: float = 1.0,
) -> FloatArray:
    """Return the share of pose space nearest to each candidate (Zhao et al. 2018, Eq. 4-6).

    Parameters
    ----------
    candidates : M poses
        The candidates of one subtomogram and one class.
    rng : Generator
        Source of the Monte Carlo points.
    n_points : int
        Monte Carlo points; the standard error of a share v is sqrt(v (1 - v) / n_points).
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
    points = sample_poses(candidates, n_points, rng)
    nearest = squared_pose_distance(points, candidates, translation_weight).argmin(axis=1)
    return np.bincount(nearest, minlength=len(candidates)) / n_points
