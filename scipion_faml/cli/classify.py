"""Verbs that align and average: classify, align, average."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml import checkpoint, faml
from scipion_faml.cli.common import (
    Run,
    common_options,
    n_workers,
    plain,
    progress_callback,
    run_once,
    seed_option,
    workers_option,
)
from scipion_faml.cli.pictures import average_report, classification_report
from scipion_faml.evaluation.fsc import fourier_shell_correlation, resolution_angst
from scipion_faml.execution import executor_of
from scipion_faml.faml import Assignments, IterationResult
from scipion_faml.fourier import resample
from scipion_faml.io import (
    FileSource,
    ParticleTable,
    open_source,
    read_cube,
    read_particles,
    replacing,
    write_particles,
    write_volume,
)
from scipion_faml.model import METHODS, SEARCHES, STARTS, FamlConfig, ModelState
from scipion_faml.types import FloatArray
from scipion_faml.volume import crop_or_pad

logger = logging.getLogger(__name__)


def _engine_options(function: Any) -> Any:
    """Options of the alignment, shared by classify and align."""
    for option in (
        click.option("--max-shift", type=click.FloatRange(min=0), default=None,
                     help="Largest shift searched, voxels.  [default: a sixth of the box]"),
        click.option("--low-pass", type=click.FloatRange(min=0, min_open=True), default=None,
                     help="Compare only to this resolution, angstrom.  [default: Nyquist]"),
        click.option("--bandwidth", type=click.IntRange(min=4), default=None,
                     help="Bandwidth of the rotational matching.  [default: from the box]"),
        click.option("--max-candidates", type=click.IntRange(min=1), default=None,
                     help="Candidate poses per particle and class.  [default: 50; exhaustive: 4]"),
        click.option("--angular-step", type=click.FloatRange(1, 90), default=15.0,
                     show_default=True, help="Step of the exhaustive search, deg."),
    ):
        function = option(function)
    return function


def _config(**options: Any) -> FamlConfig:
    """Settings from options; those that are None keep their default."""
    if options.get("max_candidates") is None:
        options["max_candidates"] = 4 if options["search"] == "exhaustive" else 50
    return FamlConfig(**options)


def _load_reference(path: Path | str, source: FileSource) -> FloatArray:
    """A reference in the particles' box and voxel size, resampled where it differs."""
    volume, voxel_size = read_cube(path)
    if voxel_size > 0 and abs(voxel_size / source.voxel_size_angst - 1) > 0.01:
        n_new = max(int(round(volume.shape[0] * voxel_size / source.voxel_size_angst)), 2)
        logger.info("%s: resampled from %.4g to %.4g A per voxel", path, voxel_size,
                    volume.shape[0] * voxel_size / n_new)
        volume = resample(volume, n_new)
    return crop_or_pad(volume, (source.n,) * 3, fill=float(np.median(volume)))


def _assigned_table(table: ParticleTable, assignments: Assignments) -> ParticleTable:
    """The particles with the best class and pose of a run."""
    return table.with_poses(assignments.poses).with_columns(
        rlnClassNumber=assignments.class_index + 1,
        rlnMaxValueProbDistribution=assignments.responsibility,
        rlnLogLikeliContribution=assignments.log_likelihood,
    )


# ---------------------------------------------------------------------------------- classify
@click.command("classify")
@click.argument("particles", type=click.Path(path_type=Path))
@click.option("--classes", "n_classes", type=click.IntRange(min=1), default=1, show_default=True,
              help="Number of classes K; 1 averages.")
@click.option("--iterations", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--mode", type=click.Choice(["paper"]), default="paper", show_default=True,
              help="paper: Zhao et al. 2018 to the letter, but for the options set here.")
@click.option("--method", type=click.Choice(METHODS), default="faml", show_default=True,
              help="faml: posteriors over candidates; fa: the best candidate alone.")
@click.option("--start", type=click.Choice(STARTS), default="unturned", show_default=True,
              help="First averages: of the particles as they are (the paper), or turned at random.")
@click.option("--search", "--candidates", type=click.Choice(SEARCHES), default="magnitude",
              show_default=True, help="How candidate rotations are found.")
@click.option("--reference", "references", multiple=True, type=click.Path(path_type=Path),
              help="Start from these maps instead, one for each class.")
@_engine_options
@click.option("--output", type=click.Path(path_type=Path), default=Path("classify"),
              show_default=True, help="Folder.")
