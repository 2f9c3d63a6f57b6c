import numpy as np
import pytest
from phantoms import blobs, particles

from scipion_faml import faml
from scipion_faml.execution import SerialExecutor, ThreadExecutor
from scipion_faml.faml import average_known, initial_state, run
from scipion_faml.geometry import RigidTransforms, compose, invert, rotation_angle_deg
from scipion_faml.model import FamlConfig, ModelState
from scipion_faml.sources import ArraySource
from scipion_faml.volume import move_volume


def last(results):
    return list(results)[-1]


def frame_error_deg(found, truth):
    """Median rotation error after the best common rotation of the average."""
    relative = np.swapaxes(truth.rotation, 1, 2) @ found.rotation
    return min(np.median(rotation_angle_deg(relative, g)) for g in relative)


@pytest.fixture(scope="module")
def one_structure():
    return particles([blobs(20, 0, radius=0.18)], 24, snr=2.0)


@pytest.mark.parametrize("method", ["faml", "fa"])
def test_turned_particles_of_one_structure_are_aligned(one_structure, method):
    source, _, poses = one_structure
    config = FamlConfig(n_iterations=8, start="turned", method=method, max_shift=4)
    result = last(run(source, config))
    assert frame_error_deg(result.assignments.poses, poses) < 10.0
    assert result.state.alpha == pytest.approx([1.0])


def test_two_structures_are_told_apart():
    # A ball and a rod: the paper's method classifies what differs at low resolution.
    n = 20
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    ball = np.exp(-(x**2 + y**2 + z**2) / (2 * 2.5**2)).astype(np.float32)
    rod = np.exp(-(x**2 / (2 * 6.0**2) + (y**2 + z**2) / (2 * 1.6**2))).astype(np.float32)
    source, class_index, _ = particles([ball, rod], 24, snr=1.0)
    config = FamlConfig(n_classes=2, n_iterations=8, start="turned", max_shift=4, seed=1)
    found = last(run(source, config)).assignments.class_index
    agreement = max(np.mean(found == class_index), np.mean(found != class_index))
    assert agreement >= 23 / 24


def test_the_result_does_not_depend_on_the_workers(one_structure):
    source, _, _ = one_structure
    config = FamlConfig(n_classes=2, n_iterations=2, chunk_size=3)
    executors = (SerialExecutor(), ThreadExecutor(2), ThreadExecutor(4))
    runs = [last(run(source, config, executor)) for executor in executors]
    for other in runs[1:]:
        np.testing.assert_array_equal(other.state.averages, runs[0].state.averages)
        np.testing.assert_array_equal(
            other.assignments.poses.euler_zyz, runs[0].assignments.poses.euler_zyz
        )
        assert other.log_likelihood == runs[0].log_likelihood
        assert other.state.sigma == runs[0].state.sigma


def test_a_run_continued_from_its_state_is_the_run_not_interrupted(one_structure):
    source, _, _ = one_structure
    config = FamlConfig(n_iterations=3)
    whole = last(run(source, config))
    first = next(iter(run(source, config)))
    resumed = last(run(source, config, None, first.state, first.assignments))
    np.testing.assert_array_equal(resumed.state.averages, whole.state.averages)
    assert resumed.pose_change_deg == whole.pose_change_deg


def test_another_seed_gives_another_start(one_structure):
    source, _, _ = one_structure
    a = initial_state(source, FamlConfig(n_classes=2, seed=0))
    b = initial_state(source, FamlConfig(n_classes=2, seed=1))
    assert np.abs(a.averages - b.averages).max() > 0


def test_the_start_is_that_of_section_2_4(one_structure):
    source, _, _ = one_structure
    state = initial_state(source, FamlConfig(n_classes=3))
    np.testing.assert_allclose(state.alpha, 1 / 3)
    assert state.zeta == source.n
    # sigma^2 is a mean squared difference per Fourier sample: about n^3 voxel variances.
    variance = source.volumes.var(axis=(1, 2, 3)).mean() * source.n**3
    assert 0.3 * variance < state.sigma**2 < 3 * variance


def test_permuting_the_classes_of_the_start_permutes_the_result(one_structure):
    source, _, _ = one_structure
    config = FamlConfig(n_classes=2, n_iterations=1, n_voronoi_points=200)
    start = initial_state(source, config)
    swapped = ModelState(start.averages[::-1].copy(), start.alpha[::-1], start.sigma, start.zeta)
    a, b = last(run(source, config, None, start)), last(run(source, config, None, swapped))
    # Voronoi points are drawn per (particle, class): shares differ by their standard error, which
    # can only tip a particle that stands between two candidates.
    differing = a.assignments.class_index == b.assignments.class_index
    assert differing.mean() < 0.15


