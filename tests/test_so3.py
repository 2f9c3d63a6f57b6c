"""Harmonics on shells and Fourier analysis over rotations, against their definitions."""

import numpy as np
import oracles_harmonics as oracle
import pytest
from oracles_gauss import Blobs

from scipion_faml.geometry import euler_to_matrix
from scipion_faml.shells import shell_sampling
from scipion_faml.so3 import rotation_grid, wigner_d

ANGLES = np.array([[0.4, 1.1, -0.8], [2.9, 0.02, 4.0], [-1.0, 3.1, 0.3], [5.5, 1.6, 2.2]])


# --------------------------------------------------------------------------------------- shells
def unit_vectors(sampling):
    points = sampling.axes.T.astype(float)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize(("bandwidth", "n_shells"), [(2, 1), (5, 2), (8, 4), (13, 5)])
def test_coefficients_go_to_the_points_and_come_back(bandwidth, n_shells):
    sampling = shell_sampling(bandwidth, n_shells)
    z = oracle.random_coefficients(np.random.default_rng(0), n_shells, bandwidth)
    values = sampling.synthesise(z)
    assert values.shape == sampling.shape
    np.testing.assert_allclose(sampling.analyse(values), z, atol=2e-5)


@pytest.mark.parametrize("bandwidth", [2, 7])
def test_the_spectrum_of_coefficients_is_the_sum_of_spherical_harmonics(bandwidth):
    sampling = shell_sampling(bandwidth, 3)
    z = oracle.random_coefficients(np.random.default_rng(1), 3, bandwidth)
    per_shell = unit_vectors(sampling)[: sampling.n_rings * sampling.n_points]
    expected = oracle.evaluate(z, per_shell).reshape(sampling.shape)
    np.testing.assert_allclose(sampling.synthesise(z), expected, atol=2e-5)


