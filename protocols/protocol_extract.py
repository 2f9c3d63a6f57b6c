"""Cut subtomograms out of tomograms at given positions."""

from __future__ import annotations

import enum
import os
from collections import Counter
from pathlib import Path

from pyworkflow.protocol import STEPS_PARALLEL, params
from pyworkflow.utils import Message
from tomo.objects import SetOfSubTomograms

from scipion_faml import convert
from scipion_faml.geometry import scipion_matrices
from scipion_faml.io import read_particles, write_particles

from .protocol_base import ProtFamlBase, check_tomograms


class FamlExtractOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    subtomograms = SetOfSubTomograms


class ProtFamlExtractSubtomograms(ProtFamlBase):
    """Cuts a cube around every position, normalised, one MRC file each.

    Orientations of the positions become the particles' alignment. Positions whose box leaves the
    tomogram are reported in the summary.
    """

    _label = "extract subtomograms"
    _possibleOutputs = FamlExtractOutputs
    stepsExecutionMode = STEPS_PARALLEL

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        form.addParam("inputCoordinates", params.PointerParam, important=True,
                      pointerClass="SetOfCoordinates3D", label="Coordinates",
                      help="Positions of any picker; their orientations and scores are kept.")
        form.addParam("inputTomograms", params.PointerParam, pointerClass="SetOfTomograms",
                      allowsNull=True, label="Tomograms",
                      help="Empty: those the positions were picked in. Others, for example at "
                           "another binning, are matched by their tilt series id.")
        form.addParam("binning", params.IntParam, default=1, validators=[params.GE(1)],
                      label="Bin by", help="1 keeps the tomogram's voxels.")
        form.addParam("boxSize", params.IntParam, allowsNull=True, label="Box size (voxels)",
                      help="After binning. Empty: the box of the coordinates.")
        form.addParam("doInvert", params.BooleanParam, default=False, label="Invert contrast?",
                      help="Subtomograms are bright on dark. Say yes when particles are dark in "
                           "the tomogram, as most reconstruction programs write it.")
        form.addParam("doPad", params.BooleanParam, default=False,
                      label="Keep particles at the border?",
                      help="What their box lacks is filled with its mean. No leaves them out.")
        form.addParallelSection(threads=1, mpi=0, binThreads=4)

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        settings = self.settingsFingerprint()
        steps = [
            self._insertFunctionStep(self.extractStep, tomogram.getTsId(), settings,
                                     prerequisites=[], needsGPU=False)
            for tomogram in convert.by_tomogram(self.inputCoordinates.get())
        ]
        self._insertFunctionStep(self.createOutputStep, settings, prerequisites=steps,
                                 needsGPU=False)

    def extractStep(self, ts_id, settings):
        """Extract from one tomogram; its failure leaves the others alone."""
        folder = self.resultsFolder(settings, ts_id)
        with self.failureRecorded(ts_id):
            tomogram = self.tomogramOf(self._tomograms(), ts_id)
            picks = folder / "picks.star"
            write_particles(picks, convert.picks_table(self.inputCoordinates.get(), tomogram))
            wedge = convert.missing_wedge(tomogram.getAcquisition()) or convert.NO_WEDGE
            self.runVerb(
                "extract", convert.mrc_file(tomogram, folder / "tomogram.mrc"), picks,
                output=folder / "subtomograms", overwrite=True, box=self.suggestedBox(),
                bin=self.binning.get(), invert=self.doInvert.get(), pad=self.doPad.get(),
                tilt_min=wedge.tilt_min_deg, tilt_max=wedge.tilt_max_deg, tomo_name=ts_id,
                tomogram_voxel_size=tomogram.getSamplingRate(), workers=self.getBinThreads())

    def createOutputStep(self, settings):
        """Gather the particles of all tomograms."""
        coordinates = self.inputCoordinates.get()
        voxel_size = self._tomograms().getSamplingRate() * self.binning.get()
        images = SetOfSubTomograms.create(self.getPath(), prefix="subtomograms")
        images.setSamplingRate(voxel_size)
        images.setAcquisition(self._tomograms().getAcquisition().clone())
        images.setCoordinates3D(convert.copy_of(self.inputCoordinates))
        is_oriented = False
        for tomogram in convert.by_tomogram(coordinates):
            path = self._table(tomogram.getTsId(), "particles.star")
            if path.is_file():
                is_oriented |= self._append(images, tomogram, read_particles(path))
        self.raiseIfAllFailed(images.getSize())
        if is_oriented:
            images.setAlignment3D()
        self._defineOutputs(subtomograms=images)
        self._defineSourceRelation(self.inputCoordinates, images)
        if self.inputTomograms.get() is not None:
            self._defineSourceRelation(self.inputTomograms, images)

    def _append(self, images, tomogram, table):
        """Append one tomogram's particles; return whether they have orientations."""
        acquisition = self.tomogramOf(self._tomograms(), tomogram.getTsId()).getAcquisition()
        is_oriented = convert.has_pose_columns(table)
        matrices = scipion_matrices(table.poses) if is_oriented else None
        number_of = {int(i): n for n, i in enumerate(table.rows[convert.ID_COLUMN])}
        for coordinate in self.inputCoordinates.get().iterCoordinates(volume=tomogram):
            number = number_of.get(coordinate.getObjId())
            if number is None:
                continue
            image = convert.new_subtomogram(
                os.path.relpath(table.rows["rlnImageName"].iloc[number]),
                images.getSamplingRate(), acquisition,
                convert.IDENTITY if matrices is None else matrices[number])
            image.setVolName(tomogram.getTsId())
            image.setCoordinate3D(coordinate.clone())
            convert.set_box_centre(image, table.rows.iloc[number])
            images.append(image)
        return is_oriented

    def _table(self, ts_id, name):
        return Path(self._getExtraPath(ts_id, "subtomograms", name))

    def _tomograms(self):
        return self.inputTomograms.get() or self.inputCoordinates.get().getPrecedents()

    def suggestedBox(self):
        """Return the box in voxels of the output: as given, or the coordinates' box, even."""
        if self.boxSize.get():
            return self.boxSize.get()
        coordinates = self.inputCoordinates.get()
        factor = coordinates.getSamplingRate() / self._tomograms().getSamplingRate()
        return 2 * max(4, round(coordinates.getBoxSize() * factor / self.binning.get() / 2))

    # ---------------------------------------------------------------------------------- info
    def _validate(self):
        errors = []
        coordinates = self.inputCoordinates.get()
        if coordinates is None:
            return errors
        if coordinates.getSize() < 1:
            errors.append("The set of coordinates is empty.")
        if not self.boxSize.get() and not coordinates.getBoxSize():
            errors.append("The coordinates have no box size: give one.")
        if self.boxSize.get() is not None and self.boxSize.get() < 8:
            errors.append(f"A box of {self.boxSize.get()} voxels is too small: 8 at least.")
        tomograms = self._tomograms()
        if tomograms is None:
            errors.append("The tomograms of the coordinates are gone: choose tomograms.")
            return errors
        check_tomograms(tomograms, errors)
        if not set(tomograms.getTSIds()) & set(coordinates.getPrecedents().getTSIds()):
            errors.append("No tomogram has the tilt series id of a coordinate: choose tomograms of "
                          "the same tilt series.")
        return errors

    def _summary(self):
        if not hasattr(self, "subtomograms"):
            return self.notReady() + self.failureLines()
        n_taken, n_given = self.subtomograms.getSize(), self.inputCoordinates.get().getSize()
        lines = [f"*{n_taken}* of {n_given} particles, box {self.subtomograms.getDim()[0]} voxels "
                 f"of {self.subtomograms.getSamplingRate():g} Å."]
        reasons = self._reasonsToDrop()
        lines += [f"{count} left out: {reason}." for reason, count in reasons.items()]
        n_unknown = n_given - n_taken - sum(reasons.values())
        if n_unknown > 0:
            lines.append(f"{n_unknown} left out: their tomogram is missing or failed.")
        if convert.tilt_range_of(self.subtomograms) is None:
            lines.append("The tomograms have no tilt range: give it when averaging.")
        return lines + self.failureLines()

    def _reasonsToDrop(self):
        """Return how many positions were left out for which reason."""
        reasons = Counter()
        for tomogram in convert.by_tomogram(self.inputCoordinates.get()):
            path = self._table(tomogram.getTsId(), "dropped.star")
            if path.is_file():
                reasons.update(map(_in_words, read_particles(path).rows["famlReason"]))
        return reasons

    def _methods(self):
        if not hasattr(self, "subtomograms"):
            return []
        return [f"{self.subtomograms.getSize()} subtomograms of {self.subtomograms.getDim()[0]}³ "
                f"voxels were extracted at {self.subtomograms.getSamplingRate():g} Å."]

    def _citations(self):
        return []


def _in_words(reason):
    if reason.startswith("box_reaches"):
        return "their box reaches out of the tomogram"
    return str(reason).replace("_", " ")
