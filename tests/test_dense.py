"""The integral over all poses at low bandwidth against sums over shells, samples and poses."""

import itertools

import numpy as np
import oracles_harmonics as oracle
import pytest
from oracles_gauss import Blobs, random_weight, smooth_weight
from scipy.special import logsumexp

from scipion_faml.align import IDENTITY, gather
from scipion_faml.dense import (
    DenseSums,
    ShiftBlock,
    dense_particle,
    dense_plan,
    dense_posterior,
    dense_reference,
    highest_poses,
    log_likelihood,
    shift_lattice,
)
from scipion_faml.fourier import turnable_spectrum
from scipion_faml.geometry import euler_to_matrix, random_rotations, rotation_angle_deg
from scipion_faml.measured import WorkingBox
from scipion_faml.wedge import MissingWedge

SMALL = Blobs(0, reach=0.14, width=0.08)
OTHER = Blobs(7, reach=0.14, width=0.08)


def box_and_plan(n, radius=3, bandwidth=8, max_shift=1.5, step=1.5):
    """The particles' own box, and a plan whose bandwidth holds `SMALL` with its shifts."""
    return WorkingBox.of(n, (n - 1) // 2), dense_plan(n, radius, bandwidth, max_shift, step)


def particle_of(box, weight, rng, structure=SMALL, noise=0.3, index=0):
    """A noisy, turned and shifted copy with its weights; (measured, rotation, shift)."""
    n = box.n_full
    rotation, shift = euler_to_matrix(random_rotations(1, rng)[0]), rng.uniform(-1, 1, 3)
    volume = structure.volume(n, rotation, shift)
    volume = volume + noise * volume.std() * rng.normal(size=volume.shape)
    return box.measure(index, volume.astype(np.float32), weight), rotation, shift


def grid_angles(plan, where):
    a, g, b = where
    return np.array([plan.grid.alpha[a], plan.grid.beta[b], plan.grid.gamma[g]])


class Shells:
    """Integrals over all shells on a quadrature of their own."""

    def __init__(self, plan, measured, average, noise, n_polar=14):
        self.plan, self.average, self.noise = plan, average, noise
        self.unit, area = oracle.sphere(n_polar)
        radius = plan.sampling.radius.astype(float)
        self.share = radius[:, None] ** 2 * area / noise[:, None]
        points = (radius[:, None, None] * self.unit).reshape(-1, 3).T
        self.points = np.ascontiguousarray(points, dtype=np.float32)
        self.observed, self.weight = self.at(measured.turnable), self.at(measured.wedge.turnable)
        z = plan.sampling.analyse(plan.at_points(measured.turnable))
        self.truncated = oracle.evaluate(z, self.unit)
        z = plan.sampling.analyse(plan.at_points(measured.wedge.turnable))
        self.truncated_weight = oracle.evaluate(z, self.unit)

    def at(self, turnable, rotation=IDENTITY):
        return gather(turnable, self.points, rotation).reshape(len(self.noise), -1)

    def integral(self, observed, weight, model, power):
        integrand = (observed * model.conj()).real - 0.5 * weight.real * power
        return np.sum(self.share * integrand)

    def of_harmonics(self, rotation, t):
        """With everything cut at the plan's bandwidth."""
        plan = self.plan
        values = plan.at_points(self.average)
        model = oracle.evaluate(plan.sampling.analyse(values * plan.phase[t]), self.unit @ rotation)
        z = plan.sampling.analyse((np.abs(values) ** 2).astype(np.complex64))
        power = oracle.evaluate(z, self.unit @ rotation).real
        return self.integral(self.truncated, self.truncated_weight, model, power)

    def of_spectra(self, rotation, t):
        """With spectra as they are."""
        shift = rotation @ self.plan.shift_xyz[t]  # of R T_t A = T_{R t} R A
        phase = np.exp(-2j * np.pi / self.plan.n * (shift @ self.points))
        model = self.at(self.average, rotation.T) * phase.reshape(len(self.noise), -1)
        return self.integral(self.observed, self.weight, model, np.abs(model) ** 2)


WEIGHTS = {
    "tilts": lambda n, rng: MissingWedge(-50, 60).mask(n),
    "graded": smooth_weight,
    "arbitrary": random_weight,
}


# --------------------------------------------------------------------------------------- E-step
@pytest.mark.parametrize("n", [11, 12])
@pytest.mark.parametrize("kind", list(WEIGHTS))
def test_the_log_likelihood_of_every_pose_is_the_integral_over_shells(n, kind):
    rng = np.random.default_rng(n)
    box, plan = box_and_plan(n)
    measured, _, _ = particle_of(box, WEIGHTS[kind](n, rng), rng)
    average = turnable_spectrum(SMALL.volume(n), 3)
    noise = rng.uniform(0.5, 2.0, 3) * np.abs(measured.values).max() ** 2
    found = log_likelihood(dense_particle(measured, plan), dense_reference(average, noise, plan))
    assert found.shape == (*plan.grid.shape, len(plan.shift_xyz))
    shells = Shells(plan, measured, average, noise)
    where = rng.integers(0, found.shape, (20, 4))
    rotations = euler_to_matrix(np.stack([grid_angles(plan, w[:3]) for w in where]))
    values = np.array([found[tuple(w)] for w in where])
    harmonic = [shells.of_harmonics(r, t) for r, t in zip(rotations, where[:, 3], strict=True)]
    np.testing.assert_allclose(values, harmonic, atol=1e-4 * np.std(values))
    # 3 %: trilinear interpolation adds a little above the bandwidth.
    direct = [shells.of_spectra(r, t) for r, t in zip(rotations, where[:, 3], strict=True)]
    np.testing.assert_allclose(values, direct, atol=0.03 * np.std(values))


@pytest.mark.parametrize("n", [15, 16])
def test_the_log_likelihood_is_that_of_all_fourier_samples_of_a_smooth_structure(n):
    rng = np.random.default_rng(n)
    radius = 4
    box, plan = box_and_plan(n, radius, 12, 2.0, 1.0)
    samples = box.samples
    inside = np.linalg.norm(samples.axes, axis=0) <= radius + 0.5
    measured, _, _ = particle_of(box, smooth_weight(n, rng), rng, noise=0.0)
    average = turnable_spectrum(SMALL.volume(n), radius)
    noise = np.full(radius, np.abs(measured.values).max() ** 2)
    found = log_likelihood(dense_particle(measured, plan), dense_reference(average, noise, plan))
    values, expected = [], []
    for *where, t in rng.integers(0, found.shape, (60, 4)):
        rotation = euler_to_matrix(grid_angles(plan, where))
        model = SMALL.spectrum_at(samples.axes, n, rotation, rotation @ plan.shift_xyz[t])
        fit = (measured.values * model.conj()).real
        fit -= 0.5 * measured.wedge.weight * np.abs(model) ** 2
        expected.append(np.sum((samples.multiplicity * fit)[inside]) / noise[0])
        values.append(found[(*where, t)])
    # Shells of thickness 1 stand for the samples within them: the same sum but for its grid.
    slope = np.polyfit(expected, values, 1)[0]
    assert slope == pytest.approx(1.0, abs=0.05)
    assert np.corrcoef(expected, values)[0, 1] > 0.998


# ------------------------------------------------------------------------------------ posterior
def two_classes(n, rng, level):
    """Box, plan, a particle of the first class, and two references; `level` scales the noise."""
    box, plan = box_and_plan(n)
    measured, rotation, shift = particle_of(box, smooth_weight(n, rng), rng)
    noise = level * rng.uniform(0.5, 2.0, 3) * np.abs(measured.values).max() ** 2
    references = [
        dense_reference(turnable_spectrum(s.volume(n), 3), noise, plan) for s in (SMALL, OTHER)
    ]
    return plan, measured, references, rotation, shift


@pytest.mark.parametrize("n", [11, 12])
@pytest.mark.parametrize("level", [0.01, 1.0])
def test_the_posterior_is_the_share_of_every_pose_in_the_sum_over_all(n, level):
    plan, measured, references, _, _ = two_classes(n, np.random.default_rng(n), level)
    particle, log_alpha = dense_particle(measured, plan), np.log([0.3, 0.7])
    prior = plan.log_prior(zeta=0.9)
    joint = np.stack([
        (log_likelihood(particle, r) + prior).astype(float) + a
        for r, a in zip(references, log_alpha, strict=True)
    ])
    posterior = dense_posterior(particle, references, log_alpha, prior)
    assert posterior.evidence == pytest.approx(logsumexp(joint), abs=2e-3)
    expected = np.exp(joint - logsumexp(joint))
    assert posterior.n_effective == pytest.approx(1 / np.sum(expected**2), rel=1e-3)
    assert posterior.class_weight.sum() == pytest.approx(1.0)
    class_weight = expected.sum(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(posterior.class_weight, class_weight, atol=1e-3)
    total = 0.0
    for k, blocks in enumerate(posterior.blocks):
        for block in blocks:
            share = block.share * posterior.scale
            np.testing.assert_allclose(share, expected[k][..., block.shifts], atol=2e-4)
            total += share.sum(dtype=float)
    assert total == pytest.approx(1.0, abs=1e-3)  # shifts of next to nothing are left out
    k, *where, t = np.unravel_index(joint.argmax(), joint.shape)
    assert posterior.best_class == k
    rotation = euler_to_matrix(grid_angles(plan, where))
    np.testing.assert_allclose(posterior.best_pose.rotation[0], rotation, atol=1e-12)
    shift = rotation @ plan.shift_xyz[t]
    np.testing.assert_allclose(posterior.best_pose.shift_xyz[0], shift, atol=1e-12)


def test_a_posterior_over_some_shifts_is_that_over_all_restricted():
    plan, measured, references, _, _ = two_classes(12, np.random.default_rng(1), 0.3)
    particle, prior = dense_particle(measured, plan), plan.log_prior(zeta=2.0)
    looked_at = np.array([0, 2, 3, 6])
    joint = np.stack([log_likelihood(particle, r) + prior for r in references])[..., looked_at]
    posterior = dense_posterior(particle, references, np.zeros(2), prior, looked_at)
    assert posterior.evidence == pytest.approx(logsumexp(joint.astype(float)), abs=1e-3)
    assert set(np.concatenate([b.shifts for p in posterior.blocks for b in p])) <= set(looked_at)


@pytest.mark.parametrize("zeta", [0.5, 30.0])
def test_the_prior_is_a_share_of_all_poses_and_falls_with_the_shift(zeta):
    _, plan = box_and_plan(12, step=0.75)
    share = np.exp(plan.log_prior(zeta).astype(float))
    n_alpha, n_gamma, _ = plan.grid.shape
    assert n_alpha * n_gamma * share.sum() == pytest.approx(1.0, rel=1e-5)
    by_shift = share.sum(axis=0)
    expected = np.exp(-np.sum(plan.shift_xyz**2, axis=1) / (2 * zeta**2))
    np.testing.assert_allclose(by_shift / by_shift.max(), expected / expected.max(), rtol=1e-4)
    assert plan.n_poses == n_alpha * n_gamma * share.size


@pytest.mark.parametrize("n", [15, 16])
def test_the_highest_poses_hold_the_true_one_and_are_apart(n):
    rng = np.random.default_rng(n)
    box, plan = box_and_plan(n, radius=4, bandwidth=12, step=1.0)
    structure = Blobs(4, reach=0.25, width=0.05)
    measured, rotation, shift = particle_of(
        box, smooth_weight(n, rng), rng, structure, noise=0.1)
    noise = np.full(4, 0.05 * np.abs(measured.values).max() ** 2)
    reference = dense_reference(turnable_spectrum(structure.volume(n), 4), noise, plan)
    posterior = dense_posterior(
        dense_particle(measured, plan), [reference], np.zeros(1), plan.log_prior(2.0))
    poses = highest_poses(posterior.blocks[0], plan, 4)
    np.testing.assert_allclose(poses.euler_zyz[0], posterior.best_pose.euler_zyz[0])
    # The grid has steps of 15 deg and 1 voxel: the nearest point is within sqrt(3) / 2 of them.
    assert rotation_angle_deg(poses.rotation[0], rotation) < 15.0
    assert np.linalg.norm(poses.shift_xyz[0] - shift) < 0.9
    for a, b in itertools.combinations(range(len(poses)), 2):
        turn = rotation_angle_deg(poses.rotation[a], poses.rotation[b])
        own = [poses.rotation[m].T @ poses.shift_xyz[m] for m in (a, b)]
        assert turn > 15.0 or np.linalg.norm(own[0] - own[1]) > 1.9


def test_no_block_gives_no_pose():
    _, plan = box_and_plan(12)
    assert len(highest_poses([], plan, 4)) == 0


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_pure_noise_is_no_evidence_for_an_independent_average(scale):
    # E exp(L) = 1 for noise of the model's variance, and so E log of its mean is not above 0.
    n, rng = 12, np.random.default_rng(5)
    box, plan = box_and_plan(n)
    noise = np.full(3, float(n**3))
    volume = SMALL.volume(n)
    volume *= scale * np.sqrt(60.0 / np.sum(volume**2))  # the expected gain of a perfect match
    reference = dense_reference(turnable_spectrum(volume, 3), noise, plan)
    prior = plan.log_prior(1.5)
    wedge = MissingWedge(-60, 60).mask(n)
    evidence = [
        dense_posterior(
            dense_particle(box.measure(i, v, wedge), plan), [reference], np.zeros(1), prior
        ).evidence
        for i, v in enumerate(rng.normal(size=(30, n, n, n)).astype(np.float32))
    ]
    assert np.mean(evidence) < 2.0 * np.std(evidence) / np.sqrt(30)
    assert np.mean(np.exp(evidence)) < 2.0


def test_shifts_fill_a_ball_of_a_lattice():
    shifts = shift_lattice(0.5, 1.3)
    expected = [
        t for t in itertools.product(np.arange(-3, 4) * 0.5, repeat=3)
        if np.sum(np.square(t)) <= 1.3**2
    ]
    assert sorted(map(tuple, shifts)) == sorted(map(tuple, expected))


# --------------------------------------------------------------------------------------- M-step
def some_shares(rng, plan, shifts):
    """A random posterior over a few shifts, as `dense_posterior` would give."""
    share = rng.uniform(0.0, 1.0, (*plan.grid.shape, len(shifts))) ** 8
    return (share / share.sum()).astype(np.float32)


@pytest.mark.parametrize(("n", "bandwidth"), [(8, 5), (9, 5), (12, 6)])
def test_the_sums_are_those_of_particles_and_wedges_turned_back_by_every_pose(n, bandwidth):
    rng = np.random.default_rng(n)
    box, plan = box_and_plan(n, radius=2, bandwidth=bandwidth, step=1.5)
    shifts = np.array([0, 3, 5])
    sums = DenseSums.zero(plan)
    picked = rng.integers(0, len(plan.sampling.axes[0]), 25)
    points = plan.sampling.axes[:, picked].astype(float)
    signal, coverage = np.zeros(25, complex), np.zeros(25, complex)
    shell = np.rint(np.linalg.norm(points, axis=0)).astype(int) - 1
    unit = (points / np.linalg.norm(points, axis=0)).T
    angles = np.stack(np.meshgrid(plan.grid.alpha, plan.grid.gamma, plan.grid.beta, indexing="ij"))
    rotations = euler_to_matrix(angles.reshape(3, -1).T[:, [0, 2, 1]])
    for i in range(2):
        volume = rng.normal(size=(n, n, n)).astype(np.float32)
        measured = box.measure(i, volume, random_weight(n, rng))
        share = some_shares(rng, plan, shifts)
        scale = 0.4 + i
        block = dense_blocks(plan, share, shifts)
        sums.add(dense_particle(measured, plan), block, scale)
        # Brute force: turned by every rotation of the grid, moved by every shift.
        gamma = scale * share.reshape(len(rotations), -1).astype(float)
        moved = np.exp(2j * np.pi / n * (plan.shift_xyz[shifts] @ points))  # (t, points)
        turned = (rotations @ unit.T).transpose(0, 2, 1).reshape(-1, 3)  # R k of A(k) = X(R k)
        for turnable, total, by_pose in (
            (measured.turnable, signal, gamma @ moved),
            (measured.wedge.turnable, coverage, gamma.sum(axis=1)[:, None]),
        ):
            z = plan.sampling.analyse(plan.at_points(turnable))
            values = oracle.evaluate(z, turned).reshape(len(z), len(rotations), -1)
            total += np.sum(by_pose * values[shell, :, np.arange(25)].T, axis=0)
    found = [v.ravel()[picked] for v in sums.at_points()]
    np.testing.assert_allclose(found[0], signal, atol=2e-5 * np.abs(signal).max())
    np.testing.assert_allclose(found[1], coverage, atol=2e-5 * np.abs(coverage).max())


def dense_blocks(plan, share, shifts):
    """Shares as the blocks of a posterior."""
    mass = share.reshape(-1, len(shifts)).sum(axis=0)
    return [ShiftBlock(shifts, share, mass)]


@pytest.mark.parametrize("n", [15, 16])
def test_the_sums_at_the_samples_are_those_of_volumes_turned_back_one_by_one(n):
    rng = np.random.default_rng(n)
    radius = 4
    box, plan = box_and_plan(n, radius, 12, 1.0, 1.0)
    measured, _, _ = particle_of(box, smooth_weight(n, rng), rng, noise=0.0)
    where = rng.integers(0, (*plan.grid.shape, len(plan.shift_xyz)), (6, 4))
    gamma = rng.uniform(0.2, 1.0, 6)
    sums = DenseSums.zero(plan)
    n_shifts = len(plan.shift_xyz)
    share = np.zeros((*plan.grid.shape, n_shifts), np.float32)
    share[tuple(where.T)] = gamma
    sums.add(dense_particle(measured, plan), dense_blocks(plan, share, np.arange(n_shifts)))
    signal, coverage = (plan.to_samples(v, box.samples) for v in sums.at_points())
    poses = plan.poses(tuple(where.T))
    direct = np.zeros((2, len(box.samples)), np.complex128)
    measured.add_turned_back(poses.rotation, poses.shift_xyz, gamma, direct[0])
    measured.wedge.add_turned_back(poses.rotation, gamma, direct[1])
    assert_close_within(signal, direct[0], box, radius, 0.15)
    assert_close_within(coverage, direct[1], box, radius, 0.15)


def assert_close_within(found, expected, box, radius, tolerance):
    """Equal in scale, and nearly in value: the ball of shells ends sharply, and its ringing is cut.

    What does not fall off before the last shell, as a wedge, rings most.
    """
    inner = np.linalg.norm(box.samples.axes, axis=0) <= radius - 1
    found, expected = found[inner], expected[inner]
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < tolerance
    gain = np.vdot(expected, found).real / np.vdot(expected, expected).real
    assert gain == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("n", [15, 16])
def test_a_function_on_the_shells_comes_to_the_samples(n):
    box, plan = box_and_plan(n, 5, 12)
    values = SMALL.spectrum_at(plan.sampling.axes, n).reshape(plan.sampling.shape)
    found = plan.to_samples(values.astype(np.complex64), box.samples)
    assert_close_within(found, SMALL.spectrum_at(box.samples.axes, n), box, 5, 0.07)
