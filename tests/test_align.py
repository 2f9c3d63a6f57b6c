import numpy as np
import pytest
from phantoms import blobs, particles

from scipion_faml.align import (
    best_rotations,
    exhaustive_candidates,
    find_candidates,
    magnitude_scores,
    observe,
    prepare_reference,
    prepare_wedge,
    score_pose,
    score_rotations,
)
from scipion_faml.faml import Geometry
from scipion_faml.fourier import frequencies, sample_set, spectrum
from scipion_faml.geometry import (
    RigidTransforms,
    euler_to_matrix,
    rotation_angle_deg,
)
from scipion_faml.harmonics import shell_plan
from scipion_faml.model import FamlConfig
from scipion_faml.volume import move_volume
from scipion_faml.wedge import MissingWedge


def errors(candidates, pose):
    """Rotation (deg) and shift (voxels) errors of every candidate."""
    angle = rotation_angle_deg(candidates.transforms.rotation, pose.rotation[0])
    return angle, np.linalg.norm(candidates.transforms.shift_xyz - pose.shift_xyz, axis=1)


def test_a_clear_particle_is_found_by_its_best_candidate():
    reference_volume = blobs(24, 0)
    source, _, poses = particles([reference_volume], 6, snr=2.0)
    geometry = Geometry.of(source, FamlConfig())
    reference = prepare_reference(reference_volume, geometry.samples, geometry.plan)
    for i in range(6):
        found = find_candidates(geometry.observe(source, i), reference, 0, 50, 4.0)
        angle, shift = errors(found, poses[[i]])
        best = found.score.argmax()
        # The grid has 20 deg steps; parabolas and magnitudes leave a third of one.
        assert angle[best] < 12.0
        assert shift[best] < 0.7


def test_the_exhaustive_search_refines_to_a_few_degrees():
    reference_volume = blobs(16, 1, width=0.08)
    source, _, poses = particles([reference_volume], 3, snr=2.0)
    geometry = Geometry.of(source, FamlConfig())
    reference = prepare_reference(reference_volume, geometry.samples, geometry.plan)
    for i in range(3):
        found = exhaustive_candidates(geometry.observe(source, i), reference, 0, 2, 3.0, 30.0)
        angle, shift = errors(found, poses[[i]])
        best = found.score.argmax()
        assert angle[best] < 5.0
        assert shift[best] < 0.4


def test_the_score_is_equation_1_summed_over_every_sample():
    n = 8
    rng = np.random.default_rng(0)
    samples, plan = sample_set(n), shell_plan(4, 3)
    average = blobs(n, 2, width=0.15)
    wedge = MissingWedge(-60, 60).mask(n)
    volume = rng.normal(size=(n, n, n)).astype(np.float32)
    observation = observe(volume, prepare_wedge(wedge, samples, plan))
    reference = prepare_reference(average, samples, plan)
    rotation, shift = euler_to_matrix(np.array([0.3, 0.9, 1.2])), np.array([0.4, -1.0, 0.7])
    model = reference.turned(rotation)
    cross, power = score_pose(observation, model, shift)
    # Equation 1 over the whole spectrum: both Friedel mates, the wedge, the shift of A.
    kz, ky, kx = np.broadcast_arrays(*frequencies(n))
    half_model = samples.put(model)
    ramp = np.exp(-2j * np.pi / n * (kx * shift[0] + ky * shift[1] + kz * shift[2]))
    kept = samples.put(samples.multiplicity) * wedge
    expected = np.sum(kept * spectrum(volume) * np.conj(half_model * ramp)).real
    assert cross == pytest.approx(expected, rel=1e-4)
    assert power == pytest.approx(np.sum(kept * np.abs(half_model) ** 2), rel=1e-4)


def score_unturned(average, true_shift, max_shift, radius=None):
    """A shifted average against itself, unturned: observation, turned average, candidate."""
    n = average.shape[0]
    samples, plan = sample_set(n, radius), shell_plan(6, 5)
    moved = move_volume(average, RigidTransforms([[0, 0, 0]], [true_shift]))
    observation = observe(moved, prepare_wedge(MissingWedge(-60, 60).mask(n), samples, plan))
    reference = prepare_reference(average, samples, plan)
    found = score_rotations(observation, reference, np.zeros((1, 3)), 0, max_shift)
    return observation, reference.turned(np.eye(3)), found


