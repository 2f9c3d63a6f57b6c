"""Volumes that the wizards' windows show, read from what the form points to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from scipion_faml import convert
from scipion_faml.geometry import from_scipion_matrices, invert
from scipion_faml.io import read_cube
from scipion_faml.previews import mean_of
from scipion_faml.viewers.picks_view import mapped
from scipion_faml.volume import move_volume

MOST_PARTICLES = 64
MOST_VOXELS = 100_000_000  # read for one mean: some seconds


@dataclass(frozen=True, eq=False)
class Shown:
    """A volume to look at."""

    name: str
    volume: np.ndarray  # [z, y, x]
    voxel_size_angst: float


@dataclass(frozen=True, eq=False)
class Source:
    """Something that can be shown; it is read when it is asked for."""

    name: str
    load: Callable[[], Shown]


def particles(images, folder) -> Source:
    """Return the mean of some particles, aligned where the set is."""
    return Source("mean of particles", partial(_mean_of_particles, images, folder))


def _mean_of_particles(images, folder) -> Shown:
    counted = []
    mean, count = mean_of(_some_particles(images, folder, counted))
    name = f"mean of {count} of {images.getSize()} particles"
    if counted[0] > count:
        name += f" ({counted[0] - count} of another box, or empty, left out)"
    return Shown(name, mean, float(images.getSamplingRate()))


def _some_particles(images, folder, counted: list[int]) -> Iterator[np.ndarray]:
    """Yield particles spread over the set; those without a file are passed over, unless all are."""
    ids = sorted(images.getIdSet())
    n_read, wanted, error = 0, MOST_PARTICLES, None
    is_aligned = images.hasAlignment3D()
    for number in ids[:: max(len(ids) // wanted, 1)]:
        if n_read >= wanted:
            break
        item = images[number].clone()
        if not item.isEnabled():
            continue
        try:
            path = convert.mrc_file(item, folder / f"particle_{item.getObjId():06d}.mrc")
            volume = read_cube(path)[0]
        except (OSError, ValueError) as problem:
            error = problem
            continue
        wanted = min(wanted, max(MOST_VOXELS // volume.size, 4))
        n_read += 1
        yield _aligned(volume, item) if is_aligned else volume
    counted.append(n_read)
    if n_read == 0:
        raise ValueError(f"no particle can be shown: {error or 'the set is empty'}")


def _aligned(volume, item):
    """A particle turned and shifted onto the reference."""
    pose = from_scipion_matrices(convert.matrix_of(item)[None])
    return move_volume(volume, invert(pose), order=1)


def map_of(name, item, folder) -> Source:
    """Return a reference, an average or a template."""
    def load() -> Shown:
        file_name = "shown_" + "".join(c if c.isalnum() else "_" for c in name) + ".mrc"
        volume, voxel_size = read_cube(convert.map_file(item, folder / file_name))
        return Shown(name, volume, voxel_size)

    return Source(name, load)


def maps_of(name, items, folder) -> list[Source]:
    """Return a map, or those of a set."""
    if not hasattr(items, "iterItems"):
        return [map_of(name, items, folder)]
    if hasattr(items, "iterRepresentatives"):  # classes
        maps = [one.getRepresentative().clone() for one in items.iterItems()]
    else:
        maps = convert.clones(items)
    return [map_of(f"{name} {number}", item, folder) for number, item in enumerate(maps, 1)]


def tomograms_of(tomograms, folder) -> list[Source]:
    """Return the tomograms of a set, read where they are looked at."""
    def load(number, tomogram) -> Shown:
        path = convert.mrc_file(tomogram, folder / f"{number}.mrc")
        # Its own voxel size: that of the set may be another one's.
        size = tomogram.getSamplingRate() or tomograms.getSamplingRate()
        return Shown(tomogram.getTsId(), mapped(path), float(size))

    return [Source(tomogram.getTsId(), partial(load, number, tomogram))
            for number, tomogram in enumerate(convert.clones(tomograms))]
