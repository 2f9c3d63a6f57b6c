"""The options of classify that belong to one of its modes."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from scipion_faml.model import AUTO, METHODS, MODES, NOISES, SEARCHES, STARTS

# Names of the command's parameters that are settings of one mode.
MODE_PARAMETERS = {
    "paper": ("method", "start", "search", "bandwidth", "max_candidates", "angular_step"),
    "enhanced": ("n_folds", "noise", "regularise", "spread", "min_zeta", "start_radius",
                 "dense_bandwidth", "n_starts", "max_classes", "split_merge",
                 "particle_diameter_angst", "high_pass_angst", "sampling_sweeps",
                 "sampling_temperature"),
}


def class_count(context: click.Context, parameter: click.Parameter, value: str) -> int | str:
    """Return a number of classes, or "auto"."""
    if value == AUTO:
        return AUTO
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is no number of classes: give 1 or more, or {AUTO}")
    return int(value)


def paper_options(function: Any) -> Any:
    """Options of paper mode."""
    for option in (
        click.option("--search", "--candidates", type=click.Choice(SEARCHES), default="magnitude",
                     show_default=True, help="How candidate rotations are found.  [paper]"),
        click.option("--start", type=click.Choice(STARTS), default="unturned", show_default=True,
                     help="First averages: of the particles as they are (the paper), or turned at "
                          "random.  [paper]"),
        click.option("--method", type=click.Choice(METHODS), default="faml", show_default=True,
                     help="faml: posteriors over candidates; fa: the best candidate alone.  "
                          "[paper]"),
    ):
        function = option(function)
    return function


def enhanced_options(function: Any) -> Any:
    """Options of enhanced mode."""
    for option in (
        click.option("--dense-bandwidth", type=click.IntRange(8, 64), default=24,
                     show_default=True, help="Highest bandwidth at which all rotations are looked "
                     "at together; time grows with its fourth power.  [enhanced]"),
        click.option("--starts", "n_starts", type=click.IntRange(min=1), default=None,
                     help="Random starts, of which the one of highest evidence goes on.  "
                     "[default: 1; of several classes with --no-split-merge 4]  [enhanced]"),
        click.option("--split-merge/--no-split-merge", default=True, show_default=True,
                     help="Several classes start as more than are asked for; those of one "
                     "structure are merged, mixtures split.  [enhanced]"),
        click.option("--max-classes", type=click.IntRange(min=1), default=8, show_default=True,
                     help="Most classes that --classes auto may find.  [enhanced]"),
        click.option("--sampling-temperature", type=click.FloatRange(min=1), default=1.5,
                     show_default=True, help="Noise variances are multiplied by it for two thirds "
                     "of the sweeps; then it falls to 1.  [enhanced]"),
        click.option("--sampling-sweeps", type=click.IntRange(min=0), default=0,
                     show_default=True, help="Start by drawing every particle's pose from its "
                     "posterior this many times (100 to 300): finds averages that random starts "
                     "miss, of few particles; keep --max-shift small.  [enhanced]"),
        click.option("--high-pass", "high_pass_angst", default=None,
                     type=click.FloatRange(min=0, min_open=True), help="Ignore Fourier shells of "
                     "detail coarser than this (A): gradients, membranes, neighbours.  "
                     "[enhanced]"),
        click.option("--particle-diameter", "particle_diameter_angst", default=None,
                     type=click.FloatRange(min=0, min_open=True), help="Averages are masked by a "
                     "soft ball of this diameter (A): keeps neighbours out.  [enhanced]"),
        click.option("--start-shells", "start_radius", type=click.IntRange(min=2), default=5,
                     show_default=True, help="Fourier shells (cycles per box) compared at first: "
                     "coarse enough that no noise is followed.  [enhanced]"),
        click.option("--min-shift-width", "min_zeta", default=1.0, show_default=True,
                     type=click.FloatRange(min=0, min_open=True),
                     help="Least width of the prior of shifts, voxels.  [enhanced]"),
        click.option("--spread/--no-spread", default=True, show_default=True,
                     help="Average each particle over the posterior around a peak, not at the "
                     "peak alone.  [enhanced]"),
        click.option("--regularise/--no-regularise", default=True, show_default=True,
                     help="Filter averages by what their halves agree on (Wiener).  [enhanced]"),
        click.option("--noise", type=click.Choice(NOISES), default="shells", show_default=True,
                     help="Noise variance of each Fourier shell, or one for all.  [enhanced]"),
        click.option("--folds", "n_folds", type=click.IntRange(1, 1000), default=10,
                     show_default=True, help="A particle is compared with averages that leave out "
                     "its own fold; 4 and more, or 1: they leave out nothing.  [enhanced]"),
    ):
        function = option(function)
    return function


def refuse_other_mode(context: click.Context, mode: str) -> None:
    """Raise a UsageError when an option that this mode does not look at was given."""
    for other in MODES:
        for parameter in context.command.params:
            is_given = context.get_parameter_source(str(parameter.name)) in (
                ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
            if other != mode and is_given and parameter.name in MODE_PARAMETERS[other]:
                raise click.UsageError(
                    f"{parameter.opts[0]} is an option of --mode {other}, this is --mode {mode}: "
                    "leave it out or change the mode"
                )
