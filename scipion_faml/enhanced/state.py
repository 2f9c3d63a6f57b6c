"""What enhanced mode knows between two iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scipion_faml.geometry import RigidTransforms
from scipion_faml.model import ModelState
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.types import ComplexArray, FloatArray, IntArray

# How many poses share the median particle's posterior:
FOCUSED_BELOW, LOCAL_BELOW = 60.0, 4.0


@dataclass(frozen=True, eq=False)
class PeakTable:
    """The maxima of all particles' posteriors, a row each, ordered by particle."""

    particle: IntArray  # (P,)
    class_index: IntArray  # (P,)
    poses: RigidTransforms  # P, shifts in voxels of the full box

    def of(self, index: int) -> tuple[IntArray, RigidTransforms]:
        """Return classes and poses of one particle."""
        low, high = np.searchsorted(self.particle, [index, index + 1])
        return self.class_index[low:high], self.poses[slice(low, high)]

    def part(self, indices: Sequence[int]) -> PeakTable:
        """Return those of some particles, which are given in ascending order."""
        low = np.searchsorted(self.particle, indices)
        high = np.searchsorted(self.particle, indices, side="right")
        rows = np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)])
        return PeakTable(self.particle[rows], self.class_index[rows], self.poses[rows])

    @staticmethod
    def of_parts(parts: Sequence[tuple[int, IntArray, RigidTransforms]]) -> PeakTable:
        """Collect single particles' peaks."""
        ordered = sorted(parts, key=lambda part: part[0])
        return PeakTable(
            np.concatenate([np.full(len(c), i, dtype=np.intp) for i, c, _ in ordered]),
            np.concatenate([c for _, c, _ in ordered]).astype(np.intp),
            RigidTransforms.concatenate([p for _, _, p in ordered]),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class EnhancedState(ModelState):
    """Theta of enhanced mode: also references of every fold, noise of every shell, resolution."""

    radius: int  # shells compared in the next iteration
    references: ComplexArray  # (F, K, J) complex64 at the samples of `reference_radius`
    reference_radius: int
    noise: FloatArray  # (reference_radius,) sigma^2
    fsc: FloatArray  # (K, reference_radius)
    phase: str  # of the next iteration
    n_since_dense: int  # iterations since all poses were looked at
    peaks: PeakTable | None  # where the posteriors of the iteration before had their maxima
    evidence: float  # mean log likelihood ratio to pure noise of a particle
    n_effective: float  # median over particles of how many poses share a posterior
    half_averages: FloatArray  # (2, K, n, n, n)
    checked_radius: int = 0  # shells at which all poses were looked at after settling
    is_converged: bool = False
    phase_done: str = ""  # of the iteration that made this state
    in_frame: bool = True  # averages lie where symmetry and mask are defined
    n_sharp: int = 0  # iterations since posteriors are narrow
    symmetry_score: float = 1.0  # of the averages before the symmetry was imposed: 0 none, 1 full
    symmetry: tuple[str, ...]  # the point group of every class that is imposed now
    symmetry_gain: FloatArray  # (K,) log evidence per particle that a group found has brought
    searched_radius: int = 0  # shells at which groups were looked for

    @property
    def groups(self) -> list[FloatArray]:
        """Rotations (G, 3, 3) that are imposed now on every class."""
        return [symmetry_rotations(name) for name in self.symmetry]
