"""Extraction: boxes lie where positions say, and nothing is lost silently."""

from __future__ import annotations

import json

import mrcfile
import numpy as np
import pandas as pd
import pytest

from scipion_faml.cli import run
from scipion_faml.extraction import (
    ExtractionConfig,
    background_shell,
    box_centres,
    cut_box,
    reason_to_drop,
    subtomogram,
)
from scipion_faml.io import read_volume, write_volume
from scipion_faml.sources import open_source
from scipion_faml.tables import (
    COORDINATES,
    ORIGINS,
    ParticleTable,
    optics_table,
    read_particles,
    write_particles,
)
from scipion_faml.wedge import MissingWedge

VOXEL = 5.0


def bead(shape, position_xyz, width=1.5):
    """One Gaussian in a tomogram (z, y, x)."""
    axes = [np.exp(-((np.arange(n) - c) ** 2) / (2 * width**2))
            for n, c in zip(shape, position_xyz[::-1], strict=True)]
    return (axes[0][:, None, None] * axes[1][:, None] * axes[2]).astype(np.float32)


def centre_of_mass(volume):
    """Centre (xyz) of a positive density, from voxel n // 2."""
    weight = np.clip(volume - np.median(volume), 0, None) ** 2
    grid = np.indices(volume.shape) - np.array(volume.shape)[:, None, None, None] // 2
    return ((grid * weight).sum(axis=(1, 2, 3)) / weight.sum())[::-1]


