"""Packing: particles at random places where nothing else is.

Random sequential adsorption: a position is drawn uniformly over the box and kept if the particle's
bounding sphere meets nothing placed before. The largest particles come first, as they find room
last. Positions are (x, y, z) in voxels from the first voxel.

Bounding spheres are enough: those of a tomogram of the SHREC challenges fill 22 % of it (their
authors packed bounding cubes, see docs/results.md), and twice as many still find room in a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from scipion_faml.geometry import keep_better
from scipion_faml.types import BoolArray, FloatArray

TRIES = 40_000  # positions in a row that must all fail before the box counts as full
_BATCH = 20_000  # positions drawn at once, at most
_NONE = np.empty((0, 3))


@dataclass(frozen=True, eq=False)
class Obstacles:
    """What particles may not touch: balls, and hollow shells, which may hold particles."""

    ball_xyz: FloatArray = field(default_factory=lambda: np.empty((0, 3)))  # (A, 3) voxels
    ball_radius: FloatArray = field(default_factory=lambda: np.empty(0))  # (A,)
    shell_xyz: FloatArray = field(default_factory=lambda: np.empty((0, 3)))  # (S, 3)
    shell_radius: FloatArray = field(default_factory=lambda: np.empty(0))  # (S,) of its middle
    shell_half_width: float = 0.0

    def clear_of(self, position_xyz: FloatArray, radius: float) -> BoolArray:
        """Return which of the positions (P, 3) can hold a ball of `radius`, (P,) bool."""
        to_ball = np.linalg.norm(position_xyz[:, None] - self.ball_xyz, axis=2)
        to_shell = np.linalg.norm(position_xyz[:, None] - self.shell_xyz, axis=2)
        off_shell = np.abs(to_shell - self.shell_radius) - self.shell_half_width
        clear: BoolArray = ((to_ball - self.ball_radius >= radius).all(axis=1)
                            & (off_shell >= radius).all(axis=1))
        return clear


def place_spheres(
    radius: FloatArray,
    shape_xyz: tuple[int, int, int],
    rng: np.random.Generator,
    min_distance: float | None = None,
    obstacles: Obstacles | None = None,
    open_sides: bool = False,
) -> FloatArray:
    """Return centres (N, 3) of spheres of `radius` (N,) voxels that stay in the box and apart.

    Parameters
    ----------
    radius : (N,)
    shape_xyz : (X, Y, Z)
    rng : Generator
    min_distance : float, optional
        Between all centres (voxels), in place of the sum of both radii.
    obstacles : Obstacles, optional
    open_sides : bool
        Spheres may stick out of the box in x and y, as specimens go on beyond a tomogram; their
        centres and all of their extent in z stay inside.

    Raises
    ------
    ValueError
        If not all of them fit; the message says how many do.
    """
    radius = np.asarray(radius, dtype=np.float64)
    _check_room(float(radius.max()), shape_xyz, open_sides)
    placed: list[tuple[cKDTree, float]] = []
    centre = np.empty((len(radius), 3))
    for size in np.unique(radius)[::-1]:
        members = np.flatnonzero(radius == size)
        room = _Room(float(size), shape_xyz, placed, min_distance, obstacles, open_sides)
        found = _fill(room, len(members), rng)
        if len(found) < len(members):
            n_placed = len(found) + int((radius > size).sum())
            raise ValueError(
                f"{n_placed} of {len(radius)} particles fit into a tomogram of "
                f"{_times(shape_xyz)} voxels: lower --count, or use a larger --shape or a smaller "
                "--min-distance"
            )
        centre[members] = found
        placed.append((cKDTree(found), float(size)))
    return centre


def _check_room(largest: float, shape_xyz: tuple[int, int, int], open_sides: bool) -> None:
    sides = shape_xyz[2:] if open_sides else shape_xyz
    if any(side - 1 < 2 * largest for side in sides):
        raise ValueError(
            f"a particle of {2 * largest:.0f} voxels does not fit into a tomogram of "
            f"{_times(shape_xyz)}: use a larger --shape or larger voxels"
        )


def _times(shape_xyz: tuple[int, int, int]) -> str:
    return " x ".join(str(side) for side in shape_xyz)


@dataclass(frozen=True, eq=False)
class _Room:
    """Where spheres of one size may go."""

    radius: float
    shape_xyz: tuple[int, int, int]
    placed: list[tuple[cKDTree, float]]  # centres and radius of the larger ones
    min_distance: float | None
    obstacles: Obstacles | None
    open_sides: bool

    def draw(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Uniform positions (P <= n, 3), in random order, that meet nothing placed before."""
        margin = np.full(3, self.radius)
        if self.open_sides:
            margin[:2] = 0.0
        size = np.asarray(self.shape_xyz) - 1.0 - 2.0 * margin
        tried: FloatArray = margin + rng.uniform(size=(n, 3)) * size
        if self.obstacles is not None:
            tried = tried[self.obstacles.clear_of(tried, self.radius)]
        for tree, radius in self.placed:
            tried = _apart(tried, tree, self.gap(radius))
        return tried

    def gap(self, radius: float) -> float:
        """Smallest distance of a centre to that of a sphere of `radius`."""
        return self.radius + radius if self.min_distance is None else self.min_distance


def _fill(room: _Room, count: int, rng: np.random.Generator) -> FloatArray:
    """Centres of as many of `count` spheres as the room takes."""
    kept, failed = _NONE, 0
    batch = max(64, 2 * count)
    gap = room.gap(room.radius)
    # Several times what fits: more would only be compared with one another, in vain.
    most = min(4 * count, 64 + int(6.0 * np.prod(room.shape_xyz) / max(gap, 1.0) ** 3))
    while len(kept) < count and failed < TRIES:
        tried = room.draw(batch, rng)
        if len(kept):
            tried = _apart(tried, cKDTree(kept), gap)
        new = _first_come(tried[:most], gap)[: count - len(kept)]
        kept = np.concatenate([kept, new])
        failed = 0 if len(new) else failed + batch
        batch = min(2 * batch, _BATCH)
    return kept


def _apart(tried: FloatArray, tree: cKDTree, gap: float) -> FloatArray:
    """Those of the positions that keep `gap` from all of a tree."""
    if len(tried) == 0:
        return tried
    distance, _ = tree.query(tried, distance_upper_bound=gap)
    return tried[np.isinf(distance)]


def _first_come(tried: FloatArray, gap: float) -> FloatArray:
    """The positions that keep `gap` from all kept ones before them."""
    if len(tried) < 2:
        return tried
    return tried[keep_better(len(tried), cKDTree(tried).query_pairs(gap, output_type="ndarray"))]
