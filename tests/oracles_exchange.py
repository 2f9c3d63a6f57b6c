"""Chiral particles drawn blob by blob, and each package's published convention, without our code.

A convention is stated as (rotation, shift): r_particle = rotation r_reference + shift, with scipy's
rotations, from the numbers in the package's file as its own reader gives them.
"""

from __future__ import annotations

import json
from pathlib import Path

import dynamotable
import emfile
import mrcfile
import numpy as np
import pandas as pd
import starfile
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

VOXEL_SIZE = 8.0
TILTS = (-50.0, 62.0)
# x, y, z in fractions of the box, height: no plane or axis of symmetry, so a wrong hand shows.
BLOBS = np.array([[0.25, 0, 0, 1.0], [0, 0.2, 0, 0.9], [0, 0, 0.15, 0.8], [-0.15, -0.17, 0.1, 1.0],
                  [-0.1, 0.12, -0.2, 0.7]])


# ------------------------------------------------------------------------------------ particles
def draw(n, rotation, shift, blobs=BLOBS):
    """Blobs of the reference at r drawn at R r + t, with the centre at voxel n // 2."""
    z, y, x = np.indices((n, n, n), dtype=float) - n // 2
    volume = np.zeros((n, n, n))
    for *place, height in blobs:
        px, py, pz = rotation @ np.array(place) * n + shift
        volume += height * np.exp(-((x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2) / 4.5)
    return volume


def mirrored(n):
    """The reference's mirror image (x to -x)."""
    return draw(n, np.eye(3), np.zeros(3), BLOBS * [-1, 1, 1, 1])


def wedge(n, tilts=TILTS):
    """1 where a tilt range measures: planes of ky and (cos tilt, 0, sin tilt); DC at n // 2."""
    kz, _, kx = np.indices((n, n, n)) - n // 2
    angle = np.rad2deg(np.arctan2(kz, kx))
    angle = np.where(angle > 90, angle - 180, np.where(angle <= -90, angle + 180, angle))
    within = (angle >= tilts[0]) & (angle <= tilts[1])
    return (within | ((kx == 0) & (kz == 0))).astype(float)


def cut(volume, weight):
    """The volume with its spectrum multiplied by centred weights."""
    return np.fft.ifftn(np.fft.fftn(volume) * np.fft.ifftshift(weight)).real


def pull(volume, rotation, shift, order=3):
    """reference(r) = particle(R r + t), about voxel n // 2."""
    n = volume.shape[0]
    z, y, x = np.indices(volume.shape).reshape(3, -1) - n // 2
    qx, qy, qz = rotation @ np.stack([x, y, z]) + np.asarray(shift, float)[:, None] + n // 2
    return map_coordinates(volume, [qz, qy, qx], order=order).reshape(volume.shape)


def average(volumes, rotations, shifts, tilts=TILTS):
    """Sum of the aligned particles over the sum of their turned wedges, in Fourier space."""
    n = volumes[0].shape[0]
    total, weights = np.zeros((n, n, n), complex), np.zeros((n, n, n))
    mask = wedge(n, tilts)
    for volume, rotation, shift in zip(volumes, rotations, shifts, strict=True):
        total += np.fft.fftn(pull(volume, rotation, shift))
        weights += np.fft.ifftshift(pull(mask, rotation, np.zeros(3), order=1))
    return np.fft.ifftn(total / np.maximum(weights, 1.0)).real


def correlation(first, second):
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def random_poses(n_particles, seed):
    rng = np.random.default_rng(seed)
    rotations = Rotation.random(n_particles, random_state=seed).as_matrix()
    return rotations, rng.uniform(-2.5, 2.5, (n_particles, 3))


# ------------------------------------------------------------------- published conventions
def relion(folder):
    """R^T = ZYZ(rot, tilt, psi) intrinsic; the centre lies at -origin. Read by starfile."""
    blocks = starfile.read(folder / "particles.star", always_dict=True)
    rows, size = blocks["particles"], float(blocks["optics"]["rlnImagePixelSize"].iloc[0])
    angles = rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float)
    origins = rows[["rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"]].to_numpy(float)
    rotations = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    volumes = [mrcfile.read(folder / name) for name in rows["rlnImageName"]]
    return rotations, -origins / size, volumes


def dynamo(folder):
    """R^T = zxz(tdrot, tilt, narot) extrinsic; the centre lies at (dx, dy, dz). dynamotable."""
    rows = dynamotable.read(str(folder / "particles.tbl"))
    angles = rows[["tdrot", "tilt", "narot"]].to_numpy(float)
    rotations = Rotation.from_euler("zxz", angles, degrees=True).inv().as_matrix()
    volumes = [emfile.read(folder / "data" / f"particle_{tag:05d}.em")[1] for tag in rows["tag"]]
    return rotations, rows[["dx", "dy", "dz"]].to_numpy(float), volumes


def motl(folder):
    """R = zxz(phi, theta, psi) extrinsic, then the shift of rows 11 to 13. Read by emfile."""
    rows = emfile.read(folder / "motl_1.em")[1][0].astype(float)
    rotations = Rotation.from_euler("zxz", rows[:, [16, 18, 17]], degrees=True).as_matrix()
    volumes = [emfile.read(folder / "subtomograms" / f"subtomo_{int(i)}.em")[1]
               for i in rows[:, 3]]
    return rotations, rows[:, 10:13], volumes


def eman(folder):
    """r_reference = M r_particle with the rows of xform.align3d; ptcls.lst names the volumes."""
    parameters = json.loads((folder / "particle_parms_01.json").read_text())
    lines = (folder / "ptcls.lst").read_text().split("\n")
    length = int(lines[2].strip("# "))
    records = lines[3:-1]
    assert lines[0] == "#LSX" and {len(line) + 1 for line in records} == {length}
    rotations, shifts, volumes = [], [], []
    for i, record in enumerate(records):
        matrix = parameters[f"('ptcls.lst', {i})"]["xform.align3d"]["matrix"]
        inverse = np.linalg.inv(np.vstack([np.reshape(json.loads(matrix), (3, 4)), [0, 0, 0, 1]]))
        rotations.append(inverse[:3, :3])
        shifts.append(inverse[:3, 3])
        volumes.append(mrcfile.read(folder / record.split("\t")[1].strip()))
    return np.array(rotations), np.array(shifts), volumes


def peet(folder, name):
    """R = Rz(EulerZ(3)) Rx(EulerX(2)) Rz(EulerZ(1)); centre = model point + offset."""
    rows = pd.read_csv(folder / f"{name}_MOTL.csv")
    angles = rows[["EulerZ(1)", "EulerX(2)", "EulerZ(3)"]].to_numpy(float)
    rotations = Rotation.from_euler("zxz", angles, degrees=True).as_matrix()
    points = np.loadtxt(folder / f"{name}_points.txt") - [0.5, 0.5, 0.0]
    return rotations, points, rows[["xOffset", "yOffset", "zOffset"]].to_numpy(float)


READERS = {"relion3": relion, "relion4": relion, "relion5": relion, "dynamo": dynamo,
           "eman": eman, "motl": motl}
MAIN_FILE = {"relion3": "particles.star", "relion4": "particles.star",
             "relion5": "optimisation_set.star", "dynamo": "particles.tbl",
             "eman": "particle_parms_01.json", "motl": "motl_1.em"}


def file_of(folder: Path, name: str) -> Path:
    return folder / MAIN_FILE[name]
