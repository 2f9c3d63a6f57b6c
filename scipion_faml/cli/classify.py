"""The verb classify: averages (K = 1) or classifies and averages particles."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml import checkpoint, enhanced, faml
from scipion_faml.cli.averaging import (
    FSC_THRESHOLD,
    assigned_table,
    candidate_options,
    candidates_kept,
    comparison_options,
    half_resolution,
    in_box_of,
    load_mask,
    symmetry_or_auto_option,
    write_fsc,
)
from scipion_faml.cli.classify_options import (
    class_count,
    enhanced_options,
    paper_options,
    refuse_other_mode,
)
from scipion_faml.cli.cluster import Cluster, cluster_options
from scipion_faml.cli.common import common_options, plain, progress_callback, seed_option
from scipion_faml.cli.particles import skip_bad_option, usable_particles
from scipion_faml.cli.pictures import Classified, add_classification
from scipion_faml.cli.runs import Run, run_once
from scipion_faml.disk import replacing
from scipion_faml.enhanced import EnhancedState
from scipion_faml.evaluation.fsc import resolution_angst
from scipion_faml.execution import Executor
from scipion_faml.faml import Assignments, IterationResult
from scipion_faml.folds import fold_of
from scipion_faml.io import write_volume
from scipion_faml.model import (
    AUTO,
    ENHANCED_ONLY,
    MODES,
    PAPER_ONLY,
    FamlConfig,
    ModelState,
)
from scipion_faml.sources import SubtomogramSource
from scipion_faml.structure_check import structure_check
from scipion_faml.tables import ParticleTable, write_particles
from scipion_faml.types import FloatArray

logger = logging.getLogger(__name__)

WEAK_SYMMETRY = 0.3  # correlation with turned copies, radial mean removed
DEFAULT_ITERATIONS = {"paper": 20, "enhanced": 60}


@click.command("classify")
@click.argument("particles", type=click.Path(path_type=Path))
@click.option("--classes", "n_classes", metavar="K|auto", default="1", show_default=True,
              callback=class_count,
              help="Number of classes K; 1 averages. auto: as many as explain particles better "
                   "that were left out of the averages, in enhanced mode.")
@click.option("--iterations", type=click.IntRange(min=1), default=None,
              help="At most; enhanced mode stops when it has converged.  [default: enhanced 60, "
                   "paper 20]")
@click.option("--mode", type=click.Choice(MODES), default="enhanced", show_default=True,
              help="enhanced: looks at all poses and leaves each particle out of its own "
                   "reference; paper: Zhao et al. 2018 to the letter, but for the options set "
                   "here.")
@click.option("--reference", "references", multiple=True, type=click.Path(path_type=Path),
              help="Start from these maps, one for each class, which keep their order.")
@symmetry_or_auto_option
@click.option("--mask", type=click.Path(path_type=Path), default=None,
              help="MRC map from 0 to 1 that multiplies the averages after each iteration. It lies "
                   "in the averages' frame: without --reference only round masks make sense, or "
                   "those that turn with the symmetry.")
@comparison_options
@enhanced_options
@paper_options
@candidate_options
@skip_bad_option
@click.option("--output", type=click.Path(path_type=Path), default=Path("classify"),
              show_default=True, help="Folder.")
@cluster_options
@seed_option
@common_options
def classify(
    particles: Path, n_classes: int | str, iterations: int | None, mode: str,
    references: tuple[Path, ...], mask: Path | None, low_pass: float | None,
    max_candidates: int | None, angular_step: float, skip_bad: bool, output: Path,
    cluster: Cluster, as_json: bool, overwrite: bool, **settings: Any,
) -> None:
    """Average (K = 1) or classify and average the subtomograms of a STAR file with FAML.

    Writes class_NNN.mrc, particles.star, history.csv, report.html and iter_NNN/ into the output
    folder; in enhanced mode also class_NNN_half1.mrc, _half2.mrc and fsc.csv. A killed run, started
    again, goes on from its last iteration; more --iterations go on from the last one too.

    log_likelihood in history.csv and rlnLogLikeliContribution are in enhanced mode log ratios of
    the evidence to that of pure noise: at 0 or less a particle supports no structure.

    With --symmetry, references lie in the group's frame. Without references, enhanced mode finds
    the symmetry axes once orientations are known, and turns each class into the frame. --symmetry
    auto finds the group of each class as well, once the run has settled without.
    """
    refuse_other_mode(click.get_current_context(), mode)
    if n_classes == AUTO and mode != "enhanced":
        raise click.UsageError(f"--classes {AUTO} needs --mode enhanced: give a number")
    if references and len(references) != n_classes:
        raise ValueError(f"{len(references)} references for {n_classes} classes: give one each")
    if settings["symmetry"] == AUTO and mode != "enhanced":
        raise click.UsageError(f"--symmetry {AUTO} needs --mode enhanced: name a point group")
    config = FamlConfig(
        n_classes=1 if n_classes == AUTO else int(n_classes), find_classes=n_classes == AUTO,
        n_iterations=iterations or DEFAULT_ITERATIONS[mode], mode=mode,
        low_pass_angst=low_pass, angular_step_deg=angular_step,
        max_candidates=candidates_kept(max_candidates, settings["search"]), **settings,
    )
    if mode == "paper" and config.symmetry != "C1" and not references:
        raise ValueError(
            f"--symmetry {config.symmetry} with --mode paper needs a --reference in the group's "
            "frame: give one for each class, or use --mode enhanced, which finds the axes")
    inputs = [particles, *references, *([mask] if mask else [])]
    run = Run("classify", output, {**_settings(config), "mask": mask}, inputs, overwrite)
    if overwrite:
        checkpoint.remove_all(output)
    _reopen_unless_done(run, config.n_iterations)

    def work() -> dict[str, Any]:
        with usable_particles(particles, skip_bad, run, cluster.workers) as found:
            source = found.source
            config.check_size(len(source))
            n_bytes = cluster.cache_bytes(config, source.n, source.voxel_size_angst)
            with cluster.opened() as executor:
                engine = Engine(source, config, executor, load_mask(source, mask), n_bytes)
                return found.told(classify_particles(found.table, engine, run, references))

    run_once(run, work, as_json)


def _settings(config: FamlConfig) -> dict[str, Any]:
    """What makes a run this run: all that its mode looks at."""
    ignored = ENHANCED_ONLY if config.mode == "paper" else PAPER_ONLY
    settings = dataclasses.asdict(config)
    return {k: v for k, v in settings.items() if k not in (*ignored, "n_iterations")}


def _reopen_unless_done(run: Run, n_iterations: int) -> None:
    """Let a finished run go on when more iterations are asked for and would change anything."""
    finished = run.finished_result
    if finished is None:
        return
    done = finished.get("iterations")
    if isinstance(done, int) and done >= n_iterations:
        return
    if finished.get("converged"):
        click.echo(
            f"{run.output} converged after {done} iterations: more change nothing", err=True)
    else:
        run.reopen()


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether there is structure."""

    is_structure: bool
    text: str  # one line
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """What iterations need, in either mode."""

    source: SubtomogramSource
    config: FamlConfig
    executor: Executor
    mask: FloatArray | None
    cache_bytes: int

    def iterations(
        self, state: ModelState | None, previous: Assignments | None, maps: list[FloatArray]
    ) -> Iterator[IterationResult]:
        """The iterations from a checkpoint's state, from maps, or from nothing."""
        source, config, mask = self.source, self.config, self.mask
        executor, on_progress = self.executor, progress_callback("particles")
        if config.mode == "paper":
            if maps:
                state = faml.state_from_references(source, np.stack(maps), config)
            yield from faml.run(source, config, executor, state, previous, on_progress, mask,
                                self.cache_bytes)
            return
        if not (state is None or isinstance(state, EnhancedState)):
            raise ValueError("enhanced mode cannot go on from a state of paper mode")
        yield from enhanced.run(
            source, config, executor, state, previous, on_progress,
            np.stack(maps) if maps else None, mask, self.cache_bytes)

    def checked(self, state: ModelState, assignments: Assignments) -> Verdict:
        """Whether there is structure in a result."""
        if isinstance(state, EnhancedState):
            evidence = float(assignments.log_likelihood.mean())
            said = (f"explain the particles better than pure noise (log evidence per particle "
                    f"{evidence:.3g})")
            if evidence > 0.0:
                return Verdict(True, f"structure found: the averages {said}")
            return Verdict(False, "no structure found: pure noise explains the particles as well "
                           f"(log evidence per particle {evidence:.2f})")
        logger.info("comparing particles and copies without structure with averages of others")
        check = structure_check(
            self.source, state, assignments, self.config, self.executor, self.mask)
        how = "better" if check.is_found else "no better"
        text = (f"particles fit the averages of others {how} than copies with random phases do "
                f"({check.z:.1f} standard errors)")
        found = "structure found" if check.is_found else "no structure found"
        return Verdict(check.is_found, f"{found}: {text}",
                       {"structure_gain": check.gain, "structure_z": check.z})

    def validated(self, state: EnhancedState) -> FloatArray:
        """The halves' FSC without what aligned noise brings, (K, n_shells)."""
        logger.info("comparing noise with the references: what it brings to the halves' FSC")
        return enhanced.validated_fsc(
            self.source, self.config, state, self.executor, self.mask, self.cache_bytes)


