"""Particles to and from other packages' files: chiral particles, odd and even boxes, real files."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess

import emfile
import eulerangles
import mrcfile
import numpy as np
import oracles_exchange as oracle
import pandas as pd
import pytest
import starfile
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from scipion_faml import cli
from scipion_faml.cli.truth import box_centres_angst
from scipion_faml.exchange import conventions
from scipion_faml.exchange.formats import guess_format
from scipion_faml.exchange.tomograms import read_tomograms
from scipion_faml.geometry import RigidTransforms, relion_angles_deg, rotation_angle_deg
from scipion_faml.io import read_volume, write_volume
from scipion_faml.tables import ParticleTable, optics_table, read_particles, write_particles
from scipion_faml.wedge import MissingWedge

N_PARTICLES = 14
SIZES = {"TS_03": (101, 120, 60), "TS_08": (100, 121, 61)}
TOMOGRAM_VOXEL_SIZE = 4.0


@pytest.fixture(scope="module", params=[18, 19], ids=["even box", "odd box"])
def made(request, tmp_path_factory):
    """Particles with a wedge in files, their truth as a table, and two tomograms."""
    folder, n = tmp_path_factory.mktemp("made"), request.param
    rotations, shifts = oracle.random_poses(N_PARTICLES, n)
    mask = oracle.wedge(n)
    names = []
    for i, (rotation, shift) in enumerate(zip(rotations, shifts, strict=True)):
        names.append(str(folder / "subtomograms" / f"p{i}.mrc"))
        write_volume(names[-1], oracle.cut(oracle.draw(n, rotation, shift), mask),
                     oracle.VOXEL_SIZE)
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({
        "rlnImageName": names, "rlnOpticsGroup": 1,
        "rlnTomoName": ["TS_03", "TS_08"] * (N_PARTICLES // 2),
        "rlnClassNumber": 1 + np.arange(N_PARTICLES) % 3,
        "rlnRandomSubset": 1 + np.arange(N_PARTICLES) % 2,
        "famlScore": rng.uniform(0.1, 0.9, N_PARTICLES).round(4),
        "famlNote": [f"note {i}" for i in range(N_PARTICLES)],
        **dict(zip(("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"),
                   rng.integers(20, 50, (3, N_PARTICLES)).astype(float), strict=True)),
    })
    optics = optics_table(oracle.VOXEL_SIZE, n, [MissingWedge(*oracle.TILTS)])
    optics["rlnTomoTiltSeriesPixelSize"] = TOMOGRAM_VOXEL_SIZE
    poses = RigidTransforms.from_rotation(rotations, shifts)
    table = ParticleTable(rows, optics).with_poses(poses)
    write_particles(folder / "particles.star", table)
    starfile.write({"global": pd.DataFrame({
        "rlnTomoName": list(SIZES), "rlnTomoTiltSeriesPixelSize": TOMOGRAM_VOXEL_SIZE,
        **{f"rlnTomoSize{axis}": [s[i] for s in SIZES.values()] for i, axis in enumerate("XYZ")},
    })}, folder / "tomograms.star")
    return folder, n, poses


def run(verb, *words):
    return cli.run([verb, *map(str, words), "--json"])


def exported(made, name, tmp_path, *words):
    folder = made[0]
    status = run("export-particles", folder / "particles.star", "--format", name, "--tomograms",
                 folder / "tomograms.star", "--output", tmp_path / name, *words)
    assert status == 0
    return tmp_path / name


def imported(file, tmp_path, *words):
    assert run("import-particles", file, "--output", tmp_path / "back", *words) == 0
    return read_particles(tmp_path / "back" / "particles.star")


def extra_words(name, made):
    """What the format does not hold and an import has to be told."""
    words = [] if name in {"dynamo", "motl"} else ["--tomograms", made[0] / "tomograms.star"]
    if name == "motl":
        words += ["--voxel-size", oracle.VOXEL_SIZE, "--tilt-min", -50, "--tilt-max", 62]
    return words


def assert_same_poses(found, expected, voxels=1e-4):
    assert rotation_angle_deg(found.rotation, expected.rotation).max() < 1e-3
    np.testing.assert_allclose(found.shift_xyz, expected.shift_xyz, atol=voxels)


@pytest.fixture(scope="module", params=oracle.READERS)
def exchanged(request, made, tmp_path_factory):
    """A format's name, the folder that was exported, and the table that was imported again."""
    folder = tmp_path_factory.mktemp("exchanged")
    out = exported(made, request.param, folder)
    back = imported(oracle.file_of(out, request.param), folder, *extra_words(request.param, made))
    return request.param, out, back


