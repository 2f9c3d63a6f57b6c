"""Names that come out of tables: where they may lead, and what becomes of them as file names.

A table may name files beside it, below it, and in the project that it is a part of; whole paths are
taken as they are. A relative name that climbs out of the project by `..` is refused: tables travel,
and such a name leads to another file on every machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path

ALLOW_OUTSIDE = "FAML_ALLOW_OUTSIDE"  # environment: 1 allows names that climb out
SCIPION_PROJECT = "project.sqlite"
LONGEST_NAME = 80
_NO_FILE_NAME = re.compile(r"[^\w+-]+(\.+)?|^\.+|\.\.+")
_is_allowed: ContextVar[bool | None] = ContextVar("outside_is_allowed", default=None)


def allow_outside(is_allowed: bool) -> None:
    """Let names in tables climb out of projects, or not, from now on in this thread."""
    _is_allowed.set(is_allowed)


def project_folder(table: Path) -> Path:
    """Return the folder that relative names in a table may not leave.

    It is the Scipion project that the table lies in, else the folder above the table's own: outputs
    of several commands lie side by side.
    """
    folder = Path(os.path.abspath(table)).parent
    for above in (folder, *folder.parents):
        if (above / SCIPION_PROJECT).is_file():
            return above
    return folder.parent


def found_from(name: str, table: Path) -> Path:
    """Return the absolute path of a file that a table names.

    Names are relative to the table's folder, or where they are not found there, to the working
    folder (RELION's habit).

    Raises
    ------
    ValueError
        If a relative name leaves the project of the table, and the working folder, by `..`.
    """
    beside = _joined(table.resolve().parent, name)
    here = _joined(Path.cwd(), name)
    found = here if not beside.exists() and here.exists() else beside
    check_inside(name, found, table)
    return found.resolve()


def check_inside(name: str, found: Path, table: Path) -> None:
    """Raise a ValueError where a relative name in a table led out of its project by `..`."""
    if ".." not in Path(name).parts or os.path.isabs(name) or _outside_is_allowed():
        return
    roots = {project_folder(table), project_folder(table.resolve()), Path.cwd()}
    if not any(_is_below(found, root) for root in roots):
        raise ValueError(
            f"{table} names {name}, outside of {project_folder(table)}: give its whole path, or "
            f"allow it with --allow-outside (in Scipion: {ALLOW_OUTSIDE}=1)")


def name_for(path: str, table: Path) -> str:
    """Return the name of a file in a table: relative inside the project, else its whole path."""
    table = table.resolve()
    name = os.path.relpath(path, table.parent)
    return name if _is_below(Path(path), project_folder(table)) else os.path.abspath(path)


def file_names(texts: Iterable[str], otherwise: str) -> dict[str, str]:
    """Return a name for a file or folder for each text: no path, not hidden, all different."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for text in texts:
        if text in names:
            continue
        plain = _NO_FILE_NAME.sub("_", text).strip("_")[:LONGEST_NAME] or otherwise
        name, number = plain, 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.lower())
        names[text] = name
    return names


def _joined(folder: Path, name: str) -> Path:
    """A name in a folder, without `..`: what it leads to does not depend on links on the way."""
    return Path(os.path.normpath(folder / name))


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(folder)


def _outside_is_allowed() -> bool:
    known = _is_allowed.get()
    return os.environ.get(ALLOW_OUTSIDE) == "1" if known is None else known
