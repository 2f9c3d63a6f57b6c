"""Noise, reliability and the Wiener prior against synthetic data whose truth is known."""

import numpy as np
import oracles
import pytest
from oracles_gauss import Blobs, random_weight, smooth_weight

from scipion_faml.fourier import sample_set, spectrum, volume_from_spectrum
from scipion_faml.measured import WorkingBox
from scipion_faml.regularise import (
    ShellResidual,
    half_correlation,
    prior_coverage,
    shell_means,
    shell_of,
    sums_over_shells,
    wiener_average,
)
from scipion_faml.wedge import MissingWedge


def complex_normal(rng, size):
    """Unit variance: E |z|^2 = 1."""
    return (rng.normal(size=size) + 1j * rng.normal(size=size)) / np.sqrt(2)


@pytest.mark.parametrize("n", [9, 10])
def test_sums_over_shells_are_sums_over_the_whole_spectrum(n):
    samples = sample_set(n)
    volume = np.random.default_rng(0).normal(size=(n, n, n))
    power = samples.take(np.abs(spectrum(volume)) ** 2)
    full = np.abs(oracles.full_spectrum(spectrum(volume), n)) ** 2
    axis = np.fft.fftfreq(n, 1 / n)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    inside = (radius > 0) & (radius <= samples.radius)
    expected = [full[inside & (np.rint(radius) == s)].sum() for s in range(1, len(power))]
    found = sums_over_shells(power, samples)
    np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-9)
    np.testing.assert_allclose(shell_means(np.full(len(samples), 3.0), samples), 3.0)


def synthetic_halves(rng, samples, tau_sq, sigma_sq, coverage):
    """A structure, and (signal, coverage) of two halves of it: S = c A + sqrt(c) noise."""
    shell = shell_of(samples)
    structure = np.sqrt(tau_sq[shell]) * complex_normal(rng, len(samples))
    noise = np.sqrt(coverage * sigma_sq[shell]) * complex_normal(rng, (2, len(samples)))
    return structure, coverage * structure + noise, np.stack([coverage, coverage])


@pytest.mark.parametrize("snr", [0.1, 1.0, 10.0])
def test_the_correlation_of_halves_is_that_of_their_signal_to_noise_ratio(snr):
    samples = sample_set(32)
    n_shells = int(samples.radius)
    rng = np.random.default_rng(0)
    tau_sq = rng.uniform(1, 3, n_shells)
    _, signal, coverage = synthetic_halves(
        rng, samples, tau_sq, 4.0 * tau_sq / snr, np.full(len(samples), 4.0))
    fsc = half_correlation(signal, coverage, samples)
    n_independent = sums_over_shells(np.ones(len(samples)), samples) / 2
    error = (fsc - snr / (1 + snr)) * np.sqrt(2 * n_independent)
    assert np.abs(error).max() < 4.0  # standard errors at most
    # ... and the ratio of variances comes back from it: c tau^2 / sigma^2 = snr in each half.
    found = prior_coverage(fsc, coverage.sum(axis=0), samples)
    assert np.median(found[n_independent > 500]) == pytest.approx(4.0 / snr, rel=0.35)


def test_halves_of_nothing_do_not_correlate_and_trust_nothing():
    samples = sample_set(24)
    rng = np.random.default_rng(1)
    ones = np.ones((2, len(samples)))
    fsc = half_correlation(complex_normal(rng, (2, len(samples))), ones, samples)
    assert np.abs(fsc[5:]).max() < 0.15
    assert prior_coverage(fsc, ones[0], samples)[5:].min() > 2.5  # of a coverage of 1
    assert np.all(half_correlation(np.zeros((2, len(samples)), complex), ones, samples) == 0)


def test_what_no_particle_of_a_half_measured_does_not_decide_its_correlation():
    samples = sample_set(24)
    rng = np.random.default_rng(2)
    _, signal, coverage = synthetic_halves(
        rng, samples, np.ones(11), np.full(11, 0.1), np.ones(len(samples)))
    clean = half_correlation(signal, coverage, samples)
    hole = rng.uniform(size=len(samples)) < 0.1
    coverage[:, hole] = 1e-7  # leaked out of a wedge
    signal[:, hole] = 1e-4 * complex_normal(rng, hole.sum())
    np.testing.assert_allclose(half_correlation(signal, coverage, samples), clean, atol=0.05)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("n", [9, 10])
def test_the_wiener_average_is_signal_over_coverage_and_prior(n, dtype):
    samples, rng = sample_set(n), np.random.default_rng(0)
    signal = complex_normal(rng, len(samples)).astype(dtype)
    coverage, prior = rng.uniform(0.6, 3, len(samples)), rng.uniform(0.1, 2, int(samples.radius))
    found = wiener_average(signal, coverage, prior, samples)
    for j, k in enumerate(samples.frequency_xyz):
        shell = min(int(np.rint(np.linalg.norm(k))), int(samples.radius)) - 1
        assert found[j] == pytest.approx(signal[j] / (coverage[j] + prior[shell]), rel=0.01)


