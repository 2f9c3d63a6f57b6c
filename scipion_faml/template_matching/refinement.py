"""Refinement of a template's pose at one place of a tomogram, scored as a scan scores it.

`anywhere` looks at all rotations at once by fast rotational matching, `nearby` starts from the
rotation that a fine scan found. Either way the best poses climb in rotation and shift together, and
the local correlation coefficient of `picking.template` decides: scores are those that a scan of
infinitely small steps would give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipion_faml.align import (
    Candidates,
    Observation,
    PreparedWedge,
    Reference,
    observe,
    prepare_reference,
    prepare_wedge,
    score_rotations,
)
from scipion_faml.fourier import sample_set, spectrum, volume_from_spectrum
from scipion_faml.geometry import matrix_to_euler
from scipion_faml.harmonics import shell_plan
from scipion_faml.phase import PhaseSearch, climbed, phase_candidates
from scipion_faml.picking.peaks import between_voxels
from scipion_faml.picking.template.correlation import (
    Template,
    piece_margins,
    prepare_piece,
    standardised,
)
from scipion_faml.picking.template.scan import View
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.volume import crop_or_pad
from scipion_faml.wedge import MissingWedge

BANDWIDTH = 12  # of the search over all rotations: 15 deg
POSES_TRIED, POSES_CLIMBED, POSES_SCORED = 8, 2, 2
FEWEST_SHELLS = 4

Start = tuple[FloatArray, FloatArray]  # position (z, y, x) voxels, ZYZ angles (rad)


@dataclass(frozen=True, eq=False)
class Refiner:
    """A template and a tomogram. Build it with `prepare_refiner`."""

    view: View
    template: Template
    reference: Reference
    wedge: PreparedWedge
    search: PhaseSearch

    @property
    def n_poses(self) -> int:
        """Poses that `anywhere` scores of a place."""
        plan = self.search.dense(self.reference).plan
        return len(plan.grid) * len(plan.shift_xyz)

    def anywhere(self, start: Start) -> tuple[FloatArray, float, FloatArray]:
        """Return the position, score and ZYZ angles of the best pose near a place, all rotations.

        The start's angles are not looked at.
        """
        corner = np.rint(start[0]).astype(np.intp)
        candidates = phase_candidates(
            self._observation(corner), self.reference, 0, POSES_TRIED, self.search)
        return self._best(corner, candidates)

    def nearby(self, start: Start) -> tuple[FloatArray, float, FloatArray]:
        """Return the position, score and ZYZ angles of the pose that a start climbs to."""
        corner = np.rint(start[0]).astype(np.intp)
        observation, reach = self._observation(corner), self.search.max_shift
        scored = score_rotations(observation, self.reference, start[1][None], 0, reach)
        return self._best(corner, climbed(observation, self.reference, scored, 1, reach))

    def _observation(self, centre: IntArray) -> Observation:
        n = self.template.n
        return observe(self.view.region([int(c) - n // 2 for c in centre], (n, n, n)), self.wedge)

    def _best(
        self, centre: IntArray, candidates: Candidates
    ) -> tuple[FloatArray, float, FloatArray]:
        """The candidate of the highest local correlation, at its highest place near a centre."""
        reach = int(np.ceil(self.search.max_shift)) + 1
        before, after = piece_margins(self.template.support)
        values = self.view.region(
            [int(c) - reach - before for c in centre], (2 * reach + 1 + before + after,) * 3)
        piece = prepare_piece(values, self.template, self.view.filtered_sd)
        best = np.full(3, np.nan), -np.inf, np.zeros(3)
        for rotation in candidates.transforms.rotation[:POSES_SCORED]:
            score = piece.correlation(self.template, rotation)
            top = np.array(np.unravel_index(int(score.argmax()), score.shape))
            place, height = between_voxels(score, top[None])
            if height[0] > best[1]:
                best = centre - reach + place[0], float(height[0]), matrix_to_euler(rotation)
        return best


def prepare_refiner(
    density: FloatArray, template: Template, view: View, wedge: MissingWedge, own: FloatArray,
    max_shift: float,
) -> Refiner:
    """Return what refines a template's poses in a view.

    Parameters
    ----------
    density : (n, n, n) the template's, not filtered
    template : of it, for this view
    own : (n, n, n // 2 + 1) the filters that fall on the template, without the wedge
    max_shift : voxels that a peak may lie from where it is looked for
    """
    n = template.n
    filtered = volume_from_spectrum(
        (spectrum(crop_or_pad(density, (n, n, n))) * own).astype(np.complex64), n)
    samples, plan = sample_set(n), shell_plan(BANDWIDTH, FEWEST_SHELLS)
    reference = prepare_reference(standardised(filtered, template.mask), samples, plan)
    # Degrees l < B hold detail down to about 2 pi R / B at the radius R.
    shells = round(BANDWIDTH * n / (np.pi * template.support))
    shells = int(np.clip(shells, FEWEST_SHELLS, samples.radius))
    search = PhaseSearch(n, shells, BANDWIDTH, max_shift, POSES_CLIMBED)
    search.dense(reference)  # made once, not by every worker
    return Refiner(view, template, reference, prepare_wedge(wedge.mask(n), samples, plan), search)
