"""Judge averages and particles without knowing the truth."""

from __future__ import annotations

import enum
import json
from pathlib import Path

from pwem.objects import AtomStruct, SetOfFSCs
from pyworkflow.protocol import params
from pyworkflow.utils import Message
from tomo.objects import SetOfClassesSubTomograms

from scipion_faml import convert
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.tables import write_particles
from scipion_faml.wedge import NO_WEDGE

from .protocol_base import ProtFamlBase, add_tilt_range, words_of

# In the order of the choices in the form; saved projects store the position.
MASKS = [None, "soft", "auto", "file"]
FILE_MASK = 3
PARTS = ("snr", "orientations", "agreement")


class FamlValidateOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    fscs = SetOfFSCs


class ProtFamlValidate(ProtFamlBase):
    """Judges averages, classes and aligned particles without known answers.

    Give what you have. Of averages with halves: Fourier shell correlation, in masks and by
    direction; of any average: its symmetry, and its likeness to a model or map. Of aligned
    particles: signal-to-noise ratio, orientations and what they leave unmeasured. Of two results
    on the same particles: which change class, and by how much poses differ.
    """

    _label = "validate without truth"
    _possibleOutputs = FamlValidateOutputs

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        form.addParam(
            "inputAverages", params.PointerParam, allowsNull=True, label="Averages or classes",
            important=True,
            pointerClass="SetOfClassesSubTomograms, SetOfAverageSubTomograms, AverageSubTomogram",
            help="With their half maps where there are any: classify (enhanced mode) and average "
                 "write them.")
        form.addParam(
            "inputSubtomograms", params.PointerParam, allowsNull=True, label="Aligned particles",
            important=True, pointerClass="SetOfSubTomograms, SetOfClassesSubTomograms",
            help="Their poses and classes. Empty: those of the classes above.")
        form.addParam(
            "otherSubtomograms", params.PointerParam, allowsNull=True, label="Another result",
            pointerClass="SetOfSubTomograms, SetOfClassesSubTomograms",
            help="Of the same particles, by another run: how far do both agree?")
        form.addParam(
            "inputModel", params.PointerParam, allowsNull=True, label="Model",
            pointerClass="AtomStruct, Volume, AverageSubTomogram",
            help="An atomic model, or a map, that the averages may show. Each is superposed on it; "
                 "the density of an atomic model is made at two voxels' resolution.")
        form.addSection(label="What is judged")
        form.addParam(
            "mask", params.EnumParam, default=0, label="Mask of the half maps",
            choices=["none", "soft sphere", "around what stands out", "of a map"],
            help="What a mask itself correlates is taken off the curve: phases are randomised "
                 "from where the unmasked FSC falls to 0.8.")
        form.addParam(
            "inputMask", params.PointerParam, allowsNull=True, label="Mask",
            condition=f"mask=={FILE_MASK}", pointerClass="VolumeMask, Volume, SubTomogram",
            help="A map from 0 to 1 in the box of the averages.")
        form.addParam(
            "directional", params.BooleanParam, default=True, label="Resolution by direction?",
            help="FSC in cones, and beside it how many particles measured each direction.")
        form.addParam(
            "cone", params.FloatParam, default=20.0, label="Cone (°)",
            condition="directional", expertLevel=params.LEVEL_ADVANCED,
            validators=[params.Range(5, 60, "5 to 60")],
            help="Angle between the axis of a cone and its surface.")
        form.addParam(
            "findSymmetry", params.BooleanParam, default=True, label="Look for symmetry?",
            help="Of each average: any cyclic group, its axis, and groups that hold it.")
        form.addParam(
            "symmetry", params.StringParam, default="C1", label="Symmetry",
            help="Point group imposed on the averages: C1, C7, D2, T, O, I ... Orientations are "
                 "compared modulo this, and a particle counts for all equivalent directions.")
        form.addParam(
            "pairs", params.IntParam, default=1000, validators=[params.GT(0)],
            expertLevel=params.LEVEL_ADVANCED, label="Pairs for the SNR",
            help="Number of random pairs of aligned particles, in each class, whose correlation "
                 "is measured.")
        form.addParam(
            "snrLowPass", params.FloatParam, allowsNull=True, label="SNR up to (Å)",
            expertLevel=params.LEVEL_ADVANCED,
            help="Finer detail is left out of the signal-to-noise ratio. Empty: all that the "
                 "voxels hold.")
        form.addParam("seed", params.IntParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                      label="Random seed", help="The same seed gives the same numbers.")
        add_tilt_range(form)
        form.addParallelSection(threads=2, mpi=0)

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        settings = self.settingsFingerprint()
        self._insertFunctionStep(self.convertInputStep, settings, needsGPU=False)
        self._insertFunctionStep(self.judgeAveragesStep, settings, needsGPU=False)
        self._insertFunctionStep(self.judgeParticlesStep, settings, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, settings, needsGPU=False)

    def convertInputStep(self, settings):
        """Write particles as STAR tables, the mask and the model as files."""
        folder = self.resultsFolder(settings, "input")
        self.resultsFolder(settings)
        for name, source, wedge in (
                ("particles", self._particles(), self.tiltRangeGiven()),
                ("others", self.otherSubtomograms.get(), NO_WEDGE)):
            if source is not None:
                table = convert.particle_table(source, folder / "converted", wedge)
                write_particles(folder / f"{name}.star", table)

    def _particles(self):
        """Return the particles given, or those of the classes given as averages."""
        given, averages = self.inputSubtomograms.get(), self.inputAverages.get()
        if given is None and isinstance(averages, SetOfClassesSubTomograms):
            return averages
        return given

    def judgeAveragesStep(self, settings):
        """FSC of half maps, symmetry, likeness to the model: of every average."""
        mask = self._maskFile()
        for number, (average, halves) in self._averages().items():
            # An empty class must not keep the others from being judged.
            with self.failureRecorded(f"class_{number:03d}"):
                self._judgeAverage(number, average, halves, mask)

    def _judgeAverage(self, number, average, halves, mask):
        if halves:
            self._judgeHalves(number, halves, mask)
        if self.findSymmetry.get():
            self._runVerb("find-symmetry", f"symmetry_{number:03d}", average,
                          seed=self.seed.get())
        if self.inputModel.get() is not None:
            name = f"model_{number:03d}"
            self._runVerb("evaluate-average", name, average, reference=self._modelFile(),
                          hand="best", aligned=self._result(f"{name}.mrc"))

    def _judgeHalves(self, number, halves, mask):
        name, particles = f"fsc_{number:03d}", self._input("particles.star")
        is_directional = self.directional.get()
        options = {}
        if is_directional:
            options = {"cone": self.cone.get(),
                       "directions": self._result(f"{name}_directions.csv"),
                       "particles": particles if particles.exists() else None,
                       "number": number if self._hasClass(particles, number) else None}
        self._runVerb("fsc", name, *halves, mask=mask, symmetry=self._symmetry(),
                      seed=self.seed.get(), directional=is_directional,
                      curve=self._result(f"{name}.csv"), **options)

    @staticmethod
    def _hasClass(table, number):
        """Whether a table of several classes holds this one."""
        return table.exists() and number in convert.class_numbers(table)

    def judgeParticlesStep(self, settings):
        """Signal-to-noise ratio, orientations, agreement with another result."""
        particles, others = self._input("particles.star"), self._input("others.star")
        if not particles.exists():
            return
        if "rlnAngleRot" in convert.columns_of(particles):
            self._runVerb("estimate-snr", "snr", particles, pairs=self.pairs.get(),
                          low_pass=self.snrLowPass.get(), seed=self.seed.get())
            self._runVerb("evaluate-orientations", "orientations", particles,
                          symmetry=self._symmetry(), seed=self.seed.get())
        if others.exists():
            self._runVerb("compare-runs", "agreement", particles, others,
                          symmetry=self._symmetry(), no_averages=True,
                          table=self._result("agreement.star"))

    def _runVerb(self, verb, name, *arguments, number=None, **options):
        """Run one verb; its JSON, report and, where it draws one, picture have the same name."""
        if verb != "evaluate-average":
            options["figure"] = self._result(f"{name}.png")
        if number is not None:
            options["class"] = number
        self.runVerb(verb, *arguments, output=self._result(f"{name}.json"), overwrite=True,
                     report=self._result(f"{name}.html"), workers=self.programThreads(), **options)

    def _result(self, name):
        return Path(self._getExtraPath("results")) / name

    def _input(self, name):
        return Path(self._getExtraPath("input")) / name

    def _symmetry(self):
        return (self.symmetry.get() or "C1").strip()

    def _averages(self):
        """Return file and half maps (or nothing) of every average, by the number of its class."""
        source = self.inputAverages.get()
        if source is None:
            return {}
        if isinstance(source, SetOfClassesSubTomograms):
            items = {one.getObjId(): one.getRepresentative().clone() for one in source.iterItems()}
        elif hasattr(source, "iterItems"):
            items = {m.getClassId() or m.getObjId(): m.clone() for m in source.iterItems()}
        else:
            items = {1: source}
        return {number: (convert.map_file(item, self._input(f"average_{number:03d}.mrc")),
                         convert.half_maps(item)) for number, item in items.items()}

    def _maskFile(self):
        """Return what --mask is given: nothing, a word, or a file."""
        kind = MASKS[self.mask.get()]
        if kind != "file":
            return kind
        return convert.mrc_file(self.inputMask.get(), self._input("mask.mrc"))

    def _modelFile(self):
        model = self.inputModel.get()
        if isinstance(model, AtomStruct):
            return str(Path(model.getFileName()).resolve())
        return convert.map_file(model, self._input("model.mrc"))

    def createOutputStep(self, settings):
        """Register the curves of half maps and of averages against the model."""
        curves = SetOfFSCs.create(self.getPath(), prefix="fscs")
        for name, label in (("fsc", "class {}"), ("model", "class {} and model")):
            for number, result in self.resultsOf(name).items():
                curves.append(convert.new_fsc(
                    label.format(number), result["frequency_per_angst"], result["fsc"]))
        if curves.getSize():
            self._defineOutputs(fscs=curves)
            self._defineSourceRelation(self.inputAverages, curves)

    # ------------------------------------------------------------------------------- results
    def results(self):
        """Return what was found of the particles: snr, orientations, agreement; what is missing
        was not judged."""
        return {name: found for name in PARTS
                if (found := _read(self._result(f"{name}.json"))) is not None}

    def resultsOf(self, name):
        """Return what was found of averages, by class: name is fsc, symmetry or model."""
        found = {}
        for path in sorted(Path(self._getExtraPath("results")).glob(f"{name}_[0-9]*.json")):
            result = _read(path)
            number = path.stem.removeprefix(f"{name}_")
            if result is not None and number.isdecimal():
                found[int(number)] = result
        return found

    # ---------------------------------------------------------------------------------- info
    def _validate(self):
        errors = []
        averages, particles = self.inputAverages.get(), self._particles()
        if averages is None and particles is None:
            errors.append("Nothing can be judged: give averages, or aligned particles.")
        for source, name in ((averages, "averages"), (particles, "particles"),
                             (self.otherSubtomograms.get(), "other particles")):
            if source is not None and hasattr(source, "getSize") and source.getSize() < 1:
                errors.append(f"The set of {name} is empty.")
        if self.otherSubtomograms.get() is not None and particles is None:
            errors.append("Another result is compared with particles: give them too.")
        if self.inputModel.get() is not None and averages is None:
            errors.append("A model is compared with averages: give them too.")
        if self.mask.get() == FILE_MASK and self.inputMask.get() is None:
            errors.append("Give the map of the mask, or choose another kind of mask.")
        for name in words_of(self.symmetry.get()):
            try:
                symmetry_rotations(name)
            except ValueError as error:
                errors.append(f"{error}.")
        if particles is not None and not isinstance(particles, SetOfClassesSubTomograms):
            self.checkTiltRange(particles, errors)
        return errors

    def _summary(self):
        lines = [*halves_lines(self.resultsOf("fsc")), *symmetry_lines(self.resultsOf("symmetry")),
                 *model_lines(self.resultsOf("model")), *particle_lines(self.results()),
                 *self.failureLines()]
        return lines or self.notReady()

    def _methods(self):
        known = self.results().get("snr")
        if known is None:
            return []
        return ["The signal-to-noise ratio was estimated from the correlation of "
                f"{known['n_pairs']} pairs of aligned particles as {known['snr']:.2g}."]


