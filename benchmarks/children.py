"""Programs run as children, with the CPU time they had spent when each iteration was on disk."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.05
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Finished:
    """A child that has ended."""

    status: int  # exit status; negative: the signal that ended it
    cpu_s: float  # user and system time of it and of its children
    marks_s: list[float]  # CPU time when the 1st, 2nd ... iteration was there
    is_stopped: bool  # at the time limit


def run_timed(
    command: Sequence[str], folder: Path, log: Path, n_done: Callable[[], int],
    limit_s: float | None = None,
) -> Finished:
    """Run a command in `folder` on one thread, its output into `log`, and time its iterations.

    Parameters
    ----------
    n_done : function
        Number of iterations whose results lie on disk.
    limit_s : float, optional
        Stop the child after this many seconds of CPU time.
    """
    with open(log, "wb") as handle:
        child = subprocess.Popen(
            list(command), cwd=folder, stdout=handle, stderr=subprocess.STDOUT,
            env={**os.environ, **ONE_THREAD},
        )
    marks: list[float] = []
    is_stopped = False
    try:
        while True:
            spent = cpu_seconds(child.pid)
            marks += [spent] * (n_done() - len(marks))
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            if limit_s is not None and spent > limit_s and not is_stopped:
                child.terminate()
                is_stopped = True
            time.sleep(POLL_S)
    except BaseException:  # also Ctrl-C: no child is left behind
        child.kill()
        child.wait()
        raise
    child.returncode = os.waitstatus_to_exitcode(status)
    total = usage.ru_utime + usage.ru_stime
    marks += [total] * (n_done() - len(marks))
    return Finished(child.returncode, total, marks, is_stopped)


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a running process (Linux; NaN elsewhere)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    # Fields 14 to 17 of proc(5): own user and system time, and those of children waited for.
    return sum(int(f) for f in fields[11:15]) / os.sysconf("SC_CLK_TCK")
