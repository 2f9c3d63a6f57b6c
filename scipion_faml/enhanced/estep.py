"""The E-step: what each particle finds in the references of its fold, and the sums of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import logsumexp

from scipion_faml.dense import (
    DenseParticle,
    DensePlan,
    DensePosterior,
    DenseSums,
    dense_posterior,
    highest_poses,
)
from scipion_faml.em import SMALLEST_PRIOR, without_small
from scipion_faml.enhanced.references import References
from scipion_faml.enhanced.state import FOCUSED_BELOW, EnhancedState, PeakTable
from scipion_faml.enhanced.store import ParticleStore
from scipion_faml.enhanced.workbench import Block, Workbench
from scipion_faml.faml import ignore_progress
from scipion_faml.folds import FoldSums
from scipion_faml.geometry import RigidTransforms
from scipion_faml.impose import inequivalent, representatives_of_classes
from scipion_faml.measured import Measured, WorkingBox
from scipion_faml.model import FamlConfig
from scipion_faml.refine import (
    Peaks,
    WeightedParticle,
    climb,
    cubature,
    distinct,
    log_evidence,
    weighted_particle,
)
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.types import ComplexArray, FloatArray, IntArray

MAX_PEAKS = 4  # of a particle and class
FOCUS_STEPS = 1.6  # of the lattice of shifts, around the peaks of the iteration before
WIDEST_SPREAD_DEG = 15.0  # of the posterior around a peak


@dataclass(frozen=True, eq=False)
class Found:
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


@dataclass(frozen=True, eq=False)
class FoundTable:
    """What some particles got, arrays side by side: a row each, and one for each peak."""

    index: IntArray  # (P,)
    class_index: IntArray  # (P,)
    poses: RigidTransforms  # P
    responsibility: FloatArray  # (P,)
    evidence: FloatArray  # (P,)
    class_weight: FloatArray  # (P, K)
    n_effective: FloatArray  # (P,)
    n_peaks: IntArray  # (P,)
    peak_class: IntArray  # (M,) particle after particle
    peak_poses: RigidTransforms  # M

    @staticmethod
    def of(found: Sequence[Found]) -> FoundTable:
        """Collect single particles."""
        return FoundTable(
            np.array([f.index for f in found], dtype=np.intp),
            np.array([f.class_index for f in found], dtype=np.intp),
            RigidTransforms.concatenate([f.pose for f in found]),
            np.array([f.responsibility for f in found]),
            np.array([f.evidence for f in found]),
            np.stack([f.class_weight for f in found]),
            np.array([f.n_effective for f in found]),
            np.array([len(f.peak_class) for f in found], dtype=np.intp),
            np.concatenate([f.peak_class for f in found]).astype(np.intp),
            RigidTransforms.concatenate([f.peak_poses for f in found]),
        )

    @staticmethod
    def joined(parts: Sequence[FoundTable]) -> FoundTable:
        """Return all particles of some tables, ordered by their numbers."""
        def whole(name: str) -> Any:
            return np.concatenate([getattr(part, name) for part in parts])

        index, n_peaks = whole("index"), whole("n_peaks")
        order = np.argsort(index, kind="stable")
        peak_order = np.argsort(np.repeat(index, n_peaks), kind="stable")
        poses = RigidTransforms.concatenate([part.poses for part in parts])
        peak_poses = RigidTransforms.concatenate([part.peak_poses for part in parts])
        return FoundTable(
            index[order], whole("class_index")[order], poses[order],
            whole("responsibility")[order], whole("evidence")[order],
            whole("class_weight")[order], whole("n_effective")[order], n_peaks[order],
            whole("peak_class")[peak_order], peak_poses[peak_order],
        )

    @property
    def peaks(self) -> PeakTable:
        """The maxima of the posteriors; of an ordered table."""
        return PeakTable(np.repeat(self.index, self.n_peaks), self.peak_class, self.peak_poses)


@dataclass(frozen=True, eq=False)
class EStep:
    """What every block of an iteration needs besides particles; sent to other processes as it is.
    """

    config: FamlConfig
    references: References
    noise: FloatArray  # (radius,)
    is_candidate: bool  # M-step from a few peaks, not from the whole grid
    alpha: FloatArray  # (K,)
    full_zeta: float  # voxels of the full box
    phase: str
    n_effective: float  # of the iteration before
    symmetry: tuple[str, ...]  # of each class, imposed now

    def work(self, block: Block, store: ParticleStore) -> BlockSums:
        """Return sums and findings of the particles in a block."""
        task = Task(self, store, store.box(self.references.radius), block.peaks)
        total: BlockSums | None = None
        for chunk in block.chunks:
            part = _e_step_chunk(block.fold, chunk, task)
            total = part if total is None else total.absorb(part)
        assert total is not None
        return total


@dataclass(frozen=True, eq=False)
class Task:
    """An E-step with the particles of a block at hand."""

    step: EStep
    store: ParticleStore
    box: WorkingBox
    peaks: PeakTable | None  # of the iteration before

    @cached_property
    def plan(self) -> DensePlan | None:
        """The grid of poses; None: local."""
        grid = self.step.references.grid
        return None if grid is None else grid.plan

    @cached_property
    def groups(self) -> list[FloatArray]:
        """Rotations that leave the references of each class as they are."""
        return [symmetry_rotations(name) for name in self.step.symmetry]

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.step.alpha)

    @property
    def zeta(self) -> float:
        """Width of the prior of shifts, working voxels."""
        return self.step.full_zeta / self.box.voxel_ratio

    @cached_property
    def log_alpha(self) -> FloatArray:
        """(K,)"""
        log_alpha: FloatArray = np.log(np.maximum(self.step.alpha, SMALLEST_PRIOR))
        return log_alpha

    def dense(self, index: int) -> DenseParticle:
        """Return a particle's coefficients."""
        assert self.plan is not None
        return self.store.dense(index, self.box, self.plan)


