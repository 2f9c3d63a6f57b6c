import numpy as np
import pytest

from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.voronoi import sample_poses, voronoi_weights


def test_shares_are_those_of_a_direct_nearest_neighbour_search():
    rng = np.random.default_rng(0)
    candidates = RigidTransforms(random_rotations(7, rng), rng.normal(0, 1, (7, 3)))
    weights = voronoi_weights(candidates, np.random.default_rng(5), 400, translation_weight=0.7)
    points = sample_poses(candidates, 400, np.random.default_rng(5))
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
    straight = voronoi_weights(candidates, np.random.default_rng(2))
    shuffled = voronoi_weights(candidates[order], np.random.default_rng(2))
    assert straight.sum() == pytest.approx(1.0)
    np.testing.assert_array_equal(straight[order], shuffled)


def test_two_opposite_shifts_share_the_space_evenly():
    candidates = RigidTransforms(np.zeros((2, 3)), [[-3.0, 0, 0], [3.0, 0, 0]])
    weights = voronoi_weights(candidates, np.random.default_rng(0))
    np.testing.assert_allclose(weights, 0.5, atol=0.02)  # four standard errors


def test_a_single_candidate_owns_everything():
    one = RigidTransforms.identity(1)
    assert voronoi_weights(one, np.random.default_rng(0)) == [1.0]


def test_no_candidate_is_an_error():
    with pytest.raises(ValueError, match="no candidate"):
        voronoi_weights(RigidTransforms.identity(0), np.random.default_rng(0))


def test_euler_angles_of_the_points_are_uniform_and_shifts_stay_in_the_candidates_box():
    candidates = RigidTransforms(np.zeros((2, 3)), [[-1.0, 0, 2], [3.0, 0, 5]])
    points = sample_poses(candidates, 4000, np.random.default_rng(0))
    assert points.euler_zyz.mean(axis=0) == pytest.approx(np.full(3, np.pi), abs=0.1)
    assert points.euler_zyz.max() <= 2 * np.pi
    assert (points.shift_xyz >= [-1, 0, 2]).all()
    assert (points.shift_xyz <= [3, 0, 5]).all()
