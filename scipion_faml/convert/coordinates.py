"""Sets of coordinates as tables of picks, and back.

Positions are voxel indices of the tomogram (first voxel 0), x, y, z. Scipion stores them relative
to the tomogram's origin (its centre dim / 2 unless set otherwise), in voxels of the coordinates.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from pyworkflow.object import Float, String
from tomo.constants import BOTTOM_LEFT_CORNER
from tomo.objects import Coordinate3D, SetOfCoordinates3D, Tomogram

from scipion_faml.convert.columns import ID_COLUMN, has_pose_columns
from scipion_faml.convert.new import clones
from scipion_faml.convert.poses import IDENTITY, rescaled
from scipion_faml.convert.tilts import missing_wedge
from scipion_faml.geometry import from_scipion_matrices, scipion_matrices
from scipion_faml.tables import (
    ANGLES,
    CLASS_NAME_COLUMN,
    COORDINATES,
    DIAMETER_COLUMN,
    ORIGINS,
    SCORE_COLUMN,
    ParticleTable,
    optics_table,
)
from scipion_faml.types import FloatArray


def position_xyz(coordinate: Coordinate3D, sampling_angst: float) -> FloatArray:
    """Return the voxel index (x, y, z) in the coordinate's tomogram, which must be attached.

    `sampling_angst` is that of the set of coordinates; the tomogram may have another one.
    """
    tomogram = coordinate.getVolume()
    factor = sampling_angst / tomogram.getSamplingRate()
    stored = np.array([coordinate._x.get(), coordinate._y.get(), coordinate._z.get()], dtype=float)
    return stored * factor - np.array(coordinate.getVolumeOrigin())


def picks_table(
    coordinates: SetOfCoordinates3D, tomogram: Tomogram, ids: Collection[int] | None = None
) -> ParticleTable:
    """Return the coordinates in one tomogram as a table of picks, in voxels of that tomogram.

    Positions, scores, groups (as class numbers) and, where any is set, poses; of those with these
    ids only, where ids are given.
    """
    sampling_angst = float(coordinates.getSamplingRate())
    factor = sampling_angst / tomogram.getSamplingRate()
    positions, matrices, other, known = [], [], [], []
    for coordinate in coordinates.iterCoordinates(volume=tomogram):
        if ids is not None and coordinate.getObjId() not in ids:
            continue
        coordinate.setVolume(tomogram)
        positions.append(position_xyz(coordinate, sampling_angst))
        matrices.append(rescaled(coordinate.getMatrix(), factor))
        other.append((coordinate.getObjId(), coordinate.getScore(), coordinate.getGroupId() or 0))
        known.append(_kept_with(coordinate))
    if not positions:
        raise ValueError(f"no coordinates in tomogram {tomogram.getTsId()}")
    rows = pd.DataFrame(np.array(positions), columns=COORDINATES)
    ids, scores, groups = zip(*other, strict=True)
    rows = rows.assign(rlnTomoName=tomogram.getTsId(), **{ID_COLUMN: ids, SCORE_COLUMN: scores})
    if min(groups) > 0:
        rows["rlnClassNumber"] = groups
    for name in (DIAMETER_COLUMN, CLASS_NAME_COLUMN):
        if all(name in values for values in known):
            rows[name] = [values[name] for values in known]
    table = table_of(rows.assign(rlnOpticsGroup=1), tomogram)
    if not np.allclose(matrices, IDENTITY):
        table = table.with_poses(from_scipion_matrices(np.array(matrices)))
    return table


def all_picks_table(coordinates: SetOfCoordinates3D) -> ParticleTable:
    """Return the coordinates of all tomograms as one table (no tilt ranges)."""
    parts = [picks_table(coordinates, tomogram) for tomogram in by_tomogram(coordinates)]
    if not parts:
        raise ValueError("the set of coordinates is empty")
    rows = pd.concat([part.rows for part in parts], ignore_index=True)
    sizes = {part.voxel_size_angst for part in parts}
    if len(sizes) > 1:
        raise ValueError(f"the tomograms have different voxel sizes: {sorted(sizes)}")
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [sizes.pop()]})
    return ParticleTable(_unoriented_as_identity(rows), optics)


def _unoriented_as_identity(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of tomograms without poses, among others with poses, get angles and origins 0."""
    columns = [name for name in (*ANGLES, *ORIGINS) if name in rows]
    return rows.fillna(dict.fromkeys(columns, 0.0))


