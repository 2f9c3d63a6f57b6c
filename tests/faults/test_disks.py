"""Disks that are full, limited, read-only, or gone for a while.

A run ends with one line that names a file and says what to do, leaves no damaged file behind, and
the same command goes on to the same files once the disk is well again.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from faults.runs import COUNTS, FULL, NEEDS_TORCH, VERBS, end, finish, same, start, words_of

from scipion_faml import disk, mrc
from scipion_faml.io import write_volume
from scipion_faml.sources import FileSource
from scipion_faml.wedge import MissingWedge

pytestmark = pytest.mark.faults
SHORT = ("classify-enhanced",)
CAN_MOUNT = shutil.which("unshare") and not subprocess.run(
    ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Files that are gone are waited for, whatever other tests ask for."""
    monkeypatch.delenv("FAML_READ_PATIENCE", raising=False)


def refused(ended, *texts):
    """One line on stderr that names a file and a way out."""
    assert ended.status in (1, 2), ended.said
    assert len(ended.lines) == 1 and ended.lines[0].startswith("error: "), ended.said
    for text in texts:
        assert text in ended.lines[0], ended.lines[0]
    COUNTS.add("disk faults")


def in_small_disk(words, kilobytes, copy_to):
    """A command line whose folder is a disk of a size; what is on it is copied in the end."""
    script = (
        f"mount -t tmpfs -o size={kilobytes}k none small && cd small && "
        f'"$@"; status=$?; cp -a . {copy_to} && exit $status')
    return ["unshare", "-rm", "sh", "-c", script, "sh", *words]


# ------------------------------------------------------------------------------------------ full
SIZES = {  # kilobytes that hold a part of what a verb writes
    "classify-paper": (40, 140, 240), "classify-enhanced": (40, 200, 500), "classify-auto": (150,),
    "align": (8, 20), "average": (24, 60), "pick-dog": (4,), "pick-template": (4,),
    "pick-detector": (4,), "simulate-subtomograms": (12, 60), "simulate-tomogram": (100, 300),
    "extract": (16, 32), "group": (4, 12),
}


@pytest.mark.skipif(not CAN_MOUNT, reason="this machine does not let a test mount a small disk")
@pytest.mark.parametrize(
    ("name", "kilobytes"),
    [(n, k) for n in (VERBS if FULL else SHORT) for k in SIZES[n][0 if FULL else -1 :]])
def test_a_full_disk_is_one_line_and_the_run_goes_on(name, kilobytes, place, undisturbed):
    expected = undisturbed(name)
    folder = place / f"{name}-full-{kilobytes}"
    (folder / "small").mkdir(parents=True)
    words = words_of(name, "--workers", "2")
    # Names in records are relative: the folder must lie as deep as that of the undisturbed run.
    inside = [w.replace("../inputs", "../../inputs") for w in words]
    ended = end(start(folder, in_small_disk(inside, kilobytes, "../copied")))
    refused(ended, "the disk is full: free some space", "same command")
    assert not list((folder / "copied").rglob("*.tmp*"))
    shutil.rmtree(folder / "small")
    resumed = place / f"{name}-resumed-{kilobytes}"
    shutil.move(folder / "copied", resumed)
    for path in resumed.rglob("meta.json"):
        path.write_text(path.read_text().replace("../../inputs", "../inputs"))
    finish(resumed, words)
    same(resumed, expected.contents, f"{name} after a full disk")


