"""train-detector and pick-detector from file to file, and what they say of mistakes."""

import sys

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from detector_scenes import balls, settings

torch = pytest.importorskip("torch", reason="the detector needs PyTorch (extra `detector`)")

from scipion_faml.cli import main as cli  # noqa: E402
from scipion_faml.detector import weights  # noqa: E402
from scipion_faml.io import write_volume  # noqa: E402
from scipion_faml.tables import (  # noqa: E402
    COORDINATES,
    ParticleTable,
    optics_table,
    read_particles,
    write_particles,
)
from scipion_faml.wedge import MissingWedge  # noqa: E402


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def table(path, centres, classes, voxel_size=10.0, name="tomogram"):
    rows = pd.DataFrame({
        "rlnTomoName": name, **dict(zip(COORDINATES, np.asarray(centres).T, strict=True)),
        "rlnOpticsGroup": 1, "rlnClassNumber": classes,
        "famlModel": [f"ball{k}" for k in classes]})
    write_particles(path, ParticleTable(
        rows, optics_table(voxel_size, 0, [MissingWedge(-60.0, 60.0)])))


def folder_of(path, seed, voxel_size=10.0):
    volume, centres, classes = balls((48, 48, 48), 6, seed)
    write_volume(path / "tomogram.mrc", volume, voxel_size)
    table(path / "truth.star", centres, classes, voxel_size)
    return path


def run(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def fails(text, *arguments):
    done = run(*arguments)
    assert isinstance(done.exception, (ValueError, OSError)), (done.output, done.exception)
    assert text in str(done.exception)


SHORT = ("--epochs", 1, "--steps", 1, "--batch", 2, "--workers", 1)


@pytest.mark.parametrize("architecture", ["points", "yolo"])
def test_train_pick_and_pick_again_from_file_to_file(tmp_path, architecture):
    stars = [folder_of(tmp_path / f"t{i}", i) / "truth.star" for i in range(2)]
    out = tmp_path / "out"
    size = 32 if architecture == "points" else 64
    done = run("train-detector", *stars, "--architecture", architecture, "--output", out,
               "--crop", size,
               "--diameter", "ball1=60", "--diameter", "ball2=100", *SHORT)
    assert done.exit_code == 0, done.exception
    for name in ("weights.pt", "checkpoint.pt", "history.csv", "curves.png", "run.json"):
        assert (out / name).is_file()
    what = weights.load(out / "weights.pt").settings
    assert what.class_names == ("ball1", "ball2") and what.voxel_size_angst == 10.0
    assert what.diameters == (6.0, 10.0)
    again = run("train-detector", *stars, "--architecture", architecture, "--output", out,
               "--crop", size,
                "--diameter", "ball1=60", "--diameter", "ball2=100", *SHORT)
    assert "nothing to do" in again.output + again.stderr
    picks = tmp_path / "picks.star"
    done = run("pick-detector", stars[0].with_name("tomogram.mrc"), "--weights",
               out / "weights.pt", "--threshold", 0.05, "--max-picks", 5, "--output", picks,
               "--workers", 1, "--figure", tmp_path / "f.png")
    assert done.exit_code == 0, done.exception
    if picks.exists():
        found = read_particles(picks)
        assert 0 < len(found) <= 5
        assert set(found.rows["famlModel"]) <= {"ball1", "ball2"}
        assert found.rows["famlScore"].is_monotonic_decreasing


def test_mistakes_are_told_in_one_line(tmp_path):
    star = folder_of(tmp_path / "t0", 0) / "truth.star"
    out = ("--output", tmp_path / "out", *SHORT)
    (tmp_path / "empty.star").write_text("data_particles\n\nloop_\n_rlnCoordinateX #1\n\n")
    fails("no particles", "train-detector", tmp_path / "empty.star", *out)
    table(tmp_path / "t0" / "far.star", [[10.0, 10, 10], [99.0, 10, 10]], [1, 2])
    fails("1 of 2 particles lie outside", "train-detector", tmp_path / "t0" / "far.star", *out)
    fails("no tomogram is called 'x'", "train-detector", star, "--held-out", "x", *out)
    fails("no particle is of class 'z'", "train-detector", star, "--diameter", "z=50", *out)
    fails("--diameter ball1=-4", "train-detector", star, "--diameter", "ball1=-4", *out)
    fails("does not exist", "train-detector", star, "--tomogram", tmp_path / "no.mrc", *out)
    fails("in a tomogram called 'no'", "train-detector", star, "--tomogram",
          f"no={tmp_path}/t0/tomogram.mrc", *out)
    lost = tmp_path / "lost" / "truth.star"
    lost.parent.mkdir()
    table(lost, [[10.0, 10, 10]], [1])
    fails("give --tomogram NAME=FILE", "train-detector", lost, *out)
    (tmp_path / "bad.pt").write_text("no weights")
    tomogram = tmp_path / "t0" / "tomogram.mrc"
    fails("not a file of this detector", "pick-detector", tomogram, "--weights",
          tmp_path / "bad.pt", "--output", tmp_path / "picks.star")
    assert {p.name for p in (tmp_path / "out").glob("*")} <= {"status.json"}


def test_a_tomogram_without_voxel_size_or_smaller_than_a_tile(tmp_path):
    weights.save(tmp_path / "w.pt", weights.build(settings()))
    small = np.random.default_rng(0).normal(size=(9, 21, 30)).astype(np.float32)
    write_volume(tmp_path / "small.mrc", small, 10.0)
    done = run("pick-detector", tmp_path / "small.mrc", "--weights", tmp_path / "w.pt",
               "--output", tmp_path / "p.star", "--threshold", 0.9, "--workers", 1)
    assert done.exit_code == 0, done.exception
    write_volume(tmp_path / "none.mrc", small, 0.0)
    fails("no voxel size", "pick-detector", tmp_path / "none.mrc", "--weights",
          tmp_path / "w.pt", "--output", tmp_path / "picks.star")


def test_without_pytorch_the_verbs_say_how_to_get_it(tmp_path, monkeypatch):
    star = folder_of(tmp_path / "t0", 0) / "truth.star"
    monkeypatch.setitem(sys.modules, "torch", None)
    fails("pip install scipion-em-faml[detector]", "train-detector", star)
    fails("pip install scipion-em-faml[detector]", "pick-detector",
          tmp_path / "t0" / "tomogram.mrc")
