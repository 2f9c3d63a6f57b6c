"""The picture of a training: losses, and F1 on what is held out."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

LOSSES = ("centre", "offset", "class", "box", "confidence", "loss")
SCORES = {"f1": "localisation F1", "macro_f1": "macro F1"}


def training_curves(history: pd.DataFrame) -> Figure:
    """Return losses and scores of a history.csv (a row an epoch) against the epoch."""
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    marker = "o" if len(history) < 3 else None  # a line of one point is not seen
    for name in LOSSES:
        if name in history:
            left.plot(history["epoch"], history[name], linewidth=2 if name == "loss" else 1,
                      marker=marker, label=name)
    left.set_yscale("log")
    left.set_ylabel("mean loss of the epoch")
    for name, label in SCORES.items():
        if name in history:
            right.plot(history["epoch"], history[name], marker=marker, label=label)
    right.set_ylim(0.0, 1.0)
    right.set_ylabel("on held-out particles")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=7, frameon=False)
        axes.grid(alpha=0.3)
    return figure
