"""Cut subtomograms out of tomograms at given positions, also while positions still arrive."""

from __future__ import annotations

import enum
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol import params
from pyworkflow.utils import Message
from tomo.objects import SetOfSubTomograms

from scipion_faml import convert
from scipion_faml.geometry import scipion_matrices
from scipion_faml.tables import ParticleTable, read_particles, write_particles
from scipion_faml.wedge import NO_WEDGE

from .protocol_base import STAMP, check_tomograms
from .streaming import ProtFamlStreaming

PICKS, PARTICLES = "picks.star", "particles.star"  # of a batch: what went in, what came out


class FamlExtractOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    subtomograms = SetOfSubTomograms


class ProtFamlExtractSubtomograms(ProtFamlStreaming):
    """Cuts a cube around every position, normalised, one MRC file each.

    Orientations of the positions become the particles' alignment. Positions whose box leaves the
    tomogram are reported in the summary. Of a set that still grows, the positions in a tomogram
    are extracted as they arrive.
    """

    _label = "extract subtomograms"
    _possibleOutputs = FamlExtractOutputs
    OUTPUT = FamlExtractOutputs.subtomograms.name

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._taken = None  # tilt series id -> ids of positions that a batch has
        self._batches = {}  # name -> tilt series id, ids of positions

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        form.addParam("inputCoordinates", params.PointerParam, important=True,
                      pointerClass="SetOfCoordinates3D", label="Coordinates",
                      help="Positions of any picker; their orientations and scores are kept. A "
                           "set that still grows is extracted as its positions arrive.")
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
        self._defineStreamingParams(form)

    # --------------------------------------------------------------------------------- steps
    def streamSettings(self):
        """Return a hash of what decides what the subtomograms look like."""
        return self.settingsFingerprint(growing=("inputCoordinates", "inputTomograms"))

    def newWork(self, settings):
        """Return the batches of positions that have arrived, and whether more may come.

        Pickers add a tomogram's positions at once, as a rule; those added later are a batch of
        their own.
        """
        with self._lock:
            coordinates = self.inputCoordinates.get()
            is_open = self.refreshed(coordinates)
            known, more_tomograms = self._knownTomograms()
            if self._taken is None:
                self._taken = self._takenBefore(settings, coordinates)
            new, waiting = [], False
            for ts_id, n_positions in convert.counts_by_tomogram(coordinates).items():
                taken = self._taken.setdefault(ts_id, set())
                if n_positions <= len(taken):
                    continue
                if ts_id not in known and more_tomograms:
                    waiting = True
                    continue
                ids = convert.ids_in_tomogram(coordinates, ts_id) - taken
                taken |= ids
                new.append(self._newBatch(ts_id, ids))
        self.count(tomograms=len(self._taken), positions=coordinates.getSize())
        return new, is_open or waiting

    def _knownTomograms(self):
        """Return the ids of tomograms that can be extracted from, and whether more may come."""
        sets = [self.inputCoordinates.get().getPrecedents(), self.inputTomograms.get()]
        known, is_open = None, False
        for tomograms in sets:
            if tomograms is None:
                continue
            is_open |= self.refreshed(tomograms)
            ids = set(tomograms.getTSIds())
            known = ids if known is None else known & ids
        return known or set(), is_open

    def _newBatch(self, ts_id, ids):
        """Return the name of a batch: that of its tomogram, numbered from the second one on."""
        number = 1
        while (name := _batch_name(ts_id, number)) in self._batches:
            number += 1
        self._batches[name] = (ts_id, frozenset(ids))
        return name

    def _takenBefore(self, settings, coordinates):
        """Return the ids of positions, by tomogram, that are extracted already (after Continue).

        What else an earlier run left is removed. Where positions have changed since, all are
        extracted anew.
        """
        output = self.outputMadeWith(settings)
        files = set() if output is None else set(output.getUniqueValues("_filename"))
        self.forgetFailures()
        folders = [path.parent for path in Path(self._getExtraPath()).glob(f"*/{STAMP}")]
        kept = {folder: batch for folder in folders
                if (batch := _batch_in(folder, settings)) is not None
                and batch.first_file in files}
        if not all(self._isAsBefore(batch, coordinates) for batch in kept.values()):
            self.info("positions have changed since they were extracted: all are extracted anew")
            self.forgetOutput()
            kept = {}
        for folder in set(folders) - kept.keys():
            shutil.rmtree(folder)
        taken = {}
        for folder, batch in kept.items():
            self._batches[folder.name] = (batch.ts_id, batch.ids)
            taken.setdefault(batch.ts_id, set()).update(batch.ids)
        return taken

    def _isAsBefore(self, batch, coordinates):
        """Whether the positions of a batch are where they were when it was extracted."""
        try:
            tomogram = self.tomogramOf(self._tomograms(), batch.ts_id)
            now = convert.picks_table(coordinates, tomogram, batch.ids)
        except (PyworkflowException, ValueError):  # tomogram or positions are gone
            return False
        return convert.are_same_picks(batch.picks, now)

    def insertWork(self, name, settings):
        """Insert the step of one batch and return its id."""
        return self._insertFunctionStep(self.extractStep, name, settings, prerequisites=[],
                                        needsGPU=False)

    def extractStep(self, name, settings):
        """Extract a batch of one tomogram; its failure leaves the others alone."""
        folder = self.resultsFolder(settings, name)
        ts_id, ids = self._batches[name]
        with self.failureRecorded(name):
            with self._lock:
                tomogram = self.tomogramOf(self._tomograms(), ts_id)
                table = convert.picks_table(self.inputCoordinates.get(), tomogram, ids)
            write_particles(folder / PICKS, table)
            wedge = convert.missing_wedge(tomogram.getAcquisition()) or NO_WEDGE
            self.runVerb(
                "extract", convert.mrc_file(tomogram, folder / "tomogram.mrc"), folder / PICKS,
                output=folder / "subtomograms", overwrite=True, box=self.suggestedBox(),
                bin=self.binning.get(), invert=self.doInvert.get(), pad=self.doPad.get(),
                tilt_min=wedge.tilt_min_deg, tilt_max=wedge.tilt_max_deg, tomo_name=ts_id,
                tomogram_voxel_size=tomogram.getSamplingRate(), workers=self.getBinThreads())
            self._register(tomogram, read_particles(folder / "subtomograms" / PARTICLES), settings)

    def _register(self, tomogram, table, settings):
        """Append the particles of one batch to the output, which stays open."""
        is_oriented = convert.has_pose_columns(table)
        with self._lock:
            images = self.openOutput(settings)
            # All of them, or none: what is appended is committed with the next batch.
            for image in list(self._images(images.getSamplingRate(), tomogram, table)):
                images.append(image)
            if is_oriented:
                images.setAlignment3D()
            self.writeOutput(images)
            n_images = images.getSize()
        self.count(particles=n_images)

    def newOutput(self):
        """Return an empty set of subtomograms, and the sets that it comes from."""
        tomograms = self._tomograms()
        images = SetOfSubTomograms.create(self.getPath(), prefix="subtomograms")
        images.setSamplingRate(tomograms.getSamplingRate() * self.binning.get())
        images.setAcquisition(tomograms.getAcquisition().clone())
        images.setCoordinates3D(convert.copy_of(self.inputCoordinates))
        given = [] if self.inputTomograms.get() is None else [self.inputTomograms]
        return images, [self.inputCoordinates, *given]

    def _images(self, voxel_size, tomogram, table):
        """Yield one tomogram's particles with their coordinates and orientations."""
        matrices = scipion_matrices(table.poses) if convert.has_pose_columns(table) else None
        number_of = {int(i): n for n, i in enumerate(table.rows[convert.ID_COLUMN])}
        for coordinate in self.inputCoordinates.get().iterCoordinates(volume=tomogram):
            number = number_of.get(coordinate.getObjId())
            if number is None:
                continue
            image = convert.new_subtomogram(
                os.path.relpath(table.rows["rlnImageName"].iloc[number]), voxel_size,
                tomogram.getAcquisition(),
                convert.IDENTITY if matrices is None else matrices[number])
            image.setVolName(tomogram.getTsId())
            image.setCoordinate3D(coordinate.clone())
            convert.set_box_centre(image, table.rows.iloc[number])
            yield image

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
        is_open = coordinates.isStreamOpen()
        if coordinates.getSize() < 1 and not is_open:
            errors.append("The set of coordinates is empty.")
        if not self.boxSize.get() and not coordinates.getBoxSize():
            errors.append("The coordinates have no box size: give one.")
        if self.boxSize.get() is not None and self.boxSize.get() < 8:
            errors.append(f"A box of {self.boxSize.get()} voxels is too small: 8 at least.")
        tomograms = self._tomograms()
        if tomograms is None:
            errors.append("The tomograms of the coordinates are gone: choose tomograms.")
            return errors
        if tomograms.isStreamOpen() or is_open:
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
        if self.subtomograms.isStreamOpen():
            lines.append("More positions may come.")
        elif n_unknown > 0:
            lines.append(f"{n_unknown} left out: their tomogram is missing or failed.")
        if convert.tilt_range_of(self.subtomograms) is None:
            lines.append("The tomograms have no tilt range: give it when averaging.")
        return lines + self.failureLines()

    def _reasonsToDrop(self):
        """Return how many positions were left out for which reason."""
        reasons = Counter()
        for path in Path(self._getExtraPath()).glob("*/subtomograms/dropped.star"):
            if (path.parent / PARTICLES).is_file():  # else the whole batch failed
                reasons.update(map(_in_words, read_particles(path).rows["famlReason"]))
        return reasons

    def _methods(self):
        if not hasattr(self, "subtomograms"):
            return []
        return [f"{self.subtomograms.getSize()} subtomograms of {self.subtomograms.getDim()[0]}³ "
                f"voxels were extracted at {self.subtomograms.getSamplingRate():g} Å."]

    def _citations(self):
        return []


@dataclass(frozen=True)
class _Batch:
    """What an earlier run left of a batch."""

    picks: ParticleTable  # of one tomogram
    first_file: str  # of a subtomogram, as in the output

    @property
    def ts_id(self):
        """The tilt series id of its tomogram."""
        return self.picks.rows["rlnTomoName"].iloc[0]

    @property
    def ids(self):
        """The ids of its positions."""
        return frozenset(int(i) for i in self.picks.rows[convert.ID_COLUMN])


def _batch_in(folder, settings):
    """Return the batch in a folder if it was made with these settings and is whole, or None."""
    picks, particles = folder / PICKS, folder / "subtomograms" / PARTICLES
    is_whole = picks.is_file() and particles.is_file()
    if not is_whole or (folder / STAMP).read_text() != settings:
        return None
    first = read_particles(particles).rows["rlnImageName"].iloc[0]
    return _Batch(read_particles(picks), os.path.relpath(first))


def _batch_name(ts_id, number):
    return ts_id if number == 1 else f"{ts_id}_part{number}"


def _in_words(reason):
    if reason.startswith("box_reaches"):
        return "their box reaches out of the tomogram"
    return str(reason).replace("_", " ")