def table_of(rows: pd.DataFrame, tomogram: Tomogram) -> ParticleTable:
    """Return rows of optics group 1, positions in voxels of `tomogram`, with its optics."""
    wedge = missing_wedge(tomogram.getAcquisition())
    if not wedge:
        return ParticleTable(rows, pd.DataFrame(
            {"rlnOpticsGroup": [1], "rlnImagePixelSize": [tomogram.getSamplingRate()]}))
    optics = optics_table(tomogram.getSamplingRate(), 0, [wedge])
    return ParticleTable(
        rows, optics.drop(columns=["rlnImageSize", "rlnImageDimensionality"], errors="ignore"))


def _kept_with(coordinate: Coordinate3D) -> dict[str, float | str]:
    """What a picker of ours kept with a coordinate: its diameter, the name of its class."""
    kept: dict[str, float | str] = {}
    for name in (DIAMETER_COLUMN, CLASS_NAME_COLUMN):
        value = getattr(coordinate, f"_{name}", None)
        if value is not None and value.hasValue():
            kept[name] = value.get()
    return kept


def append_coordinates(
    coordinates: SetOfCoordinates3D, tomogram: Tomogram, table: ParticleTable
) -> list[int]:
    """Append the picks of `table` (voxels of `tomogram`) to `coordinates`; return their ids.

    Classes become group ids, poses matrices; names of classes and diameters are kept.
    """
    table.require(*COORDINATES)
    rows = table.rows
    matrices = scipion_matrices(table.poses) if has_pose_columns(table) else None
    ids = []
    for number, position in enumerate(rows[COORDINATES].to_numpy(dtype=float)):
        row = rows.iloc[number]
        coordinate = Coordinate3D()
        coordinate.setVolume(tomogram)  # before setPosition, which asks it for its size
        coordinate.setPosition(*position.tolist(), BOTTOM_LEFT_CORNER)
        coordinate.setMatrix(IDENTITY.copy() if matrices is None else matrices[number])
        if "rlnClassNumber" in row:
            coordinate.setGroupId(int(row["rlnClassNumber"]))
        if SCORE_COLUMN in row:
            coordinate.setScore(float(row[SCORE_COLUMN]))
        if DIAMETER_COLUMN in row:
            setattr(coordinate, f"_{DIAMETER_COLUMN}", Float(row[DIAMETER_COLUMN]))
        if CLASS_NAME_COLUMN in row:
            setattr(coordinate, f"_{CLASS_NAME_COLUMN}", String(row[CLASS_NAME_COLUMN]))
        coordinates.append(coordinate)
        ids.append(coordinate.getObjId())
    return ids


def by_tomogram(coordinates: SetOfCoordinates3D) -> list[Tomogram]:
    """Return the tomograms that hold coordinates (cloned).

    A list, not a generator: going through coordinates asks the same set for tomograms, which ends
    an iteration over it.
    """
    used = set(coordinates.getUniqueValues(Coordinate3D.TOMO_ID_ATTR))
    return [t for t in clones(coordinates.getPrecedents()) if t.getTsId() in used]


def counts_by_tomogram(coordinates: SetOfCoordinates3D) -> dict[str, int]:
    """Return how many coordinates are in each tomogram, by its tilt series id."""
    if coordinates.getSize() < 1:
        return {}
    label = Coordinate3D.TOMO_ID_ATTR
    rows = coordinates.aggregate(["COUNT"], label, [label])
    return {str(row[label]): int(row["COUNT"]) for row in rows}


def ids_in_tomogram(coordinates: SetOfCoordinates3D, ts_id: str) -> set[int]:
    """Return the ids of the coordinates in a tomogram."""
    found = coordinates.getUniqueValues("id", where=f'{Coordinate3D.TOMO_ID_ATTR}="{ts_id}"')
    return {int(i) for i in found}
