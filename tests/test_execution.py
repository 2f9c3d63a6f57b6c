import numpy as np
import pytest
from threadpoolctl import threadpool_info

from scipion_faml.execution import SerialExecutor, ThreadExecutor, executor_of


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
