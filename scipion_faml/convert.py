"""Scipion objects <-> particle tables and poses: the only file that knows both conventions.

Scipion's matrix M of a subtomogram or coordinate takes a point of the particle to the reference,
r_ref = M r_part, about voxel n // 2, shifts in voxels of the set that holds it (for a coordinate:
of its set). That is the inverse of a pose of ours, [R | t], which takes the average into the
particle; `geometry.scipion_matrices` is the only formula. `convention=` arguments of tomo.objects
are never used: its RELION conversion turns the shift twice.

Positions are voxel indices of the tomogram (first voxel 0), x, y, z. Scipion stores them relative
to the tomogram's origin (its centre dim / 2 unless set otherwise), in voxels of the coordinates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from pwem.constants import NO_INDEX
from pwem.emlib.image import ImageHandler
from pwem.objects import FSC, AtomStruct, Transform, Volume
from pyworkflow.object import Float, Pointer, String
from tomo.constants import BOTTOM_LEFT_CORNER
from tomo.objects import (
    AverageSubTomogram,
    Coordinate3D,
    SetOfClassesSubTomograms,
    SetOfCoordinates3D,
    SetOfSubTomograms,
    SetOfTomograms,
    SubTomogram,
    TomoAcquisition,
    Tomogram,
)

from scipion_faml.geometry import RigidTransforms, from_scipion_matrices, scipion_matrices
from scipion_faml.io import VOXEL_SIZE_TOLERANCE, read_header, read_volume, write_volume
from scipion_faml.structures import MODEL_SUFFIXES
from scipion_faml.tables import (
    ANGLES,
    CLASS_NAME_COLUMN,
    COORDINATES,
    DIAMETER_COLUMN,
    ORIGINS,
    SCORE_COLUMN,
    ParticleTable,
    optics_table,
    read_particles,
    write_particles,
)
from scipion_faml.types import FloatArray
from scipion_faml.wedge import NO_WEDGE as NO_WEDGE  # for tables that only name poses and classes
from scipion_faml.wedge import MissingWedge

# Column that leads from a row of a table back to the Scipion object it came from.
ID_COLUMN = "famlScipionId"
PROBABILITY = "rlnMaxValueProbDistribution"
LOG_LIKELIHOOD = "rlnLogLikeliContribution"
MRC_SUFFIXES = {".mrc", ".map", ".rec", ".mrcs", ".ccp4"}
IDENTITY = np.eye(4)


# ------------------------------------------------------------------------------- tilt ranges
def missing_wedge(acquisition: TomoAcquisition | None) -> MissingWedge | None:
    """Return the tilt range of an acquisition, or None where it has none or 0 to 0 deg."""
    if acquisition is None or not hasattr(acquisition, "getAngleMin"):
        return None
    low, high = acquisition.getAngleMin(), acquisition.getAngleMax()
    if low is None or high is None or low == high == 0.0:
        return None
    return MissingWedge(float(low), float(high))


def _wedge_of_item(item: SubTomogram, whole: SetOfSubTomograms) -> MissingWedge | None:
    """Tilt range of one subtomogram: its own, else its set's, else its tomogram's."""
    for acquisition in (item.getAcquisition(), whole.getAcquisition()):
        wedge = missing_wedge(acquisition)
        if wedge is not None:
            return wedge
    if whole.hasCoordinates3D() and item.hasCoordinate3D():
        tomogram = whole.getTomogram(item)
        if tomogram is not None:
            return missing_wedge(tomogram.getAcquisition())
    return None


def tilt_range_of(images: SetOfSubTomograms | SetOfTomograms) -> MissingWedge | None:
    """Return the tilt range of a set's first item (or of the set), for forms and messages."""
    first = images.getFirstItem()
    if isinstance(images, SetOfTomograms):
        own = missing_wedge(first.getAcquisition()) if first is not None else None
        return own or missing_wedge(images.getAcquisition())
    return None if first is None else _wedge_of_item(first, images)


