"""What reports of runs show that end in averages, and what reports of particles share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scipion_faml import plots
from scipion_faml.cli.averaging import FSC_THRESHOLD
from scipion_faml.cli.reporting import RunReport
from scipion_faml.faml import Assignments
from scipion_faml.io import read_cube
from scipion_faml.plots import reports
from scipion_faml.tables import ANGLES, ParticleTable
from scipion_faml.types import FloatArray, IntArray

Curves = Mapping[str, tuple[FloatArray, FloatArray]]

MAX_SHOWN = 16  # particles of a montage
MAX_SHARES = 6  # classes whose shares the table of iterations lists
SURE = 0.9  # posterior of a class without much doubt
MONTAGE_CAPTION = (
    "Some of the particles, each with its number: the central slice, below it the projection along "
    "the beam.")
GALLERY_CAPTION = "Central slices and projections along z, y and x, and a surface."
PHASES_CAPTION = (
    "Convergence. Bands show how poses were found: all of them together at low bandwidth (dense), "
    "all rotations near the shifts found before (focused), or by climbing from the poses found "
    "before (local). The log-likelihood is the log of the evidence's ratio to pure noise, and "
    "grows with the shells that are compared."
)
PAPER_CAPTION = (
    "Convergence. The resolution compares even and odd particles of one refinement (FSC 0.143): it "
    "is optimistic.")


def spread_rows(n_rows: int, n_shown: int) -> list[int]:
    """Return up to `n_shown` rows, evenly spread over a table."""
    rows: list[int] = np.unique(
        np.linspace(0, n_rows - 1, min(n_rows, n_shown)).astype(int)).tolist()
    return rows


def read_some(names: Sequence[str | Path], rows: Sequence[int]) -> FloatArray:
    """Return some of the particles in files, (P, n, n, n)."""
    return np.stack([read_cube(names[row])[0] for row in rows])


def draw_particles(report: RunReport, table: ParticleTable) -> None:
    """Add some particles of a table to the first section, and where they point."""
    if not report.is_wanted:
        return
    if "rlnImageName" in table.rows:
        rows = spread_rows(len(table), MAX_SHOWN)
        names = [str(name) for name in table.rows["rlnImageName"]]
        report.draw_in_short(MONTAGE_CAPTION, lambda: reports.montage(
            read_some(names, rows), [str(row + 1) for row in rows]))
    if set(ANGLES) <= set(table.rows.columns):
        report.draw("Poses", "A cluster or a gap is a preferred orientation.", plots.orientations,
                    table.poses.rotation)


# ------------------------------------------------------------------------------ classification
@dataclass(frozen=True, eq=False)
class Classified:
    """What is known of a classification: at its end, or after an iteration."""

    averages: FloatArray  # (K, n, n, n)
    assignments: Assignments
    history: Sequence[Mapping[str, Any]]  # a row an iteration
    voxel_size_angst: float
    is_enhanced: bool
    n_folds: int
    result: Mapping[str, Any] = field(default_factory=dict)  # what the verb prints, at the end
    curves: Curves = field(default_factory=dict)  # FSC of the halves

    @property
    def counts(self) -> IntArray:
        """Particles of every class."""
        return np.bincount(self.assignments.class_index, minlength=len(self.averages))


def add_classification(report: RunReport, found: Classified) -> None:
    """Fill the report of a classification."""
    is_average = len(found.averages) == 1
    report.title = "FAML averaging" if is_average else "FAML classification"
    report.say_in_short(*_lines(found), nothing=_is_noise(found))
    titles = [f"class {k}: {count} particles" for k, count in enumerate(found.counts, 1)]
    report.draw_in_short(
        f"{'The average' if is_average else 'Class averages'}. {GALLERY_CAPTION}",
        plots.class_gallery, found.averages, titles, found.voxel_size_angst)
    assigned = found.assignments
    report.draw(
        "Classes and resolution", "Particles of each class, and how sure the pose and class of "
        "each are. Posteriors near 0 are spread over many poses.", plots.sizes_and_posteriors,
        assigned.class_index, assigned.responsibility, len(found.averages))
    if found.curves:
        report.draw("", _fsc_caption(found.n_folds), plots.fsc_curves, found.curves)
    if _withheld(found):
        report.add_text(_withheld(found))
    history = pd.DataFrame(found.history)
    report.draw("Convergence", PHASES_CAPTION if found.is_enhanced else PAPER_CAPTION,
                plots.convergence, history)
    report.draw(
        "Orientations", "A cluster or a gap is a preferred orientation, or an orientation that the "
        "missing wedge drew.", plots.class_orientations, assigned.poses.rotation,
        assigned.class_index, names=[f"class {k}" for k in range(1, len(found.averages) + 1)])
    report.draw("", "How far particles lie from the centres of their boxes.", reports.histogram,
                np.linalg.norm(assigned.poses.shift_xyz, axis=1), "shift (voxels)")
    report.add_table("Iterations", _short_history(history))


def _lines(found: Classified) -> list[str]:
    """What the page begins with: structure or not, classes, resolution, settled or not."""
    done = f"after {found.history[-1]['iteration']} iterations"
    moved = found.history[-1].get("pose_change_deg")
    change = f" Poses moved by {moved:.2g}° (median) in the last." if moved is not None else ""
    if not found.result:
        progress = f"Still running, {done}.{change}"
    elif found.result.get("converged"):
        progress = f"Converged {done}."
    else:
        progress = f"Stopped {done}.{change}"
    return [line for line in (_structure_line(found), _class_line(found), _resolution_line(found),
                              progress) if line]


def _is_noise(found: Classified) -> bool:
    return found.result.get("structure_found") is False


def _structure_line(found: Classified) -> str:
    """Whether the averages explain the particles better than noise does."""
    text = str(found.result.get("verdict", ""))
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _class_line(found: Classified) -> str:
    n_particles, counts = len(found.assignments.class_index), found.counts
    if len(counts) == 1:
        return f"{n_particles} particles in one average."
    sure = float(np.mean(found.assignments.class_posterior.max(axis=1) >= SURE))
    return (f"{n_particles} particles in {len(counts)} classes of {listed(counts)}; {sure:.0%} "
            f"belong to their class with a posterior of {SURE:g} or more.")


def listed(counts: Sequence[int] | IntArray, n_shown: int = 12) -> str:
    """Return numbers as one lists them: 12, 7 and 5."""
    words = [str(count) for count in counts]
    if len(words) > n_shown:
        return ", ".join(words[:n_shown]) + ", ..."
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _resolution_line(found: Classified) -> str:
    if not found.result:
        return ""
    resolution = found.result.get("resolution_angst")
    if _withheld(found) or not resolution:
        return "No resolution is given" + (": see below." if _withheld(found) else ".")
    how = "cleared of aligned noise" if found.is_enhanced else "optimistic: one refinement"
    limit = ("; finer detail was not compared"
             if any(curve[-1] >= FSC_THRESHOLD for _, curve in found.curves.values()) else "")
    return f"The halves agree to {resolution:.3g} Å (FSC 0.143, {how}{limit})."


def _withheld(found: Classified) -> str:
    """Why an FSC of the halves would mean nothing."""
    from scipion_faml.enhanced import FOCUSED_BELOW

    if _is_noise(found):
        return ("No resolution is given: without structure the halves agree by noise that was "
                "aligned to the same references.")
    n_effective = found.result.get("n_effective", 0.0)
    if n_effective > FOCUSED_BELOW:
        return (f"No resolution is to be read from the halves: {n_effective:.0f} poses share a "
                "particle's posterior, so that orientations are not determined.")
    return ""


def _fsc_caption(n_folds: int) -> str:
    """What the FSC of a run's halves means."""
    shared = (
        "Each particle was aligned to references that hold the particle itself: the curve, and the "
        "resolution at 0.143, are far too optimistic." if n_folds == 1 else
        "No particle met itself, but those of both halves were aligned to references made of both: "
        "a little optimistic where it exceeds 0.8."
    )
    return (f"Fourier shell correlation of both halves (rlnRandomSubset 1 and 2), without what "
            f"noise aligned to the references brings. {shared}")


