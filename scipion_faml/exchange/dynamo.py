"""Dynamo: a table (.tbl), a folder of particles (data/particle_00001.em), lists of tomograms.

With (R, t) of ours: R^T = Rz(narot) Rx(tilt) Rz(tdrot), (dx, dy, dz) = t in voxels. Columns 24 to
26 are the box's centre in voxels of the particles' size, the first voxel is 1; its centre voxel is
N / 2 + 1, counted from 1: our n // 2. `ftype` 1 is a single tilt about y with the beam along z;
columns 14 and 15 are its range in deg. (Dynamo wiki: "Table convention", "Euler angles
convention", "Volume center", "Table column convention".)
"""

from __future__ import annotations

from pathlib import Path

import dynamotable
import numpy as np
import pandas as pd

from scipion_faml.disk import replacing
from scipion_faml.exchange import conventions
from scipion_faml.exchange.table import (
    CLASS,
    HALF,
    NUMBER,
    PROBABILITY,
    SCORE,
    TILTS,
    Exported,
    build_table,
    column_or,
    image_names,
    not_held,
    numbers_of_particles,
    poses_of,
    positions_of,
    whole,
)
from scipion_faml.exchange.tomograms import (
    Tomograms,
    numbers_of,
    read_tomograms,
    write_table_map,
    write_volume_list,
)
from scipion_faml.exchange.volumes import place
from scipion_faml.star import to_numbers
from scipion_faml.tables import COORDINATES, ParticleTable
from scipion_faml.types import FloatArray

# Columns of ours that a table holds, and columns of Dynamo's with a meaning of their own here.
HELD = [CLASS, SCORE, PROBABILITY, *TILTS, HALF]
USED = {"tag", "dx", "dy", "dz", "tdrot", "tilt", "narot", "cc", "ftype", "ymintilt", "ymaxtilt",
        "tomo", "class", "x", "y", "z", "apix", "tomo_file"}
SINGLE_TILT_ABOUT_Y = 1


# ---------------------------------------------------------------------------------- exporting
def export_dynamo(
    table: ParticleTable, folder: Path, tomograms: Tomograms, mode: str, first_voxel: int = 1,
) -> Exported:
    """Write particles.tbl, particles.doc, tomograms.vll and data/particle_NNNNN.em below `folder`.

    Columns named dynamo... (kept by `import_dynamo`) go back to their places; halves go to column
    23 (annotation). `first_voxel` is the number of the tomogram's first voxel.
    """
    done = Exported()
    numbers = numbers_of_particles(table)
    names = [name or "tomogram" for name in table.tomogram_names]
    tomo = numbers_of(names, tomograms)
    angles, shift = conventions.dynamo_pose(poses_of(table))
    columns: dict[str, object] = {
        "tag": numbers, "aligned_value": 1, "averaged_value": 1,
        **dict(zip(("dx", "dy", "dz"), shift.T, strict=True)),
        **dict(zip(("tdrot", "tilt", "narot"), angles.T, strict=True)),
        "cc": column_or(table, [SCORE, PROBABILITY], 0.0), "tomo": tomo,
        "class": column_or(table, [CLASS], 1).astype(int), "apix": table.voxel_size_angst,
    }
    columns.update(_tilts(table))
    positions = positions_of(table, table.voxel_size_angst)
    if positions is not None:
        columns.update(zip("xyz", (positions + first_voxel).T, strict=True))
    columns.update(_own_columns(table))
    if HALF in table.rows:
        columns["annotation"] = table.rows[HALF].to_numpy()
        done.remarks.append("half-sets are in column 23 (annotation)")
    done.files["table"] = folder / "particles.tbl"
    with replacing(done.files["table"]) as temporary:
        dynamotable.write(pd.DataFrame(columns, index=range(len(table))), str(temporary))
    done.files["tomograms"] = folder / "particles.doc"
    write_table_map(done.files["tomograms"], names, tomo, tomograms)
    done.files["volume_list"] = folder / "tomograms.vll"
    write_volume_list(done.files["volume_list"], names, tomo, tomograms)
    volumes = image_names(table) if mode != "none" else None
    if volumes is not None:
        done.files["data"] = folder / "data"
        for name, number in zip(volumes, numbers, strict=True):
            place(name, folder / "data" / f"particle_{number:05d}", mode)
    held = [*HELD, *(c for c in table.rows if str(c).startswith("dynamo"))]
    done.not_held = not_held(table, held)
    return done


def _tilts(table: ParticleTable) -> dict[str, object]:
    """Columns that say how Fourier space was sampled."""
    low, high = (table.spread(name) for name in TILTS)
    if low is None or high is None:
        return {"ftype": 0}
    return {"ftype": SINGLE_TILT_ABOUT_Y, "ymintilt": low, "ymaxtilt": high}


def _own_columns(table: ParticleTable) -> dict[str, object]:
    """Dynamo's own columns that came with an import."""
    return {name: table.rows[column].to_numpy() for name, column in _kept_names().items()
            if column in table.rows}


def _kept_names() -> dict[str, str]:
    """Dynamo's columns that mean nothing here, and the names they are kept under."""
    from dynamotable.utils import COLUMN_NAMES

    return {name: "dynamo" + "".join(part.capitalize() for part in name.split("_"))
            for name in COLUMN_NAMES if name not in USED}


