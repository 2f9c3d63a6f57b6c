"""How well picked positions recover known particles: localisation and classification apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipion_faml.evaluation.matching import (
    Pairs,
    match_best,
    match_greedy,
    pairs_by_distance,
)
from scipion_faml.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class PickAgreement:
    """Which picks hit which particles. A pick is a hit, a duplicate or false."""

    n_picked: int
    n_true: int
    hit_pick: IntArray  # (H,) picks that found a particle,
    hit_truth: IntArray  # (H,) and which
    distance: FloatArray  # (H,) of the pairs
    duplicate_pick: IntArray  # (D,) other picks on a particle that is found already,
    duplicate_truth: IntArray  # (D,) and on which

    @property
    def n_hit(self) -> int:
        """Particles found."""
        return len(self.hit_pick)

    @property
    def n_duplicate(self) -> int:
        """Picks on a particle that another pick has found."""
        return len(self.duplicate_pick)

    @property
    def false_pick(self) -> IntArray:
        """Picks (F,) on no particle."""
        rest = np.ones(self.n_picked, dtype=bool)
        rest[self.hit_pick] = rest[self.duplicate_pick] = False
        return np.flatnonzero(rest)

    @property
    def missed_truth(self) -> IntArray:
        """Particles (M,) that no pick found."""
        rest = np.ones(self.n_true, dtype=bool)
        rest[self.hit_truth] = False
        return np.flatnonzero(rest)

    @property
    def precision(self) -> float:
        """Share of picks that found a particle."""
        return self.n_hit / self.n_picked if self.n_picked else 0.0

    @property
    def recall(self) -> float:
        """Share of particles that were found."""
        return self.n_hit / self.n_true if self.n_true else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return f1_score(self.n_hit, self.n_picked, self.n_true)


def f_score(n_hit: int, n_picked: int, n_true: int, beta: float = 1.0) -> float:
    """Return F-beta, (1 + b^2) P R / (b^2 P + R): recall counts beta times as much as precision."""
    weighted = beta**2 * n_true + n_picked
    return (1.0 + beta**2) * n_hit / weighted if weighted else 0.0


def f1_score(n_hit: int, n_picked: int, n_true: int) -> float:
    """Return 2 hits / (picked + true), 0 when there is neither."""
    return f_score(n_hit, n_picked, n_true)


# ----------------------------------------------------------------------------------- localisation
def best_agreement(pairs: Pairs) -> PickAgreement:
    """Return hits as the best of all one-to-one choices (`match_best`)."""
    return _agreement(pairs, *match_best(pairs))


def greedy_agreement(pairs: Pairs, score: FloatArray) -> PickAgreement:
    """Return hits as picks take their particles by falling score (`match_greedy`)."""
    return _agreement(pairs, *match_greedy(pairs, score))


def _agreement(pairs: Pairs, hit_pick: IntArray, hit_truth: IntArray) -> PickAgreement:
    """The agreement with these hits; other picks that have a pair are duplicates."""
    is_hit = np.zeros(pairs.n_picked, dtype=bool)
    is_hit[hit_pick] = True
    nearest = np.lexsort((pairs.distance, pairs.pick))
    pick, first = np.unique(pairs.pick[nearest], return_index=True)
    truth = pairs.truth[nearest][first]
    spare = ~is_hit[pick]
    rank = {pair: e for e, pair in enumerate(zip(pairs.pick, pairs.truth, strict=True))}
    chosen = [rank[pair] for pair in zip(hit_pick, hit_truth, strict=True)]
    return PickAgreement(
        pairs.n_picked, pairs.n_true, hit_pick, hit_truth, pairs.distance[chosen],
        pick[spare], truth[spare],
    )


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
    return match_best(pairs_by_distance(picked_xyz, true_xyz, radius))


def compare_positions(
    picked_xyz: FloatArray, true_xyz: FloatArray, radius: float
) -> PickAgreement:
    """Return which picks lie within `radius` of which particles, one to one."""
    return best_agreement(pairs_by_distance(picked_xyz, true_xyz, radius))


# --------------------------------------------------------------------------------- classification
def is_misclassified(
    agreement: PickAgreement, true_class: IntArray, picked_class: IntArray
) -> BoolArray:
    """Return which hits (H,) say another class than their particle's."""
    wrong: BoolArray = picked_class[agreement.hit_pick] != true_class[agreement.hit_truth]
    return wrong


def confusion_matrix(
    agreement: PickAgreement, true_class: IntArray, picked_class: IntArray
) -> tuple[IntArray, IntArray]:
    """Return the class numbers (K,) and counts (K + 1, K + 1): rows truth, columns picks.

    Row 0 is the background: false picks by the class that they say. Column 0 is "not found". A row
    of a class sums to its particles; a column of a class to the picks that say it, less duplicates.
    """
    labels = np.union1d(true_class, picked_class)
    true_row = np.searchsorted(labels, true_class) + 1
    column = np.searchsorted(labels, picked_class) + 1
    missed, false = agreement.missed_truth, agreement.false_pick
    nothing = np.zeros(len(missed) + len(false), dtype=np.intp)
    rows = np.concatenate(
        [true_row[agreement.hit_truth], true_row[missed], nothing[: len(false)]])
    columns = np.concatenate(
        [column[agreement.hit_pick], nothing[: len(missed)], column[false]])
    size = len(labels) + 1
    counts = np.bincount(rows * size + columns, minlength=size**2)
    return labels, counts.reshape(size, size)


def recall_per_class(
    agreement: PickAgreement, true_class: IntArray
) -> dict[int, dict[str, float]]:
    """Return how many particles of each true class were found, whatever the picks say they are."""
    hit_class = true_class[agreement.hit_truth]
    scores: dict[int, dict[str, float]] = {}
    for label in np.unique(true_class):
        n_true, n_found = int((true_class == label).sum()), int((hit_class == label).sum())
        scores[int(label)] = {"recall": n_found / n_true, "n_truth": n_true, "n_hit": n_found}
    return scores


def scores_per_class(
    agreement: PickAgreement, true_class: IntArray, picked_class: IntArray, beta: float = 1.0
) -> dict[int, dict[str, float]]:
    """Return precision, recall, F1 and F-beta of every true class.

    A pick counts for class c (`n_hit`) when it says c and hit a particle of class c; `n_found` and
    `recall_localised` count every particle of c that was hit, whatever the pick says.
    """
    right = ~is_misclassified(agreement, true_class, picked_class)
    hit_class = true_class[agreement.hit_truth]
    duplicate_class = picked_class[agreement.duplicate_pick]
    scores: dict[int, dict[str, float]] = {}
    for label, found in recall_per_class(agreement, true_class).items():
        n_true, n_hit = int(found["n_truth"]), int((right & (hit_class == label)).sum())
        n_said = int((picked_class == label).sum())
        scores[label] = {
            "precision": n_hit / n_said if n_said else 0.0,
            "recall": n_hit / n_true,
            "f1": f1_score(n_hit, n_said, n_true),
            "f_beta": f_score(n_hit, n_said, n_true, beta),
            "n_truth": n_true, "n_picked": n_said, "n_hit": n_hit,
            "n_found": int(found["n_hit"]), "recall_localised": found["recall"],
            "n_duplicate": int((duplicate_class == label).sum()),
        }
    return scores
