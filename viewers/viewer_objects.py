"""Viewers of sets, whichever plugin made them: classes, averages, particles, FSC curves."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np
from pwem.objects import FSC, SetOfFSCs
from pyworkflow.protocol import Protocol
from pyworkflow.viewer import DESKTOP_TKINTER, Viewer
from tomo.objects import (
    AverageSubTomogram,
    SetOfAverageSubTomograms,
    SetOfClassesSubTomograms,
    SetOfSubTomograms,
)

from scipion_faml import convert, plots
from scipion_faml.evaluation.fsc import fourier_shell_correlation
from scipion_faml.geometry import from_scipion_matrices
from scipion_faml.io import read_cube

from ..protocols.protocol_extract import ProtFamlExtractSubtomograms
from ..protocols.protocol_simulate import ProtFamlSimulateSubtomograms
from .figure_view import FigureView, NothingToShow
from .run_files import Found
from .run_viewer import TITLE, fsc_figure
from .tabs_view import Tab, TabsView, cannot
from .viewer_faml import orientations_figure
from .volume_views import (
    GalleryView,
    NamedVolume,
    SlicesView,
    Surfaces,
    SurfaceView,
    VolumeSlices,
    stacked,
)

logger = logging.getLogger(__name__)
MAX_PARTICLES = 5  # in the gallery: they fit a small screen
MAX_LEAFED = 60  # particles to leaf through


class FamlObjectViewer(Viewer):
    """What viewers of objects share: one window with tabs, or a message. It has no targets."""

    _environments = [DESKTOP_TKINTER]
    _targets = []

    def _visualize(self, obj, **kwargs):
        try:
            return [self.view(obj)]
        except NothingToShow as error:
            return [self.infoMessage(str(error), TITLE)]
        except Exception as error:  # a broken set must not take Scipion's window down
            logger.exception("%s cannot be shown", obj)
            return [self.infoMessage(cannot("It", error), TITLE)]

    def view(self, obj):
        """Return the window.

        Raises
        ------
        NothingToShow
            If there is nothing to show.
        """
        raise NotImplementedError

    def mapTabs(self, volumes, titles, name, with_surface=True):
        """Return the tabs on some maps."""
        return [
            Tab(name, partial(self._gallery, volumes, titles, name, with_surface)),
            Tab("Slices", lambda: SlicesView(VolumeSlices(volumes), "Slices", self.getParent())),
            Tab("Surface", lambda: SurfaceView(Surfaces(volumes), "Surface", self.getParent())),
        ]

    def _gallery(self, volumes, titles, name, with_surface):
        stack, voxel_size = stacked(volumes)
        return GalleryView(stack, titles, voxel_size, name, self.getParent(), with_surface)

    def tabs(self, tabs, title):
        """Return the window with tabs."""
        return TabsView(tabs, title, self.getParent())

    def figureView(self, figure, title):
        """Return a window with a figure."""
        return FigureView(figure, title, self.getParent())

    def named(self, name, item):
        """Return a map of Scipion's, converted to MRC where it is in another format."""
        folder = Path(self._getTmpPath("maps"))
        return NamedVolume(name, partial(
            convert.mrc_file, item, folder / f"{type(item).__name__}_{item.getObjId()}.mrc"))


class FamlClassesViewer(FamlObjectViewer):
    """Averages, sizes, posteriors and orientations of any set of classes of subtomograms."""

    _name = "classes (FAML)"
    _targets = [SetOfClassesSubTomograms]

    def view(self, obj):
        classes = [(one.getObjId(), one.getSize(),
                    one.getRepresentative().clone() if one.hasRepresentative() else None)
                   for one in obj.iterItems()]
        if not classes:
            raise NothingToShow("The set holds no classes.")
        with_maps = [(k, size, item) for k, size, item in classes
                     if item is not None and item.getFileName()]
        volumes = [self.named(f"class {k}", item) for k, _, item in with_maps]
        titles = [f"class {k}: {size} particles" for k, size, _ in with_maps]
        reason = "" if volumes else "the classes have no averages"
        tabs = [Tab(tab.name, tab.make, reason)
                for tab in self.mapTabs(volumes, titles, "Averages")]
        names = [f"class {k}" for k, *_ in classes]
        particles = partial(_particles_of, obj)
        return self.tabs([
            *tabs,
            Tab("Sizes", lambda: self.figureView(_sizes(classes, particles()), "Class sizes")),
            Tab("Orientations", lambda: self.figureView(
                _orientations(particles(), names, plots.AXIS), "Orientations")),
            Tab("Views", lambda: self.figureView(
                _orientations(particles(), names, plots.BEAM), "Viewing directions")),
        ], "Classes")


def _particles_of(classes) -> Found:
    """Return classes, posteriors and poses of all particles of a set of classes."""
    index, probability, matrices = [], [], []
    for number, one_class in enumerate(classes.iterItems()):
        for item in one_class.iterItems():
            index.append(number)
            matrices.append(convert.matrix_of(item))
            known = getattr(item, "_famlProbability", None)
            probability.append(np.nan if known is None else known.get())
    values = np.array(probability, dtype=float)
    return Found(np.array(index, dtype=int), values if np.isfinite(values).all() else None,
                 from_scipion_matrices(np.array(matrices)) if matrices else None)


