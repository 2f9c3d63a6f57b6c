"""Subtomograms in other packages' folders: linked, copied or converted; EM and EMAN HDF read."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import emfile
import numpy as np

from scipion_faml.disk import replacing
from scipion_faml.io import read_header, read_volume, write_volume
from scipion_faml.types import FloatArray
from scipion_faml.volume import check_cube

MODES = ("link", "copy", "convert", "none")
EM_SUFFIXES = {".em", ".emgz"}
HDF_SUFFIXES = {".hdf", ".h5"}
_NO_TEXT = {"comment": "", "username": "", "date": "", "userdata": ""}


# ------------------------------------------------------------------------------------ placing
def place(source: Path | str, target: Path, mode: str) -> Path:
    """Put the MRC volume `source` at `target` without its suffix; return what was written.

    `mode` is link (a relative symbolic link to the MRC file), copy (of it) or convert (to EM,
    which holds no voxel size).
    """
    source = Path(source)
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist")
    if mode == "convert":
        path = target.with_name(target.name + ".em")
        write_em(path, read_volume(source)[0])
        return path
    path = target.with_name(target.name + source.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.unlink(missing_ok=True)
        if mode == "copy":
            shutil.copyfile(source, temporary)
        else:
            folder = path.parent.resolve()
            temporary.symlink_to(os.path.relpath(source.resolve(), folder))
    return path


# ----------------------------------------------------------------------------------------- EM
def write_em(path: Path, array: FloatArray) -> None:
    """Write an array [z, y, x] as float32 EM file."""
    with replacing(path) as temporary:
        emfile.write(
            temporary, np.ascontiguousarray(array, dtype=np.float32), header_params=_NO_TEXT)


def read_em(path: Path | str) -> FloatArray:
    """Return the array [z, y, x] of an EM file (also .gz).

    Raises
    ------
    OSError, ValueError
        If the file is missing, truncated or no EM file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    if path.suffix == ".gz":
        with tempfile.TemporaryDirectory() as folder:
            unpacked = Path(folder) / path.stem
            with gzip.open(path) as packed:
                unpacked.write_bytes(packed.read())
            return read_em(unpacked)
    try:
        array = emfile.read(path)[1]
    except (struct.error, ValueError, KeyError, MemoryError) as error:
        raise ValueError(f"{path} is not a readable EM file ({error}): copy it again") from error
    return np.asarray(array)


# ------------------------------------------------------------------------------------ EMAN HDF
def read_eman_hdf(path: Path | str, index: int) -> tuple[FloatArray, float]:
    """Return image `index` (from 0) [z, y, x] of an EMAN2 HDF stack, and its voxel size (angstrom).

    Integers that EMAN2 stored with reduced bits are brought back to their range
    (EMAN.stored_rendermin, rendermax and renderbits).
    """
    try:
        import h5py
    except ImportError as error:
        raise ValueError(f"{path} is an HDF file: pip install h5py, or convert it to MRC "
                         "(e2proc3d.py)") from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with h5py.File(path, "r") as file:
            image = file[f"/MDF/images/{index}"]
            stored, attributes = image["image"][()], dict(image.attrs)
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} has no EMAN2 image {index} ({error})") from error
    volume = np.asarray(stored, dtype=np.float32)
    bits = int(_number(attributes.get("EMAN.stored_renderbits", 0)))
    if bits > 0:
        low, high = (_number(attributes.get(f"EMAN.stored_render{end}", 0.0))
                     for end in ("min", "max"))
        if high > low:
            volume = volume / ((1 << bits) - 1) * (high - low) + low
    return volume, _number(attributes.get("EMAN.apix_x", 0.0))


def _number(value: Any) -> float:
    return float(np.ravel(value)[0])


# ------------------------------------------------------------------------------------ importing
def as_mrc(source: str, index: int, target: Path, voxel_size_angst: float | None) -> str:
    """Return the path of an imported volume as MRC: itself if it is one, else `target`, written.

    `index` (from 0) counts volumes in a stack; `voxel_size_angst` goes into the header.
    """
    suffix = Path(source).suffix.lower()
    if suffix in EM_SUFFIXES or source.lower().endswith(".em.gz"):
        volume, in_header = read_em(source), 0.0
    elif suffix in HDF_SUFFIXES:
        volume, in_header = read_eman_hdf(source, index)
    else:
        (nz, ny, nx), in_header = read_header(source)
        if nz == ny == nx:
            return str(Path(source).resolve())
        return _from_stack(source, index, target, voxel_size_angst or in_header)
    size = voxel_size_angst or in_header
    if not size > 0:
        raise ValueError(f"{source} has no voxel size: give --voxel-size")
    write_volume(target, check_cube(volume.astype(np.float32), source), size)
    return str(target.resolve())


def _from_stack(source: str, index: int, target: Path, voxel_size_angst: float) -> str:
    """Volume `index` of cubes that lie behind each other along z in one MRC file."""
    stack = read_volume(source)[0]
    nz, ny, nx = stack.shape
    if ny != nx or nz % ny or index >= nz // ny:
        raise ValueError(f"{source} has shape {stack.shape} (z, y, x): no volume {index} of a "
                         "stack of cubes")
    if not voxel_size_angst > 0:
        raise ValueError(f"{source} has no voxel size: give --voxel-size")
    write_volume(target, stack[index * ny:(index + 1) * ny], voxel_size_angst)
    return str(target.resolve())


def header_voxel_size(paths: Sequence[str]) -> float:
    """Return the voxel size (angstrom) in the header of the first MRC file, or 0."""
    for path in paths[:1]:
        if Path(path).is_file() and Path(path).suffix.lower() in {".mrc", ".map", ".rec"}:
            return read_header(path)[1]
        if Path(path).is_file() and Path(path).suffix.lower() in HDF_SUFFIXES:
            return read_eman_hdf(path, 0)[1]
    return 0.0
