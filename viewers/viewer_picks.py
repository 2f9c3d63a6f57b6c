"""Positions drawn on slices of their tomograms, and the curves of a detector's training."""

from __future__ import annotations

from functools import partial

import numpy as np
from pyworkflow.protocol import Protocol, params
from pyworkflow.viewer import DESKTOP_TKINTER, Viewer
from tomo.objects import SetOfCoordinates3D

from scipion_faml import convert
from scipion_faml.io import COORDINATES

from ..protocols.protocol_pick_base import BOX_PER_DIAMETER
from ..protocols.protocol_pick_detector import ProtFamlPickDetector
from ..protocols.protocol_pick_dog import ProtFamlPickDog
from ..protocols.protocol_pick_template import ProtFamlPickTemplate
from ..protocols.protocol_simulate import ProtFamlSimulateTomograms
from ..protocols.protocol_train_detector import ProtFamlTrainDetector
from .picks_view import PicksOnSlices, PicksView, Positions
from .viewer_faml import FamlRunViewer

DEFAULT_BOX = 9  # voxels


class FamlPicksViewer(Viewer):
    """Circles at the positions in a slice; a slider moves through the tomogram."""

    _name = "positions on slices (FAML)"
    _environments = [DESKTOP_TKINTER]
    _targets = [SetOfCoordinates3D, ProtFamlPickDog, ProtFamlPickTemplate, ProtFamlPickDetector,
                ProtFamlSimulateTomograms]

    def _visualize(self, obj, **kwargs):
        if isinstance(obj, Protocol):
            outputs = [getattr(obj, name, None) for name in ("coordinates", "trueCoordinates")]
            obj = next((output for output in outputs if output is not None), None)
            if obj is None:
                return [self.infoMessage("The run has no positions yet.", "FAML")]
        tomograms = convert.by_tomogram(obj)
        if not tomograms:
            return [self.infoMessage("The set holds no positions.", "FAML")]
        pictures = PicksOnSlices([self._positions(obj, tomogram) for tomogram in tomograms])
        return [PicksView(pictures, "Positions on slices", self.getParent())]

    def _positions(self, coordinates, tomogram):
        """Return what is drawn in one tomogram."""
        rows = convert.picks_table(coordinates, tomogram).rows
        voxel_size, name = tomogram.getSamplingRate(), tomogram.getTsId()
        box = (coordinates.getBoxSize() or DEFAULT_BOX) * coordinates.getSamplingRate()
        diameter = np.full(len(rows), box / BOX_PER_DIAMETER)
        if convert.DIAMETER_COLUMN in rows:
            diameter = rows[convert.DIAMETER_COLUMN].to_numpy(dtype=float)
        return Positions(
            name, partial(convert.mrc_file, tomogram, self._getTmpPath(f"{name}.mrc")),
            rows[COORDINATES].to_numpy(dtype=float), 0.5 * diameter / voxel_size,
            rows[convert.SCORE_COLUMN].to_numpy(dtype=float), _class_names(rows))


def _class_names(rows):
    """Return the class of each position in words: its name, or its group."""
    if convert.CLASS_NAME_COLUMN in rows:
        return tuple(rows[convert.CLASS_NAME_COLUMN].astype(str))
    if "rlnClassNumber" in rows:
        width = len(str(rows["rlnClassNumber"].max()))
        return tuple(f"group {number:0{width}d}" for number in rows["rlnClassNumber"])
    return ("",) * len(rows)


class FamlTrainingViewer(FamlRunViewer):
    """Losses and scores of a training, also while it runs."""

    _label = "training curves (FAML)"
    _targets = [ProtFamlTrainDetector]

    def _defineParams(self, form):
        form.addSection(label="FAML")
        form.addParam("showCurves", params.LabelParam, label="Curves",
                      help="Losses of the training, and F1 on what is held out, of every epoch; "
                           "also of a run that is still going.")
        form.addParam("showResult", params.LabelParam, label="Result in words",
                      help="F1 of every class on what is held out, and its threshold.")

    def _getVisualizeDict(self):
        return {"showCurves": self._showCurves, "showResult": self._showResult}

    def _showCurves(self, _name=None):
        history = self.protocol.history()
        if history is None or history.empty:
            return self._message("The first epoch has not finished.")
        from scipion_faml.detector.curves import training_curves  # imports matplotlib

        return self._figure(training_curves(history), "Training")

    def _showResult(self, _name=None):
        result = self.protocol.result()
        if not result:
            return self._message("The result can be shown when the training has finished.")
        lines = [f"On what is held out: F1 {result['f1']:.3f}, mean over classes "
                 f"{result['macro_f1']:.3f} ({result['n_held_out_particles']} particles)."]
        for name, threshold in zip(result["classes"], result["thresholds"], strict=True):
            score = result["f1_per_class"].get(name)
            told = "not held out" if score is None else f"F1 {score:.3f}"
            lines.append(f"{name}: {told}, threshold {threshold:.2f}")
        return self._message("\n".join(lines))
