"""Training tomograms: coordinates and classes of their particles, nothing else."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scipion_faml.detector.settings import DEFAULT_DIAMETER
from scipion_faml.detector.view import TomogramView, view_of
from scipion_faml.types import FloatArray, IntArray

logger = logging.getLogger(__name__)

SLAB = 0.25  # share of a lone tomogram that is held out


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes of a training: names, rlnClassNumber and diameters (angstrom)."""

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    diameter_angst: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class LabelSource:
    """Particles of one tomogram as they came from a table."""

    name: str
    tomogram: FloatArray  # [z, y, x], may be mapped into memory
    voxel_size_angst: float
    centre_angst: FloatArray  # (P, 3) from the first voxel's centre
    class_number: IntArray  # (P,) rlnClassNumber
    class_name: tuple[str, ...]  # (P,)
    diameter_angst: FloatArray | None = None  # (P,)


@dataclass(frozen=True, eq=False)
class Labelled:
    """A tomogram in the detector's voxels with its particles."""

    name: str
    view: TomogramView
    position_xyz: FloatArray  # (P, 3) voxels of the view
    class_index: IntArray  # (P,)

    def __len__(self) -> int:
        return len(self.class_index)


def classes_of(
    sources: Sequence[LabelSource], diameters: Mapping[str, float], voxel_size_angst: float
) -> Classes:
    """Return the classes of all labels, by number, with diameters (angstrom).

    A diameter is the one given under the class's name (or number), else the median of its
    particles' own, else 10 voxels.

    Raises
    ------
    ValueError
        If a number has two names, or a diameter is given for a class that does not occur.
    """
    name_of: dict[int, str] = {}
    for source in sources:
        for number, name in zip(source.class_number, source.class_name, strict=True):
            known = name_of.setdefault(int(number), name)
            if known != name:
                raise ValueError(
                    f"{source.name}: class {number} is called {name!r} and elsewhere {known!r}: "
                    "number the classes alike in all tables")
    numbers = tuple(sorted(name_of))
    names = tuple(name_of[number] for number in numbers)
    unknown = sorted(set(diameters) - set(names) - {str(n) for n in numbers})
    if unknown:
        raise ValueError(
            f"no particle is of class {unknown[0]!r}: the labels know {', '.join(names[:20])}")
    sizes = tuple(
        diameters.get(name) or diameters.get(str(number)) or _told_diameter(sources, number)
        or DEFAULT_DIAMETER * voxel_size_angst
        for number, name in zip(numbers, names, strict=True)
    )
    return Classes(names, numbers, sizes)


def _told_diameter(sources: Sequence[LabelSource], number: int) -> float | None:
    """Median of the diameters that the tables give to particles of a class."""
    told = [s.diameter_angst[s.class_number == number] for s in sources
            if s.diameter_angst is not None]
    values = np.concatenate(told) if told else np.zeros(0)
    values = values[np.isfinite(values) & (values > 0)]
    return float(np.median(values)) if len(values) else None


def labelled(
    source: LabelSource, classes: Classes, voxel_size_angst: float, is_dark: bool
) -> Labelled:
    """Return a tomogram in voxels of the detector's size, with its particles.

    Raises
    ------
    ValueError
        If a particle lies outside of it or has no place.
    """
    own = source.centre_angst / source.voxel_size_angst
    size = np.array(source.tomogram.shape[::-1])
    outside = ~((own > -0.5) & (own < size - 0.5)).all(axis=1)
    if outside.any():
        first = own[outside][0]
        raise ValueError(
            f"{source.name}: {outside.sum()} of {len(own)} particles lie outside the tomogram of "
            f"{' x '.join(map(str, size))} voxels, the first at "
            f"{', '.join(f'{v:.1f}' for v in first)}: coordinates are voxels of "
            f"{source.voxel_size_angst:g} A from the first one, check the unit and the file")
    try:
        view = view_of(source.tomogram, source.voxel_size_angst, voxel_size_angst, is_dark)
    except ValueError as error:
        raise ValueError(f"{source.name}: {error}") from error
    index_of = {number: index for index, number in enumerate(classes.numbers)}
    index = np.array([index_of[int(n)] for n in source.class_number], dtype=np.intp)
    return Labelled(source.name, view, view.from_own(own), index)


def split(
    tomograms: Sequence[LabelSource], held_out: Sequence[str]
) -> tuple[list[LabelSource], list[LabelSource], str]:
    """Return tomograms to train on, to choose thresholds on, and what the latter are.

    Without names the last of several is held out, and of a lone one a slab.

    Raises
    ------
    ValueError
        If a name is unknown or nothing is left.
    """
    names = [t.name for t in tomograms]
    unknown = sorted(set(held_out) - set(names))
    if unknown:
        raise ValueError(
            f"no tomogram is called {unknown[0]!r} that could be held out: {', '.join(names)}")
    if not held_out and len(tomograms) == 1:
        trained, tested = _split_slab(tomograms[0])
        if not len(trained.class_number) or not len(tested.class_number):
            logger.warning("%s has too few particles to hold some out", trained.name)
            return list(tomograms), list(tomograms), "the training data"
        logger.warning(
            "only one tomogram: %d of its %d particles, in a slab of %.0f %% of it, are held out",
            len(tested.class_number), len(tomograms[0].class_number), 100 * SLAB)
        return [trained], [tested], "a slab of the training tomogram"
    chosen = set(held_out) or {names[-1]}
    left = [t for t in tomograms if t.name not in chosen]
    if not left:
        raise ValueError("all tomograms are held out: leave one to train on")
    tested_all = [t for t in tomograms if t.name in chosen]
    return left, tested_all, "held-out " + ", ".join(t.name for t in tested_all)


def _split_slab(source: LabelSource) -> tuple[LabelSource, LabelSource]:
    """A tomogram cut in two along the longer of x and y."""
    n_y, n_x = source.tomogram.shape[1:]
    axis, size = (0, n_x) if n_x >= n_y else (1, n_y)
    cut = max(1, round(size * (1.0 - SLAB)))
    place = source.centre_angst[:, axis] / source.voxel_size_angst
    parts = []
    for low, high in ((0, cut), (cut, size)):
        inside = (place >= low - 0.5) & (place < high - 0.5)
        centre = source.centre_angst[inside].copy()
        centre[:, axis] -= low * source.voxel_size_angst
        region = [slice(None)] * 3
        region[2 - axis] = slice(low, high)
        parts.append(replace(
            source, tomogram=source.tomogram[tuple(region)], centre_angst=centre,
            class_number=source.class_number[inside],
            class_name=tuple(n for n, kept in zip(source.class_name, inside, strict=True) if kept),
            diameter_angst=None if source.diameter_angst is None
            else source.diameter_angst[inside],
        ))
    return parts[0], parts[1]
