"""The signal-to-noise ratio of aligned pairs is that of the simulation."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import blobs

from scipion_faml.evaluation.snr import (
    AlignedParticle,
    aligned_particle,
    blocks_of_pairs,
    pair_products,
    snr_of_pairs,
)
from scipion_faml.fourier import sample_set, spectrum, volume_from_spectrum
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.volume import move_volume, soft_sphere
from scipion_faml.wedge import MissingWedge

N = 28


def noisy_particles(snr, count, wedge, seed, max_shift=1.5):
    """Turned, shifted copies of a phantom with white noise and a wedge, and their poses."""
    rng = np.random.default_rng(seed)
    structure = blobs(N, 3, radius=0.18)
    shifts = rng.uniform(-1, 1, (count, 3)) * max_shift
    poses = RigidTransforms(random_rotations(count, rng), shifts)
    volumes = []
    for i in range(count):
        moved = move_volume(structure, poses[[i]])
        noisy = moved + rng.normal(0, structure.std() / np.sqrt(snr), moved.shape)
        volumes.append(volume_from_spectrum(spectrum(noisy) * wedge.mask(N), N))
    return np.stack(volumes).astype(np.float32), poses, structure


def estimate(volumes, poses, wedge, mask=None, radius=None):
    samples = sample_set(N, radius)
    held = [aligned_particle(v, wedge.mask(N), poses[[i]], samples, mask, radius is None)
            for i, v in enumerate(volumes)]
    products = [pair_products(held[a], held[b], samples)
                for a in range(len(held)) for b in range(a)]
    return snr_of_pairs(*np.array(products).T)


@pytest.mark.parametrize("snr", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("tilt", [90.0, 60.0])
def test_the_snr_of_the_simulation_comes_back(snr, tilt):
    wedge = MissingWedge(-tilt, tilt)
    volumes, poses, _ = noisy_particles(snr, 24, wedge, seed=1)
    found = estimate(volumes, poses, wedge)
    # Few particles see the structure through few wedges: some 10 % more or less signal each.
    assert found.snr == pytest.approx(snr, rel=0.12)
    assert found.standard_error < 0.1 * snr
    assert found.n_pairs == 24 * 23 // 2


def test_inside_a_mask_it_is_the_ratio_there():
    wedge = MissingWedge(-90, 90)
    volumes, poses, structure = noisy_particles(0.1, 24, wedge, seed=2)
    mask = soft_sphere(N, 8, 2)
    noise = structure.var() / 0.1
    level = (structure * mask).sum() / mask.sum()
    expected = np.sum((mask * (structure - level)) ** 2) / (noise * np.sum(mask**2))
    assert estimate(volumes, poses, wedge, mask).snr == pytest.approx(expected, rel=0.12)


def test_to_a_resolution_it_is_the_ratio_of_the_samples_within():
    wedge = MissingWedge(-90, 90)
    volumes, poses, structure = noisy_particles(0.05, 24, wedge, seed=3)
    samples = sample_set(N, 5.0)
    signal = samples.multiplicity @ np.abs(samples.take(spectrum(structure))) ** 2
    noise = samples.n_total * N**3 * structure.var() / 0.05
    assert estimate(volumes, poses, wedge, radius=5.0).snr == pytest.approx(
        signal / noise, rel=0.12)


def test_pure_noise_has_an_snr_of_0_within_its_error():
    rng = np.random.default_rng(4)
    wedge = MissingWedge(-60, 60)
    volumes = rng.standard_normal((20, N, N, N)).astype(np.float32)
    poses = RigidTransforms(random_rotations(20, rng), np.zeros((20, 3)))
    found = estimate(volumes, poses, wedge)
    assert abs(found.snr) < 4 * found.standard_error + 1e-4


def test_without_noise_a_pair_is_pearsons_correlation():
    rng = np.random.default_rng(5)
    first = rng.standard_normal((N, N, N)).astype(np.float32)
    second = (first + rng.standard_normal((N, N, N))).astype(np.float32)
    samples = sample_set(N)
    everything = np.ones(len(samples), dtype=np.float32)
    # Volumes without corners, so that the samples hold all of them.
    a, b = (samples.take(spectrum(v)) for v in (first, second))
    inside = [volume_from_spectrum(samples.put(v), N) for v in (a, b)]
    cross, power = pair_products(
        AlignedParticle(a, everything), AlignedParticle(b, everything), samples)
    assert cross / power == pytest.approx(
        np.corrcoef(inside[0].ravel(), inside[1].ravel())[0, 1], abs=1e-5)


def test_the_ratio_is_rho_over_one_minus_rho():
    found = snr_of_pairs(np.array([1.0, 2.0, 3.0]), np.array([10.0, 10.0, 10.0]))
    assert found.correlation == pytest.approx(0.2) and found.snr == pytest.approx(0.25)
    assert found.mean_of_pairs == pytest.approx(np.mean([1 / 9, 2 / 8, 3 / 7]))
    with pytest.raises(ValueError, match="measured the same"):
        snr_of_pairs(np.zeros(2), np.zeros(2))


@pytest.mark.parametrize(("count", "wanted"), [(3, 100), (20, 1000), (70, 500), (200, 5)])
def test_pairs_are_different_and_as_many_as_asked_for(count, wanted):
    seen, drawn = [], set()
    for rows, pairs in blocks_of_pairs(count, wanted, np.random.default_rng(6)):
        assert len(rows) <= 32
        seen += [tuple(sorted((int(rows[a]), int(rows[b])))) for a, b in pairs]
        drawn.update(rows.tolist())
    assert len(seen) == len(set(seen)) == min(wanted, count * (count - 1) // 2)
    assert all(a != b and b < count for a, b in seen)
