"""Groups of particles: their components and their radial profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scipion_faml.plots.style import COLOURS, GREY, new_figure, tidy
from scipion_faml.types import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_POINTS = 5000  # of the scatter plot


def components(
    values: FloatArray, group_index: IntArray, is_outlier: BoolArray
) -> Figure:
    """Return the first two components (N, D) of particles, a colour a group.

    Rings mark particles that fit no group. With one component the other axis is the row.
    """
    rows = np.unique(np.linspace(0, len(values) - 1, MOST_POINTS).astype(int))
    first = values[:, 0]
    second = values[:, 1] if values.shape[1] > 1 else np.arange(1.0, len(values) + 1.0)
    figure = new_figure(4.8, 4.0)
    axes = figure.add_subplot()
    for k in range(int(group_index.max()) + 1):
        some = rows[group_index[rows] == k]
        axes.scatter(first[some], second[some], s=8, color=COLOURS[k % len(COLOURS)],
                     label=f"group {k + 1}", linewidths=0)
    lost = rows[is_outlier[rows]]
    if len(lost):
        axes.scatter(first[lost], second[lost], s=40, facecolors="none", edgecolors=GREY,
                     label="outliers")
    tidy(axes, "component 1", "component 2" if values.shape[1] > 1 else "particle")
    axes.legend(fontsize=7, frameon=False)
    return figure


def radial_profiles(
    profiles: Sequence[FloatArray], voxel_size_angst: float
) -> Figure:
    """Return the density of each group against the distance from the centre."""
    figure = new_figure(4.8, 3.2)
    axes = figure.add_subplot()
    for k, profile in enumerate(profiles):
        axes.plot(np.arange(len(profile)) * voxel_size_angst, profile,
                  color=COLOURS[k % len(COLOURS)], label=f"group {k + 1}")
    axes.axhline(0.0, color=GREY, linewidth=0.6)
    tidy(axes, "distance from the centre (Å)", "mean density")
    axes.legend(fontsize=7, frameon=False)
    return figure
