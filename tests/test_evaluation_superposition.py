"""Superposing maps: known motions and mirrors come back, likeness has its known values."""

from __future__ import annotations

import numpy as np
import pytest

from scipion_faml.evaluation.superposition import (
    correlation,
    evaluation_mask,
    group_frame,
    move_map,
    self_correlation,
    superpose,
    symmetry_frame,
    uniform_rotations,
    without_radial_mean,
)
from scipion_faml.geometry import (
    RigidTransforms,
    compose,
    euler_to_matrix,
    invert,
    random_rotations,
    rotation_angle_deg,
)
from scipion_faml.symmetry import rotation_about, symmetry_rotations
from scipion_faml.volume import mirrored


def blobs(n, positions, width):
    """A sum of Gaussians at positions (B, 3) from the centre (voxels, xyz)."""
    axis = np.arange(n) - n // 2
    volume = np.zeros((n, n, n))
    for x, y, z in positions:
        gauss = [np.exp(-((axis - c) ** 2) / (2 * width**2)) for c in (z, y, x)]
        volume += gauss[0][:, None, None] * gauss[1][:, None] * gauss[2]
    return volume.astype(np.float32)


def asymmetric(n, pose=None, seed=0):
    """Random blobs, exactly moved by a pose: no interpolation."""
    points = np.random.default_rng(seed).normal(0, 0.13 * n, (20, 3))
    if pose is not None:
        points = points @ pose.rotation[0].T + pose.shift_xyz[0]
    return blobs(n, points, 0.05 * n)


@pytest.mark.parametrize("n", [33, 42])
def test_a_known_motion_is_found_and_undone(n):
    rng = np.random.default_rng(1)
    pose = RigidTransforms(random_rotations(1, rng), rng.uniform(-0.08 * n, 0.08 * n, (1, 3)))
    found, score = superpose(asymmetric(n, pose), asymmetric(n))
    rest = compose(found, pose)
    # A tenth of a voxel at the rim of the particle.
    assert rotation_angle_deg(np.eye(3), rest.rotation[0]) < 0.4
    assert np.linalg.norm(rest.shift_xyz) < 0.1
    assert score > 0.995
    assert correlation(move_map(asymmetric(n, pose), found), asymmetric(n)) > 0.995
    assert correlation(move_map(asymmetric(n), invert(found)), asymmetric(n, pose)) > 0.99


def test_noise_scale_and_offset_of_a_map_do_not_matter():
    n, rng = 40, np.random.default_rng(2)
    pose = RigidTransforms(random_rotations(1, rng), rng.uniform(-3, 3, (1, 3)))
    clean = asymmetric(n, pose)
    noisy = 7.0 * (clean + clean.std() * rng.standard_normal(clean.shape)) + 100.0
    found, _ = superpose(noisy, asymmetric(n))
    rest = compose(found, pose)
    assert rotation_angle_deg(np.eye(3), rest.rotation[0]) < 2.0
    assert np.linalg.norm(rest.shift_xyz) < 0.3


def test_the_other_hand_fits_worse_and_its_mirror_fits_again():
    n, rng = 40, np.random.default_rng(3)
    pose = RigidTransforms(random_rotations(1, rng), rng.uniform(-2, 2, (1, 3)))
    reference, other_hand = asymmetric(n), mirrored(asymmetric(n, pose))
    assert superpose(other_hand, reference)[1] < 0.95
    assert superpose(mirrored(other_hand), reference)[1] > 0.995


def test_the_rotation_grid_leaves_no_gap():
    grid = uniform_rotations(15.0)
    probes = euler_to_matrix(random_rotations(500, np.random.default_rng(5)))
    trace = (probes.reshape(-1, 9) @ grid.reshape(-1, 9).T).max(axis=1)
    nearest = np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
    assert nearest.max() < 15.0 and np.median(nearest) < 9.0