def _e_step_chunk(fold: int, indices: Sequence[int], task: Task) -> BlockSums:
    """Return sums and findings of a few particles."""
    sums = _ChunkSums.zero(task, fold)
    found = []
    seconds = dict.fromkeys(("read", "candidates", "statistics"), 0.0)
    for i in indices:
        clock = [time.perf_counter()]
        particle = task.store.measured(i, task.box)
        weighted = weighted_particle(particle, task.step.noise)
        clock.append(time.perf_counter())
        if task.plan is None:
            if task.peaks is None:
                raise ValueError("a local iteration needs the peaks of the one before")
            starts = task.peaks.of(i)
            posterior = None
        else:
            posterior = _whole_posterior(task, fold, i)
            starts = _with_known(_highest_cells(posterior, task), task, i)
        peaks = _climbed(task, fold, weighted, *starts)
        clock.append(time.perf_counter())
        if posterior is not None and not task.step.is_candidate:
            found.append(sums.add_dense(i, task, posterior, peaks))
        else:
            is_broad = posterior is not None and task.step.n_effective >= FOCUSED_BELOW
            least = posterior.n_effective if posterior is not None and is_broad else 1.0
            found.append(sums.add_candidates(i, task, particle, peaks, least))
        clock.append(time.perf_counter())
        for name, spent in zip(seconds, np.diff(clock), strict=True):
            seconds[name] += float(spent)
    started = time.perf_counter()
    sums.finish(task)
    seconds["statistics"] += time.perf_counter() - started
    return BlockSums(
        fold, sums.signal, sums.coverage.real.copy(), sums.weight, sums.sq_shift, sums.evidence,
        [FoundTable.of(found)], seconds)


def _whole_posterior(task: Task, fold: int, index: int) -> DensePosterior:
    """The posterior over all rotations, and all shifts or those near the peaks so far."""
    plan = task.plan
    assert plan is not None
    shifts = None
    if task.step.phase == "focused" and task.peaks is not None:
        _, poses = task.peaks.of(index)
        # The plan shifts the average before it is turned: t here is R^T t there.
        own = np.einsum("mji,mj->mi", poses.rotation, poses.shift_xyz) / task.box.voxel_ratio
        squared = np.sum((plan.shift_xyz[:, None] - own) ** 2, axis=2).min(axis=1)
        shifts = np.flatnonzero(squared <= (FOCUS_STEPS * plan.shift_step) ** 2)
        shifts = shifts if len(shifts) else None
    posterior = dense_posterior(
        task.dense(index), [r.dense for r in task.step.references.of(fold) if r.dense is not None],
        task.log_alpha, plan.log_prior(task.zeta), shifts,
    )
    # Equivalent poses count as one, also of averages that have the symmetry before it is imposed.
    order = _order(task, posterior.class_weight)
    return replace(posterior, n_effective=max(posterior.n_effective / order, 1.0))


def _order(task: Task, class_weight: FloatArray) -> float:
    """How many poses are equivalent, the mean over a particle's classes."""
    known = len(task.step.config.group)  # before it is imposed, too
    orders = [max(known, len(group)) for group in task.groups]
    if len(set(orders)) == 1:
        return float(orders[0])
    return float(class_weight @ orders / class_weight.sum())


