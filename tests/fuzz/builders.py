"""Small valid inputs, and ways to spoil them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import starfile
from hypothesis import strategies as st

from scipion_faml.io import write_volume, write_weight
from scipion_faml.wedge import MissingWedge

BOX = 10
VOXEL_SIZE = 12.0


@contextmanager
def folder() -> Iterator[Path]:
    """A folder of one case."""
    path = Path(tempfile.mkdtemp(prefix="faml-fuzz-"))
    try:
        yield path
    finally:
        for locked in path.rglob("*"):
            if locked.is_dir() and not locked.is_symlink():
                locked.chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)


@lru_cache(maxsize=64)
def blob(seed: int, n: int = BOX) -> Any:
    """A volume of a few Gaussian blobs and noise, the same for a seed."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    volume = rng.normal(0.0, 0.3, (n, n, n))
    for centre in np.random.default_rng(99).uniform(-n / 5, n / 5, (4, 3)):
        volume += np.exp(-((x - centre[0])**2 + (y - centre[1])**2 + (z - centre[2])**2) / 4.0)
    volume = volume.astype(np.float32)
    volume.flags.writeable = False
    return volume


@lru_cache(maxsize=4)
def weights(n: int = BOX) -> Any:
    """A 3-D weight volume as in rlnCtfImage (n, n, n // 2 + 1)."""
    return MissingWedge(-60.0, 60.0).mask(n)


def particles(where: Path, count: int = 4, **columns: Any) -> tuple[Path, pd.DataFrame]:
    """A good table of particles with poses and classes: its path, and its rows."""
    where.mkdir(exist_ok=True)
    names = []
    for i in range(count):
        path = where / f"p{i + 1}.mrc"
        write_volume(path, blob(i), VOXEL_SIZE)
        names.append(path.name)
    rng = np.random.default_rng(5)
    rows = pd.DataFrame({
        "rlnImageName": names, "rlnTomoName": "t1", "rlnOpticsGroup": 1,
        "rlnCoordinateX": rng.uniform(10, 20, count), "rlnCoordinateY": rng.uniform(10, 20, count),
        "rlnCoordinateZ": rng.uniform(10, 20, count),
        "rlnAngleRot": rng.uniform(-180, 180, count), "rlnAngleTilt": rng.uniform(0, 180, count),
        "rlnAnglePsi": rng.uniform(-180, 180, count), "rlnOriginXAngst": 0.0,
        "rlnOriginYAngst": 0.0, "rlnOriginZAngst": 0.0,
        "rlnClassNumber": np.arange(count) % 2 + 1,
    }).assign(**columns)
    return write_table(where / "particles.star", rows), rows


def optics(**columns: Any) -> pd.DataFrame:
    """A block data_optics of one group."""
    return pd.DataFrame({
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["o1"], "rlnImagePixelSize": [VOXEL_SIZE],
        "rlnImageSize": [BOX], "famlTiltMin": [-60.0], "famlTiltMax": [60.0]}).assign(**columns)


def write_table(path: Path, rows: pd.DataFrame, groups: pd.DataFrame | None = None) -> Path:
    """Write a STAR table as any program may have."""
    starfile.write({"optics": optics() if groups is None else groups, "particles": rows}, path)
    return path


def tomogram(path: Path, shape: tuple[int, int, int] = (16, 32, 32)) -> Path:
    """A tomogram with three dark particles."""
    volume = np.random.default_rng(1).normal(0.0, 0.2, shape).astype(np.float32)
    for centre in ((8, 10, 10), (8, 20, 20), (7, 10, 22)):
        box = tuple(slice(c - 5, c + 5) for c in centre)
        volume[box] -= blob(0)[: volume[box].shape[0]]
    write_volume(path, volume, VOXEL_SIZE)
    return path


def picks(path: Path) -> Path:
    """Positions of the particles of `tomogram`."""
    rows = pd.DataFrame({
        "rlnTomoName": path.stem, "rlnCoordinateX": [10.0, 20.0, 22.0],
        "rlnCoordinateY": [10.0, 20.0, 10.0], "rlnCoordinateZ": [8.0, 8.0, 7.0],
        "rlnOpticsGroup": 1, "rlnClassNumber": [1, 2, 1], "famlScore": [3.0, 2.0, 1.0]})
    return write_table(path, rows)


# --------------------------------------------------------------------------------- hostile values
NUMBERS = [0, -1, 1, 2, 3, 7, 255, 32767, 65536, 2**31 - 1, -2**31, 10**9]
HOSTILE_FLOATS = [float("nan"), float("inf"), float("-inf"), 0.0, -0.0, -1.0, 1e-30, -1e-30, 1e-3,
                  1e30, 3e38, -3e38, 1e300, 90.0, -90.0, 91.0, 180.0, 12.0]
