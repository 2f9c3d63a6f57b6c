"""The formats by name: guess one from a file, export a table to it, import a file of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scipion_faml.exchange.dynamo import export_dynamo, import_dynamo
from scipion_faml.exchange.eman import export_eman, import_eman
from scipion_faml.exchange.motl import export_motl, import_motl
from scipion_faml.exchange.peet import export_peet, import_peet
from scipion_faml.exchange.relion import CENTRED, export_relion, follow, import_relion
from scipion_faml.exchange.table import (
    STACK_INDEX,
    TILTS,
    Exported,
    check_numbers,
    image_names,
    merged,
    numbers_of_particles,
    reading,
    whole,
    with_box,
)
from scipion_faml.exchange.tomograms import Tomograms
from scipion_faml.exchange.volumes import as_mrc
from scipion_faml.star import to_numbers
from scipion_faml.tables import ParticleTable, read_particles

RELION = {"relion3": 3, "relion4": 4, "relion5": 5}
FORMATS = (*RELION, "dynamo", "eman", "motl", "peet")
# What is done about volumes unless asked otherwise: EM where the package's own files are EM.
DEFAULT_VOLUMES = {**dict.fromkeys(FORMATS, "link"), "dynamo": "convert", "motl": "convert",
                   "peet": "none"}
MAY_BE = {name: ({"link", "copy", "none"} if name in RELION or name == "eman"
                 else {"none"} if name == "peet"
                 else {"link", "copy", "convert", "none"}) for name in FORMATS}


def guess_format(path: Path) -> str:
    """Return the format of a file, from its suffix and its columns.

    Raises
    ------
    OSError, ValueError
        If the file is missing or of no known format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    by_suffix = {".tbl": "dynamo", ".json": "eman", ".lst": "eman", ".em": "motl", ".csv": "peet"}
    if path.suffix.lower() in by_suffix:
        return by_suffix[path.suffix.lower()]
    if path.suffix.lower() != ".star":
        raise ValueError(f"{path}: its name does not tell the format: choose it (--format)")
    particles, tomogram_set = follow(path)
    columns = set(read_particles(particles).rows.columns)
    if set(CENTRED) <= columns:
        return "relion5"
    return "relion4" if tomogram_set or "rlnTomoParticleName" in columns else "relion3"


# ---------------------------------------------------------------------------------- exporting
@dataclass(frozen=True)
class ExportOptions:
    """How a table is exported; what a format does not need is not looked at."""

    format: str
    volumes: str | None = None  # link, copy, convert or none
    first_voxel: int = 1  # Dynamo, motive list: number of a tomogram's first voxel
    pixel_size_angst: float | None = None  # RELION 4 and 5: of the unbinned tilt series
    subtomogram_frames: bool = False  # RELION 4 and 5

    @property
    def mode(self) -> str:
        """What is done about volumes.

        Raises
        ------
        ValueError
            If the format cannot have it.
        """
        mode = self.volumes or DEFAULT_VOLUMES[self.format]
        if mode not in MAY_BE[self.format]:
            choices = ", ".join(sorted(MAY_BE[self.format]))
            raise ValueError(f"--volumes {mode} is not for {self.format}: choose of {choices}")
        return mode


def export_particles(
    table: ParticleTable, folder: Path, options: ExportOptions, tomograms: Tomograms,
    tomogram_set: Path | None = None,
) -> Exported:
    """Write `table` below `folder` in the format of `options`; return what was written."""
    mode = options.mode
    check_numbers(table)
    if options.subtomogram_frames and options.format not in ("relion4", "relion5"):
        raise ValueError(f"--subtomogram-frames is for relion4 and relion5, not {options.format}: "
                         "leave it out")
    if options.format in RELION:
        return export_relion(
            table, RELION[options.format], folder, tomograms, mode, tomogram_set,
            options.pixel_size_angst, options.subtomogram_frames)
    if options.format == "dynamo":
        return export_dynamo(table, folder, tomograms, mode, options.first_voxel)
    if options.format == "motl":
        return export_motl(table, folder, tomograms, mode, options.first_voxel)
    if options.format == "eman":
        return export_eman(table, folder, tomograms, mode)
    return export_peet(table, folder)


