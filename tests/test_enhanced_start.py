"""Enhanced mode from maps that the user supplies."""

import numpy as np
import pytest
from phantoms import blobs, particles

from scipion_faml import enhanced
from scipion_faml.enhanced import Workbench, state_from_references
from scipion_faml.execution import SerialExecutor
from scipion_faml.fourier import crop_half, low_pass, spectrum
from scipion_faml.geometry import rotation_angle_deg
from scipion_faml.model import FamlConfig

N = 20


def settings(**options):
    return FamlConfig(mode="enhanced", n_iterations=4, dense_bandwidth=10, max_shift=2.0, **options)


@pytest.mark.parametrize("snr", [0.05, 1.0, 20.0])
def test_maps_are_brought_to_the_particles_scale_and_resolution(snr):
    reference = blobs(N, 0, width=0.07)
    source, _, _ = particles([reference], 24, snr=snr)
    bench = Workbench(source, settings(), SerialExecutor())
    state = state_from_references(bench, (20.0 * reference - 300.0)[None])
    assert state.phase == "dense" and state.radius == 5
    box = bench.box
    # The average of the start is the map, low-passed, on the scale of the particles.
    truth = bench.box.samples.take(crop_half(spectrum(reference), box.n))
    found = state.references[0, 0]
    gain = float(np.vdot(truth, found).real / np.vdot(truth, truth).real)
    assert 0.6 < gain < 1.5
    assert np.corrcoef(np.abs(truth), np.abs(found))[0, 1] > 0.99
    for fold in state.references[1:]:
        np.testing.assert_array_equal(fold, state.references[0])


def test_classes_keep_the_order_of_their_maps():
    maps = [blobs(N, seed, width=0.07) for seed in range(2)]
    source, class_index, poses = particles(maps, 24, snr=0.5)
    for order in ([0, 1], [1, 0]):
        starts = np.stack([low_pass(maps[k], 10.0, 60.0) for k in order])
        config = settings(n_classes=2)
        *_, last = enhanced.run(source, config, references=starts)
        np.testing.assert_array_equal(last.assignments.class_index, np.array(order)[class_index])
    # A start from a map keeps the map's frame too.
    angle = rotation_angle_deg(last.assignments.poses.rotation, poses.rotation)
    assert np.median(angle) < 8.0


def test_a_class_of_one_particle_leaves_numbers_finite():
    # Its fold's reference would be made of nothing: it keeps the one before.
    maps = [blobs(16, 0, width=0.08), blobs(16, 1, width=0.08)]
    source, _, _ = particles([maps[0]], 10, snr=4.0, max_shift=1.0)
    one, _, _ = particles([maps[1]], 1, snr=4.0, max_shift=1.0, seed=7)
    volumes = np.concatenate([source.volumes, one.volumes])
    whole = type(source)(volumes, source.wedges, source.voxel_size_angst)
    config = FamlConfig(mode="enhanced", n_iterations=5, n_classes=2, dense_bandwidth=8,
                        max_shift=1.0)
    for result in enhanced.run(whole, config, references=np.stack(maps)):
        state = result.state
        assert np.isfinite(state.references).all() and np.isfinite(state.noise).all()
        assert np.isfinite(result.log_likelihood)
        assert np.abs(state.references).sum(axis=2).min() > 0
