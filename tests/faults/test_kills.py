"""Runs killed at any moment, whole process groups at once, and started again by the same command.

What they leave in the end is what an undisturbed run leaves: the same files, byte by byte, no less
and no more. A loss is a file that is missing or differs.
"""

import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from faults.runs import (
    COUNTS,
    FULL,
    SEED,
    VERBS,
    WITH_DASK,
    Measured,
    contents,
    end,
    finish,
    kill_group,
    same,
    start,
    stop_at,
    words_of,
)

pytestmark = pytest.mark.faults
STOPS = Path(__file__).with_name("stops.py")
IN_A_ROW = 2  # kills, the second while resuming
SHORT = ("classify-enhanced",)


def draws(*what):
    """Random numbers of one test."""
    return np.random.default_rng([SEED, zlib.crc32("-".join(map(str, what)).encode())])


def killed(folder: Path, words: list[str], cost: Measured, fraction: float) -> bool:
    """Start a run and kill it at a fraction of its work; False where it was done before."""
    process = start(folder, words)
    was_killed = stop_at(
        process, cost.first + fraction * (cost.whole - cost.first), signal.SIGKILL)
    ended = end(process)
    if was_killed and ended.status == -signal.SIGKILL:
        COUNTS.add("kills")
        return True
    return False


# ------------------------------------------------------------------------------------- at random
@pytest.mark.parametrize("name", list(VERBS) if FULL else SHORT)
@pytest.mark.parametrize("row", range(3 if FULL else 1))
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
        name, row, place, undisturbed):
    expected, rng = undisturbed(name), draws(name, row)
    folder, words = place / f"{name}-killed-{row}", words_of(name, "--workers", "2")
    kills, start_of_row = 0, row / 3
    while kills < IN_A_ROW:
        # Spread over the work; a little earlier each time, as what is done needs no time again.
        fraction = start_of_row + rng.uniform(0, 1 / 3)
        if killed(folder, words, expected.measured, 0.9 * fraction * 0.7**kills):
            kills += 1
        else:
            start_of_row *= 0.5
            if expected.contents.keys() == contents(folder).keys():
                break  # finished: nothing is left to kill
    finish(folder, words)
    same(folder, expected.contents, f"{name} killed {kills} times")
    assert kills or not FULL or row


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classify-paper", "pick-dog", "extract"])
def test_a_killed_run_leaves_a_whole_report_in_the_end(name, place, undisturbed):
    expected, rng = undisturbed(name), draws(name, "report")
    folder, words = place / f"{name}-reported", words_of(name)
    for _ in range(3):
        process = start(folder, words, FAML_NO_REPORT="0")
        # Pictures take longer than all the rest.
        if stop_at(process, expected.measured.whole + rng.uniform(0.0, 1.5), signal.SIGKILL):
            COUNTS.add("kills")
        end(process)
    finish(folder, words, FAML_NO_REPORT="0")
    [report] = folder.rglob("*report.html")
    assert report.read_text().rstrip().endswith("</html>")
    report.unlink()
    same(folder, expected.contents, f"{name} with its report")


# ------------------------------------------------------------------------------------ at renames
def stopped(place: Path, name: str, when: str, numbers: str) -> str:
    """Kill runs at renames, and finish each; return what they said."""
    words = [sys.executable, str(STOPS), f"{name}-{when}", when, numbers]
    return finish(place, [*words, *words_of(name, "--workers", "1")[3:]]).said


@pytest.mark.parametrize("name", list(VERBS) if FULL else ("pick-dog",))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_killed_at_a_rename_leaves_nothing_behind(name, when, place, undisturbed):
    expected = undisturbed(name)
    total = int(stopped(place, name, when, "0").splitlines()[-1])
    most = 6 if FULL else 2
    # The last ones always: there the results are whole and the record of the run is not.
    rng, last = draws(name, when), {total, max(total - 1, 1)}
    moments = sorted(last | set(rng.integers(1, total + 1, most - 2).tolist()))
    stopped(place, name, when, ",".join(map(str, moments)))
    for number in moments:
        COUNTS.add("kills at renames")
        same(place / f"{name}-{when}-{number}", expected.contents,
             f"{name} killed {when} rename {number} of {total}")


# -------------------------------------------------------------------------------- asked to stop
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP] if FULL else [signal.SIGTERM])
@pytest.mark.parametrize("name", list(VERBS) if FULL else SHORT)
def test_a_run_that_is_asked_to_stop_says_one_line_and_goes_on_later(
        name, number, place, undisturbed):
    expected, rng = undisturbed(name), draws(name, number)
    folder = place / f"{name}-{number.name}"
    words = words_of(name, "--workers", "2")
    process = start(folder, words)
    cost = expected.measured
    moment = cost.first + 0.6 * rng.uniform() * (cost.whole - cost.first)
    was_stopped = stop_at(process, moment, number)
    ended = end(process)
    if was_stopped and ended.status:
        COUNTS.add("stops")
        assert ended.status == 1
        assert len(ended.lines) == 1 and number.name in ended.lines[0], ended.said
        assert "same command" in ended.lines[0]
        assert not list(folder.rglob("*.tmp*")), "temporary files"
    finish(folder, words)
    same(folder, expected.contents, f"{name} stopped by {number.name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_DASK)
def test_a_run_with_dask_killed_with_its_processes_goes_on(name, place, undisturbed):
    pytest.importorskip("distributed")
    expected, rng = undisturbed(name), draws(name, "dask")
    folder = place / f"{name}-dask-killed"
    words = words_of(name, "--executor", "dask", "--workers", "2")
    began = time.monotonic()
    finish(place / f"{name}-dask-timed", words)
    # The work is done elsewhere and this process waits: time counts, not its CPU.
    whole = time.monotonic() - began
    for _ in range(IN_A_ROW):
        process = start(folder, words)
        try:
            process.wait(whole * rng.uniform(0.4, 0.9))
        except subprocess.TimeoutExpired:
            kill_group(process)
            COUNTS.add("kills")
        end(process)
    finish(folder, words)
    same(folder, expected.contents, f"{name} with Dask, killed")