def test_known_poses_average_to_the_structure(one_structure):
    source, class_index, poses = one_structure
    averages, halves = average_known(source, class_index, poses, FamlConfig())
    reference = blobs(20, 0, radius=0.18)
    correlation = [
        np.corrcoef(v.ravel(), reference.ravel())[0, 1] for v in (averages[0], halves[0, 0])
    ]
    assert correlation[0] > 0.97
    assert correlation[0] > correlation[1] > 0.9


def test_a_global_turn_of_all_poses_turns_the_average(one_structure):
    source, class_index, poses = one_structure
    quarter = RigidTransforms([[np.pi / 2, 0.0, 0.0]], [[0.0, 0.0, 0.0]])
    straight, _ = average_known(source, class_index, poses, FamlConfig())
    turned, _ = average_known(source, class_index, compose(poses, quarter), FamlConfig())
    # R Q A' = R A, so A' is A turned by the inverse of Q.
    expected = move_volume(straight[0], invert(quarter))
    correlation = np.corrcoef(turned[0].ravel(), expected.ravel())[0, 1]
    assert correlation > 0.999


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_classes": 30}, "30 classes asked of 24 particles"),
        ({"low_pass_angst": 1e4}, "low-pass"),
    ],
)
def test_settings_that_the_particles_cannot_meet_are_named(one_structure, change, message):
    source, _, _ = one_structure
    with pytest.raises(ValueError, match=message):
        last(run(source, FamlConfig(n_iterations=1, **change)))


def test_one_particle_cannot_be_averaged(one_structure):
    source, _, _ = one_structure
    with pytest.raises(ValueError, match="1 particle"):
        last(run(ArraySource(source.volumes[:1], source.wedges), FamlConfig()))


def test_a_damaged_particle_is_named(one_structure):
    source, _, _ = one_structure
    volumes = source.volumes.copy()
    volumes[4, 3, 2, 1] = np.nan
    with pytest.raises(ValueError, match="subtomogram 5 holds 1 voxels that are NaN"):
        last(run(ArraySource(volumes, source.wedges), FamlConfig(n_iterations=1)))
    volumes[4] = 7.0
    with pytest.raises(ValueError, match="subtomogram 5 is constant"):
        last(run(ArraySource(volumes, source.wedges), FamlConfig(n_iterations=1)))


@pytest.mark.parametrize(
    "setting",
    [{"method": "best"}, {"start": "x"}, {"n_classes": 0}, {"bandwidth": 2}, {"max_shift": -1.0},
     {"low_pass_angst": 0.0}, {"angular_step_deg": 0.0}, {"search": "guess"}, {"seed": -1}],
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ValueError):
        FamlConfig(**setting)


def test_odd_boxes_are_averaged_too():
    source, _, poses = particles([blobs(19, 2, radius=0.15)], 12, snr=4.0)
    averages, _ = average_known(source, np.zeros(12, int), poses, FamlConfig())
    assert np.corrcoef(averages[0].ravel(), blobs(19, 2, radius=0.15).ravel())[0, 1] > 0.95
    assert last(run(source, FamlConfig(n_iterations=1))).state.iteration == 1


def test_no_particle_is_an_error_not_a_division_by_zero():
    with pytest.raises(ValueError, match="0 particle"):
        last(run(ArraySource(np.zeros((0, 16, 16, 16), np.float32), []), FamlConfig()))


@pytest.mark.parametrize("cache_bytes", [0, 500_000, 2**30])
def test_particles_kept_between_iterations_change_no_bit(cache_bytes):
    source, _, _ = particles([blobs(16, 0)], 7, snr=0.5)
    config = FamlConfig(start="turned", max_candidates=8)
    geometry = faml.Geometry.of(source, config, cache_bytes)
    kept = plain = faml.initial_state(source, config)
    for _ in range(2):
        plain = faml.iterate(source, plain, config).state
        kept = faml.iterate(source, kept, config, geometry=geometry).state
    np.testing.assert_array_equal(kept.averages, plain.averages)
    assert (kept.sigma, kept.zeta) == (plain.sigma, plain.zeta)
    size = geometry.observe(source, 0).n_bytes
    assert len(geometry._observations) == min(7, cache_bytes // size)


def test_halves_alternate_within_a_class_and_not_over_the_table(one_structure):
    source, _, poses = one_structure
    class_index = np.arange(len(source)) % 2
    _, halves = average_known(source, class_index, poses, FamlConfig(n_classes=2))
    assert halves.std(axis=(2, 3, 4)).min() > 0.0
    half = np.arange(len(source)) // 2 % 2
    _, told = average_known(source, class_index, poses, FamlConfig(n_classes=2), half=half)
    assert np.array_equal(halves, told)


def test_half_sets_that_are_named_are_averaged_apart(one_structure):
    source, class_index, poses = one_structure
    half = np.arange(len(source)) % 2
    _, halves = average_known(source, class_index, poses, FamlConfig())
    _, swapped = average_known(source, class_index, poses, FamlConfig(), half=1 - half)
    assert np.array_equal(halves[0], swapped[1]) and np.array_equal(halves[1], swapped[0])
