"""Matching of picks and particles: one to one, best possible, duplicates counted."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from scipion_faml.evaluation.picks import (
    compare_positions,
    compare_with_labels,
    match_positions,
    per_class_scores,
)


def test_the_matching_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(20):
        picked, true = rng.uniform(0, 10, (2, 5, 3))
        radius = 5.0
        distance = np.linalg.norm(picked[:, None] - true[None], axis=2)
        best = max(
            (sum(distance[i, p[i]] <= radius for i in range(5)),
             -sum(distance[i, p[i]] ** 2 for i in range(5) if distance[i, p[i]] <= radius))
            for p in permutations(range(5))
        )
        a, b = match_positions(picked, true, radius)
        assert (len(a), -np.sum(distance[a, b] ** 2)) == pytest.approx(best)


def test_a_chain_of_neighbours_is_solved_for_most_pairs():
    true = np.array([[0.0, 0, 0], [10, 0, 0]])
    picked = np.array([[4.0, 0, 0], [-5.5, 0, 0]])  # the first is near both, the second near one
    a, b = match_positions(picked, true, 6.0)
    assert dict(zip(a.tolist(), b.tolist(), strict=True)) == {0: 1, 1: 0}


def test_duplicates_and_misses_are_told_apart():
    true = np.array([[0.0, 0, 0], [50, 0, 0]])
    picked = np.array([[1.0, 0, 0], [0, 2, 0], [25, 0, 0]])
    found = compare_positions(picked, true, 5.0)
    assert (len(found.hit_pick), found.n_duplicate) == (1, 1)
    assert found.precision == pytest.approx(1 / 3) and found.recall == 0.5
    assert found.f1 == pytest.approx(2 / 5)
    assert found.distance.tolist() == [1.0]


def test_nothing_picked_is_an_answer():
    found = compare_positions(np.zeros((0, 3)), np.ones((4, 3)), 5.0)
    assert (found.precision, found.recall, found.f1, found.n_duplicate) == (0.0, 0.0, 0.0, 0)


def test_a_radius_of_zero_is_refused():
    with pytest.raises(ValueError, match="radius of 0"):
        match_positions(np.ones((1, 3)), np.ones((1, 3)), 0.0)


def test_classes_count_only_where_pick_and_particle_agree():
    true = np.array([[0.0, 0, 0], [50, 0, 0], [100, 0, 0]])
    found = compare_positions(true, true, 5.0)
    scores = per_class_scores(found, np.array([1, 1, 2]), np.array([1, 2, 2]))
    assert scores[1] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3),
                         "n_truth": 2, "n_picked": 1, "n_hit": 1}
    assert scores[2]["precision"] == 0.5 and scores[2]["recall"] == 1.0
    without = per_class_scores(found, np.array([1, 1, 2]), None)
    assert without[1] == {"recall": 1.0, "n_truth": 2, "n_hit": 2}


def test_labels_tell_which_picks_lie_on_particles():
    labels = np.zeros((20, 20, 40), dtype=np.float32)
    labels[8:13, 8:13, 8:13] = 1
    labels[8:13, 8:13, 28:33] = 2
    true = np.array([[10.0, 10, 10], [30, 10, 10]])
    picked = np.array([[12.0, 8, 10], [20, 10, 10], [29, 11, 9], [28, 9, 9], [-3, 0, 0]])
    found = compare_with_labels(picked, true, np.array([1, 2]), labels)
    assert found.n_picked == 5 and len(found.hit_pick) == 2 and found.n_duplicate == 1
    assert found.hit_truth.tolist() == [0, 1] and found.hit_pick.tolist() == [0, 2]


def test_the_centre_of_a_hollow_particle_is_on_it_within_reach():
    labels = np.zeros((21, 21, 21), dtype=np.float32)
    grid = np.indices(labels.shape) - 10
    radius = np.sqrt((grid**2).sum(axis=0))
    labels[(radius > 4) & (radius < 7)] = 1
    centre, ones = np.array([[10.0, 10, 10]]), np.array([1])
    assert len(compare_with_labels(centre, centre, ones, labels).hit_pick) == 0
    assert len(compare_with_labels(centre, centre, ones, labels, reach=5.0).hit_pick) == 1
