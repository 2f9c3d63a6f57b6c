"""Verbs that compare results with known answers: evaluate-*, fsc."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml import __version__, plots
from scipion_faml.cli.common import (
    common_options,
    file_stamp,
    n_workers,
    plain,
    seed_option,
    show,
    workers_option,
)
from scipion_faml.cli.truth import (
    RowMatch,
    by_tomogram,
    coordinate_voxel_size_angst,
    match_rows,
    particle_centres_angst,
    true_poses,
)
from scipion_faml.evaluation import classes, picks, poses, superposition
from scipion_faml.evaluation.fsc import (
    corrected_fsc,
    fourier_shell_correlation,
    frequencies_per_angst,
    resolution_angst,
)
from scipion_faml.execution import executor_of
from scipion_faml.geometry import invert, matrix_to_euler
from scipion_faml.io import (
    VOXEL_SIZE_TOLERANCE,
    ParticleTable,
    read_cube,
    read_particles,
    read_volume,
    replacing,
    write_particles,
    write_volume,
)
from scipion_faml.report import Report
from scipion_faml.structures import change_voxel_size
from scipion_faml.symmetry import cyclic_fold, symmetry_rotations
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.volume import crop_or_pad

_File = click.Path(path_type=Path, dir_okay=False)
_truth_option = click.option(
    "--truth", required=True, type=_File, help="STAR file with the known answers."
)
_radius_option = click.option(
    "--radius", default=None, type=click.FloatRange(min=0, min_open=True),
    help="Match particles by position within this distance (angstrom); particles without a "
    "partner are counted, not judged.  [default: match by rlnImageName, else by order]",
)
_report_option = click.option(
    "--report", default=None, type=_File, help="Write figures and tables to this HTML file."
)
_output_option = click.option(
    "--output", default=None, type=_File, help="Write the result to this JSON file."
)


def _evaluate_once(
    verb: str, output: Path | None, settings: dict[str, Any], inputs: list[Path],
    overwrite: bool, as_json: bool, work: Callable[[], dict[str, Any]],
) -> None:
    """Do `work` and print what it returns; with `output`, keep it there and do not repeat it."""
    for path in inputs:
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
    record = plain({
        "verb": verb, "version": __version__, **settings,
        "inputs": {str(path): file_stamp(path) for path in inputs},
    })
    known = _recorded(output) if output is not None else None
    if known is not None and known.get("run") == record:
        click.echo(f"{output} holds this evaluation, finished: nothing to do", err=True)
        show({k: v for k, v in known.items() if k != "run"}, as_json)
        return
    if output is not None and output.exists() and not overwrite:
        raise ValueError(f"{output} holds something else: choose another --output or --overwrite")
    result = plain(work())
    if output is not None:
        with replacing(output) as temporary:
            temporary.write_text(json.dumps({**result, "run": record}, indent=1))
    show(result, as_json)


def _recorded(output: Path) -> dict[str, Any] | None:
    """What an earlier evaluation left in `output`, if it is one."""
    try:
        known = json.loads(output.read_text())
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) else None


def _classes_of(table: ParticleTable) -> IntArray:
    """rlnClassNumber, or 1 for all."""
    if "rlnClassNumber" in table.rows:
        return np.asarray(table.rows["rlnClassNumber"].to_numpy(), dtype=np.intp)
    return np.ones(len(table), dtype=np.intp)


def _class_names(truth: ParticleTable) -> dict[int, str]:
    """Names of true classes: the structure's where the truth says it."""
    labels = _classes_of(truth)
    if "famlModel" not in truth.rows:
        return {int(label): f"class {label}" for label in np.unique(labels)}
    models = truth.rows["famlModel"].to_numpy()
    return {int(label): str(models[labels == label][0]) for label in np.unique(labels)}


# ------------------------------------------------------------------------------------- poses
@click.command("evaluate-poses")
@click.argument("particles", type=_File)
@_truth_option
@click.option("--symmetry", default="C1", show_default=True,
              help="Point group of the true map: C7, D7, T, O, I ...; one for each true class in "
              "the order of their numbers, separated by commas, where they differ.")
