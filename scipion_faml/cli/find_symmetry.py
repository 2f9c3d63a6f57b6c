"""The verb find-symmetry: axes about which a map looks like itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from scipion_faml import plots
from scipion_faml.cli.common import common_options, seed_option, workers_option
from scipion_faml.cli.evaluation import evaluate_once, output_option, page_of, report_option
from scipion_faml.cli.reporting import RunReport
from scipion_faml.cli.tomograms import FILE
from scipion_faml.cli.validation import figure_option, read_mask, write_figure
from scipion_faml.evaluation import superposition
from scipion_faml.evaluation.self_correlation import (
    LARGEST_FOLD,
    CyclicAxis,
    GroupFit,
    cyclic_axes,
    fitted_group,
    frame_of_axis,
    is_larger_group,
    larger_groups,
    mean_over_turns,
    self_correlation_curve,
    with_controls,
)
from scipion_faml.fourier import low_pass as low_passed
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import read_cube, write_volume
from scipion_faml.plots import validation as pictures
from scipion_faml.types import FloatArray

TURN_STEP_DEG = 0.5


@click.command("find-symmetry")
@click.argument("map_file", metavar="MAP", type=FILE)
@click.option("--fold", type=click.IntRange(2, 100), default=None,
              help="Test this fold alone; its axis is found.  [default: all up to --max-fold]")
@click.option("--max-fold", type=click.IntRange(2, 60), default=LARGEST_FOLD, show_default=True,
              help="Highest fold looked for.")
@click.option("--cyclic-only", is_flag=True,
              help="Do not try dihedral, tetrahedral, octahedral and icosahedral groups.")
@click.option("--low-pass", type=click.FloatRange(min=0, min_open=True), default=None,
              help="Ignore finer detail, angstrom.  [default: all that the map holds]")
@click.option("--mask", default=None, type=FILE,
              help="Multiply the map by this first; a mask must not have the symmetry itself.")
@click.option("--aligned", default=None, type=FILE,
              help="Write the map with its main axis on z (and axes as in RELION) to this file.")
@figure_option
@report_option
@output_option
@seed_option
@workers_option
@common_options
def find_symmetry(
    map_file: Path, fold: int | None, max_fold: int, cyclic_only: bool, low_pass: float | None,
    mask: Path | None, aligned: Path | None, figure: Path | None, report: Path | None,
    output: Path | None, seed: int, workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Rotational symmetry of a map: any Cn, its axis found; then dihedral and polyhedral groups.

    self_correlation is the mean correlation of all pairs of copies turned by 360 / n degrees (the
    seventeen-fold test of Zhao et al. 2018 is --fold 17). Round maps correlate under any turn: an
    axis counts when the circular harmonics at multiples of n stand out of those between, by more
    than 6 standard deviations of the same figure about other axes of the map (z), and by a contrast
    above 0.2 (mean log ratio). A map whose particles share a missing wedge has a two-fold axis.

    JSON: group, fold, is_significant, self_correlation, self_correlation_detail (circular mean left
    out), self_correlation_between (turns half way), z, contrast, power_share, axis_xyz,
    centre_xyz_voxels, axes (all looked at), groups (correlation, control, z of groups tried),
    turn_deg and curve, order_power.
    """
    settings = {"fold": fold, "max_fold": max_fold, "cyclic_only": cyclic_only,
                "low_pass": low_pass, "mask": mask, "aligned": aligned, "figure": figure,
                "report": report, "seed": seed}
    page = page_of("find-symmetry", report, output)

    def work() -> dict[str, Any]:
        volume, voxel_size = read_cube(map_file)
        if low_pass is not None:
            if not voxel_size > 0:
                raise ValueError(f"{map_file} has no voxel size in its header: leave out "
                                 "--low-pass, or set it")
            volume = low_passed(volume, voxel_size, low_pass)
        if mask is not None:
            volume = volume * read_mask(mask, volume.shape[0])
        result, frame = _found(volume, fold, max_fold, cyclic_only, seed)
        if aligned is not None:
            if aligned.exists() and not overwrite:
                raise ValueError(f"{aligned} exists: choose another name or add --overwrite")
            write_volume(aligned, superposition.move_map(volume, frame), voxel_size)
        _show(page, figure, result, superposition.move_map(volume, frame), voxel_size)
        return result

    evaluate_once("find-symmetry", output, settings, [map_file, *([mask] if mask else [])],
                  overwrite, as_json, work, page)


