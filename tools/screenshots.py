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
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from shots.display import own_display, what_is_missing
from shots.project import copy_or_make
from shots.tour import Tour

ROOT = Path(__file__).resolve().parents[1]
TICK = 100  # ms
SMALL_ONLY = ("shot_project_window", "shot_ProtFamlPickDog_form", "shot_FamlSymmetryWizard_Average",
              "shot_FamlDogPreviewWizard_PickDog", "shot_FamlPickBoxWizard_PickDog",
              "shot_FamlBandWizard_PickTemplate")
WITHOUT_WINDOW = {"shot_FamlPickBoxWizard_PickDog"}  # clicked; it fills in a number


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
