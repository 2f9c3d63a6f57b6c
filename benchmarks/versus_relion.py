"""This project beside RELION 3.1: the same simulated particles, one thread each, started blind.

    python benchmarks/versus_relion.py --box 32 --count 50 --classes 1 --snr 0.05 --output FOLDER

Options may be repeated: every combination of box, count, classes, SNR and seed is a case, and every
method of a case a cell. A finished cell is kept as JSON and not run again. Prints a Markdown table
of all cells asked for, and saves central slices of every average beside the truth.

Methods: `known` averages with the true poses; `oracle` does so with a Wiener filter made from the
true SNR of each shell; `relion`, `relion-15deg` and `relion-paper` are described in contenders.py
(the last is timed on two particles for one iteration); `paper` and `enhanced` are modes of ours.
Nothing is installed; where relion_refine is missing, its methods are left out.
"""

from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import itertools  # noqa: E402
import json  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from dataclasses import asdict, dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))

import click  # noqa: E402
import numpy as np  # noqa: E402
from cases import Truth, simulate_case  # noqa: E402
from contenders import Answer, Outcome, relion, run_ours, run_relion  # noqa: E402
from iteration import machine  # noqa: E402

from scipion_faml import faml, plots  # noqa: E402
from scipion_faml.cli.common import plain  # noqa: E402
from scipion_faml.disk import replacing  # noqa: E402
from scipion_faml.em import observed_average, volume_at_samples  # noqa: E402
from scipion_faml.evaluation.classes import compare_classes  # noqa: E402
from scipion_faml.evaluation.poses import pose_errors, summarise  # noqa: E402
from scipion_faml.evaluation.similarity import (  # noqa: E402
    HANDS,
    Similarity,
    masked_correlation,
    similarity,
)
from scipion_faml.evaluation.superposition import move_map  # noqa: E402
from scipion_faml.fourier import sample_set, shell_sums, spectrum  # noqa: E402
from scipion_faml.geometry import rotation_angle_deg  # noqa: E402
from scipion_faml.model import FamlConfig  # noqa: E402
from scipion_faml.sources import ArraySource  # noqa: E402
from scipion_faml.types import FloatArray  # noqa: E402

METHODS = ("known", "oracle", "relion", "relion-15deg", "relion-paper", "paper", "enhanced")
DEFAULT_METHODS = ("known", "oracle", "relion", "paper", "enhanced")
SCORE_TOLERANCE = 0.005  # converged: the score stays this close to its final value ...
# ... and the median best pose this close to the final one: RELION's grid of 15 deg is turned at
# random by up to half a step in every iteration, so that its poses never rest.
POSE_TOLERANCE_DEG = 22.5
TIMED_PARTICLES = 2  # of relion-paper


@dataclass(frozen=True)
class Case:
    """One simulated set."""

    box: int
    count: int
    classes: int
    snr: float
    seed: int

    @property
    def name(self) -> str:
        """For file names."""
        return f"box{self.box}_n{self.count}_k{self.classes}_snr{self.snr:g}_seed{self.seed}"


# --------------------------------------------------------------------------------- known poses
def known_averages(source: ArraySource, truth: Truth) -> FloatArray:
    """Return signal / coverage of every class with the true poses, (K, n, n, n)."""
    config = FamlConfig(n_classes=len(truth.maps))
    return faml.average_known(source, truth.class_index, truth.poses, config)[0]


