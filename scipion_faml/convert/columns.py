"""What protocols ask of particle tables, and change in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from scipion_faml.geometry import RigidTransforms
from scipion_faml.tables import ANGLES, COORDINATES, ORIGINS, ParticleTable, read_particles

# Column that leads from a row of a table back to the Scipion object it came from.
ID_COLUMN = "famlScipionId"


def has_pose_columns(table: ParticleTable) -> bool:
    """Whether the rows carry angles (origins alone are no pose)."""
    return set(ANGLES) <= set(table.rows.columns)


def columns_of(path: Path | str) -> set[str]:
    """Return the column names of a STAR table's particles."""
    return set(read_particles(path).rows.columns)


def class_numbers(path: Path | str) -> set[int]:
    """Return the classes of a STAR table's particles; none where it has no classes."""
    rows = read_particles(path).rows
    return {int(k) for k in rows["rlnClassNumber"]} if "rlnClassNumber" in rows else set()


def with_model_names(table: ParticleTable, names: dict[int, str]) -> ParticleTable:
    """Return the table with famlModel, the name of each particle's class, where all are known."""
    if "rlnClassNumber" not in table.rows:
        return table
    known = [names.get(int(number)) for number in table.rows["rlnClassNumber"]]
    return table if None in known else table.with_columns(famlModel=known)


def same_images(truth: ParticleTable, found: ParticleTable) -> ParticleTable:
    """Return the rows of `truth` whose image is in `found`: a set may be a subset of it."""
    is_there = truth.rows["rlnImageName"].isin(set(found.rows["rlnImageName"]))
    if not is_there.any():
        return truth
    return replace(truth, rows=truth.rows[is_there].reset_index(drop=True))


def are_same_picks(first: ParticleTable, second: ParticleTable) -> bool:
    """Whether two tables hold the same coordinates: ids, places, orientations and classes.

    Tables are text: the last digits may differ.
    """
    columns = [n for n in (ID_COLUMN, *COORDINATES, *ANGLES, *ORIGINS, "rlnClassNumber")
               if n in first.rows]
    if len(first) != len(second) or any(name not in second.rows for name in columns):
        return False
    values = [table.rows[columns].to_numpy(dtype=float) for table in (first, second)]
    return bool(np.allclose(*values, rtol=0.0, atol=1e-3))


def ready_to_average(table: ParticleTable) -> ParticleTable:
    """Return the table as one class, with identity poses where it has none."""
    rows = table.rows.drop(columns=["rlnClassNumber"], errors="ignore")
    one_class = replace(table, rows=rows)
    if has_pose_columns(table):
        return one_class
    return one_class.with_poses(RigidTransforms.identity(len(table)))
