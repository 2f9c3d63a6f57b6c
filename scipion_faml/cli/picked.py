"""What the reports of all pickers show: scores and threshold, picks on slices, classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scipion_faml import plots
from scipion_faml.cli.reporting import RunReport
from scipion_faml.geometry import euler_to_matrix
from scipion_faml.picking import Picks
from scipion_faml.plots import reports
from scipion_faml.types import FloatArray

DEPTHS = (0.5, 0.2, 0.8)  # of the picks that lie below the slices shown; the first comes first
ALL = "picks"


@dataclass(frozen=True, eq=False)
class Picked:
    """What a picker found in a tomogram, and how it decided."""

    picks: Picks
    tomogram_name: str
    radius_voxels: float
    score_name: str  # with its unit
    threshold: float | Mapping[str, float]  # one, or one for each class
    class_names: Mapping[int, str] | None = None  # of the picks' labels, where they tell classes
    below: FloatArray | None = None  # scores of candidates that were not kept
    notes: Sequence[str] = ()  # more lines for the first section

    def names(self) -> list[str]:
        """The class of every pick."""
        known = self.class_names or {}
        return [known.get(int(label), ALL) for label in self.picks.label]

    def scores(self) -> dict[str, FloatArray]:
        """Scores of every class."""
        if self.class_names is None:
            return {ALL: self.picks.score}
        return {name: self.picks.score[self.picks.label == label]
                for label, name in self.class_names.items()}


def add_picks(report: RunReport, found: Picked, volume: FloatArray) -> None:
    """Fill the report of a picker; `volume` is the open tomogram."""
    picks = found.picks
    report.title = f"Picks in {found.tomogram_name}"
    report.say_in_short(*_lines(found), nothing=not len(picks))
    if not report.is_wanted:
        return
    _draw_slices(report, found, volume)
    report.draw_in_short(
        "Picks of each score, and the threshold. Where particles and noise are told apart there is "
        "a gap, or a shoulder to the right of the threshold.", reports.score_histogram,
        found.scores(), found.threshold, found.score_name, found.below)
    if not len(picks):
        return
    report.draw("Depth", "Particles fill the specimen; picks at its faces are often false.",
                reports.histogram, picks.position_xyz[:, 2],
                f"z (voxels, 0 to {len(volume) - 1})", "picks")
    if picks.euler_zyz is not None:
        report.draw("Orientations", "A cluster or a gap is a preferred orientation, or one that "
                    "the missing wedge drew.", plots.orientations, euler_to_matrix(picks.euler_zyz))
    if found.class_names is not None:
        report.add_table("By class", _class_table(found))


def _lines(found: Picked) -> list[str]:
    """How many, how sure."""
    scores = found.picks.score
    said = (f"threshold {found.threshold:.3g}" if not isinstance(found.threshold, Mapping)
            else "a threshold for each class")
    if not len(scores):
        return [f"Nothing scores enough ({said}).", *found.notes]
    lines = [f"{len(scores)} picks; {found.score_name} {scores.min():.3g} to {scores.max():.3g}, "
             f"median {np.median(scores):.3g}, {said}."]
    if found.class_names is not None and len(found.class_names) > 1:
        counts = [f"{len(values)} {name}" for name, values in found.scores().items()]
        lines.append(f"By class: {', '.join(counts)}.")
    return [*lines, *found.notes]


def _draw_slices(report: RunReport, found: Picked, volume: FloatArray) -> None:
    """Slices with the picks near them; without picks the middle one."""
    z_of_picks = found.picks.position_xyz[:, 2]
    depths = np.quantile(z_of_picks, DEPTHS) if len(z_of_picks) else np.array([len(volume) / 2])
    for number, z in enumerate(dict.fromkeys(np.clip(depths, 0, len(volume) - 1).astype(int))):
        near = np.abs(z_of_picks - z) <= found.radius_voxels
        caption = (f"Slice {z}, with the {near.sum()} of {len(near)} picks that lie within "
                   f"{found.radius_voxels:.0f} voxels of it; circles are as wide as a particle.")
        picture = plots.slab(volume, int(z), max(1, int(found.radius_voxels / 2)))
        xy, radius = found.picks.position_xyz[near, :2], found.radius_voxels
        if found.class_names is not None and len(found.class_names) > 1:
            label = np.array(found.names(), dtype=object)[near]
            arguments: tuple[Any, ...] = (
                plots.classes_on_slice, picture, xy, radius, label,
                list(found.class_names.values()))
        else:  # scores are shown once; pictures without a colour bar fit side by side
            scores = found.picks.score[near] if number == 0 else None
            arguments = (plots.picks_on_slice, picture, xy, radius, scores)
        if number == 0:
            report.draw_in_short(caption, *arguments)
        else:
            report.draw("Other slices" if number == 1 else "", caption, *arguments)


def _class_table(found: Picked) -> pd.DataFrame:
    """Counts, thresholds and scores of the classes."""
    rows = []
    for name, scores in found.scores().items():
        threshold = found.threshold
        rows.append({
            "class": name, "picks": len(scores),
            "threshold": threshold[name] if isinstance(threshold, Mapping) else threshold,
            "median score": float(np.median(scores)) if len(scores) else np.nan,
            "best score": float(scores.max()) if len(scores) else np.nan,
        })
    return pd.DataFrame(rows)
