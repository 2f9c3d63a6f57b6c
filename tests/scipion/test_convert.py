"""The matrix convention, pinned with real voxels: a chiral particle moves through every format.

The particle is four unequal Gaussian blobs put where the pose says (no resampling), so what comes
back through Scipion's objects or RELION's STAR must match the reference it was made from. Aligning
uses the recipe of the conventions written down by others, not our own geometry module.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import read_volume, write_volume
from scipion_faml.tables import ParticleTable, optics_table, read_particles
from scipion_faml.wedge import MissingWedge

pytestmark = pytest.mark.usefixtures("domain")

VOXEL_SIZE = 7.5
# x, y, z (voxels from the centre), height: no plane or axis of symmetry, so a wrong hand shows.
BLOBS = np.array([[6.0, 0, 0, 1.0], [0, 5, 0, 0.8], [0, 0, 4, 0.6], [-4, -4, 2, 0.9]])
AXIS_ROTATIONS = [
    Rotation.from_rotvec(sign * np.pi / 2 * np.eye(3)[axis])
    for axis, sign in itertools.product(range(3), (1, -1))
]
AXIS_SHIFTS = [sign * 2.0 * np.eye(3)[axis] for axis, sign in itertools.product(range(3), (1, -1))]


def draw(n: int, rotation: np.ndarray, shift_xyz: np.ndarray) -> np.ndarray:
    """Blobs of the average at r drawn at R r + t, with the centre at voxel n // 2."""
    z, y, x = np.indices((n, n, n), dtype=np.float32) - n // 2
    volume = np.zeros((n, n, n), dtype=np.float32)
    for *position, height in BLOBS:
        px, py, pz = rotation @ np.array(position) + shift_xyz
        volume += height * np.exp(-((x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2) / 4.5)
    return volume


def aligned_by_scipion(volume: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """aligned(r) = particle(M^-1 r): tomo.objects, f'(r) = f(M r), about voxel n // 2."""
    n = volume.shape[0]
    inverse = np.linalg.inv(matrix)
    z, y, x = np.indices(volume.shape).reshape(3, -1) - n // 2
    q = inverse @ np.stack([x, y, z, np.ones_like(x)])
    sampled = map_coordinates(volume, [q[2] + n // 2, q[1] + n // 2, q[0] + n // 2], order=3)
    return sampled.reshape(volume.shape)


def matrix_of_relion(row: object) -> np.ndarray:
    """RELION: R = intrinsic ZYZ(rot, tilt, psi), particle to reference; t = R origin."""
    matrix = np.eye(4)
    angles = [row[f"rlnAngle{a}"] for a in ("Rot", "Tilt", "Psi")]
    origin = np.array([row[f"rlnOrigin{a}Angst"] for a in "XYZ"]) / VOXEL_SIZE
    matrix[:3, :3] = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix()
    matrix[:3, 3] = matrix[:3, :3] @ origin
    return matrix


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def poses_of_all_axes() -> tuple[np.ndarray, np.ndarray]:
    """Every quarter turn with every axis shift, then general poses."""
    pairs = list(itertools.product(AXIS_ROTATIONS, AXIS_SHIFTS))
    rng = np.random.default_rng(0)
    general = Rotation.random(12, random_state=1).as_matrix()
    rotations = np.concatenate([[r.as_matrix() for r, _ in pairs], general])
    shifts = np.concatenate([[s for _, s in pairs], rng.uniform(-2, 2, (12, 3))])
    return rotations, shifts


def subtomogram_set(folder: Path, volumes: list[np.ndarray], matrices: object) -> object:
    """Write volumes and a SetOfSubTomograms with the given Scipion matrices to disk."""
    from tomo.objects import SetOfSubTomograms

    from scipion_faml import convert

    acquisition = convert.new_acquisition(-60, 60, 3)
    folder.mkdir(parents=True, exist_ok=True)
    images = SetOfSubTomograms.create(str(folder), prefix="moved")
    images.setSamplingRate(VOXEL_SIZE)
    images.setAcquisition(acquisition)
    for number, (volume, matrix) in enumerate(zip(volumes, matrices, strict=True)):
        path = folder / f"particle_{number:03d}.mrc"
        write_volume(path, volume, VOXEL_SIZE)
        images.append(convert.new_subtomogram(str(path), VOXEL_SIZE, acquisition, matrix))
    images.setAlignment3D()
    images.write()
    return images


@pytest.mark.parametrize("n", [28, 27])
def test_a_moved_chiral_particle_is_found_through_scipion_star_and_back(tmp_path, n):
    from scipion_faml import convert
    from scipion_faml.geometry import scipion_matrices

    rotations, shifts = poses_of_all_axes()
    reference = draw(n, np.eye(3), np.zeros(3))
    volumes = [draw(n, r, t) for r, t in zip(rotations, shifts, strict=True)]
    poses = RigidTransforms.from_rotation(rotations, shifts)
    images = subtomogram_set(tmp_path / "set", volumes, scipion_matrices(poses))

    # Scipion's objects, as another plugin would read them.
    for item in images.iterItems():
        volume, voxel_size = read_volume(item.getFileName())
        matrix = item.getTransform().getMatrix()
        assert voxel_size == pytest.approx(VOXEL_SIZE)
        assert correlation(aligned_by_scipion(volume, matrix), reference) > 0.995

    # RELION's STAR, as RELION would read it.
    convert.write_particle_table(images, tmp_path / "star" / "particles.star")
    table = read_particles(tmp_path / "star" / "particles.star")
    for (_, row), volume in zip(table.rows.iterrows(), volumes, strict=True):
        found = aligned_by_scipion(volume, matrix_of_relion(row))
        assert correlation(found, reference) > 0.995

    # And back into a new set: the same matrices to the digits of the STAR file.
    updated = [item.clone() for item in images.iterItems()]
    update = convert.ItemUpdater(table)
    for item, before in zip(updated, scipion_matrices(poses), strict=True):
        update(item)
        np.testing.assert_allclose(item.getTransform().getMatrix(), before, atol=1e-4)


def test_the_particle_sits_in_its_box_where_the_scipion_matrix_says(tmp_path):
    from scipion_faml.geometry import scipion_matrices

    rotations, shifts = poses_of_all_axes()
    for rotation, shift in zip(rotations, shifts, strict=True):
        matrix = scipion_matrices(RigidTransforms.from_rotation(rotation[None], shift[None]))[0]
        # The particle's centre in its box is -R^T t of Scipion's matrix.
        np.testing.assert_allclose(-matrix[:3, :3].T @ matrix[:3, 3], shift, atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_voxel_of_the_tomogram_is_found_again_through_coordinates_and_picks(tmp_path, axis):
    from tomo.constants import BOTTOM_LEFT_CORNER
    from tomo.objects import SetOfCoordinates3D, SetOfTomograms

    from scipion_faml import convert

    shape = [21, 30, 43]  # z, y, x: odd and even sides
    tomogram_volume = np.zeros(shape, dtype=np.float32)
    position = np.array([20.0, 14.0, 9.0])
    position[axis] += 3.0
    x, y, z = position.astype(int)
    tomogram_volume[z, y, x] = 1.0
    path = tmp_path / "tomogram.mrc"
    write_volume(path, tomogram_volume, VOXEL_SIZE)

    tomograms = SetOfTomograms.create(str(tmp_path), prefix="t")
    tomograms.setSamplingRate(VOXEL_SIZE)
    acquisition = convert.new_acquisition(-50, 60, 2)
    tomogram = convert.new_tomogram(str(path), "TS_1", VOXEL_SIZE, acquisition)
    tomograms.append(tomogram)
    tomograms.write()
    coordinates = SetOfCoordinates3D.create(str(tmp_path), prefix="c")
    coordinates.setPrecedents(tomograms)
    coordinates.setSamplingRate(VOXEL_SIZE)
    coordinates.setBoxSize(12)
    pose = RigidTransforms.from_rotation(AXIS_ROTATIONS[axis].as_matrix()[None], np.zeros((1, 3)))
    picks = ParticleTable(
        pd.DataFrame({**dict(zip(("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"),
                                 position[:, None], strict=True)),
                      "rlnClassNumber": [2], "famlScore": [0.5], "rlnOpticsGroup": [1]}),
        optics_table(VOXEL_SIZE, 12, [MissingWedge(-50, 60)]),
    ).with_poses(pose)
    convert.append_coordinates(coordinates, tomogram, picks)
    coordinates.write()

    coordinate = next(coordinates.iterCoordinates(volume=tomogram))
    assert coordinate.getPosition(BOTTOM_LEFT_CORNER) == tuple(position)
    assert (coordinate.getGroupId(), coordinate.getScore()) == (2, 0.5)
    table = convert.picks_table(coordinates, tomogram)
    found = table.rows[["rlnCoordinateZ", "rlnCoordinateY", "rlnCoordinateX"]].to_numpy()[0]
    assert read_volume(path)[0][tuple(np.round(found).astype(int))] == 1.0
    np.testing.assert_allclose(table.poses.rotation, pose.rotation, atol=1e-6)
    assert table.rows["rlnClassNumber"].tolist() == [2]
    assert table.optics["famlTiltMin"].tolist() == [-50]


def test_coordinates_of_another_voxel_size_are_scaled_to_the_tomogram(tmp_path):
    from tomo.objects import Coordinate3D, SetOfCoordinates3D, SetOfTomograms

    from scipion_faml import convert

    path = tmp_path / "tomogram.mrc"
    write_volume(path, np.random.default_rng(0).normal(size=(20, 30, 40)), 10.0)
    tomograms = SetOfTomograms.create(str(tmp_path), prefix="t")
    tomograms.setSamplingRate(10.0)
    tomogram = convert.new_tomogram(str(path), "TS_1", 10.0, convert.new_acquisition(-60, 60, 3))
    tomograms.append(tomogram)
    tomograms.write()
    coordinates = SetOfCoordinates3D.create(str(tmp_path), prefix="c")
    coordinates.setPrecedents(tomograms)
    coordinates.setSamplingRate(5.0)  # picked in the tomogram before it was binned by 2
    coordinates.setBoxSize(12)
    coordinate = Coordinate3D()
    coordinate.setVolume(tomogram)
    coordinate._x.set(8.0)  # relative to the centre, in voxels of 5 A
    coordinate._y.set(-4.0)
    coordinate._z.set(2.0)
    matrix = np.eye(4)
    matrix[:3, 3] = [2.0, 0.0, -4.0]
    coordinate.setMatrix(matrix)
    coordinates.append(coordinate)
    coordinates.write()
    table = convert.picks_table(coordinates, tomogram)
    np.testing.assert_allclose(
        table.rows[["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]].to_numpy()[0],
        [20 + 4, 15 - 2, 10 + 1])
    np.testing.assert_allclose(table.poses.shift_xyz[0], [-1.0, 0.0, 2.0], atol=1e-6)


def test_volumes_in_stacks_and_other_formats_are_converted_once(tmp_path):
    from pwem.emlib.image import ImageHandler
    from tomo.objects import SetOfSubTomograms

    from scipion_faml import convert

    rng = np.random.default_rng(0)
    volumes = rng.normal(size=(3, 12, 12, 12)).astype(np.float32)
    acquisition = convert.new_acquisition(-60, 60, 3)
    images = SetOfSubTomograms.create(str(tmp_path), prefix="mixed")
    images.setSamplingRate(VOXEL_SIZE)
    images.setAcquisition(acquisition)
    plain, spider = tmp_path / "plain.mrc", tmp_path / "other.vol"
    write_volume(plain, volumes[0], VOXEL_SIZE)
    write_volume(tmp_path / "source.mrc", volumes[1], VOXEL_SIZE)
    ImageHandler().convert(str(tmp_path / "source.mrc"), str(spider))
    stack = tmp_path / "stack.stk"
    for index in (1, 2):
        write_volume(tmp_path / "source.mrc", volumes[index], VOXEL_SIZE)
        ImageHandler().convert(str(tmp_path / "source.mrc"), (index, str(stack)))
    for location in (str(plain), str(spider), (2, str(stack))):
        item = convert.new_subtomogram(str(plain), VOXEL_SIZE, acquisition)
        item.setLocation(location)
        images.append(item)
    images.write()
    table = convert.write_particle_table(images, tmp_path / "star" / "particles.star")
    assert "rlnAngleRot" not in table.rows  # nothing is aligned: no poses are invented
    for name, volume in zip(table.rows["rlnImageName"], volumes, strict=True):
        with mrcfile.open(name) as mrc:
            np.testing.assert_allclose(mrc.data, volume, rtol=1e-6)
            assert mrc.is_volume() and float(mrc.voxel_size.x) == pytest.approx(VOXEL_SIZE)
    assert table.rows["rlnImageName"][0] == str(plain.resolve())


def test_a_missing_or_zero_tilt_range_is_an_error_with_a_way_out(tmp_path):
    from tomo.objects import SetOfSubTomograms, TomoAcquisition

    from scipion_faml import convert

    write_volume(tmp_path / "a.mrc", np.random.default_rng(0).normal(size=(8, 8, 8)), VOXEL_SIZE)
    for acquisition in (None, TomoAcquisition(angleMin=0.0, angleMax=0.0, magnification=1)):
        images = SetOfSubTomograms.create(str(tmp_path), prefix=f"none{acquisition is None}")
        images.setSamplingRate(VOXEL_SIZE)
        images.append(convert.new_subtomogram(str(tmp_path / "a.mrc"), VOXEL_SIZE, acquisition))
        images.write()
        with pytest.raises(ValueError, match="no tilt range.*in the form"):
            convert.particle_table(images, tmp_path)
        given = convert.particle_table(images, tmp_path, MissingWedge(-40, 50))
        assert given.optics["famlTiltMax"].tolist() == [50]