# ---------------------------------------------------------------------------- subtomograms -> STAR
def mrc_file(item: SubTomogram | Tomogram, converted: Path | str) -> str:
    """Return the path of the item's volume as MRC; stacks and other formats become `converted`."""
    index, name = item.getLocation()
    name = name.removesuffix(":mrc").removesuffix(":mrcs")
    if not Path(name).is_file():
        raise FileNotFoundError(f"{name} does not exist")
    in_stack = index not in (None, NO_INDEX) and not (index == 1 and _is_one_volume(name))
    if Path(name).suffix.lower() in MRC_SUFFIXES and not in_stack:
        return str(Path(name).resolve())
    target = Path(converted)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _convert((index if in_stack else NO_INDEX, name), target, item.getSamplingRate())
    except Exception as error:  # xmippLib raises its own exception type
        where = f"volume {index} of {name}" if in_stack else name
        raise ValueError(f"{where} cannot be converted to MRC ({error})") from error
    return str(target.resolve())


def map_file(item: Volume, converted: Path | str) -> str:
    """Return the path of a map as MRC whose header tells the voxel size Scipion gives it."""
    path = mrc_file(item, converted)
    voxel_size = float(item.getSamplingRate())
    in_header = read_header(path)[1]
    if in_header > 0 and abs(in_header / voxel_size - 1) < VOXEL_SIZE_TOLERANCE:
        return path
    target = Path(converted)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_volume(target, read_volume(path)[0], voxel_size)
    return str(target.resolve())


def structure_of_file(
    path: Path | str, voxel_size_angst: float | None = None
) -> AtomStruct | Volume:
    """Return an atomic model or a map by its file; a map has the voxel size given, or its own.

    Raises
    ------
    ValueError, OSError
        If the file is gone, or cannot be read as a map.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    if Path(path.name.lower().removesuffix(".gz")).suffix in MODEL_SUFFIXES:
        return AtomStruct(filename=str(path))
    in_header = read_header(path)[1]
    found = Volume()
    found.setFileName(str(path))
    found.setSamplingRate(voxel_size_angst or in_header)
    return found


def half_maps(item: Volume) -> tuple[str, str] | None:
    """Return the files of an average's half maps: its own, or those beside it; None if none."""
    names = [n for n in (item.getHalfMaps() or "").split(",") if n]
    if len(names) != 2:
        # The representative of a class knows none, but our runs write them beside it.
        path = Path(item.getFileName() or "")
        stem = "" if path.stem == "average" else f"{path.stem}_"
        names = [str(path.with_name(f"{stem}half{h}.mrc")) for h in (1, 2)]
    return (names[0], names[1]) if all(Path(n).is_file() for n in names) else None


def _is_one_volume(name: str) -> bool:
    """Whether an MRC file holds a single volume, so that index 1 means all of it."""
    if Path(name).suffix.lower() not in MRC_SUFFIXES:
        return False
    (nz, ny, _), _ = read_header(name)
    return nz == ny


def _convert(location: tuple[int, str], target: Path, voxel_size_angst: float) -> None:
    """Write one volume in any format Scipion reads as MRC with its voxel size."""
    image = ImageHandler().read(location)
    data = np.squeeze(np.asarray(image.getData(), dtype=np.float32))
    write_volume(target, data, voxel_size_angst)


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
    wedges = [tilt_range or _wedge_of_item(item, whole) for item in items]
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


# ------------------------------------------------------------------------------------------ poses
def matrix_of(item: SubTomogram) -> FloatArray:
    """Return Scipion's matrix of a subtomogram, the identity where it has none."""
    return np.array(item.getTransform().getMatrix()) if item.hasTransform() else IDENTITY.copy()


def transforms(poses: RigidTransforms) -> list[Transform]:
    """Return Scipion's transforms of `poses` (shifts in voxels of the set)."""
    return [Transform(matrix) for matrix in scipion_matrices(poses)]


def rescaled(matrix: FloatArray, factor: float) -> FloatArray:
    """Return `matrix` with its shifts in voxels that are `factor` times as many per angstrom."""
    scaled = np.array(matrix, dtype=float)
    scaled[:3, 3] *= factor
    return scaled


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


# ------------------------------------------------------------------------------------ coordinates
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


def columns_of(path: Path | str) -> set[str]:
    """Return the column names of a STAR table's particles."""
    return set(read_particles(path).rows.columns)


