"""The pipelines under examples/: what they call exists, and they run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from scipion_faml.cli import VERBS, main
from scipion_faml.cli import run as run_verb

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "pipeline"
SCRIPTS = [FOLDER / "pipeline.sh", FOLDER / "Snakefile"]
SNAKEMAKE = os.environ.get("SNAKEMAKE") or shutil.which("snakemake")


def calls(text):
    """Verb and options of every call of scipion-faml in a script; a call ends with its words."""
    text = text.replace("\\\n", " ")
    text = re.sub(r"\"\n\s*\"", "", text)  # strings of Python that follow each other
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            continue
        found = re.search(r"(?:scipion-faml|step \w+ \S+)\s+([a-z][a-z-]+)\s(.*)", line)
        if found and found[1] in VERBS:
            yield found[1], re.findall(r"(?<!\S)--[a-z-]+", found[2])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_verbs_and_options_of_a_pipeline_exist(path):
    found = list(calls(path.read_text()))
    assert {verb for verb, _ in found} >= {
        "extract", "join-particles", "classify", "evaluate-orientations", "reports"}
    for verb, options in found:
        known = {name for option in main.get_command(None, verb).params for name in option.opts}
        assert set(options) <= known, verb


def test_settings_are_verbs_and_options_too():
    settings = yaml.safe_load((FOLDER / "config.yaml").read_text())
    script = dict(re.findall(r"\"\$\{(\w+):=(.*?)\}\"", (FOLDER / "pipeline.sh").read_text()))
    picker, *options = settings["pick"].split()
    assert picker in VERBS
    for verb, words in ((picker, options), ("extract", settings["extract"].split()),
                        ("classify", settings["classify"].split())):
        known = {name for option in main.get_command(None, verb).params for name in option.opts}
        assert {word for word in words if word.startswith("--")} <= known
    for name in ("pick", "extract", "classify", "tilt_min", "tilt_max"):
        assert str(settings[name]) == script[name.upper()], name


def test_the_snakefile_uses_the_settings_that_there_are():
    settings = yaml.safe_load((FOLDER / "config.yaml").read_text())
    text = (FOLDER / "Snakefile").read_text()
    assert set(re.findall(r"config\[[\"'](\w+)[\"']\]", text)) == set(settings)


def test_bash_reads_the_script():
    done = subprocess.run(["bash", "-n", str(FOLDER / "pipeline.sh")], capture_output=True)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------ run
@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with two tomograms and one that is none."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "data").mkdir()
    for number in (1, 2):
        made = folder / f"made{number}"
        assert run_verb([
            "simulate-tomogram", "--model", "groel", "--count", "6", "--shape", "72,72,40",
            "--voxel-size", "20", "--snr", "0.2", "--optics", "none", "--seed", str(number),
            "--output", str(made)]) == 0
        (made / "tomogram.mrc").rename(folder / "data" / f"tomo {number}.mrc")
    (folder / "data" / "zz.mrc").write_text("no tomogram")
    return folder / "data"


SETTINGS = {"PICK": "pick-dog --diameter 200", "EXTRACT": "--box 16 --pad", "JOBS": "2",
            "WORKERS": "2",
            "CLASSIFY": "--classes 1 --low-pass 60 --iterations 6 --mode paper --bandwidth 8"}


def environment():
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env.pop("FAML_NO_REPORT", None)
    return env


def pipeline(data, out, **settings):
    env = {**environment(), **SETTINGS, **settings}
    return subprocess.Popen(["bash", str(FOLDER / "pipeline.sh"), str(data), str(out)], env=env,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_script_survives_a_bad_tomogram_and_being_stopped(data, tmp_path):
    out, whole = tmp_path / "my out", tmp_path / "whole"
    first = pipeline(data, out)
    deadline = time.monotonic() + 120
    while not list(out.glob("classes-*/iter_002")):
        assert first.poll() is None and time.monotonic() < deadline, first.stderr.read()
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=30)
    assert first.returncode == 1
    (status,) = out.glob("classes-*/status.json")
    assert json.loads(status.read_text())["state"] == "stopped"
    again = pipeline(data, out)
    said, errors = again.communicate(timeout=200)
    assert again.returncode == 1  # one failed
    assert "zz failed: pick: error:" in errors and "zz.mrc" in errors
    assert said.strip() == str(out / "session.html") and (out / "session.html").is_file()
    assert "continuing after iteration" in (out / "classes" / "classify.log").read_text()
    other = pipeline(data, whole)
    other.communicate(timeout=200)
    for name in ("particles.star", "classes/class_001.mrc", "classes/particles.star"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    result = json.loads((out / "join.json").read_text())
    assert result["n_tomograms"] == 2 and result["n_particles"] >= 8


@pytest.mark.slow
def test_what_is_finished_is_not_repeated_and_new_tomograms_are_added(data, tmp_path):
    some, out = tmp_path / "some", tmp_path / "out"
    some.mkdir()
    os.link(data / "tomo 1.mrc", some / "tomo 1.mrc")
    assert pipeline(some, out, CLASSIFY=SETTINGS["CLASSIFY"].replace("6", "1")).wait(200) == 0
    picks = out / "tomograms" / "tomo 1" / "picks.star"
    stamp, old = picks.stat().st_mtime_ns, os.readlink(out / "classes")
    os.link(data / "tomo 2.mrc", some / "tomo 2.mrc")
    assert pipeline(some, out, CLASSIFY=SETTINGS["CLASSIFY"].replace("6", "1")).wait(200) == 0
    assert picks.stat().st_mtime_ns == stamp
    assert os.readlink(out / "classes") != old and (out / old).is_dir()
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = pipeline(empty, tmp_path / "other")
    assert "no tomogram" in nothing.communicate(timeout=20)[1] and nothing.returncode == 2


@pytest.mark.slow
@pytest.mark.skipif(not SNAKEMAKE, reason="no snakemake: install it into an environment of its own "
                    "and name it in SNAKEMAKE")
def test_the_snakefile_gives_the_same_bits(data, tmp_path):
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(FOLDER / name, tmp_path)
    command = [
        SNAKEMAKE, "--cores", "2", "--keep-going", "--config", f"tomograms={data}",
        "output=out", "threads=1", "classify_threads=2", "leave_out=[\"zz\"]",
        *(f"{name}={SETTINGS[name.upper()]}" for name in ("pick", "extract", "classify"))]
    for expected in ("(100%) done", "Nothing to be done"):
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True,
                              text=True, timeout=300)
        assert done.returncode == 0 and expected in done.stdout + done.stderr, done.stderr
    whole = tmp_path / "whole"
    pipeline(data, whole).communicate(timeout=200)
    for name in ("particles.star", "classes/class_001.mrc"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes(), name
