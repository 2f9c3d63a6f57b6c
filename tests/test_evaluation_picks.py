"""Scores of picks: matching one to one, duplicates, classes apart, curves."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from scipion_faml.evaluation.curves import (
    class_curve,
    localisation_curve,
    precision_recall,
)
from scipion_faml.evaluation.matching import (
    Pairs,
    label_at,
    match_best,
    match_greedy,
    pairs_by_class_label,
    pairs_by_distance,
    pairs_by_instance,
)
from scipion_faml.evaluation.picks import (
    best_agreement,
    compare_positions,
    confusion_matrix,
    f1_score,
    f_score,
    greedy_agreement,
    is_misclassified,
    match_positions,
    recall_per_class,
    scores_per_class,
)


def crowd(seed, n_picked=9, n_true=7, width=10.0):
    """Random picks, particles and scores, close enough to compete."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(0, width, (n_picked, 3)), rng.uniform(0, width, (n_true, 3)),
            rng.uniform(0, 1, n_picked))


# --------------------------------------------------------------------------------------- matching
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


def greedy_by_hand(picked, true, score, radius):
    """Each pick, the surest first, takes the nearest particle that is left."""
    left, hits = set(range(len(true))), []
    for i in np.argsort(-score):
        near = sorted((np.linalg.norm(picked[i] - true[j]), j) for j in left)
        if near and near[0][0] <= radius:
            left.remove(near[0][1])
            hits.append((int(i), near[0][1]))
    return sorted(hits)


@pytest.mark.parametrize("seed", range(20))
def test_greedy_matching_is_what_it_says(seed):
    picked, true, score = crowd(seed)
    a, b = match_greedy(pairs_by_distance(picked, true, 4.0), score)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == greedy_by_hand(
        picked, true, score, 4.0)


@pytest.mark.parametrize("seed", range(20))
def test_the_best_matching_finds_at_least_what_the_greedy_one_does(seed):
    picked, true, score = crowd(seed, 15, 12)
    pairs = pairs_by_distance(picked, true, 3.5)
    assert len(match_best(pairs)[0]) >= len(match_greedy(pairs, score)[0])


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_tables_does_not_matter(seed):
    picked, true, score = crowd(seed, 15, 12)
    rng = np.random.default_rng(seed + 100)
    classes, said = rng.integers(1, 4, 12), rng.integers(1, 4, 15)
    p, t = rng.permutation(15), rng.permutation(12)
    pairs = pairs_by_distance(picked, true, 3.5)
    shuffled = pairs_by_distance(picked[p], true[t], 3.5)
    for one, other in ((best_agreement(pairs), best_agreement(shuffled)),
                       (greedy_agreement(pairs, score), greedy_agreement(shuffled, score[p]))):
        hits = set(zip(one.hit_pick, one.hit_truth, strict=True))
        assert hits == set(zip(p[other.hit_pick], t[other.hit_truth], strict=True))
        assert set(one.duplicate_pick) == set(p[other.duplicate_pick])
        np.testing.assert_array_equal(
            confusion_matrix(one, classes, said)[1],
            confusion_matrix(other, classes[t], said[p])[1])
    assert localisation_curve(pairs, score).average_precision == pytest.approx(
        localisation_curve(shuffled, score[p]).average_precision)


def test_a_chain_of_neighbours_is_solved_for_most_pairs():
    true = np.array([[0.0, 0, 0], [10, 0, 0]])
    picked = np.array([[4.0, 0, 0], [-5.5, 0, 0]])  # the first is near both, the second near one
    a, b = match_positions(picked, true, 6.0)
    assert dict(zip(a.tolist(), b.tolist(), strict=True)) == {0: 1, 1: 0}
    # By score the first pick takes its nearest, and leaves the second without.
    assert len(match_greedy(pairs_by_distance(picked, true, 6.0), np.array([2.0, 1.0]))[0]) == 1


