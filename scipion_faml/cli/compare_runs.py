"""The verb compare-runs: what two runs on the same particles agree on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from scipion_faml import plots
from scipion_faml.cli.common import common_options, n_workers, workers_option
from scipion_faml.cli.evaluation import classes_of, evaluate_once, output_option, page_of
from scipion_faml.cli.evaluation import report_option as evaluation_report
from scipion_faml.cli.reporting import RunReport
from scipion_faml.cli.tomograms import FILE
from scipion_faml.cli.truth import RowMatch, match_rows, true_poses
from scipion_faml.cli.validation import common_voxel_size, figure_option, write_figure
from scipion_faml.evaluation.agreement import RunAgreement
from scipion_faml.evaluation.agreement import compare_runs as compare
from scipion_faml.evaluation.fsc import (
    fourier_shell_correlation,
    frequencies_per_angst,
    resolution_angst,
)
from scipion_faml.evaluation.poses import summarise
from scipion_faml.evaluation.similarity import similarity
from scipion_faml.evaluation.superposition import evaluation_mask
from scipion_faml.execution import executor_of
from scipion_faml.io import read_cube
from scipion_faml.plots import validation as pictures
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.tables import ANGLES, ParticleTable, read_particles, write_particles
from scipion_faml.types import IntArray


@dataclass(frozen=True, eq=False)
class _Run:
    """One run: its table, and its averages by class."""

    table: ParticleTable
    averages: dict[int, Path]

    @staticmethod
    def of(source: Path) -> _Run:
        """From a run's folder, or from a table alone."""
        path = source / "particles.star" if source.is_dir() else source
        table = read_particles(path)
        maps = {int(f.stem[6:]): f for f in sorted(path.parent.glob("class_[0-9]*.mrc"))
                if f.stem[6:].isdecimal()}
        if not maps and (path.parent / "average.mrc").is_file():
            maps = {1: path.parent / "average.mrc"}
        return _Run(table, maps)

    @property
    def files(self) -> list[Path]:
        """All that is read."""
        return [*([self.table.path] if self.table.path else []), *self.averages.values()]


@click.command("compare-runs")
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option("--symmetry", default="C1", show_default=True,
              help="Point group of the structures, for poses; one for each class of RUN_A, "
              "separated by commas, where they differ.")
@click.option("--radius", default=None, type=click.FloatRange(min=0, min_open=True),
              help="Match particles by position within this distance, angstrom.  [default: by "
              "rlnImageName, those that both runs have]")
@click.option("--no-averages", is_flag=True, help="Do not superpose and compare averages.")
@click.option("--table", default=None, type=FILE,
              help="Write every particle of both runs with famlClassA, famlClassB, famlChanged, "
              "famlRotationDifference (deg) and famlShiftDifference (voxels) to this STAR file.")
