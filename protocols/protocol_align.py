"""Align subtomograms to a reference (FA), and average those with known poses."""

from __future__ import annotations

import enum

from pwem.objects import SetOfFSCs
from pyworkflow.protocol import params
from pyworkflow.utils import Message
from tomo.objects import AverageSubTomogram, SetOfSubTomograms

from scipion_faml import convert
from scipion_faml.tables import write_particles

from .cluster_form import add_cluster, check_cluster, cluster_options
from .protocol_base import add_mask, add_tilt_range
from .protocol_particles import SEARCH_LABELS, SEARCHES, ProtFamlParticles, add_skip_bad


class FamlAlignOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    subtomograms = SetOfSubTomograms
    average = AverageSubTomogram
    fscs = SetOfFSCs


class FamlAverageOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    average = AverageSubTomogram
    fscs = SetOfFSCs


class ProtFamlAlign(ProtFamlParticles):
    """Aligns subtomograms to a known map and averages them.

    Every particle gets the pose that correlates best where it was measured (FA: fast alignment,
    one pose a particle) [Frazier2017]. The average follows the reference where data are weak:
    low-pass it to what you are sure of.
    """

    _label = "align to a reference (FA)"
    _possibleOutputs = FamlAlignOutputs

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        form.addParam(
            "inputSubtomograms", params.PointerParam, pointerClass="SetOfSubTomograms",
            important=True, label="Subtomograms",
            help="Bright density on dark, one box and voxel size. Their present alignment is not "
                 "used.")
        form.addParam(
            "inputReference", params.PointerParam, important=True, label="Reference",
            pointerClass="AverageSubTomogram, SubTomogram, Volume",
            help="Bright density on dark, centred. It is resampled to the voxels of the particles "
                 "and cropped or padded to their box.")
        form.addParam("lowPass", params.FloatParam, default=40.0, allowsNull=True,
                      label="Compare up to (Å)", help="Empty: everything the voxels can hold.")
        form.addParam("maxShift", params.FloatParam, allowsNull=True,
                      label="Largest shift (voxels)", help="Empty: a sixth of the box.")
        form.addParam(
            "search", params.EnumParam, default=1, expertLevel=params.LEVEL_ADVANCED,
            choices=SEARCH_LABELS, label="Search for poses",
            help="The exhaustive search misses fewer poses and takes many times longer.")
        add_tilt_range(form)
        add_skip_bad(form)
        add_cluster(form)
        form.addParallelSection(threads=4, mpi=0)

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        settings = self.settingsFingerprint()
        self._insertFunctionStep(self.convertInputStep, settings, needsGPU=False)
        self._insertFunctionStep(self.alignStep, settings, needsGPU=False)
        self._insertFunctionStep(self.averageStep, settings, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, settings, needsGPU=False)

    def alignStep(self, settings):
        """Find the best pose of every particle."""
        results = self.resultsFolder(settings)
        self.runVerb(
            "align", self._particleTable(), output=results, overwrite=True,
            reference=convert.mrc_file(self.inputReference.get(),
                                       self._getExtraPath("input", "reference.mrc")),
            search=SEARCHES[self.search.get()], max_shift=self.maxShift.get(),
            low_pass=self.lowPass.get(), skip_bad=self.skipBad.get(), **cluster_options(self))
        return [str(results / "particles.star")]

    def averageStep(self, settings):
        """Average the aligned particles, and their halves."""
        return self._averageParticles(self._getExtraPath("results", "particles.star"), settings)

    def createOutputStep(self, settings):
        """Read the results back into Scipion's objects."""
        update = convert.ItemUpdater(self._resultTable())
        outputs = {"subtomograms": self._alignedSubtomograms(update), **self._averageOutputs()}
        self._defineOutputs(**outputs)
        for output in outputs.values():
            self._defineSourceRelation(self.inputSubtomograms, output)
            self._defineSourceRelation(self.inputReference, output)

    # ---------------------------------------------------------------------------------- info
    def _validate(self):
        errors = []
        images, reference = self.inputSubtomograms.get(), self.inputReference.get()
        if images is None or reference is None:
            return errors
        self.checkSubtomograms(images, 1, errors)
        if reference.getDim() and len(set(reference.getDim())) != 1:
            errors.append(f"The reference measures {reference.getDim()} voxels (x, y, z): a cube "
                          "is needed.")
        check_cluster(self, errors)
        return errors

    def _summary(self):
        if not hasattr(self, "average"):
            return self.notReady()
        lines = [f"*{self.subtomograms.getSize()}* subtomograms aligned and averaged."]
        return lines + self.lostLines(self.subtomograms.getSize())

    def _methods(self):
        if not hasattr(self, "average"):
            return []
        return ["Subtomograms were aligned to a reference by fast rotational matching "
                "[Frazier2017] and averaged with their missing wedges."]

    def _citations(self):
        return ["Frazier2017", "Zhao2018"]


