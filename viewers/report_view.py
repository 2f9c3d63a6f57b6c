"""Opens the reports of a run in the browser."""

from __future__ import annotations

import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from pyworkflow.viewer import View

from scipion_faml.report import collected

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


def report_views(viewer, protocol):
    """Return what a viewer's row "Open the report" shows: the page, or why there is none."""
    paths = protocol.reportPaths()
    if not paths:
        return [viewer.infoMessage(NO_REPORT, "FAML")]
    return [ReportView(paths, protocol.getRunName())]
