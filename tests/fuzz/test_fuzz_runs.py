"""Output folders whose records and checkpoints are damaged: continued, begun again, or refused."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from fuzz.builders import folder, particles
from fuzz.harness import call, cases, check_nobody_lost, check_written
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.fuzz


@cache
def finished_run(mode: str) -> Path:
    """A small finished run of classify with its input: copied for every case."""
    where = Path(mkdtemp(prefix="faml-fuzz-run-"))
    particles(where, 4)
    assert call(*_command(where, mode, 2)).status == 0
    return where


@pytest.fixture(scope="module", autouse=True)
def removed():
    yield
    for mode in ("paper", "enhanced"):
        if finished_run.cache_info().currsize:
            shutil.rmtree(finished_run(mode), ignore_errors=True)
    finished_run.cache_clear()


def _command(where, mode, iterations):
    more = ["--starts", 1, "--folds", 1] if mode == "enhanced" else []
    return ["classify", where / "particles.star", "--mode", mode, "--iterations", iterations,
            "--classes", 1, "--workers", 1, "--output", where / "out", *more]


def _spoil(path: Path, kind: str, where: int, value: bytes) -> None:
    """Damage a file."""
    content = path.read_bytes()
    at = where % (len(content) + 1)
    if kind == "gone":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(content[:at])
    elif kind == "changed":
        path.write_bytes(content[:at] + value + content[at + len(value):])
    elif kind == "text":
        path.write_bytes(value)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        _spoil_json(path, where, value)


def _spoil_json(path: Path, where: int, value: bytes) -> None:
    """Change an entry of a JSON file, or its kind."""
    try:
        whole = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError):
        path.write_bytes(value)
        return
    replacement = [None, 0, -1, "text", [], {}, float("1e300"), True][where % 8]
    part = whole
    for _ in range(where % 4):
        inner = [v for v in part.values() if isinstance(v, dict) and v] if isinstance(
            part, dict) else []
        if not inner:
            break
        part = inner[where % len(inner)]
    if isinstance(part, dict) and part:
        key = sorted(part)[where % len(part)]
        if where % 3:
            part[key] = replacement
        else:
            del part[key]
    else:
        whole = replacement
    path.write_text(json.dumps(whole))


KINDS = ["gone", "empty", "cut", "changed", "text", "json", "json", "json", "folder"]
damage = st.lists(st.tuples(
    st.integers(0, 60), st.sampled_from(KINDS), st.integers(0, 10**6),
    st.one_of(st.binary(max_size=30), st.sampled_from([b"{}", b"[]", b"null", b"\x00" * 16]))),
    min_size=1, max_size=3)


def _damaged(where: Path, changes, only: str = "") -> None:
    for number, kind, at, value in changes:
        files = sorted(p for p in (where / "out").rglob(only or "*") if p.is_file())
        if files:
            _spoil(files[number % len(files)], kind, at, value)


@cases(700, at_least=12)
@given(changes=damage, iterations=st.sampled_from([1, 2, 3]), is_finished=st.booleans(),
       overwrite=st.booleans(), only=st.sampled_from(["", "*.json", "state.npz", "iter_*/*"]))
def test_a_damaged_folder_of_paper_mode(changes, iterations, is_finished, overwrite, only):
    _try("paper", changes, iterations, is_finished, overwrite, only)


@cases(80, at_least=3)
@given(changes=damage, iterations=st.sampled_from([1, 2, 3]), is_finished=st.booleans(),
       overwrite=st.booleans(), only=st.sampled_from(["", "*.json", "*.npz"]))
def test_a_damaged_folder_of_enhanced_mode(changes, iterations, is_finished, overwrite, only):
    _try("enhanced", changes, iterations, is_finished, overwrite, only)


def _try(mode, changes, iterations, is_finished, overwrite, only):
    with folder() as case:
        where = case / "run"
        shutil.copytree(finished_run(mode), where, symlinks=True)
        for path in where.rglob("*.json"):  # the run was made under another name
            path.write_text(path.read_text().replace(str(finished_run(mode)), str(where)))
        if not is_finished:
            (where / "out" / "run.json").unlink()
        _damaged(where, changes, only)
        done = call(*_command(where, mode, iterations), *(["--overwrite"] if overwrite else []))
        if done.status == 0 and (overwrite or not is_finished):
            assert done.result["particles"] == 4
            check_nobody_lost(done.result, 4, where / "out")
        if done.status == 0 and overwrite:
            check_written(where / "out")


@cases(200, at_least=6)
@given(changes=damage, verb=st.sampled_from(["fsc", "compare-runs", "noise-control", "average"]))
def test_verbs_that_read_a_damaged_run(changes, verb):
    with folder() as case:
        where = case / "run"
        shutil.copytree(finished_run("paper"), where)
        _damaged(where, changes)
        out = where / "out"
        words = {
            "fsc": ["fsc", out],
            "compare-runs": ["compare-runs", out, finished_run("paper") / "out", "--no-averages"],
            "noise-control": ["noise-control", out, "--workers", 1, "--output", case / "noise"],
            "average": ["average", out / "particles.star", "--workers", 1, "--output",
                        case / "average"],
        }[verb]
        call(*words)
