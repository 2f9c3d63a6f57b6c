"""How far two runs on the same particles agree: classes, poses, averages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipion_faml.evaluation.classes import ClassAgreement, compare_classes
from scipion_faml.evaluation.poses import PoseErrors, pose_errors
from scipion_faml.geometry import RigidTransforms
from scipion_faml.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class RunAgreement:
    """Two runs compared, particle by particle."""

    classes: ClassAgreement  # rows: classes of run A, columns: of run B
    partner: IntArray  # (N,) class of B that the particle's class of A is matched to, 0 for none
    is_changed: BoolArray  # (N,) whether B puts the particle elsewhere than in that class
    poses: PoseErrors | None  # of particles that stay; NaN for others

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Classes of A and B that are matched."""
        known = self.classes
        return [(int(label), int(known.assigned_labels[p]))
                for label, p in zip(known.true_labels, known.partner, strict=True) if p >= 0]


def compare_runs(
    class_a: IntArray, class_b: IntArray,
    poses: tuple[RigidTransforms, RigidTransforms] | None = None,
    symmetry: dict[int, FloatArray] | None = None,
) -> RunAgreement:
    """Return how far the classes (N,) and poses of two runs agree.

    Classes are matched one to one so that most particles stay. Poses are compared within matched
    classes, modulo symmetry and the common motion of each pair of averages (`poses.find_frame`).

    Parameters
    ----------
    class_a, class_b : (N,) int
        Class numbers from 1.
    poses : two sets of N poses, shifts in voxels of the same box
    symmetry : dict
        Class of A -> rotations (G, 3, 3) of its point group.
    """
    agreement = compare_classes(class_a, class_b)
    partner_of = {
        int(label): int(agreement.assigned_labels[p]) if p >= 0 else 0
        for label, p in zip(agreement.true_labels, agreement.partner, strict=True)
    }
    partner = np.array([partner_of[int(label)] for label in class_a], dtype=np.intp)
    changed = partner != class_b
    found = None
    if poses is not None:
        found = _poses_of_those_that_stay(class_a, class_b, ~changed, poses, symmetry)
    return RunAgreement(agreement, partner, changed, found)


def _poses_of_those_that_stay(
    class_a: IntArray, class_b: IntArray, stays: BoolArray,
    poses: tuple[RigidTransforms, RigidTransforms], symmetry: dict[int, FloatArray] | None,
) -> PoseErrors:
    """Differences of poses of B against A; NaN for particles that changed class."""
    rows = np.flatnonzero(stays)
    groups = symmetry or {int(label): np.eye(3)[None] for label in np.unique(class_a)}
    here = pose_errors(poses[1][rows], poses[0][rows], groups, class_a[rows], class_b[rows])
    rotation, shift = np.full(len(class_a), np.nan), np.full(len(class_a), np.nan)
    rotation[rows], shift[rows] = here.rotation_deg, here.shift_voxels
    return PoseErrors(rotation, shift, here.frames)
