"""A run that is stopped goes on, and changed settings do not keep stale results.

These runs are launched as Scipion launches them, in processes of their own with log files.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from scipion_faml.io import read_cube
from scipion_faml.tables import read_particles

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


def results_of(run):
    """All that must be the same bits wherever and whenever a run was made."""
    folder = Path(run._getExtraPath("results"))
    rows = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in run.history()]
    table = read_particles(folder / "particles.star").rows.drop(columns="rlnImageName")
    return [read_cube(folder / f"class_00{k}.mrc")[0].tobytes() for k in (1, 2)], rows, table


@pytest.mark.parametrize("mode", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_run_stopped_in_the_window_continues_to_the_same_bits(project, particles, mode):
    from pyworkflow.protocol import MODE_RESUME

    values = {"mode": mode, "maxShift": 1.5, "numberOfIterations": 5}
    whole = launch(project, classification(project, particles, **values))
    assert whole.isFinished(), whole.getErrorMessage()
    run = launch(project, classification(project, particles, **values), wait=False)
    first = Path(run._getExtraPath("results", "iter_001", "meta.json"))
    deadline = time.monotonic() + 90
    while not first.exists():
        assert time.monotonic() < deadline, "no iteration within 90 s"
        time.sleep(0.02)
    project.project._updateProtocol(run)
    everyone = [psutil.Process(run.getPid())]
    everyone += everyone[0].children(recursive=True)
    project.project.stopProtocol(run)  # what the window's button calls
    assert run.isAborted()
    _, alive = psutil.wait_procs(everyone, timeout=10)
    assert not alive
    status = json.loads(Path(run._getExtraPath("status.json")).read_text())
    assert (status["state"], status["message"]) == ("stopped", "stopped in Scipion")
    assert 1 <= len(run.history()) < 5 and not hasattr(run, "classes")
    run.runMode.set(MODE_RESUME)
    launch(project, run)
    assert run.isFinished(), run.getErrorMessage()
    assert "continuing after iteration" in log_of(run)
    status = json.loads(Path(run._getExtraPath("status.json")).read_text())
    assert (status["state"], status["message"], status["verb"]) == ("finished", None, "classify")
    mine, known = results_of(run), results_of(whole)
    assert mine[0] == known[0]
    np.testing.assert_equal(mine[1], known[1])
    assert mine[2].equals(known[2])
    assert len(run.classes) == len(whole.classes)


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
