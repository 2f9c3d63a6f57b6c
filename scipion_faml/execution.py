"""Workers: something with an order-preserving `map`. Results never depend on which is used.

The work is parallel over particles, so BLAS runs one thread in each worker: its own threads would
fight the workers for the cores, and split sums differently from machine to machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


def one_blas_thread() -> threadpool_limits:
    """Return a context in which BLAS runs one thread, in the whole process."""
    return threadpool_limits(limits=1, user_api="blas")


class Executor(Protocol):
    """Applies a function to items; results come in the items' order."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]: ...


class SerialExecutor:
    """One item after another, in the calling thread."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield function(item) for each item."""
        with one_blas_thread():
            yield from map(function, items)


class ThreadExecutor:
    """`n_workers` threads: kernels and FFTs release the interpreter's lock.

    At most n_workers + 1 results wait to be taken: memory does not grow with the number of items.
    """

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


def executor_of(n_workers: int) -> Executor:
    """Return an executor for a number of workers."""
    return SerialExecutor() if n_workers == 1 else ThreadExecutor(n_workers)
