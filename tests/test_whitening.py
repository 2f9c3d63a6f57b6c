"""Whitening: gains follow the best weights of shells, and are undone on averages."""

import numpy as np
import pytest

from scipion_faml import enhanced
from scipion_faml.enhanced.whitened import whitened
from scipion_faml.evaluation.similarity import similarity
from scipion_faml.fourier import frequency_radius, spectrum
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.model import FamlConfig
from scipion_faml.simulation.density import structure_of_beads
from scipion_faml.simulation.particles import (
    SubtomogramSettings,
    make_subtomogram,
    subtomogram_weights,
)
from scipion_faml.simulation.phantom import blob_model
from scipion_faml.simulation.tilt_series import Microscope, projector, tilt_angles_deg
from scipion_faml.sources import ArraySource
from scipion_faml.wedge import MissingWedge
from scipion_faml.whitening import Whitening, weight_of_shells

WEDGE = MissingWedge(-60.0, 60.0)
SETTINGS = SubtomogramSettings(
    0.3, WEDGE, tilt_angles_deg(-60, 60, 3), Microscope(), ctf_correction="weights")


def structure(n=24, voxel_size=12.0):
    return structure_of_beads(blob_model(n, 0, voxel_size), n, voxel_size, 0.0)


def test_a_missing_wedge_is_left_as_it_is():
    source = ArraySource(np.random.default_rng(0).normal(size=(2, 16, 16, 16)), WEDGE)
    white = whitened(source)
    assert white.whitening.is_flat
    np.testing.assert_array_equal(white[1].volume, source[1].volume)
    assert white[1].wedge is source[1].wedge


def test_gains_are_the_roots_of_the_weights_of_shells():
    n = 16
    radius = frequency_radius(n)
    weight = (0.5 / (1.0 + np.rint(radius)) * (radius < 7.4)).astype(np.float32)
    found = weight_of_shells([weight], 99.0)
    np.testing.assert_allclose(found[1:8], 0.5 / (1.0 + np.arange(1, 8)), rtol=1e-6)
    assert found[0] == found[1] and found[8] == found[7]  # shells without data
    gain = Whitening.of([weight]).gain
    np.testing.assert_allclose(gain[2:6], np.sqrt(found[2:6]), rtol=0.1)  # smoothed


def test_no_weight_at_all_is_an_error():
    with pytest.raises(ValueError, match="no Fourier sample has a weight"):
        weight_of_shells([np.zeros((8, 8, 5), dtype=np.float32)], 50.0)


def test_removing_undoes_applying():
    volume = np.random.default_rng(1).normal(size=(16, 16, 16)).astype(np.float32)
    whitening = Whitening(np.linspace(0.1, 1.0, 9))
    np.testing.assert_allclose(
        whitening.removed(whitening.applied(volume)), volume, atol=1e-4)


def test_noise_of_whitened_particles_is_white_where_the_weight_is_1():
    empty = structure()
    particles = []
    for i in range(12):  # noise alone: a particle minus the same without noise
        pose, density = RigidTransforms.identity(1), projector(empty.map)
        noisy = make_subtomogram(empty, pose, SETTINGS, [0, i], density)
        clean = SubtomogramSettings(
            np.inf, WEDGE, SETTINGS.angles_deg, SETTINGS.microscope, ctf_correction="weights")
        particles.append(noisy - make_subtomogram(empty, pose, clean, [0, i], density))
    weight = subtomogram_weights(24, 12.0, SETTINGS)
    source = ArraySource(np.stack(particles), [weight] * 12, 12.0)
    white = whitened(source)
    shell = np.rint(frequency_radius(24))
    weighted = np.mean([np.abs(spectrum(white[i].volume)) ** 2 * white[i].wedge
                        for i in range(12)], axis=0)
    powers = [weighted[(shell == r) & (white[0].wedge > 0.3)].mean() for r in (3, 4, 5, 7, 9, 11)]
    assert max(powers) / min(powers) < 1.5
    raw = [np.mean([np.abs(spectrum(p)[shell == r]) ** 2 for p in particles]) for r in (5, 8)]
    assert max(raw) / min(raw) > 3.0  # as they came they were far from it


def test_averages_of_particles_with_ctf_weights_have_the_amplitudes_of_the_structure():
    truth = structure()
    density = projector(truth.map)
    rng = np.random.default_rng(3)
    poses = RigidTransforms(random_rotations(30, rng), rng.uniform(-1, 1, (30, 3)))
    volumes = np.stack([
        make_subtomogram(truth, poses[[i]], SETTINGS, [3, i], density) for i in range(30)])
    weight = subtomogram_weights(truth.n, truth.voxel_size_angst, SETTINGS)
    weight.flags.writeable = False
    source = ArraySource(volumes, [weight] * 30, truth.voxel_size_angst)
    config = FamlConfig(mode="enhanced", n_iterations=12, seed=1)
    *_, last = enhanced.run(source, config)
    found = similarity(last.state.averages[0], truth.map)
    assert found.masked_correlation > 0.93
    mask = np.ones(truth.map.shape, dtype=bool)
    gain = np.polyfit(truth.map[mask], found.superposed[mask], 1)[0]
    assert 0.8 < gain < 1.1
