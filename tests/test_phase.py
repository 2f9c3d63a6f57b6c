"""Phase-aware candidates: what is searched is Eq. 1, and the truth is among what is found."""

import numpy as np
import pytest

from scipion_faml import faml
from scipion_faml.align import observe, prepare_reference, prepare_wedge, score_rotations
from scipion_faml.dense import cross_terms, dense_particle
from scipion_faml.em import propose, search_of
from scipion_faml.fourier import sample_set, spectrum, volume_from_spectrum
from scipion_faml.geometry import RigidTransforms, random_rotations, rotation_angle_deg
from scipion_faml.harmonics import shell_plan
from scipion_faml.model import FamlConfig
from scipion_faml.phase import PhaseSearch, best_apart, climbed, phase_candidates, phase_scores
from scipion_faml.simulation.phantom import blobs
from scipion_faml.sources import ArraySource
from scipion_faml.volume import move_volume
from scipion_faml.wedge import MissingWedge

WEDGE = MissingWedge(-60.0, 60.0)
SEARCH = {"radius": 5, "bandwidth": 14, "max_shift": 3.0}


def particle(volume, pose, snr, seed):
    n = len(volume)
    noise = np.random.default_rng(seed).normal(0, volume.std() / np.sqrt(snr), volume.shape)
    noisy = move_volume(volume, pose) + noise
    return volume_from_spectrum(spectrum(noisy) * WEDGE.mask(n), n).astype(np.float32)


def prepared(n, snr, seed=0):
    """A particle, its average as reference, and its pose."""
    rng = np.random.default_rng(seed)
    volume, samples, plan = blobs(n, seed), sample_set(n), shell_plan(8, (n - 1) // 2)
    pose = RigidTransforms(random_rotations(1, rng), rng.uniform(-1.5, 1.5, (1, 3)))
    wedge = prepare_wedge(WEDGE.mask(n), samples, plan)
    observation = observe(particle(volume, pose, snr, seed + 1), wedge)
    return observation, prepare_reference(volume, samples, plan), pose


@pytest.mark.parametrize("n", [23, 24])
@pytest.mark.parametrize("snr", [0.3, 0.05])
def test_the_best_candidate_is_the_true_pose(n, snr):
    for seed in range(3):
        observation, reference, pose = prepared(n, snr, seed)
        found = phase_candidates(observation, reference, 0, 20, PhaseSearch(n, **SEARCH))
        assert np.all(np.diff(found.score) <= 0)
        best = found.transforms[[0]]
        assert rotation_angle_deg(best.rotation[0], pose.rotation[0]) < 10.0
        assert np.linalg.norm(best.shift_xyz - pose.shift_xyz) < 1.0


def test_the_score_of_a_rotation_is_equation_1_at_its_best_shift_on_the_lattice():
    n = 16
    observation, reference, _ = prepared(n, 1.0)
    search = PhaseSearch(n, radius=4, bandwidth=10, max_shift=2.0)
    score, dense = phase_scores(observation, reference, search), search.dense(reference)
    all_cross = [c for _, c in cross_terms(dense_particle(observation, dense.plan), dense)]
    highest = np.concatenate(all_cross, axis=1).max(axis=1).reshape(score.shape)
    power = 2 * dense.half_power(observation.wedge)
    np.testing.assert_allclose(score, highest / np.sqrt(power), rtol=1e-5)


def test_climbing_raises_the_score_and_keeps_cross_and_power_of_equation_1():
    observation, reference, pose = prepared(24, 0.3)
    near = RigidTransforms(pose.euler_zyz + 0.06, pose.shift_xyz)
    start = score_rotations(observation, reference, near.euler_zyz, 0, 3.0)
    end = climbed(observation, reference, start, 1, 3.0)
    assert end.score[0] > start.score[0]
    rotation = end.transforms.rotation[0]
    assert rotation_angle_deg(rotation, pose.rotation[0]) < 3.0
    again = score_rotations(observation, reference, end.transforms.euler_zyz, 0, 3.0)
    assert end.cross[0] == pytest.approx(again.cross[0], rel=5e-3)
    assert end.model_power[0] == pytest.approx(again.model_power[0], rel=1e-3)
    assert end.score[0] == pytest.approx(end.cross[0] / np.sqrt(end.model_power[0]))


def test_climbing_does_not_leave_the_shifts_that_are_allowed():
    observation, reference, pose = prepared(24, 0.3)
    start = score_rotations(observation, reference, pose.euler_zyz, 0, 0.4)
    end = climbed(observation, reference, start, 1, 0.4)
    assert np.linalg.norm(end.transforms.shift_xyz[0]) <= max(
        0.4, np.linalg.norm(start.transforms.shift_xyz[0]))


def test_of_two_candidates_at_one_place_the_better_is_kept():
    observation, reference, pose = prepared(24, 0.3)
    twice = np.concatenate([pose.euler_zyz, pose.euler_zyz + 1e-3, pose.euler_zyz + 1.0])
    candidates = score_rotations(observation, reference, twice, 0, 3.0)
    kept = best_apart(candidates, 10)
    assert len(kept) == 2
    assert kept.score[0] == candidates.score[:2].max()


@pytest.mark.parametrize("search", ["phase", "both"])
def test_the_search_is_that_of_the_settings_and_takes_the_pose_before(search):
    observation, reference, pose = prepared(24, 0.05)
    config = FamlConfig(search=search, max_shift=3.0, max_candidates=12)
    phases = search_of(config, observation.samples)
    assert search_of(FamlConfig(), observation.samples) is None
    without = propose(observation, [reference], config, phases)
    with_it = propose(observation, [reference], config, phases, pose)
    assert len(without) <= 12
    assert with_it.score.max() >= without.score.max() - 1e-6
    angles = rotation_angle_deg(with_it.transforms.rotation, pose.rotation[0])
    assert angles.min() < 8.0


def test_a_run_with_phases_aligns_to_a_known_structure():
    n, rng = 24, np.random.default_rng(3)
    volume = blobs(n, 3)
    poses = RigidTransforms(random_rotations(8, rng), rng.uniform(-1, 1, (8, 3)))
    volumes = np.stack([particle(volume, poses[[i]], 0.1, i) for i in range(8)])
    source = ArraySource(volumes, WEDGE, 10.0)
    config = FamlConfig(method="fa", search="phase", max_shift=3.0, max_candidates=10)
    start = faml.state_from_references(source, volume[None], config)
    result = faml.iterate(source, start, config)
    error = rotation_angle_deg(result.assignments.poses.rotation, poses.rotation)
    assert np.median(error) < 6.0
