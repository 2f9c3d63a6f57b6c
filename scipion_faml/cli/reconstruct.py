"""Verb reconstruct-particles: subtomograms from per-particle tilt stacks of Warp / RELION 5."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from scipy import fft

from scipion_faml.cli.common import common_options, n_workers, progress, workers_option
from scipion_faml.cli.pictures import draw_particles
from scipion_faml.cli.runs import Run, run_once
from scipion_faml.fourier import volume_from_spectrum
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import read_volume, write_volume, write_weight
from scipion_faml.simulation.reconstruction import divide, invert_tilt_series
from scipion_faml.simulation.scene import ordered_map
from scipion_faml.simulation.tilt_series import Microscope
from scipion_faml.simulation.tilt_weights import (
    NoiseModel,
    TiltOptics,
    fit_noise,
    image_transfers,
)
from scipion_faml.star import read as read_star
from scipion_faml.star import to_numbers
from scipion_faml.tables import (
    ANGLES,
    LARGEST_NUMBER,
    ParticleTable,
    read_particles,
    write_particles,
)
from scipion_faml.types import BoolArray, ComplexArray, FloatArray
from scipion_faml.volume import inscribed_sphere
from scipion_faml.whitening import FULL_WEIGHT_PERCENTILE, Whitening, weight_of_shells

MIRROR = np.diag([1.0, 1.0, -1.0])
N_FOR_NOISE = 100  # particles that the noise is measured on
FLOOR = 1e-3  # of the largest denominator: below it a sample counts as not measured

PROJECTIONS = ("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ")
SUBTOMOGRAM_ANGLES = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")


@dataclass(frozen=True, eq=False)
class TiltSeries:
    """What the tilt images of one tomogram have in common."""

    name: str
    rotations: FloatArray  # (T, 3, 3) specimen to microscope
    transfers: FloatArray  # (T, n, n // 2 + 1) CTF x dose x scale
    is_used: BoolArray  # (T,)


@dataclass(frozen=True, eq=False)
class Stack:
    """One particle's images: where they are, whose they are and which of them count."""

    path: str
    series: TiltSeries
    is_visible: BoolArray  # (T,)


