"""Which particles of a table cannot be used, and why. Nothing is left out in silence.

A particle cannot be used when its volume is missing, unreadable, no cube, of another box or voxel
size than most, constant or not finite; when its weights or tilt range are; when it is in the table
twice; and, where poses are needed, when its pose or class is no number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from scipion_faml import star
from scipion_faml.disk import patiently
from scipion_faml.io import LARGEST_VOXEL, SMALLEST_VOXEL, VOXEL_SIZE_TOLERANCE, read_header
from scipion_faml.sources import FileSource
from scipion_faml.tables import (
    ANGLES,
    LARGEST_NUMBER,
    MOST_CLASSES,
    ORIGINS,
    ParticleTable,
    write_particles,
)
from scipion_faml.types import FloatArray
from scipion_faml.wedge import MissingWedge

EXCLUDED = "excluded.star"  # beside the results of a run
REASON_COLUMN, ROW_COLUMN = "famlReason", "famlRow"  # the row in the table, from 1
SMALLEST_BOX = 4  # voxels
T = TypeVar("T")
Map = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class Screened:
    """The particles that can be used, and why the others cannot.

    `reasons` has the damaged rows of the whole table (from 0) in order.
    """

    whole: ParticleTable
    source: FileSource
    reasons: dict[int, str]

    @property
    def table(self) -> ParticleTable:
        """The particles that can be used."""
        is_good = np.ones(len(self.whole), dtype=bool)
        is_good[list(self.reasons)] = False
        if is_good.all():
            return self.whole
        return replace(self.whole, rows=self.whole.rows[is_good].reset_index(drop=True))

    @property
    def excluded(self) -> ParticleTable:
        """The particles that cannot be used, with famlReason and famlRow."""
        rows = self.whole.rows.iloc[list(self.reasons)].reset_index(drop=True)
        return replace(self.whole, rows=rows.assign(**{
            REASON_COLUMN: list(self.reasons.values()),
            ROW_COLUMN: [row + 1 for row in self.reasons]}))


def screen(
    table: ParticleTable, with_poses: bool = False, with_contents: bool = False, map_: Map = map
) -> Screened:
    """Return which particles can be used.

    Parameters
    ----------
    with_poses
        Whether poses and classes are needed, too. A volume may then be in the table several times
        with different ones.
    with_contents
        Whether volumes are read, or their headers only.
    map_
        Applies a function to rows, in any number of threads.

    Raises
    ------
    ValueError
        If the table lacks a column, or no particle can be used.
    """
    table.require("rlnImageName")
    reasons: dict[int, str] = {}
    for found in (_of_names(table), _of_poses(table) if with_poses else {},
                  _of_duplicates(table, with_poses)):
        _add(reasons, found)
    sizes = _voxel_sizes(table)
    size = _most_common(sizes[row] for row in _others(table, reasons))
    wedges = _wedges(table, reasons)
    boxes: dict[int, int] = {}
    if size is not None:
        _add(reasons, _of_sizes(table, sizes, size))
        _read_headers(table, size, reasons, boxes, map_)
    n = _most_common(boxes.values())
    if size is None and not reasons:
        raise ValueError(f"{table.path}: rlnImagePixelSize is missing or no voxel size: give it in "
                         "angstrom")
    if size is None or n is None:
        _raise_nothing_left(table, reasons)
    if n < SMALLEST_BOX:
        raise ValueError(f"{table.path}: boxes of {n} voxels are too small: use {SMALLEST_BOX} at "
                         "least")
    _add(reasons, {row: _in(table, row, f"has a box of {box}, the set {n}: re-extract it")
                   for row, box in boxes.items() if box != n})
    _read_weights(table, wedges, n, reasons, map_)
    source = _source(table, wedges, n, size, range(len(table)))
    if with_contents:
        _read_volumes(source, reasons, map_)
    good = _others(table, reasons)
    if not good:
        _raise_nothing_left(table, reasons)
    reasons = dict(sorted(reasons.items()))
    return Screened(table, _source(table, wedges, n, size, good), reasons)


def write_excluded(path: Path, screened: Screened) -> None:
    """Write the particles that cannot be used, with the reasons."""
    write_particles(path, screened.excluded)


# ------------------------------------------------------------------------------------ helpers
def _add(reasons: dict[int, str], found: dict[int, str]) -> None:
    """Add reasons; the first of a particle counts."""
    for row, reason in found.items():
        reasons.setdefault(row, reason)


def _others(table: ParticleTable, reasons: dict[int, str]) -> list[int]:
    return [row for row in range(len(table)) if row not in reasons]


def _name(table: ParticleTable, row: int) -> str:
    return str(table.rows["rlnImageName"].iloc[row])


def _in(table: ParticleTable, row: int, what: str) -> str:
    return f"subtomogram {row + 1}, {_name(table, row)}, {what}"


def _most_common(values: Iterable[T]) -> T | None:
    """The value that most have, of several the first."""
    counts = Counter(value for value in values if value == value)  # NaN is none
    return max(counts, key=lambda value: counts[value], default=None)


def _raise_nothing_left(table: ParticleTable, reasons: dict[int, str]) -> NoReturn:
    first = min(reasons)
    raise ValueError(f"{table.path}: none of {len(table)} particles can be used: {reasons[first]}")


def _source(
    table: ParticleTable, wedges: Sequence[MissingWedge | str], n: int, size: float,
    rows: Sequence[int] | range,
) -> FileSource:
    paths = [str(name) for name in table.rows["rlnImageName"].iloc[list(rows)]]
    return FileSource(paths, [wedges[row] for row in rows], n, size)


# --------------------------------------------------------------------------- what tables say
def _of_names(table: ParticleTable) -> dict[int, str]:
    """Rows without a volume."""
    names = table.rows["rlnImageName"]
    return {int(row): f"row {row + 1} of {table.path} names no volume: remove it"
            for row in np.flatnonzero(names.isna() | (names.astype(str) == ""))}


def _of_poses(table: ParticleTable) -> dict[int, str]:
    """Rows whose pose or class is no number."""
    table.require(*ANGLES)
    columns = [*ANGLES, *(c for c in (*ORIGINS, "rlnClassNumber") if c in table.rows)]
    reasons: dict[int, str] = {}
    for column in columns:
        values = star.to_numbers(table.rows[column])
        is_good = np.abs(values) <= LARGEST_NUMBER
        if column == "rlnClassNumber":
            is_good = (values == np.rint(values)) & (values >= 1) & (values <= MOST_CLASSES)
        _add(reasons, {
            int(row): _in(table, int(row), f"has {column} "
                          f"{str(table.rows[column].iloc[row])[:40]!r}: correct it")
            for row in np.flatnonzero(~is_good)})
    return reasons


def _of_duplicates(table: ParticleTable, with_poses: bool) -> dict[int, str]:
    """Rows that repeat a volume (and its pose)."""
    columns = ["rlnImageName"]
    if with_poses:  # symmetry expansion repeats volumes in other poses
        columns += [c for c in (*ANGLES, *ORIGINS, "rlnClassNumber") if c in table.rows]
    first_of: dict[tuple[Any, ...], int] = {}
    reasons = {}
    for row, values in enumerate(zip(*(table.rows[c] for c in columns), strict=True)):
        first = first_of.setdefault(values, row)
        if first != row:
            reasons[row] = _in(table, row, f"is the same particle as row {first + 1}: remove one")
    return reasons


def _voxel_sizes(table: ParticleTable) -> FloatArray:
    """The voxel size that the table says of every particle; NaN where it says none."""
    sizes = table.spread("rlnImagePixelSize")
    if sizes is None or not len(sizes):
        raise ValueError(f"{table.path}: rlnImagePixelSize is missing: add it to data_optics")
    possible = (sizes >= SMALLEST_VOXEL) & (sizes <= LARGEST_VOXEL)
    return np.where(possible, sizes, np.nan)


def _of_sizes(table: ParticleTable, sizes: FloatArray, size: float) -> dict[int, str]:
    """Rows of another voxel size than most, or without one."""
    reasons = {int(row): _in(table, int(row), "has no voxel size (rlnImagePixelSize): add it")
               for row in np.flatnonzero(np.isnan(sizes))}
    is_other = np.abs(np.where(np.isnan(sizes), size, sizes) / size - 1) > VOXEL_SIZE_TOLERANCE
    return reasons | {int(row): _other_size(table, int(row), float(sizes[row]), size)
                      for row in np.flatnonzero(is_other)}


def _other_size(table: ParticleTable, row: int, own: float, size: float) -> str:
    return _in(table, row, f"has voxel size {own:g} A, the set {size:g} A: re-extract it")


def _wedges(table: ParticleTable, reasons: dict[int, str]) -> list[MissingWedge | str]:
    """The tilt range or file of weights of every particle; damage is added to `reasons`."""
    if "rlnCtfImage" in table.rows:
        return [str(name) for name in table.rows["rlnCtfImage"]]
    low, high = table.spread("famlTiltMin"), table.spread("famlTiltMax")
    if low is None or high is None:
        raise ValueError(
            f"{table.path}: no tilt range: add famlTiltMin and famlTiltMax (deg) to data_optics, "
            "or rlnCtfImage to the particles")
    known: dict[tuple[float, float], MissingWedge] = {}
    wedges: list[MissingWedge | str] = []
    for row, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        try:
            wedge = known.setdefault((a, b), MissingWedge(a, b)) if a == a else MissingWedge(a, b)
        except ValueError as error:
            reasons.setdefault(row, _in(table, row, f"has a {error}"))
            wedge = MissingWedge(-90.0, 90.0)  # it is not used
        wedges.append(wedge)
    return wedges


# ---------------------------------------------------------------------------- what files say
def _read_headers(
    table: ParticleTable, size: float, reasons: dict[int, str], boxes: dict[int, int], map_: Map
) -> None:
    """Check the headers of the volumes that are left; `boxes` gets their sizes."""

    def look(row: int) -> str | int:
        try:
            shape, voxel_size = _header(_name(table, row))
        except (ValueError, FileNotFoundError, PermissionError) as error:
            return f"subtomogram {row + 1}: {error}"
        if len(set(shape)) != 1:
            return _in(table, row, f"has shape {shape}, a cube is needed")
        if voxel_size > 0 and abs(voxel_size / size - 1) > VOXEL_SIZE_TOLERANCE:
            return _other_size(table, row, voxel_size, size)
        return shape[0]

    rows = _others(table, reasons)
    for row, found in zip(rows, map_(look, rows), strict=True):
        if isinstance(found, str):
            reasons[row] = found
        else:
            boxes[row] = found


def _read_weights(
    table: ParticleTable, wedges: Sequence[MissingWedge | str], n: int, reasons: dict[int, str],
    map_: Map,
) -> None:
    """Check the headers of weight volumes; many particles may share one."""
    rows_of: dict[str, list[int]] = {}
    for row in _others(table, reasons):
        wedge = wedges[row]
        if isinstance(wedge, str):
            rows_of.setdefault(wedge, []).append(row)
    names = list(rows_of)

    def look(index: int) -> str | None:
        try:
            shape = _header(names[index])[0]
        except (ValueError, FileNotFoundError, PermissionError) as error:
            return str(error)
        if shape != (n, n, n):
            return (f"its weights {names[index]} have shape {shape}, its set a box of {n}: make "
                    "weights of the particle's box")
        return None

    for name, found in zip(names, map_(look, range(len(names))), strict=True):
        if found is not None:
            _add(reasons, {row: f"subtomogram {row + 1}: {found}" for row in rows_of[name]})


def _header(path: str) -> tuple[tuple[int, int, int], float]:
    """The header of a file; waited for only while its disk is away."""
    try:
        return read_header(path)
    except FileNotFoundError:
        raise
    except OSError:
        return patiently(lambda: read_header(path))


def _read_volumes(source: FileSource, reasons: dict[int, str], map_: Map) -> None:
    """Read the volumes that are left, and their weights."""

    def look(row: int) -> str | None:
        try:
            source[row]
        except (ValueError, FileNotFoundError, PermissionError) as error:
            return f"subtomogram {row + 1}: {error}"
        return None

    rows = [row for row in range(len(source)) if row not in reasons]
    for row, found in zip(rows, map_(look, rows), strict=True):
        if found is not None:
            reasons[row] = found
