"""A window with tabs, each of them another view, made when it is looked at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .figure_view import FigureView, NothingToShow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tab:
    """A tab; one that does not apply says why and is greyed."""

    name: str
    make: Callable[[], FigureView]
    why_not: str = ""


class TabsView(FigureView):
    """Several views in one window; `figure` is that of the first tab that has one."""

    def __init__(self, tabs: Sequence[Tab], title: str = "FAML", parent: Any = None) -> None:
        self.tabs = list(tabs)
        self._made: dict[str, FigureView] = {}
        super().__init__(None, title, parent)  # made when asked for

    @property
    def figure(self) -> Figure:
        """The figure of the first tab that has one."""
        for tab in self.tabs:
            try:
                return self.view(tab.name).figure
            except NothingToShow as error:
                reason = error
        raise NothingToShow(str(reason) if self.tabs else "There is nothing to show.")

    @figure.setter
    def figure(self, value: Figure) -> None:
        """Figures belong to the tabs."""

    def view(self, name: str) -> FigureView:
        """Return the view of a tab, made now if it was not yet.

        Raises
        ------
        NothingToShow
            If there is nothing to show in it.
        """
        if name not in self._made:
            tab = next(tab for tab in self.tabs if tab.name == name)
            if tab.why_not:
                raise NothingToShow(tab.why_not)
            self._made[name] = tab.make()
        return self._made[name]

    def build(self, frame: Any) -> None:
        """Put the tabs into a frame."""
        from tkinter import ttk

        book = ttk.Notebook(frame)
        book.pack(fill="both", expand=True)
        pages = {}
        for tab in self.tabs:
            page = ttk.Frame(book)
            book.add(page, text=tab.name, state="disabled" if tab.why_not else "normal")
            pages[str(page)] = (tab.name, page)
        filled: set[str] = set()

        def selected(_event: Any = None) -> None:
            name, page = pages[book.select()]
            if name not in filled:
                filled.add(name)
                self.fill(name, page)

        book.bind("<<NotebookTabChanged>>", selected)
        self.book = book
        missing = [f"{tab.name}: {tab.why_not}" for tab in self.tabs if tab.why_not]
        if missing:
            ttk.Label(frame, text="  ".join(missing), foreground="#5f6b7a").pack(
                side="bottom", anchor="w", padx=6, pady=2, before=book)

    def fill(self, name: str, page: Any) -> None:
        """Build a tab's view, or write why there is none."""
        from tkinter import ttk

        try:
            self.view(name).build(page)
        except NothingToShow as error:
            ttk.Label(page, text=str(error), padding=40).pack(anchor="n")
        except Exception as error:  # a window must not take Scipion's down
            logger.exception("%s cannot be shown", name)
            ttk.Label(page, text=cannot(name, error), padding=40, wraplength=700).pack(anchor="n")


def cannot(name: str, error: Exception) -> str:
    """One line on something unforeseen."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{name} cannot be shown: {text}"
