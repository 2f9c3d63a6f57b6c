"""Windows to leaf through the slices of volumes and to turn their surfaces.

What is drawn is decided without a window (`VolumeSlices`, `Surfaces`), so that it can be tested.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scipion_faml import plots
from scipion_faml.fourier import low_pass
from scipion_faml.io import read_volume

from .chimerax import ChimeraXView, find_chimerax
from .figure_view import FigureView, emptied
from .picks_view import labelled_box

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = ("z", "y", "x")
OPEN_AT_ONCE = 4
CONTRAST = 4.0  # s.d.
COARSE_FACES = 2500  # of a surface while it is turned
SIGMA_STEP = 0.1


@dataclass(frozen=True)
class NamedVolume:
    """A map to look at; it is read when it is drawn."""

    name: str
    path: Callable[[], str] | Path | str

    def file(self) -> str:
        """The map's file, which may be converted now."""
        return str(self.path() if callable(self.path) else self.path)


class VolumeSlices:
    """Pictures of slices of some volumes."""

    def __init__(self, volumes: Sequence[NamedVolume]) -> None:
        self.volumes = list(volumes)
        self.read = lru_cache(maxsize=OPEN_AT_ONCE)(self._read)
        self.filtered = lru_cache(maxsize=OPEN_AT_ONCE)(self._filtered)

    def _read(self, number: int) -> tuple[np.ndarray, float]:
        return read_volume(self.volumes[number].file())

    def _filtered(self, number: int, cutoff_angst: float) -> np.ndarray:
        volume, voxel_size = self.read(number)
        is_cube = len(set(volume.shape)) == 1
        if cutoff_angst <= 2 * voxel_size or voxel_size <= 0 or not is_cube:
            return volume
        return low_pass(volume, voxel_size, cutoff_angst)

    def size(self, number: int, axis: int) -> int:
        """Slices across an axis."""
        return int(self.read(number)[0].shape[axis])

    def largest_cutoff(self, number: int) -> float:
        """The coarsest low-pass (angstrom) that is offered: a quarter of the box."""
        volume, voxel_size = self.read(number)
        return 0.25 * max(volume.shape) * voxel_size

    def title(self, number: int, axis: int, index: int, cutoff_angst: float) -> str:
        """What is drawn, in words."""
        _, voxel_size = self.read(number)
        is_filtered = cutoff_angst > 2 * voxel_size > 0
        return f"{self.volumes[number].name}, slice {AXES[axis]} {index}" + (
            f", low-pass {cutoff_angst:.0f} Å" if is_filtered else "")

    def draw(self, number: int, axis: int = 0, index: int | None = None,
             contrast: float = CONTRAST, cutoff_angst: float = 0.0) -> Figure:
        """Return one slice; by default the central one."""
        volume = self.filtered(number, cutoff_angst)
        index = volume.shape[axis] // 2 if index is None else index
        return plots.volume_slice(volume, axis, index, contrast,
                                  self.title(number, axis, index, cutoff_angst),
                                  self.read(number)[1])


