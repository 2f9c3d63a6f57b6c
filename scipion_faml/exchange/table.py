"""What the formats share: reading and building particle tables, and the report of an export."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import LARGEST_VOXEL, SMALLEST_VOXEL, read_header
from scipion_faml.star import to_numbers
from scipion_faml.tables import ANGLES, COORDINATES, LARGEST_NUMBER, ORIGINS, ParticleTable
from scipion_faml.types import FloatArray, IntArray

SCORE, PROBABILITY = "famlScore", "rlnMaxValueProbDistribution"
CLASS, HALF = "rlnClassNumber", "rlnRandomSubset"
TILTS = ["famlTiltMin", "famlTiltMax"]
COORDINATE_SIZE = "rlnTomoTiltSeriesPixelSize"  # of the voxels that coordinates count
NUMBER = "rlnTomoParticleId"  # of a particle, from 1: its row in the table that was exported
# Where a particle lies in a stack (from 0), until its volume is read.
STACK_INDEX = "famlStackIndex"


@dataclass
class Exported:
    """What an export wrote: files by name, columns the format has no place for, remarks."""

    files: dict[str, Path] = field(default_factory=dict)
    not_held: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def not_held(table: ParticleTable, held: Sequence[str]) -> list[str]:
    """Return the columns of the particles and their optics groups that are not among `held`.

    Columns that say nothing of their own (group numbers, box sizes) are not counted.
    """
    implied = {"rlnOpticsGroup", "rlnOpticsGroupName", "rlnImageDimensionality", "rlnImageSize",
               "rlnImagePixelSize", COORDINATE_SIZE, NUMBER, "rlnTomoParticleName", "rlnTomoName",
               "rlnImageName", *ANGLES, *ORIGINS, *COORDINATES}
    columns = [*table.rows.columns, *table.optics.columns]
    return sorted({name for name in columns if name not in implied and name not in held})


# ----------------------------------------------------------------------------------- reading
@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn what a reader stumbles over in a damaged file into one line that names it."""
    try:
        yield
    except (UnicodeDecodeError, KeyError, TypeError, IndexError, AttributeError, RecursionError,
            OverflowError, SyntaxError, MemoryError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} is not a readable {what} ({reason}): choose its --format, or "
                         "write it again") from error


def poses_of(table: ParticleTable) -> RigidTransforms:
    """Return the poses, identity where the table has no angles (origins are kept)."""
    if set(ANGLES) <= set(table.rows.columns):
        return table.poses
    return table.with_columns(**dict.fromkeys(ANGLES, 0.0)).poses


def column_or(table: ParticleTable, names: Sequence[str], default: float) -> FloatArray:
    """Return the first of the columns that there is, as numbers; else `default` in every row."""
    for name in names:
        if name in table.rows:
            return table.numbers(name)[:, 0]
        values = table.spread(name)
        if values is not None:
            if not np.isfinite(values).all():
                raise ValueError(f"{table.path}: {name} in data_optics is no number: correct it")
            return values
    return np.full(len(table), float(default))


def coordinate_size_angst(table: ParticleTable) -> float:
    """Return the size of the voxels that rlnCoordinate* count (angstrom)."""
    size = float(column_or(table, [COORDINATE_SIZE], table.voxel_size_angst)[0])
    if not SMALLEST_VOXEL <= size <= LARGEST_VOXEL:
        raise ValueError(f"{table.path}: {COORDINATE_SIZE} is {size:g}: give it in angstrom")
    return size


def positions_of(table: ParticleTable, voxel_size_angst: float) -> FloatArray | None:
    """Return the boxes' centres (N, 3) in voxels of this size, first voxel 0, where known."""
    if not set(COORDINATES) <= set(table.rows.columns):
        return None
    positions = table.numbers(*COORDINATES)
    return np.asarray(positions * (coordinate_size_angst(table) / voxel_size_angst))


def numbers_of_particles(table: ParticleTable) -> IntArray:
    """Return the particles' numbers: rlnTomoParticleId where it is unique, else 1 to N."""
    if NUMBER in table.rows:
        numbers = to_numbers(table.rows[NUMBER])
        is_known = (numbers >= 1) & (numbers <= LARGEST_NUMBER) & (numbers == np.rint(numbers))
        if is_known.all() and len(np.unique(numbers)) == len(numbers):
            return numbers.astype(np.intp)
    return np.arange(1, len(table) + 1, dtype=np.intp)


def image_names(table: ParticleTable) -> list[str] | None:
    """Return the particles' volumes, None where the table names none."""
    if "rlnImageName" not in table.rows:
        return None
    return [str(name) for name in table.rows["rlnImageName"]]


def whole(values: FloatArray | pd.Series, what: str, path: Path) -> IntArray:
    """Return values as whole numbers.

    Raises
    ------
    ValueError
        If one is none; the particle is named.
    """
    numbers = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~(np.abs(numbers) <= LARGEST_NUMBER))
    if len(bad):
        raise ValueError(f"{path}: {what} of particle {bad[0] + 1} is {numbers[bad[0]]:g}, no "
                         "whole number: correct it")
    return numbers.astype(np.intp)


