"""Simulate tomograms and subtomograms whose answers are known."""

from __future__ import annotations

import enum
import os
import re
from pathlib import Path

from pyworkflow.object import Pointer
from pyworkflow.protocol import STEPS_PARALLEL, params
from pyworkflow.utils import Message
from tomo.objects import (
    SetOfAverageSubTomograms,
    SetOfCoordinates3D,
    SetOfSubTomograms,
    SetOfTomograms,
)

from scipion_faml import convert
from scipion_faml.geometry import scipion_matrices
from scipion_faml.io import read_header
from scipion_faml.tables import read_particles

from .protocol_base import (
    ProtFamlBase,
    add_imaging,
    add_structures,
    check_simulation,
    counts_for,
    words_of,
)

OPTICS = ["full", "none"]
CTF_CORRECTIONS = ["none", "phase-flip"]
OWN, SHREC = range(2)  # values of `preset`


class FamlTomogramOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    tomograms = SetOfTomograms
    trueCoordinates = SetOfCoordinates3D
    trueAverages = SetOfAverageSubTomograms


class FamlSubtomogramOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them (a class comes twice)."""

    subtomograms = SetOfSubTomograms
    trueSubtomograms = SetOfSubTomograms
    trueAverages = SetOfAverageSubTomograms


class _ProtFamlSimulate(ProtFamlBase):
    """What both simulations share: structures, imaging, and the noise-free maps."""

    def _structures(self):
        return words_of(self.structures.get())

    def _structureOptions(self):
        """Options that say what is simulated, and how much of it."""
        structures = self._structures()
        return {
            "model": structures, "count": counts_for(structures, words_of(self.counts.get())),
        }

    def _imagingOptions(self):
        """Options of the command that both verbs know."""
        return {
            **self._structureOptions(),
            "voxel_size": self.voxelSize.get(), "snr": self.snr.get(),
            "tilt_min": self.tiltMin.get(), "tilt_max": self.tiltMax.get(),
            "tilt_step": self.tiltStep.get(), "defocus": self.defocus.get(),
            "optics": OPTICS[self.optics.get()],
            "ctf_correction": CTF_CORRECTIONS[self.ctfCorrection.get()],
        }

    def _named(self):
        """What was simulated, in words."""
        return ", ".join(self._structures())

    def _acquisition(self):
        return convert.new_acquisition(
            self.tiltMin.get(), self.tiltMax.get(), self.tiltStep.get())

    def _trueAverages(self, folder):
        """Return the noise-free maps as averages, in the order of the classes."""
        averages = SetOfAverageSubTomograms.create(self.getPath(), prefix="trueAverages")
        averages.setSamplingRate(self.voxelSize.get())
        for number, path in enumerate(self._mapFiles(folder), 1):
            # A colon, as in blobs:1, would be read as the end of the file name.
            name = re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem)
            link = Path(self._getExtraPath(f"map_{number:02d}_{name}.mrc"))
            _link(link, path)
            average = convert.new_average(str(link), self.voxelSize.get())
            average.setObjLabel(path.stem)
            average.setClassId(number)
            averages.append(average)
        return averages

    def _mapFiles(self, folder):
        """Return the maps of a run in the order of its classes."""
        table = read_particles(Path(folder) / "truth.star")
        names = table.rows.drop_duplicates("rlnClassNumber").sort_values("rlnClassNumber")
        return [Path(folder) / "maps" / f"{name}.mrc" for name in names["famlModel"]]

    def _outputPointer(self, name):
        return Pointer(self, extended=name)

    def _validate(self):
        errors = []
        self._checkStructures(errors)
        if not (self.tiltStep.get() or 0) > 0:
            errors.append("The tilt step must be positive (degrees).")
        return errors

    def _checkStructures(self, errors):
        """Add to `errors` what is wrong with structures, counts and tilts."""
        check_simulation(self._structures(), words_of(self.counts.get()),
                         (self.tiltMin.get(), self.tiltMax.get()), errors)
        for structure in self._structures():
            if os.sep in structure and not os.path.isfile(structure):
                errors.append(f"{structure} does not exist.")

    def _methods(self):
        return [f"Simulated: {self._named()} at {self.voxelSize.get():g} Å, tilts "
                f"{self.tiltMin.get():g} to {self.tiltMax.get():g}° every {self.tiltStep.get():g}°,"
                f" signal-to-noise ratio {self.snr.get():g} [Zhao2018]."]


class ProtFamlSimulateTomograms(_ProtFamlSimulate):
    """Simulates tomograms of structures placed at random without overlap.

    A tilt series is projected, given CTF and noise, and reconstructed with its missing wedge. The
    answers are separate outputs: true positions with orientations (the group is the class) and the
    noise-free maps. Density is bright.
    """

    _label = "simulate tomograms"
    _possibleOutputs = FamlTomogramOutputs
    stepsExecutionMode = STEPS_PARALLEL

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        form.addParam(
            "preset", params.EnumParam, default=OWN, label="Content",
            choices=["structures of your own", "crowd of twelve classes as in SHREC"],
            help="The SHREC challenges of 2019 and 2020: about 2,500 particles of twelve classes "
                 "in 512 x 512 x 200 voxels of 10 Å, defocus 3 µm, as many per volume in other "
                 "sizes. Particles may be cut by the sides of the tomogram.")
        form.addParam(
            "modelFolders", params.StringParam, allowsNull=True, condition=f"preset=={SHREC}",
            label="Folders of models",
            help="Folders with the files of the classes (1s3x, 3qm1, 3gl1, 3h84, 2cg9, 3d2f, 1u6g, "
                 "3cf3, 1bxn, 1qvr, 4cr2, 4d8q; PDB, mmCIF or MRC), separated by commas. Empty: "
                 "models that are shipped with the plugin, from 90 to 300 Å.")
        add_structures(form, "In every tomogram: one number for all structures, or one for each, "
                             "separated by commas.", condition=f"preset=={OWN}")
        form.addParam("numberOfTomograms", params.IntParam, default=1, label="Tomograms",
                      validators=[params.GE(1)],
                      help="How many to make, each with its own particles and noise.")
        line = form.addLine("Size (voxels)", help="Of a tomogram; z is along the beam.")
        line.addParam("sizeX", params.IntParam, default=192, label="x")
        line.addParam("sizeY", params.IntParam, default=192, label="y")
        line.addParam("sizeZ", params.IntParam, default=64, label="z")
        line = form.addLine(
            "Surroundings", help="How many in a tomogram; not among the true positions.")
        line.addParam("gold", params.IntParam, default=0, label="gold beads",
                      validators=[params.GE(0)])
        line.addParam("membranes", params.IntParam, default=0, label="vesicles",
                      validators=[params.GE(0)])
        add_imaging(form, snr=0.05, defocus=3.0)
        _add_ctf_correction(form, "phase-flip")
        form.addParallelSection(threads=1, mpi=0, binThreads=4)

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        settings = self.settingsFingerprint("numberOfTomograms")
        steps = [
            self._insertFunctionStep(self.simulateStep, number, settings, prerequisites=[],
                                     needsGPU=False)
            for number in range(1, self.numberOfTomograms.get() + 1)
        ]
        self._insertFunctionStep(self.createOutputStep, settings, len(steps), prerequisites=steps,
                                 needsGPU=False)

    def simulateStep(self, number, settings):
        """Make one tomogram; each has a seed of its own."""
        folder = self.resultsFolder(settings, self._tsId(number))
        self.runVerb(
            "simulate-tomogram", output=folder, overwrite=True, workers=self.getBinThreads(),
            shape=f"{self.sizeX.get()},{self.sizeY.get()},{self.sizeZ.get()}",
            seed=self.seed.get() + number - 1, gold=self.gold.get(),
            membranes=self.membranes.get(), **self._imagingOptions())
        _link(Path(self._tomogramFile(number)), folder / "tomogram.mrc")
        return [self._tomogramFile(number)]

    def createOutputStep(self, settings, n_tomograms):
        """Register tomograms, true positions and noise-free maps."""
        tomograms = SetOfTomograms.create(self.getPath(), prefix="tomograms")
        tomograms.setSamplingRate(self.voxelSize.get())
        tomograms.setAcquisition(self._acquisition())
        for number in range(1, n_tomograms + 1):
            tomograms.append(convert.new_tomogram(
                self._tomogramFile(number), self._tsId(number), self.voxelSize.get(),
                self._acquisition()))
        self._defineOutputs(tomograms=tomograms)
        coordinates = SetOfCoordinates3D.create(self.getPath(), prefix="trueCoordinates")
        coordinates.setPrecedents(self._outputPointer("tomograms"))
        coordinates.setSamplingRate(self.voxelSize.get())
        folder = self._getExtraPath(self._tsId(1))
        coordinates.setBoxSize(read_header(self._mapFiles(folder)[0])[0][0])
        for tomogram in convert.clones(tomograms):
            truth = read_particles(Path(self._getExtraPath(tomogram.getTsId(), "truth.star")))
            convert.append_coordinates(coordinates, tomogram, truth)
        averages = self._trueAverages(folder)
        self._defineOutputs(trueCoordinates=coordinates, trueAverages=averages)
        self._defineSourceRelation(tomograms, coordinates)

    def _tsId(self, number):
        return f"tomogram_{number:02d}"

    def _tomogramFile(self, number):
        return self._getExtraPath(self._tsId(number) + ".mrc")

    # ---------------------------------------------------------------------------------- info
    def _summary(self):
        if not hasattr(self, "trueCoordinates"):
            return self.notReady()
        return [f"*{self.tomograms.getSize()}* tomogram(s) with "
                f"*{self.trueCoordinates.getSize()}* particles of "
                f"{self._named()}."]

    def _isPreset(self):
        return self.preset.get() == SHREC

    def _structureOptions(self):
        if not self._isPreset():
            return super()._structureOptions()
        return {"preset": "shrec", "models_dir": words_of(self.modelFolders.get())}

    def _named(self):
        return "twelve classes as in SHREC" if self._isPreset() else super()._named()

    def _checkStructures(self, errors):
        if not self._isPreset():
            super()._checkStructures(errors)
            return
        check_simulation(["shrec"], ["1"], (self.tiltMin.get(), self.tiltMax.get()), errors)
        errors += [f"{folder} is no folder." for folder in words_of(self.modelFolders.get())
                   if not os.path.isdir(folder)]


class ProtFamlSimulateSubtomograms(_ProtFamlSimulate):
    """Simulates subtomograms of known structure, orientation and shift.

    The particles come twice: without answers, to work on, and with their true alignment and class,
    to compare with. The noise-free maps are the third output. Density is bright.
    """

    _label = "simulate subtomograms"
    _possibleOutputs = {
        "subtomograms": SetOfSubTomograms, "trueSubtomograms": SetOfSubTomograms,
        "trueAverages": SetOfAverageSubTomograms,
    }

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        add_structures(form, "One number for all structures, or one for each, separated by commas.")
        form.addParam("boxSize", params.IntParam, default=32, label="Box size (voxels)",
                      validators=[params.GE(8)],
                      help="Edge of the cube: the largest structure, shifts, and room for both.")
        form.addParam("maxShift", params.FloatParam, default=2.0, label="Largest shift (voxels)",
                      help="Of a particle from the centre of its box, at random in a ball.")
        add_imaging(form, snr=0.05, defocus=6.0)
        _add_ctf_correction(form, "none")
        form.addParallelSection(threads=4, mpi=0)

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        settings = self.settingsFingerprint()
        self._insertFunctionStep(self.simulateStep, settings, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, settings, needsGPU=False)

    def simulateStep(self, settings):
        """Make all particles."""
        folder = self.resultsFolder(settings)
        self.runVerb("simulate-subtomograms", output=folder, overwrite=True,
                     box=self.boxSize.get(), max_shift=self.maxShift.get(), seed=self.seed.get(),
                     workers=self.programThreads(), **self._imagingOptions())
        return [str(folder / "truth.star")]

    def createOutputStep(self, settings):
        """Register the particles without and with answers, and the noise-free maps."""
        folder = self._getExtraPath("results")
        truth = read_particles(Path(folder) / "truth.star")
        blind = self._particleSet("subtomograms", truth, None)
        answers = self._particleSet("trueSubtomograms", truth, scipion_matrices(truth.poses))
        averages = self._trueAverages(folder)
        self._defineOutputs(subtomograms=blind, trueSubtomograms=answers, trueAverages=averages)

    def _particleSet(self, name, truth, matrices):
        """Return a set of the simulated particles; with matrices it has the true classes too."""
        acquisition = self._acquisition()
        images = SetOfSubTomograms.create(self.getPath(), prefix=name)
        images.setSamplingRate(self.voxelSize.get())
        images.setAcquisition(acquisition)
        for number, path in enumerate(truth.rows["rlnImageName"]):
            matrix = convert.IDENTITY if matrices is None else matrices[number]
            image = convert.new_subtomogram(
                os.path.relpath(path), self.voxelSize.get(), acquisition, matrix)
            image.setVolName("simulated")
            if matrices is not None:
                image.setClassId(int(truth.rows["rlnClassNumber"].iloc[number]))
            images.append(image)
        if matrices is not None:
            images.setAlignment3D()
        return images

    # ---------------------------------------------------------------------------------- info
    def _summary(self):
        if not hasattr(self, "subtomograms"):
            return self.notReady()
        return [f"*{self.subtomograms.getSize()}* subtomograms of "
                f"{self._named()}."]


def _add_ctf_correction(form, default):
    """Row of what is done about the CTF."""
    form.addParam(
        "ctfCorrection", params.EnumParam, default=CTF_CORRECTIONS.index(default),
        choices=["none", "flip phases"], condition="optics==0", label="CTF correction",
        help="Before reconstruction. Without it the contrast of fine detail is inverted, as in the "
             "FAML paper's data.")


def _link(link, target):
    """Make a relative link, so that a project may be moved."""
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))