@workers_option
@seed_option
@common_options
def classify(
    particles: Path, n_classes: int, iterations: int, mode: str, method: str, start: str,
    search: str, references: tuple[Path, ...], max_shift: float | None, low_pass: float | None,
    bandwidth: int | None, max_candidates: int | None, angular_step: float, output: Path,
    workers: int | None, seed: int, as_json: bool, overwrite: bool,
) -> None:
    """Average (K = 1) or classify and average the subtomograms of a STAR file with FAML.

    Writes class_NNN.mrc, particles.star, history.csv, report.html and iter_NNN/ into the output
    folder. A killed run, started again, goes on from its last iteration; more --iterations go on
    from the last one too.
    """
    if references and len(references) != n_classes:
        raise ValueError(f"{len(references)} references for {n_classes} classes: give one each")
    config = _config(
        n_classes=n_classes, n_iterations=iterations, method=method, start=start, search=search,
        max_shift=max_shift, low_pass_angst=low_pass, bandwidth=bandwidth,
        max_candidates=max_candidates, angular_step_deg=angular_step, seed=seed,
    )
    settings = {**dataclasses.asdict(config), "mode": mode}
    del settings["n_iterations"]
    run = Run("classify", output, settings, [particles, *references], overwrite)
    if overwrite:
        checkpoint.remove_all(output)
    finished = run.finished_result
    if finished is not None and finished["iterations"] < iterations:
        run.reopen()

    def work() -> dict[str, Any]:
        table = read_particles(particles)
        source = open_source(table)
        config.check_size(len(source))
        return _classify(table, source, config, run, references, n_workers(workers))

    run_once(run, work, as_json)


def _classify(
    table: ParticleTable, source: FileSource, config: FamlConfig, run: Run,
    references: tuple[Path, ...], workers: int,
) -> dict[str, Any]:
    """Run or continue, leave a checkpoint after every iteration, and write the outputs."""
    executor = executor_of(workers)
    found = checkpoint.newest(run.output)
    state: ModelState | None = None
    previous, history = None, []
    if found is not None:
        loaded = checkpoint.load(found, run.settings)
        state, previous, history = loaded.state, loaded.assignments, loaded.history
        logger.info("continuing after iteration %d of %s", state.iteration, run.output)
    elif references:
        maps = np.stack([_load_reference(path, source) for path in references])
        state = faml.state_from_references(source, maps, config)
    iterations = faml.run(source, config, executor, state, previous, progress_callback("particles"))
    for result in iterations:
        history = [*history, _history_row(result, source, config)]
        checkpoint.save(run.output, result, history, run.settings, source.voxel_size_angst)
        _write_history(run.output, history)
        state, previous = result.state, result.assignments
    if state is None or previous is None:
        raise ValueError("no iteration was asked for")
    return _write_classes(table, source, state, previous, history, run)


def _half_resolution(
    first: FloatArray, second: FloatArray, voxel_size_angst: float, config: FamlConfig
) -> float:
    """Where two halves' FSC falls to 0.143; not beyond the shells that were averaged."""
    n = first.shape[0]
    shells = config.max_radius_of(n, voxel_size_angst) + 1
    curve = fourier_shell_correlation(first, second)[:shells]
    return resolution_angst(curve, n, voxel_size_angst, 0.143)


def _history_row(
    result: IterationResult, source: FileSource, config: FamlConfig
) -> dict[str, Any]:
    """One line of history.csv."""
    state = result.state
    resolutions = [
        _half_resolution(a, b, source.voxel_size_angst, config)
        for a, b in zip(*result.half_averages, strict=True)
    ]
    row = {
        "iteration": state.iteration,
        "seconds": result.seconds["total"],
        "log_likelihood": result.log_likelihood,
        "sigma": state.sigma,
        "zeta": state.zeta,
        **{f"alpha_{k:03d}": alpha for k, alpha in enumerate(state.alpha, 1)},
        "pose_change_deg": result.pose_change_deg,
        "resolution_angst": min(resolutions),
        **{f"seconds_{k}": v for k, v in sorted(result.seconds.items()) if k != "total"},
    }
    plain_row: dict[str, Any] = plain(row)
    return plain_row


def _write_history(output: Path, history: list[dict[str, Any]]) -> None:
    with replacing(output / "history.csv") as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False)


def _write_classes(
    table: ParticleTable, source: FileSource, state: ModelState, assignments: Assignments,
    history: list[dict[str, Any]], run: Run,
) -> dict[str, Any]:
    """Write averages, particles, history and report; return the summary."""
    for k, average in enumerate(state.averages, 1):
        write_volume(run.output / f"class_{k:03d}.mrc", average, source.voxel_size_angst)
    write_particles(run.output / "particles.star", _assigned_table(table, assignments))
    _write_history(run.output, history)
    counts = np.bincount(assignments.class_index, minlength=state.n_classes)
    warnings = [
        f"class {k + 1} is empty: it kept an earlier average; try fewer classes or another seed"
        for k in np.flatnonzero(state.alpha * len(source) < 1.0)
    ]
    result = {
        "iterations": state.iteration,
        "particles": len(source),
        "class_sizes": counts,
        "alpha": state.alpha,
        "sigma": state.sigma,
        "zeta": state.zeta,
        "log_likelihood": history[-1]["log_likelihood"],
        "resolution_angst": history[-1]["resolution_angst"],
        "warnings": warnings,
        "output": run.output,
    }
    classification_report(
        run.output / "report.html", state.averages, counts, pd.DataFrame(history),
        assignments.poses, source.voxel_size_angst, run.settings, plain(result),
    )
    return result


