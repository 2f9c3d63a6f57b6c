"""What is where in Scipion's forms and windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def texts_in(window: Any) -> Iterator[str]:
    """Yield what the text fields of a window say."""
    import tkinter

    for widget in window.winfo_children():
        if isinstance(widget, tkinter.Text):
            yield " ".join(widget.get("1.0", "end").split())
        yield from texts_in(widget)


def more_tabs(window: Any) -> list[tuple[Any, str]]:
    """Return the tabs of a form behind the first, without those that are Scipion's own."""
    from tkinter import ttk

    found, left = [], [window]
    while left:
        widget = left.pop(0)
        left += widget.winfo_children()
        if isinstance(widget, ttk.Notebook):
            found += [(widget, tab) for tab in widget.tabs()[1:]
                      if widget.tab(tab, "text") != "Streaming"]
    return found


def form_window(protocol: Any) -> Any:
    """Return the form of a protocol that is open."""
    import gc

    from pyworkflow.gui.form import FormWindow

    return next(w for w in gc.get_objects()
                if issubclass(type(w), FormWindow) and w.protocol is protocol)


def wand_of(form: Any, rows: list[str]) -> Any:
    """Return the button of the first of some rows that has a wizard's wand, or None.

    A line of several rows has one wand, which stands for the first of them.
    """
    import gc

    from pyworkflow.gui.form import ParamWidget
    from pyworkflow.utils import Message

    for widget in gc.get_objects():
        if not issubclass(type(widget), ParamWidget) or widget.window is not form:
            continue
        if getattr(widget, "wizParamName", None) not in rows or widget.btnFrame is None:
            continue
        for button in widget.btnFrame.winfo_children():
            if button.cget("text") == Message.LABEL_BUTTON_WIZ:
                return button
    return None


def wizards_of(domain: Any, classes: list[str]) -> dict[str, list[tuple[str, list[str]]]]:
    """Return the protocols and rows that each wizard of ours helps with, as Scipion finds them."""
    from pyworkflow.viewer import DESKTOP_TKINTER

    found: dict[str, list[tuple[str, list[str]]]] = {}
    for class_name in classes:
        protocol = domain.getProtocols()[class_name]()
        rows: dict[str, list[str]] = {}
        for row, wizard in domain.findWizards(protocol, DESKTOP_TKINTER).items():
            if wizard.__name__.startswith("Faml") and protocol.getParam(row) is not None:
                rows.setdefault(wizard.__name__, []).append(row)
        for wizard_name, names in rows.items():
            found.setdefault(wizard_name, []).append((class_name, names))
    return found
