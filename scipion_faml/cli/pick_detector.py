"""The verb pick-detector. PyTorch is imported when it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np

from scipion_faml.cli.common import progress
from scipion_faml.cli.picked import Picked, add_picks
from scipion_faml.cli.picking import PickerArguments, picker_options
from scipion_faml.cli.runs import run_once
from scipion_faml.cli.tomograms import FILE, naming
from scipion_faml.cli.torch_modules import device_option, torch_module
from scipion_faml.detector.detections import Detections
from scipion_faml.detector.view import is_same_size, view_of
from scipion_faml.tables import CLASS_NAME_COLUMN
from scipion_faml.types import FloatArray

logger = logging.getLogger(__name__)


@click.command("pick-detector")
@click.option("--weights", "weights_file", default=None, type=FILE,
              help="weights.pt of train-detector.  [default: the shipped detector of any globular "
              "particle]")
@click.option("--threshold", default=None, type=click.FloatRange(0.0, 1.0),
              help="Lowest score kept.  [default: those of the weights, for each class]")
@click.option("--min-distance", default=None, type=click.FloatRange(min=0, min_open=True),
              help="Between picks, angstrom.  [default: half the class's diameter]")
@click.option("--border", default=0.0, show_default=True, type=click.FloatRange(min=0),
              help="Picks keep this distance from the tomogram's faces, angstrom.")
@click.option("--dark/--bright", default=None,
              help="Particles are darker, or brighter, than their surroundings.  [default: as in "
              "training]")
@click.option("--tile", default=None, type=click.IntRange(min=32),
              help="Voxels of the tiles worked on at a time: bounds the memory.  [default: 208]")
@click.option("--mirrors", default=1, show_default=True, type=click.IntRange(1, 8),
              help="Look at so many mirror images of each tile and average what is seen: surer "
              "names, for as many times the time.")
@device_option
@picker_options
def pick_detector(
    given: PickerArguments, weights_file: Path | None, threshold: float | None,
    min_distance: float | None, border: float, dark: bool | None, tile: int | None, mirrors: int,
    device: str,
) -> None:
    """Find and name particles with a trained detector.

    Writes positions (voxels from the first one) with famlScore, rlnClassNumber and famlModel, the
    surest first. Where nothing is found no file is written, and the result says so.
    """
    weights = torch_module("weights", given.workers)
    predict = torch_module("predict", given.workers)
    chosen = weights_file or weights.pretrained()
    settings = {
        "threshold": threshold, "min_distance": min_distance, "border": border, "dark": dark,
        "tile": tile, "mirrors": mirrors, "weights": chosen,
    }
    run = given.run("pick-detector", settings, chosen)

    def work() -> dict[str, Any]:
        where = predict.device_of(device)
        detector = weights.load(chosen)
        trained = detector.settings
        size = given.voxel_size_angst()
        if not is_same_size(size, trained.voxel_size_angst):
            logger.warning("%s: its voxels of %g A are brought to the detector's %g A",
                           given.tomogram, size, trained.voxel_size_angst)
        with given.opened() as (volume, region):
            with naming(given.tomogram):
                view = view_of(volume, size, trained.voxel_size_angst,
                               trained.is_dark if dark is None else dark)
                found = predict.find(
                    detector, view, where, region if view.scale == 1.0 else None, tile,
                    None if min_distance is None else min_distance / trained.voxel_size_angst,
                    _tiles_bar, mirrors)
                picks = predict.picks_of(
                    found, detector, view, threshold, border / size, given.max_picks, region)
            radius = 0.5 * float(np.median(trained.diameters)) * view.scale
            names = dict(zip(trained.class_numbers, trained.class_names, strict=True))
            given.draw(volume, picks, radius)
            limits = trained.thresholds if threshold is None else [threshold] * len(names)
            add_picks(run.report, Picked(
                picks, given.name, radius, "score", dict(zip(names.values(), limits,
                                                                 strict=True)),
                names, _not_kept(found, np.array(limits)),
                [f"{len(found)} candidates were found; thresholds are those of "
                 f"{trained.thresholds_from if threshold is None else '--threshold'}."]), volume)
        given.write(
            picks, size, "nothing scores enough: check --dark and the voxel size, or lower "
            "--threshold", rlnClassNumber=picks.label,
            **{CLASS_NAME_COLUMN: [names[int(k)] for k in picks.label]})
        return given.result(picks, {
            "per_class": {name: int((picks.label == k).sum()) for k, name in names.items()},
            "n_candidates": len(found), "voxel_size_angst": size,
            "detector_voxel_size_angst": trained.voxel_size_angst,
            "diameters_angst": [d * trained.voxel_size_angst for d in trained.diameters],
            "thresholds_from": trained.thresholds_from if threshold is None else "--threshold",
            "device": str(where), "weights": chosen,
        })

    run_once(run, work, given.as_json)


def _not_kept(found: Detections, limits: FloatArray) -> FloatArray:
    """Scores of the candidates below their class's threshold."""
    scores: FloatArray = found.score[found.score < limits[found.class_index]]
    return scores


def _tiles_bar(groups: list[Any]) -> Iterable[Any]:
    return progress(groups, len(groups), "tiles")
