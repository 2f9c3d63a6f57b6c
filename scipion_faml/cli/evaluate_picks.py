"""The verb evaluate-picks: which picks found which particles, and what class they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml.cli.common import common_options, workers_option
from scipion_faml.cli.evaluation import (
    class_names,
    classes_of,
    evaluate_once,
    output_option,
    page_of,
    report_option,
    truth_option,
)
from scipion_faml.cli.hitboxes import LabelFiles, label_files, pairs_on_labels
from scipion_faml.cli.judged import describe_picks, judged_table
from scipion_faml.cli.tomograms import FILE
from scipion_faml.cli.truth import by_tomogram, particle_centres_angst
from scipion_faml.disk import replacing
from scipion_faml.evaluation import picks
from scipion_faml.evaluation.curves import PrecisionRecall, class_curve, localisation_curve
from scipion_faml.evaluation.matching import Pairs, pairs_by_distance
from scipion_faml.tables import (
    CLASS_NAME_COLUMN,
    COORDINATES,
    SCORE_COLUMN,
    ParticleTable,
    read_particles,
    write_particles,
)
from scipion_faml.types import FloatArray, IntArray

SCORES = (SCORE_COLUMN, "rlnAutopickFigureOfMerit")
EVERYTHING = "all"  # the curve of the localisation


@click.command("evaluate-picks")
@click.argument("picks_file", metavar="PICKS", type=FILE)
@truth_option
@click.option("--radius", default=None, type=click.FloatRange(min=0, min_open=True),
              help="A pick within this distance of a particle found it (angstrom). With "
              "--instances or --labels: of one of its voxels.")
@click.option("--instances", multiple=True, metavar="[NAME=]FILE",
              help="MRC of the tomogram's size with the number of the particle (row of the truth, "
              "from 1) at every voxel: a pick on a particle's voxels found it (rule of SHREC). "
              "NAME is rlnTomoName, where the truth holds several tomograms.")
@click.option("--labels", multiple=True, metavar="[NAME=]FILE",
              help="The same with the class of every voxel: a pick there found the nearest "
              "particle of that class.")
@click.option("--matching", type=click.Choice(["best", "greedy"]), default="best",
              show_default=True,
              help="Which pick gets a particle that several may have found. best: most pairs, then "
              "nearest; greedy: by falling score, without scores in the order of the table.")
@click.option("--beta", default=1.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Weight of recall against precision in f_beta.")
@click.option("--classes/--no-classes", "with_classes", default=None,
              help="Also judge the class that picks say, by famlModel where both tables have it, "
              "else by rlnClassNumber.  [default: where both have classes]")
@click.option("--curve", default=None, type=FILE,
              help="Write precision and recall at every score, over all and of every class, to "
              "this CSV file.")
@click.option("--judged", default=None, type=FILE,
              help="Write picks and missed particles with famlVerdict (hit, misclassified, "
              "duplicate, false, missed) to this STAR file.")
@click.option("--tomogram", default=None, type=FILE,
              help="Tomogram whose slices the report shows with hits and misses.")
@report_option
@output_option
@workers_option
@common_options
def evaluate_picks(
    picks_file: Path, truth: Path, radius: float | None, instances: tuple[str, ...],
    labels: tuple[str, ...], matching: str, beta: float, with_classes: bool | None,
    curve: Path | None, judged: Path | None, tomogram: Path | None, report: Path | None,
    output: Path | None, workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Precision, recall and F1 of picked positions, one pick to a particle at most.

    Localisation and classification are judged apart: n_hit picks found a particle, of which
    n_misclassified say another class; n_duplicate lie on a particle that another pick has. Curves
    give out hits by falling score, whatever --matching says.
    """
    files = label_files(instances, labels)
    if radius is None and files is None:
        raise ValueError("give --radius ANGSTROM, or --instances MRC, or --labels MRC")
    settings = {"radius": radius, "matching": matching, "beta": beta, "classes": with_classes,
                "instances": instances, "labels": labels, "curve": curve, "judged": judged,
                "tomogram": tomogram, "report": report}
    inputs = [picks_file, truth, *(files.paths if files else []), *([tomogram] if tomogram else [])]
    page = page_of("evaluate-picks", report, output)

    def work() -> dict[str, Any]:
        table, known, warnings = _comparable(read_particles(picks_file), read_particles(truth))
        classes = _common_classes(table, known, with_classes, warnings)
        pairs = _pairs(table, known, files, radius, warnings)
        score = _scores(table)
        if curve is not None and score is None:
            raise ValueError(
                f"{picks_file} has no {SCORES[0]} that tells picks apart: a curve needs scores")
        order = -np.arange(len(table), dtype=float) if score is None else score
        found = (picks.greedy_agreement(pairs, order) if matching == "greedy"
                 else picks.best_agreement(pairs))
        curves = {} if score is None else _curves(pairs, score, classes)
        result = {
            **_localisation(found, beta), **_classification(found, classes, beta),
            **_curve_numbers(curves), "rule": _rule_in_words(files, radius), "matching": matching,
            "warnings": warnings,
        }
        _add_class_curves(result, curves, classes)
        verdicts = judged_table(found, table, known, classes.wrong(found))
        if curve is not None:
            _write_curves(curve, curves)
        if judged is not None:
            write_particles(judged, verdicts)
        describe_picks(page, result, curves, verdicts, tomogram, None if files else radius)
        return result

    evaluate_once("evaluate-picks", output, settings, inputs, overwrite, as_json, work, page)


