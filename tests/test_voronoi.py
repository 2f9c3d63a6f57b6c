import numpy as np
import pytest

from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.voronoi import pose_points, voronoi_weights


def test_shares_are_those_of_a_direct_nearest_neighbour_search():
    rng = np.random.default_rng(0)
    candidates = RigidTransforms(random_rotations(7, rng), rng.normal(0, 1, (7, 3)))
    weights = voronoi_weights(candidates, pose_points(400, seed=5), translation_weight=0.7)
    points = pose_points(400, seed=5).within(candidates)
    counts = np.zeros(7)
    for p in range(400):
        tau = [
            np.linalg.norm(np.eye(3) - r.T @ points.rotation[p]) ** 2
            + 0.7 * np.sum((t - points.shift_xyz[p]) ** 2)
            for r, t in zip(candidates.rotation, candidates.shift_xyz, strict=True)
        ]
        counts[np.argmin(tau)] += 1
    np.testing.assert_allclose(weights, counts / 400, atol=1e-12)


def test_shares_sum_to_one_and_do_not_depend_on_the_order_of_candidates():
    rng = np.random.default_rng(1)
    candidates = RigidTransforms(random_rotations(10, rng), rng.normal(0, 2, (10, 3)))
    order = rng.permutation(10)
    straight = voronoi_weights(candidates, pose_points())
    shuffled = voronoi_weights(candidates[order], pose_points())
    assert straight.sum() == pytest.approx(1.0)
    np.testing.assert_array_equal(straight[order], shuffled)


def test_two_opposite_shifts_share_the_space_evenly():
    candidates = RigidTransforms(np.zeros((2, 3)), [[-3.0, 0, 0], [3.0, 0, 0]])
    weights = voronoi_weights(candidates, pose_points())
    np.testing.assert_allclose(weights, 0.5, atol=0.02)  # four standard errors


def test_a_single_candidate_owns_everything():
    one = RigidTransforms.identity(1)
    assert voronoi_weights(one, pose_points(100)) == [1.0]


def test_no_candidate_is_an_error():
    with pytest.raises(ValueError, match="no candidate"):
        voronoi_weights(RigidTransforms.identity(0), pose_points(100))


def test_euler_angles_of_the_points_are_uniform_and_shifts_stay_in_the_candidates_box():
    candidates = RigidTransforms(np.zeros((2, 3)), [[-1.0, 0, 2], [3.0, 0, 5]])
    points = pose_points(4000).within(candidates)
    assert points.euler_zyz.mean(axis=0) == pytest.approx(np.full(3, np.pi), abs=0.1)
    assert points.euler_zyz.max() <= 2 * np.pi
    assert (points.shift_xyz >= [-1, 0, 2]).all()
    assert (points.shift_xyz <= [3, 0, 5]).all()


def test_another_seed_gives_other_points_and_the_same_seed_the_same():
    assert (pose_points(50, 1).euler_zyz != pose_points(50, 2).euler_zyz).all()
    pose_points.cache_clear()
    first = pose_points(50, 1).features.copy()
    pose_points.cache_clear()
    np.testing.assert_array_equal(pose_points(50, 1).features, first)
