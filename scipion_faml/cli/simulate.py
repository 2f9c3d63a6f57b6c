"""Verb simulate-subtomograms: particles with known answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml.cli.common import (
    Run,
    common_options,
    n_workers,
    progress,
    run_once,
    seed_option,
    workers_option,
)
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
from scipion_faml.io import (
    ParticleTable,
    optics_table,
    write_particles,
    write_volume,
    write_weight,
)
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
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.wedge import MissingWedge


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
    "--max-shift", default=3.0, show_default=True, type=click.FloatRange(min=0),
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


def _warn_of_edges(structures: Sequence[Structure], max_shift: float) -> None:
    for structure in structures:
        needed = 2 * int(np.ceil(structure.radius_voxels + max_shift))
        if needed > structure.n:
            click.echo(
                f"warning: {structure.name} and its shifts need {needed} voxels, the box has "
                f"{structure.n}: some particles are cut at the border",
                err=True,
            )