def test_the_wiener_average_has_the_smallest_error_of_all_priors():
    samples, rng = sample_set(32), np.random.default_rng(3)
    n_shells = int(samples.radius)
    tau_sq, sigma_sq = rng.uniform(1, 2, n_shells), rng.uniform(2, 20, n_shells)
    coverage = rng.uniform(0.5, 4.0, len(samples))
    structure, signal, halves = synthetic_halves(rng, samples, tau_sq, sigma_sq, coverage)
    whole, both = signal.sum(axis=0), halves.sum(axis=0)
    errors = {
        factor: np.sum(np.abs(
            wiener_average(whole, both, factor * sigma_sq / tau_sq, samples) - structure) ** 2)
        for factor in (0.0, 0.5, 1.0, 2.0)
    }
    assert min(errors, key=errors.get) == 1.0


def test_what_hardly_any_particle_measured_is_not_blown_up():
    samples = sample_set(8)
    signal, coverage = np.ones(len(samples), complex), np.ones(len(samples))
    coverage[::7], coverage[1::7] = -0.5, 0.02  # windows leak coverage of either sign
    found = np.abs(wiener_average(signal, coverage, np.zeros(3), samples))
    np.testing.assert_array_equal(found[::7], 0.0)
    assert found[1::7].max() < 1.0 and np.allclose(found[2::7], 1.0, atol=1e-3)


# ---------------------------------------------------------------------------------------- noise
def residual_of(measured):
    return sum(
        (ShellResidual(m.power, m.wedge.n_observed) for m in measured[1:]),
        ShellResidual(measured[0].power, measured[0].wedge.n_observed),
    )


@pytest.mark.parametrize("n", [15, 16])
@pytest.mark.parametrize("is_white", [True, False])
def test_the_noise_of_particles_of_noise_alone_is_recovered(n, is_white):
    rng = np.random.default_rng(n)
    box = WorkingBox.of(n, (n - 1) // 2)
    shape = 1.0 if is_white else np.linspace(3.0, 0.5, (n - 1) // 2)[shell_of(box.samples)]
    measured = []
    for i in range(8):
        half = spectrum(rng.normal(size=(n, n, n)))
        coloured = np.zeros_like(half)
        coloured.reshape(-1)[box.samples.flat_index] = box.samples.take(half) * np.sqrt(shape)
        volume = np.fft.fftshift(np.fft.irfftn(coloured, (n, n, n), axes=(0, 1, 2)))
        wedge = MissingWedge(-60, 40 + 5 * i).mask(n)
        measured.append(box.measure(i, volume.astype(np.float32), wedge))
    residual = residual_of(measured)
    found = residual.noise(np.zeros(box.radius), is_white) / n**3
    expected = 1.0 if is_white else np.linspace(3.0, 0.5, box.radius)
    tolerance = 4 / np.sqrt(residual.n_observed / 2)
    assert np.all(np.abs(found / expected - 1) < tolerance)
    if is_white:
        assert np.ptp(found) == 0
        assert found[0] == pytest.approx(1.0, abs=0.02)


def test_noise_is_that_of_what_the_averages_leave_unexplained():
    n, rng = 16, np.random.default_rng(4)
    box, structure = WorkingBox.of(n, 7), Blobs(0, width=0.08)
    volume = structure.volume(n)
    volume *= 0.25 / volume.std()  # below ten times the noise on every shell
    average = box.samples.take(spectrum(volume)).astype(np.complex64)
    wedge = smooth_weight(n, rng)
    # A sample of weight w has the variance sigma^2 / w.
    gain = 1.0 / np.sqrt(np.maximum(wedge, 1e-3))
    noise = [gain * spectrum(rng.normal(size=(n, n, n))) for _ in range(6)]
    measured = [
        box.measure(i, (volume + volume_from_spectrum(half, n)).astype(np.float32), wedge)
        for i, half in enumerate(noise)
    ]
    residual = residual_of(measured)
    signal = sum(m.values for m in measured)
    explained = residual.explained(signal, 6 * measured[0].wedge.weight, average, box.samples)
    found = residual.noise(explained, is_white=False) / n**3
    assert np.all(np.abs(found - 1) < 5 / np.sqrt(residual.n_observed / 2))


@pytest.mark.parametrize("n", [9, 10])
def test_what_an_average_explains_is_the_fall_of_the_squared_residual(n):
    rng = np.random.default_rng(n)
    box = WorkingBox.of(n, (n - 1) // 2)
    volumes = rng.normal(size=(3, n, n, n)).astype(np.float32)
    measured = [box.measure(i, v, random_weight(n, rng)) for i, v in enumerate(volumes)]
    average, gamma = complex_normal(rng, len(box.samples)) * 5, rng.uniform(0, 1, 3)
    residual = residual_of(measured)
    signal = sum(g * m.values for g, m in zip(gamma, measured, strict=True))
    coverage = sum(g * m.wedge.weight for g, m in zip(gamma, measured, strict=True))
    explained = residual.explained(signal, coverage, average, box.samples)
    expected = np.zeros(box.radius)
    for g, m, v in zip(gamma, measured, volumes, strict=True):
        observed, w = box.samples.take(spectrum(v)), m.wedge.weight
        before, after = w * np.abs(observed) ** 2, w * np.abs(observed - average) ** 2
        expected += g * sums_over_shells(before - after, box.samples)
    np.testing.assert_allclose(explained, expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max())


def test_an_average_that_explains_everything_leaves_a_tenth_as_noise():
    residual = ShellResidual(np.array([10.0, 20.0]), np.array([5.0, 0.0]))
    found = residual.noise(np.array([50.0, 0.0]), is_white=False)
    assert found[0] == pytest.approx(0.2)
    assert found[1] > 0  # nothing measured: the mean of the others
