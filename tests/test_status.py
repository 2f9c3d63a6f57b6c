"""status.json: what programs that watch a run read, while it goes on and after it ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from processes import heed_signals

from scipion_faml import status
from scipion_faml.cli import run
from scipion_faml.status import StatusFile

ITERATIONS = 40  # seconds: a signal must meet a run that goes on

KEYS = {
    "schema", "verb", "state", "step", "done", "total", "iteration", "iterations", "eta_seconds",
    "resolution_angst", "class_sizes", "counts", "warnings", "message", "output", "pid", "host",
    "job", "version", "started", "updated", "ended", "seconds", "sequence",
}


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("status") / "sim"
    assert run(["simulate-subtomograms", "--model", "blobs:1", "--model", "blobs:2", "--count", "8",
                "--box", "20", "--voxel-size", "12", "--optics", "none", "--snr", "4",
                "--max-shift", "1", "--output", str(folder), "--workers", "1"]) == 0
    return folder / "particles.star"


def words(particles, output, *more):
    return ["classify", str(particles), "--mode", "paper", "--classes", "2", "--bandwidth", "8",
            "--workers", "1", "--output", str(output), *map(str, more)]


def started(arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "scipion_faml", *arguments], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
        preexec_fn=heed_signals)


def wait_for(path, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        content = json.loads(path.read_text()) if path.is_file() else {}
        if content and condition(content):
            return content
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {path.read_text() if path.is_file() else path}")


def averages(folder):
    return [(folder / f"class_00{k}.mrc").read_bytes() for k in (1, 2)]


@pytest.fixture(scope="module")
def undisturbed(particles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(words(particles, folder / "out", "--iterations", str(ITERATIONS))) == 0
    return folder / "out"


# ----------------------------------------------------------------------------- while it runs
def test_a_monitor_reads_whole_files_that_never_go_back(particles, tmp_path, undisturbed):
    path = tmp_path / "out" / "status.json"
    process = started(words(particles, path.parent, "--iterations", str(ITERATIONS)))
    seen = []
    while process.poll() is None:
        if path.is_file():
            content = json.loads(path.read_text())  # half a file would not parse
            if not seen or content != seen[-1]:
                seen.append(content)
        time.sleep(0.005)
    assert process.returncode == 0, process.stderr.read()
    last = json.loads(path.read_text())
    assert set(last) == KEYS and all(set(one) == KEYS for one in seen)
    running = [one for one in seen if one["state"] == "running"]
    assert [one["sequence"] for one in seen] == sorted({one["sequence"] for one in seen})
    assert [one["updated"] for one in seen] == sorted(one["updated"] for one in seen)
    iterations = [one["iteration"] or 0 for one in seen]
    assert iterations == sorted(iterations)
    gaps = [b["seconds"] - a["seconds"] for a, b in zip(running, running[1:], strict=False)]
    assert min(gaps, default=1.0) > 0.95  # at most once a second
    assert {one["pid"] for one in seen} == {process.pid}
    assert (last["state"], last["step"], last["iteration"], last["iterations"]) == (
        "finished", "end", ITERATIONS, ITERATIONS)
    assert last["message"] is None and last["eta_seconds"] == 0 and sum(last["class_sizes"]) == 16
    assert last["counts"]["particles"] == 16
    assert datetime.fromisoformat(last["ended"]) >= datetime.fromisoformat(last["started"])
    assert averages(path.parent) == averages(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_that_is_asked_to_end_says_so_and_goes_on_later(
    particles, tmp_path, undisturbed, number
):
    path = tmp_path / "out" / "status.json"
    process = started(words(particles, path.parent, "--iterations", str(ITERATIONS)))
    wait_for(path, lambda content: content["iteration"])
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1 and errors.splitlines()[-1].startswith("stopped")
    last = json.loads(path.read_text())
    assert (last["state"], last["message"]) == ("stopped", f"stopped by {number.name}")
    assert last["ended"] and last["eta_seconds"] is None and 1 <= last["iteration"] < ITERATIONS
    assert run(words(particles, path.parent, "--iterations", str(ITERATIONS))) == 0
    again = json.loads(path.read_text())
    assert (again["state"], again["iteration"], again["pid"]) == (
        "finished", ITERATIONS, os.getpid())
    assert averages(path.parent) == averages(undisturbed)


def test_a_killed_run_leaves_a_file_that_grows_old_and_no_half_one(
    particles, tmp_path, undisturbed
):
    path = tmp_path / "out" / "status.json"
    process = started(words(particles, path.parent, "--iterations", str(ITERATIONS)))
    wait_for(path, lambda content: content["iteration"])
    process.kill()
    process.wait()
    process.stderr.close()
    left = json.loads(path.read_text())
    assert left["state"] == "running" and left["pid"] == process.pid
    (path.parent / ".status.json.1.2.tmp").write_text("half a fi")
    assert run(words(particles, path.parent, "--iterations", str(ITERATIONS))) == 0
    assert json.loads(path.read_text())["state"] == "finished"
    assert not list(path.parent.glob(".*.tmp"))
    assert averages(path.parent) == averages(undisturbed)


# ---------------------------------------------------------------------------- how it ended
def test_an_error_is_the_line_that_the_command_prints(particles, tmp_path, capsys):
    arguments = words(particles, tmp_path / "out", "--low-pass", "9999")
    assert run(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1].removeprefix("error: ")
    content = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (content["state"], content["message"]) == ("failed", error)
    assert content["eta_seconds"] is None


def test_a_defect_is_named_too(particles, tmp_path, monkeypatch):
    import scipion_faml.cli.classify as module

    def broken(*_):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(module, "classify_particles", broken)
    with pytest.raises(RuntimeError):
        run(words(particles, tmp_path / "out"))
    content = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (content["state"], content["message"]) == ("failed", "RuntimeError: no such luck")


def test_a_finished_run_whose_status_was_lost_gets_it_again(particles, tmp_path):
    arguments = words(particles, tmp_path / "out", "--iterations", "1")
    assert run(arguments) == 0
    path = tmp_path / "out" / "status.json"
    first = json.loads(path.read_text())
    path.write_text(json.dumps({**first, "state": "running"}))
    assert run(arguments) == 0
    assert json.loads(path.read_text())["state"] == "finished"
    assert json.loads(path.read_text())["class_sizes"] == first["class_sizes"]
    stamp = path.stat().st_mtime_ns
    assert run(arguments) == 0
    assert path.stat().st_mtime_ns == stamp


def test_warnings_and_counts_of_a_picker_stand_beside_its_file(tmp_path):
    import numpy as np

    from scipion_faml.io import write_volume

    noise = np.random.default_rng(0).normal(size=(24, 40, 40)).astype(np.float32)
    write_volume(tmp_path / "tomogram.mrc", noise, 10.0)
    assert run(["pick-dog", str(tmp_path / "tomogram.mrc"), "--diameter", "80", "--threshold", "99",
                "--workers", "1", "--output", str(tmp_path / "picks.star")]) == 0
    content = json.loads((tmp_path / "picks.status.json").read_text())
    assert (content["verb"], content["state"]) == ("pick-dog", "finished")
    assert content["counts"]["n_picks"] == 0
    assert "nothing scores above" in content["warnings"][0]


# ------------------------------------------------------------------------------- the class
def test_a_disk_that_is_full_does_not_end_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(status, "write_json", full)
    with StatusFile(tmp_path / "status.json", "classify", tmp_path) as one:
        one.step("write")
    assert not list(tmp_path.iterdir())


def test_the_time_left_is_that_of_iterations_or_of_the_step(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(status.time, "monotonic", lambda: now[0])
    one = StatusFile(tmp_path / "status.json", "classify", tmp_path)
    assert one._eta_seconds() is None
    one.progress("tiles", 0, 10)
    now[0] += 5.0
    one.progress("tiles", 4, 10)
    assert one._eta_seconds() == pytest.approx(7.5)
    one.iteration(0, 10)
    now[0] += 2.0
    one.progress("particles", 0, 8)
    now[0] += 1.0
    one.progress("particles", 4, 8)
    assert one._eta_seconds() == pytest.approx(2.0 * 9.5)
    now[0] += 1.0
    one.iteration(1, 10)
    assert one._eta_seconds() == pytest.approx(4.0 * 9)
    one.step("validate")
    assert one._eta_seconds() is None


def test_a_calling_program_gets_a_copy_with_what_it_adds(particles, tmp_path, monkeypatch):
    (tmp_path / ".run.json").write_text(json.dumps({"label": "my run"}))
    monkeypatch.setenv("FAML_STATUS_FILE", str(tmp_path / "status.json"))
    assert run(words(particles, tmp_path / "out", "--iterations", "1")) == 0
    own = json.loads((tmp_path / "out" / "status.json").read_text())
    copy = json.loads((tmp_path / "status.json").read_text())
    # The caller's run goes on: its last state is the caller's to say.
    assert copy == {**own, "state": "running", "verb_state": "finished",
                    "run": {"label": "my run"}}


def test_the_page_on_facilities_tells_of_every_key():
    page = (Path(__file__).parents[1] / "docs" / "facility.md").read_text()
    section = page[page.index("## Watching a run"):page.index("## Threads, memory, disk")]
    told = {name for row in section.splitlines() if row.startswith("|")
            for name in re.findall(r"`(\w+)`", row)}
    assert KEYS | {"verb_state", "run"} <= told


def test_handlers_of_signals_are_as_before(tmp_path):
    before = [signal.getsignal(number) for number in status.ASK_TO_END]
    with StatusFile(tmp_path / "status.json", "classify", tmp_path):
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in status.ASK_TO_END] == before
