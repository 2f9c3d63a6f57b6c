"""Workflow templates: what stands in them fits the forms, and they run without a window."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import scipion_faml
from scipion_faml import scipion_env

FOLDER = Path(scipion_faml.__file__).parent / "templates"
TEMPLATES = sorted(FOLDER.glob("*.json.template"))
SIX = ["1 simulate tomograms", "2 pick particles", "3 extract subtomograms",
       "4 classify and average", "5 validate", "6 evaluate against the truth"]


def test_there_are_templates_for_every_picker_and_a_demonstration():
    names = {path.name.split(".")[0] for path in TEMPLATES}
    assert names == {"demo", "tomograms_size", "tomograms_template", "tomograms_detector"}


@pytest.fixture(params=TEMPLATES, ids=lambda path: path.name.split(".")[0])
def template(request, domain):
    from pyworkflow.template import LocalTemplate

    one = LocalTemplate("scipion_faml", str(request.param))
    one.replaceEnvVariables()
    one.parseContent()
    return one


def test_scipion_finds_them_with_the_plugin(domain):
    found = domain.getPlugins()["scipion_faml"]._pluginInstance.getTemplates()
    assert {t.getObjId() for t in found} == {
        f"scipion_faml-{path.name.split('.')[0]}" for path in TEMPLATES}


def test_every_field_has_a_name_for_the_command_line_and_a_default_that_fits(template):
    assert template.description.endswith(".") and len(template.description) > 80
    fields = list(template.getParams().values())
    # Fields are known by their titles: of two with one title the first would never be filled.
    assert 2 * len(fields) + 1 == len(template.content)
    for field in fields:
        assert field.getAlias().isidentifier()
        if field.getType() not in (2, 6):  # files and folders of the user
            assert field.validate() is None, field.getTitle()
        assert field.getType() != 1  # the window answers Yes and No, which it then refuses
    assert "".join(template.content).isascii()


def test_our_command_knows_the_fields_of_every_workflow(template):
    path = scipion_env.workflows()[template.name]
    assert scipion_env.fields_of(path) == {
        field.getAlias(): str(field.getValue()) for field in template.getParams().values()}


def test_a_workflow_begins_with_one_run(template):
    """Scipion's schedule.py starts what follows two runs twice, in the same folder."""
    template._replaceFields()
    text = "".join(template.content)
    first = [one["object.label"] for one in json.loads(text)
             if not any(name.startswith("input") for name in one)]
    assert len(first) == 1


def test_rows_exist_and_inputs_are_outputs_of_runs_before(template, domain, project):
    template._replaceFields()
    protocols = json.loads("".join(template.content))
    classes = domain.getProtocols()
    outputs = {}
    for one in protocols:
        kind = classes[one["object.className"]]
        run = project.project.newProtocol(kind, objLabel=one["object.label"])
        rows = dict(run.iterDefinitionAttributes())
        given = {name: value for name, value in one.items()
                 if not name.startswith("object.") and name != "_prerequisites"}
        assert one.get("_prerequisites", one["object.id"]) <= one["object.id"]
        for name, value in given.items():
            assert name in rows, f"{one['object.label']}: {name}"
            if rows[name].isPointer():
                source, output = value.split(".")
                assert output in outputs[source], f"{one['object.label']}: {value}"
            else:
                rows[name].set(value)
                assert rows[name].get() == value
        outputs[one["object.id"]] = [
            name if isinstance(name, str) else name.name for name in kind._possibleOutputs or ()]
        if one["object.className"].startswith("ProtFaml"):
            assert run.getObjLabel() == one["object.label"]


# ----------------------------------------------------------------------------- without a window
class Headless:
    """A workspace in which `python -m scipion template` makes and runs projects."""

    def __init__(self, folder):
        pytest.importorskip("scipion")
        self.folder = folder
        (folder / "projects").mkdir(parents=True)
        (folder / "config").mkdir()
        from scipion_faml.scipion_env import HOSTS

        (folder / "config" / "hosts.conf").write_text(HOSTS)
        self.env = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder),
            "SCIPION_HOME": str(folder), "SCIPION_USER_DATA": str(folder),
            "SCIPION_DOMAIN": "pwem", "SCIPION_NOTIFY": "False", "FAML_NO_REPORT": "1",
            "SCIPION_PYTHON": sys.executable, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
            "SCIPION_HOSTS": str(folder / "config" / "hosts.conf")}

    def start(self, workflow, name, /, **values):
        words = [f"{key}={value}" for key, value in values.items()]
        log = self.folder / "template.log"
        with open(log, "w") as said:  # no pipe: the runs that it starts hold it open
            done = subprocess.run(
                [sys.executable, "-m", "scipion", "template",
                 str(FOLDER / f"{workflow}.json.template"), *words, f"project_name={name}",
                 "--nogui"],
                env=self.env, cwd=self.folder, stdout=said, stderr=said, timeout=200)
        assert done.returncode == 0, log.read_text()
        assert "DISPLAY" not in self.env
        project = self.folder / "projects" / name
        assert (project / "project.sqlite").is_file(), log.read_text()
        return project

    def end(self):
        """End what still waits or runs in this workspace."""
        import psutil

        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.folder):
                    process.kill()
            except (psutil.Error, OSError):
                continue

    @staticmethod
    def statuses(project):
        """state of the runs of this plugin by their labels, as a monitor reads them."""
        found = {}
        for path in sorted(project.glob("Runs/*/extra/status.json")):
            status = json.loads(path.read_text())
            found[status["run"]["label"]] = status
        return found

    def wait(self, project, labels, seconds=900):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.statuses(project)
            failed = {k: s["message"] for k, s in found.items() if s["state"] == "failed"}
            assert not failed, failed
            if all(found.get(label, {}).get("state") == "finished" for label in labels):
                return found
            time.sleep(2)
        raise AssertionError({k: (s["state"], s["step"]) for k, s in found.items()})


