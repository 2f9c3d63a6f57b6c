"""Processes of a Dask cluster that die, vanish or cannot see the files; real ones, on this machine.

A run completes with the same bits, or stops with one line that says what to do, and goes on.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from dask_jobs import (
    NumberJob,
    children_of,
    is_running,
    number_groups,
    outside_cluster,
    wait_until,
    worker_processes,
    write_set,
)
from phantoms import blobs, particles
from processes import heed_signals

from scipion_faml import enhanced, faml
from scipion_faml.execution import ClusterError, SerialExecutor
from scipion_faml.model import FamlConfig

pytest.importorskip("distributed")
cluster = pytest.importorskip("scipion_faml.cluster")
pytestmark = pytest.mark.slow

OPTIONS = {
    "paper": ("--mode", "paper", "--classes", "2", "--iterations", "4", "--max-candidates", "8",
              "--bandwidth", "8"),
    "enhanced": ("--iterations", "6", "--dense-bandwidth", "8", "--max-shift", "1.5"),
}


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    """Twenty particles of two structures in files."""
    source, _, _ = particles([blobs(16, 0, width=0.08), blobs(16, 1, width=0.08)], 20, snr=2.0)
    path = tmp_path_factory.mktemp("set") / "particles.star"
    write_set(path, source)
    return path


def start(star, output, mode, *words, **how):
    """Start classify in a process of its own."""
    command = [sys.executable, "-m", "scipion_faml", "classify", str(star), "--output",
               str(output), "--no-report", *OPTIONS[mode], *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            preexec_fn=heed_signals,
                            **how)


def finish(process, seconds=240):
    """Return the exit status and the last line of what a process said."""
    said = process.communicate(timeout=seconds)[1]
    assert "Traceback" not in said, said
    return process.returncode, said.strip().splitlines()[-1] if said.strip() else ""


def outputs(folder):
    """Name -> bytes, without the time of day in MRC files and the folders of image names."""
    found = {p.name: p.read_bytes()[1024:] for p in folder.glob("class_*.mrc")}
    table = (folder / "particles.star").read_text()
    return {**found, "particles.star": re.sub(r"\S*/(p\d+\.mrc)", r"\1", table)}


@pytest.fixture(scope="module")
def in_threads(star, tmp_path_factory):
    """What comes of each mode in one thread."""
    found = {}
    for mode in OPTIONS:
        folder = tmp_path_factory.mktemp(mode)
        assert finish(start(star, folder, mode, "--workers", "1"))[0] == 0
        found[mode] = outputs(folder)
    return found


# ------------------------------------------------------------------------------- workers that die
@pytest.mark.parametrize("mode", ["paper", "enhanced"])
def test_a_worker_killed_in_mid_iteration_costs_time_and_no_bit(mode):
    source, _, _ = particles([blobs(16, 0)], 20, snr=2.0)
    module = faml if mode == "paper" else enhanced
    config = FamlConfig(mode=mode, n_iterations=3, max_candidates=8, dense_bandwidth=8,
                        max_shift=1.5)
    expected = list(module.run(source, config, SerialExecutor()))[-1]
    killed = []
    with cluster.local_cluster(2) as executor:
        def kill_one(done, total):
            if len(killed) < 2 and done < total:
                pid = worker_processes(executor.client)[-1]
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

        found = list(module.run(source, config, executor, on_progress=kill_one))[-1]
    assert len(killed) == 2
    np.testing.assert_array_equal(found.state.averages, expected.state.averages)
    assert found.log_likelihood == expected.log_likelihood


def test_all_workers_killed_at_once_come_back_and_the_sums_are_complete():
    groups, killed = number_groups([40, 40]), []
    with cluster.local_cluster(2) as executor:
        def kill_all(block):
            if not killed and block.indices[0] >= 5:
                killed.extend(worker_processes(executor.client))
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)

        sums = list(executor.sums(NumberJob(), groups, kill_all))
    assert len(killed) == 2
    assert [n for s in sums for n in s.order] == list(range(80))


def test_workers_that_were_given_up_are_started_again():
    groups = number_groups([3])
    with cluster.local_cluster(1) as executor:
        local = executor.client.cluster
        local.sync(next(iter(local.workers.values())).close)
        assert [s.order for s in executor.sums(NumberJob(), groups, lambda block: None)] == [
            [0, 1, 2]]


def test_a_worker_that_runs_out_of_memory_again_and_again_is_one_line():
    with cluster.local_cluster(1, 5 * 10**8, patience_seconds=60.0) as executor:
        sums = executor.sums(NumberJob(n_bytes=10**9), number_groups([1]), lambda block: None)
        with pytest.raises(ClusterError, match="lack of memory: give more --memory or use fewer"):
            list(sums)


def test_workers_that_leave_for_good_are_missed_after_the_time_set(tmp_path):
    groups = number_groups([2])
    with outside_cluster(tmp_path) as (address, processes), \
            cluster.scheduler(address, patience_seconds=15.0) as executor:
        executor.patience_seconds = 3.0
        sums = executor.sums(NumberJob(n_bytes=8000), groups, lambda block: None)
        for pid in (*children_of(processes[1].pid), processes[1].pid):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(ClusterError, match="no worker is left.*the same command goes on"):
            list(sums)


# ---------------------------------------------------------------------- schedulers that disappear
def test_a_scheduler_without_the_program_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("dask_jobs.__file__", str(tmp_path / "nowhere" / "x.py"))
    with outside_cluster(tmp_path) as (address, _), cluster.scheduler(address) as executor:
        sums = executor.sums(NumberJob(), number_groups([2]), lambda block: None)
        with pytest.raises(ClusterError, match="scheduler cannot load the program: install"):
            list(sums)


@pytest.mark.parametrize("mode", ["paper", "enhanced"])
def test_a_killed_scheduler_ends_a_run_that_goes_on_to_the_same_bits(
        star, in_threads, tmp_path, mode):
    output = tmp_path / "out"
    with outside_cluster(tmp_path, 2) as (address, processes):
        run = start(star, output, mode, "--scheduler", address)
        assert wait_until(lambda: (output / "iter_001").is_dir() or run.poll() is not None, 120)
        os.kill(processes[0].pid, signal.SIGKILL)
        status, line = finish(run)
    assert status == 1
    assert "scheduler at" in line and "is gone: start it" in line and "goes on" in line
    assert not (output / "run.json").exists()
    with outside_cluster(tmp_path, 1) as (address, _):
        assert finish(start(star, output, mode, "--scheduler", address))[0] == 0
    assert outputs(output) == in_threads[mode]


# -------------------------------------------------------------------- files and interruptions
def test_a_worker_without_access_to_the_files_names_one_and_its_machine(star, tmp_path):
    hidden = tmp_path / "empty"
    hidden.mkdir()
    wrapper = ["unshare", "-rm", "sh", "-c",
               f'mount --bind {hidden} {star.parent} && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run(
            [*wrapper, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine does not let a test hide a folder from a process")
    with outside_cluster(tmp_path, 1, wrapper) as (address, _):
        status, line = finish(start(star, tmp_path / "out", "paper", "--scheduler", address))
    assert status == 2
    assert ".mrc does not exist (worker on " in line and "under the same path" in line


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_a_run_that_is_stopped(star, in_threads, tmp_path, sent):
    output = tmp_path / "out"
    run = start(star, output, "enhanced", "--executor", "dask", "--workers", "2",
                start_new_session=True)
    assert wait_until(lambda: (output / "iter_001").is_dir() or run.poll() is not None, 120)
    mine = children_of(run.pid)
    assert len(mine) >= 2
    if sent == signal.SIGINT:  # as the terminal does: to all of them
        os.killpg(run.pid, sent)
    else:
        os.kill(run.pid, sent)
    said = run.communicate(timeout=60)[1]
    assert "Traceback" not in said, said
    assert wait_until(lambda: not any(is_running(pid) for pid in mine), 30)
    if sent == signal.SIGINT:
        assert run.returncode == 1
    time.sleep(0.1)
    assert finish(start(star, output, "enhanced", "--executor", "dask", "--workers", "1"))[0] == 0
    assert outputs(output) == in_threads["enhanced"]


# ---------------------------------------------------------------------------------------- queues
SUBMIT = """#!/bin/sh
# Runs a job script at once, as a queue would later; prints what the queue prints.
script=$(mktemp) && cat "${@: -1}" > "$script" && cp "$script" "$FAKE_QUEUE/last_job"
setsid sh "$script" > "$FAKE_QUEUE/log" 2>&1 < /dev/null &
echo $! >> "$FAKE_QUEUE/jobs"
echo "%s$!%s"
"""
CANCEL = """#!/bin/sh
for job in "$@"; do kill -TERM -- "-${job%%.*}" 2> /dev/null; done
exit 0
"""


@pytest.mark.parametrize(
    ("kind", "submit", "cancel", "said"),
    [("slurm", "sbatch", "scancel", ("Submitted batch job ", "")),
     ("pbs", "qsub", "qdel", ("", ".server"))])
def test_jobs_of_a_queue_do_the_work_and_end_with_it(
        star, in_threads, tmp_path, kind, submit, cancel, said):
    pytest.importorskip("dask_jobqueue")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in ((submit, SUBMIT % said), (cancel, CANCEL.replace("%%", "%"))):
        (folder / name).write_text(text.replace("#!/bin/sh", "#!/bin/bash"))
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}",
                   "FAKE_QUEUE": str(tmp_path)}
    words = [f"--cluster-option={word}" for word in (
        "queue=long", "cores=1", "walltime=00:10:00", "jobs=2",
        'job_extra_directives=["--comment=faml"]')]
    run = start(star, tmp_path / "out", "paper", "--executor", kind, "--memory", "2", *words,
                env=environment, cwd=tmp_path)
    assert finish(run)[0] == 0
    assert outputs(tmp_path / "out") == in_threads["paper"]
    script = (tmp_path / "last_job").read_text()
    assert "long" in script and "00:10:00" in script and "--comment=faml" in script
    jobs = [int(line) for line in (tmp_path / "jobs").read_text().split()]
    assert len(jobs) == 2
    assert wait_until(lambda: not any(is_running(job) for job in jobs), 30)
