"""What the wizards of the forms show before a run: means of particles, filtered slices, regions.

Pure functions on arrays; the windows about them are in `wizards`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from scipion_faml.fourier import inverse_real_fft, real_fft
from scipion_faml.types import BoolArray, FloatArray, IntArray
from scipion_faml.volume import squared_radius

EDGE = 0.1  # of a sharp filter's frequency: the width over which it falls to 0
SMALLEST_BOX = 8  # voxels
RADIUS_SHARE = 0.95  # of the density above the background that the measured ball holds
Region = tuple[slice, slice, slice]  # z, y, x


# ------------------------------------------------------------------------------------- numbers
def even_box(width: float) -> int:
    """Return the even box (voxels, 8 at least) nearest to a width in voxels."""
    return max(2 * round(width / 2.0), SMALLEST_BOX)


def rescaled_box(box: int, from_angst: float, to_angst: float) -> int:
    """Return the even box in voxels of `to_angst` as wide as `box` voxels of `from_angst`.

    Raises
    ------
    ValueError
        If a voxel size or the box is not positive.
    """
    if not (box > 0 and from_angst > 0 and to_angst > 0):
        raise ValueError(
            f"a box of {box} voxels of {from_angst:g} A cannot be brought to voxels of "
            f"{to_angst:g} A: all must be above 0")
    return even_box(box * from_angst / to_angst)


def diameter_range(n: int, voxel_size_angst: float) -> tuple[float, float]:
    """Return the diameters (angstrom) that a mask in a box of n voxels may have."""
    return 4.0 * voxel_size_angst, n * voxel_size_angst


def resolution_range(shortest: int, voxel_size_angst: float) -> tuple[float, float]:
    """Return the resolutions (angstrom) that a filter may be set to: Nyquist to two shells."""
    return 2.0 * voxel_size_angst, max(shortest / 2.0, 2.0) * voxel_size_angst


# ------------------------------------------------------------------------------------- volumes
def mean_of(volumes: Iterable[FloatArray]) -> tuple[FloatArray, int]:
    """Return the mean of the volumes that have the first one's shape, and how many these are.

    Each is standardised before, so that none counts more because of its grey levels.

    Raises
    ------
    ValueError
        If there is none.
    """
    total, count = None, 0
    for volume in volumes:
        if total is not None and volume.shape != total.shape:
            continue
        spread = float(volume.std(dtype=np.float64))
        if not spread > 0 or not np.isfinite(spread):
            continue  # an empty particle says nothing
        scaled = (volume - volume.mean(dtype=np.float64)) / spread
        total = scaled if total is None else total + scaled
        count += 1
    if total is None:
        raise ValueError("there is no volume to show: all are empty or none can be read")
    return (total / count).astype(np.float32), count


def measured_diameter(volume: FloatArray) -> float:
    """Return the diameter (voxels) of the ball that holds what stands out in a cube.

    The background is what lies outside the inscribed ball. The ball holds 95 % of the density that
    is above it by three standard errors of the means over shells.
    """
    n = volume.shape[0]
    radius = np.sqrt(squared_radius(n)).ravel()
    shell = np.minimum(np.rint(radius).astype(np.intp), n // 2)
    count = np.bincount(shell)
    mean = np.bincount(shell, weights=volume.ravel().astype(np.float64)) / count
    outside = volume.ravel()[shell == n // 2]
    error = float(outside.std()) / np.sqrt(np.maximum(count, 1))
    excess = mean - float(outside.mean())
    weight = np.where(excess > 3.0 * error, excess, 0.0) * count
    weight[n // 2 :] = 0.0
    if not weight.sum() > 0:
        return 2.0 * n / 3.0  # nothing stands out: what most boxes are made for
    inside = np.cumsum(weight) / weight.sum()
    return float(2 * int(np.searchsorted(inside, RADIUS_SHARE)) + 1)


def frequencies_of(shape: tuple[int, ...]) -> FloatArray:
    """Return |k| (cycles per voxel) on the half spectrum of real values of a shape (z, y, x)."""
    z, y, x = (np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2]))
    radius: FloatArray = np.sqrt(
        z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)
    return radius


def shell_gain(
    frequency: FloatArray, voxel_size_angst: float, low_pass_angst: float | None,
    high_pass_angst: float | None,
) -> FloatArray:
    """Return the gain that keeps the Fourier shells between two resolutions (angstrom).

    Classification and alignment compare whole shells: there is no filter with a slope. The cosine
    edge of a tenth of the frequency is for the eye; a sharp cut would draw rings.
    """
    gain: FloatArray = np.ones_like(frequency)
    if low_pass_angst is not None:
        gain = gain * _falling(frequency, voxel_size_angst / low_pass_angst)
    if high_pass_angst is not None:
        gain = gain * (1.0 - _falling(frequency, voxel_size_angst / high_pass_angst))
    return gain


def _falling(frequency: FloatArray, cutoff: float) -> FloatArray:
    """1 up to a cutoff, a cosine to 0 behind it."""
    phase = np.clip((frequency - cutoff) / (EDGE * cutoff), 0.0, 1.0)
    gain: FloatArray = 0.5 + 0.5 * np.cos(np.pi * phase)
    return gain


def filtered(volume: FloatArray, gain: FloatArray) -> FloatArray:
    """Return real values (z, y, x) after a gain on their half spectrum."""
    half = real_fft(np.asarray(volume, dtype=np.float32))
    back: FloatArray = inverse_real_fft((half * gain).astype(half.dtype), volume.shape[2])
    return back.astype(np.float32)


# ------------------------------------------------------------------------------------- regions
def region_about(
    shape: tuple[int, ...], centre_zyx: tuple[float, ...], size_zyx: tuple[int, ...]
) -> Region:
    """Return the region of a size about a centre, moved into a tomogram of a shape (z, y, x)."""
    def one(n: int, centre: float, size: int) -> slice:
        wanted = min(size, n)
        start = min(max(round(centre - wanted / 2.0), 0), n - wanted)
        return slice(start, start + wanted)

    z, y, x = (one(*axis) for axis in zip(shape, centre_zyx, size_zyx, strict=True))
    return z, y, x


def widened(region: Region, shape: tuple[int, ...], margin: int) -> Region:
    """Return a region with so many voxels more on all sides, where the tomogram has them."""
    z, y, x = (slice(max(s.start - margin, 0), min(s.stop + margin, n))
               for s, n in zip(region, shape, strict=True))
    return z, y, x


def share_of(region: Region, shape: tuple[int, ...]) -> float:
    """Return the part of a tomogram's voxels that a region holds."""
    return float(np.prod([(s.stop - s.start) / n for s, n in zip(region, shape, strict=True)]))


def within(position_xyz: FloatArray, region: Region) -> BoolArray:
    """Return which positions (P, 3), x y z, lie in a region."""
    low = np.array([s.start for s in region[::-1]]) - 0.5
    high = np.array([s.stop for s in region[::-1]]) - 0.5
    return np.asarray(((position_xyz >= low) & (position_xyz < high)).all(axis=1))


def cut_by_slice(
    position_xyz: FloatArray, radius: FloatArray, z: int
) -> tuple[IntArray, FloatArray]:
    """Return the numbers of the balls that slice z cuts, and the radii of their circles there."""
    depth = position_xyz[:, 2] - z
    cut = np.flatnonzero(np.abs(depth) < radius)
    return cut, np.sqrt(radius[cut] ** 2 - depth[cut] ** 2)
