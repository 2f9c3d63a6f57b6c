"""Tables of several tomograms become one, and nothing of a particle is mixed up."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from scipion_faml.cli import run
from scipion_faml.io import write_volume
from scipion_faml.sources import open_source, wedges_of
from scipion_faml.tables import ParticleTable, optics_table, read_particles, write_particles
from scipion_faml.wedge import MissingWedge


def table(folder, name, wedges, groups, voxel_size=10.0, box=8, **columns):
    """Write a table with a volume of constant value number + 1 for each particle."""
    folder = folder / name
    folder.mkdir()
    names = []
    for number in range(len(groups)):
        names.append(str(folder / f"p{number}.mrc"))
        volume = np.zeros((box, box, box), np.float32)
        volume[number] = number + 1
        write_volume(names[-1], volume, voxel_size)
    rows = pd.DataFrame({"rlnImageName": names, "rlnTomoName": name, "rlnOpticsGroup": groups,
                         **columns})
    path = folder / "particles.star"
    write_particles(path, ParticleTable(rows, optics_table(voxel_size, box, wedges)))
    return path


def test_every_particle_keeps_its_volume_tilt_range_and_columns(tmp_path, capsys):
    first = table(tmp_path, "a", [MissingWedge(-60, 60), MissingWedge(-50, 50)], [1, 2, 1],
                  famlScore=[0.5, 0.25, 1.0], note=["x", "y", "z"])
    second = table(tmp_path, "b", [MissingWedge(-50, 50), MissingWedge(-60, 60)], [2, 1],
                   famlScore=[3.0, 4.0], extra=[1, 2])
    out = tmp_path / "all" / "particles.star"
    command = ["join-particles", str(first), str(second), "--output", str(out), "--json"]
    assert run(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["n_particles"], told["n_tomograms"], told["n_optics_groups"]) == (5, 2, 2)
    assert told["warnings"] == ["left out, because not every table has them: note, extra"]
    found = read_particles(out)
    assert list(found.rows["famlScore"]) == [0.5, 0.25, 1.0, 3.0, 4.0]
    assert list(found.rows["rlnTomoName"]) == ["a", "a", "a", "b", "b"]
    assert [w.tilt_max_deg for w in wedges_of(found)] == [60, 50, 60, 60, 50]
    parts = [open_source(read_particles(path)) for path in (first, second)]
    expected = [part[i].volume for part in parts for i in range(len(part))]
    whole = open_source(found)
    for number, volume in enumerate(expected):
        np.testing.assert_array_equal(whole[number].volume, volume)
    text = out.read_bytes()
    assert run([*command, "--overwrite"]) == 0 and out.read_bytes() == text


def test_a_table_without_optics_groups_is_one(tmp_path):
    first = table(tmp_path, "a", [MissingWedge(-60, 60)], [1])
    bare = read_particles(table(tmp_path, "b", [MissingWedge(-40, 40)], [1, 1]))
    write_particles(tmp_path / "b" / "bare.star", ParticleTable(
        bare.rows.drop(columns="rlnOpticsGroup"), bare.optics.drop(columns="rlnOpticsGroup")))
    assert run(["join-particles", str(first), str(tmp_path / "b" / "bare.star"), "--output",
                str(tmp_path / "all.star")]) == 0
    found = read_particles(tmp_path / "all.star")
    assert [w.tilt_max_deg for w in wedges_of(found)] == [60, 40, 40]


@pytest.mark.parametrize(("options", "message"), [
    ({"voxel_size": 12.0}, "a/particles.star has voxels of 10 A"),
    ({"box": 10}, "has boxes of 8 voxels"),
])
def test_sizes_that_differ_are_refused(tmp_path, capsys, options, message):
    wedge = [MissingWedge(-60, 60)]
    paths = [table(tmp_path, "a", wedge, [1]), table(tmp_path, "b", wedge, [1], **options)]
    assert run(["join-particles", *map(str, paths), "--output", str(tmp_path / "all.star")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "all.star").exists()


def test_a_particle_in_two_tables_is_named(tmp_path, capsys):
    path = table(tmp_path, "a", [MissingWedge(-60, 60)], [1])
    assert run(["join-particles", str(path), str(path), "--output", str(tmp_path / "o.star")]) == 2
    assert "p0.mrc is in" in capsys.readouterr().err
