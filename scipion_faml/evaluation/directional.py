"""Fourier shell correlation by direction: where a missing wedge has left an average blurred.

    FSC(s, u) = Re sum F1 conj(F2) / sqrt(sum |F1|^2 sum |F2|^2)

over the samples of shell s within a cone about the direction u (both Friedel mates: -u is the same
direction), after Tan et al. 2017, Nature Methods 14:793.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import ConvexHull

from scipion_faml.evaluation.fsc import (
    SMEARED_SHELLS,
    randomise_phases,
    resolution_angst,
    without_mask_correlation,
)
from scipion_faml.fourier import frequencies, frequency_radius, hermitian_multiplicity, spectrum
from scipion_faml.types import ComplexArray, FloatArray, IntArray

DIRECTION_STEP_DEG = 8.0
LEAST_SAMPLES = 6  # of a shell in a cone, mates counted once: fewer say nothing
BLOCK = 2**22  # pairs of sample and direction looked at together


@dataclass(frozen=True, eq=False)
class DirectionalFsc:
    """FSC in cones about D directions of a half sphere."""

    direction: FloatArray  # (D, 3) unit vectors, x, y, z
    fsc: FloatArray  # (D, n // 2); NaN where a cone holds too few samples of a shell
    cone_deg: float  # angle between a cone's axis and its surface
    n: int  # box, voxels

    def resolution_angst(self, voxel_size_angst: float, threshold: float) -> FloatArray:
        """Return where the FSC of every direction falls below a threshold for two shells (D,).

        A cone holds few samples of a shell: one shell alone may fall below by chance.
        """
        # Shells that cannot be judged are the lowest: they count as agreeing.
        known = np.where(np.isnan(self.fsc), 1.0, self.fsc)
        known[:, :-1] = np.maximum(known[:, :-1], known[:, 1:])
        return np.array([
            resolution_angst(curve, self.n, voxel_size_angst, threshold) for curve in known])


def directional_fsc(
    first: FloatArray, second: FloatArray, direction: FloatArray, cone_deg: float = 20.0,
    mask: FloatArray | None = None,
) -> DirectionalFsc:
    """Return the FSC of two half maps (n, n, n) in cones about directions (D, 3).

    Raises
    ------
    ValueError
        If the cone is no angle between 0 and 90 deg.
    """
    if not 0.0 < cone_deg <= 90.0:
        raise ValueError(f"a cone of {cone_deg:g} deg is not possible: choose 10 to 45")
    n = first.shape[0]
    a, b = (spectrum(np.asarray(v, dtype=np.float64) * (1.0 if mask is None else mask))
            for v in (first, second))
    fsc = np.full((len(direction), n // 2), np.nan)
    shell = np.rint(frequency_radius(n)).astype(np.intp)
    for s in range(1, n // 2):
        fsc[:, s] = _shell_in_cones(a, b, np.flatnonzero(shell == s), direction, cone_deg)
    return DirectionalFsc(direction, fsc, cone_deg, n)


def _shell_in_cones(
    first: ComplexArray, second: ComplexArray, index: IntArray, direction: FloatArray,
    cone_deg: float,
) -> FloatArray:
    """The FSC of one shell's samples in every cone (D,); NaN where it holds too few."""
    n = first.shape[0]
    kz, ky, kx = (np.broadcast_to(k, first.shape).ravel()[index] for k in frequencies(n))
    unit = np.stack([kx, ky, kz], axis=-1) / np.sqrt(kx**2 + ky**2 + kz**2.0)[:, None]
    a, b = first.ravel()[index], second.ravel()[index]
    twice = hermitian_multiplicity(n).ravel()[index].astype(np.float64)
    sums = np.stack([(a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2, np.ones(len(a))]) * twice
    totals = np.zeros((4, len(direction)))
    step = max(1, BLOCK // max(len(index), 1))
    for start in range(0, len(direction), step):
        some = slice(start, start + step)
        inside = np.abs(unit @ direction[some].T) >= np.cos(np.deg2rad(cone_deg)) - 1e-9
        totals[:, some] = sums @ inside
    cross, power_a, power_b, count = totals
    power = power_a * power_b
    has_power = power > np.finfo(float).tiny
    value = np.where(has_power, cross / np.sqrt(np.where(has_power, power, 1.0)), 0.0)
    return np.where(count >= 2 * LEAST_SAMPLES, value, np.nan)


def corrected_directional_fsc(
    first: FloatArray, second: FloatArray, direction: FloatArray, cone_deg: float,
    mask: FloatArray, random_from: int | None, rng: np.random.Generator,
) -> DirectionalFsc:
    """Return the FSC in cones inside a mask, without what the mask correlates (`masked_fsc`).

    `random_from` is the shell from which phases are randomised.
    """
    masked = directional_fsc(first, second, direction, cone_deg, mask)
    if random_from is None:
        return masked
    randomised = directional_fsc(
        randomise_phases(first, random_from, rng), randomise_phases(second, random_from, rng),
        direction, cone_deg, mask)
    corrected = np.stack([
        without_mask_correlation(total, noise, random_from + SMEARED_SHELLS)
        for total, noise in zip(masked.fsc, randomised.fsc, strict=True)])
    return replace(masked, fsc=np.where(np.isnan(masked.fsc), np.nan, corrected))


def mean_in_cones(
    ray_direction: FloatArray, value: FloatArray, direction: FloatArray, cone_deg: float
) -> FloatArray:
    """Return the mean in every cone (D,) of values (M,) known in evenly spread directions (M, 3).

    With the share of particles that measured a direction this is how well a cone was sampled.
    """
    inside = np.abs(direction @ ray_direction.T) >= np.cos(np.deg2rad(cone_deg)) - 1e-9
    mean: FloatArray = inside @ value / np.maximum(inside.sum(axis=1), 1)
    return mean


@dataclass(frozen=True, eq=False)
class Anisotropy:
    """How unevenly a resolution is spread over directions."""

    best_angst: float
    worst_angst: float
    mean_angst: float  # of the mean frequency
    spread_angst: float  # standard deviation
    best_direction: FloatArray  # (3,)
    worst_direction: FloatArray
    sphericity: float  # 1 for the same resolution in all directions

    @property
    def ratio(self) -> float:
        """Worst over best."""
        return self.worst_angst / self.best_angst


def anisotropy(direction: FloatArray, resolution_angst: FloatArray) -> Anisotropy:
    """Return figures of resolutions (D,) in directions (D, 3) of a half sphere.

    The sphericity is that of the surface which the frequencies 1 / resolution form,
    pi^(1/3) (6 V)^(2/3) / A of its volume V and area A, over that of the same triangles on a
    sphere.
    """
    frequency = 1.0 / resolution_angst
    best, worst = int(frequency.argmax()), int(frequency.argmin())
    return Anisotropy(
        float(resolution_angst[best]), float(resolution_angst[worst]), float(1 / frequency.mean()),
        float(resolution_angst.std()), direction[best], direction[worst],
        _sphericity(direction, frequency),
    )


def _sphericity(direction: FloatArray, radius: FloatArray) -> float:
    """Sphericity of the closed surface at +-radius (D,) along directions (D, 3)."""
    both = np.concatenate([direction, -direction])
    corners = ConvexHull(both).simplices
    values = [_roundness(points[corners])
              for points in (both * np.tile(radius, 2)[:, None], both)]
    return min(values[0] / values[1], 1.0)


def _roundness(triangle: FloatArray) -> float:
    """pi^(1/3) (6 V)^(2/3) / A of triangles (T, 3, 3) around the origin."""
    a, b, c = np.moveaxis(triangle, 1, 0)
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()
    volume = np.abs(np.einsum("ti,ti->t", a, np.cross(b, c))).sum() / 6.0
    return float(np.pi ** (1 / 3) * (6.0 * volume) ** (2 / 3) / area)