# --------------------------------------------------------------- every format, by voxels
def test_the_package_s_own_reader_and_convention_give_the_particle_back(made, exchanged):
    name, folder, _ = exchanged
    rotations, shifts, volumes = oracle.READERS[name](folder)
    found = oracle.average(volumes, rotations, shifts)
    assert oracle.correlation(found, oracle.draw(made[1], np.eye(3), np.zeros(3))) > 0.99
    assert oracle.correlation(found, oracle.mirrored(made[1])) < 0.75


def test_what_is_imported_again_averages_to_the_particle(made, exchanged):
    _, n, poses = made
    table = exchanged[2]
    assert_same_poses(table.poses, poses)
    volumes = [read_volume(image)[0] for image in table.rows["rlnImageName"]]
    found = oracle.average(volumes, table.poses.rotation, table.poses.shift_xyz)
    assert oracle.correlation(found, oracle.draw(n, np.eye(3), np.zeros(3))) > 0.99
    assert table.voxel_size_angst == pytest.approx(oracle.VOXEL_SIZE)


def test_positions_classes_scores_tilts_and_tomograms_come_back(made, exchanged):
    truth = read_particles(made[0] / "particles.star")
    name, _, table = exchanged
    np.testing.assert_allclose(box_centres_angst(table), box_centres_angst(truth), atol=1e-3)
    for column in ("rlnClassNumber", "rlnTomoName"):
        assert table.rows[column].tolist() == truth.rows[column].tolist(), column
    np.testing.assert_allclose(table.rows["famlScore"], truth.rows["famlScore"], atol=1e-6)
    for column, value in zip(("famlTiltMin", "famlTiltMax"), oracle.TILTS, strict=True):
        assert set(table._of_optics(column)) == {value}
    if name not in {"dynamo", "motl"}:
        assert table.rows["rlnRandomSubset"].tolist() == truth.rows["rlnRandomSubset"].tolist()
        assert table.rows["famlNote"].tolist() == truth.rows["famlNote"].tolist()


@pytest.mark.parametrize("wrong", ["inverse", "no shift", "shift reversed"])
def test_a_wrong_convention_would_show(made, wrong):
    _, n, poses = made
    rotations, shifts = poses.rotation, poses.shift_xyz
    if wrong == "inverse":
        rotations = np.swapaxes(rotations, 1, 2)
    shifts = {"no shift": 0 * shifts, "shift reversed": -shifts}.get(wrong, shifts)
    volumes = [read_volume(name)[0]
               for name in read_particles(made[0] / "particles.star").rows["rlnImageName"]]
    found = oracle.average(volumes, rotations, shifts)
    assert oracle.correlation(found, oracle.draw(n, np.eye(3), np.zeros(3))) < 0.9


@pytest.mark.skipif(shutil.which("relion_reconstruct") is None,
                    reason="relion_reconstruct is not installed")
@pytest.mark.parametrize("name", ["relion3", "relion4"])
def test_relion_s_own_program_reconstructs_the_particle(made, name, tmp_path):
    _, n, _ = made
    if n % 2:
        pytest.skip("RELION takes even boxes only")
    folder = exported(made, name, tmp_path)
    subprocess.run(["relion_reconstruct", "--i", "particles.star", "--o", "map.mrc", "--3d_rot",
                    "--ctf"], cwd=folder, check=True, capture_output=True)
    found = mrcfile.read(folder / "map.mrc")
    assert oracle.correlation(found, oracle.draw(n, np.eye(3), np.zeros(3))) > 0.99
    assert oracle.correlation(found, oracle.mirrored(n)) < 0.75


# ------------------------------------------------------------------------- formulas alone
def many_poses():
    rotations = [*Rotation.random(50, random_state=3).as_matrix(), np.eye(3)]
    rotations += [Rotation.from_rotvec(np.pi / 2 * q * np.eye(3)[a]).as_matrix()
                  for a in range(3) for q in (1, 2, 3)]
    rng = np.random.default_rng(2)
    return RigidTransforms.from_rotation(
        np.array(rotations), rng.uniform(-5, 5, (len(rotations), 3)))


