"""Errors of poses, modulo the symmetry of the structure and the frame of the average.

A pose T = (R, t) carries a point r of the map onto R r + t. An average may come out turned and
shifted as a whole against the true map, so estimates obey E_i = T_i s_i F with one unknown motion
F(r) = R_F (r - q) for all particles (average to map; q is where the particle's centre lies in the
average), and a rotation s_i of the point group each. Then T_i^-1 E_i = s_i F, from which F is found
even when few particles are right. The errors that remain are

    rotation:  the angle between R_Ei and R_Ti s_i R_F, smallest over s_i,
    shift:     |E_i(q) - T_i(0)|: how far off the particle's centre is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipion_faml.geometry import RigidTransforms, matrix_to_euler, rotation_angle_deg
from scipion_faml.types import BoolArray, FloatArray, IntArray

INLIER_DEG = 10.0  # width of the vote that finds the frame
MAX_FRAMES_TRIED = 400
MIN_FOR_FRAME = 5  # a frame from fewer particles would fit their errors


@dataclass(frozen=True, eq=False)
class GlobalFrame:
    """How an average lies against the true map: average point r is map point R (r - centre)."""

    rotation: FloatArray  # (3, 3)
    centre_xyz: FloatArray  # (3,) voxels, the map's centre in the average

    @staticmethod
    def identity() -> GlobalFrame:
        """The frame of an average that lies as the map does."""
        return GlobalFrame(np.eye(3), np.zeros(3))

    @property
    def angle_deg(self) -> float:
        """By how much the average is turned."""
        return float(rotation_angle_deg(np.eye(3), self.rotation))

    @property
    def euler_zyz_deg(self) -> FloatArray:
        """ZYZ angles of the rotation (deg)."""
        return np.rad2deg(matrix_to_euler(self.rotation))


@dataclass(frozen=True, eq=False)
class PoseErrors:
    """Errors of N poses; NaN where no frame could be found for a particle's class."""

    rotation_deg: FloatArray  # (N,)
    shift_voxels: FloatArray  # (N,)
    frames: dict[tuple[int, int], GlobalFrame]  # by (assigned class, true class)


def find_frame(
    estimated: RigidTransforms, true: RigidTransforms, symmetry: FloatArray
) -> GlobalFrame:
    """Return the motion that explains most estimates as turned and shifted truths.

    Parameters
    ----------
    estimated, true : RigidTransforms
        N poses each, shifts in the same voxels.
    symmetry : (G, 3, 3)
        Rotations of the map's point group.

    Every particle proposes its own R_Ti^-1 R_Ei; the one that most others agree with (a vote of
    Gaussian width 10 deg, so that wrong poses weigh nothing) is refined by averaging its inliers.
    """
    relative = np.swapaxes(true.rotation, 1, 2) @ estimated.rotation  # s_i R_F
    rotation = _refined(_most_voted(relative, symmetry), relative, symmetry)
    centre = np.einsum(
        "mji,mj->mi", estimated.rotation, true.shift_xyz - estimated.shift_xyz
    )  # q of every particle: E_i(q) = t_i
    inlier = _smallest_angles(relative, rotation, symmetry)[0] < 2 * INLIER_DEG
    return GlobalFrame(rotation, _robust_mean(centre[inlier] if inlier.any() else centre))


def _most_voted(relative: FloatArray, symmetry: FloatArray) -> FloatArray:
    """The proposal (3, 3) that most particles agree with."""
    n_tried = min(len(relative), MAX_FRAMES_TRIED)
    tried = relative[np.linspace(0, len(relative) - 1, n_tried).astype(np.intp)]
    votes = [
        np.exp(-0.5 * (_smallest_angles(relative, frame, symmetry)[0] / INLIER_DEG) ** 2).sum()
        for frame in tried
    ]
    best: FloatArray = tried[int(np.argmax(votes))]
    return best


def _smallest_angles(
    relative: FloatArray, frame: FloatArray, symmetry: FloatArray
) -> tuple[FloatArray, IntArray]:
    """Angle (deg) of every relative_i against s_i frame, smallest over s_i, and which s_i."""
    copies = symmetry @ frame
    trace = relative.reshape(-1, 9) @ copies.reshape(-1, 9).T
    best = trace.argmax(axis=1)
    return rotation_angle_deg(copies[best], relative), best


def _refined(frame: FloatArray, relative: FloatArray, symmetry: FloatArray) -> FloatArray:
    """The frame averaged over the particles that agree with it, weighted by how well they do."""
    for _ in range(10):
        angle, best = _smallest_angles(relative, frame, symmetry)
        weight = np.exp(-0.5 * (angle / INLIER_DEG) ** 2)
        aligned = np.swapaxes(symmetry[best], 1, 2) @ relative
        frame = nearest_rotation(np.einsum("m,mij->ij", weight, aligned))
    return frame


