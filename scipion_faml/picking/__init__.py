"""Pickers: positions of particles in tomograms. Each returns `Picks`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipion_faml.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Picks:
    """P positions in one tomogram: output of every picker, input of extraction and evaluation."""

    position_xyz: FloatArray  # (P, 3) voxels, first voxel 0
    score: FloatArray  # (P,) the higher the surer
    label: IntArray  # (P,) class from 1, or 0 where the picker tells none
    euler_zyz: FloatArray | None = None  # (P, 3) rad, reference to tomogram; None: not told

    def __post_init__(self) -> None:
        n_picks = len(self.score)
        shapes = (self.position_xyz.shape, self.score.shape, self.label.shape)
        if shapes != ((n_picks, 3), (n_picks,), (n_picks,)):
            raise ValueError(f"picks need (P, 3), (P,) and (P,) arrays, got {shapes}")
        if self.euler_zyz is not None and self.euler_zyz.shape != (n_picks, 3):
            raise ValueError(f"{n_picks} picks need (P, 3) angles, got {self.euler_zyz.shape}")

    def __len__(self) -> int:
        return len(self.score)

    def take(self, index: IntArray) -> Picks:
        """Return the picks at `index`, in its order."""
        euler = None if self.euler_zyz is None else self.euler_zyz[index]
        return Picks(self.position_xyz[index], self.score[index], self.label[index], euler)

    def inside(self, mask: FloatArray | None) -> Picks:
        """Return the picks on voxels where a mask [z, y, x] is above 0.5; all without one."""
        return self.take(np.flatnonzero(in_mask(self.position_xyz, mask)))

    @staticmethod
    def none() -> Picks:
        """Return no picks."""
        return Picks(np.zeros((0, 3)), np.zeros(0), np.zeros(0, dtype=np.intp))


def in_mask(position_xyz: FloatArray, mask: FloatArray | None) -> BoolArray:
    """Return which positions (P, 3) lie on voxels where a mask [z, y, x] is above 0.5, or all."""
    if mask is None:
        return np.ones(len(position_xyz), dtype=bool)
    nearest = np.rint(position_xyz[:, ::-1]).astype(np.intp)
    nearest = np.clip(nearest, 0, np.array(mask.shape) - 1)
    return np.asarray(mask[tuple(nearest.T)] > 0.5)
