"""Disks that are full, read-only or away for a while, and what killed runs leave on them.

What is written appears under its name only when it is whole. A disk that cannot be written to ends
a run with one line; a file that was there and is gone for a while, as on a network that fails over,
is waited for.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

GO_ON = "; the same command then goes on"
# What ends a run that writes: error number -> what to do about it.
CANNOT_WRITE = {
    errno.ENOSPC: "the disk is full: free some space, or choose another --output" + GO_ON,
    errno.EDQUOT: "the disk quota is used up: remove files or ask for more" + GO_ON,
    errno.EFBIG: "files of this process may not be so large: raise the limit (ulimit -f)" + GO_ON,
    errno.EROFS: "the disk is read-only: choose another --output",
    errno.EACCES: "you may not write there: choose another --output or change its permissions",
    errno.EPERM: "you may not write there: choose another --output or change its permissions",
    errno.EIO: "the disk reports an error: check it, or choose another --output" + GO_ON,
    errno.ESTALE: "the network disk went away: wait until it is back" + GO_ON,
}
# Faults of a network disk that may pass.
MAY_PASS = {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN,
            errno.ECONNRESET, errno.EAGAIN, errno.EREMOTEIO, errno.ENODEV}
PATIENCE = "FAML_READ_PATIENCE"  # environment: seconds that a file that is gone is waited for
PATIENCE_SECONDS = 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds
TEMPORARY = re.compile(r"^\..+\.(\d+)\.tmp(\.\w+)*$")  # .NAME.PROCESS.tmp.SUFFIX


class DiskError(OSError):
    """A file cannot be written, for a reason in CANNOT_WRITE. No mistake of the user's."""

    def __init__(self, path: Path, reason: int) -> None:
        super().__init__(f"{path} cannot be written, {CANNOT_WRITE[reason]}")
        self.reason = reason


# -------------------------------------------------------------------------------------- writing
@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` when the block ends well.

    Raises
    ------
    DiskError
        If the disk is full, read-only, or gone.
    """
    path = Path(path)
    temporary = temporary_of(path)
    with write_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def temporary_of(path: Path) -> Path:
    """Return the name under which this process writes what `path` will be."""
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


@contextmanager
def write_faults(path: Path) -> Iterator[None]:
    """Turn what a disk says against writing `path` into one line that names it and a way out."""
    try:
        yield
    except DiskError as error:  # of a file within
        raise DiskError(path, error.reason) from error
    except OSError as error:
        fault = _of_writing(error, path)
        if fault is None:
            raise
        raise fault from error
    except Exception as error:  # libraries stumble over what a failed writing leaves
        behind = error.__context__
        fault = _of_writing(behind, path) if isinstance(behind, OSError) else None
        if fault is None:
            raise
        raise fault from error


def _of_writing(error: OSError, path: Path) -> DiskError | None:
    """The one line for a fault of `path` or a file beside it; None for others."""
    named = error.filename
    if isinstance(named, (str, os.PathLike)):
        folder = os.path.abspath(path.parent)
        if os.path.commonpath([folder, os.path.abspath(named)]) not in (
                folder, os.path.abspath(named)):
            return None
    if error.errno not in CANNOT_WRITE:
        return None
    return DiskError(path, error.errno)


# ------------------------------------------------------------------------------------- leftovers
def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders that killed runs left in a folder and those below it.

    What belongs to processes that are still there stays.
    """
    found = []
    for parent, folders, files in os.walk(folder):
        found += [Path(parent, name) for name in (*folders, *files)
                  if not _is_alive(_process_of(name))]
        folders[:] = [name for name in folders if not TEMPORARY.match(name)]
    _remove_all(found, folder)


def remove_leftovers_of(process: str, folder: Path) -> None:
    """Remove temporary files that a killed process, named by its number, left in a folder."""
    if process.isdecimal() and not _is_alive(process):
        _remove_all([p for p in folder.iterdir() if _process_of(p.name) == process], folder)


def _process_of(name: str) -> str | None:
    """The process that a temporary file belongs to, by its name; None for other files."""
    found = TEMPORARY.match(name)
    return found[1] if found else None


def _is_alive(process: str | None) -> bool:
    """Whether a process of this machine, which is not this one, may be alive."""
    if process is None:
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return int(process) != os.getpid()


def _remove_all(paths: list[Path], folder: Path) -> None:
    for path in paths:
        with suppress(OSError):
            _remove(path)
    if paths:
        logger.info("%s: removed %d temporary file(s) of a run that was killed", folder,
                    len(paths))


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


# -------------------------------------------------------------------------------------- reading
def patiently(read: Callable[[], T]) -> T:
    """Return read(); tried again, after longer and longer pauses, while a file of a run is gone.

    How long is said by FAML_READ_PATIENCE, in seconds. For files that were there when the run
    began: one that never was is reported at once by who looks first.

    Raises
    ------
    OSError
        What `read` raises in the end, or at once where waiting does not help.
    """
    left, pause = _patience_seconds(), FIRST_PAUSE
    while True:
        try:
            return read()
        except OSError as error:
            if not may_pass(error) or left <= 0.0:
                raise
            logger.warning("%s: trying again in %.1f s", error, pause)
        pause = min(pause, left)
        time.sleep(pause)
        left -= pause
        pause = min(2.0 * pause, LONGEST_PAUSE)


def may_pass(error: BaseException | None) -> bool:
    """Whether a fault is one of those that pass when a network disk comes back."""
    if isinstance(error, OSError) and (
            isinstance(error, FileNotFoundError) or error.errno in MAY_PASS):
        return True
    return isinstance(error, OSError) and may_pass(error.__cause__)


def _patience_seconds() -> float:
    text = os.environ.get(PATIENCE, "")
    try:
        return max(float(text), 0.0) if text else PATIENCE_SECONDS
    except ValueError:
        raise ValueError(f"{PATIENCE} is {text!r}: give a number of seconds") from None