def classify_particles(
    table: ParticleTable, engine: Engine, run: Run, references: tuple[Path, ...]
) -> dict[str, Any]:
    """Run or continue, leave a checkpoint after every iteration, and write the outputs."""
    source, config = engine.source, engine.config
    state: ModelState | None = None
    previous, history = None, []
    found = checkpoint.load_newest(run.output, run.settings)
    if found is not None:
        state, previous, history = found.state, found.assignments, found.history
        logger.info("continuing after iteration %d of %s", state.iteration, run.output)
    maps = [in_box_of(source, path) for path in references] if found is None else []
    run.status.update(counts={"particles": len(source)})
    _tell_status(run, state, previous, history, config)
    for result in engine.iterations(state, previous, maps):
        history = [*history, _history_row(result, source, config)]
        checkpoint.save(run.output, result, history, run.settings, source.voxel_size_angst)
        _write_history(run.output, history)
        state, previous = result.state, result.assignments
        _tell_status(run, state, previous, history, config)
        if run.report.is_due():
            add_classification(
                run.report, _classified(source, config, state, previous, history))
            run.report.refresh()
    if state is None or previous is None:
        raise ValueError("no iteration was asked for")
    run.status.step("validate")
    validated = engine.validated(state) if isinstance(state, EnhancedState) else None
    verdict = engine.checked(state, previous)
    logger.info("%s", verdict.text)
    return _write_classes(
        table, source, config, state, previous, history, run, validated, verdict)


