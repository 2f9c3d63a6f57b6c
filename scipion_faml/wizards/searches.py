"""Pickers at work in a part of a tomogram, for the threshold's preview."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scipion_faml import convert
from scipion_faml.previews import Region, share_of, widened, within
from scipion_faml.wedge import NO_WEDGE

from .drawing import Found
from .numbers import template_model, weights_path

TEMPLATE_DIAMETERS = (3.0, 6.0)  # of a region along z, and along x and y
TEMPLATE_CANDIDATES = 40
DETECTOR_VOXELS = (48, 112, 112)  # of the network's own voxels
DETECTOR_CONTEXT = 16
LOWEST_SCORE = 0.02


# ---------------------------------------------------------------------------------- template
def template_search(protocol):
    """Return the search for a template, and the size of its region for a voxel size.

    Raises
    ------
    ValueError, OSError
        If the template cannot be read.
    """
    from scipion_faml.template_matching import diameter_of

    model, own = template_model(protocol, None)
    diameter = protocol.diameter.get() or diameter_of(model) * own
    settings = template_settings(protocol, diameter)
    wedge = (convert.tilt_range_of(protocol.inputTomograms.get()) or NO_WEDGE)
    models = {}

    def size(voxel_size: float) -> tuple[int, int, int]:
        z, xy = (int(np.ceil(d * diameter / voxel_size)) for d in TEMPLATE_DIAMETERS)
        return z, xy, xy

    def search(volume: np.ndarray, voxel_size: float, region: Region) -> Found:
        from scipion_faml.template_matching import match_template

        if voxel_size not in models:
            models[voxel_size] = template_model(protocol, voxel_size)[0]
        around = widened(region, volume.shape, int(0.5 * diameter / voxel_size) + 4)
        block = np.ascontiguousarray(volume[around], dtype=np.float32)
        share = share_of(around, volume.shape)
        here = replace(settings, false_positives=settings.false_positives * share)
        result = match_template(block, voxel_size, models[voxel_size], wedge, here)
        offset = np.array([s.start for s in around[::-1]], dtype=float)
        position = result.found.position_zyx[:, ::-1] + offset
        inside = within(position, region)
        radius = np.full(int(inside.sum()), 0.5 * diameter / voxel_size)
        return Found(position[inside], result.found.score[inside], radius,
                     suggested=float(result.threshold),
                     note="The run's own threshold may differ: it knows the whole tomogram.")

    return search, size


def template_settings(protocol, diameter: float):
    """Return the picker's settings for a preview: as in the form, no control, few candidates."""
    from scipion_faml.template_matching import TemplateConfig

    return TemplateConfig(
        diameter, (protocol.symmetry.get() or "C1").strip(),
        angular_step_deg=protocol.angularStep.get(), coarse_step_deg=protocol.coarseStep.get(),
        is_dark=protocol.isDark.get(), low_pass_angst=protocol.lowPass.get(),
        high_pass_angst=protocol.highPass.get(), whitens=protocol.doWhiten.get(),
        false_positives=protocol.falsePositives.get() or 1.0, control="none",
        n_candidates=TEMPLATE_CANDIDATES)


# ---------------------------------------------------------------------------------- detector
def detector_search(protocol):
    """Return the search with the form's detector, and the size of its region for a voxel size.

    Raises
    ------
    ValueError, OSError
        If PyTorch is not installed or the weights cannot be read.
    """
    from scipion_faml.detector import NEEDS_TORCH

    try:
        from scipion_faml.detector import weights
    except ImportError as error:
        raise ValueError(NEEDS_TORCH) from error
    detector = weights.load(weights_path(protocol))
    trained, is_dark = detector.settings, protocol.isDark.get()
    views = {}

    def size(voxel_size: float) -> tuple[int, int, int]:
        z, y, x = (max(int(n * trained.voxel_size_angst / voxel_size), 1) for n in DETECTOR_VOXELS)
        return z, y, x

    def search(volume: np.ndarray, voxel_size: float, region: Region) -> Found:
        from scipion_faml.detector import predict
        from scipion_faml.detector.view import view_of
        from scipion_faml.picking.tiles import Binned

        if id(volume) not in views:
            views[id(volume)] = view_of(volume, voxel_size, trained.voxel_size_angst, is_dark)
        whole = views[id(volume)]
        around = widened(region, volume.shape, int(DETECTOR_CONTEXT * whole.scale))
        block = np.ascontiguousarray(volume[around], dtype=np.float32)
        # Grey levels as in the whole tomogram, or an empty part would be stretched.
        binned = Binned(block, whole.source.binned.binning)
        view = replace(whole, source=replace(whole.source, binned=binned))
        candidates = predict.find(detector, view, predict.device_of("cpu"))
        picks = predict.picks_of(candidates, detector, view, LOWEST_SCORE)
        offset = np.array([s.start for s in around[::-1]], dtype=float)
        position = picks.position_xyz + offset
        inside = np.flatnonzero(within(position, region))
        return _detected(trained, position[inside], picks.take(inside), voxel_size)

    return search, size


def _detected(trained, position, picks, voxel_size: float) -> Found:
    """Picks with the names and sizes of their classes."""
    number_of = {int(k): i for i, k in enumerate(trained.class_numbers)}
    index = [number_of[int(k)] for k in picks.label]
    scale = 0.5 * trained.voxel_size_angst / voxel_size
    radius = np.array([trained.diameters[i] * scale for i in index], dtype=float)
    names = tuple(trained.class_names[i] for i in index)
    note = "Thresholds of the training: " + ", ".join(
        f"{name} {level:.2f}" for name, level in
        zip(trained.class_names, trained.thresholds, strict=True)) + "."
    return Found(position, picks.score, radius, names, float(min(trained.thresholds)), note)
