"""Damaged particles: the run stops and counts them, or leaves them out and lists each one."""

import json

import numpy as np
import pandas as pd
import pytest
from fuzz.builders import (
    BOX,
    VOXEL_SIZE,
    blob,
    optics,
    particles,
    picks,
    tomogram,
    write_raw,
    write_table,
)

from scipion_faml import star
from scipion_faml.cli import run
from scipion_faml.io import read_volume, write_volume

N_GOOD = 6


def _spoil(where, rows):
    """Append a particle for each kind of damage; return words of the reasons, in order."""
    base = dict(rows.iloc[0])
    volumes = {
        "nan.mrc": np.where(np.arange(BOX) == 1, np.nan, blob(0)),
        "constant.mrc": np.full((BOX,) * 3, 2.0), "wide.mrc": blob(0, BOX + 2),
        "flat.mrc": blob(0)[:5], "huge.mrc": blob(0) * 1e30}
    for name, volume in volumes.items():
        write_raw(where / name, volume)
    write_volume(where / "scaled.mrc", blob(0), 5.0)
    (where / "cut.mrc").write_bytes((where / "p1.mrc").read_bytes()[:2000])
    (where / "text.mrc").write_text("no volume")
    said = {"nan.mrc": "NaN", "constant.mrc": "constant", "wide.mrc": "box of 12, the set 10",
            "flat.mrc": "a cube is needed", "huge.mrc": "no densities", "scaled.mrc": "voxel size",
            "cut.mrc": "not a readable MRC file", "text.mrc": "not a readable MRC file",
            "none.mrc": "does not exist", "p1.mrc": "the same particle as row 1"}
    rows = rows.iloc[:N_GOOD].to_dict("records") + [{**base, "rlnImageName": n} for n in said]
    return rows, list(said.values())


@pytest.fixture
def damaged(tmp_path):
    """A table of six good particles and ten that are damaged, each in its own way."""
    _, rows = particles(tmp_path, N_GOOD)
    spoilt, reasons = _spoil(tmp_path, rows)
    table = pd.DataFrame(spoilt)
    return write_table(tmp_path / "particles.star", table), reasons


VERBS = {
    "classify": ["--mode", "paper", "--iterations", "1"],
    "align": ["--reference", "p1.mrc", "--search", "magnitude"],
    "average": [],
}


def _call(capsys, verb, star_file, *more):
    words = [str(star_file.parent / w) if w.endswith(".mrc") else w for w in VERBS[verb]]
    status = run([verb, str(star_file), *words, "--output", str(star_file.parent / verb),
                  "--workers", "2", "--json", *more])
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error:")]
    return status, (json.loads(said.out) if said.out else {}), "\n".join(errors)


@pytest.mark.parametrize("verb", VERBS)
def test_a_damaged_particle_stops_the_run_which_counts_all(damaged, capsys, verb):
    status, _, error = _call(capsys, verb, damaged[0])
    assert status == 2
    assert "subtomogram 7, " in error or "subtomogram 7: " in error
    assert f"{len(damaged[1])} of 16 particles cannot be used" in error and "--skip-bad" in error


@pytest.mark.parametrize("verb", VERBS)
def test_skipped_particles_are_listed_each_with_its_reason(damaged, capsys, verb):
    status, result, _ = _call(capsys, verb, damaged[0], "--skip-bad")
    assert status == 0
    assert result["particles"] == N_GOOD and result["n_excluded"] == len(damaged[1])
    listed = star.read(damaged[0].parent / verb / "excluded.star")["particles"]
    assert listed["famlRow"].tolist() == list(range(N_GOOD + 1, 17))
    for reason, words in zip(listed["famlReason"], damaged[1], strict=True):
        assert words in reason
    assert any("10 of 16 particles could not be used" in text for text in result["warnings"])


