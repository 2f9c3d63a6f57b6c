"""Viewer of comparisons with the truth: numbers, confusion matrix, errors, curves."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from pyworkflow.viewer import MessageView

from scipion_faml import convert, plots
from scipion_faml.io import read_cube, read_volume
from scipion_faml.tables import COORDINATES, read_particles

from ..protocols.protocol_evaluate import ProtFamlEvaluate, summary_lines
from .figure_view import NothingToShow, SliderView
from .report_view import REPORT_GROUP
from .run_viewer import FamlRunViewer, Row, fsc_figure
from .tabs_view import Tab, TabsView
from .volume_views import GalleryView

MAX_TOMOGRAMS = 12
NO_PICKS = "positions were not judged"
NO_CLASSES = "classes were not judged"
NO_POSES = "orientations were not judged"
NO_AVERAGES = "averages were not judged"
NOTHING_YET = "Nothing has been judged yet."


class FamlEvaluationViewer(FamlRunViewer):
    """What an evaluation found, a row for each part that was judged."""

    _label = "evaluation (FAML)"
    _targets = [ProtFamlEvaluate]
    _groups = (
        ("Did it work?", (
            Row("showNumbers", "Numbers in words", lambda v: v.numbers()),
            Row("showOverview", "Overview", lambda v: v.overview(), tab="Overview",
                help="Numbers in words, confusion matrix, errors of the orientations and curves "
                     "of the averages in one picture."),
        )),
        ("Positions", (
            Row("showHits", "Hits and misses on slices", lambda v: v.hits(), tab="Positions",
                why_not=lambda v: v.whyNoPicks(),
                help="Green: hits; orange: hits that say another class; violet: on a "
                     "particle found already; red, crossed: false; blue, dashed: missed. "
                     "Circles have the radius within which positions agree."),
            Row("showPickCurves", "Precision and recall", lambda v: v.pickCurves(),
                tab="Precision, recall", why_not=lambda v: v.whyNoCurve(),
                help="As the threshold on the score falls, with the average precision; dots "
                     "mark the best F1."),
            Row("showPickClasses", "Classes of the positions", lambda v: v.pickClasses(),
                tab="Classes of positions", why_not=lambda v: v.whyNoPickClasses(),
                help="Particles of each true class (rows) by what their pick says."),
        )),
        ("Particles", (
            Row("showConfusion", "Confusion matrix", lambda v: v.confusion(), tab="Confusion",
                why_not=lambda v: v.whyNo("classes", NO_CLASSES),
                help="Particles of each true class (rows) in each class found (columns)."),
            Row("showPoseErrors", "Errors of the orientations", lambda v: v.poseErrors(),
                tab="Orientations", why_not=lambda v: v.whyNo("poses", NO_POSES),
                help="Modulo symmetry and the common turn and shift of each average."),
        )),
        ("Averages", (
            Row("showAverages", "Averages on their true maps", lambda v: v.averages(),
                tab="Averages", why_not=lambda v: v.whyNoAverages(),
                help="Each average as superposed."),
            Row("showFsc", "FSC with the true maps", lambda v: v.fsc(), tab="FSC",
                why_not=lambda v: v.whyNoAverages()),
        )),
        REPORT_GROUP,
    )

    # ------------------------------------------------------------------------- what was judged
    def hasEnded(self):
        """Whether what is missing now will stay so."""
        return not self.protocol.isActive() and bool(
            self.protocol.results() or self.protocol.averageResults())

    def whyNo(self, part, reason):
        """Return why a part has no row."""
        return reason if self.hasEnded() and part not in self.protocol.results() else ""

    def whyNoPicks(self):
        return self.whyNo("picks", NO_PICKS)

    def whyNoCurve(self):
        has_curve = self.results("curve.csv").is_file()
        return self.whyNoPicks() or (
            "the positions have no scores" if self.hasEnded() and not has_curve else "")

    def whyNoPickClasses(self):
        result = self.protocol.results().get("picks", {})
        return self.whyNoPicks() or (
            "the positions say no classes" if self.hasEnded() and "confusion" not in result else "")

    def whyNoAverages(self):
        return NO_AVERAGES if self.hasEnded() and not self.protocol.averageResults() else ""

    def _result(self, part):
        result = self.protocol.results().get(part)
        if result is None:
            raise NothingToShow(NOTHING_YET)
        return result

    # ---------------------------------------------------------------------------------- numbers
    def lines(self):
        """Return the result in words."""
        lines = summary_lines(self.protocol.results())
        lines += [f"{label}: correlation {result['cc_masked']:.3f}"
                  for label, result in self.protocol.averageResults().items()]
        if not lines:
            raise NothingToShow(NOTHING_YET)
        return lines

    def numbers(self):
        return MessageView("\n".join(self.lines()), "FAML", tkParent=self.getTkRoot())

    def overview(self):
        results = self.protocol.results()
        errors = self._poseErrors() if self.results("poses.star").is_file() else None
        return self.figureView(
            plots.evaluation_overview(
                self.lines(), _confusion(results.get("classes") or results.get("picks", {})),
                errors, self._averageCurves(), self.heading()), "overview")

    # ---------------------------------------------------------------------------------- positions
    def hits(self):
        path = self.results("judged.star")
        if not path.is_file():
            raise NothingToShow(NOTHING_YET)
        judged = read_particles(path).rows
        tomograms = convert.by_tomogram(self.protocol.trueCoordinates.get())[:MAX_TOMOGRAMS]
        tabs = [Tab(t.getTsId(), partial(self._hits, judged, t)) for t in tomograms]
        return TabsView(tabs, f"{self.heading()}: hits and misses", self.getWindow())

    def _hits(self, judged, tomogram):
        """Return the view of one tomogram, at the slice with most positions."""
        name = tomogram.getTsId()
        rows = judged[judged["rlnTomoName"].astype(str) == name]
        positions = rows[COORDINATES].to_numpy(dtype=float)
        volume = read_volume(convert.mrc_file(tomogram, self.getProject().getTmpPath(
            f"{name}.mrc")))[0]
        draw = partial(
            _hits_on_slice, volume, positions, rows["famlVerdict"].to_numpy(),
            self.protocol.radius.get() / tomogram.getSamplingRate(), name)
        depths = np.clip(np.round(positions[:, 2]).astype(int), 0, volume.shape[0] - 1)
        fullest = int(np.bincount(depths).argmax()) if len(depths) else volume.shape[0] // 2
        return SliderView(draw, volume.shape[0], fullest, "slice z",
                          f"{name}: hits and misses", self.getWindow())

    def pickCurves(self):
        path = self.results("curve.csv")
        if not path.is_file():
            raise NothingToShow(NOTHING_YET)
        result = self._result("picks")
        averages = {entry["name"]: entry.get("average_precision")
                    for entry in result["per_class"].values()}
        averages["all"] = result["average_precision"]
        curves = {name: (rows["recall"], rows["precision"], averages[name])
                  for name, rows in pd.read_csv(path, dtype={"class": str}).groupby(
                      "class", sort=False)}
        return self.figureView(plots.precision_recall_curves(curves), "precision and recall")

    def pickClasses(self):
        found = _confusion(self._result("picks"))
        if found is None:
            raise NothingToShow("The positions say no classes.")
        return self.figureView(plots.confusion(*found), "classes of the positions")

    # ---------------------------------------------------------------------------------- particles
    def confusion(self):
        return self.figureView(plots.confusion(*_confusion(self._result("classes"))),
                               "confusion matrix")

    def _poseErrors(self):
        rows = read_particles(self.results("poses.star")).rows
        return (rows["famlRotationError"].to_numpy(dtype=float),
                rows["famlShiftError"].to_numpy(dtype=float))

    def poseErrors(self):
        if not self.results("poses.star").is_file():
            raise NothingToShow(NOTHING_YET)
        return self.figureView(plots.pose_errors(*self._poseErrors()),
                               "errors of the orientations")

    # ----------------------------------------------------------------------------------- averages
    def _averageCurves(self):
        return {label: (r["frequency_per_angst"], r["fsc"])
                for label, r in self.protocol.averageResults().items()}

    def averages(self):
        results = self.protocol.averageResults()
        if not results:
            raise NothingToShow(NOTHING_YET)
        maps = [read_cube(Path(r["file"]).with_suffix(".mrc")) for r in results.values()]
        return GalleryView(np.stack([m for m, _ in maps]), list(results), maps[0][1],
                           f"{self.heading()}: averages on their true maps", self.getWindow())

    def fsc(self):
        return self.figureView(fsc_figure(self._averageCurves(), marks=(0.5,)),
                               "averages against truth")


def _confusion(result):
    """Return matrix, names of rows and of columns of judged classes or positions, or None."""
    if "confusion_rows" in result:
        return result["confusion"], result["confusion_rows"], result["confusion_columns"]
    if "confusion" not in result:
        return None
    names = result.get("true_names") or [str(k) for k in result["true_classes"]]
    return result["confusion"], names, [str(k) for k in result["assigned_classes"]]


def _hits_on_slice(volume, positions, verdicts, radius, name, z):
    """Draw one slice: the slider's last argument is the slice."""
    return plots.verdicts_near_slice(volume, positions, verdicts, z, radius, name)
