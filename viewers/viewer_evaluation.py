"""Viewer of comparisons with the truth: numbers, confusion matrix, errors, curves."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from pyworkflow.protocol import params

from scipion_faml import convert, plots
from scipion_faml.io import COORDINATES, read_cube, read_particles, read_volume

from ..protocols.protocol_evaluate import ProtFamlEvaluate, summary_lines
from .figure_view import SliderView
from .viewer_faml import FamlRunViewer

MAX_WINDOWS = 4  # tomograms opened at once
NO_PICKS = "Positions were not judged."


class FamlEvaluationViewer(FamlRunViewer):
    """What an evaluation found, a window for each part that was judged."""

    _label = "evaluation (FAML)"
    _targets = [ProtFamlEvaluate]

    def _defineParams(self, form):
        form.addSection(label="FAML")
        form.addParam("showNumbers", params.LabelParam, label="Numbers in words")
        form.addParam("showHits", params.LabelParam, label="Hits and misses on slices",
                      help="Green: hits; orange: hits that say another class; violet: on a "
                           "particle found already; red, crossed: false; blue, dashed: missed. "
                           "Circles have the radius within which positions agree.")
        form.addParam("showPickCurves", params.LabelParam, label="Precision and recall",
                      help="As the threshold on the score falls, with the average precision; dots "
                           "mark the best F1.")
        form.addParam("showPickClasses", params.LabelParam, label="Classes of the positions",
                      help="Particles of each true class (rows) by what their pick says.")
        form.addParam("showConfusion", params.LabelParam, label="Confusion matrix",
                      help="Particles of each true class (rows) in each class found (columns).")
        form.addParam("showPoseErrors", params.LabelParam, label="Errors of the orientations",
                      help="Modulo symmetry and the common turn and shift of each average.")
        form.addParam("showAverages", params.LabelParam, label="Averages on their true maps",
                      help="Each average as superposed, then the curve of every one.")

    def _getVisualizeDict(self):
        return {"showNumbers": self._showNumbers, "showHits": self._showHits,
                "showPickCurves": self._showPickCurves, "showPickClasses": self._showPickClasses,
                "showConfusion": self._showConfusion,
                "showPoseErrors": self._showPoseErrors, "showAverages": self._showAverages}

    def _showNumbers(self, _name=None):
        lines = summary_lines(self.protocol.results())
        lines += [f"{label}: correlation {result['cc_masked']:.3f}"
                  for label, result in self.protocol.averageResults().items()]
        return self._message("\n".join(lines) or "Nothing has been judged yet.")

    # ---------------------------------------------------------------------------------- positions
    def _showHits(self, _name=None):
        path = self._results("judged.star")
        if not path.is_file():
            return self._message(NO_PICKS)
        judged = read_particles(path).rows
        tomograms = convert.by_tomogram(self.protocol.trueCoordinates.get())[:MAX_WINDOWS]
        return [self._hits(judged, tomogram) for tomogram in tomograms]

    def _hits(self, judged, tomogram):
        """Return the window of one tomogram, at the slice with most positions."""
        name = tomogram.getTsId()
        rows = judged[judged["rlnTomoName"].astype(str) == name]
        positions = rows[COORDINATES].to_numpy(dtype=float)
        volume = read_volume(convert.mrc_file(tomogram, self.protocol._getTmpPath(
            f"{name}.mrc")))[0]
        draw = partial(
            _hits_on_slice, volume, positions, rows["famlVerdict"].to_numpy(),
            self.protocol.radius.get() / tomogram.getSamplingRate(), name)
        depths = np.clip(np.round(positions[:, 2]).astype(int), 0, volume.shape[0] - 1)
        return SliderView(draw, volume.shape[0], int(np.bincount(depths).argmax()), "slice z",
                          f"{name}: hits and misses", self.getWindow())

    def _showPickCurves(self, _name=None):
        path = self._results("curve.csv")
        if not path.is_file():
            return self._message(f"{NO_PICKS[:-1]}, or have no scores.")
        result = self.protocol.results()["picks"]
        averages = {entry["name"]: entry.get("average_precision")
                    for entry in result["per_class"].values()}
        averages["all"] = result["average_precision"]
        curves = {name: (rows["recall"], rows["precision"], averages[name])
                  for name, rows in pd.read_csv(path, dtype={"class": str}).groupby(
                      "class", sort=False)}
        return self._figure(plots.precision_recall_curves(curves), "Precision and recall")

    def _showPickClasses(self, _name=None):
        result = self.protocol.results().get("picks", {})
        if "confusion" not in result:
            return self._message(f"{NO_PICKS[:-1]}, or say no classes.")
        return self._figure(
            plots.confusion(result["confusion"], result["confusion_rows"],
                            result["confusion_columns"]), "Classes of the positions")

    # ---------------------------------------------------------------------------------- particles
    def _showConfusion(self, _name=None):
        result = self.protocol.results().get("classes")
        if result is None:
            return self._message("Classes were not judged.")
        names = result.get("true_names") or [str(k) for k in result["true_classes"]]
        columns = [str(k) for k in result["assigned_classes"]]
        return self._figure(plots.confusion(result["confusion"], names, columns),
                            "Confusion matrix")

    def _showPoseErrors(self, _name=None):
        path = self._results("poses.star")
        if not path.is_file():
            return self._message("Orientations were not judged.")
        rows = read_particles(path).rows
        return self._figure(
            plots.pose_errors(rows["famlRotationError"].to_numpy(dtype=float),
                              rows["famlShiftError"].to_numpy(dtype=float)),
            "Errors of the orientations")

    def _showAverages(self, _name=None):
        results = self.protocol.averageResults()
        if not results:
            return self._message("Averages were not judged.")
        maps = [read_cube(Path(r["file"]).with_suffix(".mrc")) for r in results.values()]
        curves = {label: (r["frequency_per_angst"], r["fsc"]) for label, r in results.items()}
        gallery = plots.class_gallery(np.stack([m for m, _ in maps]), list(results), maps[0][1])
        return (self._figure(gallery, "Averages on their true maps")
                + self._figure(plots.fsc_curves(curves, marks=(0.5,)), "Averages against truth"))


def _hits_on_slice(volume, positions, verdicts, radius, name, z):
    """Draw one slice: the slider's last argument is the slice."""
    return plots.verdicts_near_slice(volume, positions, verdicts, z, radius, name)