@pytest.mark.parametrize("verb", VERBS)
def test_the_result_is_that_of_a_table_without_them(damaged, capsys, tmp_path, verb):
    _call(capsys, verb, damaged[0], "--skip-bad")
    clean, _ = particles(tmp_path, N_GOOD)
    (tmp_path / verb).rename(tmp_path / "skipped")
    assert _call(capsys, verb, clean)[0] == 0
    name = "average.mrc" if verb == "align" else "class_001.mrc"
    for folder in ("skipped", verb):
        assert not (tmp_path / folder / name).is_symlink()
    np.testing.assert_array_equal(
        *(read_volume(tmp_path / folder / name)[0] for folder in ("skipped", verb)))
    assert not (tmp_path / verb / "excluded.star").exists()


def test_damage_that_only_voxels_show_is_counted_too(tmp_path, capsys):
    table, rows = particles(tmp_path, 5)
    for name in ("p2.mrc", "p4.mrc"):
        write_raw(tmp_path / name, np.full((BOX,) * 3, np.nan))
    status, _, error = _call(capsys, "classify", table)
    assert status == 2
    assert "p2.mrc holds 1000 voxels that are NaN" in error
    assert "2 of 5 particles cannot be used" in error


def test_the_report_lists_them(damaged, capsys, reports):
    _call(capsys, "average", damaged[0], "--skip-bad")
    page = (damaged[0].parent / "average" / "report.html").read_text()
    assert "Excluded" in page and "the same particle as row 1" in page


def test_symmetry_expansion_is_no_duplicate_where_poses_count(tmp_path, capsys):
    table, rows = particles(tmp_path, 4)
    turned = rows.assign(rlnAngleRot=rows["rlnAngleRot"] + 120.0)
    write_table(table, pd.concat([rows, turned]))
    assert _call(capsys, "average", table)[1]["particles"] == 8
    status, _, error = _call(capsys, "classify", table)
    assert status == 2 and "the same particle as row 1" in error


def test_a_run_goes_on_only_with_the_particles_it_began_with(damaged, capsys):
    _call(capsys, "classify", damaged[0], "--skip-bad")
    (damaged[0].parent / "classify" / "run.json").unlink()
    write_volume(damaged[0].parent / "none.mrc", blob(7), VOXEL_SIZE)
    status, _, error = _call(capsys, "classify", damaged[0], "--skip-bad")
    assert status == 2 and "was begun without 10 particles, now 9" in error


def test_nothing_is_left_when_all_are_damaged(tmp_path, capsys):
    table, _ = particles(tmp_path, 3)
    for i in range(3):
        (tmp_path / f"p{i + 1}.mrc").unlink()
    status, _, error = _call(capsys, "classify", table, "--skip-bad")
    assert status == 2 and "none of 3 particles can be used" in error


def test_particles_of_mixed_tilt_ranges_and_tomograms(tmp_path, capsys):
    _, rows = particles(tmp_path, 6)
    rows = rows.assign(rlnOpticsGroup=[1, 1, 2, 2, 3, 3], rlnTomoName=list("aabbcc"))
    groups = pd.concat(
        [optics(rlnOpticsGroup=g, famlTiltMin=low, famlTiltMax=high)
         for g, low, high in ((1, -60.0, 60.0), (2, -42.0, 66.0), (3, -90.0, 90.0))])
    table = write_table(tmp_path / "particles.star", rows, groups)
    for verb in VERBS:
        assert _call(capsys, verb, table)[1]["particles"] == 6
    back = star.read(tmp_path / "classify" / "particles.star")
    assert back["particles"]["rlnTomoName"].tolist() == list("aabbcc")
    assert back["optics"]["famlTiltMin"].tolist() == [-60.0, -42.0, -90.0]


def test_picks_without_a_position_of_their_own_are_listed_as_dropped(tmp_path, capsys):
    table = picks(tmp_path / "t1.star")
    rows = star.read(table)["particles"]
    rows = pd.concat([rows, rows.iloc[:1], rows.iloc[:1].assign(rlnCoordinateZ=np.nan)])
    write_table(table, rows)
    assert run(["extract", str(tomogram(tmp_path / "t1.mrc")), str(table), "--box", "8", "--json",
                "--output", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["n_particles"], result["n_dropped"]) == (3, 2)
    dropped = star.read(tmp_path / "out" / "dropped.star")["particles"]
    assert dropped["famlReason"].tolist() == [
        "it lies where row 1 lies", "its position is no number"]
