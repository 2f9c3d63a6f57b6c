"""How well a classification recovers known classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from scipion_faml.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class ClassAgreement:
    """A confusion matrix and what follows from it."""

    true_labels: IntArray  # (C,)
    assigned_labels: IntArray  # (K,)
    confusion: IntArray  # (C, K) particles of true class c assigned to k
    partner: IntArray  # (C,) column matched to each true class, -1 where none is left
    precision: FloatArray  # (C,)
    recall: FloatArray  # (C,)
    f1: FloatArray  # (C,)

    @property
    def f1_mean(self) -> float:
        """Mean F1 over the true classes; one without a partner counts 0."""
        return float(self.f1.mean())

    @property
    def accuracy(self) -> float:
        """Share of particles in the class matched to theirs."""
        rows = np.flatnonzero(self.partner >= 0)
        return float(self.confusion[rows, self.partner[rows]].sum() / self.confusion.sum())

    @property
    def purity(self) -> float:
        """Share of particles that belong to the commonest true class of their assigned class."""
        return float(self.confusion.max(axis=0).sum() / self.confusion.sum())

    @property
    def adjusted_rand_index(self) -> float:
        """Agreement of the two partitions, 0 expected by chance, 1 perfect (Hubert and Arabie)."""
        return adjusted_rand_index(self.confusion)


def confusion_matrix(
    true_class: IntArray, assigned_class: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Return the counts (C, K) and the sorted labels of rows (true) and columns (assigned)."""
    if len(true_class) != len(assigned_class):
        raise ValueError(f"{len(true_class)} true classes but {len(assigned_class)} assigned ones")
    if not len(true_class):
        raise ValueError("there is no particle to compare")
    rows, row = np.unique(true_class, return_inverse=True)
    columns, column = np.unique(assigned_class, return_inverse=True)
    counts = np.zeros((len(rows), len(columns)), dtype=np.intp)
    np.add.at(counts, (row, column), 1)
    return counts, rows, columns


def compare_classes(true_class: IntArray, assigned_class: IntArray) -> ClassAgreement:
    """Return the agreement after the one-to-one match of classes that puts most particles right.

    Parameters
    ----------
    true_class, assigned_class : (N,) int
        Labels of any values; their numbers may differ. Assigned classes without a partner are
        wrong for all their particles, and true classes without one have F1 = 0.
    """
    counts, rows, columns = confusion_matrix(true_class, assigned_class)
    matched_rows, matched_columns = linear_sum_assignment(counts, maximize=True)
    partner = np.full(len(rows), -1, dtype=np.intp)
    partner[matched_rows] = matched_columns
    hits = np.zeros(len(rows))
    hits[matched_rows] = counts[matched_rows, matched_columns]
    n_assigned = np.zeros(len(rows))
    n_assigned[matched_rows] = counts.sum(axis=0)[matched_columns]
    n_true = counts.sum(axis=1)
    return ClassAgreement(
        rows, columns, counts, partner,
        precision=hits / np.maximum(n_assigned, 1),
        recall=hits / n_true,
        f1=2.0 * hits / (n_assigned + n_true),
    )


def adjusted_rand_index(confusion: IntArray) -> float:
    """Return the adjusted Rand index of a contingency table (C, K)."""
    counts = np.asarray(confusion, dtype=np.float64)

    def pairs(values: FloatArray) -> float:
        return float((values * (values - 1.0) / 2.0).sum())

    together = pairs(counts)
    in_rows, in_columns = pairs(counts.sum(axis=1)), pairs(counts.sum(axis=0))
    total = pairs(counts.sum()[None])
    expected = in_rows * in_columns / total if total else 0.0
    most = 0.5 * (in_rows + in_columns)
    # Two partitions into one class, or into single particles, are the same partition.
    return 1.0 if most == expected else (together - expected) / (most - expected)
