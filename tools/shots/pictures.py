"""Windows as small PNG files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from shots.display import SCREEN

LARGEST_FILE = 110_000  # bytes: all of them are kept with the source code
WIDEST = 1200  # pixels
TITLE_BAR = 20  # pixels, where Tk does not tell


def save(window: Any, path: Path) -> None:
    """Save what the screen shows of a window, with its title bar."""
    from PIL import ImageGrab

    border = max(window.winfo_rootx() - window.winfo_x(), 0)
    left = window.winfo_rootx() - border
    top = window.winfo_rooty() - max(window.winfo_rooty() - window.winfo_y(), TITLE_BAR)
    right = window.winfo_rootx() + window.winfo_width() + border
    bottom = window.winfo_rooty() + window.winfo_height() + border
    box = (max(left, 0), max(top, 0), min(right, SCREEN[0]), min(bottom, SCREEN[1]))
    write_small(ImageGrab.grab(bbox=box, xdisplay=os.environ["DISPLAY"]), path)


def write_small(picture: Any, path: Path) -> None:
    """Write a picture as a small PNG: not too wide, with as few colours as it takes.

    Noise, as of tomograms, is what takes room; if need be the picture becomes narrower. Colours are
    chosen so that the few pixels of a coloured circle on grey noise keep theirs.
    """
    from PIL import Image

    picture = picture.convert("RGB")
    if picture.width > WIDEST:
        picture = narrowed(picture, WIDEST / picture.width)
    for colours, share in ((256, 1.0), (64, 1.0), (64, 0.8), (48, 0.65), (32, 0.5), (16, 0.4)):
        small = narrowed(picture, share).quantize(
            colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
        if path.stat().st_size < LARGEST_FILE:
            return


def narrowed(picture: Any, share: float) -> Any:
    """Return a picture made smaller."""
    return picture.resize((round(picture.width * share), round(picture.height * share)))
