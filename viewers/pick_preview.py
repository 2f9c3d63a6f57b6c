"""Choosing a diameter and a threshold while looking at a slice.

`DogPreview` finds and draws without a window; `DogPreviewDialog` is the window about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from pyworkflow.gui.dialog import Dialog

from scipion_faml import plots
from scipion_faml.picking.dog import DogConfig, DogResult, pick_down_to

from .picks_view import SLAB, cut_radius, mapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOWEST = 2.0  # s.d.: no threshold below is offered
REACH = 2.0  # diameters above and below the slice that are looked at


class DogPreview:
    """Picks in a slab of one tomogram, for any diameter and threshold."""

    def __init__(
        self, volume: np.ndarray, voxel_size_angst: float, is_dark: bool, false_positives: float,
        filter_name: str = "dog",
    ) -> None:
        self.volume, self.voxel_size_angst = volume, voxel_size_angst
        self._is_dark, self._false_positives = is_dark, false_positives
        self._filter = filter_name
        self.found = lru_cache(maxsize=8)(self._found)

    @property
    def diameter_range(self) -> tuple[float, float]:
        """The diameters (angstrom) that fit voxels and tomogram."""
        return 3 * self.voxel_size_angst, 0.5 * min(self.volume.shape[1:]) * self.voxel_size_angst

    def _slab(self, z: int, diameter_angst: float) -> slice:
        reach = int(np.ceil(REACH * diameter_angst / self.voxel_size_angst))
        return slice(max(z - reach, 0), min(z + reach + 1, self.volume.shape[0]))

    def _found(self, z: int, diameter_angst: float) -> DogResult:
        """Picks about slice z down to the lowest score; positions count the slab's slices."""
        slab = self._slab(z, diameter_angst)
        values = self.volume[slab]
        share = values.shape[0] / self.volume.shape[0]
        config = DogConfig(
            (diameter_angst,), is_dark=self._is_dark, filter=self._filter,
            false_positives=self._false_positives * share, border_angst=0.0)
        return pick_down_to(LOWEST, values, self.voxel_size_angst, config)

    def suggested_threshold(self, z: int, diameter_angst: float) -> float:
        """The threshold that the false positives allowed ask for."""
        return self.found(z, diameter_angst).threshold

    def highest_score(self, z: int, diameter_angst: float) -> float:
        """The score of the surest pick."""
        scores = self.found(z, diameter_angst).picks.score
        return float(scores.max()) if len(scores) else self.suggested_threshold(z, diameter_angst)

    def positions(self, z: int, diameter_angst: float, threshold: float) -> np.ndarray:
        """Picks (P, 3), x y z of the tomogram, that slice z cuts and that score enough."""
        found = self.found(z, diameter_angst)
        position = found.picks.position_xyz + [0, 0, self._slab(z, diameter_angst).start]
        voxels = diameter_angst / self.voxel_size_angst
        limits = np.array(self.volume.shape)[::-1] - 1 - 0.5 * voxels
        inside = ((position >= 0.5 * voxels) & (position <= limits)).all(axis=1)
        near = np.abs(position[:, 2] - z) <= 0.5 * voxels
        return position[inside & near & (found.picks.score >= threshold)]

    def draw(self, z: int, diameter_angst: float, threshold: float) -> Figure:
        """Slice z with the picks, and in its corner a circle of the diameter."""
        from matplotlib.patches import Circle

        position = self.positions(z, diameter_angst, threshold)
        radius = 0.5 * diameter_angst / self.voxel_size_angst
        figure = plots.picks_on_slice(
            plots.slab(self.volume, z, SLAB), position[:, :2],
            cut_radius(np.full(len(position), radius), position[:, 2] - z),
            title=f"slice {z}: {len(position)} picks of {diameter_angst:g} Å above {threshold:.1f}")
        axes = figure.axes[0]
        corner = 1.3 * radius
        axes.add_patch(Circle((corner, corner), radius, facecolor="none", linewidth=1.8,
                              edgecolor=plots.COLOURS[5]))
        return figure


