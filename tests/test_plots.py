"""Figures show what they are given; what is computed for them follows equations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scipion_faml import plots
from scipion_faml.geometry import euler_to_matrix, random_rotations
from scipion_faml.plots.directions import direction_density, directions
from scipion_faml.plots.overview import DOUBT, GOOD, PLAIN


def ball(n, radius, centre_xyz=(0.0, 0.0, 0.0)):
    """Density that falls smoothly through 1/2 at `radius` from a point, box centre n // 2."""
    z, y, x = np.indices((n, n, n)) - n // 2
    cx, cy, cz = centre_xyz
    distance = np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2)
    return (1.0 / (1.0 + np.exp(distance - radius))).astype(np.float32)


def history(n=3, **columns):
    rows = {"iteration": np.arange(1, n + 1), "log_likelihood": np.linspace(10, 20, n),
            "sigma": np.full(n, 2.0), "alpha_001": np.full(n, 0.75), "alpha_002": np.full(n, 0.25),
            "pose_change_deg": [np.nan, *np.linspace(9, 1, n - 1)][:n]}
    return pd.DataFrame(rows | columns)


def rotations(n):
    return euler_to_matrix(random_rotations(n, np.random.default_rng(0)))


def drawn(figure):
    data = plots.png_bytes(figure, 50)
    assert data.startswith(b"\x89PNG")
    return figure


def texts(figure):
    return " ".join(t.get_text() for axes in figure.get_axes() for t in axes.texts)


# -------------------------------------------------------------------------------------- surfaces
@pytest.mark.parametrize("n", [24, 64])
def test_the_surface_of_a_ball_lies_at_its_radius_and_place(n):
    centre = (0.12 * n, -0.1 * n, 0.05 * n)
    radius = n / 5
    mesh = plots.surface_mesh(ball(n, radius, centre), 0.5)
    outward = mesh.vertices - centre
    distance = np.linalg.norm(outward, axis=1)
    # Half a voxel of smoothing, and twice finer sampling of small boxes, move it a little.
    np.testing.assert_allclose(distance, radius, atol=0.25)
    middle = mesh.vertices[mesh.faces].mean(axis=1) - centre
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    assert (np.einsum("fi,fi->f", middle, mesh.normals) > 0.95).all()


def test_a_large_surface_is_made_of_no_more_triangles_than_can_be_turned():
    volume = ball(64, 25.0)
    fine, coarse = plots.surface_mesh(volume, 0.5), plots.surface_mesh(volume, 0.5, 1500)
    assert len(coarse.faces) <= 1500 < len(fine.faces) <= plots.MAX_FACES


@pytest.mark.parametrize("level", [2.0, -1.0])
def test_a_level_that_is_not_reached_gives_an_empty_picture(level):
    mesh = plots.surface_mesh(ball(16, 4.0), level)
    assert len(mesh.faces) == 0
    figure, _ = plots.turnable_surface(mesh, 16)
    drawn(figure)


class Recorder:
    """Keeps the colours that triangles get."""

    def set_facecolor(self, colours):
        self.colours = colours

    set_edgecolor = set_facecolor


def test_light_comes_from_the_readers_side_however_the_surface_is_turned():
    mesh = plots.surface_mesh(ball(24, 6.0), 0.5)
    figure, _ = plots.turnable_surface(mesh, 24)
    axes, triangles = figure.axes[0], Recorder()  # drawn triangles are sorted by their depth
    for elevation, azimuth in ((0, 0), (60, 130), (-45, 250)):
        axes.view_init(elev=elevation, azim=azimuth)
        plots.light_surface(axes, triangles, mesh)
        towards = euler_to_matrix(np.deg2rad([azimuth, 90 - elevation, 0]))[:, 2]
        grey = triangles.colours[:, :3].mean(axis=1)
        facing = mesh.normals @ towards
        assert grey[facing > 0.5].mean() > grey[facing < -0.5].mean() + 0.2


# ---------------------------------------------------------------------------------------- slices
def test_a_slice_is_cut_across_the_axis_that_is_named():
    volume = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    for axis, expected in ((0, volume[1]), (1, volume[:, 1]), (2, volume[:, :, 1])):
        figure = plots.volume_slice(volume, axis, 1, contrast=2.0)
        image = figure.axes[0].images[0]
        np.testing.assert_array_equal(image.get_array(), expected)
        low, high = image.get_clim()
        assert 0.5 * (low + high) == pytest.approx(volume.mean())
        assert high - low == pytest.approx(4.0 * volume.std())
    assert figure.axes[0].get_xlabel().startswith("y")  # across x: y to the right, z up
    assert figure.axes[0].get_ylabel().startswith("z")