def test_duplicates_and_misses_are_told_apart():
    true = np.array([[0.0, 0, 0], [50, 0, 0]])
    picked = np.array([[1.0, 0, 0], [0, 2, 0], [25, 0, 0]])
    found = compare_positions(picked, true, 5.0)
    assert (found.n_hit, found.n_duplicate) == (1, 1)
    assert found.duplicate_pick.tolist() == [1] and found.duplicate_truth.tolist() == [0]
    assert found.false_pick.tolist() == [2] and found.missed_truth.tolist() == [1]
    assert found.precision == pytest.approx(1 / 3) and found.recall == 0.5
    assert found.f1 == pytest.approx(2 / 5)
    assert found.distance.tolist() == [1.0]


@pytest.mark.parametrize("seed", range(10))
def test_every_pick_is_a_hit_a_duplicate_or_false(seed):
    picked, true, score = crowd(seed, 30, 12)
    pairs = pairs_by_distance(picked, true, 2.5)
    away = np.linalg.norm(picked[:, None] - true[None], axis=2)
    for found in (best_agreement(pairs), greedy_agreement(pairs, score)):
        every = np.concatenate([found.hit_pick, found.duplicate_pick, found.false_pick])
        assert sorted(every) == list(range(30))
        assert sorted([*found.hit_truth, *found.missed_truth]) == list(range(12))
        np.testing.assert_array_equal(np.sort(found.false_pick),
                                      np.flatnonzero(away.min(axis=1) > 2.5))
        np.testing.assert_allclose(found.distance, away[found.hit_pick, found.hit_truth])
        # What a duplicate lies on is taken.
        assert set(found.duplicate_truth) <= set(found.hit_truth)


def test_nothing_picked_is_an_answer():
    found = compare_positions(np.zeros((0, 3)), np.ones((4, 3)), 5.0)
    assert (found.precision, found.recall, found.f1, found.n_duplicate) == (0.0, 0.0, 0.0, 0)
    curve = localisation_curve(pairs_by_distance(np.zeros((0, 3)), np.ones((4, 3)), 5.0),
                               np.zeros(0))
    assert curve.average_precision == 0.0 and curve.best()[0] == 0.0


def test_a_radius_of_zero_is_refused():
    with pytest.raises(ValueError, match="radius of 0"):
        match_positions(np.ones((1, 3)), np.ones((1, 3)), 0.0)


def test_pairs_of_several_tomograms_do_not_mix():
    picked, true, _ = crowd(3)
    one = pairs_by_distance(picked, true, 4.0)
    rows, truths = np.arange(9), np.arange(7)
    both = Pairs.joined([
        one.within(rows, truths, 18, 14), one.within(rows + 9, truths + 7, 18, 14)])
    found, alone = best_agreement(both), best_agreement(one)
    assert found.n_hit == 2 * alone.n_hit and found.recall == alone.recall
    assert ((found.hit_pick < 9) == (found.hit_truth < 7)).all()


# --------------------------------------------------------------------------- classes and F scores
def test_classes_count_only_where_pick_and_particle_agree():
    true = np.array([[0.0, 0, 0], [50, 0, 0], [100, 0, 0]])
    found = compare_positions(true, true, 5.0)
    scores = scores_per_class(found, np.array([1, 1, 2]), np.array([1, 2, 2]), beta=2.0)
    assert scores[1] == {
        "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3),
        "f_beta": pytest.approx(5 / 9), "n_truth": 2, "n_picked": 1, "n_hit": 1, "n_found": 2,
        "recall_localised": 1.0, "n_duplicate": 0}
    assert scores[2]["precision"] == 0.5 and scores[2]["recall"] == 1.0
    assert recall_per_class(found, np.array([1, 1, 2]))[1] == {
        "recall": 1.0, "n_truth": 2, "n_hit": 2}


