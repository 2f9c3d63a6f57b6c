"""Every row of every form says what it means, and the tutorial names rows that exist."""

from __future__ import annotations

import importlib.util
import re
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
    r"\b0 to 1\b|\bcount\b|\bseed\b|\bcorrelation\b|%", re.IGNORECASE)


@pytest.fixture(scope="module")
def doc_pages(scipion_workspace):
    spec = importlib.util.spec_from_file_location("doc_pages", ROOT / "tools" / "doc_pages.py")
    module = importlib.util.module_from_spec(spec)
    import sys

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
        assert (ROOT / "docs" / "notes" / f"{name}.md").is_file(), name
        assert doc_pages.tree_path(name), name


def test_the_tutorial_names_rows_and_protocols_that_exist(doc_pages):
    classes = {cls._label: cls for cls in doc_pages.protocols().values()}
    parts = re.findall(r"\*\*In the window:\*\* (.*?)\n\n(\|.*?)\n\n", TUTORIAL.read_text(),
                       re.DOTALL)
    assert len(parts) == 5
    for where, table in parts:
        *path, label = re.findall(r"\*([^*]+)\*", where)
        cls = classes[label]
        assert doc_pages.tree_path(cls.__name__) == " > ".join(path)
        rows = {row.label for row in doc_pages.rows_of(cls)}
        for line in table.splitlines()[2:]:
            # `Size (voxels): x` is the row x of the line Size.
            name = line.split("|")[1].strip()
            assert name in rows or re.sub(r"^(.*) (\(.*\)): (.*)$", r"\1: \3 \2", name) in rows, name