def _tell_status(
    run: Run, state: ModelState | None, assignments: Assignments | None,
    history: list[dict[str, Any]], config: FamlConfig,
) -> None:
    """Say in status.json how far the run is, and what came out so far."""
    if state is None or assignments is None:
        run.status.iteration(0, config.n_iterations)
        return
    sizes = np.bincount(assignments.class_index, minlength=state.n_classes)
    run.status.iteration(
        state.iteration, max(config.n_iterations, state.iteration), class_sizes=sizes.tolist(),
        resolution_angst=history[-1]["resolution_angst"])


def _classified(
    source: SubtomogramSource, config: FamlConfig, state: ModelState, assignments: Assignments,
    history: list[dict[str, Any]], **more: Any,
) -> Classified:
    """What the report shows of a run."""
    return Classified(state.averages, assignments, history, source.voxel_size_angst,
                      config.mode == "enhanced", config.n_folds, **more)


# ------------------------------------------------------------------------------------- outputs
def _fsc_curves(fsc: FloatArray, source: SubtomogramSource) -> tuple[FloatArray, FloatArray]:
    """Frequencies (1/angstrom) and the FSC of every class's halves, shell 0 included as 1."""
    frequency = np.arange(fsc.shape[1] + 1) / (source.n * source.voxel_size_angst)
    return frequency, np.concatenate([np.ones((len(fsc), 1)), fsc], axis=1)


