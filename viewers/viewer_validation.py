"""Viewers of results judged without a truth, and of noise controls."""

from __future__ import annotations

from functools import partial

import numpy as np
from pyworkflow.viewer import MessageView

from scipion_faml import plots
from scipion_faml.io import read_cube

from ..protocols.protocol_noise_control import ProtFamlNoiseControl
from ..protocols.protocol_validate import ProtFamlValidate
from .figure_view import NothingToShow
from .report_view import REPORT_GROUP
from .run_viewer import FamlRunViewer, Row, fsc_figure
from .tabs_view import Tab, TabsView
from .viewer_faml import FamlClassifyViewer
from .volume_views import GalleryView

NOTHING_YET = "Nothing has been judged yet."
# What a result's curves are called in fsc.json, and in figures beside the name of the class.
RELATED = {"fsc": "", "fsc_masked": "_masked", "fsc_unmasked": "_unmasked",
           "fsc_randomised": "_randomised"}


class FamlValidationViewer(FamlRunViewer):
    """What was found of averages and particles without a truth, a row for each part."""

    _label = "validation (FAML)"
    _targets = [ProtFamlValidate]
    _groups = (
        ("Did it work?", (
            Row("showNumbers", "Numbers in words", lambda v: v.numbers()),
            Row("showOverview", "Overview", lambda v: v.overview(), tab="Overview",
                help="Numbers in words, the FSC of the halves and of the model, and which "
                     "particles change class, in one picture."),
        )),
        ("Averages", (
            Row("showFsc", "FSC of the halves", lambda v: v.fsc(), tab="FSC",
                why_not=lambda v: v.whyNo("fsc", "no average has halves"),
                help="In the mask, corrected for what the mask itself correlates; beside it the "
                     "curves without a mask, in the mask, and of randomised phases."),
            Row("showDirections", "Resolution by direction", lambda v: v.pictures("fsc"),
                tab="By direction",
                why_not=lambda v: v.whyNo("fsc", "no average has halves"),
                help="FSC in cones, and how many particles measured each direction."),
            Row("showSymmetry", "Symmetry", lambda v: v.pictures("symmetry"), tab="Symmetry",
                why_not=lambda v: v.whyNo("symmetry", "it was not looked for"),
                help="Correlation of each average with itself, turned about its best axis."),
            Row("showModel", "Averages and model", lambda v: v.models(), tab="Model",
                why_not=lambda v: v.whyNo("model", "no model was given"),
                help="Each average as superposed on the model, and their FSC."),
        )),
        ("Particles", (
            Row("showSnr", "Signal-to-noise ratio", lambda v: v.pictures("snr"), tab="SNR",
                why_not=lambda v: v.whyNo("snr", "it was not estimated"),
                help="Correlations of pairs of aligned particles."),
            Row("showOrientations", "Orientations", lambda v: v.pictures("orientations"),
                tab="Orientations",
                why_not=lambda v: v.whyNo("orientations", "they were not judged"),
                help="From where particles were seen, and what that leaves unmeasured."),
            Row("showAgreement", "Agreement of two results", lambda v: v.pictures("agreement"),
                tab="Agreement",
                why_not=lambda v: v.whyNo("agreement", "no other result was given"),
                help="Particles of each class of one result in each class of the other."),
        )),
        REPORT_GROUP,
    )

    # ------------------------------------------------------------------------- what was judged
    def found(self, part):
        """Return what was found: a dict by class of averages, a dict of particles."""
        if part in {"fsc", "symmetry", "model"}:
            return self.protocol.resultsOf(part)
        return self.protocol.results().get(part, {})

    def whyNo(self, part, reason):
        """Return why a part has no row, of a run that has ended."""
        has_ended = self.protocol.isFinished()
        return reason if has_ended and not self.found(part) else ""

    def lines(self):
        """Return the result in words."""
        from ..protocols.protocol_validate import (
            halves_lines,
            model_lines,
            particle_lines,
            symmetry_lines,
        )

        lines = [*halves_lines(self.found("fsc")), *symmetry_lines(self.found("symmetry")),
                 *model_lines(self.found("model")), *particle_lines(self.protocol.results())]
        if not lines:
            raise NothingToShow(NOTHING_YET)
        return lines

    # ---------------------------------------------------------------------------------- views
    def numbers(self):
        return MessageView("\n".join(self.lines()), "FAML", tkParent=self.getTkRoot())

    def overview(self):
        curves = {name: curve for name, curve in self._curves().items()
                  if not name.endswith(tuple(filter(None, RELATED.values())))}
        curves |= self._modelCurves()
        agreement = self.found("agreement")
        matrix = None
        if agreement.get("confusion"):
            matrix = (agreement["confusion"], [f"A {k}" for k in agreement["classes_a"]],
                      [f"B {k}" for k in agreement["classes_b"]])
        return self.figureView(
            plots.evaluation_overview(
                self.lines(), matrix, curves=curves, title=self.heading(), marks=(0.5, 0.143),
                axis_names=("class of this result", "class of the other")), "overview")

    def _curves(self):
        """Return the curves of all classes under the names that plots know."""
        return {f"class_{number:03d}{suffix}": (result["frequency_per_angst"], result[key])
                for number, result in self.found("fsc").items()
                for key, suffix in RELATED.items() if key in result}

    def _modelCurves(self):
        return {f"class {number} and model": (result["frequency_per_angst"], result["fsc"])
                for number, result in self.found("model").items()}

    def fsc(self):
        return self.figureView(fsc_figure(self._curves()), "FSC of the halves")

    def models(self):
        results = self.found("model")
        if not results:
            raise NothingToShow(NOTHING_YET)
        return TabsView([
            Tab("Averages", partial(self._onModel, sorted(results))),
            Tab("FSC", lambda: self.figureView(
                fsc_figure(self._modelCurves(), marks=(0.5,)), "FSC with the model")),
        ], f"{self.heading()}: averages and model", self.getWindow())

    def _onModel(self, numbers):
        maps = [read_cube(self.results(f"model_{number:03d}.mrc")) for number in numbers]
        return GalleryView(
            np.stack([m for m, _ in maps]), [f"class {number} on the model" for number in numbers],
            maps[0][1], f"{self.heading()}: averages on the model", self.getWindow())

    def pictures(self, name):
        """Return the picture that a verb left, or those of all classes as tabs."""
        single = self.results(f"{name}.png")
        if single.is_file():
            return self._picture(single)
        of_classes = sorted(self.results().glob(f"{name}_[0-9]*.png"))
        if not of_classes:
            raise NothingToShow(NOTHING_YET)
        if len(of_classes) == 1:
            return self._picture(of_classes[0])
        return TabsView(
            [Tab(f"class {int(path.stem.removeprefix(f'{name}_'))}", partial(self._picture, path))
             for path in of_classes], f"{self.heading()}: {name}", self.getWindow())

    def _picture(self, path):
        from matplotlib.image import imread

        return self.figureView(plots.picture(imread(path)), path.stem)


