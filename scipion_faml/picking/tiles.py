"""A tomogram looked at in tiles, so that memory is bounded by the tile and not by the tomogram."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scipion_faml.picking.peaks import robust_spread
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.volume import iter_tiles

MAX_SAMPLES = 2_000_000

# `map`, or one that works on several tiles at once and keeps their order.
TileMap = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
Tile = tuple[tuple[slice, ...], tuple[slice, ...]]  # padded, core


@dataclass(frozen=True, eq=False)
class Binned:
    """A tomogram seen in voxels of `binning`^3 of its own, each their mean; read when sliced."""

    tomogram: FloatArray
    binning: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Whole binned voxels (z, y, x); what is left over at the far faces is not seen."""
        z, y, x = (size // self.binning for size in self.tomogram.shape)
        return z, y, x

    def __getitem__(self, region: tuple[slice, ...]) -> FloatArray:
        """Return a region as float32."""
        b = self.binning
        fine = self.tomogram[tuple(slice(s.start * b, s.stop * b) for s in region)]
        values = np.asarray(fine, dtype=np.float32)
        if b > 1:
            z, y, x = (size // b for size in values.shape)
            values = values.reshape(z, b, y, b, x, b).mean(axis=(1, 3, 5))
        if not np.isfinite(values).all():
            raise ValueError("the tomogram holds voxels that are NaN or infinite: exclude it")
        return values

    def full_voxels(self, position_zyx: FloatArray | IntArray) -> FloatArray:
        """Return positions (M, 3) in binned voxels as positions in the tomogram's own."""
        # A binned voxel's centre lies (b - 1) / 2 voxels behind the first voxel it holds.
        placed: FloatArray = position_zyx * float(self.binning) + (self.binning - 1) / 2.0
        return placed

    def samples(self) -> FloatArray:
        """Return voxels from all over, some millions at most."""
        slices = max(1, MAX_SAMPLES // max(self.shape[1] * self.shape[2], 1))
        chosen = np.unique(np.linspace(0, self.shape[0] - 1, slices).astype(np.intp))
        step = max(1, int(np.sqrt(len(chosen) * self.shape[1] * self.shape[2] / MAX_SAMPLES)))
        whole = (slice(0, self.shape[1]), slice(0, self.shape[2]))
        parts = [self[(slice(int(z), int(z) + 1), *whole)][:, ::step, ::step] for z in chosen]
        return np.concatenate([p.ravel() for p in parts])


def check_tomogram(tomogram: FloatArray, voxel_size_angst: float) -> None:
    """Refuse a tomogram that is none, or a voxel size that is not possible."""
    if tomogram.ndim != 3:
        raise ValueError(f"the tomogram has {tomogram.ndim} dimensions, 3 are needed")
    if not 0 < voxel_size_angst < np.inf:
        raise ValueError(f"voxel size {voxel_size_angst:g}: give it in angstrom, above 0")


def level_and_spread(binned: Binned, is_dark: bool) -> tuple[float, float]:
    """Return a tomogram's median and robust s.d., negative where particles are dark.

    Raises
    ------
    ValueError
        If more than half of it is constant.
    """
    level, spread = robust_spread(binned.samples())
    if not spread > 0:
        raise ValueError("more than half of the tomogram is constant: crop it to what was imaged")
    return level, -spread if is_dark else spread


def core_in_tile(tile: Tile) -> tuple[slice, ...]:
    """Return the core of a tile in the voxels of its padded region."""
    padded, core = tile
    return tuple(
        slice(c.start - p.start, c.stop - p.start) for p, c in zip(padded, core, strict=True))


def searched_tiles(
    shape: tuple[int, int, int], tile: int, overlap: int, mask: FloatArray | Binned | None
) -> list[Tile]:
    """Return the tiles of `iter_tiles` whose cores a mask [z, y, x] of that shape touches.

    Raises
    ------
    ValueError
        If it touches none.
    """
    tiles = list(iter_tiles(shape, tile, overlap))
    if mask is None:
        return tiles
    touched = [t for t in tiles if (mask[t[1]] > 0.5).any()]
    if not touched:
        raise ValueError("the mask is nowhere above 0.5: check it, or leave it out")
    return touched
