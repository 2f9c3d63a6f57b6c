import warnings
from datetime import datetime
from types import SimpleNamespace

import mrcfile
import numpy as np
import pandas as pd
import pytest

from scipion_faml import mrc
from scipion_faml.disk import replacing
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.io import (
    MRC_LABEL,
    read_cube,
    read_volume,
    read_weight,
    write_labels,
    write_volume,
    write_weight,
)
from scipion_faml.sources import open_source
from scipion_faml.tables import ParticleTable, optics_table, read_particles, write_particles
from scipion_faml.wedge import MissingWedge


@pytest.fixture
def table(tmp_path):
    """Three particles of 8^3 on disk."""
    rng = np.random.default_rng(0)
    for i in range(3):
        write_volume(tmp_path / f"p{i}.mrc", rng.normal(size=(8, 8, 8)), 4.0)
    rows = pd.DataFrame({
        "rlnImageName": [str(tmp_path / f"p{i}.mrc") for i in range(3)],
        "rlnOpticsGroup": [1, 1, 2],
        "otherColumn": ["a", "b", "c"],
    })
    optics = optics_table(4.0, 8, [MissingWedge(-60, 60), MissingWedge(-50, 70)])
    return ParticleTable(rows, optics, {}, tmp_path / "particles.star")


def test_a_volume_comes_back_with_its_voxel_size_as_a_volume(tmp_path):
    volume = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    write_volume(tmp_path / "v.mrc", volume, 3.5)
    back, voxel_size = read_volume(tmp_path / "v.mrc")
    np.testing.assert_array_equal(back, volume)
    assert voxel_size == pytest.approx(3.5)
    with mrcfile.open(tmp_path / "v.mrc") as mrc:
        assert mrc.header.ispg == 1


@pytest.mark.parametrize(("dtype", "voxel_size"), [(np.float32, 1.35), (np.int16, 13.7)])
def test_a_volume_is_the_file_that_mrcfile_writes(tmp_path, dtype, voxel_size):
    values = (50 * np.random.default_rng(0).normal(size=(5, 6, 7))).astype(dtype)
    with mrcfile.new(tmp_path / "oracle.mrc") as file:
        file.header.label[0] = MRC_LABEL
        file.set_data(values)
        file.set_volume()
        file.voxel_size = voxel_size
    with open(tmp_path / "ours.mrc", "wb") as handle:
        mrc.write(handle, values, voxel_size, MRC_LABEL)
    assert (tmp_path / "ours.mrc").read_bytes() == (tmp_path / "oracle.mrc").read_bytes()
    assert mrcfile.validate(tmp_path / "ours.mrc")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "keep.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("n", [7, 8])
def test_weights_come_back_from_their_whole_volume(tmp_path, n):
    weight = MissingWedge(-50, 70).mask(n) * 0.5
    write_weight(tmp_path / "w.mrc", weight, 4.0)
    np.testing.assert_allclose(read_weight(tmp_path / "w.mrc"), weight, atol=1e-7)


def test_weights_outside_0_to_1_are_refused(tmp_path):
    write_volume(tmp_path / "w.mrc", np.arange(512.0).reshape(8, 8, 8), 4.0)
    with pytest.raises(ValueError, match="weights from 0 to 511"):
        read_weight(tmp_path / "w.mrc")


def test_particles_keep_every_column_and_find_their_images_again(tmp_path, table):
    (tmp_path / "elsewhere").mkdir()
    write_particles(tmp_path / "elsewhere" / "q.star", table)
    back = read_particles(tmp_path / "elsewhere" / "q.star")
    assert list(back.rows["otherColumn"]) == ["a", "b", "c"]
    assert list(back.rows["rlnImageName"]) == list(table.rows["rlnImageName"])
    source = open_source(back)
    assert (len(source), source.n, source.voxel_size_angst) == (3, 8, 4.0)
    np.testing.assert_array_equal(source[2].wedge, MissingWedge(-50, 70).mask(8))


def test_the_same_table_gives_the_same_bits(tmp_path, table):
    for name in ("a.star", "b.star"):
        write_particles(tmp_path / name, table)
    assert (tmp_path / "a.star").read_bytes() == (tmp_path / "b.star").read_bytes()


@pytest.mark.parametrize("write", [write_volume, write_labels])
def test_the_same_volume_gives_the_same_bits_at_any_time(tmp_path, monkeypatch, write):
    values = np.arange(27, dtype=np.int16).reshape(3, 3, 3)
    write(tmp_path / "now.mrc", values, 4.0)
    # The file is written at another time of day.
    monkeypatch.setattr("mrcfile.mrcobject.datetime", SimpleNamespace(
        now=lambda: datetime(1999, 12, 31, 23, 59)))
    write(tmp_path / "then.mrc", values, 4.0)
    assert (tmp_path / "now.mrc").read_bytes() == (tmp_path / "then.mrc").read_bytes()
    assert mrcfile.validate(tmp_path / "now.mrc")
    with mrcfile.open(tmp_path / "now.mrc") as mrc:
        assert [label.strip() for label in mrc.get_labels()] == ["Created by scipion-faml"]


