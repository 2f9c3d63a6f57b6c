"""Figures of evaluations against independent implementations: scikit-learn, scipy, the published
definition of the corrected FSC."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from sklearn import metrics

from scipion_faml.evaluation import agreement
from scipion_faml.evaluation.classes import compare_classes
from scipion_faml.evaluation.fsc import (
    filled_shells,
    masked_fsc,
    randomise_phases,
    without_mask_correlation,
)
from scipion_faml.evaluation.poses import pose_errors
from scipion_faml.geometry import RigidTransforms
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.volume import soft_sphere


# -------------------------------------------------------------------------------- scikit-learn
@pytest.mark.parametrize(("n_true", "n_found", "seed"), [(2, 2, 0), (5, 5, 1), (4, 3, 2)])
def test_class_figures_are_those_of_scikit_learn(n_true, n_found, seed):
    rng = np.random.default_rng(seed)
    true = rng.integers(1, n_true + 1, 200)
    renamed = rng.permutation(np.arange(1, max(n_true, n_found) + 1))
    found = np.where(rng.random(200) < 0.7, renamed[true - 1], rng.integers(1, n_found + 1, 200))
    ours = compare_classes(true, found)
    assert ours.adjusted_rand_index == pytest.approx(
        metrics.adjusted_rand_score(true, found), abs=1e-12)
    # The same match, told to scikit-learn as a renaming; classes without a partner become 0.
    name_of = {int(ours.assigned_labels[p]): int(label)
               for label, p in zip(ours.true_labels, ours.partner, strict=True) if p >= 0}
    said = np.array([name_of.get(int(k), 0) for k in found])
    labels = ours.true_labels
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        true, said, labels=labels, zero_division=0)
    np.testing.assert_allclose(ours.precision, precision, atol=1e-12)
    np.testing.assert_allclose(ours.recall, recall, atol=1e-12)
    np.testing.assert_allclose(ours.f1, f1, atol=1e-12)
    assert ours.f1_mean == pytest.approx(
        metrics.f1_score(true, said, labels=labels, average="macro", zero_division=0))
    assert ours.accuracy == pytest.approx(metrics.accuracy_score(true, said))
    np.testing.assert_array_equal(
        ours.confusion, metrics.cluster.contingency_matrix(true, found))


# --------------------------------------------------------------------------------------- scipy
@pytest.mark.parametrize("group", ["C1", "C7", "D7", "O"])
def test_point_groups_are_scipys(group):
    theirs, ours = Rotation.create_group(group).as_matrix(), symmetry_rotations(group)
    assert len(theirs) == len(ours)
    assert all(np.abs(theirs - one).max(axis=(1, 2)).min() < 1e-6 for one in ours)


@pytest.mark.parametrize("group", ["C1", "C7", "D7", "T", "O", "I"])
def test_rotation_errors_are_scipys_smallest_angle_over_the_group(group):
    rng = np.random.default_rng(3)
    true, found = Rotation.random(30, random_state=1), Rotation.random(30, random_state=2)
    shifts = rng.uniform(-2, 2, (2, 30, 3))
    ours = np.array(symmetry_rotations(group))
    expected = np.rad2deg(np.min(
        [((true * copy).inv() * found).magnitude() for copy in Rotation.from_matrix(ours)], axis=0))
    errors = pose_errors(
        RigidTransforms.from_rotation(found.as_matrix(), shifts[0]),
        RigidTransforms.from_rotation(true.as_matrix(), shifts[1]),
        {1: ours}, np.ones(30, int), np.ones(30, int), is_frame_known=True)
    np.testing.assert_allclose(errors.rotation_deg, expected, atol=1e-5)
    np.testing.assert_allclose(
        errors.shift_voxels, np.linalg.norm(shifts[0] - shifts[1], axis=1), atol=1e-9)


# ---------------------------------------------------------------------------- RELION-style FSC
def shells_of(n):
    k = np.fft.fftfreq(n, 1 / n)
    return np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int)


def plain_fsc(first, second):
    f, g, shell = np.fft.fftn(first), np.fft.fftn(second), shells_of(len(first))
    return np.array([
        np.sum(f[shell == s] * g[shell == s].conj()).real
        / np.sqrt(np.sum(np.abs(f[shell == s]) ** 2) * np.sum(np.abs(g[shell == s]) ** 2))
        for s in range(len(first) // 2)])


def test_the_corrected_curve_is_the_published_definition_shell_by_shell():
    n, rng = 24, np.random.default_rng(4)
    structure = 40.0 * rng.standard_normal((n, n, n)) * soft_sphere(n, 5, 2)
    halves = [randomise_phases(structure, n, rng) + 8.0 * rng.standard_normal((n, n, n))
              for _ in range(2)]
    mask = soft_sphere(n, 7, 2)
    found = masked_fsc(*halves, mask, np.random.default_rng(5))
    # Redone here on whole spectra, with the same random phases.
    unmasked, masked = plain_fsc(*halves), plain_fsc(*(h * mask for h in halves))
    start = next(s for s in range(1, n // 2) if unmasked[s] < 0.8)
    again = np.random.default_rng(5)
    noise = plain_fsc(*(randomise_phases(h, start, again) * mask for h in halves))
    expected = []
    for s in range(n // 2):
        if s < start + 2:
            expected.append(masked[s])
        elif noise[s] > masked[s]:
            expected.append(0.0)
        else:
            expected.append((masked[s] - noise[s]) / (1.0 - noise[s]))
    assert found.random_from == start
    np.testing.assert_allclose(found.masked, masked, atol=1e-10)
    np.testing.assert_allclose(found.randomised, noise, atol=1e-10)
    np.testing.assert_allclose(found.corrected, expected, atol=1e-10)


def test_where_the_mask_alone_correlates_more_the_corrected_curve_is_0():
    corrected = without_mask_correlation(
        np.array([1.0, 0.9, 0.5, 0.3, -0.1]), np.array([1.0, 0.9, 0.2, 0.4, -0.2]), 2)
    np.testing.assert_allclose(corrected, [1.0, 0.9, 0.375, 0.0, 0.1 / 1.2])


def test_maps_that_agree_everywhere_need_no_correction():
    volume = np.random.default_rng(6).standard_normal((12, 12, 12))
    found = masked_fsc(volume, volume, soft_sphere(12, 4, 1), np.random.default_rng(0))
    assert found.random_from is None
    np.testing.assert_allclose(found.corrected, 1.0, atol=1e-12)


def test_shells_beyond_what_an_average_was_made_of_are_empty():
    rng = np.random.default_rng(7)
    volume = rng.standard_normal((16, 16, 16))
    half = np.fft.fftn(volume) * (shells_of(16) <= 5)
    cut = np.fft.ifftn(half).real.astype(np.float32)
    assert filled_shells(cut, cut) == 6
    assert filled_shells(cut, volume) == 6 and filled_shells(volume, volume) == 8


# ------------------------------------------------------------------------------- two runs
def test_two_runs_agree_as_scikit_learn_says_and_poses_modulo_frame_and_symmetry():
    rng = np.random.default_rng(8)
    class_a = rng.integers(1, 4, 90)
    class_b = np.array([0, 3, 1, 2])[class_a]
    moved = rng.choice(90, 12, replace=False)
    class_b[moved] = class_b[moved] % 3 + 1
    rotation = Rotation.random(90, random_state=3)
    turns = Rotation.from_matrix(symmetry_rotations("C4")[rng.integers(0, 4, 90)])
    frames = Rotation.random(4, random_state=4)
    other = rotation * turns * Rotation.from_matrix(frames.as_matrix()[class_a])
    poses = [RigidTransforms.from_rotation(r.as_matrix(), np.zeros((90, 3)))
             for r in (rotation, other)]
    groups = {k: symmetry_rotations("C4") for k in (1, 2, 3)}
    found = agreement.compare_runs(class_a, class_b, tuple(poses), groups)
    assert found.pairs == [(1, 3), (2, 1), (3, 2)]
    np.testing.assert_array_equal(np.sort(moved), np.flatnonzero(found.is_changed))
    assert found.classes.adjusted_rand_index == pytest.approx(
        metrics.adjusted_rand_score(class_a, class_b))
    assert np.nanmax(found.poses.rotation_deg) < 1e-4
    assert np.isnan(found.poses.rotation_deg[moved]).all()
