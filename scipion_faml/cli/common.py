"""What all verbs share: options, progress, and results as text or JSON."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import click
import numpy as np

from scipion_faml.cli.invocation import invocation_of
from scipion_faml.paths import ALLOW_OUTSIDE, allow_outside
from scipion_faml.status import StatusFile
from scipion_faml.texts import one_line

F = TypeVar("F", bound=Callable[..., Any])
STATUS = "scipion_faml.status"  # of a click context's meta
MAY_BE_INFINITE = {"snr"}  # no noise


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


class _OneLine(logging.Formatter):
    """Each message on a line of its own, whatever names it tells of."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message)
        return super().formatMessage(record)


def _set_up_logging(_context: click.Context, _option: click.Parameter, verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
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
        click.echo(f"warning: {one_line(warning)}", err=True)
    if as_json:
        click.echo(json.dumps(result))
        return
    for key, value in result.items():
        if key == "warnings":
            continue
        text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
        if len(text) <= 160:
            click.echo(f"{key:24s} {text}")
