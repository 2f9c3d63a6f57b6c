"""MRC volumes: densities, labels and 3-D weights, with their voxel sizes.

Everything is written under a temporary name and renamed, so a reader never meets half a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scipion_faml import mrc
from scipion_faml.disk import replacing
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.volume import check_cube, check_volume

MRC_LABEL = "Created by scipion-faml".ljust(80)
SMALLEST_VOXEL, LARGEST_VOXEL = 1e-2, 1e4  # angstrom
VOXEL_SIZE_TOLERANCE = 0.01  # relative: headers store float32 and pixel sizes are quoted rounded


def write_volume(path: Path | str, volume: FloatArray, voxel_size_angst: float) -> None:
    """Write `volume` [z, y, x] as float32 MRC (a volume, ISPG 1) with its voxel size (angstrom)."""
    _write_mrc(path, np.ascontiguousarray(volume, dtype=np.float32), voxel_size_angst)


def write_labels(path: Path | str, labels: IntArray, voxel_size_angst: float) -> None:
    """Write whole numbers [z, y, x] >= 0 as MRC: int16 where they fit, else float32.

    MRC knows no longer whole numbers; float32 holds them exactly up to 16,777,216.
    """
    largest = int(labels.max(initial=0))
    if largest > 1 << 24:
        raise ValueError(f"{path}: label {largest} is too large for an MRC file")
    dtype = np.int16 if largest <= np.iinfo(np.int16).max else np.float32
    _write_mrc(path, np.ascontiguousarray(labels, dtype=dtype), voxel_size_angst)


def _write_mrc(path: Path | str, values: NDArray[Any], voxel_size_angst: float) -> None:
    """Write a volume whose bytes depend on its values and voxel size only."""
    with replacing(path) as temporary, open(temporary, "wb") as handle:
        mrc.write(handle, values, voxel_size_angst, MRC_LABEL)


def read_header(path: Path | str) -> tuple[tuple[int, int, int], float]:
    """Return the shape (z, y, x) and the voxel size (angstrom; 0 when unset) of an MRC file."""
    header = mrc.read_header(path)
    return header.shape, header.voxel_size_angst


def read_volume(path: Path | str) -> tuple[FloatArray, float]:
    """Return an MRC volume [z, y, x] as float32 and its voxel size (angstrom; 0 when unset).

    Raises
    ------
    OSError, ValueError
        If the file is missing, truncated or no MRC, or if the volume has NaN or is constant.
    """
    header, values = mrc.read_data(path)
    return check_volume(values, str(path)), header.voxel_size_angst


def read_cube(path: Path | str) -> tuple[FloatArray, float]:
    """Return `read_volume(path)` after checking that the volume is a cube."""
    volume, voxel_size_angst = read_volume(path)
    return check_cube(volume, str(path)), voxel_size_angst


def read_weight(path: Path | str) -> FloatArray:
    """Return a 3-D weight volume (n^3, DC at voxel n // 2) as (n, n, n // 2 + 1) float32.

    Raises
    ------
    ValueError
        If it is not a cube or has values outside [0, 1].
    """
    volume = read_cube(path)[0]
    if volume.min() < 0.0 or volume.max() > 1.0 + 1e-5:
        raise ValueError(
            f"{path} holds weights from {volume.min():g} to {volume.max():g}: scale them to [0, 1]"
        )
    n = volume.shape[0]
    return np.ascontiguousarray(np.fft.ifftshift(volume)[:, :, : n // 2 + 1])


def write_weight(path: Path | str, weight: FloatArray, voxel_size_angst: float) -> None:
    """Write weights (n, n, n // 2 + 1) as the whole centred volume n^3 that `read_weight` reads."""
    n = weight.shape[0]
    full = np.empty((n, n, n), dtype=np.float32)
    full[:, :, : n // 2 + 1] = weight
    # Friedel: w(-k) = w(k), and index -k of a length-n axis is (n - k) % n.
    minus = (-np.arange(n)) % n
    for kx in range(n // 2 + 1, n):
        full[:, :, kx] = weight[minus][:, minus][:, :, n - kx]
    write_volume(path, np.fft.fftshift(full), voxel_size_angst)
