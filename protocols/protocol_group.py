"""Group subtomograms coarsely, before any alignment."""

from __future__ import annotations

import enum

from pyworkflow.protocol import params
from pyworkflow.utils import Message
from tomo.objects import SetOfClassesSubTomograms

from scipion_faml import convert

from .protocol_base import add_tilt_range
from .protocol_particles import ProtFamlParticles, add_skip_bad


class FamlGroupOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    classes = SetOfClassesSubTomograms


class ProtFamlGroup(ProtFamlParticles):
    """Groups subtomograms coarsely, before any alignment and without a reference.

    Each subtomogram is described by the mean and the power of its Fourier shells, over what was
    measured: neither changes when it is turned. Groups differ in size, mass and radial density.
    Use them to throw junk away, to part large particles from small ones, and to give the
    classification sets that are more alike. Particles of one size but of other structure may
    share a group.

    It takes seconds for thousands of particles. The alignment that subtomograms have is kept. The
    map of a group is the mean of its unaligned particles over all directions: no structure.
    """

    _label = "group subtomograms coarsely"
    _possibleOutputs = FamlGroupOutputs

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        form.addParam(
            "inputSubtomograms", params.PointerParam, pointerClass="SetOfSubTomograms",
            important=True, label="Subtomograms",
            help="One box and voxel size. Their alignment is not used, and kept.")
        form.addParam(
            "findGroups", params.BooleanParam, default=True, label="Find the number of groups?",
            help="From 1 to 10, by the integrated completed likelihood; groups that no valley "
                 "parts are one. One group says that no two kinds were found.")
        form.addParam(
            "numberOfGroups", params.IntParam, default=2, condition="not findGroups",
            validators=[params.Range(1, 100, "1 to 100")], label="Groups",
            help="How many; more than there are kinds cuts kinds in parts.")
        form.addParam(
            "particleDiameter", params.FloatParam, allowsNull=True, label="Particle diameter (Å)",
            help="Look at a soft ball of this diameter only: it keeps neighbours out. Take that of "
                 "the largest particle. Empty: the box.")
        form.addParam(
            "lowPass", params.FloatParam, allowsNull=True, label="Describe up to (Å)",
            help="Finer detail tells a particle's noise. Empty: 4 voxels.")
        form.addParam("seed", params.IntParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                      label="Random seed",
                      help="Of the starts of the mixture: the same seed gives the same groups.")
        add_tilt_range(form)
        add_skip_bad(form)
        form.addParallelSection(threads=4, mpi=0)

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        settings = self.settingsFingerprint()
        self._insertFunctionStep(self.convertInputStep, settings, needsGPU=False)
        self._insertFunctionStep(self.groupStep, settings, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, settings, needsGPU=False)

    def groupStep(self, settings):
        """Describe all particles and group them."""
        results = self.resultsFolder(settings)
        self.runVerb(
            "group", self._particleTable(), output=results, overwrite=True,
            groups="auto" if self.findGroups.get() else self.numberOfGroups.get(),
            particle_diameter=self.particleDiameter.get(), low_pass=self.lowPass.get(),
            seed=self.seed.get(), skip_bad=self.skipBad.get(),
            workers=self.programThreads())
        return [str(results / "particles.star")]

    def createOutputStep(self, settings):
        """Read the groups back into Scipion's objects."""
        images = self.inputSubtomograms.get()
        classes = SetOfClassesSubTomograms.create(self.getPath(), prefix="classes")
        classes.setImages(self.inputSubtomograms)  # the indirect pointer, not the set
        classes.setCoordinates3D(convert.copy_of(images.getCoordinates3D(asPointer=True)))
        classes.classifyItems(updateItemCallback=convert.ItemUpdater(self._groupsTable()),
                              updateClassCallback=self._updateClass)
        self._defineOutputs(classes=classes)
        self._defineSourceRelation(self.inputSubtomograms, classes)

    def _groupsTable(self):
        """The result without poses: items keep the very matrices that they have."""
        table = self._resultTable()
        return table.without_poses().with_columns(rlnClassNumber=table.rows["rlnClassNumber"])

    def _updateClass(self, one_class):
        images = self.inputSubtomograms.get()
        if images.hasAlignment3D():
            one_class.setAlignment3D()
        representative = one_class.getRepresentative()
        representative.setLocation(
            self._getExtraPath("results", f"group_{one_class.getObjId():03d}.mrc"))
        representative.setSamplingRate(images.getSamplingRate())

    # ---------------------------------------------------------------------------------- info
    def _validate(self):
        errors = []
        images = self.inputSubtomograms.get()
        if images is None:
            return errors
        self.checkSubtomograms(images, 2, errors)
        groups = 1 if self.findGroups.get() else self.numberOfGroups.get()
        if groups > images.getSize() >= 2:
            errors.append(f"{groups} groups asked of {images.getSize()} subtomograms: ask for "
                          "fewer groups.")
        return errors

    def _summary(self):
        if not hasattr(self, "classes"):
            return self.notReady()
        result = self.runResult()
        sizes = result.get("sizes", [])
        n_particles = result.get("particles", 0)
        lines = [f"*{n_particles}* subtomograms in *{len(sizes)}* group(s): "
                 f"{', '.join(map(str, sizes))}."]
        if result.get("silhouette") is not None:
            lines.append(f"Silhouette {result['silhouette']:.2f} (1: apart, 0: not).")
        if result.get("n_outliers"):
            lines.append(f"{result['n_outliers']} subtomograms fit no group (famlOutlier).")
        lines += [f"*Warning:* {text}." for text in result.get("warnings", [])]
        return lines + self.lostLines(n_particles)

    def _methods(self):
        if not hasattr(self, "classes"):
            return []
        return [f"{self.inputSubtomograms.get().getSize()} subtomograms were grouped into "
                f"{self.classes.getSize()} by mean and power of their Fourier shells, with a "
                "mixture of Gaussians, before any alignment."]
