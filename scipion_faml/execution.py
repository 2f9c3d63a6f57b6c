"""Workers: something that works on items in parallel. Results never depend on which is used.

The work is parallel over particles, so BLAS runs one thread in each worker: its own threads would
fight the workers for the cores, and split sums differently from machine to machine.

What is summed over particles is a `Job`: it is worked on block by block, here or in the processes
of a cluster (`cluster`), and added up in an order that depends on the number of particles alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


def one_blas_thread() -> threadpool_limits:
    """Return a context in which BLAS runs one thread, in the whole process."""
    return threadpool_limits(limits=1, user_api="blas")


# -------------------------------------------------------------------------- sums over particles
LARGEST_BLOCK = 16  # particles, unless there would be more than MOST_BLOCKS
FEW_BLOCKS, MOST_BLOCKS = 256, 4096
BLOCKS_IN_GROUP = 32  # whose sums are added up before they are added to all others

S = TypeVar("S", bound="Summand")


class Summand(Protocol):
    """Sums over the particles of a block."""

    def absorb(self: S, other: S) -> S:
        """Return the sum of both; `self` may be used up."""


class Block(Protocol):
    """Particles that one worker looks at one after another, and what is known of them."""

    @property
    def indices(self) -> Sequence[int]: ...


class Source(Protocol):
    """What a job needs of a source of particles, to be done in another process."""

    def emptied(self) -> Any:
        """Return the source without particles: other processes `learn` those of their blocks."""

    def rows(self, indices: Iterable[int]) -> Mapping[int, Any]:
        """Return what another process has to learn to read these particles."""


class Desk(Protocol):
    """Where a worker keeps particles between blocks and jobs."""

    cache_bytes: int

    def kept(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what is kept under a key; made, and all else dropped, where there is nothing."""


class Recipe(Protocol):
    """A job as it is sent to another process, without particles."""

    def open(self, desk: Desk) -> OpenedJob: ...


class OpenedJob(Protocol):
    """A job in another process."""

    def learn(self, rows: Mapping[int, Any]) -> None: ...

    def forget(self, indices: Iterable[int]) -> None: ...

    def work(self, block: Any) -> Any: ...


class Job(Protocol):
    """Work on blocks of particles whose results are summed."""

    @property
    def source(self) -> Any: ...

    @property
    def recipe(self) -> Recipe: ...

    def work(self, block: Any) -> Any: ...


def block_size(n_particles: int, chunk_size: int) -> int:
    """Return how many particles make a block: whole chunks, of the number of particles alone."""
    size = max(min(n_particles // FEW_BLOCKS, LARGEST_BLOCK), -(-n_particles // MOST_BLOCKS))
    return chunk_size * max(1, -(-size // chunk_size))


def in_groups(blocks: Sequence[T]) -> list[Sequence[T]]:
    """Return the blocks in groups that are added up apart."""
    return [blocks[a : a + BLOCKS_IN_GROUP] for a in range(0, len(blocks), BLOCKS_IN_GROUP)]


class Executor(Protocol):
    """Applies a function to items; results come in the items' order."""

    is_here: bool  # jobs are done in this process, too

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield function(item) for each item, worked on in this process."""

    def sums(
        self, job: Job, groups: Sequence[Sequence[Any]], on_done: Callable[[Any], None]
    ) -> Iterator[Any]:
        """Yield, for each group of blocks, the sum in order of the job's results.

        `on_done` is told of every block.
        """


class ClusterError(RuntimeError):
    """The processes of a cluster are gone or do not come; the message says what to do."""


def _sums_here(
    executor: Executor, job: Job, groups: Sequence[Sequence[Any]], on_done: Callable[[Any], None]
) -> Iterator[Any]:
    """Add up results in the order in which they come."""
    results = executor.map(job.work, (block for group in groups for block in group))
    for group in groups:
        total: Any = None
        for block in group:
            part = next(results)
            total = part if total is None else total.absorb(part)
            on_done(block)
        yield total


# ---------------------------------------------------------------------------- in this process


class SerialExecutor:
    """One item after another, in the calling thread."""

    is_here = True

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield function(item) for each item."""
        with one_blas_thread():
            yield from map(function, items)

    def sums(
        self, job: Job, groups: Sequence[Sequence[Any]], on_done: Callable[[Any], None]
    ) -> Iterator[Any]:
        """Yield the sum of each group, in order."""
        return _sums_here(self, job, groups, on_done)


class ThreadExecutor:
    """`n_workers` threads: kernels and FFTs release the interpreter's lock.

    At most n_workers + 1 results wait to be taken: memory does not grow with the number of items.
    """

    is_here = True

    def __init__(self, n_workers: int) -> None:
        if n_workers < 1:
            raise ValueError(f"{n_workers} workers: at least 1 is needed")
        self.n_workers = n_workers

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield function(item) for each item, in order."""
        waiting: deque[Future[R]] = deque()
        with one_blas_thread():
            pool = ThreadPoolExecutor(self.n_workers)
            try:
                for item in items:
                    waiting.append(pool.submit(function, item))
                    if len(waiting) > self.n_workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def sums(
        self, job: Job, groups: Sequence[Sequence[Any]], on_done: Callable[[Any], None]
    ) -> Iterator[Any]:
        """Yield the sum of each group, in order."""
        return _sums_here(self, job, groups, on_done)


def executor_of(n_workers: int) -> Executor:
    """Return an executor for a number of workers."""
    return SerialExecutor() if n_workers == 1 else ThreadExecutor(n_workers)
