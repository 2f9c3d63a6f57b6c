"""Densities: Gaussian bead models, rasterised on a grid by exact integration.

An atom is a bead of width 0; blurring to a resolution adds to every bead's width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from scipion_faml.geometry import RigidTransforms
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.volume import move_volume, squared_radius

REACH = 4.0  # a Gaussian is cut at this many standard deviations: 6e-5 of it lies beyond, per axis
# Scattering of a protein's core per cubic angstrom at 20 A: the grey level that maps and phantoms
# are brought to, so that structures of every kind can share a tomogram.
PROTEIN_LEVEL = 0.12
_BLOCK = 2_000_000  # voxels written at once: bounds the memory of a rasterisation


@dataclass(frozen=True, eq=False)
class BeadModel:
    """B isotropic Gaussians whose sum is a structure's density; angstrom, (x, y, z)."""

    position_angst: FloatArray  # (B, 3)
    width_angst: FloatArray  # (B,) standard deviation
    weight: FloatArray  # (B,) integral
    name: str = ""
    pdb_id: str = ""

    def __post_init__(self) -> None:
        for field in ("position_angst", "width_angst", "weight"):
            object.__setattr__(self, field, np.asarray(getattr(self, field), dtype=np.float64))
        n_beads = len(self.weight)
        shapes = (self.position_angst.shape, self.width_angst.shape)
        if shapes != ((n_beads, 3), (n_beads,)) or n_beads == 0:
            raise ValueError(
                f"bead model {self.name!r}: {n_beads} weights, positions {shapes[0]}, widths "
                f"{shapes[1]}: one each per bead is needed"
            )

    def __len__(self) -> int:
        return len(self.weight)


def width_of_resolution(resolution_angst: float) -> float:
    """Return the width (angstrom) of the Gaussian whose transform is 1/e at 1 / resolution."""
    return float(resolution_angst / (np.pi * np.sqrt(2.0)))


def centred(model: BeadModel) -> BeadModel:
    """Return the model with its centre of weight at the origin."""
    centre = np.average(model.position_angst, axis=0, weights=model.weight)
    return replace(model, position_angst=model.position_angst - centre)


def turned(model: BeadModel, rotation: FloatArray, shift_angst: FloatArray) -> BeadModel:
    """Return the model turned by `rotation` (3, 3) about the origin, then moved (angstrom)."""
    return replace(model, position_angst=model.position_angst @ rotation.T + shift_angst)


def radius_angst(model: BeadModel, fraction: float = 0.99) -> float:
    """Return the radius about the origin that holds `fraction` of the weight (bead centres)."""
    distance = np.linalg.norm(model.position_angst, axis=1)
    order = np.argsort(distance)
    held = np.cumsum(np.abs(model.weight[order]))
    return float(distance[order][np.searchsorted(held, fraction * held[-1])])


