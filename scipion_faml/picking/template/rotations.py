"""Rotations of a scan: an even covering of those that a symmetry leaves different."""

from __future__ import annotations

import numpy as np

from scipion_faml.geometry import covering_rotations, euler_to_matrix, rotation_from_vector
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.types import FloatArray

# Keeps every R g of which none is nearer to the identity than R; ties by the rounding of this.
TOLERANCE = 1e-9
# A turn of everything, by nothing in particular: symmetry axes of the template and of the covering
# would otherwise put many rotations on the border of the region that is kept.
_OFFSET = rotation_from_vector(np.array([0.31, -0.47, 0.23]))


def scan_rotations(step_deg: float, symmetry: str = "C1") -> FloatArray:
    """Return ZYZ angles (M, 3) in rad, about `step_deg` apart, one of each set R g, g in the group.

    M is about 8 pi^2 / (step^3 |G|): 43,298 at 7 deg without symmetry, 3,086 for D7.

    Raises
    ------
    ValueError
        If the step is not between 0 and 180 deg or the group is not known.
    """
    euler_zyz = covering_rotations(step_deg)
    group = symmetry_rotations(symmetry)
    if len(group) == 1:
        return euler_zyz
    rotation = _OFFSET @ euler_to_matrix(euler_zyz)
    # The trace falls with the angle: trace(R g) = sum_ij R_ij g_ji.
    trace = rotation.reshape(-1, 9) @ np.swapaxes(group, 1, 2).reshape(-1, 9).T
    kept = trace[:, 0] >= trace.max(axis=1) - TOLERANCE
    return euler_zyz[kept]
