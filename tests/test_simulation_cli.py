"""Verbs simulate-subtomograms and simulate-tomogram, from the command line to files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scipion_faml.cli import run
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import read_cube, read_volume
from scipion_faml.sources import open_source
from scipion_faml.tables import ANGLES, COORDINATES, read_particles
from scipion_faml.volume import move_volume


def correlation(first, second):
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def subtomograms(folder, *more):
    return run([
        "simulate-subtomograms", "--model", "groel", "--model", "blobs:2", "--count", "3",
        "--count", "2", "--box", "32", "--voxel-size", "10", "--output", str(folder), *more,
    ])  # fmt: skip


@pytest.mark.parametrize("optics", ["none", "full"])
def test_truth_turns_the_map_onto_the_subtomogram(tmp_path, optics, capsys):
    more = ["--optics", optics, "--snr", "inf", "--ctf-correction", "phase-flip", "--json"]
    assert subtomograms(tmp_path, *more) == 0
    assert json.loads(capsys.readouterr().out)["n_particles"] == 5
    truth = read_particles(tmp_path / "truth.star")
    source = open_source(truth)
    assert source.n == 32 and source.voxel_size_angst == 10.0
    poses = truth.poses
    names = ["groel", "blobs:2"]
    for i, k in enumerate(truth.class_index):
        assert truth.rows["famlModel"].iloc[i] == names[k]
        structure = read_cube(tmp_path / "maps" / f"{names[k]}.mrc")[0]
        particle = source[i]
        placed = move_volume(structure, poses[[i]])
        elsewhere = move_volume(
            structure, RigidTransforms(poses.euler_zyz[[i]] + 1.0, -poses.shift_xyz[[i]])
        )
        found, wrong = (correlation(particle.volume, v) for v in (placed, elsewhere))
        # Without the wedge and the CTF's low frequencies a good part of the density is gone.
        assert found > (0.8 if optics == "none" else 0.4)
        assert found > wrong + 0.1


def test_the_answers_are_only_in_the_truth(tmp_path):
    assert subtomograms(tmp_path) == 0
    particles = read_particles(tmp_path / "particles.star")
    columns = set(particles.rows.columns)
    assert not columns & {*ANGLES, "rlnOriginXAngst", "rlnClassNumber", "famlModel"}
    truth = read_particles(tmp_path / "truth.star")
    assert list(truth.rows["rlnImageName"]) == list(particles.rows["rlnImageName"])
    assert particles.optics["famlTiltMin"].iloc[0] == -60.0


@pytest.mark.parametrize("optics", ["none", "full"])
def test_the_same_seed_gives_the_same_bits_from_any_number_of_workers(tmp_path, optics):
    for name, workers, seed in (("a", "1", "5"), ("b", "3", "5"), ("c", "1", "6")):
        more = ["--workers", workers, "--seed", seed, "--optics", optics]
        assert subtomograms(tmp_path / name, *more) == 0
    stacks = [
        np.stack([open_source(read_particles(tmp_path / name / "truth.star"))[i].volume
                  for i in range(5)])
        for name in "abc"
    ]
    np.testing.assert_array_equal(stacks[0], stacks[1])
    assert correlation(stacks[0], stacks[2]) < 0.5


def test_a_finished_run_is_not_repeated_and_other_settings_are_refused(tmp_path, capsys):
    assert subtomograms(tmp_path) == 0
    assert subtomograms(tmp_path) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert subtomograms(tmp_path, "--snr", "1") == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, message", [
    (["--model", "nonsense", "--count", "1"], "apoferritin"),
    (["--model", "groel", "--count", "1", "--count", "2"], "1 --model but 2 --count"),
    (["--model", "groel", "--count", "1", "--snr", "0"], "SNR"),
    (["--model", "groel", "--count", "1", "--tilt-min", "0", "--tilt-max", "0"], "tilt range"),
    (["--model", "groel", "--count", "1", "--box", "12"], "use a box"),
    (["--model", "groel", "--count", "1", "--tilt-step", "1e-9"], "give a larger one"),
])  # fmt: skip
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, arguments, message):
    assert run(["simulate-subtomograms", *arguments, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def tomogram(folder, *more):
    return run([
        "simulate-tomogram", "--model", "apoferritin", "--model", "groel", "--count", "4",
        "--count", "2", "--voxel-size", "14", "--shape", "70,60,30", "--output", str(folder), *more,
    ])  # fmt: skip


@pytest.mark.parametrize("optics", ["none", "full"])
def test_particles_of_a_tomogram_are_bright_where_the_truth_says(tmp_path, optics):
    assert tomogram(tmp_path, "--optics", optics, "--snr", "1") == 0
    volume, voxel_size = read_volume(tmp_path / "tomogram.mrc")
    labels = read_volume(tmp_path / "classes.mrc")[0]
    assert volume.shape == labels.shape == (30, 60, 70) and voxel_size == 14.0
    truth = read_particles(tmp_path / "truth.star")
    assert set(truth.tomogram_names) == {"tomogram"}
    np.testing.assert_array_equal(np.bincount(truth.class_index), [4, 2])
    assert set(np.unique(labels)) == {0, 1, 2}
    assert volume[labels > 0].mean() > volume[labels == 0].mean() + 0.5 * volume.std()
    for k, position in zip(truth.class_index, truth.rows[COORDINATES].to_numpy(), strict=True):
        x, y, z = np.rint(position).astype(int)
        around = labels[z - 4 : z + 5, y - 4 : y + 5, x - 4 : x + 5]
        assert np.bincount(around.astype(int).ravel(), minlength=3).argmax() in (0, k + 1)
        assert (around == k + 1).any()


@pytest.mark.parametrize("arguments, message", [
    (["--tilt-min", "-3e38"], "within -90 to 90"),
    (["--voxel-size", "1e-9"], "check the voxel sizes"),
])
def test_what_no_microscope_or_machine_can_do_is_one_line(tmp_path, capsys, arguments, message):
    assert tomogram(tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_tomogram_too_full_names_how_many_fit(tmp_path, capsys):
    arguments = ["simulate-tomogram", "--model", "apoferritin", "--count", "300", "--shape"]
    arguments += ["50,50,20", "--voxel-size", "14", "--output", str(tmp_path / "out")]
    assert run(arguments) == 2
    assert "of 300 particles fit" in capsys.readouterr().err
