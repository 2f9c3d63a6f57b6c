"""Equations 1 to 15 and Algorithm 1 of paper mode against sums over the whole spectrum.

Odd and even boxes; the same wedge for all particles, another for each, and arbitrary weights.
"""

from dataclasses import dataclass

import numpy as np
import oracles_equations as oracle
import pytest
from oracles import rotational_correlation
from oracles_gauss import Blobs, random_weight
from oracles_harmonics import sphere
from scipy.stats import multivariate_normal

from scipion_faml import em, fourier
from scipion_faml.align import (
    Candidates,
    gather,
    gather_weight,
    magnitude_scores,
    observe,
    prepare_reference,
    prepare_wedge,
    score_pose,
)
from scipion_faml.em import (
    SufficientStatistics,
    accumulate,
    assign,
    imputed_average,
    log_joint,
    m_step,
    observed_average,
    responsibilities,
)
from scipion_faml.fourier import sample_set, spectrum
from scipion_faml.geometry import (
    RigidTransforms,
    euler_to_matrix,
    random_rotations,
    squared_pose_distance,
)
from scipion_faml.harmonics import grid_euler_zyz, shell_plan
from scipion_faml.model import ModelState
from scipion_faml.voronoi import pose_points, voronoi_weights
from scipion_faml.wedge import MissingWedge

N_PARTICLES, N_CLASSES = 5, 2
BOXES = pytest.mark.parametrize("n", [7, 8])
WEDGES = pytest.mark.parametrize("kind", ["one", "several", "arbitrary"])


@pytest.fixture(autouse=True)
def exact_turns(monkeypatch):
    """Without its real-space windows a turn by multiples of 90 deg only permutes samples."""
    for module, name in (
        (em, "inscribed_sphere"), (fourier, "_corrected_ball"),
        (fourier, "_interpolation_correction"),
    ):
        monkeypatch.setattr(module, name, lambda n: np.ones((n, n, n), np.float32))


@dataclass
class Case:
    """One data set as the package and as the oracle take it."""

    n: int
    volumes: np.ndarray
    weights: list
    averages: np.ndarray
    candidates: list  # (i, k, R, t, v)

    @staticmethod
    def of(n, kind, seed=0, n_particles=N_PARTICLES):
        rng = np.random.default_rng(seed)
        structures = rng.normal(size=(N_CLASSES, n, n, n))
        weights = {
            "one": lambda i: MissingWedge(-60, 45).mask(n),
            "several": lambda i: MissingWedge(-60 + 10 * i, 45 + 5 * i).mask(n),
            "arbitrary": lambda i: random_weight(n, rng),
        }[kind]
        shifts = [np.zeros(3), np.array([1.0, 0.0, -0.5]), np.array([0.3, -1.2, 0.8])]
        candidates = []
        for i in range(n_particles):
            for k in range(N_CLASSES):
                turns = rng.choice(24, 3, replace=False)
                v = rng.dirichlet(np.ones(3))
                candidates += [
                    (i, k, oracle.QUARTER_TURNS[t], s, share)
                    for t, s, share in zip(turns, shifts, v, strict=True)
                ]
        volumes = 0.5 * structures[np.arange(n_particles) % 2] + rng.normal(
            size=(n_particles, n, n, n))
        return Case(
            n, volumes.astype(np.float32), [weights(i) for i in range(n_particles)],
            structures.astype(np.float32), candidates)

    def state(self, sigma=18.0, zeta=1.4):
        # Averages without DC and corners, which take part in nothing.
        spectra = oracle.WholeSpectrum(self.n)
        stack = [spectra.to_volume(spectra.of_volume(a)) for a in self.averages]
        return ModelState(np.stack(stack).astype(np.float32), np.array([0.4, 0.6]), sigma, zeta)

    def oracle(self):
        spectra = oracle.WholeSpectrum(self.n)
        return oracle.Em(
            spectra, np.stack([spectra.of_volume(v) for v in self.volumes]),
            np.stack([spectra.of_half(w).real for w in self.weights]), self.candidates)


def theta_of(state, whole):
    averages = np.stack([whole.spectrum.of_volume(a) for a in state.averages])
    return oracle.Theta(averages, state.alpha, state.sigma, state.zeta)


