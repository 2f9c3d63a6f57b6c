"""What the wizards show before a run: boxes, means, filters and regions."""

from __future__ import annotations

import numpy as np
import pytest

from scipion_faml import previews
from scipion_faml.volume import soft_sphere


def test_a_box_keeps_its_width_in_other_voxels_and_is_even():
    assert previews.rescaled_box(64, 5.0, 10.0) == 32
    assert previews.rescaled_box(33, 10.0, 10.0) % 2 == 0
    assert previews.rescaled_box(10, 1.0, 100.0) == previews.SMALLEST_BOX
    with pytest.raises(ValueError, match="above 0"):
        previews.rescaled_box(32, 0.0, 10.0)


def test_the_mean_weighs_particles_alike_and_leaves_out_other_boxes_and_empty_ones():
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(6, 6, 6))
    mean, count = previews.mean_of(
        [volume, 100.0 * volume + 7.0, np.zeros((6, 6, 6)), rng.normal(size=(8, 8, 8))])
    assert count == 2
    np.testing.assert_allclose(mean, (volume - volume.mean()) / volume.std(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="no volume"):
        previews.mean_of([np.zeros((4, 4, 4))])


@pytest.mark.parametrize("radius", [5.0, 8.0, 12.0])
def test_the_diameter_of_a_ball_in_noise_is_measured(radius):
    noise = np.random.default_rng(1).normal(scale=0.2, size=(40, 40, 40))
    measured = previews.measured_diameter(soft_sphere(40, radius, 2.0) + noise)
    assert measured == pytest.approx(2 * radius, abs=3.0)


def test_pure_noise_suggests_two_thirds_of_the_box():
    noise = np.random.default_rng(2).normal(size=(30, 30, 30))
    assert 4 <= previews.measured_diameter(noise) <= 30
    assert previews.measured_diameter(np.zeros((30, 30, 30))) == pytest.approx(20.0)


def wave(period, shape=(24, 48, 48)):
    """A wave along x."""
    return np.broadcast_to(np.cos(2 * np.pi * np.arange(shape[2]) / period), shape)


@pytest.mark.parametrize(("period", "is_kept"), [(4, False), (8, True), (24, False)])
def test_a_band_keeps_the_waves_in_it(period, is_kept):
    volume = wave(period)
    gain = previews.shell_gain(previews.frequencies_of(volume.shape), 10.0, 60.0, 120.0)
    after = previews.filtered(volume, gain)
    expected = volume if is_kept else np.zeros_like(volume)
    np.testing.assert_allclose(after, expected, atol=1e-5)


def test_without_limits_everything_is_kept():
    volume = np.random.default_rng(3).normal(size=(7, 9, 11)).astype(np.float32)
    gain = previews.shell_gain(previews.frequencies_of(volume.shape), 10.0, None, None)
    np.testing.assert_allclose(previews.filtered(volume, gain), volume, atol=1e-5)


def test_the_cutoff_is_the_last_shell_that_classification_compares():
    from scipion_faml.model import FamlConfig

    n, size, low_pass = 40, 10.0, 50.0
    last = FamlConfig(low_pass_angst=low_pass).max_radius_of(n, size)
    frequency = previews.frequencies_of((n, n, n))[0, 0]
    gain = previews.shell_gain(frequency, size, low_pass, None)
    assert gain[last] == 1.0 and gain[last + 1] < 1.0


def test_regions_stay_in_the_tomogram():
    shape = (40, 200, 100)
    for centre in ((0, 0, 0), (39, 199, 99), (20, 100, 50)):
        region = previews.region_about(shape, centre, (30, 64, 128))
        assert [s.stop - s.start for s in region] == [30, 64, 100]
        assert all(s.start >= 0 and s.stop <= n for s, n in zip(region, shape, strict=True))
    assert previews.share_of((slice(0, 20), slice(0, 100), slice(0, 100)), shape) == 0.25
    wide = previews.widened((slice(2, 20), slice(50, 60), slice(90, 100)), shape, 5)
    assert wide == (slice(0, 25), slice(45, 65), slice(85, 100))


def test_every_position_lies_in_one_of_two_neighbouring_regions():
    position = np.random.default_rng(4).uniform(-0.5, 19.49, size=(200, 3))
    whole = slice(0, 20)
    left = previews.within(position, (whole, whole, slice(0, 9)))
    right = previews.within(position, (whole, whole, slice(9, 20)))
    assert (left ^ right).all()


def test_a_slice_cuts_balls_in_circles():
    position, radius = np.array([[5, 5, 10], [5, 5, 13], [5, 5, 20]]), np.full(3, 5.0)
    cut, circles = previews.cut_by_slice(position, radius, 10)
    assert list(cut) == [0, 1]
    np.testing.assert_allclose(circles, [5.0, 4.0])
