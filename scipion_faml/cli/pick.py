"""Verbs that find particles and cut them out: pick-dog, extract."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import mrcfile
import numpy as np
import pandas as pd

from scipion_faml import plots
from scipion_faml.cli.common import (
    Run,
    common_options,
    n_workers,
    progress,
    run_once,
    workers_option,
)
from scipion_faml.cli.truth import TOMOGRAM_VOXEL_SIZE, coordinate_voxel_size_angst
from scipion_faml.execution import executor_of
from scipion_faml.extraction import (
    NORMALISATIONS,
    ExtractionConfig,
    background_shell,
    box_centres,
    reason_to_drop,
    subtomogram,
)
from scipion_faml.io import (
    COORDINATES,
    ORIGINS,
    VOXEL_SIZE_TOLERANCE,
    ParticleTable,
    optics_table,
    read_header,
    read_particles,
    read_volume,
    replacing,
    write_particles,
    write_volume,
)
from scipion_faml.picking import Picks, dog
from scipion_faml.picking.dog import DogConfig, DogResult
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.wedge import MissingWedge

logger = logging.getLogger(__name__)

_File = click.Path(path_type=Path, dir_okay=False)
_tilt_options = (
    click.option("--tilt-min", type=float, default=None, help="Smallest tilt of the series, deg."),
    click.option("--tilt-max", type=float, default=None, help="Largest tilt of the series, deg."),
)
_tomo_name_option = click.option(
    "--tomo-name", default=None, help="rlnTomoName of this tomogram.  [default: its file's stem]"
)
_voxel_size_option = click.option(
    "--tomogram-voxel-size", "--voxel-size", "voxel_size", default=None,
    type=click.FloatRange(min=0, min_open=True),
    help="Angstrom.  [default: what the tomogram's header says]",
)


def _tilt_range(function: Any) -> Any:
    """Add --tilt-min and --tilt-max."""
    for option in reversed(_tilt_options):
        function = option(function)
    return function


def _wedge_of(tilt_min: float | None, tilt_max: float | None) -> MissingWedge | None:
    """The tilt range given, if one is."""
    if tilt_min is None and tilt_max is None:
        return None
    if tilt_min is None or tilt_max is None:
        raise ValueError("give both --tilt-min and --tilt-max, in degrees")
    return MissingWedge(tilt_min, tilt_max)


@contextmanager
def _tomogram(path: Path) -> Iterator[FloatArray]:
    """A tomogram [z, y, x], mapped into memory where the file allows; every fault names it."""
    read_header(path)
    if path.suffix in {".gz", ".bz2"}:  # cannot be mapped
        yield read_volume(path)[0]
        return
    try:
        mrc = mrcfile.mmap(path, mode="r")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not a readable MRC file ({error}): copy it again") from error
    with mrc:
        if mrc.data.ndim != 3:
            raise ValueError(f"{path} has {mrc.data.ndim} dimensions, a tomogram has 3")
        yield mrc.data


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _voxel_size(path: Path, given: float | None, fallback: float | None = None) -> float:
    """The tomogram's voxel size (angstrom)."""
    in_header = read_header(path)[1]
    if given is None and in_header <= 0 and fallback is None:
        raise ValueError(f"{path} has no voxel size in its header: give --tomogram-voxel-size")
    if given is not None and in_header > 0 and abs(given / in_header - 1) > VOXEL_SIZE_TOLERANCE:
        logger.warning("%s: header says %g A per voxel, %g is used", path, in_header, given)
    return given or (in_header if in_header > 0 else float(fallback or 0.0))


# -------------------------------------------------------------------------------------- pick
@click.command("pick-dog")
@click.argument("tomogram", metavar="TOMO", type=_File)
@click.option("--diameter", required=True, type=click.FloatRange(min=0, min_open=True),
              help="Of the particles, angstrom.")