def _short_history(history: pd.DataFrame) -> pd.DataFrame:
    """The columns of history.csv that a reader looks at."""
    shares = [name for name in history if str(name).startswith("alpha_")]
    wanted = ["iteration", "phase", "shells", "log_likelihood", "sigma", "zeta",
              *(shares if len(shares) <= MAX_SHARES else []), "n_effective", "pose_change_deg",
              "resolution_angst", "seconds"]
    return history[[name for name in wanted if name in history]]


# ------------------------------------------------------------------------------------ averages
def add_averages(
    report: RunReport, averages: FloatArray, titles: Sequence[str], voxel_size_angst: float,
    curves: Curves, caption: str,
) -> None:
    """Add averages to the first section, and the Fourier shell correlation of their halves."""
    report.draw_in_short(GALLERY_CAPTION, plots.class_gallery, averages, titles, voxel_size_angst)
    if curves:
        report.draw("Resolution", caption, plots.fsc_curves, curves)


def resolutions_in_words(names: Sequence[str], resolutions: Sequence[float]) -> str:
    """Return where halves cease to agree, in a line."""
    known = [f"{name} {value:.3g} Å" if len(names) > 1 else f"{value:.3g} Å"
             for name, value in zip(names, resolutions, strict=True) if np.isfinite(value)]
    if not known:
        return "The halves agree at no resolution (FSC 0.143)."
    return f"The halves agree to {', '.join(known)} (FSC 0.143)."
