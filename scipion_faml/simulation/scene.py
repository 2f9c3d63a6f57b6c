"""Whole tomograms: structures placed at random without overlap, imaged and reconstructed.

Positions are (x, y, z) in voxels from the first voxel; the tilt axis passes through voxel
shape // 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import fft

from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.simulation.density import Structure
from scipion_faml.simulation.tilt_series import (
    Microscope,
    Projector,
    central_slices,
    check_snr,
    image_transfer,
    projector,
    record,
    tilt_rotations,
)
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.wedge import MissingWedge

T = TypeVar("T")
R = TypeVar("R")

TRIES = 20_000  # random positions tried for one particle before the box counts as full
LABEL_LEVEL = 0.15  # of a structure's maximum: what its occupancy label covers


@dataclass(frozen=True, eq=False)
class Scene:
    """N placed particles."""

    shape_xyz: tuple[int, int, int]
    position_xyz: FloatArray  # (N, 3) voxels
    euler_zyz: FloatArray  # (N, 3) rad
    class_index: IntArray  # (N,) into the structures

    def __len__(self) -> int:
        return len(self.class_index)

    @property
    def centre_xyz(self) -> FloatArray:
        """The point that the tilt axis passes through."""
        return np.array([s // 2 for s in self.shape_xyz], dtype=np.float64)


def ordered_map(
    function: Callable[[T], R], items: Sequence[T], n_workers: int = 1
) -> Iterator[R]:
    """Yield function(item) in order, from `n_workers` threads, with a bounded look-ahead."""
    if n_workers <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(n_workers) as pool:
        ahead = 2 * n_workers
        waiting = [pool.submit(function, item) for item in items[:ahead]]
        for number in range(len(items)):
            result = waiting.pop(0).result()
            if number + ahead < len(items):
                waiting.append(pool.submit(function, items[number + ahead]))
            yield result


def place_spheres(
    radius: FloatArray,
    shape_xyz: tuple[int, int, int],
    rng: np.random.Generator,
    min_distance: float | None = None,
) -> FloatArray:
    """Return centres (N, 3) of spheres of `radius` (N,) voxels that stay in the box and apart.

    Larger ones are placed first, each uniformly over the room that is left. Centres keep the sum of
    both radii, or where it is given `min_distance` (voxels), between them.

    Raises
    ------
    ValueError
        If not all of them fit; the message says how many do.
    """
    size = np.asarray(shape_xyz, dtype=np.float64)
    radius = np.asarray(radius, dtype=np.float64)
    largest = float(radius.max())
    if (size - 1 < 2 * largest).any():
        raise ValueError(
            f"a particle of {2 * largest:.0f} voxels does not fit into a tomogram of "
            f"{' x '.join(str(s) for s in shape_xyz)}: use a larger --shape or larger voxels"
        )
    centre = np.empty((len(radius), 3))
    order = np.argsort(-radius, kind="stable")
    for n_placed, index in enumerate(order):
        placed = order[:n_placed]
        gap = radius[index] + radius[placed] if min_distance is None else min_distance
        found = _free_position(radius[index], size, centre[placed], gap, rng)
        if found is None:
            raise ValueError(
                f"{n_placed} of {len(radius)} particles fit into a tomogram of "
                f"{' x '.join(str(s) for s in shape_xyz)} voxels: lower --count, or use a larger "
                "--shape or a smaller --min-distance"
            )
        centre[index] = found
    return centre


def _free_position(
    radius: float, size: FloatArray, placed: FloatArray, gap: FloatArray | float,
    rng: np.random.Generator, batch: int = 500,
) -> FloatArray | None:
    """A uniform position inside the box that keeps `gap` from all `placed`, or None."""
    for _ in range(TRIES // batch):
        tried = radius + rng.uniform(size=(batch, 3)) * (size - 1 - 2 * radius)
        squared = ((tried[:, None] - placed[None]) ** 2).sum(axis=2)
        free = np.flatnonzero((squared >= np.square(gap)).all(axis=1))
        if len(free):
            position: FloatArray = tried[free[0]]
            return position
    return None


def make_scene(
    structures: Sequence[Structure],
    counts: Sequence[int],
    shape_xyz: tuple[int, int, int],
    seed: int,
    min_distance: float | None = None,
) -> Scene:
    """Return `counts` particles of each structure at random places, uniformly turned, shuffled."""
    rng = np.random.default_rng([seed, 0])
    class_index = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    radius = np.array([s.radius_voxels + 1.0 for s in structures])[class_index]
    position = place_spheres(radius, shape_xyz, rng, min_distance)
    return Scene(shape_xyz, position, random_rotations(len(class_index), rng), class_index)


def populate(
    scene: Scene, structures: Sequence[Structure], n_workers: int = 1
) -> tuple[FloatArray, IntArray]:
    """Return the density of a scene and its labels, both [z, y, x].

    density : float32. labels : int16, 0 outside, else class from 1, over the density above 15 % of
    the structure's maximum.
    """
    density = np.zeros(scene.shape_xyz[::-1], dtype=np.float32)
    labels = np.zeros(density.shape, dtype=np.int16)
    numbers = range(len(scene))

    def posed(number: int) -> FloatArray:
        fraction = scene.position_xyz[number] - np.rint(scene.position_xyz[number])
        pose = RigidTransforms(scene.euler_zyz[number], fraction)
        structure: Structure = structures[int(scene.class_index[number])]
        return structure.posed(pose)

    for number, block in zip(numbers, ordered_map(posed, numbers, n_workers), strict=True):
        structure = structures[scene.class_index[number]]
        whole, part = _overlap(
            np.rint(scene.position_xyz[number]).astype(int)[::-1], block.shape, density.shape
        )
        density[whole] += block[part]
        occupied = block[part] > LABEL_LEVEL * structure.map.max()
        labels[whole][occupied] = scene.class_index[number] + 1
    return density, labels


def _overlap(
    centre: IntArray, shape: tuple[int, ...], whole_shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of an array, and of the box around `centre` in it, where both lie in the array."""
    whole, part = [], []
    for middle, size, limit in zip(centre, shape, whole_shape, strict=True):
        start = int(middle) - size // 2
        low, high = max(start, 0), min(start + size, limit)
        whole.append(slice(low, max(low, high)))
        part.append(slice(low - start, max(low, high) - start))
    return tuple(whole), tuple(part)