def _sizes(classes, found):
    """Sorted sizes, and posteriors where our runs left them."""
    if found.probability is None or not len(found.probability):
        return plots.class_sizes([size for _, size, _ in classes],
                                 [str(k) for k, *_ in classes])
    return plots.sizes_and_posteriors(found.class_index, found.probability, len(classes))


def _orientations(found, names, what):
    """Maps of directions of each class."""
    if found.poses is None:
        raise NothingToShow("The classes hold no particles.")
    if np.allclose(found.poses.rotation, np.eye(3)):
        raise NothingToShow("The particles are not aligned.")
    return plots.class_orientations(found.poses.rotation, found.class_index, what, names)


class FamlAveragesViewer(FamlObjectViewer):
    """Slices, projections, surfaces and the halves' FSC of averages."""

    _name = "averages (FAML)"
    _targets = [AverageSubTomogram, SetOfAverageSubTomograms]

    def view(self, obj):
        is_set = isinstance(obj, SetOfAverageSubTomograms)
        items = [item.clone() for item in obj.iterItems()] if is_set else [obj]
        items = [item for item in items if item.getFileName()]
        if not items:
            raise NothingToShow("There is no average yet.")
        titles = [item.getObjLabel() or (f"average {item.getObjId()}" if is_set else "average")
                  for item in items]
        halves = {title: item.getHalfMaps(asList=True) for title, item in
                  zip(titles, items, strict=True) if item.hasHalfMaps()}
        volumes = [self.named(t, item) for t, item in zip(titles, items, strict=True)]
        volumes += [NamedVolume(f"{title}, half {number}", path)
                    for title, paths in halves.items() for number, path in enumerate(paths, 1)]
        tabs = self.mapTabs(volumes[: len(items)], titles, "Averages")
        tabs[1] = Tab("Slices", lambda: SlicesView(VolumeSlices(volumes), "Slices",
                                                   self.getParent()))
        return self.tabs([*tabs, Tab(
            "FSC", lambda: self.figureView(fsc_figure(_half_curves(halves)), "FSC of the halves"),
            "" if halves else "there are no half maps")], "Averages")


def _half_curves(halves):
    """Return the FSC of half maps as they are, without a mask."""
    curves = {}
    for title, paths in halves.items():
        (first, voxel_size), (second, _) = (read_cube(path) for path in paths[:2])
        values = fourier_shell_correlation(first, second)
        curves[title] = (np.arange(len(values)) / (first.shape[0] * voxel_size), values)
    return curves


class FamlFscViewer(FamlObjectViewer):
    """Fourier shell correlations in one picture."""

    _name = "FSC (FAML)"
    _targets = [SetOfFSCs, FSC]

    def view(self, obj):
        items = [one.clone() for one in obj.iterItems()] if isinstance(obj, SetOfFSCs) else [obj]
        curves = {}
        for number, one in enumerate(items, 1):
            frequency, values = one.getData()
            if len(frequency):
                curves[one.getObjLabel() or f"FSC {number}"] = (np.array(frequency),
                                                                np.array(values))
        if not curves:
            raise NothingToShow("The set holds no curves.")
        return self.figureView(fsc_figure(curves), "Fourier shell correlation")


class FamlParticlesViewer(FamlObjectViewer):
    """Slices and projections of the first particles of a set, and their orientations."""

    _name = "particles (FAML)"
    _targets = [SetOfSubTomograms, ProtFamlExtractSubtomograms, ProtFamlSimulateSubtomograms]

    def view(self, obj):
        if isinstance(obj, Protocol):
            obj = getattr(obj, "subtomograms", None)
            if obj is None:
                raise NothingToShow("The run has no particles yet.")
        if not obj.getSize():
            raise NothingToShow("The set holds no particles.")
        first = [item.clone() for item in obj.iterItems(limit=MAX_LEAFED)]
        volumes = [self.named(f"particle {item.getObjId()}", item) for item in first]
        shown = volumes[:MAX_PARTICLES]
        tabs = self.mapTabs(volumes, [v.name for v in shown], "Particles")[:2]
        tabs[0] = Tab("Particles", partial(self._gallery, shown, [v.name for v in shown],
                                           f"{len(shown)} of {obj.getSize()} particles", False))
        reason = "" if obj.hasAlignment3D() else "the particles are not aligned"
        return self.tabs([
            *tabs,
            Tab("Orientations", lambda: self.figureView(
                _orientation_of_set(obj, plots.AXIS), "Orientations"), reason),
            Tab("Views", lambda: self.figureView(
                _orientation_of_set(obj, plots.BEAM), "Viewing directions"), reason),
        ], f"{obj.getSize()} particles")


def _orientation_of_set(particles, what):
    """Maps of directions of a set's particles."""
    matrices = np.array([convert.matrix_of(item) for item in particles.iterItems()])
    return orientations_figure(
        Found(np.zeros(len(matrices), dtype=int), None, from_scipion_matrices(matrices)), what)
