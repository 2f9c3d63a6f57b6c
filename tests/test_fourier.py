import numpy as np
import pytest
from phantoms import blobs

from scipion_faml.align import gather
from scipion_faml.fourier import (
    hermitian_multiplicity,
    low_pass,
    oversampled_spectrum,
    resample,
    sample_runs,
    sample_set,
    shell_sums,
    shift_spectrum,
    spectrum,
    turnable_spectrum,
    volume_from_spectrum,
)
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.volume import move_volume
from scipion_faml.wedge import MissingWedge


@pytest.mark.parametrize("n", [7, 8])
def test_sums_over_the_half_spectrum_equal_sums_over_all_samples(n):
    volume = np.random.default_rng(0).normal(size=(n, n, n))
    half = spectrum(volume)
    weighted = np.sum(np.abs(half) ** 2 * hermitian_multiplicity(n))
    assert weighted == pytest.approx(n**3 * np.sum(volume**2), rel=1e-12)  # Parseval


@pytest.mark.parametrize("n", [7, 8])
def test_a_spectrum_gives_its_volume_back(n):
    volume = np.random.default_rng(0).normal(size=(n, n, n))
    np.testing.assert_allclose(volume_from_spectrum(spectrum(volume), n), volume, atol=1e-12)


def test_a_shifted_spectrum_moves_the_centre_voxel_by_x_y_z():
    volume = np.zeros((8, 8, 8))
    volume[4, 4, 4] = 1.0
    moved = volume_from_spectrum(shift_spectrum(spectrum(volume), np.array([1.0, 2.0, -1.0])), 8)
    assert np.unravel_index(moved.argmax(), moved.shape) == (3, 6, 5)


@pytest.mark.parametrize("n", [15, 16])
def test_interpolated_rotation_agrees_with_a_rotation_in_real_space(n):
    volume = blobs(n, 0, width=0.1)
    pose = RigidTransforms(random_rotations(1, np.random.default_rng(1)), [[1.0, -0.5, 0.3]])
    samples = sample_set(n)
    values = gather(turnable_spectrum(volume, samples.radius), samples.axes, pose.rotation[0].T)
    moved = volume_from_spectrum(shift_spectrum(samples.put(values), pose.shift_xyz[0]), n)
    direct = move_volume(volume, pose)
    # The samples leave out DC and the corners beyond Nyquist; the blobs are smooth.
    assert np.corrcoef(moved.ravel(), direct.ravel())[0, 1] > 0.998


def test_at_no_rotation_interpolation_returns_the_samples_themselves():
    volume = np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)
    samples = sample_set(12)
    values = gather(turnable_spectrum(volume, samples.radius), samples.axes, np.eye(3))
    # The oversampled spectrum interpolates sin x / x between samples; on them it is exact up to
    # the real-space correction, which the trilinear kernel undoes only in the mean.
    expected = samples.take(spectrum(volume))
    assert np.abs(np.vdot(values, expected)) / np.vdot(expected, expected).real == pytest.approx(
        1.0, abs=0.25
    )


@pytest.mark.parametrize(("n", "radius"), [(9, 4), (10, 4), (9, 2.5), (10, 3)])
def test_the_turnable_spectrum_is_the_oversampled_one_in_ascending_order(n, radius):
    volume = np.random.default_rng(0).normal(size=(n, n, n)).astype(np.float32)
    turnable, whole = turnable_spectrum(volume, radius), oversampled_spectrum(volume)
    limit = turnable.shape[2] - 1
    assert turnable.shape == (2 * limit + 1, 2 * limit + 1, limit + 1)
    assert turnable.dtype == np.complex64
    assert limit > 2 * radius  # the upper end of every cell
    k = np.arange(-limit, limit + 1)
    expected = whole[np.ix_(k % (2 * n), k % (2 * n), np.arange(limit + 1))]
    # Every cell that a sample can be turned into is there; columns beyond the sphere may be 0.
    kz, ky, kx = np.meshgrid(k, k, np.arange(limit + 1), indexing="ij")
    is_left_out = turnable == 0
    np.testing.assert_allclose(turnable[~is_left_out], expected[~is_left_out], atol=1e-4)
    distance = np.linalg.norm([np.maximum(np.abs(k) - 1, 0) for k in (kz, ky, kx)], axis=0)
    assert distance[is_left_out].min(initial=np.inf) > 2 * radius


def test_runs_hold_every_weighted_sample_once_in_its_row():
    samples = sample_set(20)
    weight = np.random.default_rng(0).integers(0, 3, len(samples)).astype(np.float32)
    runs = sample_runs(samples, weight)
    np.testing.assert_array_equal(np.sort(runs.index), np.flatnonzero(weight))
    np.testing.assert_array_equal(runs.axes, samples.axes[:, runs.index])
    first, length, row = runs.runs.T
    assert length.sum() == len(runs.index)
    steps = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    np.testing.assert_array_equal(runs.axes[0], np.repeat(first, length) + steps)
    np.testing.assert_array_equal(runs.axes[1:], runs.rows[np.repeat(row, length)].T[::-1])


