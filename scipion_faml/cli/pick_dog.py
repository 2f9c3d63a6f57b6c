"""The verb pick-dog."""

from __future__ import annotations

import dataclasses
from typing import Any

import click
import numpy as np

from scipion_faml.cli.picked import Picked, add_picks
from scipion_faml.cli.picking import PickerArguments, picker_options, tile_map_of
from scipion_faml.cli.runs import run_once
from scipion_faml.cli.tomograms import naming
from scipion_faml.picking import dog
from scipion_faml.picking.dog import DogConfig, DogResult
from scipion_faml.tables import DIAMETER_COLUMN


@click.command("pick-dog")
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
@click.option("--filter", "filter_name", default="dog", show_default=True,
              type=click.Choice(list(dog.FILTERS)),
              help="Difference of Gaussians, or Laplacian of a Gaussian: slower, nearly the same.")
@click.option("--tile", default=192, show_default=True, type=click.IntRange(min=16),
              help="Voxels of the tiles worked on at a time: bounds the memory.")
@picker_options
def pick_dog(
    given: PickerArguments, diameters: tuple[float, ...], dark: bool, threshold: float | None,
    false_positives: float, min_distance: float | None, border: float | None, filter_name: str,
    tile: int,
) -> None:
    """Find compact particles of one size, or of several, as maxima of a difference of Gaussians.

    Writes positions (voxels from the first one) with famlScore, the surest first. Where nothing is
    found no file is written, and the result says so. Gold beads are left out.
    """
    config = DogConfig(
        diameters, is_dark=dark, threshold=threshold, false_positives=false_positives,
        max_picks=given.max_picks, tile=tile, min_distance_angst=min_distance,
        border_angst=border, filter=filter_name,
    )
    run = given.run("pick-dog", dataclasses.asdict(config))

    def work() -> dict[str, Any]:
        size = given.voxel_size_angst()
        with given.opened() as (volume, inside):
            with naming(given.tomogram):
                found = dog.pick_dog(volume, size, config, tile_map_of(given.workers), inside)
            given.draw(volume, found.picks, 0.5 * max(diameters) / size)
            add_picks(run.report, _picked(found, config, given, size), volume)
        given.write(
            found.picks, size, f"nothing scores above {found.threshold:.2f} s.d.: check --diameter "
            "and --dark, or lower --threshold", **{DIAMETER_COLUMN: found.diameter_angst})
        return given.result(found.picks, _of_dog(found, config))

    run_once(run, work, given.as_json)


def _picked(
    found: DogResult, config: DogConfig, given: PickerArguments, voxel_size: float
) -> Picked:
    """What the report shows; picks of several sizes are told apart."""
    sizes = config.diameters_angst
    names = {k: f"{d:g} Å" for k, d in enumerate(sizes, 1)} if len(sizes) > 1 else None
    label = 1 + np.abs(np.subtract.outer(found.diameter_angst, sizes)).argmin(axis=1)
    return Picked(
        dataclasses.replace(found.picks, label=label.astype(np.intp)) if names else found.picks,
        given.name, 0.5 * max(sizes) / voxel_size, "score (s.d. of the response)",
        found.threshold, names, notes=[
            f"False picks expected at this threshold, of noise alone: "
            f"{found.expected_false_positives:.2g}. Left out: {found.n_near_border} too near the "
            f"border, {found.n_gold} of gold."])


def _of_dog(found: DogResult, config: DogConfig) -> dict[str, Any]:
    """What pick-dog prints besides what all pickers do."""
    return {
        "n_of_diameter": {
            f"{d:g}": int((found.diameter_angst == d).sum()) for d in config.diameters_angst},
        "threshold": found.threshold,
        "expected_false_positives": found.expected_false_positives,
        "n_near_border": found.n_near_border,
        "n_gold": found.n_gold,
        "binning": found.binning,
    }
