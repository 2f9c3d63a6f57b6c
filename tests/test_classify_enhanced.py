"""The verb classify in enhanced mode: outputs, checkpoints, workers, warnings, mistakes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import mrcfile
import numpy as np
import pandas as pd
import pytest
from phantoms import blobs, particles

from scipion_faml import checkpoint, enhanced
from scipion_faml.cli import run
from scipion_faml.enhanced import EnhancedState, PeakTable, store
from scipion_faml.io import write_volume as write
from scipion_faml.model import FamlConfig
from scipion_faml.tables import ParticleTable, optics_table, read_particles, write_particles
from scipion_faml.wedge import MissingWedge

N, N_PARTICLES = 16, 12


def write_set(folder, source):
    """A STAR file of particles of which every second has another tilt range."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, volume in enumerate(source.volumes):
        write(folder / f"p{i:02d}.mrc", volume, 10.0)
    count = len(source.volumes)
    rows = pd.DataFrame({
        "rlnImageName": [str(folder / f"p{i:02d}.mrc") for i in range(count)],
        "rlnOpticsGroup": np.arange(count) % 2 + 1,
    })
    wedges = [MissingWedge(-60, 60), MissingWedge(-60, 54)]
    write_particles(folder / "particles.star", ParticleTable(rows, optics_table(10.0, N, wedges)))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve particles of two structures, and the structures' maps."""
    references = [blobs(N, seed, width=0.08) for seed in range(2)]
    source, _, _ = particles(references, N_PARTICLES, snr=1.0)
    folder = write_set(tmp_path_factory.mktemp("enhanced"), source)
    for k, reference in enumerate(references):
        write(folder / f"map{k}.mrc", 7.0 * reference + 3.0, 10.0)
    return folder


def classify(data, output, *options, workers=1):
    return run(["classify", str(data / "particles.star"), "--output", str(output),
                "--workers", str(workers), "--dense-bandwidth", "8", "--max-shift", "1.5",
                *map(str, options)])


