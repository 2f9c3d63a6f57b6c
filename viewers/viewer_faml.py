"""Viewers of averages and of the runs that make them; they need matplotlib alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pyworkflow.protocol import Protocol, params
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, Viewer
from tomo.objects import (
    AverageSubTomogram,
    SetOfAverageSubTomograms,
    SetOfClassesSubTomograms,
    SetOfSubTomograms,
)

from scipion_faml import convert, plots
from scipion_faml.io import read_cube, read_particles

from ..protocols.protocol_extract import ProtFamlExtractSubtomograms
from ..protocols.protocol_faml import ProtFamlAlign, ProtFamlAverage, ProtFamlClassify
from ..protocols.protocol_simulate import ProtFamlSimulateSubtomograms
from .figure_view import FigureView

MAX_PARTICLES = 6
NOTHING_YET = "There is nothing to show yet: the run has not finished its first iteration."


class FamlRunViewer(ProtocolViewer):
    """What the viewers of runs share. It has no targets of its own."""

    _environments = [DESKTOP_TKINTER]
    _targets = []

    def _figure(self, figure, title):
        return [FigureView(figure, title, self.getWindow())]

    def _message(self, text):
        return [self.infoMessage(text, "FAML")]

    def _results(self, *names):
        return Path(self.protocol._getExtraPath("results", *names))

    def _fscFigure(self, path):
        if not path.is_file():
            return self._message("The curve can be shown when the run has finished.")
        table = pd.read_csv(path)
        frequency = table.pop("frequency_per_angst")
        curves = {name: (frequency, values) for name, values in table.items()}
        return self._figure(plots.fsc_curves(curves), "FSC of the halves")

    def _showOrientations(self, _name=None):
        path = self._results("particles.star")
        if not path.is_file():
            return self._message("The orientations can be shown when the run has finished.")
        table = read_particles(path)
        if not convert.has_pose_columns(table):
            return self._message("The particles have no orientations.")
        return self._figure(plots.orientations(table.poses.rotation), "Orientations")


class FamlClassifyViewer(FamlRunViewer):
    """Averages, class sizes and convergence of a classification, also while it runs."""

    _label = "classes and convergence (FAML)"
    _targets = [ProtFamlClassify]

    def _defineParams(self, form):
        form.addSection(label="FAML")
        form.addParam("iteration", params.IntParam, allowsNull=True, label="Iteration",
                      help="Empty: the last one, also of a run that is still going.")
        form.addParam("showAverages", params.LabelParam, label="Class averages",
                      help="Central slices, projections and a surface of every class.")
        form.addParam("showSizes", params.LabelParam, label="Class sizes")
        form.addParam("showConvergence", params.LabelParam, label="Convergence",
                      help="Log-likelihood, noise, shifts, class shares, change of the poses and "
                           "resolution of the halves in every iteration.")
        form.addParam("showFsc", params.LabelParam, label="FSC of the halves",
                      help="Of every class, in enhanced mode. Particles of both halves were "
                           "aligned to references made of both: what noise brings that way is "
                           "taken out, and the curves before (uncorrected) are too good.")
        form.addParam("showOrientations", params.LabelParam, label="Orientations",
                      help="Where the particles' z axes point: a gap is a preferred orientation.")

    def _getVisualizeDict(self):
        return {
            "showAverages": self._showAverages, "showSizes": self._showSizes,
            "showConvergence": self._showConvergence, "showFsc": self._showFsc,
            "showOrientations": self._showOrientations,
        }

    def _showFsc(self, _name=None):
        if not self.protocol.isEnhanced():
            return self._message("Paper mode makes no half averages: average the particles "
                                 "(average aligned subtomograms) to see their FSC.")
        return self._fscFigure(self._results("fsc.csv"))

    def _history(self):
        """The finished iterations as a table, up to the one asked for."""
        table = pd.DataFrame(self.protocol.history())
        wanted = self.iteration.get()
        return table if wanted is None or table.empty else table[table["iteration"] <= wanted]

    def _averageFiles(self, history):
        """Averages of the last iteration in `history`: its checkpoint, or the final ones."""
        number = int(history["iteration"].iloc[-1])
        for folder in (self._results(f"iter_{number:03d}"), self._results()):
            files = sorted(folder.glob("class_[0-9][0-9][0-9].mrc"))
            if files:
                return files
        return []

    def _counts(self, history):
        """Particles in every class: of the result, or while running the expected numbers."""
        n_particles = self.protocol.inputSubtomograms.get().getSize()
        last = history.iloc[-1]
        shares = [last[name] for name in sorted(history) if name.startswith("alpha_")]
        path = self._results("particles.star")
        if self.iteration.get() is None and path.is_file():
            index = read_particles(path).class_index
            return np.bincount(index, minlength=len(shares))
        return np.round(np.array(shares) * n_particles, 1)

    def _showAverages(self, _name=None):
        history = self._history()
        files = self._averageFiles(history) if len(history) else []
        if not files:
            return self._message(NOTHING_YET)
        loaded = [read_cube(path) for path in files]
        titles = [f"class {k}: {count:g} particles"
                  for k, count in enumerate(self._counts(history), 1)]
        number = int(history["iteration"].iloc[-1])
        return self._figure(
            plots.class_gallery(np.stack([v for v, _ in loaded]), titles, loaded[0][1]),
            f"Class averages, iteration {number}")

    def _showSizes(self, _name=None):
        history = self._history()
        if not len(history):
            return self._message(NOTHING_YET)
        return self._figure(plots.class_sizes(self._counts(history)), "Class sizes")

    def _showConvergence(self, _name=None):
        history = self._history()
        if not len(history):
            return self._message(NOTHING_YET)
        return self._figure(plots.convergence(history), "Convergence")


class FamlAlignViewer(FamlRunViewer):
    """The average of an alignment, its halves' FSC and the orientations."""

    _label = "average and FSC (FAML)"
    _targets = [ProtFamlAlign, ProtFamlAverage]

    def _defineParams(self, form):
        form.addSection(label="FAML")
        form.addParam("showAverage", params.LabelParam, label="Average",
                      help="Central slices, projections and a surface.")
        form.addParam("showFsc", params.LabelParam, label="FSC of the halves",
                      help="Both halves were aligned to one reference, so that the curve is "
                           "optimistic below the reference's resolution.")
        form.addParam("showOrientations", params.LabelParam, label="Orientations")

    def _getVisualizeDict(self):
        return {"showAverage": self._showAverage, "showFsc": self._showFsc,
                "showOrientations": self._showOrientations}

    def _showAverage(self, _name=None):
        path = Path(self.protocol._getExtraPath("average", "average.mrc"))
        if not path.is_file():
            return self._message("The average is not there yet.")
        volume, voxel_size = read_cube(path)
        return self._figure(plots.class_gallery(volume, ["average"], voxel_size), "Average")

    def _showFsc(self, _name=None):
        return self._fscFigure(Path(self.protocol._getExtraPath("average", "fsc.csv")))


