"""Rotations and poses: Euler angles, matrices, composition, distances (docs/CONVENTIONS.md).

A pose rotates about the box centre by R = Rz(alpha) Ry(beta) Rz(gamma) (active, right-handed), then
shifts by t: a point r of the average lands on R r + t in the subtomogram. Vectors are (x, y, z).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scipion_faml.types import BoolArray, FloatArray, IntArray


def euler_to_matrix(euler_zyz: FloatArray) -> FloatArray:
    """Return R = Rz(alpha) Ry(beta) Rz(gamma), (..., 3, 3), for angles (..., 3) in rad."""
    euler_zyz = np.asarray(euler_zyz, dtype=np.float64)
    (ca, cb, cg), (sa, sb, sg) = (
        np.moveaxis(np.cos(euler_zyz), -1, 0),
        np.moveaxis(np.sin(euler_zyz), -1, 0),
    )
    rows = [
        [ca * cb * cg - sa * sg, -ca * cb * sg - sa * cg, ca * sb],
        [sa * cb * cg + ca * sg, -sa * cb * sg + ca * cg, sa * sb],
        [-sb * cg, sb * sg, cb],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_euler(matrix: FloatArray) -> FloatArray:
    """Return ZYZ angles (..., 3) in rad of matrices (..., 3, 3); gamma = 0 at the poles."""
    m = np.asarray(matrix, dtype=np.float64)
    sin_beta = np.hypot(m[..., 0, 2], m[..., 1, 2])
    beta = np.arctan2(sin_beta, m[..., 2, 2])
    alpha = np.arctan2(m[..., 1, 2], m[..., 0, 2])
    gamma = np.arctan2(m[..., 2, 1], -m[..., 2, 0])
    # At beta = 0 only alpha + gamma is defined, at beta = pi only alpha - gamma.
    is_pole = sin_beta < 1e-9
    sign = np.where(m[..., 2, 2] > 0, 1.0, -1.0)
    alpha = np.where(is_pole, np.arctan2(sign * m[..., 1, 0], sign * m[..., 0, 0]), alpha)
    gamma = np.where(is_pole, 0.0, gamma)
    return np.stack([alpha, beta, gamma], axis=-1)


def rotation_from_vector(vector: FloatArray) -> FloatArray:
    """Return the rotations (..., 3, 3) by |vector| rad about the vectors (..., 3) (Rodrigues)."""
    vector = np.asarray(vector, dtype=np.float64)
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    axis = vector / np.maximum(angle[..., 0], np.finfo(float).tiny)
    x, y, z = np.moveaxis(axis, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack(
        [np.stack(row, axis=-1) for row in ([zero, -z, y], [z, zero, -x], [-y, x, zero])], axis=-2
    )
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross


@dataclass(frozen=True, eq=False)
class RigidTransforms:
    """M poses: rotate about the box centre by `euler_zyz` (rad), then shift by `shift_xyz`."""

    euler_zyz: FloatArray  # (M, 3)
    shift_xyz: FloatArray  # (M, 3) voxels

    def __post_init__(self) -> None:
        for name in ("euler_zyz", "shift_xyz"):
            object.__setattr__(self, name, np.atleast_2d(np.asarray(getattr(self, name), float)))
        if self.euler_zyz.shape != self.shift_xyz.shape or self.euler_zyz.shape[1:] != (3,):
            raise ValueError(
                f"need two (M, 3) arrays, got {self.euler_zyz.shape}, {self.shift_xyz.shape}"
            )

    def __len__(self) -> int:
        return len(self.euler_zyz)

    def __getitem__(self, index: slice | IntArray | BoolArray | list[int]) -> RigidTransforms:
        return RigidTransforms(self.euler_zyz[index], self.shift_xyz[index])

    @property
    def rotation(self) -> FloatArray:
        """Rotation matrices (M, 3, 3)."""
        return euler_to_matrix(self.euler_zyz)

    @staticmethod
    def from_rotation(rotation: FloatArray, shift_xyz: FloatArray) -> RigidTransforms:
        """Return the poses with rotation matrices (M, 3, 3) and shifts (M, 3)."""
        return RigidTransforms(matrix_to_euler(rotation), shift_xyz)

    @staticmethod
    def identity(n_poses: int) -> RigidTransforms:
        """Return `n_poses` poses that move nothing."""
        return RigidTransforms(np.zeros((n_poses, 3)), np.zeros((n_poses, 3)))

    @staticmethod
    def concatenate(parts: Sequence[RigidTransforms]) -> RigidTransforms:
        """Return all poses of `parts` in one table, in order."""
        if not parts:
            return RigidTransforms(np.zeros((0, 3)), np.zeros((0, 3)))
        return RigidTransforms(
            np.concatenate([p.euler_zyz for p in parts]),
            np.concatenate([p.shift_xyz for p in parts]),
        )


def compose(second: RigidTransforms, first: RigidTransforms) -> RigidTransforms:
    """Return the poses that apply `first`, then `second` (both of length M, or one of length 1)."""
    rotation = second.rotation
    moved = np.matmul(rotation, first.shift_xyz[:, :, None])[:, :, 0]
    return RigidTransforms.from_rotation(rotation @ first.rotation, moved + second.shift_xyz)


def invert(transforms: RigidTransforms) -> RigidTransforms:
    """Return the inverse poses: compose(invert(p), p) is the identity."""
    inverse = np.swapaxes(transforms.rotation, 1, 2)
    return RigidTransforms.from_rotation(
        inverse, -np.einsum("mij,mj->mi", inverse, transforms.shift_xyz)
    )


def rotation_angle_deg(rotation_1: FloatArray, rotation_2: FloatArray) -> FloatArray:
    """Return the angle (deg) of rotation_1^T rotation_2; (..., 3, 3) each, broadcast."""
    # atan2 of both parts keeps digits near 0 and 180 deg, where arccos of the trace loses them.
    relative = np.swapaxes(rotation_1, -1, -2) @ rotation_2
    trace = np.trace(relative, axis1=-2, axis2=-1)
    axis = np.stack(
        [
            relative[..., 2, 1] - relative[..., 1, 2],
            relative[..., 0, 2] - relative[..., 2, 0],
            relative[..., 1, 0] - relative[..., 0, 1],
        ],
        axis=-1,
    )
    return np.rad2deg(np.arctan2(np.linalg.norm(axis, axis=-1), trace - 1.0))


def squared_pose_distance(
    first: RigidTransforms, second: RigidTransforms, translation_weight: float = 1.0
) -> FloatArray:
    """Return tau^2 of Eq. 5 for every pair: (len(first), len(second)).

    tau^2 = ||I - R1^T R2||_F^2 + translation_weight ||t1 - t2||^2. Its first term is
    6 - 2 tr(R1^T R2), its second |t1|^2 + |t2|^2 - 2 t1 . t2: all pairs are one matrix product.
    """
    scale = np.sqrt(translation_weight)
    joined = [
        np.concatenate([p.rotation.reshape(-1, 9), scale * p.shift_xyz], axis=1)
        for p in (first, second)
    ]
    product = joined[0] @ joined[1].T
    squared = [translation_weight * np.sum(p.shift_xyz**2, axis=1) for p in (first, second)]
    constant = 6.0 + squared[0][:, None] + squared[1]
    return np.maximum(constant - 2.0 * product, 0.0)


def apart(
    rotation: FloatArray, shift_xyz: FloatArray, min_turn_deg: float, min_move: float, n_best: int
) -> IntArray:
    """Return indices of up to n_best poses, in order, none at the place of one before it.

    Two poses (M, 3, 3) and (M, 3) are at one place when they differ by less than a turn and by
    less than a move.
    """
    # The trace of R1^T R2 is 1 + 2 cos(angle).
    smallest_trace = 1.0 + 2.0 * np.cos(np.deg2rad(min_turn_deg))
    kept: list[int] = []
    for m in range(len(rotation)):
        if len(kept) == n_best:
            break
        trace = np.einsum("kij,ij->k", rotation[kept], rotation[m])
        moved = np.sum((shift_xyz[kept] - shift_xyz[m]) ** 2, axis=1)
        if not np.any((trace > smallest_trace) & (moved < min_move**2)):
            kept.append(m)
    return np.array(kept, dtype=np.intp)


def keep_better(n_items: int, pairs: IntArray) -> BoolArray:
    """Return which of the items, given best first, stay if of two that are a pair one must go.

    Greedy: the worse one goes, unless the better one has gone for an even better one.

    Parameters
    ----------
    n_items : int
    pairs : (P, 2) positions of items that are too close together, in any order
    """
    is_kept = np.ones(n_items, dtype=bool)
    ordered = np.sort(pairs, axis=1)
    for better, worse in ordered[np.argsort(ordered[:, 0], kind="stable")].tolist():
        if is_kept[better]:
            is_kept[worse] = False
    return is_kept


def random_rotations(n_rotations: int, rng: np.random.Generator) -> FloatArray:
    """Return ZYZ angles (n, 3) in rad, uniform over rotations (Haar measure)."""
    angles = rng.uniform(0.0, 1.0, (n_rotations, 3))
    return np.stack(
        [
            2 * np.pi * angles[:, 0],
            np.arccos(1.0 - 2.0 * angles[:, 1]),
            2 * np.pi * angles[:, 2],
        ],
        axis=-1,
    )


def covering_rotations(step_deg: float) -> FloatArray:
    """Return ZYZ angles (M, 3) in rad that cover SO(3) evenly, about `step_deg` apart.

    Super-Fibonacci spirals (Alexa, CVPR 2022): a low-discrepancy sequence on the quaternion sphere.
    SO(3) has a volume of 8 pi^2 rad^3, and each rotation is given step^3 of it.
    """
    step = np.deg2rad(step_deg)
    if not 0 < step <= np.pi:
        raise ValueError(f"angular step {step_deg:g} deg: choose one between 0 and 180")
    n_rotations = int(np.ceil(8.0 * np.pi**2 / step**3))
    s = np.arange(n_rotations) + 0.5
    t = s / n_rotations
    first, second = 2 * np.pi * s / np.sqrt(2.0), 2 * np.pi * s / 1.533751168755204288118041
    r, q = np.sqrt(t), np.sqrt(1.0 - t)
    # The quaternion (r sin a, r cos a, q sin b, q cos b) in ZYZ angles: its pairs give
    # tan(beta / 2), (alpha + gamma) / 2 and (alpha - gamma) / 2 directly.
    beta = 2.0 * np.arctan2(r, q)
    half_sum, half_difference = second, first
    return np.stack([half_sum + half_difference, beta, half_sum - half_difference], axis=-1)


def relion_angles_deg(transforms: RigidTransforms) -> FloatArray:
    """Return (rot, tilt, psi) in deg, (M, 3): RELION turns the particle onto the reference."""
    return np.rad2deg(matrix_to_euler(np.swapaxes(transforms.rotation, 1, 2)))


def relion_origin_angst(transforms: RigidTransforms, voxel_size_angst: float) -> FloatArray:
    """Return rlnOriginX/Y/ZAngst, (M, 3): the particle's centre is at -origin in its box."""
    return -transforms.shift_xyz * voxel_size_angst


