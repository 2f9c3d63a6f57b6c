"""Superposing a map on a reference, and how alike they are then.

All rotations on a 15 degree grid are tried at low resolution, each with its best shift by FFT; the
best few are refined in steps up to full resolution, for the map as it is and for its mirror image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import fft, optimize
from scipy.spatial.transform import Rotation

from scipion_faml.cython_ext import _interpolate, _residual
from scipion_faml.fourier import OVERSAMPLING, SampleSet, oversampled_spectrum, resample, sample_set
from scipion_faml.fourier import spectrum as spectrum_of
from scipion_faml.geometry import RigidTransforms, compose, rotation_angle_deg
from scipion_faml.symmetry import generators, rotation_about, symmetry_rotations
from scipion_faml.types import ComplexArray, FloatArray
from scipion_faml.volume import inscribed_sphere, move_volume, soft_sphere, squared_radius

COARSE_BOX, MIDDLE_BOX, FINE_BOX = 24, 40, 80  # 15 deg on 24^3 moves the rim by 1 to 2 voxels
GRID_STEP_DEG = 15.0
N_REFINED = 10  # starting points carried from the grid to the middle box
MAX_SHIFT = 0.3  # of the box
N_FIRST_AXES = 8  # directions tried as a group's main axis
MAX_TURNS = 16  # of a group, compared at once
BATCH = 64
MASK_RADIUS = 0.42  # of the box: the usual mask of evaluations


# ---------------------------------------------------------------------------------- likeness
def correlation(
    first: FloatArray, second: FloatArray, weight: FloatArray | None = None
) -> float:
    """Return Pearson's correlation of two volumes, each voxel counted `weight` times.

    Raises
    ------
    ValueError
        If one of them is constant where the weight is positive.
    """
    if weight is None:
        a, b = (np.asarray(v, dtype=np.float64).ravel() for v in (first, second))
        w = np.ones_like(a)
    else:
        inside = weight > 0
        a, b, w = (np.asarray(v, dtype=np.float64)[inside] for v in (first, second, weight))
    if not w.sum() > 0:
        raise ValueError("the mask leaves no voxel to compare: choose a larger one")
    a, b = a - np.average(a, weights=w), b - np.average(b, weights=w)
    spread = np.sqrt((w @ a**2) * (w @ b**2))
    if not spread > 0:
        raise ValueError("a volume that is constant inside the mask has no correlation")
    return float(w @ (a * b) / spread)


def without_radial_mean(volume: FloatArray) -> FloatArray:
    """Return the volume (n, n, n) minus its mean over spherical shells about voxel n // 2.

    Any two round blobs correlate; what is left here is structure.
    """
    radius = np.sqrt(squared_radius(volume.shape[0])).astype(np.float64).ravel()
    low = radius.astype(np.intp)
    part = radius - low  # linear between shells: rounding radii leaves rings
    values = np.asarray(volume, dtype=np.float64).ravel()
    size = int(low.max()) + 2
    count = np.bincount(low, 1 - part, size) + np.bincount(low + 1, part, size)
    total = np.bincount(low, values * (1 - part), size) + np.bincount(low + 1, values * part, size)
    mean = total / np.maximum(count, 1e-12)
    flat: FloatArray = values - (mean[low] * (1 - part) + mean[low + 1] * part)
    return flat.reshape(volume.shape)


def evaluation_mask(n: int) -> FloatArray:
    """Return the soft sphere of 0.42 n in which maps are compared unless a mask is given."""
    radius = MASK_RADIUS * n
    return soft_sphere(n, radius, min(3.0, max(n / 2 - radius, 1.0)))


# ------------------------------------------------------------------------------------ search
def uniform_rotations(step_deg: float) -> FloatArray:
    """Return rotations (M, 3, 3) that cover SO(3) evenly, neighbours about `step_deg` apart.

    A spiral on the sphere of quaternions (Alexa 2022, super-Fibonacci spirals): two angles advance
    by irrational turns while the radius sweeps the volume uniformly.
    """
    # SO(3) has volume 8 pi^2 in units where a rotation by theta is theta away.
    n_rotations = int(np.ceil(8 * np.pi**2 / np.deg2rad(step_deg) ** 3))
    index = np.arange(n_rotations) + 0.5
    share = index / n_rotations
    alpha = 2 * np.pi * index / np.sqrt(2.0)
    beta = 2 * np.pi * index / 1.533751168755204288118041  # root of x^4 = x + 4
    quaternion = np.stack(
        [
            np.sqrt(share) * np.sin(alpha), np.sqrt(share) * np.cos(alpha),
            np.sqrt(1 - share) * np.sin(beta), np.sqrt(1 - share) * np.cos(beta),
        ],
        axis=-1,
    )
    matrices: FloatArray = Rotation.from_quat(quaternion).as_matrix()
    return matrices


@dataclass(frozen=True, eq=False)
class _Level:
    """A map and the reference it is laid on, at one resolution."""

    n: int
    voxels: float  # of the full box, per voxel here
    samples: SampleSet
    moving: ComplexArray  # (2n, 2n, n + 1) complex64, the map
    target: ComplexArray  # (J,) complex64, the reference
    target_norm: float

    @staticmethod
    def of(moving: FloatArray, target: FloatArray, box: int) -> _Level:
        """Both volumes resampled to `box` voxels, or less."""
        n = min(box, moving.shape[0])
        if n < moving.shape[0]:
            scale, moving, target = moving.shape[0] / n, resample(moving, n), resample(target, n)
        else:
            scale = 1.0
        samples = sample_set(n)
        values = np.asarray(samples.take(spectrum_of(target)), dtype=np.complex64)
        norm = float(np.sqrt(np.sum(samples.multiplicity * np.abs(values).astype(float) ** 2)))
        return _Level(n, scale, samples, oversampled_spectrum(moving), values, norm)

    def turned(self, rotation: FloatArray) -> ComplexArray:
        """The map turned, at the samples (J,)."""
        values = np.empty(len(self.samples), dtype=np.complex64)
        matrix = np.ascontiguousarray(OVERSAMPLING * rotation.T, dtype=np.float64)
        _interpolate.gather_complex(self.moving, self.samples.frequency_xyz, matrix, values)
        return values

    def correlation(self, rotation: FloatArray, shift_xyz: FloatArray) -> float:
        """Normalised correlation of the moved map with the reference, the mean left out."""
        sums = np.empty(2)
        k = np.arange(-(self.n // 2), self.n // 2 + 1)
        ramp = np.exp(-2j * np.pi / self.n * np.outer(shift_xyz, k))
        _residual.cross_and_power(
            self.turned(rotation), self.target, self.samples.multiplicity,
            self.samples.frequency_xyz, ramp, sums,
        )
        return float(sums[0] / (np.sqrt(max(sums[1], 1e-30)) * self.target_norm))

    def best_shifts(self, rotations: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Best correlation (M,) and whole-voxel shift (M, 3) of every rotation (M, 3, 3)."""
        n, half = self.n, self.n // 2 + 1
        score, shift = np.empty(len(rotations)), np.empty((len(rotations), 3))
        reach = max(int(MAX_SHIFT * n), 1)
        offsets = np.arange(-reach, reach + 1)
        for start in range(0, len(rotations), BATCH):
            part = rotations[start : start + BATCH]
            cross = np.zeros((len(part), n * n * half), dtype=np.complex64)
            power = np.empty(len(part))
            for m, rotation in enumerate(part):
                values = self.turned(rotation)
                power[m] = self.samples.multiplicity @ (np.abs(values) ** 2)
                cross[m, self.samples.flat_index] = self.target * values.conj()
            maps = fft.irfftn(cross.reshape(-1, n, n, half), (n, n, n), axes=(1, 2, 3))
            window = maps[:, offsets][:, :, offsets][:, :, :, offsets].reshape(len(part), -1)
            best = window.argmax(axis=1)
            where = np.stack(np.unravel_index(best, (len(offsets),) * 3), axis=-1) - reach
            shift[start : start + BATCH] = where[:, ::-1]
            norm = np.sqrt(np.maximum(power, 1e-30)) * self.target_norm
            score[start : start + BATCH] = window.max(axis=1) * n**3 / norm
        return score, shift

    def refined(self, rotation: FloatArray, shift_xyz: FloatArray) -> Found:
        """The best motion near a given one; shifts in voxels of this level."""
        # One unit of any parameter moves the rim of a particle by about a voxel.
        lever = 0.35 * self.n

        def motion(parameter: FloatArray) -> tuple[FloatArray, FloatArray]:
            small = Rotation.from_rotvec(parameter[:3] / lever).as_matrix()
            return small @ rotation, shift_xyz + parameter[3:]

        def loss(parameter: FloatArray) -> float:
            return -self.correlation(*motion(parameter))

        solution = optimize.minimize(
            loss, np.zeros(6), method="L-BFGS-B", options={"eps": 0.02, "maxiter": 40, "ftol": 1e-6}
        )
        return Found(-float(solution.fun), *motion(solution.x))