def _highest_cells(
    posterior: DensePosterior, task: Task
) -> tuple[IntArray, RigidTransforms]:
    """Classes and poses (voxels of the full box) of the highest separate cells of a posterior."""
    plan = task.plan
    assert plan is not None
    if posterior.n_effective > FOCUSED_BELOW:  # no peaks to speak of
        best = posterior.best_pose
        one = RigidTransforms(best.euler_zyz, best.shift_xyz * task.box.voxel_ratio)
        return np.array([posterior.best_class]), one
    classes, poses = [], []
    for k, group in enumerate(task.groups):
        found = highest_poses(posterior.blocks[k], plan, MAX_PEAKS * len(group))
        if len(group) > 1:
            apart = 180.0 * 2.2 / plan.bandwidth, 2.0 * plan.shift_step
            found = found[inequivalent(found, group, *apart, MAX_PEAKS)]
        classes.append(np.full(len(found), k, dtype=np.intp))
        poses.append(RigidTransforms(found.euler_zyz, found.shift_xyz * task.box.voxel_ratio))
    return np.concatenate(classes), RigidTransforms.concatenate(poses)


def _with_known(
    starts: tuple[IntArray, RigidTransforms], task: Task, index: int
) -> tuple[IntArray, RigidTransforms]:
    """Starts of climbs, and the peaks of the iteration before where the grid is coarser than these.

    A grid that carries fewer shells than are compared finds new peaks, but not each of the old.
    """
    peaks = task.peaks
    if peaks is None or not task.step.is_candidate or task.step.n_effective >= FOCUSED_BELOW:
        return starts
    classes, poses = peaks.of(index)
    return np.concatenate([starts[0], classes]), RigidTransforms.concatenate([starts[1], poses])


@dataclass(frozen=True, eq=False)
class _ClassPeaks:
    """Climbed peaks of one particle, all classes in a table."""

    class_index: IntArray  # (M,)
    rotation: FloatArray  # (M, 3, 3)
    shift_xyz: FloatArray  # (M, 3) working voxels
    curvature: FloatArray  # (M, 6, 6)
    log_joint: FloatArray  # (M,) log of what each adds to the evidence