class Engine:
    """Paper mode with given candidates."""

    def __init__(self, case):
        self.case, self.samples, self.plan = case, sample_set(case.n), shell_plan(4, 3)
        self.observations = [
            observe(v, prepare_wedge(w, self.samples, self.plan), i)
            for i, (v, w) in enumerate(zip(case.volumes, case.weights, strict=True))
        ]

    def references(self, state):
        return [prepare_reference(a, self.samples, self.plan) for a in state.averages]

    def candidates(self, i, references):
        rows = [c for c in self.case.candidates if c[0] == i]
        sums = [
            score_pose(self.observations[i], references[k].turned(r), t) for _, k, r, t, _ in rows]
        cross, power = np.array(sums).T
        return Candidates(
            RigidTransforms.from_rotation(
                np.stack([c[2] for c in rows]), np.stack([c[3] for c in rows])),
            np.array([c[1] for c in rows]), cross / np.sqrt(power), cross, power,
            np.array([c[4] for c in rows]),
        )

    def e_step(self, state):
        """Assignments and sums of all particles."""
        references = self.references(state)
        statistics, parts = SufficientStatistics.zero(len(references), self.samples), []
        for i, observation in enumerate(self.observations):
            parts.append(assign(observation, self.candidates(i, references), state))
            statistics = accumulate(statistics, observation, parts[-1], i % 2)
        return parts, statistics

    def iterate(self, state):
        parts, statistics = self.e_step(state)
        current = [r.turned(np.eye(3)) for r in self.references(state)]
        return m_step(statistics, state, current, self.samples), parts, statistics


# ------------------------------------------------------------------- Equation 1: score of a pose
@BOXES
@WEDGES
def test_scores_are_equation_1_over_the_whole_spectrum(n, kind):
    case = Case.of(n, kind)
    whole, state = case.oracle(), case.state()
    engine = Engine(case)
    theta = theta_of(state, whole)
    for i in range(N_PARTICLES):
        found = engine.candidates(i, engine.references(state)).score
        expected = [
            whole.score(i, theta.averages[k], r, t) for _, k, r, t, _ in whole.of_particle(i)]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


# ------------------------------------------------- Equation 2: the bound over shifts, all rotations
@pytest.mark.parametrize("n", [11, 12])
@pytest.mark.parametrize("kind", ["one", "arbitrary"])
def test_the_bound_is_the_quotient_of_equation_2_on_every_rotation(n, kind):
    rng = np.random.default_rng(n)
    weight = MissingWedge(-60, 45).mask(n) if kind == "one" else random_weight(n, rng, low=0.2)
    samples, plan = sample_set(n), shell_plan(8, 5)
    structure = Blobs(2, width=0.08)
    volume = structure.volume(n, euler_to_matrix(np.array([0.4, 1.0, 2.0])))
    noisy = volume + volume.std() * rng.normal(size=volume.shape)
    observation = observe(noisy.astype(np.float32), prepare_wedge(weight, samples, plan))
    reference = prepare_reference(structure.volume(n), samples, plan)
    score = magnitude_scores(observation, reference)
    where = rng.integers(0, score.shape, (25, 3))
    rotations = euler_to_matrix(grid_euler_zyz(where, plan))
    found = np.array([score[tuple(w)] for w in where])

    # The same integrals of the series that the plan keeps, ...
    def integral(p, q, rotation):
        return rotational_correlation(p, q, plan.degrees, rotation, plan.n_shells)

    wedge = observation.wedge
    expected = [
        integral(observation.magnitude_coefficients, reference.magnitude_coefficients, r)
        / np.sqrt(integral(wedge.coefficients, reference.power_coefficients, r))
        for r in rotations
    ]
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    # ... and of the magnitudes themselves, over fine shells: magnitudes have kinks at their zeros.
    unit, area = sphere(20)
    radius = np.arange(1, 6)
    points = np.ascontiguousarray(
        (radius[:, None, None] * unit).reshape(-1, 3).T, dtype=np.float32)
    share = (radius[:, None] ** 2 * area).ravel()
    w = gather_weight(weight, points.T.copy())
    support = gather_weight((weight > 0).astype(np.float32), points.T.copy())
    observed = np.abs(gather(observation.turnable, points, np.eye(3))) * support
    direct = []
    for r in rotations:
        model = np.abs(gather(reference.turnable, points, r.T))
        direct.append(np.sum(share * observed * model) / np.sqrt(np.sum(share * w * model**2)))
    assert np.corrcoef(found, direct)[0, 1] > 0.9
    np.testing.assert_allclose(found, direct, rtol=0.05)


