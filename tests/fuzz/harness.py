"""What every fuzz test shares: one call of a verb or reader, and the law that all calls obey.

The law: done (exit 0), or refused (exit 2) with exactly one line that names a file, a particle or
an option and says a way out. Never a traceback, a warning of a library, a hang or a NaN in what was
written; and no particle is lost without being listed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import io
import json
import os
import re
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from hypothesis import HealthCheck, Phase, settings

from scipion_faml import star
from scipion_faml.cli import run
from scipion_faml.texts import one_line

FULL = os.environ.get("FAML_FUZZ") == "full"
COLLECTED = os.environ.get("FAML_FUZZ_COLLECT", "")
SHORTER = 70  # times fewer cases where the suite is a part of `make test`
HANGS_AFTER = float(os.environ.get("FAML_FUZZ_SECONDS", 30.0))  # seconds, of one call
# What a message must hold: a way out.
WAYS_OUT = re.compile(
    r"\b(add|allow|ask|asked|average|check|choose|compare|convert|copy|correct|crop|cut|draw|"
    r"exclude|extract|free|give|import|install|keep|leave|look|lower|make|match|move|must|name|needs?|"
    r"number|one of|point|re-extract|remove|rename|repair|resample|rescale|rewrite|run|say|scale|"
    r"see|start|train|try|use|write)\b|does not exist|--help|is not in the range|is not a valid|"
    r"are needed|is needed", re.IGNORECASE)
LOG_LINE = re.compile(r"^\d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR) ")


class Hang(BaseException):
    """A call took too long."""


class Broken(AssertionError):
    """A case broke the law; `kind` says how."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


@dataclass
class Counts:
    """What came of the cases of one test."""

    numbers: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def add(self, kind: str) -> None:
        self.numbers[kind] += 1


COUNTS = Counts()


def cases(full: int, at_least: int = 3) -> Callable[[Any], Any]:
    """Settings of a fuzz test with `full` cases in the whole suite."""
    number = full if FULL else max(at_least // 2, full // SHORTER, 2)
    set_up = settings(
        max_examples=number, deadline=None, derandomize=not FULL, database=None,
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if FULL else [])],
        suppress_health_check=list(HealthCheck), print_blob=True)

    def decorate(test: Any) -> Any:
        if COLLECTED:
            test.hypothesis.inner_test = _collecting(test.hypothesis.inner_test)
        return set_up(test)

    return decorate


def _collecting(test: Any) -> Any:
    """The test, which writes what is wrong into a file and goes on (FAML_FUZZ_COLLECT=FILE)."""

    @functools.wraps(test)
    def going_on(*arguments: Any, **values: Any) -> None:
        try:
            test(*arguments, **values)
        except Exception as error:
            cause = error.__cause__ or error
            where = traceback.extract_tb(cause.__traceback__)[-1]
            with open(COLLECTED, "a") as handle:
                handle.write(json.dumps({
                    "test": test.__name__, "error": str(error)[:1500],
                    "at": f"{where.filename}:{where.lineno}", "values": repr(values)[:600]}) + "\n")

    return going_on