@pytest.mark.parametrize(("to", "back"), [
    (conventions.dynamo_pose, conventions.from_dynamo),
    (conventions.motl_pose, conventions.from_motl),
    (lambda p: (conventions.eman_matrices(p),), conventions.from_eman),
])
def test_conversions_are_undone_at_the_poles_too(to, back):
    poses = many_poses()
    assert_same_poses(back(*to(poses)), poses, 1e-9)


def test_dynamo_and_relion_angles_agree_with_the_eulerangles_package():
    poses = many_poses()[:50]  # eulerangles 1.0 is wrong at the poles of its angles
    converted = eulerangles.convert_eulers(
        conventions.dynamo_pose(poses)[0], source_meta="dynamo", target_meta="relion")
    first = Rotation.from_euler("ZYZ", converted, degrees=True).as_matrix()
    second = Rotation.from_euler("ZYZ", relion_angles_deg(poses), degrees=True).as_matrix()
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_a_known_pair_of_dynamo_and_relion_angles():
    poses = conventions.from_dynamo(np.array([[-47.273, 1.1777, -132.3]]), np.zeros((1, 3)))
    expected = Rotation.from_euler("ZYZ", [137.7, 1.1777, 42.727], degrees=True).inv()
    np.testing.assert_allclose(poses.rotation[0], expected.as_matrix(), atol=1e-6)


def test_poses_in_subtomogram_frames_are_relion_s_products():
    rng = np.random.default_rng(0)
    frame, angles = rng.uniform(-180, 180, (2, 9, 3))
    origin, size = rng.uniform(-20, 20, (9, 3)), 4.0
    # RELION: A = A_subtomogram A_particle, position = coordinate - A_subtomogram origin / size,
    # both A the transposes of intrinsic ZYZ.
    a_s = Rotation.from_euler("ZYZ", frame, degrees=True).inv()
    a_p = Rotation.from_euler("ZYZ", angles, degrees=True).inv()
    poses = RigidTransforms.from_rotation(a_p.as_matrix(), -origin / size)
    frames = conventions.frame_matrices(frame)
    found = conventions.in_tomogram_frame(poses, frames)
    np.testing.assert_allclose(found.rotation, (a_s * a_p).as_matrix(), atol=1e-9)
    np.testing.assert_allclose(found.shift_xyz, -a_s.apply(origin) / size, atol=1e-9)
    assert_same_poses(conventions.in_subtomogram_frame(found, frames), poses, 1e-9)
    np.testing.assert_allclose(
        conventions.frame_matrices(conventions.frame_angles_deg(frames)), frames, atol=1e-9)


def test_centred_coordinates_count_from_half_the_size_unrounded():
    found = conventions.centred_angst(np.array([[50.5, 60, 0]]), np.array([101, 120, 61]), 4.0)
    np.testing.assert_allclose(found, [[0, 0, -122.0]])