class DogPreviewDialog(Dialog):
    """The window: a slice with its picks, sliders for diameter, threshold and slice."""

    def __init__(
        self, parent: Any, tomograms: Sequence[tuple[str, Callable[[], DogPreview]]],
        diameter: float, threshold: float | None,
    ) -> None:
        self._tomograms = list(tomograms)
        self.diameter, self._threshold_given = diameter, threshold
        self.threshold = threshold
        self._preview = self._tomograms[0][1]()
        super().__init__(parent, "Diameter and threshold on a slice (FAML)")

    def body(self, frame: Any) -> None:
        """Build the window (Scipion calls this)."""
        import tkinter as tk
        from tkinter import ttk

        self.resizable(True, True)
        frame.grid_rowconfigure(1, weight=1)
        frame.grid_columnconfigure(0, weight=1)
        bar = tk.Frame(frame)
        bar.grid(row=0, column=0, sticky="ew")
        ttk.Label(bar, text="Tomogram").pack(side="left", padx=(4, 3))
        self._chosen = ttk.Combobox(bar, state="readonly", width=28,
                                    values=[name for name, _ in self._tomograms])
        self._chosen.current(0)
        self._chosen.pack(side="left")
        self._chosen.bind("<<ComboboxSelected>>", self._other_tomogram)
        self._picture = tk.Frame(frame, width=620, height=560)
        self._picture.grid(row=1, column=0, sticky="nsew")
        low, high = self._preview.diameter_range
        self._diameter = self._slider(frame, 2, "Diameter (Å)", low, high, 1.0, self._searched)
        self._threshold = self._slider(
            frame, 3, "Threshold (s.d. of the noise)", LOWEST, 10.0, 0.1, self._drawn)
        self._slice = self._slider(
            frame, 4, "Slice z", 0, self._preview.volume.shape[0] - 1, 1, self._searched)
        self._diameter.set(self.diameter)
        self._slice.set(self._preview.volume.shape[0] // 2)
        self._message = tk.Label(frame, foreground="#b00020")
        self._message.grid(row=5, column=0, sticky="ew")
        self._canvas: Any = None
        self._searched()

    @staticmethod
    def _slider(
        frame: Any, row: int, label: str, low: float, high: float, step: float,
        when_moved: Callable[..., None],
    ) -> Any:
        import tkinter as tk

        slider = tk.Scale(frame, label=label, from_=low, to=high, resolution=step,
                          orient="horizontal")
        slider.grid(row=row, column=0, sticky="ew")
        # When the mouse lets go: a search takes a moment.
        slider.bind("<ButtonRelease-1>", when_moved)
        slider.bind("<KeyRelease>", when_moved)
        return slider

    def _other_tomogram(self, _event: Any) -> None:
        try:
            self._preview = self._tomograms[self._chosen.current()][1]()
        except (ValueError, OSError) as error:
            self._message.configure(text=str(error))
            return
        n_slices = self._preview.volume.shape[0]
        self._slice.configure(to=n_slices - 1)
        self._slice.set(n_slices // 2)
        self._searched()

    def _searched(self, _event: Any = None) -> None:
        """Search anew, and offer the thresholds that leave something."""
        z, diameter = int(self._slice.get()), float(self._diameter.get())
        self.configure(cursor="watch")
        self.update_idletasks()
        try:
            highest = self._preview.highest_score(z, diameter)
            if self._threshold_given is None:
                self._threshold.configure(to=max(highest, LOWEST + 1.0))
                self._threshold.set(self._preview.suggested_threshold(z, diameter))
            else:
                self._threshold.configure(to=max(highest, self._threshold_given, LOWEST + 1.0))
                self._threshold.set(self._threshold_given)
        except ValueError as error:
            self._message.configure(text=str(error))
            return
        finally:
            self.configure(cursor="")
        self._message.configure(text="")
        self._drawn(is_search=True)

    def _drawn(self, _event: Any = None, is_search: bool = False) -> None:
        """Draw the picks above the threshold."""
        from matplotlib.backends.backend_tkagg import FigureCanvasTkAgg

        if not is_search:  # the user's own choice, which a new search keeps
            self._threshold_given = float(self._threshold.get())
        self.diameter, self.threshold = float(self._diameter.get()), self._threshold_given
        figure = self._preview.draw(
            int(self._slice.get()), self.diameter, float(self._threshold.get()))
        if self._canvas is not None:
            self._canvas.get_tk_widget().destroy()
        self._canvas = FigureCanvasTkAgg(figure, master=self._picture)
        self._canvas.get_tk_widget().pack(fill="both", expand=True)
        self._canvas.draw()


def preview_of(
    path: Callable[[], str], voxel_size_angst: float, is_dark: bool, false_positives: float,
    filter_name: str,
) -> DogPreview:
    """Return the preview of a tomogram's file."""
    return DogPreview(mapped(path()), voxel_size_angst, is_dark, false_positives, filter_name)
