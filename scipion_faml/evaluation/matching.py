"""Which picks may have found which particles (two rules), and the choice of one to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from scipion_faml.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Pairs:
    """E possible pairs: by the rule that made them, pick `pick[e]` found truth `truth[e]`."""

    pick: IntArray  # (E,)
    truth: IntArray  # (E,)
    distance: FloatArray  # (E,) between both
    n_picked: int
    n_true: int

    def among(self, is_pick: BoolArray, is_truth: BoolArray) -> Pairs:
        """Return the pairs of some picks (P,) and truths (T,); the numbering stays."""
        kept = is_pick[self.pick] & is_truth[self.truth]
        return replace(
            self, pick=self.pick[kept], truth=self.truth[kept], distance=self.distance[kept])

    def within(self, picks: IntArray, truths: IntArray, n_picked: int, n_true: int) -> Pairs:
        """Return the same pairs where `picks` and `truths` are some rows of longer tables."""
        return Pairs(picks[self.pick], truths[self.truth], self.distance, n_picked, n_true)

    @staticmethod
    def joined(parts: Sequence[Pairs]) -> Pairs:
        """Return the pairs of several tomograms, numbered alike, as one."""
        return Pairs(
            np.concatenate([p.pick for p in parts]), np.concatenate([p.truth for p in parts]),
            np.concatenate([p.distance for p in parts]), parts[0].n_picked, parts[0].n_true,
        )


# ----------------------------------------------------------------------------------------- rules
def pairs_by_distance(
    picked_xyz: FloatArray, true_xyz: FloatArray, radius: float
) -> Pairs:
    """Return picks and truths no farther apart than `radius`.

    Parameters
    ----------
    picked_xyz, true_xyz : (P, 3), (T, 3)
        In the same unit as `radius`.
    """
    if not radius > 0:
        raise ValueError(f"a matching radius of {radius:g} is not possible: give it in angstrom")
    n_picked, n_true = len(picked_xyz), len(true_xyz)
    if not n_picked or not n_true:
        nothing = np.zeros(0, dtype=np.intp)
        return Pairs(nothing, nothing, np.zeros(0), n_picked, n_true)
    near = cKDTree(picked_xyz).sparse_distance_matrix(
        cKDTree(true_xyz), radius, output_type="ndarray"
    )
    return Pairs(near["i"], near["j"], near["v"], n_picked, n_true)


def label_at(labels: FloatArray, position_xyz: FloatArray, reach: float = 0.0) -> int:
    """Return the label (0 for none) at a position, or else of the nearest voxel within `reach`.

    Parameters
    ----------
    labels : (z, y, x)
    position_xyz : (3,)
        Voxels; the voxel that holds it is the nearest one.
    reach : float
        Labels are dilated by this (voxels): where they meet, the nearest voxel's counts.
    """
    centre = position_xyz[::-1]
    holder = np.rint(centre).astype(np.intp)
    if (holder >= 0).all() and (holder < labels.shape).all():
        label = int(np.rint(labels[tuple(holder)]))
        if label > 0:
            return label
    low = np.maximum(np.ceil(centre - reach), 0).astype(np.intp)
    high = np.minimum(np.floor(centre + reach) + 1, labels.shape).astype(np.intp)
    if reach <= 0 or (high <= low).any():
        return 0
    window = np.asarray(labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
    where = np.argwhere(window > 0.5)
    away = np.linalg.norm(where + low - centre, axis=1)
    if not len(away) or away.min() > reach:
        return 0
    return int(np.rint(window[tuple(where[away.argmin()])]))


def labels_at(labels: FloatArray, position_xyz: FloatArray, reach: float = 0.0) -> IntArray:
    """Return `label_at` of every position (P, 3)."""
    return np.array([label_at(labels, p, reach) for p in position_xyz], dtype=np.intp)


def pairs_by_instance(
    picked_xyz: FloatArray, true_xyz: FloatArray, instances: FloatArray, reach: float = 0.0
) -> Pairs:
    """Return picks and the particles whose voxels they lie on, or within `reach` of (voxels).

    Parameters
    ----------
    picked_xyz, true_xyz : (P, 3), (T, 3)
        Voxels of `instances`.
    instances : (z, y, x)
        The number of the particle at every voxel, from 1 in the order of `true_xyz`; 0 for none.
    """
    found = labels_at(instances, picked_xyz, reach)
    if found.max(initial=0) > len(true_xyz):
        raise ValueError(
            f"the instances go up to {found.max()} at least, but the truth holds {len(true_xyz)} "
            "particles: give the truth that they number")
    pick = np.flatnonzero(found)
    truth = found[pick] - 1
    distance = np.linalg.norm(picked_xyz[pick] - true_xyz[truth], axis=1)
    return Pairs(pick, truth, distance, len(picked_xyz), len(true_xyz))


def pairs_by_class_label(
    picked_xyz: FloatArray, true_xyz: FloatArray, true_class: IntArray, labels: FloatArray,
    reach: float = 0.0,
) -> Pairs:
    """Return picks on voxels of a class with the nearest particle of that class.

    The next best where voxels tell the class (T,) of a particle, but not which one it is.
    """
    found = labels_at(labels, picked_xyz, reach)
    truth = np.full(len(picked_xyz), -1, dtype=np.intp)
    distance = np.zeros(len(picked_xyz))
    for label in np.unique(found[found > 0]):
        members, particles = np.flatnonzero(found == label), np.flatnonzero(true_class == label)
        if len(particles):
            away, nearest = cKDTree(true_xyz[particles]).query(picked_xyz[members])
            truth[members], distance[members] = particles[nearest], away
    pick = np.flatnonzero(truth >= 0)
    return Pairs(pick, truth[pick], distance[pick], len(picked_xyz), len(true_xyz))


# ---------------------------------------------------------------------------------------- choice
def match_best(pairs: Pairs) -> tuple[IntArray, IntArray]:
    """Return (H,) picks and (H,) truths, one to one: most pairs, then nearest ones.

    Of all choices with the most pairs, one with the smallest sum of squared distances. Pairs fall
    into small groups that share no pick and no truth; each is solved exactly (Hungarian method).
    """
    n_nodes = pairs.n_picked + pairs.n_true
    graph = coo_matrix(
        (np.ones(len(pairs.pick)), (pairs.pick, pairs.truth + pairs.n_picked)),
        shape=(n_nodes, n_nodes))
    group = connected_components(graph, directed=False)[1][pairs.pick]
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    matched: list[tuple[int, int]] = []
    for members in np.split(order, starts[1:]) if len(order) else []:
        matched += _best_of_group(
            pairs.pick[members], pairs.truth[members], pairs.distance[members])
    return _columns(matched)


def _best_of_group(
    pick: IntArray, truth: IntArray, distance: FloatArray
) -> list[tuple[int, int]]:
    """Most pairs, then smallest squared distances, in one connected group."""
    rows, row = np.unique(pick, return_inverse=True)
    columns, column = np.unique(truth, return_inverse=True)
    # A pair that is not allowed costs more than all allowed ones together.
    forbidden = 1.0 + 2.0 * float((distance**2).sum())
    cost = np.full((len(rows), len(columns)), forbidden)
    cost[row, column] = distance**2
    chosen = zip(*linear_sum_assignment(cost), strict=True)
    return [(int(rows[r]), int(columns[c])) for r, c in chosen if cost[r, c] < forbidden]


def match_greedy(pairs: Pairs, score: FloatArray) -> tuple[IntArray, IntArray]:
    """Return (H,) picks and (H,) truths: by falling score, each pick takes the nearest free truth.

    What a pick gets does not depend on picks of lower score, so that the first picks of a list are
    judged alike whether the list goes on or not: the convention of precision-recall curves. Picks
    of equal score (P,) take their truths in the order of distance.
    """
    free_pick = np.ones(pairs.n_picked, dtype=bool)
    free_truth = np.ones(pairs.n_true, dtype=bool)
    matched: list[tuple[int, int]] = []
    for e in np.lexsort((pairs.distance, -score[pairs.pick])):
        pick, truth = int(pairs.pick[e]), int(pairs.truth[e])
        if free_pick[pick] and free_truth[truth]:
            free_pick[pick] = free_truth[truth] = False
            matched.append((pick, truth))
    return _columns(matched)


def _columns(matched: list[tuple[int, int]]) -> tuple[IntArray, IntArray]:
    """Pairs as two arrays, in the order of the picks."""
    rows = np.array(sorted(matched), dtype=np.intp).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]
