"""Axes of symmetry are found where maps were given them, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import blobs

from scipion_faml.evaluation.self_correlation import (
    Cylinder,
    contrast_of_folds,
    cyclic_axes,
    fitted_group,
    frame_of_axis,
    is_larger_group,
    mean_over_turns,
    self_correlation_curve,
    with_controls,
)
from scipion_faml.evaluation.superposition import move_map, self_correlation
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.volume import move_volume

N = 28
FOLDS = np.arange(2, 18)


def symmetric(group, seed, n=N, n_blobs=4, width=1.5):
    """Gaussian blobs and their copies under a point group."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    volume = np.zeros((n, n, n))
    points = rng.standard_normal((n_blobs, 3))
    points *= rng.uniform(0.22, 0.34, (n_blobs, 1)) * n / np.linalg.norm(points, axis=1)[:, None]
    points[:, 2] *= 0.6  # away from the main axis
    for a, b, c in np.concatenate([points @ r.T for r in symmetry_rotations(group)]):
        volume += np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * width**2))
    return volume.astype(np.float32)


def turned(volume, seed, noise=0.0):
    """The map in another orientation, with noise; and where its z axis points."""
    rng = np.random.default_rng(seed)
    pose = RigidTransforms(random_rotations(1, rng), rng.uniform(-1.5, 1.5, (1, 3)))
    moved = move_volume(volume, pose)
    return moved + rng.normal(0, noise * volume.std(), moved.shape).astype(np.float32), pose


def test_the_curve_from_harmonics_is_the_correlation_of_turned_maps():
    volume = symmetric("C3", 0) - 0.0
    power = Cylinder.of(N, 19).powers(volume, np.array([0.0, 0.0, 1.0]), np.zeros(3))
    curve = self_correlation_curve(power, np.array([0.0, 40.0, 60.0, 120.0]))
    assert curve[0] == pytest.approx(1.0) and curve[3] == pytest.approx(1.0, abs=0.02)
    # The same from maps: the mean over all turns is the axisymmetric part.
    def at(angle):
        turn = RigidTransforms(np.array([[np.deg2rad(angle), 0.0, 0.0]]), np.zeros((1, 3)))
        return move_volume(volume, turn).astype(float)

    flat = np.mean([at(a) for a in np.arange(0, 360, 7.5)], axis=0)
    still = (at(0.0) - flat).ravel()
    for angle, value in zip((40.0, 60.0), curve[1:3], strict=True):
        expected = np.corrcoef(still, (at(angle) - flat).ravel())[0, 1]
        assert value == pytest.approx(expected, abs=0.04)


def test_a_smooth_fall_with_the_order_is_no_contrast():
    order = np.arange(1, 41)
    assert np.abs(contrast_of_folds(np.exp(-order / 9.0), np.arange(2, 14))).max() < 0.15


def test_means_over_turns_follow_from_the_shares():
    power = np.zeros(28)
    power[[6, 13, 20]] = 3.0, 2.0, 1.0  # orders 7, 14, 21
    power[2] = 4.0
    at_turns, between = mean_over_turns(power, 7)
    turns = np.deg2rad(360.0 * np.arange(1, 7) / 7)
    halves = np.deg2rad(360.0 * (np.arange(7) + 0.5) / 7)
    order = np.arange(1, 29)
    c = lambda w: np.cos(np.outer(w, order)) @ power / power.sum()  # noqa: E731
    assert at_turns == pytest.approx(c(turns).mean()) and between == pytest.approx(c(halves).mean())


@pytest.mark.parametrize("fold", [2, 7, 12, 17])
def test_an_axis_of_any_fold_is_found(fold):
    n = 36 if fold > 8 else N
    shape = symmetric(f"C{fold}", fold, n, width=1.0 if fold > 8 else 1.5)
    volume, pose = turned(shape, fold, noise=0.5)
    found = cyclic_axes(volume, FOLDS)[0]
    assert found.fold == fold and found.is_significant
    assert abs(found.axis @ pose.rotation[0][:, 2]) > np.cos(np.deg2rad(2.0))
    on_axis = move_map(volume, frame_of_axis(found))
    assert self_correlation(on_axis, fold) > self_correlation(
        move_map(volume, RigidTransforms(np.array([[0.3, 0.9, 0.1]]), np.zeros((1, 3)))), fold)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_map_without_symmetry_has_no_significant_axis(seed):
    rng = np.random.default_rng(seed)
    volume = blobs(N, 40 + seed) + 0.05 * rng.standard_normal((N, N, N)).astype(np.float32)
    assert not any(one.is_significant for one in cyclic_axes(volume, FOLDS))


def test_one_fold_can_be_tested_alone():
    volume, _ = turned(symmetric("C5", 5), 1)
    five, four = (cyclic_axes(volume, np.array([fold]))[0] for fold in (5, 4))
    assert five.is_significant and not four.is_significant


@pytest.mark.parametrize(("group", "other"), [("D3", "C3"), ("C4", "D4")])
def test_dihedral_maps_are_told_from_cyclic_ones(group, other):
    volume, _ = turned(symmetric(group, 7), 3, noise=0.3)
    fold = int(group[1:])
    main = cyclic_axes(volume, np.array([fold]))[0]
    rng = np.random.default_rng(0)
    cyclic = with_controls(volume, f"C{fold}", frame_of_axis(main), rng)
    dihedral = fitted_group(volume, f"D{fold}", rng)
    assert is_larger_group(dihedral, cyclic) == group.startswith("D")