@dataclass(frozen=True, eq=False)
class Found:
    """One motion and its correlation."""

    score: float
    rotation: FloatArray
    shift_xyz: FloatArray


def _distinct(
    score: FloatArray, rotations: FloatArray, n_best: int, min_angle_deg: float
) -> list[int]:
    """Indices of the best rotations that are at least min_angle_deg apart."""
    kept: list[int] = []
    for m in np.argsort(-score)[: 40 * n_best]:
        if len(kept) == n_best:
            break
        if not kept or rotation_angle_deg(rotations[kept], rotations[m]).min() > min_angle_deg:
            kept.append(int(m))
    return kept


def _background_removed(volume: FloatArray) -> FloatArray:
    """The volume minus the mean of what lies outside the inscribed ball."""
    outside = 1.0 - inscribed_sphere(volume.shape[0])
    level = float(np.average(np.asarray(volume, dtype=np.float64), weights=outside))
    return np.asarray(volume - level, dtype=np.float32)


def superpose(volume: FloatArray, reference: FloatArray) -> tuple[RigidTransforms, float]:
    """Return the pose that carries `volume` onto `reference`, and their correlation then.

    Parameters
    ----------
    volume, reference : (n, n, n)
        Of the same voxel size; only their inscribed balls are compared. Shifts up to 0.3 n are
        searched.
    """
    if volume.shape != reference.shape or len(set(volume.shape)) != 1:
        raise ValueError(f"two cubes of one size are needed, got {volume.shape}, {reference.shape}")
    ball = inscribed_sphere(volume.shape[0])
    moving, target = (_background_removed(v) * ball for v in (volume, reference))
    coarse = _Level.of(moving, target, COARSE_BOX)
    rotations = uniform_rotations(GRID_STEP_DEG)
    score, shifts = coarse.best_shifts(rotations)
    kept = _distinct(score, rotations, N_REFINED, 1.5 * GRID_STEP_DEG)
    found = [coarse.refined(rotations[m], shifts[m]) for m in kept]
    level = coarse
    for box, n_kept in ((MIDDLE_BOX, 6), (FINE_BOX, 3)):
        # Starting points that have run into the same motion count once.
        scores = np.array([f.score for f in found])
        kept = _distinct(scores, np.stack([f.rotation for f in found]), n_kept, 5.0)
        found = [found[m] for m in kept]
        finer = _Level.of(moving, target, box)
        scale = level.voxels / finer.voxels
        found = [finer.refined(f.rotation, f.shift_xyz * scale) for f in found]
        level = finer
    best = max(found, key=lambda f: f.score)
    shift = best.shift_xyz * level.voxels
    return RigidTransforms.from_rotation(best.rotation[None], shift[None]), best.score


