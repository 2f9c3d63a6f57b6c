"""The point group of each class, found from the particles."""

from dataclasses import replace

import numpy as np
import pytest
from phantoms import particles

from scipion_faml import checkpoint, enhanced
from scipion_faml.cli import run
from scipion_faml.enhanced.symmetry_search import AverageToSearch, larger_groups
from scipion_faml.evaluation.superposition import group_correlation, superpose
from scipion_faml.fourier import crop_half, spectrum
from scipion_faml.geometry import RigidTransforms
from scipion_faml.measured import WorkingBox
from scipion_faml.model import FamlConfig
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.volume import move_volume
from scipion_faml.wedge import MissingWedge

N = 20


def symmetric_map(group, seed=0, n_blobs=3, odd=0.0):
    """Gaussian blobs in all places that a group makes equivalent, one of them heavier."""
    points = np.random.default_rng(seed).normal(0, 0.16 * N, (n_blobs, 3))
    z, y, x = np.mgrid[:N, :N, :N] - N // 2
    volume = np.zeros((N, N, N))
    heights = np.ones(len(symmetry_rotations(group)) * n_blobs)
    places = np.einsum("gij,pj->gpi", symmetry_rotations(group), points).reshape(-1, 3)
    heights[np.hypot(*places[:, :2].T).argmax()] += odd
    for height, (a, b, c) in zip(heights, places, strict=True):
        volume += height * np.exp(
            -((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * (0.06 * N) ** 2))
    return volume.astype(np.float32)


def found_in(source, **options):
    config = FamlConfig(mode="enhanced", symmetry="auto", dense_bandwidth=10, max_shift=2.0,
                        **{"n_iterations": 25, **options})
    *_, last = enhanced.run(source, config)
    return last


def searched(volume, coverage=None, radius=9):
    """An average to look for groups on, all of it measured or what a weight volume says."""
    box = WorkingBox.of(N, radius)
    weight = np.ones((N, N, N // 2 + 1), np.float32) if coverage is None else coverage
    half = spectrum(volume) * weight
    values = np.asarray(box.samples.take(crop_half(half, box.n)))
    measured = np.asarray(box.samples.take(crop_half(weight.astype(complex), box.n))).real
    return AverageToSearch.of(values, 20.0 * measured, np.full(radius, 0.95), box, volume)


def moved(volume, seed=3):
    rotation = RigidTransforms(
        np.random.default_rng(seed).uniform(0, 2, (1, 3)), np.array([[0.7, -0.4, 0.5]]))
    return move_volume(volume, rotation)


@pytest.mark.parametrize("group", ["C5"])
def test_the_axis_of_a_turned_average_is_found(group):
    best = searched(moved(symmetric_map(group))).cyclic()[0]
    assert best.group == group
    in_frame = move_volume(moved(symmetric_map(group)), best.frame)
    assert group_correlation(in_frame, group) > 0.9


@pytest.mark.slow
def test_a_larger_group_is_built_on_a_fold_found():
    average = searched(moved(symmetric_map("D3", n_blobs=2)))
    three = next(c for c in average.cyclic() if c.group == "C3")
    found = average.about(three, "D3")
    in_frame = move_volume(moved(symmetric_map("D3", n_blobs=2)), found.frame)
    assert group_correlation(in_frame, "D3") > 0.9


def test_a_missing_wedge_is_no_symmetry():
    volume = symmetric_map("C1")
    wedge = MissingWedge(-50, 50).mask(N)
    cut = searched(volume, wedge)
    # Half a turn about the tilt axis or the beam carries the wedge onto itself.
    turns = symmetry_rotations("D2")[1:]
    assert np.max([cut.fine.correlation(t, np.zeros(3)) for t in turns]) < 0.5
    identity = cut.fine.correlation(np.eye(3), np.zeros(3))
    assert identity > 0.95


def test_groups_that_hold_a_fold_are_known():
    assert larger_groups(7) == ["D7"]
    assert larger_groups(4) == ["D4", "O"]
    assert larger_groups(3) == ["D3", "T", "O"]


@pytest.mark.slow
def test_a_blind_run_finds_its_group_and_imposes_it():
    truth = symmetric_map("C4")
    source, _, _ = particles([truth], 16, snr=0.7, max_shift=1.5)
    last = found_in(source)
    assert last.state.symmetry == ("C4",)
    assert group_correlation(last.state.averages[0], "C4") > 0.97
    assert superpose(last.state.averages[0], truth)[1] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("odd", [0.0, 2.0])
def test_what_has_no_symmetry_keeps_none(odd):
    truth = symmetric_map("C1", n_blobs=7) if odd == 0.0 else symmetric_map("C4", odd=odd)
    source, _, _ = particles([truth], 16, snr=0.7, max_shift=1.5)
    assert found_in(source).state.symmetry == ("C1",)


def test_noise_has_no_symmetry():
    source, _, _ = particles([np.zeros((N, N, N), np.float32) + 1e-6 * symmetric_map("C4")], 16,
                             snr=1e-6, max_shift=1.5)
    assert found_in(source, n_iterations=12).state.symmetry == ("C1",)


def test_the_groups_of_classes_survive_a_checkpoint(tmp_path):
    source, _, _ = particles([symmetric_map("C4")], 8, snr=1.0)
    config = FamlConfig(mode="enhanced", n_iterations=1, dense_bandwidth=8, max_shift=1.0)
    *_, result = enhanced.run(source, config)
    saved = replace(result, state=replace(
        result.state, symmetry=("D2",), searched_radius=7, symmetry_gain=np.array([1.5])))
    checkpoint.save(tmp_path, saved, [], {"mode": "enhanced"}, 10.0)
    state = checkpoint.load(checkpoint.newest(tmp_path), {"mode": "enhanced"}).state
    assert state.symmetry == ("D2",) and state.searched_radius == 7
    assert state.symmetry_gain == np.array([1.5])
    assert len(state.groups[0]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", "p.star", "--symmetry", "auto", "--mode", "paper"],
         "--symmetry auto needs --mode enhanced"),
        (["classify", "p.star", "--symmetry", "auto", "--folds", "1"],
         "symmetry auto is judged by"),
        (["average", "p.star", "--symmetry", "auto"], "symmetry 'auto' is not known"),
    ],
)
def test_auto_is_refused_where_nothing_is_looked_for(tmp_path, capsys, arguments, message):
    assert run([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
