"""What is imposed on averages: the symmetry of a point group, and a mask.

A structure of symmetry G looks the same from R and from R g, for every g of G. Sums over particles
turned back are therefore summed over G too, signal and coverage apart, before they are divided: a
sample that one copy of the structure missed is filled by another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scipion_faml.cython_ext import _local
from scipion_faml.fourier import (
    OVERSAMPLING,
    SampleSet,
    crop_half,
    spectrum,
    turnable_spectrum,
    volume_from_spectrum,
)
from scipion_faml.geometry import RigidTransforms
from scipion_faml.types import ComplexArray, FloatArray, IntArray
from scipion_faml.volume import inscribed_sphere, soft_sphere

OUTSIDE = 0.05  # values of a mask below: its soft edge still holds the particle
LEAST_OUTSIDE = 0.01  # of the ball: a mask that leaves less shows no background
SMALLEST_COVERAGE = 0.05  # of the class's weight


# ------------------------------------------------------------------------------------- symmetry
def moved_mean(
    turnable: ComplexArray, samples: SampleSet, poses: RigidTransforms
) -> ComplexArray:
    """Return the mean over poses of a map moved by each, at the samples, (J,) complex128.

    Parameters
    ----------
    turnable : the map's turnable spectrum
    poses : each carries a point r of the map to R r + t
    """
    return moved_by(turnable, samples, poses.rotation, poses.shift_xyz)


def moved_by(
    turnable: ComplexArray, samples: SampleSet, rotations: FloatArray, shifts_xyz: FloatArray
) -> ComplexArray:
    """Return `moved_mean` of rotations (M, 3, 3) and shifts (M, 3)."""
    out = np.zeros(len(samples), dtype=np.complex128)
    # The kernel moves particles back: by the inverse of a pose.
    rotation = np.swapaxes(rotations, 1, 2)
    shift_xyz = -np.einsum("mij,mj->mi", rotation, shifts_xyz)
    _local.add_turned_back(
        turnable, float(OVERSAMPLING), samples.axes, float(samples.n),
        np.ascontiguousarray(rotation), np.ascontiguousarray(shift_xyz),
        np.full(len(rotation), 1.0 / len(rotation)), out,
    )
    return out


def symmetrised(
    values: ComplexArray, origin: float, samples: SampleSet, rotations: FloatArray
) -> ComplexArray:
    """Return the mean over rotations (G, 3, 3) of a spectrum (J,), its value at 0 given."""
    half = np.asarray(samples.put(np.asarray(values, dtype=np.complex64)))
    half[0, 0, 0] = origin  # the samples leave it out, but what lies between samples needs it
    turnable = turnable_spectrum(volume_from_spectrum(half, samples.n), samples.radius)
    poses = RigidTransforms.from_rotation(rotations, np.zeros((len(rotations), 3)))
    return moved_mean(turnable, samples, poses)


def symmetrised_sums(
    signal: ComplexArray, coverage: FloatArray, weight: float, samples: SampleSet,
    rotations: FloatArray,
) -> tuple[ComplexArray, FloatArray]:
    """Return sums (J,) of particles turned back, averaged over a group of rotations (G, 3, 3).

    Parameters
    ----------
    signal, coverage : sum gamma R^-1 (w X) and sum gamma R^-1 w of one class
    weight : sum gamma; the coverage at frequency 0
    """
    turned = symmetrised(signal, 0.0, samples, rotations)
    filled = symmetrised(coverage.astype(np.complex64), weight, samples, rotations).real
    of_origin = symmetrised(np.zeros_like(signal), 1.0, samples, rotations)
    floored = np.maximum(filled, SMALLEST_COVERAGE * weight + np.finfo(float).tiny)
    # The samples lack frequency 0 of the signal. With the right value nothing surrounds the
    # particle: level(turned) + value level(of_origin) + value / (n^3 weight) = 0.
    level, per_unit = (
        rim_level(volume_from_spectrum(np.asarray(samples.put(v / floored)), samples.n))
        for v in (turned, of_origin)
    )
    origin = -level / (per_unit + 1.0 / (samples.n**3 * max(weight, 1e-12)))
    return turned + origin * of_origin, filled


def representatives(poses: RigidTransforms, rotations: FloatArray) -> RigidTransforms:
    """Return, of the poses R g of a symmetric structure, those with the smallest turns.

    One pose of every set of equivalent ones, whichever was given.
    """
    if len(rotations) == 1:
        return poses
    rotation = poses.rotation
    trace = np.einsum("mij,gji->mg", rotation, rotations)
    return RigidTransforms.from_rotation(
        rotation @ rotations[trace.argmax(axis=1)], poses.shift_xyz)


def representatives_of_classes(
    poses: RigidTransforms, class_index: IntArray, groups: Sequence[FloatArray]
) -> RigidTransforms:
    """Return `representatives` where every class has a group of its own."""
    if all(len(group) == 1 for group in groups):
        return poses
    rotation: FloatArray = np.array(poses.rotation)
    for k, group in enumerate(groups):
        mine = np.flatnonzero(class_index == k)
        rotation[mine] = representatives(poses[mine], group).rotation
    return RigidTransforms.from_rotation(rotation, poses.shift_xyz)


def turn_between_deg(
    first: FloatArray, second: FloatArray, rotations: FloatArray
) -> FloatArray:
    """Return the smallest angle (deg) between R1 g and R2 over the group; (M, 3, 3) each, (M,)."""
    relative = np.swapaxes(first, 1, 2) @ second
    trace = np.einsum("gji,mji->mg", rotations, relative).max(axis=1)
    return np.rad2deg(np.arccos(np.clip(0.5 * (trace - 1.0), -1.0, 1.0)))


def inequivalent(
    poses: RigidTransforms, rotations: FloatArray, min_turn_deg: float, min_move: float,
    n_best: int,
) -> IntArray:
    """Return indices of up to n_best poses that are no symmetric copies of an earlier one.

    Two poses are copies when some g of the group leaves a turn below `min_turn_deg` between R1 g
    and R2, and their shifts differ by less than `min_move`.
    """
    rotation, kept = poses.rotation, [0] if len(poses) else []
    for m in range(1, len(poses)):
        if len(kept) == n_best:
            break
        others = np.broadcast_to(rotation[m], (len(kept), 3, 3))
        turn = turn_between_deg(rotation[kept], others, rotations)
        moved = np.linalg.norm(poses.shift_xyz[kept] - poses.shift_xyz[m], axis=1)
        if not np.any((turn < min_turn_deg) & (moved < min_move)):
            kept.append(m)
    return np.array(kept, dtype=np.intp)


# ----------------------------------------------------------------------------------------- masks
def rim_level(volume: FloatArray, voxels: float = 3.0) -> float:
    """Return the mean of a volume in the outer part of its ball, whose edge has `voxels`."""
    n = volume.shape[0]
    inner = n / 2 - voxels
    rim = soft_sphere(n, inner, voxels) - soft_sphere(n, 0.85 * inner, voxels)
    return float(np.vdot(rim, volume) / max(float(rim.sum()), 1e-6))


def check_mask(mask: FloatArray, name: str) -> FloatArray:
    """Return a mask (n, n, n) float32 in [0, 1] after checking it.

    Raises
    ------
    ValueError
        If values lie far outside [0, 1], or nothing is left.
    """
    low, high = float(mask.min()), float(mask.max())
    if low < -0.2 or high > 1.2:  # resampling makes a sharp edge swing by a tenth
        raise ValueError(
            f"{name} holds values from {low:g} to {high:g}: a mask lies between 0 and 1, "
            "scale it")
    clipped = np.clip(mask, 0.0, 1.0).astype(np.float32)
    if float((clipped * inscribed_sphere(mask.shape[0])).max()) < 0.5:
        raise ValueError(f"{name} leaves nothing of the box: it must be 1 around the centre")
    return clipped


def masked(volume: FloatArray, mask: FloatArray, edge: float = 3.0) -> FloatArray:
    """Return the volume within a mask (n, n, n), its background level removed first.

    The level is what lies outside the mask; averages are known but for their mean. Nothing is left
    beyond the inscribed ball, whose soft edge has `edge` voxels.
    """
    n = volume.shape[0]
    ball = soft_sphere(n, n / 2 - edge, edge)
    outside = ball * (mask < OUTSIDE)
    if float(outside.sum()) > LEAST_OUTSIDE * float(ball.sum()):
        level = float(np.vdot(outside, volume) / outside.sum())
    else:
        level = rim_level(volume, edge)
    return ((volume - level) * mask * ball).astype(np.float32)


def mask_at(mask: FloatArray, n: int) -> FloatArray:
    """Return a mask (n_full, n_full, n_full) in a box of n voxels of the same field of view."""
    n_full = mask.shape[0]
    if n == n_full:
        return mask
    volume = volume_from_spectrum(crop_half(spectrum(mask), n), n) * (n / n_full) ** 3
    return np.clip(volume, 0.0, 1.0).astype(np.float32)
