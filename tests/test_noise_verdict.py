"""Pure noise: no structure is found, and it is said in the log, the JSON and the report."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from dask_jobs import write_set
from phantoms import blobs, particles

from scipion_faml import enhanced, faml
from scipion_faml.cli import run
from scipion_faml.evaluation.fsc import BY_CHANCE, agreement, fourier_shell_correlation
from scipion_faml.execution import SerialExecutor, ThreadExecutor
from scipion_faml.fourier import shell_sums
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.model import FamlConfig
from scipion_faml.structure_check import MIN_Z, StructureCheck, structure_check
from scipion_faml.tables import read_particles, write_particles

N = 16
PAPER = ("--mode", "paper", "--iterations", "5", "--max-candidates", "6", "--bandwidth", "8")
ENHANCED = ("--iterations", "5", "--dense-bandwidth", "8", "--max-shift", "1.5")


def noise_like(source, seed=0):
    """Particles of white noise with the wedge of a source."""
    silent, _, _ = particles([np.zeros((N, N, N), np.float32) + blobs(N, 0)], len(source),
                             snr=1e-8, seed=seed)
    volumes = silent.volumes / silent.volumes.std()
    return dataclasses.replace(source, volumes=volumes.astype(np.float32))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """STAR files of structure and of noise, sixteen particles each."""
    source, _, _ = particles([blobs(N, 0, width=0.08)], 16, snr=0.3)
    found = {"structure": source, "noise": noise_like(source)}
    folder = tmp_path_factory.mktemp("sets")
    for name, one in found.items():
        (folder / name).mkdir()
        write_set(folder / name / "particles.star", one)
    return folder


def classified(sets, name, output, *words, capsys):
    """Run classify; its JSON and what it said."""
    star = sets / name / "particles.star"
    assert run(["classify", str(star), "--output", str(output), "--json", *words]) == 0
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err


# ------------------------------------------------------------------------------------- verdicts
@pytest.mark.usefixtures("reports")
@pytest.mark.parametrize("words", [PAPER, ENHANCED], ids=["paper", "enhanced"])
def test_noise_gives_no_structure_in_log_json_and_report(sets, tmp_path, capsys, words):
    result, said = classified(sets, "noise", tmp_path / "o", *words, capsys=capsys)
    assert result["structure_found"] is False
    assert result["verdict"].startswith("no structure found: ")
    assert result["resolution_angst"] is None
    assert "warning: no structure found: " in said
    assert any(text.startswith("no structure found") for text in result["warnings"])
    page = (tmp_path / "o" / "report.html").read_text()
    assert "No structure found: " in page and "No resolution is given" in page


@pytest.mark.parametrize("words", [PAPER, ENHANCED], ids=["paper", "enhanced"])
def test_structure_is_found_where_it_is(sets, tmp_path, capsys, words):
    result, said = classified(sets, "structure", tmp_path / "o", *words, capsys=capsys)
    assert result["structure_found"] is True
    assert result["verdict"].startswith("structure found: ")
    assert result["resolution_angst"] > 0 and "no structure" not in said


def test_noise_that_was_aligned_to_a_map_is_no_structure_though_the_average_looks_like_it(
        sets, tmp_path, capsys):
    # "Einstein from noise" (Henderson 2013): the map comes back.
    from scipion_faml.io import read_volume, write_volume

    reference = blobs(N, 3, width=0.08)
    write_volume(tmp_path / "map.mrc", reference, 10.0)
    result, _ = classified(
        sets, "noise", tmp_path / "o", *PAPER[:2], "--iterations", "1", "--max-candidates", "6",
        "--reference", str(tmp_path / "map.mrc"), capsys=capsys)
    average = read_volume(tmp_path / "o" / "class_001.mrc")[0]
    assert np.corrcoef(average.ravel(), reference.ravel())[0, 1] > 0.3
    assert result["structure_found"] is False and result["structure_z"] < MIN_Z


# ------------------------------------------------------------------------------------- the check
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_classes", [1, 3])
def test_noise_fits_other_averages_no_better_than_its_copies(sets, seed, n_classes):
    source, _, _ = particles([blobs(N, 0)], 24, snr=1.0)
    source = noise_like(source, seed)
    config = FamlConfig(mode="paper", n_classes=n_classes, n_iterations=4, max_candidates=6,
                        bandwidth=8, seed=seed)
    last = list(faml.run(source, config))[-1]
    check = structure_check(source, last.state, last.assignments, config)
    assert check.z < 0.7 * MIN_Z and not check.is_found
    # What halves that shared references show of noise: far beyond chance. It is no evidence.
    shared = fourier_shell_correlation(*last.half_averages[:, 0])[3:7]
    assert n_classes > 1 or shared.mean() > 0.2


def test_structure_fits_other_averages_better_on_any_number_of_workers():
    source, _, _ = particles([blobs(N, k, width=0.08) for k in range(2)], 16, snr=0.3)
    config = FamlConfig(mode="paper", n_classes=2, n_iterations=4, max_candidates=6, bandwidth=8)
    last = list(faml.run(source, config))[-1]
    one, two = (structure_check(source, last.state, last.assignments, config, executor)
                for executor in (SerialExecutor(), ThreadExecutor(2)))
    assert one.is_found and one.z > 2 * MIN_Z and one.n_particles == 16
    assert (one.gain, one.z) == (two.gain, two.z)


def test_a_half_without_particles_tells_nothing():
    source, _, _ = particles([blobs(N, 0)], 2, snr=1.0)
    config = FamlConfig(mode="paper", n_iterations=1, max_candidates=4, bandwidth=8)
    last = list(faml.run(source, config))[-1]
    alone = dataclasses.replace(
        last.assignments, class_index=np.array([0, 1]), poses=last.assignments.poses)
    two = dataclasses.replace(config, n_classes=2)
    state = dataclasses.replace(
        last.state, averages=np.concatenate([last.state.averages] * 2), alpha=np.full(2, 0.5))
    check = structure_check(source, state, alone, two)
    assert not check.is_found and check.z == 0.0


def test_the_check_counts_standard_errors():
    check = StructureCheck.of(np.array([1.0, 2.0, 3.0, 4.0]))
    assert check.gain == 2.5
    assert check.z == pytest.approx(2.5 / (np.std([1, 2, 3, 4], ddof=1) / 2))


# ------------------------------------------------------------------------------ independent halves
def chance(n):
    """Three standard deviations of independent noise's FSC, shells 1 and up: 3 / sqrt(pairs)."""
    return 3.0 / np.sqrt(shell_sums(np.ones((n, n, n // 2 + 1)), n)[1 : n // 2] / 2)


def test_halves_of_noise_with_poses_of_their_own_agree_by_chance_only(tmp_path, capsys):
    source, _, _ = particles([blobs(N, 0)], 40, snr=1.0)
    star = tmp_path / "set" / "particles.star"
    star.parent.mkdir()
    write_set(star, noise_like(source))
    poses = RigidTransforms(random_rotations(40, np.random.default_rng(1)), np.zeros((40, 3)))
    write_particles(star, read_particles(star).with_poses(poses))
    assert run(["average", str(star), "--output", str(tmp_path / "o"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    curve = np.genfromtxt(tmp_path / "o" / "fsc.csv", delimiter=",", skip_header=1)[1 : N // 2, 1]
    # Interpolation and the wedge leave fewer independent samples than there are: twice the chance.
    assert (np.abs(curve) < 2 * chance(N)).all(), curve
    assert result["halves_agree"] is False and result["resolution_angst"] == [None]
    assert result["warnings"][0].startswith("no structure found: the halves agree by chance only")


@pytest.mark.parametrize("n", [16, 17])
def test_agreement_beyond_chance_is_told_from_chance(n):
    rng = np.random.default_rng(0)
    z = [agreement(fourier_shell_correlation(*rng.normal(size=(2, n, n, n))), n)
         for _ in range(50)]
    assert max(z) < BY_CHANCE and np.mean(z) < 2.0
    low = np.zeros(n // 2)
    low[:4] = 1.0  # a blob: agreement on the first shells only
    assert agreement(low, n) > 2 * BY_CHANCE
    assert agreement(low, n, 4) == pytest.approx(agreement(low, n) / 2)


def test_the_validated_fsc_of_noise_is_that_of_chance():
    source, _, _ = particles([blobs(N, 0)], 24, snr=1.0)
    source = noise_like(source)
    config = FamlConfig(n_iterations=4, dense_bandwidth=8, max_shift=1.5)
    last = list(enhanced.run(source, config))[-1]
    assert last.assignments.log_likelihood.mean() < 0.0
    assert last.state.fsc[0].max() > 0.5  # as it was: both halves met the same references
    validated = enhanced.validated_fsc(source, config, last.state, SerialExecutor())
    assert (validated == 0.0).all()


# ------------------------------------------------------------------------------ emptied classes
@pytest.mark.parametrize("mode", ["paper", "enhanced"])
def test_a_class_that_empties_is_retired_with_one_line(mode, caplog):
    source, _, _ = particles([blobs(N, 0, width=0.08)], 12, snr=8.0)
    config = FamlConfig(mode=mode, n_classes=6, n_iterations=5, max_candidates=6, bandwidth=8,
                        dense_bandwidth=8, max_shift=1.5, split_merge=False, n_starts=1)
    engine = faml if mode == "paper" else enhanced
    with caplog.at_level(logging.WARNING, logger="scipion_faml"):
        results = list(engine.run(source, config))
    lines = [r.getMessage() for r in caplog.records]
    retired, back = (sum(word in line for line in lines)
                     for word in ("is retired: it holds less", "holds particles again"))
    last = results[-1]
    assert last.empty_classes and retired - back == len(last.empty_classes)
    assert np.isfinite(last.state.averages).all()
    for k in last.empty_classes:
        assert not (last.assignments.class_index == k).any()
        assert last.state.averages[k].any()
