"""Wizards that compute a number from what the form has: boxes, diameters, tilt ranges."""

from __future__ import annotations

from pwem.objects import AtomStruct

from scipion_faml import convert
from scipion_faml.convert import tilt_range_of
from scipion_faml.io import read_cube
from scipion_faml.previews import even_box, rescaled_box
from scipion_faml.protocols import (
    ProtFamlEvaluate,
    ProtFamlExtractSubtomograms,
    ProtFamlPickDetector,
    ProtFamlPickDog,
    ProtFamlPickTemplate,
    ProtFamlSimulateSubtomograms,
    ProtFamlTrainDetector,
)
from scipion_faml.protocols.protocol_base import ProtFamlBase, words_of
from scipion_faml.protocols.protocol_pick_base import BOX_PER_DIAMETER, ProtFamlPickBase, box_of
from scipion_faml.protocols.protocol_pick_detector import FROM_FILE, TRAINED

from .base import FamlWizard, chosen, converted_folder, filled

MODEL_VOXEL_SIZE = 10.0  # angstrom; fine enough to measure the width of an atomic model


# -------------------------------------------------------------------------------- box sizes
class FamlPickBoxWizard(FamlWizard):
    """Box size from the particle's diameter and the tomograms' voxel size."""

    _targets = [(ProtFamlPickDog, ["boxSize"]), (ProtFamlPickTemplate, ["boxSize"]),
                (ProtFamlPickDetector, ["boxSize"])]

    def helpWith(self, form):
        tomograms = filled(form.protocol.inputTomograms, "the tomograms")
        form.setVar("boxSize", box_of(picked_diameter(form.protocol), tomograms.getSamplingRate()))


def picked_diameter(protocol: ProtFamlPickBase) -> float:
    """Return the diameter (angstrom) of the largest particle that a picker's form asks for.

    Raises
    ------
    ValueError, OSError
        If the form does not tell it yet, or a file that does cannot be read.
    """
    if isinstance(protocol, ProtFamlPickDog):
        if not protocol.diameter.get():
            raise ValueError("Give the particle diameter first.")
        return max(protocol.diameters())
    if isinstance(protocol, ProtFamlPickTemplate):
        return protocol.diameter.get() or template_diameter(protocol)
    if protocol.source.get() == TRAINED:
        return chosen(protocol.inputDetector, "the trained detector").getDiameter()
    return max(detector_diameters(protocol))


def detector_diameters(protocol: ProtFamlPickDetector) -> list[float]:
    """Return the diameters (angstrom) of the classes of the form's detector, from its weights."""
    from scipion_faml.detector import NEEDS_TORCH

    try:
        from scipion_faml.detector import weights
    except ImportError as error:
        raise ValueError(NEEDS_TORCH) from error
    settings = weights.load(weights_path(protocol)).settings
    return [d * settings.voxel_size_angst for d in settings.diameters]


def weights_path(protocol: ProtFamlPickDetector):
    """Return the weights file of the form, also of the detector that comes with the plugin."""
    from scipion_faml.detector.weights import pretrained

    if protocol.source.get() == TRAINED:
        chosen(protocol.inputDetector, "the trained detector")
    if protocol.source.get() == FROM_FILE and not protocol.weightsFile.get():
        raise ValueError("Choose the weights file first.")
    return protocol.weights() or pretrained()


def template_diameter(protocol: ProtFamlPickTemplate) -> float:
    """Return the width (angstrom) of the template in a form, a map or an atomic model.

    Raises
    ------
    ValueError, OSError
        If there is none yet, its file cannot be read or holds nothing.
    """
    from scipion_faml.template_matching import diameter_of

    model, size = template_model(protocol, None)
    return diameter_of(model) * size


def chosen_template(protocol: ProtFamlPickTemplate):
    """Return the template of a form; raise a ValueError where there is none yet."""
    template = protocol.template()
    if template is None:
        raise ValueError("Choose the template first.")
    return template


def template_model(protocol: ProtFamlPickTemplate, voxel_size: float | None):
    """Return the template of a form, and its voxel size: its own one, or the one asked for."""
    from scipion_faml.structures import change_voxel_size, load_structure, suitable_box
    from scipion_faml.template_matching import TemplateModel

    template = chosen_template(protocol)
    if isinstance(template, AtomStruct):
        path, size = template.getFileName(), voxel_size or MODEL_VOXEL_SIZE
        box = suitable_box([path], size, 2 * size)
        return TemplateModel(load_structure(path, box, size, 2 * size).map), size
    density, own = read_cube(
        convert.map_file(template, converted_folder(protocol) / "template.mrc"))
    if not own > 0:
        raise ValueError("The template has no voxel size: import it again with one.")
    if voxel_size is None:
        return TemplateModel(density), own
    return TemplateModel(change_voxel_size(density, own, voxel_size)), voxel_size


class FamlExtractBoxWizard(FamlWizard):
    """Box size as wide as that of the coordinates, in voxels after binning."""

    _targets = [(ProtFamlExtractSubtomograms, ["boxSize"])]

    def helpWith(self, form):
        protocol = form.protocol
        coordinates = filled(protocol.inputCoordinates, "the coordinates")
        tomograms = protocol.inputTomograms.get() or coordinates.getPrecedents()
        if tomograms is None:
            raise ValueError("The tomograms of the coordinates are gone: choose tomograms.")
        size = tomograms.getSamplingRate() * max(protocol.binning.get() or 1, 1)
        if coordinates.getBoxSize():
            box = rescaled_box(coordinates.getBoxSize(), coordinates.getSamplingRate(), size)
        else:
            box = box_of(max(diameters_in(coordinates)), size)
        form.setVar("boxSize", box)


