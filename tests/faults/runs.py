"""What every fault test shares: small runs of verbs in processes of their own, that may be killed.

A run is a folder of its own, in which a verb is called with relative names; so its files, records
included, may be compared byte by byte with those of the same command in another folder.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import heed_signals

FULL = os.environ.get("FAML_FAULTS") == "full"
SEED = int(os.environ.get("FAML_FAULTS_SEED", 0))
PATIENCE = 300.0  # seconds for a call: a machine may be busy
TICKS = os.sysconf("SC_CLK_TCK")
ENGINE = "../inputs/set/particles.star"
TOMOGRAM = "../inputs/scene/tomogram.mrc"

# Verbs and their arguments, in a folder beside `inputs`.
VERBS: dict[str, tuple[str, ...]] = {
    "classify-paper": (
        "classify", ENGINE, "--mode", "paper", "--classes", "2", "--iterations", "4",
        "--max-candidates", "6", "--bandwidth", "8"),
    "classify-enhanced": (
        "classify", ENGINE, "--classes", "2", "--iterations", "5", "--dense-bandwidth", "8",
        "--max-shift", "1.5"),
    "classify-auto": (
        "classify", ENGINE, "--classes", "auto", "--symmetry", "auto", "--iterations", "4",
        "--dense-bandwidth", "8", "--max-shift", "1.5"),
    "align": (
        "align", ENGINE, "--reference", "../inputs/set/maps/one.mrc", "--angular-step", "40"),
    "average": ("average", "../inputs/set/truth.star"),
    "group": ("group", ENGINE, "--groups", "2"),
    "pick-dog": ("pick-dog", TOMOGRAM, "--diameter", "110", "--tile", "32", "--threshold", "2"),
    "pick-template": (
        "pick-template", TOMOGRAM, "--template", "../inputs/set/maps/one.mrc", "--tilt-min", "-60",
        "--tilt-max", "60", "--coarse-step", "40", "--angular-step", "20", "--tile", "32",
        "--threshold", "0.1"),
    "pick-detector": ("pick-detector", TOMOGRAM, "--threshold", "0.01", "--tile", "32"),
    "simulate-subtomograms": (
        "simulate-subtomograms", "--model", "blobs:1", "--model", "blobs:2", "--count", "4",
        "--box", "12", "--voxel-size", "10", "--snr", "1", "--tilt-step", "10", "--seed", "3"),
    "simulate-tomogram": (
        "simulate-tomogram", "--model", "blobs:1", "--count", "4", "--shape", "48,48,24", "--box",
        "16", "--voxel-size", "10", "--tilt-step", "10", "--gold", "1", "--seed", "3"),
    "extract": (
        "extract", TOMOGRAM, "../inputs/scene/truth.star", "--box", "12", "--pad"),
}
FILE_OUTPUTS = ("pick-dog", "pick-template", "pick-detector")
WITH_DASK = ("classify-paper", "classify-enhanced", "align", "average")
NEEDS_TORCH = ("pick-detector",)


def words_of(name: str, *more: str) -> list[str]:
    """The command line of a verb of the table; what it writes is called `out`."""
    output = "picks.star" if name in FILE_OUTPUTS else "out"
    return [sys.executable, "-m", "scipion_faml", *VERBS[name], "--output", output, *more]


def environment(**more: str) -> dict[str, str]:
    """That of a call: no report, unless a test looks at it."""
    return {**os.environ, "FAML_NO_REPORT": "1", **more}


# --------------------------------------------------------------------------------------- counts
@dataclass
class Counts:
    """What the suite did."""

    numbers: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, number: int = 1) -> None:
        self.numbers[what] += number


COUNTS = Counts()


# ---------------------------------------------------------------------------------------- calls
@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    status: int
    said: str  # on stderr

    @property
    def lines(self) -> list[str]:
        """What it said besides its log."""
        found = [line for line in self.said.splitlines() if line.strip()]
        return [line for line in found if not (line[2:3] == ":" and line[5:6] == ":")]


def start(
    folder: Path, words: Sequence[str], preexec: Callable[[], None] | None = None,
    **variables: str,
) -> subprocess.Popen[str]:
    """Start a command in a folder, in a process group of its own."""
    folder.mkdir(exist_ok=True)

    def set_up() -> None:
        heed_signals()
        if preexec is not None:
            preexec()

    return subprocess.Popen(
        words, cwd=folder, env=environment(**variables), text=True, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=set_up)


def end(process: subprocess.Popen[str]) -> Ended:
    """Wait for a process; it must not leave a traceback."""
    try:
        said = process.communicate(timeout=PATIENCE)[1]
    except subprocess.TimeoutExpired:
        kill_group(process)
        raise
    assert "Traceback" not in said, said
    return Ended(process.returncode, said)


def call(folder: Path, words: Sequence[str], **variables: str) -> Ended:
    """Run a command in a folder to its end."""
    return end(start(folder, words, **variables))


def finish(folder: Path, words: Sequence[str], **variables: str) -> Ended:
    """Run a command in a folder, which must succeed."""
    ended = call(folder, words, **variables)
    assert ended.status == 0, ended.said
    return ended


def kill_group(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    """Send a signal to a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(words[11]) + int(words[12])) / TICKS


