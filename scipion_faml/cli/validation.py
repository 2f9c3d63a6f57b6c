"""What the verbs that judge results without a truth share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from scipion_faml.cli.tomograms import FILE
from scipion_faml.disk import replacing
from scipion_faml.io import read_cube, read_weight
from scipion_faml.plots import png_bytes
from scipion_faml.sources import wedges_of
from scipion_faml.tables import ParticleTable
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.wedge import MissingWedge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
KEPT_WEIGHTS = 4  # weight volumes that neighbours in a table share

figure_option = click.option(
    "--figure", default=None, type=FILE, help="Write the main picture to this PNG file.")


def write_figure(path: Path | None, function: Callable[..., Figure], *arguments: Any) -> None:
    """Write the picture that `function(*arguments)` returns, where one is wanted."""
    if path is None:
        return
    with replacing(path) as temporary:
        temporary.write_bytes(png_bytes(function(*arguments), DPI))


def rows_of_class(table: ParticleTable, number: int | None) -> IntArray:
    """Return the rows of a class (from 1), all rows where none is asked for.

    Raises
    ------
    ValueError
        If the table has no such class.
    """
    if number is None:
        return np.arange(len(table))
    rows = np.flatnonzero(table.class_index == number - 1)
    if not len(rows):
        known = np.unique(table.class_index + 1).tolist()
        raise ValueError(f"{table.path} has no particle of class {number}: choose --class "
                         f"{known[0]} to {known[-1]}")
    return rows


def classes_in(table: ParticleTable, number: int | None) -> dict[int, IntArray]:
    """Return the rows of every class by its number; 1 for all where there are no classes."""
    if number is not None:
        return {number: rows_of_class(table, number)}
    if "rlnClassNumber" not in table.rows:
        return {1: np.arange(len(table))}
    found = table.class_index
    return {int(k) + 1: np.flatnonzero(found == k) for k in np.unique(found)}


def run_record(folder: Path) -> dict[str, Any]:
    """Return the record of a finished run, {} where the folder has none that can be read."""
    try:
        record = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def read_mask(path: Path | str, n: int) -> FloatArray:
    """Return a mask in a box of n.

    Raises
    ------
    ValueError
        If its box differs or it has values below 0.
    """
    weight = read_cube(path)[0]
    if weight.shape[0] != n:
        raise ValueError(f"{path} has a box of {weight.shape[0]}, the map {n}: give one of {n}")
    if weight.min() < 0:
        raise ValueError(f"{path} has values below 0 ({weight.min():g}): a mask lies in 0 to 1, "
                         "scale it")
    return weight


def common_voxel_size(files: Sequence[Path], sizes: Sequence[float], what: str) -> float:
    """Return the voxel size (angstrom) of maps that must share it; `what` they must be."""
    known = [s for s in sizes if s > 0]
    names = [str(f) for f in files]
    if not known:
        raise ValueError(f"{' and '.join(names)}: no voxel size in the header: set it")
    if max(known) > min(known) * 1.01:
        raise ValueError(f"{names[0]} has voxels of {sizes[0]:g} A, {names[1]} of {sizes[1]:g} A: "
                         f"they must be {what}")
    return known[0]


def weights_of(table: ParticleTable, rows: IntArray) -> Iterator[MissingWedge | FloatArray]:
    """Yield the tilt ranges of some rows, or their weights where files hold them."""
    every = wedges_of(table)
    read = lru_cache(maxsize=KEPT_WEIGHTS)(read_weight)
    for i in rows:
        one = every[i]
        yield one if isinstance(one, MissingWedge) else read(one)