def _climbed(
    task: Task, fold: int, weighted: WeightedParticle, classes: IntArray, poses: RigidTransforms
) -> _ClassPeaks:
    """Poses climbed to their maxima, of each class apart; doubles removed."""
    parts: list[tuple[int, Peaks]] = []
    rotation, shift_xyz = poses.rotation, poses.shift_xyz / task.box.voxel_ratio
    references = task.step.references.of(fold)
    for k in np.unique(classes):
        mine = classes == k
        peaks = climb(
            weighted, references[int(k)].turnable, rotation[mine], shift_xyz[mine], task.zeta)
        radius = task.box.radius
        same_turn = np.rad2deg(1.0 / max(2.0 * radius, 1.0))
        peaks = peaks.select(distinct(peaks, same_turn, 0.3, MAX_PEAKS))
        group = task.groups[int(k)]
        if len(group) > 1:
            peaks = peaks.select(
                inequivalent(peaks.transforms, group, same_turn, 0.3, MAX_PEAKS))
        parts.append((int(k), peaks))
    log_order = [float(np.log(len(g))) for g in task.groups]  # each stands for its equivalents
    return _ClassPeaks(
        np.concatenate([np.full(len(p), k, dtype=np.intp) for k, p in parts]),
        np.concatenate([p.rotation for _, p in parts]),
        np.concatenate([p.shift_xyz for _, p in parts]),
        np.concatenate([p.curvature for _, p in parts]),
        np.concatenate([log_evidence(p, task.zeta) + task.log_alpha[k] + log_order[k]
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
    def zero(task: Task, fold: int) -> _ChunkSums:
        """Sums of no particle."""
        n_classes, n_samples = task.n_classes, len(task.box.samples)
        dense = [] if task.plan is None or task.step.is_candidate else [
            DenseSums.zero(task.plan) for _ in range(n_classes)]
        return _ChunkSums(
            fold, dense, np.zeros((n_classes, n_samples), dtype=np.complex128),
            np.zeros((n_classes, n_samples), dtype=np.complex128), np.zeros(n_classes),
        )

    def add_dense(
        self, index: int, task: Task, posterior: DensePosterior, peaks: _ClassPeaks
    ) -> Found:
        """Add a particle with its posterior over the grid."""
        assert task.plan is not None
        squared = np.sum(task.plan.shift_xyz**2, axis=1)
        particle = task.dense(index)
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
        self, index: int, task: Task, particle: Measured, peaks: _ClassPeaks,
        least_effective: float,
    ) -> Found:
        """Add a particle with its peaks, each weighted by its share of the posterior.

        A few peaks cannot tell how many poses share a broad posterior: what the grid said counts.
        """
        evidence = float(logsumexp(peaks.log_joint))
        gamma = np.exp(peaks.log_joint - evidence)
        gamma = without_small(gamma, task.step.config.min_responsibility)
        for m in np.flatnonzero(gamma > 0):
            k, rotation, shift_xyz = peaks.class_index[m], peaks.rotation[[m]], peaks.shift_xyz[[m]]
            if task.step.config.spread:
                rotation, shift_xyz = cubature(
                    rotation[0], shift_xyz[0], peaks.curvature[m], WIDEST_SPREAD_DEG)
            weight = np.full(len(rotation), gamma[m] / len(rotation))
            particle.add_turned_back(rotation, shift_xyz, weight, self.signal[k])
            particle.wedge.add_turned_back(rotation, weight, self.coverage[k])
            self.sq_shift += float(weight @ np.sum(shift_xyz**2, axis=1))
        class_weight: FloatArray = np.bincount(
            peaks.class_index, gamma, task.n_classes).astype(np.float64)
        self.weight += class_weight
        best = int(np.argmax(gamma))
        return self._counted(
            index, task, peaks, best, evidence, class_weight,
            max(1.0 / float(np.sum(gamma**2)), least_effective), float(gamma[best]),
        )

    def _counted(
        self, index: int, task: Task, peaks: _ClassPeaks, best: int, evidence: float,
        class_weight: FloatArray, n_effective: float, responsibility: float,
    ) -> Found:
        self.n_particles += 1
        self.evidence += evidence
        poses = representatives_of_classes(RigidTransforms.from_rotation(
            peaks.rotation, peaks.shift_xyz * task.box.voxel_ratio), peaks.class_index, task.groups)
        order = np.argsort(-peaks.log_joint, kind="stable")
        return Found(
            index, int(peaks.class_index[best]), poses[[best]], responsibility, evidence,
            class_weight, n_effective, peaks.class_index[order], poses[order],
        )

    def finish(self, task: Task) -> None:
        """Bring what was summed over the grid to the samples."""
        for k, sums in enumerate(self.dense):
            if task.plan is None or self.weight[k] < 1e-6:
                continue
            signal, coverage = sums.at_points()
            self.signal[k] += task.plan.to_samples(signal, task.box.samples)
            self.coverage[k] += task.plan.to_samples(coverage, task.box.samples)
        self.dense = []


@dataclass(frozen=True, eq=False)
class BlockSums:
    """What comes of some blocks of one fold."""

    fold: int
    signal: ComplexArray  # (K, J) complex128
    coverage: FloatArray  # (K, J) float64
    weight: FloatArray  # (K,)
    sq_shift: float
    evidence: float
    found: list[FoundTable]
    seconds: dict[str, float]

    def absorb(self, other: BlockSums) -> BlockSums:
        """Return the sum of both; the arrays of `self` hold it from now on."""
        for name in ("signal", "coverage", "weight"):
            mine: FloatArray = getattr(self, name)
            mine += getattr(other, name)
        seconds = {name: spent + other.seconds[name] for name, spent in self.seconds.items()}
        return replace(
            self, sq_shift=self.sq_shift + other.sq_shift, evidence=self.evidence + other.evidence,
            found=self.found + other.found, seconds=seconds)


def sum_blocks(
    bench: Workbench, state: EnhancedState, step: EStep,
    on_progress: Callable[[int, int], None] = ignore_progress,
) -> tuple[FoldSums, FoundTable, dict[str, float]]:
    """Run the E-step over all blocks and add their sums up in order."""
    n_particles = len(bench.members)
    shape = (bench.config.n_groups, state.n_classes)
    n_samples = len(bench.box.samples)
    signal = np.zeros((*shape, n_samples), dtype=np.complex128)
    coverage, weight = np.zeros((*shape, n_samples)), np.zeros(shape)
    sq_shift = evidence = 0.0
    found: list[FoundTable] = []
    seconds: dict[str, float] = {}
    done = 0

    def count(block: Block) -> None:
        nonlocal done
        done += len(block.indices)
        on_progress(done, n_particles)

    blocks = bench.blocks()
    if state.peaks is not None:
        blocks = [replace(block, peaks=state.peaks.part(block.indices)) for block in blocks]
    for sums in bench.sums(step, blocks, count):
        signal[sums.fold] += sums.signal
        coverage[sums.fold] += sums.coverage
        weight[sums.fold] += sums.weight
        sq_shift += sums.sq_shift
        evidence += sums.evidence
        found += sums.found
        seconds = {name: seconds.get(name, 0.0) + spent for name, spent in sums.seconds.items()}
    total = FoldSums(
        signal, coverage, weight, bench.residual, sq_shift, n_particles, evidence)
    return total, FoundTable.joined(found), seconds
