"""How many classes there are, found by the evidence of particles left out of the averages."""

import json

import numpy as np
import pytest
from phantoms import blobs, particles
from test_classify_enhanced import write_set

from scipion_faml import enhanced
from scipion_faml.cli import run
from scipion_faml.enhanced import Workbench
from scipion_faml.enhanced.population import (
    Gain,
    as_one,
    evidence_alone,
    evidence_of,
    joined,
    population,
    selected,
    settled,
    without_needless,
)
from scipion_faml.enhanced.start import random_state, state_from_references
from scipion_faml.evaluation.classes import compare_classes
from scipion_faml.execution import SerialExecutor, ThreadExecutor
from scipion_faml.model import FamlConfig
from scipion_faml.sources import ArraySource

N = 16


def settings(**options):
    small = {"start_radius": 4, "dense_bandwidth": 12, "n_folds": 4, "max_shift": 1.5}
    return FamlConfig(mode="enhanced", **small, **options)


def step(bench, state):
    return enhanced.iterate(bench, state, logged=False)


def structures(n_structures):
    return [blobs(N, seed, width=0.08) for seed in range(n_structures)]


def bench_of(source, workers=1, **options):
    executor = SerialExecutor() if workers == 1 else ThreadExecutor(workers)
    return Workbench(source, settings(**options), executor)


def labels(bench, state):
    return step(bench, state).assignments.class_index


@pytest.fixture(scope="module")
def three():
    """Particles of three structures."""
    return particles(structures(3), 24, snr=1.0, max_shift=1.0)


@pytest.fixture(scope="module")
def found(three):
    """What is found among them when the number is not told."""
    bench = bench_of(three[0], find_classes=True, max_classes=4)
    return bench, population(bench, step)


def test_as_many_classes_are_found_as_there_are_structures(three, found):
    bench, state = found
    assert state.n_classes == 3
    agreement = compare_classes(three[1], labels(bench, state))
    assert agreement.f1_mean > 0.95


def test_two_workers_find_the_same_classes_to_the_bit(three, found):
    bench = bench_of(three[0], workers=2, find_classes=True, max_classes=4)
    state = population(bench, step)
    np.testing.assert_array_equal(state.references, found[1].references)
    np.testing.assert_array_equal(state.alpha, found[1].alpha)


def test_one_structure_is_one_class():
    source, _, _ = particles(structures(1), 16, snr=1.0, max_shift=1.0)
    bench = bench_of(source, find_classes=True, max_classes=2)
    assert population(bench, step).n_classes == 1


def test_noise_is_one_class():
    source, _, _ = particles(structures(1), 16, snr=0.6, max_shift=1.0)
    rng = np.random.default_rng(1)
    noise = ArraySource(rng.normal(size=source.volumes.shape).astype(np.float32),
                        source.wedges, 10.0)
    bench = bench_of(noise, find_classes=True, max_classes=4)
    state = population(bench, step)
    assert state.n_classes == 1


def test_as_many_classes_come_out_as_were_asked_for():
    # Also where nothing tells them apart.
    source, _, _ = particles(structures(1), 12, snr=0.6, max_shift=1.0)
    bench = bench_of(source, n_classes=3)
    state = population(bench, step)
    assert state.n_classes == 3 and state.alpha.sum() == pytest.approx(1.0)
    assert state.references.shape[1] == len(state.averages) == len(state.fsc) == 3


# --------------------------------------------------------------------------------------- moves
@pytest.fixture(scope="module")
def at_truth(three):
    """Classes that start from the true maps."""
    bench = bench_of(three[0], n_classes=3)
    state = state_from_references(bench, np.stack(structures(3)))
    return bench, settled(bench, state, step, 3)


def test_two_structures_gain_from_two_classes_and_one_does_not(three, at_truth):
    bench, state = at_truth
    class_index = labels(bench, state)
    two = bench.part(np.flatnonzero(class_index < 2), bench.config)
    _, gain = as_one(two, selected(state, np.array([0, 1])), step)
    assert gain.is_supported and gain.total > 20.0
    # Halves of a class, each with averages of its own.
    members = np.flatnonzero(class_index == 0)
    view = bench.part(members, bench.config)
    half = joined(selected(state, np.array([0])), selected(state, np.array([0])), 0.5)
    _, gain = as_one(view, half, step)
    assert not gain.is_supported


