"""Verbs export-particles and import-particles: other packages' files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from scipion_faml.cli.common import common_options
from scipion_faml.cli.pictures import draw_particles
from scipion_faml.cli.runs import Run, run_once
from scipion_faml.cli.tomograms import tilt_range, wedge_of
from scipion_faml.exchange import formats
from scipion_faml.exchange.formats import FORMATS, ExportOptions, ImportOptions
from scipion_faml.exchange.tomograms import read_tomograms
from scipion_faml.exchange.volumes import MODES
from scipion_faml.tables import ParticleTable, read_particles, write_particles

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
_tomograms_option = click.option(
    "--tomograms", "tomograms", multiple=True, type=FILE,
    help="Names, numbers and sizes of tomograms: RELION's tomograms.star, a Dynamo .doc or .vll, "
    "or MRC files. Repeatable.")
_first_voxel_option = click.option(
    "--first-voxel", default=1, show_default=True, type=click.IntRange(0, 1),
    help="Number of a tomogram's first voxel in a Dynamo table or motive list. The packages count "
    "from 1; some converters wrote 0.")


@click.command("export-particles")
@click.argument("particles", metavar="PARTICLES", type=FILE)
@click.option("--format", "format_", required=True, type=click.Choice(FORMATS))
@click.option("--volumes", default=None, type=click.Choice(MODES),
              help="Link or copy the MRC files, convert them to EM, or leave them out.  [default: "
              "convert for dynamo and motl, none for peet, else link]")
@_tomograms_option
@_first_voxel_option
@click.option("--pixel-size", default=None, type=click.FloatRange(min=0, min_open=True),
              help="RELION 4, 5: of the unbinned tilt series, angstrom; coordinates count its "
              "pixels.  [default: that of the coordinates]")
@click.option("--subtomogram-frames", is_flag=True,
              help="RELION 4, 5: write poses to rlnTomoSubtomogram*, so that RELION cuts particles "
              "turned into their frames. Needs --volumes none.")
@click.option("--output", default=Path("exported"), show_default=True, type=FOLDER, help="Folder.")
@common_options
def export_particles(
    particles: Path, format_: str, volumes: str | None, tomograms: tuple[Path, ...],
    first_voxel: int, pixel_size: float | None, subtomogram_frames: bool, output: Path,
    as_json: bool, overwrite: bool,
) -> None:
    """Write particles with their poses for RELION, Dynamo, EMAN2, PEET or as an EM motive list.

    Lists name the volumes relative to OUTPUT. What the format has no place for is said; it comes
    back with import-particles --exported PARTICLES.
    """
    options = ExportOptions(format_, volumes, first_voxel, pixel_size, subtomogram_frames)
    options = dataclasses.replace(options, volumes=options.mode)
    run = Run("export-particles", output, dataclasses.asdict(options),
              [particles, *tomograms], overwrite)

    def work() -> dict[str, Any]:
        table = read_particles(particles)
        known = read_tomograms(tomograms)
        done = formats.export_particles(table, output, options, known, _tomogram_set(tomograms))
        run.report.title = f"Particles for {format_}"
        run.report.say_in_short(
            f"{len(table)} particles were written for {format_}: "
            f"{', '.join(Path(str(path)).name for path in done.files.values())}.",
            *(["Not held by this format, and therefore only in PARTICLES: "
               f"{', '.join(done.not_held)}."] if done.not_held else []))
        draw_particles(run.report, table)
        warnings = list(done.remarks)
        if done.not_held:
            warnings.append(f"{format_} has no place for: {', '.join(done.not_held)}")
        return {"n_particles": len(table), "format": format_, "volumes": options.volumes,
                "files": done.files, "not_held": done.not_held, "warnings": warnings}

    run_once(run, work, as_json)


def _tomogram_set(tomograms: tuple[Path, ...]) -> Path | None:
    """RELION's tomograms.star among the files given."""
    return next((path for path in tomograms if path.suffix.lower() == ".star"), None)


@click.command("import-particles")
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--format", "format_", default=None, type=click.Choice(FORMATS),
              help="Of FILE.  [default: from its name and columns]")
@click.option("--voxel-size", default=None, type=click.FloatRange(min=0, min_open=True),
              help="Of the subtomograms, angstrom.  [default: what FILE or the volumes say]")
@_tomograms_option
@tilt_range
@click.option("--volumes-folder", "data", default=None, type=FOLDER,
              help="Where the volumes of a Dynamo table or motive list lie.  [default: beside it]")
@click.option("--positions", default=None, type=FILE,
              help="PEET: the model as text, made by model2point.")
@click.option("--volumes", default="use", show_default=True, type=click.Choice(["use", "none"]),
              help="none: poses and positions only.")
@click.option("--frame", default=None, type=click.Choice(["volume", "tomogram"]),
              help="RELION 4, 5: poses in the frame of the volumes, or of the tomogram.  [default: "
              "of the volumes where there are some]")
@click.option("--exported", default=None, type=FILE,
              help="The table that was exported: volumes, tilt ranges, halves and names are taken "
              "from it, poses, classes and scores from FILE.")
@_first_voxel_option
@click.option("--output", default=Path("imported"), show_default=True, type=FOLDER, help="Folder.")
@common_options
def import_particles(
    file: Path, format_: str | None, voxel_size: float | None, tomograms: tuple[Path, ...],
    tilt_min: float | None, tilt_max: float | None, data: Path | None, positions: Path | None,
    volumes: str, frame: str | None, exported: Path | None, first_voxel: int, output: Path,
    as_json: bool, overwrite: bool,
) -> None:
    """Read particles with poses of RELION, Dynamo, EMAN2, PEET or an EM motive list.

    Writes OUTPUT/particles.star. EM and HDF volumes become OUTPUT/subtomograms/*.mrc; MRC volumes
    stay where they are.
    """
    format_ = format_ or formats.guess_format(file)
    wedge = wedge_of(tilt_min, tilt_max)
    options = ImportOptions(
        format_, voxel_size, None if wedge is None else (wedge.tilt_min_deg, wedge.tilt_max_deg),
        data, positions, first_voxel, volumes == "use" and exported is None,
        None if frame is None else frame == "tomogram")
    settings = {**dataclasses.asdict(options), "exported": exported}
    inputs = [file, *tomograms, *(path for path in (positions, exported) if path is not None)]
    run = Run("import-particles", output, settings, inputs, overwrite)

    def work() -> dict[str, Any]:
        table, remarks = formats.import_particles(file, options, read_tomograms(tomograms))
        n_converted = 0
        if exported is not None:
            table = formats.with_what_was_exported(table, exported)
        else:
            table, n_converted = formats.bring_volumes(table, output, voxel_size)
        write_particles(output / "particles.star", table)
        run.report.title = f"Particles from {format_}"
        run.report.say_in_short(
            f"{len(table)} particles were read from {file.name} ({format_})"
            + (f"; {n_converted} volumes were converted." if n_converted else "."))
        draw_particles(run.report, table)
        return {"n_particles": len(table), "format": format_, "n_converted": n_converted,
                "voxel_size_angst": table.voxel_size_angst,
                "particles": output / "particles.star",
                "warnings": [*remarks, *_missing(table)]}

    run_once(run, work, as_json)


def _missing(table: ParticleTable) -> list[str]:
    """What later steps will ask for."""
    if "rlnImageName" not in table.rows:
        return ["no volumes: give --volumes-folder, or cut them with extract"]
    has_tilts = table._of_optics("famlTiltMin") is not None or "rlnCtfImage" in table.rows
    return [] if has_tilts else ["no tilt range: give --tilt-min and --tilt-max, in degrees"]
