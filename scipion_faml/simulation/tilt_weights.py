"""What the samples of tilt images are worth, and of the volumes inverted from them.

Model of a volume's sample j: X_j = A_j + background + noise, the background (neighbours, ice) with
variance s(|k|), the same however many images measured it, the shot noise with variance
v(|k|) / D_j, D_j the sum of the squared transfer of its images. So its precision is
1 / (s + v / D_j).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from scipion_faml.fourier import frequency_radius
from scipion_faml.simulation.tilt_series import Microscope, contrast_transfer, image_frequencies
from scipion_faml.types import ComplexArray, FloatArray, IntArray

N_REWEIGHTED = 20


@dataclass(frozen=True, eq=False)
class TiltOptics:
    """Optics of the T images of a tilt series."""

    defocus_u_angst: FloatArray  # (T,)
    defocus_v_angst: FloatArray  # (T,)
    defocus_angle_deg: FloatArray  # (T,) of u, from x to y
    scale: FloatArray  # (T,) 0: the image is not used
    dose: FloatArray  # (T,) electrons per square angstrom before the image


def dose_transfer(frequency_per_angst: FloatArray, dose: float) -> FloatArray:
    """Return what is left of amplitudes after `dose` (e / A^2), at 300 kV.

    Grant and Grigorieff (2015): exp(-dose / (2 N)), N = 0.245 k^-1.665 + 2.81.
    """
    with np.errstate(divide="ignore"):
        critical = 0.245 * np.asarray(frequency_per_angst, np.float64) ** -1.665 + 2.81
    left: FloatArray = np.exp(-0.5 * dose / critical)
    return left


def image_transfers(
    optics: TiltOptics, microscope: Microscope, n: int, pixel_size_angst: float
) -> FloatArray:
    """Return CTF x dose x scale of every image, (T, n, n // 2 + 1).

    The defocus is the tilt's, at the centre of the tomogram; a particle's own depth in the tomogram
    (about 0.1 um, against 2 um or more) is left out.
    """
    v, u = image_frequencies((n, n))
    frequency = np.hypot(u, v) / pixel_size_angst
    direction = np.arctan2(v, u)
    transfers = np.empty((len(optics.scale), n, n // 2 + 1))
    for t, scale in enumerate(optics.scale):
        high, low = optics.defocus_u_angst[t], optics.defocus_v_angst[t]
        angle = direction - np.deg2rad(optics.defocus_angle_deg[t])
        defocus = 0.5 * (high + low) + 0.5 * (high - low) * np.cos(2.0 * angle)
        transfers[t] = scale * contrast_transfer(frequency, microscope, defocus)
        transfers[t] *= dose_transfer(frequency, float(optics.dose[t]))
    return transfers


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """Variances of a volume's samples on shells of rounded |k|, 0 to n // 2."""

    background: FloatArray  # (n // 2 + 1,) s
    shot: FloatArray  # (n // 2 + 1,) v, per unit of summed squared transfer

    def precision(self, denominator: FloatArray, floor: float) -> FloatArray:
        """Return 1 / (s + v / D) of every sample; 0 where D <= `floor` and beyond the sphere."""
        n = denominator.shape[0]
        shell = _shells(n)
        known = (denominator > floor) & (shell > 0) & (shell <= n // 2)
        inside = np.clip(shell, 0, n // 2)
        safe = np.where(known, denominator, 1.0)
        variance = self.background[inside] + self.shot[inside] / safe
        known &= variance > 0
        precision: FloatArray = np.where(known, 1.0 / np.where(known, variance, 1.0), 0.0)
        return precision


def _shells(n: int) -> IntArray:
    return np.rint(frequency_radius(n)).astype(np.intp)


def fit_noise(
    spectra: Sequence[ComplexArray], denominators: Sequence[FloatArray], floor: float
) -> NoiseModel:
    """Return the noise model of volumes that are mostly noise, from their own power.

    On every shell |X|^2 is fitted by s + v / D, both >= 0, by iteratively reweighted least squares
    (the s.d. of a power is its mean). A particle's own signal counts with the background.

    Parameters
    ----------
    spectra, denominators : (N, n, n, n // 2 + 1)
    floor : float
        Samples with denominators up to it are left out.
    """
    n = spectra[0].shape[0]
    shell = _shells(n)
    background, shot = np.zeros(n // 2 + 1), np.zeros(n // 2 + 1)
    for radius in range(1, n // 2 + 1):
        members = np.flatnonzero(shell == radius)
        inverse, power = [], []
        for half, denominator in zip(spectra, denominators, strict=True):
            measured = members[denominator.ravel()[members] > floor]
            inverse.append(1.0 / denominator.ravel()[measured].astype(np.float64))
            power.append(np.abs(half.ravel()[measured]).astype(np.float64) ** 2)
        background[radius], shot[radius] = _fit_line(
            np.concatenate(inverse), np.concatenate(power)
        )
    return NoiseModel(background, shot)


def _fit_line(x: FloatArray, power: FloatArray) -> FloatArray:
    """Intercept and slope, both >= 0, of the mean of exponentially distributed powers."""
    if len(x) < 3 or not power.any():
        return np.zeros(2)
    unit = np.array([power.mean(), power.mean() / x.mean()])  # makes both parameters about 1
    design = np.stack([np.ones_like(x) * unit[0], x * unit[1]], axis=1)
    solution = np.array([0.5, 0.5])
    for _ in range(N_REWEIGHTED):
        weight = 1.0 / (design @ solution)
        solution = nnls(design * weight[:, None], power * weight)[0]
        if not solution.any():
            return np.zeros(2)
    fitted: FloatArray = solution * unit
    return fitted