def test_a_class_twice_is_left_out_once(at_truth):
    bench, state = at_truth
    twice = joined(state, selected(state, np.array([1])), 0.2)
    assert twice.n_classes == 4 and twice.alpha.sum() == pytest.approx(1.0)
    left = without_needless(bench, twice, step, most=3)
    assert left.n_classes == 3
    assert len(np.unique(labels(bench, left))) == 3


def test_a_class_that_is_needed_stays(at_truth):
    bench, state = at_truth
    assert without_needless(bench, state, step, most=3) is state


def test_evidence_of_all_classes_is_the_sum_over_them(at_truth):
    bench, state = at_truth
    alone = evidence_alone(bench, state, step)
    joint = evidence_of(bench, state, step, state.noise)
    summed = np.log(np.exp(alone - alone.max(axis=1, keepdims=True)) @ state.alpha)
    np.testing.assert_allclose(joint, summed + alone.max(axis=1), atol=2e-3)


def test_a_part_of_the_particles_is_looked_at_by_their_own_numbers(three):
    source = three[0]
    members = np.array([7, 3, 20, 11, 12, 13])
    whole = bench_of(source)
    whole.open_box(4)
    part = whole.part(members, settings())
    state = random_state(part, 0)
    alone = bench_of(ArraySource(source.volumes[np.sort(members)],
                                 [source[int(i)].wedge for i in np.sort(members)], 10.0))
    alone.folds = whole.folds[np.sort(members)]
    same = random_state(alone, 0)
    np.testing.assert_allclose(state.references, same.references, atol=1e-5)
    first, second = step(part, state), step(alone, same)
    assert first.log_likelihood == pytest.approx(second.log_likelihood, rel=1e-4)
    assert first.state.zeta == pytest.approx(second.state.zeta, rel=1e-4)
    assert len(first.assignments.class_index) == len(members)
    # The whole is as it was.
    assert len(whole.members) == len(source) and len(whole.config.group) == 1


def test_a_gain_counts_when_it_is_beyond_its_standard_error():
    rng = np.random.default_rng(0)
    fewer = rng.normal(100.0, 10.0, 50)
    assert Gain.of(fewer + rng.normal(3.0, 2.0, 50), fewer).is_supported
    assert not Gain.of(fewer + rng.normal(0.0, 2.0, 50), fewer).is_supported
    assert not Gain.of(fewer - 1.0, fewer).is_supported


# --------------------------------------------------------------------------------- command line
def test_the_command_finds_the_number_of_classes_and_goes_on(tmp_path, capsys):
    source, _, _ = particles(structures(2), 14, snr=2.0, max_shift=1.0)
    data = write_set(tmp_path / "data", source)
    common = ["classify", str(data / "particles.star"), "--workers", "1", "--start-shells", "4",
              "--dense-bandwidth", "12", "--folds", "4", "--low-pass", "40",
              "--max-shift", "1.5", "--classes", "auto", "--max-classes", "3", "--json"]
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert run([*common, "--output", str(once), "--iterations", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["classes"] == 2 == len(result["class_sizes"])
    assert len(list(once.glob("class_???.mrc"))) == 2
    for iterations in ("1", "2"):
        assert run([*common, "--output", str(twice), "--iterations", iterations]) == 0
    for name in ("class_001.mrc", "class_002.mrc", "particles.star"):
        assert (once / name).read_bytes()[1024:] == (twice / name).read_bytes()[1024:]


@pytest.mark.parametrize(("options", "message"), [
    (["--classes", "auto", "--mode", "paper"], "needs --mode enhanced"),
    (["--classes", "few"], "no number of classes"),
    (["--classes", "0"], "no number of classes"),
    (["--classes", "auto", "--folds", "1"], "choose 4 or more"),
    (["--classes", "auto", "--reference", "map.mrc"], "give one each"),
])
def test_what_cannot_be_is_said_in_one_line(options, message, tmp_path, capsys):
    assert run(["classify", "none.star", "--output", str(tmp_path / "o"), *options]) == 2
    assert message in capsys.readouterr().err