def test_correlation_is_pearsons_and_its_weighted_form():
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((2, 6, 6, 6))
    assert correlation(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert correlation(a, 2 * a + 5) == pytest.approx(1.0)
    twice = (rng.uniform(size=a.shape) > 0.5).astype(float) * 2
    inside = twice > 0
    assert correlation(a, b, twice) == pytest.approx(np.corrcoef(a[inside], b[inside])[0, 1])


def test_correlation_of_a_constant_or_under_an_empty_mask_is_refused():
    volume = np.random.default_rng(7).standard_normal((4, 4, 4))
    with pytest.raises(ValueError, match="constant inside the mask"):
        correlation(volume, np.ones_like(volume))
    with pytest.raises(ValueError, match="no voxel"):
        correlation(volume, volume, np.zeros_like(volume))


def test_round_blobs_have_nothing_left_without_their_radial_mean():
    n = 32
    ball = blobs(n, [(0, 0, 0)], 5.0)
    assert np.abs(without_radial_mean(ball)).max() < 0.02 * ball.max()
    structure = asymmetric(n)
    rest = without_radial_mean(ball + structure)
    assert correlation(rest, without_radial_mean(structure)) > 0.999


def test_the_evaluation_mask_fits_its_box():
    for n in (32, 33, 64):
        mask = evaluation_mask(n)
        assert mask[n // 2, n // 2, n // 2] == 1.0 and mask[0, n // 2, n // 2] < 0.1


def ring(n, fold, tilt=None, shift=(0.0, 0.0, 0.0)):
    """A C-n structure: an asymmetric unit copied about z, then moved."""
    unit = np.array([[0.30, 0.02, 0.06], [0.21, 0.07, -0.09], [0.26, -0.05, 0.16]]) * n
    points = np.concatenate(
        [unit @ rotation_about((0, 0, 1), 360 * k / fold).T for k in range(fold)])
    if tilt is not None:
        points = points @ tilt.T
    return blobs(n, points + np.array(shift), 0.05 * n)


def test_a_symmetric_structure_correlates_with_its_turned_copies():
    assert self_correlation(ring(40, 7), 7) > 0.99
    assert self_correlation(ring(40, 7), 5) < 0.9


def test_a_tilted_and_shifted_axis_is_found():
    n = 40
    tilt = euler_to_matrix(np.deg2rad([20.0, 50.0, 70.0]))
    volume = ring(n, 7, tilt, (1.5, -2.0, 1.0))
    frame, score = symmetry_frame(volume, 7)
    axis = tilt @ np.array([0.0, 0.0, 1.0])
    cosine = abs(frame.rotation[0][2] @ axis)
    assert np.rad2deg(np.arccos(min(cosine, 1.0))) < 1.0
    assert score > 0.98
    assert self_correlation(move_map(volume, frame), 7) > 0.97


def test_noise_lowers_self_correlation_to_signal_over_all():
    rng = np.random.default_rng(8)
    clean = ring(40, 7)
    inside = np.sqrt(((np.indices(clean.shape) - 20) ** 2).sum(axis=0)) < 17
    noise = rng.standard_normal(clean.shape) * clean[inside].std()
    assert self_correlation(clean + noise, 7) == pytest.approx(0.5, abs=0.15)


def test_cubes_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="two cubes of one size"):
        superpose(np.zeros((8, 8, 8)), np.zeros((10, 10, 10)))


@pytest.mark.parametrize("group", ["C4", "D1", "D3", "D7", "T", "O", "I"])
def test_the_frame_of_a_group_is_found_wherever_the_map_lies(group):
    n, rotations, rng = 32, symmetry_rotations(group), np.random.default_rng(0)
    unit = rng.normal(0, 0.15 * n, (3, 3))
    points = np.einsum("gij,pj->gpi", rotations, unit).reshape(-1, 3)
    pose = RigidTransforms(np.array([[0.7, 1.9, -0.4]]), np.array([[1.2, -0.8, 0.5]]))
    volume = blobs(n, points @ pose.rotation[0].T + pose.shift_xyz[0], 0.06 * n)
    # Little of so many copies of three blobs is not round: noise counts for more.
    noise = 0.1 if group == "I" else 0.3
    frame, score = group_frame(volume + rng.normal(0, noise * volume.std(), volume.shape), group)
    assert score > 0.5
    # In the frame, every rotation of the group carries the structure's points onto themselves.
    placed = compose(frame, pose)
    moved = points @ placed.rotation[0].T + placed.shift_xyz[0]
    for rotation in rotations:
        distance = np.linalg.norm((moved @ rotation.T)[:, None] - moved, axis=2).min(axis=1)
        assert distance.max() < 0.6  # voxels; the points lie up to 10 from the centre