# -------------------------------------------------------------------------------- what is compared
def _comparable(
    table: ParticleTable, truth: ParticleTable
) -> tuple[ParticleTable, ParticleTable, list[str]]:
    """Picks and truth of the tomograms that the truth knows, and what must be told about it."""
    for one in (table, truth):
        _check_positions(one)
    picked, known = (sorted(set(t.tomogram_names)) for t in (table, truth))
    if len(picked) == len(known) == 1:
        return table, truth, []
    if not set(picked) & set(known):
        raise ValueError(
            f"{table.path} holds picks in {', '.join(picked[:3])}, {truth.path} particles in "
            f"{', '.join(known[:3])}: no tomogram (rlnTomoName) in common")
    warnings = []
    is_judged = np.isin(table.tomogram_names, known)
    if not is_judged.all():
        warnings.append(
            f"{(~is_judged).sum()} picks lie in tomograms that {truth.path} does not know "
            f"({', '.join(sorted(set(picked) - set(known))[:3])}): they are not judged")
        table = replace(table, rows=table.rows[is_judged].reset_index(drop=True))
    for name in sorted(set(known) - set(picked)):
        warnings.append(f"no picks in {name}: its particles count as missed")
    return table, truth, warnings


def _check_positions(table: ParticleTable) -> None:
    """Raise where a position is no number."""
    table.numbers(*COORDINATES)


def _scores(table: ParticleTable) -> FloatArray | None:
    """How sure the picker is of each pick (P,), where it tells; one score for all tells nothing."""
    for column in SCORES:
        if column in table.rows:
            score = table.numbers(column)[:, 0]
            return np.asarray(score) if len(set(score)) > 1 or len(score) == 1 else None
    return None


def _pairs(
    table: ParticleTable, truth: ParticleTable, files: LabelFiles | None, radius: float | None,
    warnings: list[str],
) -> Pairs:
    """Possible pairs over all tomograms, distances in angstrom."""
    if files is not None:
        return pairs_on_labels(table, truth, files, radius or 0.0, warnings)
    here, there = particle_centres_angst(table), particle_centres_angst(truth)
    return Pairs.joined([
        pairs_by_distance(here[a], there[b], float(radius or 0.0)).within(
            a, b, len(table), len(truth))
        for a, b in by_tomogram(table, truth)
    ])


def _rule_in_words(files: LabelFiles | None, radius: float | None) -> str:
    """What makes a hit."""
    if files is None:
        return f"within {radius:g} A of the particle"
    voxels = "voxels of the particle" if files.are_instances else "voxels of the particle's class"
    return f"within {radius:g} A of {voxels}" if radius else f"on {voxels}"


# ----------------------------------------------------------------------------------------- classes
@dataclass(frozen=True, eq=False)
class CommonClasses:
    """Classes of truth and picks in one numbering."""

    true: IntArray  # (T,)
    picked: IntArray | None  # (P,), or None: classes are not judged
    names: dict[int, str]

    def wrong(self, found: picks.PickAgreement) -> IntArray:
        """Return the hits (picks) that say another class than their particle's."""
        if self.picked is None:
            return np.zeros(0, dtype=np.intp)
        return found.hit_pick[picks.is_misclassified(found, self.true, self.picked)]


def _common_classes(
    table: ParticleTable, truth: ParticleTable, wanted: bool | None, warnings: list[str]
) -> CommonClasses:
    """Classes by name where both tables have names, else by number."""
    true, names = classes_of(truth), class_names(truth)
    shared = set(table.rows) & set(truth.rows) & {CLASS_NAME_COLUMN, "rlnClassNumber"}
    if wanted and not shared:
        raise ValueError(
            f"{table.path} and {truth.path} do not both say classes (rlnClassNumber or famlModel "
            "in both): leave --classes away")
    if wanted is False or not shared:
        return CommonClasses(true, None, names)
    if CLASS_NAME_COLUMN in shared:
        return _classes_by_name(table, truth, true, names, bool(wanted), warnings)
    picked = classes_of(table)
    more = {int(c): f"class {c}" for c in np.setdiff1d(picked, true)}
    return CommonClasses(true, picked, names | more)