def principal_axis(position_xyz: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the unit axis (3,) about which a density is roundest: its figure axis.

    Of the three eigenvalues of the second moment two are alike for a ring or a rod; the axis is
    the eigenvector of the third, the one farthest from the middle one.
    """
    centre = np.average(position_xyz, axis=0, weights=weight)
    offset = position_xyz - centre
    moment = np.einsum("b,bi,bj->ij", weight, offset, offset)
    value, vector = np.linalg.eigh(moment)
    column = 0 if value[1] - value[0] > value[2] - value[1] else 2
    axis: FloatArray = vector[:, column]
    return axis


def rasterise(
    model: BeadModel, n: int, voxel_size_angst: float, blur_angst: float = 0.0
) -> FloatArray:
    """Return the density of `model` on a grid, its origin at voxel n // 2.

    Every voxel holds the integral of the Gaussians over its cube, so the voxels add up to the
    weight inside the box, however coarse the grid.

    Parameters
    ----------
    model : BeadModel
    n : int
        Box size (voxels).
    voxel_size_angst : float
    blur_angst : float
        Width of a further Gaussian that every bead is convolved with (`width_of_resolution`).

    Returns
    -------
    (n, n, n) float32

    Raises
    ------
    ValueError
        If a bead has neither width nor blur, or box or voxel size are not positive.
    """
    if n < 2 or not voxel_size_angst > 0:
        raise ValueError(f"a box of {n} voxels of {voxel_size_angst:g} A is not possible")
    sigma = np.hypot(model.width_angst, blur_angst) / voxel_size_angst
    if not sigma.min() > 0:
        raise ValueError("a bead of width 0 needs a blur: give a resolution above 0")
    centre = model.position_angst / voxel_size_angst + n // 2
    reach = np.ceil(REACH * sigma).astype(np.intp)
    total = np.zeros(n**3)
    for half in np.unique(reach):
        members = np.flatnonzero(reach == half)
        step = max(1, _BLOCK // (2 * int(half) + 1) ** 3)
        for start in range(0, len(members), step):
            part = members[start : start + step]
            _add_beads(total, n, centre[part], sigma[part], model.weight[part], int(half))
    return total.reshape(n, n, n).astype(np.float32)


def _add_beads(
    total: FloatArray, n: int, centre: FloatArray, sigma: FloatArray, weight: FloatArray, half: int
) -> None:
    """Add beads, each in the window of 2 half + 1 voxels around it, to the raveled grid."""
    first = np.rint(centre).astype(np.intp) - half  # (B, 3)
    edges = first[:, :, None] - 0.5 + np.arange(2 * half + 2)
    mass = np.diff(ndtr((edges - centre[:, :, None]) / sigma[:, None, None]), axis=2)
    index: IntArray = first[:, :, None] + np.arange(2 * half + 1)
    mass[(index < 0) | (index >= n)] = 0.0
    index = np.clip(index, 0, n - 1)
    value = (
        (weight[:, None] * mass[:, 2])[:, :, None, None]
        * mass[:, 1][:, None, :, None]
        * mass[:, 0][:, None, None, :]
    )
    flat = (index[:, 2][:, :, None, None] * n + index[:, 1][:, None, :, None]) * n + index[:, 0][
        :, None, None, :
    ]
    total += np.bincount(flat.ravel(), weights=value.ravel(), minlength=n**3)


EXACT_BEADS = 20_000  # up to this many beads a turned density is computed, not interpolated


@dataclass(frozen=True, eq=False)
class Structure:
    """A structure to simulate: its noise-free map, and its beads where it came from beads."""

    name: str
    map: FloatArray  # (n, n, n) float32, centred, density positive
    voxel_size_angst: float
    beads: BeadModel | None = None
    blur_angst: float = 0.0

    @property
    def n(self) -> int:
        """Box size (voxels)."""
        return int(self.map.shape[0])

    @property
    def radius_voxels(self) -> float:
        """Radius about the centre that holds 99 % of the density above a tenth of its maximum."""
        dense = np.where(self.map > 0.1 * self.map.max(), self.map, 0.0).ravel()
        distance = np.sqrt(squared_radius(self.n)).ravel()
        order = np.argsort(distance, kind="stable")
        held = np.cumsum(dense[order], dtype=np.float64)
        return float(distance[order][np.searchsorted(held, 0.99 * held[-1])])

    def axis(self) -> FloatArray:
        """Figure axis (3,) of the map (`principal_axis`)."""
        dense = np.argwhere(self.map > 0.1 * self.map.max())
        weight = self.map[tuple(dense.T)].astype(np.float64)
        return principal_axis(dense[:, ::-1].astype(np.float64), weight)

    def posed(self, pose: RigidTransforms) -> FloatArray:
        """Return the density (n, n, n) under the first pose: exact for beads, else by splines."""
        if self.beads is None or len(self.beads) > EXACT_BEADS:
            return move_volume(self.map, pose)
        shift_angst = pose.shift_xyz[0] * self.voxel_size_angst
        moved = turned(self.beads, pose.rotation[0], shift_angst)
        return rasterise(moved, self.n, self.voxel_size_angst, self.blur_angst)


def structure_of_beads(
    model: BeadModel, n: int, voxel_size_angst: float, blur_angst: float
) -> Structure:
    """Return the centred structure of a bead model (of atoms, too) in a box of n voxels.

    Raises
    ------
    ValueError
        If the box is too small for it.
    """
    model = centred(model)
    needed = int(np.ceil(2.0 * radius_angst(model) / voxel_size_angst))
    if needed > n:
        raise ValueError(
            f"{model.name} is {needed * voxel_size_angst:.0f} A wide and a box of {n} voxels of "
            f"{voxel_size_angst:g} A only {n * voxel_size_angst:g} A: use a box of {needed + 4} or "
            "more, or larger voxels"
        )
    density = rasterise(model, n, voxel_size_angst, blur_angst)
    return Structure(model.name, density, voxel_size_angst, model, blur_angst)
