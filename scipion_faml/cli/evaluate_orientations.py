"""The verb evaluate-orientations: where particles were seen from, and what nobody measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from scipion_faml.cli.common import common_options, seed_option, workers_option
from scipion_faml.cli.evaluation import evaluate_once, output_option, page_of, report_option
from scipion_faml.cli.reporting import RunReport
from scipion_faml.cli.tomograms import FILE
from scipion_faml.cli.validation import classes_in, figure_option, weights_of, write_figure
from scipion_faml.evaluation.orientations import (
    evenness,
    sampling_of,
    times_measured,
    viewing_directions,
)
from scipion_faml.evaluation.superposition import hemisphere
from scipion_faml.plots import validation as pictures
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.tables import ParticleTable, read_particles
from scipion_faml.types import IntArray

RAY_STEP_DEG = 4.0


@click.command("evaluate-orientations")
@click.argument("particles", type=FILE)
@click.option("--symmetry", default="C1", show_default=True,
              help="Point group of the averages, whose axes lie as in RELION: a particle is then "
              "seen from all equivalent directions.")
@click.option("--class", "number", type=click.IntRange(min=1), default=None,
              help="Only this class.  [default: each]")
@figure_option
@report_option
@output_option
@seed_option
@workers_option
@common_options
def evaluate_orientations(
    particles: Path, symmetry: str, number: int | None, figure: Path | None, report: Path | None,
    output: Path | None, seed: int, workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Orientations of aligned particles: how even they are, and how well they fill Fourier space.

    A viewing direction is that of the beam in the frame of the average. Missing wedges (or weight
    volumes) say which Fourier samples each particle measured. The sampling compensation is the
    harmonic over the arithmetic mean of how often directions were measured: 1 is even, and 0.5
    means that half as many even particles would do as well (Baldwin and Lyumkis 2020).

    JSON, of the class with most particles and in per_class of each: n_particles,
    largest_empty_cap_deg (and _uniform_deg: of as many even directions), resultant,
    tensor_eigenvalues, axial_anisotropy, preferred_axis, sampling_least / _most / _mean (share of
    particles), sampling_never, sampling_below_half (shares of directions), sampling_compensation,
    worst_direction, times_measured and share_of_times; in per_class also viewing_directions,
    ray_directions and ray_sampling.
    """
    settings = {"symmetry": symmetry, "number": number, "figure": figure, "report": report,
                "seed": seed}
    page = page_of("evaluate-orientations", report, output)

    def work() -> dict[str, Any]:
        table = read_particles(particles)
        per_class = {k: _judged(table, rows, symmetry, seed)
                     for k, rows in classes_in(table, number).items()}
        largest = max(per_class, key=lambda k: per_class[k]["n_particles"])
        _show(page, figure, per_class, largest)
        summary = {k: v for k, v in per_class[largest].items() if k not in _LISTS}
        return {"class": largest, **summary, "per_class": per_class}

    evaluate_once("evaluate-orientations", output, settings, [particles], overwrite, as_json, work,
                  page)


_LISTS = {"viewing_directions", "ray_directions", "ray_sampling"}


def _judged(table: ParticleTable, rows: IntArray, symmetry: str, seed: int) -> dict[str, Any]:
    """All numbers of one class."""
    group = symmetry_rotations(symmetry)
    rotation = table.poses[rows].rotation
    seen_from = viewing_directions(rotation, group)
    even = evenness(seen_from, np.random.default_rng([seed, 0]))
    rays = hemisphere(RAY_STEP_DEG)
    times = times_measured(rotation, weights_of(table, rows), rays, group)
    sampled = sampling_of(times, len(rows) * len(group), rays)
    return {
        "n_particles": len(rows), "symmetry": symmetry,
        "largest_empty_cap_deg": even.empty_cap_deg,
        "largest_empty_cap_uniform_deg": even.empty_cap_uniform_deg,
        "empty_cap_middle": even.empty_cap_middle,
        "resultant": even.resultant, "tensor_eigenvalues": even.tensor,
        "axial_anisotropy": even.axial_anisotropy, "preferred_axis": even.preferred_axis,
        "sampling_least": sampled.share_least, "sampling_most": sampled.share_most,
        "sampling_mean": sampled.share_mean, "sampling_never": sampled.share_never,
        "sampling_below_half": sampled.share_below_half,
        "sampling_compensation": sampled.compensation, "worst_direction": sampled.worst_direction,
        "times_measured": sampled.times, "share_of_times": sampled.share_of_times,
        "viewing_directions": seen_from, "ray_directions": rays,
        "ray_sampling": times / (len(rows) * len(group)),
    }


def _show(
    page: RunReport, figure: Path | None, per_class: dict[int, dict[str, Any]], largest: int
) -> None:
    """The report and the picture, which is of the largest class."""
    page.title = "Orientations"
    page.say_in_short(*(
        f"Class {k}: {one['n_particles']} particles; a direction was measured by "
        f"{one['sampling_least']:.0%} to {one['sampling_most']:.0%} of them, sampling compensation "
        f"{one['sampling_compensation']:.2f}; largest empty cap {one['largest_empty_cap_deg']:.0f} "
        f"deg ({one['largest_empty_cap_uniform_deg']:.0f} of even directions)."
        for k, one in list(per_class.items())[:4]))
    for k, one in per_class.items():
        page.draw(f"Class {k}", "Where the particles were seen from.",
                  pictures.viewing_directions, one["viewing_directions"])
        page.draw("", "Share of the particles that measured a direction, missing wedges included.",
                  pictures.direction_maps, _panels(one))
        page.draw("", "How often Fourier samples were measured.", pictures.sampling_counts,
                  one["times_measured"], one["share_of_times"])
    one = per_class[largest]
    write_figure(figure, pictures.orientation_summary, one["viewing_directions"],
                 one["ray_directions"], one["ray_sampling"])


def _panels(one: dict[str, Any]) -> list[pictures.DIRECTION_TYPE]:
    return [("measured by", one["ray_directions"], 100.0 * one["ray_sampling"],
             "% of the particles")]