@click.option("--dark", is_flag=True, help="Particles are darker than their surroundings.")
@click.option("--threshold", default=None, type=float,
              help="Lowest score kept: standard deviations of the response where there is no "
              "particle.  [default: from --false-positives]")
@click.option("--false-positives", default=1.0, show_default=True,
              type=click.FloatRange(min=0, min_open=True),
              help="Picks in the whole tomogram that noise alone may cause; sets the threshold.")
@click.option("--min-distance", default=None, type=click.FloatRange(min=0),
              help="Between picks, angstrom.  [default: 0.8 diameters]")
@click.option("--border", default=None, type=click.FloatRange(min=0),
              help="Picks keep this distance from the tomogram's faces, angstrom.  [default: half "
              "a diameter]")
@click.option("--max-picks", default=None, type=click.IntRange(min=1), help="Keep the best only.")
@click.option("--tile", default=192, show_default=True, type=click.IntRange(min=16),
              help="Voxels of the tiles worked on at a time: bounds the memory.")
@click.option("--figure", default=None, type=_File, help="Draw picks on a slab to this PNG file.")
@_tilt_range
@_tomo_name_option
@_voxel_size_option
@click.option("--output", default=Path("picks.star"), show_default=True, type=_File,
              help="STAR file.")
@workers_option
@common_options
def pick_dog(
    tomogram: Path, diameter: float, dark: bool, threshold: float | None, false_positives: float,
    min_distance: float | None, border: float | None, max_picks: int | None, tile: int,
    figure: Path | None, tilt_min: float | None, tilt_max: float | None, tomo_name: str | None,
    voxel_size: float | None, output: Path, workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Find compact particles of one size as maxima of a difference of Gaussians.

    Writes positions (voxels from the first one) with famlScore, the surest first. Where nothing is
    found no file is written, and the result says so.
    """
    wedge = _wedge_of(tilt_min, tilt_max)
    defaults = DogConfig(diameter)
    config = dataclasses.replace(
        defaults, is_dark=dark, threshold=threshold, false_positives=false_positives,
        max_picks=max_picks, tile=tile,
        min_distance=defaults.min_distance if min_distance is None else min_distance / diameter,
        border=defaults.border if border is None else border / diameter,
    )
    name = tomo_name or tomogram.stem
    settings = {**dataclasses.asdict(config), "voxel_size": voxel_size, "tomo_name": name,
                "tilt_min": tilt_min, "tilt_max": tilt_max, "figure": figure}
    run = Run("pick-dog", output, settings, [tomogram], overwrite)

    def work() -> dict[str, Any]:
        size = _voxel_size(tomogram, voxel_size)
        executor = executor_of(n_workers(workers))

        def tile_map(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
            tiles = list(items)
            return progress(executor.map(function, tiles), len(tiles), "tiles")

        with _tomogram(tomogram) as volume:
            with _naming(tomogram):
                found = dog.pick_dog(volume, size, config, tile_map)
            if figure is not None:
                _draw_picks(figure, volume, found.picks, 0.5 * diameter / size)
        output.unlink(missing_ok=True)
        if len(found.picks):
            write_particles(output, _picks_table(found.picks, name, size, wedge))
        else:
            logger.warning(
                "%s: nothing scores above %.2f s.d.: check --diameter and --dark, or lower "
                "--threshold", tomogram, found.threshold,
            )
        return _pick_result(found, tomogram, output)

    run_once(run, work, as_json)


def _pick_result(found: DogResult, tomogram: Path, output: Path) -> dict[str, Any]:
    """What pick-dog prints."""
    scores = found.picks.score
    return {
        "n_picks": len(scores),
        "threshold": found.threshold,
        "expected_false_positives": found.expected_false_positives,
        "score_max": float(scores.max()) if len(scores) else None,
        "score_median": float(np.median(scores)) if len(scores) else None,
        "n_near_border": found.n_near_border,
        "binning": found.binning,
        "tomogram": tomogram,
        "picks": output if len(scores) else None,
    }


def _picks_table(
    picks: Picks, name: str, voxel_size: float, wedge: MissingWedge | None
) -> ParticleTable:
    """Picks as particles without images."""
    rows = pd.DataFrame(
        {
            "rlnTomoName": name,
            **dict(zip(COORDINATES, picks.position_xyz.T, strict=True)),
            "rlnOpticsGroup": 1,
            "famlScore": picks.score,
        }
    )
    if picks.label.any():
        rows["rlnClassNumber"] = picks.label
    optics = optics_table(voxel_size, 0, [wedge or MissingWedge(-90.0, 90.0)])
    optics = optics.drop(columns=["rlnImageSize", "rlnImageDimensionality"])
    if wedge is None:
        optics = optics.drop(columns=["famlTiltMin", "famlTiltMax"])
    return ParticleTable(rows, optics)


def _draw_picks(path: Path, volume: FloatArray, picks: Picks, radius: float) -> None:
    """Picks on the mean of the central slices, those within a radius of them."""
    thickness = max(1, int(radius / 2))
    z = int(np.median(picks.position_xyz[:, 2])) if len(picks) else volume.shape[0] // 2
    near = np.abs(picks.position_xyz[:, 2] - z) <= radius
    drawn = plots.picks_on_slice(
        plots.slab(volume, z, thickness), picks.position_xyz[near, :2], radius,
        picks.score[near], title=f"{near.sum()} of {len(picks)} picks, within {radius:.0f} voxels "
        f"of slice {z}",
    )
    with replacing(path) as temporary:
        temporary.write_bytes(plots.png_bytes(drawn))


# ----------------------------------------------------------------------------------- extract
@click.command("extract")
@click.argument("tomogram", metavar="TOMO", type=_File)
@click.argument("picks", metavar="PICKS", type=_File)
@click.option("--box", required=True, type=click.IntRange(min=8),
              help="Of the subtomograms, in voxels after binning.")
@click.option("--bin", "binning", default=1, show_default=True, type=click.IntRange(min=1),
              help="Bin by this factor, by cropping the spectrum.")
@click.option("--invert", is_flag=True,
              help="Invert contrast: particles are dark in the tomogram, subtomograms are bright.")
@click.option("--normalise", default="box", show_default=True, type=click.Choice(NORMALISATIONS),
              help="Mean 0 and s.d. 1 of the whole box, or of the shell between --radius and the "
              "box; none: values as they are.")
@click.option("--radius", default=None, type=click.FloatRange(min=0, min_open=True),
              help="Of the particle, angstrom, for --normalise shell.  [default: 0.4 boxes]")
@click.option("--pad", is_flag=True,
              help="Keep boxes that reach out of the tomogram, filled with their mean there.")
@_tilt_range
@_tomo_name_option
@_voxel_size_option
@click.option("--output", default=Path("extract"), show_default=True,
              type=click.Path(path_type=Path, file_okay=False), help="Folder.")
@workers_option
@common_options
def extract(
    tomogram: Path, picks: Path, box: int, binning: int, invert: bool, normalise: str,
    radius: float | None, pad: bool, tilt_min: float | None, tilt_max: float | None,
    tomo_name: str | None, voxel_size: float | None, output: Path, workers: int | None,
    as_json: bool, overwrite: bool,
) -> None:
    """Cut a box around every position.

    Writes OUTPUT/particles.star and OUTPUT/subtomograms/*.mrc, and OUTPUT/dropped.star with the
    positions that could not be cut and why (famlReason). A box is cut around the nearest voxel:
    rlnCoordinate* then name this voxel, and the rest of the position is in rlnOrigin*Angst (the
    particle's centre is at -origin in its box). All other columns are kept.
    """
    config = ExtractionConfig(box, binning, invert, normalise, radius, pad)
    wedge = _wedge_of(tilt_min, tilt_max)
    settings = {**dataclasses.asdict(config), "voxel_size": voxel_size, "tomo_name": tomo_name,
                "tilt_min": tilt_min, "tilt_max": tilt_max}
    run = Run("extract", output, settings, [tomogram, picks], overwrite)

    def work() -> dict[str, Any]:
        table, n_elsewhere = _in_tomogram(read_particles(picks), tomogram, tomo_name)
        size = _voxel_size(tomogram, voxel_size, _size_in_table(table))
        optics = _optics(table, wedge, size, config)
        if normalise == "shell":  # settings that fit no box are one error, not one for each box
            background_shell(box, size * binning, radius)
        centre, shift = box_centres(_positions(table, size))
        with _tomogram(tomogram) as volume:
            reasons = _cut_all(
                volume, centre, size, config, _image_names(output, tomogram, len(table)),
                n_workers(workers),
            )
        table = dataclasses.replace(table, optics=optics)
        kept, dropped = _split(table, centre, shift * size, reasons, output, tomogram)
        return {
            "n_particles": kept, "n_dropped": len(dropped), "n_in_other_tomograms": n_elsewhere,
            "dropped": dropped, "box": box, "voxel_size_angst": size * binning,
            "particles": output / "particles.star",
        }

    run_once(run, work, as_json)


def _in_tomogram(
    table: ParticleTable, tomogram: Path, tomo_name: str | None
) -> tuple[ParticleTable, int]:
    """The positions in this tomogram, and how many lie in others."""
    names = np.array(table.tomogram_names)
    wanted = {tomo_name} if tomo_name else {tomogram.stem, tomogram.name, str(tomogram)}
    known = sorted(set(names))
    is_here = np.isin(names, list(wanted))
    if is_here.any():
        rows = table.rows[is_here].reset_index(drop=True)
        return dataclasses.replace(table, rows=rows), int((~is_here).sum())
    if len(known) == 1 and tomo_name is None:
        # One tomogram there, one here: names need not agree.
        if known[0]:
            logger.info("%s: positions of %s are taken", tomogram, known[0])
        return dataclasses.replace(table, rows=table.rows.reset_index(drop=True)), 0
    others = ", ".join(known[:5]) + (" ..." if len(known) > 5 else "")
    raise ValueError(
        f"{table.path} has no position in {tomo_name or tomogram.stem} but in {others}: name the "
        "tomogram with --tomo-name"
    )


def _size_in_table(table: ParticleTable) -> float | None:
    """The voxel size that coordinates count, where the table says it."""
    if TOMOGRAM_VOXEL_SIZE not in table.optics and "rlnImagePixelSize" not in {
        *table.optics.columns, *table.rows.columns
    }:
        return None
    return coordinate_voxel_size_angst(table)


def _positions(table: ParticleTable, voxel_size: float) -> FloatArray:
    """Centres of the particles (P, 3) in voxels of the tomogram."""
    table.require(*COORDINATES)
    position = table.rows[COORDINATES].to_numpy(dtype=float)
    if not np.isfinite(position).all():
        row = int(np.flatnonzero(~np.isfinite(position).all(axis=1))[0]) + 1
        raise ValueError(f"{table.path}: position {row} is not a number: remove it")
    counted_in = _size_in_table(table) or voxel_size
    if abs(counted_in / voxel_size - 1) > VOXEL_SIZE_TOLERANCE:
        logger.warning(
            "%s: positions count voxels of %g A, the tomogram has %g A: they are converted",
            table.path, counted_in, voxel_size,
        )
        position = position * counted_in / voxel_size
    if set(ORIGINS) <= set(table.rows.columns):
        position = position - table.rows[ORIGINS].to_numpy(dtype=float) / voxel_size
    return np.asarray(position, dtype=np.float64)


def _optics(
    table: ParticleTable, wedge: MissingWedge | None, voxel_size: float, config: ExtractionConfig
) -> pd.DataFrame:
    """data_optics of the subtomograms: that of the picks, brought up to date."""
    optics = table.optics.copy()
    if not len(optics) or "rlnOpticsGroup" not in optics or "rlnOpticsGroup" not in table.rows:
        optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"]})
        table.rows["rlnOpticsGroup"] = 1
    else:
        optics = optics[optics["rlnOpticsGroup"].isin(table.rows["rlnOpticsGroup"])]
    optics = optics.assign(
        rlnImagePixelSize=voxel_size * config.binning, rlnImageSize=config.box,
        rlnImageDimensionality=3, **{TOMOGRAM_VOXEL_SIZE: voxel_size},
    )
    if wedge is not None:
        optics = optics.assign(famlTiltMin=wedge.tilt_min_deg, famlTiltMax=wedge.tilt_max_deg)
    missing = [c for c in ("famlTiltMin", "famlTiltMax")
               if c not in optics or optics[c].isna().any()]
    if missing:
        raise ValueError(
            f"{table.path} has no tilt range ({missing[0]}): give --tilt-min and --tilt-max, in "
            "degrees"
        )
    for low, high in zip(optics["famlTiltMin"], optics["famlTiltMax"], strict=True):
        MissingWedge(float(low), float(high))
    return optics.reset_index(drop=True)


def _image_names(output: Path, tomogram: Path, n_picks: int) -> list[Path]:
    """A file for every position, numbered as in the table."""
    folder = output / "subtomograms"
    return [folder / f"{tomogram.stem}_{row + 1:06d}.mrc" for row in range(n_picks)]


def _cut_all(
    volume: FloatArray, centre: IntArray, voxel_size: float, config: ExtractionConfig,
    names: list[Path], workers: int,
) -> list[str | None]:
    """Cut and write every box; return why one could not be, or None."""

    def cut(row: int) -> str | None:
        reason = reason_to_drop(centre[row], volume.shape, config)
        if reason is not None:
            return reason
        try:
            box = subtomogram(volume, centre[row], voxel_size, config)
        except ValueError as error:
            return str(error)
        write_volume(names[row], box, voxel_size * config.binning)
        return None

    done = executor_of(workers).map(cut, range(len(names)))
    return list(progress(done, len(names), "subtomograms"))


def _split(
    table: ParticleTable, centre: IntArray, remainder_angst: FloatArray,
    reasons: list[str | None], output: Path, tomogram: Path,
) -> tuple[int, list[dict[str, Any]]]:
    """Write the particles that were cut, and those that were not with the reason."""
    is_kept = np.array([reason is None for reason in reasons])
    names = [str(name) for name in _image_names(output.resolve(), tomogram, len(table))]
    cut = table.with_columns(
        rlnImageName=names,
        **dict(zip(COORDINATES, centre.T.astype(float), strict=True)),
        **dict(zip(ORIGINS, -remainder_angst.T, strict=True)),
    )
    if "rlnTomoName" not in table.rows:
        cut = cut.with_columns(rlnTomoName=tomogram.stem)
    numbers = np.flatnonzero(~is_kept)
    dropped = [
        {"row": int(row) + 1, "reason": reasons[row],
         "position_xyz": table.rows[COORDINATES].to_numpy(dtype=float)[row]}
        for row in numbers
    ]
    (output / "dropped.star").unlink(missing_ok=True)
    if len(numbers):
        lost = table.rows[~is_kept].assign(famlReason=[str(reasons[row]) for row in numbers])
        write_particles(output / "dropped.star", dataclasses.replace(table, rows=lost))
        logger.warning("%d of %d positions could not be cut: see %s", len(numbers), len(table),
                       output / "dropped.star")
    if not is_kept.any():
        raise ValueError(
            f"{tomogram}: none of {len(table)} boxes could be cut ({reasons[0]}): choose a smaller "
            "--box, or --pad"
        )
    write_particles(
        output / "particles.star", dataclasses.replace(cut, rows=cut.rows[is_kept]))
    return int(is_kept.sum()), dropped
