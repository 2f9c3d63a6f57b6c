"""One seed and one set of settings give the same files on any number of workers."""

import pytest
from faults.runs import COUNTS, FULL, VERBS, WITH_DASK, finish, same, words_of

pytestmark = pytest.mark.faults
SHORT = ("classify-paper", "classify-enhanced")


@pytest.mark.parametrize("name", list(VERBS) if FULL else SHORT)
@pytest.mark.parametrize("workers", [1, 2, 4] if FULL else [2])
def test_every_file_is_the_same_on_any_number_of_workers(name, workers, place, undisturbed):
    expected = undisturbed(name).contents
    assert len(expected) >= 2
    folder = place / f"{name}-on-{workers}"
    finish(folder, words_of(name, "--workers", str(workers)))
    same(folder, expected, f"{name} on {workers} workers")
    COUNTS.add("runs on other workers")


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_DASK)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_file_is_the_same_with_dask(name, workers, place, undisturbed):
    pytest.importorskip("distributed")
    folder = place / f"{name}-dask-{workers}"
    finish(folder, words_of(name, "--executor", "dask", "--workers", str(workers)))
    same(folder, undisturbed(name).contents, f"{name} on {workers} Dask processes")
    COUNTS.add("runs with Dask")