class FamlNoiseControlViewer(FamlClassifyViewer):
    """A noise control beside the classification that it repeats; also while it runs."""

    _label = "noise control (FAML)"
    _targets = [ProtFamlNoiseControl]
    _groups = (
        ("Does a structure appear from nothing?", (
            Row("showVerdict", "Verdict in words", lambda v: v.verdict()),
            Row("showBeside", "Beside the classification", lambda v: v.beside(), tab="Verdict",
                help="Averages of the control, and under each the average of the classification "
                     "that is most like it."),
        )),
        *FamlClassifyViewer._groups,
    )

    def whyNoFsc(self):
        return super().whyNoFsc() if self.protocol.inputRun.get() is not None else ""

    def _judged(self):
        result = self.protocol.runResult()
        if "verdict" not in result:
            raise NothingToShow("The verdict can be given when the control has finished.")
        return result

    def verdict(self):
        self._judged()
        lines = [line.replace("*", "") for line in self.protocol.summary()
                 if not line.startswith("Report")]
        return MessageView("\n".join(lines), "FAML", tkParent=self.getTkRoot())

    def beside(self):
        judged = self._judged()["averages"]
        folder = self.protocol._runFolder()
        volumes, titles = [], []
        for one in judged:
            control, like = int(one["class"]), int(one["most_alike"])
            for where, number, title in (
                    (self.results(), control, f"control {control}"),
                    (folder, like, f"classification {like}: correlation "
                                   f"{one['cc_no_radial']:.2f}")):
                volume, voxel_size = read_cube(where / f"class_{number:03d}.mrc")
                volumes.append(volume)
                titles.append(title)
        return GalleryView(np.stack(volumes), titles, voxel_size,
                           f"{self.heading()}: control and classification", self.getWindow())
