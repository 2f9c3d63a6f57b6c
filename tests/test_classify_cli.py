"""The verbs classify, align and average from file to file, killed, resumed and misused."""

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

from scipion_faml import checkpoint
from scipion_faml.cli import run
from scipion_faml.geometry import rotation_angle_deg
from scipion_faml.io import write_volume
from scipion_faml.tables import ParticleTable, optics_table, read_particles, write_particles
from scipion_faml.wedge import MissingWedge


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve particles of two structures with their true poses and classes, and a map."""
    folder = tmp_path_factory.mktemp("particles")
    references = [blobs(16, 0, width=0.08), blobs(16, 1, width=0.08)]
    source, class_index, poses = particles(references, 12, snr=2.0)
    for i, volume in enumerate(source.volumes):
        write_volume(folder / f"p{i:02d}.mrc", volume, 10.0)
    rows = pd.DataFrame({
        "rlnImageName": [str(folder / f"p{i:02d}.mrc") for i in range(12)],
        "rlnOpticsGroup": 1, "note": [f"n{i}" for i in range(12)],
    })
    table = ParticleTable(rows, optics_table(10.0, 16, [MissingWedge(-60, 60)]))
    write_particles(folder / "particles.star", table)
    true = table.with_poses(poses).with_columns(rlnClassNumber=class_index + 1)
    write_particles(folder / "truth.star", true)
    write_volume(folder / "reference.mrc", references[0], 10.0)
    return folder


def classify(data, output, *options):
    if "--mode" not in options:
        options = ("--mode", "paper", *options)
    return run(["classify", str(data / "particles.star"), "--output", str(output),
                "--workers", "1", *map(str, options)])


def outputs(folder):
    """Name -> bytes of all outputs that must not depend on when or where a run was made."""
    names = sorted(p.name for p in folder.glob("class_*.mrc")) + ["particles.star"]
    found = {}
    for name in names:
        if name.endswith(".mrc"):
            found[name] = mrcfile.read(folder / name).tobytes()
        else:
            found[name] = (folder / name).read_bytes()
    return found


def test_classify_writes_what_the_contract_names(data, tmp_path, capsys):
    assert classify(data, tmp_path / "out", "--classes", 2, "--iterations", 2, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert sum(result["class_sizes"]) == 12
    out = tmp_path / "out"
    for name in ("class_001.mrc", "class_002.mrc", "particles.star", "history.csv",
                 "iter_001/class_001.mrc", "iter_002/meta.json", "run.json"):
        assert (out / name).is_file(), name
    rows = read_particles(out / "particles.star").rows
    assert list(rows["note"]) == [f"n{i}" for i in range(12)]
    assert {"rlnAngleRot", "rlnOriginXAngst", "rlnClassNumber", "rlnMaxValueProbDistribution",
            "rlnLogLikeliContribution"} <= set(rows)
    history = pd.read_csv(out / "history.csv")
    assert list(history["iteration"]) == [1, 2]
    assert {"seconds", "log_likelihood", "sigma", "zeta", "alpha_001", "alpha_002",
            "pose_change_deg", "resolution_angst", "seconds_candidates"} <= set(history)


def test_the_resolution_is_not_better_than_the_low_pass(data, tmp_path, capsys):
    assert classify(data, tmp_path / "out", "--iterations", 1, "--low-pass", 40, "--json") == 0
    assert json.loads(capsys.readouterr().out)["resolution_angst"] >= 40.0


def test_a_finished_run_is_not_repeated_and_other_settings_are_refused(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert classify(data, out, "--iterations", 1) == 0
    before = (out / "class_001.mrc").stat().st_mtime_ns
    assert classify(data, out, "--iterations", 1) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert (out / "class_001.mrc").stat().st_mtime_ns == before
    assert classify(data, out, "--iterations", 1, "--seed", 5) == 2
    assert "other settings" in capsys.readouterr().err
    assert classify(data, out, "--iterations", 1, "--seed", 5, "--overwrite") == 0


def test_more_iterations_continue_a_finished_run(data, tmp_path):
    assert classify(data, tmp_path / "a", "--iterations", 1) == 0
    assert classify(data, tmp_path / "a", "--iterations", 3) == 0
    assert classify(data, tmp_path / "b", "--iterations", 3) == 0
    assert outputs(tmp_path / "a") == outputs(tmp_path / "b")


def test_a_run_killed_after_its_second_iteration_ends_as_if_it_had_not_been(data, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "scipion_faml", "classify", str(data / "particles.star"),
               "--mode", "paper", "--output", str(out), "--iterations", "6", "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / "iter_002").is_dir() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.newest(out) is not None
    assert classify(data, out, "--iterations", 6) == 0
    assert classify(data, tmp_path / "whole", "--iterations", 6) == 0
    assert outputs(out) == outputs(tmp_path / "whole")
    assert list(pd.read_csv(out / "history.csv")["iteration"]) == list(range(1, 7))


def test_a_checkpoint_of_other_settings_is_refused_with_both_values(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert classify(data, out, "--classes", 2, "--iterations", 1) == 0
    (out / "run.json").unlink()  # as if killed before the end
    assert classify(data, out, "--classes", 1, "--iterations", 1) == 2
    error = capsys.readouterr().err
    assert "n_classes = 2, now 1" in error
    assert "Traceback" not in error


def test_half_a_checkpoint_is_not_seen(data, tmp_path):
    out = tmp_path / "out"
    assert classify(data, out, "--iterations", 1) == 0
    (out / ".iter_002.99.tmp").mkdir()
    (out / "iter_003").mkdir()
    assert checkpoint.newest(out).name == "iter_001"


def test_classify_goes_on_from_given_references(data, tmp_path):
    reference = str(data / "reference.mrc")
    assert classify(data, tmp_path / "o", "--iterations", 1, "--reference", reference) == 0
    assert classify(data, tmp_path / "p", "--classes", 2, "--reference", reference) == 2


def test_align_finds_the_poses_of_a_known_map(data, tmp_path):
    out = tmp_path / "align"
    assert run(["align", str(data / "particles.star"), "--reference", str(data / "reference.mrc"),
                "--angular-step", "30", "--output", str(out)]) == 0
    truth, found = read_particles(data / "truth.star"), read_particles(out / "particles.star")
    first = truth.class_index == 0
    angle = rotation_angle_deg(truth.poses.rotation[first], found.poses.rotation[first])
    assert np.median(angle) < 5.0
    assert (out / "average.mrc").is_file()
    # 1 iteration of fast alignment by magnitudes is offered too.
    assert run(["align", str(data / "particles.star"), "--reference", str(data / "reference.mrc"),
                "--search", "magnitude", "--output", str(tmp_path / "m")]) == 0


def test_average_keeps_classes_apart_and_writes_halves(data, tmp_path, capsys):
    truth, out = str(data / "truth.star"), tmp_path / "a"
    assert run(["average", truth, "--output", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["class_sizes"] == [6, 6]
    for name in ("class_001.mrc", "class_002_half1.mrc", "fsc.csv"):
        assert (tmp_path / "a" / name).is_file()
    average = mrcfile.read(tmp_path / "a" / "class_001.mrc")
    reference = mrcfile.read(data / "reference.mrc")
    assert np.corrcoef(average.ravel(), reference.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "13"], "13 classes asked of 12 particles"),
        (["--low-pass", "9999"], "low-pass 9999 A leaves 0 shells"),
        (["--classes", "0"], "classes"),
        (["--mode", "magic"], "magic"),
        (["--reference", "none.mrc"], "none.mrc does not exist"),
    ],
)
def test_a_users_mistake_gives_one_line_and_status_2(data, tmp_path, capsys, arguments, message):
    assert classify(data, tmp_path / "out", *arguments) == 2
    assert {p.name for p in (tmp_path / "out").glob("*")} <= {"status.json"}
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_missing_table_and_missing_poses_are_named(data, tmp_path, capsys):
    assert run(["classify", "nowhere.star", "--output", str(tmp_path / "x")]) == 2
    assert "nowhere.star does not exist" in capsys.readouterr().err
    assert run(["average", str(data / "particles.star"), "--output", str(tmp_path / "y")]) == 2
    assert "rlnAngleRot is missing" in capsys.readouterr().err


def test_help_names_every_verb(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in ("simulate-subtomograms", "classify", "align", "evaluate-average", "demo"):
        assert verb in text


@pytest.mark.parametrize("words, said", [
    (["classify", "x.star", "--output"],
     "Option '--output' requires an argument: see scipion-faml classify --help"),
    (["classify", "x.star", "--outputs"], "--output'?: see scipion-faml classify --help"),
    (["clasify"], "No such command 'clasify': see scipion-faml --help"),
    (["--output"], "No such option '--output': see scipion-faml --help"),
])
def test_a_mistake_in_a_command_is_one_line_that_says_where_help_is(capsys, words, said):
    assert run(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