def _classes_by_name(
    table: ParticleTable, truth: ParticleTable, true: IntArray, names: dict[int, str],
    is_asked: bool, warnings: list[str],
) -> CommonClasses:
    """Numbers of the truth for the names that picks say; names that it lacks get new ones."""
    said = [str(name) for name in table.rows[CLASS_NAME_COLUMN]]
    n_true = truth.rows[CLASS_NAME_COLUMN].nunique(dropna=False)
    if len(set(names.values())) < len(names) or n_true > len(names):
        raise ValueError(f"{truth.path}: rlnClassNumber and famlModel do not go together")
    number = {name: label for label, name in names.items()}
    if not set(said) & set(number):
        text = (f"{table.path} calls its classes {', '.join(sorted(set(said))[:3])}, {truth.path} "
                f"{', '.join(sorted(number)[:3])}: no name in common")
        if is_asked:
            raise ValueError(text)
        warnings.append(f"{text}; classes are not judged")
        return CommonClasses(true, None, names)
    for name in sorted(set(said) - set(number)):
        number[name] = max(number.values()) + 1
    picked = np.array([number[name] for name in said], dtype=np.intp)
    return CommonClasses(true, picked, {label: name for name, label in number.items()})


# ----------------------------------------------------------------------------------------- numbers
def _localisation(found: picks.PickAgreement, beta: float) -> dict[str, Any]:
    """Numbers that do not ask for classes."""
    some = len(found.distance) > 0
    return {
        "precision": found.precision, "recall": found.recall, "f1": found.f1,
        "beta": beta, "f_beta": picks.f_score(found.n_hit, found.n_picked, found.n_true, beta),
        "n_truth": found.n_true, "n_picked": found.n_picked, "n_hit": found.n_hit,
        "n_missed": len(found.missed_truth), "n_false": len(found.false_pick),
        "n_duplicate": found.n_duplicate,
        "n_truth_with_duplicates": len(np.unique(found.duplicate_truth)),
        "distance_median_angst": float(np.median(found.distance)) if some else None,
        "distance_mean_angst": float(found.distance.mean()) if some else None,
    }


def _classification(
    found: picks.PickAgreement, classes: CommonClasses, beta: float
) -> dict[str, Any]:
    """Numbers by class; precision and confusion where picks say classes."""
    if classes.picked is None:
        per_class = picks.recall_per_class(found, classes.true)
        named = {label: {"name": classes.names[label], **s} for label, s in per_class.items()}
        return {"macro_f1": None, "n_misclassified": None, "per_class": named}
    per_class = picks.scores_per_class(found, classes.true, classes.picked, beta)
    labels, confusion = picks.confusion_matrix(found, classes.true, classes.picked)
    n_wrong = len(classes.wrong(found))
    names = [classes.names[int(label)] for label in labels]
    return {
        "macro_f1": float(np.mean([s["f1"] for s in per_class.values()])),
        "macro_f_beta": float(np.mean([s["f_beta"] for s in per_class.values()])),
        "n_misclassified": n_wrong,
        "classification_accuracy": 1.0 - n_wrong / found.n_hit if found.n_hit else None,
        "per_class": {label: {"name": classes.names[label], **s}
                      for label, s in per_class.items()},
        "confusion": confusion,
        "confusion_rows": ["background", *names],
        "confusion_columns": ["not found", *names],
    }


def _curves(
    pairs: Pairs, score: FloatArray, classes: CommonClasses
) -> dict[str, PrecisionRecall]:
    """Curves over all picks, and of every true class where picks say classes."""
    curves = {EVERYTHING: localisation_curve(pairs, score)}
    if classes.picked is not None:
        for label in np.unique(classes.true).tolist():
            curves[classes.names[label]] = class_curve(
                pairs, score, classes.picked, classes.true, label)
    return curves


def _curve_numbers(curves: dict[str, PrecisionRecall]) -> dict[str, Any]:
    """Average precision, and the threshold that gives the best F1."""
    if not curves:
        return {"average_precision": None, "mean_average_precision": None,
                "best_f1": None, "best_f1_threshold": None}
    by_class = [c.average_precision for name, c in curves.items() if name != EVERYTHING]
    f1, threshold = curves[EVERYTHING].best()
    return {
        "average_precision": curves[EVERYTHING].average_precision,
        "mean_average_precision": float(np.mean(by_class)) if by_class else None,
        "best_f1": f1, "best_f1_threshold": threshold,
    }


def _add_class_curves(
    result: dict[str, Any], curves: dict[str, PrecisionRecall], classes: CommonClasses
) -> None:
    """The same of every class, into its entry."""
    for label, entry in result["per_class"].items():
        curve = curves.get(classes.names[label])
        if curve is not None:
            f1, threshold = curve.best()
            entry |= {"average_precision": curve.average_precision, "best_f1": f1,
                      "best_f1_threshold": threshold}


def _write_curves(path: Path, curves: dict[str, PrecisionRecall]) -> None:
    """A row for every class and threshold."""
    with replacing(path) as temporary:
        pd.concat(_curve_rows(curves), ignore_index=True).to_csv(temporary, index=False)


def _curve_rows(curves: dict[str, PrecisionRecall]) -> Sequence[pd.DataFrame]:
    """Each curve as a table."""
    return [
        pd.DataFrame({
            "class": name, "threshold": c.threshold, "precision": c.precision,
            "recall": c.recall, "f1": c.f_beta(), "n_picked": c.n_picked, "n_hit": c.n_hit,
        })
        for name, c in curves.items()
    ]
