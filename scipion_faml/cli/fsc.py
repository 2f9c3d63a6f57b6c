"""The verb fsc: agreement of half maps, as a whole, inside masks, and by direction."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml import plots
from scipion_faml.cli.common import common_options, seed_option, workers_option
from scipion_faml.cli.evaluation import evaluate_once, output_option, page_of, report_option
from scipion_faml.cli.reporting import RunReport
from scipion_faml.cli.tomograms import FILE
from scipion_faml.cli.validation import (
    common_voxel_size,
    figure_option,
    read_mask,
    rows_of_class,
    run_record,
    weights_of,
    write_figure,
)
from scipion_faml.disk import replacing
from scipion_faml.evaluation.directional import (
    DIRECTION_STEP_DEG,
    DirectionalFsc,
    anisotropy,
    corrected_directional_fsc,
    directional_fsc,
    mean_in_cones,
)
from scipion_faml.evaluation.fsc import (
    filled_shells,
    fourier_shell_correlation,
    frequencies_per_angst,
    masked_fsc,
    resolution_angst,
)
from scipion_faml.evaluation.masks import automatic_mask
from scipion_faml.evaluation.orientations import times_measured
from scipion_faml.evaluation.superposition import evaluation_mask, hemisphere
from scipion_faml.io import read_cube, write_volume
from scipion_faml.plots import validation as pictures
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.tables import read_particles
from scipion_faml.types import FloatArray

MADE_MASKS = ("soft", "auto")
RAY_STEP_DEG = 4.0  # directions in which a cone's sampling is averaged
COARSEST_MASK = 0.25  # of the box: the mask's filter is not coarser than so many box sizes
SHARED_REFERENCES = (
    "the halves are of one refinement, whose references share particles of both: the curve is "
    "optimistic; fsc.csv of the run has it without what aligned noise brings")


@dataclass(frozen=True, eq=False)
class HalfMaps:
    """Two half maps that belong together."""

    name: str
    files: tuple[Path, Path]
    number: int | None = None  # class
    folder: Path | None = None  # of the run that made them


# ---------------------------------------------------------------------------------------- halves
def find_halves(source: Path, number: int | None = None) -> list[HalfMaps]:
    """Return the half maps of a run's folder, or of one average in it.

    `classify` and `average` write class_NNN_half1.mrc and _half2.mrc, or half1.mrc and half2.mrc.

    Raises
    ------
    ValueError
        If there are none.
    """
    folder = source if source.is_dir() else source.parent
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    firsts = sorted(folder.glob("class_[0-9]*_half1.mrc")) or sorted(folder.glob("half1.mrc"))
    found = [_halves(first) for first in firsts]
    if source.is_file():
        found = [h for h in found if source.stem in (h.name, f"{h.name}_half1")]
    elif number is not None:
        found = [h for h in found if h.number in (number, None)]
    found = [h for h in found if h.files[1].is_file()]
    if not found:
        wanted = f"class {number} of {source}" if number is not None else str(source)
        raise ValueError(
            f"no half maps of {wanted}: runs in enhanced mode and average write them; else give "
            "both files")
    return found


def _halves(first: Path) -> HalfMaps:
    """A pair from the name of its first file."""
    second = first.with_name(first.name.replace("half1", "half2"))
    match = re.fullmatch(r"class_(\d+)_half1", first.stem)
    name = first.stem.removesuffix("_half1") if match else "average"
    return HalfMaps(name, (first, second), int(match[1]) if match else None, first.parent)


# ------------------------------------------------------------------------------------------ verb
@click.command("fsc")
@click.argument("half1", type=click.Path(path_type=Path))
@click.argument("half2", type=FILE, required=False)
@click.option("--mask", default=None,
              help="Multiply both maps by this mask first: a file; soft: a sphere of 0.42 box "
              "sizes with a soft edge; auto: a soft mask around what stands out of the average. "
              "What the mask itself correlates is taken off (phases randomised); fsc_masked is the "
              "curve before that.")
@click.option("--class", "number", type=click.IntRange(min=1), default=None,
              help="Class of a run's folder.  [default: all]")
@click.option("--directional", is_flag=True,
              help="Also the FSC in cones about directions of a half sphere, and the resolution "
              "in each.")
@click.option("--cone", type=click.FloatRange(5, 60), default=20.0, show_default=True,
              help="Angle between axis and surface of a cone, degrees.")
@click.option("--particles", default=None, type=FILE,
              help="STAR file with poses of the particles averaged: how well each direction was "
              "measured, missing wedges included.  [default: particles.star of the run]")
@click.option("--symmetry", default="C1", show_default=True,
              help="Point group imposed on the average, for the sampling.")
@click.option("--curve", default=None, type=FILE, help="Write the curves to this CSV file.")
@click.option("--directions", default=None, type=FILE,
              help="Write resolution and sampling of every direction to this CSV file.")
@click.option("--write-mask", default=None, type=FILE, help="Write the mask used to this file.")
@figure_option
@report_option
@output_option
@seed_option
@workers_option
@common_options
def fsc(
    half1: Path, half2: Path | None, mask: str | None, number: int | None, directional: bool,
    cone: float, particles: Path | None, symmetry: str, curve: Path | None,
    directions: Path | None, write_mask: Path | None, figure: Path | None, report: Path | None,
    output: Path | None, seed: int, workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Fourier shell correlation of two half maps, and the resolution at 0.143 and 0.5.

    Give both halves, or the folder of a classify or average run, or one average in it: their halves
    are found. Of a folder with several classes per_class holds the results of each.

    JSON: fsc_0143_angst, fsc_half_angst, fsc, frequency_per_angst; with a mask fsc_masked,
    fsc_unmasked, fsc_randomised, random_from_angst; with --directional directional: cone_deg,
    directions, threshold (of the figures: 0.143, or 0.5 where most directions agree to the last
    shell), resolution_0143_angst, resolution_half_angst, sampling (share of particles that
    measured a direction), best_angst, worst_angst, ratio, spread_angst, sphericity,
    best_direction, worst_direction, correlation_with_sampling.
    """
    pairs = _pairs(half1, half2, number)
    settings = {"mask": mask, "number": number, "directional": directional, "cone": cone,
                "symmetry": symmetry, "curve": curve, "directions": directions,
                "write_mask": write_mask, "figure": figure, "report": report, "seed": seed}
    inputs = [*(f for pair in pairs for f in pair.files),
              *([Path(mask)] if mask and mask not in MADE_MASKS else []),
              *([particles] if particles else [])]
    page = page_of("fsc", report, output)

    def work() -> dict[str, Any]:
        results = {}
        for pair in pairs:
            table = particles or _particles_of(pair)
            results[pair.name] = _judged(
                pair, mask, seed, cone if directional else None, table, symmetry, write_mask)
        _write_curves(curve, results)
        _write_directions(directions, results)
        _draw(page, figure, results)
        first = next(iter(results.values()))
        return first if len(results) == 1 else {**first, "per_class": results}

    evaluate_once("fsc", output, settings, inputs, overwrite, as_json, work, page)


