"""What the two verbs that simulate share: options, counts, maps, the table of truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from scipion_faml.cli.common import F
from scipion_faml.io import LARGEST_VOXEL, write_volume
from scipion_faml.simulation.density import Structure
from scipion_faml.tables import ParticleTable
from scipion_faml.types import IntArray


def model_options(function: F) -> F:
    """What both verbs ask about structures, microscope and tilts."""
    for option in reversed((
        click.option(
            "--model", "models", multiple=True,
            help="Structure: a shipped bead model (groel, groel-groes, ribosome, ribosome-80s, "
            "tric, proteasome, apoferritin), blobs, blobs:SEED or blobs:SEED:ANGSTROM (of a "
            "diameter), a PDB or mmCIF file, or an MRC map (density positive). Repeat for more "
            "classes.",
        ),
        click.option(
            "--count", "counts", multiple=True, type=click.IntRange(min=1),
            help="Particles of each --model, in the same order, or one number for all.",
        ),
        click.option(
            "--voxel-size", default=6.0, show_default=True, help="Angstrom.",
            type=click.FloatRange(min=0, max=LARGEST_VOXEL, min_open=True),
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


def optics_options(
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


def settings_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """What decides about the result of a verb, of all its arguments."""
    return {
        key: value for key, value in arguments.items()
        if key not in {"workers", "as_json", "overwrite", "output"}
    }


def counts_of(models: Sequence[str], counts: Sequence[int]) -> list[int]:
    """Return the number of particles of each model: as given, or the one given for all."""
    if not models:
        raise ValueError("which structures? Give --model, for example --model ribosome")
    if not counts:
        raise ValueError("how many particles? Give --count: one number for all, or one a model")
    if len(counts) == 1:
        return list(counts) * len(models)
    if len(models) != len(counts):
        raise ValueError(
            f"{len(models)} --model but {len(counts)} --count: give one --count for each --model, "
            "or one for all"
        )
    return list(counts)


def model_files(models: Sequence[str]) -> list[str]:
    """The models that are files: a run with another content is another run."""
    return [model for model in models if Path(model).is_file()]


def write_maps(folder: Path, structures: Sequence[Structure]) -> list[Path]:
    """Write the noise-free structures; return their files."""
    paths = [folder / "maps" / f"{structure.name}.mrc" for structure in structures]
    for path, structure in zip(paths, structures, strict=True):
        write_volume(path, structure.map, structure.voxel_size_angst)
    return paths


def with_classes(
    table: ParticleTable, structures: Sequence[Structure], class_index: IntArray
) -> ParticleTable:
    """The table with rlnClassNumber (from 1, in the order of --model) and famlModel."""
    return table.with_columns(
        rlnClassNumber=class_index + 1, famlModel=[structures[k].name for k in class_index]
    )
