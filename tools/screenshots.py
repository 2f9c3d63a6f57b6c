"""Open the project window, every form, wizard and viewer, and save a picture of each.

    python tools/screenshots.py [--project DIR] [--output docs/images] [--only WORD] [--small]

A display of its own is started (Xvfb with the window manager openbox), so nothing is seen on the
screen and no mouse is needed. Without them a line says so and nothing is done. The exit status is
1 when a window did not appear, Scipion showed an error, or a traceback was printed.

--project takes the workspace of a demo (`scipion-faml demo --output DIR`); runs of the protocols
that it lacks are added to a copy of it. Without it a demo is made. --only keeps the pictures whose
name contains a word. --small makes a tiny project and a few pictures: the test of this script.

Names of the pictures:

    shot_project_window.png                 the project with its runs
    shot_<protocol class>_form.png          the form of a protocol
    shot_<protocol class>_form2.png         its second tab, where it has one
    shot_<protocol class>_advanced.png      the same with the rows of advanced users
    shot_<wizard class>_<protocol>.png      the window of a wizard in the form of ProtFaml<protocol>
    shot_<viewer class>_form.png            what a viewer of a run offers
    shot_<viewer class>_run.png             what a viewer of a run opens that offers no choice
    shot_<viewer class>_<row>.png           what a row opens (row: its name in the code)
    shot_<viewer class>_<output>.png        what a viewer of an output (classes, ...) opens
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCREEN = (1500, 1400)
LARGEST_FILE = 110_000  # bytes: all of them are kept with the source code
WIDEST = 1200  # pixels
PATIENCE = 60.0  # seconds until a window must be there
STILL = 0.5  # seconds without a change: it is drawn
SEARCHING = 180.0  # seconds that a preview may search
TICK = 100  # ms
NEEDED = {"Xvfb": "xvfb", "openbox": "openbox"}  # command: Debian's package

# Wizards whose list is the same in every form: one picture is enough.
ALIKE = ("FamlSymmetryWizard", "FamlStructuresWizard", "FamlTiltSchemeWizard")
# Rows of runs' viewers that look different in each.
OF_EACH_VIEWER = ("showOverview", "showAverages", "showNumbers")
# Forms shown with the rows of advanced users too.
ADVANCED = ("ProtFamlClassify", "ProtFamlPickTemplate")
TITLE_BAR = 20  # pixels, where Tk does not tell

# Runs that a demo lacks: class, inputs {row: (class of the run, output)}, values.
SIMULATED = "ProtFamlSimulateTomograms"
RUNS: tuple[tuple[str, dict[str, tuple[str, str]], dict[str, Any]], ...] = (
    ("ProtFamlSimulateSubtomograms", {}, {
        "structures": "groel, ribosome", "counts": "12", "boxSize": 24, "snr": 0.5, "optics": 1}),
    ("ProtFamlAlign", {"inputSubtomograms": ("ProtFamlExtractSubtomograms", "subtomograms"),
                       "inputReference": (SIMULATED, "trueAverages.1")}, {}),
    ("ProtFamlAverage", {"inputSubtomograms": ("ProtFamlClassify", "subtomograms")}, {}),
    ("ProtFamlPickTemplate", {"inputTomograms": (SIMULATED, "tomograms"),
                              "inputTemplate": (SIMULATED, "trueAverages.1")},
     {"coarseStep": 30.0, "candidates": 40, "control": 2}),
    ("ProtFamlPickDetector", {"inputTomograms": (SIMULATED, "tomograms")}, {}),
    ("ProtFamlTrainDetector", {"inputCoordinates": (SIMULATED, "trueCoordinates")},
     {"epochs": 2, "diameters": "290, 190"}),
    ("ProtFamlExportParticles", {"inputParticles": ("ProtFamlClassify", "subtomograms")}, {}),
    ("ProtFamlValidate", {"inputAverages": ("ProtFamlClassify", "classes"),
                          "inputSubtomograms": ("ProtFamlClassify", "subtomograms")}, {}),
)
TINY: tuple[tuple[str, dict[str, tuple[str, str]], dict[str, Any]], ...] = (
    (SIMULATED, {}, {"structures": "groel, proteasome", "counts": "5", "sizeX": 88, "sizeY": 80,
                     "sizeZ": 40, "voxelSize": 20.0, "optics": 1}),
    ("ProtFamlPickDog", {"inputTomograms": (SIMULATED, "tomograms")}, {"diameter": 150.0}),
)
SMALL_ONLY = ("shot_project_window", "shot_ProtFamlPickDog_form", "shot_FamlSymmetryWizard_Average",
              "shot_FamlDogPreviewWizard_PickDog", "shot_FamlPickBoxWizard_PickDog",
              "shot_FamlBandWizard_PickTemplate")
WITHOUT_WINDOW = {"shot_FamlPickBoxWizard_PickDog"}  # clicked; it fills in a number


# ------------------------------------------------------------------------------------- display
def what_is_missing() -> list[str]:
    """Return what must be installed before a picture can be made."""
    missing = [f"{command} (apt-get install {package})" for command, package in NEEDED.items()
               if shutil.which(command) is None]
    from PIL import features

    if not features.check("xcb"):
        missing.append("a Pillow that can read a display (pip install --force-reinstall pillow)")
    return missing


@contextmanager
def own_display(size: tuple[int, int] = SCREEN) -> Iterator[str]:
    """Run Xvfb and openbox on a free display; it is the display of this process meanwhile."""
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{size[0]}x{size[1]}x24",
         "-nolisten", "tcp"], pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as numbers:
        number = numbers.readline().strip()
    manager, before = None, os.environ.get("DISPLAY")
    try:
        if not number:
            raise OSError("Xvfb did not start: try `Xvfb :99` by hand")
        os.environ["DISPLAY"] = f":{number}"
        manager = subprocess.Popen(["openbox"], stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        yield f":{number}"
    finally:
        for process in (manager, server):
            if process is not None:
                process.terminate()
                process.wait()
        if before is None:
            os.environ.pop("DISPLAY", None)
        else:
            os.environ["DISPLAY"] = before


# ------------------------------------------------------------------------------------- pictures
def save(window: Any, path: Path) -> None:
    """Save what the screen shows of a window, with its title bar."""
    from PIL import ImageGrab

    border = max(window.winfo_rootx() - window.winfo_x(), 0)
    left = window.winfo_rootx() - border
    top = window.winfo_rooty() - max(window.winfo_rooty() - window.winfo_y(), TITLE_BAR)
    right = window.winfo_rootx() + window.winfo_width() + border
    bottom = window.winfo_rooty() + window.winfo_height() + border
    box = (max(left, 0), max(top, 0), min(right, SCREEN[0]), min(bottom, SCREEN[1]))
    write_small(ImageGrab.grab(bbox=box, xdisplay=os.environ["DISPLAY"]), path)


def write_small(picture: Any, path: Path) -> None:
    """Write a picture as a small PNG: not too wide, with as few colours as it takes.

    Noise, as of tomograms, is what takes room; if need be the picture becomes narrower. Colours are
    chosen so that the few pixels of a coloured circle on grey noise keep theirs.
    """
    from PIL import Image

    picture = picture.convert("RGB")
    if picture.width > WIDEST:
        picture = narrowed(picture, WIDEST / picture.width)
    for colours, share in ((256, 1.0), (64, 1.0), (64, 0.8), (48, 0.65), (32, 0.5), (16, 0.4)):
        small = narrowed(picture, share).quantize(
            colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
        if path.stat().st_size < LARGEST_FILE:
            return


def narrowed(picture: Any, share: float) -> Any:
    """Return a picture made smaller."""
    return picture.resize((round(picture.width * share), round(picture.height * share)))


# ------------------------------------------------------------------------------------- windows
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


# ------------------------------------------------------------------------------------- project
def newest_of_each_class(project: Any) -> list[Any]:
    """Return the newest finished run of each of our protocols."""
    newest = {}
    for run in project.getRuns():
        if type(run).__name__.startswith("ProtFaml") and run.isFinished():
            newest[type(run).__name__] = run
    return list(newest.values())


def prepared(project: Any, class_name: str) -> Any:
    """Return a new protocol, set as the run of its class was, or with inputs that fit it."""
    from pyworkflow.protocol import params

    kind = project.getDomain().getProtocols()[class_name]
    protocol = project.newProtocol(kind)
    for run in newest_of_each_class(project):
        if type(run).__name__ == class_name:
            protocol.copyDefinitionAttributes(run)
            protocol.runName.set(None)
            return protocol
    for name, _ in protocol.iterDefinitionAttributes():
        param = protocol.getParam(name)
        if not isinstance(param, params.PointerParam) or param.allowsNull.get():
            continue
        source = output_for(project, str(param.pointerClass.get()), name)
        if source is not None:
            fill(protocol, name, param, *source)
    return protocol


def fill(protocol: Any, name: str, param: Any, run: Any, output: str) -> None:
    """Point a row to an output."""
    from pyworkflow.protocol import params

    if isinstance(param, params.MultiPointerParam):
        getattr(protocol, name).append(run)
        getattr(protocol, name)[0].setExtended(output)
    else:
        getattr(protocol, name).set(run)
        getattr(protocol, name).setExtended(output)


def output_for(project: Any, classes: str, row: str) -> tuple[Any, str] | None:
    """Return the newest output of one of some classes: a true one where the row asks for truth."""
    wanted = {c.strip() for c in classes.split(",")}
    found = [(run, name) for run in newest_of_each_class(project)
             for name, output in run.iterOutputAttributes()
             if wanted & {c.__name__ for c in type(output).__mro__}]
    is_true = "true" in row.lower()
    alike = [f for f in found if ("true" in f[1].lower()) == is_true]
    return (alike or found or [None])[-1]


def copy_or_make(given: Path | None, folder: Path, is_small: bool) -> None:
    """Put a workspace with the runs to look at into `folder`."""
    is_new = is_small and not folder.exists()
    if given is not None and not folder.exists():
        shutil.copytree(given, folder, symlinks=True)
    elif not is_small and not folder.exists():
        subprocess.run([sys.executable, "-m", "scipion_faml", "demo", "--size", "small",
                        "--output", str(folder)], check=True)
    start = Path.cwd()
    try:
        add_runs(folder, TINY if is_small else RUNS, is_new)
    finally:
        os.chdir(start)


def add_runs(workspace: Path, runs: Any, is_new: bool) -> None:
    """Run what the project of a workspace lacks; a run that fails is told and left out."""
    from scipion_faml import scipion_env

    scipion_env.set_up(workspace)
    import pyworkflow as pw
    from pyworkflow.project import Manager, Project

    domain = pw.Config.getDomain()
    domain.getPlugins()
    kinds = domain.getProtocols()
    if is_new:
        workspace.mkdir(parents=True, exist_ok=True)
        project = Manager().createProject("faml_demo")
        os.chdir(project.path)
    else:
        project = Project(domain, str(scipion_env.only_project(workspace)))
        project.load()
        os.chdir(project.path)
    for class_name, inputs, values in runs:
        there = {type(run).__name__: run for run in newest_of_each_class(project)}
        if class_name in there or any(source not in there for source, _ in inputs.values()):
            continue
        protocol = project.newProtocol(kinds[class_name], **values)
        for row, (source, output) in inputs.items():
            fill(protocol, row, protocol.getParam(row), there[source], output)
        project.launchProtocol(protocol, wait=True)
        state = "finished" if protocol.isFinished() else f"FAILED: {protocol.getErrorMessage()}"
        print(f"{class_name}: {state}", flush=True)
        if not protocol.isFinished():
            project.deleteProtocol(protocol)
        project.getRuns(refresh=True)


# ------------------------------------------------------------------------------------- the tour
def tour_of(project: Path, output: Path, only: tuple[str, ...]) -> int:
    """Open the project on this process's display and look at everything; return the status."""
    from scipion_faml import scipion_env

    scipion_env.set_up(project.parents[1])
    from pyworkflow.gui.project import ProjectWindow

    window = ProjectWindow(str(project))
    root = window.root._root()
    tour = Tour(window, output, only)
    root.report_callback_exception = lambda *_: (
        traceback.print_exc(), tour.fail(f"callback: {traceback.format_exc().splitlines()[-1]}"))
    looks = tour.everything()

    def tick() -> None:
        try:
            next(looks)
        except StopIteration:
            end(tour)
        except Exception:
            traceback.print_exc()
            tour.fail("the tour broke off")
            end(tour)
        else:
            root.after(TICK, tick)

    root.after(1500, tick)
    window.show()
    return 1  # closed by someone else


