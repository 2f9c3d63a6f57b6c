"""Every kernel against its brute-force twin, with read-only and wrong-shape input."""

import numpy as np
import oracles
import pytest
from scipion_faml.cython_ext import _interpolate, _peaks, _residual, _scoring, _so3, _voronoi

from scipion_faml.align import separable_phase, shift_ramp
from scipion_faml.fourier import sample_runs, sample_set, spectrum, turnable_spectrum
from scipion_faml.geometry import euler_to_matrix, random_rotations

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


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("matrix", [2 * np.eye(3), 2 * ROTATION], ids=["identity", "turned"])
def test_interpolation_of_a_table_agrees_with_the_whole_spectrum(n, matrix):
    volume = np.random.default_rng(n).normal(size=(n,) * 3).astype(np.float32)
    samples = sample_set(n)
    table = frozen(turnable_spectrum(volume, samples.radius))
    out = np.empty(len(samples), dtype=np.complex64)
    _scoring.gather(table, frozen(samples.axes.copy()), matrix, out)
    expected = oracles.gather_table(table, samples.axes, matrix)
    np.testing.assert_allclose(out, expected, atol=1e-5 * np.abs(table).max())


@pytest.mark.parametrize(("n", "max_shift"), [(8, 2.0), (9, 3.0), (16, 4.2), (10, 0.4)])
def test_shift_and_score_of_a_rotation_are_those_of_a_direct_scan(n, max_shift):
    rng = np.random.default_rng(n)
    samples = sample_set(n)
    table = frozen(turnable_spectrum(rng.normal(size=(n,) * 3).astype(np.float32), samples.radius))
    sample_weight = rng.integers(0, 3, len(samples)).astype(np.float32)  # holes as a CTF makes them
    runs = sample_runs(samples, sample_weight)
    weight = frozen(sample_weight[runs.index])
    weighted = frozen(rng.normal(size=(2, len(weight))).astype(np.float32))
    rotations = np.stack([ROTATION, np.eye(3), ROTATION.T])
    reach = int(max_shift)
    phase = 2 * np.pi / n * np.outer(np.arange(-((n - 1) // 2), (n - 1) // 2 + 1), np.arange(8))
    out = np.empty((3, 5))
    _scoring.score_rotations(
        table, frozen(runs.axes), weight, weighted, frozen(runs.runs), frozen(runs.rows),
        frozen(runs.tiles), 2 * rotations,
        np.cos(phase).astype(np.float32), np.sin(phase).astype(np.float32), n, reach, 1.0,
        max_shift, out, _scoring.WorkingMemory(),
    )
    for found, rotation in zip(out, rotations, strict=True):
        expected = oracles.score_rotation(
            table, runs.axes, weight, weighted, 2 * rotation, n, n, max_shift
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_degrees_of_the_rotational_correlation_are_summed_as_written():
    rng = np.random.default_rng(0)
    bandwidth, degrees, n_beta = 5, np.array([0, 2, 4]), 6
    shapes = {l: (l + 1, 2 * l + 1) for l in degrees}
    product = {
        l: (rng.normal(size=s) + 1j * rng.normal(size=s)).astype(np.complex64)
        for l, s in shapes.items()
    }
    wigner_d = {l: rng.normal(size=(*s, n_beta)).astype(np.float32) for l, s in shapes.items()}
    flat = [
        wigner_d[l][m, mp + l]
        for m in range(bandwidth)
        for mp in range(1 - bandwidth, bandwidth)
        for l in degrees
        if m <= l and abs(mp) <= l
    ]
    out = np.full((bandwidth + 1, 2 * bandwidth, n_beta), 7.0, dtype=np.complex64)
    _so3.sum_degrees(
        frozen(np.concatenate([product[l].ravel() for l in degrees])), frozen(np.concatenate(flat)),
        frozen(degrees), out,
    )
    expected = oracles.sum_degrees(product, wigner_d, degrees, bandwidth, n_beta)
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 6, 7), (4, 4, 4), (3, 3, 3)])
def test_local_maxima_wrap_around_two_axes(shape):
    score = frozen(np.random.default_rng(0).integers(0, 6, shape).astype(np.float32))
    out = np.empty((*shape[:2], shape[2] - 2), dtype=np.uint8)
    _peaks.local_maxima(score, out)
    np.testing.assert_array_equal(out, oracles.local_maxima(score))


@pytest.mark.parametrize("n", [7, 8])
def test_cross_term_and_power_are_direct_sums(n):
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
        _peaks.local_maxima(np.zeros((3, 3, 3), np.float32), np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(ValueError, match="the degrees need"):
        _so3.sum_degrees(
            np.zeros(3, np.complex64), np.zeros(1, np.float32), np.array([0, 2]),
            np.zeros((5, 8, 5), np.complex64),
        )
    with pytest.raises(ValueError, match="does not ascend"):
        _so3.sum_degrees(
            np.zeros(2, np.complex64), np.zeros(2, np.float32), np.array([0, 0]),
            np.zeros((5, 8, 5), np.complex64),
        )
    with pytest.raises(ValueError, match="1 samples in model"):
        _residual.cross_and_power(
            np.zeros(1, np.complex64), np.zeros(2, np.complex64), np.zeros(1, np.float32),
            np.zeros((1, 3), np.float32), np.zeros((3, 9), complex), np.zeros(2),
        )


@pytest.mark.parametrize("n_points", [0, 1, 16, 100])
def test_every_point_counts_for_its_nearest_candidate(n_points):
    rng = np.random.default_rng(n_points)
    points = frozen(rng.normal(size=(13, n_points)).astype(np.float32))
    closeness = frozen(rng.normal(size=(7, 13)).astype(np.float32))
    counts = np.full(7, 9)
    _voronoi.nearest_counts(points, closeness, counts)
    np.testing.assert_array_equal(counts, oracles.nearest_counts(points, closeness))
    with pytest.raises(ValueError, match="12 and 13 features"):
        _voronoi.nearest_counts(points[:12], closeness, counts)
    with pytest.raises(ValueError, match="7 candidates but out holds 6"):
        _voronoi.nearest_counts(points, closeness, counts[:6])


def scoring_arguments(n=8):
    """Arguments that fit, as a dict in the kernel's order."""
    samples = sample_set(n)
    runs = sample_runs(samples, samples.multiplicity)
    trig = np.zeros((2 * int(samples.radius) + 1, 8), np.float32)
    return {
        "table": turnable_spectrum(np.zeros((n, n, n), np.float32), samples.radius),
        "axes": runs.axes, "weight": np.ones(len(runs.index), np.float32),
        "weighted": np.ones((2, len(runs.index)), np.float32), "runs": runs.runs,
        "rows": runs.rows, "tiles": runs.tiles, "matrix": 2 * np.eye(3)[None],
        "cosines": trig, "sines": trig,
        "n_box": n, "reach": 2, "step": 1.0, "max_shift": 2.0, "out": np.zeros((1, 5)),
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("table", np.zeros((8, 8, 5), np.complex64), "is not a table"),
        ("weight", np.ones(3, np.float32), "3 weights"),
        ("rows", np.zeros((2, 3), np.int32), "rows"),
        ("rows", np.zeros((2, 2), np.int32), "not above the row before"),
        ("runs", np.array([[0, 99, 0]], np.int32), "run 0 lies beyond"),
        ("runs", np.array([[0, 2, 0]], np.int32), "the runs hold 2 samples"),
        ("tiles", np.array([0, 5], np.int32), "do not cover"),
        ("matrix", 3 * np.eye(3)[None], "leave the table"),
        ("matrix", np.full((1, 3, 3), np.nan), "leave the table"),
        ("reach", 7, "do not fit 8 lanes"),
        ("out", np.zeros((2, 5)), "1 rotations but out"),
    ],
)
def test_scoring_refuses_what_does_not_fit(name, value, message):
    arguments = scoring_arguments()
    _scoring.score_rotations(*arguments.values(), _scoring.WorkingMemory())
    arguments[name] = value
    with pytest.raises(ValueError, match=message):
        _scoring.score_rotations(*arguments.values(), _scoring.WorkingMemory())


def turning_arguments(n=8, n_poses=3):
    """Valid arguments of `add_turned_back` by name."""
    rng = np.random.default_rng(n)
    samples = sample_set(n)
    table, other = (
        turnable_spectrum(rng.normal(size=(n,) * 3).astype(np.float32), samples.radius)
        for _ in range(2)
    )
    rotation = euler_to_matrix(random_rotations(n_poses, rng))
    shift = rng.uniform(-2.0, 2.0, (n_poses, 3))
    shift[0] = 0.0
    moved = np.einsum("mji,mj->mi", rotation, shift)
    values = rng.normal(size=len(samples)) + 1j * rng.normal(size=len(samples))
    arguments = {
        "table": table, "wedge": other.real.copy(), "axes": samples.tiled.axes,
        "runs": samples.tiled.runs, "rows": samples.tiled.rows, "index": samples.tiled.index,
        "matrix": 2.0 * rotation, "ramp": separable_phase(samples, moved),
        "weight": rng.uniform(size=n_poses), "signal": values,
        "coverage": rng.uniform(size=len(samples)),
    }
    return arguments, samples, rotation, shift


@pytest.mark.parametrize("n", [7, 8, 20])
def test_a_particle_and_its_wedge_are_turned_back_onto_sums(n):
    arguments, samples, rotation, shift = turning_arguments(n)
    expected = [
        sums + oracles.turned_back(table, 2.0, samples.axes, n, rotation, t, arguments["weight"])
        for sums, table, t in (
            (arguments["signal"], arguments["table"], shift),
            (arguments["coverage"], arguments["wedge"], np.zeros_like(shift)),
        )
    ]
    _scoring.add_turned_back(*arguments.values())
    scale = np.abs(expected[0]).max()
    np.testing.assert_allclose(arguments["signal"], expected[0], atol=1e-5 * scale)
    scale = np.abs(expected[1]).max()
    np.testing.assert_allclose(arguments["coverage"], expected[1].real, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("table", np.zeros((8, 8, 5), np.complex64), "is not a table"),
        ("wedge", np.zeros((9, 9, 5), np.float32), "does not fit a table"),
        ("index", np.zeros(3, np.intp), "3 indices"),
        ("matrix", np.zeros((2, 3, 3)), "2 matrices, 3 ramps"),
        ("matrix", np.full((3, 3, 3), np.nan), "outside the table"),
        ("ramp", np.zeros((3, 3, 2, 17), np.float32), "beyond the radius of 0"),
        ("runs", np.array([[0, 99, 0]], np.int32), "run 0 lies beyond"),
        ("weight", np.ones(4), "4 weights"),
        ("signal", np.zeros(4, complex), "4 and"),
        ("coverage", np.zeros(4), "and 4 sums"),
    ],
)
def test_turning_back_refuses_what_does_not_fit(name, value, message):
    arguments = turning_arguments()[0]
    arguments[name] = value
    with pytest.raises(ValueError, match=message):
        _scoring.add_turned_back(*arguments.values())


def test_turning_back_refuses_sums_that_do_not_exist():
    arguments = turning_arguments()[0]
    arguments["index"] = arguments["index"].copy()
    arguments["index"][5] = len(arguments["index"])
    with pytest.raises(ValueError, match="beyond"):
        _scoring.add_turned_back(*arguments.values())


def test_points_outside_a_table_are_refused():
    table = np.zeros((9, 9, 5), np.complex64)
    out = np.zeros(1, np.complex64)
    for far in ([4.0, 0.0, 0.0], [0.0, -9.0, 0.0], [np.nan, 0.0, 0.0]):
        with pytest.raises(ValueError, match="outside the table"):
            _scoring.gather(table, np.array(far, np.float32)[:, None], np.eye(3), out)
    with pytest.raises(ValueError, match="1 points but out holds 2"):
        _scoring.gather(table, np.zeros((3, 1), np.float32), np.eye(3), np.zeros(2, np.complex64))
