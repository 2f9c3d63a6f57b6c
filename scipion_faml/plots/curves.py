"""Curves: Fourier shell correlation, precision and recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from scipion_faml.plots.style import COLOURS, GREY, new_figure, tidy
from scipion_faml.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNCORRECTED = "_uncorrected"  # curves of halves whose aligned noise is not taken out
# How curves are drawn that belong to another one.
RELATED = {UNCORRECTED: ":", "_unmasked": "-.", "_randomised": "--", "_masked": ":"}
MAX_LEGEND = 16  # curves


def fsc_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], marks: Sequence[float] = (0.5, 0.143)
) -> Figure:
    """Return Fourier shell correlations {name: (frequency in 1/A, fsc)} with thresholds `marks`.

    Curves called NAME_uncorrected, NAME_unmasked, NAME_randomised belong to NAME: they have its
    colour, thin and dotted, dash-dotted or dashed.
    """
    figure = new_figure(5.6, 3.6)
    draw_fsc(figure.add_subplot(), curves, marks)
    return figure


def _kind(name: str) -> tuple[str, str]:
    """The curve that a curve belongs to, and the suffix that says what it is of it."""
    for suffix in RELATED:
        if name.endswith(suffix):
            return name.removesuffix(suffix), suffix
    return name, ""


def _in_words(name: str) -> str:
    """A curve's name for a reader: class_001 is class 1."""
    base, suffix = _kind(name)
    number = base.removeprefix("class_")
    words = f"class {int(number)}" if base != number and number.isdigit() else base
    return f"{words}, {suffix[1:].replace('_', ' ')}" if suffix else words


def draw_fsc(
    axes: Axes, curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    marks: Sequence[float] = (0.5, 0.143), small: bool = False,
) -> None:
    """Draw Fourier shell correlations into axes; `small` leaves out what is not needed."""
    colour_of: dict[str, str] = {}
    for name, (frequency, value) in curves.items():
        base, suffix = _kind(name)
        if small and suffix:
            continue
        colour = colour_of.setdefault(base, COLOURS[len(colour_of) % len(COLOURS)])
        axes.plot(frequency, value, color=colour, label=_in_words(name),
                  linewidth=0.9 if suffix else 1.6, linestyle=RELATED.get(suffix, "-"))
    for mark in marks:
        axes.axhline(mark, color=GREY, linewidth=0.8, linestyle="--")
        axes.text(
            1.0, mark, f" {mark:g}", transform=axes.get_yaxis_transform(), fontsize=7,
            color=GREY, va="center",
        )
    axes.axhline(0.0, color="black", linewidth=0.6)
    axes.set_xlim(0, None)
    axes.set_ylim(min(-0.1, axes.get_ylim()[0]), 1.03)
    tidy(axes, "spatial frequency (1/Å)", "FSC" if small else "Fourier shell correlation")
    upper = axes.secondary_xaxis("top", functions=(_reciprocal, _reciprocal))
    upper.set_xlabel("FSC of the halves: resolution (Å)" if small else "resolution (Å)",
                     fontsize=8, color=GREY)
    _resolution_ticks(axes)
    if 0 < len(axes.get_legend_handles_labels()[0]) <= MAX_LEGEND:
        axes.legend(fontsize=7 if small else 8, loc="lower left", edgecolor="none", framealpha=0.8)


def _reciprocal(values: ArrayLike) -> FloatArray:
    """1 / x with 0 -> a large number: resolution of a frequency and back."""
    x = np.asarray(values, dtype=float)
    return 1.0 / np.where(np.abs(x) < 1e-9, 1e-9, x)


def _resolution_ticks(axes: Axes) -> None:
    """Put round resolutions on the upper axis."""
    highest = axes.get_xlim()[1]
    round_angst = [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40, 60, 80, 100, 200]
    ticks = [a for a in round_angst if 1.0 / a <= highest]
    kept: list[int] = []
    for tick in ticks:
        if not kept or (1.0 / kept[-1] - 1.0 / tick) > 0.09 * highest:
            kept.append(tick)
    upper = axes.child_axes[0]
    upper.set_xticks(kept, [str(t) for t in kept], fontsize=7, color=GREY)


def precision_recall_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, float]]
) -> Figure:
    """Return curves {name: (recall, precision, average precision)}; the first is drawn black.

    A dot marks the best F1 of each, grey lines are lines of equal F1.
    """
    figure = new_figure(6.4 if len(curves) > 1 else 4.8, 3.8)
    axes = figure.add_subplot()
    for f1 in (0.2, 0.4, 0.6, 0.8):
        along = np.linspace(f1 / (2.0 - f1), 1.0, 100)
        axes.plot(along, f1 * along / (2.0 * along - f1), color=GREY, alpha=0.35, linewidth=0.7)
        axes.text(1.005, f1 / (2.0 - f1), f"F1 {f1:g}", fontsize=6, color=GREY, va="center")
    for k, (name, (recall, precision, average)) in enumerate(curves.items()):
        r, p = np.asarray(recall, dtype=float), np.asarray(precision, dtype=float)
        colour = "black" if k == 0 else COLOURS[(k - 1) % (len(COLOURS) - 1)]
        style = "-" if k <= len(COLOURS) - 1 else "--"
        # Steps whose area is the average precision: up to each recall at its precision.
        axes.step([0.0, *r], [*p[:1], *p], style, where="pre", color=colour,
                  linewidth=2.0 if k == 0 else 1.2, label=f"{name}  {average:.2f}",
                  zorder=3 if k == 0 else 2)
        if len(r):
            best = int((r * p / np.maximum(r + p, 1e-12)).argmax())
            axes.plot(r[best], p[best], "o", color=colour, markersize=4, zorder=4)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.02)
    tidy(axes, "recall", "precision")
    if curves:
        figure.legend(fontsize=7, frameon=False, loc="outside right upper",
                      title="average precision", title_fontsize=7)
    return figure