def _pairs(half1: Path, half2: Path | None, number: int | None) -> list[HalfMaps]:
    """The halves given, or those found."""
    if half2 is None:
        return find_halves(half1, number)
    known = _halves(half1)
    if known.files[1] == half2 != half1:  # those of a run, by their names
        return [replace(known, number=number or known.number)]
    return [HalfMaps("halves", (half1, half2), number)]


def _particles_of(pair: HalfMaps) -> Path | None:
    """The table of the run that made the halves."""
    table = pair.folder / "particles.star" if pair.folder else None
    return table if table and table.is_file() else None


def _judged(
    pair: HalfMaps, mask: str | None, seed: int, cone_deg: float | None, particles: Path | None,
    symmetry: str, write_mask: Path | None,
) -> dict[str, Any]:
    """All numbers of one pair of halves."""
    first, second, voxel_size = _read(pair)
    n = first.shape[0]
    weight = _mask(mask, first, second, voxel_size)
    if write_mask is not None and weight is not None:
        write_volume(write_mask, weight, voxel_size)
    filled = filled_shells(first, second)
    result = _curves(first, second, weight, filled, voxel_size, seed)
    result |= {"voxel_size_angst": voxel_size, "box": n, "mask": mask or "none",
               "filled_to_angst": n * voxel_size / max(filled - 1, 1),
               "halves": [str(f) for f in pair.files], "warnings": _warnings(pair)}
    if cone_deg is not None:
        start = result.get("random_from_angst")
        found = _in_cones(first, second, weight, cone_deg, seed,
                          round(n * voxel_size / start) if start else None)
        found.fsc[:, filled:] = 0.0
        sampling = _sampling(particles, pair.number, symmetry) if particles else None
        result["directional"] = _directional(found, voxel_size, sampling)
    return result


