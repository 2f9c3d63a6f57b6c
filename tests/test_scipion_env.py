"""The environment that Scipion is started in: made without importing Scipion."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from scipion_faml import scipion_env

VARIABLES = ("SCIPION_DOMAIN", "SCIPION_HOME", "SCIPION_PYTHON", "SCIPION_NOTIFY",
             "SCIPION_USER_DATA", "SCIPION_PRIORITY_PACKAGE_LIST")


@pytest.fixture
def no_scipion(monkeypatch):
    """No variable of Scipion is set; what the test sets is undone."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_workspace_is_ready_for_scipion(tmp_path, no_scipion):
    folder = scipion_env.set_up(tmp_path / "workspace")
    assert (folder / "projects").is_dir() and (folder / "config" / "hosts.conf").is_file()
    assert os.environ["SCIPION_USER_DATA"] == str(folder)
    assert os.environ["SCIPION_DOMAIN"] == "pwem"
    assert os.environ["SCIPION_PYTHON"] == sys.executable
    scipion_env.set_up(folder)  # again, over what is there


def test_an_installed_scipion_keeps_its_settings(tmp_path, no_scipion, monkeypatch):
    monkeypatch.setenv("SCIPION_HOME", "/opt/scipion")
    monkeypatch.setenv("SCIPION_PYTHON", "/opt/scipion/python")
    folder = scipion_env.set_up(tmp_path)
    assert os.environ["SCIPION_HOME"] == "/opt/scipion"
    assert os.environ["SCIPION_PYTHON"] == "/opt/scipion/python"
    assert os.environ["SCIPION_USER_DATA"] == str(folder)
    assert not (folder / "config").exists()


def test_a_path_with_spaces_is_refused(tmp_path, no_scipion):
    with pytest.raises(OSError, match="path with spaces"):
        scipion_env.set_up(tmp_path / "my data")


def test_a_python_without_tkinter_is_told_the_package(tmp_path, monkeypatch, no_scipion):
    def without_tkinter(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", without_tkinter)
    with pytest.raises(OSError, match="apt-get install python3-tk"):
        scipion_env.set_up(tmp_path)


def test_the_window_command_says_what_is_missing_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "scipion_faml.scipion_env", "gui", str(tmp_path)],
        capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "no Scipion project" in done.stderr
    done = subprocess.run([sys.executable, "-m", "scipion_faml.scipion_env"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage" in done.stderr


def test_without_a_display_the_window_command_says_so(tmp_path, monkeypatch):
    project = tmp_path / "projects" / "one"
    project.mkdir(parents=True)
    (project / "project.sqlite").touch()
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    done = subprocess.run(
        [sys.executable, "-m", "scipion_faml.scipion_env", "gui", str(tmp_path)],
        capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "no window can be opened" in done.stderr


def test_the_newest_project_is_opened(tmp_path):
    for age, name in ((2, "old"), (1, "new")):
        folder = tmp_path / "projects" / name
        folder.mkdir(parents=True)
        (folder / "project.sqlite").touch()
        os.utime(folder, (1e9 - age, 1e9 - age))
    assert scipion_env.only_project(tmp_path).name == "new"


def test_an_empty_project_is_made_and_not_made_twice(tmp_path):
    command = [sys.executable, "-m", "scipion_faml.scipion_env", "new", str(tmp_path / "w"), "mine"]
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    first, second = (subprocess.run(command, capture_output=True, text=True, env=environment)
                     for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert scipion_env.only_project(tmp_path / "w") == tmp_path / "w" / "projects" / "mine"
    assert second.returncode == 2 and "exists: choose another name" in second.stderr


# ------------------------------------------------------------------------------------ workflows
def command(*words):
    return subprocess.run([sys.executable, "-m", "scipion_faml.scipion_env", *map(str, words)],
                          capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words, said", [
    (("nonsense", "p"), "nonsense is no workflow: give a file, or one of demo, tomograms_"),
    (("tomograms_size", "p", "diametre=3"), "diametre=3 is no field of tomograms_size.json.template"
     ": use tomograms=., pattern=*.mrc"),
    (("tomograms_size", "p", "diameter"), "diameter is no field"),
    (("tomograms_size", "p", "tomograms=/a=b"), "no = in a value: rename"),
    (("tomograms_size", "old"), "exists: choose another name"),
])
def test_mistakes_in_a_workflow_command_are_one_line_with_a_way_out(tmp_path, words, said):
    pytest.importorskip("scipion")
    (tmp_path / "projects" / "old").mkdir(parents=True)
    done = command("template", tmp_path, *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr
