"""A start that samples poses, and averages masked by the particle's diameter."""

from types import SimpleNamespace

import numpy as np
import pytest
from phantoms import blobs, particles

from scipion_faml import enhanced
from scipion_faml.dense import ShiftBlock, dense_plan
from scipion_faml.enhanced import Workbench
from scipion_faml.enhanced.sampling import drawn, temperature_of
from scipion_faml.evaluation.poses import pose_errors
from scipion_faml.execution import SerialExecutor, ThreadExecutor
from scipion_faml.geometry import rotation_angle_deg
from scipion_faml.model import FamlConfig
from scipion_faml.sources import ArraySource

N = 20


def settings(**options):
    given = {"n_iterations": 10, "dense_bandwidth": 16, "max_shift": 1.0, "n_folds": 8, **options}
    return FamlConfig(mode="enhanced", **given)


def median_error_deg(source, poses, config, executor=None):
    *_, last = enhanced.run(source, config, executor or SerialExecutor())
    zero = np.zeros(len(poses), dtype=int)
    errors = pose_errors(last.assignments.poses, poses, {0: np.eye(3)[None]}, zero, zero)
    return float(np.median(errors.rotation_deg)), last


def test_draws_are_as_frequent_as_the_posterior_says():
    plan = dense_plan(12, 3, 6, 1.0, 1.0)
    rng = np.random.default_rng(0)
    first, second = np.zeros((2, *plan.grid.shape, 2), dtype=np.float32)
    first[0, 1, 2], second[3, 0, 1] = (1.0, 2.0), (0.0, 4.0)
    third = np.zeros((*plan.grid.shape, 1), dtype=np.float32)
    third[2, 2, 2] = 3.0
    blocks = [[ShiftBlock(np.array([0, 4]), first, first.sum(axis=(0, 1, 2))),
               ShiftBlock(np.array([5, 6]), second, second.sum(axis=(0, 1, 2)))],
              [ShiftBlock(np.array([2]), third, third.sum(axis=(0, 1, 2)))]]
    posterior = SimpleNamespace(
        class_weight=np.array([0.7, 0.3]), blocks=blocks, evidence=1.0, n_effective=2.0)
    expected = {(0, (0, 1, 2, 0)): 0.1, (0, (0, 1, 2, 4)): 0.2, (0, (3, 0, 1, 6)): 0.4,
                (1, (2, 2, 2, 2)): 0.3}
    n_draws = 2000
    draws = [drawn(posterior, plan, rng) for _ in range(n_draws)]
    counted = 0
    for (k, index), share in expected.items():
        pose = plan.poses(tuple(np.array([i]) for i in index))
        same = [d.class_index == k and np.allclose(d.shift_xyz, pose.shift_xyz[0])
                and rotation_angle_deg(d.rotation, pose.rotation[0]) < 1e-3 for d in draws]
        counted += sum(same)
        # Four standard deviations of a binomial count.
        assert abs(np.mean(same) - share) < 4 * np.sqrt(share * (1 - share) / n_draws)
    assert counted == n_draws


def test_sampling_finds_an_average_that_a_random_start_misses():
    source, _, poses = particles([blobs(16, 0, width=0.08)], 14, snr=0.06, max_shift=0.5)
    plain, without = median_error_deg(source, poses, settings(dense_bandwidth=14))
    sampled, with_sampling = median_error_deg(
        source, poses, settings(dense_bandwidth=14, sampling_sweeps=30))
    assert plain > 30.0  # 36 to 39
    assert sampled < 20.0  # 12 to 13
    # Particles left out of their references tell which of the two is right.
    assert with_sampling.log_likelihood > without.log_likelihood


def test_the_temperature_is_held_and_falls_to_1():
    temperatures = [temperature_of(sweep, 30, 1.5) for sweep in range(30)]
    assert temperatures[:21] == [1.5] * 21
    assert np.all(np.diff(temperatures[20:]) < 0)
    assert temperatures[-1] == 1.0
    assert [temperature_of(sweep, 1, 1.5) for sweep in range(1)] == [1.0]