def nearest_rotation(matrix: FloatArray) -> FloatArray:
    """Return the rotation nearest to a matrix (3, 3) in the Frobenius norm (Kabsch)."""
    left, _, right = np.linalg.svd(matrix)
    flip = np.diag([1.0, 1.0, np.linalg.det(left) * np.linalg.det(right)])
    nearest: FloatArray = left @ flip @ right
    return nearest


def _robust_mean(points: FloatArray) -> FloatArray:
    """Mean of points (N, 3) that outliers do not pull: geometric median by Weiszfeld's steps."""
    centre: FloatArray = np.median(points, axis=0)
    for _ in range(50):
        weight = 1.0 / np.maximum(np.linalg.norm(points - centre, axis=1), 1e-3)
        centre = weight @ points / weight.sum()
    return centre


def errors_in_frame(
    estimated: RigidTransforms, true: RigidTransforms, frame: GlobalFrame, symmetry: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return rotation errors (deg) and shift errors (voxels) of N poses in a known frame."""
    relative = np.swapaxes(true.rotation, 1, 2) @ estimated.rotation
    angle, _ = _smallest_angles(relative, frame.rotation, symmetry)
    centre = estimated.rotation @ frame.centre_xyz + estimated.shift_xyz
    return angle, np.linalg.norm(centre - true.shift_xyz, axis=1)


def pose_errors(
    estimated: RigidTransforms,
    true: RigidTransforms,
    symmetry: dict[int, FloatArray],
    true_class: IntArray,
    assigned_class: IntArray,
    is_frame_known: bool = False,
) -> PoseErrors:
    """Return the errors of N poses whose particles belong to classes.

    Each pair of assigned and true class has its own frame: every average lies as it likes, and so
    does every true map. Pairs of fewer than five particles have none unless `is_frame_known`
    (averages lie as the maps do).

    Parameters
    ----------
    estimated, true : RigidTransforms
        N poses, shifts in voxels of the same box.
    symmetry : dict
        True class -> rotations (G, 3, 3) of its point group.
    true_class, assigned_class : (N,) int
    is_frame_known : bool
        Take all averages to lie as the true maps do.

    Raises
    ------
    ValueError
        If lengths differ.
    """
    lengths = {len(estimated), len(true), len(true_class), len(assigned_class)}
    if len(lengths) != 1:
        raise ValueError(f"{len(estimated)} estimated poses but {len(true)} true ones")
    rotation_deg = np.full(len(true), np.nan)
    shift_voxels = np.full(len(true), np.nan)
    frames: dict[tuple[int, int], GlobalFrame] = {}
    for assigned, actual in sorted(set(zip(assigned_class.tolist(), true_class.tolist(),
                                           strict=True))):
        member: BoolArray = (assigned_class == assigned) & (true_class == actual)
        few = member.sum() < min(MIN_FOR_FRAME, len(true))
        if few and not is_frame_known:
            continue
        some_estimated, some_true = (p[np.flatnonzero(member)] for p in (estimated, true))
        group = symmetry[actual]
        frame = (
            GlobalFrame.identity() if is_frame_known
            else find_frame(some_estimated, some_true, group)
        )
        frames[assigned, actual] = frame
        rotation_deg[member], shift_voxels[member] = errors_in_frame(
            some_estimated, some_true, frame, group
        )
    return PoseErrors(rotation_deg, shift_voxels, frames)


def chance_fraction(angle_deg: float, order: int) -> float:
    """Return the share of random rotations within `angle_deg` of the truth for a point group.

    (theta - sin theta) / pi for each of `order` rotations that count as right.
    """
    theta = np.deg2rad(angle_deg)
    return float(min(1.0, order * (theta - np.sin(theta)) / np.pi))


def summarise(rotation_deg: FloatArray, shift_voxels: FloatArray) -> dict[str, float | int]:
    """Return medians, 90 % quantiles and fractions of the errors that are not NaN."""
    rotation = rotation_deg[np.isfinite(rotation_deg)]
    shift = shift_voxels[np.isfinite(shift_voxels)]
    is_empty = not len(rotation)

    def quantile(values: FloatArray, q: float) -> float:
        return float("nan") if is_empty else float(np.quantile(values, q))

    def fraction(limit_deg: float) -> float:
        return float("nan") if is_empty else float(np.mean(rotation <= limit_deg))

    return {
        "rotation_median_deg": quantile(rotation, 0.5),
        "rotation_q90_deg": quantile(rotation, 0.9),
        "shift_median_voxels": quantile(shift, 0.5),
        "shift_q90_voxels": quantile(shift, 0.9),
        "fraction_within_10_deg": fraction(10.0),
        "fraction_within_20_deg": fraction(20.0),
        "n_particles": len(rotation),
    }