class SlicesView(FigureView):
    """The window: which volume, across which axis, and sliders for slice, contrast, low-pass."""

    def __init__(self, slices: VolumeSlices, title: str = "Slices", parent: Any = None) -> None:
        self.slices = slices
        super().__init__(slices.draw(0), title, parent)

    def build(self, frame: Any) -> None:
        """Put the widgets into a frame; every one redraws at once."""
        import tkinter as tk

        bar = tk.Frame(frame)
        bar.pack(side="top", fill="x", padx=6, pady=4)
        names = [v.name for v in self.slices.volumes]
        width = min(max(map(len, names)), 40) + 2
        self._volume = labelled_box(bar, "Map", names, names[0], width)
        self._axis = labelled_box(bar, "Across", list(AXES), AXES[0], 3)
        self._picture = tk.Frame(frame)
        # From the bottom up.
        self._cutoff = self._slider(frame, "low-pass (Å; left end: none)", 0.0,
                                    self.slices.largest_cutoff(0), 1.0, 0.0, is_slow=True)
        self._contrast = self._slider(frame, "black and white at (s.d. from the mean)", 1.0, 10.0,
                                      0.5, CONTRAST)
        self._index = self._slider(frame, "slice", 0, self.slices.size(0, 0) - 1, 1,
                                   self.slices.size(0, 0) // 2)
        self._picture.pack(side="top", fill="both", expand=True)
        self._volume.bind("<<ComboboxSelected>>", self._other)
        self._axis.bind("<<ComboboxSelected>>", self._other)
        self._other()

    def _slider(self, frame: Any, label: str, low: float, high: float, step: float,
                value: float, is_slow: bool = False) -> Any:
        import tkinter as tk

        slider = tk.Scale(frame, label=label, from_=low, to=high, resolution=step,
                          orient="horizontal")
        slider.set(value)
        if is_slow:  # drawn when the mouse lets go
            for event in ("<ButtonRelease-1>", "<KeyRelease>"):
                slider.bind(event, self._update)
        else:
            slider.configure(command=self._update)
        slider.pack(side="bottom", fill="x")
        return slider

    def _choice(self) -> tuple[int, int, int, float, float]:
        return (max(self._volume.current(), 0), max(self._axis.current(), 0),
                int(self._index.get()), float(self._contrast.get()), float(self._cutoff.get()))

    def _other(self, _event: Any = None) -> None:
        """Another map or axis: other slices, a new figure."""
        number, axis, *_ = self._choice()
        n_slices = self.slices.size(number, axis)
        self._index.configure(to=n_slices - 1)
        self._index.set(n_slices // 2)
        self._cutoff.configure(to=self.slices.largest_cutoff(number))
        self.figure = self.slices.draw(*self._choice())
        self._canvas = self.draw_in(emptied(self._picture))

    def _update(self, _value: Any = None) -> None:
        """Another slice of the same map: only the picture changes, which is quick."""
        number, axis, index, contrast, cutoff = self._choice()
        volume = self.slices.filtered(number, cutoff)
        image = self.figure.axes[0].images[0]
        image.set_data(plots.slice_of(volume, axis, index))
        image.set_clim(*plots.grey_limits(volume, contrast))
        self.figure.axes[0].set_title(self.slices.title(number, axis, index, cutoff), fontsize=10)
        self._canvas.draw_idle()


class Surfaces:
    """Surfaces of some volumes at a threshold, in s.d. above the mean."""

    def __init__(self, volumes: Sequence[NamedVolume]) -> None:
        self.volumes = list(volumes)
        self.read = lru_cache(maxsize=OPEN_AT_ONCE)(self._read)
        self.mesh = lru_cache(maxsize=2 * OPEN_AT_ONCE)(self._mesh)

    def _read(self, number: int) -> np.ndarray:
        return read_volume(self.volumes[number].file())[0]

    def _mesh(self, number: int, sigmas: float, n_faces: int = plots.MAX_FACES) -> plots.Mesh:
        return plots.surface_mesh(self.read(number), self.level(number, sigmas), n_faces)

    def level(self, number: int, sigmas: float) -> float:
        """The density of a threshold."""
        volume = self.read(number)
        return float(volume.mean() + sigmas * volume.std())

    def suggested(self, number: int) -> float:
        """The threshold to begin with, in s.d. above the mean."""
        volume = self.read(number)
        spread = float(volume.std()) or 1.0
        level = (plots.contour_level(volume) - float(volume.mean())) / spread
        return SIGMA_STEP * round(level / SIGMA_STEP)

    def highest(self, number: int) -> float:
        """The largest density, in s.d. above the mean."""
        volume = self.read(number)
        return float((volume.max() - volume.mean()) / (float(volume.std()) or 1.0))

    def draw(self, number: int, sigmas: float) -> tuple[Figure, Any]:
        """Return the surface to be turned, and its triangles."""
        figure, triangles = plots.turnable_surface(
            self.mesh(number, sigmas), max(self.read(number).shape))
        figure.axes[0].set_title(
            f"{self.volumes[number].name} at {self.level(number, sigmas):.3g} "
            f"({sigmas:.1f} s.d. above the mean)", fontsize=10)
        return figure, triangles


class SurfaceView(FigureView):
    """The window: which volume, its threshold; the mouse turns it, the wheel button zooms."""

    def __init__(self, surfaces: Surfaces, title: str = "Surface", parent: Any = None) -> None:
        self.surfaces = surfaces
        figure, self._triangles = surfaces.draw(0, surfaces.suggested(0))
        super().__init__(figure, title, parent)

    def build(self, frame: Any) -> None:
        """Put the widgets into a frame."""
        import tkinter as tk

        bar = tk.Frame(frame)
        bar.pack(side="top", fill="x", padx=6, pady=4)
        names = [v.name for v in self.surfaces.volumes]
        self._volume = labelled_box(bar, "Map", names, names[0],
                                    min(max(map(len, names)), 40) + 2)
        tk.Label(bar, text="drag to turn, right button to zoom", foreground="#5f6b7a").pack(
            side="left", padx=8)
        self._buttons(bar)
        self._threshold = tk.Scale(frame, label="threshold (s.d. above the mean)",
                                   orient="horizontal", resolution=SIGMA_STEP)
        self._threshold.pack(side="bottom", fill="x")
        self._picture = tk.Frame(frame)
        self._picture.pack(side="top", fill="both", expand=True)
        self._volume.bind("<<ComboboxSelected>>", self._other)
        for event in ("<ButtonRelease-1>", "<KeyRelease>"):
            self._threshold.bind(event, self._redraw)
        self._other()

    def _buttons(self, bar: Any) -> None:
        """ChimeraX and pyvista where they are installed; greyed with the reason where not."""
        import tkinter as tk

        program = find_chimerax()
        text = "Open in ChimeraX" if program else "ChimeraX: not found"
        tk.Button(bar, text=text, command=self._chimerax,
                  state="normal" if program else "disabled").pack(side="right", padx=4)
        if importlib.util.find_spec("pyvista") is not None:
            tk.Button(bar, text="pyvista", command=self._pyvista).pack(side="right", padx=4)

    def _number(self) -> int:
        return max(self._volume.current(), 0)

    def _other(self, _event: Any = None) -> None:
        number = self._number()
        self._threshold.configure(from_=0.0, to=max(self.surfaces.highest(number), 1.0))
        self._threshold.set(self.surfaces.suggested(number))
        self._redraw()

    def _redraw(self, _event: Any = None) -> None:
        """Draw the surface anew, seen from where it was seen before."""
        seen = self.figure.axes[0]
        number, sigmas = self._number(), float(self._threshold.get())
        self.figure, self._triangles = self.surfaces.draw(number, sigmas)
        axes: Any = self.figure.axes[0]
        axes.view_init(elev=seen.elev, azim=seen.azim)
        self._canvas = self.draw_in(emptied(self._picture))
        self._turning = False
        for event in ("button_press_event", "motion_notify_event", "button_release_event"):
            self._canvas.mpl_connect(event, getattr(self, f"_on_{event}"))
        self._shown(plots.MAX_FACES)

    def _shown(self, n_faces: int) -> None:
        """Draw fine or, while the surface turns, coarse triangles."""
        mesh = self.surfaces.mesh(self._number(), float(self._threshold.get()), n_faces)
        self._triangles.set_verts(mesh.vertices[mesh.faces] if len(mesh.faces) else [])
        plots.light_surface(self.figure.axes[0], self._triangles, mesh)
        self._canvas.draw_idle()

    def _on_button_press_event(self, event: Any) -> None:
        self._turning = event.inaxes is not None

    def _on_motion_notify_event(self, event: Any) -> None:
        if self._turning:
            self._shown(COARSE_FACES)

    def _on_button_release_event(self, event: Any) -> None:
        if self._turning:
            self._turning = False
            self._shown(plots.MAX_FACES)

    def _chimerax(self) -> None:
        number = self._number()
        ChimeraXView([self.surfaces.volumes[number].file()],
                     [self.surfaces.level(number, float(self._threshold.get()))]).show()

    def _pyvista(self) -> None:
        import pyvista

        mesh = self.surfaces.mesh(self._number(), float(self._threshold.get()))
        faces = np.column_stack([np.full(len(mesh.faces), 3), mesh.faces]).ravel()
        plotter = pyvista.Plotter(title=self.surfaces.volumes[self._number()].name)
        plotter.add_mesh(pyvista.PolyData(mesh.vertices, faces), color="lightsteelblue",
                         smooth_shading=True)
        plotter.show()


class GalleryView(FigureView):
    """Central slices, projections and surfaces of maps."""

    def __init__(self, volumes: np.ndarray, titles: Sequence[str], voxel_size_angst: float,
                 title: str, parent: Any = None, with_surface: bool = True) -> None:
        super().__init__(plots.class_gallery(volumes, titles, voxel_size_angst, with_surface),
                         title, parent)


def stacked(volumes: Sequence[NamedVolume]) -> tuple[np.ndarray, float]:
    """Return maps as one array, and their voxel size; those of another box are left out."""
    read = [read_volume(volume.file()) for volume in volumes]
    return np.stack([v for v, _ in read if v.shape == read[0][0].shape]), read[0][1]