def oracle_averages(source: ArraySource, truth: Truth) -> FloatArray:
    """Return averages with the true poses and the prior that the true maps and noise imply.

    signal / (coverage + sigma^2 / tau^2), tau^2 the power of a true map per sample of a shell: what
    remains to be gained by anyone who finds every pose.
    """
    n = source.n
    config = FamlConfig(n_classes=len(truth.maps))
    statistics = faml.accumulate_known(source, truth.class_index, truth.poses, config)
    samples = sample_set(n)
    radius = np.linalg.norm(samples.frequency_xyz, axis=1)
    shells = np.arange(n // 2)
    sigma_sq = n**3 * truth.noise_sd**2
    averages = []
    for k, true_map in enumerate(truth.maps):
        power = shell_sums(np.abs(spectrum(true_map)) ** 2, n)
        tau_sq = power / shell_sums(np.ones((n, n, n // 2 + 1)), n)
        prior = sigma_sq / np.interp(radius, shells, np.maximum(tau_sq, 1e-12 * tau_sq.max()))
        signal = statistics.signal.sum(axis=0)[k]
        coverage = statistics.coverage.sum(axis=0)[k] + prior
        averages.append(volume_at_samples(observed_average(signal, coverage, 0.0, signal), samples))
    return np.stack(averages)


# -------------------------------------------------------------------------------------- scores
def partners(answer: Answer, truth: Truth) -> list[int | None]:
    """Return the class of the answer that belongs to each true class (None: there is none)."""
    agreement = compare_classes(truth.class_index, answer.class_index)
    return [int(agreement.assigned_labels[p]) if p >= 0 else None for p in agreement.partner]


def scores_of(answers: Sequence[Answer], truth: Truth) -> list[float]:
    """Return the masked correlation of every answer's averages with the true maps, mean over maps.

    Averages that lie as the last ones do are not searched for again.
    """
    last = [
        None if k is None else similarity(answers[-1].averages[k], true_map)
        for k, true_map in zip(partners(answers[-1], truth), truth.maps, strict=True)
    ]
    return [
        float(np.mean([
            0.0 if k is None else _score(answer.averages[k], true_map, final)
            for k, true_map, final in zip(partners(answer, truth), truth.maps, last, strict=True)
        ]))
        for answer in answers
    ]


def _score(average: FloatArray, true_map: FloatArray, final: Similarity | None) -> float:
    """Masked correlation after superposition, which is first tried as the last iteration's."""
    if final is not None:
        there = masked_correlation(move_map(average, final.pose), true_map)
        if abs(there - final.masked_correlation) <= SCORE_TOLERANCE:
            return there
    return similarity(average, true_map).masked_correlation


def judge_averages(averages: Sequence[FloatArray | None], truth: Truth) -> dict[str, Any]:
    """Return both figures of every true class, for both hands, and the superposed maps."""
    found: list[dict[str, Similarity] | None] = [
        None if a is None else {hand: similarity(a, m, hand) for hand in HANDS}
        for a, m in zip(averages, truth.maps, strict=True)
    ]

    def column(figure: str, hand: str) -> list[float]:
        return [0.0 if f is None else float(getattr(f[hand], figure)) for f in found]

    return {
        "cc": column("masked_correlation", "same"),
        "cc_no_radial": column("correlation_without_radial_mean", "same"),
        "cc_mirrored": column("masked_correlation", "mirrored"),
        "cc_no_radial_mirrored": column("correlation_without_radial_mean", "mirrored"),
        "superposed": np.stack([
            np.zeros_like(m) if f is None else f["same"].superposed
            for f, m in zip(found, truth.maps, strict=True)
        ]),
    }


def judge_answer(answer: Answer, truth: Truth) -> dict[str, Any]:
    """Return all figures of a final answer."""
    errors = pose_errors(
        answer.poses, truth.poses, truth.symmetry, truth.class_index, answer.class_index)
    agreement = compare_classes(truth.class_index, answer.class_index)
    averages = [None if k is None else answer.averages[k] for k in partners(answer, truth)]
    return {
        **judge_averages(averages, truth),
        **summarise(errors.rotation_deg, errors.shift_voxels),
        "accuracy": agreement.accuracy, "f1_mean": agreement.f1_mean,
        "confusion": agreement.confusion,
    }


def convergence(scores: Sequence[float], changes_deg: Sequence[float]) -> int:
    """Return the first iteration (from 1) from which scores and poses stay near their last ones."""
    settled = [
        abs(score - scores[-1]) <= SCORE_TOLERANCE and change <= POSE_TOLERANCE_DEG
        for score, change in zip(scores, changes_deg, strict=True)
    ]
    unsettled = [t for t, is_settled in enumerate(settled) if not is_settled]
    return unsettled[-1] + 2 if unsettled else 1


def pose_changes_deg(answers: Sequence[Answer]) -> list[float]:
    """Return the median angle between the best poses of every iteration and of the last."""
    last = answers[-1].poses.rotation
    return [float(np.median(rotation_angle_deg(a.poses.rotation, last))) for a in answers]


# --------------------------------------------------------------------------------------- cells
def run_cell(
    case: Case, method: str, folder: Path, limit_s: float | None, iterations: int | None
) -> dict[str, Any] | None:
    """Run one method on one case; None where this version does not have it."""
    source, truth = simulate_case(case.box, case.count, case.classes, case.snr, case.seed)
    if method in ("known", "oracle"):
        averages = (known_averages if method == "known" else oracle_averages)(source, truth)
        return judge_averages(list(averages), truth)
    if method == "relion-paper":
        return _time_relion_paper(case, source, folder)
    if method.startswith("relion"):
        given = {} if iterations is None else {"iterations": iterations}
        relions = run_relion(source, case.classes, method, folder, case.seed, limit_s, **given)
        return judge_outcome(relions, truth)
    outcome = run_ours(source, case.classes, method, folder, case.seed, limit_s, iterations)
    return None if outcome is None else judge_outcome(outcome, truth)


def judge_outcome(outcome: Outcome, truth: Truth) -> dict[str, Any]:
    """Return figures and times of a contender."""
    child, n = outcome.child, outcome.n_iterations
    times = {
        "core_s": child.cpu_s, "core_s_marks": child.marks_s, "is_stopped": child.is_stopped,
        "iterations": n,
    }
    if not n:
        return times
    answers = [outcome.load(t) for t in range(1, n + 1)]
    return {
        **times, "scores": scores_of(answers, truth), "pose_changes_deg": pose_changes_deg(answers),
        **judge_answer(answers[-1], truth),
    }


def _time_relion_paper(case: Case, source: ArraySource, folder: Path) -> dict[str, Any]:
    """Core-seconds per particle of one iteration at the paper's settings; no figures."""
    outcome = run_relion(
        source, case.classes, "relion-paper", folder, case.seed,
        iterations=1, n_used=TIMED_PARTICLES)
    spent = outcome.child.cpu_s
    return {"core_s_per_particle": spent / TIMED_PARTICLES, "core_s_sample": spent}


def load_or_run(
    case: Case, method: str, output: Path, limit_s: float | None = None,
    iterations: int | None = None, keep: bool = False,
) -> dict[str, Any] | None:
    """Return the result of a cell, from disk where it was finished before."""
    cell = output / "cells" / f"{case.name}_{method}.json"
    if cell.is_file():
        known: dict[str, Any] = json.loads(cell.read_text())
        return known
    work = output / "work" / f"{case.name}_{method}"
    shutil.rmtree(work, ignore_errors=True)
    result = run_cell(case, method, work, limit_s, iterations)
    if not keep:
        shutil.rmtree(work, ignore_errors=True)
    if result is None:
        return None
    superposed = result.pop("superposed", None)
    if superposed is not None:
        _draw(case, method, superposed, output)
    result = plain({**asdict(case), "method": method, "machine": machine(), **result})
    with replacing(cell) as temporary:
        temporary.write_text(json.dumps(result, indent=1))
    return result


def _draw(case: Case, method: str, superposed: FloatArray, output: Path) -> None:
    """Central slices and projections of the true maps and of the averages laid on them."""
    truth = simulate_case(case.box, case.classes, case.classes, case.snr, case.seed)[1]
    names = [f"{kind} {k + 1}" for kind in ("truth", method) for k in range(case.classes)]
    figure = plots.class_gallery(
        np.concatenate([truth.maps, superposed]), names, with_surface=False)
    with replacing(output / "pictures" / f"{case.name}_{method}.png") as temporary:
        temporary.write_bytes(plots.png_bytes(figure))


# --------------------------------------------------------------------------------------- table
HEADER = (
    "| box | N | K | SNR | seed | method | correlation | without radial mean | rotation, median "
    "(deg) | within 10 deg | class accuracy | mean F1 | core-s per particle and iteration: first 2 "
    "/ later | core-s to converge (iteration) | core-s in all (iterations) |"
)


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table, a row for each cell."""
    columns = HEADER.count("|") - 1
    return "\n".join([HEADER, "|" + "---|" * columns, *(_row(result) for result in results)])


def _row(result: dict[str, Any]) -> str:
    cells = [f"{result['box']}^3", result["count"], result["classes"], f"{result['snr']:g}",
             result["seed"], result["method"]]
    cells += [_each(result.get("cc")), _each(result.get("cc_no_radial"))]
    cells += [_number(result.get("rotation_median_deg"), ".1f"),
              _number(result.get("fraction_within_10_deg"), ".2f")]
    is_classified = result["classes"] > 1
    cells += [_number(result.get(name), ".2f") if is_classified else "" for name in
              ("accuracy", "f1_mean")]
    cells += [_per_iteration(result), _converged(result), _total(result)]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _each(values: Sequence[float] | None) -> str:
    """One value for each class."""
    return "" if values is None else ", ".join(f"{value:.3f}" for value in values)


def _per_iteration(result: dict[str, Any]) -> str:
    """Core-seconds per particle of the first two iterations, and of the median later one."""
    if "core_s_per_particle" in result:
        return f"{result['core_s_per_particle']:.0f} (timed on {TIMED_PARTICLES} particles)"
    marks = result.get("core_s_marks")
    if not marks:
        return ""
    spent = np.diff([0.0, *marks]) / result["count"]
    early = ", ".join(f"{value:.3g}" for value in spent[:2])
    return f"{early} / {np.median(spent[2:]):.3g}" if len(spent) > 2 else early


def _converged(result: dict[str, Any]) -> str:
    """Core-seconds until scores and poses stay where they end, start of the program included."""
    if "scores" not in result:
        return ""
    iteration = convergence(result["scores"], result["pose_changes_deg"])
    return f"{result['core_s_marks'][iteration - 1]:.1f} ({iteration})"


def _total(result: dict[str, Any]) -> str:
    if "core_s" not in result:
        return ""
    stopped = ", stopped" if result["is_stopped"] else ""
    return f"{result['core_s']:.1f} ({result['iterations']}{stopped})"


@click.command()
@click.option("--box", "boxes", multiple=True, type=int, default=(32,), show_default=True)
@click.option("--count", "counts", multiple=True, type=int, default=(50,), show_default=True,
              help="Particles of all classes together.")
@click.option("--classes", "class_counts", multiple=True, type=click.IntRange(1, 2),
              default=(1,), show_default=True)
@click.option("--snr", "snrs", multiple=True, type=float, default=(0.05, 0.01), show_default=True)
@click.option("--seed", "seeds", multiple=True, type=int, default=(0,), show_default=True)
@click.option("--methods", multiple=True, type=click.Choice(METHODS), default=DEFAULT_METHODS,
              show_default=True)
@click.option("--limit", "limit_s", type=float, default=None,
              help="Stop a run after this many core-seconds and judge what it has.")
@click.option("--iterations", type=click.IntRange(min=1), default=None,
              help="Of RELION and of ours.  [default: 25 and that of classify]")
@click.option("--keep", is_flag=True, help="Keep the files of every run.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("versus_relion"),
              show_default=True, help="Folder.")
def main(
    boxes: tuple[int, ...], counts: tuple[int, ...], class_counts: tuple[int, ...],
    snrs: tuple[float, ...], seeds: tuple[int, ...], methods: tuple[str, ...],
    limit_s: float | None, iterations: int | None, keep: bool, output: Path,
) -> None:
    """Run every cell and print the table."""
    if relion() is None and any(m.startswith("relion") for m in methods):
        click.echo("relion_refine is not installed: its methods are left out", err=True)
        methods = tuple(m for m in methods if not m.startswith("relion"))
    results = []
    for values in itertools.product(boxes, counts, class_counts, snrs, seeds):
        for method in methods:
            result = load_or_run(Case(*values), method, output, limit_s, iterations, keep)
            if result is None:
                click.echo(f"this version has no mode {method}: left out", err=True)
                continue
            results.append(result)
            click.echo(_row(result), err=True)
    click.echo(f"{machine()}\n\n{table(results)}")


if __name__ == "__main__":
    main()