def end(tour: Tour) -> None:
    """Leave this process at once: Scipion's windows and threads would keep it."""
    print(f"{len(tour.made)} pictures, {len(tour.failures)} failures", flush=True)
    sys.stderr.flush()
    os._exit(int(bool(tour.failures) or not tour.made))


def guided(project: Path, output: Path, only: tuple[str, ...]) -> int:
    """Start the tour in a process of its own; what it prints is looked at for tracebacks."""
    command = [sys.executable, "-O", __file__, "--inside", str(project), "--output", str(output),
               *(f"--only={word}" for word in only)]
    environment = {**os.environ, "MPLBACKEND": "TkAgg", "PYTHONUNBUFFERED": "1"}
    has_traceback = False
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=environment) as process:
        for line in process.stdout or []:
            print(line, end="", flush=True)
            has_traceback |= "Traceback (most recent call last)" in line
    if has_traceback:
        print("FAILED: a traceback was printed")
    return int(process.returncode != 0 or has_traceback)


def main(arguments: list[str]) -> int:
    """Make the pictures; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, help="workspace of a demo")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--only", action="append", default=[],
                        help="pictures whose name contains this (repeatable)")
    parser.add_argument("--small", action="store_true", help="a tiny project, a few pictures")
    parser.add_argument("--keep", type=Path, help="keep the project in this folder, or use it")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    only = tuple(given.only) or (SMALL_ONLY if given.small else ("",))
    given.output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the display must end, too
    if given.inside is not None:
        return tour_of(given.inside, given.output.resolve(), only)
    missing = what_is_missing()
    if missing:
        print(f"screenshots skipped: install {', '.join(missing)}")
        return 0
    from scipion_faml import scipion_env

    with tempfile.TemporaryDirectory(prefix="faml-shots-") as scratch:
        workspace = (given.keep or Path(scratch) / "demo").resolve()
        copy_or_make(given.project, workspace, given.small)
        with own_display():
            return guided(scipion_env.only_project(workspace), given.output.resolve(), only)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
