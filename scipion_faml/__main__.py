"""`python -m scipion_faml VERB`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from scipion_faml.status import ASK_TO_END, Stopped

# Parallel over particles: a thread pool inside BLAS would only oversubscribe the cores, and its
# splitting would make the last bits depend on the machine. Set before numpy is imported.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


def _stop(number: int, _frame: FrameType | None) -> None:
    """Unwind as after Ctrl-C, so that temporary files and processes go; a second one ends it."""
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(signal.Signals(number).name)


def main() -> None:
    """Run the command line and exit with its status."""
    for number in ASK_TO_END:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _stop)
    try:
        from scipion_faml.cli import run

        status = run(sys.argv[1:])
        for number in ASK_TO_END:  # all is done
            signal.signal(number, signal.SIG_IGN)
    except Stopped as stop:  # while modules are loaded
        print(f"stopped by {stop}: the same command starts it again", file=sys.stderr)
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
