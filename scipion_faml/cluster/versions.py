"""What must be the same on all machines: results would differ, or nothing fit together."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from threadpoolctl import threadpool_info

from scipion_faml.execution import ClusterError

logger = logging.getLogger(__name__)


def versions_here() -> dict[str, str]:
    """Return the versions of the packages that work on results."""
    from importlib.metadata import PackageNotFoundError, version

    import scipion_faml

    found = {"scipion_faml": scipion_faml.__version__}
    for name in ("numpy", "scipy", "ducc0", "distributed"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def processor_here() -> str:
    """Return the kind of processor that BLAS chose its kernels for."""
    return next((str(p.get("architecture", "")) for p in threadpool_info()
                 if p["user_api"] == "blas"), "")


def about_worker() -> dict[str, Any]:
    """Return what a worker is asked before it gets work."""
    return {"versions": versions_here(), "processor": processor_here(),
            "host": socket.gethostname()}


def compare_versions(found: Mapping[str, str], here: Mapping[str, str], host: str) -> None:
    """Raise a ClusterError where a worker has other versions than the program it works for."""
    for name, wanted in here.items():
        if found.get(name) != wanted:
            raise ClusterError(
                f"worker on {host} has {name} {found.get(name, 'not at all')}, this program "
                f"{wanted}: install the same versions everywhere")


def check_workers(answers: Mapping[str, Any]) -> None:
    """Raise a ClusterError where versions differ; warn where processors do.

    A worker that is about to leave gives no answer but an OSError.
    """
    for answer in answers.values():
        if isinstance(answer, Exception) and not isinstance(answer, OSError):
            raise answer
    workers = {k: v for k, v in answers.items() if not isinstance(v, Exception)}
    here = versions_here()
    for worker in workers.values():
        compare_versions(worker["versions"], here, worker["host"])
    kinds = sorted({worker["processor"] for worker in workers.values()} | {processor_here()})
    if len(kinds) > 1:
        logger.warning("processors differ (%s): the last bits of results depend on which did what",
                       ", ".join(kinds))
    logger.info("%d worker(s) on %d machine(s)", len(workers),
                len({worker["host"] for worker in workers.values()}))
