"""Positions drawn on slices of their tomogram."""

from __future__ import annotations

from functools import partial

import numpy as np
from pyworkflow.protocol import Protocol
from pyworkflow.viewer import DESKTOP_TKINTER, Viewer
from tomo.objects import SetOfCoordinates3D

from scipion_faml import convert, plots
from scipion_faml.io import COORDINATES, read_volume

from ..protocols.protocol_pick_dog import ProtFamlPickDog
from ..protocols.protocol_simulate import ProtFamlSimulateTomograms
from .figure_view import SliderView

SLAB = 5  # slices averaged for the picture
RADIUS_PER_BOX = 1 / 3  # boxes are made one and a half diameters wide
MAX_WINDOWS = 4  # tomograms opened at once


class FamlPicksViewer(Viewer):
    """Circles at the positions in a slice; a slider moves through the tomogram."""

    _name = "positions on slices (FAML)"
    _environments = [DESKTOP_TKINTER]
    _targets = [SetOfCoordinates3D, ProtFamlPickDog, ProtFamlSimulateTomograms]

    def _visualize(self, obj, **kwargs):
        if isinstance(obj, Protocol):
            outputs = [getattr(obj, name, None) for name in ("coordinates", "trueCoordinates")]
            obj = next((output for output in outputs if output is not None), None)
            if obj is None:
                return [self.infoMessage("The run has no positions yet.", "FAML")]
        tomograms = list(convert.by_tomogram(obj))[:MAX_WINDOWS]
        if not tomograms:
            return [self.infoMessage("The set holds no positions.", "FAML")]
        return [self._view(obj, tomogram) for tomogram in tomograms]

    def _view(self, coordinates, tomogram):
        """Return the window of one tomogram, at the slice with most positions."""
        rows = convert.picks_table(coordinates, tomogram).rows
        positions = rows[COORDINATES].to_numpy(dtype=float)
        scores = rows[convert.SCORE_COLUMN].to_numpy(dtype=float)
        volume = read_volume(convert.mrc_file(tomogram, self._getTmpPath("tomogram.mrc")))[0]
        factor = coordinates.getSamplingRate() / tomogram.getSamplingRate()
        radius = (coordinates.getBoxSize() or 9) * factor * RADIUS_PER_BOX
        draw = partial(_draw, volume, positions, scores, radius, tomogram.getTsId())
        depths = np.clip(np.round(positions[:, 2]).astype(int), 0, volume.shape[0] - 1)
        start = int(np.bincount(depths).argmax())
        return SliderView(draw, volume.shape[0], start, "slice z", f"{tomogram.getTsId()}",
                          self.getParent())


def _draw(volume, positions, scores, radius, name, z):
    """Draw the positions near slice z: those whose particle of `radius` voxels shows in it."""
    near = np.abs(positions[:, 2] - z) < 0.7 * radius
    colours = scores[near] if np.ptp(scores) > 0 else None
    return plots.picks_on_slice(
        plots.slab(volume, z, SLAB), positions[near, :2], radius, colours,
        title=f"{name}, slice {z}: {near.sum()} of {len(positions)} positions")
