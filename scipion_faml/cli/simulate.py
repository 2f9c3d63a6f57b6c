"""Verb simulate-subtomograms: particles with known answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml import plots
from scipion_faml.cli.common import common_options, n_workers, progress, seed_option, workers_option
from scipion_faml.cli.pictures import (
    GALLERY_CAPTION,
    MAX_SHOWN,
    MONTAGE_CAPTION,
    read_some,
    spread_rows,
)
from scipion_faml.cli.runs import Run, run_once
from scipion_faml.cli.simulation import (
    counts_of,
    model_files,
    model_options,
    optics_options,
    settings_of,
    with_classes,
    write_maps,
)
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import write_volume, write_weight
from scipion_faml.plots import reports
from scipion_faml.simulation.density import Structure
from scipion_faml.simulation.particles import (
    SubtomogramSettings,
    draw_poses,
    make_subtomogram,
    subtomogram_weights,
)
from scipion_faml.simulation.scene import ordered_map
from scipion_faml.simulation.tilt_series import (
    CTF_CORRECTIONS,
    Microscope,
    projector,
    tilt_angles_deg,
)
from scipion_faml.structures import load_structures
from scipion_faml.tables import ParticleTable, optics_table, write_particles
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.wedge import MissingWedge

logger = logging.getLogger(__name__)


@click.command()
@model_options
@click.option(
    "--box", default=64, show_default=True, type=click.IntRange(min=8), help="Box size (voxels)."
)
@optics_options(
    "none", 6.0, 0.05,
    "Variance of the signal / of the noise. --optics none: signal over the whole box of a "
    "particle, before the wedge is cut. full: over the tilt images, after the CTF.",
    CTF_CORRECTIONS,
    "What is done about the CTF. none: nothing, as in the paper. phase-flip: signs. weights: signs "
    "and amplitudes, each sample with its precision in weights.mrc (rlnCtfImage).",
)
@click.option(
    "--max-shift", default=3.0, show_default=True, type=click.FloatRange(0, 1000),
    help="Largest offset of a particle from its box centre (voxels), uniform in a ball.",
)
@click.option(
    "--preferred-axis", default=None, type=click.Choice(["x", "y", "z"]),
    help="Turn particles only about this axis, with their figure axis along it.",
)
@seed_option
@workers_option
@common_options
def simulate_subtomograms(
    models: tuple[str, ...], counts: Sequence[int], voxel_size: float, resolution: float | None,
    assembly: str, tilt_min: float, tilt_max: float, tilt_step: float, output: str, box: int,
    snr: float, optics: str, defocus: float, amplitude_contrast: float, ctf_correction: str,
    max_shift: float, preferred_axis: str | None, seed: int, workers: int | None, as_json: bool,
    overwrite: bool,
) -> None:
    """Make subtomograms of known structure, pose and class.

    Writes OUTPUT/particles.star (without the answers), OUTPUT/truth.star (with them),
    OUTPUT/subtomograms/*.mrc and the noise-free structures OUTPUT/maps/NAME.mrc.
    """
    settings = settings_of(locals())
    counts = counts_of(models, counts)
    if ctf_correction == "weights" and optics == "none":
        raise ValueError("--ctf-correction weights needs --optics full: else there is no CTF")
    resolution = 2.0 * voxel_size if resolution is None else resolution
    how = SubtomogramSettings(
        snr, MissingWedge(tilt_min, tilt_max), tilt_angles_deg(tilt_min, tilt_max, tilt_step),
        Microscope(defocus_um=defocus, amplitude_contrast=amplitude_contrast)
        if optics == "full" else None,
        ctf_correction,
    )
    structures = load_structures(models, box, voxel_size, resolution, assembly)
    _warn_of_edges(structures, max_shift)

    def work() -> dict[str, Any]:
        class_index, poses = draw_poses(structures, counts, max_shift, preferred_axis, seed)
        table = _write_subtomograms(
            run.output, structures, class_index, poses, how, seed, n_workers(workers)
        )
        truth = with_classes(table.with_poses(poses), structures, class_index)
        write_particles(run.output / "truth.star", truth)
        write_particles(run.output / "particles.star", table)
        _describe(run, structures, truth, snr)
        return {
            "n_particles": len(class_index), "n_classes": len(models),
            "particles": run.output / "particles.star", "truth": run.output / "truth.star",
            "maps": write_maps(run.output, structures),
        }

    run = Run("simulate-subtomograms", output, settings, model_files(models), overwrite)
    run_once(run, work, as_json)


def _write_subtomograms(
    folder: Path, structures: Sequence[Structure], class_index: IntArray, poses: RigidTransforms,
    how: SubtomogramSettings, seed: int, threads: int,
) -> ParticleTable:
    """Simulate and write every subtomogram; return the table without answers."""
    numbers = range(len(class_index))
    names = [str(folder / "subtomograms" / f"particle_{i + 1:06d}.mrc") for i in numbers]

    densities = [projector(s.map) if how.microscope else None for s in structures]

    def make(i: int) -> FloatArray:
        k = class_index[i]
        return make_subtomogram(structures[k], poses[[i]], how, [seed, 1, i], densities[k])

    made = ordered_map(make, numbers, threads)
    first = structures[0]
    for name, volume in zip(names, progress(made, len(names), "subtomograms"), strict=True):
        write_volume(name, volume, first.voxel_size_angst)
    rows = pd.DataFrame(
        {"rlnImageName": names, "rlnTomoName": "simulated", "rlnOpticsGroup": 1}
    )
    if how.microscope and how.ctf_correction == "weights":
        weights = folder / "weights.mrc"
        write_weight(weights, subtomogram_weights(first.n, first.voxel_size_angst, how),
                     first.voxel_size_angst)
        rows = rows.assign(rlnCtfImage=str(weights))
    return ParticleTable(rows, optics_table(first.voxel_size_angst, first.n, [how.wedge]))


def _describe(
    run: Run, structures: Sequence[Structure], truth: ParticleTable, snr: float
) -> None:
    """Fill the report: particles as they came out, and what is in them."""
    report, names, poses = run.report, [structure.name for structure in structures], truth.poses
    counts = np.bincount(truth.class_index, minlength=len(names))
    first = structures[0]
    report.title = "Simulated subtomograms"
    report.say_in_short(
        f"{len(truth)} subtomograms of {first.n} voxels of {first.voxel_size_angst:g} Å: "
        + ", ".join(f"{count} {name}" for count, name in zip(counts, names, strict=True)) + ".",
        f"Signal-to-noise ratio {snr:g}. Poses and classes are in truth.star, not in "
        "particles.star.")
    if report.is_wanted:
        rows = spread_rows(len(truth), MAX_SHOWN)
        report.draw_in_short(
            MONTAGE_CAPTION, reports.montage, read_some(truth.rows["rlnImageName"], rows),
            [f"{row + 1} {truth.rows['famlModel'][row]}" for row in rows])
    report.draw("Structures", f"What is in them, without noise. {GALLERY_CAPTION}",
                plots.class_gallery, np.stack([s.map for s in structures]), names,
                first.voxel_size_angst)
    report.draw("Poses", "Directions of the particles' z axes.", plots.orientations,
                poses.rotation)
    report.draw("", "Distance of the particles from the centres of their boxes.",
                reports.histogram, np.linalg.norm(poses.shift_xyz, axis=1), "shift (voxels)")


def _warn_of_edges(structures: Sequence[Structure], max_shift: float) -> None:
    for structure in structures:
        needed = 2 * int(np.ceil(structure.radius_voxels + max_shift))
        if needed > structure.n:
            logger.warning(
                "%s and its shifts need %d voxels, the box has %d: some particles are cut at the "
                "border", structure.name, needed, structure.n)
