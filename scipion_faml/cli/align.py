"""Verbs of single steps: align to a known map, average particles of known poses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from scipion_faml import faml, plots
from scipion_faml.cli.averaging import (
    assigned_table,
    candidate_options,
    candidates_kept,
    comparison_options,
    half_resolution,
    in_box_of,
    load_mask,
    symmetry_option,
    write_fsc,
)
from scipion_faml.cli.cluster import Cluster, cluster_options
from scipion_faml.cli.common import common_options, progress_callback
from scipion_faml.cli.particles import Usable, skip_bad_option, usable_particles
from scipion_faml.cli.pictures import add_averages, listed, resolutions_in_words
from scipion_faml.cli.runs import Run, run_once
from scipion_faml.evaluation.fsc import (
    BY_CHANCE,
    agreement,
    fourier_shell_correlation,
    frequencies_per_angst,
)
from scipion_faml.faml import IterationResult
from scipion_faml.impose import masked
from scipion_faml.io import write_volume
from scipion_faml.model import SEARCHES, FamlConfig, ModelState
from scipion_faml.plots import reports
from scipion_faml.sources import FileSource
from scipion_faml.tables import ParticleTable, write_particles
from scipion_faml.types import FloatArray, IntArray


# ------------------------------------------------------------------------------------- align
@click.command("align")
@click.argument("particles", type=click.Path(path_type=Path))
@click.option("--reference", required=True, type=click.Path(path_type=Path), help="MRC map.")
@click.option("--search", type=click.Choice(SEARCHES), default="exhaustive", show_default=True,
              help="How candidate rotations are found.")
@comparison_options
@candidate_options
@skip_bad_option
@click.option("--output", type=click.Path(path_type=Path), default=Path("align"),
              show_default=True, help="Folder.")
@cluster_options
@common_options
def align(
    particles: Path, reference: Path, search: str, max_shift: float | None,
    low_pass: float | None, bandwidth: int | None, max_candidates: int | None,
    angular_step: float, skip_bad: bool, output: Path, cluster: Cluster, as_json: bool,
    overwrite: bool,
) -> None:
    """Align the subtomograms of a STAR file to a known map: one E-step with hard assignment (FA).

    Writes particles.star with the best pose of every particle, and average.mrc of them.
    """
    config = FamlConfig(
        method="fa", search=search, max_shift=max_shift, low_pass_angst=low_pass,
        bandwidth=bandwidth, max_candidates=candidates_kept(max_candidates, search),
        angular_step_deg=angular_step, n_iterations=1,
    )
    run = Run("align", output, dataclasses.asdict(config), [particles, reference], overwrite)

    def work() -> dict[str, Any]:
        with usable_particles(particles, skip_bad, run, cluster.workers) as found:
            return found.told(aligned(found))

    def aligned(found: Usable) -> dict[str, Any]:
        source = found.source
        volume = in_box_of(source, reference)[None]
        # Hard assignment looks at scores only, which do not depend on sigma, zeta or scale.
        state = ModelState(volume, np.ones(1), 1.0, float(source.n))
        cluster.cache_bytes(config, source.n, source.voxel_size_angst)
        with cluster.opened() as executor:
            result = faml.iterate(
                source, state, config, executor, None, progress_callback("particles"))
        write_particles(
            output / "particles.star", assigned_table(found.table, result.assignments))
        average = result.state.averages[0]
        write_volume(output / "average.mrc", average, source.voxel_size_angst)
        _describe_alignment(run, result, volume[0], source, config)
        return {"particles": len(source), "output": output}

    run_once(run, work, as_json)


def _describe_alignment(
    run: Run, result: IterationResult, reference: FloatArray, source: FileSource,
    config: FamlConfig,
) -> None:
    """Fill the report: the average beside its reference, and what they share."""
    report, voxel_size = run.report, source.voxel_size_angst
    average, halves = result.state.averages[0], result.half_averages[:, 0]
    frequency = frequencies_per_angst(source.n, voxel_size)
    against = fourier_shell_correlation(average, reference)
    resolution = half_resolution(halves[0], halves[1], voxel_size, config)
    report.title = "Alignment to a reference"
    report.say_in_short(
        f"{len(source)} particles were aligned to the reference and averaged.",
        resolutions_in_words(["average"], [resolution]),
        "All particles were aligned to one map: noise follows it, so that halves agree too well up "
        "to the reference's resolution. Only finer detail is independent of it.")
    add_averages(
        report, np.stack([average, reference]), ["average", "reference"], voxel_size,
        {"halves": (frequency, fourier_shell_correlation(halves[0], halves[1])),
         "average and reference": (frequency, against)},
        "Fourier shell correlation of even and odd particles' averages, and of the average and the "
        "reference.")
    poses = result.assignments.poses
    report.draw("Poses", "A cluster or a gap is a preferred orientation.", plots.orientations,
                poses.rotation)
    report.draw("", "How far particles lie from the centres of their boxes. Many at the largest "
                "shift searched say that it is too small.", reports.histogram,
                np.linalg.norm(poses.shift_xyz, axis=1), "shift (voxels)")
    report.draw("", "How well each particle agrees with the reference: log-likelihood, up to a "
                "constant of the set. A tail or a group to the left are poor particles, or others.",
                reports.histogram, result.assignments.log_likelihood, "log-likelihood")


# ----------------------------------------------------------------------------------- average
@click.command("average")
@click.argument("particles", type=click.Path(path_type=Path))
@click.option("--low-pass", type=click.FloatRange(min=0, min_open=True), default=None,
              help="Average only to this resolution, angstrom.  [default: Nyquist]")
@symmetry_option
@click.option("--mask", type=click.Path(path_type=Path), default=None,
              help="MRC map from 0 to 1 that multiplies the averages, not the halves.")
@skip_bad_option
@click.option("--output", type=click.Path(path_type=Path), default=Path("average"),
              show_default=True, help="Folder.")
@cluster_options
@common_options
def average(
    particles: Path, low_pass: float | None, symmetry: str, mask: Path | None, skip_bad: bool,
    output: Path, cluster: Cluster, as_json: bool, overwrite: bool,
) -> None:
    """Average subtomograms with known poses, each weighted by what its wedge measured.

    Classes in rlnClassNumber are averaged apart (class_NNN.mrc); average.mrc holds all particles of
    a single class. half1.mrc and half2.mrc hold those of the
    half-sets in rlnRandomSubset; without them, of every other particle of a class.
    """
    settings = {"low_pass": low_pass, "symmetry": symmetry, "mask": mask}
    inputs = [particles] if mask is None else [particles, mask]
    run = Run("average", output, settings, inputs, overwrite)

    def work() -> dict[str, Any]:
        with usable_particles(
                particles, skip_bad, run, cluster.workers, with_poses=True) as found:
            return found.told(averaged(found))

    def averaged(found: Usable) -> dict[str, Any]:
        table, source = found.table, found.source
        class_index = (table.class_index if "rlnClassNumber" in table.rows
                       else np.zeros(len(source), dtype=np.intp))
        config = FamlConfig(
            n_classes=int(class_index.max()) + 1, low_pass_angst=low_pass, symmetry=symmetry)
        mask_values = load_mask(source, mask)
        with cluster.opened() as executor:
            averages, halves = faml.average_known(
                source, class_index, table.poses, config, executor,
                progress_callback("particles"), _half_sets(table))
        if mask_values is not None:
            averages = np.stack([masked(volume, mask_values) for volume in averages])
        return _write_averages(averages, halves, class_index, source, config, run)

    run_once(run, work, as_json)


def _half_sets(table: ParticleTable) -> IntArray | None:
    """The half, 0 or 1, of each particle where the table says it."""
    if "rlnRandomSubset" not in table.rows:
        return None
    subset = table.rows["rlnRandomSubset"].to_numpy()
    unknown = sorted(set(subset.tolist()) - {1, 2})
    if unknown:
        raise ValueError(f"rlnRandomSubset holds {unknown[0]}: half-sets are numbered 1 and 2; "
                         "leave the column out to have every other particle in a half")
    return (subset - 1).astype(np.intp)


def _write_averages(
    averages: FloatArray, halves: FloatArray, class_index: Any, source: FileSource,
    config: FamlConfig, run: Run,
) -> dict[str, Any]:
    """Write averages, halves and FSC of known poses; return the summary."""
    voxel_size = source.voxel_size_angst
    single = len(averages) == 1
    curves, resolutions, agreements = {}, [], []
    for k, volume in enumerate(averages):
        name = "average" if single else f"class_{k + 1:03d}"
        write_volume(run.output / f"{name}.mrc", volume, voxel_size)
        for h in range(2):
            half_name = f"half{h + 1}" if single else f"{name}_half{h + 1}"
            write_volume(run.output / f"{half_name}.mrc", halves[h, k], voxel_size)
        curves[name] = fourier_shell_correlation(halves[0, k], halves[1, k])
        agreements.append(agreement(curves[name], source.n, len(config.group)))
        resolutions.append(
            half_resolution(halves[0, k], halves[1, k], voxel_size, config)
            if agreements[-1] > BY_CHANCE else float("nan"))
    frequency = np.arange(len(next(iter(curves.values())))) / (source.n * voxel_size)
    write_fsc(run.output / "fsc.csv", frequency, curves)
    counts = np.bincount(class_index, minlength=len(averages))
    run.report.title = "Average with known poses"
    run.report.say_in_short(
        f"{len(source)} particles in {len(averages)} average(s) of "
        f"{listed(counts)}.",
        resolutions_in_words([f"class {k}" for k in range(1, len(averages) + 1)], resolutions)
        if max(agreements) > BY_CHANCE else f"{_disagreement(agreements).capitalize()}.",
        "Both halves agree too well where all particles were aligned to one "
        "reference.")
    add_averages(
        run.report, averages, [f"class {k}: {c} particles" for k, c in enumerate(counts, 1)],
        voxel_size, {name: (frequency, curve) for name, curve in curves.items()},
        "Fourier shell correlation of the halves.")
    halves_agree = max(agreements) > BY_CHANCE
    return {"particles": len(source), "class_sizes": counts, "resolution_angst": resolutions,
            "halves_agree": halves_agree, "agreement_z": agreements,
            "warnings": [] if halves_agree else [_disagreement(agreements)], "output": run.output}


def _disagreement(agreements: Sequence[float]) -> str:
    """That halves agree no better than noise."""
    return (f"no structure found: the halves agree by chance only ({max(agreements):.1f} standard "
            "errors); check poses, contrast and tilt range, or use more particles")
