"""Figures of an answer: classes, poses and averages beside the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from experiments import GROUPS, Experiment, Setting
from methods import Answer

from scipion_faml.evaluation.classes import compare_classes
from scipion_faml.evaluation.fsc import fourier_shell_correlation, resolution_angst
from scipion_faml.evaluation.poses import pose_errors, summarise
from scipion_faml.evaluation.similarity import Similarity, similarity
from scipion_faml.evaluation.superposition import (
    correlation,
    evaluation_mask,
    group_correlation,
    group_frame,
    move_map,
    self_correlation,
)
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import read_cube
from scipion_faml.symmetry import rotation_about, symmetry_rotations
from scipion_faml.tables import ParticleTable, read_particles
from scipion_faml.types import FloatArray

ALIGNED = 0.9  # correlation of a map in a group's frame with its copies
N_TURNS = 61  # prime, and of no symmetry here


def true_maps(folder: Path, truth: ParticleTable) -> FloatArray:
    """Return the noise-free structures of a simulated set, in the order of its classes."""
    names = truth.rows["famlModel"].to_numpy()
    numbers = truth.class_index
    return np.stack([
        read_cube(folder / "maps" / f"{names[np.flatnonzero(numbers == k)[0]]}.mrc")[0]
        for k in range(int(numbers.max()) + 1)
    ])


def rotations_of(true_map: FloatArray, group: str) -> FloatArray:
    """Return the turns (G, 3, 3) that leave a structure of a point group as it is.

    Not every model lies with its axes along those of the group: its frame is looked for.
    """
    rotations = symmetry_rotations(group)
    if len(rotations) == 1 or group_correlation(true_map, group) > ALIGNED:
        return rotations
    frame = group_frame(true_map, group)[0].rotation[0]
    turned: FloatArray = frame.T @ rotations @ frame
    return turned


def judge(
    answer: Answer, data: Path, setting: Setting, experiment: Experiment
) -> tuple[dict[str, Any], FloatArray]:
    """Return all figures of an answer, and its averages laid on the true maps (0: no class)."""
    truth = read_particles(data / "truth.star")
    maps = true_maps(data, truth)
    agreement = compare_classes(truth.class_index, answer.class_index)
    partner = [int(agreement.assigned_labels[p]) if p >= 0 else None for p in agreement.partner]
    symmetry = {k: rotations_of(true_map, GROUPS.get(model, "C1"))
                for k, (model, true_map) in enumerate(zip(setting.models, maps, strict=True))}
    errors = pose_errors(
        answer.poses, truth.poses, symmetry, truth.class_index, answer.class_index)
    columns: dict[str, list[float]] = {}
    superposed = np.zeros_like(maps)
    for k, true_map in enumerate(maps):
        own = partner[k]
        average = None if own is None else answer.averages[own]
        figures, superposed[k] = judge_average(average, true_map, setting.voxel_size)
        fold = experiment.fold.get(setting.models[k])
        if fold is not None:
            figures |= _self_correlations(superposed[k], true_map, fold)
        for name, value in figures.items():
            columns.setdefault(name, []).append(value)
    return {
        **columns,
        **summarise(errors.rotation_deg, errors.shift_voxels),
        "accuracy": agreement.accuracy, "f1": agreement.f1_mean,
        "confusion": agreement.confusion, "n_classes_found": len(np.unique(answer.class_index)),
        "core_s": answer.child.cpu_s, "iterations": answer.n_iterations,
    }, superposed


def judge_average(
    average: FloatArray | None, true_map: FloatArray, voxel_size_angst: float
) -> tuple[dict[str, float], FloatArray]:
    """Return the figures of one average beside its true map, and the average laid on it.

    cc: Pearson's correlation in a soft sphere of 0.42 n; cc_box: over the whole box; cc_detail: in
    the sphere, radial means removed; cc_mirrored: cc of the mirror image; fsc_angst: where the FSC
    with the true map in the sphere falls to 0.5.
    """
    names = ("cc", "cc_box", "cc_detail", "cc_mirrored", "fsc_angst")
    if average is None or not average.any():
        return dict.fromkeys(names, 0.0) | {"fsc_angst": float("inf")}, np.zeros_like(true_map)
    found: dict[str, Similarity] = {
        hand: similarity(average, true_map, hand) for hand in ("same", "mirrored")}
    same = found["same"]
    mask = evaluation_mask(true_map.shape[0])
    curve = fourier_shell_correlation(same.superposed, true_map, mask)
    values = (
        same.masked_correlation, correlation(same.superposed, true_map),
        same.correlation_without_radial_mean, found["mirrored"].masked_correlation,
        resolution_angst(curve, true_map.shape[0], voxel_size_angst, 0.5),
    )
    return dict(zip(names, values, strict=True)), same.superposed


def _self_correlations(
    superposed: FloatArray, true_map: FloatArray, fold: int
) -> dict[str, float]:
    """Mean correlation of all pairs of n copies turned about z (Sec. 3.2.3), and of the truth's.

    The structures' main axes lie along z, and so does that of an average laid on its structure.
    `fold_detail` leaves out what every turn leaves in place: a smooth tube or ring would reach 1
    without it.
    """
    out = {}
    for name, volume in (("fold", superposed), ("fold_truth", true_map)):
        is_empty = not volume.any()
        out[name] = 0.0 if is_empty else self_correlation(volume, fold)
        detail = volume - _axial_mean(volume)
        out[f"{name}_detail"] = 0.0 if is_empty else self_correlation(detail, fold)
    return out


def _axial_mean(volume: FloatArray) -> FloatArray:
    """Mean over turns about z, none of them a turn of a symmetry but the identity."""
    total = np.zeros(volume.shape)
    for turn in range(N_TURNS):
        rotation = rotation_about((0, 0, 1), 360.0 * turn / N_TURNS)[None]
        total += move_map(volume, RigidTransforms.from_rotation(rotation, np.zeros((1, 3))))
    return (total / N_TURNS).astype(np.float32)
