"""The verb pick-dog."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import click
import numpy as np

from scipion_faml.cli.common import Run, common_options, run_once, workers_option
from scipion_faml.cli.picking import (
    draw_picks,
    mask_option,
    open_mask,
    picks_table,
    tile_map_of,
)
from scipion_faml.cli.tomograms import (
    FILE,
    naming,
    open_tomogram,
    tilt_range,
    tomo_name_option,
    voxel_size_of,
    voxel_size_option,
    wedge_of,
)
from scipion_faml.io import ParticleTable, write_particles
from scipion_faml.picking import dog
from scipion_faml.picking.dog import DogConfig, DogResult
from scipion_faml.wedge import MissingWedge

logger = logging.getLogger(__name__)

DIAMETER_COLUMN = "famlDiameter"  # angstrom


@click.command("pick-dog")
@click.argument("tomogram", metavar="TOMO", type=FILE)
@click.option("--diameter", "diameters", required=True, multiple=True,
              type=click.FloatRange(min=0, min_open=True),
              help="Of the particles, angstrom. Repeat it for several sizes: each pick is then "
              "made at the one that answers best (column famlDiameter); take them a factor of two "
              "apart.")
@click.option("--dark", is_flag=True, help="Particles are darker than their surroundings.")
@click.option("--threshold", default=None, type=float,
              help="Lowest score kept: standard deviations of the response where there is no "
              "particle.  [default: from --false-positives]")
@click.option("--false-positives", default=1.0, show_default=True,
              type=click.FloatRange(min=0, min_open=True),
              help="Picks in the whole tomogram that noise alone may cause; sets the threshold.")
@click.option("--min-distance", default=None, type=click.FloatRange(min=0),
              help="Between picks, angstrom.  [default: 0.8 of their mean diameter]")
@click.option("--border", default=None, type=click.FloatRange(min=0),
              help="Picks keep this distance from the tomogram's faces, angstrom.  [default: half "
              "a diameter]")
@click.option("--max-picks", default=None, type=click.IntRange(min=1), help="Keep the best only.")
@mask_option
@click.option("--filter", "filter_name", default="dog", show_default=True,
              type=click.Choice(list(dog.FILTERS)),
              help="Difference of Gaussians, or Laplacian of a Gaussian: slower, nearly the same.")
@click.option("--tile", default=192, show_default=True, type=click.IntRange(min=16),
              help="Voxels of the tiles worked on at a time: bounds the memory.")
@click.option("--figure", default=None, type=FILE, help="Draw picks on a slab to this PNG file.")
@tilt_range
@tomo_name_option
@voxel_size_option
@click.option("--output", default=Path("picks.star"), show_default=True, type=FILE,
              help="STAR file.")
@workers_option
@common_options
def pick_dog(
    tomogram: Path, diameters: tuple[float, ...], dark: bool, threshold: float | None,
    false_positives: float, min_distance: float | None, border: float | None,
    max_picks: int | None, mask: Path | None, filter_name: str, tile: int, figure: Path | None,
    tilt_min: float | None, tilt_max: float | None, tomo_name: str | None,
    voxel_size: float | None, output: Path, workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Find compact particles of one size, or of several, as maxima of a difference of Gaussians.

    Writes positions (voxels from the first one) with famlScore, the surest first. Where nothing is
    found no file is written, and the result says so. Gold beads are left out.
    """
    wedge = wedge_of(tilt_min, tilt_max)
    config = DogConfig(
        diameters, is_dark=dark, threshold=threshold, false_positives=false_positives,
        max_picks=max_picks, tile=tile, min_distance_angst=min_distance, border_angst=border,
        filter=filter_name,
    )
    name = tomo_name or tomogram.stem
    settings = {**dataclasses.asdict(config), "voxel_size": voxel_size, "tomo_name": name,
                "tilt_min": tilt_min, "tilt_max": tilt_max, "figure": figure}
    run = Run("pick-dog", output, settings, [tomogram, *([mask] if mask else [])], overwrite)

    def work() -> dict[str, Any]:
        size = voxel_size_of(tomogram, voxel_size)
        with open_tomogram(tomogram) as volume, open_mask(mask, volume.shape, tomogram) as inside:
            with naming(tomogram):
                found = dog.pick_dog(volume, size, config, tile_map_of(workers), inside)
            if figure is not None:
                draw_picks(figure, volume, found.picks, 0.5 * max(diameters) / size)
        output.unlink(missing_ok=True)
        if len(found.picks):
            write_particles(output, _table(found, name, size, wedge))
        else:
            logger.warning(
                "%s: nothing scores above %.2f s.d.: check --diameter and --dark, or lower "
                "--threshold", tomogram, found.threshold,
            )
        return _pick_result(found, config, tomogram, output)

    run_once(run, work, as_json)


def _table(
    found: DogResult, name: str, voxel_size: float, wedge: MissingWedge | None
) -> ParticleTable:
    """The picks with the diameter of each."""
    table = picks_table(found.picks, name, voxel_size, wedge)
    return dataclasses.replace(
        table, rows=table.rows.assign(**{DIAMETER_COLUMN: found.diameter_angst}))


def _pick_result(
    found: DogResult, config: DogConfig, tomogram: Path, output: Path
) -> dict[str, Any]:
    """What pick-dog prints."""
    scores = found.picks.score
    return {
        "n_picks": len(scores),
        "n_of_diameter": {
            f"{d:g}": int((found.diameter_angst == d).sum()) for d in config.diameters_angst},
        "threshold": found.threshold,
        "expected_false_positives": found.expected_false_positives,
        "score_max": float(scores.max()) if len(scores) else None,
        "score_median": float(np.median(scores)) if len(scores) else None,
        "n_near_border": found.n_near_border,
        "n_gold": found.n_gold,
        "binning": found.binning,
        "tomogram": tomogram,
        "picks": output if len(scores) else None,
    }