@figure_option
@evaluation_report
@output_option
@workers_option
@common_options
def compare_runs(
    run_a: Path, run_b: Path, symmetry: str, radius: float | None, no_averages: bool,
    table: Path | None, figure: Path | None, report: Path | None, output: Path | None,
    workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Agreement of two runs: folders of classify or average, or STAR files of their particles.

    Classes are matched one to one so that most particles stay where they were. Poses of those that
    stay are compared modulo symmetry and the common turn and shift of each pair of averages. Where
    both are folders, averages of matched classes are superposed and compared.

    JSON: ari, n_particles, n_changed, share_unchanged, f1_mean, confusion (rows: classes of A),
    classes_a, classes_b, matched, n_only_a, n_only_b, rotation_median_deg, rotation_q90_deg,
    shift_median_voxels, shift_q90_voxels, fraction_within_10_deg, averages (class_a, class_b,
    cc_masked, cc_no_radial, fsc_half_angst, fsc, frequency_per_angst).
    """
    first, second = _Run.of(run_a), _Run.of(run_b)
    settings = {"symmetry": symmetry, "radius": radius, "no_averages": no_averages, "table": table,
                "figure": figure, "report": report}
    page = page_of("compare-runs", report, output)

    def work() -> dict[str, Any]:
        match = _common_rows(first.table, second.table, radius)
        found = _compared(first.table, second.table, match, symmetry)
        if table is not None:
            _write_table(table, first.table, second.table, match, found)
        averages = [] if no_averages else _averages(
            first, second, found.pairs, n_workers(workers))
        result = {**_numbers(first.table, second.table, match, found), "averages": averages}
        _show(page, figure, result)
        return result

    inputs = [*first.files, *second.files]
    evaluate_once("compare-runs", output, settings, inputs, overwrite, as_json, work, page)


def _common_rows(
    first: ParticleTable, second: ParticleTable, radius: float | None
) -> RowMatch:
    """Which rows of both tables are the same particle: row of A, row of B."""
    if radius is not None:
        return match_rows(first, second, radius)
    if not all("rlnImageName" in t.rows for t in (first, second)):
        return match_rows(first, second, None)
    for part in (lambda name: Path(name).name, str):
        names, others = ([part(str(n)) for n in t.rows["rlnImageName"]] for t in (first, second))
        row_of = {name: row for row, name in enumerate(others)}
        if len(row_of) < len(others) or len(set(names)) < len(names):
            continue  # file names repeat: compare whole paths
        here = [row for row, name in enumerate(names) if name in row_of]
        if here:
            there = [row_of[names[row]] for row in here]
            return RowMatch(np.array(here), np.array(there), "rlnImageName")
    raise ValueError(f"{first.path} and {second.path} share no image: give runs on the same "
                     "particles, or match them by position with --radius")


def _compared(
    first: ParticleTable, second: ParticleTable, match: RowMatch, symmetry: str
) -> RunAgreement:
    """Classes and, where both tables have them, poses."""
    class_a, class_b = classes_of(first)[match.particle], classes_of(second)[match.truth]
    poses = None
    if all(set(ANGLES) <= set(t.rows.columns) for t in (first, second)):
        poses = (first.poses[match.particle], true_poses(first, second, match))
    return compare(class_a, class_b, poses, _groups(symmetry, class_a))


def _groups(symmetry: str, class_a: IntArray) -> dict[int, Any]:
    """Rotations of the point group of every class of A."""
    labels = np.unique(class_a)
    names = [name.strip() for name in symmetry.split(",")]
    names = names * len(labels) if len(names) == 1 else names
    if len(names) != len(labels):
        raise ValueError(
            f"--symmetry {symmetry} names {len(names)} point groups for {len(labels)} classes")
    return {int(k): symmetry_rotations(name) for k, name in zip(labels, names, strict=True)}


def _numbers(
    first: ParticleTable, second: ParticleTable, match: RowMatch, found: RunAgreement
) -> dict[str, Any]:
    """All numbers but those of averages."""
    known = found.classes
    numbers: dict[str, Any] = {
        "ari": known.adjusted_rand_index, "n_particles": len(match.particle),
        "n_changed": int(found.is_changed.sum()),
        "share_unchanged": float(1.0 - found.is_changed.mean()),
        "f1_mean": known.f1_mean, "confusion": known.confusion,
        "classes_a": known.true_labels, "classes_b": known.assigned_labels,
        "matched": [int(known.assigned_labels[p]) if p >= 0 else None for p in known.partner],
        "n_only_a": len(first) - len(match.particle), "n_only_b": len(second) - len(match.truth),
        "matched_by": match.matched_by,
    }
    if found.poses is not None:
        summary = summarise(found.poses.rotation_deg, found.poses.shift_voxels)
        numbers |= {k: v for k, v in summary.items() if k != "n_particles"}
        numbers["n_poses_compared"] = summary["n_particles"]
    return numbers


def _write_table(
    path: Path, first: ParticleTable, second: ParticleTable, match: RowMatch, found: RunAgreement
) -> None:
    """The particles of A that B has, with what differs."""
    rows = first.rows.iloc[match.particle].reset_index(drop=True)
    columns: dict[str, Any] = {
        "famlClassA": classes_of(first)[match.particle],
        "famlClassB": classes_of(second)[match.truth],
        "famlChanged": found.is_changed.astype(int),
    }
    if found.poses is not None:
        columns |= {"famlRotationDifference": found.poses.rotation_deg,
                    "famlShiftDifference": found.poses.shift_voxels}
    write_particles(path, ParticleTable(
        rows.assign(**columns), first.optics, first.other_blocks, first.path))


def _averages(
    first: _Run, second: _Run, pairs: list[tuple[int, int]], threads: int
) -> list[dict[str, Any]]:
    """Correlation and FSC of the averages of matched classes."""
    known = [(a, b) for a, b in pairs if a in first.averages and b in second.averages]
    return list(executor_of(threads).map(
        lambda pair: _alike(*pair, first.averages[pair[0]], second.averages[pair[1]]), known))


def _alike(class_a: int, class_b: int, file_a: Path, file_b: Path) -> dict[str, Any]:
    """One pair of averages: B is laid on A."""
    (first, size_a), (second, size_b) = read_cube(file_a), read_cube(file_b)
    voxel_size = common_voxel_size((file_a, file_b), (size_a, size_b), "averages of one set")
    found = similarity(second, first)
    n = first.shape[0]
    curve = fourier_shell_correlation(found.superposed, first, evaluation_mask(n))
    return {
        "class_a": class_a, "class_b": class_b, "cc_masked": found.masked_correlation,
        "cc_no_radial": found.correlation_without_radial_mean,
        "fsc_half_angst": resolution_angst(curve, n, voxel_size, 0.5),
        "fsc": curve, "frequency_per_angst": frequencies_per_angst(n, voxel_size),
    }


def _show(page: RunReport, figure: Path | None, result: dict[str, Any]) -> None:
    """The report and the picture."""
    page.title = "Agreement of two runs"
    lines = [f"{result['n_changed']} of {result['n_particles']} particles change class; adjusted "
             f"Rand index {result['ari']:.2f}."]
    if np.isfinite(result.get("rotation_median_deg", np.nan)):
        lines.append(f"Poses of the others differ by {result['rotation_median_deg']:.1f} deg and "
                     f"{result['shift_median_voxels']:.1f} voxels (medians).")
    lines += [f"Averages of class {a['class_a']} and {a['class_b']}: correlation "
              f"{a['cc_masked']:.2f}, FSC 0.5 at {a['fsc_half_angst']:.1f} A."
              for a in result["averages"][:2]]
    page.say_in_short(*lines)
    arguments = (result["confusion"], result["classes_a"], result["classes_b"])
    page.draw("Classes", "Particles of each class of A (rows) in each class of B (columns).",
              pictures.run_agreement, *arguments)
    if result["averages"]:
        page.draw("Averages", "Matched averages, superposed.", plots.fsc_curves, {
            f"A {a['class_a']}, B {a['class_b']}": (a["frequency_per_angst"], a["fsc"])
            for a in result["averages"]})
    write_figure(figure, pictures.run_agreement, *arguments)
