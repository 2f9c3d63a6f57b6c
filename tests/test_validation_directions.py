"""Directional FSC, masks, orientations, sampling: against what geometry says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scipion_faml.evaluation.directional import (
    anisotropy,
    corrected_directional_fsc,
    directional_fsc,
    mean_in_cones,
)
from scipion_faml.evaluation.fsc import fourier_shell_correlation
from scipion_faml.evaluation.masks import automatic_mask, otsu_threshold
from scipion_faml.evaluation.orientations import (
    evenness,
    largest_empty_cap,
    sampling_of,
    sphere_directions,
    times_measured,
    viewing_directions,
    weight_along,
)
from scipion_faml.evaluation.superposition import hemisphere
from scipion_faml.fourier import frequencies, spectrum, volume_from_spectrum
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.volume import soft_sphere
from scipion_faml.wedge import MissingWedge


# ------------------------------------------------------------------------------ directional FSC
def test_a_cone_holds_the_samples_near_its_axis_and_their_mates():
    n, rng = 16, np.random.default_rng(0)
    first, second = rng.standard_normal((2, n, n, n))
    axes = hemisphere(30.0)
    found = directional_fsc(first, second, axes, 35.0)
    f, g = np.fft.fftn(first), np.fft.fftn(second)
    k = np.fft.fftfreq(n, 1 / n)
    kz, ky, kx = np.meshgrid(k, k, k, indexing="ij")
    radius = np.sqrt(kx**2 + ky**2 + kz**2)
    for d, u in enumerate(axes):
        cosine = np.abs(kx * u[0] + ky * u[1] + kz * u[2]) / np.maximum(radius, 1e-9)
        for s in (3, 6):
            here = (np.rint(radius) == s) & (cosine >= np.cos(np.deg2rad(35.0)))
            value = np.sum(f[here] * g[here].conj()).real / np.sqrt(
                np.sum(np.abs(f[here]) ** 2) * np.sum(np.abs(g[here]) ** 2))
            assert found.fsc[d, s] == pytest.approx(value, abs=1e-10)


def test_a_cone_of_90_deg_is_the_whole_shell():
    first, second = np.random.default_rng(1).standard_normal((2, 12, 12, 12))
    found = directional_fsc(first, second, hemisphere(60.0), 90.0)
    whole = fourier_shell_correlation(first, second)
    np.testing.assert_allclose(found.fsc[:, 2:], np.tile(whole[2:], (len(found.fsc), 1)))


def blurred_along_z(n, rng, noise):
    """Two halves whose signal is measured all over, and fades along z."""
    kz = frequencies(n)[0]
    signal = spectrum(rng.standard_normal((n, n, n))) * np.exp(-0.5 * (kz / 4.0) ** 2)
    return [volume_from_spectrum(signal, n) + noise * rng.standard_normal((n, n, n))
            for _ in range(2)]


def test_the_blurred_direction_is_found():
    first, second = blurred_along_z(40, np.random.default_rng(2), 0.5)
    found = directional_fsc(first, second, hemisphere(15.0), 20.0)
    resolution = found.resolution_angst(10.0, 0.143)
    figures = anisotropy(found.direction, resolution)
    from_z = np.rad2deg(np.arccos(np.abs(found.direction[:, 2])))
    assert np.median(resolution[from_z < 30]) > 1.5 * np.median(resolution[from_z > 60])
    assert abs(figures.worst_direction[2]) > np.cos(np.deg2rad(45))
    assert abs(figures.best_direction[2]) < np.cos(np.deg2rad(50))
    assert figures.ratio > 1.5 and figures.sphericity < 0.95
    assert figures.best_angst <= figures.mean_angst <= figures.worst_angst


def test_an_even_resolution_is_a_sphere():
    axes = hemisphere(10.0)
    figures = anisotropy(axes, np.full(len(axes), 20.0))
    assert figures.sphericity == pytest.approx(1.0) and figures.ratio == 1.0
    assert figures.mean_angst == pytest.approx(20.0) and figures.spread_angst == 0.0


def test_an_ellipsoid_has_its_sphericity():
    axes = hemisphere(4.0)
    a, c = 1.0, 2.0  # prolate: semi-axes a, a, c
    radius = 1.0 / np.sqrt((axes[:, 0] ** 2 + axes[:, 1] ** 2) / a**2 + axes[:, 2] ** 2 / c**2)
    eccentricity = np.sqrt(1 - a**2 / c**2)
    area = 2 * np.pi * a**2 * (1 + c / (a * eccentricity) * np.arcsin(eccentricity))
    volume = 4 / 3 * np.pi * a**2 * c
    expected = np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area
    assert anisotropy(axes, 1.0 / radius).sphericity == pytest.approx(expected, abs=0.003)


def test_a_mask_adds_no_resolution_to_cones_of_noise():
    rng = np.random.default_rng(3)
    first, second = rng.standard_normal((2, 32, 32, 32)) + 3.0 * soft_sphere(32, 8, 6)
    mask, axes = soft_sphere(32, 6, 1), hemisphere(30.0)
    masked = directional_fsc(first, second, axes, 30.0, mask)
    corrected = corrected_directional_fsc(
        first, second, axes, 30.0, mask, 3, np.random.default_rng(0))
    assert np.abs(corrected.fsc[:, 8:]).mean() < 0.75 * np.abs(masked.fsc[:, 8:]).mean()
    np.testing.assert_array_equal(corrected.fsc[:, :5], masked.fsc[:, :5])


def test_an_impossible_cone_is_refused():
    volume = np.zeros((8, 8, 8))
    with pytest.raises(ValueError, match="cone of 0 deg"):
        directional_fsc(volume, volume, hemisphere(60.0), 0.0)


# ----------------------------------------------------------------------------------------- masks
def test_otsus_threshold_parts_two_heaps():
    rng = np.random.default_rng(4)
    heaps = np.concatenate([rng.normal(0, 0.3, 5000), rng.normal(4, 0.3, 500)])
    assert 1.0 < otsu_threshold(heaps) < 3.5


def test_an_automatic_mask_holds_the_structure_and_little_else():
    n, rng = 48, np.random.default_rng(5)
    structure = soft_sphere(n, 9, 2) * 1.0
    volume = (structure + rng.normal(0, 0.8, structure.shape)).astype(np.float32)
    mask = automatic_mask(volume, 10.0, 60.0)
    assert mask.min() == 0.0 and mask.max() <= 1.0
    assert mask[structure > 0.5].min() > 0.9
    assert (mask > 0.5).sum() < 5 * (structure > 0.5).sum()
    assert mask[:4].max() < 0.05


# ---------------------------------------------------------------------------------- orientations
def test_the_beam_in_the_frame_of_the_average_is_r_transposed_z():
    rotation = Rotation.random(5, random_state=0).as_matrix()
    directions = viewing_directions(rotation)
    np.testing.assert_allclose(rotation @ directions[:, :, None], np.tile(
        [[0.0], [0.0], [1.0]], (5, 1, 1)), atol=1e-12)
    # What a symmetric structure shows from one side it shows from all equivalent ones.
    assert viewing_directions(rotation, symmetry_rotations("D2")).shape == (20, 3)


def test_the_largest_empty_cap_of_the_corners_of_a_cube():
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / np.sqrt(3)
    angle, middle = largest_empty_cap(corners)
    assert angle == pytest.approx(np.rad2deg(np.arccos(1 / np.sqrt(3))), abs=1e-6)
    assert np.abs(middle).max() == pytest.approx(1.0, abs=1e-6)


def test_one_direction_leaves_the_rest_of_the_sphere_empty():
    angle, middle = largest_empty_cap(np.array([[0.0, 0.0, 1.0]] * 4))
    assert angle > 178 and middle[2] < -0.99


def test_even_directions_are_even_and_a_great_circle_is_not():
    rng = np.random.default_rng(6)
    even = evenness(sphere_directions(300), rng)
    assert even.resultant < 0.01 and even.axial_anisotropy < 0.02
    assert even.empty_cap_deg < even.empty_cap_uniform_deg
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = evenness(np.stack([np.cos(angle), 0 * angle, np.sin(angle)], axis=-1), rng)
    np.testing.assert_allclose(ring.tensor, [0, 0.5, 0.5], atol=1e-9)
    assert ring.empty_cap_deg == pytest.approx(90, abs=2.0)


# -------------------------------------------------------------------------------------- sampling
@pytest.mark.parametrize("wedge", [MissingWedge(-60, 60), MissingWedge(-40, 55)])
def test_a_ray_is_measured_where_the_mask_of_the_wedge_says(wedge):
    n = 64
    mask = wedge.mask(n)
    rng = np.random.default_rng(7)
    directions = rng.standard_normal((400, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    ray = weight_along(directions, wedge)
    flip = np.where(directions[:, 0] < 0, -1, 1)[:, None]
    k = np.rint(30 * directions * flip).astype(int)
    there = mask[k[:, 2] % n, k[:, 1] % n, np.abs(k[:, 0])]
    # Rounding to a voxel moves a ray by up to 2 deg.
    assert np.mean(ray != there) < 0.04
    assert ray.mean() == pytest.approx((wedge.tilt_max_deg - wedge.tilt_min_deg) / 180, abs=0.08)


def test_weights_in_a_volume_measure_as_the_tilt_range_that_made_them():
    wedge = MissingWedge(-50, 50)
    rays = hemisphere(6.0)
    from_volume = weight_along(rays, wedge.mask(48))
    assert np.corrcoef(from_volume, weight_along(rays, wedge))[0, 1] > 0.95


def test_particles_count_where_their_turned_wedges_are():
    wedge = MissingWedge(-60, 60)
    rays = hemisphere(5.0)
    same = times_measured(np.tile(np.eye(3), (7, 1, 1)), [wedge] * 7, rays)
    assert set(np.unique(same)) == {0.0, 7.0}
    found = sampling_of(same, 7, rays)
    assert found.share_never == pytest.approx(1 / 3, abs=0.02)
    assert found.share_mean == pytest.approx(2 / 3, abs=0.02)
    assert found.share_of_times[0] == pytest.approx(found.share_never)
    assert found.share_of_times.sum() == pytest.approx(1.0)
    # Beam and missing wedge lie along z; turned by 90 deg about y the other wedge fills it.
    turned = Rotation.from_euler("Y", [0, 90], degrees=True).as_matrix()
    both = times_measured(turned, [wedge] * 2, rays)
    assert both.min() >= 1.0


def test_symmetry_fills_what_one_wedge_misses():
    wedge, rays = MissingWedge(-60, 60), hemisphere(5.0)
    tilted = Rotation.from_euler("ZYZ", [[10, 70, 20]], degrees=True).as_matrix()
    alone = times_measured(tilted, [wedge], rays)
    filled = times_measured(tilted, [wedge], rays, symmetry_rotations("C7"))
    assert alone.min() == 0.0 and filled.min() > 0.0
    assert filled.mean() == pytest.approx(7 * alone.mean(), rel=0.03)


def test_the_compensation_is_the_harmonic_over_the_arithmetic_mean():
    rays = hemisphere(20.0)
    times = np.where(np.arange(len(rays)) % 2 == 0, 2.0, 6.0)
    found = sampling_of(times, 8, rays)
    share = np.mean(times == 2.0)
    expected = 1 / (share / 2 + (1 - share) / 6) / times.mean()
    assert found.compensation == pytest.approx(expected)
    assert sampling_of(np.full(9, 5.0), 5, rays[:9]).compensation == pytest.approx(1.0)


def test_a_cone_averages_the_rays_in_it():
    rays = sphere_directions(3000)
    value = rays[:, 2] ** 2
    mean = mean_in_cones(rays, value, np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), 90.0)
    np.testing.assert_allclose(mean, 1 / 3, atol=1e-3)
    narrow = mean_in_cones(rays, value, np.array([[0.0, 0.0, 1.0]]), 20.0)
    c = np.cos(np.deg2rad(20.0))
    assert narrow[0] == pytest.approx((1 - c**3) / 3 / (1 - c), abs=2e-3)
