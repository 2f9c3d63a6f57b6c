"""Which directions particles were seen from, and how well they fill Fourier space together.

A direction u of the average is measured by particle i when R_i u lies in what its tilt series
measured, so that missing wedges count, and the share of particles that measured it is the same on
the whole ray. (After Baldwin and Lyumkis 2020, Prog. Biophys. Mol. Biol. 150:160.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, cKDTree

from scipion_faml.types import FloatArray, IntArray
from scipion_faml.wedge import MissingWedge

CAP_GRID = 4000  # directions of a whole sphere among which the middle of an empty cap is looked for
N_UNIFORM = 40  # sets of uniform directions that tell what is to be expected


def sphere_directions(count: int) -> FloatArray:
    """Return unit vectors (M, 3) even over the whole sphere (a Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    z = 1.0 - 2.0 * index / count
    angle = np.pi * (1.0 + np.sqrt(5.0)) * index
    radius = np.sqrt(1.0 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1)


def viewing_directions(rotation: FloatArray, symmetry: FloatArray | None = None) -> FloatArray:
    """Return the direction of the beam (z) in the frame of the average, R^T z, (N, 3).

    With rotations (G, 3, 3) of a point group all equivalent directions are returned, (N G, 3).
    """
    direction: FloatArray = np.asarray(rotation, dtype=np.float64)[:, 2, :]
    if symmetry is None or len(symmetry) == 1:
        return direction
    return np.einsum("gij,nj->ngi", symmetry, direction).reshape(-1, 3)


# ----------------------------------------------------------------------------------- evenness
@dataclass(frozen=True, eq=False)
class Evenness:
    """How evenly N directions lie on the sphere."""

    empty_cap_deg: float  # angle from the middle to the rim of the largest cap without a direction
    empty_cap_middle: FloatArray  # (3,)
    empty_cap_uniform_deg: float  # the same of N uniform directions, on average
    resultant: float  # length of the mean direction: 0 even, 1 all the same
    tensor: FloatArray  # (3,) eigenvalues of the mean u u^T, ascending: 1/3 each where even
    preferred_axis: FloatArray  # (3,) of the largest eigenvalue

    @property
    def axial_anisotropy(self) -> float:
        """0 for an even distribution, 1 when all directions lie on one axis."""
        return float(np.sqrt(1.5 * np.sum((self.tensor - 1.0 / 3.0) ** 2)))


def evenness(direction: FloatArray, rng: np.random.Generator) -> Evenness:
    """Return how evenly directions (N, 3) lie on the sphere.

    `rng` draws the uniform directions that tell what N directions can reach.
    """
    angle, middle = largest_empty_cap(direction)
    uniform = [largest_empty_cap(_uniform(len(direction), rng))[0] for _ in range(N_UNIFORM)]
    value, vector = np.linalg.eigh(direction.T @ direction / len(direction))
    return Evenness(
        angle, middle, float(np.mean(uniform)), float(np.linalg.norm(direction.mean(axis=0))),
        value, vector[:, 2],
    )


def _uniform(count: int, rng: np.random.Generator) -> FloatArray:
    """Random unit vectors (count, 3)."""
    vectors = rng.standard_normal((count, 3))
    unit: FloatArray = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    return unit


def largest_empty_cap(direction: FloatArray) -> tuple[float, FloatArray]:
    """Return the angle (deg) from middle to rim of the largest empty cap, and its middle (3,).

    The middle is a circumcentre of the triangles of the convex hull, which is exact where the
    directions surround the origin; else the farthest of 4000 directions.
    """
    middles = sphere_directions(CAP_GRID)
    distinct = np.unique(np.round(direction, 12), axis=0)
    if len(distinct) > 3 and np.linalg.matrix_rank(distinct - distinct.mean(axis=0), 1e-6) == 3:
        # The outer normal of a face points at the middle of the cap that its corners bound.
        middles = np.concatenate([middles, ConvexHull(distinct).equations[:, :3]])
    chord = cKDTree(direction).query(middles)[0]
    best = int(chord.argmax())
    angle = 2.0 * np.rad2deg(np.arcsin(np.clip(chord[best] / 2.0, 0.0, 1.0)))
    return float(angle), middles[best]


# ----------------------------------------------------------------------------------- sampling
def weight_along(
    direction: FloatArray, wedge: MissingWedge | FloatArray
) -> FloatArray:
    """Return how much of the rays along directions (..., 3) of a particle was measured, 0 to 1.

    `wedge` is a tilt range, or weights (n, n, n // 2 + 1), whose mean along the ray is taken.
    """
    if isinstance(wedge, MissingWedge):
        x, z = direction[..., 0], direction[..., 2]
        flip = np.where(x < 0, -1.0, 1.0)
        angle = np.rad2deg(np.arctan2(z * flip, x * flip))
        inside = (angle >= wedge.tilt_min_deg) & (angle <= wedge.tilt_max_deg)
        return np.asarray(inside, dtype=np.float64)
    n = wedge.shape[0]
    radii = np.arange(2, (n - 1) // 2 + 1, dtype=np.float64)
    flip = np.where(direction[..., 0] < 0, -1.0, 1.0)
    index = np.rint((direction * flip[..., None])[..., None, :] * radii[:, None]).astype(np.intp)
    kx, ky, kz = np.moveaxis(index, -1, 0)
    mean: FloatArray = wedge[kz % n, ky % n, np.abs(kx)].mean(axis=-1, dtype=np.float64)
    return mean


def times_measured(
    rotation: FloatArray, wedges: Iterable[MissingWedge | FloatArray], direction: FloatArray,
    symmetry: FloatArray | None = None,
) -> FloatArray:
    """Return how many particles measured every direction of the average (D,).

    Parameters
    ----------
    rotation : (N, 3, 3)
        R of the poses.
    wedges : N tilt ranges or weights
    direction : (D, 3)
    symmetry : (G, 3, 3), optional
        Point group of the average: a particle then measures all equivalent directions, and counts
        |G| times.
    """
    group = np.eye(3)[None] if symmetry is None else symmetry
    total = np.zeros(len(direction))
    for turned, wedge in zip(rotation, wedges, strict=True):
        for copy in group:
            total += weight_along(direction @ (turned @ copy).T, wedge)
    return total


@dataclass(frozen=True, eq=False)
class Sampling:
    """How well N particles fill Fourier space."""

    share_least: float  # of particles that measured the worst direction
    share_most: float
    share_mean: float
    share_never: float  # of directions that nobody measured
    share_below_half: float  # of directions measured less than half as often as the mean
    worst_direction: FloatArray  # (3,)
    compensation: float  # harmonic over arithmetic mean of the sampling
    times: IntArray  # (T,) how often: 0, 1, 2, ... (whole numbers)
    share_of_times: FloatArray  # (T,) of Fourier samples measured so often


def sampling_of(times: FloatArray, n_particles: int, direction: FloatArray) -> Sampling:
    """Return figures of how often evenly spread directions (D, 3) were measured (D,).

    The sampling compensation factor is the harmonic over the arithmetic mean: by it, fewer
    particles in even orientations would do as well (Baldwin and Lyumkis 2020). Directions that
    nobody measured would make it 0; they count as measured by half a particle.
    """
    share = times / max(n_particles, 1)
    count = np.bincount(np.rint(times).astype(np.intp))
    floored = np.maximum(times, 0.5)
    return Sampling(
        float(share.min()), float(share.max()), float(share.mean()),
        float(np.mean(times < 1e-9)), float(np.mean(times < 0.5 * times.mean())),
        direction[int(times.argmin())],
        float(1.0 / np.mean(1.0 / floored) / max(floored.mean(), 1e-12)),
        np.arange(len(count)), count / len(times),
    )