@pytest.mark.skipif(not CAN_MOUNT, reason="this machine does not let a test mount a small disk")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["pick-dog", "classify-paper"])
def test_a_disk_too_small_for_the_report_alone_is_one_line(name, place, undisturbed):
    undisturbed(name)
    files = (place / f"undisturbed-{name}").rglob("*")
    kilobytes = 40 + sum(4 * (1 + path.stat().st_size // 4096) for path in files)  # in pages
    folder = place / f"{name}-no-room-for-report"
    (folder / "small").mkdir(parents=True)
    words = [w.replace("../inputs", "../../inputs") for w in words_of(name)]
    ended = end(start(folder, in_small_disk(words, kilobytes, "../copied"), FAML_NO_REPORT="0"))
    refused(ended, "report.html cannot be written, the disk is full")
    assert not list((folder / "copied").rglob("*.tmp*"))


# --------------------------------------------------------------------------------------- limited
def limited(n_bytes):
    """Let no file of a process grow beyond a size, as quotas and `ulimit -f` do."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


@pytest.mark.parametrize("name", list(VERBS) if FULL else ("pick-dog",))
@pytest.mark.parametrize("n_bytes", [0, 700, 9000] if FULL else [700])
def test_a_limit_on_files_is_one_line_and_the_run_goes_on(name, n_bytes, place, undisturbed):
    expected = undisturbed(name)
    folder, words = place / f"{name}-limit-{n_bytes}", words_of(name, "--workers", "2")
    ended = end(start(folder, words, preexec=limited(n_bytes)))
    if ended.status == 0 and n_bytes > 1000:
        pytest.skip("its files are smaller")
    refused(ended, "files of this process may not be so large", "ulimit -f")
    assert not list(folder.rglob("*.tmp*"))
    finish(folder, words)
    same(folder, expected.contents, f"{name} after a limit of {n_bytes} bytes")


# ------------------------------------------------------------------------------------- read-only
@pytest.mark.skipif(not CAN_MOUNT, reason="this machine does not let a test mount a disk")
@pytest.mark.parametrize("name", list(VERBS) if FULL else SHORT)
def test_a_read_only_output_is_one_line(name, place):
    if name in NEEDS_TORCH:
        pytest.importorskip("torch")
    folder = place / f"{name}-read-only"
    (folder / "small").mkdir(parents=True)
    script = 'mount -t tmpfs -o ro none small && cd small && "$@"'
    words = [w.replace("../inputs", "../../inputs") for w in words_of(name, "--workers", "2")]
    refused(end(start(folder, ["unshare", "-rm", "sh", "-c", script, "sh", *words])),
            "cannot be written, the disk is read-only: choose another --output")
    assert not list((folder / "small").iterdir())


def test_an_output_below_a_file_is_one_line(place):
    folder = place / "below-a-file"
    folder.mkdir()
    (folder / "out").write_text("a file")
    ended = end(start(folder, words_of("classify-paper")))
    assert ended.status == 2 and len(ended.lines) == 1 and "out" in ended.lines[0], ended.said


# -------------------------------------------------------------------------- gone for a while
@pytest.fixture
def files(tmp_path):
    """A source of three particles in files."""
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / "set" / f"p{i}.mrc") for i in range(3)]
    for path in paths:
        write_volume(path, rng.normal(size=(8, 8, 8)), 10.0)
    return FileSource(paths, [MissingWedge(-60, 60)] * 3, 8, 10.0)


def test_a_file_that_is_gone_for_a_while_is_waited_for(files, tmp_path, caplog):
    expected = files[1].volume
    (tmp_path / "set").rename(tmp_path / "away")
    timer = threading.Timer(1.0, lambda: (tmp_path / "away").rename(tmp_path / "set"))
    timer.start()
    np.testing.assert_array_equal(files[1].volume, expected)
    timer.join()
    assert "p1.mrc does not exist: trying again in 0.5 s" in caplog.text
    COUNTS.add("files that came back")


@pytest.mark.parametrize("number", [disk.errno.ESTALE, disk.errno.EIO, disk.errno.ETIMEDOUT])
def test_faults_of_a_network_disk_are_waited_out(files, number, monkeypatch, caplog):
    expected, faults = files[0].volume, [number, number]
    opened = open

    def failing(path, *how):
        if str(path).endswith("p0.mrc") and faults:
            raise OSError(faults.pop(), os.strerror(number), str(path))
        return opened(path, *how)

    monkeypatch.setattr(mrc, "open", failing, raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    np.testing.assert_array_equal(files[0].volume, expected)
    assert caplog.text.count("trying again") == 2
    COUNTS.add("files that came back")


def test_a_file_that_stays_away_is_one_line_after_the_time_set(files, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setenv(disk.PATIENCE, "20")
    (tmp_path / "set").rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match="p2.mrc does not exist"):
        files[2]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 4.5]


def test_a_damaged_file_is_not_waited_for(files, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited"))
    with open(files.paths[0], "r+b") as handle:
        handle.truncate(1500)
    with pytest.raises(ValueError, match=r"p0\.mrc is not a readable MRC file"):
        files[0]


NOTHING_KEPT = """
import sys
from scipion_faml import estep
from scipion_faml.enhanced import store
estep.CACHE_BYTES = store.CACHE_BYTES = 0
from scipion_faml.cli import run
sys.exit(run(sys.argv[1:]))
"""


def started_until(folder, name, iteration, **variables):
    """A run that reads its particles in every iteration, begun until an iteration is done."""
    words = [sys.executable, "-c", NOTHING_KEPT, *words_of(name, "--workers", "2")[3:]]
    process = start(folder, words, **variables)
    while not (folder / "out" / iteration).exists() and process.poll() is None:
        time.sleep(0.005)
    return process


@pytest.mark.parametrize("name", [*(SHORT if FULL else ()), "classify-paper"])
def test_a_run_whose_particles_vanish_goes_on_when_they_are_back(name, place, undisturbed):
    expected, inputs = undisturbed(name), place / "inputs" / "set"
    folder = place / f"{name}-vanished"
    process = started_until(folder, name, "iter_001")
    inputs.rename(inputs.with_name("away"))
    time.sleep(1.5)
    inputs.with_name("away").rename(inputs)
    ended = end(process)
    assert ended.status == 0 and "does not exist: trying again" in ended.said, ended.said
    same(folder, expected.contents, f"{name} whose particles were away")
    COUNTS.add("files that came back")


@pytest.mark.slow
def test_a_run_whose_particles_stay_away_is_one_line_and_goes_on_later(place, undisturbed):
    name = "classify-paper"
    expected, inputs = undisturbed(name), place / "inputs" / "set"
    folder, words = place / f"{name}-lost", words_of(name, "--workers", "2")
    process = started_until(folder, name, "iter_001", FAML_READ_PATIENCE="1")
    inputs.rename(inputs.with_name("away"))
    ended = end(process)
    inputs.with_name("away").rename(inputs)
    refused(ended, ".mrc does not exist")
    finish(folder, words)
    same(folder, expected.contents, "particles that stayed away")


# -------------------------------------------------------------------------------------- writing
@pytest.mark.parametrize("number", [disk.errno.ENOSPC, disk.errno.EDQUOT, disk.errno.EROFS])
def test_a_fault_while_writing_leaves_what_was_there(number, tmp_path):
    path = tmp_path / "map.mrc"
    path.write_text("before")
    with pytest.raises(disk.DiskError, match="map.mrc cannot be written"), \
            disk.replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_fault_of_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), \
            disk.replacing(tmp_path / "map.mrc"):
        os.stat("/elsewhere")


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {pid: [tmp_path / f".map.{pid}.tmp.mrc", tmp_path / "a" / f".run.{pid}.tmp.json",
                   tmp_path / f".iter_003.{pid}.tmp"] for pid in (dead.pid, process.pid)}
    for files in names.values():
        for path in files[:2]:
            path.parent.mkdir(exist_ok=True)
            path.write_text("half")
        files[2].mkdir()
        (files[2] / "state.npz").write_text("half")
    kept = [tmp_path / "notes.tmp", tmp_path / ".hidden", tmp_path / ".status.json.1.2.tmp"]
    for path in kept[:2]:
        path.write_text("of the user")
    disk.remove_leftovers(tmp_path)
    assert not any(path.exists() for path in names[dead.pid])
    assert all(path.exists() for path in [*names[process.pid], *kept[:2]])
    process.send_signal(signal.SIGKILL)
    process.wait()
    disk.remove_leftovers(tmp_path)
    assert not any(path.exists() for path in names[process.pid])
