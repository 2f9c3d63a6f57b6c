"""Names in tables: where they may lead, and what they become as names of files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from scipion_faml import star
from scipion_faml.cli import run
from scipion_faml.io import write_volume
from scipion_faml.paths import (
    ALLOW_OUTSIDE,
    SCIPION_PROJECT,
    allow_outside,
    file_names,
    found_from,
    name_for,
    project_folder,
)
from scipion_faml.tables import read_particles, write_particles


@pytest.fixture(autouse=True)
def refused(monkeypatch, tmp_path):
    """Names that climb out are refused, whatever was allowed before; work in an empty folder."""
    monkeypatch.delenv(ALLOW_OUTSIDE, raising=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    allow_outside(False)
    yield
    allow_outside(False)


@pytest.fixture
def table(tmp_path):
    """The table of two particles with their poses."""
    assert run(["simulate-subtomograms", "--model", "blobs:1", "--count", "2", "--box", "12",
                "--voxel-size", "20", "--optics", "none", "--tilt-step", "20",
                "--output", str(tmp_path / "runs" / "sim")]) == 0
    return tmp_path / "runs" / "sim" / "truth.star"


def renamed(source, target, prefix):
    """Write a copy of a table whose images are named with a prefix, as text, to `target`."""
    blocks = star.read(source)
    rows = blocks["particles"]
    for column in ("rlnImageName", "famlWeightName"):
        if column in rows:
            rows[column] = [f"{prefix}{name}" for name in rows[column]]
    target.parent.mkdir(parents=True, exist_ok=True)
    star.write(target, blocks)
    return target


# ------------------------------------------------------------------------------------- reading
def test_a_name_beside_a_table_or_in_a_folder_next_to_it_is_followed(table, tmp_path):
    beside = [Path(p).resolve() for p in read_particles(table).rows["rlnImageName"]]
    next_to_it = renamed(table, tmp_path / "runs" / "picked" / "p.star", "../sim/")
    assert [Path(p) for p in read_particles(next_to_it).rows["rlnImageName"]] == beside


def test_a_name_that_climbs_out_is_refused_with_its_table_and_two_ways_out(table, tmp_path, capsys):
    outside = renamed(table, tmp_path / "other" / "a" / "p.star", "../../runs/sim/")
    with pytest.raises(ValueError, match=r"outside of .*other: give its whole path, or allow it"):
        read_particles(outside)
    capsys.readouterr()
    assert run(["average", str(outside), "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(outside) in line and "../../runs/sim/" in line and "--allow-outside" in line


def test_what_is_allowed_for_one_command_is_not_for_the_next(table, tmp_path):
    outside = renamed(table, tmp_path / "other" / "a" / "p.star", "../../runs/sim/")
    words = ["average", str(outside), "--output", str(tmp_path / "out")]
    assert run([*words, "--allow-outside"]) == 0
    assert run([*words, "--overwrite"]) == 2


def test_the_environment_allows_it_too_as_scipion_has_no_such_option(table, tmp_path, monkeypatch):
    outside = renamed(table, tmp_path / "other" / "a" / "p.star", "../../runs/sim/")
    monkeypatch.setenv(ALLOW_OUTSIDE, "1")
    assert run(["average", str(outside), "--output", str(tmp_path / "out")]) == 0


def test_whole_paths_are_taken_as_they_are(table, tmp_path):
    anywhere = renamed(table, tmp_path / "far" / "a" / "b" / "p.star", f"{table.parent}/")
    assert Path(read_particles(anywhere).rows["rlnImageName"][0]).is_file()


def test_names_of_relion_are_relative_to_the_folder_one_works_in(table, tmp_path, monkeypatch):
    job = renamed(table, tmp_path / "Extract" / "job001" / "p.star", "runs/sim/")
    monkeypatch.chdir(tmp_path)
    assert Path(read_particles(job).rows["rlnImageName"][0]).is_file()


def test_tables_deep_in_a_scipion_project_may_name_all_of_it_and_no_more(table, tmp_path):
    (tmp_path / SCIPION_PROJECT).touch()
    deep = renamed(table, tmp_path / "Runs" / "000012_Prot" / "extra" / "p.star",
                   "../../../runs/sim/")
    assert Path(read_particles(deep).rows["rlnImageName"][0]).is_file()
    assert project_folder(deep) == tmp_path
    with pytest.raises(ValueError, match="outside"):
        found_from("../../../../secret.mrc", deep)


def test_a_name_that_goes_up_and_down_again_through_a_missing_folder_is_the_same(tmp_path):
    inside = tmp_path / "runs" / "a" / "p.mrc"
    inside.parent.mkdir(parents=True)
    inside.touch()
    assert found_from("none/../p.mrc", tmp_path / "runs" / "a" / "t.star") == inside


@pytest.mark.parametrize("name, content", [
    ("particles.doc", "1 ../../../secret.mrc\n"), ("list.vll", "../../../secret.mrc\n")])
def test_lists_of_tomograms_may_not_lead_outside(tmp_path, name, content):
    from scipion_faml.exchange.tomograms import read_tomograms

    write_volume(tmp_path / "secret.mrc", np.zeros((4, 4, 4), np.float32), 1.0)
    listed = tmp_path / "a" / "b" / "c" / name
    listed.parent.mkdir(parents=True)
    listed.write_text(content)
    with pytest.raises(ValueError, match="outside"):
        read_tomograms([listed])
    allow_outside(True)
    assert read_tomograms([listed]).items[0].size_xyz == (4, 4, 4)


def test_lists_of_eman_may_not_lead_outside(tmp_path):
    from scipion_faml.exchange.eman import _find

    folder = tmp_path / "a" / "b" / "spt_00"
    folder.mkdir(parents=True)
    (tmp_path / "secret.hdf").touch()
    with pytest.raises(ValueError, match="outside"):
        _find("../../../secret.hdf", folder)
    assert _find("none.hdf", folder) == "none.hdf"


def test_the_tomogram_of_positions_may_not_lie_outside(tmp_path):
    from scipion_faml.cli.train_detector import _tomogram_beside

    (tmp_path / "secret.mrc").touch()
    listed = tmp_path / "a" / "b" / "t.star"
    listed.parent.mkdir(parents=True)
    with pytest.raises(ValueError, match="outside"):
        _tomogram_beside(listed, "../../secret.mrc")


# ------------------------------------------------------------------------------------- writing
def test_tables_name_what_is_in_their_project_by_relative_names_and_the_rest_by_whole_ones(
    table, tmp_path
):
    particles = read_particles(table)
    write_particles(tmp_path / "runs" / "out" / "p.star", particles)
    near = star.read(tmp_path / "runs" / "out" / "p.star")["particles"]["rlnImageName"]
    assert all(name.startswith("../sim/") for name in near)
    write_particles(tmp_path / "far" / "a" / "b" / "p.star", particles)
    far = star.read(tmp_path / "far" / "a" / "b" / "p.star")["particles"]["rlnImageName"]
    assert all(os.path.isabs(name) for name in far)
    for path in ("runs/out/p.star", "far/a/b/p.star"):
        again = read_particles(tmp_path / path).rows["rlnImageName"].tolist()
        assert again == particles.rows["rlnImageName"].tolist()


def test_what_is_written_is_never_refused_when_read(tmp_path):
    for folder in ("a", "a/b", "a/b/c/d", "."):
        listed = tmp_path / folder / "t.star"
        for target in ("x.mrc", "a/x.mrc", "a/b/x.mrc", "q/r/s/x.mrc", "../x.mrc"):
            path = Path(os.path.abspath(tmp_path / target))
            assert found_from(name_for(str(path), listed), listed) == path


def test_texts_become_names_of_files_that_stay_in_their_folder_and_differ():
    texts = ["TS_01", "../../etc/passwd", "a/b", "a b", "..", "", ".hidden", "TS 01", "ts_01",
             "x" * 300, "é", "a;rm -rf /", "-"]
    names = file_names(texts, "tomogram")
    assert names["TS_01"] == "TS_01" and names["é"] == "é"
    assert len({name.lower() for name in names.values()}) == len(texts)
    for name in names.values():
        assert name and len(name) <= 90 and Path(name).name == name and name[0] != "."
        assert not set(name) & set("/;\0 \n")


def test_every_verb_knows_the_option():
    import click

    from scipion_faml.cli import VERBS, main

    for verb in VERBS:
        options = {o for p in main.get_command(click.Context(main), verb).params for o in p.opts}
        assert "--allow-outside" in options, verb