class FamlClassesViewer(Viewer):
    """Slices, projections and sizes of any set of classes of subtomograms."""

    _name = "slices and sizes (FAML)"
    _environments = [DESKTOP_TKINTER]
    _targets = [SetOfClassesSubTomograms]

    def _visualize(self, obj, **kwargs):
        rows = [
            (one.getRepresentative().getFileName(), one.getObjId(), one.getSize(),
             one.getSamplingRate())
            for one in obj.iterItems() if one.hasRepresentative()
        ]
        if not rows:
            return [self.infoMessage("The classes have no averages.", "FAML")]
        titles = [f"class {number}: {size} particles" for _, number, size, _ in rows]
        volumes = np.stack([read_cube(path)[0] for path, *_ in rows])
        sizes = plots.class_sizes([size for *_, size, _ in rows],
                                  [str(number) for _, number, *_ in rows])
        return [
            FigureView(sizes, "Class sizes", self.getParent()),
            FigureView(plots.class_gallery(volumes, titles, rows[0][3]), "Class averages",
                       self.getParent()),
        ]


class FamlAveragesViewer(Viewer):
    """Slices and projections of averages."""

    _name = "slices and projections (FAML)"
    _environments = [DESKTOP_TKINTER]
    _targets = [AverageSubTomogram, SetOfAverageSubTomograms]

    def _visualize(self, obj, **kwargs):
        is_set = isinstance(obj, SetOfAverageSubTomograms)
        items = [item.clone() for item in obj.iterItems()] if is_set else [obj]
        titles = [item.getObjLabel() or (f"average {item.getObjId()}" if is_set else "average")
                  for item in items]
        volumes = np.stack([read_cube(item.getFileName())[0] for item in items])
        figure = plots.class_gallery(volumes, titles, obj.getSamplingRate())
        return [FigureView(figure, "Averages", self.getParent())]


class FamlParticlesViewer(Viewer):
    """Slices and projections of the first particles of a set."""

    _name = "slices of particles (FAML)"
    _environments = [DESKTOP_TKINTER]
    _targets = [SetOfSubTomograms, ProtFamlExtractSubtomograms, ProtFamlSimulateSubtomograms]

    def _visualize(self, obj, **kwargs):
        if isinstance(obj, Protocol):
            obj = getattr(obj, "subtomograms", None)
            if obj is None:
                return [self.infoMessage("The run has no particles yet.", "FAML")]
        first = [item.clone() for item in obj.iterItems(limit=MAX_PARTICLES)]
        folder = Path(self._getTmpPath("particles"))
        volumes = [
            read_cube(convert.mrc_file(item, folder / f"{item.getObjId():06d}.mrc"))[0]
            for item in first
        ]
        titles = [f"particle {item.getObjId()}" for item in first]
        figure = plots.class_gallery(np.stack(volumes), titles, obj.getSamplingRate(),
                                     with_surface=False)
        return [FigureView(figure, f"{len(first)} of {obj.getSize()} particles",
                           self.getParent())]
