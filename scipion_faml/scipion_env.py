"""A minimal headless Scipion: the environment that pyworkflow reads when it is imported.

Scipion's own installer sets these variables from its configuration. A plain `pip install` has
none, so the demo, `make gui` and the tests call `set_up` before they first import pyworkflow. What
the environment already says is left alone: inside a real installation only the workspace changes.

    python -m scipion_faml.scipion_env gui DIR         opens the window of the newest project in DIR
    python -m scipion_faml.scipion_env new DIR NAME    makes an empty project in DIR
    python -m scipion_faml.scipion_env template DIR WORKFLOW PROJECT [FIELD=VALUE ...]
                                                       makes a project and runs a workflow in it
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

HOSTS = """\
[localhost]
PARALLEL_COMMAND = mpirun -np %_(JOB_NODES)d %_(COMMAND)s
"""


def set_up(workspace: Path | str) -> Path:
    """Make `workspace` the folder of Scipion's projects and logs; return its absolute path.

    Raises
    ------
    OSError
        If Python has no tkinter, which Scipion imports even without a display.
    """
    check_tkinter()
    folder = Path(workspace).resolve()
    if " " in str(folder):
        raise OSError(f"{folder}: Scipion cannot work in a path with spaces: choose another folder")
    hosts = folder / "config" / "hosts.conf"
    os.environ.setdefault("SCIPION_DOMAIN", "pwem")
    os.environ.setdefault("SCIPION_HOME", str(folder))
    os.environ.setdefault("SCIPION_PYTHON", sys.executable)  # else `python3` from the PATH runs
    os.environ.setdefault("SCIPION_NOTIFY", "False")  # no usage statistics
    os.environ.setdefault("SCIPION_PRIORITY_PACKAGE_LIST", "pwem tomo pwchem")
    os.environ["SCIPION_USER_DATA"] = str(folder)
    (folder / "projects").mkdir(parents=True, exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    if os.environ["SCIPION_HOME"] == str(folder) and not hosts.exists():
        hosts.parent.mkdir(exist_ok=True)
        hosts.write_text(HOSTS)
    return folder


def check_tkinter() -> None:
    """Raise an OSError that names the missing package when Python has no tkinter."""
    try:
        importlib.import_module("tkinter")
    except ImportError as error:
        raise OSError(
            f"Scipion needs tkinter, which this Python lacks ({error}): "
            "apt-get install python3-tk, then make the virtual environment again"
        ) from error


def only_project(workspace: Path) -> Path:
    """Return the newest project folder in `workspace`."""
    projects = sorted(
        (p for p in (workspace / "projects").glob("*") if (p / "project.sqlite").exists()),
        key=lambda p: p.stat().st_mtime,
    )
    if not projects:
        raise FileNotFoundError(f"{workspace} holds no Scipion project: run the demo first")
    return projects[-1]


def new_project(workspace: Path | str, name: str) -> Path:
    """Make an empty project in `workspace` and return its folder.

    Raises
    ------
    FileExistsError
        If there is one of this name.
    """
    folder = Path(workspace).resolve() / "projects" / name
    if folder.exists():
        raise FileExistsError(f"{folder} exists: choose another name")
    set_up(workspace)
    from pyworkflow.project import Manager

    Manager().createProject(name)
    _show_tomography(folder)
    return folder


def _show_tomography(project: Path) -> None:
    """Let a project's window list the protocols of tomography first."""
    from pyworkflow.project.config import ProjectSettings

    settings = ProjectSettings.load(str(project / "settings.sqlite"))
    settings.setProtocolView("Tomography")
    settings.write()


def open_window(workspace: Path | str) -> int:
    """Open the project window of the newest project in `workspace`; return the exit status."""
    import tkinter

    project = only_project(Path(workspace).resolve())
    folder = set_up(workspace)
    try:
        tkinter.Tk().destroy()
    except tkinter.TclError as error:
        raise OSError(
            f"no window can be opened ({error}): use a graphical session, or ssh -X"
        ) from error
    # -O: Scipion's window turns off its own consistency checks, as `scipion3 project` does.
    return subprocess.call(
        [sys.executable, "-O", "-m", "scipion_faml.scipion_env", "window", str(project)], cwd=folder
    )