def _resolutions(
    result: IterationResult, source: SubtomogramSource, config: FamlConfig
) -> list[float]:
    """Resolution (angstrom) of every class's halves at an FSC of 0.143.

    NaN while posteriors are broad or pure noise explains the particles: both halves were compared
    with the same references, and noise alone correlates there.
    """
    if isinstance(result.state, EnhancedState):
        state = result.state
        if state.n_effective >= enhanced.FOCUSED_BELOW or state.evidence <= 0.0:
            return [float("nan")] * state.n_classes
        _, curves = _fsc_curves(state.fsc, source)
        return [resolution_angst(c, source.n, source.voxel_size_angst, FSC_THRESHOLD)
                for c in curves]
    return [half_resolution(a, b, source.voxel_size_angst, config)
            for a, b in zip(*result.half_averages, strict=True)]


def _history_row(
    result: IterationResult, source: SubtomogramSource, config: FamlConfig
) -> dict[str, Any]:
    """One line of history.csv."""
    state = result.state
    row = {
        "iteration": state.iteration,
        "seconds": result.seconds["total"],
        "log_likelihood": result.log_likelihood,
        "sigma": state.sigma,
        "zeta": state.zeta,
        **{f"alpha_{k:03d}": alpha for k, alpha in enumerate(state.alpha, 1)},
        "pose_change_deg": result.pose_change_deg,
        "resolution_angst": min(_resolutions(result, source, config)),
    }
    if isinstance(state, EnhancedState):
        row |= {"phase": state.phase_done, "shells": state.reference_radius,
                "n_effective": state.n_effective}
    row |= {f"seconds_{k}": v for k, v in sorted(result.seconds.items()) if k != "total"}
    plain_row: dict[str, Any] = plain(row)
    return plain_row


def _write_history(output: Path, history: list[dict[str, Any]]) -> None:
    with replacing(output / "history.csv") as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False)


def _write_classes(
    table: ParticleTable, source: SubtomogramSource, config: FamlConfig, state: ModelState,
    assignments: Assignments, history: list[dict[str, Any]], run: Run,
    validated: FloatArray | None, verdict: Verdict,
) -> dict[str, Any]:
    """Write averages, particles, history and report; return the summary.

    `validated` is the FSC of enhanced mode's halves that the resolution is read from.
    """
    run.status.step("write")
    _remove_classes(run.output)
    for k, average in enumerate(state.averages, 1):
        write_volume(run.output / f"class_{k:03d}.mrc", average, source.voxel_size_angst)
    assigned = assigned_table(table, assignments)
    curves = {}
    resolution = history[-1]["resolution_angst"]
    if isinstance(state, EnhancedState) and validated is not None:
        curves = _write_halves(state, validated, source, run.output)
        resolution = _resolution(validated, source)
        subset = fold_of(len(source), config.n_groups, config.seed) % 2 + 1
        assigned = assigned.with_columns(rlnRandomSubset=subset)
    write_particles(run.output / "particles.star", assigned)
    _write_history(run.output, history)
    counts = np.bincount(assignments.class_index, minlength=state.n_classes)
    result = {
        "mode": config.mode,
        "iterations": state.iteration,
        "particles": len(source),
        "classes": state.n_classes,
        "class_sizes": counts,
        "alpha": state.alpha,
        "sigma": state.sigma,
        "zeta": state.zeta,
        "log_likelihood": history[-1]["log_likelihood"],
        "resolution_angst": resolution if verdict.is_structure else float("nan"),
        "halves_resolution_angst": resolution,  # whatever the verdict: a noise control compares it
        "structure_found": verdict.is_structure,
        "verdict": verdict.text,
        **verdict.numbers,
    }
    if isinstance(state, EnhancedState):
        result |= {"converged": state.is_converged, "n_effective": state.n_effective,
                   "log_evidence_per_particle": float(assignments.log_likelihood.mean())}
        if config.finds_symmetry:
            result |= {"symmetry": list(state.symmetry), "symmetry_gain": state.symmetry_gain,
                       "symmetry_searched": state.searched_radius > 0}
        elif config.symmetry != "C1":
            result |= {"symmetry_imposed": state.in_frame, "symmetry_score": state.symmetry_score}
    result |= {"warnings": _warnings(state, assignments, config, verdict), "output": run.output}
    add_classification(run.report, _classified(
        source, config, state, assignments, history, result=plain(result), curves=curves))
    return result


