"""Enhanced mode from end to end: recovery, classes, symmetries, and nothing found in noise."""

import numpy as np
import pytest
from oracles_equations import quarter_turn
from phantoms import blobs, particles

from scipion_faml import enhanced
from scipion_faml.evaluation.similarity import similarity
from scipion_faml.folds import fold_of
from scipion_faml.fourier import low_pass, spectrum, volume_from_spectrum
from scipion_faml.geometry import rotation_angle_deg
from scipion_faml.model import FamlConfig
from scipion_faml.sources import ArraySource
from scipion_faml.wedge import MissingWedge


def settings(**options):
    return FamlConfig(**{"mode": "enhanced", "n_iterations": 10, "max_shift": 3.0, **options})


def last(results):
    return list(results)[-1]


def frame_error_deg(found, truth):
    """Median rotation error after the best common rotation of the average."""
    relative = np.swapaxes(truth.rotation, 1, 2) @ found.rotation
    return min(np.median(rotation_angle_deg(relative, g)) for g in relative)


@pytest.mark.parametrize("n", [27, 32])
def test_a_structure_is_recovered_blind_from_particles_in_strong_noise(n):
    reference = blobs(n, 0)
    source, _, poses = particles([reference], 24, snr=0.05)
    results = list(enhanced.run(source, settings(n_iterations=7)))
    found = similarity(results[-1].state.averages[0], reference)
    assert found.correlation_without_radial_mean > 0.9
    assert found.masked_correlation > 0.95
    assert frame_error_deg(results[-1].assignments.poses, poses) < 6.0
    evidence = [r.log_likelihood for r in results]
    assert evidence[-1] > evidence[0] + 24 * 50  # log units of a particle
    assert results[-1].state.zeta < 3.0


@pytest.mark.slow
@pytest.mark.parametrize("data_seed", [0, 1])
def test_two_structures_are_separated_blind_by_the_start_of_higher_evidence(data_seed):
    n = 24
    references = [blobs(n, 2 * data_seed + k) for k in range(2)]
    source, class_index, _ = particles(references, 40, snr=0.5, seed=data_seed)
    # Some starts end with an empty class; their evidence is far below that of the others.
    runs = [
        last(enhanced.run(source, settings(n_classes=2, n_iterations=12, seed=seed)))
        for seed in range(2)
    ]
    best = max(runs, key=lambda r: r.log_likelihood)
    found = best.assignments.class_index
    assert max(np.mean(found == class_index), np.mean(found != class_index)) == 1.0
    np.testing.assert_allclose(best.state.alpha, 0.5, atol=0.1)


# ------------------------------------------------------------------------------------ symmetries
@pytest.fixture(scope="module")
def small():
    """Twelve clear particles of two structures, and low-passed maps to start from."""
    n = 15
    references = [blobs(n, seed, width=0.08) for seed in range(2)]
    source, class_index, poses = particles(references, 12, snr=4.0, max_shift=1.0)
    maps = np.stack([low_pass(r, 10.0, 50.0) for r in references])
    return source, class_index, poses, maps


def from_maps(source, maps):
    """Three iterations from maps, of references that leave out nothing."""
    config = settings(
        n_classes=len(maps), n_iterations=3, n_folds=1, dense_bandwidth=16, max_shift=1.5)
    return last(enhanced.run(source, config, references=maps))


def test_posteriors_of_all_classes_sum_to_one(small):
    source, class_index, _, maps = small
    result = from_maps(source, maps)
    np.testing.assert_allclose(result.assignments.class_posterior.sum(axis=1), 1.0, atol=1e-3)
    np.testing.assert_array_equal(result.assignments.class_index, class_index)


def test_permuting_particles_changes_nothing_but_their_order(small):
    source, _, _, maps = small
    # Within each half: halves of other particles have another correlation, and so another prior.
    rng, half = np.random.default_rng(0), fold_of(12, 2, 0)
    order = np.arange(12)
    for h in range(2):
        order[half == h] = rng.permutation(order[half == h])
    wedges = [source[i].wedge for i in order]
    a = from_maps(source, maps)
    b = from_maps(ArraySource(source.volumes[order], wedges, 10.0), maps)
    scale = np.abs(a.state.averages).max()
    np.testing.assert_allclose(a.state.averages, b.state.averages, atol=1e-3 * scale)
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-4)
    np.testing.assert_array_equal(b.assignments.class_index, a.assignments.class_index[order])
    angle = rotation_angle_deg(
        a.assignments.poses.rotation[order], b.assignments.poses.rotation)
    assert angle.max() < 0.1


