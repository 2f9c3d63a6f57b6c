"""Folds: no particle meets itself, and the order of summation does not matter."""

from dataclasses import fields

import numpy as np
import pytest

from scipion_faml.folds import FoldSums, fold_averages, fold_of
from scipion_faml.fourier import sample_set
from scipion_faml.regularise import ShellResidual, half_correlation, prior_coverage, wiener_average

N_FOLDS, N_CLASSES = 4, 2
SAMPLES = sample_set(12)


def random_sums(seed, weight=3.0):
    """Sums of random particles that share a structure."""
    rng = np.random.default_rng(seed)
    size = (N_FOLDS, N_CLASSES, len(SAMPLES))
    structure = np.random.default_rng(99).normal(size=size[1:])
    coverage = rng.uniform(0.5, 2.0, size)
    noise = rng.normal(size=size) + 1j * rng.normal(size=size)
    shells = int(SAMPLES.radius)
    residual = ShellResidual(rng.uniform(500, 900, shells), rng.uniform(50, 90, shells))
    return FoldSums(
        coverage * structure + 0.5 * noise, coverage, np.full(size[:2], weight), residual,
        float(rng.uniform()), 24, float(rng.normal()),
    )


def previous():
    return np.zeros((N_FOLDS, N_CLASSES, len(SAMPLES)), np.complex64)


def assert_equal(a, b):
    for f in fields(FoldSums):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if f.name == "residual":
            np.testing.assert_allclose(x.power, y.power)
            np.testing.assert_allclose(x.n_observed, y.n_observed)
        else:
            np.testing.assert_allclose(x, y)


def test_sums_of_particles_are_associative_and_commute():
    a, b, c = (random_sums(s) for s in range(3))
    assert_equal((a + b) + c, a + (b + c))
    assert_equal(a + b, b + a)


@pytest.mark.parametrize(("n_particles", "n_folds"), [(24, 4), (25, 10), (7, 10)])
def test_folds_are_of_equal_size_and_depend_on_the_seed(n_particles, n_folds):
    folds = fold_of(n_particles, n_folds, seed=0)
    counts = np.bincount(folds, minlength=n_folds)
    assert np.ptp(counts) <= 1
    np.testing.assert_array_equal(folds, fold_of(n_particles, n_folds, seed=0))
    assert not np.array_equal(folds, fold_of(n_particles, n_folds, seed=1))


def test_halves_are_the_even_and_odd_folds():
    sums = random_sums(0)
    signal, coverage = sums.halves()
    np.testing.assert_allclose(signal[0], sums.signal[0] + sums.signal[2])
    np.testing.assert_allclose(coverage[1], sums.coverage[1] + sums.coverage[3])


def changed_fold(sums, fold):
    """The same with other particles in one fold, of the same coverage."""
    signal = sums.signal.copy()
    signal[fold] = signal[fold] * 1j + 5.0
    return FoldSums(
        signal, sums.coverage, sums.weight, sums.residual, sums.sq_shift, sums.n_particles,
        sums.evidence,
    )


@pytest.mark.parametrize("fold", range(N_FOLDS))
def test_a_folds_own_particles_are_not_in_its_references(fold):
    sums = random_sums(1)
    changed = changed_fold(sums, fold)
    # The prior is common to all folds; without it nothing of the fold may be left at all.
    a, b = (fold_averages(s, SAMPLES, previous(), regularise=False) for s in (sums, changed))
    np.testing.assert_array_equal(a.references[fold], b.references[fold])
    for other in set(range(N_FOLDS)) - {fold}:
        assert np.abs(a.references[other] - b.references[other]).max() > 0.1


def test_references_are_made_of_all_other_folds():
    sums = random_sums(2)
    made = fold_averages(sums, SAMPLES, previous())
    for k in range(N_CLASSES):
        halves = [v[:, k] for v in sums.halves()]
        fsc = half_correlation(*halves, SAMPLES)
        np.testing.assert_allclose(made.fsc[k], fsc)
        prior = prior_coverage(fsc, sums.coverage[:, k].sum(axis=0), SAMPLES)
        for f in range(N_FOLDS):
            others = [g for g in range(N_FOLDS) if g != f]
            expected = wiener_average(
                sums.signal[others, k].sum(axis=0), sums.coverage[others, k].sum(axis=0), prior,
                SAMPLES)
            np.testing.assert_allclose(made.references[f, k], expected, rtol=1e-4, atol=1e-6)
        expected = wiener_average(
            sums.signal[:, k].sum(axis=0), sums.coverage[:, k].sum(axis=0), prior, SAMPLES)
        np.testing.assert_allclose(made.averages[k], expected, rtol=1e-4, atol=1e-6)


def test_without_leaving_out_all_folds_share_the_average():
    made = fold_averages(random_sums(3), SAMPLES, previous(), leave_out=False)
    for f in range(N_FOLDS):
        np.testing.assert_allclose(made.references[f], made.averages, rtol=1e-5)


def test_noise_that_overfits_is_not_counted_as_explained():
    # Particles of noise alone: their own average explains some of them, that of others nothing.
    rng, n_particles = np.random.default_rng(5), 24
    size = (N_FOLDS, 1, len(SAMPLES))
    per_fold = n_particles // N_FOLDS
    values = rng.normal(size=(per_fold, *size)) + 1j * rng.normal(size=(per_fold, *size))
    shells = int(SAMPLES.radius)
    in_shell = np.bincount(
        np.clip(np.rint(np.linalg.norm(SAMPLES.frequency_xyz, axis=1)).astype(int) - 1, 0, 99),
        weights=SAMPLES.multiplicity, minlength=shells)[:shells]
    sums = FoldSums(
        values.sum(axis=0), np.full(size, float(per_fold)), np.full(size[:2], per_fold),
        ShellResidual(2.0 * n_particles * in_shell, n_particles * in_shell), 0.0, n_particles, 0.0,
    )
    left, kept = (
        fold_averages(sums, SAMPLES, previous()[:, :1], leave_out, True, regularise=False)
        for leave_out in (True, False)
    )
    assert left.noise[0] > 2.0  # a wrong model makes it worse, never better
    assert kept.noise[0] < 2.0 * (1 - 0.5 / n_particles)


def test_a_class_below_one_particle_keeps_its_references():
    sums = random_sums(4)
    sums.weight[:, 1] = 0.2
    before = np.random.default_rng(0).normal(size=previous().shape).astype(np.complex64)
    made = fold_averages(sums, SAMPLES, before)
    np.testing.assert_array_equal(made.references[:, 1], before[:, 1])
    np.testing.assert_allclose(made.averages[1], before[:, 1].mean(axis=0), rtol=1e-6)
    assert not np.array_equal(made.references[:, 0], before[:, 0])


def test_permuting_classes_permutes_what_the_m_step_makes():
    sums = random_sums(6)
    swapped = FoldSums(
        sums.signal[:, ::-1], sums.coverage[:, ::-1], sums.weight[:, ::-1], sums.residual,
        sums.sq_shift, sums.n_particles, sums.evidence,
    )
    a, b = (fold_averages(s, SAMPLES, previous()) for s in (sums, swapped))
    np.testing.assert_array_equal(a.averages[::-1], b.averages)
    np.testing.assert_array_equal(a.references[:, ::-1], b.references)
    np.testing.assert_allclose(a.noise, b.noise)