def move_map(volume: FloatArray, pose: RigidTransforms) -> FloatArray:
    """Return the map moved by a pose; what comes in from outside the box is background."""
    return move_volume(_background_removed(volume), pose)


# ---------------------------------------------------------------------------------- symmetry
def self_correlation(volume: FloatArray, fold: int) -> float:
    """Return the mean correlation of all pairs of the n-fold turned copies about z (Sec. 3.2.3).

    Copies are compared inside the soft inscribed ball, which a turn leaves in place.
    """
    n = volume.shape[0]
    weight = inscribed_sphere(n)
    inside = weight > 0
    root = np.sqrt(weight[inside].astype(np.float64))
    centred = _background_removed(volume)
    total = np.zeros(int(inside.sum()))
    for turn in range(fold):
        rotation = rotation_about((0, 0, 1), 360.0 * turn / fold)[None]
        copy = move_volume(centred, RigidTransforms.from_rotation(rotation, np.zeros((1, 3))))
        values = copy[inside].astype(np.float64)
        values = root * (values - np.average(values, weights=root**2))
        total += values / np.linalg.norm(values)
    # |sum u|^2 = n + the sum over all ordered pairs of their correlations.
    return float((total @ total - fold) / (fold * (fold - 1)))


def symmetry_frame(volume: FloatArray, fold: int) -> tuple[RigidTransforms, float]:
    """Return the pose that puts the n-fold axis of a map on z through the centre, and its score.

    The map is compared with itself turned by 360 / n degrees about every axis of a hemisphere (grid
    of 6 degrees), best shift included, and the best are refined. The score is the correlation of
    the map with its copy turned once.
    """
    ball = inscribed_sphere(volume.shape[0])
    centred = _background_removed(volume) * ball
    coarse = _Level.of(centred, centred, COARSE_BOX)
    axes = hemisphere(6.0)
    turns = np.stack([rotation_about(axis, 360.0 / fold) for axis in axes])
    score, shifts = coarse.best_shifts(turns)
    best = [int(m) for m in np.argsort(-score)[:6]]
    found = [_refined_axis(coarse, axes[m], shifts[m], fold) for m in best]
    score_axis_shift = max(found, key=lambda f: f[0])
    fine = _Level.of(centred, centred, FINE_BOX)
    value, axis, shift = _refined_axis(
        fine, score_axis_shift[1], score_axis_shift[2] * coarse.voxels / fine.voxels, fold
    )
    return _axis_to_z(axis, shift * fine.voxels, fold), value


