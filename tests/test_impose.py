"""Symmetry and masks imposed on averages."""

import numpy as np
import pytest
from phantoms import blobs

from scipion_faml.fourier import sample_set, spectrum, volume_from_spectrum
from scipion_faml.geometry import (
    RigidTransforms,
    compose,
    euler_to_matrix,
    random_rotations,
    rotation_angle_deg,
)
from scipion_faml.impose import (
    check_mask,
    inequivalent,
    mask_at,
    masked,
    representatives,
    symmetrised_sums,
    turn_between_deg,
)
from scipion_faml.measured import WorkingBox
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.volume import inscribed_sphere, move_volume, soft_sphere
from scipion_faml.wedge import MissingWedge

N = 24
GROUPS = ["C3", "D2", "T", "O", "I"]


def turned(volume, rotation):
    pose = RigidTransforms.from_rotation(rotation[None], np.zeros((1, 3)))
    return move_volume(volume, pose)


def symmetric_blobs(group, seed=0):
    """A structure with the symmetry of a group."""
    one = blobs(N, seed, n_blobs=3, radius=0.18, width=0.07)
    return np.mean([turned(one, g) for g in symmetry_rotations(group)], axis=0)


def sums_of(volume, poses, group, tilt_deg):
    """Signal and coverage of particles turned back once, and by all their equivalent poses."""
    box, mask = WorkingBox.of(N, 10), MissingWedge(-tilt_deg, tilt_deg).mask(N)
    signal, coverage = np.zeros((2, 2, len(box.samples)), dtype=complex)
    for rotation in poses:
        half = spectrum(turned(volume, rotation)) * mask
        particle = box.measure(0, volume_from_spectrum(half, N).astype(np.float32), mask)
        for which, equivalent in enumerate((rotation[None], rotation @ symmetry_rotations(group))):
            share = np.full(len(equivalent), 1.0 / len(equivalent))
            particle.add_turned_back(equivalent, np.zeros((len(share), 3)), share, signal[which])
            particle.wedge.add_turned_back(equivalent, share, coverage[which])
    return signal, coverage.real, box.samples


