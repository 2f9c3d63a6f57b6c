"""What verbs that read a tomogram share: options, its voxels, its voxel size and tilt range."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from scipion_faml import mrc
from scipion_faml.cli.common import F
from scipion_faml.io import VOXEL_SIZE_TOLERANCE, read_header, read_volume
from scipion_faml.types import FloatArray
from scipion_faml.wedge import MissingWedge

logger = logging.getLogger(__name__)

FILE = click.Path(path_type=Path, dir_okay=False)
_tilt_options = (
    click.option("--tilt-min", type=float, default=None, help="Smallest tilt of the series, deg."),
    click.option("--tilt-max", type=float, default=None, help="Largest tilt of the series, deg."),
)
tomo_name_option = click.option(
    "--tomo-name", default=None, help="rlnTomoName of this tomogram.  [default: its file's stem]"
)
voxel_size_option = click.option(
    "--tomogram-voxel-size", "--voxel-size", "voxel_size", default=None,
    type=click.FloatRange(min=0, min_open=True),
    help="Angstrom.  [default: what the tomogram's header says]",
)


def tilt_range(function: F) -> F:
    """Add --tilt-min and --tilt-max."""
    for option in reversed(_tilt_options):
        function = option(function)
    return function


def wedge_of(tilt_min: float | None, tilt_max: float | None) -> MissingWedge | None:
    """The tilt range given, if one is."""
    if tilt_min is None and tilt_max is None:
        return None
    if tilt_min is None or tilt_max is None:
        raise ValueError("give both --tilt-min and --tilt-max, in degrees")
    return MissingWedge(tilt_min, tilt_max)


@contextmanager
def open_tomogram(path: Path) -> Iterator[FloatArray]:
    """A tomogram [z, y, x], mapped into memory where the file allows; every fault names it."""
    if mrc.can_be_mapped(path):
        yield mrc.map_data(path)[1]
    else:
        yield read_volume(path)[0]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def voxel_size_of(path: Path, given: float | None, fallback: float | None = None) -> float:
    """The tomogram's voxel size (angstrom)."""
    in_header = read_header(path)[1]
    if given is None and in_header <= 0 and fallback is None:
        raise ValueError(f"{path} has no voxel size in its header: give --tomogram-voxel-size")
    if given is not None and in_header > 0 and abs(given / in_header - 1) > VOXEL_SIZE_TOLERANCE:
        logger.warning("%s: header says %g A per voxel, %g is used", path, in_header, given)
    return given or (in_header if in_header > 0 else float(fallback or 0.0))

