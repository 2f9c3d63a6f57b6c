"""Options of verbs whose work can be done by other processes: threads, Dask, a queue's jobs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from scipion_faml import cluster
from scipion_faml.cli.common import n_workers, with_finite_numbers
from scipion_faml.execution import Executor, executor_of
from scipion_faml.memory import cache_bytes_within, needed_bytes
from scipion_faml.model import FamlConfig

EXECUTORS = ("threads", "dask", "slurm", "pbs")
GIGABYTE = 10**9
MOST_MEMORY = 1e6  # GB


@dataclass(frozen=True)
class Cluster:
    """Where the work is done, as the command line says."""

    executor: str
    scheduler: str | None
    options: dict[str, Any]
    patience_seconds: float
    memory_bytes: int | None
    workers: int | None

    @contextmanager
    def opened(self) -> Iterator[Executor]:
        """Yield an executor; its processes end with the block."""
        threads = n_workers(self.workers)
        if self.executor == "threads":
            yield executor_of(threads)
        elif self.scheduler is not None:
            with cluster.scheduler(self.scheduler, threads, self.workers or 1,
                                   self.patience_seconds) as found:
                yield found
        elif self.executor == "dask":
            with cluster.local_cluster(threads, self.memory_bytes, self.options,
                                       self.patience_seconds) as found:
                yield found
        else:
            options = dict(self.options)
            n_jobs = int(options.pop("jobs", self.workers or 1))
            if self.memory_bytes is not None:
                options.setdefault("memory", f"{self.memory_bytes / GIGABYTE:g} GB")
            with cluster.queue_cluster(self.executor, n_jobs, options, n_workers(None),
                                       self.patience_seconds) as found:
                yield found

    def cache_bytes(self, config: FamlConfig, n: int, voxel_size_angst: float) -> int:
        """Return the memory for what this process keeps of particles and references.

        Raises
        ------
        ValueError
            If what it needs besides does not fit.
        """
        threads = n_workers(self.workers)
        if self.executor == "threads":
            needed = needed_bytes(config, n, voxel_size_angst, threads)
            return cache_bytes_within(self.memory_bytes, needed, config.mode)
        needed = needed_bytes(config, n, voxel_size_angst, 1)
        if self.executor == "dask" and self.memory_bytes is not None:  # of all processes
            cache_bytes_within(self.memory_bytes, threads * needed, config.mode)
        return cache_bytes_within(None, needed, config.mode)


def cluster_options(function: Any) -> Any:
    """Add --executor and what belongs to it, and --workers; the verb gets them as `cluster`."""
    @functools.wraps(function)
    def verb(
        *arguments: Any, executor: str | None, scheduler: str | None,
        cluster_option: tuple[str, ...], worker_timeout: float, memory: float | None,
        workers: int | None, **others: Any,
    ) -> Any:
        options = _options(cluster_option)
        kind = executor or ("threads" if scheduler is None else "dask")
        _refuse_nonsense(kind, scheduler, options)
        n_bytes = None if memory is None else int(memory * GIGABYTE)
        found = Cluster(kind, scheduler, options, worker_timeout, n_bytes, workers)
        return function(*arguments, cluster=found, **others)

    added: Callable[..., Any] = with_finite_numbers(verb)
    for option in (
        click.option("--memory", default=None,
                     type=click.FloatRange(min=0, max=MOST_MEMORY, min_open=True),
                     help="Memory of this run, GB: bounds what is kept of particles between "
                     "iterations. dask: of all its processes; slurm, pbs: of each job.  "
                     "[default: up to 3.8 GB are kept]"),
        click.option("--worker-timeout", type=click.FloatRange(min=1), default=300.0,
                     show_default=True, help="How long to wait for workers when there are none, "
                     "s; a queue may need longer."),
        click.option("--cluster-option", metavar="KEY=VALUE", multiple=True,
                     help="Passed on: to dask-jobqueue for slurm and pbs (queue, cores, memory, "
                     "walltime, account ..., and jobs: how many), to LocalCluster for dask. "
                     "Repeat it for several."),
        click.option("--scheduler", metavar="ADDRESS", default=None,
                     help="A Dask scheduler that runs already, such as tcp://node1:8786. Its "
                     "workers must see the particles under the same path."),
        click.option("--executor", type=click.Choice(EXECUTORS), default=None,
                     help="Who does the work: threads of this process; dask: processes on this "
                     "machine, or those of --scheduler; slurm, pbs: jobs of a queue. The result "
                     "does not depend on it.  [default: threads, or dask with --scheduler]"),
        click.option("--workers", default=None, type=click.IntRange(min=1),
                     help="Threads; dask: processes; slurm, pbs: jobs; with --scheduler: workers "
                     "to wait for. The result does not depend on it.  [default: all cores; 1 job; "
                     "1 worker]"),
    ):
        added = option(added)
    return added


def _options(words: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE words as a dict; values that read as JSON are numbers, booleans or lists."""
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise click.UsageError(
                f"--cluster-option {word!r}: give KEY=VALUE, for example queue=gpu")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _refuse_nonsense(kind: str, scheduler: str | None, options: dict[str, Any]) -> None:
    """Raise a UsageError for options that do not go together."""
    if scheduler is not None and kind != "dask":
        raise click.UsageError(f"--scheduler goes with --executor dask, not {kind}")
    if options and (kind == "threads" or scheduler is not None):
        raise click.UsageError(
            "--cluster-option goes with --executor dask, slurm or pbs, and a cluster that this "
            "command starts: leave it out")
    jobs = options.get("jobs", 1)
    if kind in ("slurm", "pbs") and (not isinstance(jobs, int) or jobs < 1):
        raise click.UsageError(f"--cluster-option jobs={jobs}: give a number of jobs")
