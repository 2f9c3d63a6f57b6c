"""What is done in the processes of a cluster.

A worker reads the particles of its blocks, and keeps as many as its memory allows for the next
iteration.
"""

from __future__ import annotations

import ctypes
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

from threadpoolctl import threadpool_limits

from scipion_faml.cluster.errors import needed
from scipion_faml.cluster.versions import compare_versions, versions_here
from scipion_faml.execution import OpenedJob, Recipe

PROCESS_BYTES = 3 * 2**27  # of a worker: the interpreter, libraries and work in progress
CACHED_SHARE = 0.5  # of the memory beyond them
UNLIMITED_CACHE = 7 * 2**29  # of a worker whose memory has no limit


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


def same(recipe: Recipe) -> Recipe:
    """Return what was sent."""
    return recipe


def work(
    block: Any, rows: Mapping[int, Any], recipe: Recipe, job_key: str,
    versions: Mapping[str, str],
) -> Any:
    """Do a block of a job."""
    compare_versions(versions_here(), versions, socket.gethostname())
    job = _desk_of(needed("distributed").get_worker()).opened(job_key, recipe)
    job.learn(rows)
    try:
        return job.work(block)
    except OSError as error:
        raise OSError(
            f"{error} (worker on {socket.gethostname()}): every worker needs the particles under "
            "the same path") from None
    finally:
        job.forget(block.indices)


def added(parts: Sequence[Any]) -> Any:
    """Return the sum of some results, in order."""
    total = parts[0]
    if len(parts) > 1:
        # Results of other tasks must stay what they are, should they be asked for again.
        total = deepcopy(total)
        for part in parts[1:]:
            total = total.absorb(part)
    return total
