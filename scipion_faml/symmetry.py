"""Point groups: rotations that carry a symmetric structure onto itself.

Axes lie as in RELION: Cn and Dn along z, Dn with a two-fold along x; O with four-folds along x, y
and z; T with a three-fold along z; I (= I2) and I1, I3, I4 in their usual settings.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from scipion_faml.types import FloatArray

_GOLDEN = (1.0 + np.sqrt(5.0)) / 2.0
Generator = tuple[int, tuple[float, float, float]]  # n-fold, axis
_POLYHEDRAL: dict[str, tuple[int, tuple[Generator, ...]]] = {
    "T": (12, ((3, (0, 0, 1)), (2, (0, np.sqrt(2.0), 1.0)))),
    "O": (24, ((4, (0, 0, 1)), (3, (1, 1, 1)))),
    "I1": (60, ((2, (1, 0, 0)), (5, (_GOLDEN, 0, -1)))),
    "I2": (60, ((2, (0, 0, 1)), (5, (1, 0, _GOLDEN)))),
    "I3": (60, ((2, (-1, 0, _GOLDEN)), (5, (0, 0, 1)))),
    "I4": (60, ((2, (1, 0, _GOLDEN)), (5, (0, 0, 1)))),
}
MAX_FOLD = 100


def rotation_about(axis_xyz: ArrayLike, angle_deg: float) -> FloatArray:
    """Return the matrix (3, 3) of a right-handed turn about an axis of any length (Rodrigues)."""
    x, y, z = np.asarray(axis_xyz, dtype=np.float64) / np.linalg.norm(axis_xyz)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = np.deg2rad(angle_deg)
    rotation: FloatArray = (
        np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross)
    )
    return rotation


@lru_cache(maxsize=32)
def symmetry_rotations(group: str) -> FloatArray:
    """Return all rotations (order, 3, 3) of a point group, the identity first.

    Raises
    ------
    ValueError
        If `group` is none of C1, C7, D7, T, O, I, I1 ... I4 and their like (case does not matter).
    """
    order, generators = _generators(group)
    rotations = _closure([rotation_about(axis, 360.0 / fold) for fold, axis in generators], order)
    rotations.flags.writeable = False
    return rotations


def _generators(group: str) -> tuple[int, tuple[Generator, ...]]:
    """Order and generators of a point group."""
    name = group.strip().upper()
    name = "I2" if name == "I" else name
    if name in _POLYHEDRAL:
        return _POLYHEDRAL[name]
    match = re.fullmatch(r"([CD])([1-9]\d*)", name)
    fold = int(match.group(2)) if match else 0
    if match is None or fold > MAX_FOLD:
        raise ValueError(
            f"symmetry {group!r} is not known: use C1, C7, D7 (n up to {MAX_FOLD}), T, O or I"
        )
    about_z: Generator = (fold, (0, 0, 1))
    if match.group(1) == "C":
        return fold, (about_z,)
    return 2 * fold, (about_z, (2, (1, 0, 0)))


def generators(group: str) -> tuple[Generator, ...]:
    """Return n-fold axes (n, (x, y, z)) that generate a group, that of the most copies first.

    Raises
    ------
    ValueError
        As `symmetry_rotations`.
    """
    found = [g for g in _generators(group)[1] if g[0] > 1]
    return tuple(sorted(found, key=lambda g: -g[0]))


def _closure(generators: list[FloatArray], order: int) -> FloatArray:
    """All products of the generators; there must be `order` of them."""
    found = [np.eye(3)]
    for rotation in found:  # grows while it is read
        for generator in generators:
            product = generator @ rotation
            if all(np.abs(product - known).max() > 1e-6 for known in found):
                found.append(product)
        if len(found) > order:
            break
    if len(found) != order:
        raise ValueError(f"these generators make {len(found)} rotations instead of {order}")
    return np.stack(found)


def cyclic_fold(group: str) -> int:
    """Return the n of the main axis along z of Cn and Dn.

    Raises
    ------
    ValueError
        If the group has no single main axis.
    """
    match = re.fullmatch(r"[CD]([1-9]\d*)", group.strip().upper())
    if match is None or not 2 <= int(match.group(1)) <= MAX_FOLD:
        raise ValueError(f"symmetry {group!r} has no n-fold main axis: use C2, C7, D7 and the like")
    return int(match.group(1))