def class_numbers(path: Path | str) -> set[int]:
    """Return the classes of a STAR table's particles; none where it has no classes."""
    rows = read_particles(path).rows
    return {int(k) for k in rows["rlnClassNumber"]} if "rlnClassNumber" in rows else set()


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


# ------------------------------------------------------------------------------------ new objects
def new_acquisition(tilt_min_deg: float, tilt_max_deg: float, tilt_step_deg: float,
                    voltage_kv: float = 300.0, spherical_aberration_mm: float = 2.7,
                    amplitude_contrast: float = 0.1) -> TomoAcquisition:
    """Return the acquisition of simulated data (tilt axis along y)."""
    return TomoAcquisition(
        angleMin=tilt_min_deg, angleMax=tilt_max_deg, step=tilt_step_deg, accumDose=0.0,
        tiltAxisAngle=0.0, voltage=voltage_kv, sphericalAberration=spherical_aberration_mm,
        amplitudeContrast=amplitude_contrast, dosePerFrame=0.0,
        # Sets ask for a magnification before they believe that they have an acquisition.
        magnification=50000.0,
    )


def new_tomogram(path: str, ts_id: str, voxel_size_angst: float,
                 acquisition: TomoAcquisition) -> Tomogram:
    """Return a tomogram object of an MRC file, with the default origin (its centre)."""
    tomogram = Tomogram(tsId=ts_id)
    tomogram.setLocation(path)
    tomogram.setSamplingRate(voxel_size_angst)
    tomogram.setAcquisition(acquisition.clone())  # an object has one parent only
    tomogram.setOrigin()
    return tomogram


def new_subtomogram(path: str, voxel_size_angst: float, acquisition: TomoAcquisition | None,
                    matrix: FloatArray = IDENTITY) -> SubTomogram:
    """Return a subtomogram object of an MRC file."""
    subtomogram = SubTomogram()
    subtomogram.setLocation(path)
    subtomogram.setSamplingRate(voxel_size_angst)
    if acquisition is not None:
        subtomogram.setAcquisition(acquisition.clone())
    subtomogram.setTransform(Transform(np.array(matrix, dtype=float)))
    subtomogram.setOrigin()
    return subtomogram


def new_average(path: str, voxel_size_angst: float,
                halves: tuple[str, str] | None = None) -> AverageSubTomogram:
    """Return an average object of an MRC file, with its half maps if given."""
    average = AverageSubTomogram()
    average.setFileName(path)
    average.setSamplingRate(voxel_size_angst)
    if halves is not None:
        average.setHalfMaps(list(halves))
    return average


def new_fsc(label: str, frequency_per_angst: Iterable[float], values: Iterable[float]) -> FSC:
    """Return an FSC curve object (the frequency 0 has no resolution and is left out)."""
    points = zip(frequency_per_angst, values, strict=True)
    pairs = [(float(f), float(v)) for f, v in points if f > 0]
    curve = FSC(objLabel=label)
    curve.setData([f for f, _ in pairs], [v for _, v in pairs])
    return curve


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


def copy_of(pointer: Pointer) -> Pointer:
    """Return a pointer to the same: an object, pointers too, has one parent only."""
    copied = Pointer()
    copied.copy(pointer, copyId=False)
    return copied


def clones(images: SetOfTomograms) -> list[Tomogram]:
    """Return copies of a set's items: Scipion's iterators reuse one object."""
    return [item.clone() for item in images.iterItems()]


def ready_to_average(table: ParticleTable) -> ParticleTable:
    """Return the table as one class, with identity poses where it has none."""
    rows = table.rows.drop(columns=["rlnClassNumber"], errors="ignore")
    one_class = replace(table, rows=rows)
    if has_pose_columns(table):
        return one_class
    return one_class.with_poses(RigidTransforms.identity(len(table)))


def has_pose_columns(table: ParticleTable) -> bool:
    """Whether the rows carry angles (origins alone are no pose)."""
    return set(ANGLES) <= set(table.rows.columns)




def read_fscs(path: Path | str) -> list[FSC]:
    """Return the curves of an `fsc.csv`: frequency_per_angst, then a column for each curve."""
    table = pd.read_csv(path)
    frequency = table.pop("frequency_per_angst")
    return [new_fsc(str(name), frequency, values) for name, values in table.items()]
