"""Packing: spheres that stay apart, in the box, off obstacles, and quickly."""

from __future__ import annotations

import time

import numpy as np
import pytest

from scipion_faml.simulation.packing import Obstacles, place_spheres


def assert_apart(centre, gap):
    distance = np.linalg.norm(centre[:, None] - centre[None], axis=2)
    assert (distance + 1e3 * np.eye(len(centre)) >= gap).all()


def test_placed_spheres_stay_apart_and_inside():
    radius = np.repeat([9.0, 5.0], [10, 40])
    shape = (120, 110, 40)
    centre = place_spheres(radius, shape, np.random.default_rng(0))
    assert (centre >= radius[:, None]).all()
    assert (centre <= np.array(shape) - 1 - radius[:, None]).all()
    assert_apart(centre, radius[:, None] + radius[None])


def test_open_sides_let_spheres_stick_out_in_x_and_y_only():
    radius = np.repeat([9.0, 5.0], [30, 60])
    shape = (120, 110, 40)
    centre = place_spheres(radius, shape, np.random.default_rng(0), open_sides=True)
    assert (centre >= 0).all() and (centre <= np.array(shape) - 1).all()
    assert (centre[:, :2] < radius[:, None]).any()
    assert (centre[:, 2] >= radius).all() and (centre[:, 2] <= 39 - radius).all()
    assert_apart(centre, radius[:, None] + radius[None])


def test_a_minimum_distance_replaces_the_radii():
    centre = place_spheres(np.full(200, 2.0), (80, 80, 40), np.random.default_rng(0), 7.5)
    assert_apart(centre, 7.5)


def test_spheres_keep_off_balls_and_shells_but_enter_shells():
    obstacles = Obstacles(
        ball_xyz=np.array([[20.0, 20.0, 30.0]]), ball_radius=np.array([10.0]),
        shell_xyz=np.array([[70.0, 60.0, 30.0]]), shell_radius=np.array([22.0]),
        shell_half_width=3.0,
    )
    centre = place_spheres(
        np.full(150, 3.0), (110, 110, 60), np.random.default_rng(0), obstacles=obstacles)
    assert (np.linalg.norm(centre - obstacles.ball_xyz, axis=1) >= 13.0).all()
    to_shell = np.linalg.norm(centre - obstacles.shell_xyz, axis=1)
    assert (np.abs(to_shell - 22.0) >= 6.0).all()
    assert (to_shell < 16.0).sum() > 2


def test_a_full_box_says_how_many_fit():
    with pytest.raises(ValueError, match=r"\d+ of 500 particles fit"):
        place_spheres(np.full(500, 6.0), (60, 60, 20), np.random.default_rng(0))
    with pytest.raises(ValueError, match="does not fit"):
        place_spheres(np.full(1, 15.0), (60, 60, 20), np.random.default_rng(0))


def test_a_box_is_filled_to_what_random_sequential_adsorption_reaches():
    # Its jamming limit is 0.384 of the volume (Cooper 1988); the last places take for ever.
    radius = np.full(2000, 4.0)
    side = round((2000 * 4.0 / 3.0 * np.pi * 4.0**3 / 0.33) ** (1 / 3) + 8)
    centre = place_spheres(radius, (side, side, side), np.random.default_rng(0))
    assert_apart(centre, 8.0)


def test_positions_are_uniform_when_there_is_room():
    centre = place_spheres(np.full(3000, 0.1), (100, 100, 100), np.random.default_rng(0))
    for axis in range(3):
        counts = np.histogram(centre[:, axis], bins=10, range=(0.1, 98.9))[0]
        # Chi-square of 9 degrees of freedom: 27.9 is exceeded once in a thousand.
        assert ((counts - 300) ** 2 / 300).sum() < 27.9


def test_a_seed_gives_the_same_places_and_another_seed_others():
    radius = np.repeat([6.0, 3.0], [20, 100])
    one, same, other = (
        place_spheres(radius, (100, 100, 50), np.random.default_rng(s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.isclose(one, other).any()


def test_thousands_are_placed_in_seconds():
    radius = np.repeat([15.8, 11.8, 11.5, 9.3, 8.3, 6.2, 4.7, 4.3], 320)
    start = time.process_time()
    centre = place_spheres(radius, (512, 512, 200), np.random.default_rng(0))
    assert len(centre) == 2560
    assert time.process_time() - start < 10.0


def test_a_box_that_is_full_says_so_at_once():
    with pytest.raises(ValueError, match="[0-9] of 200000 particles fit"):
        place_spheres(np.full(200_000, 13.0), (64, 64, 64), np.random.default_rng(0))
