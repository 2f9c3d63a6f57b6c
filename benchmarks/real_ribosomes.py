"""Forty real ribosomes (EMPIAR-10499): reconstructed, averaged, aligned to a model, blind.

    python benchmarks/real_ribosomes.py --data FOLDER --output FOLDER

FOLDER holds `real_subtomograms/tomodrgn_10499` (WarpTools particle stacks with poses, test data of
tomodrgn) and `models/7p6z.cif.gz`. Prints the table of docs/results.md and saves pictures.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from scipion_faml import plots
from scipion_faml.cli import run
from scipion_faml.io import read_cube, read_particles, write_particles

LOW_PASS = 40.0  # angstrom: what the particles hold
MAX_SHIFT = 4.0  # voxels


def verb(*arguments: object) -> dict[str, Any]:
    """Run one verb of the command line and return its JSON, with its seconds."""
    started = time.perf_counter()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = run([*map(str, arguments), "--json"])
    if status:
        raise SystemExit(status)
    return {**json.loads(printed.getvalue()), "seconds": time.perf_counter() - started}


def agreement(volume: Path, reference: Path) -> str:
    """Masked correlation and resolution of a map against a reference, after superposition."""
    found = verb("evaluate-average", volume, "--reference", reference)
    return f"CC {found['cc_masked']:.2f}, FSC 0.5 at {found['fsc_half_angst']:.0f} A"


def main_table(data: Path, output: Path) -> list[tuple[str, str]]:
    """Run everything; return the rows of the table."""
    stacks = data / "real_subtomograms" / "tomodrgn_10499"
    published = stacks / "reconstruct.mrc"
    again = ("--overwrite",)
    stars = stacks / "particles.star"
    verb("reconstruct-particles", stars, "--output", output / "particles", *again)
    table = output / "particles" / "particles.star"
    rows = []

    verb("average", table, "--output", output / "given", *again)
    average = output / "given" / "average.mrc"
    curve = verb("fsc", average, published)
    rows.append(("given poses, FSC 0.5 with the published map", f"{curve['fsc_half_angst']:.1f} A"))

    verb("simulate-subtomograms", "--model", data / "models" / "7p6z.cif.gz", "--count", 1,
         "--box", 32, "--voxel-size", 12, "--snr", 1, "--optics", "none",
         "--output", output / "model", *again)
    model = output / "model" / "maps" / "7p6z.mrc"
    verb("average", table, "--low-pass", LOW_PASS, "--output", output / "given_40", *again)
    average = output / "given_40" / "average.mrc"
    rows.append(("given poses to 40 A, against 7P6Z", agreement(average, model)))

    for search in ("exhaustive", "magnitude"):
        folder = output / f"align_{search}"
        spent = verb("align", table, "--reference", model, "--low-pass", LOW_PASS, "--max-shift",
                     MAX_SHIFT, "--search", search, "--output", folder, *again)["seconds"]
        found = verb("evaluate-poses", folder / "particles.star", "--truth", table)
        rows.append((
            f"align to 7P6Z, {search} search: within 20 deg (10 deg)",
            f"{100 * found['fraction_within_20_deg']:.0f} % "
            f"({100 * found['fraction_within_10_deg']:.0f} %), {spent:.0f} s; average against "
            f"7P6Z: {agreement(folder / 'average.mrc', model)}",
        ))

    blind = output / "blind.star"
    write_particles(blind, read_particles(table).without_poses())
    for start in ("unturned", "turned"):
        folder = output / f"blind_{start}"
        verb("classify", blind, "--mode", "paper", "--classes", 1, "--iterations", 20,
             "--start", start, "--low-pass", LOW_PASS, "--max-shift", MAX_SHIFT,
             "--output", folder, *again)
        found = verb("evaluate-poses", folder / "particles.star", "--truth", table)
        average_of_class = folder / "class_001.mrc"
        rows.append((
            f"blind, paper mode, {start} start: within 20 deg; against the given-pose average; "
            "against 7P6Z",
            f"{100 * found['fraction_within_20_deg']:.0f} %; "
            f"{agreement(average_of_class, average)}; {agreement(average_of_class, model)}",
        ))

    names = ["given_40/average", "align_exhaustive/average", "blind_turned/class_001"]
    volumes = [read_cube(output / f"{name}.mrc")[0] for name in names]
    titles = ["given poses", "aligned to 7P6Z", "blind, turned start", "7P6Z"]
    gallery = plots.class_gallery(np.stack([*volumes, read_cube(model)[0]]), titles, 12.0)
    (output / "averages.png").write_bytes(plots.png_bytes(gallery))
    return rows


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--output", default=Path("real_ribosomes"), type=click.Path(path_type=Path))
def main(data: Path, output: Path) -> None:
    """Run and print the table."""
    for name, value in main_table(data, output):
        click.echo(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