def test_f_beta_is_the_weighted_harmonic_mean():
    for beta in (0.5, 1.0, 2.0, 4.0):
        precision, recall = 6 / 10, 6 / 8
        mean = (1 + beta**2) / (1 / precision + beta**2 / recall)
        assert f_score(6, 10, 8, beta) == pytest.approx(mean)
    assert f1_score(6, 10, 8) == pytest.approx(12 / 18) and f_score(0, 0, 0) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_the_confusion_matrix_adds_up(seed):
    picked, true, _ = crowd(seed, 30, 20)
    rng = np.random.default_rng(seed)
    classes, said = rng.integers(1, 4, 20), rng.integers(2, 6, 30)
    found = compare_positions(picked, true, 2.0)
    labels, counts = confusion_matrix(found, classes, said)
    assert labels.tolist() == [1, 2, 3, 4, 5] and counts[0, 0] == 0
    assert counts[1:].sum(axis=1).tolist() == [(classes == c).sum() for c in labels]
    duplicates = said[found.duplicate_pick]
    assert counts[:, 1:].sum(axis=0).tolist() == [
        (said == c).sum() - (duplicates == c).sum() for c in labels]
    wrong = is_misclassified(found, classes, said).sum()
    assert np.trace(counts) == found.n_hit - wrong


def test_perfect_picks_score_one():
    _, true, _ = crowd(1, n_true=40, width=100.0)
    classes, score = np.arange(40) % 3 + 1, np.linspace(1, 2, 40)
    pairs = pairs_by_distance(true, true, 0.5)
    found = best_agreement(pairs)
    assert (found.precision, found.recall, found.f1) == (1.0, 1.0, 1.0)
    assert all(s["f1"] == 1.0 for s in scores_per_class(found, classes, classes).values())
    assert localisation_curve(pairs, score).average_precision == 1.0
    assert class_curve(pairs, score, classes, classes, 2).average_precision == 1.0


def test_exchanged_classes_leave_the_localisation_as_it_is():
    picked, true, score = crowd(5, 20, 16)
    classes, said = np.arange(16) % 2 + 1, np.arange(20) % 2 + 1
    pairs = pairs_by_distance(picked, true, 3.0)
    found = best_agreement(pairs)
    right = ~is_misclassified(found, classes, said)
    exchanged = ~is_misclassified(found, classes, 3 - said)
    np.testing.assert_array_equal(right, ~exchanged)
    before, after = (scores_per_class(found, classes, s) for s in (said, 3 - said))
    for label in (1, 2):
        assert before[label]["recall_localised"] == after[label]["recall_localised"]
    # Rows of the matrix, too, exchange columns only.
    one, other = (confusion_matrix(found, classes, s)[1] for s in (said, 3 - said))
    np.testing.assert_array_equal(one[:, [0, 2, 1]], other)


# ----------------------------------------------------------------------------------------- curves
def average_precision_by_hand(is_hit, score, n_true):
    """Area under precision against recall as steps, a point for every threshold."""
    total = before = 0.0
    for threshold in sorted(set(score), reverse=True):
        kept = score >= threshold
        recall = is_hit[kept].sum() / n_true
        total += (recall - before) * is_hit[kept].sum() / kept.sum()
        before = recall
    return total


@pytest.mark.parametrize("seed", range(10))
def test_average_precision_is_the_area_under_the_steps(seed):
    rng = np.random.default_rng(seed)
    is_hit = rng.random(60) < 0.6
    score = rng.integers(0, 12, 60) / 4 + is_hit  # with ties
    curve = precision_recall(is_hit, score, 50)
    assert curve.average_precision == pytest.approx(average_precision_by_hand(is_hit, score, 50))
    assert (np.diff(curve.threshold) < 0).all() and curve.n_picked[-1] == 60


@pytest.mark.parametrize("seed", range(10))
def test_each_point_of_a_curve_is_what_the_picks_above_it_score_alone(seed):
    picked, true, score = crowd(seed, 25, 15)
    curve = localisation_curve(pairs_by_distance(picked, true, 3.0), score)
    for threshold, precision, recall in zip(
            curve.threshold, curve.precision, curve.recall, strict=True):
        kept = score >= threshold
        alone = greedy_agreement(pairs_by_distance(picked[kept], true, 3.0), score[kept])
        assert (alone.precision, alone.recall) == pytest.approx((precision, recall))
    f1, at = curve.best()
    kept = score >= at
    best = greedy_agreement(pairs_by_distance(picked[kept], true, 3.0), score[kept])
    assert best.f1 == pytest.approx(f1) and f1 == curve.f_beta().max()


