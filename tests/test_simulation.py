"""Densities, tilt series, inversion, scenes: against closed forms of Gaussians."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft

from scipion_faml.fourier import (
    frequency_radius,
    spectrum,
    volume_from_spectrum,
)
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.simulation.back_projection import back_project
from scipion_faml.simulation.density import (
    BeadModel,
    Structure,
    centred,
    principal_axis,
    rasterise,
    structure_of_beads,
    turned,
    width_of_resolution,
)
from scipion_faml.simulation.particles import SubtomogramSettings, draw_poses, make_subtomogram
from scipion_faml.simulation.phantom import WITHIN, blob_model, blobs
from scipion_faml.simulation.reconstruction import divide, invert_tilt_series
from scipion_faml.simulation.scene import Scene, class_labels, make_scene, ordered_map, populate
from scipion_faml.simulation.scene_imaging import image_scene, noisy_tomogram, project_scene
from scipion_faml.simulation.tilt_series import (
    Microscope,
    central_slices,
    contrast_transfer,
    detector_transfer,
    image_transfer,
    noisy_subtomogram,
    projector,
    record,
    tilt_angles_deg,
    tilt_rotations,
)
from scipion_faml.simulation.tilt_weights import fit_noise
from scipion_faml.wedge import MissingWedge


def fine_beads(n, seed=1, voxel_size_angst=1.0):
    """Thirty narrow blobs: structure up to two thirds of Nyquist."""
    model = blob_model(n, seed, voxel_size_angst)
    return BeadModel(model.position_angst, 0.5 * model.width_angst, model.weight, "fine")


def correlation(first, second):
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def relative_error(value, truth):
    return float(np.sqrt(np.mean((value - truth) ** 2)) / truth.std())


# ------------------------------------------------------------------------------------- density
@pytest.mark.parametrize("n", [24, 25])
def test_a_rasterised_bead_has_its_weight_centre_and_variance(n):
    position, width = np.array([[6.0, -4.0, 3.0]]), np.array([5.0])
    volume = rasterise(BeadModel(position, width, np.array([7.0])), n, 2.0).astype(np.float64)
    axis = 2.0 * (np.arange(n) - n // 2)
    assert volume.sum() == pytest.approx(7.0, rel=1e-3)
    for array_axis, place in zip((2, 1, 0), position[0], strict=True):
        other = tuple({0, 1, 2} - {array_axis})
        profile = volume.sum(axis=other) / volume.sum()
        mean = profile @ axis
        assert mean == pytest.approx(place, abs=1e-2)
        # Integrating over a voxel adds its own variance, size^2 / 12.
        assert profile @ (axis - mean) ** 2 == pytest.approx(25.0 + 4.0 / 12.0, rel=1e-2)


def test_blur_is_the_same_as_wider_beads():
    thin = BeadModel(np.zeros((1, 3)), np.array([3.0]), np.ones(1))
    wide = BeadModel(np.zeros((1, 3)), np.array([5.0]), np.ones(1))
    np.testing.assert_allclose(rasterise(thin, 20, 2.0, blur_angst=4.0), rasterise(wide, 20, 2.0))


def test_the_width_of_a_resolution_leaves_one_over_e():
    width = width_of_resolution(20.0)
    assert np.exp(-2.0 * np.pi**2 * width**2 / 20.0**2) == pytest.approx(np.exp(-1.0))


def test_beads_outside_the_box_add_nothing():
    outside = BeadModel(np.array([[500.0, 0, 0]]), np.array([3.0]), np.ones(1))
    assert not rasterise(outside, 16, 2.0).any()


def test_a_bead_without_width_needs_a_blur():
    with pytest.raises(ValueError, match="resolution"):
        rasterise(BeadModel(np.zeros((1, 3)), np.zeros(1), np.ones(1)), 16, 2.0)


def test_a_bead_model_refuses_ragged_arrays():
    with pytest.raises(ValueError, match="'odd'"):
        BeadModel(np.zeros((2, 3)), np.zeros(3), np.ones(2), "odd")


def test_the_figure_axis_of_a_ring_and_of_a_rod_is_their_axis():
    angle = np.arange(14) * 2 * np.pi / 14
    ring = np.stack([np.cos(angle), 0.3 * np.sin(3 * angle), np.sin(angle)], axis=1)
    rod = np.stack([0.1 * np.cos(angle), 0.1 * np.sin(angle), np.linspace(-3, 3, 14)], axis=1)
    assert abs(principal_axis(ring, np.ones(14))[1]) == pytest.approx(1.0, abs=1e-3)
    assert abs(principal_axis(rod, np.ones(14))[2]) == pytest.approx(1.0, abs=5e-2)


def test_beads_and_interpolated_maps_move_alike():
    model = centred(fine_beads(48))
    exact = structure_of_beads(model, 48, 1.0, 0.0)
    mapped = Structure("map", exact.map, 1.0)
    rng = np.random.default_rng(0)
    pose = RigidTransforms(random_rotations(1, rng), rng.uniform(-3, 3, (1, 3)))
    # Cubic splines are not exact near Nyquist.
    assert relative_error(mapped.posed(pose), exact.posed(pose)) < 0.02


def test_a_box_too_small_names_the_box_needed():
    ends = BeadModel(np.array([[-50.0, 0, 0], [50.0, 0, 0]]), np.ones(2), np.ones(2), "rod")
    with pytest.raises(ValueError, match="box of 14"):
        structure_of_beads(ends, 8, 10.0, 5.0)


def test_the_phantom_is_the_same_shape_at_every_box_and_other_for_every_seed():
    small, large = blob_model(32, 3), blob_model(64, 3)
    np.testing.assert_allclose(large.position_angst, 2.0 * small.position_angst)
    assert correlation(blobs(32, 3), blobs(32, 4)) < 0.9
    # Centring moves the blobs a little.
    assert np.linalg.norm(small.position_angst, axis=1).max() < 1.3 * WITHIN * 32


# ---------------------------------------------------------------------------------- tilt series
def test_tilts_include_both_ends():
    np.testing.assert_allclose(tilt_angles_deg(-60, 60, 3), np.arange(-60, 61, 3))
    with pytest.raises(ValueError, match="step"):
        tilt_angles_deg(-60, 60, 0)


def test_the_wavelength_at_300_kv_is_known():
    assert Microscope().wavelength_angst == pytest.approx(0.019687, rel=1e-3)


def test_the_ctf_starts_positive_and_first_vanishes_near_34_angstrom_at_6_um():
    frequency = np.linspace(0.0, 0.05, 5001)
    ctf = contrast_transfer(frequency, Microscope(defocus_um=6.0))
    assert ctf[0] == pytest.approx(0.07)
    first_zero = frequency[np.flatnonzero(ctf < 0)[0]]
    # chi + phi = pi, the spherical aberration being negligible there.
    expected = np.sqrt((np.pi - np.arcsin(0.07)) / (np.pi * 0.019687 * 6e4))
    assert first_zero == pytest.approx(expected, rel=1e-3)
    assert 34.0 < 1.0 / first_zero < 36.0


def test_the_mtf_is_two_over_pi_at_nyquist():
    np.testing.assert_allclose(detector_transfer(np.array([0.0, 1.0])), [1.0, 2.0 / np.pi])


@pytest.mark.parametrize("n", [32, 33])
def test_slices_are_the_projections_of_the_turned_beads(n):
    model = fine_beads(n)
    rng = np.random.default_rng(0)
    rotation = RigidTransforms(random_rotations(3, rng), np.zeros((3, 3))).rotation
    shift = rng.uniform(-3, 3, (3, 3))
    slices = central_slices(projector(rasterise(model, n, 1.0)), rotation, shift)
    images = fft.fftshift(fft.irfft2(slices, (n, n)), axes=(1, 2))
    for image, turn, move in zip(images, rotation, shift, strict=True):
        # The shift along the beam does not show.
        truth = rasterise(turned(model, turn, move * [1, 1, 0]), n, 1.0).sum(axis=0)
        assert relative_error(image, truth) < 0.02


def test_a_tilt_measures_the_plane_of_the_wedge():
    rotation = tilt_rotations(np.array([30.0]))[0]
    theta = np.deg2rad(30.0)
    np.testing.assert_allclose(rotation.T @ [1, 0, 0], [np.cos(theta), 0, np.sin(theta)])
    np.testing.assert_allclose(rotation.T @ [0, 1, 0], [0, 1, 0], atol=1e-12)


def test_recorded_images_have_the_snr_asked_for():
    n, snr = 64, 0.25
    volume = rasterise(blob_model(n, 0), n, 1.0)
    rotations = tilt_rotations(tilt_angles_deg(-60, 60, 3))
    slices = central_slices(projector(volume), rotations)
    transfer = image_transfer((n, n), 8.0, Microscope())
    clean = record(slices, (n, n), np.inf, transfer, np.random.default_rng(0))
    noisy = record(slices, (n, n), snr, transfer, np.random.default_rng(0))
    undone = 1.0 / transfer.mtf
    signal = fft.irfft2(clean * undone, (n, n)).var(axis=(1, 2)).mean()
    noise = fft.irfft2((noisy - clean) * undone, (n, n)).var()
    assert signal / noise == pytest.approx(snr, rel=0.02)


def test_phase_flipping_leaves_no_inverted_contrast():
    transfer = image_transfer((64, 64), 8.0, Microscope(), ctf_correction="phase-flip")
    assert (transfer.ctf < 0).any()
    assert (transfer.ctf * transfer.correction >= 0).all()


def test_without_optics_the_snr_is_that_of_the_box_before_the_wedge():
    density = rasterise(blob_model(48, 0), 48, 1.0)
    full = MissingWedge(-90.0, 90.0)
    noisy = noisy_subtomogram(density, 0.1, full, np.random.default_rng(0))
    noise = noisy - density
    assert density.var() / noise.var() == pytest.approx(0.1, rel=0.02)
    # White: the same power on all shells.
    power = np.abs(spectrum(noise)) ** 2
    low = power[frequency_radius(48) < 12].mean()
    assert low == pytest.approx(power.mean(), rel=0.1)


def test_the_wedge_of_a_subtomogram_is_empty():
    n, wedge = 32, MissingWedge(-60.0, 60.0)
    structure = structure_of_beads(fine_beads(n), n, 1.0, 0.0)
    pose = RigidTransforms.identity(1)
    angles = tilt_angles_deg(-60, 60, 3)
    for microscope in (None, Microscope()):
        settings = SubtomogramSettings(0.1, wedge, angles, microscope)
        half = np.abs(spectrum(make_subtomogram(structure, pose, settings, [0])))
        missing = wedge.mask(n) == 0
        assert half[missing].max() < 1e-4 * half.max()


def test_zero_or_negative_snr_is_refused():
    for snr in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="SNR"):
            noisy_subtomogram(blobs(16, 0), snr, MissingWedge(-60, 60), np.random.default_rng(0))


# ------------------------------------------------------------------------------------ inversion
@pytest.mark.parametrize("n", [32, 33])
def test_inverting_a_tilt_series_returns_the_density_in_its_wedge(n):
    model = fine_beads(n)
    volume = rasterise(model, n, 1.0)
    rotations = tilt_rotations(tilt_angles_deg(-60, 60, 3))
    slices = central_slices(projector(volume), rotations)
    kept = MissingWedge(-60, 60).mask(n) * (frequency_radius(n) <= (n - 1) // 2)
    truth = volume_from_spectrum(spectrum(volume) * kept, n)
    for near, least in ((0.5, 0.998), (1.0, 0.99)):
        half = divide(*invert_tilt_series(slices, np.ones(slices.shape), rotations, near))
        assert correlation(volume_from_spectrum(half * kept, n), truth) > least


def test_inversion_leaves_no_gap_between_tilts_far_apart():
    n = 64
    rotations = tilt_rotations(tilt_angles_deg(-60, 60, 6))
    ones = np.ones((len(rotations), n, n // 2 + 1))
    _, denominator = invert_tilt_series(ones.astype(complex), ones, rotations)
    measured = (MissingWedge(-60, 60).mask(n) > 0) & (frequency_radius(n) < n // 2)
    assert (denominator[measured] > 0).all()


def test_premultiplied_images_are_divided_by_their_squared_transfer():
    n = 32
    volume = rasterise(fine_beads(n), n, 1.0)
    rotations = tilt_rotations(tilt_angles_deg(-60, 60, 3))
    slices = central_slices(projector(volume), rotations)
    ctf = contrast_transfer(
        np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)) / 12.0, Microscope(defocus_um=2.5)
    )
    weights = np.broadcast_to(ctf**2, slices.shape)
    half = divide(*invert_tilt_series(slices * ctf**2, weights, rotations, 0.5), 1e-6)
    kept = MissingWedge(-60, 60).mask(n) * (frequency_radius(n) < 14)
    truth = volume_from_spectrum(spectrum(volume) * kept, n)
    # The CTF is 0.07 and bends sharply at the origin: interpolating its square is not exact.
    assert correlation(volume_from_spectrum(half * kept, n), truth) > 0.97


def test_the_noise_model_finds_background_and_shot_noise():
    n, rng = 24, np.random.default_rng(0)
    shape = (n, n, n // 2 + 1)
    denominators = [rng.uniform(0.2, 5.0, shape).astype(np.float32) for _ in range(4)]
    spectra = []
    for denominator in denominators:
        sd = np.sqrt((3.0 + 2.0 / denominator) / 2.0)
        spectra.append((sd * (rng.normal(size=shape) + 1j * rng.normal(size=shape))).astype(
            np.complex64
        ))
    noise = fit_noise(spectra, denominators, 0.0)
    assert noise.background[6:12].mean() == pytest.approx(3.0, rel=0.15)
    assert noise.shot[6:12].mean() == pytest.approx(2.0, rel=0.15)
    precision = noise.precision(denominators[0], 0.5)
    assert not precision[denominators[0] <= 0.5].any()


# ---------------------------------------------------------------------------------------- poses
def test_a_preferred_axis_keeps_the_figure_axis_on_it():
    angle = np.arange(14) * 2 * np.pi / 14
    ring = np.stack([8 * np.cos(angle), np.zeros(14), 8 * np.sin(angle)], axis=1)
    tilt = RigidTransforms(np.array([[0.4, 1.0, 0.2]]), np.zeros((1, 3))).rotation[0]
    structure = structure_of_beads(
        BeadModel(ring @ tilt.T, np.full(14, 2.0), np.ones(14), "ring"), 32, 1.0, 0.0
    )
    _, poses = draw_poses([structure], [20], 0.0, "y", 0)
    axis = structure.axis()
    np.testing.assert_allclose(np.abs((poses.rotation @ axis)[:, 1]), 1.0, atol=1e-6)
    assert np.ptp(poses.rotation[:, 0, 0]) > 0.5


def test_shifts_stay_in_the_ball_and_classes_are_shuffled():
    structure = structure_of_beads(fine_beads(16), 16, 1.0, 0.0)
    class_index, poses = draw_poses([structure] * 2, [300, 100], 2.5, None, 0)
    assert np.linalg.norm(poses.shift_xyz, axis=1).max() <= 2.5
    np.testing.assert_array_equal(np.bincount(class_index), [300, 100])
    assert class_index[:100].sum() > 10


# ---------------------------------------------------------------------------------------- scene
def scaled_structures():
    return [
        structure_of_beads(blob_model(24, seed, 10.0), 24, 10.0, 0.0) for seed in (1, 2)
    ]


@pytest.mark.parametrize("shape", [(90, 80, 40), (91, 81, 41)])
def test_particles_lie_in_the_reconstructed_tomogram_where_the_scene_says(shape):
    structures = scaled_structures()
    scene = make_scene(structures, [3, 3], shape, seed=0)
    density, labels = populate(scene, structures)
    angles = tilt_angles_deg(-60, 60, 3)
    tomogram = back_project(project_scene(scene, structures, angles), angles, shape)
    cut = noisy_tomogram(density, np.inf, MissingWedge(-60, 60), np.random.default_rng(0))
    assert correlation(tomogram, cut) > 0.93
    assert (tomogram * cut).sum() / (cut**2).sum() == pytest.approx(1.0, abs=0.15)
    # The whole picture may not be shifted by even a tenth of a voxel.
    cross = fft.ifftn(fft.fftn(tomogram) * np.conj(fft.fftn(density))).real
    assert np.unravel_index(cross.argmax(), cross.shape) == (0, 0, 0)
    for axis in range(3):
        before, after = (np.roll(cross, s, axis).flat[0] for s in (1, -1))
        assert abs(before - after) / (4 * cross.flat[0] - 2 * before - 2 * after) < 0.1
    centres = np.rint(scene.position_xyz[:, ::-1]).astype(int)
    inside = labels[tuple(centres.T)]
    assert set(np.unique(labels)) == set(range(7))
    assert np.all((inside == 0) | (inside == np.arange(1, 7)))
    classes = class_labels(labels, scene.class_index)
    assert set(np.unique(classes)) == {0, 1, 2}
    np.testing.assert_array_equal(classes > 0, labels > 0)


def test_density_is_white_in_the_tomogram():
    structures = scaled_structures()
    scene = make_scene(structures, [3, 3], (90, 80, 40), seed=0)
    _, labels = populate(scene, structures)
    angles = tilt_angles_deg(-60, 60, 3)
    images = image_scene(
        project_scene(scene, structures, angles), 10.0, 1.0, Microscope(defocus_um=4.0),
        "phase-flip", np.random.default_rng(0),
    )
    tomogram = back_project(images, angles, scene.shape_xyz)
    assert tomogram[labels > 0].mean() > 3.0 * abs(tomogram[labels == 0].mean())


def test_a_single_centred_particle_is_projected_onto_the_axis():
    structure = scaled_structures()[0]
    scene = Scene((64, 64, 32), np.array([[32.0, 32.0, 16.0]]), np.zeros((1, 3)), np.zeros(1, int))
    image = project_scene(scene, [structure], np.array([0.0, 3.0]))[0]
    height, width = image.shape
    centre = image[height // 2 - 12 : height // 2 + 12, width // 2 - 12 : width // 2 + 12]
    assert relative_error(centre, structure.map.sum(axis=0)) < 0.02


def test_threads_change_neither_order_nor_bits():
    structures = scaled_structures()
    scene = make_scene(structures, [3, 3], (90, 80, 40), seed=0)
    angles = tilt_angles_deg(-60, 60, 10)
    assert list(ordered_map(lambda x: x * x, range(20), 3)) == [x * x for x in range(20)]
    one = project_scene(scene, structures, angles, 1)
    np.testing.assert_array_equal(one, project_scene(scene, structures, angles, 3))
    np.testing.assert_array_equal(
        back_project(one, angles, scene.shape_xyz, 1), back_project(one, angles, scene.shape_xyz, 3)
    )


@pytest.mark.parametrize("values, message", [
    ({"voltage_kv": 0.0}, "voltage of 0 kV is not possible: give 1 to 10000"),
    ({"voltage_kv": float("nan")}, "voltage of nan kV"),
    ({"amplitude_contrast": 1.5}, "amplitude contrast of 1.5 is not possible: give 0 to 1"),
])
def test_a_microscope_that_cannot_be_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Microscope(**values)