# ------------------------------------------------------------------------------------ directions
def test_directions_are_the_averages_axis_in_the_tomogram_and_the_beam_in_the_average():
    # Turned by 90 deg about y: the average's z axis lies along x, the beam comes from its -x.
    rotation = euler_to_matrix(np.array([[0.0, np.pi / 2, 0.0]]))
    np.testing.assert_allclose(directions(rotation, plots.AXIS), [[1, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(directions(rotation, plots.BEAM), [[-1, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("n_directions", [1, 20, 3000])
def test_the_density_of_directions_has_mean_one_over_the_sphere(n_directions):
    everywhere = directions(rotations(n_directions + 4000))
    vectors, points = everywhere[:n_directions], everywhere[n_directions:]
    density = direction_density(vectors, points)
    # Monte-Carlo error of the mean: s.d. over the square root of 4000.
    assert density.mean() == pytest.approx(1.0, abs=4 * density.std() / np.sqrt(4000) + 1e-3)
    if n_directions == 3000:
        assert density.min() > 0.5 and density.max() < 1.6  # an even distribution looks even


def test_a_map_for_each_class_and_none_for_no_particles():
    rotation = rotations(30)
    figure = drawn(plots.class_orientations(rotation, np.arange(30) % 3, plots.BEAM,
                                            ["a", "b", "c", "empty"]))
    titles = [axes.get_title() for axes in figure.axes[:4]]
    assert titles == ["a (10)", "b (10)", "c (10)", "empty (0)"]
    drawn(plots.orientation_maps({}))


# ------------------------------------------------------------------------------------------ runs
def test_convergence_of_one_iteration_and_of_missing_values():
    one = drawn(plots.convergence(history(1)))
    titles = [axes.get_title(loc="left") for axes in one.axes if axes.get_visible()]
    assert "pose change" not in titles and "log-likelihood" in titles  # NaN alone is no curve
    full = history(4, resolution_angst=[np.nan, 40, 30, 30], n_effective=[900, 40, 3, 1.0],
                   phase=["dense", "dense", "local", "local"], shells=[5, 6, 7, 8])
    figure = drawn(plots.convergence(full))
    scale = {axes.get_title(loc="left"): axes.get_yscale() for axes in figure.axes}
    assert scale["poses that share a posterior"] == "log"


def test_sizes_are_sorted_and_classes_without_particles_named():
    index = np.repeat([0, 1, 3], [2, 30, 7])
    figure = drawn(plots.sizes_and_posteriors(index, np.linspace(0, 1, 39), 5))
    bars = figure.axes[0]
    assert [t.get_text() for t in bars.get_xticklabels()] == ["2", "4", "1", "3", "5"]
    assert [bar.get_height() for bar in bars.patches] == [30, 7, 2, 0, 0]
    assert len(figure.axes[1:]) >= 3  # a histogram for each class that has particles
    drawn(plots.sizes_and_posteriors(index))
    drawn(plots.sizes_and_posteriors(np.zeros(0, dtype=int), np.zeros(0), 2))
    drawn(plots.sizes_and_posteriors(np.arange(300) % 60, np.ones(300)))


def test_findings_tell_convergence_small_classes_and_doubt():
    state = plots.RunState(
        np.zeros((2, 8, 8, 8)), [40, 4], history(3), {"converged": True, "warnings": ["odd"]},
        np.array([0.95, 0.3, 0.2, 0.1]))
    said = plots.findings(state)
    assert said[0] == (
        GOOD, "Converged after 3 iterations; poses moved by 1° (median) in the last.")
    assert (DOUBT, "Odd.") in said
    sizes = next(kind for kind, text in said if "40, 4" in text)
    sure = next(kind for kind, text in said if text.startswith("25%"))
    assert (sizes, sure) == (DOUBT, DOUBT)


@pytest.mark.parametrize(("result", "kind", "said"), [
    ({}, PLAIN, "3 iterations so far; poses moved by 5° (median) in the last."),
    ({"converged": False}, DOUBT,
     "3 iterations; poses moved by 5° (median) in the last: give it more.")])
def test_findings_of_a_run_that_has_not_settled(result, kind, said):
    state = plots.RunState(np.zeros((1, 8, 8, 8)), [40],
                           history(3, pose_change_deg=[np.nan, 20.0, 5.0]), result)
    assert plots.findings(state)[0] == (kind, said)


@pytest.mark.parametrize("n_classes", [1, 9])
def test_the_overview_shows_what_is_there(n_classes):
    averages = np.stack([ball(12, 3.0 + 0.1 * k) for k in range(n_classes)])
    bare = drawn(plots.run_overview(plots.RunState(averages, np.full(n_classes, 20.0))))
    frequency = np.linspace(0, 0.03, 6)
    full = drawn(plots.run_overview(plots.RunState(
        averages, np.full(n_classes, 20.0), history(4), {"converged": True}, np.ones(20),
        rotations(20), {"class_001": (frequency, 1 - 20 * frequency)}), "a run"))
    assert len(full.get_axes()) > len(bare.get_axes())
    assert "Converged" in texts(full)


def test_an_evaluation_overview_leaves_out_what_was_not_judged():
    words = ["Classes: mean F1 0.9."]
    assert not drawn(plots.evaluation_overview(words)).get_axes()
    matrix = ([[3, 1], [0, 4]], ["ribosome", "groel"], ["1", "2"])
    figure = drawn(plots.evaluation_overview(words, matrix, (np.ones(5), np.ones(5)), {
        "class 1": (np.linspace(0, 0.03, 6), np.ones(6))}))
    assert [axes.get_ylabel() for axes in figure.get_axes()][0] == "true class"
    assert len(figure.get_axes()) == 4


# ---------------------------------------------------------------------------------------- curves
def test_curves_that_belong_together_have_one_colour_and_names_in_words():
    frequency = np.linspace(0, 0.05, 8)
    figure = drawn(plots.fsc_curves({
        "class_002": (frequency, np.ones(8)), "class_002_uncorrected": (frequency, np.ones(8)),
        "other": (frequency, np.ones(8))}))
    lines = figure.axes[0].lines[:3]
    assert [line.get_label() for line in lines] == ["class 2", "class 2, uncorrected", "other"]
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