def distance(values, truth):
    return np.linalg.norm(values - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("group", GROUPS)
def test_symmetrised_sums_average_as_all_equivalent_poses_do(group):
    # Oracle: every particle added once for each of its equivalent poses.
    poses = euler_to_matrix(random_rotations(5, np.random.default_rng(0)))
    signal, coverage, samples = sums_of(symmetric_blobs(group), poses, group, 50)
    s, c = symmetrised_sums(signal[0], coverage[0], 5.0, samples, symmetry_rotations(group))
    # One more interpolation than the oracle.
    assert distance(s, signal[1]) < 0.05
    assert distance(s / c, signal[1] / coverage[1]) < 0.06


def test_one_wedge_suffices_where_symmetry_fills_it():
    truth = symmetric_blobs("O")
    signal, coverage, samples = sums_of(truth, np.eye(3)[None], "O", 50)
    expected, both = samples.take(spectrum(truth)), np.sqrt(samples.multiplicity)

    def likeness(values):
        product = np.vdot(both * values, both * expected).real
        return product / np.linalg.norm(both * values) / np.linalg.norm(both * expected)

    s, c = symmetrised_sums(signal[0], coverage[0], 1.0, samples, symmetry_rotations("O"))
    assert likeness(s / np.maximum(c, 0.05)) > 0.99
    assert likeness(signal[0] / np.maximum(coverage[0], 0.05)) < 0.9


def test_symmetrising_a_symmetric_spectrum_changes_little():
    samples, truth = sample_set(N, 10), symmetric_blobs("D2")
    values = samples.take(spectrum(truth))
    found, coverage = symmetrised_sums(
        values, np.ones(len(samples)), 1.0, samples, symmetry_rotations("D2"))
    assert distance(found, values) < 0.05
    inner = np.linalg.norm(samples.frequency_xyz, axis=1) < 9
    np.testing.assert_allclose(coverage[inner], 1.0, atol=0.05)


@pytest.mark.parametrize("group", GROUPS)
def test_equivalent_poses_have_one_representative(group):
    rotations, rng = symmetry_rotations(group), np.random.default_rng(1)
    poses = RigidTransforms(random_rotations(20, rng), rng.normal(size=(20, 3)))
    chosen = representatives(poses, rotations)
    some = rotations[rng.integers(len(rotations), size=20)]
    others = RigidTransforms.from_rotation(poses.rotation @ some, poses.shift_xyz)
    np.testing.assert_allclose(
        representatives(others, rotations).rotation, chosen.rotation, atol=1e-9)
    np.testing.assert_array_equal(chosen.shift_xyz, poses.shift_xyz)
    angle = turn_between_deg(chosen.rotation, others.rotation, rotations)
    assert angle.max() < 1e-4


def test_turns_modulo_a_group_are_the_smallest_of_all():
    rotations, rng = symmetry_rotations("D3"), np.random.default_rng(2)
    first, second = (euler_to_matrix(random_rotations(15, rng)) for _ in range(2))
    direct = np.min([rotation_angle_deg(first @ g, second) for g in rotations], axis=0)
    np.testing.assert_allclose(turn_between_deg(first, second, rotations), direct, atol=1e-5)


def test_inequivalent_poses_are_kept_in_order():
    rotations = symmetry_rotations("C5")
    angles = np.array([[0.1, 1.0, 0.2], [2.0, 0.4, 1.0], [0.5, 2.0, 0.1]])
    base = RigidTransforms(angles, np.zeros((3, 3)))
    turn = RigidTransforms.from_rotation(rotations[[2]], np.zeros((1, 3)))
    copies = RigidTransforms.concatenate([base, compose(base, turn)])
    np.testing.assert_array_equal(inequivalent(copies, rotations, 5.0, 1.0, 9), [0, 1, 2])
    np.testing.assert_array_equal(inequivalent(copies, rotations, 5.0, 1.0, 2), [0, 1])
    far = RigidTransforms(copies.euler_zyz, np.repeat([[0.0] * 3, [3.0] * 3], 3, axis=0))
    assert len(inequivalent(far, rotations, 5.0, 1.0, 9)) == 6


# ----------------------------------------------------------------------------------------- masks
def test_a_masked_volume_has_no_background_and_no_step_at_the_mask():
    inside = soft_sphere(N, 5.0, 2.0)
    volume = blobs(N, 0) * inside + 4.0
    result = masked(volume, inside)
    assert np.abs(result[inside == 0]).max() == 0.0
    np.testing.assert_allclose(result[inside == 1], volume[inside == 1] - 4.0, atol=1e-3)


def test_a_mask_of_the_whole_box_takes_away_the_level_of_the_rim():
    volume = blobs(N, 0) + 4.0
    result = masked(volume, np.ones((N, N, N), dtype=np.float32))
    np.testing.assert_allclose(result, (volume - 4.0) * inscribed_sphere(N), atol=2e-2)


def test_a_mask_in_a_smaller_box_is_the_same_mask():
    mask = soft_sphere(N, 6.0, 3.0)
    small = mask_at(mask, 12)
    np.testing.assert_allclose(small, mask[::2, ::2, ::2], atol=0.08)
    np.testing.assert_array_equal(mask_at(mask, N), mask)


def test_values_outside_0_and_1_and_empty_masks_are_refused_by_name():
    with pytest.raises(ValueError, match="m.mrc holds values from 0 to 5: a mask lies"):
        check_mask(5.0 * soft_sphere(N, 5.0), "m.mrc")
    corner = np.zeros((N, N, N), dtype=np.float32)
    corner[0, 0, 0] = 1.0
    with pytest.raises(ValueError, match="m.mrc leaves nothing"):
        check_mask(corner, "m.mrc")
