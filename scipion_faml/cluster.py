"""Jobs in the processes of a Dask cluster, on this machine or on others (extra `dask`).

A job is sent once in each iteration, without particles: a few megabytes of references. Each block
of particles is a task that names their files; the worker reads them, and keeps as many as its
memory allows for the next iteration. The sums of a group of blocks are added up on a worker, in
order, and fetched. Which worker does what, and how often one dies, changes no bit: what is lost is
done again.

Dask is imported where it is needed: everything else works without.
"""

from __future__ import annotations

import ctypes
import logging
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, TypeVar

from threadpoolctl import threadpool_info, threadpool_limits

from scipion_faml.execution import ClusterError, Job, OpenedJob, Recipe, ThreadExecutor

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

CONNECT_SECONDS = 10.0
CHECK_SECONDS = 2.0  # between looks at the cluster while nothing comes
PROCESS_BYTES = 3 * 2**27  # of a worker: the interpreter, libraries and work in progress
CACHED_SHARE = 0.5  # of the memory beyond them
UNLIMITED_CACHE = 7 * 2**29  # of a worker whose memory has no limit
INSTALL = "install it with: pip install 'scipion-em-faml[dask]'"
# A worker must never pause or write to disk what it keeps: it would not go on, or slowly.
DASK_SETTINGS: dict[str, Any] = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.admin.large-graph-warning-threshold": "4GiB",
    "distributed.scheduler.allowed-failures": 3,
}


