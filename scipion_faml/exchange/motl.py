"""Motive lists of TOM, AV3, subTOM, Artiatomi and cryoCAT: 20 rows of an EM file.

With (R, t) of ours: R = Rz(psi) Rx(theta) Rz(phi) and the shifts of rows 11 to 13 = t in voxels:
the reference is turned, then shifted, and lies on the particle. Rows (from 1): 1 score, 4 number of
the particle, 5 and 7 of its tomogram, 8 to 10 the box's centre in voxels of the particles' size
(the first voxel is 1), 17 phi, 18 psi, 19 theta in deg, 20 class. The centre voxel of a box is
floor(n / 2) + 1, counted from 1: our n // 2.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scipion_faml.exchange import conventions
from scipion_faml.exchange.table import (
    CLASS,
    NUMBER,
    PROBABILITY,
    SCORE,
    Exported,
    build_table,
    column_or,
    image_names,
    not_held,
    numbers_of_particles,
    poses_of,
    positions_of,
    whole,
)
from scipion_faml.exchange.tomograms import Tomograms, numbers_of, read_tomograms, write_table_map
from scipion_faml.exchange.volumes import place, read_em, write_em
from scipion_faml.tables import COORDINATES, ParticleTable
from scipion_faml.types import FloatArray

N_ROWS = 20
# Places from 0.
SCORE_ROW, NUMBER_ROW, TOMOGRAM_ROWS, CLASS_ROW = 0, 3, (4, 6), 19
POSITION_ROWS, SHIFT_ROWS = slice(7, 10), slice(10, 13)
ANGLE_ROWS = [16, 18, 17]  # phi, theta, psi
# Rows that mean different things in different programs; kept as they are.
FREE_ROWS = [1, 2, 5, 13, 14, 15]


def free_column(row: int) -> str:
    """Return the name that a row of free use is kept under, numbered from 1."""
    return f"motlRow{row + 1:02d}"


def export_motl(
    table: ParticleTable, folder: Path, tomograms: Tomograms, mode: str, first_voxel: int = 1,
) -> Exported:
    """Write motl_1.em, tomograms.doc and subtomograms/subtomo_N.em below `folder`."""
    done = Exported()
    numbers = numbers_of_particles(table)
    names = [name or "tomogram" for name in table.tomogram_names]
    tomo = numbers_of(names, tomograms)
    motl = np.zeros((len(table), N_ROWS))
    motl[:, SCORE_ROW] = column_or(table, [SCORE, PROBABILITY], 0.0)
    motl[:, NUMBER_ROW] = numbers
    for row in TOMOGRAM_ROWS:
        motl[:, row] = tomo
    positions = positions_of(table, table.voxel_size_angst)
    if positions is not None:
        motl[:, POSITION_ROWS] = positions + first_voxel
    angles, motl[:, SHIFT_ROWS] = conventions.motl_pose(poses_of(table))
    motl[:, ANGLE_ROWS] = angles
    motl[:, CLASS_ROW] = column_or(table, [CLASS], 1)
    kept = [row for row in FREE_ROWS if free_column(row) in table.rows]
    for row in kept:
        motl[:, row] = table.numbers(free_column(row))[:, 0]
    done.files["motl"] = folder / "motl_1.em"
    write_em(done.files["motl"], motl[None])
    done.files["tomograms"] = folder / "tomograms.doc"
    write_table_map(done.files["tomograms"], names, tomo, tomograms)
    volumes = image_names(table) if mode != "none" else None
    if volumes is not None:
        done.files["subtomograms"] = folder / "subtomograms"
        for name, number in zip(volumes, numbers, strict=True):
            place(name, folder / "subtomograms" / f"subtomo_{number}", mode)
    done.not_held = not_held(table, [CLASS, SCORE, PROBABILITY, *map(free_column, kept)])
    return done


def read_motl(path: Path) -> FloatArray:
    """Return a motive list (N, 20).

    Raises
    ------
    OSError, ValueError
        If the file is missing or damaged, or has not 20 numbers a particle.
    """
    array = np.asarray(read_em(path), dtype=float)
    if array.ndim != 3 or array.shape[0] != 1 or array.shape[2] != N_ROWS:
        shape = " x ".join(map(str, array.shape[::-1]))
        raise ValueError(f"{path} holds {shape} numbers, a motive list {N_ROWS} x N x 1")
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array[0]))[0][0]) + 1
        raise ValueError(f"{path}: particle {row} has a value that is no number: remove it")
    return array[0]


def import_motl(
    path: Path, tomograms: Tomograms, voxel_size_angst: float | None = None,
    tilts_deg: tuple[float, float] | None = None, data: Path | None = None,
    first_voxel: int = 1, with_volumes: bool = True,
) -> tuple[ParticleTable, list[str]]:
    """Return the particles of a motive list, and remarks.

    Volumes are searched for in `data`, by default the folder `subtomograms` beside the list:
    anything named ..._N.em or ..._N.mrc with N of row 4.

    Raises
    ------
    OSError, ValueError
        If the list is missing or damaged, or no voxel size is given.
    """
    motl = read_motl(path)
    if not voxel_size_angst:
        raise ValueError(f"{path}: a motive list holds no voxel size: give --voxel-size")
    if not tomograms.items and (path.parent / "tomograms.doc").is_file():
        tomograms = read_tomograms([path.parent / "tomograms.doc"])
    poses = conventions.from_motl(motl[:, ANGLE_ROWS], motl[:, SHIFT_ROWS])
    numbers = whole(motl[:, NUMBER_ROW], "row 4", path)
    remarks = []
    if len(set(numbers)) != len(numbers) or numbers.min() < 1:
        remarks.append("row 4 numbers no particles: they are numbered in order")
        numbers = np.arange(1, len(motl) + 1)
    columns: dict[str, object] = {
        NUMBER: numbers, SCORE: motl[:, SCORE_ROW],
        "rlnTomoName": [tomograms.name_of(n) for n in whole(
            _tomogram_numbers(motl), "row 5", path).tolist()],
    }
    if motl[:, CLASS_ROW].min() >= 1:
        columns[CLASS] = whole(motl[:, CLASS_ROW], "the class", path)
    if np.any(motl[:, POSITION_ROWS]):
        columns.update(zip(COORDINATES, (motl[:, POSITION_ROWS] - first_voxel).T, strict=True))
    columns.update({free_column(row): motl[:, row] for row in FREE_ROWS if np.any(motl[:, row])})
    folder = data or path.parent / "subtomograms"
    if with_volumes and folder.is_dir():
        columns["rlnImageName"] = [_volume_of(folder, n) for n in numbers]
    elif data is not None:
        raise FileNotFoundError(f"{data} does not exist")
    tilts = None if tilts_deg is None else np.tile(tilts_deg, (len(motl), 1))
    return build_table(columns, poses, voxel_size_angst, tilts, path), remarks


def _tomogram_numbers(motl: FloatArray) -> FloatArray:
    """Row 5, or row 7 where row 5 is not used."""
    return motl[:, TOMOGRAM_ROWS[0]] if np.any(motl[:, TOMOGRAM_ROWS[0]]) else motl[
        :, TOMOGRAM_ROWS[1]]


def _volume_of(folder: Path, number: int) -> str:
    """The file of particle `number`."""
    for digits in (1, 2, 3, 4, 5, 6, 7):
        for suffix in (".em", ".mrc"):
            found = sorted(folder.glob(f"*_{number:0{digits}d}{suffix}"))
            if found:
                return str(found[0])
    raise FileNotFoundError(f"{folder} has no file of particle {number} "
                            f"(subtomo_{number}.em): copy it, or add --volumes none")
