"""Verbs that compare maps: evaluate-average, fsc."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
import numpy as np

from scipion_faml import plots
from scipion_faml.cli.common import common_options, n_workers, workers_option
from scipion_faml.cli.evaluation import evaluate_once, output_option, page_of, report_option
from scipion_faml.cli.reporting import RunReport
from scipion_faml.cli.tomograms import FILE
from scipion_faml.evaluation import superposition
from scipion_faml.evaluation.fsc import (
    fourier_shell_correlation,
    frequencies_per_angst,
    resolution_angst,
)
from scipion_faml.execution import executor_of
from scipion_faml.geometry import invert, matrix_to_euler
from scipion_faml.io import VOXEL_SIZE_TOLERANCE, read_cube, write_volume
from scipion_faml.structures import (
    MODEL_SUFFIXES,
    change_voxel_size,
    kind_of,
    load_structure,
)
from scipion_faml.symmetry import cyclic_fold
from scipion_faml.types import FloatArray
from scipion_faml.volume import crop_or_pad, mirrored

logger = logging.getLogger(__name__)


# ----------------------------------------------------------------------------------- average
@click.command("evaluate-average")
@click.argument("map_file", metavar="MAP", type=FILE)
@click.option("--reference", default=None, type=FILE,
              help="True map (MRC; resampled to the voxels and box of MAP where it differs) or "
              "atomic model (PDB, mmCIF). Needed unless --symmetry is all that is asked.")
@click.option("--model-resolution", type=click.FloatRange(min=0, min_open=True), default=None,
              help="Resolution at which the density of an atomic model is made, angstrom.  "
              "[default: two voxels]")
@click.option("--mask", default="soft", show_default=True,
              help="Where maps are compared: a file in the reference's frame, or soft: a sphere of "
              "0.42 box sizes with a soft edge.")
@click.option("--symmetry", default=None,
              help="Also the self-correlation of copies turned about the n-fold axis (C7, D7 ...); "
              "the axis is found on the reference, or else on MAP.")
@click.option("--hand", type=click.Choice(["same", "mirrored", "best"]), default="same",
              show_default=True, help="Which hand of MAP cc and FSC are measured of.")
@click.option("--no-search", is_flag=True, help="MAP lies on the reference: do not move it.")
@click.option("--aligned", default=None, type=FILE, help="Write MAP as superposed to this file.")
@report_option
@output_option
@workers_option
@common_options
def evaluate_average(
    map_file: Path, reference: Path | None, model_resolution: float | None, mask: str,
    symmetry: str | None, hand: str, no_search: bool, aligned: Path | None, report: Path | None,
    output: Path | None, workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Likeness of a map and a reference after superposing them by rotation and shift.

    cc is Pearson's correlation over the whole box, cc_masked that inside the mask, cc_no_radial the
    latter after taking away both maps' means over spherical shells (round blobs correlate; what is
    left is structure). Both hands are tried.
    """
    if reference is None and symmetry is None:
        raise ValueError("give --reference MAP to compare with, or --symmetry, or both")
    fold = cyclic_fold(symmetry) if symmetry is not None else 0
    settings = {"mask": mask, "model_resolution": model_resolution, "symmetry": symmetry,
                "hand": hand, "no_search": no_search, "aligned": aligned, "report": report}
    inputs = [map_file, *([reference] if reference else []),
              *([Path(mask)] if mask != "soft" else [])]
    page = page_of("evaluate-average", report, output)

    def work() -> dict[str, Any]:
        volume, voxel_size = read_cube(map_file)
        if reference is None:
            result = _symmetry_summary(volume, None, fold)
            _describe_symmetry(page, volume, voxel_size, result)
            return result
        target, voxel_size = _matching_reference(
            reference, volume, voxel_size, str(map_file), model_resolution)
        weight = _mask(mask, volume.shape[0])
        moved, result = _superposed(volume, target, hand, no_search, n_workers(workers))
        result = {"cc": result["cc"], **_likeness(moved, target, weight, voxel_size), **result}
        if fold:
            result |= _symmetry_summary(moved, target, fold)
        if aligned is not None:
            if aligned.exists() and not overwrite:
                raise ValueError(f"{aligned} exists: choose another name or add --overwrite")
            write_volume(aligned, moved, voxel_size)
        _describe_average(page, moved, target, voxel_size, result)
        return result

    evaluate_once("evaluate-average", output, settings, inputs, overwrite, as_json, work, page)


