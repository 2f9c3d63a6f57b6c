"""docs/ALGORITHM.md names functions, kernels and tests that exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    line for line in (ROOT / "docs" / "ALGORITHM.md").read_text().splitlines()
    if line.startswith("| ") and "`test" in line
]


def test_every_equation_has_a_row():
    numbers = set()
    for row in ROWS:
        head = row.split("|")[1].split(",")[0]
        if match := re.match(r" (\d+)(?: (to|and) (\d+))?", head):
            low, high = int(match[1]), int(match[3] or match[1])
            numbers |= set(range(low, high + 1))
    assert numbers == set(range(1, 16))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_a_row_names_what_exists(row):
    tests = "\n".join(p.read_text() for p in sorted((ROOT / "tests").glob("test_*.py")))
    for name in re.findall(r"`([^`]*)`", row):
        if name.startswith("test_"):
            assert f"def {name}(" in tests, name
        elif name.startswith("_"):
            assert (ROOT / "cython_ext" / f"{name}.pyx").is_file(), name
        elif "/" in name:
            assert (ROOT / name).is_file(), name
        elif "." in name:
            module, attribute = name.rsplit(".", 1)
            assert hasattr(importlib.import_module(f"scipion_faml.{module}"), attribute), name
