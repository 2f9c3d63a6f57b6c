"""A window that shows a matplotlib figure; without a display it can only be saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyworkflow.viewer import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FigureView(View):
    """One figure in a Tk window of its own, with matplotlib's toolbar."""

    def __init__(self, figure: Figure, title: str = "FAML", parent: Any = None) -> None:
        super().__init__()
        self.figure = figure
        self.title = title
        self._parent = parent

    def savefig(self, path: str, **options: Any) -> None:
        """Write the figure; works without a display."""
        self.figure.savefig(path, **options)

    def show(self) -> None:
        """Open the window and return at once: Scipion's main loop keeps it alive."""
        window = self._new_window()
        self._draw_in(window)

    def _new_window(self) -> Any:
        import tkinter as tk

        root = self._parent.getRoot() if self._parent is not None else None
        window = tk.Toplevel(root)
        window.title(self.title)
        return window

    def _draw_in(self, window: Any) -> Any:
        """Put the figure and its toolbar into `window`; return the canvas."""
        from matplotlib.backends.backend_tkagg import FigureCanvasTkAgg, NavigationToolbar2Tk

        canvas = FigureCanvasTkAgg(self.figure, master=window)
        toolbar = NavigationToolbar2Tk(canvas, window)
        toolbar.pack(side="bottom", fill="x")
        canvas.get_tk_widget().pack(side="top", fill="both", expand=True)
        canvas.draw()
        return canvas


class SliderView(FigureView):
    """A figure that depends on a number chosen with a slider, such as the slice of a tomogram."""

    def __init__(self, draw: Callable[[int], Figure], n_values: int, start: int, label: str,
                 title: str = "FAML", parent: Any = None) -> None:
        super().__init__(draw(start), title, parent)
        self._draw, self._n_values, self._start, self._label = draw, n_values, start, label

    def show(self) -> None:
        """Open the window; moving the slider draws the figure again."""
        import tkinter as tk

        window = self._new_window()
        frame = tk.Frame(window)
        frame.pack(side="top", fill="both", expand=True)
        self._draw_in(frame)
        slider = tk.Scale(window, from_=0, to=self._n_values - 1, orient="horizontal",
                          label=self._label)
        slider.set(self._start)
        slider.pack(side="bottom", fill="x")

        def redraw(_event: Any) -> None:
            for child in frame.winfo_children():
                child.destroy()
            self.figure = self._draw(int(slider.get()))
            self._draw_in(frame)

        # Drawn when the mouse lets go: a tomogram's slice takes a moment.
        slider.bind("<ButtonRelease-1>", redraw)
