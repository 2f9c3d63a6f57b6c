import itertools
from dataclasses import replace

import numpy as np
import oracles
import pytest
from phantoms import blobs, particles

from scipion_faml import em, fourier
from scipion_faml.align import Candidates, observe, prepare_reference, prepare_wedge, score_pose
from scipion_faml.em import (
    Assignment,
    SufficientStatistics,
    accumulate,
    assign,
    hard_assignment,
    imputed_average,
    log_joint,
    m_step,
    observed_average,
    responsibilities,
    without_small,
)
from scipion_faml.fourier import sample_set, spectrum, volume_from_spectrum
from scipion_faml.geometry import RigidTransforms
from scipion_faml.harmonics import shell_plan
from scipion_faml.model import ModelState
from scipion_faml.sources import ArraySource
from scipion_faml.wedge import MissingWedge

QUARTER_TURNS = [
    r
    for r in (
        np.array(p) * np.array(s)[:, None]
        for p in itertools.permutations(np.eye(3))
        for s in itertools.product((-1, 1), repeat=3)
    )
    if np.linalg.det(r) > 0
]


@pytest.fixture
def exact_turns(monkeypatch):
    """Without its real-space windows a turn by multiples of 90 deg only permutes samples."""
    for module, name in (
        (em, "inscribed_sphere"), (fourier, "_corrected_ball"),
        (fourier, "_interpolation_correction"),
    ):
        monkeypatch.setattr(module, name, lambda n: np.ones((n, n, n), np.float32))


def candidates_at(observation, references, rotations, shifts):
    """All rotations and shifts for all classes, with equal Voronoi weights."""
    rows = []
    for k, reference in enumerate(references):
        for r in rotations:
            model = reference.turned(r)
            rows += [(r, t, k, *score_pose(observation, model, t)) for t in shifts]
    rotation, shift, k, cross, power = (np.array(c) for c in zip(*rows, strict=True))
    return Candidates(
        RigidTransforms.from_rotation(rotation, shift), k, cross / np.sqrt(power), cross, power,
        np.full(len(k), 1 / (len(k) / len(references))),
    )


def test_responsibilities_survive_exponents_that_underflow():
    log_e = np.array([-1e5, -1e5 + np.log(3.0)])
    np.testing.assert_allclose(responsibilities(log_e, np.ones(2)), [0.25, 0.75])


def test_responsibilities_weigh_candidates_by_their_voronoi_share():
    found = responsibilities(np.zeros(3), np.array([0.5, 0.3, 0.2]))
    np.testing.assert_allclose(found, [0.5, 0.3, 0.2])


def test_responsibilities_of_unequal_tables_are_refused():
    with pytest.raises(ValueError, match="2 log_joint values but 3"):
        responsibilities(np.zeros(2), np.ones(3))


def test_small_responsibilities_vanish_and_the_rest_sums_to_one():
    np.testing.assert_allclose(without_small(np.array([0.6, 0.3999, 1e-4]), 1e-3).sum(), 1.0)
    assert without_small(np.array([0.6, 0.3999, 1e-4]), 1e-3)[2] == 0.0


