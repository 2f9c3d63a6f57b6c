"""Jobs on their way through a cluster: sent, watched over, fetched."""

from __future__ import annotations

import queue
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from scipion_faml.cluster.errors import explained, lost
from scipion_faml.cluster.versions import versions_here
from scipion_faml.cluster.worker import added, same, work
from scipion_faml.execution import ClusterError, Job, ThreadExecutor

T = TypeVar("T")
R = TypeVar("R")
CHECK_SECONDS = 2.0  # between looks at the cluster while nothing comes


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
            with explained(self.client):
                call.submit()
            for number in range(len(groups)):
                with explained(self.client):
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
            same, self.job.recipe, key=f"{self.key}-recipe", pure=False)
        todo = [block for group in self.groups for block in group]
        fixed = {"recipe": recipe, "job_key": self.key, "versions": versions_here()}
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
                work, part, [self.job.source.rows(block.indices) for block in part], **fixed,
                key=[f"{self.key}-block-{low + i}" for i in range(len(part))], pure=False, **place)
        start = 0
        for number, group in enumerate(self.groups):
            mine = self.blocks[start : start + len(group)]
            start += len(group)
            self.totals.append(self.client.submit(
                added, mine, key=f"{self.key}-sum-{number}", pure=False, priority=10))
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
            raise ClusterError(lost(self.client))
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
