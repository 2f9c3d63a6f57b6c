"""Compare results with known answers: positions, classes, orientations, averages."""

from __future__ import annotations

import enum
import json
from pathlib import Path

from pwem.objects import SetOfFSCs
from pyworkflow.protocol import params
from pyworkflow.utils import Message
from tomo.objects import SetOfAverageSubTomograms, SetOfClassesSubTomograms

from scipion_faml import convert
from scipion_faml.tables import SCORE_COLUMN, read_particles, write_particles
from scipion_faml.wedge import NO_WEDGE

from .protocol_base import ProtFamlBase, words_of

MATCHINGS = ("best", "greedy")
MAX_PAIRS = 36  # averages times true maps that are superposed when no classes say which belong


class FamlEvaluateOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    fscs = SetOfFSCs


class ProtFamlEvaluate(ProtFamlBase):
    """Compares positions, classes, orientations and averages with known answers.

    Give what you have of the results and of the truth; every pair that belongs together is judged:
    positions by precision and recall, classes by their confusion matrix and F1, orientations
    modulo symmetry and the common turn of each average, averages by correlation and Fourier shell
    correlation after superposing them.
    """

    _label = "evaluate against truth"
    _possibleOutputs = FamlEvaluateOutputs

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        group = form.addGroup("Results")
        group.addParam("inputCoordinates", params.PointerParam, allowsNull=True,
                       pointerClass="SetOfCoordinates3D", label="Positions",
                       help="Optional: picks to compare with the true positions.")
        group.addParam("inputSubtomograms", params.PointerParam, allowsNull=True,
                       pointerClass="SetOfSubTomograms, SetOfClassesSubTomograms",
                       label="Particles",
                       help="Aligned particles or classes of them.")
        group.addParam(
            "inputAverages", params.PointerParam, allowsNull=True, label="Averages",
            pointerClass="SetOfAverageSubTomograms, SetOfClassesSubTomograms, AverageSubTomogram",
            help="Optional: maps to superpose on the true ones, each on the one it fits best.")
        group = form.addGroup("Truth")
        group.addParam("trueCoordinates", params.PointerParam, allowsNull=True,
                       pointerClass="SetOfCoordinates3D", label="True positions",
                       help="Their group is the class, their matrix the orientation. Extracted "
                            "particles are matched to them by position.")
        group.addParam("trueSubtomograms", params.PointerParam, allowsNull=True,
                       pointerClass="SetOfSubTomograms", label="True particles",
                       help="The same particles with true classes and orientations.")
        group.addParam("trueAverages", params.PointerParam, allowsNull=True,
                       pointerClass="SetOfAverageSubTomograms, AverageSubTomogram, Volume",
                       label="True maps",
                       help="Optional: of the structures, without noise; any orientation.")
        form.addParam("radius", params.FloatParam, default=80.0, validators=[params.GT(0)],
                      label="Positions agree within (Å)",
                      help="About half a particle's radius to its radius.")
        form.addParam("matching", params.EnumParam, default=0,
                      choices=["the nearest", "that of the highest score"],
                      label="Of several picks on a particle",
                      expertLevel=params.LEVEL_ADVANCED,
                      help="counts as the hit; the others are duplicates. The first gives most "
                           "hits, the second is the rule of precision-recall curves. Where the "
                           "groups of both sets are classes, the same numbers must mean the same "
                           "structures.")
        form.addParam("symmetry", params.StringParam, default="C1", label="Point groups",
                      help="Of the true structures, separated by commas where they differ: "
                           "C1, D7, ... Orientations are compared modulo these.")

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        settings = self.settingsFingerprint()
        self._insertFunctionStep(self.convertInputStep, settings, needsGPU=False)
        self._insertFunctionStep(self.evaluateStep, settings, needsGPU=False)
        self._insertFunctionStep(self.evaluateAveragesStep, settings, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, settings, needsGPU=False)

    def convertInputStep(self, settings):
        """Write results and truth as STAR tables."""
        folder = self.resultsFolder(settings, "input")
        names = self._modelNames()
        if self.inputCoordinates.get() is not None:
            write_particles(folder / "picks.star",
                            convert.all_picks_table(self.inputCoordinates.get()))
        if self.trueCoordinates.get() is not None:
            truth = convert.all_picks_table(self.trueCoordinates.get())
            write_particles(folder / "true_picks.star", convert.with_model_names(truth, names))
        if self.inputSubtomograms.get() is not None:
            found = convert.write_particle_table(
                self.inputSubtomograms.get(), folder / "particles.star", NO_WEDGE)
            if self.trueSubtomograms.get() is not None:
                truth = convert.particle_table(
                    self.trueSubtomograms.get(), folder / "converted", NO_WEDGE)
                truth = convert.same_images(convert.with_model_names(truth, names), found)
                write_particles(folder / "true_particles.star", truth)

    def _modelNames(self):
        """Return names of the true classes, where the true maps have them."""
        maps = self.trueAverages.get()
        if not isinstance(maps, SetOfAverageSubTomograms):
            return {}
        return {m.getClassId() or m.getObjId(): m.getObjLabel() for m in maps.iterItems()
                if m.getObjLabel()}

    def evaluateStep(self, settings):
        """Judge positions, classes and orientations."""
        results = self.resultsFolder(settings)
        folder = Path(self._getExtraPath("input"))
        picks, true_picks = folder / "picks.star", folder / "true_picks.star"
        particles, true_particles = folder / "particles.star", folder / "true_particles.star"
        if picks.exists() and true_picks.exists():
            self._evaluatePicks(picks, true_picks, results)
        if not particles.exists():
            return
        truth = true_particles if true_particles.exists() else true_picks
        if not truth.exists():
            return
        # Particles of the same set are matched by their files, extracted ones by position.
        radius = self.radius.get() if truth == true_picks else None
        columns = convert.columns_of(particles), convert.columns_of(truth)
        if all("rlnClassNumber" in names for names in columns):
            self._evaluate("classes", particles, truth, results, radius=radius)
        if all("rlnAngleRot" in names for names in columns):
            self._evaluate("poses", particles, truth, results, radius=radius,
                           symmetry=",".join(words_of(self.symmetry.get())),
                           errors=results / "poses.star")

    def _evaluatePicks(self, picks, truth, results):
        has_scores = read_particles(picks).rows[SCORE_COLUMN].nunique() > 1
        self._evaluate(
            "picks", picks, truth, results, radius=self.radius.get(),
            matching=MATCHINGS[self.matching.get()], judged=results / "judged.star",
            curve=results / "curve.csv" if has_scores else None)

    def _evaluate(self, what, found, truth, results, **options):
        self.runVerb(f"evaluate-{what}", found, truth=truth, overwrite=True,
                     output=results / f"{what}.json", report=results / f"{what}.html", **options)

    def evaluateAveragesStep(self, settings):
        """Superpose every average and the true map it belongs to."""
        results = Path(self._getExtraPath("results"))
        averages, maps = self._averages(self.inputAverages), self._averages(self.trueAverages)
        partners = self._partners(averages, maps)
        for number, candidates in partners.items():
            for true_number in candidates:
                name = f"average_{number:03d}_{true_number:03d}"
                self.runVerb(
                    "evaluate-average", averages[number], reference=maps[true_number],
                    overwrite=True, output=results / f"{name}.json",
                    report=results / f"{name}.html", aligned=results / f"{name}.mrc")

    def _averages(self, pointer):
        """Return the files of averages by the number of their class."""
        source = pointer.get()
        if source is None:
            return {}
        if isinstance(source, SetOfClassesSubTomograms):
            items = {one.getObjId(): one.getRepresentative().clone() for one in source.iterItems()}
        elif hasattr(source, "iterItems"):
            items = {m.getClassId() or m.getObjId(): m.clone() for m in source.iterItems()}
        else:
            items = {1: source}
        folder = Path(self._getExtraPath("input"))
        return {number: convert.mrc_file(item, folder / f"{pointer.getObjValue().getObjId()}_"
                                                        f"{number:03d}.mrc")
                for number, item in items.items()}

    def _partners(self, averages, maps):
        """Return the true maps to compare each average with.

        That of its class where classes were judged; else all, or of many the one of its number.
        """
        classes = self.results().get("classes")
        if classes is None and len(averages) * len(maps) <= MAX_PAIRS:
            return {number: list(maps) for number in averages}
        if classes is None:
            return {number: [number] for number in averages if number in maps}
        pairs = zip(classes["matched"], classes["true_classes"], strict=True)
        partner = {assigned: true for assigned, true in pairs if assigned and true in maps}
        return {number: [partner[number]] for number in averages if number in partner}

    def createOutputStep(self, settings):
        """Register the curves of the averages, and leave a report."""
        curves = SetOfFSCs.create(self.getPath(), prefix="fscs")
        for label, result in self.averageResults().items():
            curves.append(convert.new_fsc(label, result["frequency_per_angst"], result["fsc"]))
        if curves.getSize():
            self._defineOutputs(fscs=curves)
            self._defineSourceRelation(self.inputAverages, curves)

    # ------------------------------------------------------------------------------- results
    def results(self):
        """Return what the verbs found: picks, classes, poses; a missing one was not judged."""
        folder = Path(self._getExtraPath("results"))
        return {path.stem: json.loads(path.read_text())
                for path in (folder / f"{name}.json" for name in ("picks", "classes", "poses"))
                if path.is_file()}

    def averageResults(self):
        """Return the best comparison of each average, by a label that names both."""
        names, best = self._modelNames(), {}
        for path in sorted(Path(self._getExtraPath("results")).glob("average_*.json")):
            _, number, true_number = path.stem.split("_")
            result = json.loads(path.read_text())
            known = best.get(number)
            if known is None or result["cc_masked"] > known[1]["cc_masked"]:
                name = names.get(int(true_number), f"map {int(true_number)}")
                best[number] = (f"class {int(number)}: {name}", {**result, "file": str(path)})
        return dict(best.values())

    # ---------------------------------------------------------------------------------- info
    def _validate(self):
        errors = []
        judged = [
            self.inputCoordinates.get() is not None and self.trueCoordinates.get() is not None,
            self.inputSubtomograms.get() is not None and (
                self.trueCoordinates.get() is not None or self.trueSubtomograms.get() is not None),
            self.inputAverages.get() is not None and self.trueAverages.get() is not None,
        ]
        if not any(judged):
            errors.append("Nothing can be judged: give results and a truth that go together "
                          "(positions, particles or averages).")
        for pointer, name in ((self.inputSubtomograms, "particles"),
                              (self.inputCoordinates, "positions"),
                              (self.inputAverages, "averages")):
            source = pointer.get()
            if source is not None and hasattr(source, "getSize") and source.getSize() < 1:
                errors.append(f"The set of {name} is empty.")
        return errors

    def _summary(self):
        results, averages = self.results(), self.averageResults()
        if not results and not averages:
            return self.notReady()
        return [*summary_lines(results),
                *(f"{label}: correlation {result['cc_masked']:.2f}, FSC 0.5 at "
                  f"{_angst(result['fsc_half_angst'])}." for label, result in averages.items())]

    def _methods(self):
        return ["Results were compared with known answers."] if self.results() else []


