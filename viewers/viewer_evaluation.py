"""Viewer of comparisons with the truth: numbers, confusion matrix, errors, curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pyworkflow.protocol import params

from scipion_faml import plots
from scipion_faml.io import read_cube, read_particles

from ..protocols.protocol_evaluate import ProtFamlEvaluate, summary_lines
from .viewer_faml import FamlRunViewer


class FamlEvaluationViewer(FamlRunViewer):
    """What an evaluation found, a window for each part that was judged."""

    _label = "evaluation (FAML)"
    _targets = [ProtFamlEvaluate]

    def _defineParams(self, form):
        form.addSection(label="FAML")
        form.addParam("showNumbers", params.LabelParam, label="Numbers in words")
        form.addParam("showConfusion", params.LabelParam, label="Confusion matrix",
                      help="Particles of each true class (rows) in each class found (columns).")
        form.addParam("showPoseErrors", params.LabelParam, label="Errors of the orientations",
                      help="Modulo symmetry and the common turn and shift of each average.")
        form.addParam("showAverages", params.LabelParam, label="Averages on their true maps",
                      help="Each average as superposed, then the curve of every one.")

    def _getVisualizeDict(self):
        return {"showNumbers": self._showNumbers, "showConfusion": self._showConfusion,
                "showPoseErrors": self._showPoseErrors, "showAverages": self._showAverages}

    def _showNumbers(self, _name=None):
        lines = summary_lines(self.protocol.results())
        lines += [f"{label}: correlation {result['cc_masked']:.3f}"
                  for label, result in self.protocol.averageResults().items()]
        return self._message("\n".join(lines) or "Nothing has been judged yet.")

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

