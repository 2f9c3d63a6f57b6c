"""The kernels of enhanced mode against their brute-force twins."""

import numpy as np
import oracles
import pytest
from oracles_gauss import Blobs, random_weight
from scipion_faml.cython_ext import _local, _posterior

from scipion_faml.fourier import sample_set, turnable_spectrum
from scipion_faml.geometry import (
    euler_to_matrix,
    random_rotations,
    rotation_angle_deg,
    rotation_from_vector,
)

ROTATION = euler_to_matrix(np.array([0.4, 1.1, -0.8]))


def frozen(array):
    array.flags.writeable = False
    return array


# ------------------------------------------------------------------------------------- climbing
class Problem:
    """A particle of noise and an average, as `_local.refine` takes them."""

    def __init__(self, n, seed, shift_precision=0.3, noise=1.0):
        rng = np.random.default_rng(seed)
        samples = sample_set(n)
        structure = Blobs(seed, reach=0.2, width=0.1)
        self.n, self.shift_precision = n, shift_precision
        self.table = frozen(turnable_spectrum(structure.volume(n), samples.radius))
        observed = rng.permutation(len(samples))[:120]
        self.points = frozen(np.ascontiguousarray(samples.axes[:, observed]))
        weight = samples.take(random_weight(n, rng))[observed] * samples.multiplicity[observed]
        weight = weight / (0.02 * np.abs(self.table).max() ** 2)
        self.truth = euler_to_matrix(random_rotations(1, rng)[0]), rng.uniform(-1, 1, 3)
        model = oracles.model_at_pose(self.table, 2.0, self.points, n, *self.truth)
        disturbed = model + noise * 0.05 * np.abs(self.table).max() * (
            rng.normal(size=len(model)) + 1j * rng.normal(size=len(model)))
        self.weight = frozen(weight.astype(np.float32))
        self.weighted = frozen((disturbed * weight).astype(np.complex64))

    def refine(self, rotation, shift_xyz, max_steps, max_turn=0.5, max_move=2.0):
        rotation, shift_xyz = rotation[None].copy(), shift_xyz[None].copy()
        out, curvature = np.empty((1, 2)), np.empty((1, 6, 6))
        _local.refine(
            self.table, 2.0, self.points, self.weighted, self.weight, float(self.n),
            self.shift_precision, max_steps, max_turn, max_move, rotation, shift_xyz, out,
            curvature,
        )
        return rotation[0], shift_xyz[0], out[0], curvature[0]

    def log_likelihood(self, rotation, shift_xyz):
        return oracles.pose_log_likelihood(
            self.table, 2.0, self.points, self.weighted, self.weight, self.n,
            self.shift_precision, rotation, shift_xyz,
        )

    def moved(self, step):
        """The true pose, turned and shifted by (6,)."""
        return rotation_from_vector(step[:3]) @ self.truth[0], self.truth[1] + step[3:]

    def differences(self, function, eps=1e-5):
        """Derivatives of a function of the pose along the six directions, at the true pose."""
        return np.array([
            (function(*self.moved(eps * e)) - function(*self.moved(-eps * e))) / (2 * eps)
            for e in np.eye(6)
        ])


@pytest.mark.parametrize("n", [7, 8])
def test_the_log_likelihood_of_a_pose_is_the_sum_over_samples(n):
    problem = Problem(n, n)
    pose = problem.moved(np.array([0.2, -0.1, 0.3, 0.4, 0.1, -0.6]))
    found = problem.refine(*pose, max_steps=0)[2][0]
    assert found == pytest.approx(problem.log_likelihood(*pose), rel=1e-6)


@pytest.mark.parametrize("n", [7, 8])
def test_the_curvature_is_the_gauss_newton_matrix_of_finite_differences(n):
    problem = Problem(n, n)
    curvature = problem.refine(*problem.truth, max_steps=0)[3]
    derivative = problem.differences(
        lambda r, t: oracles.model_at_pose(problem.table, 2.0, problem.points, n, r, t))
    expected = (derivative.conj() * problem.weight @ derivative.T).real
    expected[3:, 3:] += problem.shift_precision * np.eye(3)
    np.testing.assert_allclose(curvature, expected, rtol=1e-4, atol=1e-4 * expected.max())
    assert np.array_equal(curvature, curvature.T)