def test_poses_survive_the_star_file(tmp_path, table):
    rng = np.random.default_rng(0)
    poses = RigidTransforms(random_rotations(3, rng), rng.normal(size=(3, 3)))
    write_particles(tmp_path / "p.star", table.with_poses(poses))
    back = read_particles(tmp_path / "p.star").poses
    np.testing.assert_allclose(back.rotation, poses.rotation, atol=1e-7)  # six decimals of a degree
    np.testing.assert_allclose(back.shift_xyz, poses.shift_xyz, atol=1e-6)
    assert "rlnAngleRot" not in read_particles(tmp_path / "p.star").without_poses().rows


def test_a_star_file_without_blocks_named_as_relion_does_is_read(tmp_path):
    (tmp_path / "old.star").write_text("data_\n\nloop_\n_rlnImageName #1\na.mrc\nb.mrc\n")
    assert len(read_particles(tmp_path / "old.star")) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no particles|not a readable"), ("hello\n", "no particles|not a readable"),
     ("data_particles\n\nloop_\n_rlnImageName #1\n\n", "no particles|not a readable")],
)
def test_a_file_that_is_no_particle_table_is_named(tmp_path, content, message):
    (tmp_path / "bad.star").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_particles(tmp_path / "bad.star")
    assert "bad.star" in str(error.value)


def test_missing_and_damaged_images_are_named(tmp_path, table):
    path = tmp_path / "p1.mrc"
    content = path.read_bytes()
    path.write_bytes(content[:1500])
    with pytest.raises(ValueError, match=r"p1\.mrc is not a readable MRC file"):
        open_source(table)[1]
    path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"p1\.mrc is not a readable MRC file"):
        open_source(table)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"p1\.mrc does not exist"):
        open_source(table)


def test_a_box_that_differs_within_the_set_is_named(tmp_path, table):
    write_volume(tmp_path / "p1.mrc", np.random.default_rng(0).normal(size=(9, 9, 9)), 4.0)
    with pytest.raises(ValueError, match=r"subtomogram 2, .*p1\.mrc, has a box of 9, the set 8"):
        open_source(table)


def test_a_voxel_size_that_differs_within_the_set_is_named(tmp_path, table):
    write_volume(tmp_path / "p2.mrc", np.random.default_rng(0).normal(size=(8, 8, 8)), 5.4)
    with pytest.raises(ValueError, match=r"subtomogram 3, .*voxel size 5\.4 A, the set 4 A"):
        open_source(table)


def test_a_header_without_voxel_size_takes_that_of_the_table(tmp_path, table):
    write_volume(tmp_path / "p2.mrc", np.random.default_rng(0).normal(size=(8, 8, 8)), 0.0)
    assert open_source(table).voxel_size_angst == 4.0


def test_a_particle_that_is_no_cube_is_named(tmp_path, table):
    write_volume(tmp_path / "p0.mrc", np.random.default_rng(0).normal(size=(8, 8, 7)), 4.0)
    with pytest.raises(ValueError, match=r"subtomogram 1, .*a cube is needed"):
        open_source(table)
    with pytest.raises(ValueError, match="a cube is needed"):
        read_cube(tmp_path / "p0.mrc")


def test_no_tilt_range_is_named_with_the_way_out(table):
    bare = ParticleTable(table.rows, table.optics.drop(columns=["famlTiltMax"]), {}, table.path)
    with pytest.raises(ValueError, match="no tilt range: add famlTiltMin and famlTiltMax"):
        open_source(bare)


def test_a_tilt_range_of_zero_is_refused(table):
    flat = ParticleTable(table.rows, table.optics.assign(famlTiltMin=0.0, famlTiltMax=0.0))
    with pytest.raises(ValueError, match="tilt range 0 to 0 deg"):
        open_source(flat)


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_counted(tmp_path, fault):
    volume = np.zeros((4, 4, 4), np.float32)
    volume[0, 0, :2] = fault
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # mrcfile's own, on writing
        write_volume(tmp_path / "v.mrc", volume, 1.0)
    with pytest.raises(ValueError, match=r"v\.mrc holds 2 voxels"):
        read_volume(tmp_path / "v.mrc")


def test_mixed_pixel_sizes_in_the_optics_are_refused(table):
    mixed = ParticleTable(table.rows, table.optics.assign(rlnImagePixelSize=[4.0, 8.0]))
    with pytest.raises(ValueError, match="voxel sizes of 4 and 8 A in one set"):
        _ = mixed.voxel_size_angst
