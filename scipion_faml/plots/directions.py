"""Maps of directions on the sphere, in an equal-area projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from scipion_faml.plots.style import COLOURS, GREY, grid_of, new_figure
from scipion_faml.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXIS, BEAM = "axis", "beam"
MEANING = {
    AXIS: "where the particles' z axes point in the tomogram (poles: beam, centre: x)",
    BEAM: "from where the beam sees the average (poles: its z axis, centre: its x axis)",
}
MAX_MAPS = 12
GRID = (60, 120)  # latitudes, longitudes of the density
MAX_DENSITY = 4.0  # times an even distribution: the end of the colours


def directions(rotation: FloatArray, what: str = AXIS) -> FloatArray:
    """Return unit vectors (N, 3): the averages' z axes in the tomogram, or the beam in the average.

    `rotation` (N, 3, 3) takes the average to the subtomogram; the beam is z there.
    """
    matrices = np.asarray(rotation, dtype=float)
    vectors: FloatArray = matrices[:, :, 2] if what == AXIS else matrices[:, 2, :]
    return vectors


def direction_density(vectors: FloatArray, points: FloatArray) -> FloatArray:
    """Return the density of directions (N, 3) at points (..., 3), as a multiple of an even one.

    The kernel is that of von Mises and Fisher; its width shrinks with the number of directions.
    """
    n_directions = len(vectors)
    if not n_directions:
        return np.zeros(points.shape[:-1])
    width = np.deg2rad(np.clip(32.0 * n_directions ** (-1 / 6), 7.0, 30.0))
    kappa = 1.0 / width**2
    total = np.zeros(points.shape[:-1])
    for start in range(0, n_directions, 500):
        cosines = points @ vectors[start : start + 500].T
        total += np.exp(kappa * (cosines - 1.0)).sum(axis=-1)
    # Integral of the kernel over the sphere, times the density of an even distribution.
    even = n_directions * (1.0 - np.exp(-2.0 * kappa)) / (2.0 * kappa)
    return total / even


def orientations(rotation: FloatArray) -> Figure:
    """Return a map of the directions the particles' z axes point in (rotations (N, 3, 3))."""
    return orientation_maps({"": np.asarray(rotation, dtype=float)})


def class_orientations(
    rotation: FloatArray, class_index: ArrayLike, what: str = AXIS,
    names: Sequence[str] | None = None,
) -> Figure:
    """Return a map for each class of the rotations (N, 3, 3); `class_index` counts from 0."""
    index = np.asarray(class_index, dtype=int)
    n_classes = len(names) if names is not None else int(index.max(initial=0)) + 1
    labels = names if names is not None else [f"class {k + 1}" for k in range(n_classes)]
    return orientation_maps(
        {f"{label} ({(index == k).sum()})": rotation[index == k] for k, label in enumerate(labels)},
        what)


def orientation_maps(rotations: Mapping[str, FloatArray], what: str = AXIS) -> Figure:
    """Return maps {title: rotations (N, 3, 3)} of `directions`, points over their density."""
    shown = list(rotations.items())[:MAX_MAPS]
    n_columns = max(min(len(shown), 2), 1) if len(shown) < 5 else 3
    n_rows = max(-(-len(shown) // n_columns), 1)
    figure = new_figure(4.3 * n_columns + 0.9, 2.5 * n_rows + 0.5)
    grid = [axes for row in grid_of(figure, n_rows, n_columns, projection="mollweide")
            for axes in row]
    picture = None
    for axes, (title, rotation) in zip(grid, shown, strict=False):
        picture = draw_directions(axes, directions(rotation, what))
        axes.set_title(title, fontsize=9)
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    if picture is not None:
        bar = figure.colorbar(picture, ax=grid, shrink=0.6, aspect=18, extend="max")
        bar.set_label("times an even distribution", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    more = f"; the first {MAX_MAPS} of {len(rotations)}" if len(rotations) > len(shown) else ""
    figure.suptitle(MEANING[what] + more, fontsize=8, color=GREY)
    return figure


def draw_directions(axes: Axes, vectors: FloatArray) -> Any:
    """Draw directions (N, 3) into Mollweide axes: density in colours, a dot each."""
    latitude = np.linspace(-90, 90, GRID[0] + 1)
    longitude = np.linspace(-180, 180, GRID[1] + 1)
    middle = [np.deg2rad(0.5 * (edge[1:] + edge[:-1])) for edge in (longitude, latitude)]
    lon, lat = np.meshgrid(*middle)
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    picture = axes.pcolormesh(
        np.deg2rad(longitude), np.deg2rad(latitude), direction_density(vectors, points),
        cmap="YlGnBu", vmin=0.0, vmax=MAX_DENSITY, rasterized=True)
    axes.grid(alpha=0.35, linewidth=0.5)
    size = float(np.clip(120 / np.sqrt(len(vectors) + 1), 1.5, 9.0))
    axes.scatter(
        np.arctan2(vectors[:, 1], vectors[:, 0]), np.arcsin(np.clip(vectors[:, 2], -1.0, 1.0)),
        s=size, alpha=0.75, color=COLOURS[1], linewidths=0)
    axes.set_xticklabels([])
    axes.set_yticks(np.deg2rad([-60, -30, 0, 30, 60]), ["-60°", "-30°", "0°", "30°", "60°"])
    axes.tick_params(labelsize=7)
    return picture
