"""Every kernel against its brute-force twin, with read-only and wrong-shape input."""

import numpy as np
import oracles
import pytest
from scipion_faml.cython_ext import _interpolate, _peaks, _residual, _so3

from scipion_faml.fourier import sample_set, spectrum
from scipion_faml.geometry import euler_to_matrix
from scipion_faml.harmonics import wigner_d_half_pi

ROTATION = euler_to_matrix(np.array([0.4, 1.1, -0.8]))


def frozen(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("n", [5, 6, 7, 8])
@pytest.mark.parametrize("matrix", [np.eye(3), ROTATION], ids=["identity", "turned"])
def test_complex_interpolation_agrees_with_the_whole_spectrum(n, matrix):
    half = frozen(spectrum(np.random.default_rng(n).normal(size=(n,) * 3)).astype(np.complex64))
    frequency = frozen(sample_set(n).frequency_xyz.copy())
    out = np.empty(len(frequency), dtype=np.complex64)
    _interpolate.gather_complex(half, frequency, matrix, out)
    expected = oracles.gather_complex(half, frequency, matrix)
    np.testing.assert_allclose(out, expected, atol=1e-5 * np.abs(half).max())


@pytest.mark.parametrize("n", [5, 6, 7, 8])
def test_real_interpolation_agrees_with_the_whole_spectrum(n):
    half = np.abs(spectrum(np.random.default_rng(n).normal(size=(n,) * 3))).astype(np.float32)
    frequency = sample_set(n).frequency_xyz
    out = np.empty(len(frequency), dtype=np.float32)
    _interpolate.gather_real(half, frequency, ROTATION, out)
    expected = oracles.gather_real(half, frequency, ROTATION)
    np.testing.assert_allclose(out, expected, atol=1e-5 * half.max())


def test_interpolation_beyond_the_grid_gives_zero():
    half = np.ones((8, 8, 5), dtype=np.complex64)
    out = np.full(2, 9.0, dtype=np.complex64)
    far = np.array([[5.0, 0.0, 0.0], [0.0, -4.5, 0.0]], dtype=np.float32)
    _interpolate.gather_complex(half, far, np.eye(3), out)
    np.testing.assert_array_equal(out, 0.0)


def test_the_series_of_the_rotational_correlation_is_summed_as_written():
    rng = np.random.default_rng(0)
    bandwidth, degrees = 5, np.array([0, 2, 4])
    tables = [wigner_d_half_pi(l)[l:, :].T.ravel() for l in degrees]
    wigner = np.concatenate(tables).astype(np.float32)
    size = int(sum((2 * l + 1) ** 2 for l in degrees))
    product = (rng.normal(size=size) + 1j * rng.normal(size=size)).astype(np.complex64)
    out = np.full((9, 9, 5), 7.0, dtype=np.complex64)
    _so3.assemble(frozen(product), frozen(wigner), frozen(degrees), bandwidth, out)
    expected = oracles.assemble(product, wigner, degrees, bandwidth)
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 6, 7), (4, 4, 4)])
def test_local_maxima_wrap_around_every_axis(shape):
    score = frozen(np.random.default_rng(0).integers(0, 6, shape).astype(np.float32))
    out = np.empty(shape, dtype=np.uint8)
    _peaks.periodic_local_maxima(score, out)
    np.testing.assert_array_equal(out, oracles.periodic_local_maxima(score))


@pytest.mark.parametrize("n", [7, 8])
def test_cross_term_and_power_are_direct_sums(n):
    from scipion_faml.align import shift_ramp

    rng = np.random.default_rng(0)
    samples = sample_set(n)
    size = len(samples)
    model = (rng.normal(size=size) + 1j * rng.normal(size=size)).astype(np.complex64)
    observed = (rng.normal(size=size) + 1j * rng.normal(size=size)).astype(np.complex64)
    weight = rng.uniform(0, 2, size).astype(np.float32)
    shift = np.array([0.7, -1.3, 2.2])
    out = np.empty(2)
    _residual.cross_and_power(
        frozen(model), frozen(observed), frozen(weight), samples.frequency_xyz,
        shift_ramp(n, shift), out,
    )
    expected = oracles.cross_and_power(model, observed, weight, samples.frequency_xyz, shift, n)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)


def test_kernels_name_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="not the half spectrum"):
        _interpolate.gather_complex(
            np.zeros((8, 8, 8), np.complex64), np.zeros((1, 3), np.float32), np.eye(3),
            np.zeros(1, np.complex64),
        )
    with pytest.raises(ValueError, match="2 frequencies but out holds 1"):
        _interpolate.gather_real(
            np.zeros((8, 8, 5), np.float32), np.zeros((2, 3), np.float32), np.eye(3),
            np.zeros(1, np.float32),
        )
    with pytest.raises(ValueError, match="out"):
        _peaks.periodic_local_maxima(
            np.zeros((3, 3, 3), np.float32), np.zeros((3, 3, 4), np.uint8)
        )
    with pytest.raises(ValueError, match="the degrees need"):
        _so3.assemble(
            np.zeros(3, np.complex64), np.zeros(1, np.float32), np.array([0, 2]), 4,
            np.zeros((7, 7, 4), np.complex64),
        )
    with pytest.raises(ValueError, match="1 samples in model"):
        _residual.cross_and_power(
            np.zeros(1, np.complex64), np.zeros(2, np.complex64), np.zeros(1, np.float32),
            np.zeros((1, 3), np.float32), np.zeros((3, 9), complex), np.zeros(2),
        )
