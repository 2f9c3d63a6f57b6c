"""Phase-aware candidates: Eq. 1 itself on all rotations, for a lattice of shifts.

The bound of Eq. 2 throws the phases away; at low SNR the true rotation is then no longer among its
highest maxima. Here numerator and denominator of Eq. 1 are evaluated at low bandwidth on every
rotation of the grid for every shift of a lattice (`dense`), the best shift is kept for each
rotation, and the highest separate rotations are scored at full resolution. The best few then climb
to the top in rotation and shift together (`refine`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from scipion_faml.align import (
    Candidates,
    Observation,
    Reference,
    score_rotations,
    separated,
)
from scipion_faml.dense import (
    DenseReference,
    cross_terms,
    dense_particle,
    dense_plan,
    dense_reference,
)
from scipion_faml.geometry import apart, euler_to_matrix
from scipion_faml.refine import WeightedParticle, climb
from scipion_faml.types import FloatArray

MAX_CELLS = 8  # times the candidates asked for: grid rotations among which separate ones are sought
SMALLEST_NORM = 1e-3  # of the highest: where little is measured the score means little
SAME_TURN_DEG, SAME_PLACE = 7.0, 1.0  # and voxels: nearer, two candidates share a Voronoi cell
FREE_SHIFT = 1e6  # voxels: the width of a prior of shifts that is not there


@dataclass(frozen=True, eq=False)
class PhaseSearch:
    """Settings of a search, and the references it has prepared."""

    n: int
    radius: int  # shells compared on the grid
    bandwidth: int
    max_shift: float  # voxels
    n_refined: int = 4  # candidates that climb
    _references: dict[Reference, DenseReference] = field(default_factory=dict)

    def dense(self, reference: Reference) -> DenseReference:
        """Return a reference on the grid; white noise of variance 1."""
        known = self._references.get(reference)
        if known is None:
            step = max(self.n / (4.0 * self.radius), 1.0)
            plan = dense_plan(self.n, self.radius, self.bandwidth, self.max_shift, step)
            known = dense_reference(reference.turnable, np.ones(self.radius), plan)
            self._references[reference] = known
        return known


def phase_scores(
    observation: Observation, reference: Reference, search: PhaseSearch
) -> FloatArray:
    """Return Eq. 1 at low bandwidth, its best over the shifts, (alpha, gamma, beta) float32."""
    dense = search.dense(reference)
    particle = dense_particle(observation, dense.plan)
    highest: FloatArray = np.full(len(dense.plan.grid), -np.inf, dtype=np.float32)
    for _, cross in cross_terms(particle, dense):
        best_shift: FloatArray = cross.max(axis=-1)
        highest = np.maximum(highest, best_shift)
    power = 2.0 * dense.half_power(observation.wedge)
    floor = max(SMALLEST_NORM * float(power.max()), float(np.finfo(np.float32).tiny))
    score: FloatArray = highest.reshape(power.shape) / np.sqrt(np.maximum(power, floor))
    return score


def phase_rotations(score: FloatArray, search: PhaseSearch, dense: DenseReference,
                    n_best: int) -> FloatArray:
    """Return ZYZ angles (M, 3) of the highest rotations that are a grid step apart."""
    flat = score.ravel()
    n_cells = min(MAX_CELLS * n_best, len(flat))
    cells = np.sort(np.argpartition(-flat, n_cells - 1)[:n_cells])
    cells = cells[np.argsort(-flat[cells], kind="stable")]
    a, g, b = np.unravel_index(cells, score.shape)
    grid = dense.plan.grid
    euler_zyz = np.stack([grid.alpha[a], grid.beta[b], grid.gamma[g]], axis=-1)
    kept = separated(euler_to_matrix(euler_zyz), 180.0 / search.bandwidth, n_best)
    return euler_zyz[kept]


def phase_candidates(
    observation: Observation,
    reference: Reference,
    class_index: int,
    max_candidates: int,
    search: PhaseSearch,
) -> Candidates:
    """Return up to `max_candidates` poses of a subtomogram against one average, best first."""
    score = phase_scores(observation, reference, search)
    rotations = phase_rotations(score, search, search.dense(reference), max_candidates)
    found = score_rotations(observation, reference, rotations, class_index, search.max_shift)
    found = found.select(np.argsort(-found.score, kind="stable"))
    return climbed(observation, reference, found, search.n_refined, search.max_shift)


def climbed(
    observation: Observation, reference: Reference, candidates: Candidates, n_refined: int,
    max_shift: float,
) -> Candidates:
    """Return candidates of which the first `n_refined` moved to the nearest maximum of Eq. 1.

    Each climbs in likelihood with the average at the scale that suits it best: there the maxima
    of both agree.
    """
    n_first = min(n_refined, len(candidates))
    first, rest = (candidates.select(list(r)) for r in
                   (range(n_first), range(n_first, len(candidates))))
    particle = unweighted_particle(observation)
    rotation = first.transforms.rotation
    moved = []
    for m in range(len(first)):
        gain = float(first.cross[m] / max(first.model_power[m], np.finfo(float).tiny))
        if gain <= 0.0:
            moved.append(first.select([m]))
            continue
        scaled = replace(
            particle,
            weighted=particle.weighted * np.float32(gain),
            weight=particle.weight * np.float32(gain**2),
        )
        peak = climb(
            scaled, reference.turnable, rotation[[m]], first.transforms.shift_xyz[[m]], FREE_SHIFT)
        # The likelihood is gain cross - gain^2 power / 2; without weights only the cross term.
        alone = replace(scaled, weight=np.zeros_like(scaled.weight))
        cross = climb(
            alone, reference.turnable, peak.rotation, peak.shift_xyz, FREE_SHIFT, 0
        ).log_likelihood / gain
        power = 2.0 * (gain * cross - peak.log_likelihood) / gain**2
        score = cross / np.sqrt(np.maximum(power, np.finfo(float).tiny))
        best = replace(
            first.select([m]), transforms=peak.transforms, score=score, cross=cross,
            model_power=power,
        )
        is_better = score[0] > first.score[m] and np.sum(peak.shift_xyz**2) <= max_shift**2
        moved.append(best if is_better else first.select([m]))
    return best_apart(Candidates.concatenate([*moved, rest]), len(candidates))


def unweighted_particle(observation: Observation) -> WeightedParticle:
    """Return a particle's measured samples for noise of variance 1."""
    samples, weight = observation.samples, observation.sample_weight
    kept = np.flatnonzero(weight > 0)
    return WeightedParticle(
        samples.n,
        np.ascontiguousarray(samples.axes[:, kept]),
        (observation.values * weight)[kept].astype(np.complex64),
        weight[kept].astype(np.float32),
    )


def best_apart(candidates: Candidates, n_best: int) -> Candidates:
    """Return the best candidates, best first, without those at the place of a better one."""
    found = candidates.select(np.argsort(-candidates.score, kind="stable"))
    poses = found.transforms
    kept = apart(poses.rotation, poses.shift_xyz, SAME_TURN_DEG, SAME_PLACE, n_best)
    return found.select(kept)
