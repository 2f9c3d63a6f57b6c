"""Maps in ChimeraX, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pyworkflow.viewer import View

COLOURS = ("#8fb7d3", "#e0a37a", "#8fc9b0", "#d6a9c5", "#e8c97a", "#9fd0ee", "#d9d06e", "#aaaaaa")
NOT_FOUND = ("ChimeraX was not found: set CHIMERA_HOME in Scipion's configuration, or put chimerax "
             "into the PATH.")


def find_chimerax() -> str | None:
    """Return the program: of Scipion's Chimera plugin, CHIMERA_HOME or the PATH; else None."""
    homes = [os.environ.get("CHIMERA_HOME"), _plugin_home()]
    for home in filter(None, homes):
        for name in ("ChimeraX", "chimerax", "ChimeraX.exe"):
            program = Path(home) / "bin" / name
            if program.is_file():
                return str(program)
    return shutil.which("chimerax") or shutil.which("ChimeraX")


def _plugin_home() -> str | None:
    """Where Scipion believes ChimeraX to be."""
    from pwem.viewers.viewer_chimera import Chimera

    return Chimera.getHome()


def script(files: Sequence[str], levels: Sequence[float | None]) -> str:
    """Return ChimeraX commands that open maps side by side at their thresholds."""
    lines = []
    for number, (path, level) in enumerate(zip(files, levels, strict=True), 1):
        lines.append(f'open "{Path(path).resolve()}"')
        at = "" if level is None else f" level {level:.6g}"
        colour = COLOURS[(number - 1) % len(COLOURS)]
        lines.append(f"volume #{number} style surface step 1{at} color {colour}")
    if len(files) > 1:
        lines.append("tile")
    return "\n".join([*lines, "lighting soft", "view", ""])


class ChimeraXView(View):
    """Opens maps in ChimeraX and returns at once."""

    def __init__(self, files: Sequence[str], levels: Sequence[float | None] | None = None) -> None:
        super().__init__()
        self.files = list(files)
        self.levels = list(levels) if levels is not None else [None] * len(self.files)

    def show(self) -> None:
        """Start the program."""
        program = find_chimerax()
        if program is None:
            raise OSError(NOT_FOUND)
        with tempfile.NamedTemporaryFile("w", suffix=".cxc", delete=False) as handle:
            handle.write(script(self.files, self.levels))
        subprocess.Popen([program, handle.name], start_new_session=True)
