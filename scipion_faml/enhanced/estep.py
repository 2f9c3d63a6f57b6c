"""The E-step: what each particle finds in the references of its fold, and the sums of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp

from scipion_faml.dense import (
    DensePlan,
    DensePosterior,
    DenseReference,
    DenseSums,
    dense_posterior,
    highest_poses,
)
from scipion_faml.em import SMALLEST_PRIOR, without_small
from scipion_faml.enhanced.state import FOCUSED_BELOW, EnhancedState
from scipion_faml.enhanced.workbench import Chunk, Workbench
from scipion_faml.execution import Executor
from scipion_faml.folds import FoldSums
from scipion_faml.geometry import RigidTransforms
from scipion_faml.impose import inequivalent, representatives_of_classes
from scipion_faml.measured import Measured, WorkingBox
from scipion_faml.refine import (
    Peaks,
    WeightedParticle,
    climb,
    cubature,
    distinct,
    log_evidence,
    weighted_particle,
)
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
class Task:
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
    def groups(self) -> list[FloatArray]:
        """Rotations that leave the references of each class as they are."""
        return self.state.groups

    @property
    def zeta(self) -> float:
        """Width of the prior of shifts, working voxels."""
        return self.state.zeta / self.box.voxel_ratio

    @property
    def log_alpha(self) -> FloatArray:
        """(K,)"""
        log_alpha: FloatArray = np.log(np.maximum(self.state.alpha, SMALLEST_PRIOR))
        return log_alpha


ChunkResult = tuple["_ChunkSums", list[Found], dict[str, float]]


def _e_step_chunk(chunk: Chunk, task: Task) -> ChunkResult:
    """Return sums and findings of the particles in a chunk."""
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
            starts = _with_known(_highest_cells(posterior, task), task, i)
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


def _whole_posterior(task: Task, fold: int, index: int) -> DensePosterior:
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
    order = _order(task, posterior.class_weight)
    return replace(posterior, n_effective=max(posterior.n_effective / order, 1.0))


def _order(task: Task, class_weight: FloatArray) -> float:
    """How many poses are equivalent, the mean over a particle's classes."""
    known = len(task.bench.config.group)  # before it is imposed, too
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
    peaks = task.state.peaks
    if peaks is None or not task.is_candidate or task.state.n_effective >= FOCUSED_BELOW:
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
    for k in np.unique(classes):
        mine = classes == k
        peaks = climb(
            weighted, task.turnable[fold][k], rotation[mine], shift_xyz[mine], task.zeta)
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
        n_classes, n_samples = task.state.n_classes, len(task.box.samples)
        dense = [] if task.plan is None or task.is_candidate else [
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
        self, index: int, task: Task, particle: Measured, peaks: _ClassPeaks,
        least_effective: float,
    ) -> Found:
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


def sum_chunks(
    task: Task, executor: Executor, on_progress: Callable[[int, int], None]
) -> tuple[FoldSums, list[Found], dict[str, float]]:
    """Run the E-step over all chunks and add their sums up in order."""
    config, n_particles = task.bench.config, len(task.bench.members)
    shape = (config.n_groups, task.state.n_classes)
    n_samples = len(task.box.samples)
    signal = np.zeros((*shape, n_samples), dtype=np.complex128)
    coverage, weight = np.zeros((*shape, n_samples)), np.zeros(shape)
    sq_shift = evidence = 0.0
    found: list[Found] = []
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