def _read(pair: HalfMaps) -> tuple[FloatArray, FloatArray, float]:
    """Both maps and their voxel size (angstrom)."""
    half1, half2 = pair.files
    (first, voxel_size), (second, other_size) = read_cube(half1), read_cube(half2)
    voxel_size = common_voxel_size(pair.files, (voxel_size, other_size), "halves of one set")
    if first.shape != second.shape:
        raise ValueError(
            f"{half1} has a box of {first.shape[0]}, {half2} of {second.shape[0]}: they must "
            "be halves of one set"
        )
    return first, second, voxel_size


def _mask(
    mask: str | None, first: FloatArray, second: FloatArray, voxel_size: float
) -> FloatArray | None:
    """The mask asked for."""
    n = first.shape[0]
    if mask is None or mask == "soft":
        return None if mask is None else evaluation_mask(n)
    if mask == "auto":
        raw = fourier_shell_correlation(first, second)
        agreed = resolution_angst(raw, n, voxel_size, 0.5)
        coarse = min(max(2.0 * agreed, 4.0 * voxel_size), COARSEST_MASK * n * voxel_size)
        return automatic_mask(0.5 * (first + second), voxel_size, coarse)
    return read_mask(mask, n)


def _curves(
    first: FloatArray, second: FloatArray, weight: FloatArray | None, filled: int,
    voxel_size: float, seed: int,
) -> dict[str, Any]:
    """The FSC and where it falls; with a mask also the curves it was made from.

    Beyond the shells that hold anything the FSC is 0.
    """
    n = first.shape[0]
    if weight is None:
        curves: dict[str, Any] = {"fsc": fourier_shell_correlation(first, second)}
    else:
        found = masked_fsc(first, second, weight, np.random.default_rng([seed, 0]))
        start = found.random_from
        curves = {
            "fsc": found.corrected, "fsc_masked": found.masked, "fsc_unmasked": found.unmasked,
            "fsc_randomised": found.randomised,
            "random_from_angst": n * voxel_size / start if start else None,
        }
    curves["fsc"][filled:] = 0.0
    return {
        "fsc_0143_angst": resolution_angst(curves["fsc"], n, voxel_size, 0.143),
        "fsc_half_angst": resolution_angst(curves["fsc"], n, voxel_size, 0.5),
        **curves, "frequency_per_angst": frequencies_per_angst(n, voxel_size),
    }


def _warnings(pair: HalfMaps) -> list[str]:
    """What the halves of a run are not."""
    record = run_record(pair.folder) if pair.folder else {}
    is_classified = record.get("settings", {}).get("verb") == "classify"
    return [SHARED_REFERENCES] if is_classified else []


# ------------------------------------------------------------------------------------- directions
def _sampling(
    particles: Path, number: int | None, symmetry: str
) -> tuple[FloatArray, FloatArray]:
    """Directions of a half sphere, and the share of particles that measured each."""
    table = read_particles(particles)
    rows = rows_of_class(table, number if "rlnClassNumber" in table.rows else None)
    wedges = weights_of(table, rows)
    rays = hemisphere(RAY_STEP_DEG)
    group = symmetry_rotations(symmetry)
    times = times_measured(table.poses[rows].rotation, wedges, rays, group)
    return rays, times / (len(rows) * len(group))


def _in_cones(
    first: FloatArray, second: FloatArray, weight: FloatArray | None, cone_deg: float, seed: int,
    random_from: int | None,
) -> DirectionalFsc:
    """The FSC by direction, corrected for the mask where there is one."""
    axes = hemisphere(DIRECTION_STEP_DEG)
    if weight is None:
        return directional_fsc(first, second, axes, cone_deg)
    return corrected_directional_fsc(
        first, second, axes, cone_deg, weight, random_from, np.random.default_rng([seed, 0]))


