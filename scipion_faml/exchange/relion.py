"""RELION 3.1, 4 and 5: subtomograms as STAR files with a block of optics groups.

All three hold (rot, tilt, psi) with R^T = Rz(rot) Ry(tilt) Rz(psi), particle to reference, in deg,
and origins in angstrom with t = -origin / voxel size (`geometry.from_relion`). They differ in how
tomograms and positions are named:

- 3.1: rlnMicrographName and rlnCoordinateX/Y/Z in voxels of the tomogram; a weight volume of every
  particle (rlnCtfImage), DC at voxel n // 2, for the missing wedge;
- 4: rlnTomoName, rlnTomoParticleName, rlnCoordinateX/Y/Z in pixels of the unbinned tilt series;
- 5: rlnCenteredCoordinateX/Y/ZAngst, angstrom from the tomogram's centre (size / 2).

RELION 4 and 5 may keep part of a pose in rlnTomoSubtomogramRot/Tilt/Psi, the frame A_s that a
subtomogram was cut in. Its volume, angles and origins are then those of the turned frame, and
R_tomogram = A_s R, centre = coordinate + A_s t (`conventions.in_tomogram_frame`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from scipion_faml import star
from scipion_faml.disk import replacing
from scipion_faml.exchange import conventions
from scipion_faml.exchange.table import (
    COORDINATE_SIZE,
    NUMBER,
    TILTS,
    Exported,
    coordinate_size_angst,
    image_names,
    numbers_of_particles,
    poses_of,
    positions_of,
    with_box,
)
from scipion_faml.exchange.tomograms import Tomograms, read_tomograms
from scipion_faml.exchange.volumes import place
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import write_weight
from scipion_faml.paths import found_from
from scipion_faml.tables import COORDINATES, ORIGINS, ParticleTable, read_particles, write_particles
from scipion_faml.types import FloatArray
from scipion_faml.wedge import MissingWedge

FRAMES = ["rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"]
CENTRED = [f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]
OLD_ORIGINS = ["rlnOriginX", "rlnOriginY", "rlnOriginZ"]  # RELION 3.0: in pixels
# What RELION asks of optics groups and a table of subtomograms need not know.
MICROSCOPE = {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}


# ---------------------------------------------------------------------------------- exporting
def export_relion(
    table: ParticleTable, version: int, folder: Path, tomograms: Tomograms, mode: str,
    tomogram_set: Path | None = None, pixel_size_angst: float | None = None,
    as_frames: bool = False,
) -> Exported:
    """Write `folder`/particles.star for RELION 3, 4 or 5; names are relative to `folder`.

    Parameters
    ----------
    mode
        link, copy or none: what is done about the volumes.
    tomogram_set
        RELION's tomograms.star, named in optimisation_set.star (RELION 4 and 5).
    pixel_size_angst
        Of the unbinned tilt series; the default is that of the coordinates' voxels.
    as_frames
        Put the poses into rlnTomoSubtomogram*, and the particles' centres into the coordinates:
        RELION 4 and 5 then cut subtomograms that are turned already. Only without volumes.

    Raises
    ------
    ValueError
        If a size of a tomogram is needed and unknown, or frames are asked for with volumes.
    """
    done = Exported()
    names = image_names(table) if mode != "none" else None
    rows = table.rows.drop(columns=[] if names else ["rlnImageName", "rlnCtfImage"],
                           errors="ignore")
    table = replace(table, rows=rows.reset_index(drop=True))
    if names is not None:
        table = _with_weights(_with_volumes(table, names, folder, mode), folder)
    if as_frames:
        table = _in_own_frames(table, version, names)
    optics = table.optics.assign(**{
        name: value for name, value in MICROSCOPE.items()
        if name not in table.optics and name not in table.rows})
    assumed = [name for name in MICROSCOPE if name not in table.optics]
    if assumed:
        done.remarks.append(
            "assumed, because RELION asks for them: "
            + ", ".join(f"{name} {MICROSCOPE[name]:g}" for name in assumed))
    table = with_box(replace(table, optics=optics))
    if version == 3:
        table = _as_relion_3(table)
    else:
        table = _as_relion_4(table, pixel_size_angst)
        if version == 5:
            table = _as_relion_5(table, tomograms)
    done.files["particles"] = folder / "particles.star"
    write_particles(done.files["particles"], table)
    if version > 3:
        done.files["optimisation_set"] = folder / "optimisation_set.star"
        _write_optimisation_set(done.files["optimisation_set"], tomogram_set)
    return done


def _with_volumes(
    table: ParticleTable, names: Sequence[str], folder: Path, mode: str
) -> ParticleTable:
    """The table with its volumes below `folder`."""
    numbers = numbers_of_particles(table)
    placed = [
        str(place(name, folder / "subtomograms" / f"particle_{number:06d}", mode).absolute())
        for name, number in zip(names, numbers, strict=True)
    ]
    table = table.with_columns(rlnImageName=placed)
    if "rlnCtfImage" not in table.rows:
        return table
    weights = {name: f"weights_{i + 1:04d}" for i, name in
               enumerate(dict.fromkeys(map(str, table.rows["rlnCtfImage"])))}
    files = {name: str(place(name, folder / "weights" / stem, mode).absolute())
             for name, stem in weights.items()}
    return table.with_columns(rlnCtfImage=[files[str(n)] for n in table.rows["rlnCtfImage"]])


def _with_weights(table: ParticleTable, folder: Path) -> ParticleTable:
    """The table with a weight volume of its missing wedge for every particle, where it had none."""
    low, high = (table.spread(name) for name in TILTS)
    if "rlnCtfImage" in table.rows or low is None or high is None:
        return table
    n = int(with_box(table).optics["rlnImageSize"].iloc[0])
    files: dict[tuple[float, float], str] = {}
    for pair in zip(low.tolist(), high.tolist(), strict=True):
        if pair not in files:
            path = folder / "weights" / f"wedge_{len(files) + 1:03d}.mrc"
            write_weight(path, MissingWedge(*pair).mask(n), table.voxel_size_angst)
            files[pair] = str(path.absolute())
    pairs = zip(low.tolist(), high.tolist(), strict=True)
    return table.with_columns(rlnCtfImage=[files[pair] for pair in pairs])


def _in_own_frames(
    table: ParticleTable, version: int, names: Sequence[str] | None
) -> ParticleTable:
    """Poses in rlnTomoSubtomogram*, centres in the coordinates; angles and origins 0."""
    if version == 3:
        raise ValueError("RELION 3.1 has no subtomogram frames: leave --subtomogram-frames out")
    if names is not None:
        raise ValueError("the volumes lie in the tomogram's frame: add --volumes none to "
                         "--subtomogram-frames, so that RELION cuts its own")
    table.require(*COORDINATES)
    poses = poses_of(table)
    shift = poses.shift_xyz * table.voxel_size_angst / coordinate_size_angst(table)
    centre = table.numbers(*COORDINATES) + shift
    frames = conventions.frame_angles_deg(poses.rotation)
    table = table.with_poses(RigidTransforms.identity(len(table)))
    return table.with_columns(**dict(zip(COORDINATES, centre.T, strict=True)),
                              **dict(zip(FRAMES, frames.T, strict=True)))


def _as_relion_3(table: ParticleTable) -> ParticleTable:
    """Rows with a micrograph's name, which RELION 3.1 groups particles by."""
    if "rlnMicrographName" in table.rows:
        return table
    return table.with_columns(rlnMicrographName=[n or "tomogram" for n in table.tomogram_names])


