"""Verb simulate-tomogram: a crowded tomogram with known answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml import plots
from scipion_faml.cli import presets
from scipion_faml.cli.common import common_options, n_workers, seed_option, workers_option
from scipion_faml.cli.pictures import GALLERY_CAPTION
from scipion_faml.cli.presets import NamedModel
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
from scipion_faml.io import write_labels, write_volume
from scipion_faml.plots import reports
from scipion_faml.simulation.back_projection import back_project
from scipion_faml.simulation.density import Structure, width_of_resolution
from scipion_faml.simulation.scene import LABEL_LEVEL, Scene, class_labels, make_scene, populate
from scipion_faml.simulation.scene_imaging import (
    image_scene,
    image_shape,
    noisy_tomogram,
    project_scene,
    through_ctf,
)
from scipion_faml.simulation.surroundings import (
    GOLD_AMPLITUDE_CONTRAST,
    Surroundings,
    make_surroundings,
)
from scipion_faml.simulation.tilt_series import (
    CTF_CORRECTIONS,
    Microscope,
    check_snr,
    tilt_angles_deg,
)
from scipion_faml.tables import COORDINATES, ParticleTable, optics_table, write_particles
from scipion_faml.types import FloatArray
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


@dataclass(frozen=True, eq=False)
class _Imaging:
    """How a scene becomes a tomogram."""

    voxel_size_angst: float
    snr: float
    angles_deg: FloatArray
    wedge: MissingWedge
    microscope: Microscope | None  # None: no optics
    ctf_correction: str
    seed: int
    n_workers: int


def _with_preset(
    context: click.Context, param: click.Parameter, value: str | None
) -> str | None:
    """Make a preset's options the defaults of all others."""
    if value is not None:
        context.default_map = {**presets.OPTIONS[value], **(context.default_map or {})}
    return value