def summary_lines(results):
    """Return one line for each part that was judged."""
    lines = []
    if "picks" in results:
        lines += _pick_lines(results["picks"])
    if "classes" in results:
        r = results["classes"]
        lines.append(f"Classes: mean F1 {r['f1_mean']:.2f}, accuracy {r['accuracy']:.2f} of "
                     f"{r['n_particles']} particles; {r['n_unmatched_particles']} have no true "
                     "partner and are not judged.")
    if "poses" in results:
        r = results["poses"]
        if r["rotation_median_deg"] is not None:
            lines.append(f"Orientations: median error {r['rotation_median_deg']:.1f}°, "
                         f"{r['fraction_within_20_deg']:.0%} within 20°; shifts: median error "
                         f"{r['shift_median_voxels']:.1f} voxels.")
    return lines


def _pick_lines(r):
    """Return positions in words, and classes where the picks say them."""
    lines = [f"Positions: precision {r['precision']:.2f}, recall {r['recall']:.2f}, "
             f"F1 {r['f1']:.2f} ({r['n_hit']} of {r['n_truth']} found, {r['n_picked']} picked, "
             f"{r['n_false']} false, {r['n_duplicate']} on a particle found already)."]
    if r.get("average_precision") is not None:
        lines.append(f"Average precision {r['average_precision']:.2f}; the best F1, "
                     f"{r['best_f1']:.2f}, at scores from {r['best_f1_threshold']:.3g}.")
    if r.get("macro_f1") is not None:
        lines.append(f"Classes of the picks: mean F1 {r['macro_f1']:.2f}; "
                     f"{r['n_misclassified']} of {r['n_hit']} hits say another class.")
    return lines + [f"Warning: {text}" for text in r.get("warnings", [])]


def _angst(value):
    return f"{value:.1f} Å" if value else "no resolution"