def group_correlation(volume: FloatArray, group: str) -> float:
    """Return the mean correlation of a map in a group's frame with itself turned by the group.

    The radial mean is removed first: 0 for a map without the symmetry, 1 with it.
    """
    turns = symmetry_rotations(group)[1:]
    if not len(turns):
        return 1.0
    centred = without_radial_mean(_background_removed(volume)) * inscribed_sphere(volume.shape[0])
    level = _Level.of(centred.astype(np.float32), centred.astype(np.float32), MIDDLE_BOX)
    return float(np.mean([level.correlation(turn, np.zeros(3)) for turn in turns]))


def group_frame(volume: FloatArray, group: str) -> tuple[RigidTransforms, float]:
    """Return the pose that carries a map's symmetry axes to those of a group, and a score.

    For Cn this is `symmetry_frame`. Other groups leave one point in place: the centre of mass. The
    axis of the highest fold is looked for about it, several times; the map is then turned about
    each in steps of 3 degrees until the whole group fits, and turn and centre are refined together.
    The score is the mean correlation of the map, its radial mean removed, with itself turned by
    the group: any round blob fits every group.
    """
    axes = generators(group)
    if not axes:
        return RigidTransforms.identity(1), 1.0
    if len(axes) == 1:
        fold, axis = axes[0]
        on_z, score = symmetry_frame(volume, fold)
        to_axis = turn_to_z(np.asarray(axis, dtype=float)).T
        return compose(RigidTransforms.from_rotation(to_axis[None], np.zeros((1, 3))), on_z), score
    middle = centre_of_mass(volume)
    centred = without_radial_mean(_moved_by(volume, -middle))
    centred = (centred * inscribed_sphere(volume.shape[0])).astype(np.float32)
    turns = some_of(symmetry_rotations(group)[1:])
    coarse, fine = (_Level.of(centred, centred, box) for box in (COARSE_BOX, MIDDLE_BOX))
    starts = [_about_first_axis(coarse, first, axes[0], turns)
              for first in _first_axes(coarse, axes[0][0])]
    starts = sorted(starts, key=lambda f: -f.score)[:3]
    found = [refined_frame(coarse, start, turns) for start in starts]
    best = max(found, key=lambda f: f.score)
    centre = best.shift_xyz * coarse.voxels / fine.voxels
    best = refined_frame(fine, Found(best.score, best.rotation, centre), turns)
    shift = -best.rotation @ (best.shift_xyz * fine.voxels + middle)
    return RigidTransforms.from_rotation(best.rotation[None], shift[None]), best.score


