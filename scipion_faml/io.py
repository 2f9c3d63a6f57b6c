"""Files: MRC volumes, STAR particle tables, and sources of subtomograms over them.

Everything is written under a temporary name and renamed, so a reader never meets half a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scipion_faml import mrc, star
from scipion_faml.disk import patiently
from scipion_faml.disk import replacing as replacing
from scipion_faml.geometry import (
    RigidTransforms,
    from_relion,
    relion_angles_deg,
    relion_origin_angst,
)
from scipion_faml.paths import found_from, name_for
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.volume import check_cube, check_volume
from scipion_faml.wedge import MissingWedge

ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
ORIGINS = ["rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"]
COORDINATES = ["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]
SCORE_COLUMN = "famlScore"  # the higher the surer
DIAMETER_COLUMN = "famlDiameter"  # angstrom, of the particle
CLASS_NAME_COLUMN = "famlModel"
MRC_LABEL = "Created by scipion-faml".ljust(80)
MAX_SHARED_WEIGHTS = 32  # kept in memory
SMALLEST_VOXEL, LARGEST_VOXEL = 1e-2, 1e4  # angstrom
LARGEST_NUMBER = 1e9  # of what a table says of positions, shifts and angles
MOST_CLASSES = 10_000
VOXEL_SIZE_TOLERANCE = 0.01  # relative: headers store float32 and pixel sizes are quoted rounded


# ---------------------------------------------------------------------------------- MRC volumes
def write_volume(path: Path | str, volume: FloatArray, voxel_size_angst: float) -> None:
    """Write `volume` [z, y, x] as float32 MRC (a volume, ISPG 1) with its voxel size (angstrom)."""
    _write_mrc(path, np.ascontiguousarray(volume, dtype=np.float32), voxel_size_angst)


def write_labels(path: Path | str, labels: IntArray, voxel_size_angst: float) -> None:
    """Write whole numbers [z, y, x] >= 0 as MRC: int16 where they fit, else float32.

    MRC knows no longer whole numbers; float32 holds them exactly up to 16,777,216.
    """
    largest = int(labels.max(initial=0))
    if largest > 1 << 24:
        raise ValueError(f"{path}: label {largest} is too large for an MRC file")
    dtype = np.int16 if largest <= np.iinfo(np.int16).max else np.float32
    _write_mrc(path, np.ascontiguousarray(labels, dtype=dtype), voxel_size_angst)


def _write_mrc(path: Path | str, values: NDArray[Any], voxel_size_angst: float) -> None:
    """Write a volume whose bytes depend on its values and voxel size only."""
    with replacing(path) as temporary, open(temporary, "wb") as handle:
        mrc.write(handle, values, voxel_size_angst, MRC_LABEL)


def read_header(path: Path | str) -> tuple[tuple[int, int, int], float]:
    """Return the shape (z, y, x) and the voxel size (angstrom; 0 when unset) of an MRC file."""
    header = mrc.read_header(path)
    return header.shape, header.voxel_size_angst


def read_volume(path: Path | str) -> tuple[FloatArray, float]:
    """Return an MRC volume [z, y, x] as float32 and its voxel size (angstrom; 0 when unset).

    Raises
    ------
    OSError, ValueError
        If the file is missing, truncated or no MRC, or if the volume has NaN or is constant.
    """
    header, values = mrc.read_data(path)
    return check_volume(values, str(path)), header.voxel_size_angst


def read_cube(path: Path | str) -> tuple[FloatArray, float]:
    """Return `read_volume(path)` after checking that the volume is a cube."""
    volume, voxel_size_angst = read_volume(path)
    return check_cube(volume, str(path)), voxel_size_angst


def read_weight(path: Path | str) -> FloatArray:
    """Return a 3-D weight volume (n^3, DC at voxel n // 2) as (n, n, n // 2 + 1) float32.

    Raises
    ------
    ValueError
        If it is not a cube or has values outside [0, 1].
    """
    volume = read_cube(path)[0]
    if volume.min() < 0.0 or volume.max() > 1.0 + 1e-5:
        raise ValueError(
            f"{path} holds weights from {volume.min():g} to {volume.max():g}: scale them to [0, 1]"
        )
    n = volume.shape[0]
    return np.ascontiguousarray(np.fft.ifftshift(volume)[:, :, : n // 2 + 1])


def write_weight(path: Path | str, weight: FloatArray, voxel_size_angst: float) -> None:
    """Write weights (n, n, n // 2 + 1) as the whole centred volume n^3 that `read_weight` reads."""
    n = weight.shape[0]
    full = np.empty((n, n, n), dtype=np.float32)
    full[:, :, : n // 2 + 1] = weight
    # Friedel: w(-k) = w(k), and index -k of a length-n axis is (n - k) % n.
    minus = (-np.arange(n)) % n
    for kx in range(n // 2 + 1, n):
        full[:, :, kx] = weight[minus][:, minus][:, :, n - kx]
    write_volume(path, np.fft.fftshift(full), voxel_size_angst)


# ---------------------------------------------------------------------------------- STAR tables
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


PATH_COLUMNS = ("rlnImageName", "rlnCtfImage")


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


# ---------------------------------------------------------------------------------- subtomograms
@dataclass(frozen=True, eq=False)
class Particle:
    """One subtomogram: what one E-step task needs."""

    index: int
    volume: FloatArray  # (n, n, n) float32
    wedge: FloatArray  # (n, n, n // 2 + 1) float32 in [0, 1]: 1 measured, 0 missing


Row = tuple["str | FloatArray", "MissingWedge | str | FloatArray"]  # volume or file, and wedge


class SubtomogramSource(Protocol):
    """A sequence of particles of one box and voxel size; a worker reads its own.

    Those of this module can be sent to other processes: `emptied`, and `rows` of some particles.
    """

    @property
    def n(self) -> int: ...

    @property
    def voxel_size_angst(self) -> float: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Particle: ...


@dataclass(frozen=True, eq=False)
class SourceView:
    """A source whose particles are changed when read: subclasses say how in `__getitem__`."""

    source: SubtomogramSource

    @property
    def n(self) -> int:
        """Box size (voxels)."""
        return self.source.n

    @property
    def voxel_size_angst(self) -> float:
        """Voxel size."""
        return self.source.voxel_size_angst

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Particle:
        return self.source[index]

    def emptied(self) -> SourceView:
        """Return the same view of a source without particles."""
        return replace(self, source=_sendable(self.source).emptied())

    def rows(self, indices: Iterable[int]) -> dict[int, Row]:
        """Return what another process needs to read some particles."""
        return _sendable(self.source).rows(indices)

    def learn(self, rows: Mapping[int, Row]) -> None:
        """Take up particles; of an emptied source."""
        _sendable(self.source).learn(rows)

    def forget(self, indices: Iterable[int]) -> None:
        """Drop particles that were taken up."""
        _sendable(self.source).forget(indices)


def _sendable(source: SubtomogramSource) -> Any:
    """The source, if it can be sent to other processes."""
    if not hasattr(source, "emptied"):
        raise ValueError(
            f"particles of a {type(source).__name__} cannot be sent to other processes: use "
            "threads, or a FileSource")
    return source


@dataclass(frozen=True, eq=False)
class _Weights:
    """Weight volumes, of which those that particles share are read once."""

    shared: frozenset[str]
    _known: dict[str, FloatArray] = field(default_factory=dict)

    def of(self, wedge: MissingWedge | str | FloatArray, n: int) -> FloatArray:
        """Return weights (n, n, n // 2 + 1); read-only where particles share them."""
        if isinstance(wedge, MissingWedge):
            return wedge.mask(n)
        weight = self._read(wedge) if isinstance(wedge, str) else wedge
        if weight.shape[0] != n:
            raise ValueError(f"{wedge} has a box of {weight.shape[0]}, its particle {n}: make "
                             "weights of the particle's box")
        return weight

    def _read(self, path: str) -> FloatArray:
        if path not in self.shared:
            return patiently(lambda: read_weight(path))
        if path not in self._known:
            weight = patiently(lambda: read_weight(path))
            weight.flags.writeable = False
            self._known.setdefault(path, weight)
        return self._known[path]


@dataclass(frozen=True, eq=False)
class ToldSource:
    """Particles in another process, which learns of them block by block."""

    n: int
    voxel_size_angst: float
    n_particles: int
    shared_weights: frozenset[str] = frozenset()  # files that several particles name
    _rows: dict[int, Row] = field(default_factory=dict)
    _weights: _Weights | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_weights", _Weights(self.shared_weights))

    def __len__(self) -> int:
        return self.n_particles

    def __getitem__(self, index: int) -> Particle:
        volume, wedge = self._rows[index]
        assert self._weights is not None
        return _particle(index, volume, wedge, self.n, self._weights)

    def emptied(self) -> ToldSource:
        """Return the source without particles."""
        return replace(self, _rows={}, _weights=None)

    def rows(self, indices: Iterable[int]) -> dict[int, Row]:
        """Return what another process needs to read some particles."""
        return {i: self._rows[i] for i in indices}

    def learn(self, rows: Mapping[int, Row]) -> None:
        """Take up particles."""
        self._rows.update(rows)

    def forget(self, indices: Iterable[int]) -> None:
        """Drop particles that were taken up."""
        for i in indices:
            self._rows.pop(i, None)


class DamagedParticleError(ValueError):
    """A particle that cannot be used; the message says which and why."""


def _particle(
    index: int, volume: str | FloatArray, wedge: MissingWedge | str | FloatArray, n: int,
    weights: _Weights,
) -> Particle:
    """A particle from its volume or file, in a set of boxes of n."""
    try:
        if isinstance(volume, str):
            values = patiently(lambda: read_cube(volume))[0]
            if values.shape[0] != n:
                raise ValueError(f"{volume} has a box of {values.shape[0]}, the set {n}: "
                                 "re-extract it")
        else:
            values = check_cube(volume, f"subtomogram {index + 1}")
        return Particle(index, values, weights.of(wedge, n))
    except ValueError as error:
        raise DamagedParticleError(str(error)) from error


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Particles held in memory; `wedges` is one for all, or one each (MissingWedge or weights)."""

    volumes: FloatArray  # (N, n, n, n)
    wedges: MissingWedge | Sequence[MissingWedge | FloatArray]
    voxel_size_angst: float = 1.0

    @property
    def n(self) -> int:
        """Box size (voxels)."""
        return int(self.volumes.shape[-1])

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> Particle:
        wedge = self.wedges if isinstance(self.wedges, MissingWedge) else self.wedges[index]
        weight = wedge.mask(self.n) if isinstance(wedge, MissingWedge) else wedge
        volume = check_cube(self.volumes[index], f"subtomogram {index + 1}")
        return Particle(index, volume, weight)

    def emptied(self) -> ToldSource:
        """Return a source of as many particles for other processes."""
        return ToldSource(self.n, self.voxel_size_angst, len(self))

    def rows(self, indices: Iterable[int]) -> dict[int, Row]:
        """Return some particles."""
        wedges = self.wedges
        return {i: (self.volumes[i], wedges if isinstance(wedges, MissingWedge) else wedges[i])
                for i in indices}


@dataclass(frozen=True, eq=False)
class FileSource:
    """Particles in MRC files, read when asked for. Build it with `open_source`."""

    paths: Sequence[str]
    wedges: Sequence[MissingWedge | str]  # a tilt range, or the file of a 3-D weight volume
    n: int
    voxel_size_angst: float

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Particle:
        return _particle(
            index, self.paths[index], self.wedges[index], self.n, self._weights)

    @cached_property
    def _weights(self) -> _Weights:
        """Weights that several particles name are kept, a few of them."""
        counts = Counter(wedge for wedge in self.wedges if isinstance(wedge, str))
        return _Weights(frozenset(
            name for name, count in counts.most_common(MAX_SHARED_WEIGHTS) if count > 1))

    def emptied(self) -> ToldSource:
        """Return a source of as many particles for other processes."""
        return ToldSource(self.n, self.voxel_size_angst, len(self), self._weights.shared)

    def rows(self, indices: Iterable[int]) -> dict[int, Row]:
        """Return files and wedges of some particles: other processes read their own."""
        return {i: (self.paths[i], self.wedges[i]) for i in indices}


def open_source(table: ParticleTable) -> FileSource:
    """Return the subtomograms of a table after checking every header and tilt range.

    Raises
    ------
    OSError, ValueError
        If an image is missing or damaged, box or voxel sizes differ, or a tilt range is missing.
    """
    table.require("rlnImageName")
    voxel_size_angst = table.voxel_size_angst
    paths = [str(name) for name in table.rows["rlnImageName"]]
    n = _common_box(paths, voxel_size_angst)
    return FileSource(paths, wedges_of(table), n, voxel_size_angst)


def _common_box(paths: Sequence[str], voxel_size_angst: float) -> int:
    """Box size of all files; their headers must agree with it and with the voxel size."""
    n = 0
    for number, path in enumerate(paths, 1):
        shape, voxel_size = read_header(path)
        if len(set(shape)) != 1:
            raise ValueError(f"subtomogram {number}, {path}, has shape {shape}, a cube is needed")
        n = n or shape[0]
        if shape[0] != n:
            raise ValueError(
                f"subtomogram {number}, {path}, has a box of {shape[0]}, the set {n}: re-extract it"
            )
        if voxel_size > 0 and abs(voxel_size / voxel_size_angst - 1) > VOXEL_SIZE_TOLERANCE:
            raise ValueError(
                f"subtomogram {number}, {path}, has voxel size {voxel_size:g} A, "
                f"the set {voxel_size_angst:g} A: re-extract it"
            )
    return n


def wedges_of(table: ParticleTable) -> list[MissingWedge | str]:
    """Return the tilt range, or else the file of the weight volume, of every particle."""
    if "rlnCtfImage" in table.rows:
        return [str(name) for name in table.rows["rlnCtfImage"]]
    low, high = table.spread("famlTiltMin"), table.spread("famlTiltMax")
    if low is None or high is None or np.isnan(low).any() or np.isnan(high).any():
        raise ValueError(
            f"{table.path}: no tilt range: add famlTiltMin and famlTiltMax (deg) to data_optics, "
            "or rlnCtfImage to the particles"
        )
    ranges = list(zip(low.tolist(), high.tolist(), strict=True))
    shared = {limits: MissingWedge(*limits) for limits in set(ranges)}  # one for all that have it
    return [shared[limits] for limits in ranges]