@click.command()
@click.argument("star", type=click.Path(dir_okay=False))
@click.option(
    "--tomograms", default=None, type=click.Path(dir_okay=False),
    help="STAR file with the tilt geometry.  [default: tomograms.star beside STAR]",
)
@click.option(
    "--box", default=None, type=click.IntRange(min=8),
    help="Box size (voxels): the images are cropped or padded to it.  [default: theirs]",
)
@click.option(
    "--mirror", default="auto", show_default=True, type=click.Choice(["auto", "yes", "no"]),
    help="Negate the depth axis of volumes and poses, which changes the hand. auto: where "
    "rlnTomoHand is -1.",
)
@click.option(
    "--whitening", default=0.5, show_default=True, type=click.FloatRange(0.0, 1.0),
    help="How far volumes are filtered to equal noise on all shells. 0: amplitudes stay those of "
    "the structure and the weights alone tell a poor shell from a good one. 1: each shell has "
    "weights up to 1. The likelihood is the same; a reference must be filtered alike.",
)
@click.option("--output", required=True, type=click.Path(file_okay=False), help="Folder to make.")
@workers_option
@common_options
def reconstruct_particles(
    star: str, tomograms: str | None, box: int | None, mirror: str, whitening: float, output: str,
    workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Make subtomograms and 3-D weights from per-particle 2-D tilt stacks.

    STAR is a particle table of Warp or RELION 5 whose images are stacks, one image a tilt. Every
    stack is inverted with the weights CTF^2 and dose of its tilts. Writes OUTPUT/particles.star,
    OUTPUT/subtomograms/*.mrc and OUTPUT/weights/*.mrc (rlnCtfImage, 0 to 1: the precision of each
    Fourier sample, relative to its noise and background). The poses are those of STAR.
    """
    table = read_particles(star)
    geometry = Path(tomograms) if tomograms else Path(star).parent / "tomograms.star"
    if not geometry.is_file():
        raise FileNotFoundError(f"{geometry} does not exist: name the tilt geometry by --tomograms")
    settings = {"box": box, "mirror": mirror, "whitening": whitening}

    def work() -> dict[str, Any]:
        made = _reconstruct(
            table, geometry, run.output, box, mirror, whitening, n_workers(workers))
        run.report.title = "Subtomograms from tilt stacks"
        run.report.say_in_short(
            f"{made['n_particles']} subtomograms of {made['box']} voxels of "
            f"{table.voxel_size_angst:.4g} Å from {made['n_tomograms']} tilt series.",
            "Each has 3-D weights (rlnCtfImage): how precisely it measured each Fourier sample.",
            *(["The depth axis was negated, as rlnTomoHand says (or --mirror)."]
              if made["mirrored"] else []))
        draw_particles(run.report, read_particles(made["particles"]))
        return made

    run = Run("reconstruct-particles", output, settings, [star, geometry], overwrite)
    run_once(run, work, as_json)


def _reconstruct(
    table: ParticleTable, geometry: Path, folder: Path, box: int | None, mirror: str,
    whitening: float, threads: int,
) -> dict[str, Any]:
    """Read, invert and write all particles."""
    voxel_size = table.voxel_size_angst
    table.require("rlnImageName", "rlnTomoName")
    _refuse_local_frames(table)
    paths = [find_image(str(name), table.path) for name in table.rows["rlnImageName"]]
    n = box or read_volume(paths[0])[0].shape[1]
    series, is_mirrored = read_tilt_series(table, geometry, n, mirror)
    is_premultiplied = _is_premultiplied(table)
    stacks = [
        Stack(path, series[name], _visible(table, row, len(series[name].is_used)))
        for row, (path, name) in enumerate(zip(paths, table.tomogram_names, strict=True))
    ]

    def invert(stack: Stack) -> tuple[ComplexArray, FloatArray]:
        return invert_stack(stack, n, is_premultiplied)

    scale = _measure_noise(list(ordered_map(invert, _spread(stacks), threads)), whitening)
    names = [f"particle_{i + 1:06d}.mrc" for i in range(len(stacks))]
    made = ordered_map(invert, stacks, threads)
    for name, (numerator, denominator) in zip(
        names, progress(made, len(names), "particles"), strict=True
    ):
        volume, weight = scale.apply(numerator, denominator)
        write_volume(folder / "subtomograms" / name, volume, voxel_size)
        write_weight(folder / "weights" / name, weight, voxel_size)
    written = _output_table(table, folder, names, n, is_mirrored)
    write_particles(folder / "particles.star", written)
    return {
        "n_particles": len(names), "n_tomograms": len(series), "box": n,
        "mirrored": bool(any(is_mirrored.values())), "particles": folder / "particles.star",
        "noise_background": scale.noise.background, "noise_shot": scale.noise.shot,
    }


# --------------------------------------------------------------------------------------- scale
@dataclass(frozen=True, eq=False)
class Scale:
    """What turns an inverted stack into a subtomogram and its weights; one for a whole set."""

    noise: NoiseModel
    floor: float  # of the denominators
    filter: FloatArray  # (n, n, n // 2 + 1) amplitude gain, a function of |k|
    full_precision: float  # of the filtered volume: becomes weight 1
    gain: float  # of the volumes

    def apply(
        self, numerator: ComplexArray, denominator: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the subtomogram (n, n, n), masked by a soft sphere, and its weights in [0, 1].

        The corners of the box hold only noise and other particles, and interpolating a spectrum
        needs a volume that ends inside its box.
        """
        n = numerator.shape[0]
        weight = self.noise.precision(denominator, self.floor) / self.filter**2
        weight /= self.full_precision
        half = divide(numerator, denominator, self.floor) * self.filter
        half[weight <= 0] = 0.0
        volume = volume_from_spectrum(half, n) * (self.gain * inscribed_sphere(n))
        return volume.astype(np.float32), np.minimum(weight, 1.0).astype(np.float32)


def _spread(stacks: Sequence[Stack]) -> list[Stack]:
    """Up to N_FOR_NOISE stacks, evenly spread over the table."""
    rows = np.unique(np.linspace(0, len(stacks) - 1, min(N_FOR_NOISE, len(stacks))).astype(int))
    return [stacks[row] for row in rows]


def _measure_noise(
    inverted: Sequence[tuple[ComplexArray, FloatArray]], whitening: float
) -> Scale:
    """Noise model, filter, weight and grey scale of a set, from some of its particles."""
    floor = FLOOR * max(float(denominator.max()) for _, denominator in inverted)
    spectra = [divide(numerator, denominator, floor) for numerator, denominator in inverted]
    noise = fit_noise(spectra, [denominator for _, denominator in inverted], floor)
    precision = np.stack([noise.precision(denominator, floor) for _, denominator in inverted])
    if not precision.any():
        raise ValueError("no Fourier sample of any particle is measured: the images are empty or "
                         "have no weight; check defocus and scale factors")
    n = spectra[0].shape[0]
    best = weight_of_shells(precision, FULL_WEIGHT_PERCENTILE)
    gain = Whitening((best / best.max()) ** (0.5 * whitening)).gains(n)
    measured = (precision / gain**2)[precision > 0]
    full_precision = float(np.percentile(measured, FULL_WEIGHT_PERCENTILE))
    # Noise of a sample of weight 1 as in a volume of unit variance.
    return Scale(noise, floor, gain, full_precision, float(np.sqrt(full_precision * n**3)))


# -------------------------------------------------------------------------------------- stacks
def find_image(name: str, star: Path | None) -> str:
    """Return the file of an image, dropping leading folders of its name until it is found.

    Stacks are often moved together with their table, without the project folder that the names
    start with.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    folder = (star or Path()).resolve().parent
    parts = Path(os.path.relpath(name, folder)).parts
    for start in range(len(parts)):
        candidate = folder.joinpath(*parts[start:])
        if candidate.is_file():
            return str(candidate)
    raise FileNotFoundError(f"{folder / Path(*parts)}, named in {star}, does not exist")


def invert_stack(
    stack: Stack, n: int, is_premultiplied: bool
) -> tuple[ComplexArray, FloatArray]:
    """Return numerator and denominator (`invert_tilt_series`) of one particle's stack."""
    images = read_volume(stack.path)[0]
    n_tilts = len(stack.series.is_used)
    if len(images) != n_tilts or images.shape[1] != images.shape[2]:
        raise ValueError(
            f"{stack.path} holds {images.shape[0]} images of {images.shape[1]} x "
            f"{images.shape[2]}: {n_tilts} square ones are needed, as {stack.series.name} has "
            "tilts; extract it again"
        )
    used = stack.is_visible & stack.series.is_used & images.any(axis=(1, 2))
    if not used.any():
        raise ValueError(f"{stack.path}: none of its images is visible: remove it from the table")
    transfers = stack.series.transfers[used]
    images = _crop_or_pad_images(images[used], n)
    spectra = fft.rfft2(fft.ifftshift(images, axes=(1, 2)))
    if not is_premultiplied:
        spectra = spectra * transfers
    return invert_tilt_series(spectra, transfers**2, stack.series.rotations[used])


def _crop_or_pad_images(images: FloatArray, n: int) -> FloatArray:
    """Images (T, n_old, n_old) in (T, n, n), centre on centre (pixel n // 2)."""
    n_old = images.shape[1]
    out = np.zeros((len(images), n, n), dtype=images.dtype)
    size = min(n, n_old)
    old, new = n_old // 2 - size // 2, n // 2 - size // 2
    out[:, new : new + size, new : new + size] = images[:, old : old + size, old : old + size]
    return out


def _visible(table: ParticleTable, row: int, n_tilts: int) -> BoolArray:
    """Which of a particle's images count: rlnTomoVisibleFrames, or all."""
    if "rlnTomoVisibleFrames" not in table.rows:
        return np.ones(n_tilts, dtype=bool)
    flags = _numbers(table.rows["rlnTomoVisibleFrames"].iloc[row])
    if len(flags) != n_tilts or not np.isfinite(flags).all():
        raise ValueError(
            f"{table.path}: rlnTomoVisibleFrames of particle {row + 1} has {len(flags)} entries, "
            f"its tilt series {n_tilts}: give a 0 or 1 for each tilt"
        )
    return flags > 0


def _numbers(text: object) -> FloatArray:
    """Numbers of a STAR entry such as [1,0,2.5]; NaN for what is none."""
    return to_numbers(str(text).strip("[] ").split(","))


# ------------------------------------------------------------------------------------- geometry
def read_tilt_series(
    table: ParticleTable, geometry: Path, n: int, mirror: str
) -> tuple[dict[str, TiltSeries], dict[str, bool]]:
    """Return the tilt series of every tomogram of the particles, and which of them are mirrored.

    Row k of a tomogram's table belongs to image k; its rlnTomoProjX/Y/Z are the rows of the
    rotation from the tomogram to the microscope. rlnTomoHand = -1 says that depth runs against
    these matrices (the tilts have the opposite sign), so volumes made with them have the wrong
    hand. In that case the depth axis is negated: with F = diag(1, 1, -1) the images are inserted by
    R F, and a pose R, t becomes F R F, F t. (Ribosomes of EMPIAR-10499, hand -1: the average
    correlates with the atomic model by 0.83 when mirrored, by 0.51 as it is.)
    """
    blocks = read_star(geometry)
    general = blocks.get("global")
    if not isinstance(general, pd.DataFrame):
        general = pd.DataFrame([general] if general else [])
    if "rlnTomoName" not in general:
        raise ValueError(f"{geometry} has no data_global table with rlnTomoName: add it")
    general = general.set_index("rlnTomoName")
    series, is_mirrored = {}, {}
    for name in dict.fromkeys(table.tomogram_names):
        if name not in general.index or name not in blocks:
            raise ValueError(f"{geometry} does not describe tomogram {name} of {table.path}: add "
                             "its table")
        hand = to_numbers([general.loc[name].get("rlnTomoHand", 1.0)])[0]
        is_mirrored[name] = hand < 0 if mirror == "auto" else mirror == "yes"
        series[name] = _tilt_series(
            name, blocks[name], general.loc[name], n, table.voxel_size_angst, is_mirrored[name],
            geometry,
        )
    return series, is_mirrored


def _tilt_series(
    name: str, tilts: pd.DataFrame, general: pd.Series, n: int, pixel_size_angst: float,
    is_mirrored: bool, geometry: Path,
) -> TiltSeries:
    """Geometry and transfer of one tomogram's images."""
    for column in (*PROJECTIONS, "rlnDefocusU"):
        if column not in tilts:
            raise ValueError(f"{geometry}: tomogram {name} has no column {column}: add it")
    rotations = _rotations(name, tilts, geometry)
    ones = np.ones(len(tilts))

    def of_tilts(key: str, default: FloatArray) -> FloatArray:
        if key not in tilts:
            return default
        values = to_numbers(tilts[key])
        if not (np.abs(values) < LARGEST_NUMBER).all():
            raise ValueError(f"{geometry}: {key} of tomogram {name} is no number in a tilt: "
                             "correct it")
        return values

    def of_all(key: str, default: float) -> float:
        value = float(to_numbers([general.get(key, default)])[0])
        if not 0 <= value < LARGEST_NUMBER:
            raise ValueError(f"{geometry}: {key} of tomogram {name} is {value:g}: correct it")
        return value

    defocus = of_tilts("rlnDefocusU", ones)
    optics = TiltOptics(
        defocus, of_tilts("rlnDefocusV", defocus), of_tilts("rlnDefocusAngle", 0 * ones),
        of_tilts("rlnCtfScalefactor", ones), of_tilts("rlnMicrographPreExposure", 0 * ones),
    )
    try:
        microscope = Microscope(
            of_all("rlnVoltage", 300.0), of_all("rlnSphericalAberration", 2.7),
            of_all("rlnAmplitudeContrast", 0.07))
    except ValueError as error:
        raise ValueError(f"{geometry}: tomogram {name}: {error}") from error
    transfers = image_transfers(optics, microscope, n, pixel_size_angst)
    flip = MIRROR if is_mirrored else np.eye(3)
    return TiltSeries(name, rotations @ flip, transfers, optics.scale > 0)


def _rotations(name: str, tilts: pd.DataFrame, geometry: Path) -> FloatArray:
    """Rotations (T, 3, 3) from the tomogram to the microscope."""
    rows = [[_numbers(entry)[:3] for entry in tilts[column]] for column in PROJECTIONS]
    if any(len(row) != 3 for column in rows for row in column):
        raise ValueError(f"{geometry}: a projection matrix of tomogram {name} has fewer than 3 "
                         "numbers in a row: correct it")
    rotations = np.stack([np.array(row) for row in rows], axis=1)
    off = np.abs(rotations @ np.swapaxes(rotations, 1, 2) - np.eye(3)) if np.isfinite(
        rotations).all() and np.abs(rotations).max() < 2 else np.array([np.inf])
    if not off.max() <= 1e-3:
        raise ValueError(f"{geometry}: a projection matrix of tomogram {name} is no rotation: "
                         "correct it")
    return rotations


def _refuse_local_frames(table: ParticleTable) -> None:
    """Poses relative to a frame of each particle's own are not supported."""
    for column in SUBTOMOGRAM_ANGLES:
        if column in table.rows and np.any(table.numbers(column) != 0):
            raise ValueError(
                f"{table.path}: {column} is not 0: export the particles with their whole "
                "orientation in rlnAngleRot, rlnAngleTilt and rlnAnglePsi"
            )


def _is_premultiplied(table: ParticleTable) -> bool:
    """Whether the images are multiplied by their CTF (the habit of Warp; assumed when unsaid)."""
    flags = table.optics.get("rlnCtfDataAreCtfPremultiplied")
    return bool(flags is None or np.all(np.asarray(flags, dtype=int) == 1))


# ---------------------------------------------------------------------------------------- table
def _output_table(
    table: ParticleTable, folder: Path, names: Sequence[str], n: int, is_mirrored: dict[str, bool]
) -> ParticleTable:
    """The particles as volumes with weights; poses in the frame of the volumes."""
    if set(ANGLES) <= set(table.rows.columns):
        flags = np.array([is_mirrored[name] for name in table.tomogram_names])
        table = table.with_poses(_mirrored_poses(table.poses, flags))
    rows = table.rows.assign(
        rlnImageName=[str(folder / "subtomograms" / name) for name in names],
        rlnCtfImage=[str(folder / "weights" / name) for name in names],
    )
    optics = table.optics.assign(rlnImageSize=n, rlnImageDimensionality=3)
    if "rlnCtfDataAreCtfPremultiplied" in optics:
        optics = optics.assign(rlnCtfDataAreCtfPremultiplied=0)
    blocks = {key: block for key, block in table.other_blocks.items() if key != "general"}
    return replace(table, rows=rows, optics=optics, other_blocks=blocks)


def _mirrored_poses(poses: RigidTransforms, is_mirrored: BoolArray) -> RigidTransforms:
    """F R F and F t where mirrored."""
    rotation, shift = poses.rotation, poses.shift_xyz.copy()
    rotation[is_mirrored] = MIRROR @ rotation[is_mirrored] @ MIRROR
    shift[is_mirrored, 2] *= -1.0
    return RigidTransforms.from_rotation(rotation, shift)
