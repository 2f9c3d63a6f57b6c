import numpy as np
import oracles
import pytest
from scipy.special import sph_harm

from scipion_faml.geometry import euler_to_matrix
from scipion_faml.harmonics import (
    grid_euler_zyz,
    harmonic_coefficients,
    legendre_table,
    rotational_correlation,
    shell_plan,
    wigner_d_half_pi,
)


def random_coefficients(plan, seed):
    """Coefficients of a real even function."""
    rng = np.random.default_rng(seed)
    out = []
    for l in plan.degrees:
        c = rng.normal(size=(plan.n_shells, 2 * l + 1)) + 1j * rng.normal(
            size=(plan.n_shells, 2 * l + 1)
        )
        mirrored = c[:, ::-1].conj() * (-1.0) ** np.arange(-l, l + 1)
        out.append(((c + mirrored) / 2).astype(np.complex64))
    return out


@pytest.mark.parametrize("degree", [0, 1, 2, 7, 20])
def test_wigner_d_is_orthogonal_and_has_its_symmetries(degree):
    d = wigner_d_half_pi(degree)
    m = np.arange(-degree, degree + 1)
    np.testing.assert_allclose(d @ d.T, np.eye(2 * degree + 1), atol=1e-12)
    np.testing.assert_allclose(d.T, d * (-1.0) ** (m[:, None] - m), atol=1e-12)
    np.testing.assert_allclose(d[::-1], d * (-1.0) ** (degree + m), atol=1e-12)


def test_wigner_d_of_degree_one_is_the_textbook_matrix():
    r = np.sqrt(0.5)
    expected = [[0.5, r, 0.5], [-r, 0.0, r], [0.5, -r, 0.5]]  # rows and columns m = -1, 0, 1
    np.testing.assert_allclose(wigner_d_half_pi(1), expected, atol=1e-14)


def test_legendre_table_holds_spherical_harmonics_at_zero_azimuth():
    cosines = np.linspace(-0.95, 0.95, 7)
    table = legendre_table(12, cosines)
    for l in range(12):
        for m in range(l + 1):
            expected = sph_harm(m, l, 0.0, np.arccos(cosines)).real
            np.testing.assert_allclose(table[l, m], expected, atol=1e-10)


def test_coefficients_of_a_known_function_come_back():
    plan = shell_plan(8, 3)
    coefficients = random_coefficients(plan, 0)
    unit = plan.points_xyz / np.linalg.norm(plan.points_xyz, axis=1, keepdims=True)
    per_shell = len(unit) // plan.n_shells
    values = oracles.evaluate_harmonics(coefficients, plan.degrees, unit[:per_shell])
    np.testing.assert_allclose(values.imag, 0.0, atol=1e-5)
    found = harmonic_coefficients(values.real.ravel().astype(np.float32), plan)
    for a, b in zip(found, coefficients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_correlation_over_all_rotations_equals_the_integral_over_shells():
    plan = shell_plan(6, 3)
    p, q = random_coefficients(plan, 1), random_coefficients(plan, 2)
    correlation = rotational_correlation(p, q, plan)
    rng = np.random.default_rng(3)
    n = plan.n_angles
    assert correlation.shape == (n, n, n // 2 + 1)
    for position in rng.integers(0, [n, n, n // 2 + 1], (12, 3)):
        rotation = euler_to_matrix(grid_euler_zyz(position[None], plan))[0]
        expected = oracles.rotational_correlation(p, q, plan.degrees, rotation, plan.n_shells)
        assert correlation[tuple(position)] == pytest.approx(expected, abs=2e-4)


def test_at_the_poles_of_beta_only_a_sum_or_difference_of_angles_counts():
    plan = shell_plan(6, 2)
    c = rotational_correlation(random_coefficients(plan, 1), random_coefficients(plan, 2), plan)
    north, south = c[:, :, 0], c[:, :, -1]
    np.testing.assert_allclose(north, np.roll(north, (1, -1), axis=(0, 1)), atol=1e-4)
    np.testing.assert_allclose(south, np.roll(south, (1, 1), axis=(0, 1)), atol=1e-4)


def test_a_bandwidth_that_holds_nothing_is_refused():
    with pytest.raises(ValueError, match="bandwidth 1"):
        shell_plan(1, 4)
