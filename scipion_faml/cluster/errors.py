"""What goes wrong at a Dask cluster, in one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scipion_faml.execution import ClusterError

INSTALL = "install it with: pip install 'scipion-em-faml[dask]'"


def needed(module: str) -> Any:
    """Import a package of the extra `dask`."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(f"{module} is not installed ({error}): {INSTALL}") from None


@contextmanager
def explained(client: Any) -> Iterator[None]:
    """Turn Dask's errors into one line that says what to do."""
    distributed = needed("distributed")
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
    except OSError as error:
        # A connection breaks a moment before the client knows that its scheduler is gone.
        if client.status != "running" or isinstance(error, distributed.comm.CommClosedError):
            raise ClusterError(lost(client)) from None
        raise
    except Exception as error:
        if type(error).__name__ in ("FutureCancelledError", "CancelledError"):
            raise ClusterError(lost(client)) from None
        raise


def lost(client: Any) -> str:
    """Return what to say of a scheduler that is gone."""
    address = getattr(client.scheduler, "address", None) or "the address given"
    return (f"the Dask scheduler at {address} is gone: start it and its workers again; the same "
            "command goes on after the last finished iteration")


def first_line(error: BaseException) -> str:
    """Return the first line of an error, or its kind where it says nothing."""
    lines = str(error).splitlines()
    return lines[0].rstrip(":") if lines else type(error).__name__
