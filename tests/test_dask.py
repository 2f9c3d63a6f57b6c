"""Work in the processes of a Dask cluster: the same bits as in threads, and mistakes in one line.

What happens when processes die is in test_dask_faults.py.
"""

import os
import socket
import time
from types import SimpleNamespace

import numpy as np
import pytest
from dask_jobs import NumberJob, children_of, number_groups, write_set
from phantoms import blobs, particles

from scipion_faml import enhanced, faml
from scipion_faml.cli import run
from scipion_faml.cluster import errors, versions
from scipion_faml.execution import ClusterError, SerialExecutor, ThreadExecutor
from scipion_faml.model import FamlConfig
from scipion_faml.sources import open_source
from scipion_faml.tables import read_particles

distributed = pytest.importorskip("distributed")
cluster = pytest.importorskip("scipion_faml.cluster")


@pytest.fixture(scope="module")
def two_processes():
    """An executor with two processes, which wait for no file that is gone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAML_READ_PATIENCE", "0")
        with cluster.local_cluster(2, 2 * 10**9) as executor:
            yield executor


@pytest.fixture(scope="module")
def source():
    return particles([blobs(16, 0), blobs(16, 1)], 14, snr=2.0)[0]


def last(iterations):
    return list(iterations)[-1]


def assert_same_bits(found, expected):
    np.testing.assert_array_equal(found.state.averages, expected.state.averages)
    np.testing.assert_array_equal(found.half_averages, expected.half_averages)
    assert found.state.sigma == expected.state.sigma
    assert found.log_likelihood == expected.log_likelihood
    for name in ("class_index", "responsibility", "log_likelihood", "class_posterior"):
        np.testing.assert_array_equal(
            getattr(found.assignments, name), getattr(expected.assignments, name))
    np.testing.assert_array_equal(
        found.assignments.poses.euler_zyz, expected.assignments.poses.euler_zyz)


# ------------------------------------------------------------------------------------ same bits
def test_paper_mode_gives_the_same_bits_in_processes(two_processes, source):
    config = FamlConfig(n_classes=2, n_iterations=2, max_candidates=6, search="phase")
    assert_same_bits(last(faml.run(source, config, two_processes)),
                     last(faml.run(source, config, ThreadExecutor(2))))


def test_enhanced_mode_gives_the_same_bits_in_processes(two_processes, source):
    config = FamlConfig(mode="enhanced", n_iterations=3, dense_bandwidth=8, max_shift=1.5)
    found = last(enhanced.run(source, config, two_processes))
    expected = last(enhanced.run(source, config, SerialExecutor()))
    assert_same_bits(found, expected)
    np.testing.assert_array_equal(
        enhanced.validated_fsc(source, config, found.state, two_processes),
        enhanced.validated_fsc(source, config, expected.state, SerialExecutor()))


def test_sums_come_in_the_order_of_the_groups_and_each_block_is_told_of(two_processes):
    groups, told = number_groups([3, 1, 5, 2]), []
    sums = list(two_processes.sums(NumberJob(), groups, told.append))
    assert [s.order for s in sums] == [[0, 1, 2], [3], [4, 5, 6, 7, 8], [9, 10]]
    assert sorted(block.indices[0] for block in told) == list(range(11))


# -------------------------------------------------------------------------------------- mistakes
def test_an_error_of_a_worker_reaches_the_caller_and_the_cluster_goes_on(two_processes):
    groups = number_groups([4])
    with pytest.raises(ValueError, match="number 2 is damaged"):
        list(two_processes.sums(NumberJob(fails_at=2), groups, lambda block: None))
    assert next(two_processes.sums(NumberJob(), groups, lambda b: None)).order == [0, 1, 2, 3]


def test_a_damaged_particle_is_named_as_in_threads(two_processes, source):
    volumes = source.volumes.copy()
    volumes[4] = 7.0
    damaged = type(source)(volumes, source.wedges)
    with pytest.raises(ValueError, match="subtomogram 5 is constant"):
        last(faml.run(damaged, FamlConfig(n_iterations=1), two_processes))


def test_a_source_that_cannot_be_sent_is_refused(two_processes):
    class Mine:
        n, voxel_size_angst = 16, 1.0

        def __len__(self):
            return 4

        def __getitem__(self, index):
            raise AssertionError

    with pytest.raises((ValueError, AttributeError), match="cannot be sent|emptied"):
        last(faml.run(Mine(), FamlConfig(n_iterations=1), two_processes))


def test_workers_of_other_versions_are_refused_in_one_line():
    here = versions.versions_here()
    worker = {"versions": {**here, "numpy": "1.0"}, "host": "node7", "processor": ""}
    with pytest.raises(ClusterError, match=r"node7 has numpy 1\.0, this program 1\.26.*install"):
        versions.check_workers({"tcp://x": worker})
    with pytest.raises(ClusterError, match="has numpy .*, this program 9.9"):
        versions.compare_versions(here, {"numpy": "9.9"}, "node7")


def test_a_broken_connection_is_told_as_a_lost_scheduler_and_a_missing_file_as_it_is():
    client = SimpleNamespace(status="running", scheduler=SimpleNamespace(address="tcp://n1:8786"))
    with pytest.raises(ClusterError, match="scheduler at tcp://n1:8786 is gone: start it"), \
            errors.explained(client):
        raise distributed.comm.CommClosedError("in <TCP (closed) ...>: reset by peer")
    with pytest.raises(FileNotFoundError, match="a.mrc"), errors.explained(client):
        raise FileNotFoundError("a.mrc does not exist")


def test_an_address_where_nobody_listens_is_one_line_within_seconds(monkeypatch):
    monkeypatch.setattr(cluster.start, "CONNECT_SECONDS", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    started = time.monotonic()
    message = f"no Dask scheduler answers at {address}.*start one"
    with pytest.raises(ClusterError, match=message), cluster.scheduler(address):
        pass
    assert time.monotonic() - started < 10.0


def test_a_cluster_without_workers_is_given_up_after_the_time_set():
    empty = cluster.local_cluster(2, None, {"n_workers": 0}, patience_seconds=0.5)
    with pytest.raises(ClusterError, match="0 of 2 workers came .*--worker-timeout"), empty:
        pass


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--scheduler", "tcp://x:1", "--executor", "slurm"], "goes with --executor dask"),
     (["--cluster-option", "queue=a"], "goes with --executor dask, slurm or pbs"),
     (["--executor", "slurm", "--cluster-option", "queue"], "give KEY=VALUE"),
     (["--executor", "pbs", "--cluster-option", "jobs=0"], "give a number of jobs"),
     (["--executor", "slurm", "--cluster-option", "colour=red"], "check --cluster-option"),
     (["--memory", "0.1"], "is too little: about"),
     (["--executor", "dask", "--workers", "9", "--memory", "1"], "use fewer --workers")])
def test_options_that_make_no_sense_are_refused_before_anything_runs(
        words, message, capsys, tmp_path, source):
    if "colour=red" in words:
        pytest.importorskip("dask_jobqueue")
    star = tmp_path / "p.star"
    write_set(star, source)
    assert run(["classify", str(star), "--output", str(tmp_path / "o"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_file_that_a_worker_does_not_see_is_named_with_it(two_processes, tmp_path, source):
    star = tmp_path / "p.star"
    write_set(star, source)
    files = open_source(read_particles(star))
    (tmp_path / "p3.mrc").rename(tmp_path / "elsewhere.mrc")
    pattern = rf"p3\.mrc does not exist \(worker on {socket.gethostname()}\).*same path"
    with pytest.raises(OSError, match=pattern):
        last(faml.run(files, FamlConfig(n_iterations=1), two_processes))


def test_no_process_is_left(source):
    with cluster.local_cluster(1) as executor:
        mine = children_of(os.getpid())
        next(executor.sums(NumberJob(), number_groups([1]), lambda block: None))
        workers = set(executor.client.run(os.getpid).values())
        assert workers <= set(mine)
    assert not workers & set(children_of(os.getpid()))