def from_relion(
    angles_deg: FloatArray, origin_angst: FloatArray, voxel_size_angst: float
) -> RigidTransforms:
    """Return the poses of RELION's (rot, tilt, psi) in deg and origins in angstrom, (M, 3) each."""
    rotation = np.swapaxes(euler_to_matrix(np.deg2rad(np.atleast_2d(angles_deg))), 1, 2)
    return RigidTransforms.from_rotation(
        rotation, -np.atleast_2d(np.asarray(origin_angst, float)) / voxel_size_angst
    )


def scipion_matrices(transforms: RigidTransforms) -> FloatArray:
    """Return Scipion's 4x4 matrices (M, 4, 4): the inverse of [R | t], subtomogram to average."""
    matrices = np.tile(np.eye(4), (len(transforms), 1, 1))
    inverse = invert(transforms)
    matrices[:, :3, :3], matrices[:, :3, 3] = inverse.rotation, inverse.shift_xyz
    return matrices


def from_scipion_matrices(matrices: FloatArray) -> RigidTransforms:
    """Return the poses of Scipion's matrices (M, 4, 4)."""
    matrices = np.asarray(matrices, float).reshape(-1, 4, 4)
    return invert(RigidTransforms.from_rotation(matrices[:, :3, :3], matrices[:, :3, 3]))
