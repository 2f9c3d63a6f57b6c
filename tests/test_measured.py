import numpy as np
import pytest
from oracles_gauss import random_weight
from phantoms import blobs, particles

from scipion_faml import enhanced
from scipion_faml.execution import SerialExecutor
from scipion_faml.measured import SpectrumShelf, WorkingBox, wedge_spectra
from scipion_faml.model import FamlConfig
from scipion_faml.wedge import MissingWedge


def assert_same(found, expected):
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.turnable, expected.turnable)
    np.testing.assert_array_equal(found.power, expected.power)
    np.testing.assert_array_equal(found.wedge.weight, expected.wedge.weight)
    np.testing.assert_array_equal(found.wedge.turnable, expected.wedge.turnable)
    assert found.wedge == expected.wedge


@pytest.mark.parametrize("n", [23, 24])
@pytest.mark.parametrize("shared", [True, False])
def test_a_box_grows_from_the_shelf_without_another_bit(n, shared):
    rng = np.random.default_rng(n)
    volume = rng.normal(size=(n, n, n)).astype(np.float32)
    weight = MissingWedge(-60, 60).mask(n) if shared else random_weight(n, rng)
    shelf = SpectrumShelf(n, 8, 2**30)
    shelf.put(3, volume, weight)
    spectra = shelf.get(3)
    assert spectra is not None and spectra.wedge.is_shared == shared
    for radius in (3, 4, 8):
        box = WorkingBox.of(n, radius)
        assert_same(box.measure_spectra(3, spectra), box.measure(3, volume, weight))


def test_the_shelf_holds_no_more_than_it_may():
    n = 16
    volumes = np.random.default_rng(0).normal(size=(5, n, n, n)).astype(np.float32)
    weight = MissingWedge(-60, 60).mask(n)
    size = SpectrumShelf(n, 5, 0).put(0, volumes[0], weight).n_bytes
    shelf = SpectrumShelf(n, 5, 3 * size + 1)
    for i, volume in enumerate(volumes):
        shelf.put(i, volume, weight)
    assert [shelf.get(i) is not None for i in range(5)] == [True, True, True, False, False]
    assert shelf.get(0).wedge is shelf.get(2).wedge


def test_a_box_made_of_other_sizes_is_refused():
    box = WorkingBox.of(16, 5)
    with pytest.raises(ValueError, match="does not fit a box of 16"):
        box.measure(0, np.zeros((16, 16, 16)), np.ones((12, 12, 7), np.float32))
    empty = wedge_spectra(np.zeros((16, 16, 9), np.float32), 12)
    with pytest.raises(ValueError, match="no Fourier sample measured"):
        box.measure_wedge(empty)


def test_what_is_kept_changes_no_bit_of_an_enhanced_run():
    source, _, _ = particles([blobs(16, 0)], 12, snr=1.0)
    config = FamlConfig(mode="enhanced", n_iterations=3)
    states = []
    for n_bytes in (2**29, 200_000, 0):
        run = enhanced.run(source, config, SerialExecutor(), cache_bytes=n_bytes)
        states.append([r.state for r in run][-1])
    for other in states[1:]:
        assert other.radius == states[0].radius
        np.testing.assert_array_equal(other.averages, states[0].averages)
        np.testing.assert_array_equal(other.noise, states[0].noise)
