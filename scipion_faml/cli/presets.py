"""Presets of simulate-tomogram: options, structures and abundances of known data sets.

`shrec` is the tomogram of the SHREC challenges of 2019 and 2020: twelve complexes, about 2,500
particles in 512 x 512 x 200 voxels of 10 A. docs/results.md compares it with their ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scipion_faml.simulation.density import Structure
from scipion_faml.structures import (
    MAP_SUFFIXES,
    MODEL_SUFFIXES,
    load_structures,
    suitable_box,
)
from scipion_faml.types import IntArray

OPTIONS: dict[str, dict[str, object]] = {
    "shrec": {
        # As the challenge's masks show, its particles are the coordinates as they are in the
        # files, and a label covers nearly everything that a map holds.
        "assembly": "none", "label_level": 0.02, "edges": "open",
        "shape": "512,512,200", "voxel_size": 10.0, "resolution": 20.0,
        "tilt_min": -60.0, "tilt_max": 60.0, "tilt_step": 3.0,
        "defocus": 3.0, "ctf_correction": "phase-flip", "snr": 0.05,
    },
}
SHREC_CLASSES = (
    "1s3x", "3qm1", "3gl1", "3h84", "2cg9", "3d2f", "1u6g", "3cf3", "1bxn", "1qvr", "4cr2", "4d8q",
)
# Mean of ten tomograms of 512 x 512 x 200 voxels; the largest found less room there.
SHREC_ABUNDANCE = dict.fromkeys(SHREC_CLASSES, 208.0) | {"4cr2": 173.0}
SHREC_VOLUME_ANGST = 512.0 * 512.0 * 200.0 * 1e3  # cubed
# Without files: what is shipped, and phantoms for the sizes that it lacks.
SHIPPED = (
    "blobs:1:90", "blobs:2:100", "blobs:4:120", "blobs:5:130", "blobs:8:160",
    "apoferritin", "groel", "groel-groes", "proteasome", "tric", "ribosome", "ribosome-80s",
)
STAND_IN = {"4d8q": "tric"}  # TRiC; the entry is seldom at hand


@dataclass(frozen=True)
class NamedModel:
    """A class and the model that it is made of."""

    name: str  # empty: that of the model
    model: str


def shrec_models(folders: Sequence[str]) -> list[NamedModel]:
    """Return the twelve classes: from files NAME* of the folders, or without any from the package.

    A file that begins with a class's name makes it; atomic models go before maps, and folders in
    their order. For 4d8q the shipped TRiC stands in.

    Raises
    ------
    OSError, ValueError
        If a folder does not exist or classes have no file.
    """
    if not folders:
        return [NamedModel(name, name) for name in SHIPPED]
    for folder in folders:
        if not Path(folder).is_dir():
            raise FileNotFoundError(
                f"--models-dir {folder} is no folder: leave it out to use the shipped models"
            )
    found = {name: _file_of(name, folders) or STAND_IN.get(name) for name in SHREC_CLASSES}
    missing = [name for name, model in found.items() if model is None]
    if missing:
        raise ValueError(
            f"no PDB, mmCIF or MRC file of {', '.join(missing)} in {', '.join(folders)}: add them, "
            "give another --models-dir, or leave it out to use the shipped models"
        )
    return [NamedModel(name if model != STAND_IN.get(name) else model, model)
            for name, model in found.items() if model is not None]


def _file_of(name: str, folders: Sequence[str]) -> str | None:
    """The file of a class, or None."""
    for suffixes in (MODEL_SUFFIXES, MAP_SUFFIXES):
        for folder in folders:
            for path in sorted(Path(folder).iterdir()):
                plain = path.name.lower().removesuffix(".gz")
                if plain.startswith(name) and plain.endswith(suffixes):
                    return str(path)
    return None


def load_named(
    models: Sequence[NamedModel], box: int | None, voxel_size_angst: float,
    resolution_angst: float, assembly: str,
) -> list[Structure]:
    """Return the structures under their class names, in a box that holds all of them."""
    files = [entry.model for entry in models]
    box = box or suitable_box(files, voxel_size_angst, resolution_angst, assembly)
    structures = load_structures(files, box, voxel_size_angst, resolution_angst, assembly)
    return [replace(structure, name=entry.name or structure.name)
            for entry, structure in zip(models, structures, strict=True)]


def draw_counts(names: Sequence[str], volume_angst: float, seed: int) -> list[int]:
    """Return particles of each class: Poisson numbers at the density of the challenge, at least 1.

    Parameters
    ----------
    names : sequence of str
    volume_angst : float
        Of the tomogram (cubic angstrom).
    seed : int
    """
    rng = np.random.default_rng([seed, 3])
    mean = [SHREC_ABUNDANCE.get(name, 208.0) for name in names]
    drawn: IntArray = rng.poisson(np.array(mean) * volume_angst / SHREC_VOLUME_ANGST)
    return [max(1, int(number)) for number in drawn]
