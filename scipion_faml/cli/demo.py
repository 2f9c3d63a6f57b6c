"""The verb that shows everything at once."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from scipion_faml.cli.common import (
    common_options,
    n_workers,
    plain,
    seed_option,
    show,
    workers_option,
)
from scipion_faml.cli.runs import Run


@click.command("demo")
@click.option("--size", type=click.Choice(["small", "standard"]), default="standard",
              show_default=True, help="small: about a minute; standard: a few.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False),
              default=Path("faml_demo"), show_default=True,
              help="Folder of the Scipion project and the report.")
@workers_option
@seed_option
@common_options
def demo(size: str, output: Path, workers: int | None, seed: int, as_json: bool,
         overwrite: bool) -> None:
    """Simulate a tomogram, pick, extract, classify and evaluate, all in one Scipion project.

    The project lies in OUTPUT/projects/faml_demo; `python -m scipion_faml.scipion_env gui OUTPUT`
    opens its window. OUTPUT/report.html shows the results.
    """
    from scipion_faml import scipion_env

    scipion_env.check_tkinter()
    _hush_scipion()
    run = Run("demo", output, {"size": size, "seed": seed}, (), overwrite)

    def tell(text: str) -> None:
        if not text.startswith(" "):  # the name of a step; what came out of it is indented
            run.status.step(text)
        _tell(text)

    def work() -> dict[str, Any]:
        from scipion_faml.demo import SIZES, run_demo

        return run_demo(
            run.output.resolve(), SIZES[size], n_workers(workers), seed, tell, run.report)

    result = run.finished_result
    if result is None:
        with run.watched():
            result = plain(work())
            run.report.complete(result)
            run.finish(result)
    else:
        _tell(f"{output} holds this demonstration, finished: nothing to do")
    if as_json:
        show(result, as_json)
        return
    click.echo(_table_text(result))
    click.echo(f"\nproject  {result['project']}\nreport   {result['report']}")


def _hush_scipion() -> None:
    """Leave Scipion's running commentary out: the demo says what goes on. --verbose keeps it."""
    root = logging.getLogger()
    if root.level > logging.DEBUG:
        for handler in root.handlers:
            handler.setLevel(logging.WARNING)


def _table_text(result: dict[str, Any]) -> str:
    """The table of results as aligned text, and how long it took."""
    from scipion_faml.demo import result_table

    table = result_table(result)
    widths = [max(map(len, [name, *table[name]])) for name in table]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in [list(table), *table.to_numpy().tolist()]
    ]
    return "\n".join(["", *lines, "", f"{result['seconds']:.0f} seconds"])


def _tell(text: str) -> None:
    """Say what is going on, on stderr and at once."""
    print(text, file=sys.stderr, flush=True)
