"""Direct Fourier inversion: the slices of a tilt series gathered into a three-dimensional spectrum.

An image measures the plane of its rotation. A sample of the volume takes the images whose planes
pass near it, each read at the sample's foot on the plane (from the twice oversampled image) with a
weight that falls linearly with the distance from the plane and vanishes at `near` samples, or where
the tilts are further apart than that, at the neighbouring tilt. So the measured range has no gaps,
and near the tilt axis, where there are more images than samples, all of them are averaged.
"""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

from scipion_faml.fourier import OVERSAMPLING, frequencies
from scipion_faml.types import ComplexArray, FloatArray


def invert_tilt_series(
    images: ComplexArray, weights: FloatArray, rotations: FloatArray, near: float = 1.0
) -> tuple[ComplexArray, FloatArray]:
    """Return numerator and denominator of the spectrum of a volume measured by a tilt series.

    The spectrum is numerator / denominator where the denominator is positive. Images that are
    multiplied by their CTF already, given with CTF^2 as weights, make it the least-squares estimate
    of each sample, and the denominator its precision (inverse noise variance).

    Parameters
    ----------
    images : (T, n, n // 2 + 1) complex
        Spectra of the images (DC at 0), each already multiplied by what its weight says.
    weights : (T, n, n // 2 + 1) float
        Weights of the images' samples, smooth in frequency.
    rotations : (T, 3, 3)
        Specimen to microscope; the planes are spanned by the first two rows.
    near : float
        Half-width (samples) of the slab that an image counts in, where tilts are dense. 1 shares an
        image out over the samples on both sides and wastes none of it: for noisy data. 0.5 blurs
        the spectrum less along the arc of the tilts, which dims what is off centre (correlation
        with the truth 0.999 in place of 0.991, without noise).

    Returns
    -------
    numerator : (n, n, n // 2 + 1) complex64
    denominator : (n, n, n // 2 + 1) float32
    """
    n = images.shape[1]
    frequency = _half_grid(n)
    axis, spacing_rad = _tilt_axis_and_spacing(rotations)
    off_axis = np.sqrt(np.maximum((frequency**2).sum(1) - (frequency @ axis) ** 2, 0.0))
    half_width = np.maximum(near, off_axis * np.sin(spacing_rad))
    numerator = np.zeros(len(frequency), dtype=np.complex128)
    denominator = np.zeros(len(frequency))
    for number in range(len(rotations)):
        rotation: FloatArray = rotations[number]
        distance = np.abs(frequency @ rotation[2])
        members = np.flatnonzero(distance < half_width)
        foot = frequency[members] @ rotation[:2].T
        inside = (np.abs(foot) <= n // 2).all(axis=1)
        members, foot = members[inside], foot[inside]
        fall = 1.0 - distance[members] / half_width[members]
        numerator[members] += fall * _read_image(images[number], foot)
        # Read as the image is: beside a zero of the CTF the two must vanish together.
        weight = _read_image(weights[number].astype(np.complex64), foot).real
        denominator[members] += fall * np.maximum(weight, 0.0)
    shape = (n, n, n // 2 + 1)
    return (
        numerator.reshape(shape).astype(np.complex64),
        denominator.reshape(shape).astype(np.float32),
    )


def divide(numerator: ComplexArray, denominator: FloatArray, floor: float = 0.0) -> ComplexArray:
    """Return numerator / denominator as complex64, and 0 where the denominator is <= `floor`."""
    quotient = np.zeros_like(numerator, dtype=np.complex64)
    np.divide(numerator, denominator, out=quotient, where=denominator > floor, casting="same_kind")
    return quotient


def _half_grid(n: int) -> FloatArray:
    """Frequencies (kx, ky, kz) of all samples of a spectrum, (n * n * (n // 2 + 1), 3)."""
    grids = np.broadcast_arrays(*frequencies(n))
    grid: FloatArray = np.stack([g.ravel() for g in grids[::-1]], axis=-1).astype(np.float64)
    return grid


def _tilt_axis_and_spacing(rotations: FloatArray) -> tuple[FloatArray, float]:
    """Axis normal to all beams (in the specimen), and the largest usual gap of tilts (rad)."""
    beams: FloatArray = rotations[:, 2]
    right: FloatArray = np.linalg.svd(beams)[2]
    axis: FloatArray = right[2]
    across: FloatArray = right[0]
    angle = np.arctan2(beams @ np.cross(axis, across), beams @ across)
    # Beams are lines: fold the angles into half a turn around their middle.
    angle = np.sort((angle + np.pi / 2) % np.pi)
    if len(angle) < 2:
        return axis, 0.0
    return axis, float(np.median(np.diff(angle)))


def _read_image(image: ComplexArray, foot: FloatArray) -> ComplexArray:
    """Values of an image's spectrum at (u, v), (P, 2): bilinear on twice the samples."""
    n = image.shape[0]
    fine_n = OVERSAMPLING * n
    real = fft.fftshift(fft.irfft2(image, (n, n)))
    window = np.sinc((np.arange(n) - n // 2) / fine_n) ** 2
    padded = np.zeros((fine_n, fine_n))
    start = fine_n // 2 - n // 2
    padded[start : start + n, start : start + n] = real / (window[:, None] * window[None, :])
    fine = fft.fftshift(fft.fft2(fft.ifftshift(padded)))
    position = OVERSAMPLING * foot[:, ::-1].T + fine_n // 2
    read: ComplexArray = ndimage.map_coordinates(fine, position, order=1, mode="grid-wrap")
    return read