def test_samples_hold_neither_dc_nor_corners():
    samples = sample_set(16)
    radius = np.linalg.norm(samples.frequency_xyz, axis=1)
    assert radius.min() > 0
    assert radius.max() <= 7
    volume = 4 / 3 * np.pi * 7.5**3
    assert samples.n_total == pytest.approx(volume, rel=0.25)


def test_shells_of_white_noise_hold_its_variance():
    n = 24
    noise = np.random.default_rng(0).normal(size=(n, n, n))
    power = shell_sums(np.abs(spectrum(noise)) ** 2, n) / shell_sums(np.ones((n, n, n // 2 + 1)), n)
    np.testing.assert_allclose(power[4:] / n**3, 1.0, atol=0.15)


def test_a_low_pass_that_leaves_nothing_is_refused_with_a_way_out():
    with pytest.raises(ValueError, match="leaves nothing of a box of 80 A: give a smaller one"):
        low_pass(np.ones((8, 8, 8), np.float32), 10.0, 1e30)
    with pytest.raises(ValueError, match="give a smaller low-pass"):
        sample_set(8, 0.1)


def test_low_pass_halves_the_amplitude_at_its_cutoff():
    n, voxel = 32, 5.0
    x = np.arange(n)
    wave = np.broadcast_to(np.cos(2 * np.pi * 4 * x / n), (n, n, n)).astype(np.float32)
    filtered = low_pass(wave, voxel, cutoff_angst=n * voxel / 4)
    assert filtered.max() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(("n", "n_new"), [(16, 24), (24, 16), (15, 21), (17, 16)])
def test_resampling_keeps_densities_and_the_centre(n, n_new):
    small, large = blobs(n, 3, width=0.12), blobs(n_new, 3, width=0.12)
    np.testing.assert_allclose(resample(small, n_new), large, atol=0.06 * large.max())


@pytest.mark.parametrize("n", [8, 9])
def test_the_wedge_is_the_set_of_planes_that_the_tilts_measure(n):
    wedge = MissingWedge(-50.0, 70.0).mask(n)
    for iz, iy, ix in np.ndindex(wedge.shape):
        kz = iz - n if iz > (n - 1) // 2 else iz
        if ix == n // 2 or (n % 2 == 0 and iz == n // 2):
            continue  # an even box holds both signs of its Nyquist frequency in one sample
        measured = (ix == 0 and kz == 0) or (
            ix > 0 and -50.0 <= np.rad2deg(np.arctan2(kz, ix)) <= 70.0
        )
        assert wedge[iz, iy, ix] == measured


@pytest.mark.parametrize("n", [8, 9])
@pytest.mark.parametrize("limits", [(-60, 60), (-50, 70), (-90, 90), (-40, 90), (10, 50)])
def test_a_wedge_is_friedel_symmetric(n, limits):
    wedge = MissingWedge(*limits).mask(n)
    minus = -np.arange(n) % n
    for ix in (0, n // 2) if n % 2 == 0 else (0,):
        np.testing.assert_array_equal(wedge[:, :, ix], wedge[minus][:, minus][:, :, ix])


def test_a_full_tilt_range_measures_everything():
    assert MissingWedge(-90.0, 90.0).mask(8).all()


@pytest.mark.parametrize("limits", [(0.0, 0.0), (60.0, -60.0), (-100.0, 60.0), (np.nan, 60.0)])
def test_an_impossible_tilt_range_is_refused(limits):
    with pytest.raises(ValueError, match="tilt range"):
        MissingWedge(*limits)


def test_a_projection_at_a_tilt_lies_in_the_plane_that_the_wedge_says():
    # A specimen tilted by +30 deg, seen along z, measures (cos 30, 0, sin 30): its spectrum must
    # agree with that of the volume there. The volume is projected in real space.
    n, theta = 32, 30.0
    volume = blobs(n, 5, width=0.08)
    tilted = move_volume(volume, RigidTransforms([[0.0, np.deg2rad(theta), 0.0]], [[0, 0, 0]]))
    projection = np.fft.fft2(np.fft.ifftshift(tilted.sum(axis=0)))
    k = np.arange(1, 6)
    direction = np.stack(
        [k * np.cos(np.deg2rad(theta)), 0 * k, k * np.sin(np.deg2rad(theta))]
    )
    plane = gather(turnable_spectrum(volume, 6), direction.astype(np.float32), np.eye(3))
    # 4 %: on its own grid points, where k = (1, 0, 0) nearly lies, trilinear interpolation does not
    # attenuate, so the mean correction overshoots. The opposite sign of theta is off by 50 %.
    np.testing.assert_allclose(plane, projection[0, k], atol=0.04 * np.abs(projection).max())
