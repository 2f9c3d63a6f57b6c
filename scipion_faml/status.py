"""status.json: what a run is doing now, for programs that watch it (docs/facility.md).

A thread of its own writes the file, by rename, at most once a second: the run only says what
changed, and a slow disk does not hold it up. The last state is written at once, also when the run
is stopped by Ctrl-C or by a signal that asks it to end.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from scipion_faml import __version__
from scipion_faml.texts import one_line

logger = logging.getLogger(__name__)

SCHEMA = 1
WRITE_SECONDS = 1.0  # between two writings, at least
HEARTBEAT_SECONDS = 10.0  # between two writings, at most: a file that is older is of a dead run
MAX_WARNINGS = 50
AFTER_ITERATIONS = {"validate", "write", "end"}  # steps
RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"
# A queue sends SIGTERM before it kills; a terminal that closes sends SIGHUP.
ASK_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STATUS_FILE = "FAML_STATUS_FILE"  # environment: where a program that calls a verb wants a copy
OF_THE_CALLER = ".run.json"  # beside that copy: what the program adds to it, under the key "run"


class Stopped(KeyboardInterrupt):
    """A signal asked to end; its name is the message.

    Where a plain KeyboardInterrupt passes through `exec` of a text, as in making a dataclass,
    Python ends as if by SIGINT later on, though it was caught.
    """


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` under a private name and rename it; a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file, or nothing where there is none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def moment(seconds: float) -> str:
    """Return a time (s since 1970) as ISO 8601, UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


