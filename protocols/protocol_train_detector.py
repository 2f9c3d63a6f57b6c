"""Train a detector on positions and classes of particles."""

from __future__ import annotations

import enum
import json
from pathlib import Path

import numpy as np
import pandas as pd
from pyworkflow.protocol import params
from pyworkflow.utils import Message

from scipion_faml import convert
from scipion_faml.objects import FamlDetector
from scipion_faml.tables import (
    CLASS_NAME_COLUMN,
    COORDINATES,
    DIAMETER_COLUMN,
    read_particles,
    write_particles,
)

from .protocol_base import ProtFamlBase, add_gpu, check_tomograms, numbers_of, words_of
from .protocol_pick_base import BOX_PER_DIAMETER

ARCHITECTURES = ["points", "yolo"]
BY_GROUP, BY_SET = range(2)
FEW_PARTICLES = 20  # of a class: fewer hardly teach it


class FamlTrainOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    detector = FamlDetector


class ProtFamlTrainDetector(ProtFamlBase):
    """Trains a one-stage detector on positions of particles in tomograms, and on their classes.

    Every particle in the training tomograms should have a position: one without is taught as
    background. What is held out is not trained on; it gives the thresholds and the F1 in the
    curves. A run that was stopped goes on from its last epoch with Continue.
    """

    _label = "train a detector"
    _possibleOutputs = FamlTrainOutputs

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        add_gpu(form)
        form.addParam("inputCoordinates", params.MultiPointerParam, important=True, minNumObjects=1,
                      pointerClass="SetOfCoordinates3D", label="Positions",
                      help="Of particles whose classes are known, in the tomograms to train on.")
        form.addParam("classesFrom", params.EnumParam, default=BY_GROUP, label="Classes",
                      choices=["groups of the positions", "each set is a class"],
                      help="Positions without groups are one class.")
        form.addParam("classNames", params.StringParam, default="", label="Names of the classes",
                      help="Separated by commas, in the order of the groups or of the sets. Empty: "
                           "those kept with the positions, or class_001, class_002, ...")
        form.addParam("diameters", params.StringParam, default="", label="Diameters (Å)",
                      help="Of the classes: one for all, or one for each, separated by commas. "
                           "Empty: those kept with the positions, or two thirds of their box.")
        form.addParam("inputTomograms", params.PointerParam, pointerClass="SetOfTomograms",
                      allowsNull=True, label="Tomograms",
                      help="Empty: those the positions were picked in. Others, for example "
                           "denoised ones, are matched by their tilt series id.")
        form.addParam("isDark", params.BooleanParam, default=False, label="Particles are dark?",
                      help="Yes for tomograms as most reconstruction programs write them.")
        form.addParam("heldOut", params.StringParam, default="", label="Held out",
                      help="Tilt series ids of tomograms that are not trained on, separated by "
                           "commas. Empty: the last one; of a single tomogram a slab. The wizard "
                           "lists them.")
        form.addParam("epochs", params.IntParam, default=40, validators=[params.GE(1)],
                      label="Epochs",
                      help="How many passes over the training tomograms.")
        form.addParam("startDetector", params.PointerParam, pointerClass="FamlDetector",
                      allowsNull=True, label="Start from",
                      help="A detector to train on, instead of starting from nothing.")
        form.addParam("architecture", params.EnumParam, default=0, choices=[
            "points (heat map, no anchors)", "yolo (as published)"], label="Network",
            expertLevel=params.LEVEL_ADVANCED,
            help="Points finds centres and needs no boxes; yolo is the published detector.")
        form.addParam("learningRate", params.FloatParam, allowsNull=True, label="Learning rate",
                      expertLevel=params.LEVEL_ADVANCED,
                      help="Size of the first steps of the optimiser, 0 to 1. Empty: the network's "
                           "own.")
        form.addParam("batch", params.IntParam, default=4, validators=[params.GE(1)],
                      expertLevel=params.LEVEL_ADVANCED, label="Crops in a step",
                      help="How many are learnt from together; more need more memory.")
        form.addParam("quarterTurns", params.BooleanParam, default=False,
                      expertLevel=params.LEVEL_ADVANCED, label="Quarter turns?",
                      help="Also turn crops by a quarter about the beam, which turns the missing "
                           "wedge: for tomograms with different tilt axes.")
        form.addParam("seed", params.IntParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                      label="Random seed",
                      help="Of first weights and of crops: the same seed draws the same.")
        form.addParallelSection(threads=4, mpi=0)

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        settings = self.settingsFingerprint()
        self._insertFunctionStep(self.convertInputStep, settings, needsGPU=False)
        self._insertFunctionStep(self.trainStep, settings, needsGPU=self.useGpu.get())
        self._insertFunctionStep(self.createOutputStep, settings, needsGPU=False)

    def convertInputStep(self, settings):
        """Write a table of positions and classes for every tomogram."""
        folder = self.resultsFolder(settings, "input")
        files = {}
        for ts_id in self.tomogramIds():
            tomogram = self.tomogramOf(self._tomograms(), ts_id)
            write_particles(folder / f"{ts_id}.star", self._labels(tomogram))
            files[ts_id] = convert.mrc_file(tomogram, folder / f"{ts_id}.mrc")
        (folder / "tomograms.json").write_text(json.dumps(files))

    def trainStep(self, settings):
        """Train; a command that was stopped goes on from its own checkpoint."""
        folder = Path(self._getExtraPath("input"))
        files = json.loads((folder / "tomograms.json").read_text())
        start = self.startDetector.get()
        self.runVerb(
            "train-detector", *(folder / f"{ts_id}.star" for ts_id in files),
            output=self.resultsFolder(settings),
            tomogram=[f"{ts_id}={path}" for ts_id, path in files.items()],
            held_out=words_of(self.heldOut.get()), epochs=self.epochs.get(),
            architecture=ARCHITECTURES[self.architecture.get()], batch=self.batch.get(),
            learning_rate=self.learningRate.get(), quarter_turns=self.quarterTurns.get(),
            start=Path(start.getFileName()).resolve() if start else None,
            dark=self.isDark.get(), device=self.device(), seed=self.seed.get(),
            workers=self.programThreads())
        return [str(self.resultsPath("weights.pt"))]

    def createOutputStep(self, settings):
        """Register the weights file."""
        result = self.result()
        detector = FamlDetector(str(self.resultsPath("weights.pt")))
        detector.setArchitecture(result["architecture"])
        detector.setClassNames(result["classes"])
        detector.setSamplingRate(result["voxel_size_angst"])
        detector.setDiameter(self._largestDiameter())
        self._defineOutputs(detector=detector)
        for pointer in self.inputCoordinates:
            self._defineSourceRelation(pointer, detector)

    # -------------------------------------------------------------------------------- labels
    def _sets(self):
        return [pointer.get() for pointer in self.inputCoordinates]

    def hasPositions(self):
        """Whether sets of positions are chosen, all of which exist."""
        return bool(self._sets()) and all(one is not None for one in self._sets())

    def tomogramIds(self):
        """Return the tilt series ids that have positions and a tomogram, in their order."""
        used = [t.getTsId() for one in self._sets() for t in convert.by_tomogram(one)]
        known = set(self._tomograms().getTSIds())
        return [ts_id for ts_id in dict.fromkeys(used) if ts_id in known]

    def _tomograms(self):
        return self.inputTomograms.get() or self._sets()[0].getPrecedents()

    def _labels(self, tomogram):
        """Return positions, classes, names and diameters of all sets in one tomogram."""
        tables = []
        for number, coordinates in enumerate(self._sets(), 1):
            if tomogram.getTsId() not in coordinates.getTSIds():
                continue
            table = convert.picks_table(coordinates, tomogram)
            rows = table.rows
            if self.classesFrom.get() == BY_SET:
                rows = rows.assign(rlnClassNumber=number).drop(
                    columns=CLASS_NAME_COLUMN, errors="ignore")
            elif "rlnClassNumber" not in rows:
                rows = rows.assign(rlnClassNumber=1)
            tables.append(rows.assign(**{DIAMETER_COLUMN: self._diametersOf(
                rows, coordinates)}))
        rows = pd.concat(tables, ignore_index=True)
        columns = [*COORDINATES, "rlnTomoName", "rlnOpticsGroup", "rlnClassNumber",
                   DIAMETER_COLUMN]
        if CLASS_NAME_COLUMN in rows and rows[CLASS_NAME_COLUMN].notna().all():
            columns.append(CLASS_NAME_COLUMN)
        rows, names = rows[columns], words_of(self.classNames.get())
        if names:
            rows = rows.assign(**{CLASS_NAME_COLUMN: [
                names[k - 1] if k <= len(names) else f"class_{k:03d}"
                for k in rows["rlnClassNumber"]]})
        return convert.table_of(rows, tomogram)

    def _diametersOf(self, rows, coordinates):
        """Return the diameter (angstrom) of each row."""
        given = numbers_of(self.diameters.get())
        if given:
            number = rows["rlnClassNumber"].to_numpy(dtype=int)
            return np.array(given)[np.minimum(number, len(given)) - 1]
        if DIAMETER_COLUMN in rows:
            return rows[DIAMETER_COLUMN].to_numpy(dtype=float)
        box = coordinates.getBoxSize() or 0
        return np.full(len(rows), box * coordinates.getSamplingRate() / BOX_PER_DIAMETER)

    def _largestDiameter(self):
        """Return the diameter (angstrom) of the largest class in the tables."""
        tables = [read_particles(path) for path in Path(self._getExtraPath("input")).glob("*.star")]
        return max(float(t.rows[DIAMETER_COLUMN].max()) for t in tables)

    # ------------------------------------------------------------------------------- results
    def resultsPath(self, name):
        """Return the path of a file of the training."""
        return Path(self._getExtraPath("results", name))

    def result(self):
        """Return what the command found, or nothing before it has finished."""
        path = self.resultsPath("run.json")
        return json.loads(path.read_text())["result"] if path.is_file() else {}

    def history(self):
        """Return the finished epochs as a table, or None before the first."""
        path = self.resultsPath("history.csv")
        return pd.read_csv(path) if path.is_file() else None

    # ---------------------------------------------------------------------------------- info
    def _validate(self):
        errors = []
        sets = self._sets()
        if not self.hasPositions():
            return errors
        for number, one in enumerate(sets, 1):
            if one.getSize() < 1:
                errors.append(f"Set {number} of the positions is empty.")
        tomograms = self._tomograms()
        if tomograms is None:
            errors.append("The tomograms of the positions are gone: choose tomograms.")
            return errors
        check_tomograms(tomograms, errors)
        self._checkLabels(sets, errors)
        ids = self.tomogramIds()
        if not ids and all(one.getSize() for one in sets):
            errors.append("No tomogram has the tilt series id of a position: choose tomograms of "
                          "the same tilt series.")
        unknown = sorted(set(words_of(self.heldOut.get())) - set(ids))
        if ids and unknown:
            errors.append(f"No position is in a tomogram {unknown[0]}, to be held out: there are "
                          f"{', '.join(ids)}.")
        elif ids and len(ids) > 1 and not set(ids) - set(words_of(self.heldOut.get())):
            errors.append("All tomograms are held out: nothing is left to train on.")
        return errors

    def _checkLabels(self, sets, errors):
        n_classes = len(sets) if self.classesFrom.get() == BY_SET else max(
            [1, *(int(g or 0) for one in sets
                  for g in one.getUniqueValues("_groupId"))])
        names = words_of(self.classNames.get())
        if names and len(names) != n_classes:
            errors.append(f"{len(names)} names for {n_classes} class(es): give one for each.")
        if len(set(names)) < len(names):
            errors.append("Two classes have the same name.")
        try:
            diameters = numbers_of(self.diameters.get())
        except ValueError as error:
            errors.append(f"Diameters: {error}.")
            return
        if len(diameters) not in (0, 1, n_classes):
            errors.append(f"{len(diameters)} diameters for {n_classes} class(es): give one for "
                          "all, or one for each.")
        elif not diameters and any(not one.getBoxSize() for one in sets):
            errors.append("The positions have no box size: give the diameters.")

    def _warnings(self):
        n_particles = sum(one.getSize() for one in self._sets() if one is not None)
        if 0 < n_particles < FEW_PARTICLES:
            return [f"{n_particles} positions are very few to learn from."]
        return []

    def _summary(self):
        history, result = self.history(), self.result()
        if history is None or history.empty:
            return self.notReady()
        last = history.iloc[-1]
        lines = [f"Epoch *{int(last['epoch'])}* of {self.epochs.get()}: F1 {last['f1']:.3f}, over "
                 f"classes {last['macro_f1']:.3f}, on what is held out."]
        if result:
            lines.append(f"{result['n_particles']} particles of {result['n_classes']} class(es) in "
                         f"{result['n_tomograms']} tomogram(s), voxels of "
                         f"{result['voxel_size_angst']:g} Å, on {result['device']}.")
        return lines

    def _methods(self):
        result = self.result()
        if not result:
            return []
        return [f"A one-stage detector ({result['architecture']}) was trained on "
                f"{result['n_particles']} particles of {result['n_classes']} class(es) in "
                f"{result['n_tomograms']} tomogram(s), {self.epochs.get()} epochs."]

    def _citations(self):
        return []
