"""The template before the search: its density, its mask, what falls on it alone, its size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipion_faml.picking.template.correlation import MASK_EDGE
from scipion_faml.picking.template.filters import HIGHEST, Filter
from scipion_faml.simulation.tilt_series import Microscope, contrast_transfer
from scipion_faml.types import FloatArray
from scipion_faml.volume import squared_radius

TRANSFER_SAMPLES = 2048


@dataclass(frozen=True, eq=False)
class TemplateModel:
    """A template in the tomogram's voxels, before anything is done to it."""

    density: FloatArray  # (n, n, n) positive where there is matter
    mask: FloatArray | None = None  # (n, n, n) 0 to 1, turned with it; None: a ball
    transfer: Filter | None = None  # that falls on the template alone, such as a CTF


def transfer_filter(
    microscope: Microscope, voxel_size_angst: float, is_phase_flipped: bool
) -> Filter:
    """Return the CTF as what falls on a template: its magnitude where phases were flipped."""
    frequency = np.linspace(0.0, HIGHEST, TRANSFER_SAMPLES)
    transfer = contrast_transfer(frequency / voxel_size_angst, microscope)
    return Filter(frequency, np.abs(transfer) if is_phase_flipped else transfer)


def diameter_of(model: TemplateModel) -> float:
    """Return the diameter (voxels) of the ball to compare: that of the mask, or of the density.

    The density's holds 99 % of what is above a tenth of its highest level.
    """
    if model.mask is not None:
        return float(2.0 * (model.mask.sum(dtype=np.float64) * 0.75 / np.pi) ** (1.0 / 3.0))
    density = model.density - border_level(model.density)
    weight = np.maximum(density - 0.1 * float(density.max()), 0.0).ravel()
    if not weight.sum() > 0:
        raise ValueError("the template holds nothing: is its density dark?")
    n = density.shape[0]
    distance = np.sqrt(squared_radius(n)).ravel()
    order = np.argsort(distance, kind="stable")
    inside = np.cumsum(weight[order]) / weight.sum(dtype=np.float64)
    radius = float(distance[order][int(np.searchsorted(inside, 0.99))])
    return min(2.0 * radius + 2.0, n - 2.0 * MASK_EDGE - 1.0)


def mask_width(diameter: float) -> int:
    """Voxels that a spherical mask of a diameter (voxels) takes, with its edge."""
    return 2 * int(np.ceil(0.5 * diameter + MASK_EDGE)) + 1


def border_level(density: FloatArray) -> float:
    """The level at a map's faces: what surrounds it."""
    faces = [np.take(density, end, axis=axis).ravel() for axis in range(3) for end in (0, -1)]
    return float(np.median(np.concatenate(faces)))
