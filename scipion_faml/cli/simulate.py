"""Verbs that make data with known answers: simulate-subtomograms, simulate-tomogram."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml.cli.common import (
    F,
    Run,
    common_options,
    n_workers,
    progress,
    run_once,
    seed_option,
    workers_option,
)
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import (
    COORDINATES,
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
from scipion_faml.simulation.scene import (
    Scene,
    back_project,
    image_scene,
    make_scene,
    noisy_tomogram,
    ordered_map,
    populate,
    project_scene,
)
from scipion_faml.simulation.tilt_series import (
    CTF_CORRECTIONS,
    Microscope,
    check_snr,
    projector,
    tilt_angles_deg,
)
from scipion_faml.structures import load_structures, suitable_box
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.wedge import MissingWedge


class _Shape(click.ParamType):  # type: ignore[type-arg]
    """Three positive whole numbers, X,Y,Z."""

    name = "x,y,z"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).replace("x", ",").split(",")
        if len(parts) != 3 or not all(p.strip().isdecimal() and int(p) > 1 for p in parts):
            self.fail(f"{value!r} is not a shape: give X,Y,Z in voxels, for example 192,192,64")
        return tuple(int(p) for p in parts)


def _model_options(function: F) -> F:
    """What both verbs ask about structures, microscope and tilts."""
    for option in reversed((
        click.option(
            "--model", "models", multiple=True, required=True,
            help="Structure: a shipped bead model (groel, groel-groes, ribosome, ribosome-80s, "
            "tric, proteasome, apoferritin), blobs or blobs:SEED, a PDB or mmCIF file, or an MRC "
            "map (density positive). Repeat for more classes.",
        ),
        click.option(
            "--count", "counts", multiple=True, required=True, type=click.IntRange(min=1),
            help="Particles of each --model, in the same order.",
        ),
        click.option(
            "--voxel-size", default=6.0, show_default=True, help="Angstrom.",
            type=click.FloatRange(min=0, min_open=True),
        ),
        click.option(
            "--resolution", default=None, type=float,
            help="Of the structures (angstrom).  [default: 2 voxels]",
        ),
        click.option(
            "--assembly", default="auto", show_default=True,
            help="Biological assembly of PDB files: its name; none: coordinates as they are; "
            "auto: the first that the authors determined.",
        ),
        click.option("--tilt-min", default=-60.0, show_default=True, help="Degrees."),
        click.option("--tilt-max", default=60.0, show_default=True, help="Degrees."),
        click.option("--tilt-step", default=3.0, show_default=True, help="Degrees."),
        click.option(
            "--output", required=True, type=click.Path(file_okay=False), help="Folder to make."
        ),
    )):
        function = option(function)
    return function


def _optics_options(
    correction: str, defocus: float, snr: float, snr_help: str,
    corrections: Sequence[str], correction_help: str,
) -> Callable[[F], F]:
    """What both verbs ask about optics, with their own defaults."""

    def add(function: F) -> F:
        for option in reversed((
            click.option("--snr", default=snr, show_default=True, help=snr_help),
            click.option(
                "--optics", default="full", show_default=True,
                type=click.Choice(["none", "full"]),
                help="full: tilt series with CTF, noise and MTF, reconstructed. none: white noise "
                "on the density, then the missing wedge is cut.",
            ),
            click.option(
                "--defocus", default=defocus, show_default=True,
                help="Micrometres, positive: underfocus (300 kV, Cs 2.7 mm).",
            ),
            click.option(
                "--amplitude-contrast", default=0.07, show_default=True,
                type=click.FloatRange(0.0, 1.0), help="Of the CTF.",
            ),
            click.option(
                "--ctf-correction", default=correction, show_default=True,
                type=click.Choice(corrections),
                help=correction_help,
            ),
        )):
            function = option(function)
        return function

    return add


@click.command()
@_model_options
@click.option(
    "--box", default=64, show_default=True, type=click.IntRange(min=8), help="Box size (voxels)."
)
@_optics_options(
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
    models: tuple[str, ...], counts: tuple[int, ...], voxel_size: float, resolution: float | None,
    assembly: str, tilt_min: float, tilt_max: float, tilt_step: float, output: str, box: int,
    snr: float, optics: str, defocus: float, amplitude_contrast: float, ctf_correction: str,
    max_shift: float, preferred_axis: str | None, seed: int, workers: int | None, as_json: bool,
    overwrite: bool,
) -> None:
    """Make subtomograms of known structure, pose and class.

    Writes OUTPUT/particles.star (without the answers), OUTPUT/truth.star (with them),
    OUTPUT/subtomograms/*.mrc and the noise-free structures OUTPUT/maps/NAME.mrc.
    """
    settings = _settings(locals())
    _check_counts(models, counts)
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
        truth = _with_classes(table.with_poses(poses), structures, class_index)
        write_particles(run.output / "truth.star", truth)
        write_particles(run.output / "particles.star", table)
        return {
            "n_particles": len(class_index), "n_classes": len(models),
            "particles": run.output / "particles.star", "truth": run.output / "truth.star",
            "maps": _write_maps(run.output, structures),
        }

    run = Run("simulate-subtomograms", output, settings, _files(models), overwrite)
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


@click.command()
@_model_options
@click.option(
    "--shape", default="192,192,64", show_default=True, type=_Shape(),
    help="Tomogram X,Y,Z (voxels).",
)
@click.option(
    "--box", default=None, type=click.IntRange(min=8),
    help="Of the maps written, and of blobs (voxels).  [default: what the largest model needs]",
)
@click.option(
    "--min-distance", default=None, type=click.FloatRange(min=0),
    help="Between particle centres (angstrom).  [default: the sum of their radii]",
)
@_optics_options(
    "phase-flip", 4.0, 0.5,
    "Variance of the signal / of the noise. --optics none: signal over the whole tomogram, before "
    "the wedge is cut. full: over the tilt images, after the CTF.",
    CTF_CORRECTIONS[:2], "What is done about the CTF before reconstruction.",
)
@seed_option
@workers_option
@common_options
def simulate_tomogram(
    models: tuple[str, ...], counts: tuple[int, ...], voxel_size: float, resolution: float | None,
    assembly: str, tilt_min: float, tilt_max: float, tilt_step: float, output: str,
    shape: tuple[int, int, int], box: int | None, min_distance: float | None, snr: float,
    optics: str, defocus: float, amplitude_contrast: float, ctf_correction: str, seed: int,
    workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Make a tomogram of structures placed at random without overlap.

    Writes OUTPUT/tomogram.mrc (density white), OUTPUT/truth.star (positions, poses, classes),
    OUTPUT/classes.mrc (0 or the class of every voxel) and OUTPUT/maps/NAME.mrc.
    """
    settings = _settings(locals())
    _check_counts(models, counts)
    check_snr(snr)
    resolution = 2.0 * voxel_size if resolution is None else resolution
    wedge = MissingWedge(tilt_min, tilt_max)
    angles = tilt_angles_deg(tilt_min, tilt_max, tilt_step)
    microscope = Microscope(defocus_um=defocus, amplitude_contrast=amplitude_contrast)
    box = box or suitable_box(models, voxel_size, resolution, assembly)
    structures = load_structures(models, box, voxel_size, resolution, assembly)
    gap = None if min_distance is None else min_distance / voxel_size
    threads = n_workers(workers)

    def work() -> dict[str, Any]:
        scene = make_scene(structures, counts, shape, seed, gap)
        density, labels = populate(scene, structures, threads)
        write_volume(run.output / "classes.mrc", labels.astype(np.float32), voxel_size)
        rng = np.random.default_rng([seed, 1])
        if optics == "none":
            tomogram = noisy_tomogram(density, snr, wedge, rng)
        else:
            images = project_scene(scene, structures, angles, threads)
            recorded = image_scene(images, voxel_size, snr, microscope, ctf_correction, rng)
            tomogram = back_project(recorded, angles, shape, threads)
        write_volume(run.output / "tomogram.mrc", tomogram, voxel_size)
        truth = _scene_table(scene, structures, run.output / "tomogram.mrc", wedge)
        write_particles(run.output / "truth.star", truth)
        return {
            "n_particles": len(scene), "n_classes": len(models),
            "tomogram": run.output / "tomogram.mrc", "truth": run.output / "truth.star",
            "classes": run.output / "classes.mrc", "maps": _write_maps(run.output, structures),
        }

    run = Run("simulate-tomogram", output, settings, _files(models), overwrite)
    run_once(run, work, as_json)


def _settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """What decides about the result of a verb, of all its arguments."""
    return {
        key: value for key, value in arguments.items()
        if key not in {"workers", "as_json", "overwrite", "output"}
    }


def _check_counts(models: Sequence[str], counts: Sequence[int]) -> None:
    if len(models) != len(counts):
        raise ValueError(
            f"{len(models)} --model but {len(counts)} --count: give one --count for each --model"
        )


def _files(models: Sequence[str]) -> list[str]:
    """The models that are files: a run with another content is another run."""
    return [model for model in models if Path(model).is_file()]


def _warn_of_edges(structures: Sequence[Structure], max_shift: float) -> None:
    for structure in structures:
        needed = 2 * int(np.ceil(structure.radius_voxels + max_shift))
        if needed > structure.n:
            click.echo(
                f"warning: {structure.name} and its shifts need {needed} voxels, the box has "
                f"{structure.n}: some particles are cut at the border",
                err=True,
            )


def _write_maps(folder: Path, structures: Sequence[Structure]) -> list[Path]:
    """Write the noise-free structures; return their files."""
    paths = [folder / "maps" / f"{structure.name}.mrc" for structure in structures]
    for path, structure in zip(paths, structures, strict=True):
        write_volume(path, structure.map, structure.voxel_size_angst)
    return paths


def _with_classes(
    table: ParticleTable, structures: Sequence[Structure], class_index: IntArray
) -> ParticleTable:
    """The table with rlnClassNumber (from 1, in the order of --model) and famlModel."""
    return table.with_columns(
        rlnClassNumber=class_index + 1, famlModel=[structures[k].name for k in class_index]
    )


def _scene_table(
    scene: Scene, structures: Sequence[Structure], tomogram: Path, wedge: MissingWedge
) -> ParticleTable:
    """Positions, poses and classes of a scene; the position holds the whole shift."""
    rows = pd.DataFrame(
        {
            "rlnTomoName": tomogram.stem,
            **dict(zip(COORDINATES, scene.position_xyz.T, strict=True)),
            "rlnOpticsGroup": 1,
        }
    )
    first = structures[0]
    table = ParticleTable(rows, optics_table(first.voxel_size_angst, first.n, [wedge]))
    poses = RigidTransforms(scene.euler_zyz, np.zeros((len(scene), 3)))
    return _with_classes(table.with_poses(poses), structures, scene.class_index)
