"""Pose errors vanish under the symmetries they are taken modulo, and measure the rest."""

from __future__ import annotations

import numpy as np
import pytest

from scipion_faml.evaluation.poses import (
    chance_fraction,
    find_frame,
    nearest_rotation,
    pose_errors,
    summarise,
)
from scipion_faml.geometry import RigidTransforms, compose, random_rotations, rotation_angle_deg
from scipion_faml.symmetry import rotation_about, symmetry_rotations

NONE = symmetry_rotations("C1")


def random_poses(n_poses, rng, reach=3.0):
    return RigidTransforms(random_rotations(n_poses, rng), rng.uniform(-reach, reach, (n_poses, 3)))


def estimates(true, frame, group, rng, noise_deg=0.0, noise_voxels=0.0):
    """E_i = noise_i T_i s_i F."""
    n = len(true)
    chosen = symmetry_rotations(group)[rng.integers(len(symmetry_rotations(group)), size=n)]
    copies = RigidTransforms.from_rotation(chosen, np.zeros((n, 3)))
    noisy = compose(true, compose(copies, frame))
    axes = rng.standard_normal((n, 3))
    turns = np.stack([rotation_about(a, noise_deg) for a in axes])
    return RigidTransforms.from_rotation(
        turns @ noisy.rotation, noisy.shift_xyz + noise_voxels * rng.standard_normal((n, 3))
    )


def errors_of(estimated, true, group="C1", **options):
    ones = np.ones(len(true), dtype=int)
    return pose_errors(estimated, true, {1: symmetry_rotations(group)}, ones, ones, **options)


@pytest.mark.parametrize("group", ["C1", "C7", "D7", "O", "I"])
def test_a_common_motion_and_symmetry_copies_are_no_error(group):
    rng = np.random.default_rng(0)
    true = random_poses(40, rng)
    frame = random_poses(1, rng)
    found = errors_of(estimates(true, frame, group, rng), true, group)
    assert found.rotation_deg.max() < 1e-5
    assert found.shift_voxels.max() < 1e-5


def test_the_frame_found_is_the_frame_applied():
    rng = np.random.default_rng(1)
    true, frame = random_poses(30, rng), random_poses(1, rng)
    found = find_frame(estimates(true, frame, "C1", rng), true, NONE)
    assert rotation_angle_deg(found.rotation, frame.rotation[0]) < 1e-5
    # F q = 0: the average's point q is the map's centre.
    np.testing.assert_allclose(
        frame.rotation[0] @ found.centre_xyz + frame.shift_xyz[0], 0.0, atol=1e-5
    )


def test_the_frame_is_found_when_only_a_third_of_the_poses_are_right():
    rng = np.random.default_rng(2)
    true, frame = random_poses(90, rng), random_poses(1, rng)
    estimated = estimates(true, frame, "C1", rng, noise_deg=3.0, noise_voxels=0.2)
    wrong = random_poses(60, rng)
    mixed = RigidTransforms.concatenate([estimated[:30], wrong])
    found = errors_of(mixed, true)
    assert np.abs(found.rotation_deg[:30] - 3.0).max() < 2.0
    assert np.median(found.shift_voxels[:30]) < 0.6
    assert summarise(found.rotation_deg, found.shift_voxels)["fraction_within_10_deg"] == (
        pytest.approx(1 / 3, abs=0.02)
    )


def test_known_noise_comes_out_as_the_error():
    rng = np.random.default_rng(3)
    true, frame = random_poses(200, rng), random_poses(1, rng)
    estimated = estimates(true, frame, "C7", rng, noise_deg=5.0, noise_voxels=0.5)
    found = errors_of(estimated, true, "C7")
    # Averaging 200 particles leaves the frame some 0.4 degrees uncertain.
    assert np.median(found.rotation_deg) == pytest.approx(5.0, abs=0.5)
    # The length of a 3-D Gaussian vector with s.d. 0.5 has the median 0.5 * 1.538.
    assert np.median(found.shift_voxels) == pytest.approx(0.77, abs=0.15)


def test_without_a_global_frame_a_common_turn_is_an_error():
    rng = np.random.default_rng(4)
    true = random_poses(20, rng)
    turn = RigidTransforms.from_rotation(rotation_about((0, 1, 0), 25.0)[None], np.zeros((1, 3)))
    found = errors_of(compose(true, turn), true, is_frame_known=True)
    np.testing.assert_allclose(found.rotation_deg, 25.0, atol=1e-6)


def test_each_class_has_its_own_frame():
    rng = np.random.default_rng(5)
    true = random_poses(40, rng)
    classes = np.repeat([1, 2], 20)
    parts = [estimates(true[:20], random_poses(1, rng), "C1", rng),
             estimates(true[20:], random_poses(1, rng), "D7", rng)]
    groups = {1: NONE, 2: symmetry_rotations("D7")}
    found = pose_errors(RigidTransforms.concatenate(parts), true, groups, classes, 3 - classes)
    assert found.rotation_deg.max() < 1e-5
    assert set(found.frames) == {(2, 1), (1, 2)}


def test_a_handful_of_misassigned_particles_gets_no_frame_of_its_own():
    rng = np.random.default_rng(6)
    true = random_poses(23, rng)
    classes = np.ones(23, dtype=int)
    assigned = np.repeat([1, 2], [20, 3])
    found = pose_errors(true, true, {1: NONE}, classes, assigned)
    assert np.isnan(found.rotation_deg[20:]).all()
    assert summarise(found.rotation_deg, found.shift_voxels)["n_particles"] == 20


def test_random_poses_reach_the_chance_fraction():
    rng = np.random.default_rng(7)
    angles = rotation_angle_deg(np.eye(3), random_poses(40_000, rng).rotation)
    assert np.mean(angles <= 20.0) == pytest.approx(chance_fraction(20.0, 1), abs=0.001)
    assert chance_fraction(180.0, 1) == 1.0


def test_the_nearest_rotation_is_proper():
    rng = np.random.default_rng(8)
    for matrix in rng.standard_normal((10, 3, 3)):
        rotation = nearest_rotation(matrix)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_different_numbers_of_poses_are_refused_with_both():
    rng = np.random.default_rng(9)
    with pytest.raises(ValueError, match="7 estimated poses but 8 true ones"):
        pose_errors(random_poses(7, rng), random_poses(8, rng), {1: NONE}, np.ones(8, int),
                    np.ones(8, int))
