"""Real-space volumes: index order [z, y, x], centre at voxel n // 2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from scipy import ndimage

from scipion_faml.geometry import RigidTransforms
from scipion_faml.types import FloatArray, IntArray

# Of voxels: sums of squares over a box stay finite, and above zero, in float32.
LARGEST_VALUE, SMALLEST_RANGE = 1e15, 1e-15
LARGEST_EDGE = 4096  # voxels of a cube


def check_volume(volume: FloatArray, name: str) -> FloatArray:
    """Return `volume` as float32 after checking it; `name` says in errors which one is wrong.

    Raises
    ------
    ValueError
        If it is not three-dimensional, holds NaN or infinities, is constant, or its values are so
        large or small that their squares leave float32.
    """
    if volume.ndim != 3:
        raise ValueError(f"{name} has {volume.ndim} dimensions, 3 are needed: give a volume")
    if not np.isfinite(volume).all():
        n_bad = int((~np.isfinite(volume)).sum())
        raise ValueError(f"{name} holds {n_bad} voxels that are NaN or infinite: exclude it")
    low, high = float(volume.min()), float(volume.max())
    if low == high:
        raise ValueError(f"{name} is constant ({low:g}): exclude it")
    if max(-low, high) > LARGEST_VALUE or high - low < SMALLEST_RANGE:
        raise ValueError(f"{name} has values from {low:g} to {high:g}, which are no densities: "
                         "rescale or exclude it")
    return np.ascontiguousarray(volume, dtype=np.float32)


def check_cube(volume: FloatArray, name: str) -> FloatArray:
    """Return `volume` as float32 after `check_volume` and checking that it is a cube."""
    if volume.ndim == 3 and len(set(volume.shape)) != 1:
        raise ValueError(f"{name} has shape {volume.shape} (z, y, x), a cube is needed")
    return check_volume(volume, name)


def check_edge(n: float, name: str) -> float:
    """Return the edge (voxels) of a cube that is to be made, if a machine may hold it.

    Raises
    ------
    ValueError
        If none could.
    """
    if not n <= LARGEST_EDGE:
        raise ValueError(f"{name} would be {n:.3g} voxels wide, more than {LARGEST_EDGE}: check "
                         "the voxel sizes and models given")
    return n


@lru_cache(maxsize=8)
def squared_radius(n: int) -> FloatArray:
    """Return r^2 from voxel n // 2, (n, n, n) float32, read-only."""
    axis = (np.arange(n) - n // 2).astype(np.float32) ** 2
    grid: FloatArray = axis[:, None, None] + axis[None, :, None] + axis[None, None, :]
    grid.flags.writeable = False
    return grid


@lru_cache(maxsize=16)
def soft_sphere(n: int, radius: float, edge: float = 3.0) -> FloatArray:
    """Return a mask (n, n, n) float32: 1 inside `radius` voxels, a cosine edge to 0 outside it."""
    distance = np.sqrt(squared_radius(n))
    phase = np.clip((distance - radius) / max(edge, 1e-6), 0.0, 1.0)
    mask: FloatArray = (0.5 + 0.5 * np.cos(np.pi * phase)).astype(np.float32)
    mask.flags.writeable = False
    return mask


def inscribed_sphere(n: int) -> FloatArray:
    """Return the soft mask of the ball that stays inside the box under every rotation."""
    return soft_sphere(n, n / 2 - 3.0, 3.0)


def standardise(volume: FloatArray, mask: FloatArray | None = None) -> FloatArray:
    """Return `volume` with mean 0 and standard deviation 1, measured where `mask` is positive."""
    values = volume if mask is None else volume[mask > 0]
    spread = float(values.std(dtype=np.float64))
    if spread == 0.0:
        raise ValueError("a constant volume cannot be standardised")
    scaled: FloatArray = ((volume - values.mean(dtype=np.float64)) / spread).astype(np.float32)
    return scaled


def move_volume(volume: FloatArray, transforms: RigidTransforms, order: int = 3) -> FloatArray:
    """Return R_phi volume: rotated about voxel n // 2, then shifted, by the first pose (spline)."""
    inverse_zyx, offset = pose_affine(transforms, volume.shape)
    moved: FloatArray = ndimage.affine_transform(
        np.asarray(volume, dtype=np.float32), inverse_zyx, offset, order=order, mode="constant"
    )
    return moved


def pose_affine(
    transforms: RigidTransforms, shape: tuple[int, ...]
) -> tuple[FloatArray, FloatArray]:
    """Return the matrix and offset with which `ndimage.affine_transform` moves by the first pose.

    They lead from a voxel (z, y, x) of the result to the place where its value comes from.
    """
    centre = np.array([s // 2 for s in shape], dtype=float)
    inverse_zyx = transforms.rotation[0].T[::-1, ::-1]
    offset: FloatArray = centre - inverse_zyx @ (centre + transforms.shift_xyz[0, ::-1])
    return inverse_zyx, offset


def mirrored(volume: FloatArray) -> FloatArray:
    """Return the volume of the other hand: z turned round about voxel n // 2."""
    shift = 1 - volume.shape[0] % 2  # an even box has its centre beside the middle
    return np.ascontiguousarray(np.roll(volume[::-1], shift, axis=0))


def crop_or_pad(volume: FloatArray, shape: tuple[int, int, int], fill: float = 0.0) -> FloatArray:
    """Return `volume` in a box of `shape`, centre on centre (voxel n // 2 of every axis)."""
    out = np.full(shape, fill, dtype=volume.dtype)
    start = [old // 2 - new // 2 for old, new in zip(volume.shape, shape, strict=True)]
    inside, part = overlap(start, shape, volume.shape)
    out[part] = volume[inside]
    return out


def overlap(
    start: Sequence[int] | IntArray, shape: Sequence[int], whole_shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where a box of `shape` from voxel `start` on lies in a whole array.

    Slices of the whole, and those of the box that they fill; empty where both do not meet.
    """
    inside, part = [], []
    for first, size, limit in zip(start, shape, whole_shape, strict=True):
        low, high = max(int(first), 0), min(int(first) + int(size), limit)
        high = max(low, high)
        inside.append(slice(low, high))
        part.append(slice(low - int(first), high - int(first)))
    return tuple(inside), tuple(part)


def iter_tiles(
    shape: tuple[int, int, int], tile: int, overlap: int
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield (padded, core) slices: the cores tile `shape`, each padded by `overlap` inside it."""
    steps = [range(0, size, tile) for size in shape]
    for starts in ((z, y, x) for z in steps[0] for y in steps[1] for x in steps[2]):
        core = tuple(slice(s, min(s + tile, n)) for s, n in zip(starts, shape, strict=True))
        padded = tuple(
            slice(max(c.start - overlap, 0), min(c.stop + overlap, n))
            for c, n in zip(core, shape, strict=True)
        )
        yield padded, core
