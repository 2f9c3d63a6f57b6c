"""Every row of every form says what it means, and the tutorial names rows that exist."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
NUMBERS = {"FloatParam", "IntParam"}
# A number's unit, in the row's label or help; or a word that says that it has none.
UNIT = re.compile(
    r"\bÅ|\bdeg(rees)?\b|°|\bvoxels?\b|\bµm\b|\bseconds?\b|\bsecs\b|\bstandard deviations?\b|"
    r"\bshells?\b|\bcycles\b|\bvariances?\b|\bratio\b|\bfactor\b|\bsteps?\b|\bpasses\b|"
    r"\bnumber\b|\bhow many\b|\bat most\b|\bat least\b|\bthis many\b|\btimes\b|\bprobability\b|"
    r"\(s\)|\bGB\b|\b0 to 1\b|\bcount\b|\bseed\b|\bcorrelation\b|%", re.IGNORECASE)


pytestmark = pytest.mark.skipif(not TUTORIAL.is_file(), reason="needs the repository")


@pytest.fixture(scope="module")
def doc_pages(scipion_workspace):
    """The module of tools/, which is no package."""
    spec = importlib.util.spec_from_file_location("doc_pages", ROOT / "tools" / "doc_pages.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["doc_pages"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def own_rows(doc_pages):
    for name, cls in doc_pages.protocols().items():
        for row in doc_pages.rows_of(cls):
            if row.section not in doc_pages.OF_SCIPION and not row.is_hidden:
                yield name, row


def test_every_row_has_a_help_text(doc_pages):
    bare = [f"{name}.{row.name}" for name, row in own_rows(doc_pages) if len(row.help) < 10]
    assert not bare


def test_every_quantity_has_its_unit(doc_pages):
    bare = [f"{name}.{row.name}: {row.label}: {row.help}" for name, row in own_rows(doc_pages)
            if row.kind in NUMBERS and not UNIT.search(f"{row.label} {row.help}")]
    assert not bare


def test_conditions_are_told_in_words(doc_pages):
    odd = [f"{name}.{row.name}: {row.condition}" for name, row in own_rows(doc_pages)
           if re.search(r"[=`&]", row.condition)]
    assert not odd


def test_every_protocol_has_its_verb_and_a_note_on_its_result(doc_pages):
    for name, cls in doc_pages.protocols().items():
        note = ROOT / "docs" / "notes" / f"{name}.md"
        assert note.is_file(), f"tell in {note.relative_to(ROOT)} how to read the result"
        assert doc_pages.tree_path(name), f"{name} is not in protocols.conf"
        assert doc_pages.verbs_of(cls), f"no verb of {name} was found in its code"


def tutorial_steps(doc_pages):
    """The steps in the window: protocol's class, path in the tree, and rows with their values."""
    classes = {cls._label: cls for cls in doc_pages.protocols().values()}
    parts = re.findall(r"\*\*In the window:\*\* (.*?)\n\n(\|.*?)\n\n", TUTORIAL.read_text(),
                       re.DOTALL)
    assert len(parts) == 5
    for where, table in parts:
        *path, label = re.findall(r"\*([^*]+)\*", where)
        rows = {row.label: row for row in doc_pages.rows_of(classes[label])}
        values = []
        for line in table.splitlines()[2:]:
            name, value = (cell.strip() for cell in line.strip("|").split("|"))
            # `Size (voxels): x` is the row x of the line Size.
            of_line = re.sub(r"^(.*) (\(.*\)): (.*)$", r"\1: \3 \2", name)
            assert name in rows or of_line in rows, f"{label} has no row {name}"
            values.append((rows.get(name) or rows[of_line], value))
        yield classes[label], path, values


def test_the_tutorial_names_rows_and_protocols_that_exist(doc_pages):
    for cls, path, values in tutorial_steps(doc_pages):
        assert doc_pages.tree_path(cls.__name__) == " > ".join(path)
        assert values


@pytest.mark.slow
def test_the_tutorials_forms_lead_to_the_truth(doc_pages, project):
    runs = []
    for cls, _, values in tutorial_steps(doc_pages):
        protocol = project.new(cls.__name__)
        for row, value in values:
            attribute = getattr(protocol, row.name)
            if source := re.fullmatch(r"the output \*(\w+)\* of step (\d)", value):
                attribute.set(runs[int(source[2]) - 1])
                attribute.setExtended(source[1])
            else:
                attribute.set(value == "Yes" if row.kind == "BooleanParam" else value)
        runs.append(project.finished(protocol))
    judged = runs[-1].results()
    assert judged["picks"]["recall"] == 1.0
    assert judged["classes"]["f1_mean"] > 0.95
    assert judged["poses"]["rotation_median_deg"] < 3.0


def test_the_queue_of_the_facility_page_makes_a_script(doc_pages, tmp_path):
    from pyworkflow.protocol import HostConfig

    text = (ROOT / "docs" / "facility.md").read_text()
    (block,) = re.findall(r"^```text\n(\[localhost\].*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "hosts.conf").write_text(block)
    host = HostConfig.load(str(tmp_path / "hosts.conf"))["localhost"]
    values = {**host.getQueuesDefault(), "JOB_QUEUE": next(iter(host.queueSystem.queues)),
              "JOB_NAME": "7", "JOB_THREADS": 4, "JOB_LOGS": str(tmp_path / "7"),
              "JOB_COMMAND": "echo done", "JOB_SCRIPT": str(tmp_path / "7.job"), "JOB_ID": "12"}
    script = host.getSubmitTemplate() % values
    assert "\n#SBATCH --cpus-per-task=4" in script, script
    (tmp_path / "7.job").write_text(script)
    done = subprocess.run(["bash", str(tmp_path / "7.job")], capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr
    assert host.getSubmitCommand() % values == f"sbatch {tmp_path / '7.job'}"
    assert host.getCancelCommand() % values == "scancel 12"
