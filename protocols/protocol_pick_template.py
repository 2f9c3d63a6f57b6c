"""Pick particles that look like a template, with their orientations."""

from __future__ import annotations

from pathlib import Path

from pwem.objects import AtomStruct
from pyworkflow.protocol import params

from scipion_faml import convert
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.wedge import NO_WEDGE

from .protocol_pick_base import ProtFamlPickBase

CONTROLS = ["phase", "mirror", "none"]
FROM_PROJECT, FROM_FILE = range(2)  # values of `templateFrom`
MAX_LINES = 8  # of the summary, for tomograms


class ProtFamlPickTemplate(ProtFamlPickBase):
    """Finds particles that look like a template, and how they are turned.

    The template is turned into all directions, given each tomogram's missing wedge and compared
    with every place of it by a locally normalised correlation. A coarse scan finds the peaks; only
    these are looked at finely. Positions come with their score and orientation, so that particles
    extracted at them are aligned to the template.
    """

    _label = "pick particles by a template"
    VERB = "pick-template"

    # ---------------------------------------------------------------------------------- form
    def _definePickerParams(self, form):
        form.addParam("templateFrom", params.EnumParam, default=FROM_PROJECT, label="Template from",
                      choices=["this project", "a file"],
                      help="A file spares its import, for example in workflows without a window.")
        form.addParam("inputTemplate", params.PointerParam, important=True, label="Template",
                      condition=f"templateFrom=={FROM_PROJECT}",
                      pointerClass="Volume, AverageSubTomogram, SubTomogram, AtomStruct",
                      help="A density map, bright on dark (an average, one class of a "
                           "classification), or an atomic model. It is brought to the tomograms' "
                           "voxel size.")
        form.addParam("templateFile", params.FileParam, default="", label="Template file",
                      condition=f"templateFrom=={FROM_FILE}",
                      help="MRC map, bright on dark, or an atomic model (PDB, mmCIF).")
        form.addParam("templateVoxelSize", params.FloatParam, allowsNull=True,
                      condition=f"templateFrom=={FROM_FILE}", label="Voxel size of the file (Å)",
                      help="Of a map. Empty: what its header says.")
        form.addParam("symmetry", params.StringParam, default="C1", label="Symmetry",
                      help="Point group of the template, its axes as usual (n-fold along z): C1, "
                           "C7, D7, T, O, I1, I2. It spares rotations.")
        form.addParam("diameter", params.FloatParam, allowsNull=True,
                      label="Particle diameter (Å)",
                      help="Of the soft ball that is compared. Empty: measured in the template; "
                           "the wizard shows it.")
        form.addParam("threshold", params.FloatParam, allowsNull=True, label="Threshold",
                      help="Lowest correlation kept, 0 to 1. Empty: from the false positives "
                           "allowed.")
        form.addParam("falsePositives", params.FloatParam, default=1.0,
                      expertLevel=params.LEVEL_ADVANCED, validators=[params.GT(0)],
                      label="False positives allowed",
                      help="How many picks chance may cause in a whole tomogram (or its mask): "
                           "sets the threshold where none is given.")
        form.addParam("control", params.EnumParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                      choices=["template with random phases", "mirrored template", "none"],
                      label="Control",
                      help="What is searched for beside the template, to tell the correlation that "
                           "chance reaches: a map of the same spectrum that is no structure, or "
                           "the other hand. None: by formula, for Gaussian noise.")
        form.addParam("isExhaustive", params.BooleanParam, default=False,
                      expertLevel=params.LEVEL_ADVANCED, label="Scan all rotations?",
                      help="At the angular step and full resolution, everywhere, instead of a "
                           "coarse scan whose peaks are refined: many times slower.")
        form.addParam("coarseStep", params.FloatParam, default=20.0,
                      expertLevel=params.LEVEL_ADVANCED, condition="not isExhaustive",
                      validators=[params.GE(1), params.LE(60)], label="Coarse step (deg)",
                      help="Of the rotations that are scanned; the best peaks are then refined to "
                           "a few degrees.")
        form.addParam("candidates", params.IntParam, allowsNull=True,
                      expertLevel=params.LEVEL_ADVANCED, condition="not isExhaustive",
                      label="Peaks refined",
                      help="How many of the coarse scan, the highest. Empty: half as many as "
                           "particles would fill the tomogram.")
        form.addParam("angularStep", params.FloatParam, default=7.0,
                      expertLevel=params.LEVEL_ADVANCED, condition="isExhaustive",
                      validators=[params.GE(1), params.LE(60)], label="Angular step (deg)",
                      help="How fine the orientations are scanned.")
        line = form.addLine("Resolution (Å)", expertLevel=params.LEVEL_ADVANCED,
                            help="Detail of template and tomogram that is compared. Empty: all.")
        line.addParam("highPass", params.FloatParam, allowsNull=True, label="from")
        line.addParam("lowPass", params.FloatParam, allowsNull=True, label="to")
        form.addParam("defocus", params.FloatParam, allowsNull=True,
                      expertLevel=params.LEVEL_ADVANCED, label="Defocus (µm)",
                      help="Gives the template the CTF of a phase-flipped tomogram (underfocus is "
                           "positive, 300 kV, Cs 2.7 mm). Empty: none.")
        form.addParam("doWhiten", params.BooleanParam, default=False,
                      expertLevel=params.LEVEL_ADVANCED, label="Whiten?",
                      help="Divide tomogram and template by the root of the tomogram's spectrum.")
        form.addParam("inputTemplateMask", params.PointerParam, allowsNull=True,
                      expertLevel=params.LEVEL_ADVANCED, label="Mask of the template",
                      pointerClass="VolumeMask, Volume, SubTomogram",
                      help="From 0 to 1, of the template's box and voxel size, instead of the "
                           "ball.")
        form.addParam("keepScores", params.BooleanParam, default=False,
                      expertLevel=params.LEVEL_ADVANCED, label="Keep the score maps?",
                      help="The best score at every voxel, as scores.mrc in the run's extra "
                           "folder of each tomogram.")

    def diameterToBox(self):
        measured = [result["diameter_angst"] for result in self.verbResults().values()]
        return self.diameter.get() or max(measured, default=0.0)

    def pickOptions(self, tomogram, folder):
        wedge = self._tiltRange(tomogram)
        return {
            "template": self._templateFile(folder), "symmetry": self.symmetry.get().strip(),
            "angular_step": self.angularStep.get(), "coarse_step": self.coarseStep.get(),
            "candidates": self.candidates.get(), "diameter": self.diameter.get(),
            "defocus": self.defocus.get(), "whiten": self.doWhiten.get(),
            "dark": self.isDark.get(), "threshold": self.threshold.get(),
            "false_positives": self.falsePositives.get(),
            "control": CONTROLS[self.control.get()], "exhaustive": self.isExhaustive.get(),
            "low_pass": self.lowPass.get(), "high_pass": self.highPass.get(),
            "template_mask": self._maskFile(folder),
            "score_map": folder / "scores.mrc" if self.keepScores.get() else None,
            "tilt_min": wedge.tilt_min_deg, "tilt_max": wedge.tilt_max_deg,
        }

    def _tiltRange(self, tomogram):
        """Return the tilt range of a tomogram, or of its set, or none missing."""
        with self._lock:
            whole = self.inputTomograms.get().getAcquisition()
        return (convert.missing_wedge(tomogram.getAcquisition())
                or convert.missing_wedge(whole) or NO_WEDGE)

    def template(self):
        """Return the template of the form as an object of Scipion's, or None.

        Raises
        ------
        ValueError, OSError
            If a file is asked for that is none.
        """
        if self.templateFrom.get() == FROM_PROJECT:
            return self.inputTemplate.get()
        name = (self.templateFile.get() or "").strip()
        return convert.structure_of_file(name, self.templateVoxelSize.get()) if name else None

    def _templateFile(self, folder):
        template = self.template()
        if isinstance(template, AtomStruct):
            return Path(template.getFileName()).resolve()
        return convert.map_file(template, folder / "template.mrc")

    def _maskFile(self, folder):
        mask = self.inputTemplateMask.get()
        return None if mask is None else convert.map_file(mask, folder / "template_mask.mrc")

    # ---------------------------------------------------------------------------------- info
    def _checkPicker(self, tomograms, errors):
        if self.diameter.get() is not None and self.diameter.get() <= 0:
            errors.append("The diameter must be above 0 Å.")
        self._checkDiameter(self.diameter.get(), tomograms, errors)
        try:
            symmetry_rotations(self.symmetry.get().strip())
        except ValueError as error:
            errors.append(f"Symmetry: {error}.")
        low, high = self.lowPass.get(), self.highPass.get()
        if (low is not None and low <= 0) or (high is not None and high <= 0):
            errors.append("The resolutions must be above 0 Å.")
        elif low is not None and high is not None and low >= high:
            errors.append(f"Resolution from {high:g} to {low:g} Å: the first must be the larger.")
        self._checkTemplate(tomograms, errors)

    def _checkTemplate(self, tomograms, errors):
        try:
            template = self.template()
        except (ValueError, OSError) as error:
            errors.append(f"Template: {error}.")
            return
        if template is None and self.templateFrom.get() == FROM_FILE:
            errors.append("Choose the template's file.")
        if template is None or isinstance(template, AtomStruct):
            return
        voxel_size = template.getSamplingRate()
        if not (voxel_size or 0) > 0:
            errors.append("The template has no voxel size: import it again with one, or give that "
                          "of its file.")
            return
        shape = template.getDim()
        width = min(shape[:3]) * voxel_size if shape else None
        if width and self.diameter.get() and self.diameter.get() > width:
            errors.append(f"A diameter of {self.diameter.get():g} Å does not fit the template's "
                          f"box of {width:.0f} Å.")

    def _warnings(self):
        tomograms = self.inputTomograms.get()
        if tomograms is None or tomograms.isStreamOpen() or not tomograms.getSize():
            return []
        if convert.tilt_range_of(tomograms) is None:
            return ["The tomograms have no tilt range, so no missing wedge is given to the "
                    "template: orientations and scores will suffer."]
        return []

    def _methods(self):
        if not hasattr(self, "coordinates"):
            return []
        return [f"{self.coordinates.getSize()} particles were picked by a template of "
                f"{self.diameterToBox():.0f} Å with symmetry {self.symmetry.get()}."]

    def _pickerSummary(self, results):
        lines = [f"{ts_id}: correlation {result['score_median']:.2f} (median), threshold "
                 f"{result['threshold']:.2f}." for ts_id, result in results.items()
                 if result["n_picks"]]
        return lines[:MAX_LINES]

    def _citations(self):
        return []
