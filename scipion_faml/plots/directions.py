"""Maps of viewing directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scipion_faml.plots.style import COLOURS, GREY, new_figure
from scipion_faml.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def orientations(rotation: FloatArray) -> Figure:
    """Return a map of the directions the particles' z axes point in (rotations (N, 3, 3))."""
    direction = np.asarray(rotation, dtype=float)[:, :, 2]
    longitude = np.arctan2(direction[:, 1], direction[:, 0])
    latitude = np.arcsin(np.clip(direction[:, 2], -1.0, 1.0))
    figure = new_figure(4.8, 2.8)
    axes = figure.add_subplot(projection="mollweide")
    axes.grid(alpha=0.4, linewidth=0.5)
    axes.scatter(longitude, latitude, s=9, alpha=0.6, color=COLOURS[0], linewidths=0)
    axes.set_xticklabels([])
    axes.tick_params(labelsize=7)
    axes.set_title("directions of the particles' z axes (poles: beam)", fontsize=9, color=GREY)
    return figure
