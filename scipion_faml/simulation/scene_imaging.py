"""Images of scenes: noise on the density, or a tilt series with optics.

A scene may have surroundings, another scene (gold beads, membranes) that is imaged with it but does
not count as signal: the signal-to-noise ratio is that of the particles, whatever lies around them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import fft

from scipion_faml.geometry import RigidTransforms
from scipion_faml.simulation.density import Structure
from scipion_faml.simulation.scene import Scene, by_class, compact, ordered_map
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
from scipion_faml.volume import overlap
from scipion_faml.wedge import MissingWedge


def noisy_tomogram(
    density: FloatArray, snr: float, wedge: MissingWedge, rng: np.random.Generator,
    around: FloatArray | None = None,
) -> FloatArray:
    """Return density [z, y, x] + white noise, its missing wedge cut out (no optics).

    `snr` is the variance of `density` over the whole tomogram over that of the noise; `around` is
    the density of the surroundings.
    """
    check_snr(snr)
    volume = density if around is None else density + around
    if np.isfinite(snr):
        noise_sd = np.sqrt(density.var(dtype=np.float64) / snr)
        volume = volume + np.float32(noise_sd) * rng.standard_normal(
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


def image_shape(
    shape_xyz: tuple[int, int, int], structures: Sequence[Structure]
) -> tuple[int, int]:
    """Return height and width of images that hold every particle at every tilt."""
    x, y, z = shape_xyz
    margin = max(compact(s).n for s in structures)
    height, width = (int(fft.next_fast_len(s + margin, real=True)) for s in (y, x + z))
    return height, width


def project_scene(
    scene: Scene, structures: Sequence[Structure], angles_deg: FloatArray, n_workers: int = 1,
    shape: tuple[int, int] | None = None,
) -> FloatArray:
    """Return the noise-free tilt images of a scene, (T, height, width) float32.

    Every particle is projected by itself (Fourier slice theorem) and pasted at its place, so the
    particles are exactly where the scene says at every tilt. The tilt axis falls on pixel
    (height // 2, width // 2); the images are wide enough for all particles at all tilts
    (`image_shape`), or have the `shape` given.
    """
    rotations = tilt_rotations(angles_deg)
    height, width = shape or image_shape(scene.shape_xyz, structures)
    images = np.zeros((len(rotations), height, width), dtype=np.float32)
    for k, numbers in by_class(scene, len(structures)):
        density = projector(compact(structures[k]).map)

        def patches(
            number: int, density: Projector = density
        ) -> tuple[FloatArray, IntArray]:
            place = scene.position_xyz[number] - scene.centre_xyz
            return _patches(density, rotations, RigidTransforms(scene.euler_zyz[number], place))

        for patch, pixel in ordered_map(patches, numbers, n_workers):
            for tilt in range(len(rotations)):
                start = pixel[tilt] + (height // 2, width // 2) - density.n // 2
                whole, part = overlap(start, patch.shape[1:], (height, width))
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
    around: FloatArray | None = None,
) -> FloatArray:
    """Return the recorded images (T, height, width) of noise-free ones (`tilt_series.record`).

    `around` holds the images of the surroundings after their CTF (`through_ctf`): no signal.
    """
    shape = images.shape[1], images.shape[2]
    transfer = image_transfer(shape, pixel_size_angst, microscope, ctf_correction)
    recorded = record(
        fft.rfft2(images), shape, snr, transfer, rng, None if around is None else fft.rfft2(around)
    )
    noisy: FloatArray = fft.irfft2(recorded, shape).astype(np.float32)
    return noisy


def through_ctf(
    images: FloatArray, pixel_size_angst: float, microscope: Microscope
) -> FloatArray:
    """Return noise-free images (T, height, width) as a microscope shows them: times its CTF."""
    shape = images.shape[1], images.shape[2]
    ctf = image_transfer(shape, pixel_size_angst, microscope).ctf
    shown: FloatArray = fft.irfft2(fft.rfft2(images) * ctf, shape).astype(np.float32)
    return shown
