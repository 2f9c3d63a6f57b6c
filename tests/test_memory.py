"""How much memory a run plans with, and that it keeps to it."""

import subprocess
import sys

import numpy as np
import pytest
from dask_jobs import write_set
from phantoms import blobs, particles

from scipion_faml.enhanced.store import ParticleStore
from scipion_faml.memory import cache_bytes_within, needed_bytes
from scipion_faml.model import FamlConfig
from scipion_faml.sources import ArraySource, open_source
from scipion_faml.tables import read_particles
from scipion_faml.wedge import MissingWedge


@pytest.mark.parametrize("mode", ["paper", "enhanced"])
def test_more_workers_classes_and_voxels_need_more_memory(mode):
    def needed(n=32, workers=1, classes=1):
        return needed_bytes(FamlConfig(mode=mode, n_classes=classes), n, 10.0, workers)

    assert needed() < min(needed(n=64), needed(workers=2), needed(classes=2))
    assert 0.2e9 < needed() < 1e9


def test_memory_that_does_not_suffice_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"--memory 0.5 \(GB\) is too little: about 0.7 GB"):
        cache_bytes_within(5 * 10**8, 7 * 10**8, "enhanced")
    assert cache_bytes_within(10**9, 7 * 10**8, "enhanced") == 3 * 10**8


@pytest.mark.parametrize("wedges", ["shared", "own"])
def test_a_store_keeps_no_more_than_it_may(wedges):
    n, count = 16, 20
    rng = np.random.default_rng(0)
    volumes = rng.normal(size=(count, n, n, n)).astype(np.float32)
    wedge = MissingWedge(-60, 60)
    own = [wedge.mask(n) * np.float32(0.9 + 0.005 * i) for i in range(count)]
    source = ArraySource(volumes, wedge if wedges == "shared" else own)
    store = ParticleStore(source, 7, cache_bytes=1_000_000)
    box = store.box(5)
    first = [store.measured(i, box) for i in range(count)]
    kept = store._level.measured
    assert 0 < len(kept.items) < count
    assert sum(first[i].n_bytes for i in kept.items) == kept.n_bytes <= 1_000_000 * 2 / 7
    for i in range(count):  # what is not kept is made again
        np.testing.assert_array_equal(store.measured(i, box).values, first[i].values)
        assert (store.measured(i, box) is first[i]) == (i in kept.items)


def test_a_source_told_of_some_particles_reads_these_and_forgets_them(tmp_path):
    source, _, _ = particles([blobs(16, 0)], 4, snr=2.0)
    write_set(tmp_path / "p.star", source)
    files = open_source(read_particles(tmp_path / "p.star"))
    for whole in (files, source):
        told = whole.emptied()
        assert (len(told), told.n) == (4, 16)
        told.learn(whole.rows([1, 3]))
        for i in (1, 3):
            np.testing.assert_array_equal(told[i].volume, whole[i].volume)
            np.testing.assert_array_equal(told[i].wedge, whole[i].wedge)
        told.forget([1])
        with pytest.raises(KeyError):
            told[1]
        np.testing.assert_array_equal(told[3].volume, whole[3].volume)


@pytest.mark.slow
def test_peak_memory_of_a_run_stays_within_what_was_asked_for(tmp_path):
    source, _, _ = particles([blobs(24, 0)], 600, snr=1.0)
    write_set(tmp_path / "p.star", source)
    command = [sys.executable, "-m", "scipion_faml", "classify", str(tmp_path / "p.star"),
               "--output", str(tmp_path / "out"), "--no-report", "--iterations", "2",
               "--memory", "0.3", "--workers", "1", "--dense-bandwidth", "12", "--max-shift", "2"]
    script = ("import resource, subprocess, sys\n"
              "assert subprocess.run(sys.argv[1:], stdout=2).returncode == 0\n"
              "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n")
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 0.3e9