# --------------------------------------------------------------- Equations 3 to 6: the integral
def test_the_weighted_sum_approaches_the_integral_as_candidates_fill_pose_space():
    # Candidates drawn evenly over the pose space that Section 2.2 samples: Eq. 4 is a mean then.
    rng = np.random.default_rng(0)

    def smooth(poses):
        trace = np.trace(poses.rotation, axis1=1, axis2=2)
        return np.exp(0.5 * trace - 0.1 * np.sum((poses.shift_xyz - 0.5) ** 2, axis=1))

    points = pose_points(20_000, seed=1)
    errors = []
    for n_candidates in (10, 1000):
        candidates = RigidTransforms(
            rng.uniform(0, 2 * np.pi, (n_candidates, 3)),
            np.concatenate([np.zeros((1, 3)), np.ones((1, 3)),
                            rng.uniform(0, 1, (n_candidates - 2, 3))]))
        approximate = smooth(candidates) @ voronoi_weights(candidates, points)
        integral = smooth(points.within(candidates)).mean()
        errors.append(abs(approximate / integral - 1))
    assert errors[1] < 0.05
    assert errors[1] < errors[0]


def test_a_share_is_the_volume_of_points_nearest_to_a_candidate():
    # Two candidates turned apart about one axis halve pose space by symmetry.
    candidates = RigidTransforms([[0.3, 0.0, 0.0], [0.3 + np.pi, 0.0, 0.0]], np.zeros((2, 3)))
    np.testing.assert_allclose(voronoi_weights(candidates, pose_points()), 0.5, atol=0.02)


def test_the_distance_of_poses_is_that_of_equation_5():
    rng = np.random.default_rng(1)
    a, b = (RigidTransforms(random_rotations(4, rng), rng.normal(size=(4, 3))) for _ in range(2))
    found = squared_pose_distance(a, b, 0.7)
    for i, j in np.ndindex(4, 4):
        expected = np.linalg.norm(np.eye(3) - a.rotation[i].T @ b.rotation[j], "fro") ** 2
        expected += 0.7 * np.sum((a.shift_xyz[i] - b.shift_xyz[j]) ** 2)
        assert found[i, j] == pytest.approx(expected)