def _remove_classes(output: Path) -> None:
    """Remove the averages of an earlier run, which may have had more classes."""
    for path in output.glob("class_[0-9][0-9][0-9]*.mrc"):
        path.unlink()


def _resolution(validated: FloatArray, source: SubtomogramSource) -> float:
    """Best resolution (angstrom) of a class at an FSC of 0.143; NaN where no shell agrees."""
    known = [curve for curve in _fsc_curves(validated, source)[1] if curve[1] >= FSC_THRESHOLD]
    if not known:
        return float("nan")
    return min(resolution_angst(curve, source.n, source.voxel_size_angst, FSC_THRESHOLD)
               for curve in known)


def _write_halves(
    state: EnhancedState, validated: FloatArray, source: SubtomogramSource, output: Path
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Write half averages and fsc.csv, validated and as it was; return the validated curves."""
    for h, half in enumerate(state.half_averages, 1):
        for k, volume in enumerate(half, 1):
            path = output / f"class_{k:03d}_half{h}.mrc"
            write_volume(path, volume, source.voxel_size_angst)
    frequency, values = _fsc_curves(validated, source)
    raw = _fsc_curves(state.fsc, source)[1]
    curves = {f"class_{k:03d}": curve for k, curve in enumerate(values, 1)}
    before = {f"class_{k:03d}_uncorrected": curve for k, curve in enumerate(raw, 1)}
    write_fsc(output / "fsc.csv", frequency, curves | before)
    return {name: (frequency, curve) for name, curve in curves.items()}


def _warnings(
    state: ModelState, assignments: Assignments, config: FamlConfig, verdict: Verdict
) -> list[str]:
    """What a user must know about a result."""
    n_particles = len(assignments.class_index)
    warnings = [
        f"class {k + 1} is empty: it kept an earlier average; try fewer classes or another seed"
        for k in np.flatnonzero(state.alpha * n_particles < 1.0)
    ]
    if not verdict.is_structure:
        warnings.append(f"{verdict.text}; check contrast, box and tilt range, or use more "
                        "particles")
    if not isinstance(state, EnhancedState):
        return warnings
    if verdict.is_structure and state.n_effective > enhanced.FOCUSED_BELOW:
        warnings.append(
            f"orientations are not determined: {state.n_effective:.0f} poses share a particle's "
            "posterior; use more iterations or more particles, and distrust the average")
    if config.finds_symmetry:
        if not state.searched_radius and verdict.is_structure:
            warnings.append(
                "no symmetry was looked for: orientations had not settled; use more iterations")
    elif not state.in_frame:
        warnings.append(
            f"symmetry {config.symmetry} was not imposed: orientations are not known well enough "
            "yet; use more iterations, or a --reference")
    elif state.symmetry_score < WEAK_SYMMETRY:
        warnings.append(
            f"the average found without symmetry hardly shows {config.symmetry} (correlation with "
            f"its turned copies {state.symmetry_score:.2f}): compare with --symmetry C1")
    return warnings
