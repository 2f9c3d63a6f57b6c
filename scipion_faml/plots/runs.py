"""How a run went: convergence, class sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from scipion_faml.plots.style import COLOURS, grid_of, new_figure, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def convergence(history: pd.DataFrame) -> Figure:
    """Return how a run went: log-likelihood, sigma, zeta, class shares, pose change, resolution.

    `history` is the table of history.csv (a row an iteration); panels whose columns are missing or
    empty are left out.
    """
    panels: list[tuple[str, list[str], str]] = [
        ("log-likelihood", ["log_likelihood"], ""),
        ("noise s.d. (sigma)", ["sigma"], "per Fourier sample"),
        ("shift s.d. (zeta)", ["zeta"], "voxels"),
        ("class shares (alpha)", [c for c in history if str(c).startswith("alpha_")], "share"),
        ("pose change", ["pose_change_deg"], "median, deg"),
        ("resolution", ["resolution_angst"], "A"),
        ("shells compared", ["shells"], ""),
        ("poses that share a posterior", ["n_effective"], "median"),
    ]
    usable = [
        (title, [c for c in columns if c in history and history[c].notna().any()], unit)
        for title, columns, unit in panels
    ]
    usable = [panel for panel in usable if panel[1]]
    n_columns = min(3, max(len(usable), 1))
    n_rows = max(-(-len(usable) // n_columns), 1)
    figure = new_figure(3.2 * n_columns, 2.3 * n_rows)
    grid = [axes for row in grid_of(figure, n_rows, n_columns) for axes in row]
    for axes, (title, columns, unit) in zip(grid, usable, strict=False):
        _curves(axes, history, columns)
        tidy(axes, "iteration", unit, title)
        if columns == ["n_effective"]:
            axes.set_yscale("log")
        if columns in (["shells"], ["n_effective"]) and "phase" in history:
            _phase_bands(axes, history)
    for axes in grid[len(usable) :]:
        axes.set_visible(False)
    return figure


def _curves(axes: Axes, history: pd.DataFrame, columns: Sequence[str]) -> None:
    """Draw some columns against the iteration."""
    from matplotlib.ticker import MaxNLocator

    iteration = history["iteration"] if "iteration" in history else np.arange(1, len(history) + 1)
    for k, column in enumerate(columns):
        label = f"class {int(column[6:])}" if column.startswith("alpha_") else None
        axes.plot(
            iteration, history[column], color=COLOURS[k % len(COLOURS)], label=label,
            marker="o", markersize=3, linewidth=1.4,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if len(columns) > 1:
        axes.set_ylim(0, None)
        axes.legend(fontsize=7, frameon=False, ncols=1 + len(columns) // 6)


def _phase_bands(axes: Axes, history: pd.DataFrame) -> None:
    """Shade iterations by how they looked for poses."""
    names = list(dict.fromkeys(history["phase"]))
    for name, colour in zip(names, ("#56B4E9", "#F0E442", "#009E73"), strict=False):
        label: str | None = str(name)
        for iteration in history["iteration"][history["phase"] == name]:
            axes.axvspan(iteration - 0.5, iteration + 0.5, color=colour, alpha=0.2, linewidth=0,
                         label=label)
            label = None
    axes.legend(fontsize=7, frameon=False)


def class_sizes(counts: ArrayLike, names: Sequence[str] | None = None) -> Figure:
    """Return bars of the number of particles in every class."""
    values = np.asarray(counts)
    labels = list(names) if names is not None else [str(k + 1) for k in range(len(values))]
    figure = new_figure(max(2.8, 0.55 * len(values) + 1.6), 2.6)
    axes = figure.add_subplot()
    bars = axes.bar(labels, values, color=COLOURS[0], width=0.7)
    axes.bar_label(bars, fmt="%g", fontsize=8, padding=2)
    axes.margins(y=0.12)
    tidy(axes, "class", "particles")
    axes.grid(visible=False, axis="x")
    return figure