class ProtFamlAverage(ProtFamlParticles):
    """Averages subtomograms with the alignment they have, each weighted by what it measured.

    Use it on extracted particles with known orientations, or to average again with another tilt
    range. Two half averages and their Fourier shell correlation come with it.
    """

    _label = "average aligned subtomograms"
    _possibleOutputs = FamlAverageOutputs
    RESULTS = "average"

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        form.addParam(
            "inputSubtomograms", params.PointerParam, pointerClass="SetOfSubTomograms",
            important=True, label="Subtomograms",
            help="Particles without alignment are averaged as they are.")
        form.addParam(
            "symmetry", params.StringParam, default="C1", label="Symmetry",
            help="Point group to impose: C1, C7, D2, T, O, I ... The average must lie in its "
                 "frame: main axis along z, two-folds of Dn along x.")
        add_mask(form)
        add_tilt_range(form)
        add_skip_bad(form)
        add_cluster(form)
        form.addParallelSection(threads=4, mpi=0)

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        settings = self.settingsFingerprint()
        self._insertFunctionStep(self.convertInputStep, settings, needsGPU=False)
        self._insertFunctionStep(self.averageStep, settings, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, settings, needsGPU=False)

    def convertInputStep(self, settings):
        """Write the input set as a STAR table with its poses; classes are averaged together."""
        table = convert.particle_table(
            self.inputSubtomograms.get(), self._getExtraPath("input", "converted"),
            self.tiltRangeGiven())
        write_particles(self._particleTable(), convert.ready_to_average(table))
        return [self._particleTable()]

    def averageStep(self, settings):
        """Average the particles, and their halves."""
        return self._averageParticles(
            self._particleTable(), settings, symmetry=self.symmetry.get() or "C1",
            mask=self._maskFile(), skip_bad=self.skipBad.get())

    def createOutputStep(self, settings):
        """Read the results back into Scipion's objects."""
        outputs = self._averageOutputs()
        self._defineOutputs(**outputs)
        for output in outputs.values():
            self._defineSourceRelation(self.inputSubtomograms, output)

    # ---------------------------------------------------------------------------------- info
    def _validate(self):
        errors = []
        if self.inputSubtomograms.get() is not None:
            self.checkSubtomograms(self.inputSubtomograms.get(), 2, errors)
        self._checkSymmetry(errors)
        check_cluster(self, errors)
        return errors

    def _summary(self):
        if not hasattr(self, "average"):
            return self.notReady()
        images = self.inputSubtomograms.get()
        poses = "with" if images.hasAlignment3D() else "without"
        n_averaged = self.runResult().get("particles", images.getSize())
        return [f"*{n_averaged}* subtomograms averaged {poses} alignment.",
                *self.lostLines(n_averaged)]

    def _methods(self):
        if not hasattr(self, "average"):
            return []
        return [f"{self.inputSubtomograms.get().getSize()} subtomograms were averaged, each "
                "weighted by the part of Fourier space it measured [Zhao2018]."]
