"""Run every command of docs/tutorial.md and draw its pictures into docs/images.

    python tools/make_tutorial.py FOLDER

FOLDER is where the commands run; what is finished there is not run again. The picture of the window
(tutorial_window.png) is a screenshot of the project that the tutorial's steps in the window make.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from doc_commands import run_all
from PIL import Image

from scipion_faml import plots
from scipion_faml.io import read_cube, read_volume

DOCS = Path(__file__).resolve().parents[1] / "docs"
SLICE = 34  # of the tomogram, where most picks are
VOXEL_SIZE = 13.7  # angstrom


def main(folder: Path) -> None:
    """Run the commands, then draw."""
    folder.mkdir(parents=True, exist_ok=True)
    for command, printed in run_all(DOCS / "tutorial.md", folder).items():
        print(f"$ {command}\n{printed}")
    draw(folder, DOCS / "images")


def draw(folder: Path, images: Path) -> None:
    """Draw the tutorial's pictures from the results in `folder`."""
    tomogram, _ = read_volume(folder / "tomogram" / "tomogram.mrc")
    pictures = {
        "slice": plots.picks_on_slice(plots.slab(tomogram, SLICE), np.zeros((0, 2)), 1.0),
        "classes": plots.class_gallery(
            _maps(folder / "classes", "class_001", "class_002"), ["class 1", "class 2"],
            VOXEL_SIZE),
        "convergence": plots.convergence(pd.read_csv(folder / "classes" / "history.csv")),
        "fsc": plots.fsc_curves(_curves(folder / "classes" / "fsc.csv"), marks=(0.143,)),
        "truth": plots.class_gallery(
            np.concatenate([_maps(folder, "groel", "ribosome"),
                            _central(_maps(folder / "tomogram" / "maps", "groel", "ribosome"))]),
            ["average, class 1", "average, class 2", "true GroEL", "true ribosome"], VOXEL_SIZE),
    }
    for name, figure in pictures.items():
        _write_small(images / f"tutorial_{name}.png", plots.png_bytes(figure))
    _write_small(images / "tutorial_picks.png", (folder / "picks.png").read_bytes())


def _write_small(path: Path, png: bytes) -> None:
    """Write a picture with few colours: all are kept with the source code."""
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(96)
    picture.save(path, optimize=True)


def _maps(folder: Path, *names: str) -> np.ndarray:
    return np.stack([read_cube(folder / f"{name}.mrc")[0] for name in names])


def _central(volumes: np.ndarray, box: int = 24) -> np.ndarray:
    """The middle of true maps, cut or filled to the averages' box."""
    n = volumes.shape[-1]
    if n < box:
        pad = (box // 2 - n // 2, box - n - (box // 2 - n // 2))
        return np.pad(volumes, ((0, 0), pad, pad, pad))
    low = n // 2 - box // 2
    return volumes[:, low:low + box, low:low + box, low:low + box]


def _curves(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    table = pd.read_csv(path)
    frequency = table.pop("frequency_per_angst").to_numpy()
    return {name.replace("class_00", "class "): (frequency, table[name].to_numpy())
            for name in table if not name.endswith("_uncorrected")}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