def _matching_reference(
    path: Path, volume: FloatArray, voxel_size: float, name: str,
    model_resolution: float | None = None,
) -> tuple[FloatArray, float]:
    """The reference on the voxels and in the box of the map, and the voxel size of both."""
    if kind_of(str(path)) in MODEL_SUFFIXES:
        if not voxel_size > 0:
            raise ValueError(f"{name} has no voxel size in its header: set it")
        model = load_structure(
            str(path), volume.shape[0], voxel_size, model_resolution or 2.0 * voxel_size)
        return model.map, voxel_size
    target, target_voxel_size = read_cube(path)
    known = [size for size in (voxel_size, target_voxel_size) if size > 0]
    if not known:
        raise ValueError(f"neither {name} nor {path} has a voxel size in its header: set one")
    if len(known) == 1:
        missing = path if voxel_size > 0 else name
        logger.info("%s has no voxel size: taken as %g A", missing, known[0])
        voxel_size = target_voxel_size = known[0]
    n = volume.shape[0]
    background = float(np.concatenate([target[0].ravel(), target[-1].ravel()]).mean())
    target = target - background
    if abs(target_voxel_size / voxel_size - 1.0) > VOXEL_SIZE_TOLERANCE:
        logger.info("%s: resampled from %g to %g A", path, target_voxel_size, voxel_size)
        target = change_voxel_size(target, target_voxel_size, voxel_size)
    if target.shape[0] != n:
        logger.info("%s: box changed from %d to %d voxels", path, target.shape[0], n)
        target = crop_or_pad(target, (n, n, n))
    return target, voxel_size


def _mask(mask: str, n: int) -> FloatArray:
    """The weights of voxels in comparisons."""
    if mask == "soft":
        return superposition.evaluation_mask(n)
    weight = read_cube(mask)[0]
    if weight.shape[0] != n:
        raise ValueError(f"{mask} has a box of {weight.shape[0]}, the map {n}: give one of {n}")
    if weight.min() < 0:
        raise ValueError(f"{mask} has values below 0 ({weight.min():g}): a mask lies in 0 to 1, "
                         "scale it")
    return weight


def _superposed(
    volume: FloatArray, target: FloatArray, hand: str, no_search: bool, threads: int
) -> tuple[FloatArray, dict[str, Any]]:
    """The map on the reference, and how it got there."""
    if no_search:
        likeness = superposition.correlation(volume, target)
        return volume, {"cc": likeness, "hand": "same", "superposed": False}
    versions = {"same": volume, "mirrored": mirrored(volume)}
    fits = executor_of(min(threads, 2)).map(
        lambda version: superposition.superpose(version, target), versions.values())
    found = dict(zip(versions, fits, strict=True))
    # The reference is laid on the map here: turning the map instead would carry some of the noise
    # in its corners out of the box, more or less of it with the angle.
    cc = {
        name: superposition.correlation(
            versions[name], superposition.move_map(target, invert(found[name][0])))
        for name in versions
    }
    better = max(found, key=lambda name: found[name][1])
    chosen = better if hand == "best" else hand
    pose = found[chosen][0]
    return superposition.move_map(versions[chosen], pose), {
        "cc": cc[chosen], "hand": better, "hand_measured": chosen,
        "cc_same": cc["same"], "cc_mirrored": cc["mirrored"], "superposed": True,
        "rotation_euler_zyz_deg": np.rad2deg(matrix_to_euler(pose.rotation[0])),
        "shift_xyz_voxels": pose.shift_xyz[0],
    }