def workflows() -> dict[str, Path]:
    """Return the workflow templates of this package by their names."""
    folder = Path(__file__).parent / "templates"
    return {path.name.split(".")[0]: path for path in sorted(folder.glob("*.json.template"))}


def fields_of(template: Path) -> dict[str, str]:
    """Return the fields of a workflow template and their defaults.

    Scipion writes a field as ~Title|default|type|name~.
    """
    return {name: default for default, name in re.findall(
        r"~[^~|]*\|([^~|]*)\|\d+\|(\w+)~", template.read_text())}


def run_workflow(workspace: Path | str, workflow: str, project: str, values: list[str]) -> Path:
    """Make a project of a workflow template and start its runs; return the project's folder.

    The runs go on after this has returned, each after those before it; their status.json tells how
    they are.

    Parameters
    ----------
    workspace : of Scipion's projects; made if need be
    workflow : name of a template of this package, or a file
    project : its name, which must be new
    values : FIELD=VALUE each

    Raises
    ------
    OSError, ValueError
        If something of this is missing or unknown, or Scipion does not make the project.
    """
    if importlib.util.find_spec("scipion") is None:
        raise OSError("Scipion's command line is missing: pip install 'scipion-em-faml[gui]'")
    template = Path(workflow) if workflow.endswith(".template") else workflows().get(workflow)
    if template is None or not template.is_file():
        raise FileNotFoundError(
            f"{workflow} is no workflow: give a file, or one of {', '.join(workflows())}")
    fields = fields_of(template)
    for text in values:
        name, _, value = text.partition("=")
        if name not in fields or "=" not in text:
            known = ", ".join(f"{name}={default}" for name, default in fields.items())
            raise ValueError(f"{text} is no field of {template.name}: use {known}")
        if "=" in value:  # Scipion cuts there
            raise ValueError(f"{text}: Scipion takes no = in a value: rename the file")
        fields[name] = value
    folder = Path(workspace).resolve() / "projects" / project
    if folder.exists():
        raise FileExistsError(f"{folder} exists: choose another name")
    home = set_up(workspace)
    os.environ.setdefault("SCIPION_HOSTS", str(home / "config" / "hosts.conf"))
    # All of them: Scipion opens a window to ask for those that are missing.
    words = [sys.executable, "-m", "scipion", "template", str(template.resolve()),
             *(f"{name}={value}" for name, value in fields.items()), f"project_name={project}",
             "--nogui"]
    log = home / "logs" / f"template_{project}.log"
    # Scipion starts what schedules the runs as `python`.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    with open(log, "w") as said:  # no pipe: the runs that it starts would hold it open
        status = subprocess.call(
            words, cwd=home, stdout=said, stderr=said, env={**os.environ, "PATH": path})
    if status or not (folder / "project.sqlite").is_file():
        raise OSError(f"Scipion made no project {project} of {template.name}: see {log}")
    _show_tomography(folder)
    return folder


def _run_window(project: str) -> None:
    """Show the window of one project until it is closed (a process of its own)."""
    set_up(Path(project).parents[1])
    from pyworkflow.gui.project import ProjectWindow

    ProjectWindow(project).show()


def main(arguments: list[str]) -> int:
    """Run `gui DIR`, `new DIR NAME` or `template ...` and return the exit status."""
    try:
        match arguments:
            case ["gui", workspace]:
                return open_window(workspace)
            case ["new", workspace, name]:
                print(new_project(workspace, name))
            case ["template", workspace, workflow, project, *values]:
                print(run_workflow(workspace, workflow, project, values))
            case ["window", project]:
                _run_window(project)
            case _:
                print("usage: python -m scipion_faml.scipion_env gui DIR | new DIR NAME | "
                      "template DIR WORKFLOW PROJECT [FIELD=VALUE ...]", file=sys.stderr)
                return 2
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
