"""Classify and average subtomograms (FAML)."""

from __future__ import annotations

import csv
import enum
from pathlib import Path

from pwem.objects import SetOfFSCs
from pyworkflow.protocol import params
from pyworkflow.utils import Message
from tomo.objects import (
    SetOfAverageSubTomograms,
    SetOfClassesSubTomograms,
    SetOfSubTomograms,
)

from scipion_faml import convert

from .cluster_form import add_cluster, check_cluster, cluster_options
from .protocol_base import add_mask, add_tilt_range
from .protocol_particles import SEARCH_LABELS, SEARCHES, ProtFamlParticles, add_skip_bad

# In the order of the choices in the forms; saved projects store the position.
MODES = ["enhanced", "paper"]
NOISES = ["shells", "white"]
METHODS = ["faml", "fa"]
STARTS = ["unturned", "turned"]
ENHANCED, PAPER = "mode==0", "mode==1"  # conditions of form rows


class FamlClassifyOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    classes = SetOfClassesSubTomograms
    averages = SetOfAverageSubTomograms
    subtomograms = SetOfSubTomograms
    fscs = SetOfFSCs


class ProtFamlClassify(ProtFamlParticles):
    """Sorts subtomograms into classes and averages each, without a reference.

    An expectation-maximisation weighs, for every subtomogram and class average, poses by their
    likelihood, so a noisy particle contributes with all its plausible poses and classes
    [Zhao2018]. With one class it averages.

    Enhanced mode looks at all poses together while they are uncertain, at low resolution first;
    compares each particle with averages that leave it out; filters averages by what their halves
    agree on; and stops when nothing changes any more. Paper mode is the published algorithm:
    fast rotational matching proposes up to 50 poses for each particle and class.

    A stopped run continues from its last finished iteration.
    """

    _label = "classify and average (FAML)"
    _possibleOutputs = FamlClassifyOutputs

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        form.addParam(
            "inputSubtomograms", params.PointerParam, pointerClass="SetOfSubTomograms",
            important=True, label="Subtomograms",
            help="Bright density on dark, one box and voxel size. Their present alignment is not "
                 "used.")
        form.addParam(
            "mode", params.EnumParam, default=0, label="Mode",
            choices=["enhanced", "paper"],
            help="Enhanced needs no choices and works at low signal; paper is Zhao et al. 2018 as "
                 "it was published.")
        # Conditions may name rows above only.
        form.addParam(
            "findClasses", params.BooleanParam, default=False, condition=ENHANCED,
            label="Find the number of classes?",
            help="As many classes as explain particles better that were left out of the averages: "
                 "classes of one structure are merged, mixtures split.")
        form.addParam(
            "numberOfClasses", params.IntParam, default=2, validators=[params.GE(1)],
            label="Classes", condition="not (findClasses and mode==0)",
            help="How many; 1 averages all particles together.")
        form.addParam(
            "maxClasses", params.IntParam, default=8, validators=[params.GE(1)],
            label="Classes at most", condition="findClasses and mode==0",
            help="The number found is not above it; time grows with it.")
        form.addParam(
            "numberOfIterations", params.IntParam, default=60, validators=[params.GE(1)],
            label="Iterations (at most)",
            help="Enhanced mode stops by itself; in paper mode 20 are usual. More iterations with "
                 "Continue go on from the last one.")
        form.addParam(
            "symmetry", params.StringParam, default="C1", label="Symmetry",
            help="Point group of all classes: C1, C7, D2, T, O, I ... or auto: that of each class, "
                 "found in enhanced mode by subtomograms left out of the averages. It finds axes "
                 "itself and turns the averages: main axis along z, two-folds of Dn along x. "
                 "Starting averages must lie so already; paper mode needs them.")
        form.addParam(
            "lowPass", params.FloatParam, allowsNull=True, label="Compare up to (Å)",
            help="Finer detail is ignored, which is faster and, in paper mode, steadier: 30 to "
                 "40 Å for a first classification. Empty: everything the voxels can hold; enhanced "
                 "mode finds by itself how far to look.")
        form.addParam(
            "maxShift", params.FloatParam, allowsNull=True, label="Largest shift (voxels)",
            help="How far a particle may lie from the centre of its box. Empty: a sixth of the "
                 "box.")
        form.addParam(
            "inputReferences", params.PointerParam, allowsNull=True,
            expertLevel=params.LEVEL_ADVANCED, label="Starting averages",
            pointerClass="SetOfAverageSubTomograms, AverageSubTomogram, SubTomogram, Volume",
            help="Optional: maps to start from instead, one for each class, in their order.")
        add_mask(form, "It lies in the averages' frame: without starting averages only a round "
                       "mask makes sense, or one that turns with the symmetry.")
        self._defineEnhanced(form)
        self._definePaper(form)
        form.addParam("seed", params.IntParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                      label="Random seed",
                      help="Of the first classes and orientations: the same seed gives the same "
                           "result.")
        add_tilt_range(form)
        add_skip_bad(form)
        add_cluster(form)
        form.addParallelSection(threads=4, mpi=0)

    @staticmethod
    def _defineEnhanced(form):
        expert = {"expertLevel": params.LEVEL_ADVANCED, "condition": ENHANCED}
        form.addParam(
            "folds", params.IntParam, default=10, validators=[params.GE(1)], label="Folds",
            help="Number of parts of the set. A particle is compared with averages that leave out "
                 "its own part: it must not meet its own noise. 4 and more, or 1: nothing is left "
                 "out.", **expert)
        form.addParam(
            "randomStarts", params.IntParam, allowsNull=True, label="Random starts",
            help="How many; the one of highest evidence goes on. Empty: 1, or 4 for several "
                 "classes that are not merged and split.", **expert)
        form.addParam(
            "splitMerge", params.BooleanParam, default=True, label="Merge and split classes?",
            help="Several classes start as more than are asked for; those of one structure are "
                 "merged, mixtures split.", **expert)
        form.addParam(
            "noise", params.EnumParam, default=0, label="Noise", **expert,
            choices=["variance of each Fourier shell", "one variance (white)"],
            help="Noise of tomograms falls with frequency; the paper takes it as white.")
        form.addParam(
            "regularise", params.BooleanParam, default=True, label="Regularise averages?",
            help="Filter averages by what their halves agree on (Wiener).", **expert)
        form.addParam(
            "spread", params.BooleanParam, default=True, label="Spread poses?",
            help="Average each particle over the posterior around its pose, not at the peak "
                 "alone.", **expert)
        form.addParam(
            "minShiftWidth", params.FloatParam, default=1.0, validators=[params.GT(0)],
            label="Least width of shifts (voxels)",
            help="Of the prior of shifts; keeps it from closing in on zero.", **expert)
        form.addParam(
            "startShells", params.IntParam, default=5, validators=[params.GE(2)],
            label="Shells at first",
            help="Fourier shells (cycles per box) compared in the first iterations.", **expert)
        form.addParam(
            "particleDiameter", params.FloatParam, allowsNull=True, label="Particle diameter (Å)",
            help="Averages are masked by a soft ball of this diameter, which keeps neighbours out. "
                 "Empty: the box.", **expert)
        form.addParam(
            "highPass", params.FloatParam, allowsNull=True, label="Ignore coarser than (Å)",
            help="Fourier shells of coarser detail are not compared: gradients, membranes, "
                 "neighbours.", **expert)
        form.addParam(
            "samplingSweeps", params.IntParam, default=0, validators=[params.GE(0)],
            label="Sampling sweeps",
            help="Start by drawing every particle's pose from its posterior this many times (100 "
                 "to 300). Finds averages that random starts miss, of few particles; keep the "
                 "largest shift small. 0: no sampling.", **expert)
        form.addParam(
            "samplingTemperature", params.FloatParam, default=1.5, validators=[params.GE(1)],
            label="Sampling temperature",
            help="Noise variances are multiplied by it for two thirds of the sweeps; then it falls "
                 "to 1.", **expert)
        form.addParam(
            "denseBandwidth", params.IntParam, default=24,
            validators=[params.Range(8, 64, "8 to 64")], label="Bandwidth of all poses",
            help="Highest number of degrees of spherical harmonics at which all rotations are "
                 "looked at together; time grows with its fourth power.", **expert)

    @staticmethod
    def _definePaper(form):
        expert = {"expertLevel": params.LEVEL_ADVANCED, "condition": PAPER}
        form.addParam(
            "method", params.EnumParam, default=0, label="Method", **expert,
            choices=["FAML: weigh all plausible poses", "FA: best pose only"],
            help="How poses count in an average: by their posterior, or the best one alone.")
        form.addParam(
            "start", params.EnumParam, default=1, label="Start from", **expert,
            choices=["unturned particles", "particles turned at random"],
            help="The first averages are those of random parts of the set. Unturned (the paper's "
                 "choice) they share one missing wedge, and particles in random orientations lock "
                 "onto it.")
        form.addParam("search", params.EnumParam, default=0, label="Search for poses", **expert,
                      choices=SEARCH_LABELS,
                      help="By magnitudes of spectra first, as published; or all rotations, with "
                           "phases: better in strong noise.")
        form.addParam(
            "bandwidth", params.IntParam, allowsNull=True, label="Bandwidth", **expert,
            help="Number of degrees of the spherical harmonics; higher values resolve finer "
                 "rotations and cost the cube. Empty: from the box, 8 to 32.")

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        settings = self.settingsFingerprint("numberOfIterations")
        iterations = self.numberOfIterations.get()
        self._insertFunctionStep(self.convertInputStep, settings, needsGPU=False)
        self._insertFunctionStep(self.classifyStep, settings, iterations, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, settings, iterations, needsGPU=False)

    def classifyStep(self, settings, iterations):
        """Run the iterations; the command continues from its own newest checkpoint."""
        results = self.resultsFolder(settings)
        self.runVerb(
            "classify", self._particleTable(), output=results,
            classes="auto" if self.isFindingClasses() else self.numberOfClasses.get(),
            iterations=iterations,
            mode=MODES[self.mode.get()], symmetry=self.symmetry.get() or "C1",
            mask=self._maskFile(), reference=self._referenceFiles(), max_shift=self.maxShift.get(),
            low_pass=self.lowPass.get(), seed=self.seed.get(), skip_bad=self.skipBad.get(),
            **cluster_options(self),
            **(self._enhancedOptions() if self.isEnhanced() else self._paperOptions()))
        return [str(results / "particles.star")]

    def isFindingSymmetry(self):
        """Whether the point group of each class is to be found."""
        return (self.symmetry.get() or "").strip().lower() == "auto"

    def isEnhanced(self):
        """Whether the form asks for enhanced mode."""
        return MODES[self.mode.get()] == "enhanced"

    def isFindingClasses(self):
        """Whether the number of classes is to be found."""
        return self.isEnhanced() and self.findClasses.get()

    def classCount(self):
        """Return the number of classes asked for, or found."""
        if not self.isFindingClasses():
            return self.numberOfClasses.get()
        return len(self.runResult().get("class_sizes", []))

    def _enhancedOptions(self):
        return {
            "max_classes": self.maxClasses.get() if self.findClasses.get() else None,
            "no_split_merge": not (self.splitMerge.get() or self.findClasses.get()),
            "folds": self.folds.get(), "starts": self.randomStarts.get(),
            "noise": NOISES[self.noise.get()],
            "no_regularise": not self.regularise.get(), "no_spread": not self.spread.get(),
            "min_shift_width": self.minShiftWidth.get(), "start_shells": self.startShells.get(),
            "dense_bandwidth": self.denseBandwidth.get(),
            "particle_diameter": self.particleDiameter.get(), "high_pass": self.highPass.get(),
            "sampling_sweeps": self.samplingSweeps.get(),
            "sampling_temperature": self.samplingTemperature.get(),
        }

    def _paperOptions(self):
        return {
            "method": METHODS[self.method.get()], "start": STARTS[self.start.get()],
            "search": SEARCHES[self.search.get()], "bandwidth": self.bandwidth.get(),
        }

    def createOutputStep(self, settings, iterations):
        """Read the results back into Scipion's objects."""
        images = self.inputSubtomograms.get()
        sampling = images.getSamplingRate()
        table = self._resultTable()
        classes = SetOfClassesSubTomograms.create(self.getPath(), prefix="classes")
        classes.setImages(self.inputSubtomograms)  # the indirect pointer, not the set
        classes.setCoordinates3D(convert.copy_of(images.getCoordinates3D(asPointer=True)))
        classes.classifyItems(updateItemCallback=convert.ItemUpdater(table),
                              updateClassCallback=self._updateClass)
        averages = SetOfAverageSubTomograms.create(self.getPath(), prefix="averages")
        averages.setSamplingRate(sampling)
        for number in range(1, self.classCount() + 1):
            average = convert.new_average(self._averageFile(number), sampling,
                                          self._halfFiles(number))
            average.setClassId(number)
            averages.append(average)
        subtomograms = self._alignedSubtomograms(convert.ItemUpdater(table))
        outputs = {"classes": classes, "averages": averages, "subtomograms": subtomograms}
        if self.isEnhanced():
            outputs["fscs"] = self._fscs()
        self._defineOutputs(**outputs)
        for output in outputs.values():
            self._defineSourceRelation(self.inputSubtomograms, output)

    def _referenceFiles(self):
        """Return the maps to start from, in the order of the classes."""
        references = self.inputReferences.get()
        if references is None:
            return []
        maps = [m.clone() for m in references.iterItems()] if _is_set(references) else [references]
        return [convert.mrc_file(one, self._getExtraPath("input", f"reference_{number:03d}.mrc"))
                for number, one in enumerate(maps, 1)]

    def _averageFile(self, number):
        return self._getExtraPath("results", f"class_{number:03d}.mrc")

    def _halfFiles(self, number):
        """Half averages of a class, which enhanced mode writes; else None."""
        if not self.isEnhanced():
            return None
        return tuple(self._getExtraPath("results", f"class_{number:03d}_half{h}.mrc")
                     for h in (1, 2))

    def _fscs(self):
        fscs = SetOfFSCs.create(self.getPath(), prefix="fscs")
        for curve in convert.read_fscs(self._getExtraPath("results", "fsc.csv")):
            fscs.append(curve)
        return fscs

    def _updateClass(self, one_class):
        one_class.setAlignment3D()
        representative = one_class.getRepresentative()
        representative.setLocation(self._averageFile(one_class.getObjId()))
        representative.setSamplingRate(self.inputSubtomograms.get().getSamplingRate())

    # ---------------------------------------------------------------------------------- info
    def history(self):
        """Return the finished iterations so far, a dict each (also while running)."""
        path = Path(self._getExtraPath("results", "history.csv"))
        if not path.is_file():
            return []
        with open(path, newline="") as handle:
            return [{k: v if k == "phase" else _number(v) for k, v in row.items()}
                    for row in csv.DictReader(handle)]

    def _validate(self):
        errors = []
        images = self.inputSubtomograms.get()
        if images is None:
            return errors
        self.checkSubtomograms(images, 2, errors)
        classes = None if self.isFindingClasses() else self.numberOfClasses.get()
        if classes and classes > images.getSize() >= 2:
            errors.append(f"{classes} classes asked of {images.getSize()} subtomograms: ask for "
                          "fewer classes.")
        if not self.isFindingSymmetry():
            self._checkSymmetry(errors)
        elif not self.isEnhanced():
            errors.append("Symmetry auto needs enhanced mode: name a point group.")
        elif self.folds.get() == 1:
            errors.append("To find the symmetry, particles must be left out of averages: use 4 "
                          "folds or more.")
        if self.isEnhanced() and self.folds.get() in (2, 3):
            errors.append(f"{self.folds.get()} folds are too few: use 4 or more, or 1.")
        if self.isFindingClasses() and self.folds.get() == 1:
            errors.append("To find the number of classes, particles must be left out of averages: "
                          "use 4 folds or more.")
        if self.isFindingClasses() and self.samplingSweeps.get():
            errors.append("Sampling needs a number of classes: give one, or no sampling sweeps.")
        references = self.inputReferences.get()
        symmetry = (self.symmetry.get() or "C1").strip().upper()
        is_named = symmetry != "C1" and not self.isFindingSymmetry()
        if references is None and is_named and not self.isEnhanced():
            errors.append(f"Symmetry {symmetry} in paper mode needs starting averages that lie in "
                          "the group's frame; enhanced mode finds the axes itself.")
        if references is not None and classes is None:
            errors.append("Starting averages say how many classes there are: leave them out, or "
                          "do not ask to find the number of classes.")
        elif references is not None:
            n_references = references.getSize() if _is_set(references) else 1
            if n_references != classes:
                errors.append(f"{n_references} starting average(s) for {classes} classes: give "
                              "one for each class, or none.")
        check_cluster(self, errors)
        return errors

    def _warnings(self):
        images = self.inputSubtomograms.get()
        classes = 1 if self.isFindingClasses() else self.numberOfClasses.get()
        if images is not None and 2 <= images.getSize() < 10 * classes:
            return [f"Only {images.getSize()} subtomograms for {classes} classes: a class of fewer "
                    "than about 10 particles averages noise."]
        return []

    def _summary(self):
        rows = self.history()
        if not rows:
            return self.notReady()
        last = rows[-1]
        done = f"Iteration *{last['iteration']:.0f}* of {self.numberOfIterations.get()}"
        if self.runResult().get("converged"):
            done = f"Converged after *{last['iteration']:.0f}* iterations"
        measure = "log evidence against noise" if self.isEnhanced() else "log-likelihood"
        lines = [f"{done}: {measure} {last['log_likelihood']:.6g}."]
        if self.isEnhanced():
            validated = self.runResult().get("resolution_angst")
            lines.append(
                f"Halves agree to {validated:.3g} Å (FSC 0.143, cleared of aligned noise)."
                if validated else f"Halves agree to {last['resolution_angst']:.3g} Å (FSC 0.143, "
                "optimistic: they shared references).")
        lines += [f"*Warning:* {text}." for text in self.runResult().get("warnings", [])]
        shares = [last[k] for k in sorted(last) if k.startswith("alpha_")]
        lines.append("Class shares: " + ", ".join(f"{share:.0%}" for share in shares))
        if hasattr(self, "classes"):
            empty = self.classCount() - self.classes.getSize()
            if empty:
                lines.append(f"{empty} class(es) got no particle; their averages are those of "
                             "the iteration before they became empty.")
            lines += self.lostLines(self.subtomograms.getSize())
        return lines

    def _methods(self):
        if not hasattr(self, "classes"):
            return []
        return [f"{self.inputSubtomograms.get().getSize()} subtomograms were sorted into "
                f"{self.classCount()} class(es) and averaged by FAML [Zhao2018] in "
                f"{len(self.history())} iterations ({MODES[self.mode.get()]} mode, symmetry "
                f"{self.symmetry.get() or 'C1'})."]

    def _citations(self):
        return ["Zhao2018", "Frazier2017", "Scheres2009"]


def _is_set(references):
    return hasattr(references, "iterItems")


def _number(text):
    try:
        return float(text)
    except ValueError:
        return float("nan")
