"""What the verbs that align and average share: options, references, tables, resolution."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml.cli.common import F
from scipion_faml.disk import replacing
from scipion_faml.evaluation.fsc import fourier_shell_correlation, resolution_angst
from scipion_faml.faml import Assignments
from scipion_faml.fourier import resample
from scipion_faml.impose import check_mask
from scipion_faml.io import read_cube
from scipion_faml.model import AUTO, FamlConfig
from scipion_faml.sources import SubtomogramSource
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.tables import ParticleTable
from scipion_faml.types import FloatArray
from scipion_faml.volume import check_edge, crop_or_pad

logger = logging.getLogger(__name__)

FSC_THRESHOLD = 0.143


def comparison_options(function: Any) -> Any:
    """Options of what is compared, and how far."""
    for option in (
        click.option("--max-shift", type=click.FloatRange(min=0), default=None,
                     help="Largest shift searched, voxels.  [default: a sixth of the box]"),
        click.option("--low-pass", type=click.FloatRange(min=0, min_open=True), default=None,
                     help="Compare only to this resolution, angstrom.  [default: Nyquist]"),
    ):
        function = option(function)
    return function


def candidate_options(function: Any) -> Any:
    """Options of how candidate poses are found."""
    for option in (
        click.option("--bandwidth", type=click.IntRange(min=4), default=None,
                     help="Bandwidth of the rotational matching.  [default: from the box]"),
        click.option("--max-candidates", type=click.IntRange(min=1), default=None,
                     help="Candidate poses per particle and class.  [default: 50; exhaustive: 4]"),
        click.option("--angular-step", type=click.FloatRange(1, 90), default=15.0,
                     show_default=True, help="Step of the exhaustive search, deg."),
    ):
        function = option(function)
    return function


def _symmetry(_context: click.Context, _option: click.Parameter, value: str) -> str:
    """The name of a point group, checked."""
    symmetry_rotations(value)
    return value.strip().upper()


def _symmetry_or_auto(context: click.Context, option: click.Parameter, value: str) -> str:
    """The name of a point group, checked, or "auto"."""
    return AUTO if value.strip().lower() == AUTO else _symmetry(context, option, value)


def _symmetry_option(
    callback: Callable[[click.Context, click.Parameter, str], str], metavar: str, more: str = ""
) -> Callable[[F], F]:
    """The option --symmetry, and what a verb says more about it."""
    return click.option(
        "--symmetry", default="C1", show_default=True, callback=callback, metavar=metavar,
        help="Point group of all classes: C1, C7, D2, T, O, I ... Axes lie as in RELION: main axis "
             f"along z, two-folds of Dn along x.{more}")


symmetry_option = _symmetry_option(_symmetry, "GROUP")
symmetry_or_auto_option = _symmetry_option(
    _symmetry_or_auto, "GROUP|auto", " auto: that of each class which explains particles that "
    "were left out of the averages, in enhanced mode.")


def load_mask(source: SubtomogramSource, path: Path | None) -> FloatArray | None:
    """The mask in a file, in the particles' box; None where there is none."""
    if path is None:
        return None
    return check_mask(in_box_of(source, path, fill=0.0), str(path))


def candidates_kept(max_candidates: int | None, search: str) -> int:
    """Number of candidates: as asked, or what a search needs."""
    if max_candidates is not None:
        return max_candidates
    return 4 if search == "exhaustive" else 50


def in_box_of(source: SubtomogramSource, path: Path | str, fill: float | None = None) -> FloatArray:
    """A map in the particles' box and voxel size, resampled where it differs.

    What a larger box adds is filled with `fill`, by default the map's median.
    """
    volume, voxel_size = read_cube(path)
    if voxel_size > 0 and abs(voxel_size / source.voxel_size_angst - 1) > 0.01:
        edge = volume.shape[0] * voxel_size / source.voxel_size_angst
        n_new = max(int(round(check_edge(edge, str(path)))), 2)
        logger.info("%s: resampled from %.4g to %.4g A per voxel", path, voxel_size,
                    volume.shape[0] * voxel_size / n_new)
        volume = resample(volume, n_new)
    level = float(np.median(volume)) if fill is None else fill
    return crop_or_pad(volume, (source.n,) * 3, fill=level)


def assigned_table(table: ParticleTable, assignments: Assignments) -> ParticleTable:
    """The particles with the best class and pose of a run."""
    return table.with_poses(assignments.poses).with_columns(
        rlnClassNumber=assignments.class_index + 1,
        rlnMaxValueProbDistribution=assignments.responsibility,
        rlnLogLikeliContribution=assignments.log_likelihood,
    )


def half_resolution(
    first: FloatArray, second: FloatArray, voxel_size_angst: float, config: FamlConfig
) -> float:
    """Where two halves' FSC falls to 0.143; not beyond the shells that were averaged."""
    n = first.shape[0]
    shells = config.max_radius_of(n, voxel_size_angst) + 1
    curve = fourier_shell_correlation(first, second)[:shells]
    return resolution_angst(curve, n, voxel_size_angst, FSC_THRESHOLD)


def write_fsc(path: Path, frequency_per_angst: FloatArray, curves: Mapping[str, Any]) -> None:
    """Write fsc.csv: a column of frequencies and one for each curve."""
    with replacing(path) as temporary:
        table = pd.DataFrame({"frequency_per_angst": frequency_per_angst, **curves})
        table.to_csv(temporary, index=False)
