"""Picks with their verdicts: as a table, and in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scipion_faml import plots
from scipion_faml.cli.reporting import RunReport
from scipion_faml.cli.tomograms import open_tomogram
from scipion_faml.cli.truth import coordinate_voxel_size_angst, particle_centres_angst
from scipion_faml.evaluation.curves import PrecisionRecall
from scipion_faml.evaluation.picks import PickAgreement
from scipion_faml.tables import CLASS_NAME_COLUMN, COORDINATES, SCORE_COLUMN, ParticleTable
from scipion_faml.types import IntArray

KEPT = ("rlnTomoName", "rlnClassNumber", CLASS_NAME_COLUMN, SCORE_COLUMN)
DRAWN_SLICES = 3


def judged_table(
    found: PickAgreement, table: ParticleTable, truth: ParticleTable, wrong: IntArray
) -> ParticleTable:
    """Return all picks and the missed particles with famlVerdict, in the truth's voxels.

    famlTruth is the row of the truth (from 1) that a hit or duplicate lies on, or that was missed.
    """
    verdict = np.full(len(table), "false", dtype=object)
    verdict[found.hit_pick], verdict[found.duplicate_pick] = "hit", "duplicate"
    verdict[wrong] = "misclassified"
    partner = np.zeros(len(table), dtype=np.intp)
    partner[found.hit_pick] = found.hit_truth + 1
    partner[found.duplicate_pick] = found.duplicate_truth + 1
    missed = found.missed_truth
    rows = pd.concat([
        _rows(table, truth).assign(famlVerdict=verdict, famlTruth=partner),
        _rows(truth, truth).iloc[missed].assign(famlVerdict="missed", famlTruth=missed + 1),
    ], ignore_index=True)
    # A missed particle has no score, and many pickers tell no class.
    rows = rows.fillna({SCORE_COLUMN: 0.0, "rlnClassNumber": 0, CLASS_NAME_COLUMN: "unknown"})
    if "rlnClassNumber" in rows:
        rows["rlnClassNumber"] = rows["rlnClassNumber"].astype(int)
    optics = pd.DataFrame({
        "rlnOpticsGroup": [1], "rlnImagePixelSize": [coordinate_voxel_size_angst(truth)]})
    return ParticleTable(rows.assign(rlnOpticsGroup=1), optics)


def _rows(table: ParticleTable, truth: ParticleTable) -> pd.DataFrame:
    """Positions and what is known about them."""
    rows = table.rows[[name for name in KEPT if name in table.rows]].copy()
    rows[COORDINATES] = particle_centres_angst(table) / coordinate_voxel_size_angst(truth)
    return rows


def describe_picks(
    page: RunReport, result: dict[str, Any], curves: dict[str, PrecisionRecall],
    judged: ParticleTable, tomogram: Path | None, radius_angst: float | None,
) -> None:
    """Fill the report: curves, confusion matrix, and slices with hits and misses.

    Circles have a radius of `radius_angst` where hits are judged by it.
    """
    page.title = "Picks against the truth"
    page.say_in_short(*_lines(result), nothing=result["n_hit"] == 0)
    if tomogram is not None and page.is_wanted:
        radius = radius_angst / judged.voxel_size_angst if radius_angst else None
        _draw_slices(page, judged, tomogram, radius)
    if curves:
        drawn = {name: (c.recall, c.precision, c.average_precision) for name, c in curves.items()}
        page.draw(
            "Precision and recall", "Precision and recall as the threshold on the score falls, "
            "with the average precision; the mark is the threshold of the best F1. 'all': "
            "positions only.", plots.precision_recall_curves, drawn)
    if "confusion" in result:
        page.draw(
            "Classes", "Particles of each true class (rows) by the class that their pick says "
            "(columns). Background: picks on no particle. Duplicates are not in it.",
            plots.confusion, result["confusion"], result["confusion_rows"],
            result["confusion_columns"])
    rows = [{"class": label, **entry} for label, entry in result["per_class"].items()]
    page.add_table("By true class", pd.DataFrame(rows))


def _lines(result: dict[str, Any]) -> list[str]:
    """Positions, and classes where they are judged, in words."""
    lines = [
        f"{result['n_hit']} of {result['n_truth']} particles were found: recall "
        f"{result['recall']:.3g}, precision {result['precision']:.3g}, F1 {result['f1']:.3g}.",
        f"Of {result['n_picked']} picks {result['n_false']} lie on no particle and "
        f"{result['n_duplicate']} on one that another pick has. A hit is {result['rule']}.",
    ]
    if result["macro_f1"] is not None:
        lines.append(f"Classes: macro F1 {result['macro_f1']:.3g}; {result['n_misclassified']} "
                     "hits say another class than their particle's.")
    best = result.get("best_f1")
    if best is not None and best > result["f1"] + 0.005:
        lines.append(f"With a threshold of {result['best_f1_threshold']:.3g} on the score F1 would "
                     f"be {best:.3g}.")
    return lines


def _draw_slices(
    page: RunReport, judged: ParticleTable, tomogram: Path, radius: float | None
) -> None:
    """Slices through the depths where most happens; the middle one comes first of all."""
    positions = judged.numbers(*COORDINATES)
    verdicts = judged.rows["famlVerdict"].to_numpy()
    depths = np.quantile(positions[:, 2], np.linspace(0, 1, DRAWN_SLICES + 2)[1:-1]).astype(int)
    with open_tomogram(tomogram) as volume:
        for number, z in enumerate(depths):
            arguments = (plots.verdicts_near_slice, volume, positions, verdicts, int(z), radius)
            if number == DRAWN_SLICES // 2:
                page.draw_in_short("Picks and missed particles near a slice.", *arguments)
            else:
                page.draw("Other slices" if number == 0 else "",
                          "Picks and missed particles near a slice.", *arguments)