def _as_relion_4(table: ParticleTable, pixel_size_angst: float | None) -> ParticleTable:
    """Rows with names of particles, coordinates in pixels of the unbinned tilt series."""
    pixel_size = pixel_size_angst or coordinate_size_angst(table)
    names = [name or "tomogram" for name in table.tomogram_names]
    numbers = numbers_of_particles(table)
    columns: dict[str, object] = {
        "rlnTomoName": names, NUMBER: numbers,
        "rlnTomoParticleName": [f"{t}/{n}" for t, n in zip(names, numbers, strict=True)],
    }
    positions = positions_of(table, pixel_size)
    if positions is not None:
        columns.update(zip(COORDINATES, positions.T, strict=True))
    size = table.voxel_size_angst
    optics = table.optics.assign(**{
        COORDINATE_SIZE: pixel_size, "rlnTomoSubtomogramBinning": size / pixel_size,
        "rlnCtfDataAreCtfPremultiplied": table.optics.get("rlnCtfDataAreCtfPremultiplied", 0)})
    return replace(table.with_columns(**columns), optics=optics)


def _as_relion_5(table: ParticleTable, tomograms: Tomograms) -> ParticleTable:
    """Rows with centred coordinates in angstrom in place of voxels; volumes are no 2-D stacks."""
    general = {"rlnTomoSubTomosAre2DStacks": 0}
    blocks = {"general": general, **{k: v for k, v in table.other_blocks.items()
                                     if k != "general"}}
    table = replace(table, other_blocks=blocks)
    if not set(COORDINATES) <= set(table.rows.columns):
        return table
    size = coordinate_size_angst(table)
    dimensions = _sizes_in_voxels(table, tomograms, size, "RELION 5's centred coordinates")
    centred = conventions.centred_angst(
        table.numbers(*COORDINATES), dimensions, size)
    table = table.with_columns(**dict(zip(CENTRED, centred.T, strict=True)))
    return replace(table, rows=table.rows.drop(columns=COORDINATES))


