"""Run the command line, and end this very process just before or after the n-th rename of a file.

    python stops.py before 3 classify ... (words of scipion-faml)

What is renamed into place was written whole; these are the moments at which a kill could leave
files that do not fit together.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


def main() -> None:
    """Patch os.replace and run."""
    when, number = sys.argv[1], int(sys.argv[2])
    renames = 0
    replace = os.replace

    def counting(*paths: Any, **how: Any) -> None:
        nonlocal renames
        renames += 1
        if renames == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths, **how)
        if renames == number and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counting  # type: ignore[assignment]
    from scipion_faml.cli import run

    status = run(sys.argv[3:])
    if when == "count":
        print(renames, file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
