"""Tables of results: a row for each setting and method, medians and ranges over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from experiments import Experiment, Setting

HEADER = ("setting", "method", "seeds", "F1", "CC", "CC, whole box", "CC, detail", "FSC 0.5 (A)",
          "rotation, median (deg)", "within 20 deg", "core-s")
FOLD = ("n-fold", "n-fold, detail (truth)")


def markdown(
    experiment: Experiment, results: Sequence[tuple[Setting, str, dict[str, Any]]]
) -> str:
    """Return the table of an experiment in Markdown, with a line on what was wanted."""
    columns = [*HEADER, *(FOLD if experiment.fold else ())]
    if any(setting.n_classes == 0 for setting, _, _ in results):
        columns.append("classes found")
    lines = [f"### {experiment.title}", "", f"Wanted: {experiment.reach}.", ""]
    if experiment.paper:
        lines[2] += f" Paper: {experiment.paper}."
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    rows: dict[tuple[str, str], list[tuple[Setting, dict[str, Any]]]] = {}
    for setting, method, result in results:
        rows.setdefault((setting.name, method), []).append((setting, result))
    for (_, method), group in rows.items():
        lines.append(_row(group[0][0], method, [result for _, result in group], columns))
    return "\n".join(lines)


def _row(
    setting: Setting, method: str, results: Sequence[dict[str, Any]], columns: Sequence[str]
) -> str:
    particles = " + ".join(
        f"{c} {m}" for m, c in zip(setting.models, setting.counts, strict=True))
    found = {
        "setting": f"{particles}, SNR {setting.snr:g}", "method": method, "seeds": len(results),
        "F1": _spread([r["f1"] for r in results], 2) if len(setting.models) > 1 else "",
        "CC": _each(results, "cc", 2), "CC, whole box": _each(results, "cc_box", 2),
        "CC, detail": _each(results, "cc_detail", 2), "FSC 0.5 (A)": _each(results, "fsc_angst", 0),
        "rotation, median (deg)": _spread([r["rotation_median_deg"] for r in results], 1),
        "within 20 deg": _spread([r["fraction_within_20_deg"] for r in results], 2),
        "core-s": f"{np.median([r['core_s'] for r in results]):.0f}",
    }
    if "n-fold" in columns and "fold" in results[0]:
        truth = ", ".join(f"{v:.2f}" for v in results[0]["fold_truth_detail"])
        found["n-fold"] = _each(results, "fold", 2)
        found["n-fold, detail (truth)"] = f"{_each(results, 'fold_detail', 2)} ({truth})"
    if "classes found" in columns:
        counts = [r["n_classes_found"] for r in results]
        right = sum(c == len(setting.models) for c in counts)
        found["classes found"] = f"right {right} of {len(counts)}: {', '.join(map(str, counts))}"
    return "| " + " | ".join(str(found.get(column, "")) for column in columns) + " |"


def _each(results: Sequence[dict[str, Any]], name: str, digits: int) -> str:
    """Median and range of a figure of every class."""
    return "; ".join(_spread(list(values), digits)
                     for values in zip(*(r[name] for r in results), strict=True))


def _spread(values: Sequence[float], digits: int) -> str:
    """Median (smallest to largest)."""
    finite = [v if v is not None else np.nan for v in values]
    median = f"{np.median(finite):.{digits}f}"
    if len(finite) == 1:
        return median
    return f"{median} ({min(finite):.{digits}f} to {max(finite):.{digits}f})"
