"""`python -m scipion_faml VERB`."""

from __future__ import annotations

import os
import sys

# Parallel over particles: a thread pool inside BLAS would only oversubscribe the cores, and its
# splitting would make the last bits depend on the machine. Set before numpy is imported.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


def main() -> None:
    """Run the command line and exit with its status."""
    from scipion_faml.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
