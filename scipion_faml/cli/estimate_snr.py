"""The verb estimate-snr: signal-to-noise ratio from pairs of aligned particles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from scipion_faml.cli.common import common_options, n_workers, seed_option, workers_option
from scipion_faml.cli.evaluation import evaluate_once, output_option, page_of, report_option
from scipion_faml.cli.reporting import RunReport
from scipion_faml.cli.tomograms import FILE
from scipion_faml.cli.validation import classes_in, figure_option, read_mask, write_figure
from scipion_faml.evaluation.snr import (
    AlignedParticle,
    SnrEstimate,
    aligned_particle,
    blocks_of_pairs,
    pair_products,
    snr_of_pairs,
)
from scipion_faml.evaluation.superposition import evaluation_mask
from scipion_faml.execution import Executor, executor_of
from scipion_faml.fourier import SampleSet, sample_set
from scipion_faml.plots import validation as pictures
from scipion_faml.sources import FileSource, open_source
from scipion_faml.tables import ParticleTable, read_particles
from scipion_faml.types import FloatArray, IntArray

FEW_PARTICLES = 10


@click.command("estimate-snr")
@click.argument("particles", type=FILE)
@click.option("--pairs", "n_pairs", type=click.IntRange(min=1), default=1000, show_default=True,
              help="Random pairs compared, in each class.")
@click.option("--mask", default=None,
              help="Where the SNR is measured: a file in the frame of the average, or soft: a "
              "sphere of 0.42 box sizes.  [default: the whole box]")
@click.option("--low-pass", type=click.FloatRange(min=0, min_open=True), default=None,
              help="Compare only to this resolution, angstrom.  [default: Nyquist]")
@click.option("--class", "number", type=click.IntRange(min=1), default=None,
              help="Only this class.  [default: pairs within every class]")
@figure_option
@report_option
@output_option
@seed_option
@workers_option
@common_options
def estimate_snr(
    particles: Path, n_pairs: int, mask: str | None, low_pass: float | None, number: int | None,
    figure: Path | None, report: Path | None, output: Path | None, seed: int, workers: int | None,
    as_json: bool, overwrite: bool,
) -> None:
    """Signal-to-noise ratio of aligned particles (variances), from the correlation of pairs.

    SNR = CC / (1 - CC), CC the correlation of two aligned particles over the Fourier samples that
    both have measured (Frank and Al-Ali 1975), all pairs together. Without a mask the whole box
    counts, without --low-pass all frequencies of its voxels: a larger box, or smaller voxels, have
    a smaller SNR. Particles that were aligned to their own average agree in noise too: of few
    of them the SNR comes out too high; wrong poses make it too low.

    JSON: snr (of all pairs together), snr_standard_error, snr_mean_of_pairs (mean of the pairs'
    own ratios, as published), snr_median_of_pairs, snr_spread_of_pairs, correlation, n_pairs,
    n_particles, per_class.
    """
    settings = {"n_pairs": n_pairs, "mask": mask, "low_pass": low_pass, "number": number,
                "figure": figure, "report": report, "seed": seed}
    inputs = [particles, *([Path(mask)] if mask not in (None, "soft") else [])]
    page = page_of("estimate-snr", report, output)

    def work() -> dict[str, Any]:
        table = read_particles(particles)
        correlations = _correlations(
            table, mask, low_pass, number, n_pairs, seed, executor_of(n_workers(workers)))
        products = np.concatenate(list(correlations.values()), axis=1)
        whole, every = snr_of_pairs(*products), products[0] / np.maximum(products[1], 1e-30)
        members = classes_in(table, number)
        result = {
            **_numbers(whole), "n_particles": sum(len(members[k]) for k in correlations),
            "per_class": {k: {**_numbers(snr_of_pairs(*found)), "n_particles": len(members[k])}
                          for k, found in correlations.items()},
            "pair_correlations": every, "warnings": _warnings(members, correlations),
        }
        _show(page, figure, whole, every)
        return result

    evaluate_once(
        "estimate-snr", output, settings, inputs, overwrite, as_json, work, page)


def _correlations(
    table: ParticleTable, mask: str | None, low_pass: float | None, number: int | None,
    n_pairs: int, seed: int, executor: Executor,
) -> dict[int, FloatArray]:
    """Products (2, P) of pairs within every class that has two particles."""
    source = open_source(table)
    n, voxel_size = source.n, source.voxel_size_angst
    radius = None if low_pass is None else n * voxel_size / low_pass
    weight = None
    if mask is not None:
        weight = evaluation_mask(n) if mask == "soft" else read_mask(mask, n)
    pairs = _Pairs(source, table, sample_set(n, radius), weight, radius is None, executor)
    found = {}
    for k, rows in classes_in(table, number).items():
        if len(rows) > 1:
            rng = np.random.default_rng([seed, k])
            found[k] = np.array(list(pairs.products(rows, n_pairs, rng))).T
    if not found:
        raise ValueError(f"{table.path} has no class of two particles: nothing to compare")
    return found


class _Pairs:
    """Particles of a table, and how to compare pairs of them."""

    def __init__(self, source: FileSource, table: ParticleTable, samples: SampleSet,
                 mask: FloatArray | None, with_corners: bool, executor: Executor) -> None:
        self.source, self.samples, self.mask = source, samples, mask
        self.with_corners = with_corners
        self.poses, self.executor = table.poses, executor

    def aligned(self, index: int) -> AlignedParticle:
        """One particle in the frame of its average."""
        particle = self.source[index]
        return aligned_particle(particle.volume, particle.wedge, self.poses[[index]],
                                self.samples, self.mask, self.with_corners)

    def products(
        self, rows: IntArray, n_pairs: int, rng: np.random.Generator
    ) -> Iterator[tuple[float, float]]:
        """Products of random pairs of some rows."""
        for block, pairs in blocks_of_pairs(len(rows), n_pairs, rng):
            needed = sorted({p for pair in pairs for p in pair})
            turned = self.executor.map(self.aligned, [int(rows[block[p]]) for p in needed])
            held = dict(zip(needed, turned, strict=True))
            yield from (pair_products(held[a], held[b], self.samples) for a, b in pairs)


def _numbers(found: SnrEstimate) -> dict[str, Any]:
    """An estimate under the names of the JSON."""
    return {
        "snr": found.snr, "snr_standard_error": found.standard_error,
        "snr_mean_of_pairs": found.mean_of_pairs, "snr_median_of_pairs": found.median_of_pairs,
        "snr_spread_of_pairs": found.spread_of_pairs, "correlation": found.correlation,
        "n_pairs": found.n_pairs,
    }


def _warnings(members: dict[int, IntArray], found: dict[int, FloatArray]) -> list[str]:
    """What makes the figure doubtful."""
    few = [k for k in found if len(members[k]) < FEW_PARTICLES]
    warnings = [f"class {k}: of {len(members[k])} particles the SNR is hardly known" for k in few]
    alone = sorted(set(members) - set(found))
    return warnings + [f"class {k} has one particle and is left out" for k in alone]


def _show(
    page: RunReport, figure: Path | None, found: SnrEstimate, correlations: FloatArray
) -> None:
    """The report and the picture."""
    page.title = "Signal-to-noise ratio"
    page.say_in_short(
        f"SNR {found.snr:.3g} +- {found.standard_error:.1g}, from {found.n_pairs} pairs of aligned "
        "particles.")
    page.draw("Pairs", "Correlation of aligned pairs over what both measured.",
              pictures.pair_correlations, correlations, found.snr)
    write_figure(figure, pictures.pair_correlations, correlations, found.snr)
