"""The commands in pages of the documentation, so that tests and tools run what a reader would.

    python tools/doc_commands.py docs/tutorial.md        prints them

A block fenced as ```sh is run, ```console is for a reader's own shell, ```text is output.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of one language in a page, in order."""
    return [body for found, body in FENCE.findall(page.read_text()) if found == language]


def commands(page: Path) -> list[str]:
    """Return the commands of a page; a backslash at the end of a line continues it."""
    text = "".join(blocks(page, "sh")).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]


def with_this_python(command: str) -> list[str]:
    """Return the words of a `scipion-faml` command, run by the Python of this process.

    Raises
    ------
    ValueError
        If it is another program.
    """
    program, *words = command.split()
    if program != "scipion-faml":
        raise ValueError(f"'{command}' is no command of scipion-faml")
    return [sys.executable, "-m", "scipion_faml", *words]


def run_all(page: Path, folder: Path, skip: Iterable[str] = ()) -> dict[str, str]:
    """Run the commands of a page in a folder; return what each printed.

    Raises
    ------
    subprocess.CalledProcessError
        If one fails.
    """
    printed = {}
    for command in commands(page):
        if command in skip:
            continue
        done = subprocess.run(with_this_python(command), cwd=folder, text=True, check=True,
                              stdout=subprocess.PIPE)
        printed[command] = done.stdout
    return printed


if __name__ == "__main__":
    print("\n".join(commands(Path(sys.argv[1]))))
