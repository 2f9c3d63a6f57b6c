"""What a network says about one tile: candidates, and which of them to drop beside better ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from scipion_faml.geometry import keep_better
from scipion_faml.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Detections:
    """P candidates, in no order."""

    position_xyz: FloatArray  # (P, 3) voxels
    score: FloatArray  # (P,) in [0, 1]
    posterior: FloatArray  # (P, K) of the classes
    size: FloatArray  # (P,) diameter or edge, voxels

    def __len__(self) -> int:
        return len(self.score)

    @property
    def class_index(self) -> IntArray:
        """The likeliest class (P,)."""
        index: IntArray = self.posterior.argmax(axis=1)
        return index

    def take(self, index: IntArray) -> Detections:
        """Return those at `index`, in its order."""
        return Detections(
            self.position_xyz[index], self.score[index], self.posterior[index], self.size[index])

    def moved(self, shift_xyz: FloatArray) -> Detections:
        """Return them shifted (voxels)."""
        return Detections(self.position_xyz + shift_xyz, self.score, self.posterior, self.size)

    def best_first(self) -> Detections:
        """Return them by falling score; ties by position, whatever the order they came in."""
        x, y, z = self.position_xyz.T
        return self.take(np.lexsort((x, y, z, -self.score)))

    @staticmethod
    def joined(parts: Sequence[Detections], n_classes: int) -> Detections:
        """Return all of several."""
        empty = Detections(np.zeros((0, 3)), np.zeros(0), np.zeros((0, n_classes)), np.zeros(0))
        every = [empty, *parts]
        return Detections(*(np.concatenate([getattr(p, f) for p in every]) for f in
                            ("position_xyz", "score", "posterior", "size")))


Rule = Callable[[Detections, Detections], BoolArray]  # better, worse -> are they the same


def cube_iou(
    centre_a: FloatArray, edge_a: FloatArray, centre_b: FloatArray, edge_b: FloatArray
) -> FloatArray:
    """Return intersection over union of axis-parallel cubes; arguments broadcast.

    Parameters
    ----------
    centre_a, centre_b : (..., 3)
    edge_a, edge_b : (...,)
    """
    apart = np.abs(centre_a - centre_b)
    half = 0.5 * (edge_a + edge_b)[..., None]
    smaller = np.minimum(edge_a, edge_b)[..., None]
    common = np.clip(np.minimum(half - apart, smaller), 0.0, None).prod(axis=-1)
    iou: FloatArray = common / (edge_a**3 + edge_b**3 - common)
    return iou


def without_overlap(found: Detections, iou: float) -> Detections:
    """Return detections best first, without those whose cube overlaps a better one's by `iou`."""
    return _suppressed(found, float(found.size.max(initial=0.0)) * np.sqrt(3.0), lambda a, b: (
        cube_iou(a.position_xyz, a.size, b.position_xyz, b.size) > iou))


def without_neighbours(
    found: Detections, share: float, min_distance: float | None = None
) -> Detections:
    """Return detections best first, without those too near to a better one.

    Too near is `share` of the better one's diameter, or `min_distance` (voxels) where it is given.
    """
    def too_near(better: Detections, worse: Detections) -> BoolArray:
        apart = np.linalg.norm(better.position_xyz - worse.position_xyz, axis=1)
        near: BoolArray = apart < (share * better.size if min_distance is None else min_distance)
        return near

    reach = share * float(found.size.max(initial=0.0)) if min_distance is None else min_distance
    return _suppressed(found, reach, too_near)


def _suppressed(found: Detections, reach: float, is_twin: Rule) -> Detections:
    """Greedy suppression: the better of two twins within `reach` stays."""
    ordered = found.best_first()
    if len(ordered) < 2 or reach <= 0:
        return ordered
    pairs = np.sort(cKDTree(ordered.position_xyz).query_pairs(reach, output_type="ndarray"), axis=1)
    pairs = pairs[is_twin(ordered.take(pairs[:, 0]), ordered.take(pairs[:, 1]))]
    return ordered.take(np.flatnonzero(keep_better(len(ordered), pairs)))
