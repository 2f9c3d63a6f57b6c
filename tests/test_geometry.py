import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scipion_faml.geometry import (
    RigidTransforms,
    compose,
    covering_rotations,
    euler_to_matrix,
    from_relion,
    from_scipion_matrices,
    invert,
    keep_better,
    matrix_to_euler,
    random_rotations,
    relion_angles_deg,
    relion_origin_angst,
    rotation_angle_deg,
    rotation_from_vector,
    scipion_matrices,
    squared_pose_distance,
)


def poses(n_poses, seed=0):
    rng = np.random.default_rng(seed)
    return RigidTransforms(random_rotations(n_poses, rng), rng.normal(0, 3, (n_poses, 3)))


def test_euler_angles_are_the_intrinsic_zyz_of_scipy():
    angles = random_rotations(50, np.random.default_rng(0))
    np.testing.assert_allclose(
        euler_to_matrix(angles), Rotation.from_euler("ZYZ", angles).as_matrix(), atol=1e-14
    )


@pytest.mark.parametrize("beta", [0.0, np.pi, 1e-12, np.pi - 1e-12, 1e-5, 1.0])
def test_angles_survive_the_round_trip_even_at_the_poles(beta):
    matrix = euler_to_matrix(np.array([0.7, beta, -1.9]))
    np.testing.assert_allclose(euler_to_matrix(matrix_to_euler(matrix)), matrix, atol=1e-9)


def test_rotation_about_z_turns_x_into_y():
    turned = euler_to_matrix(np.array([np.pi / 2, 0.0, 0.0])) @ [1.0, 0.0, 0.0]
    np.testing.assert_allclose(turned, [0.0, 1.0, 0.0], atol=1e-15)


def test_a_pose_composed_with_its_inverse_moves_nothing():
    p = poses(20)
    identity = compose(invert(p), p)
    np.testing.assert_allclose(identity.rotation, np.tile(np.eye(3), (20, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(identity.shift_xyz, 0.0, atol=1e-12)


def test_composition_applies_the_second_pose_to_the_result_of_the_first():
    first, second, point = poses(4, 1), poses(4, 2), np.array([1.0, 2.0, 3.0])
    both = compose(second, first)
    after_first = first.rotation @ point + first.shift_xyz
    after_both = np.einsum("mij,mj->mi", second.rotation, after_first) + second.shift_xyz
    np.testing.assert_allclose(both.rotation @ point + both.shift_xyz, after_both, atol=1e-12)


def test_one_pose_composes_with_many():
    one, many = poses(1, 3), poses(5, 4)
    np.testing.assert_allclose(
        compose(one, many).shift_xyz, many.shift_xyz @ one.rotation[0].T + one.shift_xyz, atol=1e-12
    )


def test_rotation_angle_is_exact_near_zero_and_half_a_turn():
    for angle in (1e-6, 1e-3, 90.0, 179.9999, 180.0):
        turned = rotation_from_vector(np.array([0.0, 0.0, np.deg2rad(angle)]))
        assert rotation_angle_deg(np.eye(3), turned) == pytest.approx(angle, rel=1e-6)


def test_rotation_vectors_agree_with_scipy():
    vectors = np.random.default_rng(0).normal(0, 1, (10, 3))
    vectors[0] = 0.0
    np.testing.assert_allclose(
        rotation_from_vector(vectors), Rotation.from_rotvec(vectors).as_matrix(), atol=1e-14
    )


def test_pose_distance_is_the_frobenius_norm_of_equation_5():
    a, b = poses(3, 5), poses(4, 6)
    distance = squared_pose_distance(a, b, translation_weight=0.5)
    for i in range(3):
        for j in range(4):
            difference = np.eye(3) - a.rotation[i].T @ b.rotation[j]
            shift = a.shift_xyz[i] - b.shift_xyz[j]
            expected = np.linalg.norm(difference) ** 2 + 0.5 * shift @ shift
            assert distance[i, j] == pytest.approx(expected, rel=1e-12)


def test_random_rotations_are_uniform_by_the_haar_measure():
    # Of a Haar-uniform rotation the angle has density (1 - cos) / pi: mean pi / 2 + 2 / pi.
    angle = rotation_angle_deg(
        np.eye(3), euler_to_matrix(random_rotations(20_000, np.random.default_rng(0)))
    )
    assert np.deg2rad(angle).mean() == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.02)


@pytest.mark.parametrize("step", [30.0, 15.0])
def test_covering_rotations_leave_no_rotation_farther_than_a_step(step):
    grid = euler_to_matrix(covering_rotations(step))
    trial = euler_to_matrix(random_rotations(300, np.random.default_rng(0)))
    trace = np.einsum("aij,bij->ab", trial, grid).max(axis=1)
    farthest = np.rad2deg(np.arccos((trace - 1) / 2)).max()
    assert farthest < step
    assert len(grid) == pytest.approx(8 * np.pi**2 / np.deg2rad(step) ** 3, rel=0.01)


def test_relion_angles_turn_the_particle_onto_the_reference():
    p = poses(6)
    particle_to_reference = Rotation.from_euler("ZYZ", relion_angles_deg(p), degrees=True)
    np.testing.assert_allclose(
        particle_to_reference.as_matrix(), np.swapaxes(p.rotation, 1, 2), atol=1e-12
    )
    back = from_relion(relion_angles_deg(p), relion_origin_angst(p, 4.2), 4.2)
    np.testing.assert_allclose(back.rotation, p.rotation, atol=1e-12)
    np.testing.assert_allclose(back.shift_xyz, p.shift_xyz, atol=1e-12)


def test_scipion_matrix_takes_a_point_of_the_particle_to_the_average():
    p = poses(6)
    in_average = np.array([3.0, -1.0, 2.0])
    in_particle = p.rotation @ in_average + p.shift_xyz
    matrices = scipion_matrices(p)
    homogeneous = np.concatenate([in_particle, np.ones((6, 1))], axis=1)
    back = np.einsum("mij,mj->mi", matrices, homogeneous)[:, :3]
    np.testing.assert_allclose(back, np.tile(in_average, (6, 1)), atol=1e-12)
    np.testing.assert_allclose(from_scipion_matrices(matrices).rotation, p.rotation, atol=1e-12)


def test_unequal_tables_of_angles_and_shifts_are_refused():
    with pytest.raises(ValueError, match=r"two \(M, 3\) arrays"):
        RigidTransforms(np.zeros((2, 3)), np.zeros((3, 3)))


def test_a_step_of_zero_degrees_is_refused():
    with pytest.raises(ValueError, match="angular step 0"):
        covering_rotations(0.0)


def test_of_a_pair_the_better_stays_unless_it_went_itself():
    # 0 drives out 1; 2 stays beside 1, which went; 4 goes for 3, and 5 stays.
    pairs = np.array([[4, 5], [1, 0], [3, 4], [1, 2]])
    for order in (slice(None), slice(None, None, -1)):
        kept = keep_better(6, pairs[order])
        assert kept.tolist() == [True, False, True, True, False, True]
    assert keep_better(2, np.zeros((0, 2), dtype=int)).all()
