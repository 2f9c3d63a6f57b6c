"""Poses in the conventions of Dynamo, TOM / AV3, PEET, EMAN2 and RELION's local frames.

A pose of ours is (R, t): a point r of the average lands on R r + t in the subtomogram, about voxel
n // 2, R = Rz(alpha) Ry(beta) Rz(gamma), active, shifts in voxels. Every function says its format's
convention as an equation with this R and t.
"""

from __future__ import annotations

import numpy as np

from scipion_faml.geometry import (
    RigidTransforms,
    euler_to_matrix,
    from_scipion_matrices,
    matrix_to_euler,
    scipion_matrices,
)
from scipion_faml.types import FloatArray


# ------------------------------------------------------------------------------- z-x-z angles
def zxz_angles_deg(rotation: FloatArray) -> FloatArray:
    """Return (first, second, third) in deg, (M, 3): rotation = Rz(third) Rx(second) Rz(first).

    Ry(b) = Rz(90) Rx(b) Rz(-90), so Rz(a) Ry(b) Rz(g) = Rz(a + 90) Rx(b) Rz(g - 90).
    """
    alpha, beta, gamma = np.rad2deg(matrix_to_euler(rotation)).T
    return np.stack([_wrapped(gamma - 90.0), beta, _wrapped(alpha + 90.0)], axis=-1)


def zxz_matrices(angles_deg: FloatArray) -> FloatArray:
    """Return Rz(third) Rx(second) Rz(first), (M, 3, 3), for angles (M, 3) in deg."""
    first, second, third = np.atleast_2d(np.asarray(angles_deg, dtype=float)).T
    return euler_to_matrix(np.deg2rad(np.stack([third - 90.0, second, first + 90.0], axis=-1)))


def _wrapped(angle_deg: FloatArray) -> FloatArray:
    """The same angles in [-180, 180)."""
    return (angle_deg + 180.0) % 360.0 - 180.0


# ------------------------------------------------------------------------------------- Dynamo
def dynamo_pose(poses: RigidTransforms) -> tuple[FloatArray, FloatArray]:
    """Return Dynamo's (tdrot, tilt, narot) in deg and (dx, dy, dz) in voxels, (M, 3) each.

    R^T = Rz(narot) Rx(tilt) Rz(tdrot), d = t: the template, turned clockwise about z, its new x and
    its new z, and then moved by d, lies on the particle (Dynamo wiki, "Euler angles convention").
    """
    return zxz_angles_deg(np.swapaxes(poses.rotation, 1, 2)), poses.shift_xyz


def from_dynamo(angles_deg: FloatArray, shift_xyz: FloatArray) -> RigidTransforms:
    """Return the poses of Dynamo's angles (deg) and shifts (voxels): inverse of `dynamo_pose`."""
    return RigidTransforms.from_rotation(
        np.swapaxes(zxz_matrices(angles_deg), 1, 2), np.atleast_2d(shift_xyz))


# ---------------------------------------------------------------------- TOM / AV3, and PEET
def motl_pose(poses: RigidTransforms) -> tuple[FloatArray, FloatArray]:
    """Return (phi, theta, psi) in deg and the shifts of columns 11-13 in voxels, (M, 3) each.

    R = Rz(psi) Rx(theta) Rz(phi), shift = t: the reference is turned, then shifted, to lie on the
    particle. PEET's motive list is the same with EulerZ(1) = phi, EulerX(2) = theta and
    EulerZ(3) = psi, and offsets from the model point to the particle's centre.
    """
    return zxz_angles_deg(poses.rotation), poses.shift_xyz


def from_motl(angles_deg: FloatArray, shift_xyz: FloatArray) -> RigidTransforms:
    """Return the poses of (phi, theta, psi) in deg and shifts in voxels: inverse of `motl_pose`."""
    return RigidTransforms.from_rotation(zxz_matrices(angles_deg), np.atleast_2d(shift_xyz))


