"""The FSC of halves is cleared of what noise brings that was aligned to shared references."""

from dataclasses import replace

import numpy as np
import pytest
from phantoms import blobs, particles

from scipion_faml import enhanced
from scipion_faml.enhanced.validation import NoiseSource
from scipion_faml.evaluation.fsc import fourier_shell_correlation
from scipion_faml.evaluation.similarity import similarity
from scipion_faml.execution import ThreadExecutor
from scipion_faml.fourier import frequency_radius, spectrum
from scipion_faml.model import FamlConfig
from scipion_faml.sources import ArraySource
from scipion_faml.wedge import MissingWedge

WEDGE = MissingWedge(-60.0, 60.0)


@pytest.fixture(scope="module")
def finished():
    """Particles of a structure in strong noise, and the state of a run that shared references."""
    volume = blobs(24, 0)
    source, _, _ = particles([volume], 40, 0.02, seed=1)
    config = FamlConfig(mode="enhanced", n_iterations=12)
    *_, last = enhanced.run(source, config)
    return volume, source, config, last.state


def test_noise_takes_the_place_of_shells_beyond_the_first_and_has_their_variance():
    noise = np.linspace(100.0, 400.0, 8)
    rng = np.random.default_rng(0)
    volumes = rng.normal(size=(20, 24, 24, 24)).astype(np.float32)
    source = ArraySource(volumes, WEDGE)
    noisy = NoiseSource(source, 3, noise, 7)
    radius, measured = np.rint(frequency_radius(24)), WEDGE.mask(24) > 0
    halves = [spectrum(noisy[i].volume) for i in range(20)]
    for i, half in enumerate(halves):
        kept = radius <= 3
        np.testing.assert_allclose(half[kept], spectrum(volumes[i])[kept], rtol=1e-3, atol=1e-3)
        assert np.abs(half[(radius > 3) & ~measured]).max() < 1e-3
    for r in (4, 6, 8):
        own = (radius == r) & measured
        power = np.mean([np.abs(half[own]) ** 2 for half in halves])
        assert power == pytest.approx(noise[r - 1], rel=0.1)
    again = NoiseSource(source, 3, noise, 7)[5]
    np.testing.assert_array_equal(again.volume, noisy[5].volume)


def test_the_validated_fsc_is_nearer_to_what_the_true_structure_says(finished):
    volume, source, config, state = finished
    validated = enhanced.validated_fsc(source, config, state)[0]
    laid = similarity(state.averages[0], volume).superposed
    true = fourier_shell_correlation(laid, volume)[1 : len(validated) + 1]
    # FSC of halves that a whole of this correlation with the truth has.
    wanted = true**2 / (2.0 - true**2)
    beyond = state.fsc[0] < 0.8
    assert beyond.any()
    assert np.all(validated <= state.fsc[0] + 1e-12)
    too_good = np.mean((state.fsc[0] - wanted)[beyond])
    left = np.mean((validated - wanted)[beyond])
    assert left < 0.8 * too_good


def test_validation_has_the_same_bits_on_any_number_of_workers(finished):
    _, source, config, state = finished
    one = enhanced.validated_fsc(source, config, state)
    two = enhanced.validated_fsc(source, config, state, ThreadExecutor(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("unknown", [{"evidence": -0.1}, {"n_effective": 1e5}])
def test_halves_agree_in_nothing_where_noise_explains_the_particles(finished, unknown):
    _, source, config, state = finished
    assert not enhanced.validated_fsc(source, config, replace(state, **unknown)).any()


def test_in_pure_noise_no_shell_agrees():
    rng = np.random.default_rng(2)
    source = ArraySource(rng.normal(size=(20, 16, 16, 16)).astype(np.float32), WEDGE)
    config = FamlConfig(mode="enhanced", n_iterations=4)
    *_, last = enhanced.run(source, config)
    assert enhanced.validated_fsc(source, config, last.state).max() < 0.143
