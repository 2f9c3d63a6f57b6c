"""Point groups are groups, of the right order, about the right axes."""

from __future__ import annotations

import numpy as np
import pytest

from scipion_faml.symmetry import cyclic_fold, rotation_about, symmetry_rotations

ORDERS = {"C1": 1, "C7": 7, "d7": 14, "D2": 4, "T": 12, "O": 24, "I": 60, "I1": 60, "I3": 60,
          "I4": 60}


@pytest.mark.parametrize("group", ORDERS)
def test_a_point_group_is_closed_and_has_its_order(group):
    rotations = symmetry_rotations(group)
    assert len(rotations) == ORDERS[group]
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)
    products = np.einsum("aij,bjk->abik", rotations, rotations).reshape(-1, 9)
    nearest = np.abs(products[:, None] - rotations.reshape(-1, 9)[None]).max(axis=2).min(axis=1)
    assert nearest.max() < 1e-9


def test_the_identity_comes_first():
    np.testing.assert_allclose(symmetry_rotations("D7")[0], np.eye(3))


@pytest.mark.parametrize("group, fold, axis", [
    ("C7", 7, (0, 0, 1)), ("D3", 2, (1, 0, 0)), ("O", 4, (1, 0, 0)), ("O", 3, (1, 1, 1)),
    ("T", 3, (0, 0, 1)), ("I", 2, (0, 0, 1)), ("I", 5, (0.525731114, 0, 0.850650807)),
    ("I1", 5, (0.850650807, 0, -0.525731114)), ("I3", 5, (0, 0, 1)),
])
def test_axes_lie_where_relion_has_them(group, fold, axis):
    turn = rotation_about(axis, 360.0 / fold)
    away = np.abs(symmetry_rotations(group) - turn).max(axis=(1, 2))
    assert away.min() < 1e-6


def test_a_turn_about_z_by_90_degrees_carries_x_to_y():
    np.testing.assert_allclose(rotation_about((0, 0, 2), 90) @ [1, 0, 0], [0, 1, 0], atol=1e-15)


@pytest.mark.parametrize("group", ["", "C0", "C", "X3", "I7", "C1000", "7"])
def test_an_unknown_group_is_named(group):
    with pytest.raises(ValueError, match="is not known"):
        symmetry_rotations(group)


def test_only_cyclic_and_dihedral_groups_have_a_main_axis():
    assert cyclic_fold("C7") == 7 and cyclic_fold("d17") == 17
    for group in ("T", "C1", "I"):
        with pytest.raises(ValueError, match="no n-fold main axis"):
            cyclic_fold(group)
