"""MRC files as they are met: every header is checked before anything is read or allocated.

A header that lies about dimensions, byte order or kind of number ends in an error that names the
file; nothing is guessed from it but the order of bytes where the machine stamp says none.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.mrcinterpreter import MrcInterpreter
from numpy.typing import NDArray

from scipion_faml.disk import MAY_PASS

logger = logging.getLogger(__name__)

DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
NOT_A_VOLUME = {3: "complex numbers", 4: "complex numbers", 101: "4-bit numbers"}
VOLUME_STACKS = range(401, 631)  # ISPG
LARGEST_SIDE = 1 << 20  # voxels: of any tomogram there is, and far from what overflows
OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open}
BYTE_ORDERS = {(0x44, 0x44): "<", (0x44, 0x41): "<", (0x11, 0x11): ">"}  # of machine stamps


@dataclass(frozen=True)
class MrcHeader:
    """What a header says, checked. `stored_shape` and `axes` are as in the file."""

    stored_shape: tuple[int, int, int]  # sections, rows, columns
    axes: tuple[int, int, int]  # which axes of the file are z, y, x
    voxel_size_angst: float  # along x; 0 where it is not set
    dtype: np.dtype[Any]
    offset: int  # bytes before the first voxel

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        z, y, x = (self.stored_shape[axis] for axis in self.axes)
        return z, y, x

    @property
    def n_bytes(self) -> int:
        """Bytes of all voxels."""
        sections, rows, columns = self.stored_shape  # Python's whole numbers do not overflow
        return sections * rows * columns * self.dtype.itemsize


def read_header(path: Path | str) -> MrcHeader:
    """Return the header of an MRC file (also .gz, .bz2).

    Raises
    ------
    OSError, ValueError
        If the file is missing, no MRC volume, or shorter than its header says.
    """
    with _opened(path) as (handle, size):
        return _header(handle, size)


def read_data(path: Path | str) -> tuple[MrcHeader, NDArray[Any]]:
    """Return the header and the voxels [z, y, x], in the numbers of the file.

    Raises
    ------
    OSError, ValueError
        As `read_header`.
    """
    with _opened(path) as (handle, size):
        header = _header(handle, size)
        _skip(handle, header.offset - HEADER_DTYPE.itemsize)
        stored = _voxels(handle, header, size is not None)
    return header, stored.reshape(header.stored_shape).transpose(header.axes)


def map_data(path: Path | str) -> tuple[MrcHeader, NDArray[Any]]:
    """Return the header and the voxels [z, y, x] mapped into memory, read-only; not of .gz, .bz2.

    Raises
    ------
    OSError, ValueError
        As `read_header`.
    """
    header = read_header(path)
    stored = np.memmap(path, header.dtype, "r", header.offset, header.stored_shape)
    return header, stored.transpose(header.axes)


def can_be_mapped(path: Path | str) -> bool:
    """Whether `map_data` can read a file."""
    return Path(path).suffix not in OPENERS


def write(handle: IO[bytes], values: NDArray[Any], voxel_size_angst: float, label: str) -> None:
    """Write a volume [z, y, x] of int16 or float32 as an MRC file; its bytes tell no date.

    Raises
    ------
    OSError
        If the disk does not take it; with its error number, and nothing is left open.
    """
    mrc = MrcInterpreter()
    mrc._create_default_attributes()  # mrcfile's way to a stream that is only written
    mrc._iostream = handle
    try:
        mrc.set_data(np.asarray(values))
        mrc.voxel_size = voxel_size_angst
        mrc.header.label = ""
        mrc.header.label[0], mrc.header.nlabl = label, 1
        mrc.flush()
    finally:
        mrc._header = None  # or it tries again, in silence, when it is collected


@contextmanager
def _opened(path: Path | str) -> Iterator[tuple[IO[bytes], int | None]]:
    """The file to read from, and its bytes where they are not packed; every fault names it."""
    path = Path(path)
    try:
        if not path.is_file():
            is_folder = path.is_dir()
            raise FileNotFoundError(
                f"{path} is a folder: name a file in it" if is_folder else f"{path} does not exist")
        if path.suffix in OPENERS:
            with OPENERS[path.suffix](path) as handle:
                yield handle, None
        else:
            with open(path, "rb") as handle:
                yield handle, path.stat().st_size
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise PermissionError(f"{path} may not be read: check its permissions") from error
    except (ValueError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno in MAY_PASS:
            raise OSError(error.errno, f"{path} cannot be read ({error.strerror}): is its disk "
                          "there? Try again") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} is not a readable MRC file ({reason}): copy it again") from error
    except MemoryError as error:
        raise ValueError(
            f"{path} does not fit into the memory: bin or crop it, or use another machine"
        ) from error


def _exactly(handle: IO[bytes], n_bytes: int, what: str) -> bytes:
    content = handle.read(n_bytes)
    if len(content) < n_bytes:
        raise ValueError(f"it ends after {len(content)} of {n_bytes} bytes of {what}")
    return content


def _voxels(handle: IO[bytes], header: MrcHeader, is_long_enough: bool) -> NDArray[Any]:
    """All voxels, one after another; writable."""
    if not is_long_enough:  # packed: its header may promise more than there is
        return np.frombuffer(bytearray(_exactly(handle, header.n_bytes, "voxels")), header.dtype)
    return np.fromfile(handle, header.dtype, header.n_bytes // header.dtype.itemsize)


def _skip(handle: IO[bytes], n_bytes: int) -> None:
    if n_bytes:
        handle.seek(n_bytes, 1)


def _header(handle: IO[bytes], size: int | None) -> MrcHeader:
    """The header at the start of a file of `size` bytes (None: packed)."""
    content = _exactly(handle, HEADER_DTYPE.itemsize, "header")
    raw = np.frombuffer(content, HEADER_DTYPE)[0]
    if bytes(raw["map"])[:3] != b"MAP":
        raise ValueError("no MAP in its header")
    raw = np.frombuffer(content, HEADER_DTYPE.newbyteorder(_byte_order(raw["machst"], content)))[0]
    mode = int(raw["mode"])
    if mode not in DTYPES:
        raise ValueError(f"mode {mode}, {NOT_A_VOLUME.get(mode, 'unknown')}, is no density")
    dtype = np.dtype(DTYPES[mode]).newbyteorder(raw["mode"].dtype.byteorder)
    shape = int(raw["nz"]), int(raw["ny"]), int(raw["nx"])
    if not all(0 < n <= LARGEST_SIDE for n in shape):
        raise ValueError(f"its header says {shape[2]} x {shape[1]} x {shape[0]} voxels")
    _refuse_stacks(int(raw["ispg"]), shape, int(raw["mz"]))
    n_extended = int(raw["nsymbt"])
    if n_extended < 0:
        raise ValueError(f"its header says an extended header of {n_extended} bytes")
    header = MrcHeader(shape, _axes(raw), _voxel_size(raw), dtype,
                       HEADER_DTYPE.itemsize + n_extended)
    if size is not None:
        _check_length(header, size, getattr(handle, "name", ""))
    return header


def _byte_order(stamp: NDArray[Any], content: bytes) -> str:
    """The order of bytes by the machine stamp, or where it says none by the mode."""
    known = BYTE_ORDERS.get((int(stamp[0]), int(stamp[1])))
    if known is not None:
        return known
    for order in "<>":
        mode = int(np.frombuffer(content, HEADER_DTYPE.newbyteorder(order))[0]["mode"])
        if mode in DTYPES:
            return order
    return "<"


def _refuse_stacks(space_group: int, shape: tuple[int, int, int], mz: int) -> None:
    if space_group in VOLUME_STACKS and mz != shape[0]:
        raise ValueError(f"a stack of volumes (space group {space_group}), one volume is needed")


def _axes(raw: Any) -> tuple[int, int, int]:
    """Which axes of the file, sections, rows and columns, are z, y and x."""
    order = [int(raw[name]) for name in ("maps", "mapr", "mapc")]  # 1: x, 2: y, 3: z
    if order == [0, 0, 0]:  # not set
        return 0, 1, 2
    if sorted(order) != [1, 2, 3]:
        raise ValueError(f"its header names axes {order[::-1]}, not 1, 2 and 3")
    return order.index(3), order.index(2), order.index(1)


def _voxel_size(raw: Any) -> float:
    """Angstrom along x; 0 where the header says none, or nonsense."""
    length, count = float(raw["cella"]["x"]), int(raw["mx"])
    size = length / count if count > 0 else 0.0
    return size if np.isfinite(size) and size > 0 else 0.0


def _check_length(header: MrcHeader, size: int, name: str) -> None:
    """Refuse a file shorter than its header says; tell of one that is longer."""
    missing = header.offset + header.n_bytes - size
    if missing > 0:
        raise ValueError(
            f"{size} bytes, where its header says {header.offset + header.n_bytes}")
    if missing < 0:
        logger.debug("%s has %d bytes more than its header says", name, -missing)
