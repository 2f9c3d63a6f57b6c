"""A window that leafs through tomograms and their slices with positions drawn on them.

What is drawn is decided without a window (`PicksOnSlices`), so that it can be tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scipion_faml import mrc, plots
from scipion_faml.io import read_volume

from .figure_view import FigureView, emptied

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLAB = 5  # slices averaged for the picture
SMALLEST_CUT = 0.4  # of its radius: a circle never looks smaller
BY_SCORE, BY_CLASS = "score", "class"
OPEN_AT_ONCE = 2  # tomograms kept mapped


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions in one tomogram."""

    name: str
    path: Callable[[], str]  # of the tomogram as MRC; may convert it when it is asked for
    position_xyz: np.ndarray  # (P, 3) voxels
    radius: np.ndarray  # (P,) voxels
    score: np.ndarray  # (P,)
    label: tuple[str, ...]  # (P,) name of the class, "" where there is none


def mapped(path: Path | str) -> np.ndarray:
    """Return the voxels [z, y, x] of an MRC file, read where they are looked at."""
    return mrc.map_data(path)[1] if mrc.can_be_mapped(path) else read_volume(path)[0]


def cut_radius(radius: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return the radii of the circles in which a slice cuts balls at `depth` from it."""
    cut = np.sqrt(np.maximum(radius**2 - depth**2, 0.0))
    return np.maximum(cut, SMALLEST_CUT * radius)


class PicksOnSlices:
    """Pictures of slices with the positions near them, coloured by score or class."""

    def __init__(self, tomograms: Sequence[Positions]) -> None:
        self.tomograms = list(tomograms)
        scores = np.concatenate([t.score for t in self.tomograms])
        self.score_range = (float(scores.min()), float(scores.max()))
        self.classes = sorted({label for t in self.tomograms for label in t.label} - {""})
        self.choices = [*([BY_SCORE] if np.ptp(self.score_range) > 0 else []),
                        *([BY_CLASS] if self.classes else [])]
        self._open = lru_cache(maxsize=OPEN_AT_ONCE)(self._mapped)

    def _mapped(self, number: int) -> np.ndarray:
        """The voxels of a tomogram, read where they are looked at."""
        return mapped(self.tomograms[number].path())

    def n_slices(self, number: int) -> int:
        """Slices of a tomogram."""
        return int(self._open(number).shape[0])

    def fullest_slice(self, number: int) -> int:
        """The slice with most positions of a tomogram."""
        depth = np.round(self.tomograms[number].position_xyz[:, 2]).astype(int)
        return int(np.bincount(np.clip(depth, 0, self.n_slices(number) - 1)).argmax())

    def draw(self, number: int, z: int, colour: str = "") -> Figure:
        """Return the picture of slice z of a tomogram."""
        one = self.tomograms[number]
        depth = one.position_xyz[:, 2] - z
        near = np.abs(depth) < np.maximum(one.radius, 1.0)
        title = f"{one.name}, slice {z}: {near.sum()} of {len(near)} positions"
        slice2d = plots.slab(self._open(number), z, SLAB)
        xy, radius = one.position_xyz[near, :2], cut_radius(one.radius[near], depth[near])
        if colour == BY_CLASS:
            return plots.classes_on_slice(
                slice2d, xy, radius, [one.label[i] for i in np.flatnonzero(near)], self.classes,
                title)
        score = one.score[near] if colour == BY_SCORE else None
        return plots.picks_on_slice(
            slice2d, xy, radius, score, title=title,
            score_range=self.score_range if colour == BY_SCORE else None)


class PicksView(FigureView):
    """The window: which tomogram, coloured by what, and a slider through its slices."""

    def __init__(self, pictures: PicksOnSlices, title: str, parent: Any = None) -> None:
        self.pictures = pictures
        self.colour = self._first_colour()
        super().__init__(pictures.draw(0, pictures.fullest_slice(0), self.colour), title, parent)

    def _first_colour(self) -> str:
        """Classes where there are several, or else scores."""
        choices = self.pictures.choices
        if BY_CLASS in choices and (len(self.pictures.classes) > 1 or len(choices) == 1):
            return BY_CLASS
        return choices[0] if choices else ""

    def build(self, window: Any) -> None:
        """Put the widgets into a frame; every choice draws the figure again."""
        import tkinter as tk

        bar = tk.Frame(window)
        bar.pack(side="top", fill="x", padx=6, pady=4)
        names = [t.name for t in self.pictures.tomograms]
        tomogram = labelled_box(bar, "Tomogram", names, names[0], 24)
        colour = labelled_box(bar, "Colour by", self.pictures.choices, self.colour, 8)
        slider = tk.Scale(window, orient="horizontal", label="slice z", from_=0,
                          to=self.pictures.n_slices(0) - 1)
        slider.set(self.pictures.fullest_slice(0))
        slider.pack(side="bottom", fill="x")
        frame = tk.Frame(window)
        frame.pack(side="top", fill="both", expand=True)

        def redraw(_event: Any = None) -> None:
            self.figure = self.pictures.draw(tomogram.current(), int(slider.get()), colour.get())
            self.draw_in(emptied(frame))

        def other_tomogram(_event: Any) -> None:
            number = tomogram.current()
            slider.configure(to=self.pictures.n_slices(number) - 1)
            slider.set(self.pictures.fullest_slice(number))
            redraw()

        tomogram.bind("<<ComboboxSelected>>", other_tomogram)
        colour.bind("<<ComboboxSelected>>", redraw)
        # Drawn when the mouse lets go: a tomogram's slice takes a moment.
        slider.bind("<ButtonRelease-1>", redraw)
        slider.bind("<KeyRelease>", redraw)
        redraw()


def labelled_box(bar: Any, label: str, values: list[str], chosen: str, width: int) -> Any:
    """A drop-down list with its label on the left, in a bar."""
    from tkinter import ttk

    ttk.Label(bar, text=label).pack(side="left", padx=(6, 3))
    box = ttk.Combobox(bar, values=values, state="readonly", width=width)
    if chosen in values:
        box.current(values.index(chosen))
    box.pack(side="left")
    return box
