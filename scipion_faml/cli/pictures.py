"""What reports of runs that end in particles or averages show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scipion_faml import plots
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import read_cube
from scipion_faml.report import Report
from scipion_faml.types import FloatArray, IntArray

MAX_SHOWN = 16  # particles of a montage
Curves = Mapping[str, tuple[FloatArray, FloatArray]]
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


def spread_rows(n_rows: int, n_shown: int) -> list[int]:
    """Return up to `n_shown` rows, evenly spread over a table."""
    rows: list[int] = np.unique(
        np.linspace(0, n_rows - 1, min(n_rows, n_shown)).astype(int)).tolist()
    return rows


def read_some(names: Sequence[str | Path], rows: Sequence[int]) -> FloatArray:
    """Return some of the particles in files, (P, n, n, n)."""
    return np.stack([read_cube(names[row])[0] for row in rows])


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


def classification_report(
    path: Path, averages: FloatArray, counts: IntArray, history: pd.DataFrame,
    poses: RigidTransforms, voxel_size_angst: float, settings: dict[str, Any],
    result: dict[str, Any], curves: Curves | None = None,
) -> None:
    """Write the report of a classification; `curves` are the FSC of the classes' halves."""
    report = Report("FAML averaging" if len(averages) == 1 else "FAML classification")
    for warning in result["warnings"]:
        report.add_warning(warning)
    titles = [f"class {k}: {count} particles" for k, count in enumerate(counts, 1)]
    report.add_figure(
        plots.class_gallery(averages, titles, voxel_size_angst),
        "Class averages: central slices and projections along z, y and x, and a surface.",
    )
    if len(averages) > 1:
        report.add_figure(plots.class_sizes(counts), "Particles in each class.")
    if curves:
        report.add_figure(plots.fsc_curves(curves), _fsc_caption(settings["n_folds"]))
    report.add_figure(plots.convergence(history), PHASES_CAPTION if curves else "Convergence. The "
                      "resolution compares even and odd particles of one refinement (FSC 0.143): "
                      "it is optimistic.")
    report.add_figure(plots.orientations(poses.rotation), "Orientations of the particles.")
    report.add_table("Result", {k: v for k, v in result.items() if k != "warnings"})
    report.add_table("History", history)
    report.add_table("Settings", settings)
    report.write(path)


def average_report(
    path: Path, title: str, averages: FloatArray, titles: Sequence[str],
    voxel_size_angst: float, settings: dict[str, Any], curves: Curves | None = None,
) -> None:
    """Write the report of averages with their Fourier shell correlations."""
    report = Report(title)
    report.add_figure(
        plots.class_gallery(averages, titles, voxel_size_angst),
        "Averages: central slices and projections along z, y and x, and a surface.",
    )
    if curves:
        report.add_figure(plots.fsc_curves(curves), "Fourier shell correlation of the halves.")
    report.add_table("Settings", settings)
    report.write(path)
