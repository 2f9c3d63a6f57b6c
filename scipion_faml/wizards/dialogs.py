"""The wizards' windows: a picture and sliders; what is drawn is decided in `drawing`."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pyworkflow.gui.dialog import Dialog

from scipion_faml.plots.style import new_figure
from scipion_faml.previews import Region

from .drawing import BallPicture, BandPicture, Found, FoundPicture, Gain
from .sources import Source

DELAY = 60  # ms after the last move of a slider
POLL = 100  # ms between looks at a search
ERROR_COLOUR = "#b00020"


class PictureDialog(Dialog):
    """A window with a list of sources, a picture and sliders. A dialog says what they are."""

    SIZE = (9.0, 3.7)  # of the picture, inches

    def __init__(self, parent: Any, title: str, sources: Sequence[Source]) -> None:
        self.sources = list(sources)
        self._waiting: Any = None
        self._is_ready = False
        self.shown = self.sources[0].load()  # errors are told in the form, without a window
        super().__init__(parent, title)

    # ------------------------------------------------------------------------- a dialog
    def addControls(self, frame: Any) -> None:
        """Add sliders below the picture."""
        raise NotImplementedError

    def sourceChanged(self) -> None:
        """Fit the sliders to another source."""
        raise NotImplementedError

    def draw(self) -> None:
        """Draw on `self.figure`."""
        raise NotImplementedError

    # ------------------------------------------------------------------------- the window
    def body(self, frame: Any) -> None:
        """Build the window (Scipion calls this)."""
        import tkinter as tk
        from tkinter import ttk

        from matplotlib.backends.backend_tkagg import FigureCanvasTkAgg

        self.resizable(True, True)
        frame.grid_columnconfigure(0, weight=1)
        frame.grid_rowconfigure(1, weight=1)
        if len(self.sources) > 1:
            bar = tk.Frame(frame)
            bar.grid(row=0, column=0, sticky="ew", pady=(0, 4))
            ttk.Label(bar, text="Shown").pack(side="left", padx=(4, 3))
            self._chosen = ttk.Combobox(
                bar, state="readonly", width=36, values=[s.name for s in self.sources])
            self._chosen.current(0)
            self._chosen.pack(side="left")
            self._chosen.bind("<<ComboboxSelected>>", self._otherSource)
        self.figure = new_figure(*self.SIZE)
        self.canvas = FigureCanvasTkAgg(self.figure, master=frame)
        self.canvas.get_tk_widget().grid(row=1, column=0, sticky="nsew")
        controls = tk.Frame(frame)
        controls.grid(row=2, column=0, sticky="ew")
        controls.grid_columnconfigure(1, weight=1)
        self._row = 0
        self.message = tk.Label(frame, foreground=ERROR_COLOUR, anchor="w")
        self.message.grid(row=3, column=0, sticky="ew")
        self.addControls(controls)
        self._is_ready = True
        self.redraw()

    def slider(self, frame: Any, label: str, low: float, high: float, step: float,
               start: float) -> Any:
        """Add a slider; moving it draws the picture anew."""
        import tkinter as tk

        tk.Label(frame, text=label, anchor="e").grid(row=self._row, column=0, sticky="se", padx=4)
        # Tk counts steps from the lower end: with a whole one whole numbers can be chosen.
        slider = tk.Scale(frame, from_=math.ceil(low / step) * step, to=high, resolution=step,
                          orient="horizontal")
        slider.grid(row=self._row, column=1, sticky="ew")
        slider.set(start)
        slider.configure(command=self._moved)
        self._row += 1
        return slider

    def _moved(self, _value: str) -> None:
        if self._waiting is not None:
            self.after_cancel(self._waiting)
        self._waiting = self.after(DELAY, self.redraw)

    def redraw(self) -> None:
        """Draw what the sliders say, or tell why not."""
        self._waiting = None
        if not self._is_ready:
            return
        try:
            self.draw()
        except (ValueError, OSError) as error:
            self.tell(str(error))
            return
        self.tell("")
        self.canvas.draw()

    def tell(self, text: str, is_error: bool = True) -> None:
        """Show a line below the sliders."""
        self.message.configure(text=text, foreground=ERROR_COLOUR if is_error else "black")

    def _otherSource(self, _event: Any = None) -> None:
        """Show another source, or tell why that cannot be."""
        try:
            self.shown = self.sources[self._chosen.current()].load()
        except (ValueError, OSError) as error:
            self.tell(str(error))
            return
        self._is_ready = False
        self.sourceChanged()
        self._is_ready = True
        self.redraw()

    def destroy(self) -> None:
        """Close the window."""
        if self._waiting is not None:
            self.after_cancel(self._waiting)
            self._waiting = None
        super().destroy()


# ------------------------------------------------------------------------------------- balls
class BallDialog(PictureDialog):
    """Slices with the ball of a diameter (angstrom); `value` is the chosen one."""

    LABEL, STEP = "Diameter (Å)", 1.0

    def __init__(self, parent: Any, title: str, sources: Sequence[Source],
                 value: float | None) -> None:
        self.value = value
        super().__init__(parent, title, sources)

    def diameter(self) -> float:
        """The ball's diameter (angstrom)."""
        return float(self.value or 0.0)

    def limits(self) -> tuple[float, float]:
        """The values that fit the map shown."""
        return self.picture.limits

    def suggested(self) -> float:
        """The value to start with when the form has none."""
        return self.picture.suggested()

    def words(self) -> str:
        """The value in words, or nothing: as a diameter."""
        return ""

    def addControls(self, frame: Any) -> None:
        self.picture = BallPicture(self.shown)
        start = self.value if self.value is not None else self.suggested()
        self.size = self.slider(frame, self.LABEL, *self.limits(), self.STEP, start)
        self.z = self.slider(frame, "Slice z", 0, self.picture.n - 1, 1, self.picture.n // 2)

    def sourceChanged(self) -> None:
        self.picture = BallPicture(self.shown)
        low, high = self.limits()
        self.size.configure(from_=math.ceil(low / self.STEP) * self.STEP, to=high)
        self.z.configure(to=self.picture.n - 1)
        self.z.set(self.picture.n // 2)

    def draw(self) -> None:
        self.value = float(self.size.get())
        self.picture.draw(self.figure, int(self.z.get()), self.diameter(), self.words())


class ShiftDialog(BallDialog):
    """The ball in which a particle's centre may lie; `value` in voxels of the particles.

    A reference that is shown may have other voxels.
    """

    LABEL, STEP = "Largest shift (voxels)", 0.5

    def __init__(self, parent: Any, title: str, sources: Sequence[Source], value: float | None,
                 voxel_size_angst: float) -> None:
        self._voxel_size = voxel_size_angst
        super().__init__(parent, title, sources, value)

    def diameter(self) -> float:
        return 2.0 * float(self.value or 0.0) * self._voxel_size

    def limits(self) -> tuple[float, float]:
        width = self.picture.n * self.shown.voxel_size_angst / self._voxel_size
        return self.STEP, max(width / 2.0 - 1.0, 2.0 * self.STEP)

    def suggested(self) -> float:
        return (self.limits()[1] + 1.0) / 3.0  # a sixth of the box, as when the row is empty

    def words(self) -> str:
        return f"up to {self.value:g} voxels = {0.5 * self.diameter():.0f} Å from the centre"


# ------------------------------------------------------------------------------------- bands
class BandDialog(PictureDialog):
    """A slice before and after a filter; `low_pass` and `high_pass` (angstrom) are chosen."""

    SIZE = (8.6, 4.3)

    def __init__(self, parent: Any, title: str, sources: Sequence[Source], gain: Gain,
                 low_pass: float | None, high_pass: float | None, has_high_pass: bool) -> None:
        self.low_pass, self.high_pass = low_pass, high_pass
        self._gain, self._has_high_pass = gain, has_high_pass
        super().__init__(parent, title, sources)

    def addControls(self, frame: Any) -> None:
        self.picture = BandPicture(self.shown, self._gain)
        finest, coarsest = self.picture.limits
        self.low, self.is_low = self._switched(
            frame, "Finest detail (Å)", finest, coarsest, self.low_pass,
            min(3.0 * finest, coarsest))
        if self._has_high_pass:
            self.high, self.is_high = self._switched(
                frame, "Coarsest detail (Å)", finest, coarsest, self.high_pass, coarsest)
        middle = self.picture.n_slices // 2
        self.z = self.slider(frame, "Slice z", 0, self.picture.n_slices - 1, 1, middle)

    def _switched(self, frame: Any, label: str, low: float, high: float, value: float | None,
                  otherwise: float) -> tuple[Any, Any]:
        """A slider, and whether it counts: an empty row of the form keeps everything."""
        import tkinter as tk

        row = self._row
        slider = self.slider(frame, label, low, high, 0.5, otherwise if value is None else value)
        counts = tk.IntVar(self, value=int(value is not None))

        offered = float(slider.get())

        def moved(value: str) -> None:
            if abs(float(value) - offered) > 1e-6:  # Tk tells what the program sets, too
                counts.set(1)
            self._moved(value)

        slider.configure(command=moved)
        tk.Checkbutton(frame, text="limit", variable=counts, command=self.redraw).grid(
            row=row, column=2, sticky="sw")
        return slider, counts

    def sourceChanged(self) -> None:
        self.picture = BandPicture(self.shown, self._gain)
        finest, coarsest = self.picture.limits
        for slider in [self.low, *([self.high] if self._has_high_pass else [])]:
            slider.configure(from_=math.ceil(finest), to=coarsest)
        self.z.configure(to=self.picture.n_slices - 1)
        self.z.set(self.picture.n_slices // 2)

    def draw(self) -> None:
        self.low_pass = float(self.low.get()) if self.is_low.get() else None
        if self._has_high_pass:
            self.high_pass = float(self.high.get()) if self.is_high.get() else None
        self.picture.draw(self.figure, int(self.z.get()), self.low_pass, self.high_pass)

    def validate(self) -> bool:
        """Keep the window open while nothing would be left."""
        if self.low_pass is None or self.high_pass is None or self.low_pass < self.high_pass:
            return True
        self.tell("the coarsest detail must be larger than the finest")
        return False


# ------------------------------------------------------------------------------------- picks
Search = Callable[[np.ndarray, float, Region], Found]


class FoundDialog(PictureDialog):
    """What a picker finds in a part of a tomogram, above a threshold that is chosen.

    The search runs beside the window; a click in the left picture searches somewhere else.
    """

    SIZE = (9.4, 4.7)

    def __init__(self, parent: Any, title: str, sources: Sequence[Source], search: Search,
                 region_size: Callable[[float], tuple[int, int, int]], threshold: float | None,
                 limits: tuple[float, float], step: float) -> None:
        self.threshold, self._limits, self._step = threshold, limits, step
        self._is_given = threshold is not None
        self._search, self._region_size = search, region_size
        self._offered: float | None = None
        self._answers: queue.Queue = queue.Queue()
        self._number = 0
        self.found: Found | None = None
        self.is_searching = False
        super().__init__(parent, title, sources)

    def addControls(self, frame: Any) -> None:
        self.picture = FoundPicture(self.shown)
        self.z = self.slider(frame, "Slice z", 0, self.shown.volume.shape[0] - 1, 1,
                             self.shown.volume.shape[0] // 2)
        low, high = self._limits
        start = self.threshold if self.threshold is not None else low
        self._offered = start
        self.level = self.slider(frame, "Threshold", low, high, self._step, start)
        self.level.configure(command=self._levelMoved)
        self.canvas.mpl_connect("button_press_event", self._clicked)
        self._searchAbout(tuple(n / 2 for n in self.shown.volume.shape))

    def sourceChanged(self) -> None:
        self.picture = FoundPicture(self.shown)
        n_slices = self.shown.volume.shape[0]
        self.z.configure(to=n_slices - 1)
        self.z.set(n_slices // 2)
        self._searchAbout(tuple(n / 2 for n in self.shown.volume.shape))

    def _levelMoved(self, value: str) -> None:
        # Tk tells what the program sets, too.
        if self._offered is None or abs(float(value) - self._offered) > 0.5 * self._step:
            self._is_given = True
        self._moved(value)

    def _clicked(self, event: Any) -> None:
        if event.inaxes is self.figure.axes[0]:
            self._searchAbout((float(self.z.get()), event.ydata, event.xdata))
            self.redraw()

    def _searchAbout(self, centre: tuple[float, ...]) -> None:
        """Start a search about a place; the answer of one before it is not looked at."""
        z, y, x = centre
        self.region = self.picture.region(
            (z, y, x), self._region_size(self.shown.voxel_size_angst))
        self.found, self.is_searching = None, True
        self._number += 1
        arguments = (self._number, self.shown.volume, self.shown.voxel_size_angst, self.region)
        threading.Thread(target=self._work, args=arguments, daemon=True).start()
        self.after(POLL, self._look)

    def _work(self, number: int, *arguments: Any) -> None:
        start = time.monotonic()
        try:
            found = self._search(*arguments)
            self._answers.put((number, replace(found, seconds=time.monotonic() - start)))
        except Exception as error:  # whatever it is, the window must tell it
            self._answers.put((number, error))

    def _look(self) -> None:
        """Take the answer of the search when it is there."""
        try:
            number, answer = self._answers.get_nowait()
        except queue.Empty:
            if self.is_searching:
                self.after(POLL, self._look)
            return
        if number != self._number:
            self._look()
            return
        self.is_searching = False
        if isinstance(answer, Exception):
            self.tell(str(answer))
            return
        self.found = answer
        if not self._is_given and answer.suggested is not None:
            self._offered = float(answer.suggested)
            self.level.set(answer.suggested)
        self.redraw()

    def draw(self) -> None:
        level = float(self.level.get())
        self.threshold = level if self._is_given else None
        self.picture.draw(self.figure, self.region, int(self.z.get()), self.found, level)

    def redraw(self) -> None:
        super().redraw()
        if not self._is_ready:
            return
        if self.is_searching:
            self.tell("Searching in the frame ...", is_error=False)
        elif self.found is not None and not self.message.cget("text"):
            empty = "" if self._is_given else " The row stays empty: the run decides."
            self.tell(f"{self.found.note} Searched in {self.found.seconds:.0f} s; click into the "
                      f"left picture to search there.{empty}".strip(), is_error=False)
