"""Subtomograms of one particle each, with known structure, pose and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scipion_faml.fourier import frequency_radius, volume_from_spectrum
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.simulation.density import Structure
from scipion_faml.simulation.reconstruction import divide, invert_tilt_series
from scipion_faml.simulation.tilt_series import (
    Microscope,
    Projector,
    central_slices,
    check_snr,
    image_transfer,
    noisy_subtomogram,
    projector,
    record,
    tilt_rotations,
)
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.wedge import MissingWedge

NEAR = 0.5  # half-width of `invert_tilt_series`: fidelity to the density before all
SMALLEST_PRECISION = 1e-3  # of the largest: what lies on a zero of the CTF is not measured
AXES = {"x": np.eye(3)[0], "y": np.eye(3)[1], "z": np.eye(3)[2]}


@dataclass(frozen=True, eq=False)
class SubtomogramSettings:
    """How subtomograms come about; without a microscope, noise is put straight on the density."""

    snr: float  # as in `noisy_subtomogram`, or with a microscope as in `tilt_series.record`
    wedge: MissingWedge
    angles_deg: FloatArray  # (T,) tilts
    microscope: Microscope | None = None
    ctf_correction: str = "none"  # of `tilt_series.image_transfer`

    def __post_init__(self) -> None:
        check_snr(self.snr)


def draw_poses(
    structures: Sequence[Structure],
    counts: Sequence[int],
    max_shift: float,
    preferred_axis: str | None,
    seed: int,
) -> tuple[IntArray, RigidTransforms]:
    """Return class (N,) and pose of every particle, in random order.

    Rotations are uniform (Haar), or with `preferred_axis` x, y or z uniform about that axis of the
    tomogram, the structure's figure axis along it. Shifts are uniform in a ball of `max_shift`
    voxels.
    """
    rng = np.random.default_rng([seed, 0])
    class_index = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    n_particles = len(class_index)
    rotations = RigidTransforms(
        random_rotations(n_particles, rng), np.zeros((n_particles, 3))
    ).rotation
    if preferred_axis is not None:
        axis = AXES[preferred_axis]
        onto = np.stack([_rotation_between(s.axis(), axis) for s in structures])[class_index]
        angle = rng.uniform(0.0, 2.0 * np.pi, n_particles)
        rotations = _rotations_about(axis, angle) @ onto
    direction = rng.normal(size=(n_particles, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    shift = max_shift * rng.uniform(size=(n_particles, 1)) ** (1.0 / 3.0) * direction
    return class_index, RigidTransforms.from_rotation(rotations, shift)


def _rotations_about(axis: FloatArray, angle: FloatArray) -> FloatArray:
    """Rotations (N, 3, 3) by `angle` (N,) about a unit axis (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    rotation: FloatArray = np.eye(3) + sin * cross + (1.0 - cos) * (cross @ cross)
    return rotation


def _rotation_between(first: FloatArray, second: FloatArray) -> FloatArray:
    """The shortest rotation that brings one unit axis onto another; axes have no sign."""
    if first @ second < 0:
        first = -first
    normal = np.cross(first, second)
    length = np.linalg.norm(normal)
    if length < 1e-12:
        return np.eye(3)
    angle = np.arctan2(length, first @ second)
    rotation: FloatArray = _rotations_about(normal / length, np.array([angle]))[0]
    return rotation


def make_subtomogram(
    structure: Structure,
    pose: RigidTransforms,
    settings: SubtomogramSettings,
    seed: Sequence[int],
    density: Projector | None = None,
) -> FloatArray:
    """Return one subtomogram (n, n, n) float32 of `structure` under the first pose.

    The random draws depend on `seed` alone. With a microscope: a tilt series of the turned,
    shifted density (`tilt_series.record`), reconstructed by direct Fourier inversion, each sample
    the mean of the images that measured it, by the weights CTF^2 where these are asked for.
    `density` is then the projector of the structure's map, made here when it is not given.
    """
    rng = np.random.default_rng(list(seed))
    if settings.microscope is None:
        return noisy_subtomogram(structure.posed(pose), settings.snr, settings.wedge, rng)
    n, voxel_size = structure.n, structure.voxel_size_angst
    rotations = tilt_rotations(settings.angles_deg)
    transfer = image_transfer(
        (n, n), voxel_size, settings.microscope, settings.ctf_correction)
    projections = central_slices(
        density or projector(structure.map), rotations @ pose.rotation[0],
        rotations @ pose.shift_xyz[0],
    )
    images = record(projections, (n, n), settings.snr, transfer, rng)
    weights = _image_weights(transfer.ctf, settings)
    numerator, denominator = invert_tilt_series(images, weights, rotations, NEAR)
    floor = SMALLEST_PRECISION * float(denominator.max())
    half = divide(numerator, denominator, floor) * _kept(settings, n)
    return volume_from_spectrum(half, n).astype(np.float32)


def subtomogram_weights(
    n: int, voxel_size_angst: float, settings: SubtomogramSettings
) -> FloatArray:
    """Return the relative precision of a subtomogram's samples, (n, n, n // 2 + 1) in [0, 1].

    It is the same for all: the sum of CTF^2 of the images that measured a sample, over the largest.
    """
    if settings.microscope is None:
        raise ValueError("subtomograms without optics have no weights but their wedge")
    ctf = image_transfer((n, n), voxel_size_angst, settings.microscope).ctf
    weights = _image_weights(ctf, settings)
    nothing = np.zeros(weights.shape, dtype=np.complex64)
    precision = invert_tilt_series(
        nothing, weights, tilt_rotations(settings.angles_deg), NEAR)[1] * _kept(settings, n)
    relative: FloatArray = (precision / precision.max()).astype(np.float32)
    relative[relative <= SMALLEST_PRECISION] = 0.0
    return relative


def _image_weights(ctf: FloatArray, settings: SubtomogramSettings) -> FloatArray:
    """Weights of the images' samples, (T, n, n // 2 + 1), with their CTF (n, n // 2 + 1)."""
    weight = ctf**2 if settings.ctf_correction == "weights" else np.ones_like(ctf)
    return np.broadcast_to(weight, (len(settings.angles_deg), *ctf.shape))


def _kept(settings: SubtomogramSettings, n: int) -> FloatArray:
    """1 inside the tilt range and the sphere of Nyquist."""
    kept: FloatArray = settings.wedge.mask(n) * (frequency_radius(n) <= n // 2)
    return kept
