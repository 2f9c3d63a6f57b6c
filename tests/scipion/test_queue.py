"""Runs submitted to a queue by the hosts.conf of docs/facility.md; the Slurm is pretended."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scipion_faml.io import read_cube

ROOT = Path(__file__).resolve().parents[2]
SLURM = Path(__file__).parent / "slurm"
sys.path.insert(0, str(ROOT / "tools"))
import doc_commands  # noqa: E402


@pytest.fixture(scope="module")
def slurm(domain, tmp_path_factory):
    """The folder of a pretended Slurm, with the documented hosts.conf in force."""
    import pyworkflow as pw

    folder = tmp_path_factory.mktemp("slurm")
    (page,) = [block for block in doc_commands.blocks(ROOT / "docs" / "facility.md", "text")
               if block.startswith("[localhost]")]
    (folder / "hosts.conf").write_text(page)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{SLURM}:{os.environ['PATH']}")
        patch.setenv("FAKE_SLURM", str(folder))
        patch.setenv("SCIPION_HOSTS", str(folder / "hosts.conf"))
        patch.setattr(pw.Config, "SCIPION_HOSTS", str(folder / "hosts.conf"))
        yield folder


@pytest.fixture
def queued(slurm, session_project):
    """The shared project, whose host has the queue for a while."""
    project = session_project.project
    before = project._hosts
    start = Path.cwd()
    session_project.enter()
    project._loadHosts(None)
    yield session_project
    project._hosts = before
    os.chdir(start)


def submitted(project, run, each_command):
    """Launch a run through the queue, as the window does, and return it."""
    run._useQueue.set(True)
    run.setQueueParams(["main", {"QUEUE_FOR_JOBS": "Y" if each_command else "N"}])
    project.project.launchProtocol(run, wait=False)
    return run


def wait_for(project, run, condition=None, seconds=120):
    deadline = time.monotonic() + seconds
    while True:
        project.project._updateProtocol(run)
        if condition() if condition else not run.isActive():
            return run
        assert time.monotonic() < deadline, run.getStatus()
        assert condition is None or run.isActive(), run.getErrorMessage()
        time.sleep(0.3)


def scripts(slurm, after):
    return [path.read_text() for path in sorted(slurm.glob("*.script")) if path not in after]


def classification(project, particles, **values):
    return project.new(
        "ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")},
        **{"numberOfClasses": 2, "numberOfIterations": 2, "mode": 1, "bandwidth": 8,
           "numberOfThreads": 2, **values})


@pytest.mark.parametrize("each_command", [False, True])
def test_a_run_in_the_queue_gives_the_same_bits(
    queued, slurm, particles, classified, each_command
):
    before = set(slurm.glob("*.script"))
    run = wait_for(queued, submitted(queued, classification(queued, particles), each_command))
    assert run.isFinished(), run.getErrorMessage()
    for k in (1, 2):
        mine, known = (read_cube(p._getExtraPath("results", f"class_00{k}.mrc"))[0]
                       for p in (run, classified))
        np.testing.assert_array_equal(mine, known)
    (script,) = scripts(slurm, before)
    assert "#SBATCH --cpus-per-task=2\n" in script and "#SBATCH --mem=16000M" in script
    assert ("pw_protocol_run.py" in script) != each_command
    assert ("-m scipion_faml classify" in script) == each_command
    status = json.loads(Path(run._getExtraPath("status.json")).read_text())
    assert status["state"] == "finished" and int(status["job"]) > 4000
    assert status["iteration"] == 2


@pytest.mark.slow
def test_tomograms_are_jobs_of_their_own(queued, slurm, tomograms, picked):
    before = set(slurm.glob("*.script"))
    run = queued.new("ProtFamlPickDog", {"inputTomograms": (tomograms, "tomograms")},
                     diameter=150.0, boxSize=16, binThreads=3, numberOfThreads=3)
    wait_for(queued, submitted(queued, run, True))
    assert run.isFinished(), run.getErrorMessage()
    assert run.coordinates.getSize() == picked.coordinates.getSize()
    assert len(scripts(slurm, before)) == 2
    assert all("--cpus-per-task=3\n" in script for script in scripts(slurm, before))


def test_a_whole_run_asks_for_the_threads_of_all_its_commands(queued, tomograms):
    run = queued.new("ProtFamlPickDog", {"inputTomograms": (tomograms, "tomograms")},
                     binThreads=3, numberOfThreads=5)
    queued.project._setupProtocol(run)
    run.setQueueParams(["main", {"QUEUE_FOR_JOBS": "N"}])
    assert run.getSubmitDict()["JOB_THREADS"] == 12
    run.setQueueParams(["main", {"QUEUE_FOR_JOBS": "Y"}])
    assert run.getSubmitDict()["JOB_THREADS"] == 3


def test_the_error_of_a_job_is_that_of_the_run(queued, particles):
    run = classification(queued, particles, lowPass=9999.0)
    wait_for(queued, submitted(queued, run, True))
    assert run.isFailed() and "low-pass 9999 A leaves 0 shells" in run.getErrorMessage()


def started_job(slurm, run):
    """Wait until a job of the run has finished an iteration; return its process group."""
    history = Path(run._getExtraPath("results", "history.csv"))
    deadline = time.monotonic() + 60
    while not history.is_file():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    newest = max(slurm.glob("*.pid"), key=lambda path: int(path.stem))
    return int(newest.read_text())


@pytest.mark.slow
def test_a_job_that_is_killed_is_no_finished_one_and_continue_goes_on(
    queued, slurm, particles, monkeypatch
):
    from pyworkflow.protocol import MODE_RESUME

    run = submitted(queued, classification(queued, particles, numberOfIterations=60,
                                           numberOfThreads=1), True)
    os.killpg(started_job(slurm, run), signal.SIGKILL)
    wait_for(queued, run, seconds=100)
    assert run.isFailed() and "ended before its command did" in run.getErrorMessage()
    status = json.loads(Path(run._getExtraPath("status.json")).read_text())
    assert status["state"] == "failed" and "ended before" in status["message"]
    n_done = len(run.history())
    assert 0 < n_done < 60
    run.numberOfIterations.set(n_done + 1)
    run.runMode.set(MODE_RESUME)
    wait_for(queued, submitted(queued, run, True))
    assert run.isFinished(), run.getErrorMessage()
    assert len(run.history()) == n_done + 1


@pytest.mark.slow
def test_a_queue_that_does_not_answer_ends_no_run(queued, slurm, particles):
    run = submitted(queued, classification(queued, particles, numberOfIterations=8,
                                           numberOfThreads=1), True)
    started_job(slurm, run)
    (slurm / "deaf").touch()
    try:
        wait_for(queued, run)
    finally:
        (slurm / "deaf").unlink()
    assert run.isFinished(), run.getErrorMessage()
    assert len(run.history()) == 8


def test_stop_cancels_the_job(queued, slurm, particles):
    run = submitted(queued, classification(queued, particles, numberOfIterations=60,
                                           numberOfThreads=1), False)
    group = started_job(slurm, run)
    queued.project._updateProtocol(run)
    queued.project.stopProtocol(run)
    assert run.isAborted()
    (job,) = [path.stem for path in slurm.glob("*.pid") if path.read_text().strip() == str(group)]
    assert job in (slurm / "cancelled").read_text().split()
    deadline = time.monotonic() + 30
    status = Path(run._getExtraPath("status.json"))
    while time.monotonic() < deadline:
        if json.loads(status.read_text())["state"] == "stopped":
            break
        time.sleep(0.2)
    assert json.loads(status.read_text())["state"] == "stopped"
