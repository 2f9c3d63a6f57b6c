"""Several particle tables as one: of many tomograms, or of several sessions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from scipion_faml.io import VOXEL_SIZE_TOLERANCE
from scipion_faml.tables import ParticleTable

GROUP, GROUP_NAME, IMAGE = "rlnOpticsGroup", "rlnOpticsGroupName", "rlnImageName"


def joined(tables: Sequence[ParticleTable]) -> tuple[ParticleTable, list[str]]:
    """Return the particles of all tables in order, and the columns that only some of them had.

    Those columns are left out. Optics groups that say the same become one; they are numbered anew.

    Raises
    ------
    ValueError
        If voxel sizes or boxes differ, or a particle is in two tables.
    """
    _check_sizes(tables)
    _check_twice(tables)
    common, lost = _columns([table.rows for table in tables], {GROUP})
    optics_columns, lost_optics = _columns(
        [table.optics for table in tables], {GROUP, GROUP_NAME})
    groups: dict[tuple[str, ...], int] = {}
    parts, optics = [], []
    for table in tables:
        described = _described(table)
        numbers = {}
        for _, row in described.iterrows():
            same = tuple(str(row[name]) for name in optics_columns)
            if same not in groups:
                groups[same] = len(groups) + 1
                optics.append({GROUP: groups[same], GROUP_NAME: f"opticsGroup{groups[same]}",
                               **{name: row[name] for name in optics_columns}})
            numbers[row[GROUP]] = groups[same]
        of_row = table.rows[GROUP] if GROUP in table.rows else pd.Series(
            described[GROUP].iloc[0], index=table.rows.index)
        parts.append(table.rows[common].assign(**{GROUP: of_row.map(numbers)}))
    rows = pd.concat(parts, ignore_index=True)
    return ParticleTable(rows, pd.DataFrame(optics)), [*lost, *lost_optics]


def _described(table: ParticleTable) -> pd.DataFrame:
    """The optics groups that particles of a table are in; one without a word where it has none."""
    if not len(table.optics) or GROUP not in table.optics:
        return pd.DataFrame({**{name: table.optics[name].iloc[:1] for name in table.optics},
                             GROUP: [1]})
    if GROUP not in table.rows:
        return table.optics.iloc[:1]
    return table.optics[table.optics[GROUP].isin(table.rows[GROUP])]


def _columns(frames: Sequence[pd.DataFrame], without: set[str]) -> tuple[list[str], list[str]]:
    """Columns that all frames have, in the first one's order, and those that only some have."""
    shared = set.intersection(*(set(frame.columns) for frame in frames))
    everything = dict.fromkeys(name for frame in frames for name in frame.columns)
    return ([name for name in frames[0].columns if name in shared - without],
            [name for name in everything if name not in shared | without])


def _check_sizes(tables: Sequence[ParticleTable]) -> None:
    """Raise where particles are of different voxel sizes or boxes."""
    first = tables[0]
    for table in tables[1:]:
        sizes = first.voxel_size_angst, table.voxel_size_angst
        if abs(sizes[1] / sizes[0] - 1) > VOXEL_SIZE_TOLERANCE:
            raise ValueError(
                f"{first.path} has voxels of {sizes[0]:g} A, {table.path} of {sizes[1]:g} A: "
                "extract both at one size")
        boxes = [set(t.optics["rlnImageSize"]) if "rlnImageSize" in t.optics else set()
                 for t in (first, table)]
        if all(boxes) and boxes[0] != boxes[1]:
            raise ValueError(
                f"{first.path} has boxes of {min(boxes[0])} voxels, {table.path} of "
                f"{min(boxes[1])}: extract both in one box")


def _check_twice(tables: Sequence[ParticleTable]) -> None:
    """Raise where a volume is in two tables."""
    known: dict[str, Path | None] = {}
    for table in tables:
        if IMAGE not in table.rows:
            continue
        for name in table.rows[IMAGE]:
            if name in known:
                raise ValueError(
                    f"{name} is in {known[name]} and in {table.path}: name each table once")
        known.update(dict.fromkeys(table.rows[IMAGE], table.path))
