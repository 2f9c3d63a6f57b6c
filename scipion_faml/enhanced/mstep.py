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
from scipion_faml.impose import masked, moved_mean, representatives_of_classes, symmetrised_sums
from scipion_faml.measured import WorkingBox
from scipion_faml.symmetry import symmetry_rotations
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
    n_classes = sums.signal.shape[1]
    in_frame = len(config.group) == 1 and not config.finds_symmetry
    symmetry, gain = ("C1",) * n_classes, np.zeros(n_classes)
    if state is not None:
        in_frame, symmetry, gain = state.in_frame, state.symmetry, state.symmetry_gain
        sums = _symmetrised(bench, sums, box, state.groups)
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
        symmetry=symmetry, symmetry_gain=gain,
        searched_radius=0 if state is None else state.searched_radius,
    )


def _symmetrised(
    bench: Workbench, sums: FoldSums, box: WorkingBox, groups: Sequence[FloatArray]
) -> FoldSums:
    """Sums in which every particle counts in all its equivalent poses."""
    items = [(f, k) for f in range(len(sums.weight)) for k, g in enumerate(groups) if len(g) > 1]
    if not items:
        return sums
    signal, coverage = sums.signal.copy(), sums.coverage.copy()

    def work(item: tuple[int, int]) -> tuple[ComplexArray, FloatArray]:
        return symmetrised_sums(
            sums.signal[item], sums.coverage[item], float(sums.weight[item]), box.samples,
            groups[item[1]])

    for item, (s, c) in zip(items, bench.executor.map(work, items), strict=True):
        signal[item], coverage[item] = s, c
    return replace(sums, signal=signal, coverage=coverage)


def in_symmetry_frame(
    bench: Workbench, state: EnhancedState, assignments: Assignments, box: WorkingBox
) -> tuple[EnhancedState, Assignments]:
    """Turn averages and poses so that symmetry axes lie where the known group's are, and impose it.

    A blind run finds its averages in any orientation: the axes are looked for in each class.
    """
    group = bench.config.known_symmetry
    frames = [group_frame(a, group)[0] if a.any() else RigidTransforms.identity(1)
              for a in state.averages]
    return in_frames(bench, state, assignments, box, (group,) * state.n_classes, frames)


def in_frames(
    bench: Workbench, state: EnhancedState, assignments: Assignments, box: WorkingBox,
    symmetry: tuple[str, ...], frames: Sequence[RigidTransforms], is_logged: bool = True,
) -> tuple[EnhancedState, Assignments]:
    """Turn averages and poses of each class into a frame, and impose a point group there."""
    config = bench.config
    averages, halves = state.averages.copy(), state.half_averages.copy()
    references = state.references.copy()
    groups = [symmetry_rotations(name) for name in symmetry]
    mask = bench.average_mask(in_frame=True)
    scores = []
    for k, (frame, group) in enumerate(zip(frames, groups, strict=True)):
        score = 0.0
        if averages[k].any():
            score = group_correlation(move_map(averages[k], frame), symmetry[k])
        scores.append(score)
        if is_logged and symmetry[k] != "C1":
            logger.info("  class %d: symmetry %s imposed, correlation with its turned copies %.2f",
                        k + 1, symmetry[k], score)
        if symmetry[k] != "C1":
            # Each of the group's turns after the one into its frame.
            moves = RigidTransforms.from_rotation(
                group @ frame.rotation[0], group @ frame.shift_xyz[0] / box.voxel_ratio)
            for f in range(config.n_groups):
                turnable = reference_turnable(references[f, k], box)
                references[f, k] = moved_mean(turnable, box.samples, moves)
            averages[k] = _moved_volume(averages[k], box, moves)
            for half in halves:
                half[k] = _moved_volume(half[k], box, moves)
        if mask is not None:
            averages[k] = masked(averages[k], mask)
    peaks = state.peaks
    if peaks is not None:
        peaks = replace(peaks, poses=_in_frames(peaks.poses, peaks.class_index, frames, groups))
    poses = _in_frames(assignments.poses, assignments.class_index, frames, groups)
    turned = replace(
        state, averages=averages, half_averages=halves, references=references, peaks=peaks,
        in_frame=True, is_converged=False, checked_radius=0, symmetry_score=min(scores),
        symmetry=symmetry,
    )
    return turned, replace(assignments, poses=poses)


def _moved_volume(volume: FloatArray, box: WorkingBox, moves: RigidTransforms) -> FloatArray:
    """A volume of the full box, moved by each of some poses (working voxels); the mean."""
    values = np.asarray(box.samples.take(crop_half(spectrum(volume), box.n)))
    return box.enlarged(moved_mean(reference_turnable(values, box), box.samples, moves))


def _in_frames(
    poses: RigidTransforms, class_index: IntArray, frames: Sequence[RigidTransforms],
    groups: Sequence[FloatArray],
) -> RigidTransforms:
    """Poses of averages that each class's frame has moved: first back, then as before."""
    rotation, shift_xyz = poses.rotation, poses.shift_xyz.copy()
    for k, frame in enumerate(frames):
        mine = np.flatnonzero(class_index == k)
        moved = compose(poses[mine], invert(frame))
        rotation[mine], shift_xyz[mine] = moved.rotation, moved.shift_xyz
    moved_poses = RigidTransforms.from_rotation(rotation, shift_xyz)
    return representatives_of_classes(moved_poses, class_index, groups)
