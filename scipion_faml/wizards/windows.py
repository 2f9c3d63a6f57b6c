"""Wizards that open a window: masks, resolutions and thresholds chosen on slices."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from scipion_faml import convert
from scipion_faml.previews import shell_gain
from scipion_faml.protocols import (
    ProtFamlAlign,
    ProtFamlClassify,
    ProtFamlGroup,
    ProtFamlPickDetector,
    ProtFamlPickDog,
    ProtFamlPickTemplate,
    ProtFamlValidate,
)
from scipion_faml.protocols.protocol_pick_dog import FILTERS

from . import sources
from .base import FamlWizard, converted_folder, filled
from .numbers import chosen_template, template_diameter, template_model


# -------------------------------------------------------------------------------- what is shown
def particle_sources(protocol):
    """Return the mean of the particles and the maps of a form that has them."""
    folder = converted_folder(protocol)
    others = {"inputReference": "reference", "inputReferences": "starting average",
              "inputAverages": "average"}
    averages = getattr(protocol, "inputAverages", None)
    found = []
    if protocol.inputSubtomograms.get() is not None or averages is None or averages.get() is None:
        images = filled(protocol.inputSubtomograms, "the subtomograms")
        found = [sources.particles(images, folder)]
    for name, word in others.items():
        pointer = getattr(protocol, name, None)
        if pointer is not None and pointer.get() is not None:
            found = sources.maps_of(word, pointer.get(), folder) + found
    return found


def template_sources(protocol):
    """Return the template of a form, at its own voxel size."""
    chosen_template(protocol)

    def load():
        model, size = template_model(protocol, None)
        return sources.Shown("template", model.density, size)

    return [sources.Source("template", load)]


# ------------------------------------------------------------------------------------- masks
class FamlMaskWizard(FamlWizard):
    """Diameter of the mask, drawn on slices of a reference, a mean of particles or a template."""

    _targets = [(ProtFamlClassify, ["particleDiameter"]), (ProtFamlGroup, ["particleDiameter"]),
                (ProtFamlPickTemplate, ["diameter"])]
    NAMES = ("particleDiameter", "diameter")

    def helpWith(self, form):
        from .dialogs import BallDialog  # opens windows

        protocol = form.protocol
        is_template = isinstance(protocol, ProtFamlPickTemplate)
        name = "diameter" if is_template else "particleDiameter"
        start = getattr(protocol, name).get()
        shown = template_sources(protocol) if is_template else particle_sources(protocol)
        if start is None and is_template:
            start = template_diameter(protocol)
        dialog = BallDialog(form.root, "Diameter of the mask (FAML)", shown, start)
        if dialog.resultYes():
            form.setVar(name, round(dialog.value))


class FamlShiftWizard(FamlWizard):
    """Largest shift, drawn as the ball in which the particle's centre may lie."""

    _targets = [(ProtFamlClassify, ["maxShift"]), (ProtFamlAlign, ["maxShift"])]

    def helpWith(self, form):
        from .dialogs import ShiftDialog  # opens windows

        shown = particle_sources(form.protocol)
        dialog = ShiftDialog(
            form.root, "Where a particle's centre may lie (FAML)", shown,
            form.protocol.maxShift.get(),
            float(form.protocol.inputSubtomograms.get().getSamplingRate()))
        if dialog.resultYes():
            form.setVar("maxShift", dialog.value)


# ------------------------------------------------------------------------------- resolutions
class FamlBandWizard(FamlWizard):
    """Resolutions that are compared, with a slice before and after the filter."""

    NAMES = ("lowPass", "highPass")
    _targets = [(ProtFamlClassify, list(NAMES)), (ProtFamlAlign, ["lowPass"]),
                (ProtFamlGroup, ["lowPass"]), (ProtFamlPickTemplate, list(NAMES)),
                (ProtFamlValidate, ["snrLowPass"])]

    def helpWith(self, form):
        from .dialogs import BandDialog  # opens windows

        protocol = form.protocol
        if isinstance(protocol, ProtFamlPickTemplate):
            tomograms = filled(protocol.inputTomograms, "the tomograms")
            shown = sources.tomograms_of(tomograms, converted_folder(protocol))
            if protocol.template() is not None:
                shown += template_sources(protocol)
            gain = gaussian_gain
        else:
            shown, gain = particle_sources(protocol), shell_gain
        low_row = "lowPass" if hasattr(protocol, "lowPass") else "snrLowPass"
        has_high_pass = getattr(protocol, "highPass", None) is not None
        high_pass = protocol.highPass.get() if has_high_pass else None
        dialog = BandDialog(form.root, "What is compared (FAML)", shown, gain,
                            getattr(protocol, low_row).get(), high_pass, has_high_pass)
        if dialog.resultYes():
            set_or_empty(form, low_row, dialog.low_pass)
            if has_high_pass:
                set_or_empty(form, "highPass", dialog.high_pass)


def gaussian_gain(frequency, voxel_size, low_pass, high_pass):
    """Return the gain of the template picker's filter, Gaussians that fall to one half."""
    from scipion_faml.picking.template.filters import band_pass

    return band_pass(voxel_size, low_pass, high_pass).at(frequency)


def set_or_empty(form, name, value):
    """Put a number into a row, or empty it."""
    form.setVar(name, "" if value is None else round(value, 1))


# -------------------------------------------------------------------------------- thresholds
class FamlDogPreviewWizard(FamlWizard):
    """Diameter and threshold, chosen on a slice with the picks that they give."""

    _targets = [(ProtFamlPickDog, ["diameter", "threshold"])]

    def helpWith(self, form):
        protocol = form.protocol
        filled(protocol.inputTomograms, "the tomograms")
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
                tomogram.getSamplingRate() or tomograms.getSamplingRate(), protocol.isDark.get(),
                protocol.falsePositives.get(), FILTERS[protocol.filter.get()]))
            for number, tomogram in enumerate(convert.clones(tomograms))
        ]


class FamlThresholdWizard(FamlWizard):
    """Threshold of the template picker or the detector, on a part of a tomogram they search."""

    _targets = [(ProtFamlPickTemplate, ["threshold"]), (ProtFamlPickDetector, ["threshold"])]

    def helpWith(self, form):
        from .dialogs import FoundDialog  # opens windows
        from .searches import detector_search, template_search

        protocol = form.protocol
        tomograms = filled(protocol.inputTomograms, "the tomograms")
        is_template = isinstance(protocol, ProtFamlPickTemplate)
        search, size = (template_search if is_template else detector_search)(protocol)
        dialog = FoundDialog(
            form.root, "Threshold on a part of a tomogram (FAML)",
            sources.tomograms_of(tomograms, converted_folder(protocol)), search, size,
            protocol.threshold.get(), (0.0, 1.0), 0.01)
        if dialog.resultYes() and dialog.threshold is not None:
            form.setVar("threshold", round(dialog.threshold, 2))