@dataclass(frozen=True)
class Measured:
    """How much a run uses, in CPU seconds: until it writes its first file, and all of it."""

    first: float
    whole: float


def measured(folder: Path, words: Sequence[str]) -> Measured:
    """Run a command to its end and measure it."""
    process = start(folder, words)
    first, whole = 0.0, 0.0
    while process.poll() is None:
        used = cpu_seconds(process.pid)
        whole = max(whole, used if used < float("inf") else 0.0)
        if not first and any(folder.iterdir()):
            first = whole
        time.sleep(0.005)
    assert end(process).status == 0
    return Measured(min(first, 0.8 * whole), whole)


def stop_at(process: subprocess.Popen[str], cpu: float, number: int) -> bool:
    """Send a signal once a process has used so much; False where it ended before."""
    while process.poll() is None:
        if cpu_seconds(process.pid) >= cpu:
            kill_group(process, number)
            return True
        time.sleep(0.002)
    return False


# ----------------------------------------------------------------------------------- comparisons
# Files whose content tells of the day, the machine or its speed, and what of them is compared.
NOT_COMPARED = ("report.html", "status.json")  # written by and for people: dates, hosts, times
TIMED_COLUMNS = "seconds"  # history.csv, and the same rows in iter_NNN/meta.json


def contents(folder: Path) -> dict[str, str]:
    """Name -> hash of every file below a folder, without what tells the time."""
    return dict(_hashes(folder))


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            yield f"{path.relative_to(folder)}/", ""
            continue
        name = str(path.relative_to(folder))
        if path.name.endswith(NOT_COMPARED):
            yield name, ""
            continue
        content = path.read_bytes()
        if path.name == "history.csv":
            content = _untimed_table(content.decode()).encode()
        elif path.name == "meta.json":
            content = _untimed_meta(content).encode()
        yield name, hashlib.sha256(content).hexdigest()


def _untimed_table(text: str) -> str:
    rows = list(csv.reader(io.StringIO(text)))
    kept = [k for k, name in enumerate(rows[0]) if not name.startswith(TIMED_COLUMNS)]
    return json.dumps([[row[k] for k in kept] for row in rows])


def _untimed_meta(content: bytes) -> str:
    meta: dict[str, Any] = json.loads(content)
    del meta["checksum"]  # of the seconds, too
    meta["history"] = [
        {k: v for k, v in row.items() if not k.startswith(TIMED_COLUMNS)}
        for row in meta["history"]]
    return json.dumps(meta)


def same(folder: Path, expected: dict[str, str], what: str) -> None:
    """Compare all files below a folder with those of another run."""
    found = contents(folder)
    COUNTS.add("files compared", len(expected))
    lost = sorted(expected.keys() - found.keys())
    left = sorted(found.keys() - expected.keys())
    differ = sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k])
    COUNTS.add("losses", len(lost) + len(differ))
    COUNTS.add("left behind", len(left))
    assert not (lost or left or differ), f"{what}: lost {lost}, left {left}, differ {differ}"
