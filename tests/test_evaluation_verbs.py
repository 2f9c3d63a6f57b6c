"""The verbs that evaluate: from file to file, with the contract's keys and clear errors."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from scipion_faml.cli import run
from scipion_faml.geometry import RigidTransforms, compose, random_rotations
from scipion_faml.io import read_volume, write_volume
from scipion_faml.tables import (
    COORDINATES,
    ParticleTable,
    optics_table,
    read_particles,
    write_particles,
)
from scipion_faml.volume import crop_or_pad, move_volume
from scipion_faml.wedge import MissingWedge

VOXEL = 8.0
N = 24


def run_json(capsys, *arguments):
    """Run a verb with --json; return its object."""
    assert run([*map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def phantom(n=N, seed=0, width=1.4):
    """Random blobs inside the box."""
    axis = np.arange(n) - n // 2
    volume = np.zeros((n, n, n))
    for x, y, z in np.random.default_rng(seed).normal(0, 0.12 * N, (15, 3)):
        g = [np.exp(-((axis - c) ** 2) / (2 * width**2)) for c in (z, y, x)]
        volume += g[0][:, None, None] * g[1][:, None] * g[2]
    return volume.astype(np.float32)


def table_of(poses, **columns):
    """A particle table with poses."""
    rows = pd.DataFrame({"rlnOpticsGroup": 1, **columns}, index=range(len(poses)))
    return ParticleTable(rows, optics_table(VOXEL, N, [MissingWedge(-60, 60)])).with_poses(poses)


@pytest.fixture
def particles(tmp_path):
    """truth.star of two classes, and found.star: another frame, shuffled, classes renamed."""
    rng = np.random.default_rng(1)
    poses = RigidTransforms(random_rotations(24, rng), rng.uniform(-2, 2, (24, 3)))
    names = [f"sub/p_{i:03d}.mrc" for i in range(24)]
    classes = np.repeat([1, 2], 12)
    truth = table_of(poses, rlnImageName=[str(tmp_path / n) for n in names], rlnClassNumber=classes,
                     famlModel=np.repeat(["left", "right"], 12))
    frame = RigidTransforms(random_rotations(1, rng), np.array([[1.0, -2.0, 0.5]]))
    order = rng.permutation(24)
    found = table_of(
        compose(poses, frame)[order], rlnImageName=[str(tmp_path / "o" / names[i]) for i in order],
        rlnClassNumber=(3 - classes)[order])
    write_particles(tmp_path / "truth.star", truth)
    write_particles(tmp_path / "found.star", found)
    return tmp_path


def test_evaluate_poses_matches_images_by_name_and_ignores_the_frame(particles, capsys):
    result = run_json(capsys, "evaluate-poses", particles / "found.star", "--truth",
                      particles / "truth.star", "--errors", particles / "errors.star",
                      "--report", particles / "poses.html")
    assert result["matched_by"] == "rlnImageName"
    assert result["rotation_median_deg"] < 0.01 and result["rotation_q90_deg"] < 0.01
    assert result["shift_median_voxels"] < 0.01
    assert result["fraction_within_10_deg"] == result["fraction_within_20_deg"] == 1.0
    assert set(result["per_class"]) == {"1", "2"} and len(result["global_frames"]) == 2
    errors = read_particles(particles / "errors.star").rows
    assert errors["famlRotationError"].max() < 0.01 and "rlnImageName" in errors
    assert (particles / "poses.html").read_text().startswith("<!DOCTYPE html>")


def test_evaluate_poses_sees_the_frame_when_told_to(particles, capsys):
    result = run_json(capsys, "evaluate-poses", particles / "found.star", "--truth",
                      particles / "truth.star", "--no-global-frame")
    assert result["rotation_median_deg"] > 10


def test_a_different_number_of_particles_is_an_error_with_both_numbers(particles, capsys):
    table = read_particles(particles / "found.star")
    write_particles(particles / "few.star", ParticleTable(table.rows[:20], table.optics))
    assert run(["evaluate-poses", str(particles / "few.star"), "--truth",
                str(particles / "truth.star")]) == 2
    message = capsys.readouterr().err
    assert "20 particles" in message and "24" in message and "--radius" in message


def test_images_that_the_truth_does_not_know_are_named(particles, capsys):
    table = read_particles(particles / "found.star")
    names = table.rows["rlnImageName"].tolist()
    names[3] = "stranger.mrc"
    write_particles(particles / "odd.star", table.with_columns(rlnImageName=names))
    assert run(["evaluate-poses", str(particles / "odd.star"), "--truth",
                str(particles / "truth.star")]) == 2
    assert "stranger.mrc" in capsys.readouterr().err


def test_symmetry_may_differ_between_classes(particles, capsys):
    result = run_json(capsys, "evaluate-poses", particles / "found.star", "--truth",
                      particles / "truth.star", "--symmetry", "D7,C1")
    assert result["per_class"]["1"]["symmetry"] == "D7"
    assert run(["evaluate-poses", str(particles / "found.star"), "--truth",
                str(particles / "truth.star"), "--symmetry", "C1,C2,C3"]) == 2
    assert "3 point groups for 2 true classes" in capsys.readouterr().err


def test_particles_are_matched_by_position_with_offsets_taken_into_account(tmp_path, capsys):
    rng = np.random.default_rng(2)
    centres = np.array([[x, y, 30.0] for x in (20.0, 60, 100) for y in (20.0, 60, 100)])
    euler = random_rotations(9, rng)
    truth = table_of(RigidTransforms(euler, np.zeros((9, 3))),
                     **dict(zip(COORDINATES, centres.T, strict=True)))
    # Boxes cut a few voxels off at binning 2: the pose's shift leads back to the particle.
    offset = rng.integers(-4, 5, (9, 3)).astype(float)
    frame = RigidTransforms(random_rotations(1, rng), np.zeros((1, 3)))
    poses = compose(RigidTransforms(euler, -offset / 2), frame)
    optics = optics_table(2 * VOXEL, N, [MissingWedge(-60, 60)]).assign(
        rlnTomoTiltSeriesPixelSize=VOXEL)
    rows = pd.DataFrame({"rlnOpticsGroup": 1,
                         **dict(zip(COORDINATES, (centres + offset).T, strict=True))})
    found = ParticleTable(rows, optics).with_poses(poses)
    stray = found.rows.iloc[[0]].assign(rlnCoordinateX=500.0)
    write_particles(tmp_path / "truth.star", truth)
    write_particles(tmp_path / "found.star", ParticleTable(
        pd.concat([stray, found.rows[:8]], ignore_index=True), optics))
    result = run_json(capsys, "evaluate-poses", tmp_path / "found.star", "--truth",
                      tmp_path / "truth.star", "--radius", 60)
    assert result["matched_by"] == "coordinates"
    assert (result["n_unmatched_particles"], result["n_unmatched_truth"]) == (1, 1)
    assert result["rotation_median_deg"] < 0.01 and result["shift_median_voxels"] < 0.01


def test_evaluate_classes_gives_its_keys(particles, capsys):
    result = run_json(capsys, "evaluate-classes", particles / "found.star", "--truth",
                      particles / "truth.star", "--report", particles / "c.html")
    assert result["f1_mean"] == result["ari"] == 1.0 and result["f1"] == [1.0, 1.0]
    assert result["matched"] == [2, 1] and result["confusion"] == [[0, 12], [12, 0]]
    assert result["true_names"] == ["left", "right"]


def test_an_evaluation_in_a_file_is_not_repeated_and_not_overwritten(particles, capsys):
    call = ["evaluate-classes", str(particles / "found.star"), "--truth",
            str(particles / "truth.star"), "--output", str(particles / "c.json")]
    assert run(call) == 0
    assert json.loads((particles / "c.json").read_text())["f1_mean"] == 1.0
    assert run(call) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert run([*call, "--radius", "5"]) == 2
    (particles / "c.json").write_text("my notes")
    assert run(call) == 2 and (particles / "c.json").read_text() == "my notes"
    assert run([*call, "--overwrite"]) == 0


def test_evaluate_average_undoes_a_motion_and_tells_the_hand(tmp_path, capsys):
    rng = np.random.default_rng(3)
    reference = phantom()
    pose = RigidTransforms(random_rotations(1, rng), np.array([[1.3, -0.7, 2.1]]))
    write_volume(tmp_path / "map.mrc", 5 + 3 * move_volume(reference, pose), VOXEL)
    write_volume(tmp_path / "reference.mrc", reference, VOXEL)
    result = run_json(capsys, "evaluate-average", tmp_path / "map.mrc", "--reference",
                      tmp_path / "reference.mrc", "--aligned", tmp_path / "aligned.mrc",
                      "--report", tmp_path / "average.html")
    assert min(result["cc"], result["cc_masked"], result["cc_no_radial"]) > 0.97
    assert result["hand"] == "same" and result["cc_mirrored"] < result["cc_same"]
    assert VOXEL * 2 < result["fsc_half_angst"] < VOXEL * 3.5
    aligned, voxel_size = read_volume(tmp_path / "aligned.mrc")
    assert voxel_size == VOXEL
    assert np.corrcoef(aligned.ravel(), reference.ravel())[0, 1] > 0.97
    mirror = np.roll(read_volume(tmp_path / "map.mrc")[0][::-1], 1, axis=0)
    write_volume(tmp_path / "mirror.mrc", mirror, VOXEL)
    result = run_json(capsys, "evaluate-average", tmp_path / "mirror.mrc", "--reference",
                      tmp_path / "reference.mrc", "--hand", "best")
    assert result["hand"] == result["hand_measured"] == "mirrored" and result["cc"] > 0.97


def test_a_reference_of_other_voxels_and_box_is_resampled_and_said_so(tmp_path, capsys):
    reference = phantom()
    # The same structure at half the voxel size, in a larger field of view.
    axis = 0.5 * (np.arange(60) - 30)
    fine = np.zeros((60, 60, 60))
    for x, y, z in np.random.default_rng(0).normal(0, 0.12 * N, (15, 3)):
        g = [np.exp(-((axis - c) ** 2) / (2 * 1.4**2)) for c in (z, y, x)]
        fine += g[0][:, None, None] * g[1][:, None] * g[2]
    write_volume(tmp_path / "map.mrc", reference, VOXEL)
    write_volume(tmp_path / "fine.mrc", fine, VOXEL / 2)
    assert run(["evaluate-average", str(tmp_path / "map.mrc"), "--reference",
                str(tmp_path / "fine.mrc"), "--json", "--no-search"]) == 0
    out, err = capsys.readouterr()
    assert "resampled from 4 to 8 A" in err and "box changed from 30 to 24" in err
    assert json.loads(out)["cc"] > 0.995


def test_symmetry_alone_needs_no_reference(tmp_path, capsys):
    axis = np.arange(32) - 16
    volume = np.zeros((32, 32, 32))
    for k in range(5):
        for radius, phase, z in ((8, 0, 3), (6, 0.5, -4)):
            x, y = (radius * f(2 * np.pi * k / 5 + phase) for f in (np.cos, np.sin))
            g = [np.exp(-((axis - c) ** 2) / 8) for c in (z, y, x)]
            volume += g[0][:, None, None] * g[1][:, None] * g[2]
    write_volume(tmp_path / "ring.mrc", np.moveaxis(volume, 0, 2), VOXEL)  # axis along x
    result = run_json(capsys, "evaluate-average", tmp_path / "ring.mrc", "--symmetry", "C5")
    assert result["self_correlation"] > 0.97
    np.testing.assert_allclose(np.abs(result["symmetry_axis_xyz"]), [1, 0, 0], atol=0.03)


def test_without_anything_to_compare_with_evaluate_average_says_so(tmp_path, capsys):
    write_volume(tmp_path / "map.mrc", phantom(), VOXEL)
    assert run(["evaluate-average", str(tmp_path / "map.mrc")]) == 2
    assert "--reference" in capsys.readouterr().err


def test_fsc_of_halves_gives_curve_and_resolutions(tmp_path, capsys):
    rng = np.random.default_rng(4)
    clean = phantom()
    for half in (1, 2):
        noisy = clean + 0.2 * clean.std() * rng.standard_normal(clean.shape)
        write_volume(tmp_path / f"half{half}.mrc", noisy, VOXEL)
    result = run_json(capsys, "fsc", tmp_path / "half1.mrc", tmp_path / "half2.mrc", "--mask",
                      "soft", "--curve", tmp_path / "fsc.csv")
    assert len(result["fsc"]) == len(result["frequency_per_angst"]) == N // 2
    assert result["fsc_half_angst"] >= result["fsc_0143_angst"] >= 2 * VOXEL
    curve = pd.read_csv(tmp_path / "fsc.csv")
    np.testing.assert_allclose(curve["fsc"], result["fsc"])
    write_volume(tmp_path / "small.mrc", crop_or_pad(clean, (20, 20, 20)), VOXEL)
    assert run(["fsc", str(tmp_path / "half1.mrc"), str(tmp_path / "small.mrc")]) == 2
    assert "box of 24" in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path, capsys):
    for verb in ("evaluate-poses", "evaluate-classes"):
        assert run([verb, str(tmp_path / "none.star"), "--truth", str(tmp_path / "t.star")]) == 2
        assert "none.star does not exist" in capsys.readouterr().err
