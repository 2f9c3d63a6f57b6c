"""What all verbs share: errors, options, JSON, progress, and the rule about finished runs."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import click
import numpy as np

from scipion_faml import __version__
from scipion_faml.cli.invocation import invocation_of
from scipion_faml.disk import (
    DiskError,
    remove_leftovers,
    remove_leftovers_of,
    replacing,
    write_faults,
)
from scipion_faml.execution import ClusterError
from scipion_faml.paths import ALLOW_OUTSIDE, allow_outside
from scipion_faml.status import FINISHED, StatusFile, read_json

if TYPE_CHECKING:
    from scipion_faml.cli.reporting import RunReport

F = TypeVar("F", bound=Callable[..., Any])
STATUS = "scipion_faml.status"  # of a click context's meta
MAY_BE_INFINITE = {"snr"}  # no noise
COUNTED = {"particles", "classes", "iterations"}  # numbers of a result, besides n_...


def report_errors(command: click.Command, arguments: list[str]) -> int:
    """Run `command`; print a user's mistake as one line on stderr and return the exit status."""
    try:
        command.main(arguments, prog_name="scipion-faml", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.ClickException as error:
        return _refused(_usage_message(error, command, arguments))
    except click.Abort as stop:
        by = str(stop.__cause__ or "") or "SIGINT"
        click.echo(f"stopped by {by}: the same command goes on with it", err=True)
        return 1
    except (ValueError, OSError, ClusterError) as error:
        if os.environ.get("FAML_DEBUG"):
            raise
        _refused(str(error))
        return 1 if isinstance(error, (ClusterError, DiskError)) else 2
    except MemoryError as error:
        return _refused(f"not enough memory ({error}): use smaller boxes, bin the tomogram, or use "
                        "a machine with more memory")
    return 0


def _refused(message: str) -> int:
    """Say what is wrong in one line; return the exit status."""
    message = " ".join(message.split())
    click.echo(f"error: {message}", err=True)
    _note_error(message)
    return 2


def _usage_message(
    error: click.ClickException, command: click.Command, arguments: list[str]
) -> str:
    """A mistake in the command, and where its options are explained."""
    message = error.format_message().rstrip(".")
    if not isinstance(error, click.UsageError):
        return message
    if error.ctx is not None:
        return f"{message}: see {error.ctx.command_path} --help"
    # click forgets where an option lacks its value.
    verbs: list[str] = []
    if isinstance(command, click.Group):
        verbs = command.list_commands(click.Context(command))
    words = ["scipion-faml", *(word for word in arguments[:1] if word in verbs)]
    return f"{message}: see {' '.join(words)} --help"


def _note_error(message: str) -> None:
    """Leave the message in the file that a calling program named in FAML_ERROR_FILE."""
    path = os.environ.get("FAML_ERROR_FILE")
    if path:
        with suppress(OSError):  # a full disk may be what it says
            Path(path).write_text(message)


def common_options(function: F) -> F:
    """Add --json, --overwrite, --no-report, --allow-outside and --verbose: every verb has them."""
    function = with_finite_numbers(function)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout."),
        click.option("--overwrite", is_flag=True, help="Replace a finished run in the output."),
        click.option(
            "--verbose", is_flag=True, callback=_set_up_logging, expose_value=False,
            help="Log every detail to stderr.",
        ),
        click.option(
            "--no-report", is_flag=True, callback=_note_report, expose_value=False,
            envvar="FAML_NO_REPORT", help="Leave no report.html beside the results.",
        ),
        click.option(
            "--allow-outside", is_flag=True, callback=_note_outside, expose_value=False,
            envvar=ALLOW_OUTSIDE, help="Let relative names in tables climb out of their project "
            "by '..'.",
        ),
    ):
        function = option(function)
    return function


def with_finite_numbers(function: F) -> F:
    """The verb, which refuses numbers that are none: ranges of click let NaN pass."""

    @functools.wraps(function)
    def checked(*arguments: Any, **values: Any) -> Any:
        for name, value in values.items():
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, float) and not (
                        np.isfinite(number) or (name in MAY_BE_INFINITE and number > 0)):
                    _refuse_number(name, number)
        return function(*arguments, **values)

    return cast(F, checked)


def _refuse_number(name: str, number: float) -> NoReturn:
    context = click.get_current_context()
    option = next((p for p in context.command.params if p.name == name), None)
    raise click.BadParameter(f"{number} is no number that can be used", context, option)


def _set_up_logging(_context: click.Context, _option: click.Parameter, verbose: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", force=True,
    )
    for noisy in ("matplotlib", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _note_report(
    context: click.Context, _option: click.Parameter, is_unwanted: bool
) -> None:
    """Begin the record of this call, which collects its warnings."""
    invocation_of(context).is_report_wanted = not is_unwanted


def _note_outside(_context: click.Context, _option: click.Parameter, is_allowed: bool) -> None:
    """Say for this call whether tables may name files outside of their projects."""
    allow_outside(is_allowed)


SEED = click.IntRange(0, 2**63 - 1)
seed_option = click.option(
    "--seed", default=0, show_default=True, type=SEED, help="Seed of every draw.")
workers_option = click.option(
    "--workers", default=None, type=click.IntRange(min=1),
    help="Threads; the result does not depend on it.  [default: all cores]",
)


def n_workers(workers: int | None) -> int:
    """Return the number of threads to use: `workers`, or the cores this process may run on."""
    return workers or len(os.sched_getaffinity(0))


def _bar(total: int, label: str, items: Iterable[Any] | None = None) -> Any:
    """A progress bar on stderr, drawn when a person is watching."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=label, file=sys.stderr, disable=not sys.stderr.isatty())


def status_now() -> StatusFile | None:
    """Return the status of the run that this thread's verb is at, if it has one."""
    context = click.get_current_context(silent=True)
    found: StatusFile | None = None if context is None else context.meta.get(STATUS)
    return found


def progress(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
    """Yield `items` with a progress bar; the run's status counts them."""
    status = status_now()
    for done, item in enumerate(_bar(total, label, items)):
        if status is not None:
            status.progress(label, done, total)
        yield item
    if status is not None:
        status.progress(label, total, total)


def progress_callback(label: str) -> Callable[[int, int], None]:
    """Return an on_progress(done, total) that draws a bar for each round of `total`.

    The run's status counts them, too.
    """
    bars: list[Any] = []
    status = status_now()

    def on_progress(done: int, total: int) -> None:
        if status is not None:
            status.progress(label, done, total)
        if not bars:
            bars.append(_bar(total, label))
        bars[0].update(done - bars[0].n)
        if done == total:
            bars.pop().close()

    return on_progress


def plain(value: Any) -> Any:
    """Return `value` with numpy types and paths turned into what JSON knows (NaN becomes null)."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def show(result: dict[str, Any], as_json: bool) -> None:
    """Print `result`: one JSON object, or a line for each entry that fits on one.

    Its warnings go to stderr, a line each.
    """
    result = plain(result)
    for warning in result.get("warnings", []):
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(result))
        return
    for key, value in result.items():
        if key == "warnings":
            continue
        text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
        if len(text) <= 160:
            click.echo(f"{key:24s} {text}")


# -------------------------------------------------------------------------------- finished runs
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
