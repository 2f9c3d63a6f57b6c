"""Volumes of Scipion's items as MRC files, and files as Scipion's maps and models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pwem.constants import NO_INDEX
from pwem.emlib.image import ImageHandler
from pwem.objects import AtomStruct, Volume
from tomo.objects import SubTomogram, Tomogram

from scipion_faml.io import VOXEL_SIZE_TOLERANCE, read_header, read_volume, write_volume
from scipion_faml.structures import MODEL_SUFFIXES

MRC_SUFFIXES = {".mrc", ".map", ".rec", ".mrcs", ".ccp4"}


def mrc_file(item: SubTomogram | Tomogram, converted: Path | str) -> str:
    """Return the path of the item's volume as MRC; stacks and other formats become `converted`."""
    index, name = item.getLocation()
    name = name.removesuffix(":mrc").removesuffix(":mrcs")
    if not Path(name).is_file():
        raise FileNotFoundError(f"{name} does not exist")
    in_stack = index not in (None, NO_INDEX) and not (index == 1 and _is_one_volume(name))
    if Path(name).suffix.lower() in MRC_SUFFIXES and not in_stack:
        return str(Path(name).resolve())
    target = Path(converted)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _convert((index if in_stack else NO_INDEX, name), target, item.getSamplingRate())
    except Exception as error:  # xmippLib raises its own exception type
        where = f"volume {index} of {name}" if in_stack else name
        raise ValueError(f"{where} cannot be converted to MRC ({error})") from error
    return str(target.resolve())


def map_file(item: Volume, converted: Path | str) -> str:
    """Return the path of a map as MRC whose header tells the voxel size Scipion gives it."""
    path = mrc_file(item, converted)
    voxel_size = float(item.getSamplingRate())
    in_header = read_header(path)[1]
    if in_header > 0 and abs(in_header / voxel_size - 1) < VOXEL_SIZE_TOLERANCE:
        return path
    target = Path(converted)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_volume(target, read_volume(path)[0], voxel_size)
    return str(target.resolve())


def structure_of_file(
    path: Path | str, voxel_size_angst: float | None = None
) -> AtomStruct | Volume:
    """Return an atomic model or a map by its file; a map has the voxel size given, or its own.

    Raises
    ------
    ValueError, OSError
        If the file is gone, or cannot be read as a map.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    if Path(path.name.lower().removesuffix(".gz")).suffix in MODEL_SUFFIXES:
        return AtomStruct(filename=str(path))
    in_header = read_header(path)[1]
    found = Volume()
    found.setFileName(str(path))
    found.setSamplingRate(voxel_size_angst or in_header)
    return found


def half_maps(item: Volume) -> tuple[str, str] | None:
    """Return the files of an average's half maps: its own, or those beside it; None if none."""
    names = [n for n in (item.getHalfMaps() or "").split(",") if n]
    if len(names) != 2:
        # The representative of a class knows none, but our runs write them beside it.
        path = Path(item.getFileName() or "")
        stem = "" if path.stem == "average" else f"{path.stem}_"
        names = [str(path.with_name(f"{stem}half{h}.mrc")) for h in (1, 2)]
    return (names[0], names[1]) if all(Path(n).is_file() for n in names) else None


def _is_one_volume(name: str) -> bool:
    """Whether an MRC file holds a single volume, so that index 1 means all of it."""
    if Path(name).suffix.lower() not in MRC_SUFFIXES:
        return False
    (nz, ny, _), _ = read_header(name)
    return nz == ny


def _convert(location: tuple[int, str], target: Path, voxel_size_angst: float) -> None:
    """Write one volume in any format Scipion reads as MRC with its voxel size."""
    image = ImageHandler().read(location)
    data = np.squeeze(np.asarray(image.getData(), dtype=np.float32))
    write_volume(target, data, voxel_size_angst)
