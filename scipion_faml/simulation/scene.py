"""Scenes: structures placed at random without overlap, and the truth about them.

Positions are (x, y, z) in voxels from the first voxel; the tilt axis passes through voxel
shape // 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy import ndimage

from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.simulation.density import Structure
from scipion_faml.simulation.packing import Obstacles, place_spheres
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.volume import crop_or_pad, overlap, pose_affine, squared_radius

T = TypeVar("T")
R = TypeVar("R")

LABEL_LEVEL = 0.15  # of a structure's maximum: what its occupancy label covers
FAINT = 3e-3  # of the maximum: what a map may lose when its box is cut to its content


@dataclass(frozen=True, eq=False)
class Scene:
    """N placed particles."""

    shape_xyz: tuple[int, int, int]
    position_xyz: FloatArray  # (N, 3) voxels
    euler_zyz: FloatArray  # (N, 3) rad
    class_index: IntArray  # (N,) into the structures

    def __len__(self) -> int:
        return len(self.class_index)

    @property
    def centre_xyz(self) -> FloatArray:
        """The point that the tilt axis passes through."""
        return np.array([s // 2 for s in self.shape_xyz], dtype=np.float64)


def ordered_map(
    function: Callable[[T], R], items: Sequence[T], n_workers: int = 1
) -> Iterator[R]:
    """Yield function(item) in order, from `n_workers` threads, with a bounded look-ahead."""
    if n_workers <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(n_workers) as pool:
        ahead = 2 * n_workers
        waiting = [pool.submit(function, item) for item in items[:ahead]]
        for number in range(len(items)):
            result = waiting.pop(0).result()
            if number + ahead < len(items):
                waiting.append(pool.submit(function, items[number + ahead]))
            yield result


def make_scene(
    structures: Sequence[Structure],
    counts: Sequence[int],
    shape_xyz: tuple[int, int, int],
    seed: int,
    min_distance: float | None = None,
    *,
    obstacles: Obstacles | None = None,
    open_sides: bool = False,
    label_level: float = LABEL_LEVEL,
) -> Scene:
    """Return `counts` particles of each structure at random places, uniformly turned, shuffled.

    Unless `min_distance` (voxels) says otherwise the balls around the labels (`label_radius`) stay
    apart, so no label is covered by another. See `place_spheres` about the other arguments.
    """
    rng = np.random.default_rng([seed, 0])
    class_index = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    radius = np.array([label_radius(s, label_level) for s in structures])[class_index]
    position = place_spheres(radius, shape_xyz, rng, min_distance, obstacles, open_sides)
    return Scene(shape_xyz, position, random_rotations(len(class_index), rng), class_index)


def label_radius(structure: Structure, level: float = LABEL_LEVEL) -> float:
    """Radius about the centre (voxels) of a ball that holds the label of a structure in any pose.

    Half a voxel more than the map's: turned, the farthest voxel may fall between two.
    """
    return reach(structure, level) + 0.5


def reach(structure: Structure, level: float) -> float:
    """Largest distance from the centre (voxels) at which a map passes `level` of its maximum."""
    dense = structure.map > level * structure.map.max()
    return float(np.sqrt(squared_radius(structure.n)[dense].max()))


def compact(structure: Structure) -> Structure:
    """Return a structure with its map, without beads, in the smallest box that it can turn in."""
    n = min(structure.n, 2 * int(np.ceil(reach(structure, FAINT) + 3.0)))
    return replace(structure, map=crop_or_pad(structure.map, (n, n, n)), beads=None)


def by_class(scene: Scene, n_classes: int) -> Iterator[tuple[int, list[int]]]:
    """Yield every class that has particles and their numbers: what a class needs is kept once."""
    for k in range(n_classes):
        numbers = np.flatnonzero(scene.class_index == k)
        if len(numbers):
            yield k, numbers.tolist()


def populate(
    scene: Scene, structures: Sequence[Structure], n_workers: int = 1,
    label_level: float = LABEL_LEVEL,
) -> tuple[FloatArray, IntArray]:
    """Return the density of a scene and its labels, both [z, y, x].

    density : float32, of the maps turned by cubic splines.
    labels : int32, 0 outside, else the number of the particle from 1, over the density above
        `label_level` of the structure's maximum (`class_labels` makes classes of them).
    """
    density = np.zeros(scene.shape_xyz[::-1], dtype=np.float32)
    labels = np.zeros(density.shape, dtype=np.int32)
    for k, numbers in by_class(scene, len(structures)):
        structure = compact(structures[k])
        level = label_level * float(structure.map.max())
        posed = _turner(structure, scene)
        for number, block in zip(numbers, ordered_map(posed, numbers, n_workers), strict=True):
            nearest = np.rint(scene.position_xyz[number]).astype(int)[::-1]
            whole, part = overlap(nearest - structure.n // 2, block.shape, density.shape)
            density[whole] += block[part]
            there = labels[whole]
            there[(block[part] > level) & (there == 0)] = number + 1
    return density, labels


def class_labels(labels: IntArray, class_index: IntArray) -> IntArray:
    """Return the class from 1 of every voxel, int16, of the particle numbers of `populate`."""
    of_particle = np.concatenate([[0], class_index + 1]).astype(np.int16)
    classes: IntArray = of_particle[labels]
    return classes


def _turner(structure: Structure, scene: Scene) -> Callable[[int], FloatArray]:
    """A function of a particle's number that returns its density around its nearest voxel."""
    spline = ndimage.spline_filter(structure.map, order=3, output=np.float32)

    def posed(number: int) -> FloatArray:
        position = scene.position_xyz[number]
        pose = RigidTransforms(scene.euler_zyz[number], position - np.rint(position))
        inverse_zyx, offset = pose_affine(pose, spline.shape)
        turned: FloatArray = ndimage.affine_transform(
            spline, inverse_zyx, offset, order=3, mode="constant", prefilter=False
        )
        return turned

    return posed
