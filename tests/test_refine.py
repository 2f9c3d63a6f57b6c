"""Peaks of the posterior: where they are, and the integral that each stands for."""

import numpy as np
import oracles
import pytest
from oracles_gauss import Blobs, random_weight, smooth_weight
from scipy.special import logsumexp

from scipion_faml.fourier import turnable_spectrum
from scipion_faml.geometry import (
    euler_to_matrix,
    random_rotations,
    rotation_angle_deg,
    rotation_from_vector,
)
from scipion_faml.measured import WorkingBox
from scipion_faml.refine import (
    Peaks,
    climb,
    cubature,
    distinct,
    log_evidence,
    weighted_particle,
)
from scipion_faml.regularise import shell_of

STRUCTURE = Blobs(3, reach=0.25, width=0.06)


def measured_particle(n, rng, weight, level):
    """A particle in white noise, `level` its signal to noise: (measured, noise variances, pose)."""
    box = WorkingBox.of(n, min((n - 1) // 2, 7))
    rotation, shift = euler_to_matrix(random_rotations(1, rng)[0]), rng.uniform(-1, 1, 3)
    volume = STRUCTURE.volume(n, rotation, shift)
    noise = volume.std() / level
    noisy = volume + noise * rng.normal(size=volume.shape)
    measured = box.measure(0, noisy.astype(np.float32), weight)
    return measured, np.full(box.radius, noise**2 * n**3), rotation, shift


def average_of(measured, n):
    """The structure's turnable spectrum in the working box: the samples of a box of n."""
    samples = measured.wedge.samples
    return turnable_spectrum(STRUCTURE.volume(samples.n) * (n / samples.n) ** 3, samples.radius)


@pytest.mark.parametrize("n", [9, 10])
def test_the_log_likelihood_is_equation_15_with_the_noise_of_every_shell(n):
    rng = np.random.default_rng(n)
    measured, _, rotation, shift = measured_particle(n, rng, random_weight(n, rng), 1.0)
    samples, average = measured.wedge.samples, average_of(measured, n)
    noise = rng.uniform(1, 3, int(samples.radius)) * 1e4
    found = climb(
        weighted_particle(measured, noise), average, rotation[None], shift[None], 1.7, max_steps=0)
    model = oracles.model_at_pose(average, 2.0, samples.axes, n, rotation, shift)
    w = measured.wedge.weight
    fit = (measured.values.conj() * model).real - 0.5 * w * np.abs(model) ** 2
    expected = np.sum(samples.multiplicity * fit / noise[shell_of(samples)])
    expected -= np.sum(shift**2) / (2 * 1.7**2)
    assert found.log_likelihood[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n", [23, 24])
def test_a_noisy_particle_is_climbed_to_within_its_own_uncertainty(n):
    rng = np.random.default_rng(n)
    for _ in range(3):
        measured, noise, rotation, shift = measured_particle(n, rng, smooth_weight(n, rng), 0.5)
        particle = weighted_particle(measured, noise)
        start = rotation_from_vector(np.deg2rad([3.0, -4.0, 3.0])) @ rotation
        peaks = climb(particle, average_of(measured, n), start[None], shift[None] + 0.4, 3.0)
        ratio = WorkingBox.of(n, 7).voxel_ratio
        covariance = np.linalg.inv(peaks.curvature[0])
        turn = np.deg2rad(rotation_angle_deg(peaks.rotation[0], rotation))
        assert turn < 4 * np.sqrt(np.trace(covariance[:3, :3])) + np.deg2rad(0.3)
        moved = np.linalg.norm(peaks.shift_xyz[0] - shift / ratio)
        assert moved < 4 * np.sqrt(np.trace(covariance[3:, 3:])) + 0.02


def log_integral_around(peaks, particle, average, zeta, rng, n_draws=1500):
    """The integral over all six dimensions, by samples of a Gaussian wider than the peak."""
    factor = 1.2 * np.linalg.cholesky(np.linalg.inv(peaks.curvature[0]))
    normal = rng.normal(size=(n_draws, 6))
    step = normal @ factor.T
    log_density = -0.5 * np.sum(normal**2, axis=1) - 3 * np.log(2 * np.pi)
    log_density -= np.linalg.slogdet(factor)[1]
    there = climb(
        particle, average, rotation_from_vector(step[:, :3]) @ peaks.rotation[0],
        peaks.shift_xyz[0] + step[:, 3:], zeta, max_steps=0)
    angle = np.linalg.norm(step[:, :3], axis=1)
    haar = 2 * (1 - np.cos(angle)) / angle**2  # of rotation vectors
    total = logsumexp(there.log_likelihood - log_density + np.log(haar)) - np.log(n_draws)
    # Uniform over the 8 pi^2 of SO(3), Gaussian of width zeta over shifts.
    return total - np.log(8 * np.pi**2) - 1.5 * np.log(2 * np.pi * zeta**2)


@pytest.mark.parametrize("n", [23, 24])
@pytest.mark.parametrize("level", [0.6, 2.0])
def test_the_evidence_of_a_sharp_peak_is_its_integral_over_all_six_dimensions(n, level):
    differences, zeta = [], 2.0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        measured, noise, rotation, shift = measured_particle(n, rng, smooth_weight(n, rng), level)
        particle, average = weighted_particle(measured, noise), average_of(measured, n)
        peaks = climb(particle, average, rotation[None], shift[None], zeta, max_steps=30)
        expected = log_integral_around(peaks, particle, average, zeta, rng)
        differences.append(log_evidence(peaks, zeta)[0] - expected)
    # Gauss and Newton's curvature knows nothing of the noise's own: right on average.
    assert np.mean(differences) == pytest.approx(0.0, abs=0.1)
    assert np.abs(differences).max() < 0.35


def random_curvature(rng):
    """A curvature with correlated turns and shifts, some degrees and tenths of voxels wide."""
    root = rng.normal(size=(6, 6)) * np.array([12, 20, 30, 3, 4, 5])[:, None]
    return root @ root.T + np.diag([200.0, 200, 200, 5, 5, 5])


def rotation_vector(rotation):
    skew = np.array([
        rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0],
        rotation[1, 0] - rotation[0, 1]])
    sine = np.linalg.norm(skew) / 2
    return skew / 2 * (np.arcsin(sine) / sine)


def test_twelve_poses_have_the_mean_and_covariance_of_the_peak():
    rng = np.random.default_rng(0)
    rotation, shift = euler_to_matrix(random_rotations(1, rng)[0]), rng.normal(size=3)
    curvature = random_curvature(rng)
    rotations, shifts = cubature(rotation, shift, curvature, widest_turn_deg=90.0)
    assert rotations.shape == (12, 3, 3)
    steps = np.concatenate(
        [[rotation_vector(r @ rotation.T) for r in rotations], shifts - shift], axis=1)
    np.testing.assert_allclose(steps.mean(axis=0), 0.0, atol=1e-12)
    expected = np.linalg.inv(curvature)
    np.testing.assert_allclose(steps.T @ steps / 12, expected, atol=1e-9 * expected.max())


def test_poses_spread_no_wider_than_allowed():
    curvature = np.diag([0.01, 1e-12, 5.0, 1.0, 1.0, 1.0])
    rotations, shifts = cubature(np.eye(3), np.zeros(3), curvature, widest_turn_deg=15.0)
    angle = rotation_angle_deg(rotations, np.eye(3))
    assert angle.max() == pytest.approx(15.0)
    assert np.isfinite(shifts).all()


def test_of_peaks_at_one_place_the_highest_is_kept():
    about_x = np.deg2rad([0.0, 1.0, 9.0, 0.0, 1.0])
    turn = rotation_from_vector(about_x[:, None] * [1.0, 0.0, 0.0])
    shift = np.array([[0.0, 0, 0], [0, 0, 0], [0, 0, 0], [2, 0, 0], [2, 0.1, 0]])
    height = np.array([1.0, 3.0, 2.0, 0.5, 0.7])
    peaks = Peaks(turn, shift, height, np.tile(np.eye(6), (5, 1, 1)))
    np.testing.assert_array_equal(distinct(peaks, 3.0, 0.3, 10), [1, 2, 4])
    np.testing.assert_array_equal(distinct(peaks, 3.0, 0.3, 2), [1, 2])
    kept = peaks.select(distinct(peaks, 3.0, 0.3, 1))
    assert len(kept) == 1
    np.testing.assert_allclose(kept.transforms.rotation[0], turn[1], atol=1e-12)
