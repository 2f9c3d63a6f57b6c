"""Runs: what is finished is not repeated, what was killed is done anew."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scipion_faml import __version__
from scipion_faml.cli.common import STATUS, plain, show
from scipion_faml.cli.invocation import invocation_of
from scipion_faml.disk import remove_leftovers, remove_leftovers_of, replacing, write_faults
from scipion_faml.status import FINISHED, StatusFile, read_json

if TYPE_CHECKING:
    from scipion_faml.cli.reporting import RunReport

COUNTED = {"particles", "classes", "iterations"}  # numbers of a result, besides n_...


def file_stamp(path: Path | str) -> str:
    """Return a hash of a file's content: an input that changed makes another run."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:  # in pieces: a tomogram may exceed the memory
        while piece := handle.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()[:16]


def report_beside(path: Path) -> Path:
    """Return the file of the report of a result that is a single file."""
    return path.with_suffix(".report.html")


def status_beside(path: Path) -> Path:
    """Return the file of the status of a run whose result is a single file."""
    return path.with_suffix(".status.json")


class Run:
    """One run of a verb with its output folder or file, and the record that makes it repeatable.

    The record (`run.json` in a folder, `NAME.json` beside a file) is written last: where it lies,
    the run is complete. A run with the same verb, settings and inputs is then not repeated; one
    with others is refused unless `overwrite`. Beside a file, `.NAME.begun` lies as long as the run
    is not complete: what is there was made by a run that was killed, and is replaced.
    """

    def __init__(self, verb: str, output: Path | str, settings: dict[str, Any],
                 inputs: Iterable[Path | str] = (), overwrite: bool = False) -> None:
        self.output = Path(output)
        self.verb = verb
        is_file = self.output.suffix in {".star", ".mrc", ".csv"}
        self.record = (
            self.output.with_suffix(self.output.suffix + ".json")
            if is_file else self.output / "run.json"
        )
        for path in inputs:
            if not Path(path).is_file():
                raise FileNotFoundError(f"{path} does not exist")
        self.settings = plain(
            {"verb": verb, **settings, "inputs": {str(p): file_stamp(p) for p in inputs}}
        )
        self._begun = self.output.with_name(f".{self.output.name}.begun") if is_file else None
        self._refuse_or_clear(overwrite)
        if not is_file:
            with write_faults(self.output):
                self.output.mkdir(parents=True, exist_ok=True)
        if not self.record.exists():
            self._clean()
        elif self._begun is not None:
            self._begun.unlink(missing_ok=True)  # killed when all but this was done

    def _clean(self) -> None:
        """Remove what a run that was killed left half written."""
        if self._begun is None:
            remove_leftovers(self.output)
        elif self._begun.exists():
            remove_leftovers_of(self._begun.read_text(), self.output.parent)

    def _refuse_or_clear(self, overwrite: bool) -> None:
        if not self.record.exists():
            is_other = self._begun is not None and not self._begun.exists()
            if is_other and self.output.exists() and not overwrite:
                raise ValueError(f"{self.output} exists: choose another or add --overwrite")
            return
        if self.finished_result is None and not overwrite:
            raise ValueError(
                f"{self.output} holds a finished run with other settings or inputs: choose another "
                "--output or add --overwrite"
            )
        if overwrite:
            self.record.unlink()

    @property
    def finished_result(self) -> dict[str, Any] | None:
        """What this very run printed when it finished before, or None."""
        if not self.record.exists():
            return None
        try:
            record = json.loads(self.record.read_text())
        except (ValueError, OSError):
            return None
        same = isinstance(record, dict) and record.get("settings") == self.settings
        result = record.get("result") if same else None
        return result if isinstance(result, dict) else None

    @cached_property
    def report(self) -> RunReport:
        """The report of this run: report.html in the output folder, NAME.report.html by a file."""
        from scipion_faml.cli.reporting import RunReport

        is_folder = self.record.parent == self.output
        path = self.output / "report.html" if is_folder else report_beside(self.output)
        return RunReport(path, self.verb, self.output, self.settings["inputs"])

    @cached_property
    def status(self) -> StatusFile:
        """The status of this run: status.json in the output folder, NAME.status.json by a file."""
        is_folder = self.record.parent == self.output
        path = self.output / "status.json" if is_folder else status_beside(self.output)
        return StatusFile(path, self.verb, self.output)

    @contextmanager
    def watched(self) -> Iterator[StatusFile]:
        """Keep the status up to date while the block runs; it is that of progress, too."""
        context = click.get_current_context(silent=True)
        with self.status as status:
            if context is not None:
                context.meta[STATUS] = status
            try:
                yield status
            finally:
                if context is not None:
                    status.warn(invocation_of(context).warnings)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Note that what the block writes is of a run that is not complete; a failure may be."""
        if self._begun is None:
            yield
            return
        with write_faults(self.output):
            self._begun.parent.mkdir(parents=True, exist_ok=True)
            self._begun.write_text(str(os.getpid()))
        try:
            yield
        finally:
            if self.record.exists() or not self.output.exists():
                self._begun.unlink(missing_ok=True)

    def reopen(self) -> None:
        """Forget that the run finished: it goes on."""
        self.record.unlink(missing_ok=True)

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the record and return `result` as plain JSON types."""
        result = plain(result)
        with replacing(self.record) as temporary:
            temporary.write_text(json.dumps(
                {"version": __version__, "settings": self.settings, "result": result}, indent=1))
        return dict(result)


def run_once(run: Run, work: Callable[[], dict[str, Any]], as_json: bool) -> None:
    """Do `work` unless this very run is finished already; print its result either way."""
    result = run.finished_result
    if result is not None:
        click.echo(f"{run.output} holds this run, finished: nothing to do", err=True)
        if read_json(run.status.path).get("state") != FINISHED:  # killed when all but this was done
            with run.watched() as status:
                _note(result, status)
    else:
        with run.watched() as status, run.begun():
            run.report.clear()
            result = plain(work())
            run.report.complete(result)
            run.finish(result)
            _note(result, status)
    show(result, as_json)


def _note(result: dict[str, Any], status: StatusFile) -> None:
    """Put into the status what came out."""
    resolution = result.get("resolution_angst")
    if isinstance(resolution, list):
        resolution = min((r for r in resolution if r is not None), default=None)
    counts = {key: value for key, value in result.items()
              if (key.startswith("n_") or key in COUNTED) and type(value) is int}
    status.update(
        counts=counts, resolution_angst=resolution, class_sizes=result.get("class_sizes"))
    status.warn(result.get("warnings", []))
