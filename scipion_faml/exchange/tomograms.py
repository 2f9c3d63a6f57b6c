"""Names, numbers and sizes of tomograms: what tables of other packages leave out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from scipion_faml import star
from scipion_faml.disk import replacing
from scipion_faml.io import read_header
from scipion_faml.paths import check_inside
from scipion_faml.types import FloatArray, IntArray

MRC_SUFFIXES = {".mrc", ".map", ".rec", ".st"}
LISTS = {".doc", ".txt"}


@dataclass(frozen=True)
class Tomogram:
    """One tomogram: its size and voxel size are unset where nothing tells them."""

    name: str
    number: int
    size_xyz: tuple[int, int, int] | None = None
    voxel_size_angst: float = 0.0
    path: str = ""


@dataclass(frozen=True)
class Tomograms:
    """The tomograms of a data set."""

    items: tuple[Tomogram, ...] = ()
    source: str = ""
    by_name: dict[str, Tomogram] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item in self.items:
            if item.name in self.by_name:
                raise ValueError(
                    f"{self.source}: two tomograms are named {item.name}: leave one out")
            self.by_name[item.name] = item

    def find(self, name: str) -> Tomogram | None:
        """Return the tomogram of a name, or of a file's name or stem."""
        return self.by_name.get(name) or self.by_name.get(Path(name).stem)

    def name_of(self, number: int) -> str:
        """Return the name of a tomogram's number; without a list it is tomogram_NUMBER."""
        for item in self.items:
            if item.number == number:
                return item.name
        if self.items:
            raise ValueError(f"{self.source} has no tomogram number {number}: add it")
        return f"tomogram_{number:03d}"

    def sizes_of(self, names: Sequence[str], needed_for: str) -> FloatArray:
        """Return the size (x, y, z) of each named tomogram, (N, 3) voxels.

        Raises
        ------
        ValueError
            If one is unknown; `needed_for` says why it is needed.
        """
        found = {name: self.find(name) for name in set(names)}
        for name, item in sorted(found.items()):
            if item is None or item.size_xyz is None:
                raise ValueError(
                    f"the size of tomogram {name or '(no name)'} is needed for {needed_for}: give "
                    "--tomograms, a RELION tomograms.star or the tomograms' MRC files"
                )
        sizes = {name: item.size_xyz for name, item in found.items() if item is not None}
        return np.array([sizes[name] for name in names], dtype=float).reshape(-1, 3)


def numbers_of(names: Sequence[str], tomograms: Tomograms) -> IntArray:
    """Return a number >= 1 for each name: from the list, the digits it ends in, or by order."""
    unique = list(dict.fromkeys(names))
    listed = [tomograms.find(name) for name in unique]
    ending = [re.search(r"(\d+)$", Path(name).stem) for name in unique]
    digits = [int(match.group(1)) if match else 0 for match in ending]
    if all(item is not None for item in listed):
        numbers = [item.number for item in listed if item is not None]
    elif all(0 < d < 1_000_000 for d in digits) and len(set(digits)) == len(digits):
        numbers = digits
    else:
        numbers = list(range(1, len(unique) + 1))
    number_of = dict(zip(unique, numbers, strict=True))
    return np.array([number_of[name] for name in names], dtype=np.intp)


# ------------------------------------------------------------------------------------ reading
def read_tomograms(paths: Sequence[Path]) -> Tomograms:
    """Return the tomograms of RELION tomograms.star, Dynamo .doc / .vll lists or MRC files.

    Raises
    ------
    OSError, ValueError
        If a file is missing or of none of these kinds.
    """
    items: list[Tomogram] = []
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist")
        suffix = Path(path).suffix.lower()
        try:
            items += _of_any(Path(path), suffix, len(items))
        except (UnicodeDecodeError, OverflowError, TypeError) as error:
            raise ValueError(
                f"{path} is not a readable list of tomograms ({error}): write it again") from error
    return Tomograms(tuple(items), ", ".join(str(p) for p in paths))


