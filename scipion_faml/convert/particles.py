"""Sets of subtomograms as particle tables, and results put back into their items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pyworkflow.object import Float
from tomo.objects import SetOfClassesSubTomograms, SetOfSubTomograms, SubTomogram

from scipion_faml.convert.columns import ID_COLUMN
from scipion_faml.convert.coordinates import position_xyz
from scipion_faml.convert.poses import IDENTITY, matrix_of, transforms
from scipion_faml.convert.tilts import wedge_of_item
from scipion_faml.convert.volumes import mrc_file
from scipion_faml.geometry import from_scipion_matrices
from scipion_faml.io import read_header
from scipion_faml.tables import ANGLES, COORDINATES, ParticleTable, optics_table, write_particles
from scipion_faml.types import FloatArray
from scipion_faml.wedge import MissingWedge

PROBABILITY = "rlnMaxValueProbDistribution"
LOG_LIKELIHOOD = "rlnLogLikeliContribution"


def particle_table(
    images: SetOfSubTomograms | SetOfClassesSubTomograms,
    converted_folder: Path | str,
    tilt_range: MissingWedge | None = None,
) -> ParticleTable:
    """Return the particle table of a set of subtomograms (or of classes of them).

    Parameters
    ----------
    images
        Poses are written when the set is aligned, class numbers when the items have them.
    converted_folder
        Where volumes go that are no single MRC files; made only when needed.
    tilt_range
        Used for every particle instead of the acquisitions' angles.

    Raises
    ------
    ValueError
        If a particle has no tilt range or the set is empty.
    """
    items, whole = _items_of(images)
    if not items:
        raise ValueError("the set of subtomograms is empty")
    voxel_size_angst = float(whole.getSamplingRate())
    wedges = [tilt_range or wedge_of_item(item, whole) for item in items]
    _require_wedges(wedges, items)
    rows = pd.DataFrame({
        "rlnImageName": [
            mrc_file(item, Path(converted_folder) / f"particle_{item.getObjId():06d}.mrc")
            for item in items
        ],
        "rlnTomoName": [item.getVolName() or "" for item in items],
        ID_COLUMN: [item.getObjId() for item in items],
    })
    rows = _with_positions(rows, items, whole)
    groups = sorted({(w.tilt_min_deg, w.tilt_max_deg) for w in wedges if w})
    rows["rlnOpticsGroup"] = [
        groups.index((w.tilt_min_deg, w.tilt_max_deg)) + 1 for w in wedges if w
    ]
    if all(item.getClassId() for item in items):
        rows["rlnClassNumber"] = [item.getClassId() for item in items]
    box = int(whole.getDim()[0]) if whole.getDim() else read_header(rows["rlnImageName"][0])[0][0]
    optics = optics_table(voxel_size_angst, box, [MissingWedge(*g) for g in groups])
    if COORDINATES[0] in rows:  # positions count the tomogram's voxels, not those of the boxes
        tomogram = whole.getTomogram(items[0])
        optics["rlnTomoTiltSeriesPixelSize"] = float(tomogram.getSamplingRate())
    table = ParticleTable(rows, optics)
    matrices = np.array([matrix_of(item) for item in items])
    if whole.hasAlignment3D() or not np.allclose(matrices, IDENTITY):
        table = table.with_poses(from_scipion_matrices(matrices))
    return table


def write_particle_table(
    images: SetOfSubTomograms | SetOfClassesSubTomograms, path: Path | str,
    tilt_range: MissingWedge | None = None,
) -> ParticleTable:
    """Write the set as STAR file `path`; volumes that need it are converted beside it."""
    table = particle_table(images, Path(path).parent / "converted", tilt_range)
    write_particles(path, table)
    return table


def _items_of(
    images: SetOfSubTomograms | SetOfClassesSubTomograms,
) -> tuple[list[SubTomogram], SetOfSubTomograms]:
    """All enabled items (cloned: Scipion's iterators reuse one object) and the set they are of."""
    if isinstance(images, SetOfClassesSubTomograms):
        items = []
        for one_class in images.iterItems():
            for item in one_class.iterItems():
                if item.isEnabled():
                    item = item.clone()
                    item.setClassId(one_class.getObjId())
                    items.append(item)
        return sorted(items, key=lambda item: item.getObjId()), images.getImages()
    return [item.clone() for item in images.iterItems() if item.isEnabled()], images


def _require_wedges(wedges: list[MissingWedge | None], items: list[SubTomogram]) -> None:
    without = [item.getObjId() for item, wedge in zip(items, wedges, strict=True) if wedge is None]
    if without:
        raise ValueError(
            f"{len(without)} of {len(items)} subtomograms have no tilt range (the first: number "
            f"{without[0]}): give the smallest and largest tilt in the form"
        )


def set_box_centre(item: SubTomogram, row: pd.Series) -> None:
    """Keep the voxel of the tomogram that a box was cut around, which rounds the coordinate."""
    item._famlCentreX, item._famlCentreY, item._famlCentreZ = (
        Float(row[name]) for name in COORDINATES
    )


def box_centre(item: SubTomogram) -> FloatArray | None:
    """Return the voxel that a box was cut around (x, y, z), or None where nothing tells."""
    if not hasattr(item, "_famlCentreX"):
        return None
    return np.array([getattr(item, f"_famlCentre{axis}").get() for axis in "XYZ"], dtype=float)


def _with_positions(
    rows: pd.DataFrame, items: list[SubTomogram], whole: SetOfSubTomograms
) -> pd.DataFrame:
    """Rows with rlnCoordinateX/Y/Z where every item has a coordinate in a tomogram."""
    if not whole.hasCoordinates3D() or whole.getCoordinates3D() is None:
        return rows
    coordinates = whole.getCoordinates3D()
    positions = []
    for item in items:
        tomogram = whole.getTomogram(item) if item.hasCoordinate3D() else None
        if tomogram is None:
            return rows
        centre = box_centre(item)
        if centre is None:
            item.getCoordinate3D().setVolume(tomogram)
            centre = position_xyz(item.getCoordinate3D(), coordinates.getSamplingRate())
        positions.append(centre)
    return rows.assign(**dict(zip(COORDINATES, np.array(positions).T, strict=True)))


class ItemUpdater:
    """Puts poses, classes and scores of a result table into Scipion's items, matched by their id.

    Items without a row are left out of the new set; `n_dropped` counts them.
    """

    def __init__(self, table: ParticleTable) -> None:
        table.require(ID_COLUMN)
        self.rows = table.rows.reset_index(drop=True)
        self.row_of_id = {int(i): r for r, i in enumerate(self.rows[ID_COLUMN])}
        has_poses = set(ANGLES) <= set(self.rows.columns)
        self.transforms = transforms(table.poses) if has_poses else None
        self.n_dropped = 0

    def __call__(self, item: SubTomogram, _row: object = None) -> None:
        """Update `item` in place (the callback of copyItems and classifyItems)."""
        number = self.row_of_id.get(item.getObjId())
        if number is None:
            item._appendItem = False
            self.n_dropped += 1
            return
        row = self.rows.iloc[number]
        if self.transforms is not None:
            item.setTransform(self.transforms[number])
        if "rlnClassNumber" in row:
            item.setClassId(int(row["rlnClassNumber"]))
        if PROBABILITY in row:
            item._famlProbability = Float(row[PROBABILITY])
        if LOG_LIKELIHOOD in row:
            item._famlLogLikelihood = Float(row[LOG_LIKELIHOOD])
