"""Run the command line in processes that end just before or after their n-th rename of a file.

    python stops.py FOLDER before 3,5 classify ... (words of scipion-faml)

What is renamed into place was written whole; these are the moments at which a kill could leave
files that do not fit together. For every number a process runs in the folder FOLDER-3 until it
kills itself, and another one, in the same folder, to the end. With 0 as number nothing is killed,
and the number of renames is printed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


def killing(when: str, number: int) -> list[int]:
    """Let os.replace end this process at its `number`-th call; return where calls are counted."""
    replace, calls = os.replace, [0]

    def counting(*paths: Any, **how: Any) -> None:
        is_counted = not str(paths[1]).endswith("status.json")  # written by the clock
        calls[0] += is_counted
        is_now = is_counted and calls[0] == number
        if is_now and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths, **how)
        if is_now and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counting  # type: ignore[assignment]
    return calls


def forked(folder: Path, words: list[str], when: str = "", number: int = -1) -> int:
    """Run words in a folder, in a process of its own; return how it ended, below 0 by a signal."""
    from scipion_faml.cli import run

    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    status = 70
    try:
        calls = killing(when, number)
        status = run(words)
        if number == 0:
            print(calls[0], file=sys.stderr)
        sys.stderr.flush()
    finally:
        os._exit(status)


def main() -> None:
    """Run once for every number."""
    folder, when, numbers, *words = sys.argv[1:]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for number in map(int, numbers.split(",")):
        place = Path(f"{folder}-{number}")
        ended = forked(place, words, when, number)
        if number and ended != -signal.SIGKILL:
            sys.exit(f"{place}: not killed, status {ended}")
        if number and forked(place, words):
            sys.exit(f"{place}: the second run failed")


if __name__ == "__main__":
    main()