@pytest.fixture
def headless(tmp_path):
    one = Headless(tmp_path / "scipion")
    yield one
    one.end()


@pytest.mark.slow
def test_the_demonstration_runs_without_a_window(headless):
    project = headless.start(
        "demo", "session1", structures="ribosome, groel", particles=16, tomograms=2, snr=0.05,
        classes=2, iterations=4, lowPass=40, groups="C1, D7", threads=2)
    found = headless.wait(project, SIX)
    assert found[SIX[1]]["run"]["counts"]["tomograms"] == 2
    assert found[SIX[2]]["run"]["counts"]["particles"] > 20
    assert sum(found[SIX[3]]["class_sizes"]) == found[SIX[2]]["run"]["counts"]["particles"]
    (picks,) = project.glob("Runs/*PickDog/extra/tomogram_02/picks.star")
    assert picks.is_file()


def view_of(project):
    from pyworkflow.project.config import ProjectSettings

    return ProjectSettings.load(str(project / "settings.sqlite")).getProtocolView()


def test_a_new_project_lists_tomography_first(tmp_path, domain):
    done = subprocess.run(
        [sys.executable, "-m", "scipion_faml.scipion_env", "new", str(tmp_path), "one"],
        capture_output=True, text=True, timeout=100,
        env={k: v for k, v in os.environ.items() if not k.startswith("SCIPION")})
    assert done.returncode == 0, done.stderr
    assert view_of(tmp_path / "projects" / "one") == "Tomography"


@pytest.mark.slow
def test_our_command_runs_a_workflow_in_an_empty_folder(tmp_path):
    pytest.importorskip("scipion")
    workspace = Headless(tmp_path / "scipion")
    environment = {k: v for k, v in os.environ.items()
                   if not k.startswith("SCIPION") and k != "DISPLAY"}
    done = subprocess.run(
        [sys.executable, "-m", "scipion_faml.scipion_env", "template", str(workspace.folder),
         "demo", "session3", "particles=12", "tomograms=1", "iterations=2", "lowPass=60"],
        env={**environment, "FAML_NO_REPORT": "1"}, capture_output=True, text=True, timeout=200)
    try:
        assert done.returncode == 0, done.stderr
        found = workspace.wait(Path(done.stdout.strip()), SIX)
    finally:
        workspace.end()
    assert found[SIX[3]]["state"] == "finished"
    assert view_of(Path(done.stdout.strip())) == "Tomography"


@pytest.mark.slow
@pytest.mark.parametrize("template, more", [
    ("tomograms_size", {"diameter": 200}),
    ("tomograms_template", {"template": "maps/groel.mrc", "templateSymmetry": "D7"}),
    ("tomograms_detector", {"box": 16}),
])
def test_tomograms_of_a_folder_become_classes_without_a_window(tmp_path, headless, template, more):
    from scipion_faml.cli import run

    if template == "tomograms_detector":
        pytest.importorskip("torch")
    data = tmp_path / "data"
    for number in (1, 2):
        assert run(["simulate-tomogram", "--model", "groel", "--count", "8", "--shape",
                    "80,80,40", "--voxel-size", "20", "--snr", "0.2", "--optics", "none",
                    "--seed", str(number), "--output", str(tmp_path / f"s{number}")]) == 0
        data.mkdir(exist_ok=True)
        os.link(tmp_path / f"s{number}" / "tomogram.mrc", data / f"session_{number}.mrc")
    if "template" in more:
        more = {**more, "template": str(tmp_path / "s1" / more["template"])}
    project = headless.start(
        template, "session2", tomograms=data, pattern="*.mrc", voxelSize=20.0, tiltMin=-60,
        tiltMax=60, tiltStep=3, dark=0, invert=0, bin=1, classes=1, iterations=2, symmetry="C1",
        lowPass=60, threads=2, **more)
    labels = ["3 extract subtomograms", "4 classify and average", "5 validate"]
    found = headless.wait(project, labels)
    assert found["4 classify and average"]["counts"]["particles"] >= 10
