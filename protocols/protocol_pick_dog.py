"""Pick particles as local maxima of a difference of Gaussians."""

from __future__ import annotations

import enum
from pathlib import Path

from pyworkflow.protocol import STEPS_PARALLEL, params
from pyworkflow.utils import Message
from tomo.objects import SetOfCoordinates3D

from scipion_faml import convert
from scipion_faml.io import read_particles

from .protocol_base import ProtFamlBase, check_tomograms


class FamlPickOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    coordinates = SetOfCoordinates3D


class ProtFamlPickDog(ProtFamlBase):
    """Finds compact bright particles of one size in tomograms, without a template.

    The difference of two Gaussian blurs answers to blobs of the given diameter; its local maxima
    above a threshold become positions, with the height as their score [Voss2009]. Positions have
    no orientation.
    """

    _label = "pick particles (difference of Gaussians)"
    _possibleOutputs = FamlPickOutputs
    stepsExecutionMode = STEPS_PARALLEL

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        form.addParam("inputTomograms", params.PointerParam, pointerClass="SetOfTomograms",
                      important=True, label="Tomograms")
        form.addParam("diameter", params.FloatParam, default=250.0, validators=[params.GT(0)],
                      important=True, label="Particle diameter (Å)",
                      help="About 130 Å for a proteasome or GroEL seen from the top, 250 Å for a "
                           "ribosome.")
        form.addParam("isDark", params.BooleanParam, default=False, label="Particles are dark?",
                      help="Yes for tomograms as most reconstruction programs write them.")
        form.addParam("boxSize", params.IntParam, allowsNull=True, label="Box size (voxels)",
                      help="Stored with the positions for extraction. The wizard takes one and a "
                           "half diameters; so does an empty row.")
        form.addParam("falsePositives", params.FloatParam, default=1.0,
                      expertLevel=params.LEVEL_ADVANCED, validators=[params.GT(0)],
                      label="False positives allowed",
                      help="In a whole tomogram, of noise alone: sets the threshold.")
        form.addParam("threshold", params.FloatParam, allowsNull=True,
                      expertLevel=params.LEVEL_ADVANCED, label="Threshold",
                      help="Lowest score kept, in standard deviations of the response where there "
                           "is no particle. Empty: from the row above.")
        form.addParallelSection(threads=1, mpi=0, binThreads=4)

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        settings = self.settingsFingerprint("boxSize")
        steps = [
            self._insertFunctionStep(self.pickStep, ts_id, settings, prerequisites=[],
                                     needsGPU=False)
            for ts_id in self.inputTomograms.get().getTSIds()
        ]
        self._insertFunctionStep(self.createOutputStep, settings, self.box(),
                                 prerequisites=steps, needsGPU=False)

    def pickStep(self, ts_id, settings):
        """Pick in one tomogram; its failure leaves the others alone."""
        folder = self.resultsFolder(settings, ts_id)
        tomogram = self.tomogramOf(self.inputTomograms.get(), ts_id)
        with self.failureRecorded(ts_id):
            self.runVerb(
                "pick-dog", convert.mrc_file(tomogram, folder / "tomogram.mrc"),
                output=folder / "picks.star", overwrite=True, diameter=self.diameter.get(),
                dark=self.isDark.get(), threshold=self.threshold.get(),
                false_positives=self.falsePositives.get(), tomo_name=ts_id,
                tomogram_voxel_size=tomogram.getSamplingRate(), workers=self.getBinThreads())

    def createOutputStep(self, settings, box):
        """Gather the positions of all tomograms."""
        tomograms = self.inputTomograms.get()
        coordinates = SetOfCoordinates3D.create(self.getPath(), prefix="coordinates")
        coordinates.setPrecedents(self.inputTomograms)  # the indirect pointer, not the set
        coordinates.setSamplingRate(tomograms.getSamplingRate())
        coordinates.setBoxSize(box)
        for tomogram in convert.clones(tomograms):
            path = self._picksFile(tomogram.getTsId())
            if path.is_file():
                convert.append_coordinates(coordinates, tomogram, read_particles(path),
                                           with_answers=False)
        self.raiseIfAllFailed(coordinates.getSize())
        self._defineOutputs(coordinates=coordinates)
        self._defineSourceRelation(self.inputTomograms, coordinates)

    def _picksFile(self, ts_id):
        return Path(self._getExtraPath(ts_id, "picks.star"))

    def box(self):
        """Return the box size: as given, or one and a half diameters, even."""
        if self.boxSize.get():
            return self.boxSize.get()
        voxels = 1.5 * self.diameter.get() / self.inputTomograms.get().getSamplingRate()
        return 2 * max(4, round(voxels / 2))

    # ---------------------------------------------------------------------------------- info
    def _validate(self):
        errors = []
        tomograms = self.inputTomograms.get()
        if tomograms is None:
            return errors
        check_tomograms(tomograms, errors)
        voxel_size, diameter = tomograms.getSamplingRate(), self.diameter.get()
        if voxel_size and diameter and diameter < 2 * voxel_size:
            errors.append(f"A diameter of {diameter:g} Å is less than two voxels of "
                          f"{voxel_size:g} Å: check both.")
        if self.boxSize.get() is not None and self.boxSize.get() < 8:
            errors.append(f"A box of {self.boxSize.get()} voxels is too small: 8 at least.")
        return errors

    def _summary(self):
        if not hasattr(self, "coordinates"):
            return self.notReady() + self.failureLines()
        ts_ids = self.inputTomograms.get().getTSIds()
        lines = [f"*{self.coordinates.getSize()}* particles in {len(ts_ids)} tomogram(s), box "
                 f"{self.coordinates.getBoxSize()} voxels."]
        empty = [t for t in ts_ids if not self._picksFile(t).is_file() and not self.failureOf(t)]
        if empty:
            lines.append(f"Nothing scores above the threshold in {', '.join(empty)}.")
        return lines + self.failureLines()

    def _methods(self):
        if not hasattr(self, "coordinates"):
            return []
        return [f"{self.coordinates.getSize()} particles of {self.diameter.get():g} Å were picked "
                "by a difference of Gaussians [Voss2009]."]

    def _citations(self):
        return ["Voss2009"]
