"""Helpers of the forms: values suggested from the input sets, or chosen on a slice."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pwem.objects import AtomStruct
from pwem.wizards import EmWizard

from scipion_faml import convert
from scipion_faml.convert import tilt_range_of
from scipion_faml.io import read_cube
from scipion_faml.protocols import (
    ProtFamlAlign,
    ProtFamlAverage,
    ProtFamlClassify,
    ProtFamlExtractSubtomograms,
    ProtFamlPickDetector,
    ProtFamlPickDog,
    ProtFamlPickTemplate,
    ProtFamlTrainDetector,
)
from scipion_faml.protocols.protocol_pick_base import box_of
from scipion_faml.protocols.protocol_pick_detector import TRAINED
from scipion_faml.protocols.protocol_pick_dog import FILTERS

MODEL_VOXEL_SIZE = 10.0  # angstrom; fine enough to measure the width of an atomic model


# ------------------------------------------------------------------------------------- pickers
class FamlDogPreviewWizard(EmWizard):
    """Diameter and threshold, chosen on a slice with the picks that they give."""

    _targets = [(ProtFamlPickDog, ["diameter", "threshold"])]

    def show(self, form, *params):
        protocol = form.protocol
        tomograms = protocol.inputTomograms.get()
        if tomograms is None or not tomograms.getSize():
            form.showInfo("Choose the tomograms first.")
            return
        from scipion_faml.viewers.pick_preview import DogPreviewDialog  # opens windows

        dialog = DogPreviewDialog(form.root, self.previews(protocol), protocol.diameter.get(),
                                  protocol.threshold.get())
        if dialog.resultYes():
            form.setVar("diameter", dialog.diameter)
            if dialog.threshold is not None:
                form.setVar("threshold", round(dialog.threshold, 2))

    @staticmethod
    def previews(protocol):
        """Return the name of every tomogram and what makes its preview."""
        from scipion_faml.viewers.pick_preview import preview_of

        tomograms = protocol.inputTomograms.get()
        folder = Path(protocol.getProject().getTmpPath("faml"))  # for files that are no MRC
        return [
            (tomogram.getTsId(), partial(
                preview_of, partial(convert.mrc_file, tomogram, folder / f"{number}.mrc"),
                tomograms.getSamplingRate(), protocol.isDark.get(),
                protocol.falsePositives.get(), FILTERS[protocol.filter.get()]))
            for number, tomogram in enumerate(convert.clones(tomograms))
        ]


class FamlTemplateDiameterWizard(EmWizard):
    """Diameter of a template, measured in its density."""

    _targets = [(ProtFamlPickTemplate, ["diameter"])]

    def show(self, form, *params):
        if form.protocol.inputTemplate.get() is None:
            form.showInfo("Choose the template first.")
            return
        try:
            form.setVar("diameter", round(template_diameter(form.protocol)))
        except (ValueError, OSError) as error:
            form.showInfo(str(error))


def template_diameter(protocol) -> float:
    """Return the width (angstrom) of the template in a form, a map or an atomic model.

    Raises
    ------
    ValueError, OSError
        If the file cannot be read or holds nothing.
    """
    from scipion_faml.structures import load_structure, suitable_box
    from scipion_faml.template_matching import TemplateModel, diameter_of

    template = protocol.inputTemplate.get()
    if isinstance(template, AtomStruct):
        path, size = template.getFileName(), MODEL_VOXEL_SIZE
        box = suitable_box([path], size, 2 * size)
        return diameter_of(TemplateModel(load_structure(path, box, size, 2 * size).map)) * size
    folder = Path(protocol.getProject().getTmpPath("faml"))
    density, size = read_cube(convert.map_file(template, folder / "template.mrc"))
    return diameter_of(TemplateModel(density)) * size


class FamlPickBoxWizard(EmWizard):
    """Box size from the particle's diameter and the tomograms' voxel size."""

    _targets = [(ProtFamlPickDog, ["boxSize"]), (ProtFamlPickTemplate, ["boxSize"]),
                (ProtFamlPickDetector, ["boxSize"])]

    def show(self, form, *params):
        protocol = form.protocol
        tomograms = protocol.inputTomograms.get()
        try:
            diameter = self.diameter(protocol)
        except (ValueError, OSError) as error:
            form.showInfo(str(error))
            return
        if tomograms is None or not diameter:
            form.showInfo("Choose the tomograms, and what tells the diameter, first.")
            return
        form.setVar("boxSize", box_of(diameter, tomograms.getSamplingRate()))

    @staticmethod
    def diameter(protocol):
        """Return the diameter (angstrom) that the form tells, or None."""
        if isinstance(protocol, ProtFamlPickDog):
            return max(protocol.diameters())
        if isinstance(protocol, ProtFamlPickTemplate):
            has_template = protocol.inputTemplate.get() is not None
            return protocol.diameter.get() or (
                template_diameter(protocol) if has_template else None)
        detector = protocol.inputDetector.get()
        if protocol.source.get() != TRAINED or detector is None:
            return None
        return detector.getDiameter()


class FamlHeldOutWizard(EmWizard):
    """Which tomogram of the training is held out: the last one."""

    _targets = [(ProtFamlTrainDetector, ["heldOut"])]

    def show(self, form, *params):
        protocol = form.protocol
        if not protocol.hasPositions():
            form.showInfo("Choose the positions first.")
            return
        ids = protocol.tomogramIds()
        if len(ids) < 2:
            form.showInfo("There is a single tomogram: a slab of it is held out by itself.")
            return
        form.setVar("heldOut", ids[-1])
        form.showInfo("Tomograms with positions: " + ", ".join(ids))


# ----------------------------------------------------------------------------------- extraction
class FamlExtractBoxWizard(EmWizard):
    """Box size of the coordinates, in voxels after binning."""

    _targets = [(ProtFamlExtractSubtomograms, ["boxSize"])]

    def show(self, form, *params):
        protocol = form.protocol
        coordinates = protocol.inputCoordinates.get()
        if coordinates is None or not coordinates.getBoxSize():
            form.showInfo("Choose coordinates that have a box size first.")
            return
        form.setVar("boxSize", protocol.suggestedBox())


class FamlTiltRangeWizard(EmWizard):
    """Shows the tilt range of the particles' acquisition in the form."""

    _targets = [(ProtFamlClassify, ["tiltMin", "tiltMax"]),
                (ProtFamlAlign, ["tiltMin", "tiltMax"]),
                (ProtFamlAverage, ["tiltMin", "tiltMax"])]

    def show(self, form, *params):
        images = form.protocol.inputSubtomograms.get()
        if images is None:
            form.showInfo("Choose the subtomograms first.")
            return
        try:
            wedge = tilt_range_of(images)
        except ValueError as error:
            form.showInfo(str(error))
            return
        if wedge is None:
            form.showInfo("The acquisition has no tilt range: type it in.")
            return
        form.setVar("tiltMin", wedge.tilt_min_deg)
        form.setVar("tiltMax", wedge.tilt_max_deg)
