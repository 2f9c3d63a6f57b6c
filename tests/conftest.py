"""Environment of the tests: BLAS on one thread, and a Scipion workspace of their own.

The variables are set before anything imports pyworkflow, which reads them at import. Only the
fixtures of tests/scipion import Scipion, so the core's tests run without it.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Pictures take longer than most verbs of the tests: those that look at reports use `reports`.
os.environ.setdefault("FAML_NO_REPORT", "1")


@pytest.fixture(autouse=True)
def logs_of_a_verb_end_with_its_test() -> Iterator[None]:
    """A verb called in this process logs to the stderr of its test, which is closed afterwards."""
    before = list(logging.root.handlers)
    yield
    for handler in list(logging.root.handlers):
        if type(handler) is logging.StreamHandler and handler not in before:
            logging.root.removeHandler(handler)


@pytest.fixture(scope="module")
def reports() -> Iterator[None]:
    """Verbs leave their reports, as outside the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FAML_NO_REPORT", raising=False)
        yield


@pytest.fixture(scope="session")
def groel() -> Any:
    """A template."""
    from oracles_template import groel_map

    return groel_map()


@pytest.fixture(scope="session")
def groel_scene() -> Any:
    """A small tomogram of it, and the rotations of those in it."""
    import oracles_template

    return oracles_template.groel_scene()


@pytest.fixture(scope="session")
def scipion_workspace() -> Iterator[Path]:
    """A folder for Scipion's projects; the environment points at it. Removed at the end."""
    from scipion_faml import scipion_env

    os.environ["SCIPION_TEST_NOSYNC"] = "True"  # never download test data
    folder = Path(tempfile.mkdtemp(prefix="faml-scipion-"))
    start = Path.cwd()
    try:
        yield scipion_env.set_up(folder)
    finally:
        os.chdir(start)  # loading a project changes into it
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real test data, from FAML_SHARED_DATA or beside the repository; else skip."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FAML_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set FAML_SHARED_DATA)")
    return folder
