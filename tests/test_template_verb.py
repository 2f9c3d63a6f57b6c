"""The verb pick-template."""

import json

import mrcfile
import numpy as np
import pytest
from oracles_template import DIAMETER, PLACES, VOXEL, groel_map

from scipion_faml.cli import run as run_verb
from scipion_faml.geometry import rotation_angle_deg
from scipion_faml.io import read_volume, write_volume
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.tables import read_particles
from scipion_faml.volume import soft_sphere


@pytest.fixture(scope="module")
def files(tmp_path_factory, groel_scene, groel):
    folder = tmp_path_factory.mktemp("template")
    write_volume(folder / "tomogram.mrc", groel_scene[0], VOXEL)
    write_volume(folder / "groel.mrc", groel, VOXEL)
    return folder


def arguments(files, *more, template="groel.mrc", output="picks.star"):
    template = str(files / template) if template.endswith(".mrc") else template
    return ["pick-template", str(files / "tomogram.mrc"), "--template", template, "--symmetry",
            "D7", "--diameter", str(DIAMETER), "--tilt-min", "-60", "--tilt-max", "60",
            "--threshold", "0.3", "--candidates", "8", "--workers", "1", "--output",
            str(files / output), *more]


def test_the_verb_writes_positions_angles_and_maps(files, groel_scene, capsys):
    more = ["--score-map", str(files / "score.mrc"), "--angle-map", str(files / "angle.mrc"),
            "--figure", str(files / "picks.png"), "--json"]
    assert run_verb(arguments(files, *more)) == 0
    said = json.loads(capsys.readouterr().out)
    table = read_particles(files / "picks.star")
    assert said["n_picks"] == len(table) == 4
    assert said["poses_factor"] > 6
    assert (np.diff(table.rows["famlScore"]) <= 0).all()
    group = symmetry_rotations("D7")
    position = table.rows[["rlnCoordinateZ", "rlnCoordinateY", "rlnCoordinateX"]].to_numpy()
    for place, matrix in zip(PLACES, groel_scene[1], strict=True):
        distance = np.linalg.norm(position - place, axis=1)
        found = table.poses.rotation[distance.argmin()]
        assert rotation_angle_deg(found, matrix @ group).min() < 10.0
    score, voxel_size = read_volume(files / "score.mrc")
    assert score.shape == groel_scene[0].shape
    assert voxel_size == pytest.approx(VOXEL)
    with mrcfile.open(files / "angle.mrc") as angle:
        highest = int(angle.data.max())
    assert highest <= len((files / "angle.csv").read_text().splitlines()) - 1
    assert (files / "picks.png").stat().st_size > 1000
    assert run_verb(arguments(files, *more)) == 0  # finished: nothing to do
    assert "nothing to do" in capsys.readouterr().err


def test_a_shipped_model_by_name_and_a_map_of_other_voxels_are_templates(files, capsys):
    write_volume(files / "fine.mrc", groel_map(40, 8.0), 8.0)
    for template, output in (("groel", "by_name.star"), ("fine.mrc", "fine.star")):
        assert run_verb(arguments(files, "--json", template=template, output=output)) == 0
        assert json.loads(capsys.readouterr().out)["n_picks"] == 4


def test_no_peak_above_the_threshold_is_no_file(files, capfd):
    assert run_verb(arguments(files, "--threshold", "0.99", "--json", output="none.star")) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["picks"] is None
    assert not (files / "none.star").exists()
    assert "nothing scores above 0.990" in said.err


def test_without_a_tilt_range_it_says_what_is_assumed(files, capfd):
    given = arguments(files, "--json", output="no_wedge.star")
    for name in ("--tilt-min", "--tilt-max"):
        at = given.index(name)
        del given[at : at + 2]
    assert run_verb(given) == 0
    assert "none missing is assumed" in capfd.readouterr().err
    assert "famlTiltMin" not in (files / "no_wedge.star").read_text()


def mistaken(folder, groel):
    """Arguments that are mistakes, and what is said."""
    unsized = folder / "unsized.mrc"
    with mrcfile.new(unsized, overwrite=True) as mrc:
        mrc.set_data(groel)
    with mrcfile.new(folder / "constant.mrc", overwrite=True) as mrc:
        mrc.set_data(np.ones((20, 20, 20), np.float32))
        mrc.voxel_size = VOXEL
    write_volume(folder / "oblong.mrc", groel[:16], VOXEL)
    write_volume(folder / "small_mask.mrc", soft_sphere(16, 5.0), VOXEL)
    write_volume(folder / "tomogram_mask.mrc", soft_sphere(24, 5.0), VOXEL)
    return folder


@pytest.mark.parametrize(("template", "more", "said"), [
    ("groel.mrc", ["--diameter", "800"], "check --diameter"),
    ("groel.mrc", ["--diameter", "20"], "at least are needed"),
    ("oblong.mrc", [], "a cube is needed"),
    ("unsized.mrc", [], "give --template-voxel-size"),
    ("constant.mrc", [], "is constant"),
    ("missing.mrc", [], "does not exist"),
    ("groel.mrc", ["--template-mask", "small_mask.mrc"], "must have its box"),
    ("groel", ["--template-mask", "small_mask.mrc"], "needs a template that is a map"),
    ("groel.mrc", ["--mask", "tomogram_mask.mrc"], "must have the tomogram's size"),
    ("groel.mrc", ["--tilt-max", "95"], "is not possible"),
    ("groel.mrc", ["--low-pass", "300", "--high-pass", "200"], "finer"),
    ("groel.mrc", ["--symmetry", "Q3"], "Q3"),
    ("groel.mrc", ["--threshold", "2"], "threshold"),
    ("groel.mrc", ["--voxel-size", "0"], "voxel-size"),
])
def test_mistakes_are_one_line(files, groel, template, more, said, capfd):
    folder = mistaken(files, groel)
    more = [str(folder / m) if m.endswith(".mrc") else m for m in more]
    assert run_verb(arguments(folder, *more, template=template, output="wrong.star")) == 2
    error = capfd.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (folder / "wrong.star").exists()
