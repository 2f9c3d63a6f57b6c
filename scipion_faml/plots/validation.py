"""Figures of results judged without a truth: resolution and sampling by direction, symmetry, SNR.

Directions are drawn on discs: Lambert's azimuthal projection, in which equal areas of the sphere
are equal areas of paper. The middle is z, x points right, y up, and the rim is the x-y plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from scipion_faml.plots.judged import confusion
from scipion_faml.plots.style import COLOURS, GREY, grid_of, new_figure, tidy
from scipion_faml.types import BoolArray, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DISC = 256  # pixels across
DIRECTION_TYPE = tuple[str, ArrayLike, ArrayLike, str]  # title, directions, values, unit


def equal_area(direction: ArrayLike) -> FloatArray:
    """Return where unit vectors (N, 3) of the half sphere z >= 0 lie on the unit disc (N, 2)."""
    unit = np.asarray(direction, dtype=float)
    radius = np.sqrt(np.maximum(1.0 - unit[:, 2], 0.0))  # 1 at the rim
    across = np.hypot(unit[:, 0], unit[:, 1])
    scale = radius / np.where(across > 0, across, 1.0)
    return unit[:, :2] * scale[:, None]


def directions_of_disc(size: int = DISC) -> tuple[FloatArray, BoolArray]:
    """Return the unit vector of every pixel of a disc (size, size, 3), and what lies inside it."""
    axis = np.linspace(-1.0, 1.0, size)
    x, y = np.meshgrid(axis, axis)
    squared = x**2 + y**2
    scale = np.sqrt(np.maximum(2.0 - squared, 0.0))
    return np.stack([x * scale, y * scale, 1.0 - squared], axis=-1), squared <= 1.0


def direction_maps(panels: Sequence[DIRECTION_TYPE]) -> Figure:
    """Return discs of values that are the same for u and -u.

    A panel is its title, directions (D, 3) of a half sphere, values (D,) and their unit.
    """
    figure = new_figure(3.6 * len(panels), 3.3)
    grid = grid_of(figure, 1, max(len(panels), 1))[0]
    for axes, (title, direction, value, unit) in zip(grid, panels, strict=False):
        _value_disc(figure, axes, np.asarray(direction, float), np.asarray(value, float), unit)
        axes.set_title(title, fontsize=10)
    return figure


def _value_disc(
    figure: Figure, axes: Axes, direction: FloatArray, value: FloatArray, unit: str
) -> None:
    """Values of a half sphere as a coloured disc: every pixel that of its nearest direction."""
    from scipy.spatial import cKDTree

    both = np.concatenate([direction, -direction])
    pixel, inside = directions_of_disc()
    nearest = cKDTree(both).query(pixel.reshape(-1, 3))[1] % len(direction)
    picture = np.where(inside, value[nearest].reshape(inside.shape), np.nan)
    # A few odd directions must not take up the scale.
    low, high = np.quantile(value, [0.02, 0.98])
    image = axes.imshow(picture, origin="lower", extent=(-1, 1, -1, 1), cmap="viridis",
                        interpolation="nearest", vmin=low, vmax=max(high, low + 1e-6))
    figure.colorbar(image, ax=axes, shrink=0.8, label=unit, extend="both")
    _disc(axes)


def _disc(axes: Axes) -> None:
    """The rim, circles at 30 and 60 deg, and the names of the axes."""
    from matplotlib.patches import Circle

    for angle in (30.0, 60.0, 90.0):
        radius = np.sqrt(1.0 - np.cos(np.deg2rad(angle)))
        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=GREY,
                              linewidth=1.0 if angle == 90 else 0.5, alpha=0.8))
    axes.text(1.05, 0, "x", ha="left", va="center", fontsize=8, color=GREY)
    axes.text(0, 1.05, "y", ha="center", va="bottom", fontsize=8, color=GREY)
    axes.set_xlim(-1.15, 1.15)
    axes.set_ylim(-1.15, 1.18)
    axes.set_aspect("equal")
    axes.axis("off")


def directional_resolution(
    direction: ArrayLike, resolution_angst: ArrayLike, sampling: ArrayLike | None = None,
    cone_deg: float = 20.0, threshold: float = 0.143,
) -> Figure:
    """Return the resolution in every direction (D, 3), and beside it how well it was sampled.

    `sampling` (D,) is the share of particles that measured a direction.
    """
    panels: list[DIRECTION_TYPE] = [
        (f"FSC {threshold:g} in cones of {cone_deg:g}°", direction, resolution_angst, "Å")]
    if sampling is not None:
        panels.append(("measured by", direction, 100.0 * np.asarray(sampling, float),
                       "% of the particles"))
    return direction_maps(panels)


def resolution_against_sampling(sampling: ArrayLike, resolution_angst: ArrayLike) -> Figure:
    """Return the resolution of every direction (D,) against the share of particles there."""
    figure = new_figure(3.8, 3.0)
    axes = figure.add_subplot()
    axes.plot(100.0 * np.asarray(sampling, float), np.asarray(resolution_angst, float), "o",
              color=COLOURS[0], markersize=3, alpha=0.6)
    tidy(axes, "particles that measured the direction (%)", "resolution (Å)")
    return figure


def directional_curves(
    frequency_per_angst: ArrayLike, fsc: ArrayLike, overall: ArrayLike | None = None
) -> Figure:
    """Return the FSC of all cones (D, S) as bands of 10, 50 and 90 %, and the overall one (S,)."""
    x = np.asarray(frequency_per_angst, float)
    curves = np.asarray(fsc, float)
    # A shell that no cone can judge has no band.
    usable = np.isfinite(curves).sum(axis=0) > 0.5 * len(curves)
    low, middle, high = np.nanquantile(curves[:, usable], [0.1, 0.5, 0.9], axis=0)
    figure = new_figure(4.8, 3.2)
    axes = figure.add_subplot()
    axes.fill_between(x[usable], low, high, color=COLOURS[0], alpha=0.2, linewidth=0,
                      label="80 % of the cones")
    axes.plot(x[usable], middle, color=COLOURS[0], linewidth=1.5, label="median of the cones")
    if overall is not None:
        axes.plot(x, np.asarray(overall, float), color="black", linewidth=1.2, label="whole shells")
    for mark in (0.5, 0.143):
        axes.axhline(mark, color=GREY, linewidth=0.8, linestyle="--")
    axes.axhline(0.0, color="black", linewidth=0.6)
    axes.set_xlim(0, None)
    axes.set_ylim(-0.1, 1.03)
    tidy(axes, "spatial frequency (1/Å)", "Fourier shell correlation")
    axes.legend(fontsize=8, frameon=False)
    return figure


def viewing_directions(direction: ArrayLike, title: str = "") -> Figure:
    """Return where particles were seen from (N, 3): the discs of z > 0 and z < 0."""
    figure = new_figure(6.2, 3.2)
    _seen_from(grid_of(figure, 1, 2)[0], np.asarray(direction, float))
    figure.suptitle(title or "viewing directions (the beam in the frame of the average)",
                    fontsize=10)
    return figure


def _seen_from(grid: Sequence[Axes], unit: FloatArray) -> None:
    """Directions (N, 3) on the discs of both half spheres."""
    size = float(np.clip(300.0 / max(len(unit), 1) ** 0.5, 3.0, 30.0))
    for axes, sign, name in zip(grid, (1.0, -1.0), ("seen from z > 0", "from z < 0"), strict=True):
        # The lower half is seen through the sphere: x and y keep their places.
        here = unit[sign * unit[:, 2] >= 0] * np.array([1.0, 1.0, sign])
        at = equal_area(here)
        axes.scatter(at[:, 0], at[:, 1], s=size, alpha=0.6, color=COLOURS[0], linewidths=0)
        _disc(axes)
        axes.set_title(f"{name}: {len(here)}", fontsize=9, color=GREY)


def sampling_counts(times: ArrayLike, share: ArrayLike) -> Figure:
    """Return bars of the share of Fourier samples (T,) that were measured so often (T,)."""
    figure = new_figure(4.2, 2.7)
    axes = figure.add_subplot()
    axes.bar(np.asarray(times, float), 100.0 * np.asarray(share, float), width=1.0,
             color=COLOURS[0], linewidth=0)
    tidy(axes, "particles that measured a sample", "share of samples (%)")
    axes.set_xlim(-0.5, None)
    return figure


def self_correlation(
    turn_deg: ArrayLike, curve: ArrayLike, fold: int, power: ArrayLike | None = None
) -> Figure:
    """Return the correlation of a map with itself turned about its axis, and power by order.

    `power` (M,) are the shares of orders 1, 2, ... of the part that is not axisymmetric. Turns of
    the n-fold axis, and multiples of n, are orange.
    """
    figure = new_figure(8.4 if power is not None else 4.8, 2.9)
    axes = grid_of(figure, 1, 2 if power is not None else 1)[0]
    turns = np.asarray(turn_deg, float)
    axes[0].plot(turns, np.asarray(curve, float), color=COLOURS[0], linewidth=1.3)
    for j in range(1, fold):
        if 360.0 * j / fold <= turns.max() + 1e-6:
            axes[0].axvline(360.0 * j / fold, color=COLOURS[1], linewidth=0.8, alpha=0.7)
    axes[0].axhline(0.0, color="black", linewidth=0.6)
    axes[0].set_xlim(0, turns.max())
    tidy(axes[0], "turn about the axis (°)", "self-correlation", f"C{fold}")
    if power is not None:
        share = np.asarray(power, float) / max(float(np.sum(power)), 1e-30)
        order = np.arange(1, len(share) + 1)
        colour = [COLOURS[1] if m % fold == 0 else COLOURS[0] for m in order]
        axes[1].bar(order, np.maximum(share, 1e-8), color=colour, width=0.8)
        axes[1].set_yscale("log")
        axes[1].set_ylim(max(1e-6, 0.3 * float(share[share > 0].min(initial=1.0))), 1.0)
        tidy(axes[1], "order m", "share of the power")
    return figure


def run_agreement(
    matrix: ArrayLike, classes_a: Sequence[int], classes_b: Sequence[int]
) -> Figure:
    """Return how many particles of each class of run A (rows) are in each of run B (columns)."""
    figure = confusion(matrix, [str(k) for k in classes_a], [str(k) for k in classes_b])
    figure.axes[0].set_ylabel("class in run A")
    figure.axes[0].set_xlabel("class in run B")
    return figure


def pair_correlations(correlation: ArrayLike, snr: float) -> Figure:
    """Return the correlations of all pairs of particles, with their mean and the SNR it means."""
    values = np.asarray(correlation, float)
    values = values[np.isfinite(values)]
    figure = new_figure(4.2, 2.7)
    axes = figure.add_subplot()
    axes.hist(values, bins=min(40, max(8, len(values) // 10)), color=COLOURS[0])
    axes.axvline(0.0, color="black", linewidth=0.6)
    axes.axvline(float(values.mean()), color=COLOURS[1], linewidth=1.5,
                 label=f"mean {values.mean():.3g}: SNR {snr:.3g}")
    axes.legend(fontsize=8, frameon=False)
    tidy(axes, "correlation of aligned pairs", "pairs")
    return figure


def orientation_summary(
    direction: ArrayLike, ray_direction: ArrayLike, ray_sampling: ArrayLike, title: str = ""
) -> Figure:
    """Return where particles were seen from (N, 3), and the share that measured each ray (M, 3)."""
    figure = new_figure(9.6, 3.3)
    grid = grid_of(figure, 1, 3)[0]
    _seen_from(grid[:2], np.asarray(direction, float))
    _value_disc(figure, grid[2], np.asarray(ray_direction, float),
                100.0 * np.asarray(ray_sampling, float), "% of the particles")
    grid[2].set_title("measured by", fontsize=9, color=GREY)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
