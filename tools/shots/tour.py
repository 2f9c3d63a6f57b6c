"""A tour through the windows of a project: opened, waited for, kept as pictures."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shots.pictures import save
from shots.project import newest_of_each_class, prepared
from shots.widgets import form_window, more_tabs, texts_in, wand_of, wizards_of

PATIENCE = 60.0  # seconds until a window must be there
STILL = 0.5  # seconds without a change: it is drawn
SEARCHING = 180.0  # seconds that a preview may search
# Wizards whose list is the same in every form: one picture is enough.
ALIKE = ("FamlSymmetryWizard", "FamlStructuresWizard", "FamlTiltSchemeWizard")
# Rows of runs' viewers that look different in each.
OF_EACH_VIEWER = ("showOverview", "showAverages", "showNumbers")
# Forms shown with the rows of advanced users too.
ADVANCED = ("ProtFamlClassify", "ProtFamlPickTemplate")


@dataclass
class Tour:
    """What is looked at, in the windows of one process; each look is a generator of waits."""

    window: Any  # ProjectWindow
    output: Path
    only: tuple[str, ...]
    failures: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    rows: set[str] = field(default_factory=set)  # of runs' viewers, of which there is a picture

    @property
    def project(self) -> Any:
        """The open project."""
        return self.window.project

    def wants(self, name: str) -> bool:
        """Whether a picture of this name is asked for."""
        return any(word in name for word in self.only)

    def fail(self, what: str) -> None:
        """Note what went wrong, and go on."""
        self.failures.append(what)
        print(f"FAILED {what}", flush=True)

    def toplevels(self) -> list[Any]:
        """Return the windows that are open, the oldest first."""
        import tkinter

        found, left = [], [self.window.root._root()]
        while left:
            widget = left.pop(0)
            left += widget.winfo_children()
            if isinstance(widget, tkinter.Toplevel) and widget.winfo_viewable():
                found.append(widget)
        return found

    def opened(self, act: Callable[[], Any], name: str) -> Iterator[Any]:
        """Do what opens a window; wait for it, and return it when it has stopped changing.

        None is returned when no window appeared.
        """
        before = {str(w) for w in self.toplevels()}
        # In a call of its own: a modal window returns only when it is closed.
        self.window.root.after(1, lambda: self._guarded(act, name))
        start = time.monotonic()
        while not (new := [w for w in self.toplevels() if str(w) not in before]):
            if time.monotonic() - start > PATIENCE:
                return None
            yield
        yield from self.still(new[-1])
        # The picture, not a tip or list that it has brought along.
        new = [w for w in self.toplevels() if str(w) not in before] or new
        window = max(new, key=lambda w: w.winfo_width() * w.winfo_height())
        yield from self.still(window)
        return window

    def _guarded(self, act: Callable[[], Any], name: str) -> None:
        try:
            act()
        except Exception:
            traceback.print_exc()
            self.fail(f"{name}: {traceback.format_exc().splitlines()[-1]}")

    def still(self, window: Any) -> Iterator[Any]:
        """Wait until a window has kept its size for a while."""
        size, since = None, time.monotonic()
        while time.monotonic() - since < STILL:
            window.update_idletasks()
            now = (window.winfo_width(), window.winfo_height(), window.winfo_x())
            if now != size:
                size, since = now, time.monotonic()
            yield

    def shoot(self, window: Any, name: str) -> Iterator[Any]:
        """Save a window, in front and inside the screen."""
        window.geometry(f"+{max(min(window.winfo_x(), 120), 10)}+10")
        window.lift()
        yield from self.still(window)
        save(window, self.output / f"{name}.png")
        self.made.append(name)
        print(f"{name}.png {(self.output / f'{name}.png').stat().st_size // 1000} kB", flush=True)

    def closed(self, window: Any) -> Iterator[Any]:
        """Close a window."""
        window.destroy()
        yield

    def is_message(self, window: Any, name: str) -> bool:
        """Whether a window only tells something: printed, and noted if it is an error."""
        from pyworkflow.gui.dialog import MessageDialog

        if not isinstance(window, MessageDialog):
            return False
        text = " ".join(texts_in(window))
        is_error = window.title().lower() in {"error", "validation errors"}
        if is_error or "cannot be shown" in text:
            self.fail(f"{name}: {text}")
        else:
            print(f"{name}: no picture, a message: {text}", flush=True)
        return True

    # ------------------------------------------------------------------------- what is shown
    def look_at_project(self) -> Iterator[Any]:
        """The project window, with a run whose summary is shown."""
        if self.wants("shot_project_window"):
            widget, runs = self.window.getViewWidget(), newest_of_each_class(self.project)
            shown = [r for r in runs if type(r).__name__ == "ProtFamlClassify"] or runs[-1:]
            for run in shown:
                widget._selectItemProtocol(run)
                widget._updateSelection()
            self.window.root.attributes("-zoomed", False)
            self.window.root.geometry("1200x800+10+10")
            yield from self.still(self.window.root)
            yield from self.shoot(self.window.root, "shot_project_window")

    def form_of(self, protocol: Any, name: str) -> Iterator[Any]:
        """Open a protocol's form; return the window, or None."""
        widget = self.window.getViewWidget()
        window = yield from self.opened(lambda: widget._openProtocolForm(protocol), name)
        if window is None:
            self.fail(f"{name}: no form appeared")
        return window

    def look_at_form(self, class_name: str, is_advanced: bool) -> Iterator[Any]:
        """The form of a protocol, filled with what the project has."""
        from pyworkflow.protocol import LEVEL_ADVANCED

        name = f"shot_{class_name}_{'advanced' if is_advanced else 'form'}"
        if not self.wants(name):
            return
        protocol = prepared(self.project, class_name)
        if is_advanced:
            protocol.expertLevel.set(LEVEL_ADVANCED)
        window = yield from self.form_of(protocol, name)
        if window is None:
            return
        yield from self.shoot(window, name)
        for number, (book, tab) in enumerate(more_tabs(window), 2):
            book.select(tab)
            yield from self.shoot(window, f"{name}{number}")
        yield from self.closed(window)

    def look_at_wizard(
        self, wizard_name: str, class_name: str, rows: list[str]
    ) -> Iterator[Any]:
        """Click the wand of a row, in the form; what it opens is saved, if it opens something."""
        from pyworkflow.protocol import LEVEL_ADVANCED

        name = f"shot_{wizard_name}_{class_name.removeprefix('ProtFaml')}"
        if not self.wants(name):
            return
        protocol = prepared(self.project, class_name)
        protocol.expertLevel.set(LEVEL_ADVANCED)
        window = yield from self.form_of(protocol, name)
        if window is None:
            return
        wand = wand_of(form_window(protocol), rows)
        if wand is None:
            self.fail(f"{name}: no wand at {', '.join(rows)}")
            yield from self.closed(window)
            return
        done: list[bool] = []
        dialog = yield from self._clicked(wand, name, done)
        if dialog is not None and not self.is_message(dialog, name):
            yield from self.searched(dialog)
            yield from self.shoot(dialog, name)
        elif dialog is None and all(getattr(protocol, r).get() in (None, "") for r in rows):
            self.fail(f"{name}: the wand filled in nothing at {', '.join(rows)}")
        for one in [w for w in (dialog, window) if w is not None]:
            yield from self.closed(one)

    def _clicked(self, wand: Any, name: str, done: list[bool]) -> Iterator[Any]:
        """Click; return the window that opens, or None when the wizard is done without one."""
        before = {str(w) for w in self.toplevels()}

        def click() -> None:
            wand.invoke()
            done.append(True)

        self.window.root.after(1, lambda: self._guarded(click, name))
        start = time.monotonic()
        while not (new := [w for w in self.toplevels() if str(w) not in before]):
            if done or time.monotonic() - start > PATIENCE:
                return None
            yield
        yield from self.still(new[-1])
        return new[-1]

    def searched(self, dialog: Any) -> Iterator[Any]:
        """Wait for the search of a preview, if it has one."""
        start = time.monotonic()
        while getattr(dialog, "is_searching", False) and time.monotonic() - start < SEARCHING:
            yield
        if getattr(dialog, "is_searching", False):
            self.fail(f"{dialog.title()}: still searching after {SEARCHING:.0f} s")
        yield from self.still(dialog)

    def look_at_run(self, run: Any, seen: set[str]) -> Iterator[Any]:
        """The viewer of a run: what it offers, and everything that it opens."""
        from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer

        found = self.project.getDomain().findViewers(run, DESKTOP_TKINTER)
        viewers = [v for v in found if v.__name__.startswith("Faml")]
        for kind in viewers:
            viewer = kind(project=self.project, protocol=run, parent=self.window)
            if not isinstance(viewer, ProtocolViewer):
                if kind.__name__ not in seen:
                    seen.add(kind.__name__)
                    yield from self.look_at_output(viewer, kind, run, "run")
                continue
            name = f"shot_{kind.__name__}_form"
            if not self.wants(f"shot_{kind.__name__}"):
                continue
            window = yield from self.opened(
                lambda v=viewer: v.visualize(run, windows=self.window), name)
            if window is None:
                self.fail(f"{name}: no window appeared")
                continue
            if self.wants(name):
                yield from self.shoot(window, name)
            # "open...": other programs, such as a browser.
            for row in [r for r in viewer._getVisualizeDict() if not r.startswith("open")]:
                yield from self.look_at_row(viewer, row, f"shot_{kind.__name__}_{row}")
            yield from self.closed(window)

    def look_at_row(self, viewer: Any, row: str, name: str) -> Iterator[Any]:
        """What one row of a run's viewer opens; a picture of the first that looks so."""
        if not self.wants(name):
            return
        window = yield from self.opened(lambda: viewer._visualizeParam(row), name)
        is_known = row in self.rows and row not in OF_EACH_VIEWER
        self.rows.add(row)
        yield from self._shot_and_closed(window, name, not is_known)

    def _shot_and_closed(self, window: Any, name: str, is_shot: bool = True) -> Iterator[Any]:
        if window is None:
            self.fail(f"{name}: no window appeared")
            return
        before = set(map(str, self.toplevels()))
        if not self.is_message(window, name) and is_shot:
            yield from self.shoot(window, name)
        yield from self.closed(window)
        # A view may have opened several.
        for other in [w for w in self.toplevels() if str(w) not in before]:
            yield from self.closed(other)

    def look_at_output(self, viewer: Any, kind: Any, output: Any, name: str) -> Iterator[Any]:
        """What the viewer of an output opens."""
        name = f"shot_{kind.__name__}_{name}"
        if not self.wants(name):
            return
        before = {str(w) for w in self.toplevels()}
        window = yield from self.opened(lambda: viewer.visualize(output), name)
        yield from self._shot_and_closed(window, name)
        for other in [w for w in self.toplevels() if str(w) not in before]:
            yield from self.closed(other)

    def look_at_outputs(self, run: Any, seen: set[str]) -> Iterator[Any]:
        """The viewers of a run's outputs, each kind once."""
        from pyworkflow.viewer import DESKTOP_TKINTER

        for name, output in list(run.iterOutputAttributes()):
            for kind in self.project.getDomain().findViewers(output, DESKTOP_TKINTER)[:1]:
                key = f"{kind.__name__} {type(output).__name__}"
                if kind.__name__.startswith("Faml") and key not in seen:
                    seen.add(key)
                    viewer = kind(project=self.project, protocol=run, parent=self.window)
                    yield from self.look_at_output(viewer, kind, output, name)

    # ------------------------------------------------------------------------- all of it
    def everything(self) -> Iterator[Any]:
        """Look at everything."""
        domain = self.project.getDomain()
        yield from self.look_at_project()
        classes = sorted(n for n in domain.getProtocols() if n.startswith("ProtFaml")
                         and getattr(domain.getProtocols()[n], "_label", None))
        for class_name in classes:
            yield from self.look_at_form(class_name, False)
            if class_name in ADVANCED:
                yield from self.look_at_form(class_name, True)
        for wizard_name, targets in sorted(wizards_of(domain, classes).items()):
            for class_name, rows in targets[:1] if wizard_name in ALIKE else targets:
                yield from self.look_at_wizard(wizard_name, class_name, rows)
        seen: set[str] = set()
        for run in newest_of_each_class(self.project):
            yield from self.look_at_run(run, seen)
            yield from self.look_at_outputs(run, seen)
