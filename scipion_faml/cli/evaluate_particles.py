"""Verbs that compare particles with known answers: evaluate-poses, evaluate-classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml import plots
from scipion_faml.cli.common import common_options, workers_option
from scipion_faml.cli.evaluation import (
    class_names,
    classes_of,
    evaluate_once,
    output_option,
    page_of,
    report_option,
    truth_option,
)
from scipion_faml.cli.reporting import RunReport
from scipion_faml.cli.tomograms import FILE
from scipion_faml.cli.truth import RowMatch, match_rows, true_poses
from scipion_faml.evaluation import classes, poses
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.tables import ParticleTable, read_particles, write_particles
from scipion_faml.types import IntArray

radius_option = click.option(
    "--radius", default=None, type=click.FloatRange(min=0, min_open=True),
    help="Match particles by position within this distance (angstrom); particles without a "
    "partner are counted, not judged.  [default: match by rlnImageName, else by order]",
)


# ------------------------------------------------------------------------------------- poses
@click.command("evaluate-poses")
@click.argument("particles", type=FILE)
@truth_option
@click.option("--symmetry", default="C1", show_default=True,
              help="Point group of the true map: C7, D7, T, O, I ...; one for each true class in "
              "the order of their numbers, separated by commas, where they differ.")
@radius_option
@click.option("--no-global-frame", is_flag=True,
              help="Averages lie as the true maps do: do not look for a common turn and shift.")
@click.option("--errors", default=None, type=FILE,
              help="Write the particles with famlRotationError (deg) and famlShiftError (voxels) "
              "to this STAR file.")
@report_option
@output_option
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
    page = page_of("evaluate-poses", report, output)

    def work() -> dict[str, Any]:
        table, known = read_particles(particles), read_particles(truth)
        match = match_rows(table, known, radius)
        labels = classes_of(known)[match.truth]
        groups = _symmetry_of_classes(symmetry, np.unique(classes_of(known)))
        found = poses.pose_errors(
            table.poses[match.particle], true_poses(table, known, match),
            {label: symmetry_rotations(name) for label, name in groups.items()},
            labels, classes_of(table)[match.particle], no_global_frame,
        )
        if errors is not None:
            _write_errors(errors, table, match, found)
        _describe_poses(page, found, labels, class_names(known), groups)
        return _pose_summary(table, known, match, found, labels, groups)

    evaluate_once("evaluate-poses", output, settings, [particles, truth], overwrite, as_json, work,
                  page)


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


def _describe_poses(
    page: RunReport, found: poses.PoseErrors, labels: IntArray, names: dict[int, str],
    groups: dict[int, str],
) -> None:
    """Fill the report: histograms and a table of classes."""
    whole = poses.summarise(found.rotation_deg, found.shift_voxels)
    order = max(len(symmetry_rotations(name)) for name in groups.values())
    page.title = "Orientations against the truth"
    if np.isfinite(found.rotation_deg).any():
        page.say_in_short(
            f"Median error {whole['rotation_median_deg']:.3g}°; "
            f"{whole['fraction_within_10_deg']:.0%} of the particles within 10° and "
            f"{whole['fraction_within_20_deg']:.0%} within 20° of the truth.",
            f"Orientations drawn at random would reach {poses.chance_fraction(10.0, order):.1%} "
            f"and {poses.chance_fraction(20.0, order):.1%}.",
            f"Shifts are off by {whole['shift_median_voxels']:.2g} voxels (median).")
    else:
        page.say_in_short("No particle could be judged: no class has particles enough to find the "
                          "common turn of its average.", nothing=True)
    page.draw_in_short(
        "Errors of all particles, modulo symmetry and the common motion of each average.",
        plots.pose_errors, found.rotation_deg, found.shift_voxels)
    page.add_table("By true class", pd.DataFrame([
        {"class": names[label], "symmetry": groups[label],
         **poses.summarise(found.rotation_deg[labels == label],
                           found.shift_voxels[labels == label])}
        for label in sorted(set(labels.tolist()))]))


# ----------------------------------------------------------------------------------- classes
@click.command("evaluate-classes")
@click.argument("particles", type=FILE)
@truth_option
@radius_option
@report_option
@output_option
@workers_option
@common_options
def evaluate_classes(
    particles: Path, truth: Path, radius: float | None, report: Path | None,
    output: Path | None, workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Confusion matrix of classes after their best one-to-one match, F1, adjusted Rand index."""
    settings = {"radius": radius, "report": report}
    page = page_of("evaluate-classes", report, output)

    def work() -> dict[str, Any]:
        table, known = read_particles(particles), read_particles(truth)
        for one in (table, known):
            one.require("rlnClassNumber")
        match = match_rows(table, known, radius)
        agreement = classes.compare_classes(
            classes_of(known)[match.truth], classes_of(table)[match.particle]
        )
        names = class_names(known)
        _describe_classes(page, agreement, names)
        return {
            **_class_summary(agreement),
            "true_names": [names[int(label)] for label in agreement.true_labels],
            "n_particles": len(match.particle),
            "n_unmatched_particles": len(table) - len(match.particle),
            "n_unmatched_truth": len(known) - len(match.truth),
            "matched_by": match.matched_by,
        }

    evaluate_once(
        "evaluate-classes", output, settings, [particles, truth], overwrite, as_json, work, page)


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


def _describe_classes(
    page: RunReport, agreement: classes.ClassAgreement, names: dict[int, str]
) -> None:
    """Fill the report: the confusion matrix as a picture, and F1 by class."""
    rows = [names[int(label)] for label in agreement.true_labels]
    summary = _class_summary(agreement)
    page.title = "Classes against the truth"
    page.say_in_short(
        f"Mean F1 {agreement.f1_mean:.3g} over {len(rows)} true classes; "
        f"{agreement.accuracy:.0%} of the particles are in the class that belongs to theirs.",
        f"Adjusted Rand index {agreement.adjusted_rand_index:.3g} (1: the same division, 0: as by "
        "chance).")
    page.draw_in_short(
        "Particles of each true class (rows) in each assigned class (columns).",
        plots.confusion, agreement.confusion, rows, [str(k) for k in agreement.assigned_labels])
    page.add_table("By true class", pd.DataFrame(
        {"class": rows, **{k: summary[k] for k in ("precision", "recall", "f1")},
         "assigned class": summary["matched"]}))
