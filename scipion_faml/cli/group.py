"""Verb group: sort particles coarsely, before any alignment, by what no turn changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml.cli.common import common_options, n_workers, progress, seed_option, workers_option
from scipion_faml.cli.particles import Usable, skip_bad_option, usable_particles
from scipion_faml.cli.pictures import listed, read_some
from scipion_faml.cli.runs import Run, run_once
from scipion_faml.disk import replacing
from scipion_faml.execution import executor_of, one_blas_thread
from scipion_faml.fourier import low_pass as low_passed
from scipion_faml.grouping.clustering import MOST_GROUPS, Groups, find_groups
from scipion_faml.grouping.descriptors import (
    Described,
    DescriptorSettings,
    describe,
    radial_profile,
    radial_volume,
)
from scipion_faml.io import write_volume
from scipion_faml.plots import groups as pictures
from scipion_faml.plots import reports
from scipion_faml.sources import DamagedParticleError, FileSource
from scipion_faml.tables import write_particles
from scipion_faml.types import FloatArray

logger = logging.getLogger(__name__)

OUTLIER_COLUMN = "famlOutlier"
TYPICAL_SHOWN = 8  # particles of each group
MOST_SHOWN = 6  # groups
MOST_ASKED = 100
ALIKE = 0.25  # silhouette below which groups overlap


def _group_count(
    context: click.Context, option: click.Parameter, value: str
) -> int | None:
    """A number of groups; None for auto."""
    if value.strip().lower() == "auto":
        return None
    number = int(value) if value.isdecimal() and len(value) < 9 else 0
    if not 1 <= number <= MOST_ASKED:
        raise click.BadParameter(
            f"{value!r} is no number of groups: give 1 to {MOST_ASKED}, or auto", context, option)
    return number


@click.command("group")
@click.argument("particles", type=click.Path(path_type=Path))
@click.option("--groups", "n_groups", metavar="K|auto", default="auto", show_default=True,
              callback=_group_count,
              help=f"How many; auto: the number, 1 to {MOST_GROUPS}, of the smallest integrated "
              "completed likelihood, less those that no valley parts.")
@click.option("--low-pass", type=click.FloatRange(min=0, min_open=True), default=None,
              help="Describe particles up to this resolution, angstrom. Finer detail tells their "
              "noise.  [default: 4 voxels]")
@click.option("--particle-diameter", type=click.FloatRange(min=0, min_open=True), default=None,
              help="Look at a soft ball of this diameter only, angstrom: it keeps neighbours out."
              "  [default: the box]")
@seed_option
@workers_option
@skip_bad_option
@click.option("--output", type=click.Path(path_type=Path), default=Path("group"),
              show_default=True, help="Folder.")
@common_options
def group(
    particles: Path, n_groups: int | None, low_pass: float | None,
    particle_diameter: float | None, seed: int, workers: int | None, skip_bad: bool,
    output: Path, as_json: bool, overwrite: bool,
) -> None:
    """Group subtomograms coarsely before any alignment, without a reference.

    Each is described by the mean and the power of its Fourier shells over what was measured, which
    do not change when it is turned. Groups differ in size, mass and radial density: use them to
    throw junk away and to give classify sets that are more alike. They are no classes of structure.

    Writes particles.star (rlnClassNumber, from 1 for the largest; rlnMaxValueProbDistribution;
    famlOutlier), descriptors.csv, and group_NNN.mrc: the unaligned mean of each group, averaged
    over all directions. That is no structure.
    """
    settings = {"groups": n_groups, "low_pass": low_pass, "particle_diameter": particle_diameter,
                "seed": seed}
    run = Run("group", output, settings, [particles], overwrite)

    def work() -> dict[str, Any]:
        with usable_particles(particles, skip_bad, run, workers) as found:
            return found.told(grouped(found))

    def grouped(found: Usable) -> dict[str, Any]:
        source = found.source
        how = DescriptorSettings.of(source.n, source.voxel_size_angst, low_pass, particle_diameter)
        described = _described(source, how, n_workers(workers))
        with one_blas_thread():  # its own threads would add up in another order
            groups = find_groups(
                np.stack([d.values for d in described]),
                np.stack([d.noise_variance for d in described]), n_groups, seed)
        return _written(run, found, how, described, groups)

    run_once(run, work, as_json)


def _described(source: FileSource, how: DescriptorSettings, threads: int) -> list[Described]:
    """Descriptors of all particles, of which only as many as there are threads are held."""
    def one(index: int) -> Described:
        particle = source[index]
        try:
            return describe(particle.volume, particle.wedge, how)
        except ValueError as error:
            raise DamagedParticleError(
                f"subtomogram {index + 1}, {source.paths[index]}: {error}") from error

    found = executor_of(threads).map(one, range(len(source)))
    return list(progress(found, len(source), "particles"))


def _written(
    run: Run, found: Usable, how: DescriptorSettings, described: Sequence[Described],
    groups: Groups,
) -> dict[str, Any]:
    """Write tables and means of groups and fill the report; return the summary."""
    output, source, sizes = run.output, found.source, groups.sizes
    write_particles(output / "particles.star", found.table.with_columns(
        rlnClassNumber=groups.index + 1, rlnMaxValueProbDistribution=groups.probability,
        **{OUTLIER_COLUMN: groups.is_outlier.astype(int)}))
    _write_descriptors(output / "descriptors.csv", how, described, groups)
    shell_means = np.stack([d.shell_means for d in described])
    means = [radial_volume(shell_means[groups.index == k].mean(axis=0), source.n)
             for k in range(len(sizes))]
    for old in output.glob("group_*.mrc"):  # of a run that was killed
        old.unlink()
    for k, mean in enumerate(means, 1):
        write_volume(output / f"group_{k:03d}.mrc", mean, source.voxel_size_angst)
    _describe_groups(run, found, how, groups, means)
    chosen = min(groups.criterion.values())
    return {
        "particles": len(source), "groups": len(sizes), "sizes": sizes,
        "class_sizes": sizes, "n_outliers": int(groups.is_outlier.sum()),
        "silhouette": groups.silhouette, "criterion": chosen,
        "criteria": {str(k): value for k, value in groups.criterion.items()},
        "components": groups.components.values.shape[1], "warnings": _warnings(groups),
        "output": output,
    }


def _warnings(groups: Groups) -> list[str]:
    """What makes the groups doubtful."""
    if len(groups.sizes) == 1:
        return []
    warnings = []
    if groups.silhouette is not None and groups.silhouette < ALIKE:
        warnings.append(f"the groups overlap (silhouette {groups.silhouette:.2f}): they may be "
                        "parts of one; ask for fewer, or a coarser --low-pass")
    return warnings


def _write_descriptors(
    path: Path, how: DescriptorSettings, described: Sequence[Described], groups: Groups
) -> None:
    """A row a particle: group, components, descriptors in units of their noise."""
    values, components = np.stack([d.values for d in described]), groups.components.values
    table = pd.DataFrame({
        "particle": np.arange(1, len(values) + 1), "group": groups.index + 1,
        "probability": groups.probability, "outlier": groups.is_outlier.astype(int),
        "typicality": groups.typicality,
        **{f"component_{d + 1}": components[:, d] for d in range(components.shape[1])},
        **{name: values[:, j] for j, name in enumerate(how.names)}})
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


# ------------------------------------------------------------------------------------- report
def _describe_groups(
    run: Run, found: Usable, how: DescriptorSettings, groups: Groups,
    means: Sequence[FloatArray],
) -> None:
    """Fill the report: sizes, components, profiles, typical particles."""
    report, sizes, source = run.report, groups.sizes, found.source
    names = [f"group {k}" for k in range(1, len(sizes) + 1)]
    report.title = "Coarse groups, before any alignment"
    in_words = (f"{len(source)} particles in {len(sizes)} groups of {listed(sizes)}."
                if len(sizes) > 1 else f"{len(source)} particles, all of one group.")
    quality = ("" if groups.silhouette is None else
               f" Silhouette {groups.silhouette:.2f} (1: apart, 0: not).")
    report.say_in_short(
        in_words + quality,
        f"{int(groups.is_outlier.sum())} particles fit no group (famlOutlier).",
        "Groups are of size, mass and radial density, not of structure: particles of one size "
        "may be in one group though they differ. Align or classify each to see.")
    report.draw_in_short("Particles of each group.", reports.bars, names, sizes)
    report.draw_in_short("The first two components of the descriptors.", pictures.components,
                         groups.components.values, groups.index, groups.is_outlier)
    report.draw("Radial density", "Spherical average of each group's unaligned mean about the "
                "centre of the box, over what was measured. It is no structure.",
                pictures.radial_profiles, [radial_profile(mean) for mean in means],
                source.voxel_size_angst)
    if len(groups.criterion) > 1:
        report.add_table("How many groups", pd.DataFrame({
            "Gaussians": list(groups.criterion),
            "integrated completed likelihood, smaller is better": [
                f"{value:.1f}" for value in groups.criterion.values()]}))
    if report.is_wanted:
        _draw_typical(run, found, how, groups)


def _draw_typical(
    run: Run, found: Usable, how: DescriptorSettings, groups: Groups
) -> None:
    """Low-passed particles of each group that are most like it."""
    source = found.source
    cutoff = source.n * source.voxel_size_angst / how.n_shells
    for k in range(min(len(groups.sizes), MOST_SHOWN)):
        members = np.flatnonzero(groups.index == k)
        rows = members[np.argsort(-groups.typicality[members], kind="stable")][:TYPICAL_SHOWN]
        volumes = np.stack([low_passed(volume, source.voxel_size_angst, cutoff)
                            for volume in read_some(source.paths, rows.tolist())])
        run.report.draw(
            "Typical particles" if k == 0 else "", f"Group {k + 1}: the particles most like it, "
            f"low-passed to {cutoff:.3g} Å: central slice, below it the projection along the beam.",
            reports.montage, volumes, [str(row + 1) for row in rows])
