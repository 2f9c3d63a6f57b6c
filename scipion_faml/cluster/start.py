"""Clusters: one that runs already, processes on this machine, jobs of a queue."""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from scipion_faml.cluster.errors import explained, first_line, needed
from scipion_faml.cluster.executor import DaskExecutor
from scipion_faml.cluster.versions import about_worker, check_workers
from scipion_faml.execution import ClusterError

CONNECT_SECONDS = 10.0
# A worker must never pause or write to disk what it keeps: it would not go on, or slowly.
DASK_SETTINGS: dict[str, Any] = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.admin.large-graph-warning-threshold": "4GiB",
    "distributed.scheduler.allowed-failures": 3,
}


@contextmanager
def scheduler(
    address: str, n_threads: int = 1, n_wait: int = 1, patience_seconds: float = 300.0
) -> Iterator[DaskExecutor]:
    """Yield an executor at a Dask scheduler that runs already.

    Raises
    ------
    ClusterError
        If nobody answers, no worker comes, or workers have other versions.
    """
    dask, _ = needed("dask"), needed("distributed")
    _quiet()
    with dask.config.set(DASK_SETTINGS), _executor(
            address, n_threads, n_wait, patience_seconds, address) as executor:
        yield executor


@contextmanager
def local_cluster(
    n_workers: int, memory_bytes: int | None = None, options: Mapping[str, Any] | None = None,
    patience_seconds: float = 300.0,
) -> Iterator[DaskExecutor]:
    """Yield an executor with processes of its own on this machine.

    Parameters
    ----------
    memory_bytes : of all processes together; one that uses more than its part is started anew.
    options : of `distributed.LocalCluster`
    """
    dask, distributed = needed("dask"), needed("distributed")
    _quiet()
    settings: dict[str, Any] = {
        "n_workers": n_workers, "threads_per_worker": 1, "processes": True, "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL,
        "memory_limit": "auto" if memory_bytes is None else memory_bytes // n_workers,
        "preload": "scipion_faml.cluster.worker",
        **(options or {}),
    }
    with tempfile.TemporaryDirectory(prefix="faml-dask-") as folder, \
            dask.config.set(DASK_SETTINGS):
        settings.setdefault("local_directory", folder)
        cluster = _made(distributed.LocalCluster, settings)
        with _closing(cluster), _executor(
                cluster, n_workers, n_workers, patience_seconds, "this machine") as executor:
            # A worker that did not come back in time is given up by its nanny.
            executor.revive = lambda: cluster.scale(n_workers)
            yield executor


@contextmanager
def queue_cluster(
    kind: str, n_jobs: int, options: Mapping[str, Any], n_threads: int = 1,
    patience_seconds: float = 300.0,
) -> Iterator[DaskExecutor]:
    """Yield an executor with workers in jobs of a queue, "slurm" or "pbs".

    `options` are those of dask-jobqueue's cluster: queue, cores, memory, walltime, ... A job that
    ends is replaced by another as long as there is work.
    """
    dask, jobqueue = needed("dask"), needed("dask_jobqueue")
    _quiet()
    settings = {"python": sys.executable, **options}
    with dask.config.set(DASK_SETTINGS):
        cluster = _made(
            {"slurm": jobqueue.SLURMCluster, "pbs": jobqueue.PBSCluster}[kind], settings)
        with _closing(cluster):
            cluster.adapt(minimum_jobs=n_jobs, maximum_jobs=n_jobs)
            with _executor(cluster, n_threads, 1, patience_seconds, f"the {kind} queue") as found:
                yield found


@contextmanager
def _executor(
    address_or_cluster: Any, n_threads: int, n_wait: int, patience_seconds: float, where: str
) -> Iterator[DaskExecutor]:
    """An executor at a cluster, once workers are there."""
    try:
        client = needed("distributed").Client(
            address_or_cluster, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {where} within {CONNECT_SECONDS:.0f} s "
            f"({first_line(error)}): start one with `dask scheduler`, or check the "
            "address") from None
    try:
        _wait_for_workers(client, n_wait, patience_seconds, where)
        with explained(client):
            check_workers(client.run(about_worker, on_error="return"))
        yield DaskExecutor(client, n_threads, patience_seconds)
    finally:
        with suppress(Exception):
            client.close(timeout=CONNECT_SECONDS)


def _wait_for_workers(client: Any, n_wait: int, patience_seconds: float, where: str) -> None:
    try:
        client.wait_for_workers(n_wait, timeout=patience_seconds)
    except TimeoutError:
        raise ClusterError(
            f"{len(client.nthreads())} of {n_wait} workers came to {where} within "
            f"{patience_seconds:.0f} s: look at the queue and the workers' logs, or wait longer "
            "with --worker-timeout") from None


def _quiet() -> None:
    """Dask logs a page for every worker that goes; what matters is said in one line."""
    roots = ("distributed", "dask_jobqueue", "tornado", "asyncio")
    for name in (*roots, *logging.root.manager.loggerDict):
        if name.split(".")[0] in roots:  # some have a level of their own
            logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="(?s).*Mismatched versions found.*")


def _made(kind: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    """A cluster; what it says of its options is a user's mistake."""
    try:
        return kind(**settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the cluster does not start ({first_line(error)}): check --cluster-option and "
            "--memory") from None


@contextmanager
def _closing(cluster: Any) -> Iterator[None]:
    """Close a cluster with all its processes or jobs, whatever happens."""
    try:
        yield
    finally:
        with suppress(Exception):
            cluster.close(timeout=CONNECT_SECONDS)
