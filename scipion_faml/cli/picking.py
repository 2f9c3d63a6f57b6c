"""What all pickers' verbs share: tiles on workers, picks as a table, their picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml import plots
from scipion_faml.cli.common import n_workers, progress
from scipion_faml.cli.tomograms import FILE, open_tomogram
from scipion_faml.execution import executor_of
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import COORDINATES, ParticleTable, optics_table, replacing
from scipion_faml.picking import Picks
from scipion_faml.picking.tiles import TileMap
from scipion_faml.types import FloatArray
from scipion_faml.wedge import MissingWedge

mask_option = click.option(
    "--mask", default=None, type=FILE,
    help="MRC of the tomogram's size: particles are looked for where it is above 0.5.")


def tile_map_of(workers: int | None) -> TileMap:
    """Return a `map` that works on several tiles at once and shows how many are done."""
    executor = executor_of(n_workers(workers))

    def tile_map(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        tiles = list(items)
        return progress(executor.map(function, tiles), len(tiles), "tiles")

    return tile_map


@contextmanager
def open_mask(path: Path | None, shape: tuple[int, ...], tomogram: Path) -> Iterator[Any]:
    """The mask [z, y, x] of a tomogram of `shape`, mapped into memory, or None."""
    if path is None:
        yield None
        return
    with open_tomogram(path) as mask:
        if mask.shape != shape:
            said = [" x ".join(map(str, s[::-1])) for s in (mask.shape, shape)]
            raise ValueError(
                f"{path} has {said[0]} voxels, {tomogram} has {said[1]}: a mask must have the "
                "tomogram's size")
        yield mask


def picks_table(
    picks: Picks, name: str, voxel_size: float, wedge: MissingWedge | None
) -> ParticleTable:
    """Picks as particles without images, with angles where the picker tells them."""
    rows = pd.DataFrame(
        {
            "rlnTomoName": name,
            **dict(zip(COORDINATES, picks.position_xyz.T, strict=True)),
            "rlnOpticsGroup": 1,
            "famlScore": picks.score,
        }
    )
    if picks.label.any():
        rows["rlnClassNumber"] = picks.label
    optics = optics_table(voxel_size, 0, [wedge or MissingWedge(-90.0, 90.0)])
    optics = optics.drop(columns=["rlnImageSize", "rlnImageDimensionality"])
    if wedge is None:
        optics = optics.drop(columns=["famlTiltMin", "famlTiltMax"])
    table = ParticleTable(rows, optics)
    if picks.euler_zyz is None:
        return table
    return table.with_poses(RigidTransforms(picks.euler_zyz, np.zeros((len(picks), 3))))


def draw_picks(path: Path, volume: FloatArray, picks: Picks, radius: float) -> None:
    """Picks on the mean of the central slices, those within a radius of them."""
    thickness = max(1, int(radius / 2))
    z = int(np.median(picks.position_xyz[:, 2])) if len(picks) else volume.shape[0] // 2
    near = np.abs(picks.position_xyz[:, 2] - z) <= radius
    drawn = plots.picks_on_slice(
        plots.slab(volume, z, thickness), picks.position_xyz[near, :2], radius,
        picks.score[near], title=f"{near.sum()} of {len(picks)} picks, within {radius:.0f} voxels "
        f"of slice {z}",
    )
    with replacing(path) as temporary:
        temporary.write_bytes(plots.png_bytes(drawn))