def test_permuting_classes_permutes_the_result(small):
    source, _, _, maps = small
    a, b = from_maps(source, maps), from_maps(source, maps[::-1].copy())
    scale = np.abs(a.state.averages).max()
    np.testing.assert_allclose(a.state.averages, b.state.averages[::-1], atol=1e-3 * scale)
    np.testing.assert_allclose(a.state.alpha, b.state.alpha[::-1], atol=1e-4)
    np.testing.assert_array_equal(a.assignments.class_index, 1 - b.assignments.class_index)
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-4)


def turned(volume, turn):
    """A volume (n, n, n), n odd, turned about its centre voxel by a quarter turn."""
    n = volume.shape[0]
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    there = np.rint(np.stack([x, y, z], axis=-1) @ turn).astype(int) + n // 2  # R^T r
    return np.ascontiguousarray(volume[there[..., 2], there[..., 1], there[..., 0]])


def turned_wedge(mask, turn, n):
    """Weights on a half spectrum turned alike: even functions of frequency."""
    minus = -np.arange(n) % n
    full = np.empty((n, n, n), np.float32)
    full[:, :, : n // 2 + 1] = mask
    full[:, :, n // 2 + 1 :] = mask[np.ix_(minus, minus)][:, :, n // 2 : 0 : -1]
    whole = np.fft.ifftshift(turned(np.fft.fftshift(full), turn))
    return np.ascontiguousarray(whole[:, :, : n // 2 + 1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_turning_all_particles_by_90_deg_turns_their_poses_and_no_average(small, axis):
    source, class_index, _, maps = small
    turn, n = quarter_turn(axis), source.n
    wedge = turned_wedge(source[0].wedge, turn, n)
    moved = ArraySource(
        np.stack([turned(v, turn) for v in source.volumes]), [wedge] * 12, 10.0)
    # What was measured of the turned particle is what the turned wedge says.
    half = spectrum(moved.volumes[0].astype(float))
    assert np.abs(half[wedge == 0]).max() < 1e-4 * np.abs(half).max()
    a, b = from_maps(source, maps), from_maps(moved, maps)
    for k in range(2):
        both = a.state.averages[k].ravel(), b.state.averages[k].ravel()
        assert np.corrcoef(*both)[0, 1] > 0.97
    expected = turn @ a.assignments.poses.rotation
    # The grid of rotations is not turned with the particles.
    assert np.median(rotation_angle_deg(b.assignments.poses.rotation, expected)) < 6.0
    moved_by = b.assignments.poses.shift_xyz - a.assignments.poses.shift_xyz @ turn.T
    assert np.median(np.linalg.norm(moved_by, axis=1)) < 0.25
    np.testing.assert_array_equal(b.assignments.class_index, class_index)


# ----------------------------------------------------------------------------------------- noise
@pytest.mark.parametrize("seed", [0, 1])
def test_in_noise_alone_no_particle_finds_evidence(seed):
    n, n_particles = 16, 20
    rng, wedge = np.random.default_rng(seed), MissingWedge(-60, 60)
    volumes = np.stack([
        volume_from_spectrum(spectrum(v) * wedge.mask(n), n)
        for v in rng.normal(size=(n_particles, n, n, n))
    ])
    source = ArraySource(volumes.astype(np.float32), wedge, 10.0)
    config = settings(n_iterations=3, max_shift=2.0, seed=seed)
    for result in enhanced.run(source, config):
        evidence = result.assignments.log_likelihood
        # Never above the model of pure noise by more than the chance of it: a unit is a factor e.
        assert evidence.mean() < 0.25
        assert evidence.max() < 3.0
        # Every pose is as good as any other, and nothing is sharpened.
        assert result.state.n_effective > 1000
        assert result.state.phase == "dense"