HOSTILE_TEXTS = [
    "", "nan", "<NA>", "text", "1e400", "0x10", "1,5", "../p1.mrc", "/etc/passwd", "p1.mrc\x00",
    "ä—中文.mrc", "a b.mrc", "'", '"', "$(touch x)", "; rm -rf x", "`id`",
    "<script>alert(1)</script>", "%s%n", "{0}", "000001@p1.mrc", "~", ".", "..", "x" * 300, "None",
    "-1", "1@2@3", "\\", "|", "*"]
hostile_floats = st.one_of(st.sampled_from(HOSTILE_FLOATS), st.floats(), st.floats(-200, 200))
hostile_texts = st.one_of(
    st.sampled_from(HOSTILE_TEXTS), st.text(max_size=12),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12))


# ------------------------------------------------------------------------------------ MRC files
class Content(bytes):
    """Bytes of a file; hypothesis prints what it draws."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


HEADER = mrcfile.dtypes.HEADER_DTYPE
FIELDS = [name for name in HEADER.names if name not in ("extra1", "extra2")]


def good_header(shape: tuple[int, ...], voxel_size: float = VOXEL_SIZE) -> Any:
    """The header of a volume of float32."""
    header = np.zeros((), HEADER).view(np.recarray)
    header.nz, header.ny, header.nx = header.mz, header.my, header.mx = shape
    header.mode, header.map, header.machst = 2, b"MAP ", [0x44, 0x44, 0, 0]
    for axis, n in zip("zyx", shape, strict=True):
        header.cella[axis] = n * voxel_size
    header.cellb.alpha = header.cellb.beta = header.cellb.gamma = 90.0
    header.mapc, header.mapr, header.maps, header.ispg, header.nversion = 1, 2, 3, 1, 20140
    return header


def write_raw(path: Path, values: Any, voxel_size: float = VOXEL_SIZE) -> None:
    """Write a volume whatever it holds."""
    values = np.asarray(values, dtype="<f4")
    path.write_bytes(good_header(values.shape, voxel_size).tobytes() + values.tobytes())


@st.composite
def mrc_bytes(draw: Any, n: int = BOX) -> bytes:
    """An MRC file with some fields, values or its length spoilt."""
    data = np.array(blob(draw(st.integers(0, 3)), n))
    header = good_header(data.shape)
    for _ in range(draw(st.integers(0, 3))):
        _spoil(draw, header)
    values = data.astype(draw(st.sampled_from(["<f4"] * 6 + [
        "<i2", "<u2", "i1", "<f2", ">f4", "<c8", "<f8"])))
    if values.dtype.kind == "f":
        for _ in range(draw(st.integers(0, 2))):
            _spoil_values(draw, values)
    if draw(st.integers(0, 5)) == 0:
        header.mode = {"f4": 2, "i2": 1, "u2": 6, "i1": 0, "f2": 12, "c8": 4}.get(
            values.dtype.str[1:], 2)
    extended = draw(st.sampled_from([b"", b"", b"", b"\0" * 80, b"SERI" * 256]))
    if extended:
        header.nsymbt = len(extended)
        header.exttyp = draw(st.sampled_from([b"FEI1", b"CCP4", b"SERI", b"\xff\xff\xff\xff"]))
    whole = header.tobytes() + extended + values.tobytes()
    if draw(st.integers(0, 7)) == 0:
        whole = whole[: draw(st.integers(0, len(whole)))]
    return Content(whole + b"\0" * draw(st.sampled_from([0, 0, 0, 0, 0, 1, 512])))


def _spoil(draw: Any, header: Any) -> None:
    """Put a hostile value into a field."""
    field = draw(st.sampled_from(FIELDS))
    kind = HEADER[field]
    if kind.names:
        field_of = draw(st.sampled_from(kind.names))
        with np.errstate(over="ignore"):
            header[field][field_of] = np.float32(draw(hostile_floats))
    elif kind.base.kind in "iu":
        limits = np.iinfo(kind.base)
        value = draw(st.one_of(
            st.sampled_from(NUMBERS), st.integers(int(limits.min), int(limits.max))))
        value = min(max(value, int(limits.min)), int(limits.max))
        header[field] = np.full(kind.shape, value, kind.base)
    elif kind.base.kind == "f":
        with np.errstate(over="ignore"):
            header[field] = np.full(kind.shape, np.float32(draw(hostile_floats)))
    else:
        header[field] = np.full(kind.shape, draw(st.binary(min_size=1, max_size=4)), kind.base)


def _spoil_values(draw: Any, values: Any) -> None:
    """Make some or all voxels hostile."""
    value = draw(hostile_floats)
    with np.errstate(over="ignore", invalid="ignore"):
        if draw(st.booleans()):
            values.flat[draw(st.integers(0, values.size - 1))] = value
        elif draw(st.booleans()):
            values[...] = value
        else:
            np.multiply(values, value, out=values, casting="unsafe")


def weight_file(path: Path, n: int = BOX) -> Path:
    """A good 3-D weight volume."""
    write_weight(path, weights(n), VOXEL_SIZE)
    return path
