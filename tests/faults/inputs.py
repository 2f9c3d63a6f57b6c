"""Particles and a tomogram that all fault tests read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from phantoms import blobs, particles

from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.io import write_volume
from scipion_faml.tables import COORDINATES, ParticleTable, optics_table, write_particles
from scipion_faml.volume import move_volume
from scipion_faml.wedge import MissingWedge

BOX, VOXEL_SIZE = 16, 10.0


def make_inputs(folder: Path, n_particles: int = 16) -> None:
    """Write set/ (two structures, SNR 2) and scene/ (a tomogram with five of the first)."""
    references = [blobs(BOX, 0, width=0.08), blobs(BOX, 1, width=0.08)]
    source, class_index, poses = particles(references, n_particles, snr=2.0)
    wedge = MissingWedge(-60, 60)
    star = folder / "set" / "particles.star"
    for i, volume in enumerate(source.volumes):
        write_volume(star.parent / f"p{i}.mrc", volume, VOXEL_SIZE)
    for name, reference in zip(("one", "two"), references, strict=True):
        write_volume(star.parent / "maps" / f"{name}.mrc", reference, VOXEL_SIZE)
    rows = pd.DataFrame({
        "rlnImageName": [str(star.parent / f"p{i}.mrc") for i in range(n_particles)],
        "rlnOpticsGroup": 1})
    table = ParticleTable(rows, optics_table(VOXEL_SIZE, BOX, [wedge]))
    write_particles(star, table)
    write_particles(star.with_name("truth.star"), table.with_poses(poses).with_columns(
        rlnClassNumber=class_index + 1))
    _make_scene(folder / "scene", references[0], wedge)


def _make_scene(folder: Path, structure: np.ndarray, wedge: MissingWedge) -> None:
    rng = np.random.default_rng(5)
    centres = np.array([[14, 14, 12], [34, 14, 12], [14, 34, 12], [34, 34, 12], [24, 24, 12]])
    volume = rng.normal(0, 0.5 * structure.std(), (24, 48, 48)).astype(np.float32)
    rotations = random_rotations(len(centres), rng)
    for rotation, (x, y, z) in zip(rotations, centres, strict=True):
        pose = RigidTransforms(rotation[None], np.zeros((1, 3)))
        h = BOX // 2
        volume[z - h : z + h, y - h : y + h, x - h : x + h] += move_volume(structure, pose)
    write_volume(folder / "tomogram.mrc", volume, VOXEL_SIZE)
    rows = pd.DataFrame({
        "rlnTomoName": "tomogram", **dict(zip(COORDINATES, centres.T.astype(float), strict=True)),
        "rlnOpticsGroup": 1})
    write_particles(folder / "truth.star",
                    ParticleTable(rows, optics_table(VOXEL_SIZE, BOX, [wedge])))
