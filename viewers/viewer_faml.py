"""Viewers of the runs that make averages; they need matplotlib alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pyworkflow.protocol import params

from scipion_faml import plots
from scipion_faml.io import read_cube

from ..protocols.protocol_align import ProtFamlAlign, ProtFamlAverage
from ..protocols.protocol_classify import ProtFamlClassify
from .chimerax import NOT_FOUND, ChimeraXView, find_chimerax
from .figure_view import NothingToShow
from .report_view import REPORT_GROUP
from .run_files import ClassificationFiles, Found, found_in_table
from .run_viewer import NOT_FINISHED, FamlRunViewer, Row, fsc_figure, read_curves
from .volume_views import GalleryView, NamedVolume, SlicesView, Surfaces, SurfaceView, VolumeSlices

NOTHING_YET = "There is nothing to show yet: the run has not finished its first iteration."
NO_AVERAGE = "The average is not there yet."


def no_chimerax(_viewer):
    """Say why maps cannot be opened in ChimeraX."""
    return "" if find_chimerax() else "not found; set CHIMERA_HOME"


def orientations_figure(found: Found, what: str, n_classes: int = 1):
    """Return a map of directions for each class.

    Raises
    ------
    NothingToShow
        If the particles have no poses.
    """
    if found.poses is None or found.class_index is None or not len(found.class_index):
        raise NothingToShow("The particles have no orientations.")
    rotation = found.poses.rotation
    if n_classes == 1:
        return plots.orientation_maps({f"{len(rotation)} particles": rotation}, what)
    names = [f"class {k}" for k in range(1, n_classes + 1)]
    return plots.class_orientations(rotation, found.class_index, what, names)


class AveragesRows:
    """Rows on averages; a viewer says which maps there are in `maps`."""

    def maps(self) -> list[NamedVolume]:
        """Return the maps to look at.

        Raises
        ------
        NothingToShow
            If there is none yet.
        """
        raise NotImplementedError

    def slices(self):
        """Return the window with sliders."""
        return SlicesView(VolumeSlices(self.maps()), f"{self.heading()}: slices",
                          self.getWindow())

    def surface(self):
        """Return the window with a surface to be turned."""
        return SurfaceView(Surfaces(self.maps()), f"{self.heading()}: surface", self.getWindow())

    def chimerax(self):
        """Return what opens the maps in ChimeraX."""
        if find_chimerax() is None:
            raise NothingToShow(NOT_FOUND)
        surfaces = Surfaces(self.maps())
        levels = [surfaces.level(k, surfaces.suggested(k)) for k in range(len(surfaces.volumes))]
        return ChimeraXView([volume.file() for volume in surfaces.volumes], levels)


SLICES = Row("showSlices", "Slices", lambda v: v.slices(), tab="Slices",
             help="Scroll through an average across z, y or x; contrast and low-pass.")
SURFACE = Row("showSurface", "Surface", lambda v: v.surface(), tab="Surface",
              help="An isosurface (marching cubes) to be turned, at a threshold of your choice.")
CHIMERAX = Row("openChimerax", "Open in ChimeraX", lambda v: v.chimerax(), why_not=no_chimerax,
               help="All averages side by side, if ChimeraX is installed.")
ORIENTATIONS_HELP = ("Equal-area map of where the particles' z axes point in the tomogram, with "
                     "its density: a gap is a preferred orientation.")
BEAM_HELP = ("Equal-area map of the beam as each average sees it, with its density: directions "
             "that nobody looked from are badly resolved.")


class FamlClassifyViewer(AveragesRows, FamlRunViewer):
    """Averages, class sizes and convergence of a classification, also while it runs."""

    _label = "classes and convergence (FAML)"
    _targets = [ProtFamlClassify]
    _groups = (
        ("Did it work?", (
            Row("showOverview", "Overview", lambda v: v.overview(), tab="Overview",
                help="Averages, class sizes, FSC, convergence and orientations in one picture, "
                     "and in words; draws itself again while the run goes on."),
            Row("showConvergence", "Convergence", lambda v: v.convergence(), tab="Convergence",
                help="Log-likelihood, noise, shifts, class shares, change of the poses and "
                     "resolution of the halves in every iteration; draws itself again while the "
                     "run goes on."),
            Row("showFsc", "FSC of the halves", lambda v: v.fsc(), tab="FSC",
                why_not=lambda v: v.whyNoFsc(),
                help="Of every class, in enhanced mode. Particles of both halves were aligned to "
                     "references made of both: what noise brings that way is taken out, and the "
                     "curves before (uncorrected) are too good."),
        )),
        ("Averages", (
            Row("showAverages", "Class averages", lambda v: v.gallery(), tab="Averages",
                help="Central slices, projections and a surface of every class."),
            SLICES, SURFACE, CHIMERAX,
        )),
        ("Particles", (
            Row("showSizes", "Class sizes and posteriors", lambda v: v.sizes(), tab="Sizes",
                help="Sorted sizes, and how sure class and pose of each class's particles are "
                     "(rlnMaxValueProbDistribution)."),
            Row("showOrientations", "Orientations", lambda v: v.orientations(plots.AXIS),
                tab="Orientations", help=ORIENTATIONS_HELP),
            Row("showViews", "Viewing directions", lambda v: v.orientations(plots.BEAM),
                tab="Views", help=BEAM_HELP),
        )),
        REPORT_GROUP,
    )

    def _defineChoices(self, form):
        form.addParam("iteration", params.IntParam, allowsNull=True, label="Iteration",
                      help="Empty: the last one, also of a run that is still going.")

    # ----------------------------------------------------------------------------------- data
    def files(self):
        """Return what is on disk of the iteration that is asked for.

        Raises
        ------
        NothingToShow
            Before the first iteration has ended.
        """
        history = pd.DataFrame(self.protocol.history())
        wanted = self.iteration.get()
        if wanted is not None and len(history):
            history = history[history["iteration"] <= wanted]
        if history.empty:
            raise NothingToShow(NOTHING_YET)
        images = self.protocol.inputSubtomograms.get()
        return ClassificationFiles(
            self.results(), images.getSize() if images is not None else 0, history,
            self.protocol.runResult(), wanted)

    def maps(self):
        files = self.files()
        named = [NamedVolume(f"class {k}", path)
                 for k, path in enumerate(self._averageFiles(files), 1)]
        halves = files.half_files() if files.is_final() else []
        return named + [NamedVolume(_half_name(path), path) for path in halves]

    @staticmethod
    def _averageFiles(files):
        found = files.average_files()
        if not found:
            raise NothingToShow(f"The averages of iteration {files.number} are not there.")
        return found

    def whyNoFsc(self):
        """Return why there are no halves."""
        return "" if self.protocol.isEnhanced() else "paper mode makes no half averages"

    # ---------------------------------------------------------------------------------- views
    def overview(self):
        return self.liveView(self._overviewFigure, self.results("history.csv"), "overview")

    def _overviewFigure(self):
        files = self.files()
        self._averageFiles(files)
        return plots.run_overview(files.state(), f"{self.heading()}, iteration {files.number}")

    def convergence(self):
        return self.liveView(lambda: plots.convergence(self.files().history),
                             self.results("history.csv"), "convergence")

    def fsc(self):
        return self.figureView(fsc_figure(read_curves(self.results("fsc.csv"))),
                               "FSC of the halves")

    def gallery(self):
        files = self.files()
        loaded = [read_cube(path) for path in self._averageFiles(files)]
        titles = [f"class {k}: {count:g} particles"
                  for k, count in enumerate(files.counts(len(loaded)), 1)]
        return GalleryView(np.stack([v for v, _ in loaded]), titles, loaded[0][1],
                           f"{self.heading()}: class averages, iteration {files.number}",
                           self.getWindow())

    def sizes(self):
        files = self.files()
        n_classes = len(self._averageFiles(files))
        found = files.found()
        figure = (
            plots.class_sizes(files.counts(n_classes)) if found.class_index is None else
            plots.sizes_and_posteriors(found.class_index, found.probability, n_classes))
        return self.figureView(figure, f"class sizes, iteration {files.number}")

    def orientations(self, what):
        files = self.files()
        n_classes = len(self._averageFiles(files))
        return self.figureView(orientations_figure(files.found(), what, n_classes),
                               f"orientations, iteration {files.number}")


def _half_name(path: Path) -> str:
    """class_002_half1 is class 2, half 1."""
    _, number, half = path.stem.split("_")
    return f"class {int(number)}, half {half[-1]}"


class FamlAlignViewer(AveragesRows, FamlRunViewer):
    """The average of an alignment, its halves' FSC and the orientations."""

    _label = "average and FSC (FAML)"
    _targets = [ProtFamlAlign, ProtFamlAverage]
    _groups = (
        ("Did it work?", (
            Row("showOverview", "Overview", lambda v: v.overview(), tab="Overview",
                help="The average, its FSC and the orientations in one picture."),
            Row("showFsc", "FSC of the halves", lambda v: v.fsc(), tab="FSC",
                help="Both halves were aligned to one reference, so that the curve is "
                     "optimistic below the reference's resolution."),
        )),
        ("Average", (
            Row("showAverage", "Average", lambda v: v.gallery(), tab="Average",
                help="Central slices, projections and a surface."),
            SLICES, SURFACE, CHIMERAX,
        )),
        ("Particles", (
            Row("showOrientations", "Orientations", lambda v: v.orientations(plots.AXIS),
                tab="Orientations", help=ORIENTATIONS_HELP),
            Row("showViews", "Viewing directions", lambda v: v.orientations(plots.BEAM),
                tab="Views", help=BEAM_HELP),
        )),
        REPORT_GROUP,
    )

    def _average(self, name="average.mrc"):
        path = Path(self.protocol._getExtraPath("average", name))
        if name == "average.mrc" and not path.is_file():
            raise NothingToShow(NO_AVERAGE)
        return path

    def _table(self):
        """Return the particles with their poses: the result's, or those that were averaged."""
        for path in (self.results("particles.star"),
                     Path(self.protocol._getExtraPath("input", "particles.star"))):
            if path.is_file():
                return path
        raise NothingToShow(f"There are no orientations yet. {NOT_FINISHED}")

    def maps(self):
        halves = [("half 1", self._average("half1.mrc")), ("half 2", self._average("half2.mrc"))]
        return [NamedVolume("average", self._average()),
                *(NamedVolume(name, path) for name, path in halves if path.is_file())]

    def overview(self):
        volume, _ = read_cube(self._average())
        found = found_in_table(self._table())
        rotation = None if found.poses is None else found.poses.rotation
        state = plots.RunState(volume[None], [len(found.class_index)], rotation=rotation,
                               curves=read_curves(self._average("fsc.csv")))
        return self.figureView(plots.run_overview(state, self.heading()), "overview")

    def gallery(self):
        volume, voxel_size = read_cube(self._average())
        return GalleryView(volume, ["average"], voxel_size, f"{self.heading()}: average",
                           self.getWindow())

    def fsc(self):
        return self.figureView(fsc_figure(read_curves(self._average("fsc.csv"))),
                               "FSC of the halves")

    def orientations(self, what):
        return self.figureView(orientations_figure(found_in_table(self._table()), what),
                               "orientations")


