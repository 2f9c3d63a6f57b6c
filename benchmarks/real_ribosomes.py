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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from scipion_faml import plots
from scipion_faml.cli import run
from scipion_faml.evaluation.superposition import move_map, superpose
from scipion_faml.fourier import low_pass
from scipion_faml.io import read_cube, write_volume
from scipion_faml.tables import read_particles, write_particles
from scipion_faml.types import FloatArray

LOW_PASS = 40.0  # angstrom: what the particles hold
MAX_SHIFT = 4.0  # voxels
BLIND_LOW_PASS = 35.0  # angstrom: ten shells
CC_LOW_PASS = 60.0  # angstrom
# A 70S ribosome, and gradients of the cytoplasm: shell 1.
MASKED = ("--particle-diameter", 240, "--high-pass", 300)
CENTRED = (*MASKED, "--max-shift", 1.2)  # voxels: these particles are centred
SAMPLED = (*CENTRED, "--sampling-sweeps", 150, "--starts", 3)
BLIND: dict[str, tuple[object, ...]] = {
    "enhanced": (), "masked": MASKED, "centred": CENTRED, "sampled": SAMPLED}
NAMES = {
    "enhanced": "enhanced mode as it comes",
    "masked": "particle diameter 240 A, high-pass 300 A",
    "centred": "the same, shifts to 1.2 voxels",
    "sampled": "the same, the best of three sampled starts",
}
CLASS = "class_001.mrc"


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


def main_table(data: Path, output: Path, n_seeds: int) -> list[tuple[str, str]]:
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

    truth = Truth(table, average, model, output)
    for name, options in BLIND.items():
        found = [blind_run(blind, output / f"blind_{name}_{seed}", seed, options, truth)
                 for seed in range(n_seeds)]
        rows += [(f"blind, {NAMES[name]}: {figure}", spread([f[figure] for f in found]))
                 for figure in found[0]]
        rows.append((f"blind, {NAMES[name]}: poses that two seeds share within 20 deg",
                     spread(shared_poses(output, name, n_seeds))))

    best = best_seed(output, n_seeds)
    names = ["given_40/average.mrc", "align_exhaustive/average.mrc", f"blind_enhanced_0/{CLASS}",
             f"blind_sampled_{best}/{CLASS}"]
    volumes = [read_cube(output / name)[0] for name in names]
    volumes = [onto(volume, average) for volume in [*volumes, read_cube(model)[0]]]
    titles = ["given poses", "aligned to 7P6Z", "blind, as it comes", "blind, sampled", "7P6Z"]
    gallery = plots.class_gallery(np.stack(volumes), titles, 12.0)
    (output / "averages.png").write_bytes(plots.png_bytes(gallery))
    return rows


@dataclass(frozen=True)
class Truth:
    """What blind runs are scored with; none of it reaches them."""

    table: Path
    average: Path
    model: Path
    output: Path


def blind_run(
    blind: Path, folder: Path, seed: int, options: Sequence[object], truth: Truth
) -> dict[str, float]:
    """Average the particles blind, in enhanced mode; return its figures."""
    spent = verb("classify", blind, "--mode", "enhanced", "--low-pass", BLIND_LOW_PASS,
                 "--iterations", 25, "--seed", seed, *options, "--output", folder, "--overwrite")
    found = verb("evaluate-poses", folder / "particles.star", "--truth", truth.table)
    average = folder / CLASS
    return {
        "within 20 deg (%)": 100 * found["fraction_within_20_deg"],
        "within 10 deg (%)": 100 * found["fraction_within_10_deg"],
        f"CC with the given-pose average, below {CC_LOW_PASS:g} A":
            correlation_below(average, truth.average, folder),
        f"CC with 7P6Z, below {CC_LOW_PASS:g} A":
            correlation_below(average, truth.model, folder),
        "log evidence per particle": spent["log_evidence_per_particle"],
        "seconds": spent["seconds"],
    }


def correlation_below(volume: Path, reference: Path, folder: Path) -> float:
    """Masked correlation of two maps, both low-passed, after superposition."""
    paths = []
    for name, path in (("low", volume), ("low_reference", reference)):
        values, voxel_size = read_cube(path)
        paths.append(folder / f"{name}.mrc")
        write_volume(paths[-1], low_pass(values, voxel_size, CC_LOW_PASS), voxel_size)
    found: float = verb("evaluate-average", paths[0], "--reference", paths[1])["cc_masked"]
    return found


def shared_poses(output: Path, name: str, n_seeds: int) -> list[float]:
    """Percentages of poses on which pairs of seeds agree: no truth is looked at."""
    tables = [output / f"blind_{name}_{seed}" / "particles.star" for seed in range(n_seeds)]
    pairs = [(a, b) for a in range(n_seeds) for b in range(a)]
    return [100 * verb("evaluate-poses", tables[a], "--truth", tables[b])["fraction_within_20_deg"]
            for a, b in pairs]


def best_seed(output: Path, n_seeds: int) -> int:
    """The seed of highest log evidence: what a user without a truth would keep."""
    evidence = []
    for seed in range(n_seeds):
        rows = (output / f"blind_sampled_{seed}" / "history.csv").read_text().splitlines()
        column = rows[0].split(",").index("log_likelihood")
        evidence.append(float(rows[-1].split(",")[column]))
    return int(np.argmax(evidence))


def onto(volume: FloatArray, reference: Path) -> FloatArray:
    """A map, low-passed and laid on a reference."""
    low = low_pass(volume, 12.0, LOW_PASS)
    pose, _ = superpose(low, read_cube(reference)[0])
    return move_map(low, pose)


def spread(values: Sequence[float]) -> str:
    """Median and range of the seeds' figures."""
    if not values:
        return "one seed"
    digits = 2 if max(values) < 2 else 0
    return (f"{np.median(values):.{digits}f} "
            f"({min(values):.{digits}f} to {max(values):.{digits}f})")


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--output", default=Path("real_ribosomes"), type=click.Path(path_type=Path))
@click.option("--seeds", default=3, show_default=True, help="Of each blind run.")
def main(data: Path, output: Path, seeds: int) -> None:
    """Run and print the table."""
    for name, value in main_table(data, output, seeds):
        click.echo(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