class StatusFile:
    """The status of one call of a verb: a context that writes it while the block runs.

    Parameters
    ----------
    path : Path
        Its file.
    verb : str
    output : Path
        What the run makes.
    """

    def __init__(self, path: Path, verb: str, output: Path) -> None:
        self.path = path
        self._copy = Path(os.environ[STATUS_FILE]) if os.environ.get(STATUS_FILE) else None
        self._lock = threading.RLock()  # a signal may come while this thread holds it
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._started, self._clock = time.time(), time.monotonic()
        self._written, self._is_new = 0.0, False
        self._step_clock = self._clock
        self._iteration_clock: float | None = None
        self._iteration_seconds: float | None = None
        self._content: dict[str, Any] = {
            "schema": SCHEMA, "verb": verb, "state": RUNNING, "step": "start", "done": None,
            "total": None, "iteration": None, "iterations": None, "eta_seconds": None,
            "resolution_angst": None, "class_sizes": None, "counts": {}, "warnings": [],
            "message": None, "output": str(output.resolve()), "pid": os.getpid(),
            "host": platform.node(), "job": _queue_job(), "version": __version__,
            "started": moment(self._started), "updated": moment(self._started), "ended": None,
            "seconds": 0.0, "sequence": 0,
        }

    # ------------------------------------------------------------------------- what changes
    def step(self, name: str, total: int | None = None) -> None:
        """Say what begins now, and of how many parts it is made."""
        with self._lock:
            self._step_clock = time.monotonic()
            self._set(step=name, done=0 if total else None, total=total)

    def progress(self, name: str, done: int, total: int) -> None:
        """Say how many parts of a step are done."""
        with self._lock:
            known = self._content
            if known["step"] != name or known["total"] != total or done < (known["done"] or 0):
                self.step(name, total)
            self._set(done=done)

    def iteration(self, done: int, most: int, **values: Any) -> None:
        """Say that an iteration is done, of `most` that there may be, and what came out.

        Told before the first one too (0, or that from which a run goes on), the time of each is
        known from then on.
        """
        with self._lock:
            now = time.monotonic()
            if self._iteration_clock is not None and done > (self._content["iteration"] or 0):
                self._iteration_seconds = now - self._iteration_clock
            self._iteration_clock = now
            self.step("iteration" if done else "start")
            self._set(iteration=done, iterations=most, **values)

    def update(self, **values: Any) -> None:
        """Set resolution_angst, class_sizes, counts, iteration, iterations."""
        with self._lock:
            self._set(**values)

    def warn(self, texts: Iterable[str]) -> None:
        """Add warnings, each once."""
        with self._lock:
            known = [*self._content["warnings"], *map(str, texts)]
            self._set(warnings=list(dict.fromkeys(known))[:MAX_WARNINGS])

    def _set(self, **values: Any) -> None:
        unknown = values.keys() - self._content.keys()
        if unknown:
            raise KeyError(f"no keys of a status: {sorted(unknown)}")
        self._content.update(values)
        self._is_new = True

    def _eta_seconds(self) -> float | None:
        """How long it takes at most from now on, as far as this can be told."""
        content, now = self._content, time.monotonic()
        done, total = content["done"], content["total"]
        part = done / total if done and total else 0.0
        of_step = now - self._step_clock
        if content["iterations"] is None:
            return of_step * (1.0 - part) / part if part else None
        if content["step"] in AFTER_ITERATIONS:
            return None
        each = self._iteration_seconds
        if each is None:  # of the first one only a part is known
            each = of_step / part if part else None
        if each is None:
            return None
        left = content["iterations"] - (content["iteration"] or 0) - part
        return max(0.0, each * left)

    # ------------------------------------------------------------------------------ writing
    def __enter__(self) -> StatusFile:
        for left in self.path.parent.glob(f".{self.path.name}.*.tmp"):
            left.unlink(missing_ok=True)  # of a run that was killed while it wrote
        self._write()
        self._thread = threading.Thread(target=self._write_now_and_then, daemon=True,
                                        name=f"status of {self._content['verb']}")
        self._thread.start()
        self._catch_signals()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.end(FINISHED)
        elif isinstance(error, KeyboardInterrupt):
            self.end(STOPPED, "stopped")
        else:
            self.end(FAILED, said_of(error))
        self._release_signals()
        if self._thread is not None:
            self._thread.join()

    def end(self, state: str, message: str | None = None, **values: Any) -> None:
        """Write the last state; what comes later changes nothing."""
        with self._lock:
            if self._is_over.is_set():
                return
            self._set(**values, state=state, message=message, ended=moment(self._now()))
            if state == FINISHED:
                self._set(step="end", done=None, total=None)
            self._write()
            self._is_over.set()

    def _now(self) -> float:
        """The time of day; it does not go back when the machine's clock is set."""
        return self._started + time.monotonic() - self._clock

    def _write_now_and_then(self) -> None:
        while not self._is_over.wait(WRITE_SECONDS):
            with self._lock:
                is_due = time.monotonic() - self._written >= HEARTBEAT_SECONDS
                if not self._is_over.is_set() and (self._is_new or is_due):
                    self._write()

    def _write(self) -> None:
        """Write the file and the caller's copy; a disk that is full does not end the run."""
        content = self._content
        is_running = content["state"] == RUNNING
        now = self._now()
        content["sequence"] += 1
        content["updated"], content["seconds"] = moment(now), round(now - self._started, 3)
        eta = self._eta_seconds() if is_running else 0.0 if content["state"] == FINISHED else None
        content["eta_seconds"] = None if eta is None else round(eta, 1)
        self._written, self._is_new = time.monotonic(), False
        try:
            write_json(self.path, content)
            if self._copy is not None:
                write_json(self._copy, _as_copy(content, self._copy))
        except OSError as error:
            logger.debug("status not written: %s", error)

    # ------------------------------------------------------------------------------ signals
    def _catch_signals(self) -> None:
        """Write the last state before the run unwinds: a queue kills soon after it has asked."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ASK_TO_END:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:  # nohup
                self._handlers[number] = before
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self.end(STOPPED, f"stopped by {name}")
        before = self._handlers.get(signal.Signals(number))
        if callable(before):
            before(number, frame)
        raise Stopped(name)

    def _release_signals(self) -> None:
        for number, before in self._handlers.items():
            signal.signal(number, before)
        self._handlers.clear()


def said_of(error: BaseException) -> str:
    """Return an error in one line, as the command line prints it."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    line = one_line(str(message))
    is_mistake = isinstance(error, (ValueError, OSError)) or hasattr(error, "format_message")
    return line if is_mistake and line else f"{type(error).__name__}: {line}".rstrip(": ")


def _as_copy(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The status of a verb as that of the run it is a part of, which goes on after it."""
    state = STOPPED if content["state"] == STOPPED else RUNNING
    return {
        **content, "state": state, "verb_state": content["state"],
        "run": read_json(path.with_name(OF_THE_CALLER)),
    }


def _queue_job() -> str | None:
    """The number of the queue's job that this is, if it is one."""
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"):
        if os.environ.get(name):
            return os.environ[name]
    return None