# ------------------------------------------------------------------------------------ on a worker
class WorkerDesk:
    """What a worker keeps between blocks: particles of one source, and the job it is at."""

    def __init__(self, cache_bytes: int) -> None:
        self.cache_bytes = cache_bytes
        self._kept: tuple[str, Any] | None = None
        self._opened: tuple[str, OpenedJob] | None = None
        self._lock = threading.Lock()
        self._one_thread = threadpool_limits(limits=1, user_api="blas")
        _keep_freed_memory()

    def kept(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what is kept under a key; made, and all else dropped, where there is nothing."""
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # first: there may be no room for both
            self._kept = (key, make())
        return self._kept[1]

    def opened(self, key: str, recipe: Recipe) -> OpenedJob:
        """Return the job of a recipe."""
        with self._lock:
            if self._opened is None or self._opened[0] != key:
                self._opened = None
                self._opened = (key, recipe.open(self))
            return self._opened[1]


def _keep_freed_memory() -> None:
    """Undo what Dask asks of malloc: to give back every temporary array at once.

    New pages for each of them take longer than the work itself. These are the values that glibc
    comes to by itself where it is let (mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD).
    """
    with suppress(OSError, AttributeError):  # another system
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**26)
        mallopt(-3, 2**25)


def _desk_of(worker: Any) -> WorkerDesk:
    """The desk of a Dask worker, which keeps it as long as it lives."""
    desk: WorkerDesk | None = getattr(worker, "faml_desk", None)
    if desk is None:
        limit = worker.memory_manager.memory_limit
        n_bytes = UNLIMITED_CACHE if not limit else min(
            int(CACHED_SHARE * max(limit - PROCESS_BYTES, 0)), UNLIMITED_CACHE)
        desk = worker.faml_desk = WorkerDesk(n_bytes)
    return desk


def dask_setup(worker: Any) -> None:
    """Called by Dask in each process of `local_cluster`: Ctrl-C is for who started it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _versions() -> dict[str, str]:
    """What must be the same everywhere: results would differ, or nothing fit together."""
    from importlib.metadata import PackageNotFoundError, version

    import scipion_faml

    found = {"scipion_faml": scipion_faml.__version__}
    for name in ("numpy", "scipy", "ducc0", "distributed"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _processor() -> str:
    """The kind of processor that BLAS chose its kernels for."""
    return next((str(p.get("architecture", "")) for p in threadpool_info()
                 if p["user_api"] == "blas"), "")


def _compare(found: Mapping[str, str], here: Mapping[str, str], host: str) -> None:
    """Raise a ClusterError where a worker has other versions than the program it works for."""
    for name, wanted in here.items():
        if found.get(name) != wanted:
            raise ClusterError(
                f"worker on {host} has {name} {found.get(name, 'not at all')}, this program "
                f"{wanted}: install the same versions everywhere")


def _work(
    block: Any, rows: Mapping[int, Any], recipe: Recipe, job_key: str,
    versions: Mapping[str, str],
) -> Any:
    """Do a block of a job on a worker."""
    _compare(_versions(), versions, socket.gethostname())
    job = _desk_of(_needed("distributed").get_worker()).opened(job_key, recipe)
    job.learn(rows)
    try:
        return job.work(block)
    except OSError as error:
        raise OSError(
            f"{error} (worker on {socket.gethostname()}): every worker needs the particles under "
            "the same path") from None
    finally:
        job.forget(block.indices)


def _added(parts: Sequence[Any]) -> Any:
    """The sum of some results, in order, on a worker."""
    total = parts[0]
    if len(parts) > 1:
        # Results of other tasks must stay what they are, should they be asked for again.
        total = deepcopy(total)
        for part in parts[1:]:
            total = total.absorb(part)
    return total


def _same(recipe: Recipe) -> Recipe:
    """What was sent."""
    return recipe


def _about_worker() -> dict[str, Any]:
    """What a worker is asked before it gets work."""
    return {"versions": _versions(), "host": socket.gethostname(), "processor": _processor()}


# ---------------------------------------------------------------------------------- the executor
@dataclass(eq=False)
class DaskExecutor:
    """Sends jobs to the workers of a Dask cluster; `map` runs in threads of this process."""

    client: Any  # distributed.Client
    n_threads: int = 1
    patience_seconds: float = 300.0  # without any worker
    revive: Callable[[], None] = field(default=lambda: None)  # called while there is no worker
    is_here: bool = field(default=False, init=False)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield function(item) for each item, worked on in this process."""
        return ThreadExecutor(self.n_threads).map(function, items)

    def sums(
        self, job: Job, groups: Sequence[Sequence[Any]], on_done: Callable[[Any], None]
    ) -> Iterator[Any]:
        """Yield the sum of each group, in order."""
        call = _Call(self, job, groups, on_done)
        try:
            with _explained(self.client):
                call.submit()
            for number in range(len(groups)):
                with _explained(self.client):
                    total = call.total(number)
                yield total
        finally:
            call.drop()


class _Call:
    """One job on its way through a cluster."""

    def __init__(
        self, executor: DaskExecutor, job: Job, groups: Sequence[Sequence[Any]],
        on_done: Callable[[Any], None],
    ) -> None:
        self.executor, self.client, self.job = executor, executor.client, job
        self.groups, self.on_done = groups, on_done
        self.key = f"faml-{uuid.uuid4().hex[:12]}"
        self.events: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self.watch = _Watch(self.client, executor.patience_seconds, executor.revive)
        self.blocks: list[Any] = []
        self.totals: list[Any] = []

    def submit(self) -> None:
        """Send the job, its blocks, and the sums of groups."""
        # Within the task itself: scattered data would be lost with the workers that hold it.
        recipe = self.client.submit(
            _same, self.job.recipe, key=f"{self.key}-recipe", pure=False)
        todo = [block for group in self.groups for block in group]
        fixed = {"recipe": recipe, "job_key": self.key, "versions": _versions()}
        workers = sorted(self.client.nthreads()) or [None]
        # The same worker for the same particles: it has them at hand since the last iteration.
        for which, address in enumerate(workers):
            low, high = (len(todo) * w // len(workers) for w in (which, which + 1))
            part = todo[low:high]
            if not part:
                continue
            place = {} if address is None else {
                "workers": [address], "allow_other_workers": True}
            self.blocks += self.client.map(
                _work, part, [self.job.source.rows(block.indices) for block in part], **fixed,
                key=[f"{self.key}-block-{low + i}" for i in range(len(part))], pure=False, **place)
        start = 0
        for number, group in enumerate(self.groups):
            mine = self.blocks[start : start + len(group)]
            start += len(group)
            self.totals.append(self.client.submit(
                _added, mine, key=f"{self.key}-sum-{number}", pure=False, priority=10))
        for i, future in enumerate(self.blocks):
            future.add_done_callback(lambda _, i=i: self.events.put((i, todo[i])))
        for future in self.totals:
            future.add_done_callback(lambda _: self.events.put((-1, None)))

    def total(self, number: int) -> Any:
        """Wait for the sum of a group and return it."""
        future = self.totals[number]
        while not future.done():
            try:
                index, block = self.events.get(timeout=CHECK_SECONDS)
            except queue.Empty:
                self.watch.look()
                continue
            self.watch.progress()
            if index >= 0 and self.blocks[index].status == "finished":
                self.on_done(block)
        if future.status != "finished":
            self._raise_first()
        result = self.client.gather(future, direct=True)
        self.totals[number] = None
        if number == len(self.totals) - 1:
            self._report_rest()
        return result

    def _raise_first(self) -> None:
        """Raise what went wrong first: sums of blocks that failed say less."""
        for future in self.blocks:
            if future.status == "error":
                raise future.exception()

    def _report_rest(self) -> None:
        """Tell of blocks whose events were not looked at."""
        with suppress(queue.Empty):
            while True:
                index, block = self.events.get_nowait()
                if index >= 0:
                    self.on_done(block)

    def drop(self) -> None:
        """Stop what is not done, and let the cluster forget the rest."""
        left = [f for f in (*self.totals, *self.blocks) if f is not None and not f.done()]
        if left and self.client.status == "running":
            with suppress(Exception):  # the error that is on its way matters more
                self.client.cancel(left, force=True)
        self.blocks, self.totals = [], []


@dataclass(eq=False)
class _Watch:
    """Looks after the cluster while nothing comes from it."""

    client: Any
    patience_seconds: float
    revive: Callable[[], None]
    _alive: float = field(default_factory=time.monotonic)

    def progress(self) -> None:
        """Something came."""
        self._alive = time.monotonic()

    def look(self) -> None:
        """Raise a ClusterError when nothing can come any more."""
        if self.client.status != "running":
            raise ClusterError(_lost(self.client))
        workers = self.client.scheduler_info()["workers"].values()
        if any(worker.get("status") == "running" for worker in workers):
            return self.progress()
        waited = time.monotonic() - self._alive
        if waited < self.patience_seconds:
            return self.revive()
        if workers:
            raise ClusterError(
                f"all {len(workers)} workers have stopped for lack of memory, {waited:.0f} s ago: "
                "start them with more memory, or fewer on each machine; the same command goes on")
        raise ClusterError(
            f"no worker is left, since {waited:.0f} s: start workers again (a queue's time limit "
            "may have ended them); the same command goes on after the last finished iteration")


def _lost(client: Any) -> str:
    address = getattr(client.scheduler, "address", None) or "the address given"
    return (f"the Dask scheduler at {address} is gone: start it and its workers again; the same "
            "command goes on after the last finished iteration")


@contextmanager
def _explained(client: Any) -> Iterator[None]:
    """Turn Dask's errors into one line that says what to do."""
    distributed = _needed("distributed")
    try:
        yield
    except distributed.KilledWorker as error:
        raise ClusterError(
            f"a worker died {error.allowed_failures + 1} times at the same particles, most likely "
            "for lack of memory: give more --memory or use fewer --workers on a machine; the same "
            "command goes on after the last finished iteration") from None
    except MemoryError:
        raise ClusterError(
            "a worker ran out of memory: give more --memory or use fewer --workers on a machine; "
            "the same command goes on after the last finished iteration") from None
    except ImportError as error:
        raise ClusterError(
            f"a worker cannot load the program ({error}): install the same versions "
            "everywhere") from None
    except RuntimeError as error:
        if "deserialization of the task graph" not in str(error):
            raise
        raise ClusterError(
            "the Dask scheduler cannot load the program: install the same versions where it runs, "
            "too") from None
    except OSError:
        if client.status != "running":
            raise ClusterError(_lost(client)) from None
        raise
    except Exception as error:
        if type(error).__name__ in ("FutureCancelledError", "CancelledError"):
            raise ClusterError(_lost(client)) from None
        raise


# ------------------------------------------------------------------------------------- clusters
def _needed(module: str) -> Any:
    """Import a package of the extra `dask`."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(f"{module} is not installed ({error}): {INSTALL}") from None


def _quiet() -> None:
    """Dask logs a page for every worker that goes; what matters is said in one line."""
    roots = ("distributed", "dask_jobqueue", "tornado", "asyncio")
    for name in (*roots, *logging.root.manager.loggerDict):
        if name.split(".")[0] in roots:  # some have a level of their own
            logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="(?s).*Mismatched versions found.*")


@contextmanager
def _executor(
    address_or_cluster: Any, n_threads: int, n_wait: int, patience_seconds: float, where: str
) -> Iterator[DaskExecutor]:
    """An executor at a cluster, once workers are there."""
    try:
        client = _needed("distributed").Client(
            address_or_cluster, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {where} within {CONNECT_SECONDS:.0f} s "
            f"({_first_line(error)}): start one with `dask scheduler`, or check the "
            "address") from None
    try:
        _wait_for_workers(client, n_wait, patience_seconds, where)
        with _explained(client):
            _check_workers(client.run(_about_worker, on_error="return"))
        yield DaskExecutor(client, n_threads, patience_seconds)
    finally:
        with suppress(Exception):
            client.close(timeout=CONNECT_SECONDS)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(":") if lines else type(error).__name__


def _wait_for_workers(client: Any, n_wait: int, patience_seconds: float, where: str) -> None:
    try:
        client.wait_for_workers(n_wait, timeout=patience_seconds)
    except TimeoutError:
        raise ClusterError(
            f"{len(client.nthreads())} of {n_wait} workers came to {where} within "
            f"{patience_seconds:.0f} s: look at the queue and the workers' logs, or wait longer "
            "with --worker-timeout") from None


def _check_workers(answers: Mapping[str, Any]) -> None:
    """Raise a ClusterError where versions differ; warn where processors do.

    A worker that is about to leave gives no answer but an OSError.
    """
    for answer in answers.values():
        if isinstance(answer, Exception) and not isinstance(answer, OSError):
            raise answer
    workers = {k: v for k, v in answers.items() if not isinstance(v, Exception)}
    here = _versions()
    for worker in workers.values():
        _compare(worker["versions"], here, worker["host"])
    kinds = sorted({worker["processor"] for worker in workers.values()} | {_processor()})
    if len(kinds) > 1:
        logger.warning("processors differ (%s): the last bits of results depend on which did what",
                       ", ".join(kinds))
    logger.info("%d worker(s) on %d machine(s)", len(workers),
                len({worker["host"] for worker in workers.values()}))


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
    dask, _ = _needed("dask"), _needed("distributed")
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
    dask, distributed = _needed("dask"), _needed("distributed")
    _quiet()
    settings: dict[str, Any] = {
        "n_workers": n_workers, "threads_per_worker": 1, "processes": True, "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL,
        "memory_limit": "auto" if memory_bytes is None else memory_bytes // n_workers,
        "preload": "scipion_faml.cluster",
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
    dask, jobqueue = _needed("dask"), _needed("dask_jobqueue")
    _quiet()
    settings = {"python": sys.executable, **options}
    with dask.config.set(DASK_SETTINGS):
        cluster = _made(
            {"slurm": jobqueue.SLURMCluster, "pbs": jobqueue.PBSCluster}[kind], settings)
        with _closing(cluster):
            cluster.adapt(minimum_jobs=n_jobs, maximum_jobs=n_jobs)
            with _executor(cluster, n_threads, 1, patience_seconds, f"the {kind} queue") as found:
                yield found


def _made(kind: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    """A cluster; what it says of its options is a user's mistake."""
    try:
        return kind(**settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the cluster does not start ({_first_line(error)}): check --cluster-option and "
            "--memory") from None


@contextmanager
def _closing(cluster: Any) -> Iterator[None]:
    """Close a cluster with all its processes or jobs, whatever happens."""
    try:
        yield
    finally:
        with suppress(Exception):
            cluster.close(timeout=CONNECT_SECONDS)