def outputs(folder):
    """Name -> bytes of all outputs that must not depend on when or where a run was made."""
    names = [*sorted(p.name for p in folder.glob("class_*.mrc")), "particles.star", "fsc.csv"]
    return {name: mrcfile.read(folder / name).tobytes() if name.endswith(".mrc")
            else (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory, reports):
    """Two classes, five iterations, one worker."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert classify(data, out, "--classes", 2, "--iterations", 5) == 0
    return out


def test_enhanced_mode_writes_what_the_contract_names(finished):
    for name in ("class_002.mrc", "class_002_half1.mrc", "class_001_half2.mrc", "fsc.csv",
                 "report.html", "iter_005/class_002.mrc", "iter_005/enhanced.npz", "run.json"):
        assert (finished / name).is_file(), name
    # References of all folds are large: only the last iterations keep them.
    assert not (finished / "iter_003" / "enhanced.npz").exists()
    history = pd.read_csv(finished / "history.csv")
    assert list(history["iteration"]) == list(range(1, 6))
    assert {"phase", "shells", "n_effective", "log_likelihood", "alpha_002", "zeta",
            "pose_change_deg", "resolution_angst", "seconds_candidates"} <= set(history)
    assert set(history["phase"]) <= {"dense", "focused", "local"}
    assert history["shells"].is_monotonic_increasing
    curves = pd.read_csv(finished / "fsc.csv")
    names = ["class_001", "class_002"]
    assert list(curves) == ["frequency_per_angst", *names, *(f"{n}_uncorrected" for n in names)]
    assert len(curves) == history["shells"].iloc[-1] + 1
    html = (finished / "report.html").read_text()
    assert "Fourier shell correlation of both halves" in html and "optimistic" in html


def test_halves_are_the_random_subsets_and_of_equal_size(finished):
    rows = read_particles(finished / "particles.star").rows
    assert sorted(rows["rlnRandomSubset"].value_counts()) == [6, 6]
    assert sorted(rows["rlnRandomSubset"].unique()) == [1, 2]


def test_two_workers_give_the_same_bits_as_one(data, finished, tmp_path):
    options = ("--classes", 2, "--iterations", 5)
    assert classify(data, tmp_path / "two", *options, workers=2) == 0
    assert outputs(tmp_path / "two") == outputs(finished)


def test_a_run_that_goes_on_ends_as_if_it_had_not_stopped(data, finished, tmp_path, monkeypatch):
    # Without anything kept in memory, and stopped once: the bits depend on neither.
    monkeypatch.setattr(store, "SHARES", dict.fromkeys(store.SHARES, 0))
    for iterations in (2, 5):
        assert classify(data, tmp_path / "o", "--classes", 2, "--iterations", iterations) == 0
    assert outputs(tmp_path / "o") == outputs(finished)
    columns = ["log_likelihood", "sigma", "zeta", "phase", "shells", "n_effective"]
    histories = [pd.read_csv(f / "history.csv")[columns] for f in (tmp_path / "o", finished)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def test_a_killed_run_ends_as_if_it_had_not_been(data, finished, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "scipion_faml", "classify", str(data / "particles.star"),
               "--output", str(out), "--classes", "2", "--iterations", "5", "--workers", "2",
               "--dense-bandwidth", "8", "--max-shift", "1.5"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / "iter_002").is_dir() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.newest(out) is not None
    assert classify(data, out, "--classes", 2, "--iterations", 5) == 0
    assert outputs(out) == outputs(finished)


def test_a_checkpoint_holds_the_whole_state(data, finished):
    settings = json.loads((finished / "iter_005" / "meta.json").read_text())["settings"]
    state = checkpoint.load(finished / "iter_005", settings).state
    assert isinstance(state, EnhancedState)
    before = checkpoint.load(finished / "iter_004", settings)
    config = FamlConfig(mode="enhanced", n_classes=2, dense_bandwidth=8, max_shift=1.5)
    table = read_particles(data / "particles.star")
    from scipion_faml.execution import SerialExecutor
    from scipion_faml.sources import open_source

    bench = enhanced.Workbench(open_source(table), config, SerialExecutor())
    again = enhanced.iterate(bench, before.state, before.assignments).state
    for field in dataclasses.fields(EnhancedState):
        first, second = getattr(state, field.name), getattr(again, field.name)
        if isinstance(first, PeakTable):
            for name in ("particle", "class_index"):
                np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
            np.testing.assert_array_equal(first.poses.euler_zyz, second.poses.euler_zyz)
            np.testing.assert_array_equal(first.poses.shift_xyz, second.poses.shift_xyz)
        else:
            np.testing.assert_array_equal(first, second, err_msg=field.name)
            assert type(first) is type(second), field.name


def test_a_checkpoint_without_references_is_no_place_to_go_on_from(finished):
    settings = json.loads((finished / "iter_001" / "meta.json").read_text())["settings"]
    with pytest.raises(checkpoint.DamagedError, match=r"iter_001/enhanced\.npz is missing"):
        checkpoint.load(finished / "iter_001", settings)


def test_a_converged_run_is_finished_says_so_and_warns_of_nothing(tmp_path, capsys):
    source, _, _ = particles([blobs(N, 0, width=0.08)], N_PARTICLES, snr=4.0)
    data, out = write_set(tmp_path / "clear", source), tmp_path / "o"
    options = ("--low-pass", 40, "--json")
    assert classify(data, out, *options) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["converged"] and result["iterations"] < 60
    assert result["warnings"] == []
    assert classify(data, out, "--iterations", 70, *options) == 0
    printed = capsys.readouterr()
    assert f"converged after {result['iterations']} iterations: more change nothing" in printed.err
    assert json.loads(printed.out) == result


def test_pure_noise_is_reported_as_no_structure_and_given_no_resolution(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("FAML_NO_REPORT", raising=False)
    source, _, _ = particles([blobs(N, 0)], N_PARTICLES, snr=1.0)
    noise = np.random.default_rng(0).normal(size=source.volumes.shape).astype(np.float32)
    folder = write_set(tmp_path / "noise", dataclasses.replace(source, volumes=noise))
    assert classify(folder, tmp_path / "o", "--iterations", 2, "--json") == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    warnings = result["warnings"]
    assert len(warnings) == 1 and "no structure" in warnings[0]
    assert result["resolution_angst"] is None
    assert "warning: no structure" in printed.err
    page = (tmp_path / "o" / "report.html").read_text()
    assert "No structure found: pure noise explains the particles as well" in page
    assert "No resolution is given" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "fa"], "--method is an option of --mode paper, this is --mode enhanced"),
        (["--max-candidates", "9"], "--max-candidates is an option of --mode paper"),
        (["--candidates", "magnitude"], "is an option of --mode paper"),
        (["--mode", "paper", "--folds", "2"], "is an option of --mode enhanced"),
        (["--folds", "0"], "--folds"),
        (["--start-shells", "1"], "--start-shells"),
        (["--min-shift-width", "0"], "--min-shift-width"),
        (["--noise", "pink"], "pink"),
        (["--classes", "2", "--reference", "none.mrc"], "1 references for 2 classes"),
    ],
)
def test_a_mistake_gives_one_line_and_status_2(data, tmp_path, capsys, options, message):
    arguments = ["classify", str(data / "particles.star"), "--output", str(tmp_path / "out")]
    assert run([*arguments, *options]) == 2
    assert not (tmp_path / "out").exists()
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