def _of_any(path: Path, suffix: str, n_before: int) -> list[Tomogram]:
    """The tomograms of a file of any kind."""
    if suffix == ".star":
        return _of_relion(path, n_before)
    if suffix == ".vll":
        return _of_volume_list(path)
    if suffix in LISTS:
        return _of_table_map(path)
    if suffix in MRC_SUFFIXES:
        return [_of_file(str(path), n_before + 1)]
    raise ValueError(f"{path} is no list of tomograms: give a RELION tomograms.star, a Dynamo .doc "
                     "or .vll, or MRC files")


def _of_file(path: str, number: int, folder: Path | None = None) -> Tomogram:
    """A tomogram known by its file, whose header tells the size where it can be read."""
    name = Path(path).stem
    for candidate in (Path(path), (folder or Path()) / path):
        if candidate.is_file() and candidate.suffix.lower() in MRC_SUFFIXES:
            if folder is not None:
                check_inside(path, candidate, folder / "list")
            (nz, ny, nx), voxel_size = read_header(candidate)
            return Tomogram(name, number, (nx, ny, nz), voxel_size, str(candidate.resolve()))
    return Tomogram(name, number, path=path)


def _of_relion(path: Path, n_before: int) -> list[Tomogram]:
    """Tomograms of RELION's tomogram set: the block data_global of RELION 4 and 5."""
    blocks = star.read(path)
    table = blocks.get("global", next(iter(blocks.values()), None))
    if isinstance(table, dict):
        table = pd.DataFrame([table])
    if table is None or "rlnTomoName" not in table:
        raise ValueError(f"{path} names no tomograms (rlnTomoName): give RELION's tomograms.star")
    sizes = ["rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ"]
    items = []
    for number, row in enumerate(table.to_dict("records"), n_before + 1):
        size = None
        if set(sizes) <= set(row):
            size = (int(row[sizes[0]]), int(row[sizes[1]]), int(row[sizes[2]]))
        items.append(Tomogram(
            str(row["rlnTomoName"]), number, size,
            float(row.get("rlnTomoTiltSeriesPixelSize", 0.0)),
            str(row.get("rlnTomoReconstructedTomogram", ""))))
    return items


def _of_table_map(path: Path) -> list[Tomogram]:
    """Tomograms of Dynamo's table map: number and file in each line."""
    items = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split(maxsplit=1)
        if not words:
            continue
        if len(words) != 2 or not words[0].isdecimal():
            raise ValueError(
                f"{path}: line {number} is '{line[:60]}', not a number and a file: correct it")
        items.append(_of_file(words[1].strip(), int(words[0]), path.parent))
    return items


def _of_volume_list(path: Path) -> list[Tomogram]:
    """Tomograms of a Dynamo volume list: a file in each line, `* index = N` below it."""
    files: list[tuple[str, int]] = []
    for line in path.read_text().splitlines():
        text = line.strip()
        index = re.fullmatch(r"\*\s*index\s*=\s*(\d+)", text)
        if index and files:
            files[-1] = (files[-1][0], int(index.group(1)))
        elif text and text[0] not in "#*>!":
            files.append((text, len(files) + 1))
    return [_of_file(name, number, path.parent) for name, number in files]


# ------------------------------------------------------------------------------------ writing
def write_table_map(path: Path, names: Sequence[str], numbers: IntArray,
                    tomograms: Tomograms) -> None:
    """Write Dynamo's table map: number and file (or name) of every tomogram of the particles."""
    with replacing(path) as temporary:
        temporary.write_text("".join(
            f"{number} {_file_of(name, tomograms)}\n" for number, name in _pairs(names, numbers)))


def write_volume_list(path: Path, names: Sequence[str], numbers: IntArray,
                      tomograms: Tomograms) -> None:
    """Write a Dynamo volume list (.vll) of the particles' tomograms."""
    lines = []
    for number, name in _pairs(names, numbers):
        item = tomograms.find(name)
        lines += [_file_of(name, tomograms), f"* label = {name}", f"* index = {number}"]
        if item is not None and item.voxel_size_angst > 0:
            lines.append(f"* apix = {item.voxel_size_angst:g}")
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _pairs(names: Sequence[str], numbers: IntArray) -> list[tuple[int, str]]:
    return sorted({(int(n), name) for n, name in zip(numbers, names, strict=True)})


def _file_of(name: str, tomograms: Tomograms) -> str:
    item = tomograms.find(name)
    return item.path if item is not None and item.path else name or "unknown"