# ------------------------------------------------------------------------------------ one call
@contextlib.contextmanager
def time_limit(seconds: float = HANGS_AFTER) -> Iterator[None]:
    """Raise Hang in a block that takes too long; end the process if it does not come back."""

    def stop(_number: int, _frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(4 * seconds, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Outcome:
    """What a verb did."""

    status: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The error's one line, or an empty text."""
        return next((line for line in self.err.splitlines() if line.startswith("error: ")), "")

    @property
    def result(self) -> dict[str, Any]:
        """The JSON of a verb that was done."""
        return dict(json.loads(self.out, parse_constant=_no_constant))


def _no_constant(name: str) -> Any:
    raise Broken("nan", f"{name} in the JSON")


def call(verb: str, *arguments: Any, json_out: bool = True) -> Outcome:
    """Run a verb in this process and check the law, but for what it wrote."""
    words = [verb, *map(str, arguments), *(["--json"] if json_out else [])]
    out, err = io.StringIO(), io.StringIO()
    started = time.monotonic()
    try:
        with time_limit(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run(words)
    except Hang:
        COUNTS.add("hangs")
        raise Broken("hang", _command(words)) from None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        COUNTS.add("tracebacks")
        raise Broken("traceback", f"{_command(words)}\n{type(error).__name__}: {error}") from error
    COUNTS.slowest = max(COUNTS.slowest, time.monotonic() - started)
    outcome = Outcome(status, out.getvalue(), err.getvalue())
    COUNTS.add("cases")
    COUNTS.add({0: "done", 2: "refused"}.get(status, f"exit {status}"))
    _check_status(outcome, words)
    return outcome


def _command(words: list[str]) -> str:
    return "scipion-faml " + " ".join(words)


def _check_status(outcome: Outcome, words: list[str]) -> None:
    lines = [line for line in outcome.err.splitlines() if not LOG_LINE.match(line)]
    if outcome.status == 0:
        strange = [line for line in lines if not line.startswith("warning: ")
                   and "nothing to do" not in line]
        if strange:
            raise Broken("stderr", f"{_command(words)}\n{strange[:3]}")
        return
    if outcome.status != 2:
        raise Broken("status", f"{outcome.status} of {_command(words)}\n{outcome.err}")
    if len(lines) != 1 or not lines[0].startswith("error: "):
        raise Broken("lines", f"{_command(words)}\n{outcome.err}")
    check_message(lines[0].removeprefix("error: "), words)


def check_message(message: str, words: list[str]) -> None:
    """One line that names something the user knows, and says a way out."""
    if "\n" in message or "Traceback" in message:
        raise Broken("message", f"not one line: {message}")
    if len(message) > 1500:
        raise Broken("message", f"{len(message)} letters: {message[:200]} ...")
    stems = {Path(word).name for word in words if "/" in word or "." in word} - {""}
    stems |= {one_line(word) or ". " for word in words[1:]}
    names = (any(stem in message for stem in stems) or re.search(
        r"/\w+|--[a-z]|particle|subtomogram|row|position|optics group|class|tilt range|"
        r"\.\w{2,4}\b|point group|symmetry|voxel|memory|option|tilts?\b|SNR|model|diameter|"
        r"low-pass", message))
    if not names:
        raise Broken("message", f"names nothing: {message}\n{_command(words)}")
    if not WAYS_OUT.search(message):
        raise Broken("message", f"no way out: {message}\n{_command(words)}")


def check_reader(reader: Callable[[], Any], *names: str) -> Any:
    """Call a reader: what it returns, or None where it refused in one good line."""
    try:
        with time_limit():
            value = reader()
    except Hang:
        COUNTS.add("hangs")
        raise Broken("hang", " ".join(names)) from None
    except (ValueError, OSError) as error:
        COUNTS.add("cases")
        COUNTS.add("refused")
        check_message(str(error), list(names))
        return None
    except Exception as error:
        COUNTS.add("tracebacks")
        raise Broken("traceback", f"{names} {type(error).__name__}: {error}") from error
    COUNTS.add("cases")
    COUNTS.add("done")
    return value


# -------------------------------------------------------------------------------- what it wrote
# Columns that say of single rows that there is no answer.
MAY_BE_NAN = {"famlRotationError", "famlShiftError"}


def check_written(folder: Path, given: frozenset[str] = frozenset()) -> None:
    """No NaN or infinity in any MRC file, STAR or JSON of a folder, and no half file.

    `given` are columns that held some before: what a verb does not look at, it passes on.
    """
    for path in sorted(folder.rglob("*")):
        if ".tmp" in path.name:
            raise Broken("left", f"{path} was left behind")
        if path.is_dir():
            continue
        if path.suffix == ".mrc":
            with mrcfile.open(path) as mrc:
                if not np.isfinite(mrc.data).all():
                    raise Broken("nan", f"{path.name} holds NaN")
        elif path.suffix == ".star":
            check_star(path, given)
        elif path.suffix == ".json":
            json.loads(path.read_text(), parse_constant=_no_constant)


def check_star(path: Path, known_bad: frozenset[str] = frozenset()) -> None:
    """No NaN in a column that the package writes."""
    if path.name in {"excluded.star", "dropped.star"}:
        return  # they list rows as they were
    for block in star.read(path).values():
        if not hasattr(block, "columns"):
            continue
        for name in block.columns:
            column = block[name]
            if name in MAY_BE_NAN or name in known_bad or column.dtype.kind != "f":
                continue
            if not np.isfinite(column.to_numpy(dtype=float)).all():
                raise Broken("nan", f"{path.name}: {name}")


def check_nobody_lost(result: dict[str, Any], n_in: int, output: Path) -> None:
    """n_in = n_used + n_excluded, and those left out are listed with a reason."""
    n_used, n_excluded = int(result["particles"]), int(result.get("n_excluded", 0))
    if n_used + n_excluded != n_in:
        COUNTS.add("silent drops")
        raise Broken("lost", f"{n_in} particles in, {n_used} used, {n_excluded} excluded")
    listed = output / "excluded.star"
    if not n_excluded:
        if listed.exists():
            raise Broken("lost", "excluded.star, but nobody was excluded")
        return
    rows = star.read(listed)["particles"]
    reasons = [str(reason) for reason in rows["famlReason"]]
    if len(reasons) != n_excluded or not all(reasons):
        COUNTS.add("silent drops")
        raise Broken("lost", f"{n_excluded} excluded, {reasons} listed")
    table = output / "particles.star"
    if table.is_file() and len(star.read(table)["particles"]) != n_used:
        raise Broken("lost", f"{n_used} used, another number in particles.star")


def flush_counts() -> dict[str, Any]:
    """The counts since the last call."""
    found = {**COUNTS.numbers, "slowest": COUNTS.slowest}
    COUNTS.numbers.clear()
    COUNTS.slowest = 0.0
    return found


sys.setrecursionlimit(max(sys.getrecursionlimit(), 3000))
