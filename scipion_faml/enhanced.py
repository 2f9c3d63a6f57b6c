"""Enhanced mode: expectation-maximisation over all poses, regularised, at growing resolution.

Where Algorithm 1 of the paper takes fifty candidates of a magnitude score from the first iteration,
at full resolution, with one noise variance, this one

1. integrates over all rotations and shifts at low bandwidth while posteriors are broad (`dense`),
2. climbs to the few maxima that are left once they are sharp (`refine`),
3. compares each particle with an average of other particles only: particles are divided into
   folds, and every fold has references made without it,
4. weights shells by their own noise, and regularises averages by their own reliability
   (`regularise`), which also decides how far in resolution to look next.

    for result in run(source, FamlConfig(mode="enhanced", n_classes=2), ThreadExecutor(2)):
        print(result.state.iteration, result.log_likelihood)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from scipy.optimize import nnls
from scipy.special import logsumexp

from scipion_faml.dense import (
    DenseParticle,
    DensePlan,
    DensePosterior,
    DenseReference,
    DenseSums,
    dense_particle,
    dense_plan,
    dense_posterior,
    dense_reference,
    highest_poses,
)
from scipion_faml.em import SMALLEST_PRIOR, without_small
from scipion_faml.evaluation.superposition import group_correlation, group_frame, move_map
from scipion_faml.execution import Executor, SerialExecutor
from scipion_faml.faml import (
    Assignments,
    IterationResult,
    ignore_progress,
    log_iteration,
    pose_change_deg,
)
from scipion_faml.folds import FoldSums, fold_averages, fold_of
from scipion_faml.fourier import (
    SampleSet,
    shell_sums,
    spectrum,
    turnable_spectrum,
    volume_from_spectrum,
)
from scipion_faml.geometry import RigidTransforms, compose, invert
from scipion_faml.impose import (
    inequivalent,
    mask_at,
    masked,
    moved_mean,
    representatives,
    rim_level,
    symmetrised,
    symmetrised_sums,
)
from scipion_faml.io import SubtomogramSource
from scipion_faml.measured import Measured, SpectrumShelf, WorkingBox, crop_half, pad_half
from scipion_faml.model import FamlConfig, ModelState, random_classes, starting_poses
from scipion_faml.refine import (
    Peaks,
    WeightedParticle,
    climb,
    cubature,
    distinct,
    log_evidence,
    weighted_particle,
)
from scipion_faml.regularise import ShellResidual
from scipion_faml.types import ComplexArray, FloatArray, IntArray
from scipion_faml.volume import inscribed_sphere, soft_sphere
from scipion_faml.wedge import is_measured

logger = logging.getLogger(__name__)

CACHE_BYTES = 2**30  # particles at working resolution, and as many bytes of coefficients
SHELF_BYTES, SHELF_AHEAD = 2**29, 1.5  # spectra out to this times the radius, and a little
PARTICLES_PER_CHUNK = 16
MAX_PEAKS = 4  # of a particle and class
FOCUS_STEPS = 1.6  # of the lattice of shifts, around the peaks of the iteration before
START_FSC = 0.3
START_ITERATIONS, SEED_STEP = 3, 1_000_003  # of each of several starts
WIDEST_SPREAD_DEG = 15.0  # of the posterior around a peak
MAX_SCALED = 64  # particles whose power sets the scale of maps to start from
SMALLEST_SIGNAL = 1e-3  # of the particles' power, given to such a map at least
SHARP_ENOUGH = 3  # iterations with narrow posteriors, before axes are looked for
# How many poses share the median particle's posterior:
FOCUSED_BELOW, LOCAL_BELOW = 60.0, 4.0
MAX_FOCUSED, MAX_SINCE_DENSE = 3, 8  # iterations before all poses are looked at again
SETTLED_DEG, SETTLED_LOCAL_GAIN = 0.3, 0.1
STALLED_GAIN, SETTLED_GAIN = 0.3, 0.003  # of the log evidence per particle, in an iteration
TRUSTED_FSC, SHELLS_BEYOND, GROWTH = 0.3, 2, 2


@dataclass(frozen=True, eq=False)
class PeakTable:
    """The maxima of all particles' posteriors, a row each, ordered by particle."""

    particle: IntArray  # (P,)
    class_index: IntArray  # (P,)
    poses: RigidTransforms  # P, shifts in voxels of the full box

    def of(self, index: int) -> tuple[IntArray, RigidTransforms]:
        """Return classes and poses of one particle."""
        low, high = np.searchsorted(self.particle, [index, index + 1])
        return self.class_index[low:high], self.poses[slice(low, high)]

    @staticmethod
    def of_parts(parts: Sequence[tuple[int, IntArray, RigidTransforms]]) -> PeakTable:
        """Collect single particles' peaks."""
        ordered = sorted(parts, key=lambda part: part[0])
        return PeakTable(
            np.concatenate([np.full(len(c), i, dtype=np.intp) for i, c, _ in ordered]),
            np.concatenate([c for _, c, _ in ordered]).astype(np.intp),
            RigidTransforms.concatenate([p for _, _, p in ordered]),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class EnhancedState(ModelState):
    """Theta of enhanced mode: also references of every fold, noise of every shell, resolution."""

    radius: int  # shells compared in the next iteration
    references: ComplexArray  # (F, K, J) complex64 at the samples of `reference_radius`
    reference_radius: int
    noise: FloatArray  # (reference_radius,) sigma^2
    fsc: FloatArray  # (K, reference_radius)
    phase: str  # of the next iteration
    n_since_dense: int  # iterations since all poses were looked at
    peaks: PeakTable | None  # where the posteriors of the iteration before had their maxima
    evidence: float  # mean log likelihood ratio to pure noise of a particle
    n_effective: float  # median over particles of how many poses share a posterior
    half_averages: FloatArray  # (2, K, n, n, n)
    checked_radius: int = 0  # shells at which all poses were looked at after settling
    is_converged: bool = False
    phase_done: str = ""  # of the iteration that made this state
    in_frame: bool = True  # averages lie where symmetry and mask are defined
    n_sharp: int = 0  # iterations since posteriors are narrow
    symmetry_score: float = 1.0  # of the averages before the symmetry was imposed: 0 none, 1 full


@dataclass(frozen=True, eq=False)
class _Found:
    """What one particle got in an E-step."""

    index: int
    class_index: int
    pose: RigidTransforms  # one, voxels of the full box
    responsibility: float
    evidence: float
    class_weight: FloatArray  # (K,)
    n_effective: float
    peak_class: IntArray
    peak_poses: RigidTransforms


# ------------------------------------------------------------------------------ particles at hand
class Workbench:
    """Particles of a source at working resolution; as many as fit are kept between iterations."""

    def __init__(
        self, source: SubtomogramSource, config: FamlConfig, executor: Executor,
        mask: FloatArray | None = None,
    ) -> None:
        if source.n < 8:
            raise ValueError(f"the box of {source.n} voxels is too small: at least 8 are needed")
        self.source, self.config, self.executor, self.mask = source, config, executor, mask
        self.folds = fold_of(len(source), config.n_groups, config.seed)
        self.box = WorkingBox.of(source.n, 1)
        self.residual = ShellResidual(np.zeros(0), np.zeros(0))
        self._shelf = SpectrumShelf(source.n, 1, SHELF_BYTES)
        self._measured: dict[int, Measured] = {}
        self._dense: dict[int, DenseParticle] = {}
        self._dense_plan: DensePlan | None = None

    def group_of(self, state: EnhancedState) -> FloatArray:
        """Rotations (G, 3, 3) of the symmetry that averages have: C1 before it is imposed."""
        return self.config.group if state.in_frame else self.config.group[:1]

    def mask_of(self, state: EnhancedState) -> FloatArray | None:
        """The mask in the working box, where averages lie in its frame."""
        if self.mask is None or not state.in_frame:
            return None
        return mask_at(self.mask, self.box.n)

    @property
    def max_radius(self) -> int:
        """Shells that may be compared: up to Nyquist or the low-pass."""
        return self.config.max_radius_of(self.source.n, self.source.voxel_size_angst)

    def open_box(self, radius: int) -> WorkingBox:
        """Set and return the working box of a radius; sum the particles' power over its shells."""
        if radius != self.box.radius:
            self.box = WorkingBox.of(self.source.n, radius)
            if radius > self._shelf.radius:
                ahead = min(int(SHELF_AHEAD * radius) + 4, self.max_radius)
                self._shelf = SpectrumShelf(self.source.n, max(ahead, radius), SHELF_BYTES)
            self._measured.clear()
            self._dense.clear()
            parts = self.executor.map(self._residual_of, self.chunks())
            self.residual = sum(parts, ShellResidual(np.zeros(radius), np.zeros(radius)))
        return self.box

    def _residual_of(self, chunk: Chunk) -> ShellResidual:
        total = ShellResidual(np.zeros(self.box.radius), np.zeros(self.box.radius))
        for i in chunk.indices:
            particle = self.measured(i)
            total = total + ShellResidual(particle.power, particle.wedge.n_observed)
        return total

    def chunks(self) -> list[Chunk]:
        """Return the particles in chunks of one fold each: what a worker does at a time."""
        out = []
        for f in range(self.config.n_groups):
            members = np.flatnonzero(self.folds == f)
            for start in range(0, len(members), PARTICLES_PER_CHUNK):
                out.append(Chunk(f, [int(i) for i in members[start : start + PARTICLES_PER_CHUNK]]))
        return out

    def measured(self, index: int) -> Measured:
        """Return a particle at working resolution, read if it is not at hand."""
        known = self._measured.get(index)
        if known is not None:
            return known
        spectra = self._shelf.get(index)
        particle = self.source[index] if spectra is None else None
        try:
            if particle is not None:
                spectra = self._shelf.put(index, particle.volume, particle.wedge)
            assert spectra is not None
            found = self.box.measure_spectra(index, spectra)
        except ValueError as error:
            raise ValueError(f"subtomogram {index + 1}: {error}") from error
        size = found.turnable.nbytes + found.values.nbytes
        if (len(self._measured) + 1) * size <= CACHE_BYTES:
            self._measured[index] = found
        return found

    def dense(self, index: int, plan: DensePlan) -> DenseParticle:
        """Return a particle's harmonic coefficients."""
        if plan is not self._dense_plan:
            self._dense, self._dense_plan = {}, plan
        known = self._dense.get(index)
        if known is not None:
            return known
        found = dense_particle(self.measured(index), plan)
        if (len(self._dense) + 1) * sum(r.nbytes for r in found.rows) <= CACHE_BYTES:
            self._dense[index] = found
        return found


@dataclass(frozen=True)
class Chunk:
    """Particles of one fold."""

    fold: int
    indices: list[int]


# ----------------------------------------------------------------------------------- references
def reference_turnable(
    values: ComplexArray, box: WorkingBox, mask: FloatArray | None = None
) -> ComplexArray:
    """Return samples (J,) of an average as a turnable spectrum, its background level removed.

    The average is known but for its mean; what surrounds the particle is taken as zero.
    """
    n = box.n
    volume = volume_from_spectrum(np.asarray(box.samples.put(values)), n)
    edge = 3.0 / box.voxel_ratio
    if mask is not None:
        return turnable_spectrum(masked(volume, mask, edge), box.radius)
    level = rim_level(volume, edge)
    ball = soft_sphere(n, n / 2 - edge, edge)
    return turnable_spectrum(((volume - level) * ball).astype(np.float32), box.radius)


def resampled(values: ComplexArray, old: SampleSet, new: SampleSet) -> ComplexArray:
    """Return averages (..., J) at the samples of another working box, 0 beyond the old ones."""
    flat = values.reshape(-1, values.shape[-1])
    n = max(old.n, new.n)
    out = [new.take(crop_half(pad_half(np.asarray(old.put(v)), n), new.n)) for v in flat]
    return np.stack(out).reshape(*values.shape[:-1], len(new))


# -------------------------------------------------------------------------------------- E-step
@dataclass(frozen=True, eq=False)
class _Task:
    """What every chunk of an iteration needs."""

    bench: Workbench
    state: EnhancedState
    box: WorkingBox
    turnable: list[list[ComplexArray]]  # [fold][class]
    noise: FloatArray  # (radius,)
    plan: DensePlan | None  # None: local
    dense_references: list[list[DenseReference]]  # [fold][class]
    is_candidate: bool  # M-step from a few peaks, not from the whole grid

    @property
    def group(self) -> FloatArray:
        """Rotations that leave the references as they are."""
        return self.bench.group_of(self.state)

    @property
    def zeta(self) -> float:
        """Width of the prior of shifts, working voxels."""
        return self.state.zeta / self.box.voxel_ratio

    @property
    def log_alpha(self) -> FloatArray:
        """(K,)"""
        return np.log(np.maximum(self.state.alpha, SMALLEST_PRIOR))


ChunkResult = tuple["_ChunkSums", list[_Found], dict[str, float]]


def _e_step_chunk(chunk: Chunk, task: _Task) -> ChunkResult:
    """Return sums and findings of the particles in a chunk."""
    n_classes = task.state.n_classes
    sums = _ChunkSums.zero(task, chunk.fold)
    found = []
    seconds = dict.fromkeys(("read", "candidates", "statistics"), 0.0)
    for i in chunk.indices:
        clock = [time.perf_counter()]
        particle = task.bench.measured(i)
        weighted = weighted_particle(particle, task.noise)
        clock.append(time.perf_counter())
        if task.plan is None:
            starts = task.state.peaks.of(i) if task.state.peaks is not None else None
            if starts is None:
                raise ValueError("a local iteration needs the peaks of the one before")
            posterior = None
        else:
            posterior = _whole_posterior(task, chunk.fold, i)
            starts = _highest_cells(posterior, task, n_classes)
        peaks = _climbed(task, chunk.fold, weighted, *starts)
        clock.append(time.perf_counter())
        if posterior is not None and not task.is_candidate:
            found.append(sums.add_dense(i, task, posterior, peaks))
        else:
            is_broad = posterior is not None and task.state.n_effective >= FOCUSED_BELOW
            least = posterior.n_effective if posterior is not None and is_broad else 1.0
            found.append(sums.add_candidates(i, task, particle, peaks, least))
        clock.append(time.perf_counter())
        for name, spent in zip(seconds, np.diff(clock), strict=True):
            seconds[name] += float(spent)
    started = time.perf_counter()
    sums.finish(task)
    seconds["statistics"] += time.perf_counter() - started
    return sums, found, seconds


def _whole_posterior(task: _Task, fold: int, index: int) -> DensePosterior:
    """The posterior over all rotations, and all shifts or those near the peaks so far."""
    plan = task.plan
    assert plan is not None
    shifts = None
    if task.state.phase == "focused" and task.state.peaks is not None:
        _, poses = task.state.peaks.of(index)
        # The plan shifts the average before it is turned: t here is R^T t there.
        own = np.einsum("mji,mj->mi", poses.rotation, poses.shift_xyz) / task.box.voxel_ratio
        squared = np.sum((plan.shift_xyz[:, None] - own) ** 2, axis=2).min(axis=1)
        shifts = np.flatnonzero(squared <= (FOCUS_STEPS * plan.shift_step) ** 2)
        shifts = shifts if len(shifts) else None
    posterior = dense_posterior(
        task.bench.dense(index, plan), task.dense_references[fold], task.log_alpha,
        plan.log_prior(task.zeta), shifts,
    )
    # Equivalent poses count as one, also of averages that have the symmetry before it is imposed.
    order = len(task.bench.config.group)
    return replace(posterior, n_effective=max(posterior.n_effective / order, 1.0))


def _highest_cells(
    posterior: DensePosterior, task: _Task, n_classes: int
) -> tuple[IntArray, RigidTransforms]:
    """Classes and poses (voxels of the full box) of the highest separate cells of a posterior."""
    plan = task.plan
    assert plan is not None
    if posterior.n_effective > FOCUSED_BELOW:  # no peaks to speak of
        best = posterior.best_pose
        one = RigidTransforms(best.euler_zyz, best.shift_xyz * task.box.voxel_ratio)
        return np.array([posterior.best_class]), one
    classes, poses = [], []
    for k in range(n_classes):
        found = highest_poses(posterior.blocks[k], plan, MAX_PEAKS * len(task.group))
        if len(task.group) > 1:
            apart = 180.0 * 2.2 / plan.bandwidth, 2.0 * plan.shift_step
            found = found[inequivalent(found, task.group, *apart, MAX_PEAKS)]
        classes.append(np.full(len(found), k, dtype=np.intp))
        poses.append(RigidTransforms(found.euler_zyz, found.shift_xyz * task.box.voxel_ratio))
    return np.concatenate(classes), RigidTransforms.concatenate(poses)


@dataclass(frozen=True, eq=False)
class _ClassPeaks:
    """Climbed peaks of one particle, all classes in a table."""

    class_index: IntArray  # (M,)
    rotation: FloatArray  # (M, 3, 3)
    shift_xyz: FloatArray  # (M, 3) working voxels
    curvature: FloatArray  # (M, 6, 6)
    log_joint: FloatArray  # (M,) log of what each adds to the evidence


def _climbed(
    task: _Task, fold: int, weighted: WeightedParticle, classes: IntArray, poses: RigidTransforms
) -> _ClassPeaks:
    """Poses climbed to their maxima, of each class apart; doubles removed."""
    parts: list[tuple[int, Peaks]] = []
    rotation, shift_xyz = poses.rotation, poses.shift_xyz / task.box.voxel_ratio
    for k in np.unique(classes):
        mine = classes == k
        peaks = climb(
            weighted, task.turnable[fold][k], rotation[mine], shift_xyz[mine], task.zeta)
        radius = task.box.radius
        same_turn = np.rad2deg(1.0 / max(2.0 * radius, 1.0))
        peaks = peaks.select(distinct(peaks, same_turn, 0.3, MAX_PEAKS))
        if len(task.group) > 1:
            apart = inequivalent(peaks.transforms, task.group, same_turn, 0.3, MAX_PEAKS)
            peaks = peaks.select(apart)
        parts.append((int(k), peaks))
    log_order = float(np.log(len(task.group)))  # each stands for all its equivalent ones
    return _ClassPeaks(
        np.concatenate([np.full(len(p), k, dtype=np.intp) for k, p in parts]),
        np.concatenate([p.rotation for _, p in parts]),
        np.concatenate([p.shift_xyz for _, p in parts]),
        np.concatenate([p.curvature for _, p in parts]),
        np.concatenate([log_evidence(p, task.zeta) + task.log_alpha[k] + log_order
                        for k, p in parts]),
    )


@dataclass(eq=False)
class _ChunkSums:
    """Sums of one chunk while its particles are added."""

    fold: int
    dense: list[DenseSums]  # for each class
    signal: ComplexArray  # (K, J) complex128
    coverage: ComplexArray  # (K, J) complex128, real but for rounding
    weight: FloatArray  # (K,)
    sq_shift: float = 0.0
    n_particles: int = 0
    evidence: float = 0.0

    @staticmethod
    def zero(task: _Task, fold: int) -> _ChunkSums:
        """Sums of no particle."""
        n_classes, n_samples = task.state.n_classes, len(task.box.samples)
        dense = [] if task.plan is None or task.is_candidate else [
            DenseSums.zero(task.plan) for _ in range(n_classes)]
        return _ChunkSums(
            fold, dense, np.zeros((n_classes, n_samples), dtype=np.complex128),
            np.zeros((n_classes, n_samples), dtype=np.complex128), np.zeros(n_classes),
        )

    def add_dense(
        self, index: int, task: _Task, posterior: DensePosterior, peaks: _ClassPeaks
    ) -> _Found:
        """Add a particle with its posterior over the grid."""
        assert task.plan is not None
        squared = np.sum(task.plan.shift_xyz**2, axis=1)
        particle = task.bench.dense(index, task.plan)
        for sums, blocks in zip(self.dense, posterior.blocks, strict=True):
            sums.add(particle, blocks, posterior.scale)
            for block in blocks:
                self.sq_shift += posterior.scale * float(block.mass @ squared[block.shifts])
        self.weight += posterior.class_weight
        best = int(np.argmax(peaks.log_joint))
        return self._counted(
            index, task, peaks, best, posterior.evidence, posterior.class_weight,
            posterior.n_effective, min(1.0, posterior.scale),
        )

    def add_candidates(
        self, index: int, task: _Task, particle: Measured, peaks: _ClassPeaks,
        least_effective: float,
    ) -> _Found:
        """Add a particle with its peaks, each weighted by its share of the posterior.

        A few peaks cannot tell how many poses share a broad posterior: what the grid said counts.
        """
        evidence = float(logsumexp(peaks.log_joint))
        gamma = np.exp(peaks.log_joint - evidence)
        gamma = without_small(gamma, task.bench.config.min_responsibility)
        for m in np.flatnonzero(gamma > 0):
            k, rotation, shift_xyz = peaks.class_index[m], peaks.rotation[[m]], peaks.shift_xyz[[m]]
            if task.bench.config.spread:
                rotation, shift_xyz = cubature(
                    rotation[0], shift_xyz[0], peaks.curvature[m], WIDEST_SPREAD_DEG)
            weight = np.full(len(rotation), gamma[m] / len(rotation))
            particle.add_turned_back(rotation, shift_xyz, weight, self.signal[k])
            particle.wedge.add_turned_back(rotation, weight, self.coverage[k])
            self.sq_shift += float(weight @ np.sum(shift_xyz**2, axis=1))
        class_weight: FloatArray = np.bincount(
            peaks.class_index, gamma, task.state.n_classes).astype(np.float64)
        self.weight += class_weight
        best = int(np.argmax(gamma))
        return self._counted(
            index, task, peaks, best, evidence, class_weight,
            max(1.0 / float(np.sum(gamma**2)), least_effective), float(gamma[best]),
        )

    def _counted(
        self, index: int, task: _Task, peaks: _ClassPeaks, best: int, evidence: float,
        class_weight: FloatArray, n_effective: float, responsibility: float,
    ) -> _Found:
        self.n_particles += 1
        self.evidence += evidence
        poses = representatives(RigidTransforms.from_rotation(
            peaks.rotation, peaks.shift_xyz * task.box.voxel_ratio), task.group)
        order = np.argsort(-peaks.log_joint, kind="stable")
        return _Found(
            index, int(peaks.class_index[best]), poses[[best]], responsibility, evidence,
            class_weight, n_effective, peaks.class_index[order], poses[order],
        )

    def finish(self, task: _Task) -> None:
        """Bring what was summed over the grid to the samples."""
        for k, sums in enumerate(self.dense):
            if task.plan is None or self.weight[k] < 1e-6:
                continue
            signal, coverage = sums.at_points()
            self.signal[k] += task.plan.to_samples(signal, task.box.samples)
            self.coverage[k] += task.plan.to_samples(coverage, task.box.samples)
        self.dense = []


def _sum_chunks(
    task: _Task, executor: Executor, on_progress: Callable[[int, int], None]
) -> tuple[FoldSums, list[_Found], dict[str, float]]:
    """Run the E-step over all chunks and add their sums up in order."""
    config, n_particles = task.bench.config, len(task.bench.source)
    shape = (config.n_groups, task.state.n_classes)
    n_samples = len(task.box.samples)
    signal = np.zeros((*shape, n_samples), dtype=np.complex128)
    coverage, weight = np.zeros((*shape, n_samples)), np.zeros(shape)
    sq_shift = evidence = 0.0
    found: list[_Found] = []
    seconds: dict[str, float] = {}
    results = executor.map(lambda chunk: _e_step_chunk(chunk, task), task.bench.chunks())
    for sums, part, spent in results:
        signal[sums.fold] += sums.signal
        coverage[sums.fold] += sums.coverage.real
        weight[sums.fold] += sums.weight
        sq_shift += sums.sq_shift
        evidence += sums.evidence
        found += part
        seconds = {name: seconds.get(name, 0.0) + spent[name] for name in spent}
        on_progress(len(found), n_particles)
    total = FoldSums(
        signal, coverage, weight, task.bench.residual, sq_shift, n_particles, evidence)
    return total, sorted(found, key=lambda f: f.index), seconds


# ------------------------------------------------------------------------------------ iterations
def initial_state(bench: Workbench) -> EnhancedState:
    """Return the starting Theta: of several random starts the one whose evidence grew highest.

    Classes can collapse into one early; particles left out of their references tell: the evidence
    of such a start stays behind.
    """
    n_starts = bench.config.n_starts_of_classes
    if n_starts == 1:
        return random_state(bench, 0)
    best: EnhancedState | None = None
    for start in range(n_starts):
        state, previous = random_state(bench, start), None
        for _ in range(START_ITERATIONS):
            result = iterate(bench, state, previous, logged=False)
            state, previous = cast(EnhancedState, result.state), result.assignments
        logger.info(
            "start %d of %d: log evidence per particle %.1f after %d iterations, alpha %s",
            start + 1, n_starts, state.evidence, START_ITERATIONS,
            np.array2string(state.alpha, precision=2),
        )
        if best is None or state.evidence > best.evidence:
            best = state
    assert best is not None
    return replace(best, iteration=0, is_converged=False)


def random_state(bench: Workbench, start: int) -> EnhancedState:
    """Return Theta of particles in random classes, turned at random, and averaged."""
    config, source = bench.config, bench.source
    n_particles, n_classes = len(source), config.n_classes
    seed = config.seed + SEED_STEP * start
    classes = random_classes(n_particles, n_classes, seed)
    poses = starting_poses(n_particles, "turned", seed)
    radius = min(config.start_radius, bench.max_radius)
    box = bench.open_box(radius)
    shape = (config.n_groups, n_classes, len(box.samples))
    signal, coverage = np.zeros(shape, dtype=complex), np.zeros(shape, dtype=complex)
    weight, one = np.zeros(shape[:2]), np.ones(1)
    for i in range(n_particles):
        particle, f, k = bench.measured(i), bench.folds[i], classes[i]
        rotation = poses.rotation[[i]]
        particle.add_turned_back(rotation, np.zeros((1, 3)), one, signal[f, k])
        particle.wedge.add_turned_back(rotation, one, coverage[f, k])
        weight[f, k] += 1.0
    sums = FoldSums(signal, coverage.real, weight, bench.residual, 0.0, n_particles, 0.0)
    # Nothing correlates yet but the round blob; what is there must not be filtered away.
    return _next_state(bench, sums, None, box, START_FSC)


def state_from_references(bench: Workbench, maps: FloatArray) -> EnhancedState:
    """Return a starting Theta for maps (K, n, n, n) that the user supplies, one for each class.

    All folds start from the same map, low-passed to the first shells. A map comes on its own
    scale: the power of the particles is taken as that of the map times a gain plus white noise,
    and both follow by least squares over all shells.
    """
    config, n = bench.config, bench.source.n
    power, n_observed = _mean_power(bench)
    box = bench.open_box(min(config.start_radius, bench.max_radius))
    ball = inscribed_sphere(n)
    values = []
    for volume in maps:
        level = float(np.average(volume, weights=1.0 - ball))
        half = spectrum(((volume - level) * ball).astype(np.float32))
        gain = _least_squares_gain(half, power, n_observed)
        low = gain * np.asarray(box.samples.take(crop_half(half, box.n)))
        values.append(symmetrised(low, gain * half[0, 0, 0].real, box.samples, config.group)
                      if len(config.group) > 1 else low)
    references = np.stack(values).astype(np.complex64)
    is_white = config.noise == "white"
    n_shells, n_classes = box.radius, len(maps)
    noise = bench.residual.noise(np.zeros(n_shells), is_white)
    averages = np.stack([box.enlarged(v) for v in references])
    return EnhancedState(
        averages, np.full(n_classes, 1.0 / n_classes), float(np.sqrt(noise.mean())),
        max(config.max_shift_of(n) / 2.0, config.min_zeta), 0,
        radius=box.radius, references=np.repeat(references[None], config.n_groups, axis=0),
        reference_radius=box.radius, noise=noise, fsc=np.zeros((n_classes, n_shells)),
        phase="dense", n_since_dense=0, peaks=None, evidence=-np.inf,
        n_effective=float("inf"),
        half_averages=np.stack([averages, averages]),
    )


def _mean_power(bench: Workbench) -> tuple[FloatArray, FloatArray]:
    """Mean power of a measured sample on shells from 1, and how many were measured."""
    n = bench.source.n
    n_shells = min(bench.max_radius, n // 2 - 1)  # what `shell_sums` has in an odd box too
    power, n_observed = np.zeros(n_shells), np.zeros(n_shells)
    for i in range(min(len(bench.source), MAX_SCALED)):
        particle = bench.source[i]
        half = spectrum(particle.volume)
        power += shell_sums(np.abs(half) ** 2 * particle.wedge, n)[1 : n_shells + 1]
        measured = is_measured(particle.wedge).astype(np.float32)
        n_observed += shell_sums(measured, n)[1 : n_shells + 1]
    return power / np.maximum(n_observed, 1e-12), n_observed


def _least_squares_gain(half: ComplexArray, power: FloatArray, weight: FloatArray) -> float:
    """The gain g of a map's spectrum for which power = g^2 |map|^2 + noise on shells fits best."""
    n, n_shells = half.shape[0], len(power)
    squared = (half * half.conj()).real
    own = (shell_sums(squared, n) / shell_sums(np.ones(half.shape), n))[1 : n_shells + 1]
    # Errors of a shell's power are proportional to it, and fall with the number of samples.
    scale = np.sqrt(weight) / power
    (gain_sq, _), _ = nnls(np.stack([own * scale, scale], axis=1), power * scale)
    least = SMALLEST_SIGNAL * float(power @ weight) / float(own @ weight)
    return float(np.sqrt(max(gain_sq, least)))


def _next_state(
    bench: Workbench, sums: FoldSums, state: EnhancedState | None, box: WorkingBox,
    smallest_fsc: float = 0.0,
) -> EnhancedState:
    """The M-step: Theta from the sums, without what decides on the next iteration."""
    config = bench.config
    shape = (config.n_groups, sums.signal.shape[1], len(box.samples))
    previous = np.zeros(shape, dtype=np.complex64)
    if state is not None:
        old = WorkingBox.of(bench.source.n, state.reference_radius).samples
        previous = resampled(state.references, old, box.samples)
    in_frame = len(config.group) == 1 if state is None else state.in_frame
    if in_frame:
        sums = _symmetrised(bench, sums, box)
    made = fold_averages(
        sums, box.samples, previous, config.n_folds > 1, config.noise == "white",
        config.regularise, smallest_fsc,
    )
    noise = made.noise
    if state is None:  # nothing explained yet
        noise = bench.residual.noise(np.zeros(box.radius), config.noise == "white")
    weight = sums.weight.sum(axis=0)
    max_shift = config.max_shift_of(bench.source.n)
    zeta = max_shift / 2.0
    if state is not None:
        zeta = box.voxel_ratio * float(np.sqrt(sums.sq_shift / (3.0 * sums.n_particles)))
    averages = np.stack([box.enlarged(a) for a in made.averages])
    if in_frame and bench.mask is not None:
        averages = np.stack([masked(a, bench.mask) for a in averages])
    return EnhancedState(
        averages,
        weight / weight.sum(),
        float(np.sqrt(noise.mean())),
        max(zeta, config.min_zeta),
        0 if state is None else state.iteration + 1,
        radius=box.radius, references=made.references, reference_radius=box.radius,
        noise=noise, fsc=made.fsc, phase="dense", n_since_dense=0, peaks=None,
        evidence=-np.inf, n_effective=float("inf"),
        half_averages=np.stack([[box.enlarged(v) for v in half] for half in made.halves]),
        in_frame=in_frame, symmetry_score=1.0 if state is None else state.symmetry_score,
    )


def _symmetrised(bench: Workbench, sums: FoldSums, box: WorkingBox) -> FoldSums:
    """Sums in which every particle counts in all its equivalent poses."""
    group, shape = bench.config.group, sums.weight.shape
    if len(group) == 1:
        return sums
    signal, coverage = sums.signal.copy(), sums.coverage.copy()

    def work(item: tuple[int, int]) -> tuple[ComplexArray, FloatArray]:
        weight = float(sums.weight[item])
        return symmetrised_sums(sums.signal[item], sums.coverage[item], weight, box.samples, group)

    items = [(f, k) for f in range(shape[0]) for k in range(shape[1])]
    for item, (s, c) in zip(items, bench.executor.map(work, items), strict=True):
        signal[item], coverage[item] = s, c
    return replace(sums, signal=signal, coverage=coverage)


def in_symmetry_frame(
    bench: Workbench, state: EnhancedState, assignments: Assignments, box: WorkingBox
) -> tuple[EnhancedState, Assignments]:
    """Turn averages and poses so that symmetry axes lie where the group's are, and impose it.

    A blind run finds its averages in any orientation: the axes are looked for in each class.
    """
    config = bench.config
    averages, halves = state.averages.copy(), state.half_averages.copy()
    references = state.references.copy()
    frames, scores = [], []
    for k in range(state.n_classes):
        frame, score = RigidTransforms.identity(1), 0.0
        if averages[k].any():
            frame, _ = group_frame(averages[k], config.symmetry)
            score = group_correlation(move_map(averages[k], frame), config.symmetry)
        logger.info("  class %d: symmetry %s imposed, correlation with its turned copies %.2f",
                    k + 1, config.symmetry, score)
        frames.append(frame)
        scores.append(score)
        # Each of the group's turns after the one into its frame.
        moves = RigidTransforms.from_rotation(
            config.group @ frame.rotation[0],
            config.group @ frame.shift_xyz[0] / box.voxel_ratio)
        for f in range(config.n_groups):
            turnable = reference_turnable(references[f, k], box)
            references[f, k] = moved_mean(turnable, box.samples, moves)
        averages[k] = _moved_volume(averages[k], box, moves)
        if bench.mask is not None:
            averages[k] = masked(averages[k], bench.mask)
        for half in halves:
            half[k] = _moved_volume(half[k], box, moves)
    peaks = state.peaks
    if peaks is not None:
        peaks = replace(peaks, poses=_in_frames(peaks.poses, peaks.class_index, frames, config))
    poses = _in_frames(assignments.poses, assignments.class_index, frames, config)
    turned = replace(
        state, averages=averages, half_averages=halves, references=references, peaks=peaks,
        in_frame=True, is_converged=False, checked_radius=0, symmetry_score=min(scores),
    )
    return turned, replace(assignments, poses=poses)


def _moved_volume(volume: FloatArray, box: WorkingBox, moves: RigidTransforms) -> FloatArray:
    """A volume of the full box, moved by each of some poses (working voxels); the mean."""
    values = np.asarray(box.samples.take(crop_half(spectrum(volume), box.n)))
    return box.enlarged(moved_mean(reference_turnable(values, box), box.samples, moves))


def _in_frames(
    poses: RigidTransforms, class_index: IntArray, frames: Sequence[RigidTransforms],
    config: FamlConfig,
) -> RigidTransforms:
    """Poses of averages that each class's frame has moved: first back, then as before."""
    rotation, shift_xyz = poses.rotation, poses.shift_xyz.copy()
    for k, frame in enumerate(frames):
        mine = np.flatnonzero(class_index == k)
        moved = compose(poses[mine], invert(frame))
        rotation[mine], shift_xyz[mine] = moved.rotation, moved.shift_xyz
    return representatives(RigidTransforms.from_rotation(rotation, shift_xyz), config.group)


def iterate(
    bench: Workbench,
    state: EnhancedState,
    previous: Assignments | None = None,
    on_progress: Callable[[int, int], None] = ignore_progress,
    logged: bool = True,
) -> IterationResult:
    """Return the result of one iteration: E-step over all particles, then M-step."""
    started = time.perf_counter()
    task = _prepare(bench, state)
    prepared = time.perf_counter()
    sums, found, seconds = _sum_chunks(task, bench.executor, on_progress)
    assignments = _assignments(found)
    seconds["references"] = prepared - started
    pose_change = pose_change_deg(previous, assignments, task.group)
    new = _decide(_next_state(bench, sums, state, task.box), task, found, pose_change, bench)
    if not new.in_frame and (new.n_sharp >= SHARP_ENOUGH or new.is_converged):
        new, assignments = in_symmetry_frame(bench, new, assignments, task.box)
    seconds["total"] = time.perf_counter() - started
    result = IterationResult(
        new, assignments, new.half_averages, sums.evidence, pose_change, seconds)
    if not logged:
        return result
    log_iteration(result)
    logger.info(
        "  %s, %d shells, %.1f poses share a posterior, log evidence per particle %.1f",
        state.phase, task.box.radius, new.n_effective, sums.evidence / len(found),
    )
    return result


def _prepare(bench: Workbench, state: EnhancedState) -> _Task:
    """References of all folds and classes at the iteration's resolution."""
    config, box = bench.config, bench.open_box(state.radius)
    old = WorkingBox.of(bench.source.n, state.reference_radius).samples
    references = resampled(state.references, old, box.samples)
    noise = bench.residual.noise(np.zeros(box.radius), config.noise == "white")
    known = min(state.reference_radius, box.radius)
    noise[:known] = state.noise[:known]
    plan = None
    if state.phase != "local":
        # Once posteriors are narrow, the grid only has to find their peaks.
        is_broad = state.n_effective >= FOCUSED_BELOW
        bandwidth = config.dense_bandwidth if is_broad else config.search_bandwidth
        radius = min(box.radius, config.dense_radius(bandwidth))
        step = max(bench.source.n / (4.0 * radius), 1.0) / box.voxel_ratio
        plan = dense_plan(
            box.n, radius, config.bandwidth_of_shells(radius),
            config.max_shift_of(bench.source.n) / box.voxel_ratio, step,
        )

    mask = bench.mask_of(state)
    # Without leaving out, all folds share one reference.
    n_different = config.n_groups if config.n_folds > 1 else 1

    def prepare(f: int) -> tuple[list[ComplexArray], list[DenseReference]]:
        turnable = [reference_turnable(values, box, mask) for values in references[f]]
        if plan is None:
            return turnable, []
        return turnable, [dense_reference(t, noise[: plan.sampling.n_shells], plan)
                          for t in turnable]

    prepared = list(bench.executor.map(prepare, range(n_different)))
    folds = [prepared[min(f, n_different - 1)] for f in range(config.n_groups)]
    is_candidate = plan is not None and plan.sampling.n_shells < box.radius
    return _Task(
        bench, state, box, [t for t, _ in folds], noise, plan, [d for _, d in folds], is_candidate)


def _assignments(found: Sequence[_Found]) -> Assignments:
    """The best class and pose of every particle."""
    return Assignments(
        np.array([f.class_index for f in found], dtype=np.intp),
        RigidTransforms.concatenate([f.pose for f in found]),
        np.array([f.responsibility for f in found]),
        np.array([f.evidence for f in found]),
        np.stack([f.class_weight for f in found]),
    )


def _decide(
    new: EnhancedState, task: _Task, found: Sequence[_Found], pose_change: float,
    bench: Workbench,
) -> EnhancedState:
    """Set what the next iteration does: its resolution, and how wide it looks."""
    state = task.state
    n_effective = float(np.median([f.n_effective for f in found]))
    n_since_dense = 0 if state.phase == "dense" else state.n_since_dense + 1
    radius = state.radius
    # While posteriors are broad, all shells follow the same blob: their FSC says nothing.
    if n_effective < FOCUSED_BELOW:
        radius = max(radius, _next_radius(new.fsc, radius, bench.max_radius))
    evidence = float(np.mean([f.evidence for f in found]))
    gain = evidence - state.evidence
    if n_effective >= FOCUSED_BELOW and gain < STALLED_GAIN:
        # Nothing is left to learn here: finer detail may tell orientations apart.
        most = min(bench.max_radius, bench.config.dense_radius(bench.config.dense_bandwidth))
        radius = max(radius, min(radius + 1, most))
    grown = radius > state.radius
    is_still = pose_change < SETTLED_DEG or abs(gain) < SETTLED_LOCAL_GAIN
    settled = state.phase == "local" and not grown and is_still
    phase, checked, converged = "dense", state.checked_radius, False
    if n_effective < LOCAL_BELOW:
        phase = "local"
        if settled and checked == radius:
            converged = True
        elif settled or n_since_dense >= MAX_SINCE_DENSE:
            phase, checked = "dense", radius
    elif n_effective < FOCUSED_BELOW and n_since_dense < MAX_FOCUSED:
        phase = "focused"
    elif n_effective >= FOCUSED_BELOW:
        converged = not grown and abs(gain) < SETTLED_GAIN
    peaks = PeakTable.of_parts([(f.index, f.peak_class, f.peak_poses) for f in found])
    return replace(
        new, radius=radius, phase=phase, n_since_dense=n_since_dense, peaks=peaks,
        n_effective=n_effective, checked_radius=checked, is_converged=converged,
        phase_done=state.phase, evidence=evidence,
        n_sharp=state.n_sharp + 1 if n_effective < LOCAL_BELOW else 0,
    )


def _next_radius(fsc: FloatArray, radius: int, max_radius: int) -> int:
    """Shells to compare next: a little beyond where the best class's halves still agree."""
    best = fsc.max(axis=0)
    below = np.flatnonzero(best < TRUSTED_FSC)
    reached = int(below[0]) if len(below) else len(best)
    return int(np.clip(reached + SHELLS_BEYOND, 1, min(radius + GROWTH, max_radius)))


def run(
    source: SubtomogramSource,
    config: FamlConfig,
    executor: Executor | None = None,
    start: EnhancedState | None = None,
    previous: Assignments | None = None,
    on_progress: Callable[[int, int], None] = ignore_progress,
    references: FloatArray | None = None,
    mask: FloatArray | None = None,
) -> Iterator[IterationResult]:
    """Yield the result of every iteration, until it has converged or config.n_iterations are done.

    Parameters and errors are those of `faml.run`; `references` (K, n, n, n) are maps to start from,
    one for each class, where there is no `start`; averages and references are multiplied by the
    mask (n, n, n), which lies in their frame.
    """
    config.check_size(len(source))
    bench = Workbench(source, config, executor or SerialExecutor(), mask)
    if start is not None:
        state = start
    elif references is not None:
        state = state_from_references(bench, references)
    else:
        state = initial_state(bench)
    while state.iteration < config.n_iterations and not state.is_converged:
        result = iterate(bench, state, previous, on_progress)
        state, previous = cast(EnhancedState, result.state), result.assignments
        yield result
