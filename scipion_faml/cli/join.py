"""The verb join-particles: tables of several tomograms as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scipion_faml.cli.common import common_options
from scipion_faml.cli.pictures import draw_particles
from scipion_faml.cli.runs import Run, run_once
from scipion_faml.joining import joined
from scipion_faml.tables import read_particles, write_particles

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("join-particles")
@click.argument("tables", metavar="TABLE...", nargs=-1, required=True, type=FILE)
@click.option("--output", default=Path("particles.star"), show_default=True, type=FILE,
              help="STAR file.")
@common_options
def join_particles(tables: tuple[Path, ...], output: Path, as_json: bool, overwrite: bool) -> None:
    """Write the particles of several tables into one, for example of all tomograms of a session.

    Volumes stay where they are. Voxel sizes and boxes must agree. Optics groups that say the same
    become one. Columns that only some tables have are left out, and named.
    """
    run = Run("join-particles", output, {}, tables, overwrite)

    def work() -> dict[str, Any]:
        table, lost = joined([read_particles(path) for path in tables])
        write_particles(output, table)
        names = set(table.tomogram_names) - {""}
        run.report.title = "Particles of several tables"
        run.report.say_in_short(
            f"{len(table)} particles of {len(tables)} tables, in {len(names)} tomograms and "
            f"{len(table.optics)} optics groups.")
        draw_particles(run.report, table)
        warnings = [] if not lost else [
            f"left out, because not every table has them: {', '.join(lost)}"]
        return {"n_particles": len(table), "n_tables": len(tables), "n_tomograms": len(names),
                "n_optics_groups": len(table.optics), "voxel_size_angst": table.voxel_size_angst,
                "particles": output, "warnings": warnings}

    run_once(run, work, as_json)