@pytest.mark.parametrize("n", [7, 8])
def test_the_first_step_is_the_damped_newton_step_of_the_gradient(n):
    problem = Problem(n, n, noise=0.3)
    gradient = problem.differences(problem.log_likelihood)
    rotation, shift, out, _ = problem.refine(*problem.truth, max_steps=1)
    turn = rotation @ problem.truth[0].T
    vector = 0.5 * np.array(
        [turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    vector *= np.arcsin(np.linalg.norm(vector)) / np.linalg.norm(vector)
    step = np.concatenate([vector, shift - problem.truth[1]])
    curvature = problem.refine(*problem.truth, max_steps=0)[3]
    damped = curvature + 1e-3 * np.diag(np.diag(curvature))
    tolerance = 2e-3 * np.abs(gradient).max()  # kinks of the interpolation within the step
    np.testing.assert_allclose(damped @ step, gradient, atol=tolerance)
    assert out[0] > problem.log_likelihood(*problem.truth)
    assert out[1] == 1


@pytest.mark.parametrize("n", [7, 8])
def test_the_top_has_no_slope_and_is_higher_than_all_around_it(n):
    problem = Problem(n, n)
    rotation, shift, out, _ = problem.refine(*problem.truth, max_steps=50)
    rng = np.random.default_rng(0)
    around = [
        problem.log_likelihood(
            rotation_from_vector(0.05 * rng.normal(size=3)) @ rotation,
            shift + 0.1 * rng.normal(size=3))
        for _ in range(20)
    ]
    # Steps end when they gain less than 0.001; interpolation puts small kinks into the slope.
    assert out[0] > max(around) - 5e-3
    assert out[0] == pytest.approx(problem.log_likelihood(rotation, shift), rel=1e-6)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)


def climb_from_nearby(structure, n, observed_of, seed):
    """Errors (deg, voxels) of poses climbed to from 8 deg and half a voxel away, four of them."""
    rng, samples = np.random.default_rng(seed), sample_set(n)
    table = turnable_spectrum(structure.volume(n), samples.radius)
    weight = (samples.multiplicity * samples.take(random_weight(n, rng))).astype(np.float32)
    weight /= 1e-4 * np.abs(table).max() ** 2
    errors = []
    for _ in range(4):
        truth, shift = euler_to_matrix(random_rotations(1, rng)[0]), rng.uniform(-2, 2, 3)
        observed = observed_of(table, samples.axes, truth, shift)
        turn = rng.normal(size=3)
        rotation = rotation_from_vector(np.deg2rad(8.0) * turn / np.linalg.norm(turn)) @ truth
        rotation, moved = rotation[None].copy(), shift[None] + rng.uniform(-0.6, 0.6, (1, 3))
        _local.refine(
            table, 2.0, samples.axes, (observed * weight).astype(np.complex64), weight, float(n),
            1e-6, 30, 0.1, 1.0, rotation, moved, np.empty((1, 2)), np.empty((1, 6, 6)),
        )
        angle = float(rotation_angle_deg(rotation[0], truth))
        errors.append((angle, np.linalg.norm(moved[0] - shift)))
    return np.array(errors)


@pytest.mark.parametrize("n", [15, 16])
def test_a_particle_made_of_its_average_is_climbed_to_its_pose(n):
    def observed_of(table, points, rotation, shift):
        return oracles.model_at_pose(table, 2.0, points, n, rotation, shift)

    structure = Blobs(3, reach=0.25, width=0.07)
    assert climb_from_nearby(structure, n, observed_of, n).max() < 1e-3


@pytest.mark.parametrize("n", [23, 24])
def test_a_particle_without_noise_is_climbed_to_its_exact_pose(n):
    structure = Blobs(3, reach=0.25, width=0.05)
    angle, shift = climb_from_nearby(
        structure, n, lambda _, *pose: structure.spectrum_at(pose[0], n, *pose[1:]), n).T
    # What is left comes from the trilinear interpolation of the average.
    assert angle.max() < 0.1
    assert shift.max() < 0.02


def test_poses_that_may_not_move_stay_where_they_are():
    problem = Problem(8, 0)
    rotation, shift, out, _ = problem.refine(*problem.truth, max_steps=0)
    np.testing.assert_array_equal(rotation, problem.truth[0])
    np.testing.assert_array_equal(shift, problem.truth[1])
    assert out[1] == 0


def test_no_step_is_longer_than_allowed():
    problem = Problem(8, 1)
    start = problem.moved(np.array([0.3, 0.3, 0.0, 1.0, 0.0, 0.5]))
    rotation, shift, _, _ = problem.refine(*start, max_steps=1, max_turn=0.01, max_move=0.02)
    assert 0 < np.deg2rad(rotation_angle_deg(rotation, start[0])) < 0.01 + 1e-9
    assert np.linalg.norm(shift - start[1]) < 0.02 + 1e-9


@pytest.mark.parametrize("shape_of", ["points", "weighted", "weight", "rotation", "shift", "out"])
def test_climbing_refuses_what_does_not_fit(shape_of):
    arguments = {
        "table": np.zeros((9, 9, 5), np.complex64), "scale": 2.0,
        "points": np.zeros((3, 2), np.float32), "weighted": np.zeros(2, np.complex64),
        "weight": np.zeros(2, np.float32), "n_box": 4.0, "precision": 1.0, "steps": 0,
        "turn": 0.1, "move": 1.0, "rotation": np.eye(3)[None].copy(), "shift": np.zeros((1, 3)),
        "out": np.zeros((1, 2)), "curvature": np.zeros((1, 6, 6)),
    }
    _local.refine(*arguments.values())
    bad = np.zeros((4, 4), np.float32) if shape_of == "points" else arguments[shape_of]
    arguments[shape_of] = bad if shape_of == "points" else np.concatenate([bad, bad])
    with pytest.raises(ValueError, match="points are|rotations must be"):
        _local.refine(*arguments.values())


@pytest.mark.parametrize("far", [[2.0, 0.0, 0.0], [0.0, -1.5, 1.5], [0.0, 0.0, np.nan]])
def test_climbing_refuses_points_that_a_turn_takes_out_of_the_table(far):
    with pytest.raises(ValueError, match="outside the table"):
        _local.refine(
            np.zeros((9, 9, 5), np.complex64), 2.0, np.array(far, np.float32)[:, None],
            np.zeros(1, np.complex64), np.zeros(1, np.float32), 4.0, 1.0, 0, 0.1, 1.0,
            np.eye(3)[None].copy(), np.zeros((1, 3)), np.zeros((1, 2)), np.zeros((1, 6, 6)),
        )


@pytest.mark.parametrize("matrix", [1.1 * np.eye(3), np.full((3, 3), np.nan), np.zeros((3, 3))])
def test_climbing_refuses_what_is_not_a_rotation(matrix):
    problem = Problem(7, 0)
    with pytest.raises(ValueError, match="matrix 0 is not a rotation"):
        problem.refine(matrix, np.zeros(3), max_steps=0)


def test_data_that_are_not_finite_move_no_pose():
    problem = Problem(7, 0)
    problem.weighted = np.full_like(problem.weighted, np.nan)
    rotation, shift, out, _ = problem.refine(*problem.truth, max_steps=5)
    np.testing.assert_array_equal(rotation, problem.truth[0])
    np.testing.assert_array_equal(shift, problem.truth[1])
    assert np.isnan(out[0])


def test_climbing_refuses_a_table_of_another_shape():
    with pytest.raises(ValueError, match="is not"):
        _local.refine(
            np.zeros((8, 8, 5), np.complex64), 2.0, np.zeros((3, 1), np.float32),
            np.zeros(1, np.complex64), np.zeros(1, np.float32), 4.0, 1.0, 0, 0.1, 1.0,
            np.eye(3)[None].copy(), np.zeros((1, 3)), np.zeros((1, 2)), np.zeros((1, 6, 6)),
        )


# --------------------------------------------------------------------------------- turning back
@pytest.mark.parametrize("n", [7, 8])
def test_particles_moved_back_are_summed_over_poses(n):
    rng = np.random.default_rng(n)
    samples = sample_set(n)
    table = frozen(turnable_spectrum(rng.normal(size=(n,) * 3).astype(np.float32), samples.radius))
    points = frozen(samples.axes.copy())
    rotation = frozen(euler_to_matrix(random_rotations(3, rng)))
    shift = frozen(np.concatenate([np.zeros((1, 3)), rng.uniform(-2, 2, (2, 3))]))
    weight = frozen(rng.uniform(0, 1, 3))
    start = rng.normal(size=len(samples)) + 0j
    out = start.copy()
    _local.add_turned_back(table, 2.0, points, float(n), rotation, shift, weight, out)
    expected = oracles.turned_back(table, 2.0, points, n, rotation, shift, weight)
    np.testing.assert_allclose(out - start, expected, atol=1e-5 * np.abs(table).max())


def turning_arguments():
    """Arguments that fit, as a dict in the kernel's order."""
    return {
        "table": np.zeros((9, 9, 5), np.complex64), "scale": 2.0,
        "points": np.ones((3, 2), np.float32), "n_box": 4.0, "rotation": np.eye(3)[None].copy(),
        "shift": np.zeros((1, 3)), "weight": np.ones(1), "out": np.zeros(2, np.complex128),
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("table", np.zeros((8, 8, 5), np.complex64), "is not"),
        ("points", np.ones((2, 2), np.float32), "points must be"),
        ("points", np.full((3, 2), 1.5, np.float32), "outside the table"),
        ("points", np.full((3, 2), np.nan, np.float32), "outside the table"),
        ("rotation", np.eye(3)[None].repeat(2, axis=0), "2 rotations"),
        ("rotation", 1.2 * np.eye(3)[None], "matrix 0 is not a rotation"),
        ("rotation", np.full((1, 3, 3), np.nan), "matrix 0 is not a rotation"),
        ("shift", np.zeros((2, 3)), "2 shifts"),
        ("weight", np.ones(3), "3 weights"),
        ("out", np.zeros(3, np.complex128), "out"),
    ],
)
def test_turning_back_refuses_what_does_not_fit(name, value, message):
    arguments = turning_arguments()
    _local.add_turned_back(*arguments.values())
    arguments[name] = value
    with pytest.raises(ValueError, match=message):
        _local.add_turned_back(*arguments.values())


