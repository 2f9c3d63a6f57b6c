"""The M-step: averages, noise and priors from the sums; symmetry axes brought to their place."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scipion_faml.enhanced.state import EnhancedState
from scipion_faml.enhanced.workbench import Workbench, reference_turnable, resampled
from scipion_faml.evaluation.superposition import group_correlation, group_frame, move_map
from scipion_faml.faml import Assignments
from scipion_faml.folds import FoldSums, fold_averages
from scipion_faml.fourier import crop_half, spectrum
from scipion_faml.geometry import RigidTransforms, compose, invert
from scipion_faml.impose import masked, moved_mean, representatives, symmetrised_sums
from scipion_faml.measured import WorkingBox
from scipion_faml.model import FamlConfig
from scipion_faml.types import ComplexArray, FloatArray, IntArray

logger = logging.getLogger(__name__)


def next_state(
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
    averages = np.stack([bench.enlarged(a, box) for a in made.averages])
    mask = bench.average_mask(in_frame)
    if mask is not None:
        averages = np.stack([masked(a, mask) for a in averages])
    return EnhancedState(
        averages,
        weight / weight.sum(),
        float(np.sqrt(noise.mean())),
        max(zeta, config.min_zeta),
        0 if state is None else state.iteration + 1,
        radius=box.radius, references=made.references, reference_radius=box.radius,
        noise=noise, fsc=made.fsc, phase="dense", n_since_dense=0, peaks=None,
        evidence=-np.inf, n_effective=float("inf"),
        half_averages=np.stack(
            [[bench.enlarged(v, box) for v in half] for half in made.halves]),
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
        mask = bench.average_mask(in_frame=True)
        if mask is not None:
            averages[k] = masked(averages[k], mask)
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
