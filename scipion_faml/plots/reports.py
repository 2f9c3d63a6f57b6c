"""A look at what a run made: particles side by side, a tomogram from two sides, scores, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from scipion_faml.plots.style import COLOURS, GREY, grid_of, new_figure, show_picture, tidy
from scipion_faml.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MONTAGE_COLUMNS = 8
GAP = 0.06  # between the tiles of a montage, in tiles
TILE_INCHES = 1.15
CLIPPED = (0.005, 0.995)  # quantiles of grey values that become black and white
VIEW_WIDTH = 5.6  # inches of a tomogram
NOT_KEPT = "#c4ccd4"


def montage(
    volumes: FloatArray, titles: Sequence[str] | None = None, columns: int = MONTAGE_COLUMNS
) -> Figure:
    """Return particles side by side: the central slice of each, below it its projection along z.

    Parameters
    ----------
    volumes : (P, n, n, n) float32
    titles : P texts, drawn small above each.
    """
    stack = np.asarray(volumes, dtype=np.float32)
    n = stack.shape[-1]
    n_columns = min(columns, len(stack))
    n_rows = -(-len(stack) // n_columns)
    figure = new_figure(TILE_INCHES * n_columns * (1 + GAP),
                        n_rows * (2 * TILE_INCHES * (1 + GAP) + 0.22))
    for row, (axes,) in enumerate(grid_of(figure, n_rows, 1)):
        start = row * n_columns
        some = stack[start : start + n_columns]
        sheet = _tiles([some[:, n // 2], some.sum(axis=1, dtype=np.float64)], n_columns)
        show_picture(axes, sheet, (0.0, 1.0))
        for number in range(len(some)):
            text = titles[start + number] if titles is not None else str(start + number + 1)
            axes.text(number * (n + _gap(n)) + n / 2, sheet.shape[0], text, fontsize=6.5,
                      ha="center", va="bottom", color=GREY)
    return figure


def _gap(n: int) -> int:
    return max(1, round(GAP * n))


def _tiles(rows: Sequence[FloatArray], n_columns: int) -> FloatArray:
    """Pictures (P, n, n) of each row as one, the first row on top, white between; grey in 0..1."""
    n = rows[0].shape[-1]
    step = n + _gap(n)
    sheet = np.ones((len(rows) * step - _gap(n), n_columns * step - _gap(n)))
    for number, pictures in enumerate(reversed(rows)):  # y grows upwards
        for column, picture in enumerate(pictures):
            low, high = np.quantile(picture, CLIPPED)
            grey = np.clip((picture - low) / max(high - low, 1e-12), 0.0, 1.0)
            sheet[number * step : number * step + n, column * step : column * step + n] = grey
    return sheet


def tomogram_views(tomogram: FloatArray, thickness: int = 5) -> Figure:
    """Return the middle of a tomogram [z, y, x]: seen along the beam, and below it from the side.

    Each view is the mean of `thickness` slices.
    """
    nz, ny, nx = tomogram.shape
    half, z, y = thickness // 2, nz // 2, ny // 2
    views = (
        (np.asarray(tomogram[max(z - half, 0) : z + half + 1]).mean(axis=0),
         f"along the beam: x and y at z = {z}"),
        (np.asarray(tomogram[:, max(y - half, 0) : y + half + 1]).mean(axis=1),
         f"from the side: x and z at y = {y}"),
    )
    figure = new_figure(VIEW_WIDTH, VIEW_WIDTH * (ny + nz) / nx + 0.6)
    layout = figure.add_gridspec(2, 1, height_ratios=[ny, nz])
    for row, (picture, name) in enumerate(views):
        _draw_view(figure.add_subplot(layout[row]), picture, name)
    return figure


def projection_view(volume: FloatArray, title: str = "") -> Figure:
    """Return the sum of a volume [z, y, x] along the beam."""
    picture = volume.sum(axis=0, dtype=np.float64)
    figure = new_figure(VIEW_WIDTH, VIEW_WIDTH * picture.shape[0] / picture.shape[1] + 0.3)
    _draw_view(figure.add_subplot(), picture, title)
    return figure


def _draw_view(axes: Axes, picture: FloatArray, title: str) -> None:
    low, high = np.quantile(picture, CLIPPED)
    show_picture(axes, picture, (float(low), float(high)))
    if title:
        axes.set_title(title, fontsize=8, color=GREY, loc="left")


# ------------------------------------------------------------------------------------- numbers
def score_histogram(
    scores: Mapping[str, ArrayLike], threshold: float | Mapping[str, float] | None = None,
    label: str = "score", below: ArrayLike | None = None,
) -> Figure:
    """Return how many picks {class: scores} there are of each score, and the threshold.

    `threshold` is one for all, or one of each class; `below` are scores of candidates that were
    not kept, drawn grey.
    """
    values = {name: np.asarray(v, dtype=float) for name, v in scores.items()}
    lost = np.zeros(0) if below is None else np.asarray(below, dtype=float)
    everything = np.concatenate([*values.values(), lost])
    figure = new_figure(4.5, 3.2)
    axes = figure.add_subplot()
    if len(everything):
        bins = _bins(everything)
        if len(lost):
            axes.hist(lost, bins=bins, color=NOT_KEPT, label="not kept")
        axes.hist(list(values.values()), bins=bins, stacked=True, label=list(values),
                  color=[COLOURS[k % len(COLOURS)] for k in range(len(values))])
    _mark_thresholds(axes, threshold, list(values))
    tidy(axes, label, "picks")
    if len(values) > 1 or threshold is not None or len(lost):
        axes.legend(fontsize=7, frameon=False)
    return figure


def _bins(values: FloatArray) -> list[float]:
    """Edges of bins that hold all values, also where all are the same."""
    low, high = float(values.min()), float(values.max())
    pad = 0.02 * (high - low) or 0.05 * abs(high) or 0.5
    edges: list[float] = np.linspace(
        low - pad, high + pad, int(np.clip(len(values) // 4, 12, 40)) + 1).tolist()
    return edges


def _mark_thresholds(
    axes: Axes, threshold: float | Mapping[str, float] | None, names: Sequence[str]
) -> None:
    """A line at the threshold, or at that of each class in its colour."""
    if threshold is None:
        return
    if not isinstance(threshold, Mapping):
        axes.axvline(threshold, color="black", linewidth=1.2, linestyle="--",
                     label=f"threshold {threshold:.3g}")
        return
    for number, name in enumerate(names):
        if name in threshold:
            axes.axvline(threshold[name], color=COLOURS[number % len(COLOURS)], linewidth=1.2,
                         linestyle="--", label=f"threshold of {name}, {threshold[name]:.3g}")


def bars(names: Sequence[str], values: ArrayLike, label: str = "particles") -> Figure:
    """Return horizontal bars with their values: many names stay readable."""
    heights = np.asarray(values, dtype=float)
    figure = new_figure(4.8, 0.8 + 0.28 * len(heights))
    axes = figure.add_subplot()
    drawn = axes.barh(range(len(heights)), heights, color=COLOURS[0], height=0.7)
    axes.set_yticks(range(len(heights)), list(names), fontsize=8)
    axes.bar_label(drawn, fmt="%g", fontsize=8, padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    tidy(axes, label, "")
    axes.grid(visible=False, axis="y")
    return figure


def histogram(values: ArrayLike, label: str, things: str = "particles") -> Figure:
    """Return a histogram with its median."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    figure = new_figure(4.8, 2.8)
    axes = figure.add_subplot()
    if len(known):
        axes.hist(known, bins=_bins(known), color=COLOURS[0])
        median = float(np.median(known))
        axes.axvline(median, color=COLOURS[1], linewidth=1.4, label=f"median {median:.3g}")
        axes.legend(fontsize=8, frameon=False)
    tidy(axes, label, things)
    return figure
