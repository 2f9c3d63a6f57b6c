"""A start that samples poses, so that a run is not caught by the first average it meets.

Expectation-maximisation follows the average it starts from. Where posteriors are narrow from the
first iterations on (few particles, much detail), each random start ends in a solution of its own.
Here particles are looked at fold by fold, and each takes one pose and class drawn from its
posterior given all other folds' particles; the sums follow at once (a Gibbs sampler, as for motifs
in sequences: Lawrence et al. 1993, Science 262:208). Noise variances times a temperature above 1
keep the posteriors wide enough to leave a wrong solution. All this is done at the highest
resolution that a dense integral carries: coarse shells do not tell the right solution from others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scipion_faml.dense import (
    DensePlan,
    DensePosterior,
    DenseReference,
    dense_plan,
    dense_posterior,
    dense_reference,
)
from scipion_faml.enhanced.mstep import next_state
from scipion_faml.enhanced.start import SEED_STEP
from scipion_faml.enhanced.state import FOCUSED_BELOW, LOCAL_BELOW, EnhancedState, PeakTable
from scipion_faml.enhanced.workbench import Workbench, reference_turnable
from scipion_faml.folds import SMALLEST_WEIGHT, FoldSums
from scipion_faml.geometry import RigidTransforms
from scipion_faml.measured import WorkingBox
from scipion_faml.model import random_classes, starting_poses
from scipion_faml.regularise import half_correlation, prior_coverage, wiener_average
from scipion_faml.types import ComplexArray, FloatArray, IntArray

logger = logging.getLogger(__name__)

START_FSC, LEAST_FSC = 0.3, 0.02
MEMORY = 0.7  # of the FSC and the noise so far: those of a single draw are rough
HELD = 2.0 / 3.0  # of the sweeps: there solutions are left and found
LAST_SWEEPS = 5  # whose evidence tells starts apart
REPORT_EVERY = 10  # sweeps


@dataclass(frozen=True, eq=False)
class Draw:
    """A pose and class drawn for one particle."""

    class_index: int
    rotation: FloatArray  # (3, 3)
    shift_xyz: FloatArray  # (3,) working voxels
    evidence: float
    n_effective: float


def drawn(posterior: DensePosterior, plan: DensePlan, rng: np.random.Generator) -> Draw:
    """Return a draw from a posterior over classes, rotations and shifts."""
    k = int(rng.choice(len(posterior.class_weight), p=_normalised(posterior.class_weight)))
    blocks = posterior.blocks[k]
    mass = np.concatenate([block.mass for block in blocks])
    column = _one_of(mass, rng)
    for block in blocks:
        if column < len(block.mass):
            break
        column -= len(block.mass)
    cell = np.unravel_index(_one_of(block.share[..., column].ravel(), rng), plan.grid.shape)
    index = (*cell, block.shifts[column])
    pose = plan.poses(tuple(np.array([i]) for i in index))
    return Draw(k, pose.rotation[0], pose.shift_xyz[0], posterior.evidence, posterior.n_effective)


def _normalised(weight: FloatArray) -> FloatArray:
    share: FloatArray = weight / weight.sum()
    return share


def _one_of(weight: FloatArray, rng: np.random.Generator) -> int:
    """An index drawn with these weights, which need not sum to 1."""
    total = np.cumsum(weight, dtype=np.float64)
    return int(np.searchsorted(total, rng.random() * total[-1], side="right").clip(
        max=len(total) - 1))


def temperature_of(sweep: int, n_sweeps: int, first: float) -> float:
    """Return the temperature of a sweep: held for two thirds of them, then falling to 1."""
    held = int(HELD * n_sweeps)
    left = (n_sweeps - 1 - sweep) / max(n_sweeps - 1 - held, 1)
    return float(first ** min(left, 1.0))


def sampled_state(bench: Workbench) -> EnhancedState:
    """Return the starting Theta: of several chains the one whose last sweeps had most evidence."""
    best: _Chain | None = None
    for start in range(bench.config.n_random_starts):
        chain = _Chain.begin(bench, start)
        chain.run()
        logger.info("start %d of %d: log evidence per particle %.1f after %d sweeps", start + 1,
                    bench.config.n_random_starts, chain.score, bench.config.sampling_sweeps)
        if best is None or chain.score > best.score:
            best = chain
    assert best is not None
    return best.state()


@dataclass(eq=False)
class _Chain:
    """Poses and classes of all particles, and the sums made of them."""

    bench: Workbench
    box: WorkingBox
    plan: DensePlan
    start: int
    class_index: IntArray  # (N,), N particles looked at
    rotation: FloatArray  # (N, 3, 3)
    shift_xyz: FloatArray  # (N, 3) working voxels
    signal: ComplexArray  # (F, K, J)
    coverage: ComplexArray  # (F, K, J) complex128, real but for rounding
    fsc: FloatArray  # (K, n_shells), smoothed
    noise: FloatArray  # (n_shells,), smoothed
    zeta: float  # working voxels
    evidence: FloatArray  # (N,) of the last sweep
    n_effective: FloatArray  # (N,)
    score: float = -np.inf  # log evidence per particle of the last sweeps

    @staticmethod
    def begin(bench: Workbench, start: int) -> _Chain:
        """A chain of particles in random classes and orientations."""
        config, n_particles = bench.config, len(bench.members)
        seed = config.seed + SEED_STEP * start
        box = bench.open_box(min(config.sampled_shells, bench.max_radius))
        step = max(bench.source.n / (4.0 * box.radius), 1.0) / box.voxel_ratio
        plan = dense_plan(
            box.n, box.radius, config.bandwidth_of_shells(box.radius),
            config.max_shift_of(bench.source.n) / box.voxel_ratio, step)
        shape = (config.n_groups, config.n_classes, len(box.samples))
        chain = _Chain(
            bench, box, plan, start, random_classes(n_particles, config.n_classes, seed),
            starting_poses(n_particles, "turned", seed).rotation, np.zeros((n_particles, 3)),
            np.zeros(shape, dtype=np.complex128), np.zeros(shape, dtype=np.complex128),
            np.full((config.n_classes, box.radius), START_FSC),
            bench.residual.noise(np.zeros(box.radius), config.noise == "white"),
            config.max_shift_of(bench.source.n) / 2.0 / box.voxel_ratio,
            np.zeros(n_particles), np.ones(n_particles),
        )
        for f in range(config.n_groups):
            chain.sum_up(f)
        return chain

    @property
    def folds(self) -> IntArray:
        """Fold of every particle looked at, (N,)."""
        return self.bench.folds[self.bench.members]

    @property
    def counts(self) -> FloatArray:
        """Particles of every fold and class, (F, K)."""
        config = self.bench.config
        counts = np.zeros((config.n_groups, config.n_classes))
        np.add.at(counts, (self.folds, self.class_index), 1.0)
        return counts

    def run(self) -> None:
        """All sweeps."""
        config, last = self.bench.config, []
        n_sweeps = config.sampling_sweeps
        for sweep in range(n_sweeps):
            temperature = temperature_of(sweep, n_sweeps, config.sampling_temperature)
            self.sweep(sweep, temperature)
            last.append(float(self.evidence.mean()))
            if (sweep + 1) % REPORT_EVERY == 0:
                logger.info("  sweep %d of %d: temperature %.2f, %.1f poses share a posterior, "
                            "log evidence per particle %.1f", sweep + 1, n_sweeps, temperature,
                            float(np.median(self.n_effective)), last[-1] * temperature)
        self.score = float(np.mean(last[-LAST_SWEEPS:]))

    def sweep(self, number: int, temperature: float) -> None:
        """Draw the poses of all particles anew, fold by fold."""
        config, bench = self.bench.config, self.bench
        rng = np.random.default_rng([config.seed, self.start, number])
        explained = np.zeros(self.box.radius)
        for f in rng.permutation(config.n_groups):
            values = self._references(f)
            for k, reference in enumerate(values):
                explained += bench.residual.explained(
                    self.signal[f, k], self.coverage[f, k].real, reference, self.box.samples)
            self._redraw(f, self._prepared(values, temperature), number)
            self.sum_up(f)
        noise = bench.residual.noise(explained, config.noise == "white")
        self.noise = MEMORY * self.noise + (1.0 - MEMORY) * noise
        self.fsc = MEMORY * self.fsc + (1.0 - MEMORY) * np.clip(self._halves(), 0.0, 0.99)
        width = float(np.sqrt(np.sum(self.shift_xyz**2) / (3.0 * len(self.shift_xyz))))
        self.zeta = max(width, config.min_zeta / self.box.voxel_ratio)

    def _references(self, fold: int) -> list[ComplexArray]:
        """References (K) of a fold: averages of all others."""
        samples, out = self.box.samples, []
        for k in range(self.bench.config.n_classes):
            signal, coverage = self.signal[:, k].sum(axis=0), self.coverage[:, k].real.sum(axis=0)
            prior = prior_coverage(np.maximum(self.fsc[k], LEAST_FSC), coverage, samples)
            out.append(wiener_average(
                signal - self.signal[fold, k], coverage - self.coverage[fold, k].real, prior,
                samples).astype(np.complex64))
        return out

    def _prepared(
        self, values: Sequence[ComplexArray], temperature: float
    ) -> list[DenseReference]:
        noise = self.bench.compared(self.noise) * temperature
        mask = self.bench.round_mask
        return [dense_reference(reference_turnable(v, self.box, mask), noise, self.plan)
                for v in values]

    def _redraw(self, fold: int, references: Sequence[DenseReference], number: int) -> None:
        """Draw poses and classes of a fold's particles."""
        bench, config = self.bench, self.bench.config
        # Equal priors: a class that grows early must not draw the others' particles for that.
        log_alpha = np.full(config.n_classes, -np.log(config.n_classes))
        log_prior = self.plan.log_prior(self.zeta)

        def work(row: int) -> Draw:
            index = int(bench.members[row])
            posterior = dense_posterior(
                bench.dense(index, self.plan), references, log_alpha, log_prior)
            # A generator of each particle's own: the result does not depend on the workers.
            rng = np.random.default_rng([config.seed, self.start, number, index])
            return drawn(posterior, self.plan, rng)

        rows = np.flatnonzero(self.folds == fold)
        for row, found in zip(rows, bench.executor.map(work, rows), strict=True):
            self.class_index[row] = found.class_index
            self.rotation[row], self.shift_xyz[row] = found.rotation, found.shift_xyz
            self.evidence[row], self.n_effective[row] = found.evidence, found.n_effective

    def sum_up(self, fold: int) -> None:
        """Make a fold's sums anew."""
        one = np.ones(1)
        self.signal[fold], self.coverage[fold] = 0.0, 0.0
        for row in np.flatnonzero(self.folds == fold):
            particle, k = self.bench.measured(int(self.bench.members[row])), self.class_index[row]
            turn = self.rotation[[row]]
            particle.add_turned_back(turn, self.shift_xyz[[row]], one, self.signal[fold, k])
            particle.wedge.add_turned_back(turn, one, self.coverage[fold, k])

    def _halves(self) -> FloatArray:
        """FSC (K, n_shells) between even and odd folds."""
        samples = self.box.samples
        return np.array([
            half_correlation(
                np.stack([self.signal[h::2, k].sum(axis=0) for h in range(2)]),
                np.stack([self.coverage[h::2, k].real.sum(axis=0) for h in range(2)]), samples)
            for k in range(self.bench.config.n_classes)
        ])

    def state(self) -> EnhancedState:
        """Theta of the last draws, from which the iterations go on."""
        n_particles = len(self.rotation)
        sums = FoldSums(
            self.signal, self.coverage.real, np.maximum(self.counts, 1e-9), self.bench.residual,
            float(np.sum(self.shift_xyz**2)), n_particles, float(self.evidence.sum()))
        made = next_state(self.bench, sums, None, self.box, LEAST_FSC)
        n_effective = float(np.median(self.n_effective))
        shifts = self.shift_xyz * self.box.voxel_ratio
        poses = RigidTransforms.from_rotation(self.rotation, shifts)
        parts = [(int(i), self.class_index[[row]], poses[[row]])
                 for row, i in enumerate(self.bench.members)]
        is_broad = n_effective >= FOCUSED_BELOW or bool(
            np.any(self.counts.sum(axis=0) < SMALLEST_WEIGHT))
        phase = "dense" if is_broad else "local" if n_effective < LOCAL_BELOW else "focused"
        return replace(
            made, noise=self.noise, zeta=self.zeta * self.box.voxel_ratio, phase=phase,
            peaks=PeakTable.of_parts(parts), n_effective=n_effective,
            evidence=float(self.evidence.mean()))