def test_the_best_shift_is_the_maximum_over_a_dense_grid_of_shifts():
    true_shift = np.array([1.3, -0.6, 0.2])
    observation, model, candidate = score_unturned(blobs(12, 3, width=0.12), true_shift, 3.0)
    found = candidate.transforms.shift_xyz[0]
    axis = np.arange(-2.0, 2.01, 0.2)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    dense = grid[np.argmax([score_pose(observation, model, t)[0] for t in grid])]
    np.testing.assert_allclose(found, dense, atol=0.25)  # a step and the parabola's error
    np.testing.assert_allclose(found, true_shift, atol=0.2)


@pytest.mark.parametrize("n", [15, 16])
def test_a_candidate_holds_cross_and_power_at_its_own_shift(n):
    observation, model, candidate = score_unturned(blobs(n, 3), [0.4, 1.7, -0.9], 4.0)
    cross, power = score_pose(observation, model, candidate.transforms.shift_xyz[0])
    assert candidate.cross[0] == pytest.approx(cross, rel=1e-5)
    assert candidate.model_power[0] == pytest.approx(power, rel=1e-5)
    assert candidate.score[0] == pytest.approx(cross / np.sqrt(power), rel=1e-5)


def test_a_low_pass_leaves_the_shift_where_it_is():
    true_shift = [1.3, -2.1, 0.6]
    for radius in (5, 7.5, None):
        _, _, candidate = score_unturned(blobs(24, 3), true_shift, 5.0, radius)
        np.testing.assert_allclose(candidate.transforms.shift_xyz[0], true_shift, atol=0.25)


def test_a_shift_beyond_the_limit_is_not_proposed():
    _, _, candidate = score_unturned(blobs(16, 3), [5.0, 0.0, 0.0], 2.0)
    assert np.linalg.norm(candidate.transforms.shift_xyz) < 2.6


def test_the_magnitude_bound_does_not_depend_on_where_the_particle_sits():
    n = 24
    average = blobs(n, 4, radius=0.12)
    geometry = Geometry(sample_set(n), shell_plan(10, 11))
    reference = prepare_reference(average, geometry.samples, geometry.plan)
    wedge = MissingWedge(-60, 60).mask(n)
    scores = []
    for shift in ([0.0, 0.0, 0.0], [3.0, -2.0, 1.0]):
        moved = move_volume(average, RigidTransforms([[0.5, 1.0, 0.2]], [shift]))
        observation = observe(moved, prepare_wedge(wedge, geometry.samples, geometry.plan))
        scores.append(magnitude_scores(observation, reference))
    np.testing.assert_allclose(scores[0], scores[1], rtol=0.05)


def test_the_bound_is_never_below_the_score_it_bounds():
    n = 16
    average = blobs(n, 5, width=0.1)
    geometry = Geometry(sample_set(n), shell_plan(8, 7))
    reference = prepare_reference(average, geometry.samples, geometry.plan)
    source, _, _ = particles([average], 1, snr=0.5)
    observation = geometry.observe(source, 0)
    found = find_candidates(observation, reference, 0, 10, 3.0)
    for rotation, score in zip(found.transforms.rotation, found.score, strict=True):
        model = reference.turned(rotation)
        bound = np.sum(
            observation.sample_weight * np.abs(observation.values) * np.abs(model)
        ) / np.sqrt(np.sum(observation.sample_weight * np.abs(model) ** 2))
        assert score <= bound * (1 + 1e-5)


def test_candidates_are_maxima_apart_from_each_other_and_best_first():
    n = 16
    plan = shell_plan(8, 7)
    average = blobs(n, 6)
    reference = prepare_reference(average, sample_set(n), plan)
    source, _, _ = particles([average], 1, snr=0.05)
    wedge = prepare_wedge(source[0].wedge, sample_set(n), plan)
    score = magnitude_scores(observe(source[0].volume, wedge), reference)
    rotation = euler_to_matrix(best_rotations(score, plan, 20))
    angle = rotation_angle_deg(rotation[:, None], rotation[None])
    assert angle[~np.eye(len(rotation), dtype=bool)].min() > 360 / plan.n_angles
    assert len(rotation) <= 20


def test_a_box_or_wedge_that_does_not_fit_is_refused():
    samples, plan = sample_set(8), shell_plan(4, 3)
    with pytest.raises(ValueError, match=r"shape \(9, 9, 5\) does not belong to a box of 8"):
        prepare_wedge(np.ones((9, 9, 5), np.float32), samples, plan)
    with pytest.raises(ValueError, match="no Fourier sample measured"):
        prepare_wedge(np.zeros((8, 8, 5), np.float32), samples, plan)
    wedge = prepare_wedge(np.ones((8, 8, 5), np.float32), samples, plan)
    with pytest.raises(ValueError, match="does not fit a box of 8"):
        observe(np.zeros((9, 9, 9), np.float32), wedge)