def _likeness(
    moved: FloatArray, target: FloatArray, weight: FloatArray, voxel_size: float
) -> dict[str, Any]:
    """Correlations and FSC of superposed maps."""
    n = target.shape[0]
    flat, flat_target = (superposition.without_radial_mean(v) for v in (moved, target))
    curve = fourier_shell_correlation(moved, target, weight)
    return {
        "cc_masked": superposition.correlation(moved, target, weight),
        "cc_no_radial": superposition.correlation(flat, flat_target, weight),
        "fsc_half_angst": resolution_angst(curve, n, voxel_size, 0.5),
        "fsc_0143_angst": resolution_angst(curve, n, voxel_size, 0.143),
        "fsc": curve,
        "frequency_per_angst": frequencies_per_angst(n, voxel_size),
        "voxel_size_angst": voxel_size, "box": n,
    }


def _symmetry_summary(
    volume: FloatArray, reference: FloatArray | None, fold: int
) -> dict[str, Any]:
    """Self-correlation about the n-fold axis of the reference, or of the map itself."""
    source = volume if reference is None else reference
    frame, score = superposition.symmetry_frame(source, fold)
    on_axis = superposition.move_map(volume, frame)
    result: dict[str, Any] = {
        "self_correlation": superposition.self_correlation(on_axis, fold),
        "symmetry_fold": fold,
        "symmetry_axis_xyz": frame.rotation[0][2],
        "symmetry_axis_found_on": "map" if reference is None else "reference",
        "symmetry_axis_score": score,
    }
    if reference is not None:
        result["self_correlation_reference"] = superposition.self_correlation(
            superposition.move_map(reference, frame), fold
        )
    return result


def _describe_average(
    page: RunReport, moved: FloatArray, target: FloatArray, voxel_size: float,
    result: dict[str, Any],
) -> None:
    """Fill the report: both maps side by side, and their FSC."""
    page.title = "A map and its reference"
    half = result["fsc_half_angst"]
    agreed = f"agree to {half:.3g} Å (FSC 0.5)" if np.isfinite(half) else "agree at no resolution"
    page.say_in_short(
        f"Correlation {result['cc']:.3f}, inside the mask {result['cc_masked']:.3f}, without "
        f"radial means {result['cc_no_radial']:.3f}. The maps {agreed}.",
        *([f"The {'same' if result['hand'] == 'same' else 'other'} hand fits better: correlation "
           f"{result['cc_same']:.3f} as it is, {result['cc_mirrored']:.3f} mirrored."]
          if result.get("superposed") else ["The map was not moved."]),
        *_symmetry_words(result))
    page.draw_in_short(
        "Central slices and projections of the superposed map and of the reference, and surfaces.",
        plots.class_gallery, np.stack([moved, target]), ["map", "reference"], voxel_size)
    page.draw("Resolution", "Fourier shell correlation inside the mask.", plots.fsc_curves,
              {"map and reference": (result["frequency_per_angst"], result["fsc"])})


def _describe_symmetry(
    page: RunReport, volume: FloatArray, voxel_size: float, result: dict[str, Any]
) -> None:
    """Fill the report of a map whose symmetry alone is asked for."""
    page.title = "Symmetry of a map"
    page.say_in_short(*_symmetry_words(result))
    page.draw_in_short("Central slices and projections along z, y and x, and a surface.",
                       plots.class_gallery, volume, ["map"], voxel_size)


def _symmetry_words(result: dict[str, Any]) -> list[str]:
    """How well a map agrees with its turned copies, where it was asked."""
    if "self_correlation" not in result:
        return []
    return [f"Turned about the {result['symmetry_fold']}-fold axis (of the "
            f"{result['symmetry_axis_found_on']}) the map correlates with itself by "
            f"{result['self_correlation']:.3f} (mean over pairs of turned copies)."]