def test_the_curve_of_a_class_sees_its_own_picks_and_particles_only():
    true = np.array([[0.0, 0, 0], [1, 0, 0], [50, 0, 0]])
    picked = np.array([[0.2, 0, 0], [0.4, 0, 0], [50, 0, 0]])
    classes, said = np.array([1, 2, 2]), np.array([2, 2, 2])
    pairs = pairs_by_distance(picked, true, 3.0)
    curve = class_curve(pairs, np.array([3.0, 2.0, 1.0]), said, classes, 2)
    assert curve.n_true == 2 and curve.n_hit.tolist() == [1, 1, 2]
    assert curve.average_precision == pytest.approx(0.5 * 1.0 + 0.5 * 2 / 3)
    none = class_curve(pairs, np.array([3.0, 2.0, 1.0]), said, classes, 1)
    assert none.average_precision == 0.0 and np.isnan(none.best()[1])


# ------------------------------------------------------------------------------------ label rules
def test_labels_tell_which_picks_lie_on_particles():
    labels = np.zeros((20, 20, 40), dtype=np.float32)
    labels[8:13, 8:13, 8:13] = 1
    labels[8:13, 8:13, 28:33] = 2
    true = np.array([[10.0, 10, 10], [30, 10, 10]])
    picked = np.array([[12.0, 8, 10], [20, 10, 10], [29, 11, 9], [28, 9, 9], [-3, 0, 0]])
    for pairs in (pairs_by_class_label(picked, true, np.array([1, 2]), labels),
                  pairs_by_instance(picked, true, labels)):
        found = best_agreement(pairs)
        assert found.n_picked == 5 and found.n_hit == 2 and found.n_duplicate == 1
        assert found.hit_truth.tolist() == [0, 1] and found.hit_pick.tolist() == [0, 2]
        # By score the later pick of the second particle is the hit.
        score = np.array([1.0, 1, 1, 2, 1])
        assert greedy_agreement(pairs, score).hit_pick.tolist() == [0, 3]


def test_instances_that_the_truth_does_not_hold_are_refused():
    labels = np.zeros((9, 9, 9), dtype=np.float32)
    labels[4, 4, 4] = 3
    with pytest.raises(ValueError, match="go up to 3"):
        pairs_by_instance(np.full((1, 3), 4.0), np.full((2, 3), 4.0), labels)


@pytest.mark.parametrize("reach", [0.0, 1.0, 2.5])
def test_reach_dilates_the_labels(reach):
    rng = np.random.default_rng(0)
    labels = np.zeros((12, 13, 14), dtype=np.float32)
    for number, centre in enumerate(rng.integers(1, 12, (6, 3)), 1):
        labels[tuple(np.minimum(centre, np.array(labels.shape) - 1))] = number
    seeds = np.argwhere(labels > 0)
    for voxel in rng.integers(0, 12, (200, 3)):
        away = np.linalg.norm(seeds - voxel, axis=1)
        near = np.flatnonzero(away == away.min())
        expected = {int(labels[tuple(seeds[s])]) for s in near} if away.min() <= reach else {0}
        assert label_at(labels, voxel[::-1].astype(float), reach) in expected


def test_the_centre_of_a_hollow_particle_is_on_it_within_reach():
    labels = np.zeros((21, 21, 21), dtype=np.float32)
    grid = np.indices(labels.shape) - 10
    radius = np.sqrt((grid**2).sum(axis=0))
    labels[(radius > 4) & (radius < 7)] = 1
    centre = np.array([[10.0, 10, 10]])
    assert best_agreement(pairs_by_instance(centre, centre, labels)).n_hit == 0
    assert best_agreement(pairs_by_instance(centre, centre, labels, reach=5.0)).n_hit == 1
