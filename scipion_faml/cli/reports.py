"""The verb reports: one page of many runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scipion_faml.cli.common import common_options, plain, show
from scipion_faml.report import collected


@click.command("reports")
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True,
                type=click.Path(path_type=Path, file_okay=False))
@click.option("--output", default=Path("reports.html"), show_default=True,
              type=click.Path(path_type=Path, dir_okay=False),
              help="HTML file; it is written anew every time.")
@click.option("--title", default="Reports", show_default=True, help="Heading of the page.")
@common_options
def reports(
    folders: tuple[Path, ...], output: Path, title: str, as_json: bool, overwrite: bool
) -> None:
    """Collect the reports of runs: whether each worked, its picture, and a link to the whole.

    Looks for *.html that verbs have written in and below the folders, for example in the Runs
    folder of a Scipion project. Call it again for a page that follows a session.
    """
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} does not exist")
    found = {path.resolve() for folder in folders for path in folder.rglob("*.html")}
    paths = sorted(found - {output.resolve()})
    if not paths:
        raise ValueError(f"no report in {', '.join(map(str, folders))}: runs leave report.html")
    output.parent.mkdir(parents=True, exist_ok=True)
    page = collected(paths, title, output.resolve().parent)
    page.write(output)
    result: dict[str, Any] = {"n_reports": page.n_reports, "states": page.states,
                              "report": output}
    show(plain(result), as_json)
