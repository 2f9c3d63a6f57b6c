"""Class agreement: permutations, unequal numbers, and the pair definition of the Rand index."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from scipion_faml.evaluation.classes import adjusted_rand_index, compare_classes


def test_renamed_classes_agree_fully():
    rng = np.random.default_rng(0)
    true = rng.integers(1, 6, 100)
    renamed = np.array([0, 5, 3, 4, 1, 2])[true]
    found = compare_classes(true, renamed)
    assert found.f1_mean == found.accuracy == found.purity == found.adjusted_rand_index == 1.0
    assert [int(found.assigned_labels[p]) for p in found.partner] == [5, 3, 4, 1, 2]


def test_f1_is_that_of_precision_and_recall():
    true = np.repeat([1, 2], [10, 10])
    assigned = np.repeat([1, 2, 2], [6, 4, 10])
    found = compare_classes(true, assigned)
    np.testing.assert_array_equal(found.confusion, [[6, 4], [0, 10]])
    np.testing.assert_allclose(found.precision, [1.0, 10 / 14])
    np.testing.assert_allclose(found.recall, [0.6, 1.0])
    harmonic = 2 * found.precision * found.recall / (found.precision + found.recall)
    np.testing.assert_allclose(found.f1, harmonic)


def test_a_true_class_without_a_partner_has_f1_zero():
    found = compare_classes(np.array([1, 1, 1, 2, 2, 3]), np.array([7, 7, 7, 8, 8, 8]))
    assert found.partner.tolist() == [0, 1, -1]
    np.testing.assert_allclose(found.f1, [1.0, 0.8, 0.0])


def test_more_assigned_classes_than_true_ones_cost_recall():
    found = compare_classes(np.ones(10, int), np.repeat([1, 2, 3], [5, 3, 2]))
    assert found.recall.tolist() == [0.5] and found.purity == 1.0


def test_the_match_is_the_best_of_all_permutations():
    rng = np.random.default_rng(1)
    true, assigned = rng.integers(0, 4, (2, 60))
    found = compare_classes(true, assigned)
    best = max(sum(found.confusion[c, p[c]] for c in range(4)) for p in permutations(range(4)))
    assert found.accuracy == pytest.approx(best / 60)


def test_the_rand_index_is_its_pair_definition():
    rng = np.random.default_rng(2)
    true, assigned = rng.integers(0, 3, 25), rng.integers(0, 4, 25)
    same = [(true[a] == true[b], assigned[a] == assigned[b]) for a, b in combinations(range(25), 2)]
    both = sum(x and y for x, y in same)
    rows, columns, total = sum(x for x, _ in same), sum(y for _, y in same), len(same)
    expected = (both - rows * columns / total) / (0.5 * (rows + columns) - rows * columns / total)
    assert compare_classes(true, assigned).adjusted_rand_index == pytest.approx(expected)


def test_the_rand_index_of_chance_is_near_zero_and_of_trivial_partitions_one():
    rng = np.random.default_rng(3)
    chance = compare_classes(rng.integers(0, 3, 3000), rng.integers(0, 3, 3000))
    assert abs(chance.adjusted_rand_index) < 0.01
    assert adjusted_rand_index(np.array([[12]])) == 1.0


def test_lengths_must_agree_and_not_be_zero():
    with pytest.raises(ValueError, match="3 true classes but 2"):
        compare_classes(np.ones(3, int), np.ones(2, int))
    with pytest.raises(ValueError, match="no particle"):
        compare_classes(np.ones(0, int), np.ones(0, int))