def _sizes_in_voxels(
    table: ParticleTable, tomograms: Tomograms, voxel_size_angst: float, needed_for: str
) -> FloatArray:
    """Sizes of the particles' tomograms (N, 3), in voxels of `voxel_size_angst`."""
    names = table.tomogram_names
    sizes = tomograms.sizes_of(names, needed_for)
    scale = []
    for name in names:
        item = tomograms.find(name)
        known = item.voxel_size_angst if item is not None else 0.0
        scale.append(known / voxel_size_angst if known > 0 else 1.0)
    return sizes * np.array(scale)[:, None]


def _write_optimisation_set(path: Path, tomogram_set: Path | None) -> None:
    """The list of files that RELION 4 and 5 start from."""
    files = {"rlnTomoParticlesFile": "particles.star"}
    if tomogram_set is not None:
        files["rlnTomoTomogramsFile"] = str(Path(tomogram_set).resolve())
    with replacing(path) as temporary:
        star.write(temporary, {"": files}, "optimisation set of scipion-faml")


# ---------------------------------------------------------------------------------- importing
def import_relion(
    path: Path, tomograms: Tomograms, voxel_size_angst: float | None = None,
    in_tomogram: bool | None = None, with_volumes: bool = True,
) -> tuple[ParticleTable, list[str]]:
    """Return the particles of a RELION STAR file (or optimisation set), and remarks.

    Parameters
    ----------
    in_tomogram
        Whether poses of subtomograms with frames of their own become poses in the tomogram. The
        default is no where there are volumes, which lie in those frames, else yes.

    Raises
    ------
    OSError, ValueError
        If a file is missing or no particles are in it, or volumes are 2-D stacks.
    """
    particles, tomogram_set = follow(path)
    if tomogram_set is not None and not tomograms.items and tomogram_set.is_file():
        tomograms = read_tomograms([tomogram_set])
    table = read_particles(particles)
    remarks: list[str] = []
    if not with_volumes:
        table = replace(table, rows=table.rows.drop(
            columns=["rlnImageName", "rlnCtfImage"], errors="ignore"))
    table = replace(table, optics=_with_pixel_size(table, voxel_size_angst))
    _refuse_2d_stacks(table)
    table = _with_origins(table)
    table = _with_coordinates(table, tomograms, remarks)
    return _without_frames(table, in_tomogram, remarks), remarks


def follow(path: Path) -> tuple[Path, Path | None]:
    """Return the particles' file and the tomogram set that an optimisation set names."""
    first = next(iter(star.read(path).values()), None)
    if not isinstance(first, dict) or "rlnTomoParticlesFile" not in first:
        return Path(path), None

    tomogram_set = first.get("rlnTomoTomogramsFile")
    return found_from(str(first["rlnTomoParticlesFile"]), Path(path)), (
        found_from(str(tomogram_set), Path(path)) if tomogram_set else None)


