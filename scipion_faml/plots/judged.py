"""Comparisons with a truth: confusion, errors of poses."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from scipion_faml.plots.curves import draw_fsc
from scipion_faml.plots.style import COLOURS, grid_of, new_figure, tidy
from scipion_faml.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CROWDED = 40  # characters below a matrix
PANEL_HEIGHT = 2.6  # inches
LINE = 128  # characters of a sentence


def confusion(
    matrix: ArrayLike,
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
) -> Figure:
    """Return a confusion matrix: rows are true classes, columns assigned ones."""
    n_rows, n_columns = np.atleast_2d(np.asarray(matrix)).shape
    figure = new_figure(max(2.6, 0.62 * n_columns + 1.8), max(2.3, 0.5 * n_rows + 1.2))
    draw_confusion(figure.add_subplot(), matrix, row_names, column_names)
    return figure


def draw_confusion(
    axes: Axes, matrix: ArrayLike, row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
    axis_names: tuple[str, str] = ("true class", "assigned class"),
) -> None:
    """Draw a confusion matrix; the darker, the larger the share of its row."""
    counts = np.atleast_2d(np.asarray(matrix))
    n_rows, n_columns = counts.shape
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.55 else "black"
        axes.text(column, row, f"{count:g}", ha="center", va="center", color=colour, fontsize=9)
    rows = row_names or [str(k + 1) for k in range(n_rows)]
    columns = column_names or [str(k + 1) for k in range(n_columns)]
    axes.set_xticks(range(n_columns), columns, fontsize=8)
    axes.set_yticks(range(n_rows), rows, fontsize=8)
    if max((len(str(name)) for name in columns), default=0) * n_columns > CROWDED:
        axes.tick_params(axis="x", rotation=40)
    axes.set_ylabel(axis_names[0])
    axes.set_xlabel(axis_names[1])
    axes.spines[:].set_visible(False)


def pose_errors(
    rotation_error_deg: ArrayLike, shift_error_voxels: ArrayLike | None = None
) -> Figure:
    """Return histograms of pose errors with their medians."""
    panels = _error_panels(rotation_error_deg, shift_error_voxels)
    figure = new_figure(3.6 * len(panels), 2.6)
    for axes, (name, errors) in zip(grid_of(figure, 1, len(panels))[0], panels, strict=True):
        draw_errors(axes, name, errors)
    return figure


def _error_panels(
    rotation_error_deg: ArrayLike, shift_error_voxels: ArrayLike | None
) -> list[tuple[str, FloatArray]]:
    """Names and values of the histograms."""
    panels = [("rotation error (deg)", np.asarray(rotation_error_deg, float))]
    if shift_error_voxels is not None:
        panels.append(("shift error (voxels)", np.asarray(shift_error_voxels, float)))
    return panels


def draw_errors(axes: Axes, name: str, errors: FloatArray) -> None:
    """Draw a histogram with its median."""
    known = errors[np.isfinite(errors)]
    axes.hist(known, bins=min(40, max(10, len(known) // 4)), color=COLOURS[0])
    if len(known):
        median = float(np.median(known))
        axes.axvline(median, color=COLOURS[1], linewidth=1.4, label=f"median {median:.3g}")
        axes.legend(fontsize=8, frameon=False)
    tidy(axes, name, "particles")


def evaluation_overview(
    lines: Sequence[str],
    confusion_matrix: tuple[ArrayLike, Sequence[str], Sequence[str]] | None = None,
    errors: tuple[ArrayLike, ArrayLike] | None = None,
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    title: str = "",
    marks: Sequence[float] = (0.5,),
    axis_names: tuple[str, str] = ("true class", "assigned class"),
) -> Figure:
    """Return the numbers in words, and below what was judged; what was not is left out.

    Parameters
    ----------
    lines : sentences.
    confusion_matrix : counts, names of the rows and of the columns.
    errors : rotation errors (deg) and shift errors (voxels).
    curves : FSC, for example of averages with their true maps, {name: (frequency in 1/A, fsc)}.
    marks : thresholds of the FSC.
    axis_names : what rows and columns of the matrix are.
    """
    panels: list[Callable[[Axes], None]] = []
    if confusion_matrix is not None:
        matrix, rows, columns = confusion_matrix
        panels.append(lambda axes: draw_confusion(axes, matrix, rows, columns, axis_names))
    if errors is not None:
        for name, values in _error_panels(*errors):
            panels.append(partial(_errors_into, name=name, errors=values))
    if curves:
        panels.append(lambda axes: draw_fsc(axes, curves, marks))
    wrapped = [textwrap.wrap(line, LINE) for line in lines]
    height = 0.22 * sum(map(len, wrapped)) + 0.3
    n_columns = min(max(len(panels), 1), 2)
    n_rows = -(-len(panels) // n_columns)
    figure = new_figure(9.0, height + PANEL_HEIGHT * n_rows + 0.4)
    if title:
        figure.suptitle(title, fontsize=11)
    upper, lower = figure.subfigures(2, 1, height_ratios=(height, max(PANEL_HEIGHT * n_rows, 0.01)))
    upper.text(0.02, 0.95, "\n".join("\n".join(part) for part in wrapped), va="top", fontsize=9,
               linespacing=1.4)
    for number, draw in enumerate(panels, 1):
        draw(lower.add_subplot(n_rows, n_columns, number))
    return figure


def _errors_into(axes: Axes, name: str, errors: FloatArray) -> None:
    """Draw a histogram into axes given first."""
    draw_errors(axes, name, errors)