class FamlSimulatedBoxWizard(FamlWizard):
    """Box that holds the structures under any rotation, and the largest shift."""

    _targets = [(ProtFamlSimulateSubtomograms, ["boxSize"])]

    def helpWith(self, form):
        from scipion_faml.structures import suitable_box

        protocol = form.protocol
        structures, size = words_of(protocol.structures.get()), protocol.voxelSize.get()
        if not structures or not (size or 0) > 0:
            raise ValueError("Give the structures and the voxel size first.")
        box = suitable_box(structures, size, 2.0 * size) + 2.0 * (protocol.maxShift.get() or 0.0)
        form.setVar("boxSize", even_box(box + 1))


# -------------------------------------------------------------------------------- diameters
def diameters_in(coordinates) -> list[float]:
    """Return the diameters (angstrom) kept with positions, or the one their box was made for.

    Raises
    ------
    ValueError
        If nothing tells a diameter.
    """
    first = coordinates.getFirstItem()
    if first is not None and hasattr(first, "_famlDiameter"):
        kept = {float(d) for d in coordinates.getUniqueValues("_famlDiameter") if d}
        if kept:
            return sorted(kept)
    if not coordinates.getBoxSize():
        raise ValueError("Choose positions that have a box size or diameters first.")
    return [coordinates.getBoxSize() * coordinates.getSamplingRate() / BOX_PER_DIAMETER]


class FamlDiametersWizard(FamlWizard):
    """Diameters of the classes to train on: those kept with the positions, or from their boxes."""

    _targets = [(ProtFamlTrainDetector, ["diameters"])]

    def helpWith(self, form):
        protocol = form.protocol
        if not protocol.hasPositions():
            raise ValueError("Choose the positions first.")
        each = [max(diameters_in(p.get())) for p in protocol.inputCoordinates]
        by_set = protocol.classesFrom.get() == 1 and len(set(each)) > 1
        form.setVar("diameters", ", ".join(f"{d:.0f}" for d in (each if by_set else [max(each)])))


class FamlRadiusWizard(FamlWizard):
    """Distance within which positions agree: half the smallest particle's diameter."""

    _targets = [(ProtFamlEvaluate, ["radius"])]

    def helpWith(self, form):
        protocol = form.protocol
        positions = protocol.trueCoordinates.get() or protocol.inputCoordinates.get()
        if positions is None:
            raise ValueError("Choose the true positions first.")
        form.setVar("radius", round(0.5 * min(diameters_in(positions))))


class FamlDistancesWizard(FamlWizard):
    """Distances that a picker keeps when the row is empty, written out to be changed."""

    NAMES = ("minDistance", "border")
    _targets = [(ProtFamlPickDog, list(NAMES)), (ProtFamlPickTemplate, list(NAMES)),
                (ProtFamlPickDetector, list(NAMES))]

    def helpWith(self, form):
        name = self.rowOf(form, self.NAMES)
        diameter = picked_diameter(form.protocol)
        form.setVar(name, round(diameter * kept_distances(form.protocol)[name]))


def kept_distances(protocol: ProtFamlPickBase) -> dict[str, float]:
    """Return the distances, in diameters, that a picker keeps when its form says nothing."""
    if isinstance(protocol, ProtFamlPickTemplate):
        from scipion_faml.template_matching import TemplateConfig

        defaults = TemplateConfig(1.0)
        return {"minDistance": defaults.min_distance, "border": defaults.border}
    if isinstance(protocol, ProtFamlPickDog):
        from scipion_faml.picking.dog import BORDER, MIN_DISTANCE

        return {"minDistance": MIN_DISTANCE, "border": BORDER}
    from scipion_faml.detector.points import NMS_SHARE

    return {"minDistance": NMS_SHARE, "border": 0.0}


# ----------------------------------------------------------------------------------- others
class FamlHeldOutWizard(FamlWizard):
    """Which tomogram of the training is held out: the last one."""

    _targets = [(ProtFamlTrainDetector, ["heldOut"])]

    def helpWith(self, form):
        protocol = form.protocol
        if not protocol.hasPositions():
            raise ValueError("Choose the positions first.")
        ids = protocol.tomogramIds()
        if len(ids) < 2:
            form.showInfo("There is a single tomogram: a slab of it is held out by itself.")
            return
        form.setVar("heldOut", ids[-1])
        form.showInfo("Tomograms with positions: " + ", ".join(ids))


class FamlTiltRangeWizard(FamlWizard):
    """Shows the tilt range of the input's acquisition in the form."""

    NAMES = ("tiltMin", "tiltMax")
    INPUTS = {"inputSubtomograms": "the subtomograms", "inputParticles": "the particles",
              "inputTomograms": "the tomograms"}
    _targets = [(ProtFamlBase, list(NAMES))]  # every protocol that has the rows

    def helpWith(self, form):
        row = next((name for name in self.INPUTS if hasattr(form.protocol, name)), None)
        if row is None:
            raise ValueError("This form has no input that tells a tilt range: type it in.")
        images = filled(getattr(form.protocol, row), self.INPUTS[row])
        wedge = tilt_range_of(getattr(images, "getImages", lambda: images)())
        if wedge is None:
            raise ValueError("The acquisition has no tilt range: type it in; -90 and 90 if "
                             "nothing is missing.")
        form.setVar("tiltMin", wedge.tilt_min_deg)
        form.setVar("tiltMax", wedge.tilt_max_deg)