# ---------------------------------------------------------------------------------------- priors
@pytest.mark.parametrize(("n_beta", "n_shifts"), [(1, 1), (3, 5), (5, 16), (4, 19)])
def test_norms_and_priors_are_added_as_written(n_beta, n_shifts):
    rng = np.random.default_rng(0)
    joint = rng.normal(size=(4 * n_beta, n_shifts)).astype(np.float32)
    norm = frozen(rng.normal(size=4 * n_beta).astype(np.float32))
    prior = frozen(rng.normal(size=(n_beta, n_shifts)).astype(np.float32))
    expected, highest = oracles.add_prior(joint, norm, prior, -0.7)
    peak = np.empty(n_shifts, dtype=np.float32)
    _posterior.add_prior(joint, norm, prior, -0.7, peak)
    np.testing.assert_allclose(joint, expected, atol=1e-5)
    np.testing.assert_allclose(peak, highest, atol=1e-5)


@pytest.mark.parametrize("shapes", [(5, 6, 2, 3), (6, 6, 4, 3), (6, 6, 2, 4), (6, 6, 0, 3)])
def test_priors_of_another_grid_are_refused(shapes):
    n_norm, n_rotations, n_beta, n_peaks = shapes
    with pytest.raises(ValueError, match="joint is"):
        _posterior.add_prior(
            np.zeros((n_rotations, 3), np.float32), np.zeros(n_norm, np.float32),
            np.zeros((n_beta, 3), np.float32), 0.0, np.zeros(n_peaks, np.float32),
        )
