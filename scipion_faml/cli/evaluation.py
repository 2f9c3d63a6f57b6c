"""What all verbs that compare results with known answers share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from scipion_faml import __version__
from scipion_faml.cli.common import plain, show
from scipion_faml.cli.reporting import RunReport
from scipion_faml.cli.runs import file_stamp, report_beside
from scipion_faml.cli.tomograms import FILE
from scipion_faml.disk import replacing
from scipion_faml.tables import CLASS_NAME_COLUMN, MOST_CLASSES, ParticleTable
from scipion_faml.types import IntArray

truth_option = click.option(
    "--truth", required=True, type=FILE, help="STAR file with the known answers."
)
report_option = click.option(
    "--report", default=None, type=FILE,
    help="Write figures and tables to this HTML file.  [default: beside --output]"
)
output_option = click.option(
    "--output", default=None, type=FILE, help="Write the result to this JSON file."
)


def page_of(verb: str, report: Path | None, output: Path | None) -> RunReport:
    """Return the report of an evaluation: to be written to `report`, or beside `output`."""
    path = report or (report_beside(output) if output is not None else None)
    return RunReport(path, verb, output, is_asked_for=report is not None)


def evaluate_once(
    verb: str, output: Path | None, settings: dict[str, Any], inputs: list[Path],
    overwrite: bool, as_json: bool, work: Callable[[], dict[str, Any]],
    page: RunReport | None = None,
) -> None:
    """Do `work` and print what it returns; with `output`, keep it there and do not repeat it.

    `page` is the report (`page_of`) that `work` fills; it is completed and written here.
    """
    for path in inputs:
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
    record = plain({
        "verb": verb, "version": __version__, **settings,
        "inputs": {str(path): file_stamp(path) for path in inputs},
    })
    known = _recorded(output) if output is not None else None
    if known is not None and known.get("run") == record:
        click.echo(f"{output} holds this evaluation, finished: nothing to do", err=True)
        show({k: v for k, v in known.items() if k != "run"}, as_json)
        return
    if output is not None and output.exists() and not overwrite:
        raise ValueError(f"{output} holds something else: choose another --output or --overwrite")
    result = plain(work())
    if page is not None:
        page.inputs = record["inputs"]
        page.complete(result)
    if output is not None:
        with replacing(output) as temporary:
            temporary.write_text(json.dumps({**result, "run": record}, indent=1))
    show(result, as_json)


def _recorded(output: Path) -> dict[str, Any] | None:
    """What an earlier evaluation left in `output`, if it is one."""
    try:
        known = json.loads(output.read_text())
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) else None


def classes_of(table: ParticleTable) -> IntArray:
    """Return rlnClassNumber, else famlModel numbered from 1 by the alphabet, else 1 for all."""
    if "rlnClassNumber" in table.rows:
        return table.whole_numbers("rlnClassNumber", -MOST_CLASSES, MOST_CLASSES)
    if CLASS_NAME_COLUMN in table.rows:
        names = table.rows[CLASS_NAME_COLUMN].astype(str).to_numpy()
        return np.asarray(np.unique(names, return_inverse=True)[1] + 1, dtype=np.intp)
    return np.ones(len(table), dtype=np.intp)


def class_names(truth: ParticleTable) -> dict[int, str]:
    """Return names of true classes: the structure's where the truth says it."""
    labels = classes_of(truth)
    if CLASS_NAME_COLUMN not in truth.rows:
        return {int(label): f"class {label}" for label in np.unique(labels)}
    models = truth.rows[CLASS_NAME_COLUMN].to_numpy()
    return {int(label): str(models[labels == label][0]) for label in np.unique(labels)}
