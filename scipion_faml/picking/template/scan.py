"""All rotations at all positions, tile by tile: memory is bounded by the tile.

Work is cut into tiles times chunks of rotations, always the same ones and joined in order: the
result is the same bits on any number of workers, and a tomogram of one tile still keeps all busy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy import ndimage

from scipion_faml.geometry import euler_to_matrix
from scipion_faml.picking.peaks import between_voxels
from scipion_faml.picking.template.correlation import Template, piece_margins, prepare_piece
from scipion_faml.picking.template.filters import Filter, combined, radial_power, whitening
from scipion_faml.picking.tiles import (
    Binned,
    Tile,
    TileMap,
    core_in_tile,
    level_and_spread,
    searched_tiles,
)
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.volume import overlap
from scipion_faml.wedge import MissingWedge

ROTATIONS_OF_CHUNK = 512
BLOCK, BLOCKS = 48, 48  # where the tomogram's spectrum is measured: voxels along an edge; at most
HALO = 1  # positions beyond a tile's core that tell whether one in it is a maximum


# ---------------------------------------------------------------------------- the tomogram's side
@dataclass(frozen=True, eq=False)
class View:
    """A tomogram as it is searched: level and contrast taken out, beads clipped, filtered.

    Build it with `view_of`.
    """

    binned: Binned
    level: float
    spread: float  # grey levels of one s.d.; negative where particles are dark
    clip_sd: float
    filter: Filter
    reach: int  # of the filter, voxels
    filtered_sd: float = 1.0  # of what `region` returns

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x)."""
        return self.binned.shape

    def standard(self, start: Sequence[int], shape: Sequence[int]) -> FloatArray:
        """Return a region, not filtered; it may begin before the tomogram and end beyond it.

        Outside lies the tomogram's level, 0.
        """
        inside, part = overlap(start, shape, self.shape)
        values = np.zeros(tuple(shape), dtype=np.float32)
        if values[part].size:
            found = (self.binned[inside] - self.level) / self.spread
            values[part] = np.clip(found, -self.clip_sd, self.clip_sd)
        return values

    def region(self, start: Sequence[int], shape: Sequence[int]) -> FloatArray:
        """Return a region filtered, what lies around it taken into account."""
        reach = self.reach
        wide = self.standard([s - reach for s in start], [s + 2 * reach for s in shape])
        inner = tuple(slice(reach, reach + s) for s in shape)
        return np.ascontiguousarray(self.filter.applied(wide)[inner])

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """Yield the first voxels of cubes spread all over it, and their edge through `edge`."""
        edge = self.edge
        starts = [
            np.unique(np.linspace(0, size - edge, -(-size // edge)).astype(np.intp))
            for size in self.shape
        ]
        corners = [(int(z), int(y), int(x)) for z in starts[0] for y in starts[1]
                   for x in starts[2]]
        chosen = np.unique(np.linspace(0, len(corners) - 1, BLOCKS).astype(np.intp))
        yield from (corners[i] for i in chosen)

    @property
    def edge(self) -> int:
        """Voxels along an edge of the cubes of `blocks`."""
        return min(BLOCK, *self.shape)


def view_of(
    binned: Binned, is_dark: bool, clip_sd: float, band: Filter, whitens: bool, wedge: MissingWedge
) -> View:
    """Return a tomogram ready to be searched, its spectrum measured where it is to be whitened.

    Raises
    ------
    ValueError
        If more than half of it is constant, or it holds NaN.
    """
    level, spread = level_and_spread(binned, is_dark)
    view = View(binned, level, spread, clip_sd, band, band.reach)
    edge = (view.edge,) * 3
    if whitens:
        blocks = (view.standard(corner, edge) for corner in view.blocks())
        power = radial_power(blocks, wedge.mask(view.edge))
        both = combined([band, whitening(power)])
        view = replace(view, filter=both, reach=both.reach)
    squares = [float(np.mean(view.region(corner, edge) ** 2)) for corner in view.blocks()]
    return replace(view, filtered_sd=float(np.sqrt(np.mean(squares))))


# --------------------------------------------------------------------------------------- the scan
@dataclass(frozen=True, eq=False)
class Maxima:
    """Local maxima of the best score over all rotations."""

    position_zyx: FloatArray  # (M, 3) voxels of the view, between voxels
    score: FloatArray  # (M,) correlation coefficient
    rotation_index: IntArray  # (M,) into the rotations scanned

    def __len__(self) -> int:
        return len(self.score)

    def take(self, index: IntArray) -> Maxima:
        """Return the maxima at `index`."""
        return Maxima(self.position_zyx[index], self.score[index], self.rotation_index[index])

    @staticmethod
    def concatenate(parts: Sequence[Maxima]) -> Maxima:
        """Return all of them, the highest first."""
        if not parts:
            return Maxima(np.zeros((0, 3)), np.zeros(0), np.zeros(0, dtype=np.intp))
        joined = Maxima(*(
            np.concatenate([getattr(p, name) for p in parts])
            for name in ("position_zyx", "score", "rotation_index")
        ))
        return joined.take(np.argsort(-joined.score, kind="stable"))


@dataclass(frozen=True, eq=False)
class ScoreMaps:
    """The best score at every voxel of a view and which rotation it is of."""

    score: FloatArray  # (z, y, x) float32, 0 where not looked
    rotation_index: IntArray  # (z, y, x) int32, from 0; -1 where not looked


@dataclass(frozen=True, eq=False)
class _Best:
    """The best of some rotations at the positions of a tile."""

    score: FloatArray  # not yet divided by the tomogram's spread where the mask does not turn
    rotation_index: IntArray
    factor: FloatArray | None  # 1 / s_f


def scan(
    view: View,
    template: Template,
    euler_zyz: FloatArray,
    tile: int,
    mask: FloatArray | None = None,
    tile_map: TileMap = map,
    keeps_maps: bool = False,
) -> tuple[Maxima, ScoreMaps | None]:
    """Return the local maxima over a view of the best score of all rotations, the highest first.

    Parameters
    ----------
    euler_zyz : (R, 3) rotations of the template, rad
    tile : voxels of the core of a tile
    mask : of the view's shape; tiles where it nowhere exceeds 0.5 are left out
    tile_map : `map`, or one that works on several items at once and keeps their order
    keeps_maps : also return the score at every voxel
    """
    if template.support > min(view.shape):
        raise ValueError(
            f"the template's mask is {template.support} voxels wide, the tomogram "
            f"{min(view.shape)} along its shortest side: check voxel sizes and --diameter")
    rotation = euler_to_matrix(euler_zyz)
    starts = range(0, len(rotation), ROTATIONS_OF_CHUNK)
    tiles = searched_tiles(view.shape, tile, HALO, mask)
    work = partial(_best_of_chunk, view=view, template=template, rotation=rotation)
    items = [(t, start) for t in tiles for start in starts]
    maps = None
    if keeps_maps:
        maps = ScoreMaps(
            np.zeros(view.shape, dtype=np.float32), np.full(view.shape, -1, dtype=np.int32))
    found: list[Maxima] = []
    best: _Best | None = None
    for (place, start), part in zip(items, tile_map(work, items), strict=True):
        best = part if best is None else _better(best, part)
        if start != starts[-1]:
            continue
        score = best.score if best.factor is None else best.score * best.factor
        found.append(_maxima_of_tile(score, best.rotation_index, place))
        if maps is not None:
            inner = core_in_tile(place)
            maps.score[place[1]] = score[inner]
            maps.rotation_index[place[1]] = best.rotation_index[inner]
        best = None
    return Maxima.concatenate(found), maps


def _best_of_chunk(
    item: tuple[Tile, int], view: View, template: Template, rotation: FloatArray
) -> _Best:
    """The best of a chunk of rotations at all positions of a tile and its halo."""
    (padded, _), start = item
    before, after = piece_margins(template.support)
    values = view.region(
        [p.start - before for p in padded], [p.stop - p.start + before + after for p in padded])
    piece = prepare_piece(values, template, view.filtered_sd)
    best = np.full(piece.shape, -np.inf, dtype=np.float32)
    index = np.zeros(piece.shape, dtype=np.int32)
    is_better = np.empty(piece.shape, dtype=bool)
    for r in range(start, min(start + ROTATIONS_OF_CHUNK, len(rotation))):
        if template.turns_mask:
            score = piece.correlation(template, rotation[r])
        else:  # 1 / s_f is the same for all: it changes no comparison
            turned_mask = template.turned_mask(rotation[r])
            score = piece.sums(template.standardised(rotation[r], turned_mask))
        np.greater(score, best, out=is_better)
        np.copyto(best, score, where=is_better)
        np.copyto(index, np.int32(r), where=is_better)
    return _Best(best, index, piece.inverse_spread)


def _better(first: _Best, second: _Best) -> _Best:
    """The best of two chunks; where they are equal, that of the first."""
    is_better = second.score > first.score
    return _Best(
        np.where(is_better, second.score, first.score),
        np.where(is_better, second.rotation_index, first.rotation_index), first.factor)


def _maxima_of_tile(score: FloatArray, rotation_index: IntArray, tile: Tile) -> Maxima:
    """Local maxima in the core of a tile, in voxels of the view."""
    padded, _ = tile
    inner = core_in_tile(tile)
    peak = score[inner] == ndimage.maximum_filter(score, 3)[inner]
    peak &= score[inner] > 0
    index = np.argwhere(peak) + np.array([s.start for s in inner])
    position, height = between_voxels(score, index)
    origin = np.array([p.start for p in padded])
    return Maxima(
        position + origin, height, rotation_index[tuple(index.T)].astype(np.intp))