@_radius_option
@click.option("--no-global-frame", is_flag=True,
              help="Averages lie as the true maps do: do not look for a common turn and shift.")
@click.option("--errors", default=None, type=_File,
              help="Write the particles with famlRotationError (deg) and famlShiftError (voxels) "
              "to this STAR file.")
@_report_option
@_output_option
@workers_option
@common_options
def evaluate_poses(
    particles: Path, truth: Path, symmetry: str, radius: float | None, no_global_frame: bool,
    errors: Path | None, report: Path | None, output: Path | None, workers: int | None,
    as_json: bool, overwrite: bool,
) -> None:
    """Rotation error (deg) and shift error (voxels) of poses, modulo symmetry and global frame.

    The average of each class may lie turned and shifted against the true map as a whole; this
    common motion is found from the particles and reported, not counted as an error.
    """
    settings = {"symmetry": symmetry, "radius": radius, "no_global_frame": no_global_frame,
                "errors": errors, "report": report}

    def work() -> dict[str, Any]:
        table, known = read_particles(particles), read_particles(truth)
        match = match_rows(table, known, radius)
        labels = _classes_of(known)[match.truth]
        groups = _symmetry_of_classes(symmetry, np.unique(_classes_of(known)))
        found = poses.pose_errors(
            table.poses[match.particle], true_poses(table, known, match),
            {label: symmetry_rotations(name) for label, name in groups.items()},
            labels, _classes_of(table)[match.particle], no_global_frame,
        )
        if errors is not None:
            _write_errors(errors, table, match, found)
        if report is not None:
            _report_poses(report, found, labels, _class_names(known))
        return _pose_summary(table, known, match, found, labels, groups)

    _evaluate_once("evaluate-poses", output, settings, [particles, truth], overwrite, as_json, work)


def _symmetry_of_classes(symmetry: str, labels: IntArray) -> dict[int, str]:
    """Point group of every true class."""
    names = [name.strip() for name in symmetry.split(",")]
    if len(names) == 1:
        names = names * len(labels)
    if len(names) != len(labels):
        raise ValueError(
            f"--symmetry {symmetry} names {len(names)} point groups for {len(labels)} true classes"
        )
    return {int(label): name for label, name in zip(labels, names, strict=True)}


def _pose_summary(
    table: ParticleTable, truth: ParticleTable, match: RowMatch, found: poses.PoseErrors,
    labels: IntArray, groups: dict[int, str],
) -> dict[str, Any]:
    """All numbers of evaluate-poses."""
    order = max(len(symmetry_rotations(name)) for name in groups.values())
    per_class = {
        label: {
            "symmetry": groups[label],
            **poses.summarise(found.rotation_deg[labels == label],
                              found.shift_voxels[labels == label]),
        }
        for label in sorted(set(labels.tolist()))
    }
    return {
        **poses.summarise(found.rotation_deg, found.shift_voxels),
        "n_without_frame": int(np.isnan(found.rotation_deg).sum()),
        "n_unmatched_particles": len(table) - len(match.particle),
        "n_unmatched_truth": len(truth) - len(match.truth),
        "matched_by": match.matched_by,
        "voxel_size_angst": table.voxel_size_angst,
        # What poses drawn at random would reach; the frame adds one particle's worth to it.
        "chance_within_10_deg": poses.chance_fraction(10.0, order),
        "chance_within_20_deg": poses.chance_fraction(20.0, order),
        "per_class": per_class,
        "global_frames": [
            {
                "assigned_class": assigned, "true_class": actual, "angle_deg": frame.angle_deg,
                "euler_zyz_deg": frame.euler_zyz_deg, "centre_xyz_voxels": frame.centre_xyz,
            }
            for (assigned, actual), frame in found.frames.items()
        ],
    }


def _write_errors(
    path: Path, table: ParticleTable, match: RowMatch, found: poses.PoseErrors
) -> None:
    """The particles with a column for each error; NaN where there is none."""
    columns = {}
    for name, values in (("famlRotationError", found.rotation_deg),
                         ("famlShiftError", found.shift_voxels)):
        column = np.full(len(table), np.nan)
        column[match.particle] = values
        columns[name] = column
    write_particles(path, table.with_columns(**columns))


