"""A run that is stopped goes on, and changed settings do not keep stale results.

These runs are launched as Scipion launches them, in processes of their own with log files.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from scipion_faml.io import read_cube

ITERATIONS = 6


def classification(project, particles, **values):
    return project.new(
        "ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")},
        **{"numberOfClasses": 2, "numberOfIterations": ITERATIONS, "mode": 1, "bandwidth": 8,
           "seed": 3, "numberOfThreads": 1, **values})


def launch(project, run, wait=True):
    project.project.launchProtocol(run, wait=wait)
    return run


def log_of(run):
    return Path(run.getStdoutLog()).read_text()


def kill_after_first_iteration(project, run):
    """Kill the run and its children as Scipion's Stop does, once an iteration is on disk."""
    first = Path(run._getExtraPath("results", "iter_001", "meta.json"))
    deadline = time.monotonic() + 60
    while not first.exists():
        assert time.monotonic() < deadline, "no iteration within a minute"
        time.sleep(0.02)
    project.project._updateProtocol(run)
    process = psutil.Process(run.getPid())
    for one in [*process.children(recursive=True), process]:
        os.kill(one.pid, signal.SIGKILL)
    process.wait(10)


@pytest.fixture(scope="module")
def uninterrupted(session_project, particles):
    start = Path.cwd()
    session_project.enter()
    run = launch(session_project, classification(session_project, particles))
    assert run.isFinished(), run.getErrorMessage()
    rows = run.history()
    average = read_cube(run._getExtraPath("results", "class_001.mrc"))[0]
    errors = Path(run.getStderrLog()).read_text()
    os.chdir(start)
    return rows, average, errors


def test_a_finished_run_leaves_no_errors_in_its_log(uninterrupted):
    assert uninterrupted[2].strip() == ""


def test_a_killed_run_continues_and_ends_as_if_nothing_had_happened(
    project, particles, uninterrupted
):
    from pyworkflow.protocol import MODE_RESUME, STATUS_ABORTED

    run = launch(project, classification(project, particles), wait=False)
    kill_after_first_iteration(project, run)
    done = len(run.history())
    assert 1 <= done < ITERATIONS
    run.setStatus(STATUS_ABORTED)
    run.runMode.set(MODE_RESUME)
    launch(project, run)
    assert run.isFinished(), run.getErrorMessage()
    assert "continuing after iteration" in log_of(run)
    rows, average, _ = uninterrupted
    assert [r["log_likelihood"] for r in run.history()] == [r["log_likelihood"] for r in rows]
    np.testing.assert_array_equal(
        read_cube(run._getExtraPath("results", "class_001.mrc"))[0], average)


def test_changed_settings_on_continue_start_anew(project, particles):
    from pyworkflow.protocol import MODE_RESUME

    run = project.finished(classification(project, particles, numberOfIterations=1))
    before = run.history()[0]["log_likelihood"]
    run.seed.set(4)
    run.runMode.set(MODE_RESUME)
    project.finished(run)
    assert len(run.history()) == 1
    assert run.history()[0]["log_likelihood"] != before
    # More iterations of the same settings go on from the last one.
    run.numberOfIterations.set(2)
    run.runMode.set(MODE_RESUME)
    first = Path(run._getExtraPath("results", "iter_001", "meta.json")).stat().st_mtime_ns
    project.finished(run)
    assert [r["iteration"] for r in run.history()] == [1, 2]
    assert Path(run._getExtraPath("results", "iter_001", "meta.json")).stat().st_mtime_ns == first
