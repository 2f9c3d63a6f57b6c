"""Verbs that judge without a truth: from file to file, with their keys and clear errors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from phantoms import blobs, particles

from scipion_faml.cli import run
from scipion_faml.io import read_cube, write_volume
from scipion_faml.tables import ParticleTable, optics_table, read_particles, write_particles
from scipion_faml.wedge import MissingWedge

N, VOXEL = 20, 10.0


def run_json(capsys, *arguments):
    """Run a verb with --json; return its object."""
    assert run([*map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    """Run a verb that must stop with bad input; return its message."""
    assert run([*map(str, arguments)]) == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """24 particles of two structures at SNR 0.5, with true poses, and one average of each."""
    folder = tmp_path_factory.mktemp("validation")
    maps = [blobs(N, seed, radius=0.22) for seed in (1, 2)]
    source, class_index, poses = particles(maps, 24, snr=0.5, seed=3)
    order = np.argsort(class_index, kind="stable")  # halves are those of odd and even rows
    class_index, poses, names = class_index[order], poses[order], []
    for i, volume in enumerate(source.volumes[order]):
        names.append(str(folder / f"p_{i:02d}.mrc"))
        write_volume(names[-1], volume, VOXEL)
    rows = pd.DataFrame({"rlnImageName": names, "rlnOpticsGroup": 1,
                         "rlnClassNumber": class_index + 1})
    table = ParticleTable(rows, optics_table(VOXEL, N, [MissingWedge(-60, 60)])).with_poses(poses)
    write_particles(folder / "true.star", table)
    assert run(["average", str(folder / "true.star"), "--output", str(folder / "avg"),
                "--workers", "1"]) == 0
    return folder


# ------------------------------------------------------------------------------------------- fsc
def test_the_halves_of_a_run_are_found_class_by_class(data, tmp_path, capsys):
    both = run_json(capsys, "fsc", data / "avg")
    assert list(both["per_class"]) == ["class_001", "class_002"]
    second = run_json(capsys, "fsc", data / "avg", "--class", 2)
    files = data / "avg" / "class_002_half1.mrc", data / "avg" / "class_002_half2.mrc"
    by_files = run_json(capsys, "fsc", *files)
    of_map = run_json(capsys, "fsc", data / "avg" / "class_002.mrc")
    for other in (by_files, of_map, both["per_class"]["class_002"]):
        assert other["fsc"] == second["fsc"]
    assert "class 7" in refused(capsys, "fsc", data / "avg", "--class", 7)
    assert "no half maps" in refused(capsys, "fsc", data)


def test_a_mask_leaves_all_its_curves_and_itself(data, tmp_path, capsys):
    found = run_json(
        capsys, "fsc", data / "avg", "--class", 1, "--mask", "auto", "--write-mask",
        tmp_path / "mask.mrc", "--curve", tmp_path / "c.csv", "--figure", tmp_path / "c.png")
    assert {"fsc", "fsc_masked", "fsc_unmasked", "fsc_randomised"} <= set(found)
    assert set(pd.read_csv(tmp_path / "c.csv")) == {
        "frequency_per_angst", "fsc", "fsc_masked", "fsc_unmasked", "fsc_randomised"}
    mask, _ = read_cube(tmp_path / "mask.mrc")
    assert mask.min() >= 0.0 and mask.max() <= 1.0 and 0.01 < mask.mean() < 0.6
    assert (tmp_path / "c.png").stat().st_size > 5000
    # The mask in a file gives what the mask made here gave.
    again = run_json(capsys, "fsc", data / "avg", "--class", 1, "--mask", tmp_path / "mask.mrc")
    np.testing.assert_allclose(again["fsc"], found["fsc"], atol=1e-5)


def test_directions_come_with_their_sampling(data, tmp_path, capsys):
    found = run_json(
        capsys, "fsc", data / "avg", "--class", 1, "--directional", "--particles",
        data / "true.star", "--directions", tmp_path / "d.csv", "--figure", tmp_path / "d.png",
        "--output", tmp_path / "d.json")["directional"]
    rows = pd.read_csv(tmp_path / "d.csv")
    assert len(rows) == len(found["directions"]) == len(found["sampling"])
    np.testing.assert_allclose(np.linalg.norm(rows[["x", "y", "z"]], axis=1), 1.0)
    assert found["best_angst"] <= found["worst_angst"]
    assert found["ratio"] == pytest.approx(found["worst_angst"] / found["best_angst"])
    assert 0 < found["sphericity"] <= 1 and 0 <= found["sampling_least"] <= 1
    assert rows["sampling"].mean() == pytest.approx(2 / 3, abs=0.05)
    assert (tmp_path / "d.png").stat().st_size > 5000


# ------------------------------------------------------------------------------------- particles
def test_the_snr_of_the_particles_comes_back(data, tmp_path, capsys):
    found = run_json(capsys, "estimate-snr", data / "true.star", "--figure", tmp_path / "s.png",
                     "--output", tmp_path / "s.json", "--workers", 1)
    assert found["snr"] == pytest.approx(0.5, rel=0.2)
    assert found["n_pairs"] == 2 * 66 and set(found["per_class"]) == {"1", "2"}
    one = run_json(capsys, "estimate-snr", data / "true.star", "--class", 2, "--pairs", 30)
    assert one["n_pairs"] == 30 and one["n_particles"] == 12
    inside = run_json(capsys, "estimate-snr", data / "true.star", "--mask", "soft")
    assert inside["snr"] > found["snr"]
    assert json.loads((tmp_path / "s.json").read_text())["snr"] == found["snr"]
    assert "no particle of class 9" in refused(
        capsys, "estimate-snr", data / "true.star", "--class", 9)


def test_orientations_are_judged_by_class(data, tmp_path, capsys):
    found = run_json(capsys, "evaluate-orientations", data / "true.star", "--figure",
                     tmp_path / "o.png")
    assert set(found["per_class"]) == {"1", "2"} and found["n_particles"] == 12
    assert found["sampling_mean"] == pytest.approx(2 / 3, abs=0.03)
    assert 0 < found["sampling_compensation"] <= 1
    assert sum(found["share_of_times"]) == pytest.approx(1.0)
    seven = run_json(capsys, "evaluate-orientations", data / "true.star", "--symmetry", "C7")
    assert seven["sampling_least"] >= found["sampling_least"]


# ------------------------------------------------------------------------------------------ runs
def test_two_runs_are_compared_particle_by_particle(data, tmp_path, capsys):
    table = read_particles(data / "true.star")
    classes = 3 - table.rows["rlnClassNumber"].to_numpy()
    classes[:3] = 3 - classes[:3]
    rng = np.random.default_rng(0)
    order = rng.permutation(24)[:20]  # another order, and not all of them
    other = table.with_columns(rlnClassNumber=classes)
    rows = other.rows.iloc[order].reset_index(drop=True)
    write_particles(tmp_path / "b.star", ParticleTable(rows, table.optics))
    found = run_json(capsys, "compare-runs", data / "true.star", tmp_path / "b.star", "--table",
                     tmp_path / "t.star", "--figure", tmp_path / "t.png")
    moved = int(np.sum(order < 3))
    assert found["n_changed"] == moved and found["matched"] == [2, 1]
    assert (found["n_particles"], found["n_only_a"], found["n_only_b"]) == (20, 4, 0)
    assert found["rotation_median_deg"] < 0.01
    said = read_particles(tmp_path / "t.star").rows
    assert said["famlChanged"].sum() == moved and len(said) == 20
    assert said["famlRotationDifference"].isna().sum() == moved


def test_averages_of_two_runs_are_superposed(data, tmp_path, capsys):
    first = tmp_path / "a"
    first.mkdir()
    write_volume(first / "average.mrc", read_cube(data / "avg" / "class_001.mrc")[0], VOXEL)
    one = read_particles(data / "true.star").with_columns(rlnClassNumber=1)
    write_particles(first / "particles.star", one)
    found = run_json(capsys, "compare-runs", first, first)
    assert found["ari"] == 1.0 and found["n_changed"] == 0
    assert found["averages"][0]["cc_masked"] > 0.99


def test_runs_on_other_particles_are_refused(data, tmp_path, capsys):
    table = read_particles(data / "true.star")
    names = [f"{tmp_path}/other_{i}.mrc" for i in range(24)]
    write_particles(tmp_path / "b.star", table.with_columns(rlnImageName=names))
    assert "share no image" in refused(
        capsys, "compare-runs", data / "true.star", tmp_path / "b.star")


# ------------------------------------------------------------------------------------------ maps
def ring_map(fold, n=24):
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    volume = np.zeros((n, n, n))
    for j in range(fold):
        for radius, height, offset in ((7.0, -2.0, 0.0), (5.0, 3.0, 0.4)):
            angle = 2 * np.pi * j / fold + offset
            volume += np.exp(-((x - radius * np.cos(angle)) ** 2 + (z - height) ** 2
                               + (y - radius * np.sin(angle)) ** 2) / 4.5)
    return volume.astype(np.float32)


def test_the_symmetry_of_a_map_is_found_in_one_call(tmp_path, capsys):
    write_volume(tmp_path / "five.mrc", ring_map(5), VOXEL)
    found = run_json(capsys, "find-symmetry", tmp_path / "five.mrc", "--max-fold", 8,
                     "--cyclic-only", "--figure", tmp_path / "f.png",
                     "--aligned", tmp_path / "aligned.mrc")
    assert found["group"] == "C5" and found["fold"] == 5 and found["is_significant"]
    assert abs(found["axis_xyz"][2]) > 0.99
    assert found["self_correlation"] > 0.97 and found["self_correlation_between"] < 0.5
    assert (tmp_path / "f.png").stat().st_size > 5000
    assert read_cube(tmp_path / "aligned.mrc")[0].shape == (24, 24, 24)
    three = run_json(capsys, "find-symmetry", tmp_path / "five.mrc", "--fold", 3)
    assert three["group"] == "C1" and not three["is_significant"]


PDB = """\
ATOM  {0:5d}  CA  ALA A{0:4d}    {1:8.3f}{2:8.3f}{3:8.3f}  1.00  0.00           C
"""


def test_an_average_is_compared_with_an_atomic_model(tmp_path, capsys):
    rng = np.random.default_rng(4)
    atoms = rng.normal(0, 25.0, (60, 3))
    atoms -= atoms.mean(axis=0)
    (tmp_path / "model.pdb").write_text(
        "".join(PDB.format(i + 1, *xyz) for i, xyz in enumerate(atoms)) + "END\n")
    # The map: the same atoms as Gaussians, turned by 90 deg about z.
    z, y, x = (np.mgrid[:N, :N, :N] - N // 2) * VOXEL
    volume = np.zeros((N, N, N))
    for a, b, c in atoms:
        volume += np.exp(-((x + b) ** 2 + (y - a) ** 2 + (z - c) ** 2) / (2 * 9.0**2))
    write_volume(tmp_path / "map.mrc", volume.astype(np.float32), VOXEL)
    found = run_json(capsys, "evaluate-average", tmp_path / "map.mrc", "--reference",
                     tmp_path / "model.pdb", "--model-resolution", 40)
    assert found["cc_masked"] > 0.95 and found["hand"] == "same"


# ---------------------------------------------------------------------------------- noise control
@pytest.fixture(scope="module")
def classified(data):
    """A short run in paper mode."""
    assert run(["classify", str(data / "true.star"), "--mode", "paper", "--iterations", "2",
                "--bandwidth", "8", "--output", str(data / "cls"), "--workers", "1"]) == 0
    return data / "cls"


@pytest.fixture(scope="module")
def control(data, classified):
    """Its noise control."""
    assert run(["noise-control", str(classified), "--output", str(data / "nc"),
                "--workers", "1"]) == 0
    return data / "nc"


def test_a_control_runs_with_the_settings_of_the_run(classified, control, capsys):
    record = json.loads((control / "run.json").read_text())
    found, settings = record["result"], record["settings"]
    assert isinstance(found["structure_from_noise"], bool) and found["iterations"] == 2
    assert found["verdict"].startswith("phase-randomised particles make")
    assert not any("no structure" in text for text in found["warnings"])
    assert found["halves_resolution_angst"] and found["run_resolution_angst"]
    assert [one["class"] for one in found["averages"]] == [1]
    assert json.loads((control / "verdict.json").read_text())["verdict"] == found["verdict"]
    original = json.loads((classified / "run.json").read_text())["settings"]
    assert settings["bandwidth"] == original["bandwidth"] and settings["verb"] == "noise-control"
    # A finished control is not repeated.
    assert run_json(capsys, "noise-control", classified, "--output", control,
                    "--workers", 1) == found


def test_a_killed_control_goes_on_from_its_last_iteration(
    classified, control, tmp_path, capsys
):
    whole = json.loads((control / "run.json").read_text())["result"]
    shutil.copytree(control, tmp_path / "killed")
    (tmp_path / "killed" / "run.json").unlink()
    shutil.rmtree(tmp_path / "killed" / "iter_002")
    again = run_json(capsys, "noise-control", classified, "--output", tmp_path / "killed",
                     "--workers", 1)
    assert again["log_likelihood"] == whole["log_likelihood"]
    assert len(pd.read_csv(tmp_path / "killed" / "history.csv")) == 2


def test_only_a_finished_classification_has_a_control(data, tmp_path, capsys):
    assert "no finished run of classify" in refused(
        capsys, "noise-control", data / "avg", "--output", tmp_path / "nc")


def test_particles_that_changed_since_are_refused(data, classified, tmp_path, capsys):
    table = data / "true.star"
    text = table.read_text()
    table.write_text(text + "\n# touched\n")
    try:
        assert "has changed since" in refused(
            capsys, "noise-control", classified, "--output", tmp_path / "nc")
    finally:
        table.write_text(text)


def test_random_phases_keep_amplitudes_wedge_and_nothing_else(data):
    from scipion_faml.fourier import spectrum
    from scipion_faml.noise_control import PhaseRandomised
    from scipion_faml.sources import open_source

    source = open_source(read_particles(data / "true.star"))
    noise = PhaseRandomised(source, 0)
    before, after, again = source[3], noise[3], noise[3]
    np.testing.assert_array_equal(after.volume, again.volume)
    a, b = (np.abs(spectrum(p.volume.astype(float))) for p in (before, after))
    np.testing.assert_allclose(a, b, atol=1e-3 * a.max())
    assert after.wedge is before.wedge
    assert abs(np.corrcoef(before.volume.ravel(), after.volume.ravel())[0, 1]) < 0.2
    assert not np.array_equal(PhaseRandomised(source, 1)[3].volume, after.volume)


def test_a_verdict_is_relative_to_the_run():
    from scipion_faml.noise_control import LikeAverage, verdict

    unlike = [LikeAverage(1, 1, 0.5, 0.05)]
    assert not verdict(0.4, 500.0, 40.0, 20.0, unlike).is_from_noise
    assert not verdict(-1.0, 500.0, float("nan"), 20.0, unlike).is_from_noise
    assert verdict(90.0, 500.0, 40.0, 20.0, unlike).is_from_noise
    biased = verdict(-1.0, 500.0, float("nan"), 20.0, [LikeAverage(1, 2, 0.9, 0.6)])
    assert biased.is_from_noise and "average 2" in biased.text
    # Paper mode knows no evidence: there the halves are all there is.
    assert verdict(None, None, 21.0, 20.0, unlike).is_from_noise
    assert not verdict(None, None, 60.0, 20.0, unlike).is_from_noise
