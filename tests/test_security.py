"""What a file, a name or a text of a user's can make the program do: nothing but its work."""

from __future__ import annotations

import ast
import gzip
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scipion_faml.cli import run

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["scipion_faml", "protocols", "viewers", "tools", "examples", "benchmarks", "setup.py"]
HOSTILE = "<script>alert(1)</script>'\"; touch pwned; $(touch pwned) `touch pwned` %s"


class Harmful:
    """Code that a pickle would run when it is read."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Work in an empty folder: what runs there leaves `pwned`."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob("pwned"))


def trees():
    for name in SOURCES:
        path = ROOT / name
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            yield file.relative_to(ROOT), ast.parse(file.read_text())


# --------------------------------------------------------------------------------- the sources
def test_bandit_finds_nothing_but_what_pyproject_explains():
    pytest.importorskip("bandit")
    done = subprocess.run(
        [sys.executable, "-m", "bandit", "-q", "-r", "-c", "pyproject.toml", *SOURCES], cwd=ROOT,
        capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_bandit_as_it_is_set_up_would_find_a_shell_an_eval_and_a_pickle(tmp_path):
    pytest.importorskip("bandit")
    (tmp_path / "bad.py").write_text(
        "import pickle, subprocess\nsubprocess.run('ls ' + name, shell=True)\neval(name)\n"
        "pickle.loads(name)\n")
    done = subprocess.run(
        [sys.executable, "-m", "bandit", "-q", "-c", str(ROOT / "pyproject.toml"), "bad.py"],
        cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert all(name in done.stdout for name in ("B602", "B307", "B301"))


def test_no_source_asks_for_a_shell_or_for_pickled_arrays_or_weights():
    wrong = {("shell", True), ("allow_pickle", True), ("weights_only", False)}
    found = [
        f"{path}:{node.lineno}" for path, tree in trees() for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant)
        and (node.arg, node.value.value) in wrong]
    assert not found


def test_commands_for_scipion_are_quoted_word_by_word():
    # Scipion runs them by a shell: what is given to runJob is sys.executable and a joined line.
    calls = [
        (path, node) for path, tree in trees() for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        and node.func.attr == "runJob"]
    assert {str(path) for path, _ in calls} == {"protocols/protocol_base.py"}
    assert all(ast.unparse(node.args[0]) == "shlex.quote(sys.executable)" for _, node in calls)


# ------------------------------------------------------------------------------------- files
def test_weights_that_hold_code_are_refused_and_do_not_run(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from scipion_faml.io import write_volume

    write_volume(tmp_path / "t.mrc", np.zeros((32, 32, 32), np.float32), 10.0)
    torch.save({"format": "scipion-faml detector", "state": Harmful()}, tmp_path / "zip.pt")
    for protocol in (2, 4):
        (tmp_path / f"plain{protocol}.pt").write_bytes(
            pickle.dumps({"format": Harmful()}, protocol))
    for name in ("zip.pt", "plain2.pt", "plain4.pt"):
        assert run(["pick-detector", "t.mrc", "--weights", name, "--output", "p.star"]) == 2
        assert f"{name} is not a file of this detector" in capsys.readouterr().err


def test_arrays_with_objects_are_refused_where_volumes_are_expected(tmp_path, capsys):
    np.save(tmp_path / "objects.npy", np.array([Harmful()], dtype=object), allow_pickle=True)
    (tmp_path / "volume.mrc").write_bytes((tmp_path / "objects.npy").read_bytes())
    assert run(["fsc", "volume.mrc", "volume.mrc"]) == 2
    assert "volume.mrc" in capsys.readouterr().err


def test_texts_of_a_table_stand_in_the_report_as_texts(tmp_path):
    from scipion_faml.report import Report

    report = Report(HOSTILE, HOSTILE)
    report.in_short([HOSTILE])
    report.add_table(HOSTILE, {HOSTILE: HOSTILE})
    report.add_table(HOSTILE, pd.DataFrame({HOSTILE: [HOSTILE]}))
    report.add_text(HOSTILE, HOSTILE).add_code(HOSTILE, HOSTILE).add_warning(HOSTILE)
    report.add_png(b"", HOSTILE, HOSTILE, HOSTILE)
    report.write(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "alert(1)" in page and "<script>alert" not in page and "onerror=" not in page


# ---------------------------------------------------------------------------- temporary files
def test_what_is_unpacked_elsewhere_lies_in_a_private_folder(tmp_path, monkeypatch):
    import emfile

    from scipion_faml.exchange.volumes import read_em

    with gzip.open("volume.em.gz", "wb") as packed:
        packed.write(b"no matter")
    modes = []

    def noted(path):
        modes.append(stat.S_IMODE(Path(path).parent.stat().st_mode))
        return {}, np.zeros((2, 2, 2))

    monkeypatch.setattr(emfile, "read", noted)
    before = os.umask(0)
    try:
        read_em("volume.em.gz")
    finally:
        os.umask(before)
    assert modes == [0o700]


def test_no_source_names_a_folder_that_all_users_share():
    found = [f"{path}:{node.lineno}" for path, tree in trees() for node in ast.walk(tree)
             if isinstance(node, ast.Constant) and isinstance(node.value, str)
             and node.value.startswith(("/tmp", "/var/tmp", "/dev/shm"))]
    assert not found


# ------------------------------------------------------------------------------------ terminals
def test_names_of_a_table_control_no_terminal(tmp_path, capsys):
    from scipion_faml import star

    pick = {"rlnCoordinateX": 1.0, "rlnCoordinateY": 1.0, "rlnCoordinateZ": 1.0}
    for name, tomogram in (("picks.star", "a\x1b]0;owned\x07\x1e\u2028b"), ("truth.star", "t")):
        rows = pd.DataFrame([pick, pick]).assign(rlnTomoName=["t", tomogram], rlnOpticsGroup=1)
        optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [10.0]})
        star.write(tmp_path / name, {"optics": optics, "particles": rows})
    assert run(["evaluate-picks", "picks.star", "--truth", "truth.star", "--radius", "50"]) == 0
    said = capsys.readouterr().err
    assert r"a\x1b]0;owned\x07" in said and "\x1b" not in said and "\x07" not in said
    assert all(line.startswith("warning: ") or line[2:3] == ":" for line in said.splitlines())
    assert run(["average", "no\x1b[2Jsuch.star"]) == 2
    assert capsys.readouterr().err == "error: no\\x1b[2Jsuch.star does not exist\n"