def test_sampling_is_the_same_on_any_number_of_workers():
    source, _, poses = particles([blobs(16, 0, width=0.08)], 10, snr=0.5, max_shift=0.5)
    config = settings(sampling_sweeps=4, n_iterations=1, dense_bandwidth=10)
    runs = [median_error_deg(source, poses, config, executor)[1]
            for executor in (SerialExecutor(), ThreadExecutor(2))]
    np.testing.assert_array_equal(runs[0].state.averages, runs[1].state.averages)


def test_sampling_separates_two_classes():
    maps = [blobs(N, 0, width=0.07), blobs(N, 1, width=0.07)]
    source, class_index, _ = particles(maps, 40, snr=0.3, max_shift=1.0)
    config = settings(n_classes=2, sampling_sweeps=20, n_iterations=2, dense_bandwidth=12)
    *_, last = enhanced.run(source, config)
    same = np.mean(last.assignments.class_index == class_index)
    assert max(same, 1.0 - same) > 0.9


def with_neighbours(source, strength, seed=5):
    """Three dense blobs in random places at the rim of every box."""
    rng, n = np.random.default_rng(seed), source.n
    grid = np.indices((n, n, n)) - n // 2
    volumes = source.volumes.copy()
    for volume in volumes:
        for _ in range(3):
            direction = rng.normal(size=3)
            centre = 8.0 * direction / np.linalg.norm(direction)
            squared = ((grid - centre[:, None, None, None]) ** 2).sum(axis=0)
            volume += strength * source.volumes.std() * np.exp(-squared / 8.0)
    return ArraySource(volumes, source.wedges, source.voxel_size_angst)


def test_a_particle_diameter_keeps_neighbours_out():
    source, _, poses = particles([blobs(N, 0, width=0.07)], 24, snr=1.0, max_shift=0.5)
    crowded = with_neighbours(source, 10.0)
    whole, without = median_error_deg(crowded, poses, settings(dense_bandwidth=12))
    config = settings(dense_bandwidth=12, particle_diameter_angst=120.0)
    masked, with_ball = median_error_deg(crowded, poses, config)
    assert masked < whole
    assert with_ball.log_likelihood > without.log_likelihood
    rim = np.linalg.norm(np.indices((N, N, N)) - N // 2, axis=0) > 8.5
    assert not with_ball.state.averages[0][rim].any()


def test_shells_below_the_high_pass_are_no_evidence():
    # A broad blob in noise lives on the first two shells of the box of 200 A.
    source, _, _ = particles([blobs(N, 0, n_blobs=1, radius=0.0, width=0.2)], 12, snr=0.5,
                             max_shift=0.5)
    evidence = {}
    for high_pass in (None, 60.0):
        config = settings(n_iterations=2, dense_bandwidth=10, high_pass_angst=high_pass)
        *_, last = enhanced.run(source, config)
        evidence[high_pass] = last.log_likelihood / len(source)
    assert evidence[None] > 50.0
    assert evidence[60.0] < 0.1 * evidence[None]


@pytest.mark.parametrize(
    ("high_pass", "first"), [(None, 1), (200.0, 1), (199.0, 2), (100.0, 2), (60.0, 4)])
def test_a_high_pass_leaves_out_shells_of_coarser_detail(high_pass, first):
    config = settings(high_pass_angst=high_pass)
    assert config.first_shell_of(20, 10.0) == first
    source, _, _ = particles([blobs(N, 0)], 2, snr=1.0)
    noise = Workbench(source, config, SerialExecutor()).compared(np.ones(8))
    np.testing.assert_array_equal(np.flatnonzero(noise == 1.0), np.arange(first - 1, 8))


def test_a_high_pass_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="choose a larger value"):
        settings(high_pass_angst=22.0).first_shell_of(20, 10.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"particle_diameter_angst": 0.0}, "particle_diameter_angst is 0"),
     ({"sampling_temperature": 0.5}, "must be at least 1"),
     ({"sampling_sweeps": -1}, "must be at least 0"),
     ({"sampling_sweeps": 5, "find_classes": True}, "a number of classes")],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        settings(**options)