def test_a_box_has_its_centre_voxel_at_the_position():
    tomogram = np.arange(20 * 22 * 24, dtype=np.float32).reshape(20, 22, 24)
    for box in (8, 9):
        cut = cut_box(tomogram, np.array([12, 11, 9]), box)
        assert cut.shape == (box,) * 3
        assert cut[(box // 2,) * 3] == tomogram[9, 11, 12]


def test_what_lies_outside_is_the_mean_of_what_lies_inside():
    tomogram = np.random.default_rng(0).standard_normal((20, 20, 20)).astype(np.float32)
    cut = cut_box(tomogram, np.array([2, 10, 10]), 10)
    inside = tomogram[5:15, 5:15, 0:7]
    np.testing.assert_array_equal(cut[:, :, 3:], inside)
    np.testing.assert_allclose(cut[:, :, :3], inside.mean(), atol=1e-6)


def test_rounding_and_remainder_add_up_to_the_position():
    positions = np.random.default_rng(1).uniform(0, 50, (100, 3))
    centre, shift = box_centres(positions)
    np.testing.assert_allclose(centre + shift, positions)
    assert np.abs(shift).max() <= 0.5


@pytest.mark.parametrize("binning, box", [(1, 16), (2, 12), (2, 13), (3, 10)])
def test_the_bead_lies_at_the_remainder_after_binning_too(binning, box):
    position = np.array([[31.3, 28.8, 30.45]])
    tomogram = bead((64, 64, 64), position[0], 2.0 * binning)
    centre, shift = box_centres(position)
    config = ExtractionConfig(box, binning, normalise="none")
    cut = subtomogram(tomogram, centre[0], VOXEL, config)
    assert cut.shape == (box,) * 3
    np.testing.assert_allclose(centre_of_mass(cut), shift[0] / binning, atol=0.1)


def test_binning_keeps_the_mean_density():
    tomogram = np.random.default_rng(2).standard_normal((40, 40, 40)).astype(np.float32) + 3.0
    config = ExtractionConfig(12, 2, normalise="none")
    cut = subtomogram(tomogram, np.array([20, 20, 20]), VOXEL, config)
    assert cut.mean() == pytest.approx(cut_box(tomogram, np.array([20] * 3), 24).mean(), abs=1e-4)


def test_normalised_boxes_have_mean_zero_and_unit_spread_where_asked():
    tomogram = 5.0 + bead((40, 40, 40), (20, 20, 20), 3.0) * 30
    tomogram += np.random.default_rng(3).standard_normal(tomogram.shape).astype(np.float32)
    at = np.array([20, 20, 20])
    whole = subtomogram(tomogram, at, VOXEL, ExtractionConfig(24))
    assert abs(whole.mean()) < 1e-4 and whole.std() == pytest.approx(1.0, abs=1e-4)
    config = ExtractionConfig(24, normalise="shell", radius_angst=9 * VOXEL)
    shell = subtomogram(tomogram, at, VOXEL, config)
    outside = background_shell(24, VOXEL, 9 * VOXEL)
    assert abs(shell[outside].mean()) < 1e-4 and shell[outside].std() == pytest.approx(1, abs=1e-4)
    assert shell[12, 12, 12] > 10.0


def test_inverting_changes_the_sign_only():
    tomogram = np.random.default_rng(4).standard_normal((30, 30, 30)).astype(np.float32)
    at = np.array([15, 15, 15])
    plain = subtomogram(tomogram, at, VOXEL, ExtractionConfig(12))
    inverted = subtomogram(tomogram, at, VOXEL, ExtractionConfig(12, is_inverted=True))
    np.testing.assert_allclose(inverted, -plain, atol=1e-6)


def test_boxes_that_do_not_fit_say_by_how_much():
    shape, config = (30, 30, 30), ExtractionConfig(10)
    assert reason_to_drop(np.array([15, 15, 15]), shape, config) is None
    assert reason_to_drop(np.array([5, 15, 25]), shape, config) is None
    reason = reason_to_drop(np.array([15, 3, 26]), shape, config)
    assert reason == "the box reaches 2 voxels out of the tomogram along y"
    assert "outside" in str(reason_to_drop(np.array([15, 30, 15]), shape, config))
    padded = ExtractionConfig(10, is_padded=True)
    assert reason_to_drop(np.array([15, 3, 26]), shape, padded) is None


@pytest.mark.parametrize("options, message", [
    ({"box": 4}, "too small"), ({"box": 16, "binning": 0}, "at least 1"),
    ({"box": 16, "normalise": "x"}, "choose from"), ({"box": 16, "radius_angst": 0.0}, "above 0"),
])
def test_impossible_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ExtractionConfig(**options)


# ------------------------------------------------------------------------------------ the verb
@pytest.fixture
def tomogram(tmp_path):
    """A tomogram of five beads with picks: one near a face, angles and an unknown column."""
    positions = np.array([
        [20.3, 20.6, 16.2], [40.0, 22.5, 15.0], [24.4, 44.1, 17.7], [44.8, 40.2, 16.0],
        [3.0, 30.0, 16.0],
    ])
    shape = (34, 64, 64)
    rng = np.random.default_rng(5)
    volume = sum(bead(shape, p, 2.0) for p in positions) * 20
    write_volume(tmp_path / "tomo.mrc", volume + rng.standard_normal(shape), VOXEL)
    rows = pd.DataFrame({
        "rlnTomoName": "tomo", **dict(zip(COORDINATES, positions.T, strict=True)),
        "rlnAngleRot": 10.0, "rlnAngleTilt": 20.0, "rlnAnglePsi": np.arange(5.0),
        "userColumn": list("abcde"), "rlnOpticsGroup": 1,
    })
    optics = optics_table(VOXEL, 0, [MissingWedge(-50, 60)]).drop(columns="rlnImageSize")
    write_particles(tmp_path / "picks.star", ParticleTable(rows, optics))
    return tmp_path, positions


def run_json(capsys, *arguments):
    """Run a verb with --json; return its status and object."""
    status = run([*map(str, arguments), "--json"])
    text = capsys.readouterr().out
    return status, json.loads(text) if text else None


def test_extract_writes_what_classify_reads_and_keeps_every_column(tomogram, capsys):
    folder, positions = tomogram
    status, result = run_json(capsys, "extract", folder / "tomo.mrc", folder / "picks.star",
                              "--box", 16, "--output", folder / "out")
    assert status == 0
    assert (result["n_particles"], result["n_dropped"]) == (4, 1)
    table = read_particles(folder / "out/particles.star")
    assert list(table.rows["userColumn"]) == list("abcd")
    np.testing.assert_allclose(table.rows["rlnAnglePsi"], np.arange(4.0), atol=1e-5)
    source = open_source(table)
    assert source.n == 16 and source.voxel_size_angst == VOXEL
    assert source.wedges[0] == MissingWedge(-50, 60)
    # Box centre minus origin is the position, in voxels of the tomogram.
    origin = table.rows[ORIGINS].to_numpy() / VOXEL
    np.testing.assert_allclose(
        table.rows[COORDINATES].to_numpy() - origin, positions[:4], atol=1e-4)
    for particle, shift in zip((source[i] for i in range(4)), table.poses.shift_xyz, strict=True):
        np.testing.assert_allclose(centre_of_mass(particle.volume), shift, atol=0.35)


def test_positions_that_cannot_be_cut_are_listed_with_the_reason(tomogram, capsys):
    folder, _ = tomogram
    _, result = run_json(capsys, "extract", folder / "tomo.mrc", folder / "picks.star",
                         "--box", 16, "--output", folder / "out")
    dropped = read_particles(folder / "out/dropped.star")
    assert dropped.rows["famlReason"].iloc[0] == result["dropped"][0]["reason"]
    assert "5 voxels out of the tomogram along x" in result["dropped"][0]["reason"]
    assert list(dropped.rows["userColumn"]) == ["e"]


def test_padding_keeps_them(tomogram, capsys):
    folder, _ = tomogram
    _, result = run_json(capsys, "extract", folder / "tomo.mrc", folder / "picks.star",
                         "--box", 16, "--pad", "--output", folder / "out")
    assert (result["n_particles"], result["n_dropped"]) == (5, 0)
    assert not (folder / "out/dropped.star").exists()


def test_extracting_twice_moves_no_particle(tomogram, capsys):
    folder, positions = tomogram
    for bin_, name, picks in ((2, "a", "picks.star"), (1, "b", "a/particles.star")):
        status, _ = run_json(capsys, "extract", folder / "tomo.mrc", folder / picks, "--bin", bin_,
                             "--box", 16 // bin_, "--output", folder / name)
        assert status == 0
    table = read_particles(folder / "b/particles.star")
    assert table.voxel_size_angst == VOXEL
    np.testing.assert_allclose(
        table.rows[COORDINATES].to_numpy() - table.rows[ORIGINS].to_numpy() / VOXEL,
        positions[:4], atol=1e-4,
    )


def test_a_missing_tilt_range_is_an_error_with_the_way_out(tomogram, capsys):
    folder, _ = tomogram
    table = read_particles(folder / "picks.star")
    bare = ParticleTable(table.rows, table.optics.drop(columns=["famlTiltMin", "famlTiltMax"]))
    write_particles(folder / "bare.star", bare)
    call = ["extract", str(folder / "tomo.mrc"), str(folder / "bare.star"), "--box", "16",
            "--output", str(folder / "out")]
    assert run(call) == 2
    message = capsys.readouterr().err
    assert "--tilt-min and --tilt-max" in message and "bare.star" in message
    assert run([*call, "--tilt-min", "-60", "--tilt-max", "60"]) == 0


def test_picks_of_other_tomograms_are_left_alone(tomogram, capsys):
    folder, _ = tomogram
    table = read_particles(folder / "picks.star")
    names = ["tomo", "other", "tomo", "other", "tomo"]
    write_particles(folder / "mixed.star", table.with_columns(rlnTomoName=names))
    _, result = run_json(capsys, "extract", folder / "tomo.mrc", folder / "mixed.star",
                         "--box", 16, "--output", folder / "out")
    assert (result["n_particles"], result["n_in_other_tomograms"]) == (2, 2)
    assert run(["extract", str(folder / "tomo.mrc"), str(folder / "mixed.star"), "--box", "16",
                "--tomo-name", "third", "--output", str(folder / "o")]) == 2
    assert "no position in third" in capsys.readouterr().err


def test_a_header_without_voxel_size_takes_that_of_the_picks_or_of_the_option(tomogram, capsys):
    folder, _ = tomogram
    volume, _ = read_volume(folder / "tomo.mrc")
    with mrcfile.new(folder / "bare.mrc") as mrc:
        mrc.set_data(volume)
    _, result = run_json(capsys, "extract", folder / "bare.mrc", folder / "picks.star",
                         "--box", 16, "--output", folder / "out")
    assert result["voxel_size_angst"] == VOXEL
    # Coordinates count voxels of 5 A: in a tomogram of 10 A they are half as large.
    _, result = run_json(capsys, "extract", folder / "bare.mrc", folder / "picks.star",
                         "--box", 8, "--tomogram-voxel-size", 10, "--output", folder / "o2")
    table = read_particles(folder / "o2/particles.star")
    assert table.rows[COORDINATES[0]].iloc[0] == 10.0


def test_a_box_that_fits_nowhere_is_an_error(tomogram, capsys):
    folder, _ = tomogram
    assert run(["extract", str(folder / "tomo.mrc"), str(folder / "picks.star"), "--box", "60",
                "--output", str(folder / "out")]) == 2
    assert "none of 5 boxes" in capsys.readouterr().err


def test_the_same_run_is_not_repeated_and_another_is_refused(tomogram, capsys):
    folder, _ = tomogram
    call = ["extract", str(folder / "tomo.mrc"), str(folder / "picks.star"), "--output",
            str(folder / "out"), "--box"]
    assert run([*call, "16"]) == 0 and run([*call, "16"]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert run([*call, "12"]) == 2
    assert run([*call, "12", "--overwrite"]) == 0


def test_pick_dog_writes_positions_that_extract_takes(tomogram, capsys):
    folder, positions = tomogram
    status, result = run_json(
        capsys, "pick-dog", folder / "tomo.mrc", "--diameter", 40, "--tilt-min", -60, "--tilt-max",
        60, "--output", folder / "dog.star", "--figure", folder / "dog.png")
    assert status == 0 and result["n_picks"] == 4  # the fifth is too near a face
    picks = read_particles(folder / "dog.star")
    found = picks.rows[COORDINATES].to_numpy()
    assert np.linalg.norm(found[:, None] - positions[None, :4], axis=2).min(axis=1).max() < 1.0
    assert (np.diff(picks.rows["famlScore"]) <= 0).all()
    assert (folder / "dog.png").read_bytes().startswith(b"\x89PNG")
    status, result = run_json(capsys, "extract", folder / "tomo.mrc", folder / "dog.star",
                              "--box", 16, "--output", folder / "out")
    assert status == 0 and result["n_particles"] == 4
    # Scores survive, and so does the tilt range.
    table = read_particles(folder / "out/particles.star")
    assert "famlScore" in table.rows and table.optics["famlTiltMax"].iloc[0] == 60


def test_nothing_found_is_a_result_not_a_file(tomogram, capsys):
    folder, _ = tomogram
    status, result = run_json(capsys, "pick-dog", folder / "tomo.mrc", "--diameter", 40,
                              "--threshold", 1e6, "--output", folder / "dog.star")
    assert status == 0 and result["n_picks"] == 0 and result["picks"] is None
    assert not (folder / "dog.star").exists()


def test_a_damaged_tomogram_is_named(tmp_path, capsys):
    volume = np.random.default_rng(0).standard_normal((30, 30, 30)).astype(np.float32)
    with mrcfile.new(tmp_path / "nan.mrc") as mrc:
        mrc.set_data(volume)
        mrc.data[3, 4, 5] = np.nan
    assert run(["pick-dog", str(tmp_path / "nan.mrc"), "--diameter", "40", "--output",
                str(tmp_path / "p.star"), "--voxel-size", "5"]) == 2
    assert "nan.mrc" in capsys.readouterr().err
    data = (tmp_path / "nan.mrc").read_bytes()
    (tmp_path / "short.mrc").write_bytes(data[: len(data) // 2])
    assert run(["pick-dog", str(tmp_path / "short.mrc"), "--diameter", "40", "--output",
                str(tmp_path / "p.star"), "--voxel-size", "5"]) == 2
    assert "short.mrc" in capsys.readouterr().err
