"""What the pickers share: each tomogram is picked in as it arrives, and its positions gathered."""

from __future__ import annotations

import enum
import json
from pathlib import Path

from pyworkflow.protocol import params
from pyworkflow.utils import Message
from tomo.objects import SetOfCoordinates3D

from scipion_faml import convert
from scipion_faml.tables import read_particles

from .protocol_base import add_gpu, check_tomograms
from .streaming import ProtFamlStreaming

BOX_PER_DIAMETER = 1.5  # room for the neighbourhood that carries the CTF, and for shifts


class FamlPickOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    coordinates = SetOfCoordinates3D


class ProtFamlPickBase(ProtFamlStreaming):
    """Base of the pickers; it has no label, so Scipion does not list it.

    A picker names its verb, adds rows to the form, and says which options they are.
    """

    _possibleOutputs = FamlPickOutputs
    OUTPUT = FamlPickOutputs.coordinates.name
    VERB = ""
    USES_GPU = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._arrived = {}  # tilt series id -> tomogram

    # ------------------------------------------------------------------------------- a picker
    def _definePickerParams(self, form):
        """Add the picker's own rows."""

    def pickOptions(self, tomogram, folder):
        """Return the options of the verb for one tomogram; files go to `folder`."""
        raise NotImplementedError

    def diameterToBox(self):
        """Return the diameter (angstrom) that the box is made for."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        if self.USES_GPU:
            add_gpu(form)
        form.addParam("inputTomograms", params.PointerParam, pointerClass="SetOfTomograms",
                      important=True, label="Tomograms",
                      help="A set that still grows is picked in as its tomograms arrive.")
        self._definePickerParams(form)
        form.addParam("isDark", params.BooleanParam, default=False, label="Particles are dark?",
                      help="Yes for tomograms as most reconstruction programs write them.")
        form.addParam("inputMasks", params.PointerParam, pointerClass="SetOfTomoMasks",
                      allowsNull=True, label="Masks",
                      help="Optional: look for particles where the tomogram's mask (matched by its "
                           "tilt series id) is above 0.5. It must have the tomogram's size.")
        form.addParam("boxSize", params.IntParam, allowsNull=True, label="Box size (voxels)",
                      help="Stored with the positions for extraction. The wizard takes one and a "
                           "half diameters; so does an empty row.")
        form.addParam("minDistance", params.FloatParam, allowsNull=True,
                      expertLevel=params.LEVEL_ADVANCED, label="Distance between picks (Å)",
                      help="At least; of two that are nearer the better one is kept. Empty: what "
                           "the picker derives from the diameter.")
        form.addParam("border", params.FloatParam, allowsNull=True,
                      expertLevel=params.LEVEL_ADVANCED, label="Distance from the faces (Å)",
                      help="Picks keep it from the tomogram's faces. Empty: what the picker "
                           "derives from the diameter.")
        form.addParam("maxPicks", params.IntParam, allowsNull=True,
                      expertLevel=params.LEVEL_ADVANCED, label="Picks at most",
                      help="In a tomogram: the best. Empty: all.")
        form.addParallelSection(threads=1, mpi=0, binThreads=4)
        self._defineStreamingParams(form)

    def commonOptions(self, tomogram, folder):
        """Return the options that all pickers have, of one tomogram."""
        return {
            "output": folder / "picks.star", "overwrite": True, "tomo_name": tomogram.getTsId(),
            "tomogram_voxel_size": tomogram.getSamplingRate(), "mask": self._mask(tomogram, folder),
            "min_distance": self.minDistance.get(), "border": self.border.get(),
            "max_picks": self.maxPicks.get(), "workers": self.getBinThreads(),
        }

    def _mask(self, tomogram, folder):
        """Return the file of a tomogram's mask, or None where no masks are given."""
        masks = self.inputMasks.get()
        if masks is None:
            return None
        with self._lock:
            found = [m for m in convert.clones(masks) if m.getTsId() == tomogram.getTsId()]
        if not found:
            raise ValueError(f"no mask has the tilt series id {tomogram.getTsId()}: add one to the "
                             "set, or leave the masks out")
        return convert.mrc_file(found[0], folder / "mask.mrc")

    # --------------------------------------------------------------------------------- steps
    def streamSettings(self):
        """Return a hash of what decides where picks are."""
        return self.settingsFingerprint("boxSize", growing=("inputTomograms",))

    def newWork(self, settings):
        """Return the ids of the tomograms that have arrived, and whether more will come."""
        with self._lock:
            tomograms = self.inputTomograms.get()
            is_open = self.refreshed(tomograms)
            arrived = {t.getTsId(): t for t in convert.clones(tomograms)}
            found = self.outputMadeWith(settings)
            picked = set() if found is None else set(found.getTSIds())
        new = [ts_id for ts_id in arrived if ts_id not in self._arrived]
        self._arrived.update(arrived)
        self.count(tomograms=len(arrived))
        return [ts_id for ts_id in new if ts_id not in picked], is_open

    def insertWork(self, ts_id, settings):
        """Insert the step of one tomogram and return its id."""
        return self._insertFunctionStep(
            self.pickStep, ts_id, settings, prerequisites=[],
            needsGPU=self.USES_GPU and self.useGpu.get())

    def pickStep(self, ts_id, settings):
        """Pick in one tomogram and register its positions; its failure leaves the others alone."""
        folder = self.resultsFolder(settings, ts_id)
        tomogram = self._arrived[ts_id]
        with self.failureRecorded(ts_id):
            self.runVerb(
                self.VERB, convert.mrc_file(tomogram, folder / "tomogram.mrc"),
                **self.commonOptions(tomogram, folder), **self.pickOptions(tomogram, folder))
            picks = self._picksFile(ts_id)
            if picks.is_file():
                self._register(tomogram, read_particles(picks), settings)

    def _register(self, tomogram, table, settings):
        """Append one tomogram's positions to the output, which stays open."""
        with self._lock:
            coordinates = self.openOutput(settings)
            convert.append_coordinates(coordinates, tomogram, table)
            self.writeOutput(coordinates)
            n_tomograms, n_positions = len(coordinates.getTSIds()), coordinates.getSize()
        self.count(with_positions=n_tomograms, positions=n_positions)

    def newOutput(self):
        """Return an empty set of positions, and the tomograms that it comes from."""
        coordinates = SetOfCoordinates3D.create(self.getPath(), prefix="coordinates")
        coordinates.setPrecedents(self.inputTomograms)  # the indirect pointer, not the set
        coordinates.setSamplingRate(self.inputTomograms.get().getSamplingRate())
        coordinates.setBoxSize(self.box())
        return coordinates, [self.inputTomograms]

    def outputStamp(self, settings):
        """Return what positions must have been made with, to be continued: their box, too."""
        return f"{settings} {self.box()}"

    def _picksFile(self, ts_id):
        return Path(self._getExtraPath(ts_id, "picks.star"))

    def verbResults(self):
        """Return what the verb printed for each tomogram that was picked in, by its id."""
        return {path.parent.name: json.loads(path.read_text())["result"]
                for path in sorted(Path(self._getExtraPath()).glob("*/picks.star.json"))}

    def box(self):
        """Return the box size: as given, or one and a half diameters, even."""
        if self.boxSize.get():
            return self.boxSize.get()
        return box_of(self.diameterToBox(), self.inputTomograms.get().getSamplingRate())

    # ---------------------------------------------------------------------------------- info
    def _validate(self):
        errors = []
        tomograms = self.inputTomograms.get()
        if tomograms is not None and not tomograms.isStreamOpen():
            check_tomograms(tomograms, errors)
        if self.boxSize.get() is not None and self.boxSize.get() < 8:
            errors.append(f"A box of {self.boxSize.get()} voxels is too small: 8 at least.")
        for row, name in ((self.minDistance, "distance between picks"),
                          (self.border, "distance from the faces")):
            if row.get() is not None and row.get() < 0:
                errors.append(f"The {name} must not be negative.")
        if self.maxPicks.get() is not None and self.maxPicks.get() < 1:
            errors.append("Allow one pick at least, or leave the row empty.")
        if tomograms is not None:
            self._checkMasks(tomograms, errors)
            self._checkPicker(tomograms, errors)
        return errors

    def _checkMasks(self, tomograms, errors):
        masks = self.inputMasks.get()
        if masks is None or tomograms.isStreamOpen():
            return
        without = set(tomograms.getTSIds()) - set(masks.getTSIds())
        if without == set(tomograms.getTSIds()):
            errors.append("No mask has the tilt series id of a tomogram: choose the masks of these "
                          "tomograms, or none.")

    def _checkPicker(self, tomograms, errors):
        """Add to `errors` what is wrong with the picker's own rows."""

    def _checkDiameter(self, diameter, tomograms, errors):
        voxel_size = tomograms.getSamplingRate()
        if voxel_size and diameter and diameter < 2 * voxel_size:
            errors.append(f"A diameter of {diameter:g} Å is less than two voxels of "
                          f"{voxel_size:g} Å: check both.")

    def _summary(self):
        if not hasattr(self, "coordinates"):
            return self.notReady() + self.failureLines()
        results = self.verbResults()
        lines = [f"*{self.coordinates.getSize()}* particles in {len(results)} tomogram(s), box "
                 f"{self.coordinates.getBoxSize()} voxels."]
        if self.coordinates.isStreamOpen():
            lines.append("More tomograms may come.")
        empty = [ts_id for ts_id, result in results.items() if not result.get("n_picks")]
        if empty:
            lines.append(f"Nothing scores above the threshold in {', '.join(empty)}.")
        return lines + self._pickerSummary(results) + self.failureLines()

    def _pickerSummary(self, results):
        """Return the picker's own lines of the summary."""
        return []


def box_of(diameter_angst, voxel_size_angst):
    """Return an even box (voxels) with room around a particle of this diameter."""
    return 2 * max(4, round(BOX_PER_DIAMETER * diameter_angst / voxel_size_angst / 2))