@click.command()
@click.option(
    "--preset", default=None, type=click.Choice(list(presets.OPTIONS)), is_eager=True,
    callback=_with_preset,
    help="shrec: the tomogram of the SHREC challenges, twelve classes and about 2,500 particles in "
    "512,512,200 voxels of 10 A, SNR 0.05; other options change it.",
)
@click.option(
    "--models-dir", "folders", multiple=True, type=click.Path(),
    help="Folder with the files of --preset (1bxn.pdb, 4cr2.mrc ...; also gzipped). Repeat for "
    "more.  [default: shipped models and phantoms instead]",
)
@model_options
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
    help="Between particle centres (angstrom).  [default: the sum of the radii of their labels]",
)
@click.option(
    "--edges", default="closed", show_default=True, type=click.Choice(["closed", "open"]),
    help="closed: particles are whole. open: they may be cut by the sides in x and y.",
)
@click.option(
    "--label-level", default=LABEL_LEVEL, show_default=True,
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    help="A particle's label covers the density above this part of its maximum.",
)
@click.option(
    "--gold", default=0, show_default=True, type=click.IntRange(min=0),
    help="Gold beads of 50 to 100 A; in surroundings.star, not in truth and labels.",
)
@click.option(
    "--membranes", default=0, show_default=True, type=click.IntRange(min=0),
    help="Vesicles of 300 to 800 A, as far as the thickness holds them; they may hold particles. "
    "In surroundings.star, not in truth and labels.",
)
@click.option(
    "--write-density", is_flag=True,
    help="Also write density.mrc: everything in the tomogram, without noise, CTF and wedge.",
)
@optics_options(
    "phase-flip", 4.0, 0.5,
    "Variance of the signal / of the noise; only particles are signal. --optics none: over the "
    "whole tomogram, before the wedge is cut. full: over the tilt images, after the CTF.",
    CTF_CORRECTIONS[:2], "What is done about the CTF before reconstruction.",
)
@seed_option
@workers_option
@common_options
def simulate_tomogram(
    preset: str | None, folders: tuple[str, ...], models: tuple[str, ...], counts: tuple[int, ...],
    voxel_size: float, resolution: float | None, assembly: str, tilt_min: float, tilt_max: float,
    tilt_step: float, output: str, shape: tuple[int, int, int], box: int | None,
    min_distance: float | None, edges: str, label_level: float, gold: int, membranes: int,
    write_density: bool, snr: float, optics: str, defocus: float, amplitude_contrast: float,
    ctf_correction: str, seed: int, workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Make a tomogram of structures placed at random without overlap.

    Writes OUTPUT/tomogram.mrc (density white), OUTPUT/truth.star (positions, poses, classes),
    OUTPUT/classes.mrc and OUTPUT/instances.mrc (0, or the class and the number of the particle of
    every voxel) and OUTPUT/maps/NAME.mrc.
    """
    settings = settings_of(locals())
    check_snr(snr)
    resolution = 2.0 * voxel_size if resolution is None else resolution
    named = _named_models(preset, folders, models)
    microscope = Microscope(defocus_um=defocus, amplitude_contrast=amplitude_contrast)
    imaging = _Imaging(
        voxel_size, snr, tilt_angles_deg(tilt_min, tilt_max, tilt_step),
        MissingWedge(tilt_min, tilt_max), microscope if optics == "full" else None, ctf_correction,
        seed, n_workers(workers),
    )
    numbers = _numbers(preset, named, counts, shape, voxel_size, seed)
    structures = presets.load_named(named, box, voxel_size, resolution, assembly)
    gap = None if min_distance is None else min_distance / voxel_size

    def work() -> dict[str, Any]:
        around = make_surroundings(
            gold, membranes, shape, voxel_size, width_of_resolution(resolution), seed
        )
        scene = make_scene(
            structures, numbers, shape, seed, gap, obstacles=around.obstacles,
            open_sides=edges == "open", label_level=label_level,
        )
        density = _write_labels(run.output, scene, structures, label_level, imaging)
        other = populate(around.scene, around.structures)[0] if len(around.scene) else None
        if write_density:
            everything = density if other is None else density + other
            write_volume(run.output / "density.mrc", everything, voxel_size)
        tomogram = _tomogram(scene, structures, density, around, other, imaging)
        write_volume(run.output / "tomogram.mrc", tomogram, voxel_size)
        truth = _scene_table(scene, structures, run.output / "tomogram.mrc", imaging.wedge)
        write_particles(run.output / "truth.star", truth)
        if len(around.scene):
            write_particles(
                run.output / "surroundings.star",
                _surroundings_table(around, run.output / "tomogram.mrc", imaging.wedge),
            )
        _describe(run, scene, structures, around, tomogram, density, imaging)
        return {
            "n_particles": len(scene), "n_classes": len(structures),
            "counts": {s.name: n for s, n in zip(structures, numbers, strict=True)},
            "n_gold": gold, "n_membranes": membranes,
            "tomogram": run.output / "tomogram.mrc", "truth": run.output / "truth.star",
            "classes": run.output / "classes.mrc", "instances": run.output / "instances.mrc",
            "maps": write_maps(run.output, structures),
        }

    files = model_files([entry.model for entry in named])
    run = Run("simulate-tomogram", output, settings, files, overwrite)
    run_once(run, work, as_json)


def _describe(
    run: Run, scene: Scene, structures: Sequence[Structure], around: Surroundings,
    tomogram: FloatArray, density: FloatArray, imaging: _Imaging,
) -> None:
    """Fill the report: the tomogram, what is in it and where."""
    report, names = run.report, [structure.name for structure in structures]
    counts = np.bincount(scene.class_index, minlength=len(names))
    size = " x ".join(map(str, scene.shape_xyz))
    report.title = "Simulated tomogram"
    report.say_in_short(
        f"{len(scene)} particles of {len(names)} structure(s) in {size} voxels (x, y, z) of "
        f"{imaging.voxel_size_angst:g} Å"
        + (f", with {len(around.scene)} gold beads and vesicles." if len(around.scene) else "."),
        f"Signal-to-noise ratio {imaging.snr:g}, tilts {imaging.wedge.tilt_min_deg:g}° to "
        f"{imaging.wedge.tilt_max_deg:g}°. Positions, poses and classes are in truth.star.")
    report.draw_in_short("The middle of the tomogram, 5 slices thick.",
                         reports.tomogram_views, tomogram)
    report.draw_in_short("What is in it, without noise, summed along the beam.",
                         reports.projection_view, density)
    report.draw("Structures", GALLERY_CAPTION,
                plots.class_gallery, np.stack([s.map for s in structures]), names,
                imaging.voxel_size_angst)
    radius = np.array([s.radius_voxels * imaging.voxel_size_angst / 10 for s in structures])
    report.add_table("Packing", pd.DataFrame({
        "structure": names, "particles": counts, "radius (nm)": np.round(radius, 1),
        "share of the volume, as balls": [
            f"{count * 4 / 3 * np.pi * s.radius_voxels**3 / density.size:.1%}"
            for count, s in zip(counts, structures, strict=True)]}))
    report.draw("Poses", "Directions of the particles' z axes.", plots.orientations,
                RigidTransforms(scene.euler_zyz, np.zeros((len(scene), 3))).rotation)


def _named_models(
    preset: str | None, folders: Sequence[str], models: Sequence[str]
) -> list[NamedModel]:
    """The structures to place: those given, or those of the preset."""
    if preset is None or models:
        if folders:
            raise ValueError("--models-dir goes with --preset and without --model: leave one out")
        return [NamedModel("", model) for model in models]
    return presets.shrec_models(folders)


def _numbers(
    preset: str | None, named: Sequence[NamedModel], counts: Sequence[int],
    shape: tuple[int, int, int], voxel_size: float, seed: int,
) -> list[int]:
    """Particles of each structure: as given, or at the densities of the preset."""
    if preset is not None and not counts:
        volume_angst = float(np.prod(shape)) * voxel_size**3
        return presets.draw_counts([entry.name for entry in named], volume_angst, seed)
    return counts_of([entry.model for entry in named], counts)


def _write_labels(
    folder: Path, scene: Scene, structures: Sequence[Structure], level: float, imaging: _Imaging
) -> FloatArray:
    """Write the labels of a scene; return its density."""
    density, instances = populate(scene, structures, imaging.n_workers, level)
    write_labels(folder / "instances.mrc", instances, imaging.voxel_size_angst)
    write_labels(
        folder / "classes.mrc", class_labels(instances, scene.class_index),
        imaging.voxel_size_angst,
    )
    return density


def _tomogram(
    scene: Scene, structures: Sequence[Structure], density: FloatArray, around: Surroundings,
    around_density: FloatArray | None, imaging: _Imaging,
) -> FloatArray:
    """The tomogram of a scene and its surroundings."""
    rng = np.random.default_rng([imaging.seed, 1])
    if imaging.microscope is None:
        return noisy_tomogram(density, imaging.snr, imaging.wedge, rng, around_density)
    angles, threads = imaging.angles_deg, imaging.n_workers
    size = image_shape(scene.shape_xyz, [*structures, *around.structures])
    images = project_scene(scene, structures, angles, threads, size)
    recorded = image_scene(
        images, imaging.voxel_size_angst, imaging.snr, imaging.microscope, imaging.ctf_correction,
        rng, _surroundings_images(around, size, imaging, imaging.microscope),
    )
    return back_project(recorded, angles, scene.shape_xyz, threads)


def _surroundings_images(
    around: Surroundings, size: tuple[int, int], imaging: _Imaging, microscope: Microscope
) -> FloatArray | None:
    """Noise-free images of vesicles and beads after their CTF; gold absorbs more than lipids."""
    total = None
    for name, optics in (
        ("vesicle", microscope),
        ("gold", replace(microscope, amplitude_contrast=GOLD_AMPLITUDE_CONTRAST)),
    ):
        scene = around.of_kind(name)
        if len(scene):
            images = project_scene(
                scene, around.structures, imaging.angles_deg, imaging.n_workers, size)
            shown = through_ctf(images, imaging.voxel_size_angst, optics)
            total = shown if total is None else total + shown
    return total


def _scene_table(
    scene: Scene, structures: Sequence[Structure], tomogram: Path, wedge: MissingWedge
) -> ParticleTable:
    """Positions, poses and classes of a scene; the position holds the whole shift."""
    table = _positions_table(scene, structures[0], tomogram, wedge)
    poses = RigidTransforms(scene.euler_zyz, np.zeros((len(scene), 3)))
    return with_classes(table.with_poses(poses), structures, scene.class_index)


def _surroundings_table(
    around: Surroundings, tomogram: Path, wedge: MissingWedge
) -> ParticleTable:
    """Positions, kinds (famlModel) and diameters of beads and vesicles."""
    return _positions_table(around.scene, around.structures[0], tomogram, wedge).with_columns(
        famlModel=[structure.name for structure in around.structures],
        famlDiameter=around.diameter_angst,
    )


def _positions_table(
    scene: Scene, structure: Structure, tomogram: Path, wedge: MissingWedge
) -> ParticleTable:
    rows = pd.DataFrame({
        "rlnTomoName": tomogram.stem, **dict(zip(COORDINATES, scene.position_xyz.T, strict=True)),
        "rlnOpticsGroup": 1,
    })
    return ParticleTable(rows, optics_table(structure.voxel_size_angst, structure.n, [wedge]))
