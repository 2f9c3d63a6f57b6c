"""Helpers of the forms: values suggested from the input sets."""

from __future__ import annotations

from pwem.wizards import EmWizard

from scipion_faml.convert import tilt_range_of
from scipion_faml.protocols import (
    ProtFamlAlign,
    ProtFamlAverage,
    ProtFamlClassify,
    ProtFamlExtractSubtomograms,
    ProtFamlPickDog,
)

# A box needs room for the particle, its neighbourhood that carries the CTF, and shifts.
BOX_PER_DIAMETER = 1.5


def box_of_diameter(diameter_angst: float, voxel_size_angst: float) -> int:
    """Return an even box (voxels) with room around a particle of this diameter."""
    return 2 * max(4, round(BOX_PER_DIAMETER * diameter_angst / voxel_size_angst / 2))


class FamlPickBoxWizard(EmWizard):
    """Box size from the particle's diameter and the tomograms' voxel size."""

    _targets = [(ProtFamlPickDog, ["boxSize"])]

    def show(self, form, *params):
        protocol = form.protocol
        tomograms = protocol.inputTomograms.get()
        if tomograms is None or not protocol.diameter.get():
            form.showInfo("Choose the tomograms and the diameter first.")
            return
        form.setVar("boxSize",
                    box_of_diameter(protocol.diameter.get(), tomograms.getSamplingRate()))


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