# ---------------------------------------------------------------------------------- importing
@dataclass(frozen=True)
class ImportOptions:
    """How a file is imported; what a format does not need is not looked at."""

    format: str
    voxel_size_angst: float | None = None
    tilts_deg: tuple[float, float] | None = None
    data: Path | None = None  # folder of the volumes (Dynamo, motive list)
    positions: Path | None = None  # model points (PEET)
    first_voxel: int = 1
    with_volumes: bool = True
    in_tomogram_frame: bool | None = None  # RELION 4 and 5


def import_particles(
    path: Path, options: ImportOptions, tomograms: Tomograms
) -> tuple[ParticleTable, list[str]]:
    """Return the particles of `path` and remarks; volumes are not read yet (`bring_volumes`).

    Raises
    ------
    OSError, ValueError
        If a file is missing or damaged, or a number in it is none.
    """
    with reading(path, f"{options.format} list"):
        table, remarks = _imported(path, options, tomograms)
    return check_numbers(table), remarks


def _imported(
    path: Path, options: ImportOptions, tomograms: Tomograms
) -> tuple[ParticleTable, list[str]]:
    """The particles and remarks by the reader of their format."""
    name, size = options.format, options.voxel_size_angst
    if name in RELION:
        table, remarks = import_relion(
            path, tomograms, size, options.in_tomogram_frame, options.with_volumes)
        return _with_tilts(table, options.tilts_deg), remarks
    if name == "peet":
        return import_peet(path, tomograms, size, options.tilts_deg, options.positions)
    if name == "eman":
        return import_eman(path, tomograms, size, options.tilts_deg, options.with_volumes)
    reader = import_dynamo if name == "dynamo" else import_motl
    return reader(path, tomograms, size, options.tilts_deg, options.data, options.first_voxel,
                  options.with_volumes)


def _with_tilts(
    table: ParticleTable, tilts_deg: tuple[float, float] | None
) -> ParticleTable:
    if tilts_deg is None:
        return table
    rows = table.rows.drop(columns=TILTS, errors="ignore")
    return replace(table, rows=rows, optics=table.optics.assign(
        famlTiltMin=tilts_deg[0], famlTiltMax=tilts_deg[1]))


def bring_volumes(
    table: ParticleTable, folder: Path, voxel_size_angst: float | None = None
) -> tuple[ParticleTable, int]:
    """Return the table with MRC volumes, and how many had to be converted (into `folder`).

    Raises
    ------
    OSError, ValueError
        If a volume is missing, damaged or no cube.
    """
    names = image_names(table)
    if names is None:
        return table, 0
    index = np.zeros(len(table), dtype=int)
    if STACK_INDEX in table.rows:
        index = whole(to_numbers(table.rows[STACK_INDEX]), STACK_INDEX,
                      table.path or Path("the table"))
    numbers = numbers_of_particles(table)  # all different: they name files
    size = voxel_size_angst or table.voxel_size_angst
    paths = [
        as_mrc(name, int(i), folder / "subtomograms" / f"particle_{number:06d}.mrc", size)
        for name, i, number in zip(names, index, numbers, strict=True)
    ]
    converted = sum(str(folder.resolve()) in path for path in paths)
    rows = table.rows.drop(columns=STACK_INDEX, errors="ignore").assign(rlnImageName=paths)
    return with_box(replace(table, rows=rows)), converted


def with_what_was_exported(imported: ParticleTable, exported: Path) -> ParticleTable:
    """Return the rows of the table `exported` with the poses, classes and scores that came back."""
    return merged(imported, read_particles(exported))
