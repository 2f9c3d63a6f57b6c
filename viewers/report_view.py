"""A row of every viewer's form that opens the reports of a run in the browser.

A viewer of runs has it by naming it among its groups: `_groups = (..., REPORT_GROUP)`.
"""

from __future__ import annotations

import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from pyworkflow.viewer import View

from scipion_faml.report import collected

from .figure_view import NothingToShow
from .run_viewer import Row

NO_REPORT = (
    "The run has no report yet. It is written when a command ends (a classification writes it "
    "while it runs).")


class ReportView(View):
    """The report of a run; of several (one for each tomogram) one page that leads to all."""

    def __init__(self, paths: Sequence[Path], title: str) -> None:
        super().__init__()
        self._paths, self._title = [Path(path).resolve() for path in paths], title

    def page(self) -> Path:
        """Return the file to open."""
        if len(self._paths) == 1:
            return self._paths[0]
        folder = Path(tempfile.mkdtemp(prefix="faml-reports-"))
        return collected(self._paths, self._title, folder).write(folder / "report.html")

    def show(self) -> None:
        """Open the page; the browser is a program of its own."""
        webbrowser.open_new_tab(self.page().as_uri())


def report_view(viewer):
    """Return the view of the reports of a viewer's run.

    Raises
    ------
    NothingToShow
        If the run has left none.
    """
    paths = viewer.protocol.reportPaths()
    if not paths:
        raise NothingToShow(NO_REPORT)
    return ReportView(paths, viewer.heading())


REPORT_ROW = Row(
    "openReport", "Open the report", report_view,
    "What was run, what came out and how to cite it: one file for the browser, which may be "
    "mailed.")
REPORT_GROUP = ("Report", (REPORT_ROW,))
