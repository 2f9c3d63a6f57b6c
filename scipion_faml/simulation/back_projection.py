"""Tomograms of tilt series: weighted back-projection, layer by layer."""

from __future__ import annotations

import numpy as np
from scipy import fft

from scipion_faml.simulation.scene import ordered_map
from scipion_faml.types import FloatArray


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
    top = images.shape[1] // 2 - n_y // 2
    filtered = _upsampled_rows(images[:, top : top + n_y], angles_deg, n_z)
    # A layer takes whole columns of the images: with the tilt axis innermost they are contiguous.
    columns = np.ascontiguousarray(filtered.transpose(0, 2, 1))
    del filtered
    angle = np.deg2rad(np.asarray(angles_deg, dtype=np.float64))
    across = np.arange(n_x) - n_x // 2

    def layer(z: int) -> FloatArray:
        total = np.zeros((n_x, n_y), dtype=np.float32)
        read = np.empty_like(total)
        for image, theta in zip(columns, angle, strict=True):
            place = np.cos(theta) * across + np.sin(theta) * (z - n_z // 2)
            place = np.clip(2.0 * (place + images.shape[2] // 2), 0, len(image) - 2)
            left = place.astype(np.intp)
            part = (place - left).astype(np.float32)[:, None]
            for column, weight in ((left, 1.0 - part), (left + 1, part)):
                np.take(image, column, axis=0, out=read, mode="clip")
                np.multiply(read, weight, out=read)
                np.add(total, read, out=total)
        return total.T

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
