"""EMAN2: particle_parms_NN.json of e2spt_refine, and .lst files of the newer e2spt programs.

With (R, t) of ours `xform.align3d` = [R^T | -R^T t], 12 numbers by rows: it takes the particle onto
the reference, shifts in voxels after the rotation, about voxel n // 2. It is Scipion's matrix. A
score is better when smaller. Halves: `eo` in a JSON file, `class` in a .lst, 0 even and 1 odd.
Positions: `coord`, voxels from the tomogram's centre (size // 2); EMAN2's own count unbinned ones.
Both files take any further key, so the other columns of a table go with it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scipion_faml.disk import replacing
from scipion_faml.exchange import conventions
from scipion_faml.exchange.table import (
    COORDINATE_SIZE,
    HALF,
    NUMBER,
    PROBABILITY,
    SCORE,
    STACK_INDEX,
    TILTS,
    Exported,
    build_table,
    column_or,
    coordinate_size_angst,
    image_names,
    numbers_of_particles,
    poses_of,
    positions_of,
)
from scipion_faml.exchange.tomograms import Tomograms
from scipion_faml.exchange.volumes import HDF_SUFFIXES, place, read_eman_hdf
from scipion_faml.io import read_header
from scipion_faml.paths import check_inside
from scipion_faml.tables import ANGLES, COORDINATES, ORIGINS, ParticleTable
from scipion_faml.types import FloatArray

LIST, PARAMETERS, ALIGNED = "ptcls.lst", "particle_parms_01.json", "aliptcls3d_01.lst"
COMMENT = ("# This file is in fast LST format. All lines after the next line have exactly the "
           "number of characters shown on the next line. This MUST be preserved if editing.")
# Not written as keys: EMAN's own names say them.
SAID = {*ANGLES, *ORIGINS, *COORDINATES, SCORE, HALF, "rlnImageName", "rlnCtfImage",
        "rlnOpticsGroup", NUMBER}
TRANSFORM, PREFIXES = "xform.align3d", ("rln", "faml")


# ---------------------------------------------------------------------------------- exporting
def export_eman(
    table: ParticleTable, folder: Path, tomograms: Tomograms, mode: str
) -> Exported:
    """Write ptcls.lst, particle_parms_01.json and aliptcls3d_01.lst below `folder`.

    The lists name the volumes relative to `folder`: start EMAN2 there.
    """
    names = image_names(table) if mode != "none" else None
    if names is None:
        raise ValueError("EMAN2's files list volumes: export particles that have some, with "
                         "--volumes link or copy")
    done = Exported()
    numbers = numbers_of_particles(table)
    volumes = [
        str(place(name, folder / "subtomograms" / f"particle_{number:06d}", mode)
            .relative_to(folder))
        for name, number in zip(names, numbers, strict=True)
    ]
    keys = _own_keys(table)
    centred = _centred(table, tomograms, done)
    matrices = conventions.eman_matrices(poses_of(table))
    scores = -column_or(table, [SCORE, PROBABILITY], 0.0)
    halves = np.asarray(column_or(table, [HALF], 1), dtype=int) - 1
    parameters, aligned = {}, []
    for i, matrix in enumerate(matrices):
        entry = {TRANSFORM: {"__class__": "Transform", "matrix": str([float(v) for v in matrix])},
                 "score": float(scores[i]), **keys[i]}
        if centred is not None:
            entry["coord"] = [float(v) for v in centred[i]]
        json_entry = {**entry, "coverage": 1.0}
        if HALF in table.rows:
            json_entry["eo"] = int(halves[i])
            entry["class"] = int(halves[i])
        parameters[f"('{LIST}', {i})"] = json_entry
        aligned.append(json.dumps(entry, sort_keys=True, separators=(",", ":")))
    for name, file in (("list", LIST), ("parameters", PARAMETERS), ("aligned", ALIGNED)):
        done.files[name] = folder / file
    _write_list(folder / LIST, volumes, [""] * len(volumes))
    _write_list(folder / ALIGNED, volumes, aligned)
    with replacing(folder / PARAMETERS) as temporary:
        temporary.write_text(json.dumps(parameters, indent=0, sort_keys=True))
    if "rlnCtfImage" in table.rows:
        done.not_held = ["rlnCtfImage"]
    return done


def _own_keys(table: ParticleTable) -> list[dict[str, Any]]:
    """Every other column, as keys of the particles (tilt ranges and voxel sizes too)."""
    rows = table.rows.drop(columns=[c for c in table.rows if c in SAID])
    for name in (*TILTS, COORDINATE_SIZE):
        values = table.spread(name)
        if values is not None:
            rows = rows.assign(**{name: values})
    rows = rows.assign(**{NUMBER: numbers_of_particles(table)})
    return [{str(k): v.item() if isinstance(v, np.generic) else v for k, v in row.items()
             if isinstance(v, (str, int, float, np.generic)) and v == v}
            for row in rows.to_dict("records")]


def _centred(
    table: ParticleTable, tomograms: Tomograms, done: Exported
) -> FloatArray | None:
    """Positions from the tomograms' centres, in their voxels, where sizes are known."""
    positions = positions_of(table, coordinate_size_angst(table))
    if positions is None:
        return None
    if not tomograms.items:
        done.not_held.append("positions (give --tomograms: EMAN2 counts from their centres)")
        return None
    sizes = tomograms.sizes_of(table.tomogram_names, "EMAN2's centred coordinates")
    return np.asarray(positions - sizes // 2)


def _write_list(path: Path, volumes: Sequence[str], comments: Sequence[str]) -> None:
    """A .lst file: its third line tells the length of all lines after it."""
    lines = [f"0\t{volume}" + (f"\t{comment}" if comment else "")
             for volume, comment in zip(volumes, comments, strict=True)]
    length = max(map(len, lines)) + 1
    body = "".join(line.ljust(length - 1) + "\n" for line in lines)
    with replacing(path) as temporary:
        temporary.write_text(f"#LSX\n{COMMENT}\n# {length}\n{body}")


# ---------------------------------------------------------------------------------- importing
def import_eman(
    path: Path, tomograms: Tomograms, voxel_size_angst: float | None = None,
    tilts_deg: tuple[float, float] | None = None, with_volumes: bool = True,
) -> tuple[ParticleTable, list[str]]:
    """Return the particles of an EMAN2 JSON or .lst file with alignments, and remarks.

    Raises
    ------
    OSError, ValueError
        If the file is missing or damaged, a particle has no alignment, or no voxel size is known.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    entries = _of_list(path) if Path(path).suffix == ".lst" else _of_json(path)
    if not entries:
        raise ValueError(f"{path} holds no particles: choose its --format")
    matrices = np.array([_matrix(entry, number, path) for number, entry in enumerate(entries, 1)])
    size = voxel_size_angst or _voxel_size(entries)
    if not size > 0:
        raise ValueError(f"{path}: no voxel size in the volumes: give --voxel-size")
    columns: dict[str, list[Any]] = {
        NUMBER: [int(e.get(NUMBER, e["number"])) for e in entries],
        SCORE: [-float(e.get("score", 0.0)) for e in entries],
    }
    for name in sorted({key for e in entries for key in e if key.startswith(PREFIXES)}):
        if name not in columns and name not in TILTS and all(name in e for e in entries):
            columns[name] = [e[name] for e in entries]
    for key in ("eo", "class"):
        if all(e.get(key) in (0, 1) for e in entries):
            columns[HALF] = [int(e[key]) + 1 for e in entries]
            break
    if with_volumes:
        columns["rlnImageName"] = [e["volume"] for e in entries]
        columns[STACK_INDEX] = [e["index"] for e in entries]
    remarks = _positions(entries, columns, tomograms)
    poses = conventions.from_eman(matrices)
    coordinate_size = columns.pop(COORDINATE_SIZE, [0.0])[0]
    table = build_table(columns, poses, size, _tilts(entries, tilts_deg), path)
    if coordinate_size > 0:
        table.optics[COORDINATE_SIZE] = coordinate_size
    return table, remarks


def _of_json(path: Path) -> list[dict[str, Any]]:
    """The entries of a particle_parms file, in order of their numbers."""
    try:
        content = json.loads(Path(path).read_text())
        keys = {key: ast.literal_eval(key) for key in content}
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable EMAN2 JSON file ({error}): choose "
                         "its --format") from error
    if not all(isinstance(k, tuple) and len(k) == 2 for k in keys.values()):
        raise ValueError(f"{path} lists no particles: give a particle_parms_NN.json of e2spt")
    entries = []
    for key, (source, index) in sorted(keys.items(), key=lambda item: item[1]):
        value = content[key][0] if isinstance(content[key], list) else content[key]
        entries.append({**value, "volume": str(source), "index": int(index),
                        "number": int(index) + 1})
    return _follow_lists(entries, Path(path).parent)


def _follow_lists(entries: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Entries that name a row of a .lst, with the volume that this row names."""
    lists: dict[str, list[tuple[int, str, str]]] = {}
    for entry in entries:
        source = _find(entry["volume"], folder)
        if Path(source).suffix == ".lst" and Path(source).is_file():
            if source not in lists:
                lists[source] = _read_list(Path(source))
            if entry["index"] >= len(lists[source]):
                raise ValueError(f"{source} has {len(lists[source])} particles, number "
                                 f"{entry['index']} is asked for: give its own list")
            entry["index"], source, _ = lists[source][entry["index"]]
            source = _find(source, folder)
        entry["volume"] = source
    return entries


def _of_list(path: Path) -> list[dict[str, Any]]:
    """The entries of a .lst with alignments."""
    entries = []
    for number, (index, source, comment) in enumerate(_read_list(path), 1):
        try:
            content = json.loads(comment) if comment else {}
        except ValueError as error:
            raise ValueError(f"{path}: particle {number}: {error}; correct it") from error
        entries.append({**content, "volume": source, "index": index, "number": number})
    return _follow_lists(entries, Path(path).parent)


def _read_list(path: Path) -> list[tuple[int, str, str]]:
    """Index, file and comment of every line of a .lst."""
    lines = Path(path).read_text().splitlines()
    if not lines or lines[0].strip() not in {"#LSX", "#LST"}:
        raise ValueError(f"{path} is no EMAN2 .lst file: its first line is not #LSX; choose "
                         "its --format")
    found = []
    for line in lines:
        words = line.rstrip().split("\t", 2)
        if line.startswith("#") or not line.strip():
            continue
        if len(words) < 2 or not words[0].strip().isdecimal():
            raise ValueError(f"{path}: '{line[:60]}' is no number and file: correct it")
        found.append((int(words[0]), words[1].strip(), words[2] if len(words) > 2 else ""))
    return found


def _find(name: str, folder: Path) -> str:
    """A file named in EMAN2's project folder: beside the list, above it, or here."""
    for candidate in (folder / name, folder.parent / name, Path(name)):
        if candidate.is_file():
            check_inside(name, candidate, folder / LIST)
            return str(candidate)
    return name


def _matrix(entry: dict[str, Any], number: int, path: Path) -> FloatArray:
    """The 12 numbers of a particle's transform."""
    transform = entry.get(TRANSFORM)
    values = transform.get("matrix") if isinstance(transform, dict) else transform
    if isinstance(values, str):
        values = json.loads(values)
    if not isinstance(values, list) or len(values) != 12:
        raise ValueError(f"{path}: particle {number} has no {TRANSFORM} of 12 numbers: give a "
                         "particle_parms_NN.json or aliptcls3d_NN.lst")
    return np.array(values, dtype=float)


def _voxel_size(entries: Sequence[dict[str, Any]]) -> float:
    """What the first volume's header says (angstrom), 0 where it says nothing."""
    source = str(entries[0]["volume"])
    if not Path(source).is_file():
        return 0.0
    if Path(source).suffix.lower() in HDF_SUFFIXES:
        return read_eman_hdf(source, int(entries[0]["index"]))[1]
    return read_header(source)[1]


def _tilts(
    entries: Sequence[dict[str, Any]], tilts_deg: tuple[float, float] | None
) -> FloatArray | None:
    """Tilt ranges (N, 2): those given, or those an export of ours wrote."""
    if tilts_deg is not None:
        return np.tile(tilts_deg, (len(entries), 1))
    if all(name in e for e in entries for name in TILTS):
        return np.array([[float(e[name]) for name in TILTS] for e in entries])
    return None


def _positions(
    entries: Sequence[dict[str, Any]], columns: dict[str, list[Any]], tomograms: Tomograms
) -> list[str]:
    """Put positions into `columns` where the file has them and the sizes are known; remarks."""
    if not all("coord" in e for e in entries):
        return []
    if not tomograms.items or "rlnTomoName" not in columns:
        return ["positions are counted from the tomograms' centres and left out: they need "
                "--tomograms and their names"]
    sizes = tomograms.sizes_of(columns["rlnTomoName"], "EMAN2's centred coordinates")
    positions = np.array([e["coord"] for e in entries], dtype=float) + sizes // 2
    columns.update({name: list(positions[:, axis]) for axis, name in enumerate(COORDINATES)})
    return []
