"""How a run went: convergence, class sizes, posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from scipion_faml.plots.style import COLOURS, GREY, grid_of, new_figure, tidy
from scipion_faml.types import FloatArray

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BARS = 40
POSTERIOR_BINS = 20
DECADE = 10.0  # a logarithmic axis is drawn for values that differ by more
# Title, columns of history.csv, label of the axis.
PANELS = (
    ("log-likelihood", "log_likelihood", ""),
    ("noise s.d. (sigma)", "sigma", "per Fourier sample"),
    ("shift s.d. (zeta)", "zeta", "voxels"),
    ("class shares (alpha)", "alpha_", "share"),
    ("pose change", "pose_change_deg", "median, deg"),
    ("resolution", "resolution_angst", "Å"),
    ("shells compared", "shells", ""),
    ("poses that share a posterior", "n_effective", "median"),
)


def convergence(history: pd.DataFrame) -> Figure:
    """Return how a run went: log-likelihood, sigma, zeta, class shares, pose change, resolution.

    `history` is the table of history.csv (a row an iteration); panels whose columns are missing or
    empty are left out.
    """
    usable = _panels(history)
    n_columns = min(3, max(len(usable), 1))
    n_rows = max(-(-len(usable) // n_columns), 1)
    figure = new_figure(3.2 * n_columns, 2.3 * n_rows)
    grid = [axes for row in grid_of(figure, n_rows, n_columns) for axes in row]
    for axes, (title, columns, unit) in zip(grid, usable, strict=False):
        draw_history(axes, history, columns, title, unit)
        if columns == ["shells"] and "phase" in history:
            _phase_bands(axes, history)
    for axes in grid[len(usable) :]:
        axes.set_visible(False)
    return figure


def _panels(history: pd.DataFrame) -> list[tuple[str, list[str], str]]:
    """The panels that have something to show."""
    panels = []
    for title, name, unit in PANELS:
        wanted = [c for c in map(str, history) if c == name or name == "alpha_" and
                  c.startswith(name)]
        columns = [c for c in wanted if history[c].notna().any()]
        if columns:
            panels.append((title, columns, unit))
    return panels


def draw_history(
    axes: Axes, history: pd.DataFrame, columns: Sequence[str], title: str, unit: str = ""
) -> None:
    """Draw some columns of history.csv against the iteration."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    iteration = history["iteration"] if "iteration" in history else np.arange(1, len(history) + 1)
    for k, column in enumerate(columns):
        label = f"class {int(column[6:])}" if column.startswith("alpha_") else None
        axes.plot(
            iteration, history[column], color=COLOURS[k % len(COLOURS)], label=label,
            marker="o", markersize=3, linewidth=1.4,
        )
    tidy(axes, "iteration", unit, title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    values = history[list(columns)].to_numpy(dtype=float)
    if columns == ["n_effective"] and np.nanmax(values) > DECADE * np.nanmin(values) > 0:
        axes.set_yscale("log")
    else:
        formatter = ScalarFormatter(useOffset=False)
        formatter.set_powerlimits((-3, 6))
        axes.yaxis.set_major_formatter(formatter)
        _widened(axes, values)
    if columns[0].startswith("alpha_"):
        axes.set_ylim(0, 1.05 * max(float(np.nanmax(values)), 0.1))
        if 1 < len(columns) <= 12:
            axes.legend(fontsize=7, frameon=False, ncols=1 + len(columns) // 5)


def _widened(axes: Axes, values: FloatArray) -> None:
    """Give a flat curve an axis that does not magnify rounding."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if high - low < 0.02 * abs(high):
        axes.set_ylim(low - 0.05 * abs(low) - 1e-12, high + 0.05 * abs(high) + 1e-12)


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


# ------------------------------------------------------------------------------ sizes, posteriors
def class_sizes(counts: ArrayLike, names: Sequence[str] | None = None) -> Figure:
    """Return bars of the number of particles in every class."""
    values = np.asarray(counts)
    figure = new_figure(min(max(2.8, 0.55 * len(values) + 1.6), 12.0), 2.6)
    draw_sizes(figure.add_subplot(), values, names)
    return figure


def draw_sizes(
    axes: Axes, counts: ArrayLike, names: Sequence[str] | None = None, is_sorted: bool = False
) -> None:
    """Draw bars of class sizes, in the order of the classes or the largest first."""
    from matplotlib.ticker import MaxNLocator

    values = np.asarray(counts, dtype=float)
    labels = np.array([str(k + 1) for k in range(len(values))] if names is None else list(names))
    order = np.argsort(-values, kind="stable") if is_sorted else np.arange(len(values))
    order = order[:MAX_BARS]
    place = np.arange(len(order))
    bars = axes.bar(place, values[order], color=COLOURS[0], width=0.7)
    axes.set_xticks(place, labels[order], fontsize=8 if len(order) <= 20 else 6)
    if len(order) <= 20:
        axes.bar_label(bars, fmt="%g", fontsize=8, padding=2)
    axes.margins(y=0.12)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    few = len(order) < len(values)
    tidy(axes, f"class (first {MAX_BARS} of {len(values)})" if few else "class", "particles")
    axes.grid(visible=False, axis="x")


def draw_posteriors(axes: Axes, probability: ArrayLike, class_index: ArrayLike, k: int) -> None:
    """Draw how sure the class and pose of the particles of class `k` (from 0) are."""
    values = np.asarray(probability, dtype=float)[np.asarray(class_index) == k]
    axes.hist(np.clip(values, 0.0, 1.0), bins=POSTERIOR_BINS, range=(0.0, 1.0),
              color=COLOURS[k % len(COLOURS)])
    axes.set_xlim(0.0, 1.0)
    tidy(axes, "posterior", "particles", f"class {k + 1}: {len(values)}")
    if len(values):
        median = float(np.median(values))
        axes.axvline(median, color=GREY, linewidth=1.0, linestyle="--")
        axes.text(0.03, 0.93, f"median {median:.2f}", transform=axes.transAxes, fontsize=7,
                  color=GREY, va="top")


def sizes_and_posteriors(
    class_index: ArrayLike, probability: ArrayLike | None = None, n_classes: int | None = None
) -> Figure:
    """Return sorted class sizes, then for each class how sure its particles are.

    Parameters
    ----------
    class_index : (N,) int, from 0.
    probability : (N,) posterior of the best pose and class (rlnMaxValueProbDistribution); without
        it sizes are drawn alone.
    n_classes : also those without particles.
    """
    index = np.asarray(class_index, dtype=int)
    n_all = max(int(index.max(initial=-1)) + 1, n_classes or 0)
    counts = np.bincount(index, minlength=n_all)
    shown = [k for k in np.argsort(-counts, kind="stable") if counts[k]][:12]
    if probability is None or not shown:
        figure = new_figure(min(max(3.4, 0.5 * n_all + 1.6), 12.0), 2.8)
        draw_sizes(figure.add_subplot(), counts, is_sorted=True)
        return figure
    n_columns = min(len(shown), 4)
    n_rows = -(-len(shown) // n_columns)
    figure = new_figure(max(2.5 * n_columns, 5.0), 2.4 + 2.0 * n_rows)
    upper, lower = figure.subfigures(2, 1, height_ratios=(2.2, 2.0 * n_rows))
    draw_sizes(upper.add_subplot(), counts, is_sorted=True)
    upper.suptitle("class sizes, largest first", fontsize=9, color=GREY)
    lower.suptitle("posterior of each particle's best pose and class (1: no doubt)", fontsize=9,
                   color=GREY)
    for axes, k in zip(lower.subplots(n_rows, n_columns, squeeze=False).ravel(), shown,
                       strict=False):
        draw_posteriors(axes, probability, index, int(k))
    for axes in lower.axes[len(shown) :]:
        axes.set_visible(False)
    return figure