# ----------------------------------------------------------------------------------- no optics
def noisy_tomogram(
    density: FloatArray, snr: float, wedge: MissingWedge, rng: np.random.Generator
) -> FloatArray:
    """Return density [z, y, x] + white noise, its missing wedge cut out (no optics).

    `snr` is the variance of `density` over the whole tomogram over that of the noise.
    """
    check_snr(snr)
    volume = density
    if np.isfinite(snr):
        noise_sd = np.sqrt(density.var(dtype=np.float64) / snr)
        volume = density + np.float32(noise_sd) * rng.standard_normal(
            density.shape, dtype=np.float32
        )
    half = fft.rfftn(volume)
    kz = np.fft.fftfreq(density.shape[0])[:, None, None]
    kx = np.fft.rfftfreq(density.shape[2])[None, None, :]
    angle = np.rad2deg(np.arctan2(kz, kx))
    measured = (angle >= wedge.tilt_min_deg) & (angle <= wedge.tilt_max_deg)
    half *= measured | ((kx == 0) & (kz == 0))
    cut: FloatArray = fft.irfftn(half, density.shape).astype(np.float32)
    return cut


# --------------------------------------------------------------------------------- tilt series
def project_scene(
    scene: Scene, structures: Sequence[Structure], angles_deg: FloatArray, n_workers: int = 1
) -> FloatArray:
    """Return the noise-free tilt images of a scene, (T, height, width) float32.

    Every particle is projected by itself (Fourier slice theorem) and pasted at its place, so the
    particles are exactly where the scene says at every tilt. The tilt axis falls on pixel
    (height // 2, width // 2); the images are wide enough for all particles at all tilts.
    """
    rotations = tilt_rotations(angles_deg)
    margin = max(s.n for s in structures)
    x, y, z = scene.shape_xyz
    height, width = (int(fft.next_fast_len(s + margin, real=True)) for s in (y, x + z))
    images = np.zeros((len(rotations), height, width), dtype=np.float32)
    projectors = [projector(s.map) for s in structures]
    numbers = range(len(scene))

    def patches(number: int) -> tuple[FloatArray, IntArray]:
        k = scene.class_index[number]
        return _patches(
            projectors[k], rotations, RigidTransforms(
                scene.euler_zyz[number], scene.position_xyz[number] - scene.centre_xyz
            ),
        )

    for patch, pixel in ordered_map(patches, numbers, n_workers):
        for tilt in range(len(rotations)):
            centre = pixel[tilt] + (height // 2, width // 2)
            whole, part = _overlap(centre, patch.shape[1:], (height, width))
            images[tilt][whole] += patch[tilt][part]
    return images


def _patches(
    density: Projector, rotations: FloatArray, pose: RigidTransforms
) -> tuple[FloatArray, IntArray]:
    """Projections (T, n, n) of one particle, and the pixels (T, 2), (y, x), of their centres."""
    place = rotations @ pose.shift_xyz[0]
    pixel = np.rint(place[:, :2])
    slices = central_slices(density, rotations @ pose.rotation[0], place[:, :2] - pixel)
    patch = fft.fftshift(fft.irfft2(slices, (density.n, density.n)), axes=(1, 2)).astype(np.float32)
    return patch, pixel[:, ::-1].astype(np.intp)


def image_scene(
    images: FloatArray,
    pixel_size_angst: float,
    snr: float,
    microscope: Microscope,
    ctf_correction: str,
    rng: np.random.Generator,
) -> FloatArray:
    """Return the recorded images (T, height, width) of noise-free ones (`tilt_series.record`)."""
    shape = images.shape[1], images.shape[2]
    transfer = image_transfer(shape, pixel_size_angst, microscope, ctf_correction)
    recorded = record(fft.rfft2(images), shape, snr, transfer, rng)
    noisy: FloatArray = fft.irfft2(recorded, shape).astype(np.float32)
    return noisy


def back_project(
    images: FloatArray,
    angles_deg: FloatArray,
    shape_xyz: tuple[int, int, int],
    n_workers: int = 1,
) -> FloatArray:
    """Return the tomogram [z, y, x] float32 of tilt images by weighted back-projection.

    The weights are those of Harauz and van Heel (1986): a sample of an image counts with one over
    the number of images that measure the same, for a specimen as thick as the tomogram. The
    density keeps its scale, but for what the missing wedge takes.

    Parameters
    ----------
    images : (T, height, width)
        The tilt axis (y) lies on pixel (height // 2, width // 2).
    angles_deg : (T,)
    shape_xyz : (X, Y, Z)
        The tomogram is centred on the tilt axis.
    """
    n_x, n_y, n_z = shape_xyz
    filtered = _upsampled_rows(images, angles_deg, n_z)
    top = images.shape[1] // 2 - n_y // 2
    filtered = np.ascontiguousarray(filtered[:, top : top + n_y])
    angle = np.deg2rad(np.asarray(angles_deg, dtype=np.float64))
    across = np.arange(n_x) - n_x // 2

    def layer(z: int) -> FloatArray:
        total = np.zeros((n_y, n_x), dtype=np.float32)
        for image, theta in zip(filtered, angle, strict=True):
            place = np.cos(theta) * across + np.sin(theta) * (z - n_z // 2)
            place = np.clip(2.0 * (place + images.shape[2] // 2), 0, image.shape[1] - 2)
            left = place.astype(np.intp)
            part = (place - left).astype(np.float32)
            total += image[:, left] * (1 - part) + image[:, left + 1] * part
        return total

    tomogram = np.empty((n_z, n_y, n_x), dtype=np.float32)
    for z, plane in enumerate(ordered_map(layer, range(n_z), n_workers)):
        tomogram[z] = plane
    tomogram /= np.float32(n_z)
    return tomogram


def _upsampled_rows(images: FloatArray, angles_deg: FloatArray, thickness: int) -> FloatArray:
    """Weighted images with every row on twice the pixels, so that reading between them is exact."""
    width = images.shape[2]
    frequency = np.fft.rfftfreq(width)
    angle = np.deg2rad(np.asarray(angles_deg, dtype=np.float64))
    half = fft.rfft(images, axis=2)
    for number, theta in enumerate(angle):
        # Two planes overlap while they are closer than 1 / thickness.
        apart = np.abs(np.sin(angle - theta))[:, None] * frequency * thickness
        half[number] /= np.maximum(1.0 - apart, 0.0).sum(axis=0)
    upsampled: FloatArray = fft.irfft(half, 2 * width, axis=2).astype(np.float32)
    return 2.0 * upsampled
