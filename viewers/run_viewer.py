"""What the viewers of runs share: a form whose rows are views, and one row that shows them all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pyworkflow.protocol import params
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View

from scipion_faml import plots

from .figure_view import FigureView, LiveView, NothingToShow
from .tabs_view import Tab, TabsView, cannot

logger = logging.getLogger(__name__)
TITLE = "FAML"
NOT_FINISHED = "It can be shown when the run has finished."


def always(_viewer: Any) -> str:
    """Nothing speaks against a row."""
    return ""


@dataclass(frozen=True)
class Row:
    """A row of a viewer's form, which is also a tab of "Show everything"."""

    name: str
    label: str
    make: Callable[[Any], View]  # from the viewer; raises NothingToShow
    help: str = ""
    tab: str = ""  # its name among the tabs; without one it is no tab
    why_not: Callable[[Any], str] = always  # why it can never apply to this run, or nothing


class FamlRunViewer(ProtocolViewer):
    """A form made of `_groups`: (title, rows). It has no targets of its own.

    A row that cannot apply to the run says so in its label and has no button; one that has
    nothing to show yet says so in a message. Nothing raises.
    """

    _environments = [DESKTOP_TKINTER]
    _targets = []
    _groups: tuple[tuple[str, tuple[Row, ...]], ...] = ()
    _everything = True

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=TITLE)
        if self._everything:
            form.addParam("showEverything", params.LabelParam, important=True,
                          label="Show everything",
                          help="Whether it worked, then the details, as tabs of one window.")
        self._defineChoices(form)
        for title, rows in self._groups:
            group = form.addGroup(title)
            for row in rows:
                reason = self._whyNot(row)
                group.addParam(row.name, params.LabelParam, help=row.help,
                               label=f"{row.label}: {reason}" if reason else row.label)

    def _defineChoices(self, form):
        """Rows that say what is to be shown, such as the iteration."""

    def _getVisualizeDict(self):
        shown = {row.name: partial(self._show, row) for row in self.rows()
                 if not self._whyNot(row)}
        if self._everything:
            shown = {"showEverything": self._showEverything, **shown}
        return shown

    @classmethod
    def rows(cls):
        """Return all rows of the form."""
        return [row for _, rows in cls._groups for row in rows]

    def _whyNot(self, row):
        try:
            return row.why_not(self)
        except Exception:  # an unfinished or broken run: the row says what is missing when asked
            logger.exception("%s", row.label)
            return ""

    # --------------------------------------------------------------------------------- views
    def _show(self, row, _name=None):
        """Return the view of a row, or a message."""
        try:
            return [row.make(self)]
        except NothingToShow as error:
            return self._message(str(error))
        except Exception as error:  # nothing that a run lacks may take Scipion's window down
            logger.exception("%s cannot be shown", row.label)
            return self._message(cannot(row.label, error))

    def _showEverything(self, _name=None):
        return [self.everything()]

    def everything(self):
        """Return the window with a tab for each row."""
        tabs = [Tab(row.tab, partial(row.make, self), self._whyNot(row))
                for row in self.rows() if row.tab]
        return TabsView(tabs, f"{self.heading()}: everything", self.getWindow())

    def heading(self):
        """Return what the run is called in the project."""
        return self.protocol.getObjLabel() or self.protocol.getClassLabel()

    def figureView(self, figure, title):
        """Return a window with a figure."""
        return FigureView(figure, f"{self.heading()}: {title}", self.getWindow())

    def liveView(self, draw, path, title):
        """Return a window with a figure that is drawn again whenever the file `path` changes."""
        return LiveView(draw, partial(_changed, path), self.isGoing,
                        f"{self.heading()}: {title}", self.getWindow())

    def isGoing(self):
        """Whether the run may still write something."""
        return bool(self.protocol.isActive())

    def _message(self, text):
        return [self.infoMessage(text, TITLE)]

    def results(self, *names):
        """Return a path in the folder of the results."""
        return Path(self.protocol._getExtraPath("results", *names))


def _changed(path: Path) -> float:
    """When a file was written last."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def read_curves(path: Path) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Return the curves of an fsc.csv: {name: (frequency in 1/A, FSC)}; none without the file."""
    if not path.is_file():
        return {}
    table = pd.read_csv(path)
    frequency = table.pop("frequency_per_angst")
    return {str(name): (frequency, values) for name, values in table.items()}


def fsc_figure(curves, marks=(0.5, 0.143)):
    """Return the figure of some curves.

    Raises
    ------
    NothingToShow
        If there is none.
    """
    if not curves:
        raise NothingToShow(f"There is no curve yet. {NOT_FINISHED}")
    return plots.fsc_curves(curves, marks)