def test_a_synthesised_spectrum_has_friedel_mates():
    z = oracle.random_coefficients(np.random.default_rng(2), 1, 6)
    unit = np.random.default_rng(3).normal(size=(20, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    here, there = oracle.evaluate(z, unit), oracle.evaluate(z, -unit)
    np.testing.assert_allclose(there, here.conj(), atol=1e-6)


def test_several_spectra_are_analysed_as_each_alone():
    sampling = shell_sampling(5, 2)
    rng = np.random.default_rng(4)
    z = np.stack([oracle.random_coefficients(rng, 2, 5) for _ in range(3)])
    values = sampling.synthesise(z)
    for one, whole in zip(z, values, strict=True):
        np.testing.assert_allclose(sampling.synthesise(one), whole, atol=1e-6)
    np.testing.assert_allclose(sampling.analyse(values)[1], sampling.analyse(values[1]), atol=1e-6)


def test_degrees_above_the_bandwidth_do_not_fold_back():
    sampling = shell_sampling(5, 4)
    z = oracle.random_coefficients(np.random.default_rng(5), 4, 12)
    per_shell = unit_vectors(sampling)[: sampling.n_rings * sampling.n_points]
    values = oracle.evaluate(z, per_shell).reshape(sampling.shape).astype(np.complex64)
    np.testing.assert_allclose(sampling.analyse(values), np.tril(z[:, :5, :5]), atol=2e-5)


def test_the_points_stand_for_the_volume_of_their_shells():
    sampling = shell_sampling(6, 5)
    expected = 2 * np.pi * sampling.radius.astype(float) ** 2  # half a sphere
    np.testing.assert_allclose(sampling.quadrature.sum(axis=(1, 2)), expected, rtol=1e-6)
    radius = np.linalg.norm(sampling.axes, axis=0).reshape(sampling.shape)
    np.testing.assert_allclose(radius, sampling.radius[:, None, None] + 0 * radius, rtol=1e-6)


def test_coefficients_of_a_turned_structure_are_those_turned_by_wigner_d():
    structure, sampling, n = Blobs(0, reach=0.15, width=0.08), shell_sampling(12, 4), 24

    def coefficients(rotation):
        values = structure.spectrum_at(sampling.axes, n, rotation) / n**3
        return sampling.analyse(values.reshape(sampling.shape).astype(np.complex64))

    still = coefficients(np.eye(3))
    for angles in ANGLES:
        turned = coefficients(euler_to_matrix(angles))
        for l in range(12):
            expected = oracle.both_signs(still, l) @ oracle.wigner_matrix(l, angles).T
            found = oracle.both_signs(turned, l)
            np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(still).max() + 1e-8)


@pytest.mark.parametrize(("bandwidth", "n_shells"), [(1, 4), (4, 0)])
def test_a_sampling_of_nothing_is_refused(bandwidth, n_shells):
    with pytest.raises(ValueError, match="need at least 2 and 1"):
        shell_sampling(bandwidth, n_shells)


# ------------------------------------------------------------------------------------- Wigner d
def whole_d(table, degree, which):
    """d^l (m >= 0, m') of one beta out of the table."""
    middle = (table.shape[1] - 1) // 2
    return table[: degree + 1, middle - degree : middle + degree + 1, which, degree]


@pytest.mark.parametrize("bandwidth", [2, 5, 24])
def test_wigner_d_is_the_exponential_of_a_rotation_about_y(bandwidth):
    beta = np.array([0.01, 0.7, np.pi / 2, 2.5, 3.13])
    table = wigner_d(bandwidth, beta)
    for l in (0, 1, bandwidth // 2, bandwidth - 1):
        for j, b in enumerate(beta):
            expected = oracle.wigner_d(l, b)[l:]
            np.testing.assert_allclose(whole_d(table, l, j), expected, atol=1e-9)


@pytest.mark.parametrize("degree", [1, 7, 31, 63])
def test_rows_of_wigner_d_are_orthonormal_at_high_degrees(degree):
    table = wigner_d(degree + 1, np.array([0.3, 1.2, 2.8]))
    for j in range(3):
        d = whole_d(table, degree, j)
        np.testing.assert_allclose(d @ d.T, np.eye(degree + 1), atol=1e-8)


def test_wigner_d_is_zero_where_no_order_exists():
    table = wigner_d(5, np.array([0.4, 2.0]))
    m, mp, l = np.ogrid[:5, -4:5, :5]
    is_none = (np.broadcast_to(m, (5, 9, 5)) > l) | (np.abs(mp) > l)
    assert not table.transpose(0, 1, 3, 2)[is_none].any()


# --------------------------------------------------------------------------------- all rotations
def random_product(rng, bandwidth):
    """I^l_{m m'} whose series is real, {l: (2l + 1, 2l + 1)}."""
    product = {}
    for l in range(bandwidth):
        m = np.arange(-l, l + 1)
        i = rng.normal(size=(2 * l + 1,) * 2) + 1j * rng.normal(size=(2 * l + 1,) * 2)
        product[l] = i + (-1.0) ** (m[:, None] + m) * i[::-1, ::-1].conj()
    return product


def packed(products, bandwidth):
    """Products as `RotationGrid.inverse` takes them."""
    out = np.zeros((bandwidth, 2, 2 * bandwidth - 1, bandwidth, len(products)), dtype=np.float32)
    for t, product in enumerate(products):
        for l, i in product.items():
            orders = slice(bandwidth - 1 - l, bandwidth + l)
            out[: l + 1, 0, orders, l, t] = i[l:].real
            out[: l + 1, 1, orders, l, t] = i[l:].imag
    return out


def angles_of(grid):
    """ZYZ angles of all grid rotations, (alpha, gamma, beta, 3)."""
    a, g, b = np.meshgrid(grid.alpha, grid.gamma, grid.beta, indexing="ij")
    return np.stack([a, b, g], axis=-1)


def weights_of(grid):
    return np.broadcast_to(grid.weight.astype(float), grid.shape)


@pytest.mark.parametrize("oversampling", [1.0, 1.5])
def test_the_inverse_transform_is_the_direct_sum_at_any_rotation(oversampling):
    rng, bandwidth = np.random.default_rng(0), 6
    grid = rotation_grid(bandwidth, oversampling)
    products = [random_product(rng, bandwidth) for _ in range(3)]
    values = grid.inverse(packed(products, bandwidth))
    assert values.shape == (*grid.shape, 3)
    angles = angles_of(grid)
    for where in rng.integers(0, grid.shape, (15, 3)):
        expected = [oracle.correlation(p, angles[tuple(where)]) for p in products]
        np.testing.assert_allclose(values[tuple(where)], expected, atol=1e-4)


def test_the_correlation_is_that_of_a_function_with_a_turned_one():
    rng, bandwidth = np.random.default_rng(1), 5
    grid = rotation_grid(bandwidth)
    p, q = (oracle.random_coefficients(rng, 2, bandwidth) for _ in range(2))
    product = {
        l: oracle.both_signs(p, l).T @ oracle.both_signs(q, l).conj() for l in range(bandwidth)
    }
    values = grid.inverse(packed([product], bandwidth))[..., 0]
    unit, area = oracle.sphere(bandwidth)
    angles = angles_of(grid)
    for where in rng.integers(0, grid.shape, (10, 3)):
        rotation = euler_to_matrix(angles[tuple(where)])
        turned = oracle.evaluate(q, unit @ rotation)  # q(R^-1 u)
        expected = np.sum(area * oracle.evaluate(p, unit) * turned.conj()).real
        assert values[tuple(where)] == pytest.approx(expected, abs=2e-4)


def test_forward_and_inverse_are_transposes():
    rng, bandwidth = np.random.default_rng(2), 6
    grid = rotation_grid(bandwidth)
    product = packed([random_product(rng, bandwidth) for _ in range(2)], bandwidth)
    values = rng.normal(size=(*grid.shape, 2)).astype(np.float32)
    on_grid = np.sum(grid.inverse(product).astype(float) * values)
    # Orders m > 0 stand for -m as well; `forward` holds half of m = 0 instead.
    on_orders = 2.0 * np.sum(product.astype(float) * grid.forward(values))
    assert on_grid == pytest.approx(on_orders, rel=1e-5)


def test_the_forward_transform_is_the_direct_sum_over_the_grid():
    rng, bandwidth = np.random.default_rng(3), 4
    grid = rotation_grid(bandwidth)
    values = rng.normal(size=(*grid.shape, 2)).astype(np.float32)
    found = grid.forward(values)
    angles = angles_of(grid).reshape(-1, 3)
    flat = values.reshape(-1, 2)
    for l in range(bandwidth):
        matrices = np.stack([oracle.wigner_matrix(l, a) for a in angles])
        expected = np.tensordot(matrices[:, l:], flat, axes=(0, 0))  # (m >= 0, m', T)
        expected[0] *= 0.5
        orders = slice(bandwidth - 1 - l, bandwidth + l)
        np.testing.assert_allclose(found[: l + 1, 0, orders, l], expected.real, atol=1e-4)
        np.testing.assert_allclose(found[: l + 1, 1, orders, l], expected.imag, atol=1e-4)


@pytest.mark.parametrize("bandwidth", [2, 5, 24])
def test_all_rotations_together_have_weight_one(bandwidth):
    grid = rotation_grid(bandwidth)
    assert weights_of(grid).sum() == pytest.approx(1.0, rel=1e-5)
    assert len(grid) == np.prod(grid.shape)


def test_wigner_matrices_are_orthogonal_under_the_weights_of_the_grid():
    bandwidth = 4
    grid = rotation_grid(bandwidth)
    angles, weight = angles_of(grid).reshape(-1, 3), weights_of(grid).ravel()
    rows = [
        np.stack([oracle.wigner_matrix(l, a).ravel() for a in angles]) for l in range(bandwidth)
    ]
    basis = np.concatenate(rows, axis=1)
    gram = basis.conj().T * weight @ basis
    degree = np.concatenate([np.full((2 * l + 1) ** 2, l) for l in range(bandwidth)])
    np.testing.assert_allclose(gram, np.diag(1.0 / (2 * degree + 1)), atol=1e-6)


def test_the_mean_over_all_rotations_is_the_coefficient_of_degree_0():
    rng, bandwidth = np.random.default_rng(5), 7
    grid = rotation_grid(bandwidth)
    product = random_product(rng, bandwidth)
    values = grid.inverse(packed([product], bandwidth))[..., 0]
    assert np.sum(weights_of(grid) * values) == pytest.approx(product[0][0, 0].real, abs=1e-3)
