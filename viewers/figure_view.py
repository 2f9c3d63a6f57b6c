"""Windows that show matplotlib figures; without a display they can only be saved.

Every view has `figure`, `savefig(path)`, `show()` (a window of its own) and `build(frame)` (its
widgets inside another window, as the tabs of `TabsView` do).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyworkflow.viewer import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)
SCREEN_SHARE = 0.8  # a figure that is higher than this share of the screen gets a scroll bar
LARGEST = 1.4  # times its size that a figure grows to in a larger window
LIVE_MS = 4000  # between two looks at the files of a run


class NothingToShow(Exception):
    """Why there is nothing to show, in one line for the user."""


class FigureView(View):
    """One figure in a Tk window of its own, with matplotlib's toolbar."""

    def __init__(self, figure: Figure, title: str = "FAML", parent: Any = None) -> None:
        super().__init__()
        self.figure = figure
        self.title = title
        self.window: Any = None
        self._parent = parent

    def savefig(self, path: str, **options: Any) -> None:
        """Write the figure; works without a display."""
        self.figure.savefig(path, **options)

    def show(self) -> None:
        """Open the window and return at once: Scipion's main loop keeps it alive."""
        self.window = self._new_window()
        self.build(self.window)

    def build(self, frame: Any) -> None:
        """Put the widgets into a frame."""
        self.draw_in(frame)

    def _new_window(self) -> Any:
        import tkinter as tk

        root = self._parent.getRoot() if self._parent is not None else None
        window = tk.Toplevel(root)
        window.title(self.title)
        return window

    def draw_in(self, frame: Any) -> Any:
        """Put the figure and its toolbar into `frame`; return the canvas."""
        from matplotlib.backends.backend_tkagg import FigureCanvasTkAgg, NavigationToolbar2Tk

        width, height = (int(inches * self.figure.get_dpi())
                         for inches in self.figure.get_size_inches())
        is_high = height > SCREEN_SHARE * frame.winfo_screenheight()
        holder = _holder(frame, is_high)
        canvas = FigureCanvasTkAgg(self.figure, master=holder)
        toolbar = NavigationToolbar2Tk(canvas, frame, pack_toolbar=False)
        toolbar.pack(side="bottom", fill="x", before=holder)
        put = _put_scrolled if is_high else _put_in_the_middle
        put(canvas.get_tk_widget(), width, height)
        canvas.draw()
        return canvas


def _holder(frame: Any, is_high: bool) -> Any:
    """What a figure lies in: a Tk canvas, with a scroll bar on its right, or a frame."""
    import tkinter as tk

    if not is_high:
        holder: Any = tk.Frame(frame, background="white")
    else:
        holder = tk.Canvas(frame, highlightthickness=0, background="white")
        bar = tk.Scrollbar(frame, orient="vertical", command=holder.yview)
        holder.configure(yscrollcommand=bar.set)
        bar.pack(side="right", fill="y")
    holder.pack(side="top", fill="both", expand=True)
    return holder


def _put_in_the_middle(widget: Any, width: int, height: int) -> None:
    """Let a figure grow with its window, but keep its shape and do not blow it up."""
    holder = widget.master
    holder.configure(width=width, height=height)
    holder.pack_propagate(False)

    def fit(event: Any) -> None:
        scale = min(event.width / width, event.height / height, LARGEST)
        widget.place(relx=0.5, rely=0.5, anchor="center", width=max(int(scale * width), 50),
                     height=max(int(scale * height), 50))

    holder.bind("<Configure>", fit)


def _put_scrolled(widget: Any, width: int, height: int) -> None:
    """Let the figure of a scrolled canvas have its own size."""
    holder = widget.master
    widget.configure(width=width, height=height)
    holder.create_window(0, 0, window=widget, anchor="nw", width=width, height=height)
    holder.configure(scrollregion=(0, 0, width, height), width=width,
                     height=int(SCREEN_SHARE * holder.winfo_screenheight()))
    for event, step in (("<Button-4>", -1), ("<Button-5>", 1)):
        widget.bind(event, lambda _event, step=step: holder.yview_scroll(2 * step, "units"),
                    add="+")


def emptied(frame: Any) -> Any:
    """Return a frame without its widgets."""
    for child in frame.winfo_children():
        child.destroy()
    return frame


class LiveView(FigureView):
    """A figure of a run that draws itself again while the run goes on.

    `stamp` changes when there is something new, `is_going` says whether to go on looking.
    """

    def __init__(self, draw: Callable[[], Figure], stamp: Callable[[], Any],
                 is_going: Callable[[], bool], title: str = "FAML", parent: Any = None) -> None:
        self._stamp, self._is_going, self._draw = stamp, is_going, draw
        self._seen = stamp()
        self._frame: Any = None
        super().__init__(draw(), title, parent)

    def build(self, frame: Any) -> None:
        """Put the figure into a frame, and look for something new now and then."""
        import tkinter as tk

        self._frame = tk.Frame(frame)
        self._frame.pack(side="top", fill="both", expand=True)
        self.draw_in(self._frame)
        if self._is_going():
            self._look_later()

    def _look_later(self) -> None:
        waiting = self._frame.after(LIVE_MS, self._look)
        # A window that was closed must not be drawn into.
        self._frame.bind("<Destroy>", lambda _event: self._forget(waiting))

    def _forget(self, waiting: str) -> None:
        frame, self._frame = self._frame, None
        if frame is not None:
            frame.after_cancel(waiting)

    def _look(self) -> None:
        if self._frame is None:
            return
        is_going = self._is_going()
        self.refresh()
        if is_going:
            self._look_later()

    def refresh(self) -> bool:
        """Draw again if there is something new; return whether there was."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        try:
            figure = self._draw()
        except (OSError, ValueError, KeyError, NothingToShow) as error:
            logger.info("not drawn again yet: %s", error)  # a file may be half there
            return False
        self.figure, self._seen = figure, stamp
        if self._frame is not None:
            self._frame.unbind("<Destroy>")
            self.draw_in(emptied(self._frame))
        return True


class SliderView(FigureView):
    """A figure that depends on a number chosen with a slider, such as the slice of a tomogram."""

    def __init__(self, draw: Callable[[int], Figure], n_values: int, start: int, label: str,
                 title: str = "FAML", parent: Any = None) -> None:
        super().__init__(draw(start), title, parent)
        self._draw, self._n_values, self._start, self._label = draw, n_values, start, label

    def build(self, frame: Any) -> None:
        """Put the figure and the slider into a frame; moving it draws the figure again."""
        import tkinter as tk

        slider = tk.Scale(frame, from_=0, to=self._n_values - 1, orient="horizontal",
                          label=self._label)
        slider.set(self._start)
        slider.pack(side="bottom", fill="x")
        picture = tk.Frame(frame)
        picture.pack(side="top", fill="both", expand=True)
        self.draw_in(picture)

        def redraw(_event: Any) -> None:
            self.figure = self._draw(int(slider.get()))
            self.draw_in(emptied(picture))

        # Drawn when the mouse lets go: a tomogram's slice takes a moment.
        slider.bind("<ButtonRelease-1>", redraw)
        slider.bind("<KeyRelease>", redraw)
