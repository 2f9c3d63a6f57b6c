"""Maxima of a score: their places between voxels, their spread, the better of two neighbours."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from scipion_faml.geometry import keep_better
from scipion_faml.types import FloatArray, IntArray

MAD_TO_SD = 1.4826  # of a Gaussian distribution


def robust_spread(values: FloatArray) -> tuple[float, float]:
    """Median, and s.d. of a Gaussian with the same median absolute deviation."""
    level = float(np.median(values))
    return level, MAD_TO_SD * float(np.median(np.abs(values - level)))


def between_voxels(response: FloatArray, index: IntArray) -> tuple[FloatArray, FloatArray]:
    """Positions (M, 3) and heights (M,) of maxima, by a parabola along each axis."""
    position = index.astype(np.float64)
    here = response[tuple(index.T)].astype(np.float64)
    height = here.copy()
    for axis in range(3):
        step = np.zeros(3, dtype=np.intp)
        step[axis] = 1
        last = response.shape[axis] - 1
        inside = (index[:, axis] > 0) & (index[:, axis] < last)
        below = response[tuple(np.maximum(index - step, 0).T)].astype(np.float64)
        above = response[tuple(np.minimum(index + step, np.array(response.shape) - 1).T)]
        curvature = np.minimum(below - 2.0 * here + above, -1e-30)
        offset = np.where(inside, np.clip(0.5 * (below - above) / curvature, -0.5, 0.5), 0.0)
        position[:, axis] += offset
        height -= 0.25 * (below - above) * offset * inside
    return position, height


def suppress_neighbours(position: FloatArray, min_distance: float | FloatArray) -> IntArray:
    """Return indices of positions (M, 3), given best first, that no better one is too near to.

    `min_distance` may be an array (M,), each position's own; a pair then keeps the mean of both.
    """
    own = np.broadcast_to(np.asarray(min_distance, dtype=np.float64), (len(position),))
    if len(position) < 2 or not own.max() > 0:
        return np.arange(len(position))
    near = cKDTree(position).query_pairs(own.max(), output_type="ndarray")
    if own.min() < own.max():
        apart = np.linalg.norm(position[near[:, 0]] - position[near[:, 1]], axis=1)
        near = near[apart <= own[near].mean(axis=1)]
    return np.flatnonzero(keep_better(len(position), near))
