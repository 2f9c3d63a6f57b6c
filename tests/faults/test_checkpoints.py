"""Damaged iterations on disk: a run goes back to one before, says so, and ends the same."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from faults.runs import COUNTS, FULL, finish, same, words_of

from scipion_faml import checkpoint

pytestmark = pytest.mark.faults
MODES = ("classify-paper", "classify-enhanced")


@pytest.fixture(scope="module")
def unfinished(place, undisturbed):
    """Folders of runs that were stopped before they wrote their results."""
    found = {}
    for name in MODES:
        undisturbed(name)
        found[name] = place / f"{name}-unfinished"
        shutil.copytree(place / f"undisturbed-{name}", found[name])
        for path in (found[name] / "out").iterdir():
            if path.is_file():
                path.unlink()
    return found


def settings_of(output):
    return json.loads((output / "iter_001" / "meta.json").read_text())["settings"]


def truncated(path):
    """Half of a file, as after a full disk or a crash of the machine."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_bit(path):
    """A bit changed in the middle of a file, as by a bad disk."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def emptied(path):
    path.write_bytes(b"")


def removed(path):
    path.unlink()


def zeroed(path):
    """As many zeros as there were bytes, as file systems leave after a power cut."""
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = (truncated, one_bit, emptied, removed, zeroed)


# Of averages, which are there to be looked at, only the length is compared.
@pytest.mark.parametrize(("file", "damage"), [
    *((name, damage) for name in ("state.npz", "enhanced.npz") for damage in DAMAGES),
    *((name, damage) for name in ("meta.json", "class_001.mrc")
      for damage in (truncated, emptied, removed)), ("meta.json", zeroed), ("meta.json", one_bit)])
def test_a_damaged_iteration_is_noticed_and_the_one_before_is_loaded(
        file, damage, unfinished, tmp_path, caplog):
    output = tmp_path / "out"
    shutil.copytree(unfinished["classify-enhanced"] / "out", output)
    settings = settings_of(output)
    last = checkpoint.folders(output)[0]
    damage(last / file)
    found = checkpoint.load_newest(output, settings)
    assert found.state.iteration == int(last.name[5:]) - 1
    assert file in caplog.text and "going on after iteration" in caplog.text
    COUNTS.add("damaged checkpoints")


@pytest.mark.parametrize("name", MODES if FULL else MODES[1:])
@pytest.mark.parametrize("damage", DAMAGES if FULL else (truncated,))
def test_a_run_with_a_damaged_iteration_ends_as_if_it_were_not(
        name, damage, unfinished, undisturbed, place):
    folder = place / f"{name}-{damage.__name__}"
    shutil.copytree(unfinished[name], folder)
    last = checkpoint.folders(folder / "out")[0]
    damage(last / "state.npz")
    said = finish(folder, words_of(name)).said
    assert "state.npz is" in said and "going on after iteration" in said
    same(folder, undisturbed(name).contents, f"{name}, iteration {damage.__name__}")
    COUNTS.add("damaged checkpoints")


@pytest.mark.slow
def test_a_run_whose_iterations_are_all_damaged_starts_again(unfinished, undisturbed, place):
    name = "classify-paper"
    folder = place / f"{name}-all-damaged"
    shutil.copytree(unfinished[name], folder)
    for iteration in checkpoint.folders(folder / "out"):
        truncated(iteration / "state.npz")
    assert "starting again" in finish(folder, words_of(name)).said
    same(folder, undisturbed(name).contents, "all damaged")


def test_no_checkpoint_runs_what_is_in_it(unfinished, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(unfinished["classify-paper"] / "out", output)
    settings = settings_of(output)
    last = checkpoint.folders(output)[0]
    with np.load(last / "state.npz") as arrays:
        values = dict(arrays)
    values["alpha"] = np.array([print], dtype=object)  # would be unpickled
    size = (last / "state.npz").stat().st_size
    np.savez(last / "state.npz", **values)
    meta = json.loads((last / "meta.json").read_text())
    meta["files"]["state.npz"] = (last / "state.npz").stat().st_size
    assert size != meta["files"]["state.npz"] and zipfile.is_zipfile(last / "state.npz")
    del meta["checksum"]
    meta["checksum"] = checkpoint._checksum(meta)
    (last / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(checkpoint.DamagedError, match="allow_pickle=False"):
        checkpoint.load(last, settings)