# --------------------------------------------------------------------- Equation 7: the data model
@BOXES
def test_a_pose_moves_an_average_as_the_data_model_says(n):
    # A voxel at r of the average is at R r + t in the subtomogram, for whole voxels exactly.
    rotation, shift = oracle.QUARTER_TURNS[7], np.array([1.0, 0.0, -1.0])
    average = np.zeros((n, n, n), np.float32)
    r = np.array([1, -1, 0])
    average[tuple((r + n // 2)[::-1])] = 1.0
    there = rotation @ r + shift
    expected = np.zeros((n, n, n), np.float32)
    expected[tuple(np.rint(there + n // 2).astype(int)[::-1])] = 1.0
    samples = sample_set(n)
    turned = prepare_reference(average, samples, shell_plan(4, 3)).turned(rotation)
    kx, ky, kz = samples.axes
    phase = np.exp(-2j * np.pi / n * (kx * shift[0] + ky * shift[1] + kz * shift[2]))
    np.testing.assert_allclose(turned * phase, samples.take(spectrum(expected)), atol=1e-4)


# ----------------------------------------------------- Equations 8, 9, 14 and 15: the likelihood
@BOXES
@WEDGES
def test_log_joint_and_posterior_are_equations_15_and_14(n, kind):
    case = Case.of(n, kind)
    whole, state, engine = case.oracle(), case.state(), Engine(case)
    theta, references = theta_of(state, whole), engine.references(state)
    for i, observation in enumerate(engine.observations):
        candidates = engine.candidates(i, references)
        expected = [whole.log_joint(c, theta) for c in whole.of_particle(i)]
        found = log_joint(candidates, observation.power, state)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-3)
        posterior = assign(observation, candidates, state).responsibility
        np.testing.assert_allclose(posterior, whole.posterior(i, theta), atol=2e-3)
        assert posterior.sum() == pytest.approx(1.0, abs=1e-12)


@BOXES
@WEDGES
def test_the_log_likelihood_of_all_particles_is_equation_9(n, kind):
    case = Case.of(n, kind)
    whole, state = case.oracle(), case.state()
    _, statistics = Engine(case).e_step(state)
    expected = whole.log_likelihood(theta_of(state, whole))
    assert statistics.log_likelihood == pytest.approx(expected, rel=1e-5)


def test_missing_samples_integrated_out_leave_the_density_of_the_observed():
    # Equation 9 for one pose: a Gaussian over all samples, integrated over those that are missing,
    # is one over the observed alone, as `assign` has it.
    case = Case.of(7, "one", n_particles=1)
    whole, state = case.oracle(), case.state()
    case.candidates = whole.candidates = [(0, 0, np.eye(3), np.array([0.5, 0.0, 1.0]), 1.0)]
    theta = theta_of(state, whole)
    theta.alpha = state.alpha
    _, _, rotation, shift, _ = case.candidates[0]
    model = whole.spectrum.posed(theta.averages[0], rotation, shift)
    seen = whole.weight[0] == 1
    # Both mates hold the same numbers: as J real numbers, a real and an imaginary part per pair.
    one_of_two = [j for j, k in enumerate(whole.spectrum.k) if tuple(k) > tuple(-k) and seen[j]]
    difference = (whole.observed[0] - model)[one_of_two] * np.sqrt(2)
    values = np.concatenate([difference.real, difference.imag])
    expected = multivariate_normal.logpdf(values, np.zeros(len(values)), state.sigma**2)
    expected += multivariate_normal.logpdf(shift, np.zeros(3), state.zeta**2)
    expected += np.log(state.alpha[0])
    _, statistics = Engine(case).e_step(state)
    assert statistics.log_likelihood == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_posteriors_sum_to_one_in_either_precision(dtype):
    rng = np.random.default_rng(2)
    log_e = (-1e4 - 20 * rng.uniform(size=40)).astype(dtype)
    share = rng.dirichlet(np.ones(40)).astype(dtype)
    found = responsibilities(log_e, share)
    e = np.exp(log_e.astype(np.longdouble) - log_e.max()) * share
    np.testing.assert_allclose(found, (e / e.sum()).astype(float), rtol=2e-3)
    # Exponents of 10^4 have three digits after the point in float32.
    assert found.sum() == pytest.approx(1.0, abs=1e-3 if dtype == np.float32 else 1e-12)


# ------------------------------------------------------------------- Equations 10 to 13: updates
@BOXES
@WEDGES
def test_updates_are_equations_10_to_13_over_the_whole_spectrum(n, kind):
    case = Case.of(n, kind)
    whole, state = case.oracle(), case.state()
    new, _, _ = Engine(case).iterate(state)
    expected = whole.m_step(theta_of(state, whole))
    np.testing.assert_allclose(new.alpha, expected.alpha, atol=1e-3)
    assert new.sigma == pytest.approx(expected.sigma, rel=1e-4)
    assert new.zeta == pytest.approx(expected.zeta, rel=1e-3)
    for k in range(N_CLASSES):
        assert N_PARTICLES * expected.alpha[k] > 1
        volume = whole.spectrum.to_volume(expected.averages[k])
        np.testing.assert_allclose(new.averages[k], volume, atol=2e-3 * np.abs(volume).max())


@BOXES
@pytest.mark.parametrize("kind", ["several", "arbitrary"])
def test_iterations_of_algorithm_1_follow_the_oracle(n, kind):
    case = Case.of(n, kind)
    whole, state, engine = case.oracle(), case.state(sigma=30.0), Engine(case)
    theta = theta_of(state, whole)
    for _ in range(3):
        state, theta = engine.iterate(state)[0], whole.m_step(theta)
        assert N_PARTICLES * theta.alpha.min() > 1  # no class is kept for want of particles
    assert state.sigma == pytest.approx(theta.sigma, rel=1e-3)
    np.testing.assert_allclose(state.alpha, theta.alpha, atol=5e-3)
    assert state.iteration == 3


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_average_updates_keep_the_precision_they_are_given(dtype):
    rng = np.random.default_rng(0)
    signal, current = (rng.normal(size=9) + 1j * rng.normal(size=9) for _ in range(2))
    coverage = rng.uniform(0.5, 2, 9)
    real = np.float32 if dtype == np.complex64 else np.float64
    arguments = signal.astype(dtype), coverage.astype(real), 3.0, current.astype(dtype)
    imputed = imputed_average(*arguments)
    np.testing.assert_allclose(
        imputed, (signal + (3 - coverage) * current) / 3, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(observed_average(*arguments), signal / coverage, rtol=1e-5)
    assert imputed.dtype == dtype


# ------------------------------------------------------------------ properties of the algorithm
@BOXES
@WEDGES
def test_the_likelihood_never_falls_for_fixed_candidates(n, kind):
    case = Case.of(n, kind, seed=1)
    engine, state = Engine(case), case.state(sigma=30.0, zeta=3.0)
    likelihood = []
    for _ in range(8):
        state, _, statistics = engine.iterate(state)
        likelihood.append(statistics.log_likelihood)
    assert np.diff(likelihood).min() > -1e-5 * abs(likelihood[0])
    assert likelihood[-1] > likelihood[0] + 1.0


@BOXES
def test_permuting_particles_changes_nothing_but_their_order(n):
    case = Case.of(n, "arbitrary")
    order = [3, 0, 4, 2, 1]
    shuffled = Case(
        n, case.volumes[order], [case.weights[i] for i in order], case.averages,
        [(order.index(i), *rest) for i, *rest in case.candidates])
    a, parts_a, _ = Engine(case).iterate(case.state())
    b, parts_b, _ = Engine(shuffled).iterate(case.state())
    np.testing.assert_allclose(a.averages, b.averages, atol=1e-5)
    assert a.sigma == pytest.approx(b.sigma, rel=1e-9)
    for new, old in enumerate(order):
        np.testing.assert_allclose(
            parts_b[new].responsibility, parts_a[old].responsibility, rtol=1e-6)


@BOXES
def test_permuting_classes_permutes_the_result(n):
    case = Case.of(n, "arbitrary")
    swapped = Case(
        n, case.volumes, case.weights, case.averages[::-1],
        [(i, 1 - k, *rest) for i, k, *rest in case.candidates])
    state = case.state()
    other = ModelState(state.averages[::-1].copy(), state.alpha[::-1], state.sigma, state.zeta)
    a, b = Engine(case).iterate(state)[0], Engine(swapped).iterate(other)[0]
    np.testing.assert_allclose(a.averages, b.averages[::-1], atol=1e-5)
    np.testing.assert_allclose(a.alpha, b.alpha[::-1], rtol=1e-6)
    assert a.sigma == pytest.approx(b.sigma, rel=1e-9)


def turned_volume(volume, turn, n):
    """A volume turned by a quarter turn about its centre voxel, without DC and corners."""
    whole = oracle.WholeSpectrum(n)
    return whole.to_volume(whole.turned(whole.of_volume(volume), turn)).astype(np.float32)


def turned_weight(weight, turn, n):
    """A weight turned by a quarter turn: within the sphere, where turns are defined."""
    whole = oracle.WholeSpectrum(n)
    values = whole.turned(whole.of_half(weight).real, turn)
    out = np.zeros_like(weight)
    for k, value in zip(whole.k, values, strict=True):
        if k[0] >= 0:
            out[k[2], k[1], k[0]] = value
    return out


@BOXES
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_turning_all_particles_by_90_deg_turns_the_answer(n, axis):
    case, turn = Case.of(n, "arbitrary"), oracle.quarter_turn(axis)
    state = case.state()
    # Everything turned: particles, weights, candidates R -> Q R Q^-1 and t -> Q t, averages.
    turned = Case(
        n, np.stack([turned_volume(v, turn, n) for v in case.volumes]),
        [turned_weight(w, turn, n) for w in case.weights], case.averages,
        [(i, k, turn @ r @ turn.T, turn @ t, v) for i, k, r, t, v in case.candidates])
    start = ModelState(
        np.stack([turned_volume(a, turn, n) for a in state.averages]), state.alpha, state.sigma,
        state.zeta)
    (a, _, sums_a), (b, _, sums_b) = Engine(case).iterate(state), Engine(turned).iterate(start)
    for k in range(N_CLASSES):
        expected = turned_volume(a.averages[k], turn, n)
        np.testing.assert_allclose(b.averages[k], expected, atol=1e-3 * np.abs(expected).max())
    assert sums_b.log_likelihood == pytest.approx(sums_a.log_likelihood, rel=1e-6)
    assert b.sigma == pytest.approx(a.sigma, rel=1e-5)
    assert b.zeta == pytest.approx(a.zeta, rel=1e-4)
    # Particles alone turned, candidates R -> Q R: the averages stay where they are.
    turned.candidates = [(i, k, turn @ r, turn @ t, v) for i, k, r, t, v in case.candidates]
    c, _, _ = Engine(turned).iterate(state)
    np.testing.assert_allclose(c.averages, a.averages, atol=1e-3 * np.abs(a.averages).max())


def test_euler_angles_of_quarter_turns_are_theirs():
    for turn in oracle.QUARTER_TURNS:
        angles = RigidTransforms.from_rotation(turn[None], np.zeros((1, 3))).euler_zyz
        np.testing.assert_allclose(euler_to_matrix(angles)[0], turn, atol=1e-12)