# ---------------------------------------------------------------------------------- importing
def import_dynamo(
    path: Path, tomograms: Tomograms, voxel_size_angst: float | None = None,
    tilts_deg: tuple[float, float] | None = None, data: Path | None = None,
    first_voxel: int = 1, with_volumes: bool = True,
) -> tuple[ParticleTable, list[str]]:
    """Return the particles of a Dynamo table, and remarks.

    Parameters
    ----------
    voxel_size_angst
        The default is column 36 (apix).
    tilts_deg
        Used in place of columns 14 and 15.
    data
        Folder of the particles; the default is `data` or the table's own folder.
    first_voxel
        Number of the tomogram's first voxel in columns 24 to 26.

    Raises
    ------
    OSError, ValueError
        If the table is missing or damaged, or no voxel size is known.
    """
    frame = read_table(path)
    tomograms = _with_table_map(path, tomograms)
    size = voxel_size_angst or float(frame["apix"].max() if "apix" in frame else 0.0)
    if not size > 0:
        raise ValueError(f"{path} has no voxel size (column 36): give --voxel-size")
    poses = conventions.from_dynamo(
        _numbers(frame, ["tdrot", "tilt", "narot"], path),
        _numbers(frame, ["dx", "dy", "dz"], path))
    tags, tomogram_numbers, classes = (
        whole(_numbers(frame, [name], path)[:, 0], name, path) for name in ("tag", "tomo", "class"))
    columns: dict[str, object] = {
        NUMBER: tags,
        "rlnTomoName": [tomograms.name_of(n) for n in tomogram_numbers.tolist()],
        SCORE: _numbers(frame, ["cc"], path)[:, 0],
    }
    if classes.min() > 0:
        columns[CLASS] = classes
    positions = _numbers(frame, ["x", "y", "z"], path)
    if np.any(positions):
        columns.update(zip(COORDINATES, (positions - first_voxel).T, strict=True))
    remarks = _remarks_about_sampling(frame, tilts_deg)
    for name, kept in _kept_names().items():
        values = to_numbers(frame[name]) if name in frame else np.zeros(1)
        if not np.isfinite(values).all():
            remarks.append(f"column {name} holds values that are no numbers: it is left out")
        elif np.any(values != 0):
            columns[kept] = values
    folder = _data_folder(path, data)
    if with_volumes and folder is not None:
        columns["rlnImageName"] = [_particle_file(folder, tag) for tag in tags.tolist()]
    return build_table(columns, poses, size, _tilt_ranges(frame, tilts_deg), path), remarks


def read_table(path: Path) -> pd.DataFrame:
    """Return a Dynamo table with its columns named as `dynamotable` does.

    Raises
    ------
    OSError, ValueError
        If it is missing or is no table.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        frame = dynamotable.read(str(path))
    except Exception as error:  # pandas lets many kinds through
        raise ValueError(
            f"{path} is not a readable Dynamo table ({error}): write it again") from error
    _check_lengths(path)
    if frame.shape[1] < 26:
        raise ValueError(f"{path} has {frame.shape[1]} columns, a Dynamo table has 35 or more: "
                         "choose its --format")
    return frame


def _check_lengths(path: Path) -> None:
    """Every line has as many numbers as the first; the library fills up those that are cut off."""
    lengths = [len(line.split()) for line in path.read_text().splitlines() if line.strip()]
    for line, length in enumerate(lengths, 1):
        if length != lengths[0]:
            raise ValueError(f"{path}: line {line} has {length} numbers, the first {lengths[0]}: "
                             "write it again")


def _numbers(frame: pd.DataFrame, names: list[str], path: Path) -> FloatArray:
    """Columns as numbers (N, M); the first that is none is named."""
    values = np.stack([to_numbers(frame[name]) for name in names], axis=1)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(f"{path}: line {row + 1}: {names[column]} is "
                         f"'{frame[names[column]].iloc[row]}', no number: correct it")
    return values


def _with_table_map(path: Path, tomograms: Tomograms) -> Tomograms:
    """The tomograms given, or those in the table map beside the table."""
    if tomograms.items:
        return tomograms
    for candidate in (Path(path).with_suffix(".doc"), *sorted(Path(path).parent.glob(
            "indices_column20*.doc"))):
        if candidate.is_file():
            return read_tomograms([candidate])
    return tomograms


def _data_folder(path: Path, data: Path | None) -> Path | None:
    """Where the particles lie, None where there are none."""
    if data is not None:
        if not Path(data).is_dir():
            raise FileNotFoundError(f"{data} does not exist")
        return Path(data)
    for folder in (Path(path).parent / "data", Path(path).parent):
        if any(folder.glob("particle_*")):
            return folder
    return None


def _particle_file(folder: Path, tag: int) -> str:
    """The file of a tag, whatever its padding and format."""
    for digits in (5, 6, 4, 7, 1):
        for suffix in (".em", ".mrc"):
            path = folder / f"particle_{tag:0{digits}d}{suffix}"
            if path.is_file():
                return str(path)
    raise FileNotFoundError(f"{folder} has no file of particle {tag} "
                            f"(particle_{tag:05d}.em): copy it, or add --volumes none")


def _tilt_ranges(
    frame: pd.DataFrame, tilts_deg: tuple[float, float] | None
) -> FloatArray | None:
    """Smallest and largest tilt of every particle, (N, 2), where known."""
    if tilts_deg is not None:
        return np.tile(tilts_deg, (len(frame), 1))
    ranges = np.stack([to_numbers(frame[name]) for name in ("ymintilt", "ymaxtilt")], axis=1)
    return ranges if np.all(ranges[:, 0] < ranges[:, 1]) else None


def _remarks_about_sampling(
    frame: pd.DataFrame, tilts_deg: tuple[float, float] | None
) -> list[str]:
    known = to_numbers(frame["ftype"])
    kinds = sorted({int(kind) for kind in np.clip(known[np.isfinite(known)], -1, 1000)}
                   - {0, SINGLE_TILT_ABOUT_Y})
    if kinds and tilts_deg is None:
        return [f"ftype {kinds[0]} is no single tilt about y: give --tilt-min and --tilt-max, or "
                "weight volumes"]
    return []
