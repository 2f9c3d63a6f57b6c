"""What all pickers' verbs share: options, tiles on workers, picks as a table and a picture."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml import plots
from scipion_faml.cli.common import common_options, n_workers, progress, workers_option
from scipion_faml.cli.runs import Run
from scipion_faml.cli.tomograms import (
    FILE,
    open_tomogram,
    tilt_range,
    tomo_name_option,
    voxel_size_of,
    voxel_size_option,
    wedge_of,
)
from scipion_faml.disk import replacing
from scipion_faml.execution import executor_of
from scipion_faml.geometry import RigidTransforms
from scipion_faml.picking import Picks
from scipion_faml.picking.tiles import TileMap
from scipion_faml.tables import (
    COORDINATES,
    SCORE_COLUMN,
    ParticleTable,
    optics_table,
    write_particles,
)
from scipion_faml.types import FloatArray
from scipion_faml.wedge import NO_WEDGE, MissingWedge

logger = logging.getLogger(__name__)

_OPTIONS = (
    click.argument("tomogram", metavar="TOMO", type=FILE),
    click.option("--max-picks", default=None, type=click.IntRange(min=1),
                 help="Keep the best only."),
    click.option("--mask", default=None, type=FILE,
                 help="MRC of the tomogram's size: particles are looked for where it is above "
                 "0.5."),
    click.option("--figure", default=None, type=FILE,
                 help="Draw picks on a slab to this PNG file."),
    tilt_range,
    tomo_name_option,
    voxel_size_option,
    click.option("--output", default=Path("picks.star"), show_default=True, type=FILE,
                 help="STAR file."),
    workers_option,
    common_options,
)


@dataclass(frozen=True)
class PickerArguments:
    """What every picker is told: the tomogram, where to look in it and what to write."""

    tomogram: Path
    max_picks: int | None
    mask: Path | None
    figure: Path | None
    wedge: MissingWedge | None  # the tilt range, if one is given
    tomo_name: str | None
    voxel_size: float | None
    output: Path
    workers: int | None
    as_json: bool
    overwrite: bool

    @property
    def name(self) -> str:
        """rlnTomoName of the picks."""
        return self.tomo_name or self.tomogram.stem

    def run(self, verb: str, settings: dict[str, Any], *files: Path | None) -> Run:
        """Return the run of a verb with settings of its own and other files that it reads."""
        wedge = self.wedge
        shared = {
            "max_picks": self.max_picks, "figure": self.figure, "tomo_name": self.name,
            "voxel_size": self.voxel_size, "tilt_min": wedge.tilt_min_deg if wedge else None,
            "tilt_max": wedge.tilt_max_deg if wedge else None,
        }
        inputs = [self.tomogram, *(file for file in (*files, self.mask) if file)]
        return Run(verb, self.output, {**settings, **shared}, inputs, self.overwrite)

    def voxel_size_angst(self) -> float:
        """Return the voxel size; a warning is logged where the file's header says another."""
        return voxel_size_of(self.tomogram, self.voxel_size)

    @contextmanager
    def opened(self) -> Iterator[tuple[FloatArray, Any]]:
        """The tomogram and its mask, or None, mapped into memory."""
        with (open_tomogram(self.tomogram) as volume,
              open_mask(self.mask, volume.shape, self.tomogram) as inside):
            yield volume, inside

    def draw(self, volume: FloatArray, picks: Picks, radius: float) -> None:
        """Draw the picture of the picks if one is asked for; `radius` in voxels."""
        if self.figure is not None:
            draw_picks(self.figure, volume, picks, radius)

    def write(
        self, picks: Picks, voxel_size_angst: float, nothing: str, **columns: object
    ) -> None:
        """Write the picks with more columns, or warn in the words `nothing` where there are none.

        Picks of an earlier run do not stay.
        """
        self.output.unlink(missing_ok=True)
        if len(picks):
            table = picks_table(picks, self.name, voxel_size_angst, self.wedge)
            write_particles(self.output, table.with_columns(**columns))
        else:
            logger.warning("%s: %s", self.tomogram, nothing)

    def result(self, picks: Picks, own: dict[str, Any]) -> dict[str, Any]:
        """Return what the verb prints: entries of all pickers around those of its own."""
        found = len(picks) > 0
        return {
            "n_picks": len(picks),
            "score_max": float(picks.score.max()) if found else None,
            "score_median": float(np.median(picks.score)) if found else None,
            **own,
            "tomogram": self.tomogram,
            "picks": self.output if found else None,
        }


def picker_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Add TOMO and the options of every picker; the verb gets them as its first argument."""

    @wraps(verb)
    def with_arguments(**values: Any) -> None:
        values["wedge"] = wedge_of(values.pop("tilt_min"), values.pop("tilt_max"))
        shared = {field.name: values.pop(field.name) for field in fields(PickerArguments)}
        verb(PickerArguments(**shared), **values)

    for option in reversed(_OPTIONS):
        with_arguments = option(with_arguments)
    return with_arguments


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
            SCORE_COLUMN: picks.score,
        }
    )
    if picks.label.any():
        rows["rlnClassNumber"] = picks.label
    optics = optics_table(voxel_size, 0, [wedge or NO_WEDGE])
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

