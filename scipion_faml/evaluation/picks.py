"""How well picked positions recover known particles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from scipion_faml.types import FloatArray, IntArray


def match_positions(
    picked_xyz: FloatArray, true_xyz: FloatArray, radius: float
) -> tuple[IntArray, IntArray]:
    """Return indices (H,) of picks and (H,) of truths that belong together, one to one.

    Of all matches with no pair farther apart than `radius`, one with the most pairs is taken, and
    of those the one with the smallest sum of squared distances.

    Parameters
    ----------
    picked_xyz, true_xyz : (P, 3), (T, 3)
        In the same unit as `radius`.
    """
    if not radius > 0:
        raise ValueError(f"a matching radius of {radius:g} is not possible: give it in angstrom")
    if not len(picked_xyz) or not len(true_xyz):
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    near = cKDTree(picked_xyz).sparse_distance_matrix(
        cKDTree(true_xyz), radius, output_type="ndarray"
    )
    return match_pairs(near["i"], near["j"], near["v"], len(picked_xyz), len(true_xyz))


def match_pairs(
    pick: IntArray, truth: IntArray, distance: FloatArray, n_picked: int, n_true: int
) -> tuple[IntArray, IntArray]:
    """Return the best one-to-one choice among possible pairs (E,) of picks and truths.

    Pairs fall into small groups that share no pick and no truth; each is solved exactly.
    """
    n_nodes = n_picked + n_true
    graph = coo_matrix((np.ones(len(pick)), (pick, truth + n_picked)), shape=(n_nodes, n_nodes))
    group = connected_components(graph, directed=False)[1][pick]
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    matched: list[tuple[int, int]] = []
    for members in np.split(order, starts[1:]) if len(order) else []:
        matched += _best_of_group(pick[members], truth[members], distance[members])
    pairs = np.array(sorted(matched), dtype=np.intp).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


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


@dataclass(frozen=True, eq=False)
class PickAgreement:
    """Which picks hit which particles."""

    n_picked: int
    n_true: int
    hit_pick: IntArray  # (H,) picks that found a particle,
    hit_truth: IntArray  # (H,) and which
    n_duplicate: int  # other picks that lie on a particle that is found already
    distance: FloatArray  # (H,) of the pairs

    @property
    def precision(self) -> float:
        """Share of picks that found a particle."""
        return len(self.hit_pick) / self.n_picked if self.n_picked else 0.0

    @property
    def recall(self) -> float:
        """Share of particles that were found."""
        return len(self.hit_pick) / self.n_true if self.n_true else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return f1_score(len(self.hit_pick), self.n_picked, self.n_true)


def f1_score(n_hit: int, n_picked: int, n_true: int) -> float:
    """Return 2 hits / (picked + true), 0 when there is neither."""
    return 2.0 * n_hit / (n_picked + n_true) if n_picked + n_true else 0.0


def compare_positions(
    picked_xyz: FloatArray, true_xyz: FloatArray, radius: float
) -> PickAgreement:
    """Return which picks lie within `radius` of which particles, one to one."""
    hit_pick, hit_truth = match_positions(picked_xyz, true_xyz, radius)
    is_spare = np.ones(len(picked_xyz), dtype=bool)
    is_spare[hit_pick] = False
    n_duplicate = 0
    if is_spare.any() and len(true_xyz):
        nearest = cKDTree(true_xyz).query(picked_xyz[is_spare])[0]
        n_duplicate = int((nearest <= radius).sum())
    offset = picked_xyz[hit_pick] - true_xyz[hit_truth]
    return PickAgreement(
        len(picked_xyz), len(true_xyz), hit_pick, hit_truth, n_duplicate,
        np.linalg.norm(offset, axis=1),
    )


def label_near(labels: FloatArray, position_xyz: FloatArray, reach: float) -> int:
    """Return the label (0 for none) of the labelled voxel nearest to a position, within `reach`.

    A hollow particle's centre is not on its voxels, hence the reach (voxels).
    """
    centre = position_xyz[::-1]
    low = np.maximum(np.ceil(centre - max(reach, 0.5)), 0).astype(np.intp)
    high = np.minimum(np.floor(centre + max(reach, 0.5)) + 1, labels.shape).astype(np.intp)
    if (high <= low).any():
        return 0
    window = labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    where = np.argwhere(window > 0.5)
    away = np.linalg.norm(where + low - centre, axis=1)
    # Any voxel of the cell that holds the position is on it: up to sqrt(3) / 2 away.
    if not len(away) or away.min() > max(reach, 0.87):
        return 0
    return int(np.rint(window[tuple(where[away.argmin()])]))


def compare_with_labels(
    picked_xyz: FloatArray, true_xyz: FloatArray, true_class: IntArray, labels: FloatArray,
    reach: float = 0.0,
) -> PickAgreement:
    """Return which picks fall on the voxels of which particles, one to one.

    Parameters
    ----------
    picked_xyz, true_xyz : (P, 3), (T, 3)
        Voxels of `labels`.
    true_class : (T,) int
    labels : (z, y, x)
        The class of every voxel, 0 for none; a pick there belongs to the nearest particle of it.
    reach : float
        A pick this near to a labelled voxel is on it (voxels).
    """
    found = np.array([label_near(labels, p, reach) for p in picked_xyz], dtype=np.intp)
    pick: list[IntArray] = []
    truth: list[IntArray] = []
    distance: list[FloatArray] = []
    for label in np.unique(found[found > 0]):
        members, particles = np.flatnonzero(found == label), np.flatnonzero(true_class == label)
        if len(particles):
            away, nearest = cKDTree(true_xyz[particles]).query(picked_xyz[members])
            pick.append(members)
            truth.append(particles[nearest])
            distance.append(away)
    if not pick:
        empty = np.zeros(0, dtype=np.intp)
        return PickAgreement(len(picked_xyz), len(true_xyz), empty, empty, 0, np.zeros(0))
    hit_pick, hit_truth = match_pairs(
        np.concatenate(pick), np.concatenate(truth), np.concatenate(distance),
        len(picked_xyz), len(true_xyz),
    )
    n_duplicate = sum(map(len, pick)) - len(hit_pick)
    offset = np.linalg.norm(picked_xyz[hit_pick] - true_xyz[hit_truth], axis=1)
    return PickAgreement(
        len(picked_xyz), len(true_xyz), hit_pick, hit_truth, n_duplicate, offset
    )


def per_class_scores(
    agreement: PickAgreement, true_class: IntArray, picked_class: IntArray | None
) -> dict[int, dict[str, float]]:
    """Return recall, and where picks have classes precision and F1, of every true class.

    A pick counts for class c when it says c and hit a particle of class c.
    """
    scores: dict[int, dict[str, float]] = {}
    hit_class = true_class[agreement.hit_truth]
    for label in np.unique(true_class):
        n_true = int((true_class == label).sum())
        is_hit = hit_class == label
        if picked_class is None:
            n_found = int(is_hit.sum())
            scores[int(label)] = {"recall": n_found / n_true, "n_truth": n_true, "n_hit": n_found}
            continue
        n_found = int((is_hit & (picked_class[agreement.hit_pick] == label)).sum())
        n_said = int((picked_class == label).sum())
        scores[int(label)] = {
            "precision": n_found / n_said if n_said else 0.0,
            "recall": n_found / n_true,
            "f1": f1_score(n_found, n_said, n_true),
            "n_truth": n_true, "n_picked": n_said, "n_hit": n_found,
        }
    return scores
