"""The form's group Cluster: other processes do the work, with the same bits, and mistakes are said.
"""

from __future__ import annotations

import pytest

from scipion_faml.io import read_volume


def classification(project, particles, **values):
    return project.new(
        "ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")},
        numberOfClasses=2, numberOfIterations=2, mode=1, bandwidth=8, **values)


@pytest.mark.slow
def test_dask_processes_started_by_the_form_give_the_same_bits_and_no_other_settings(
    project, particles, classified, capfd
):
    pytest.importorskip("distributed")
    other = project.finished(classification(
        project, particles, clusterExecutor=1, clusterOptions="threads_per_worker=1",
        clusterMemory=2.0, numberOfThreads=2))
    for k in (1, 2):
        first, second = (read_volume(p._getExtraPath("results", f"class_00{k}.mrc"))[0]
                         for p in (classified, other))
        assert (first == second).all()
    assert other.settingsFingerprint() == classified.settingsFingerprint()
    assert "2 worker(s) on 1 machine(s)" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("rows", "words"),
    [({}, ["--workers", "4"]),
     ({"clusterExecutor": 2, "schedulerAddress": " tcp://n1:8786 "},
      ["--scheduler", "tcp://n1:8786", "--worker-timeout", "300.0"]),
     ({"clusterExecutor": 3, "clusterOptions": "queue=long 'walltime=1 day' jobs=4"},
      ["--worker-timeout", "300.0", "--executor", "slurm", "--cluster-option", "queue=long",
       "--cluster-option", "walltime=1 day", "--cluster-option", "jobs=4"])])
def test_rows_become_options_of_the_command(project, particles, rows, words):
    from scipion_faml.protocols.cluster_form import cluster_options
    from scipion_faml.protocols.protocol_base import _as_options

    protocol = classification(project, particles, numberOfThreads=4, **rows)
    assert _as_options(cluster_options(protocol)) == words
    assert protocol.validate() == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [({"clusterExecutor": 2}, "Give the address"),
     ({"clusterExecutor": 3, "clusterOptions": "queue"}, "'queue' is no cluster option"),
     ({"clusterExecutor": 4, "clusterOptions": "queue='a"}, "cannot be read"),
     ({"clusterMemory": -1.0}, "The memory is -1 GB")])
def test_rows_that_make_no_sense_are_refused_before_the_start(project, particles, rows, message):
    errors = classification(project, particles, **rows).validate()
    assert any(message in error for error in errors), errors
