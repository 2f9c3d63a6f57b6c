"""Fourier shell correlation: against the definition, and its known values."""

from __future__ import annotations

import numpy as np
import pytest

from scipion_faml.evaluation.fsc import (
    corrected_fsc,
    fourier_shell_correlation,
    frequencies_per_angst,
    randomise_phases,
    resolution_angst,
)
from scipion_faml.volume import soft_sphere


@pytest.mark.parametrize("n", [15, 16])
def test_fsc_is_its_definition_on_the_whole_spectrum(n):
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, n, n, n))
    f, g = np.fft.fftn(first), np.fft.fftn(second)
    k = np.fft.fftfreq(n, 1 / n)
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    expected = []
    for shell in range(n // 2):
        here = np.rint(radius) == shell
        power = np.sum(np.abs(f[here]) ** 2) * np.sum(np.abs(g[here]) ** 2)
        expected.append(np.sum(f[here] * g[here].conj()).real / np.sqrt(power))
    np.testing.assert_allclose(fourier_shell_correlation(first, second), expected, atol=1e-12)


def test_a_map_agrees_with_itself_on_any_scale_and_disagrees_with_its_negative():
    volume = np.random.default_rng(1).standard_normal((12, 12, 12))
    np.testing.assert_allclose(fourier_shell_correlation(volume, 3 * volume), 1.0, atol=1e-12)
    np.testing.assert_allclose(fourier_shell_correlation(volume, -volume), -1.0, atol=1e-12)


def test_halves_of_white_signal_and_noise_have_fsc_snr_over_one_plus_snr():
    rng = np.random.default_rng(2)
    signal, noise_1, noise_2 = rng.standard_normal((3, 48, 48, 48))
    snr = 0.5
    fsc = fourier_shell_correlation(
        signal + noise_1 / np.sqrt(snr), signal + noise_2 / np.sqrt(snr)
    )
    # A shell of radius 10 and more holds over 600 independent samples: s.d. below 0.04.
    assert np.abs(fsc[10:] - snr / (1 + snr)).max() < 0.15
    assert abs(fsc[10:].mean() - snr / (1 + snr)) < 0.02


def test_an_empty_map_has_fsc_zero_instead_of_nan():
    volume = np.random.default_rng(3).standard_normal((8, 8, 8))
    assert not fourier_shell_correlation(volume, np.zeros_like(volume)).any()


def test_resolution_lies_between_shells_on_a_straight_line():
    fsc = np.array([1.0, 0.9, 0.6, 0.4, 0.0])
    # Half-way between shells 2 and 3 of a box of 10 voxels of 2 A.
    assert resolution_angst(fsc, 10, 2.0, 0.5) == pytest.approx(20 / 2.5)


def test_resolution_is_the_first_crossing_even_if_the_curve_rises_again():
    fsc = np.array([1.0, 0.9, 0.1, 0.9, 0.9])
    assert resolution_angst(fsc, 10, 1.0, 0.5) == pytest.approx(10 / 1.5)


def test_a_curve_above_the_threshold_gives_the_last_shell():
    assert resolution_angst(np.ones(8), 16, 3.0, 0.143) == pytest.approx(48 / 7)


def test_a_curve_below_the_threshold_at_once_gives_more_than_the_box():
    fsc = np.array([1.0, 0.0, 0.0, 0.0])
    value = resolution_angst(fsc, 8, 1.0, 0.143)
    assert np.isfinite(value) and value > 8


def test_frequencies_start_at_zero_and_end_below_nyquist():
    frequency = frequencies_per_angst(10, 2.0)
    assert frequency[0] == 0 and frequency[-1] == pytest.approx(4 / 20) and len(frequency) == 5


def test_the_correction_takes_off_what_a_mask_correlates():
    rng = np.random.default_rng(4)
    n = 32
    first, second = rng.standard_normal((2, n, n, n))
    background = 5.0 * soft_sphere(n, 6, 4)  # both halves share something at low resolution only
    mask = soft_sphere(n, 5, 1.0)  # hard and small: correlates noise by itself
    first, second = first + background, second + background
    masked = fourier_shell_correlation(first, second, mask)
    corrected = corrected_fsc(first, second, mask, np.random.default_rng(5))
    assert np.abs(corrected[6:]).mean() < 0.7 * np.abs(masked[6:]).mean()
    assert corrected[1] == masked[1]


def test_random_phases_keep_amplitudes_and_leave_low_shells_alone():
    volume = np.random.default_rng(6).standard_normal((16, 16, 16))
    changed = randomise_phases(volume, 5, np.random.default_rng(7))
    before, after = np.fft.fftn(volume), np.fft.fftn(changed)
    np.testing.assert_allclose(np.abs(after), np.abs(before), rtol=1e-6, atol=1e-6)
    fsc = fourier_shell_correlation(volume, changed)
    np.testing.assert_allclose(fsc[:4], 1.0, atol=1e-9)
    assert np.abs(fsc[6:]).max() < 0.5


def test_volumes_and_masks_of_other_shapes_are_refused():
    a, b = np.ones((8, 8, 8)), np.ones((10, 10, 10))
    with pytest.raises(ValueError, match="two cubes of one size"):
        fourier_shell_correlation(a, b)
    with pytest.raises(ValueError, match="mask has shape"):
        fourier_shell_correlation(a, a, b)