def _with_pixel_size(table: ParticleTable, voxel_size_angst: float | None) -> pd.DataFrame:
    """Optics with rlnImagePixelSize: as given, as it is, or from what older files hold."""
    optics = table.optics
    if not len(optics):
        optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"]})
        table.rows["rlnOpticsGroup"] = 1
    if voxel_size_angst is not None:
        table.rows.drop(columns="rlnImagePixelSize", errors="ignore", inplace=True)
        return optics.assign(rlnImagePixelSize=voxel_size_angst)
    if table._of_optics("rlnImagePixelSize") is not None:
        return optics
    detector = table.spread("rlnDetectorPixelSize")  # micrometres, with a magnification
    magnification = table.spread("rlnMagnification")
    if detector is not None and magnification is not None and magnification[0] > 0:
        return optics.assign(rlnImagePixelSize=detector[0] / magnification[0] * 1e4)
    unbinned = table.spread(COORDINATE_SIZE)
    if unbinned is not None and "rlnImageName" not in table.rows:
        return optics.assign(rlnImagePixelSize=unbinned[0])
    raise ValueError(f"{table.path}: rlnImagePixelSize is missing: give --voxel-size")


def _refuse_2d_stacks(table: ParticleTable) -> None:
    general = table.other_blocks.get("general", {})
    are_stacks = isinstance(general, dict) and general.get("rlnTomoSubTomosAre2DStacks") == 1
    if are_stacks and "rlnImageName" in table.rows:
        raise ValueError(
            f"{table.path} names 2-D tilt stacks, not volumes: make volumes with "
            "reconstruct-particles, or add --volumes none to import poses and positions")


def _with_origins(table: ParticleTable) -> ParticleTable:
    """Origins in angstrom, from those in pixels of RELION 3.0 where there are no others."""
    if set(ORIGINS) <= set(table.rows.columns) or not set(OLD_ORIGINS) <= set(table.rows.columns):
        return table
    size = table.voxel_size_angst
    columns = {new: table.numbers(old)[:, 0] * size
               for new, old in zip(ORIGINS, OLD_ORIGINS, strict=True)}
    table = table.with_columns(**columns)
    return replace(table, rows=table.rows.drop(columns=OLD_ORIGINS))


def _with_coordinates(
    table: ParticleTable, tomograms: Tomograms, remarks: list[str]
) -> ParticleTable:
    """Coordinates in voxels, from centred ones where the sizes of the tomograms are known."""
    if not set(CENTRED) <= set(table.rows.columns):
        return table
    if not tomograms.items:
        remarks.append("positions stay centred (rlnCenteredCoordinate*): give --tomograms to "
                       "have them in voxels")
        return table
    size = coordinate_size_angst(table)
    dimensions = _sizes_in_voxels(table, tomograms, size, "positions in voxels")
    positions = conventions.from_centred_angst(
        table.numbers(*CENTRED), dimensions, size)
    table = table.with_columns(**dict(zip(COORDINATES, positions.T, strict=True)))
    return replace(table, rows=table.rows.drop(columns=CENTRED))


def _without_frames(
    table: ParticleTable, in_tomogram: bool | None, remarks: list[str]
) -> ParticleTable:
    """Poses in the tomogram's frame, or in the frames of the volumes, as asked."""
    if not set(FRAMES) <= set(table.rows.columns):
        return table
    angles = table.numbers(*FRAMES)
    if in_tomogram is None:
        in_tomogram = "rlnImageName" not in table.rows or not np.any(angles)
    if not in_tomogram:
        remarks.append("poses are those of the volumes, which RELION cut in frames of their own "
                       "(rlnTomoSubtomogram*)")
        return table
    frames = conventions.frame_matrices(angles)
    table = table.with_poses(conventions.in_tomogram_frame(poses_of(table), frames))
    return replace(table, rows=table.rows.drop(columns=FRAMES))