# -------------------------------------------------------------------------------------- EMAN2
def eman_matrices(poses: RigidTransforms) -> FloatArray:
    """Return the 12 numbers of `xform.align3d`, (M, 12): rows of [R^T | -R^T t].

    EMAN2's transform takes the particle onto the reference, r_ref = R^T r - R^T t, shifts in
    voxels after the rotation; libEM turns volumes about voxel n // 2. It is Scipion's matrix.
    """
    return scipion_matrices(poses)[:, :3, :].reshape(-1, 12)


def from_eman(matrices: FloatArray) -> RigidTransforms:
    """Return the poses of `xform.align3d` matrices (M, 12)."""
    full = np.tile(np.eye(4), (len(matrices), 1, 1))
    full[:, :3, :] = np.asarray(matrices, dtype=float).reshape(-1, 3, 4)
    return from_scipion_matrices(full)


# ---------------------------------------------------------------- local frames of RELION 4 and 5
def frame_matrices(angles_deg: FloatArray) -> FloatArray:
    """Return A_s, (M, 3, 3), of rlnTomoSubtomogramRot, Tilt, Psi (M, 3) in deg.

    A_s = (Rz(rot) Ry(tilt) Rz(psi))^T takes a vector of the subtomogram's own frame into the
    tomogram's frame.
    """
    return np.swapaxes(euler_to_matrix(np.deg2rad(np.atleast_2d(angles_deg))), 1, 2)


def frame_angles_deg(frames: FloatArray) -> FloatArray:
    """Return rlnTomoSubtomogramRot, Tilt, Psi (M, 3) in deg of frames A_s (M, 3, 3)."""
    return np.rad2deg(matrix_to_euler(np.swapaxes(frames, 1, 2)))


def in_tomogram_frame(poses: RigidTransforms, frames: FloatArray) -> RigidTransforms:
    """Return poses given in the subtomograms' frames A_s as poses in the tomograms' frame.

    R_tomogram = A_s R, t_tomogram = A_s t (RELION's getMatrix3x3 and getPosition).
    """
    return RigidTransforms.from_rotation(
        frames @ poses.rotation, np.einsum("mij,mj->mi", frames, poses.shift_xyz))


def in_subtomogram_frame(poses: RigidTransforms, frames: FloatArray) -> RigidTransforms:
    """Return poses given in the tomograms' frame in the frames A_s: R = A_s^T R, t = A_s^T t."""
    return in_tomogram_frame(poses, np.swapaxes(frames, 1, 2))


# ---------------------------------------------------------------------------------- positions
def centred_angst(
    position_xyz: FloatArray, size_xyz: FloatArray, voxel_size_angst: float
) -> FloatArray:
    """Return rlnCenteredCoordinateX/Y/ZAngst, (N, 3): (position - size / 2) voxel size.

    Positions are voxels of the tomogram, its first voxel 0. RELION 5 halves the size without
    rounding it: the centre of an odd tomogram lies between two voxels.
    """
    return (np.asarray(position_xyz) - np.asarray(size_xyz) / 2.0) * voxel_size_angst


def from_centred_angst(
    centred: FloatArray, size_xyz: FloatArray, voxel_size_angst: float
) -> FloatArray:
    """Return the positions (N, 3) in voxels of centred coordinates: inverse of `centred_angst`."""
    return np.asarray(centred) / voxel_size_angst + np.asarray(size_xyz) / 2.0


IMOD_VOXEL_CENTRE = np.array([0.5, 0.5, 0.0])


def imod_points(position_xyz: FloatArray) -> FloatArray:
    """Return IMOD model points (N, 3): the centre of the first voxel is (0.5, 0.5, 0)."""
    return np.asarray(position_xyz) + IMOD_VOXEL_CENTRE


def from_imod_points(points_xyz: FloatArray) -> FloatArray:
    """Return the positions (N, 3), first voxel 0, of IMOD model points."""
    return np.asarray(points_xyz) - IMOD_VOXEL_CENTRE
