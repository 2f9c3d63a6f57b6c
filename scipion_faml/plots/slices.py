"""Slices of tomograms with positions on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from scipion_faml.plots.style import (
    CLASS_COLOURS,
    COLOURS,
    LEGEND_COLUMNS,
    new_figure,
    show_picture,
)
from scipion_faml.types import FloatArray
from scipion_faml.volume import standardise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCALE_WIDTH = 0.9  # inches of a colour bar
VERDICT_COLOURS = {
    "hit": "#00B884", "misclassified": "#FFA620", "duplicate": "#D58BE0", "false": "#F03B35",
    "missed": "#4DA6FF",
}



def picks_on_slice(
    slice2d: FloatArray,
    xy: ArrayLike,
    radius: float | ArrayLike | None = None,
    score: ArrayLike | None = None,
    truth_xy: ArrayLike | None = None,
    title: str = "",
    score_range: tuple[float, float] | None = None,
) -> Figure:
    """Return a tomogram slice [y, x] with circles of `radius` (voxels) at positions (P, 2).

    `radius` is one for all, or one for each. Circles are coloured by `score` when given, from the
    lowest to the highest or over `score_range`; `truth_xy` are true positions, drawn as crosses.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    positions = np.asarray(xy, dtype=float).reshape(-1, 2)
    figure, axes = _slice_figure(slice2d, title, 0.0 if score is None else SCALE_WIDTH)
    circles = _circles(positions, _radii(radius, len(positions), slice2d), COLOURS[4], "-")
    if score is not None and (len(positions) or score_range):
        values = np.asarray(score, dtype=float)
        limits = score_range or (float(values.min()), float(values.max()))
        # The darkest colours of the map cannot be told from the slice.
        colours = ListedColormap(colormaps["plasma"](np.linspace(0.35, 1.0, 256)))
        scale = ScalarMappable(Normalize(*limits), cmap=colours)
        circles.set_edgecolor(list(map(tuple, scale.to_rgba(values))))
        figure.colorbar(scale, ax=axes, label="score", shrink=0.7)
    axes.add_collection(circles)
    if truth_xy is not None:
        crosses = np.asarray(truth_xy, dtype=float).reshape(-1, 2)
        axes.plot(*crosses.T, "+", color=COLOURS[5], markersize=7, label="truth")
        axes.legend(fontsize=8, loc="upper right")
    return figure


def classes_on_slice(
    slice2d: FloatArray, xy: ArrayLike, radius: float | ArrayLike | None, label: Sequence[str],
    names: Sequence[str], title: str = "",
) -> Figure:
    """Return a tomogram slice [y, x] with circles at positions (P, 2), coloured by class.

    `label` says the class of each position; `names` are all classes, so that a class has the same
    colour in every slice. The legend counts the positions.
    """
    positions, labels = np.asarray(xy, dtype=float).reshape(-1, 2), np.asarray(label, dtype=object)
    figure, axes = _slice_figure(slice2d, title)
    radii = _radii(radius, len(positions), slice2d)
    for number, name in enumerate(names):
        here = labels == name
        colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
        style = ("-", "--", ":")[number // len(CLASS_COLOURS) % 3]
        axes.add_collection(_circles(positions[here], radii[here], colour, style))
        axes.plot([], [], style, color=colour, label=f"{name} ({here.sum()})")
    figure.legend(fontsize=8, frameon=False, ncols=min(len(names), LEGEND_COLUMNS),
                  loc="outside lower center", handlelength=1.2, columnspacing=1.0)
    return figure


def _slice_figure(
    slice2d: FloatArray, title: str, besides: float = 0.0
) -> tuple[Figure, Axes]:
    """A slice in grey, with some inches besides it."""
    figure = new_figure(5.6 + besides, 5.6 * slice2d.shape[0] / slice2d.shape[1])
    axes = figure.add_subplot()
    low, high = np.quantile(slice2d, [0.005, 0.995])
    show_picture(axes, slice2d, (float(low), float(high)))
    if title:
        axes.set_title(title, fontsize=10)
    return figure, axes


def _radii(radius: float | ArrayLike | None, n: int, slice2d: FloatArray) -> FloatArray:
    """A radius (voxels) for each of n circles."""
    reach = max(slice2d.shape) / 60 if radius is None else radius
    return np.array(np.broadcast_to(np.asarray(reach, dtype=float), (n,)))


def verdicts_near_slice(
    tomogram: FloatArray,
    position_xyz: FloatArray,
    verdict: Sequence[str],
    z: int,
    radius: float | None = None,
    name: str = "",
) -> Figure:
    """Return slice z of a tomogram [z, y, x] with judged positions (P, 3) within `radius` of it.

    Verdicts are those of `VERDICT_COLOURS`: circles; of false picks crossed, of missed particles
    dashed.
    """
    reach = radius if radius else max(tomogram.shape[1:]) / 50
    near = np.abs(position_xyz[:, 2] - z) <= reach
    said = np.asarray(verdict, dtype=object)
    figure = picks_on_slice(slab(tomogram, z), np.zeros((0, 2)))
    axes = figure.axes[0]
    for kind, colour in VERDICT_COLOURS.items():
        xy = position_xyz[near & (said == kind), :2]
        axes.add_collection(_circles(xy, reach, colour, "--" if kind == "missed" else "-"))
        if kind == "false":
            axes.plot(*xy.T, "x", color=colour, markersize=4, markeredgewidth=1.0)
        axes.plot([], [], "--" if kind == "missed" else "-", color=colour,
                  label=f"{len(xy)} {kind}")
    # A legend inside would hide picks.
    figure.legend(fontsize=8, frameon=False, ncols=len(VERDICT_COLOURS),
                  loc="outside lower center", handlelength=1.2, columnspacing=1.0)
    axes.set_title(f"{name}, slice {z}" if name else f"slice {z}", fontsize=10)
    return figure


def _circles(xy: FloatArray, radius: float | FloatArray, colour: str, style: str) -> Any:
    """Circles of one kind, of one radius or of one each."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Circle

    return PatchCollection(
        [Circle((x, y), r) for (x, y), r in zip(xy, np.broadcast_to(radius, len(xy)), strict=True)],
        linewidth=1.3, facecolor="none", edgecolor=colour, linestyle=style)


def slab(tomogram: FloatArray, z: int, thickness: int = 5) -> FloatArray:
    """Return the mean of `thickness` slices around z of a standardised tomogram, [y, x]."""
    low = max(z - thickness // 2, 0)
    return standardise(np.asarray(tomogram[low : low + thickness], dtype=np.float32).mean(axis=0))