# ------------------------------------------------------------------------------------- align
@click.command("align")
@click.argument("particles", type=click.Path(path_type=Path))
@click.option("--reference", required=True, type=click.Path(path_type=Path), help="MRC map.")
@click.option("--search", type=click.Choice(SEARCHES), default="exhaustive", show_default=True,
              help="How candidate rotations are found.")
@_engine_options
@click.option("--output", type=click.Path(path_type=Path), default=Path("align"),
              show_default=True, help="Folder.")
@workers_option
@common_options
def align(
    particles: Path, reference: Path, search: str, max_shift: float | None,
    low_pass: float | None, bandwidth: int | None, max_candidates: int | None,
    angular_step: float, output: Path, workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Align the subtomograms of a STAR file to a known map: one E-step with hard assignment (FA).

    Writes particles.star with the best pose of every particle, and average.mrc of them.
    """
    config = _config(
        method="fa", search=search, max_shift=max_shift, low_pass_angst=low_pass,
        bandwidth=bandwidth, max_candidates=max_candidates, angular_step_deg=angular_step,
        n_iterations=1,
    )
    run = Run("align", output, dataclasses.asdict(config), [particles, reference], overwrite)

    def work() -> dict[str, Any]:
        table = read_particles(particles)
        source = open_source(table)
        volume = _load_reference(reference, source)[None]
        # Hard assignment looks at scores only, which do not depend on sigma, zeta or scale.
        state = ModelState(volume, np.ones(1), 1.0, float(source.n))
        executor = executor_of(n_workers(workers))
        result = faml.iterate(
            source, state, config, executor, None, progress_callback("particles"))
        write_particles(output / "particles.star", _assigned_table(table, result.assignments))
        average = result.state.averages[0]
        write_volume(output / "average.mrc", average, source.voxel_size_angst)
        average_report(
            output / "report.html", "Alignment to a reference", average[None],
            [f"{len(source)} particles"], source.voxel_size_angst, run.settings,
        )
        return {"particles": len(source), "output": output}

    run_once(run, work, as_json)


# ----------------------------------------------------------------------------------- average
@click.command("average")
@click.argument("particles", type=click.Path(path_type=Path))
@click.option("--low-pass", type=click.FloatRange(min=0, min_open=True), default=None,
              help="Average only to this resolution, angstrom.  [default: Nyquist]")
@click.option("--output", type=click.Path(path_type=Path), default=Path("average"),
              show_default=True, help="Folder.")
@workers_option
@common_options
def average(
    particles: Path, low_pass: float | None, output: Path, workers: int | None,
    as_json: bool, overwrite: bool,
) -> None:
    """Average subtomograms with known poses, each weighted by what its wedge measured.

    Classes in rlnClassNumber are averaged apart (class_NNN.mrc); average.mrc holds all particles of
    a single class. half1.mrc and half2.mrc hold those of odd and even rows.
    """
    run = Run("average", output, {"low_pass": low_pass}, [particles], overwrite)

    def work() -> dict[str, Any]:
        table = read_particles(particles)
        source = open_source(table)
        class_index = (table.class_index if "rlnClassNumber" in table.rows
                       else np.zeros(len(source), dtype=np.intp))
        config = FamlConfig(n_classes=int(class_index.max()) + 1, low_pass_angst=low_pass)
        averages, halves = faml.average_known(
            source, class_index, table.poses, config, executor_of(n_workers(workers)),
            progress_callback("particles"),
        )
        return _write_averages(averages, halves, class_index, source, config, run)

    run_once(run, work, as_json)


def _write_averages(
    averages: FloatArray, halves: FloatArray, class_index: Any, source: FileSource,
    config: FamlConfig, run: Run,
) -> dict[str, Any]:
    """Write averages, halves and FSC of known poses; return the summary."""
    voxel_size = source.voxel_size_angst
    single = len(averages) == 1
    curves, resolutions = {}, []
    for k, volume in enumerate(averages):
        name = "average" if single else f"class_{k + 1:03d}"
        write_volume(run.output / f"{name}.mrc", volume, voxel_size)
        for h in range(2):
            half_name = f"half{h + 1}" if single else f"{name}_half{h + 1}"
            write_volume(run.output / f"{half_name}.mrc", halves[h, k], voxel_size)
        curves[name] = fourier_shell_correlation(halves[0, k], halves[1, k])
        resolutions.append(_half_resolution(halves[0, k], halves[1, k], voxel_size, config))
    frequency = np.arange(len(next(iter(curves.values())))) / (source.n * voxel_size)
    with replacing(run.output / "fsc.csv") as temporary:
        pd.DataFrame({"frequency_per_angst": frequency, **curves}).to_csv(temporary, index=False)
    counts = np.bincount(class_index, minlength=len(averages))
    average_report(
        run.output / "report.html", "Average with known poses", averages,
        [f"{c} particles" for c in counts], voxel_size, run.settings,
        {name: (frequency, curve) for name, curve in curves.items()},
    )
    return {"particles": len(source), "class_sizes": counts, "resolution_angst": resolutions,
            "output": run.output}