def some_of(rotations: FloatArray) -> FloatArray:
    """Return at most MAX_TURNS of a group's rotations, evenly from its list."""
    index = np.unique(np.linspace(0, len(rotations) - 1, MAX_TURNS).round().astype(np.intp))
    return rotations[index]


def centre_of_mass(volume: FloatArray) -> FloatArray:
    """Offset (3,) xyz from voxel n // 2 of the centre of what exceeds the background."""
    n = volume.shape[0]
    density = np.maximum(_background_removed(volume) * inscribed_sphere(n), 0.0).astype(np.float64)
    # Noise lies on all sides; what counts is what stands out of it.
    density[density < 0.3 * np.quantile(density, 0.995)] = 0.0
    axis = np.arange(n) - n // 2
    mass = max(float(density.sum()), 1e-30)
    sums = [(density.sum(axis=tuple({0, 1, 2} - {a})) @ axis) / mass for a in (2, 1, 0)]
    return np.array(sums)


def _moved_by(volume: FloatArray, shift_xyz: FloatArray) -> FloatArray:
    """The map moved by a shift (voxels), what comes in being background."""
    return move_map(volume, RigidTransforms(np.zeros((1, 3)), shift_xyz[None]))


def distinct_axes(
    axes: FloatArray, score: FloatArray, min_angle_deg: float, n_best: int
) -> list[int]:
    """Return indices of the n_best axes (A, 3) of highest score, no two within an angle."""
    kept: list[int] = []
    for m in np.argsort(-score, kind="stable"):
        if all(abs(axes[m] @ axes[k]) < np.cos(np.deg2rad(min_angle_deg)) for k in kept):
            kept.append(int(m))
        if len(kept) == n_best:
            break
    return kept