@pytest.mark.parametrize("n", [7, 8])
def test_log_joint_is_equation_15_summed_over_every_fourier_sample(n, exact_turns):
    rng = np.random.default_rng(n)
    samples, plan = sample_set(n), shell_plan(4, 3)
    wedge = MissingWedge(-50, 60).mask(n)
    volume, average = rng.normal(size=(2, n, n, n)).astype(np.float32)
    observation = observe(volume, prepare_wedge(wedge, samples, plan))
    rotation, shift = QUARTER_TURNS[5], np.array([0.5, -1.0, 2.0])
    reference = prepare_reference(average, samples, plan)
    found = candidates_at(observation, [reference], [rotation], [shift])
    state = ModelState(average[None], np.array([0.3]), sigma=20.0, zeta=1.5)
    # The same by hand: turn the average voxel by voxel in Fourier space, over the whole spectrum.
    full = oracles.full_spectrum(spectrum(average.astype(float)), n)
    observed = oracles.full_spectrum(spectrum(volume.astype(float)), n)
    kept = oracles.full_spectrum(samples.put(np.ones(len(samples))) * wedge, n).real
    axis = np.fft.fftfreq(n, 1 / n).round().astype(int)
    model = np.zeros((n, n, n), complex)
    for iz, iy, ix in np.ndindex(n, n, n):
        k = np.array([axis[ix], axis[iy], axis[iz]])
        source = np.rint(rotation.T @ k).astype(int) % n
        model[iz, iy, ix] = full[tuple(source[::-1])] * np.exp(-2j * np.pi * (k @ shift) / n)
    expected = oracles.log_joint(observed, model, kept, 0.3, 20.0, 1.5, shift)
    # float32 spectra, squared and summed over some 200 samples.
    assert log_joint(found, observation.power, state)[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n", [7, 8])
def test_the_statistics_give_equations_10_to_13(n, exact_turns):
    rng = np.random.default_rng(0)
    samples, plan = sample_set(n), shell_plan(4, 3)
    wedge = MissingWedge(-60, 45).mask(n)
    volumes = rng.normal(size=(3, n, n, n)).astype(np.float32)
    averages = rng.normal(size=(2, n, n, n)).astype(np.float32)
    state = ModelState(averages, np.array([0.4, 0.6]), sigma=25.0, zeta=2.0)
    references = [prepare_reference(a, samples, plan) for a in averages]
    shifts = [np.zeros(3), np.array([1.0, 0.0, -1.0])]
    statistics = SufficientStatistics.zero(2, samples)
    parts = []
    for i, volume in enumerate(volumes):
        observation = observe(volume, prepare_wedge(wedge, samples, plan), i)
        found = candidates_at(observation, references, QUARTER_TURNS[3:6], shifts)
        parts.append((observation, assign(observation, found, state)))
        statistics = accumulate(statistics, *parts[-1], i % 2)
    current = [r.turned(np.eye(3)) for r in references]
    new = m_step(statistics, state, current, samples)

    # Equations 10 to 13 as sums over particles, candidates and whole volumes.
    signal, weight, sq_residual, sq_shift = np.zeros((2, n, n, n)), np.zeros(2), 0.0, 0.0
    n_samples = samples.n_total
    kept = samples.put(np.ones(len(samples)))
    for observation, assignment in parts:
        c = assignment.candidates
        for gamma, r, t, k in zip(
            assignment.responsibility, c.transforms.rotation, c.transforms.shift_xyz, c.class_index,
            strict=True,
        ):
            turned_w = np.zeros_like(wedge)
            turned_x = np.zeros((n, n, n // 2 + 1), complex)
            x_full = oracles.full_spectrum(spectrum(volumes[observation.index].astype(float)), n)
            w_full = oracles.full_spectrum(wedge, n).real
            for iz, iy, ix in np.argwhere(kept):
                signed = [v - n if v > n // 2 else v for v in (ix, iy, iz)]
                there = np.rint(r @ signed).astype(int)
                turned_w[iz, iy, ix] = w_full[tuple(there[::-1] % n)]
                turned_x[iz, iy, ix] = x_full[tuple(there[::-1] % n)] * np.exp(
                    2j * np.pi * (there @ t) / n
                )
            old = spectrum(averages[k].astype(float)) * kept
            signal[k] += gamma * volume_from_spectrum(turned_w * turned_x + (1 - turned_w) * old, n)
            weight[k] += gamma
            model = references[k].turned(r)
            _, power = score_pose(observation, model, t)
            cross, _ = score_pose(observation, model, t)
            n_observed = observation.wedge.n_observed
            sq_residual += gamma * (observation.power + power - 2 * cross)
            sq_residual += gamma * (n_samples - n_observed) * state.sigma**2
            sq_shift += gamma * t @ t
    np.testing.assert_allclose(new.alpha, weight / 3, rtol=1e-9)  # Eq. 11
    assert new.sigma**2 == pytest.approx(sq_residual / (3 * n_samples), rel=1e-5)  # Eq. 12
    assert new.zeta**2 == pytest.approx(sq_shift / 9, rel=1e-9)  # Eq. 13
    for k in range(2):
        if weight[k] >= 1:
            np.testing.assert_allclose(new.averages[k], signal[k] / weight[k], atol=2e-4)  # Eq. 10


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("n_classes", [1, 2])
def test_the_likelihood_never_falls_for_fixed_candidates(n, n_classes, exact_turns):
    rng = np.random.default_rng(1)
    samples, plan = sample_set(n), shell_plan(4, 3)
    wedge = MissingWedge(-60, 60).mask(n)
    volumes = rng.normal(size=(6, n, n, n)).astype(np.float32)
    prepared = prepare_wedge(wedge, samples, plan)
    observations = [observe(v, prepared, i) for i, v in enumerate(volumes)]
    start = np.stack([volumes[k::n_classes].mean(axis=0) for k in range(n_classes)])
    state = ModelState(start, np.full(n_classes, 1 / n_classes), sigma=20.0, zeta=3.0)
    shifts = [np.zeros(3), np.array([1.0, 0, 0]), np.array([0, -1.0, 1.0])]
    likelihood = []
    for _ in range(8):
        references = [prepare_reference(a, samples, plan) for a in state.averages]
        statistics = SufficientStatistics.zero(n_classes, samples)
        for observation in observations:
            found = candidates_at(observation, references, QUARTER_TURNS[:6], shifts)
            statistics = accumulate(
                statistics, observation, assign(observation, found, state),
                observation.index % 2)
        likelihood.append(statistics.log_likelihood)
        current = [r.turned(np.eye(3)) for r in references]
        state = m_step(statistics, state, current, samples)
    assert np.diff(likelihood).min() > -1e-4 * abs(likelihood[0]) / 8
    assert likelihood[-1] > likelihood[0] + 1.0


def test_statistics_of_parts_add_up_to_those_of_the_whole():
    source, class_index, poses = particles([blobs(12, 0), blobs(12, 1)], 6, snr=1.0)
    samples, plan = sample_set(12), shell_plan(6, 5)

    def add(statistics, i):
        particle = source[i]
        observation = observe(particle.volume, prepare_wedge(particle.wedge, samples, plan), i)
        one = np.ones(1)
        candidate = Candidates(poses[[i]], class_index[[i]], one, one, one, one)
        return accumulate(
            statistics, observation, Assignment(i, candidate, one, -1.0), i % 2)

    def total(indices):
        statistics = SufficientStatistics.zero(2, samples)
        for i in indices:
            statistics = add(statistics, i)
        return statistics

    whole = total(range(6))
    parts = total([0, 1]) + (total([2, 3]) + total([4, 5]))
    np.testing.assert_allclose(parts.signal, whole.signal, rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(parts.weight, whole.weight)
    assert parts.n_particles == 6
    assert parts.log_likelihood == -6.0


def test_a_particle_turned_back_looks_like_its_average():
    reference = blobs(20, 3, radius=0.1, width=0.08)
    source, _, poses = particles([reference], 4, snr=100.0, tilt_deg=89.0)
    samples, plan = sample_set(20), shell_plan(6, 9)
    expected = samples.take(spectrum(reference))
    for i in range(4):
        observation = observe(source[i].volume, prepare_wedge(source[i].wedge, samples, plan), i)
        signal, weight = np.zeros(len(samples), complex), np.zeros(len(samples))
        observation.add_turned_back(
            poses.rotation[[i]], poses.shift_xyz[[i]], np.ones(1), signal, weight)
        overlap = np.vdot(expected * weight, signal).real
        assert overlap / np.linalg.norm(expected * weight) / np.linalg.norm(signal) > 0.98


def test_the_fixed_point_of_equation_10_is_signal_over_coverage():
    rng = np.random.default_rng(0)
    coverage = rng.uniform(0.2, 3.0, 50)
    signal = rng.normal(size=50) + 1j * rng.normal(size=50)
    current = np.zeros(50, complex)
    for _ in range(1000):
        current = imputed_average(signal, coverage, 3.0, current)
    np.testing.assert_allclose(current, observed_average(signal, coverage, 3.0, current), atol=1e-9)


def test_a_sample_that_nobody_measured_keeps_its_value_in_equation_10():
    kept = imputed_average(np.zeros(1), np.zeros(1), 5.0, np.array([2.0 + 1j]))
    assert kept == [2.0 + 1j]


def test_a_class_below_one_particle_keeps_its_average():
    n = 8
    samples, plan = sample_set(n), shell_plan(4, 3)
    averages = np.random.default_rng(0).normal(size=(2, n, n, n)).astype(np.float32)
    state = ModelState(averages, np.array([0.5, 0.5]), 1.0, 1.0)
    statistics = SufficientStatistics.zero(2, samples)
    statistics.weight[0] = [2.0, 0.6]
    statistics.weight[1] = [0.2, 0.2]
    statistics = replace(statistics, n_particles=3, sq_residual=1.0, sq_shift=1.0)
    new = m_step(statistics, state, [np.zeros(len(samples), np.complex64)] * 2, samples)
    np.testing.assert_array_equal(new.averages[1], averages[1])
    assert not np.array_equal(new.averages[0], averages[0])
    assert plan.bandwidth == 4


def test_hard_assignment_puts_everything_on_the_best_score():
    one = np.ones(3)
    candidates = Candidates(
        RigidTransforms.identity(3), np.array([0, 1, 1]), np.array([1.0, 5.0, 2.0]), one, one, one
    )
    np.testing.assert_array_equal(hard_assignment(candidates, np.zeros(3)), [0, 1, 0])


def test_graded_weights_count_samples_in_proportion():
    # Halving all weights of a particle doubles its noise variance: the exponent is halved.
    n = 8
    rng = np.random.default_rng(0)
    samples, plan = sample_set(n), shell_plan(4, 3)
    volume, average = rng.normal(size=(2, n, n, n)).astype(np.float32)
    wedge = MissingWedge(-60, 60).mask(n)
    reference = prepare_reference(average, samples, plan)
    state = ModelState(average[None], np.ones(1), 10.0, 1.0)
    exponents = []
    for factor in (1.0, 0.5):
        observation = observe(
            volume, prepare_wedge((factor * wedge).astype(np.float32), samples, plan)
        )
        found = candidates_at(observation, [reference], [np.eye(3)], [np.zeros(3)])
        exponents.append(log_joint(found, observation.power, state)[0])
    assert exponents[1] == pytest.approx(0.5 * exponents[0], rel=1e-5)
    assert isinstance(ArraySource(volume[None], [wedge])[0].wedge, np.ndarray)