def _directional(
    found: DirectionalFsc, voxel_size: float, sampling: tuple[FloatArray, FloatArray] | None
) -> dict[str, Any]:
    """Resolution by direction, and how it goes with the sampling."""
    at_0143, at_half = (found.resolution_angst(voxel_size, level) for level in (0.143, 0.5))
    # Where most directions agree to the last shell, 0.143 tells nothing of their differences.
    is_saturated = np.median(at_0143) <= found.n * voxel_size / (found.n // 2 - 1) + 1e-6
    threshold, chosen = (0.5, at_half) if is_saturated else (0.143, at_0143)
    figures = anisotropy(found.direction, chosen)
    shares = None
    if sampling is not None:
        shares = mean_in_cones(*sampling, found.direction, found.cone_deg)
    return {
        "cone_deg": found.cone_deg, "threshold": threshold, "best_angst": figures.best_angst,
        "worst_angst": figures.worst_angst,
        "mean_angst": figures.mean_angst, "spread_angst": figures.spread_angst,
        "ratio": figures.ratio, "sphericity": figures.sphericity,
        "best_direction": figures.best_direction, "worst_direction": figures.worst_direction,
        "sampling_least": None if shares is None else float(shares.min()),
        "sampling_most": None if shares is None else float(shares.max()),
        "correlation_with_sampling": None if shares is None else _rank_correlation(
            shares, 1.0 / chosen),
        "directions": found.direction, "resolution_0143_angst": at_0143,
        "resolution_half_angst": at_half, "sampling": shares, "fsc": found.fsc,
    }


def _rank_correlation(first: FloatArray, second: FloatArray) -> float:
    """Spearman's correlation; NaN where one of them is the same everywhere."""
    if np.ptp(first) < 1e-9 or np.ptp(second) < 1e-9:
        return float("nan")
    return float(pd.Series(first).corr(pd.Series(second), method="spearman"))


# ---------------------------------------------------------------------------------------- outputs
def _write_curves(path: Path | None, results: dict[str, dict[str, Any]]) -> None:
    """All curves as columns; of several classes each name begins with the class."""
    if path is None:
        return
    table: dict[str, Any] = {}
    for name, result in results.items():
        prefix = f"{name}_" if len(results) > 1 else ""
        table.setdefault("frequency_per_angst", result["frequency_per_angst"])
        table |= {f"{prefix}{k}": v for k, v in result.items()
                  if k.startswith("fsc") and isinstance(v, np.ndarray)}
    with replacing(path) as temporary:
        pd.DataFrame(table).to_csv(temporary, index=False)


def _write_directions(path: Path | None, results: dict[str, dict[str, Any]]) -> None:
    """A row for each direction of each pair of halves."""
    found = {name: r["directional"] for name, r in results.items() if "directional" in r}
    if path is None or not found:
        return
    parts = []
    for name, one in found.items():
        x, y, z = np.asarray(one["directions"]).T
        shares = one["sampling"] if one["sampling"] is not None else np.full(len(x), np.nan)
        parts.append(pd.DataFrame({
            "map": name, "x": x, "y": y, "z": z,
            "resolution_0143_angst": one["resolution_0143_angst"],
            "resolution_half_angst": one["resolution_half_angst"], "sampling": shares}))
    with replacing(path) as temporary:
        pd.concat(parts).to_csv(temporary, index=False)


def _draw(page: RunReport, figure: Path | None, results: dict[str, dict[str, Any]]) -> None:
    """The report's pictures, and the one in a file."""
    curves: dict[str, Any] = {}
    for name, result in results.items():
        curves |= {_label(name, key, len(results)): (result["frequency_per_angst"], value)
                   for key, value in result.items()
                   if key.startswith("fsc") and isinstance(value, np.ndarray)
                   and (key == "fsc" or len(results) == 1)}
    page.title = "Fourier shell correlation"
    page.say_in_short(*(
        f"{name}: {r['fsc_0143_angst']:.1f} A at an FSC of 0.143, {r['fsc_half_angst']:.1f} A at "
        f"0.5{_in_words(r)}." for name, r in results.items()))
    page.draw_in_short("Fourier shell correlation of the halves.", plots.fsc_curves, curves)
    is_directional = False
    for name, result in results.items():
        if "directional" not in result:
            continue
        is_directional, one = True, result["directional"]
        at = "0143" if one["threshold"] < 0.5 else "half"
        arguments = (one["directions"], one[f"resolution_{at}_angst"], one["sampling"],
                     one["cone_deg"], one["threshold"])
        page.draw(f"{name}: resolution by direction",
                  "Resolution in cones; middle of the disc: z, rim: the x-y plane.",
                  pictures.directional_resolution, *arguments)
        page.draw("", "FSC of all cones.", pictures.directional_curves,
                  result["frequency_per_angst"], one["fsc"], result["fsc"])
        if figure is not None and result is next(iter(results.values())):
            write_figure(figure, pictures.directional_resolution, *arguments)
    if not is_directional:
        write_figure(figure, plots.fsc_curves, curves)


def _label(name: str, key: str, n_results: int) -> str:
    """What a curve is called in pictures."""
    if n_results > 1:
        return name
    return "FSC" if key == "fsc" else key.removeprefix("fsc_")


def _in_words(result: dict[str, Any]) -> str:
    """What is said of directions."""
    one = result.get("directional")
    return "" if one is None else (
        f"; by direction {one['best_angst']:.1f} to {one['worst_angst']:.1f} A")