def _first_axes(level: _Level, fold: int) -> list[FloatArray]:
    """Directions (unit vectors) about which turns by 360 / fold carry a map onto itself best."""
    axes, still = hemisphere(6.0), np.zeros(3)
    powers = 360.0 / fold * np.arange(1, fold // 2 + 1)
    score = np.array([
        np.mean([level.correlation(rotation_about(axis, angle), still) for angle in powers])
        for axis in axes
    ])
    kept = distinct_axes(axes, score, 15.0, N_FIRST_AXES)
    return [_refined_axis(level, axes[m], still, fold)[1] for m in kept]


def _about_first_axis(
    level: _Level, first: FloatArray, axis: tuple[int, tuple[float, float, float]],
    turns: FloatArray,
) -> Found:
    """The best frame in which a direction of the map is the group's first axis."""
    fold, target = axis
    still = np.zeros(3)
    base = turn_to_z(np.asarray(target) / np.linalg.norm(target)).T @ turn_to_z(first)
    frames = [rotation_about(target, angle) @ base for angle in np.arange(0.0, 360.0 / fold, 3.0)]
    score = [
        float(np.mean([level.correlation(f.T @ turn @ f, still) for turn in turns]))
        for f in frames
    ]
    best = int(np.argmax(score))
    return Found(score[best], frames[best], still)


class Turnable(Protocol):
    """A map of n voxels that can be compared with itself moved."""

    @property
    def n(self) -> int: ...

    def correlation(self, rotation: FloatArray, shift_xyz: FloatArray) -> float:
        """Correlation with the copy in which r lies at R r + t (voxels)."""
        ...


def refined_frame(level: Turnable, start: Found, turns: FloatArray) -> Found:
    """Return rotation to the frame, and centre (voxels of the level), that fit all turns best."""
    lever = 0.35 * level.n

    def frame(parameter: FloatArray) -> tuple[FloatArray, FloatArray]:
        small = Rotation.from_rotvec(parameter[:3] / lever).as_matrix()
        return small @ start.rotation, start.shift_xyz + parameter[3:]

    def loss(parameter: FloatArray) -> float:
        rotation, centre = frame(parameter)
        own = rotation.T @ turns @ rotation
        return -float(np.mean([level.correlation(h, centre - h @ centre) for h in own]))

    solution = optimize.minimize(
        loss, np.zeros(6), method="L-BFGS-B", options={"eps": 0.02, "maxiter": 40, "ftol": 1e-7}
    )
    return Found(-float(solution.fun), *frame(solution.x))


def hemisphere(step_deg: float) -> FloatArray:
    """Unit vectors (M, 3) even over z >= 0, about step_deg apart (a Fibonacci lattice)."""
    count = int(np.ceil(2 * np.pi / np.deg2rad(step_deg) ** 2))
    index = np.arange(count) + 0.5
    z = 1.0 - index / count
    angle = np.pi * (1.0 + np.sqrt(5.0)) * index
    radius = np.sqrt(1.0 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1)


def _refined_axis(
    level: _Level, axis: FloatArray, shift_xyz: FloatArray, fold: int
) -> tuple[float, FloatArray, FloatArray]:
    """Score, axis and shift near given ones that best carry the map onto itself."""
    side = np.linalg.svd(axis[None])[2][1:]  # two directions across the axis
    lever = 0.35 * level.n

    def motion(parameter: FloatArray) -> tuple[FloatArray, FloatArray]:
        tilted = axis + parameter[:2] @ side / lever
        return tilted / np.linalg.norm(tilted), shift_xyz + parameter[2:]

    def loss(parameter: FloatArray) -> float:
        tilted, shift = motion(parameter)
        return -level.correlation(rotation_about(tilted, 360.0 / fold), shift)

    solution = optimize.minimize(
        loss, np.zeros(5), method="L-BFGS-B", options={"eps": 0.02, "maxiter": 40, "ftol": 1e-7}
    )
    return (-float(solution.fun), *motion(solution.x))


def _axis_to_z(axis: FloatArray, shift_xyz: FloatArray, fold: int) -> RigidTransforms:
    """The pose that carries an axis (and a point that a turn about it with a shift leaves) to z."""
    turn = rotation_about(axis, 360.0 / fold)
    # A point c stays when turn c + shift = c; along the axis it is free, and pinv chooses 0 there.
    fixed = np.linalg.pinv(np.eye(3) - turn, rcond=1e-6) @ shift_xyz
    rotation = turn_to_z(axis)
    return RigidTransforms.from_rotation(rotation[None], -(rotation @ fixed)[None])


def turn_to_z(axis: FloatArray) -> FloatArray:
    """The smallest rotation that carries a unit vector to (0, 0, 1)."""
    angle_deg = np.rad2deg(np.arctan2(np.hypot(axis[0], axis[1]), axis[2]))
    across = np.array([axis[1], -axis[0], 0.0])
    # Vectors on the z axis may be turned about any axis across it.
    return rotation_about(across if np.linalg.norm(across) > 1e-9 else (1, 0, 0), angle_deg)
