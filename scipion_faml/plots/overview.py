"""One figure that answers whether a run worked, and the sentences beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from scipion_faml.plots.curves import draw_fsc
from scipion_faml.plots.directions import AXIS, directions, draw_directions
from scipion_faml.plots.runs import draw_history, draw_sizes
from scipion_faml.plots.style import GREY, new_figure, show_picture
from scipion_faml.plots.volumes import (
    SMALL_SURFACE,
    SURFACE_COLOURS,
    central_slices,
    shaded_surface,
)
from scipion_faml.types import FloatArray

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GOOD, DOUBT, PLAIN = "good", "doubt", "plain"
MARKS = {GOOD: ("✓", "#008a5c"), DOUBT: ("!", "#d55e00"), PLAIN: ("·", GREY)}
MAX_CLASSES = 8
STILL_DEG = 2.0  # poses that move less from one iteration to the next have settled
SURE = 0.9  # posterior of a particle without much doubt
FEW = 10  # particles: fewer average noise
LINE = 46  # characters
ABOVE, PANEL_HEIGHT = 3.1, 2.25  # inches: two rows of panels fit a small screen

Finding = tuple[str, str]


@dataclass(frozen=True, eq=False)
class RunState:
    """What is known of a classification or averaging so far; what is not there yet is empty."""

    averages: FloatArray  # (K, n, n, n)
    counts: ArrayLike  # (K,) particles
    history: pd.DataFrame | None = None  # of history.csv
    result: Mapping[str, Any] = field(default_factory=dict)  # of run.json, when it is there
    probability: FloatArray | None = None  # (N,)
    rotation: FloatArray | None = None  # (N, 3, 3)
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]] = field(default_factory=dict)


def findings(state: RunState) -> list[Finding]:
    """Return what can be said of a run, most important first: (kind, sentence)."""
    counts = np.asarray(state.counts, dtype=float)
    said = _progress(state)
    said += [(DOUBT, f"{text[:1].upper()}{text[1:]}.") for text in state.result.get("warnings", [])]
    if counts.size > 1:
        said.append(_sizes_in_words(counts))
    resolution = state.result.get("resolution_angst") or _last(state.history, "resolution_angst")
    if resolution:
        said.append((PLAIN, f"The halves agree to {resolution:.3g} Å (FSC 0.143)."))
    if state.probability is not None and len(state.probability):
        sure = float(np.mean(np.asarray(state.probability) >= SURE))
        said.append((GOOD if sure >= 0.5 else DOUBT,
                     f"{sure:.0%} of the particles have a pose and class without much doubt "
                     f"(posterior {SURE:g} and more)."))
    return said


def _progress(state: RunState) -> list[Finding]:
    """How far a run is, and whether poses have settled."""
    if state.history is None or not len(state.history):
        return []
    done = int(_last(state.history, "iteration") or len(state.history))
    change = _last(state.history, "pose_change_deg")
    moved = f"; poses moved by {change:.2g}° (median) in the last" if change is not None else ""
    times = f"{done} iteration" + ("s" if done > 1 else "")
    if state.result.get("converged"):
        return [(GOOD, f"Converged after {times}{moved}.")]
    if not state.result:
        return [(PLAIN, f"{times} so far{moved}.")]
    if change is not None and change > STILL_DEG:
        return [(DOUBT, f"{times}{moved}: give it more.")]
    return [(PLAIN, f"{times}{moved}.")]


def _sizes_in_words(counts: FloatArray) -> Finding:
    """Class sizes, and whether one is too small."""
    listed = ", ".join(f"{count:g}" for count in counts[:12])
    more = f", ... ({len(counts)} classes)" if len(counts) > 12 else ""
    small = int(((counts > 0) & (counts < FEW)).sum())
    if small:
        return DOUBT, (f"Class sizes {listed}{more}; {small} below {FEW} particles, which average "
                       "noise.")
    return PLAIN, f"Class sizes {listed}{more}."


def _last(history: pd.DataFrame | None, column: str) -> float | None:
    """The last value of a column, where there is one."""
    if history is None or column not in history or not len(history):
        return None
    value = float(history[column].iloc[-1])
    return value if np.isfinite(value) else None


def run_overview(state: RunState, title: str = "") -> Figure:
    """Return the averages, and below what says whether to believe them.

    Panels whose numbers are not there are left out.
    """
    shown = min(len(state.averages), MAX_CLASSES)
    panels = _panels(state)
    below = PANEL_HEIGHT * max(1, -(-len(panels) // 3))
    figure = new_figure(11.0, ABOVE + below)
    upper, lower = figure.subfigures(2, 1, height_ratios=(ABOVE, below))
    pictures, words = upper.subfigures(1, 2, width_ratios=(7.2, 3.8))
    _draw_averages(pictures, state, shown)
    write_findings(words.add_subplot(), findings(state))
    if title:
        figure.suptitle(title, fontsize=11)
    n_rows, n_columns = -(-len(panels) // 3), min(len(panels), 3)
    for number, (projection, draw) in enumerate(panels, 1):
        draw(lower.add_subplot(n_rows, n_columns, number, projection=projection))
    return figure


def _draw_averages(figure: Any, state: RunState, shown: int) -> None:
    """A row of one or two classes each: surface and slices; of more: a column of both each."""
    in_rows = shown <= 2
    grid = figure.subplots(*((shown, 4) if in_rows else (2, max(shown, 4))), squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for k in range(shown):
        cells = list(grid[k]) if in_rows else list(grid[:, k])
        surface = shaded_surface(state.averages[k], size=SMALL_SURFACE)
        show_picture(cells[0], surface, (0.0, 1.0), SURFACE_COLOURS)
        pictures = central_slices(state.averages[k])[: len(cells) - 1]
        low, high = np.quantile(np.concatenate([p.ravel() for p in pictures]), [0.005, 0.998])
        for axes, picture in zip(cells[1:], pictures, strict=True):
            show_picture(axes, picture, (float(low), float(high)))
        cells[0].set_title(_class_title(state, k), fontsize=9)
    if shown < len(state.averages):
        figure.suptitle(f"the first {shown} of {len(state.averages)} classes", fontsize=8,
                        color=GREY)


def _class_title(state: RunState, k: int) -> str:
    """A class and its size."""
    count = f"{np.asarray(state.counts, dtype=float)[k]:g}"
    return f"class {k + 1}: {count}" if len(state.averages) > 1 else f"average of {count}"


def write_findings(axes: Axes, said: Sequence[Finding]) -> None:
    """Write sentences below each other, each with a mark of its kind."""
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    lines = [(kind, textwrap.wrap(text, LINE)) for kind, text in said]
    step = min(0.055, 0.96 / max(sum(len(wrapped) + 0.6 for _, wrapped in lines), 1))
    height = 0.98
    for kind, wrapped in lines:
        mark, colour = MARKS[kind]
        axes.text(0.0, height, mark, fontsize=11, color=colour, va="top", weight="bold")
        axes.text(0.05, height, "\n".join(wrapped), fontsize=9, va="top", linespacing=1.15)
        height -= step * (len(wrapped) + 0.6)


def _panels(state: RunState) -> list[tuple[str | None, Any]]:
    """What is drawn below: a projection and a function that draws into axes."""
    panels: list[tuple[str | None, Any]] = []
    if np.asarray(state.counts).size > 1:
        panels.append((None, lambda axes: draw_sizes(axes, state.counts)))
    if state.curves:
        panels.append((None, lambda axes: draw_fsc(axes, state.curves, small=True)))
    history = state.history
    if history is not None and len(history):
        if history["log_likelihood"].notna().any():
            panels.append((None, lambda axes: draw_history(
                axes, history, ["log_likelihood"], "log-likelihood")))
        if "pose_change_deg" in history and history["pose_change_deg"].notna().any():
            panels.append((None, lambda axes: draw_history(
                axes, history, ["pose_change_deg"], "pose change", "median, deg")))
    if state.probability is not None and len(state.probability):
        probability = state.probability
        panels.append((None, lambda axes: _all_posteriors(axes, probability)))
    if state.rotation is not None and len(state.rotation):
        panels.append(("mollweide", lambda axes: _all_directions(axes, state)))
    return panels


def _all_posteriors(axes: Axes, probability: FloatArray) -> None:
    """How sure all particles are."""
    from scipion_faml.plots.runs import draw_posteriors

    draw_posteriors(axes, probability, np.zeros(len(probability), dtype=int), 0)
    axes.set_title("posterior of best pose and class", fontsize=10, loc="left")


def _all_directions(axes: Axes, state: RunState) -> None:
    """Where all particles point."""
    assert state.rotation is not None
    draw_directions(axes, directions(state.rotation, AXIS))
    axes.set_title("particles' z axes (poles: beam)", fontsize=10)
