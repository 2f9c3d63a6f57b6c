"""Sources of subtomograms: files that a table names, memory, what another process tells.

Algorithms ask a `SubtomogramSource` for particle i; `open_source` makes one of a table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from scipion_faml.disk import patiently
from scipion_faml.io import VOXEL_SIZE_TOLERANCE, read_cube, read_header, read_weight
from scipion_faml.tables import ParticleTable
from scipion_faml.types import FloatArray
from scipion_faml.volume import check_cube
from scipion_faml.wedge import MissingWedge

MAX_SHARED_WEIGHTS = 32  # kept in memory


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
