"""Inputs of the fault suite, the results of undisturbed runs, and the counts of the whole suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for runs, with their inputs in `inputs`."""
    from faults.inputs import make_inputs

    folder = tmp_path_factory.mktemp("faults")
    make_inputs(folder / "inputs")
    return folder


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing disturbed: its files and how long it took."""

    contents: dict[str, str]
    measured: Any


@pytest.fixture(scope="session")
def undisturbed(place: Path) -> Callable[[str], Undisturbed]:
    """Return the run of a verb on one worker, made once."""
    from faults import runs

    known: dict[str, Undisturbed] = {}

    def find(name: str) -> Undisturbed:
        if name not in known:
            if name in runs.NEEDS_TORCH:
                pytest.importorskip("torch")
            folder = place / f"undisturbed-{name}"
            folder.mkdir()
            measured = runs.measured(folder, runs.words_of(name, "--workers", "1"))
            known[name] = Undisturbed(runs.contents(folder), measured)
        return known[name]

    return find


@pytest.fixture(autouse=True)
def counted(record_property: Any) -> Iterator[None]:
    """Add what a test did to its report."""
    from faults import runs

    runs.COUNTS.numbers.clear()
    yield
    record_property("faults", dict(runs.COUNTS.numbers))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the counts of the whole suite."""
    total: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "faults" and getattr(report, "when", "") == "teardown":
                    total.update(value)
    if total:
        terminalreporter.section("faults")
        for what in ("losses", "left behind"):
            total.setdefault(what, 0)
        terminalreporter.write_line(
            ", ".join(f"{what} {number}" for what, number in sorted(total.items())))
