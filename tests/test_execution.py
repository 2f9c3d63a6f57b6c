import numpy as np
import pytest
from dask_jobs import NumberJob, number_groups
from threadpoolctl import threadpool_info

from scipion_faml.execution import (
    BLOCKS_IN_GROUP,
    SerialExecutor,
    ThreadExecutor,
    block_size,
    executor_of,
    in_groups,
)


def blas_threads(_):
    """Threads that BLAS may use while an item is worked on."""
    np.ones((2, 2)) @ np.ones((2, 2))
    return max((p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"), default=1)


@pytest.mark.parametrize("executor", [SerialExecutor(), ThreadExecutor(2)])
def test_blas_runs_one_thread_in_a_worker_and_its_own_number_afterwards(executor):
    before = blas_threads(0)
    assert set(executor.map(blas_threads, range(3))) == {1}
    assert blas_threads(0) == before


@pytest.mark.parametrize("n_workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(n_workers):
    squares = executor_of(n_workers).map(lambda i: i * i, range(20))
    assert list(squares) == [i * i for i in range(20)]


def test_an_error_of_a_worker_reaches_the_caller():
    def fail(item):
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        list(ThreadExecutor(2).map(fail, range(5)))


def test_no_worker_is_refused():
    with pytest.raises(ValueError, match="0 workers"):
        ThreadExecutor(0)


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_sums_are_added_in_the_order_of_blocks_and_groups(n_workers):
    told = []
    sums = executor_of(n_workers).sums(NumberJob(), number_groups([3, 1, 40]), told.append)
    assert [s.order for s in sums] == [[0, 1, 2], [3], list(range(4, 44))]
    assert [block.indices[0] for block in told] == list(range(44))


def test_blocks_and_groups_depend_on_the_number_of_particles_alone():
    # Few particles: a chunk a block, for all workers to have some. Many: no more than 4096 blocks.
    assert [block_size(n, 4) for n in (12, 1000, 4096, 10**5, 10**6)] == [4, 4, 16, 28, 248]
    assert [block_size(n, 16) for n in (12, 4096, 10**5, 10**6)] == [16, 16, 32, 256]
    assert [len(g) for g in in_groups(range(2 * BLOCKS_IN_GROUP + 1))] == [32, 32, 1]
