"""PEET: a motive list (.csv) and a list of model points of every tomogram.

With (R, t) of ours: R = Rz(EulerZ(3)) Rx(EulerX(2)) Rz(EulerZ(1)) in deg, offsets = t in voxels of
the tomogram: the particle's centre is the model point plus the offset. Columns (from 1): 1 CCC,
4 number of the particle, 11 to 13 offsets, 17 EulerZ(1), 18 EulerZ(3), 19 EulerX(2), 20 class.
Model points are IMOD's: the centre of the first voxel is (0.5, 0.5, 0). PEET cuts particles out of
tomograms by itself, so no volumes are written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scipion_faml.disk import replacing
from scipion_faml.exchange import conventions
from scipion_faml.exchange.motl import (
    ANGLE_ROWS,
    CLASS_ROW,
    N_ROWS,
    NUMBER_ROW,
    SCORE_ROW,
    SHIFT_ROWS,
)
from scipion_faml.exchange.table import (
    CLASS,
    COORDINATE_SIZE,
    NUMBER,
    PROBABILITY,
    SCORE,
    Exported,
    build_table,
    column_or,
    coordinate_size_angst,
    not_held,
    poses_of,
    positions_of,
    whole,
)
from scipion_faml.exchange.tomograms import Tomograms
from scipion_faml.geometry import RigidTransforms
from scipion_faml.paths import file_names
from scipion_faml.star import to_numbers
from scipion_faml.tables import COORDINATES, LARGEST_NUMBER, ParticleTable
from scipion_faml.types import FloatArray

HEADER = ("CCC,reserved,reserved,pIndex,wedgeWT,NA,NA,NA,NA,NA,xOffset,yOffset,zOffset,NA,NA,"
          "reserved,EulerZ(1),EulerZ(3),EulerX(2),reserved")
WEIGHT_ROW = 4


def export_peet(table: ParticleTable, folder: Path) -> Exported:
    """Write NAME_MOTL.csv and NAME_points.txt (for point2model) of every tomogram."""
    size = coordinate_size_angst(table)
    positions = positions_of(table, size)
    if positions is None:
        raise ValueError(f"{table.path} has no positions (rlnCoordinateX/Y/Z): PEET cuts "
                         "particles out of tomograms and needs them")
    done = Exported()
    poses = poses_of(table)
    poses = RigidTransforms(poses.euler_zyz, poses.shift_xyz * table.voxel_size_angst / size)
    angles, shift = conventions.motl_pose(poses)
    rows = np.zeros((len(table), N_ROWS))
    rows[:, SCORE_ROW] = column_or(table, [SCORE, PROBABILITY], 0.0)
    rows[:, WEIGHT_ROW] = 1.0
    rows[:, SHIFT_ROWS], rows[:, ANGLE_ROWS] = shift, angles
    rows[:, CLASS_ROW] = column_or(table, [CLASS], 0)
    names = np.array([name or "tomogram" for name in table.tomogram_names])
    for tomogram, name in file_names(names.tolist(), "tomogram").items():
        here = names == tomogram
        rows[here, NUMBER_ROW] = np.arange(1, here.sum() + 1)  # PEET counts model points
        done.files[f"motl_{name}"] = folder / f"{name}_MOTL.csv"
        _write_rows(done.files[f"motl_{name}"], rows[here])
        done.files[f"points_{name}"] = folder / f"{name}_points.txt"
        with replacing(done.files[f"points_{name}"]) as temporary:
            np.savetxt(temporary, conventions.imod_points(positions[here]), fmt="%.4f")
    done.not_held = not_held(table, [CLASS, SCORE, PROBABILITY])
    done.remarks.append("make models with: point2model -sphere 5 NAME_points.txt NAME.mod")
    return done


def _write_rows(path: Path, rows: FloatArray) -> None:
    whole = {1, 2, NUMBER_ROW, 5, 6, 7, 8, 9, 13, 14, 15, CLASS_ROW}
    lines = [",".join(f"{value:.0f}" if column in whole else f"{value:.6f}"
                      for column, value in enumerate(row)) for row in rows]
    with replacing(path) as temporary:
        temporary.write_text("\n".join([HEADER, *lines]) + "\n")


def import_peet(
    path: Path, tomograms: Tomograms, voxel_size_angst: float | None = None,
    tilts_deg: tuple[float, float] | None = None, points: Path | None = None,
) -> tuple[ParticleTable, list[str]]:
    """Return the particles of a PEET motive list, and remarks.

    `points` is the text that model2point makes of the model: a line x y z for every particle; the
    default is the NAME_points.txt beside NAME_MOTL.csv that `export_peet` writes.

    Raises
    ------
    OSError, ValueError
        If a file is missing or damaged, numbers of particles differ, or the voxel size is missing.
    """
    rows = _read_rows(path)
    name = path.stem.split("_MOTL")[0]
    found = tomograms.find(name)
    if found is None and len(tomograms.items) == 1:
        found = tomograms.items[0]
    size = voxel_size_angst or (found.voxel_size_angst if found is not None else 0.0)
    if not size > 0:
        raise ValueError(f"{path}: a PEET motive list holds no voxel size: give --voxel-size")
    columns: dict[str, object] = {
        "rlnTomoName": found.name if found is not None else name, SCORE: rows[:, SCORE_ROW],
        NUMBER: np.arange(1, len(rows) + 1),
    }
    if rows[:, CLASS_ROW].min() >= 1:
        columns[CLASS] = whole(rows[:, CLASS_ROW], "the class", path)
    remarks = []
    points = points or _if_file(path.with_name(f"{name}_points.txt"))
    if points is None:
        remarks.append("no positions: give --positions, made by model2point MODEL TEXT")
    else:
        positions = conventions.from_imod_points(_read_points(points, len(rows), path))
        columns.update(zip(COORDINATES, positions.T, strict=True))
    poses = conventions.from_motl(rows[:, ANGLE_ROWS], rows[:, SHIFT_ROWS])
    tilts = None if tilts_deg is None else np.tile(tilts_deg, (len(rows), 1))
    table = build_table(columns, poses, size, tilts, path)
    table.optics[COORDINATE_SIZE] = size
    return table, remarks


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _read_rows(path: Path) -> FloatArray:
    """The numbers of a motive list (N, 20)."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    lines = [line for line in Path(path).read_text().splitlines() if line.strip()]
    separator = ";" if lines and lines[0].count(";") > lines[0].count(",") else ","
    body = lines[1:] if lines and lines[0].lstrip().upper().startswith("CCC") else lines
    rows = [to_numbers(line.split(separator)[:N_ROWS]) for line in body]
    for number, row in enumerate(rows, 1):
        if len(row) != N_ROWS or not (np.abs(row) <= LARGEST_NUMBER).all():
            raise ValueError(f"{path}: particle {number} has not {N_ROWS} numbers: correct it, "
                             "or choose its --format")
    if not rows:
        raise ValueError(f"{path} holds no particles: choose its --format")
    return np.stack(rows)


def _read_points(path: Path, n_particles: int, motl: Path) -> FloatArray:
    """Model points (N, 3): the last three numbers of every line."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        points = np.atleast_2d(np.loadtxt(path))[:, -3:]
    except ValueError as error:
        raise ValueError(
            f"{path} is no list of points ({error}): make it with model2point") from error
    if len(points) != n_particles:
        raise ValueError(f"{path} has {len(points)} points, {motl} {n_particles} particles: "
                         "give --positions of these particles")
    return np.asarray(points, dtype=float)
