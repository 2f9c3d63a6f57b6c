"""STAR tables of particles: RELION's columns, poses, optics groups.

`ParticleTable` is what all verbs and protocols read and write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from scipion_faml import star
from scipion_faml.disk import replacing
from scipion_faml.geometry import (
    RigidTransforms,
    from_relion,
    relion_angles_deg,
    relion_origin_angst,
)
from scipion_faml.io import LARGEST_VOXEL, SMALLEST_VOXEL, VOXEL_SIZE_TOLERANCE
from scipion_faml.paths import found_from, name_for
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.wedge import MissingWedge

ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
ORIGINS = ["rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"]
COORDINATES = ["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]
PATH_COLUMNS = ("rlnImageName", "rlnCtfImage")
SCORE_COLUMN = "famlScore"  # the higher the surer
DIAMETER_COLUMN = "famlDiameter"  # angstrom, of the particle
CLASS_NAME_COLUMN = "famlModel"
LARGEST_NUMBER = 1e9  # of what a table says of positions, shifts and angles
MOST_CLASSES = 10_000


@dataclass(frozen=True, eq=False)
class ParticleTable:
    """RELION-style particles: a row each, and the optics groups. Image paths are absolute here."""

    rows: pd.DataFrame
    optics: pd.DataFrame = field(default_factory=pd.DataFrame)
    other_blocks: dict[str, star.Block] = field(default_factory=dict)
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def _of_optics(self, column: str) -> pd.Series | None:
        """Column of the particle rows, or of the optics groups spread over the particles."""
        if column in self.rows:
            return self.rows[column]
        if column not in self.optics:
            return None
        if "rlnOpticsGroup" not in self.rows or "rlnOpticsGroup" not in self.optics:
            return pd.Series(self.optics[column].iloc[0], index=self.rows.index)
        by_group = self.optics.set_index("rlnOpticsGroup")[column]
        return self.rows["rlnOpticsGroup"].map(by_group)

    def spread(self, column: str) -> FloatArray | None:
        """Return a column of the particles or their optics groups as numbers (N,).

        None where neither has it; NaN where it says no number.
        """
        values = self._of_optics(column)
        if values is None:
            return None
        return star.to_numbers(values)

    def numbers(self, *columns: str) -> FloatArray:
        """Return columns of the rows as numbers, (N, len(columns)) float64.

        Raises
        ------
        ValueError
            If a column is missing, or a value is no number; the row is named.
        """
        self.require(*columns)
        values = np.stack([star.to_numbers(self.rows[c]) for c in columns], axis=1)
        bad = np.argwhere(~(np.abs(values) <= LARGEST_NUMBER))
        if len(bad):
            row, which = (int(i) for i in bad[0])
            raise ValueError(
                f"{self.path}: row {row + 1} has {columns[which]} "
                f"{str(self.rows[columns[which]].iloc[row])[:40]!r}, no number that can be used: "
                "correct or remove it")
        return values

    def whole_numbers(self, column: str, least: int, most: int) -> IntArray:
        """Return a column of whole numbers within limits, (N,).

        Raises
        ------
        ValueError
            If one is not; the row is named.
        """
        values = self.numbers(column)[:, 0]
        bad = np.flatnonzero((values != np.rint(values)) | (values < least) | (values > most))
        if len(bad):
            raise ValueError(
                f"{self.path}: row {bad[0] + 1} has {column} {values[bad[0]]:g}: use whole numbers "
                f"from {least} to {most}")
        return values.astype(np.intp)

    @property
    def voxel_size_angst(self) -> float:
        """The voxel size of all particles (angstrom)."""
        sizes = self.spread("rlnImagePixelSize")
        if sizes is None or np.isnan(sizes).any():
            raise ValueError(f"{self.path}: rlnImagePixelSize is missing: add it to data_optics")
        low, high = float(sizes.min()), float(sizes.max())
        if not SMALLEST_VOXEL <= low <= high <= LARGEST_VOXEL:
            wrong = low if low < SMALLEST_VOXEL else high
            raise ValueError(f"{self.path}: rlnImagePixelSize is {wrong:g}: give it in angstrom")
        if high > low * (1 + VOXEL_SIZE_TOLERANCE):
            raise ValueError(
                f"{self.path}: voxel sizes of {low:g} and {high:g} A in one set: re-extract some"
            )
        return low

    @property
    def tomogram_names(self) -> list[str]:
        """rlnTomoName of every particle ('' where the column is missing)."""
        if "rlnTomoName" not in self.rows:
            return [""] * len(self)
        return [str(name) for name in self.rows["rlnTomoName"]]

    @property
    def class_index(self) -> IntArray:
        """Class of every particle from 0 (rlnClassNumber - 1)."""
        return self.whole_numbers("rlnClassNumber", 1, MOST_CLASSES) - 1

    def require(self, *columns: str) -> None:
        """Raise a ValueError naming the first of `columns` that the rows lack."""
        for column in columns:
            if column not in self.rows:
                raise ValueError(f"{self.path}: column {column} is missing: add it")

    @property
    def poses(self) -> RigidTransforms:
        """The poses in rlnAngle* and rlnOrigin*Angst (origins default to 0)."""
        origins = np.zeros((len(self), 3))
        if set(ORIGINS) <= set(self.rows.columns):
            origins = self.numbers(*ORIGINS)
        return from_relion(self.numbers(*ANGLES), origins, self.voxel_size_angst)

    def with_columns(self, **columns: object) -> ParticleTable:
        """Return the table with columns added or replaced; all others stay."""
        return replace(self, rows=self.rows.assign(**columns))

    def with_poses(self, poses: RigidTransforms) -> ParticleTable:
        """Return the table with `poses` in rlnAngle* and rlnOrigin*Angst."""
        angles = relion_angles_deg(poses)
        origins = relion_origin_angst(poses, self.voxel_size_angst)
        columns = dict(zip(ANGLES, angles.T, strict=True))
        return self.with_columns(**columns, **dict(zip(ORIGINS, origins.T, strict=True)))

    def without_poses(self) -> ParticleTable:
        """Return the table without angles, origins and classes."""
        drop = [c for c in (*ANGLES, *ORIGINS, "rlnClassNumber") if c in self.rows]
        return replace(self, rows=self.rows.drop(columns=drop))


def read_particles(path: Path | str) -> ParticleTable:
    """Return the particles of a STAR file; every column is kept.

    Image names are taken relative to the STAR file's folder, or where they are not found there,
    to the working folder (RELION's habit).
    """
    path = Path(path)
    blocks = star.read(path)
    rows = blocks.pop("particles", None)
    if rows is None and len(blocks) == 1 and isinstance(next(iter(blocks.values())), pd.DataFrame):
        rows = blocks.popitem()[1]
    if isinstance(rows, dict):  # a block without loop_ holds one particle
        rows = pd.DataFrame([rows]) if rows else None
    if not isinstance(rows, pd.DataFrame) or rows.empty:
        raise ValueError(f"{path} holds no particles: a data_particles block is needed")
    optics = blocks.pop("optics", pd.DataFrame())
    if isinstance(optics, dict):
        optics = pd.DataFrame([optics]) if optics else pd.DataFrame()
    _check_optics(path, rows, optics)
    rows = rows.copy()
    for column in PATH_COLUMNS:
        if column in rows:
            rows[column] = [str(found_from(str(name), path)) for name in rows[column]]
    return ParticleTable(rows, optics, blocks, path)


def _check_optics(path: Path, rows: pd.DataFrame, optics: pd.DataFrame) -> None:
    """Every group is described once, and every particle is in one that is."""
    if "rlnOpticsGroup" not in rows or "rlnOpticsGroup" not in optics:
        return
    groups = optics["rlnOpticsGroup"]
    for numbers in (groups, rows["rlnOpticsGroup"]):
        if numbers.dtype.kind != "i" or numbers.abs().max() > LARGEST_NUMBER:
            raise ValueError(f"{path}: rlnOpticsGroup holds {str(numbers.iloc[0])[:40]!r} or other "
                             "values that are no whole numbers: use 1, 2 ...")
    if groups.duplicated().any():
        raise ValueError(f"{path}: data_optics has group {groups[groups.duplicated()].iloc[0]} "
                         "twice: number the optics groups")
    lost = ~rows["rlnOpticsGroup"].isin(groups)
    if lost.any():
        row = int(np.flatnonzero(lost)[0])
        raise ValueError(f"{path}: row {row + 1} is in optics group "
                         f"{rows['rlnOpticsGroup'].iloc[row]}, which data_optics lacks: add it")


def write_particles(path: Path | str, table: ParticleTable) -> None:
    """Write a particle table; names of images in its project are relative to its folder."""
    path = Path(path)
    rows = table.rows.copy()
    for column in PATH_COLUMNS:
        if column in rows:
            rows[column] = [name_for(str(name), path) for name in rows[column]]
    blocks: dict[str, star.Block] = {"optics": table.optics} if len(table.optics) else {}
    with replacing(path) as temporary:
        star.write(temporary, {**blocks, **table.other_blocks, "particles": rows},
                   "particles of scipion-faml")


def optics_table(voxel_size_angst: float, n: int, wedges: Sequence[MissingWedge]) -> pd.DataFrame:
    """Return a data_optics block: a group for each wedge, numbered from 1."""
    return pd.DataFrame(
        {
            "rlnOpticsGroup": np.arange(1, len(wedges) + 1),
            "rlnOpticsGroupName": [f"opticsGroup{g + 1}" for g in range(len(wedges))],
            "rlnImagePixelSize": float(voxel_size_angst),
            "rlnImageSize": n,
            "rlnImageDimensionality": 3,
            "famlTiltMin": [w.tilt_min_deg for w in wedges],
            "famlTiltMax": [w.tilt_max_deg for w in wedges],
        }
    )
