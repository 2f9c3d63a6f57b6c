"""A display of its own, which nobody sees."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

SCREEN = (1500, 1400)
NEEDED = {"Xvfb": "xvfb", "openbox": "openbox"}  # command: Debian's package


def what_is_missing() -> list[str]:
    """Return what must be installed before a picture can be made."""
    missing = [f"{command} (apt-get install {package})" for command, package in NEEDED.items()
               if shutil.which(command) is None]
    from PIL import features

    if not features.check("xcb"):
        missing.append("a Pillow that can read a display (pip install --force-reinstall pillow)")
    return missing


@contextmanager
def own_display(size: tuple[int, int] = SCREEN) -> Iterator[str]:
    """Run Xvfb and openbox on a free display; it is the display of this process meanwhile."""
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{size[0]}x{size[1]}x24",
         "-nolisten", "tcp"], pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as numbers:
        number = numbers.readline().strip()
    manager, before = None, os.environ.get("DISPLAY")
    try:
        if not number:
            raise OSError("Xvfb did not start: try `Xvfb :99` by hand")
        os.environ["DISPLAY"] = f":{number}"
        manager = subprocess.Popen(["openbox"], stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        yield f":{number}"
    finally:
        for process in (manager, server):
            if process is not None:
                process.terminate()
                process.wait()
        if before is None:
            os.environ.pop("DISPLAY", None)
        else:
            os.environ["DISPLAY"] = before
