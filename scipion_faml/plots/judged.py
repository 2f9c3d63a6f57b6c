"""Comparisons with a truth: confusion, errors of poses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from scipion_faml.plots.style import COLOURS, grid_of, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confusion(
    matrix: ArrayLike,
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
) -> Figure:
    """Return a confusion matrix: rows are true classes, columns assigned ones."""
    counts = np.atleast_2d(np.asarray(matrix))
    n_rows, n_columns = counts.shape
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(max(2.6, 0.62 * n_columns + 1.8), max(2.3, 0.5 * n_rows + 1.2))
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.55 else "black"
        axes.text(column, row, f"{count:g}", ha="center", va="center", color=colour, fontsize=9)
    rows = row_names or [str(k + 1) for k in range(n_rows)]
    columns = column_names or [str(k + 1) for k in range(n_columns)]
    axes.set_xticks(range(n_columns), columns, fontsize=8)
    axes.set_yticks(range(n_rows), rows, fontsize=8)
    axes.set_xlabel("assigned class")
    axes.set_ylabel("true class")
    axes.spines[:].set_visible(False)
    return figure


def pose_errors(
    rotation_error_deg: ArrayLike, shift_error_voxels: ArrayLike | None = None
) -> Figure:
    """Return histograms of pose errors with their medians."""
    panels = [("rotation error (deg)", np.asarray(rotation_error_deg, float))]
    if shift_error_voxels is not None:
        panels.append(("shift error (voxels)", np.asarray(shift_error_voxels, float)))
    figure = new_figure(3.6 * len(panels), 2.6)
    grid = grid_of(figure, 1, len(panels))[0]
    for axes, (name, errors) in zip(grid, panels, strict=True):
        errors = errors[np.isfinite(errors)]
        axes.hist(errors, bins=min(40, max(10, len(errors) // 4)), color=COLOURS[0])
        if len(errors):
            median = float(np.median(errors))
            axes.axvline(median, color=COLOURS[1], linewidth=1.4, label=f"median {median:.3g}")
            axes.legend(fontsize=8, frameon=False)
        tidy(axes, name, "particles")
    return figure