# ------------------------------------------------------------------------ RELION 4 and 5
def test_relion_5_file_has_centred_coordinates_and_no_voxels(made, tmp_path):
    folder = exported(made, "relion5", tmp_path)
    blocks = starfile.read(folder / "particles.star", always_dict=True)
    truth = read_particles(made[0] / "particles.star").rows
    rows = blocks["particles"]
    assert "rlnCoordinateX" not in rows
    assert blocks["general"]["rlnTomoSubTomosAre2DStacks"] == 0
    sizes = np.array([SIZES[name] for name in truth["rlnTomoName"]])
    expected = (truth[["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]] - sizes / 2) * 4.0
    found = rows[[f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert rows["rlnTomoParticleName"].tolist()[:2] == ["TS_03/1", "TS_08/2"]
    named = starfile.read(folder / "optimisation_set.star")
    assert named["rlnTomoParticlesFile"] == "particles.star"


def test_relion_4_coordinates_count_pixels_of_the_tilt_series(made, tmp_path):
    folder = exported(made, "relion4", tmp_path, "--pixel-size", 2.0)
    blocks = starfile.read(folder / "particles.star", always_dict=True)
    truth = read_particles(made[0] / "particles.star").rows
    np.testing.assert_allclose(
        blocks["particles"]["rlnCoordinateX"], 2 * truth["rlnCoordinateX"], atol=1e-4)
    assert float(blocks["optics"]["rlnTomoSubtomogramBinning"].iloc[0]) == 4.0


def test_poses_written_as_subtomogram_frames_are_the_same_poses(made, tmp_path):
    _, _, poses = made
    folder = exported(made, "relion4", tmp_path, "--subtomogram-frames", "--volumes", "none")
    rows = starfile.read(folder / "particles.star", always_dict=True)["particles"]
    assert not np.any(rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy())
    table = imported(folder / "particles.star", tmp_path)
    assert rotation_angle_deg(table.poses.rotation, poses.rotation).max() < 1e-3
    truth = read_particles(made[0] / "particles.star")
    # The shifts went into the coordinates.
    moved = table.rows["rlnCoordinateX"] - truth.rows["rlnCoordinateX"]
    scale = oracle.VOXEL_SIZE / TOMOGRAM_VOXEL_SIZE
    np.testing.assert_allclose(moved, poses.shift_xyz[:, 0] * scale, atol=1e-4)


def test_volumes_that_relion_cut_in_turned_frames_keep_the_poses_of_these_frames(tmp_path):
    n = 20
    frame = Rotation.from_euler("ZYZ", [[30, 50, -70]], degrees=True)
    particle = Rotation.from_euler("ZYZ", [[10, 80, 20]], degrees=True)
    write_volume(tmp_path / "p.mrc",
                 oracle.draw(n, particle.inv().as_matrix()[0], np.array([1.0, 0, -1.5])), 5.0)
    starfile.write({
        "optics": pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [5.0],
                                "rlnTomoTiltSeriesPixelSize": [5.0]}),
        "particles": pd.DataFrame({
            "rlnTomoName": ["a"], "rlnTomoParticleName": ["a/1"], "rlnImageName": ["p.mrc"],
            "rlnOpticsGroup": [1], "rlnAngleRot": [10.0], "rlnAngleTilt": [80.0],
            "rlnAnglePsi": [20.0], "rlnOriginXAngst": [-5.0], "rlnOriginYAngst": [0.0],
            "rlnOriginZAngst": [7.5], "rlnTomoSubtomogramRot": [30.0],
            "rlnTomoSubtomogramTilt": [50.0], "rlnTomoSubtomogramPsi": [-70.0]}),
    }, tmp_path / "in.star")
    table = imported(tmp_path / "in.star", tmp_path)
    volume = read_volume(table.rows["rlnImageName"].iloc[0])[0]
    turned = oracle.pull(volume, table.poses.rotation[0], table.poses.shift_xyz[0])
    assert oracle.correlation(turned, oracle.draw(n, np.eye(3), np.zeros(3))) > 0.97
    assert run("import-particles", tmp_path / "in.star", "--frame", "tomogram",
               "--output", tmp_path / "tomogram") == 0
    poses = read_particles(tmp_path / "tomogram" / "particles.star").poses
    expected = frame.inv() * particle.inv()
    assert rotation_angle_deg(poses.rotation[0], expected.as_matrix()[0]) < 1e-3
    np.testing.assert_allclose(
        poses.shift_xyz, frame.inv().apply([[1.0, 0, -1.5]]), atol=1e-4)


def test_two_dimensional_stacks_are_refused_in_one_line(tmp_path, capsys):
    starfile.write({
        "general": {"rlnTomoSubTomosAre2DStacks": 1},
        "optics": pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [5.0]}),
        "particles": pd.DataFrame({"rlnImageName": ["a.mrcs"], "rlnOpticsGroup": [1],
                                   "rlnAngleRot": [0.0], "rlnAngleTilt": [0.0],
                                   "rlnAnglePsi": [0.0]}),
    }, tmp_path / "in.star")
    assert run("import-particles", tmp_path / "in.star", "--output", tmp_path / "o") == 2
    error = capsys.readouterr().err.strip()
    assert "reconstruct-particles" in error and "\n" not in error
    assert run("import-particles", tmp_path / "in.star", "--volumes", "none",
               "--output", tmp_path / "o") == 0


# ------------------------------------------------------------------- Dynamo, motl, PEET, EMAN
def test_dynamo_and_motl_positions_count_from_one_by_default(made, tmp_path):
    import dynamotable

    truth = read_particles(made[0] / "particles.star").rows
    expected = truth["rlnCoordinateX"] * TOMOGRAM_VOXEL_SIZE / oracle.VOXEL_SIZE + 1
    table = dynamotable.read(str(exported(made, "dynamo", tmp_path) / "particles.tbl"))
    np.testing.assert_allclose(table["x"], expected)
    assert set(table["ftype"]) == {1}
    assert set(table["ymintilt"]) == {-50.0} and set(table["ymaxtilt"]) == {62.0}
    assert table["tomo"].tolist()[:2] == [1, 2]  # as in tomograms.star
    motl = emfile.read(exported(made, "motl", tmp_path) / "motl_1.em")[1][0]
    np.testing.assert_allclose(motl[:, 7], expected)
    folder = tmp_path / "zero"
    assert run("export-particles", made[0] / "particles.star", "--format", "motl",
               "--first-voxel", 0, "--output", folder) == 0
    motl = emfile.read(folder / "motl_1.em")[1][0]
    np.testing.assert_allclose(motl[:, 7], expected - 1)
    assert motl[:2, 4].tolist() == [3, 8]  # the digits that the names end in


def test_what_dynamo_cannot_hold_is_said_and_comes_back_from_the_exported_table(
        made, tmp_path, capsys):
    folder = exported(made, "dynamo", tmp_path)
    done = json.loads(capsys.readouterr().out)
    assert done["not_held"] == ["famlNote"]
    assert any("column 23" in line for line in done["warnings"])
    # Dynamo drops particles and turns the others.
    import dynamotable

    table = dynamotable.read(str(folder / "particles.tbl")).iloc[::-2]
    dynamotable.write(table.assign(tdrot=table["tdrot"] + 90), str(folder / "refined.tbl"))
    truth = read_particles(made[0] / "particles.star")
    back = imported(folder / "refined.tbl", tmp_path, "--exported", made[0] / "particles.star")
    kept = truth.rows.iloc[::-2]
    assert back.rows["famlNote"].tolist() == kept["famlNote"].tolist()
    assert back.rows["rlnImageName"].tolist() == kept["rlnImageName"].tolist()
    assert back.rows["rlnRandomSubset"].tolist() == kept["rlnRandomSubset"].tolist()
    turned = rotation_angle_deg(back.poses.rotation, made[2].rotation[::-2])
    np.testing.assert_allclose(turned, 90.0, atol=1e-3)


def test_peet_lists_hold_points_offsets_and_angles_of_each_tomogram(made, tmp_path):
    _, _, poses = made
    folder = exported(made, "peet", tmp_path)
    truth = read_particles(made[0] / "particles.star")
    for name in SIZES:
        here = truth.rows["rlnTomoName"].to_numpy() == name
        rotations, points, offsets = oracle.peet(folder, name)
        assert rotation_angle_deg(rotations, poses.rotation[here]).max() < 1e-3
        scale = oracle.VOXEL_SIZE / TOMOGRAM_VOXEL_SIZE  # offsets count the tomogram's voxels
        np.testing.assert_allclose(offsets, poses.shift_xyz[here] * scale, atol=1e-5)
        columns = ["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]
        np.testing.assert_allclose(points, truth.rows[columns][here], atol=1e-3)
    back = imported(folder / "TS_08_MOTL.csv", tmp_path, "--tomograms",
                    made[0] / "tomograms.star")
    assert set(back.rows["rlnTomoName"]) == {"TS_08"}
    assert rotation_angle_deg(back.poses.rotation, rotations).max() < 1e-3
    np.testing.assert_allclose(back.poses.shift_xyz, offsets, atol=1e-5)
    np.testing.assert_allclose(back.rows[columns], truth.rows[columns][here], atol=1e-3)


def test_eman_hdf_stacks_become_mrc_volumes(tmp_path):
    h5py = pytest.importorskip("h5py")
    n = 16
    volumes = [oracle.draw(n, np.eye(3), np.full(3, s)) for s in (0.0, 1.0)]
    with h5py.File(tmp_path / "ptcls.hdf", "w") as file:
        for i, volume in enumerate(volumes):
            image = file.create_group(f"/MDF/images/{i}")
            image.attrs["EMAN.apix_x"] = 6.5
            if i:  # stored with eight bits, as EMAN2 compresses
                low, high = volume.min(), volume.max()
                volume = np.round((volume - low) / (high - low) * 255).astype(np.uint8)
                image.attrs.update({"EMAN.stored_rendermin": low, "EMAN.stored_rendermax": high,
                                    "EMAN.stored_renderbits": 8})
            image.create_dataset("image", data=volume)
    matrix = {"__class__": "Transform", "matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]}
    shifted = {**matrix, "matrix": "[1,0,0,-1,0,1,0,-1,0,0,1,-1]"}
    (tmp_path / "particle_parms_03.json").write_text(json.dumps({
        f"('{tmp_path / 'ptcls.hdf'}', {i})": {"xform.align3d": m, "score": -0.5, "coverage": 1.0}
        for i, m in enumerate((matrix, shifted))}))
    table = imported(tmp_path / "particle_parms_03.json", tmp_path, "--tilt-min", -60,
                     "--tilt-max", 60)
    assert table.voxel_size_angst == pytest.approx(6.5)
    found = read_volume(table.rows["rlnImageName"].iloc[1])[0]
    np.testing.assert_allclose(found, volumes[1], atol=0.01)
    moved = oracle.pull(found, table.poses.rotation[1], table.poses.shift_xyz[1])
    assert oracle.correlation(moved, volumes[0]) > 0.99


@pytest.mark.parametrize(("name", "expected"), [
    ("a.tbl", "dynamo"), ("particle_parms_01.json", "eman"), ("a.lst", "eman"), ("m.em", "motl"),
    ("x_MOTL.csv", "peet")])
def test_the_format_is_guessed_from_the_name(name, expected, tmp_path):
    (tmp_path / name).write_text("")
    assert guess_format(tmp_path / name) == expected


def test_star_files_are_told_apart_by_their_columns(exchanged):
    name, folder, _ = exchanged
    assert guess_format(oracle.file_of(folder, name)) == name
    if name.startswith("relion"):
        assert guess_format(folder / "particles.star") == name


def test_tomograms_are_read_from_a_volume_list(tmp_path):
    write_volume(tmp_path / "a.mrc", np.random.default_rng(0).normal(size=(4, 6, 8)), 7.0)
    (tmp_path / "list.vll").write_text("# ours\na.mrc\n* label = a\n* index = 5\nb.mrc\n")
    found = read_tomograms([tmp_path / "list.vll"])
    assert found.name_of(5) == "a" and found.name_of(2) == "b"
    assert found.items[0].size_xyz == (8, 6, 4)


# ------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(("name", "content", "words", "said"), [
    ("a.tbl", "1 2 3\n", [], "columns"),
    ("a.tbl", "1 " * 25 + "x\n", ["--voxel-size", 5], "no number"),
    ("a.em", "short", ["--voxel-size", 5], "not a readable EM file"),
    ("a.json", "{", [], "not a readable EMAN2 JSON"),
    ("a.lst", "hello\n", [], "#LSX"),
    ("a.csv", "CCC,a\n1,2\n", ["--voxel-size", 5], "20 numbers"),
    ("a.xyz", "", [], "--format"),
    ("a.star", "data_\n\nloop_\n_rlnAngleRot #1\n1.0\n", [], "rlnImagePixelSize"),
])
def test_a_damaged_file_is_one_line(name, content, words, said, tmp_path, capsys):
    (tmp_path / name).write_text(content)
    assert run("import-particles", tmp_path / name, "--output", tmp_path / "o", *words) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "a." in error and "\n" not in error
    assert {p.name for p in (tmp_path / "o").glob("*")} <= {"status.json"}


@pytest.mark.parametrize(("words", "said"), [
    (["--format", "relion5"], "--tomograms"),
    (["--format", "relion4", "--subtomogram-frames"], "--volumes none"),
    (["--format", "eman", "--volumes", "convert"], "--volumes convert"),
    (["--format", "motl", "--subtomogram-frames"], "relion4"),
])
def test_an_impossible_export_is_one_line(made, words, said, tmp_path, capsys):
    status = run("export-particles", made[0] / "particles.star", "--output", tmp_path / "o", *words)
    assert status == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error


# ------------------------------------------------------------------------------ real files
def test_eman_s_list_says_the_same_as_its_json(made, tmp_path):
    folder = exported(made, "eman", tmp_path)
    table = imported(folder / "aliptcls3d_01.lst", tmp_path, *extra_words("eman", made))
    assert_same_poses(table.poses, made[2])
    truth = read_particles(made[0] / "particles.star")
    assert table.rows["rlnRandomSubset"].tolist() == truth.rows["rlnRandomSubset"].tolist()
    np.testing.assert_allclose(box_centres_angst(table), box_centres_angst(truth), atol=1e-3)


def test_a_real_motive_list_points_its_ribosome(shared_data, tmp_path):
    """The pose of particle 43 lays the published average on its real subtomogram (cryoCAT)."""
    folder = shared_data / "real_subtomograms" / "cryocat_peak"
    table = imported(folder / "motl_ribosome_b4_trim_shift_t126.em", tmp_path, "--voxel-size",
                     8.704, "--volumes", "none")
    assert len(table) == 50
    assert set(table.rows["rlnTomoName"]) == {"tomogram_126"}
    particle = gaussian_filter(emfile.read(next(folder.glob("subtomo_*.em")))[1].astype(float), 1)
    average, mask = (unpacked(path, tmp_path) for path in (
        shared_data / "maps" / "cryocat_ribosome_bin4_48.em.gz", folder / "mask48_r22.em.gz"))
    inside = mask > 0.5
    poses = table.poses

    def agreement(rotation, shift):
        moved = oracle.pull(particle, rotation, shift, order=1)
        return np.corrcoef(moved[inside], average[inside])[0, 1]

    found = [agreement(r, t) for r, t in zip(poses.rotation, poses.shift_xyz, strict=True)]
    assert int(np.argmax(found)) == 42
    assert found[42] > 1.2 * sorted(found)[-2]
    # The opposite direction is much worse: this pins it.
    assert found[42] > 1.2 * agreement(poses.rotation[42].T, poses.shift_xyz[42])
    # Out and in again.
    assert run("export-particles", tmp_path / "back" / "particles.star", "--format", "motl",
               "--volumes", "none", "--output", tmp_path / "out") == 0
    before = emfile.read(folder / "motl_ribosome_b4_trim_shift_t126.em")[1][0]
    after = emfile.read(tmp_path / "out" / "motl_1.em")[1][0].astype(float)
    difference = np.abs((after - before)[:, [0, 3, 4, *range(7, 20)]])
    assert np.minimum(difference, np.abs(difference - 360)).max() < 2e-4


def unpacked(path, tmp_path):
    (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return emfile.read(tmp_path / path.stem)[1].astype(float)


def test_real_particles_of_warp_go_to_relion_5_and_back(shared_data, tmp_path):
    folder = shared_data / "real_subtomograms" / "tomodrgn_10499"
    table = imported(folder / "particles.star", tmp_path, "--volumes", "none")
    assert len(table) == 40 and "rlnTomoVisibleFrames" in table.rows
    words = ["--tomograms", folder / "tomograms.star"]
    assert run("export-particles", tmp_path / "back" / "particles.star", "--format", "relion5",
               "--volumes", "none", *words, "--output", tmp_path / "five") == 0
    rows = starfile.read(tmp_path / "five" / "particles.star", always_dict=True)["particles"]
    first = (494.521 - 4400 / 2) * 1.667
    assert rows["rlnCenteredCoordinateXAngst"].iloc[0] == pytest.approx(first, abs=1e-3)
    assert run("import-particles", tmp_path / "five" / "particles.star", *words,
               "--output", tmp_path / "again") == 0
    again = read_particles(tmp_path / "again" / "particles.star")
    np.testing.assert_allclose(again.rows["rlnCoordinateZ"], table.rows["rlnCoordinateZ"],
                               atol=1e-3)
    assert_same_poses(again.poses, table.poses)


def test_converted_volumes_have_names_of_their_own_whatever_the_particles_are_called(tmp_path):
    from scipion_faml.exchange.formats import bring_volumes

    names = []
    for number in (1, 2, 3):
        volume = np.random.default_rng(number).normal(number, 0.01, (8, 8, 8)).astype(np.float32)
        emfile.write(tmp_path / f"{number}.em", volume, overwrite=True)
        names.append(str(tmp_path / f"{number}.em"))
    for numbers in ([7, 7, 7], ["a", "b", "c"]):
        rows = pd.DataFrame({"rlnImageName": names, "rlnTomoParticleId": numbers})
        optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [10.0]})
        table, n_converted = bring_volumes(
            ParticleTable(rows.assign(rlnOpticsGroup=1), optics, {}), tmp_path / "out", 10.0)
        assert n_converted == 3
        means = [read_volume(name)[0].mean() for name in table.rows["rlnImageName"]]
        assert np.rint(means).tolist() == [1, 2, 3]
