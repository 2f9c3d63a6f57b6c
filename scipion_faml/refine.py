"""Local refinement of poses, and the volume of the posterior around each (Laplace).

Around its maximum a log-likelihood is a parabola: Levenberg and Marquardt's method climbs to it in
a few steps of rotation and shift together, and the curvature there gives the integral that a
candidate stands for in Eq. 4,

    int exp(L) dphi = exp(L_max) (2 pi)^3 / sqrt(det H),

in place of its Voronoi volume, which knows nothing of how sharp the peak is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipion_faml.cython_ext import _local
from scipion_faml.fourier import OVERSAMPLING
from scipion_faml.geometry import RigidTransforms, apart, rotation_from_vector
from scipion_faml.measured import Measured
from scipion_faml.regularise import shell_of
from scipion_faml.types import ComplexArray, FloatArray, IntArray

LOG_ROTATIONS = float(np.log(8.0 * np.pi**2))  # volume of SO(3) in rad^3


@dataclass(frozen=True, eq=False)
class WeightedParticle:
    """A particle's measured samples, each divided by the noise variance of its shell."""

    n: int
    axes: FloatArray  # (3, P) float32
    weighted: ComplexArray  # (P,) complex64, w X / sigma^2 times multiplicity
    weight: FloatArray  # (P,) float32, w / sigma^2 times multiplicity


def weighted_particle(particle: Measured, noise: FloatArray) -> WeightedParticle:
    """Return a particle weighted by the noise variances (n_shells,)."""
    samples, kept = particle.wedge.samples, particle.wedge.observed
    factor = (samples.multiplicity / noise[shell_of(samples)])[kept].astype(np.float32)
    return WeightedParticle(
        samples.n,
        particle.wedge.observed_axes,
        particle.values[kept] * factor,
        particle.wedge.weight[kept] * factor,
    )


@dataclass(frozen=True, eq=False)
class Peaks:
    """Maxima of the log-likelihood of one particle and class."""

    rotation: FloatArray  # (M, 3, 3)
    shift_xyz: FloatArray  # (M, 3) working voxels
    log_likelihood: FloatArray  # (M,) ratio to pure noise, with the prior of shifts
    curvature: FloatArray  # (M, 6, 6) H: turns about x, y, z (rad) and shifts (working voxels)

    def __len__(self) -> int:
        return len(self.rotation)

    def select(self, index: IntArray) -> Peaks:
        """Return the peaks at `index`."""
        return Peaks(
            self.rotation[index], self.shift_xyz[index],
            self.log_likelihood[index], self.curvature[index],
        )

    @property
    def transforms(self) -> RigidTransforms:
        """Their poses."""
        return RigidTransforms.from_rotation(self.rotation, self.shift_xyz)


def climb(
    particle: WeightedParticle,
    turnable: ComplexArray,
    rotation: FloatArray,
    shift_xyz: FloatArray,
    zeta: float,
    max_steps: int = 8,
    max_turn_deg: float = 6.0,
) -> Peaks:
    """Return poses (M, 3, 3) and (M, 3) moved to the nearest maxima of their log-likelihood.

    Parameters
    ----------
    turnable : the average's turnable spectrum
    zeta : width of the prior of shifts, working voxels
    max_steps : trial steps; 0 evaluates the poses as they are
    max_turn_deg : longest turn of one step
    """
    rotation = np.ascontiguousarray(rotation, dtype=np.float64).copy()
    shift_xyz = np.ascontiguousarray(shift_xyz, dtype=np.float64).copy()
    out, curvature = np.empty((len(rotation), 2)), np.empty((len(rotation), 6, 6))
    _local.refine(
        turnable, float(OVERSAMPLING), particle.axes, particle.weighted, particle.weight,
        float(particle.n), 1.0 / zeta**2, max_steps, np.deg2rad(max_turn_deg), 1.0,
        rotation, shift_xyz, out, curvature,
    )
    return Peaks(rotation, shift_xyz, out[:, 0], curvature)


def distinct(peaks: Peaks, min_turn_deg: float, min_move: float, n_best: int) -> IntArray:
    """Return indices of up to n_best peaks, best first; of two at one place the higher is kept.

    Two peaks are at one place when they differ by less than a turn and a move (voxels).
    """
    order = np.argsort(-peaks.log_likelihood, kind="stable")
    kept = apart(peaks.rotation[order], peaks.shift_xyz[order], min_turn_deg, min_move, n_best)
    return order[kept]


def log_evidence(peaks: Peaks, zeta: float) -> FloatArray:
    """Return the log of what each peak adds to the integral over poses, (M,).

    Rotations are uniform over 8 pi^2 rad^3; shifts Gaussian of width zeta. A peak stands for all
    poses at most, however flat it is (a reference of nothing has no curvature).
    """
    normalisation = LOG_ROTATIONS + 1.5 * np.log(2.0 * np.pi * zeta**2)
    log_volume = 3.0 * np.log(2.0 * np.pi) - 0.5 * np.linalg.slogdet(peaks.curvature)[1]
    evidence: FloatArray = peaks.log_likelihood + np.minimum(log_volume - normalisation, 0.0)
    return evidence


def cubature(
    rotation: FloatArray, shift_xyz: FloatArray, curvature: FloatArray, widest_turn_deg: float
) -> tuple[FloatArray, FloatArray]:
    """Return 12 poses that together have the mean and covariance of the posterior at a peak.

    The third-degree rule of the Gaussian: +- sqrt(6) along each column of a factor of H^-1. Turns
    are limited to `widest_turn_deg`: beyond, a parabola is no picture of the posterior.
    """
    values, vectors = np.linalg.eigh(curvature)
    offsets = vectors / np.sqrt(np.maximum(values, 1e-9)) * np.sqrt(6.0)
    steps = np.concatenate([offsets.T, -offsets.T])
    turn = np.linalg.norm(steps[:, :3], axis=1)
    limit = np.minimum(1.0, np.deg2rad(widest_turn_deg) / np.maximum(turn, 1e-12))
    steps = steps * limit[:, None]
    return rotation_from_vector(steps[:, :3]) @ rotation, shift_xyz + steps[:, 3:]