def check_numbers(table: ParticleTable) -> ParticleTable:
    """Return the table if positions, poses, classes, scores and tilts are numbers, if it has them.

    Raises
    ------
    ValueError
        If one is none; the row and the column are named.
    """
    for name in (*ANGLES, *ORIGINS, *COORDINATES, CLASS, HALF, SCORE, PROBABILITY, COORDINATE_SIZE,
                 *TILTS):
        column_or(table, [name], 0.0)
    return table


# ---------------------------------------------------------------------------------- building
def build_table(
    columns: Mapping[str, object], poses: RigidTransforms, voxel_size_angst: float,
    tilts_deg: FloatArray | None, path: Path,
) -> ParticleTable:
    """Return a table of imported particles.

    Parameters
    ----------
    columns
        Columns of the rows.
    poses
        Of all particles, shifts in voxels of `voxel_size_angst`.
    tilts_deg : (N, 2) or None
        Smallest and largest tilt; a group of optics is made for every pair.
    """
    rows = pd.DataFrame(dict(columns), index=range(len(poses)))
    pairs = np.zeros((len(poses), 2)) if tilts_deg is None else np.asarray(tilts_deg, dtype=float)
    unique, group = np.unique(pairs, axis=0, return_inverse=True)
    rows["rlnOpticsGroup"] = group.ravel() + 1
    n_groups = len(unique)
    optics = pd.DataFrame({
        "rlnOpticsGroup": np.arange(1, n_groups + 1),
        "rlnOpticsGroupName": [f"opticsGroup{g + 1}" for g in range(n_groups)],
        "rlnImagePixelSize": float(voxel_size_angst), "rlnImageDimensionality": 3,
    })
    if tilts_deg is not None:
        optics = optics.assign(famlTiltMin=unique[:, 0], famlTiltMax=unique[:, 1])
    return ParticleTable(rows, optics, path=path).with_poses(poses)


def with_box(table: ParticleTable) -> ParticleTable:
    """Return the table with the box of its first volume in rlnImageSize."""
    names = image_names(table)
    if not names:
        return table
    return replace(table, optics=table.optics.assign(rlnImageSize=read_header(names[0])[0][0]))


def merged(imported: ParticleTable, exported: ParticleTable) -> ParticleTable:
    """Return the rows of `exported` that came back, with their new poses, classes and scores.

    Particles are matched by their number. Everything the format could not hold (volumes, tilt
    ranges, halves, names) is that of `exported`.

    Raises
    ------
    ValueError
        If `imported` has no numbers, or one that `exported` lacks.
    """
    if NUMBER not in imported.rows:
        raise ValueError(f"{imported.path} numbers no particles: they cannot be matched with "
                         f"{exported.path}; give the file that was exported, or its result")
    row_of = {int(n): row for row, n in enumerate(numbers_of_particles(exported))}
    numbers = [int(n) for n in imported.rows[NUMBER]]
    unknown = [n for n in numbers if n not in row_of]
    if unknown:
        raise ValueError(f"{exported.path} has no particle number {unknown[0]}: give the table "
                         f"that was exported to {imported.path}")
    rows = exported.rows.iloc[[row_of[n] for n in numbers]].reset_index(drop=True)
    poses = imported.poses
    scale = imported.voxel_size_angst / exported.voxel_size_angst
    table = replace(exported, rows=rows).with_poses(
        RigidTransforms(poses.euler_zyz, poses.shift_xyz * scale))
    kept = {name: imported.rows[name].to_numpy() for name in (CLASS, SCORE)
            if name in imported.rows}
    return table.with_columns(**{NUMBER: numbers}, **kept)


def counted_in(table: ParticleTable, voxel_size_angst: float) -> ParticleTable:
    """Return the table with positions and poses in voxels of this size (no volumes)."""
    positions = positions_of(table, voxel_size_angst)
    rows = table.rows.drop(columns=["rlnImageName", "rlnCtfImage", "rlnImagePixelSize"],
                           errors="ignore")
    if positions is not None:
        rows = rows.assign(**dict(zip(COORDINATES, positions.T, strict=True)))
    optics = table.optics.drop(columns=COORDINATE_SIZE, errors="ignore")
    return replace(table, rows=rows, optics=optics.assign(rlnImagePixelSize=voxel_size_angst))


def rows_of_tomogram(table: ParticleTable, name: str, is_only: bool) -> IntArray:
    """Return the rows of the tomogram `name`; of all rows if there is one name here and there."""
    names = np.array([Path(n).stem if n.endswith(".tomostar") else n
                      for n in table.tomogram_names])
    here = np.flatnonzero(names == name)
    if not len(here) and is_only and len(set(names)) == 1:
        return np.arange(len(table))
    return here
