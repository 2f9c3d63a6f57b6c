"""Positions drawn on slices of their tomograms, and the curves of a detector's training."""

from __future__ import annotations

from functools import partial

import numpy as np
from pyworkflow.protocol import Protocol
from pyworkflow.viewer import MessageView
from tomo.objects import SetOfCoordinates3D

from scipion_faml import convert
from scipion_faml.tables import CLASS_NAME_COLUMN, COORDINATES, DIAMETER_COLUMN, SCORE_COLUMN

from ..protocols.protocol_pick_base import BOX_PER_DIAMETER
from ..protocols.protocol_pick_detector import ProtFamlPickDetector
from ..protocols.protocol_pick_dog import ProtFamlPickDog
from ..protocols.protocol_pick_template import ProtFamlPickTemplate
from ..protocols.protocol_simulate import ProtFamlSimulateTomograms
from ..protocols.protocol_train_detector import ProtFamlTrainDetector
from .figure_view import NothingToShow
from .picks_view import PicksOnSlices, PicksView, Positions
from .report_view import REPORT_GROUP
from .run_viewer import FamlRunViewer, Row
from .tabs_view import Tab
from .viewer_objects import FamlObjectViewer

DEFAULT_BOX = 9  # voxels


class FamlPicksViewer(FamlObjectViewer):
    """Circles at the positions in a slice; a slider moves through the tomogram."""

    _name = "positions on slices (FAML)"
    _targets = [SetOfCoordinates3D, ProtFamlPickDog, ProtFamlPickTemplate, ProtFamlPickDetector,
                ProtFamlSimulateTomograms]

    def view(self, obj):
        if isinstance(obj, ProtFamlSimulateTomograms) and hasattr(obj, "trueAverages"):
            return self._simulated(obj)
        if isinstance(obj, Protocol):
            outputs = [getattr(obj, name, None) for name in ("coordinates", "trueCoordinates")]
            obj = next((output for output in outputs if output is not None), None)
            if obj is None:
                raise NothingToShow("The run has no positions yet.")
        if not obj.getSize():
            raise NothingToShow("The set holds no positions.")
        tomograms = convert.by_tomogram(obj)
        if not tomograms:
            raise NothingToShow("The tomograms of the positions are gone, or have other names.")
        pictures = PicksOnSlices([self._positions(obj, tomogram) for tomogram in tomograms])
        return PicksView(pictures, "Positions on slices", self.getParent())

    def _simulated(self, run):
        """Return the window of a simulation: true positions, and the maps they were made of."""
        maps = [item.clone() for item in run.trueAverages.iterItems()]
        titles = [item.getObjLabel() or f"map {item.getObjId()}" for item in maps]
        volumes = [self.named(title, item) for title, item in zip(titles, maps, strict=True)]
        return self.tabs([
            Tab("Positions", partial(self.view, run.trueCoordinates)),
            *self.mapTabs(volumes, titles, "True maps"),
        ], "Simulated tomograms")

    def _positions(self, coordinates, tomogram):
        """Return what is drawn in one tomogram."""
        rows = convert.picks_table(coordinates, tomogram).rows
        voxel_size, name = tomogram.getSamplingRate(), tomogram.getTsId()
        box = (coordinates.getBoxSize() or DEFAULT_BOX) * coordinates.getSamplingRate()
        diameter = np.full(len(rows), box / BOX_PER_DIAMETER)
        if DIAMETER_COLUMN in rows:
            diameter = rows[DIAMETER_COLUMN].to_numpy(dtype=float)
        return Positions(
            name, partial(convert.mrc_file, tomogram, self._getTmpPath(f"{name}.mrc")),
            rows[COORDINATES].to_numpy(dtype=float), 0.5 * diameter / voxel_size,
            rows[SCORE_COLUMN].to_numpy(dtype=float), _class_names(rows))


def _class_names(rows):
    """Return the class of each position in words: its name, or its group."""
    if CLASS_NAME_COLUMN in rows:
        return tuple(rows[CLASS_NAME_COLUMN].astype(str))
    if "rlnClassNumber" in rows:
        width = len(str(rows["rlnClassNumber"].max()))
        return tuple(f"group {number:0{width}d}" for number in rows["rlnClassNumber"])
    return ("",) * len(rows)


class FamlTrainingViewer(FamlRunViewer):
    """Losses and scores of a training, also while it runs."""

    _label = "training curves (FAML)"
    _targets = [ProtFamlTrainDetector]

    _groups = (
        ("Training", (
            Row("showCurves", "Curves", lambda v: v.curves(), tab="Curves",
                help="Losses of the training, and F1 on what is held out, of every epoch; draws "
                     "itself again while the run goes on."),
            Row("showResult", "Result in words", lambda v: v.result(),
                help="F1 of every class on what is held out, and its threshold."),
        )),
        REPORT_GROUP,
    )
    _everything = False  # there is one picture

    def curves(self):
        return self.liveView(self._curvesFigure, self.protocol.resultsPath("history.csv"),
                             "training")

    def _curvesFigure(self):
        history = self.protocol.history()
        if history is None or history.empty:
            raise NothingToShow("The first epoch has not finished.")
        from scipion_faml.detector.curves import training_curves  # imports matplotlib

        return training_curves(history)

    def result(self):
        result = self.protocol.result()
        if not result:
            raise NothingToShow("The result can be shown when the training has finished.")
        lines = [f"On what is held out: F1 {result['f1']:.3f}, mean over classes "
                 f"{result['macro_f1']:.3f} ({result['n_held_out_particles']} particles)."]
        for name, threshold in zip(result["classes"], result["thresholds"], strict=True):
            score = result["f1_per_class"].get(name)
            told = "not held out" if score is None else f"F1 {score:.3f}"
            lines.append(f"{name}: {told}, threshold {threshold:.2f}")
        return MessageView("\n".join(lines), "FAML", tkParent=self.getTkRoot())