def _read(path):
    """Return the object in a JSON file, or None."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def halves_lines(results):
    """Return a line for the halves of each average."""
    lines = []
    for number, r in results.items():
        text = (f"Class {number}: halves agree to {r['fsc_0143_angst']:.1f} Å (FSC 0.143), "
                f"{r['fsc_half_angst']:.1f} Å (0.5)")
        one = r.get("directional")
        if one:
            text += (f"; by direction {one['best_angst']:.1f} to {one['worst_angst']:.1f} Å "
                     f"(FSC {one['threshold']:g})")
        lines.append(f"{text}.")
    return lines


def symmetry_lines(results):
    """Return a line for the symmetry of each average."""
    return [
        f"Class {number}: symmetry {r['group']}, self-correlation {r['self_correlation']:.2f} "
        f"({r['z']:.1f} standard deviations above other axes)." if r["is_significant"]
        else f"Class {number}: no symmetry stands out." for number, r in results.items()]


def model_lines(results):
    """Return a line for each average on the model."""
    return [f"Class {number} and the model: correlation {r['cc_masked']:.2f}, FSC 0.5 at "
            f"{r['fsc_half_angst']:.1f} Å, hand: {r['hand_measured']}."
            for number, r in results.items()]


def particle_lines(results):
    """Return lines for what was found of the particles."""
    lines = []
    if "snr" in results:
        r = results["snr"]
        lines.append(f"Signal-to-noise ratio {r['snr']:.3g} ({r['n_pairs']} pairs).")
    if "orientations" in results:
        lines += [f"Class {k}: a direction was measured by {r['sampling_least']:.0%} to "
                  f"{r['sampling_most']:.0%} of {r['n_particles']} particles, sampling "
                  f"compensation {r['sampling_compensation']:.2f}."
                  for k, r in results["orientations"]["per_class"].items()]
    if "agreement" in results:
        r = results["agreement"]
        text = (f"Both results: {r['n_changed']} of {r['n_particles']} particles change class, "
                f"adjusted Rand index {r['ari']:.2f}")
        if r.get("rotation_median_deg") is not None:
            text += (f"; poses differ by {r['rotation_median_deg']:.1f}° and "
                     f"{r['shift_median_voxels']:.1f} voxels (medians)")
        lines.append(f"{text}.")
    return lines