def _report_poses(
    path: Path, found: poses.PoseErrors, labels: IntArray, names: dict[int, str]
) -> None:
    """Histograms and a table of classes."""
    rows = [
        {"class": names[label], **poses.summarise(found.rotation_deg[labels == label],
                                                  found.shift_voxels[labels == label])}
        for label in sorted(set(labels.tolist()))
    ]
    Report("Pose errors").add_figure(
        plots.pose_errors(found.rotation_deg, found.shift_voxels),
        "Errors of all particles, modulo symmetry and the common motion of each average.",
    ).add_table("By true class", pd.DataFrame(rows)).write(path)


# ----------------------------------------------------------------------------------- classes
@click.command("evaluate-classes")
@click.argument("particles", type=_File)
@_truth_option
@_radius_option
@_report_option
@_output_option
@workers_option
@common_options
def evaluate_classes(
    particles: Path, truth: Path, radius: float | None, report: Path | None,
    output: Path | None, workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Confusion matrix of classes after their best one-to-one match, F1, adjusted Rand index."""
    settings = {"radius": radius, "report": report}

    def work() -> dict[str, Any]:
        table, known = read_particles(particles), read_particles(truth)
        for one in (table, known):
            one.require("rlnClassNumber")
        match = match_rows(table, known, radius)
        agreement = classes.compare_classes(
            _classes_of(known)[match.truth], _classes_of(table)[match.particle]
        )
        names = _class_names(known)
        if report is not None:
            _report_classes(report, agreement, names)
        return {
            **_class_summary(agreement),
            "true_names": [names[int(label)] for label in agreement.true_labels],
            "n_particles": len(match.particle),
            "n_unmatched_particles": len(table) - len(match.particle),
            "n_unmatched_truth": len(known) - len(match.truth),
            "matched_by": match.matched_by,
        }

    _evaluate_once(
        "evaluate-classes", output, settings, [particles, truth], overwrite, as_json, work)


def _class_summary(agreement: classes.ClassAgreement) -> dict[str, Any]:
    """Numbers of a confusion matrix; `matched` is the assigned class of each true one, or None."""
    return {
        "f1_mean": agreement.f1_mean,
        "f1": agreement.f1,
        "ari": agreement.adjusted_rand_index,
        "confusion": agreement.confusion,
        "matched": [
            int(agreement.assigned_labels[p]) if p >= 0 else None for p in agreement.partner
        ],
        "accuracy": agreement.accuracy,
        "purity": agreement.purity,
        "precision": agreement.precision,
        "recall": agreement.recall,
        "true_classes": agreement.true_labels,
        "assigned_classes": agreement.assigned_labels,
    }


def _report_classes(
    path: Path, agreement: classes.ClassAgreement, names: dict[int, str]
) -> None:
    """The confusion matrix as a picture, and F1 by class."""
    rows = [names[int(label)] for label in agreement.true_labels]
    summary = _class_summary(agreement)
    table = pd.DataFrame({"class": rows, **{k: summary[k] for k in ("precision", "recall", "f1")}})
    whole = {k: summary[k] for k in ("f1_mean", "ari", "accuracy", "purity")}
    Report("Classes against the truth").add_figure(
        plots.confusion(agreement.confusion, rows, [str(k) for k in agreement.assigned_labels]),
        "Particles of each true class (rows) in each assigned class (columns).",
    ).add_table("Overall", whole).add_table("By true class", table).write(path)


# ----------------------------------------------------------------------------------- average
@click.command("evaluate-average")
@click.argument("map_file", metavar="MAP", type=_File)
@click.option("--reference", default=None, type=_File,
              help="True map; resampled to the voxels and box of MAP where it differs. Needed "
              "unless --symmetry is all that is asked.")
@click.option("--mask", default="soft", show_default=True,
              help="Where maps are compared: a file in the reference's frame, or soft: a sphere of "
              "0.42 box sizes with a soft edge.")
@click.option("--symmetry", default=None,
              help="Also the self-correlation of copies turned about the n-fold axis (C7, D7 ...); "
              "the axis is found on the reference, or else on MAP.")
@click.option("--hand", type=click.Choice(["same", "mirrored", "best"]), default="same",
              show_default=True, help="Which hand of MAP cc and FSC are measured of.")
@click.option("--no-search", is_flag=True, help="MAP lies on the reference: do not move it.")
@click.option("--aligned", default=None, type=_File, help="Write MAP as superposed to this file.")
@_report_option
@_output_option
@workers_option
@common_options
def evaluate_average(
    map_file: Path, reference: Path | None, mask: str, symmetry: str | None, hand: str,
    no_search: bool, aligned: Path | None, report: Path | None, output: Path | None,
    workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Likeness of a map and a reference after superposing them by rotation and shift.

    cc is Pearson's correlation over the whole box, cc_masked that inside the mask, cc_no_radial the
    latter after taking away both maps' means over spherical shells (round blobs correlate; what is
    left is structure). Both hands are tried.
    """
    if reference is None and symmetry is None:
        raise ValueError("give --reference MAP to compare with, or --symmetry, or both")
    fold = cyclic_fold(symmetry) if symmetry is not None else 0
    settings = {"mask": mask, "symmetry": symmetry, "hand": hand, "no_search": no_search,
                "aligned": aligned, "report": report}
    inputs = [map_file, *([reference] if reference else []),
              *([Path(mask)] if mask != "soft" else [])]

    def work() -> dict[str, Any]:
        volume, voxel_size = read_cube(map_file)
        if reference is None:
            return _symmetry_summary(volume, None, fold)
        target, voxel_size = _matching_reference(reference, volume, voxel_size, str(map_file))
        weight = _mask(mask, volume.shape[0])
        moved, result = _superposed(volume, target, hand, no_search, n_workers(workers))
        result = {"cc": result["cc"], **_likeness(moved, target, weight, voxel_size), **result}
        if fold:
            result |= _symmetry_summary(moved, target, fold)
        if aligned is not None:
            if aligned.exists() and not overwrite:
                raise ValueError(f"{aligned} exists: choose another name or add --overwrite")
            write_volume(aligned, moved, voxel_size)
        if report is not None:
            _report_average(report, moved, target, voxel_size, result)
        return result

    _evaluate_once("evaluate-average", output, settings, inputs, overwrite, as_json, work)


def _matching_reference(
    path: Path, volume: FloatArray, voxel_size: float, name: str
) -> tuple[FloatArray, float]:
    """The reference on the voxels and in the box of the map, and the voxel size of both."""
    target, target_voxel_size = read_cube(path)
    known = [size for size in (voxel_size, target_voxel_size) if size > 0]
    if not known:
        raise ValueError(f"neither {name} nor {path} has a voxel size in its header: set one")
    if len(known) == 1:
        missing = path if voxel_size > 0 else name
        click.echo(f"{missing} has no voxel size: taken as {known[0]:g} A", err=True)
        voxel_size = target_voxel_size = known[0]
    n = volume.shape[0]
    background = float(np.concatenate([target[0].ravel(), target[-1].ravel()]).mean())
    target = target - background
    if abs(target_voxel_size / voxel_size - 1.0) > VOXEL_SIZE_TOLERANCE:
        click.echo(f"{path}: resampled from {target_voxel_size:g} to {voxel_size:g} A", err=True)
        target = change_voxel_size(target, target_voxel_size, voxel_size)
    if target.shape[0] != n:
        click.echo(f"{path}: box changed from {target.shape[0]} to {n} voxels", err=True)
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
        raise ValueError(f"{mask} has values below 0 ({weight.min():g}): a mask lies in 0 to 1")
    return weight


def _superposed(
    volume: FloatArray, target: FloatArray, hand: str, no_search: bool, threads: int
) -> tuple[FloatArray, dict[str, Any]]:
    """The map on the reference, and how it got there."""
    if no_search:
        likeness = superposition.correlation(volume, target)
        return volume, {"cc": likeness, "hand": "same", "superposed": False}
    versions = {"same": volume, "mirrored": superposition.mirrored(volume)}
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


def _report_average(
    path: Path, moved: FloatArray, target: FloatArray, voxel_size: float, result: dict[str, Any]
) -> None:
    """Both maps side by side, the FSC and the numbers."""
    numbers = {k: v for k, v in result.items() if k not in {"fsc", "frequency_per_angst"}}
    gallery = plots.class_gallery(np.stack([moved, target]), ["map", "reference"], voxel_size)
    curves = {"map and reference": (result["frequency_per_angst"], result["fsc"])}
    Report("A map and its reference").add_figure(
        gallery, "Central slices and projections of the superposed map and of the reference."
    ).add_figure(
        plots.fsc_curves(curves), "Fourier shell correlation inside the mask."
    ).add_table("Numbers", numbers).write(path)


# --------------------------------------------------------------------------------------- fsc
@click.command("fsc")
@click.argument("half1", type=_File)
@click.argument("half2", type=_File)
@click.option("--mask", default=None,
              help="Multiply both maps by this mask first: a file, or soft: a sphere of 0.42 box "
              "sizes with a soft edge. What the mask itself correlates is taken off (phases "
              "randomised); fsc_masked is the curve before that.")
@click.option("--curve", default=None, type=_File, help="Write the curve to this CSV file.")
@_report_option
@_output_option
@seed_option
@workers_option
@common_options
def fsc(
    half1: Path, half2: Path, mask: str | None, curve: Path | None, report: Path | None,
    output: Path | None, seed: int, workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Fourier shell correlation of two half maps, and the resolution at 0.143 and 0.5."""
    settings = {"mask": mask, "curve": curve, "report": report, "seed": seed}
    inputs = [half1, half2, *([Path(mask)] if mask not in (None, "soft") else [])]

    def work() -> dict[str, Any]:
        (first, voxel_size), (second, other_size) = read_cube(half1), read_cube(half2)
        voxel_size = _common_voxel_size(half1, voxel_size, half2, other_size)
        if first.shape != second.shape:
            raise ValueError(
                f"{half1} has a box of {first.shape[0]}, {half2} of {second.shape[0]}: they must "
                "be halves of one set"
            )
        n = first.shape[0]
        curves = _half_map_curves(first, second, mask, seed)
        frequency = frequencies_per_angst(n, voxel_size)
        if curve is not None:
            with replacing(curve) as temporary:
                pd.DataFrame({"frequency_per_angst": frequency, **curves}).to_csv(
                    temporary, index=False)
        if report is not None:
            drawn = {name: (frequency, values) for name, values in curves.items()}
            Report("Fourier shell correlation").add_figure(plots.fsc_curves(drawn)).write(report)
        return {
            "fsc_0143_angst": resolution_angst(curves["fsc"], n, voxel_size, 0.143),
            "fsc_half_angst": resolution_angst(curves["fsc"], n, voxel_size, 0.5),
            "voxel_size_angst": voxel_size, "box": n,
            **curves, "frequency_per_angst": frequency,
        }

    _evaluate_once("fsc", output, settings, inputs, overwrite, as_json, work)


def _half_map_curves(
    first: FloatArray, second: FloatArray, mask: str | None, seed: int
) -> dict[str, FloatArray]:
    """The FSC, and with a mask also those it was made from."""
    raw = fourier_shell_correlation(first, second)
    if mask is None:
        return {"fsc": raw}
    weight = _mask(mask, first.shape[0])
    rng = np.random.default_rng([seed, 0])
    return {
        "fsc": corrected_fsc(first, second, weight, rng),
        "fsc_masked": fourier_shell_correlation(first, second, weight),
        "fsc_unmasked": raw,
    }


def _common_voxel_size(first: Path, size: float, second: Path, other: float) -> float:
    """The voxel size of two maps that must share it (angstrom)."""
    known = [s for s in (size, other) if s > 0]
    if not known:
        raise ValueError(f"neither {first} nor {second} has a voxel size in its header: set it")
    if max(known) > min(known) * (1 + VOXEL_SIZE_TOLERANCE):
        raise ValueError(f"{first} has voxels of {size:g} A, {second} of {other:g} A: they must "
                         "be halves of one set")
    return known[0]


# ------------------------------------------------------------------------------------- picks
@click.command("evaluate-picks")
@click.argument("picks_file", metavar="PICKS", type=_File)
@_truth_option
@click.option("--radius", default=None, type=click.FloatRange(min=0, min_open=True),
              help="A pick within this distance of a particle found it (angstrom).")
@click.option("--labels", default=None, type=_File,
              help="MRC of the tomogram's size with the class of every voxel: a pick on a "
              "particle's voxels, or within --radius of them, found it.")
@_report_option
@_output_option
@workers_option
@common_options
def evaluate_picks(
    picks_file: Path, truth: Path, radius: float | None, labels: Path | None,
    report: Path | None, output: Path | None, workers: int | None, as_json: bool,
    overwrite: bool,
) -> None:
    """Precision, recall and F1 of picked positions, one pick to a particle at most."""
    if radius is None and labels is None:
        raise ValueError("give --radius ANGSTROM, or --labels MRC, or both")
    settings = {"radius": radius, "report": report}
    inputs = [picks_file, truth, *([labels] if labels else [])]

    def work() -> dict[str, Any]:
        table, known = read_particles(picks_file), read_particles(truth)
        if labels is not None:
            found = _found_by_labels(table, known, labels, radius or 0.0)
        else:
            found = _found_by_radius(table, known, float(radius or 0.0))
        result = _pick_summary(found, table, known)
        if report is not None:
            numbers = {k: v for k, v in result.items() if k != "per_class"}
            rows = [{"class": k, **v} for k, v in result["per_class"].items()]
            Report("Picks against the truth").add_table("Overall", numbers).add_table(
                "By true class", pd.DataFrame(rows)).write(report)
        return result

    _evaluate_once("evaluate-picks", output, settings, inputs, overwrite, as_json, work)


def _found_by_radius(
    table: ParticleTable, truth: ParticleTable, radius_angst: float
) -> picks.PickAgreement:
    """Agreement over all tomograms, distances in angstrom."""
    here, there = particle_centres_angst(table), particle_centres_angst(truth)
    rows = by_tomogram(table, truth)
    parts = [picks.compare_positions(here[a], there[b], radius_angst) for a, b in rows]
    return picks.PickAgreement(
        len(table), len(truth),
        np.concatenate([a[p.hit_pick] for (a, _), p in zip(rows, parts, strict=True)]),
        np.concatenate([b[p.hit_truth] for (_, b), p in zip(rows, parts, strict=True)]),
        sum(p.n_duplicate for p in parts),
        np.concatenate([p.distance for p in parts]),
    )


def _found_by_labels(
    table: ParticleTable, truth: ParticleTable, labels: Path, reach_angst: float
) -> picks.PickAgreement:
    """Agreement in one tomogram by its occupancy."""
    if len(set(table.tomogram_names)) > 1 or len(set(truth.tomogram_names)) > 1:
        raise ValueError(f"{labels} shows one tomogram, the tables hold several: use --radius")
    volume, voxel_size = read_volume(labels)
    voxel_size = voxel_size or coordinate_voxel_size_angst(truth)
    found = picks.compare_with_labels(
        particle_centres_angst(table) / voxel_size, particle_centres_angst(truth) / voxel_size,
        _classes_of(truth), volume, reach_angst / voxel_size,
    )
    return picks.PickAgreement(
        found.n_picked, found.n_true, found.hit_pick, found.hit_truth, found.n_duplicate,
        found.distance * voxel_size,
    )


def _pick_summary(
    found: picks.PickAgreement, table: ParticleTable, truth: ParticleTable
) -> dict[str, Any]:
    """All numbers of evaluate-picks; classes are compared where picks have them."""
    picked_class = _classes_of(table) if "rlnClassNumber" in table.rows else None
    per_class = picks.per_class_scores(found, _classes_of(truth), picked_class)
    names = _class_names(truth)
    f1 = [scores["f1"] for scores in per_class.values() if "f1" in scores]
    return {
        "precision": found.precision, "recall": found.recall, "f1": found.f1,
        "macro_f1": float(np.mean(f1)) if f1 else None,
        "n_truth": found.n_true, "n_picked": found.n_picked, "n_hit": len(found.hit_pick),
        "n_duplicate": found.n_duplicate,
        "distance_median_angst": float(np.median(found.distance)) if len(found.distance) else None,
        "per_class": {label: {"name": names[label], **s} for label, s in per_class.items()},
    }

