"""Precision and recall at every threshold on the score, and average precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipion_faml.evaluation.matching import Pairs, match_greedy
from scipion_faml.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """What keeping the picks of `threshold` and above gives, for T falling thresholds."""

    threshold: FloatArray  # (T,) every score that occurs
    n_picked: IntArray  # (T,)
    n_hit: IntArray  # (T,)
    n_true: int

    @property
    def precision(self) -> FloatArray:
        """Share of the picks kept that found a particle (T,)."""
        share: FloatArray = self.n_hit / np.maximum(self.n_picked, 1)
        return share

    @property
    def recall(self) -> FloatArray:
        """Share of the particles that were found (T,)."""
        share: FloatArray = self.n_hit / max(self.n_true, 1)
        return share

    @property
    def average_precision(self) -> float:
        """Sum of (R_t - R_{t-1}) P_t: the area under the curve as steps, no interpolation."""
        if not self.n_true:
            return float("nan")
        return float((np.diff(self.recall, prepend=0.0) * self.precision).sum())

    def f_beta(self, beta: float = 1.0) -> FloatArray:
        """Return F-beta at every threshold (T,)."""
        weighted = beta**2 * self.n_true + self.n_picked
        scores: FloatArray = (1.0 + beta**2) * self.n_hit / np.maximum(weighted, 1e-12)
        return scores

    def best(self, beta: float = 1.0) -> tuple[float, float]:
        """Return the highest F-beta and the threshold that gives it (the higher of equal ones)."""
        scores = self.f_beta(beta)
        if not len(scores):
            return 0.0, float("nan")
        at = int(scores.argmax())
        return float(scores[at]), float(self.threshold[at])


def precision_recall(is_hit: BoolArray, score: FloatArray, n_true: int) -> PrecisionRecall:
    """Return the curve of picks (P,) of which some are hits.

    Picks of equal score cannot be told apart by a threshold: they make one point.
    """
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    last = np.flatnonzero(np.diff(falling, append=-np.inf) < 0)
    n_hit = np.cumsum(is_hit[order], dtype=np.intp)
    return PrecisionRecall(falling[last], last + 1, n_hit[last], n_true)


def localisation_curve(pairs: Pairs, score: FloatArray) -> PrecisionRecall:
    """Return the curve of all picks, whatever class they say.

    Hits are given out by falling score (`match_greedy`), so that each point is what the picks above
    its threshold would score on their own.
    """
    is_hit = np.zeros(pairs.n_picked, dtype=bool)
    is_hit[match_greedy(pairs, score)[0]] = True
    return precision_recall(is_hit, score, pairs.n_true)


def class_curve(
    pairs: Pairs, score: FloatArray, picked_class: IntArray, true_class: IntArray, label: int
) -> PrecisionRecall:
    """Return the curve of the picks that say `label` against the particles of that class."""
    says, are = picked_class == label, true_class == label
    is_hit = np.zeros(pairs.n_picked, dtype=bool)
    is_hit[match_greedy(pairs.among(says, are), score)[0]] = True
    return precision_recall(is_hit[says], score[says], int(are.sum()))
