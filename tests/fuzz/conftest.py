"""Counts of the fuzz suite: every test reports its own, the last page of pytest adds them up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def counted(record_property: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add what came of the cases of a test to its report; wait for no file: none comes back."""
    from fuzz import harness

    monkeypatch.setenv("FAML_READ_PATIENCE", "0")
    harness.flush_counts()
    yield
    record_property("fuzz", harness.flush_counts())


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the counts of the whole suite."""
    total: Counter[str] = Counter()
    slowest = 0.0
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "fuzz" and getattr(report, "when", "") == "teardown":
                    slowest = max(slowest, value.pop("slowest"))
                    total.update(value)
    if not total["cases"]:
        return
    lost = {name: total[name] for name in ("tracebacks", "hangs", "silent drops")}
    terminalreporter.section("fuzz")
    terminalreporter.write_line(
        f"cases {total['cases']}: {total['done']} done, {total['refused']} refused with a message; "
        + ", ".join(f"{name} {count}" for name, count in lost.items())
        + f"; the slowest call took {slowest:.1f} s")
