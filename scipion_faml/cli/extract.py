"""The verb extract: boxes around positions."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml import plots, star
from scipion_faml.cli.common import common_options, n_workers, progress, workers_option
from scipion_faml.cli.pictures import MAX_SHOWN, MONTAGE_CAPTION, read_some, spread_rows
from scipion_faml.cli.runs import Run, run_once
from scipion_faml.cli.tomograms import (
    FILE,
    open_tomogram,
    tilt_range,
    tomo_name_option,
    voxel_size_of,
    voxel_size_option,
    wedge_of,
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
from scipion_faml.io import VOXEL_SIZE_TOLERANCE, write_volume
from scipion_faml.plots import reports
from scipion_faml.tables import (
    COORDINATES,
    LARGEST_NUMBER,
    ORIGINS,
    ParticleTable,
    read_particles,
    write_particles,
)
from scipion_faml.types import BoolArray, FloatArray, IntArray
from scipion_faml.wedge import MissingWedge

logger = logging.getLogger(__name__)
MAX_AVERAGED = 100  # subtomograms whose mean the report shows


@click.command("extract")
@click.argument("tomogram", metavar="TOMO", type=FILE)
@click.argument("picks", metavar="PICKS", type=FILE)
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
@tilt_range
@tomo_name_option
@voxel_size_option
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
    wedge = wedge_of(tilt_min, tilt_max)
    settings = {**dataclasses.asdict(config), "voxel_size": voxel_size, "tomo_name": tomo_name,
                "tilt_min": tilt_min, "tilt_max": tilt_max}
    run = Run("extract", output, settings, [tomogram, picks], overwrite)

    def work() -> dict[str, Any]:
        table, n_elsewhere = _in_tomogram(read_particles(picks), tomogram, tomo_name)
        size = voxel_size_of(tomogram, voxel_size, _size_in_table(table))
        optics = _optics(table, wedge, size, config)
        if normalise == "shell":  # settings that fit no box are one error, not one for each box
            background_shell(box, size * binning, radius)
        positions, reasons_before = _positions(table, size)
        centre, shift = box_centres(positions)
        with open_tomogram(tomogram) as volume:
            reasons = _cut_all(
                volume, centre, size, config, _image_names(output, tomogram, len(table)),
                n_workers(workers), reasons_before,
            )
        table = dataclasses.replace(table, optics=optics)
        kept, dropped = _split(table, centre, shift * size, reasons, output, tomogram)
        _describe(run, tomogram, centre, reasons, n_elsewhere, size, config)
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


def _positions(
    table: ParticleTable, voxel_size: float
) -> tuple[FloatArray, dict[int, str]]:
    """Centres of the particles (P, 3) in voxels of the tomogram, and which rows have none."""
    table.require(*COORDINATES)
    has_origins = set(ORIGINS) <= set(table.rows.columns)
    position = _columns(table, COORDINATES)
    origin = _columns(table, ORIGINS) if has_origins else np.zeros_like(position)
    reasons = _no_positions(position, origin)
    position[list(reasons)] = origin[list(reasons)] = 0.0
    counted_in = _size_in_table(table) or voxel_size
    if abs(counted_in / voxel_size - 1) > VOXEL_SIZE_TOLERANCE:
        logger.warning(
            "%s: positions count voxels of %g A, the tomogram has %g A: they are converted",
            table.path, counted_in, voxel_size,
        )
        position = position * counted_in / voxel_size
    return np.asarray(position - origin / voxel_size, dtype=np.float64), reasons


def _columns(table: ParticleTable, names: Sequence[str]) -> FloatArray:
    """Columns as numbers (P, 3), NaN where they are none."""
    return np.stack([star.to_numbers(table.rows[name]) for name in names], axis=1)


def _no_positions(position: FloatArray, origin: FloatArray) -> dict[int, str]:
    """Rows whose position is no number, or the same as another's."""
    places = np.concatenate([position, origin], axis=1)
    is_known = (np.abs(places) <= LARGEST_NUMBER).all(axis=1)
    reasons: dict[int, str] = {}
    first_of: dict[tuple[float, ...], int] = {}
    for row, place in enumerate(places.tolist()):
        first = first_of.setdefault(tuple(place), row)
        if not is_known[row]:
            reasons[row] = "its position is no number"
        elif first != row:
            reasons[row] = f"it lies where row {first + 1} lies"
    return reasons


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
    for column in {"famlTiltMin", "famlTiltMax"} & set(optics.columns):
        optics[column] = star.to_numbers(optics[column])
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
    names: list[Path], workers: int, reasons_before: dict[int, str],
) -> list[str | None]:
    """Cut and write every box; return why one could not be, or None."""

    def cut(row: int) -> str | None:
        if row in reasons_before:
            return reasons_before[row]
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
    numbers, positions = np.flatnonzero(~is_kept), _columns(table, COORDINATES)
    dropped = [
        {"row": int(row) + 1, "reason": reasons[row],
         "position_xyz": positions[row]}
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


# -------------------------------------------------------------------------------------- report
def _describe(
    run: Run, tomogram: Path, centre: IntArray, reasons: list[str | None], n_elsewhere: int,
    voxel_size: float, config: ExtractionConfig,
) -> None:
    """Fill the report: some subtomograms, where they were, and which could not be cut and why."""
    report = run.report
    is_kept = np.array([reason is None for reason in reasons])
    n_kept, n_dropped = int(is_kept.sum()), int((~is_kept).sum())
    report.title = "Subtomograms"
    report.say_in_short(
        f"{n_kept} subtomograms of {config.box} voxels of {voxel_size * config.binning:.4g} Å "
        f"({config.box * voxel_size * config.binning / 10:.3g} nm).",
        *([f"{n_dropped} of {len(reasons)} positions could not be cut: see Dropped."]
          if n_dropped else ["No position was dropped."]),
        *([f"{n_elsewhere} positions are in other tomograms."] if n_elsewhere else []))
    if not report.is_wanted:
        return
    names = _image_names(run.output, tomogram, len(reasons))
    rows = np.flatnonzero(is_kept)[spread_rows(n_kept, MAX_AVERAGED)]
    volumes = read_some(names, rows.tolist())
    some = spread_rows(len(rows), MAX_SHOWN)
    report.draw_in_short(MONTAGE_CAPTION, reports.montage, volumes[some],
                         [str(row + 1) for row in rows[some]])
    _draw_boxes(run, tomogram, centre, is_kept, config)
    report.draw(
        "Mean", f"Mean of {len(rows)} subtomograms as they are, not aligned: a bright blob in the "
        "middle says that positions and contrast are right.", plots.class_gallery,
        volumes.mean(axis=0), [f"{len(rows)} particles"], voxel_size * config.binning)
    if n_dropped:
        report.add_table("Dropped", pd.DataFrame([
            {"row": row + 1, **dict(zip("xyz", centre[row], strict=True)), "why": reasons[row]}
            for row in np.flatnonzero(~is_kept)]))


def _draw_boxes(
    run: Run, tomogram: Path, centre: IntArray, is_kept: BoolArray, config: ExtractionConfig
) -> None:
    """Where boxes were cut and where not, near the slice with most of them."""
    reach = config.box * config.binning / 2
    z = int(np.median(centre[:, 2]))
    near = np.abs(centre[:, 2] - z) <= reach
    names = ["cut"] if is_kept.all() else ["cut", "dropped"]
    with open_tomogram(tomogram) as volume:
        z = min(max(z, 0), len(volume) - 1)
        run.report.draw(
            "Where they are", f"Slice {z} of the tomogram with the {near.sum()} positions within "
            "half a box of it; circles are as wide as a box.", plots.classes_on_slice,
            plots.slab(volume, z), centre[near, :2], reach,
            np.where(is_kept[near], "cut", "dropped"), names)
