"""A finished classification once more, on particles without structure."""

from __future__ import annotations

import enum
from pathlib import Path

from pwem.objects import SetOfFSCs
from pyworkflow.protocol import params
from pyworkflow.utils import Message
from tomo.objects import SetOfAverageSubTomograms, SetOfClassesSubTomograms, SetOfSubTomograms

from scipion_faml.cli.runs import file_stamp

from .cluster_form import add_cluster, check_cluster, cluster_options
from .protocol_classify import ProtFamlClassify


class FamlNoiseControlOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    classes = SetOfClassesSubTomograms
    averages = SetOfAverageSubTomograms
    subtomograms = SetOfSubTomograms
    fscs = SetOfFSCs


class ProtFamlNoiseControl(ProtFamlClassify):
    """Repeats a classification on phase-randomised particles: does a structure appear?

    Every particle keeps the amplitudes of its Fourier samples, so its power spectrum and missing
    wedge stay, but holds no structure. Settings, starting averages and mask are those of the
    finished run. If averages with features come out, or such as the run had, they were made by
    the method and not by the data.

    A stopped run continues from its last finished iteration.
    """

    _label = "noise control"
    _possibleOutputs = FamlNoiseControlOutputs

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        form.addParam(
            "inputRun", params.PointerParam, pointerClass="ProtFamlClassify", important=True,
            label="Classification", help="A finished run of classify and average (FAML).")
        form.addParam(
            "numberOfIterations", params.IntParam, allowsNull=True, label="Iterations (at most)",
            help="Empty: as many as the classification took.")
        form.addParam("seed", params.IntParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                      label="Seed of the random phases",
                      help="The same seed gives the same particles.")
        add_cluster(form)
        form.addParallelSection(threads=4, mpi=0)

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        # Another run of the classification is another input.
        settings = self.settingsFingerprint() + file_stamp(self._runFolder() / "run.json")
        iterations = self.numberOfIterations.get()
        self._insertFunctionStep(self.classifyStep, settings, iterations, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, settings, iterations, needsGPU=False)

    def classifyStep(self, settings, iterations):
        """Run the control; the command continues from its own newest checkpoint."""
        results = self.resultsFolder(settings)
        self.runVerb("noise-control", self._runFolder(), output=results, iterations=iterations,
                     phase_seed=self.seed.get(), **cluster_options(self))
        return [str(results / "particles.star")]

    def _runFolder(self):
        return Path(self.inputRun.get()._getExtraPath("results"))

    @property
    def inputSubtomograms(self):
        """The pointer to the particles of the classification."""
        return self.inputRun.get().inputSubtomograms

    def isEnhanced(self):
        """Whether the classification ran in enhanced mode."""
        return self.inputRun.get().isEnhanced()

    def isFindingClasses(self):
        """Whether the number of classes was to be found."""
        return self.inputRun.get().isFindingClasses()

    def isFindingSymmetry(self):
        """Whether the point groups were to be found."""
        return self.inputRun.get().isFindingSymmetry()

    def classCount(self):
        """Return the number of classes of the control."""
        return len(self.runResult().get("class_sizes", []))

    # ---------------------------------------------------------------------------------- info
    def _validate(self):
        errors = []
        run = self.inputRun.get()
        if run is not None and not (self._runFolder() / "run.json").is_file():
            errors.append("The classification has not finished: run it to its end first.")
        check_cluster(self, errors)
        return errors

    def _warnings(self):
        return []

    def _summary(self):
        result = self.runResult()
        if "verdict" not in result:
            rows = self.history()
            return [f"Iteration *{rows[-1]['iteration']:.0f}* of the control."] if rows else (
                self.notReady())
        lines = [f"*{result['verdict'][0].upper()}{result['verdict'][1:]}.*"]
        own, of_run = (result.get(k) for k in
                       ("log_evidence_per_particle", "run_log_evidence_per_particle"))
        if own is not None and of_run is not None:
            lines.append(f"Log evidence of a particle against noise: control {own:.2f}, "
                         f"classification {of_run:.2f}.")
        return lines + [
            f"Control's average {one['class']} and the classification's {one['most_alike']}: "
            f"correlation {one['cc_no_radial']:.2f} (radial mean left out)."
            for one in result["averages"]]

    def _methods(self):
        result = self.runResult()
        if "verdict" not in result:
            return []
        return [f"The classification was repeated on phase-randomised particles: "
                f"{result['verdict']}."]