def _found(
    volume: FloatArray, fold: int | None, max_fold: int, cyclic_only: bool, seed: int
) -> tuple[dict[str, Any], RigidTransforms]:
    """All numbers, and the pose that carries the map into the group's frame."""
    folds = np.arange(2, max_fold + 1) if fold is None else np.array([fold])
    axes = cyclic_axes(volume, folds)
    main = axes[0]
    frame = frame_of_axis(main)
    rng = np.random.default_rng([seed, 0])
    fits = [with_controls(volume, f"C{main.fold}", frame, rng)]
    if main.is_significant and not cyclic_only:
        fits += [fitted_group(volume, group, rng) for group in larger_groups(main.fold)]
    group, frame = _largest(main, fits, frame)
    at_turns, between = mean_over_turns(main.power, main.fold)
    turns = np.arange(0.0, 180.0 + 1e-9, TURN_STEP_DEG)
    on_axis = superposition.move_map(volume, frame_of_axis(main))
    return {
        "group": group, "fold": main.fold, "is_significant": main.is_significant,
        "self_correlation": superposition.self_correlation(on_axis, main.fold),
        "self_correlation_detail": at_turns, "self_correlation_between": between,
        "z": main.z, "contrast": main.contrast, "power_share": main.share,
        "axis_xyz": main.axis, "centre_xyz_voxels": main.centre,
        "axes": [_axis_numbers(one) for one in axes],
        "groups": {fit.group: {"correlation": fit.correlation, "control": fit.control_mean,
                               "control_spread": fit.control_spread, "z": fit.z} for fit in fits},
        "turn_deg": turns, "curve": self_correlation_curve(main.power, turns),
        "order_power": main.power / main.power.sum(),
    }, frame


def _largest(
    main: CyclicAxis, fits: list[GroupFit], frame: RigidTransforms
) -> tuple[str, RigidTransforms]:
    """The largest group that fits, and its frame."""
    if not main.is_significant:
        return "C1", frame
    cyclic, *others = fits
    fitting = [fit for fit in others if is_larger_group(fit, cyclic)]
    if not fitting:
        return cyclic.group, frame
    best = fitting[-1]  # from dihedral to icosahedral
    return best.group, best.frame


def _axis_numbers(one: CyclicAxis) -> dict[str, Any]:
    """One axis under the names of the JSON."""
    return {"fold": one.fold, "z": one.z, "contrast": one.contrast, "power_share": one.share,
            "is_significant": one.is_significant, "axis_xyz": one.axis,
            "centre_xyz_voxels": one.centre}


def _show(
    page: RunReport, figure: Path | None, result: dict[str, Any], moved: FloatArray,
    voxel_size: float,
) -> None:
    """The report and the picture."""
    page.title = "Symmetry of a map"
    axis = f"C{result['fold']}, self-correlation {result['self_correlation']:.2f}"
    page.say_in_short(
        f"Symmetry {result['group']}: {axis}, {result['z']:.1f} standard deviations above other "
        "axes." if result["is_significant"] else
        f"No symmetry stands out. The best axis is {axis}, {result['z']:.1f} standard deviations "
        "above others.")
    arguments = (result["turn_deg"], result["curve"], result["fold"], result["order_power"])
    page.draw("Self-correlation", "Correlation of the map with itself turned about its main axis, "
              "circular mean left out, and the power of its circular harmonics; orange: turns and "
              "orders of the axis.", pictures.self_correlation, *arguments)
    page.draw("Map", "With the main axis along z.", plots.class_gallery, moved, ["map"],
              voxel_size or None)
    write_figure(figure, pictures.self_correlation, *arguments)
