"""The iterations: each prepared, taken, and followed by a decision on the next."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import numpy as np

from scipion_faml.enhanced.estep import EStep, FoundTable, sum_blocks
from scipion_faml.enhanced.mstep import in_symmetry_frame, next_state
from scipion_faml.enhanced.population import population
from scipion_faml.enhanced.references import Grid, References
from scipion_faml.enhanced.sampling import sampled_state
from scipion_faml.enhanced.start import random_state, state_from_references
from scipion_faml.enhanced.state import FOCUSED_BELOW, LOCAL_BELOW, EnhancedState
from scipion_faml.enhanced.store import CACHE_BYTES
from scipion_faml.enhanced.symmetry_search import with_symmetry_found
from scipion_faml.enhanced.workbench import Workbench, resampled
from scipion_faml.execution import Executor, SerialExecutor
from scipion_faml.faml import (
    Assignments,
    IterationResult,
    ignore_progress,
    log_iteration,
    pose_change_deg,
)
from scipion_faml.measured import WorkingBox
from scipion_faml.model import FamlConfig
from scipion_faml.sources import SubtomogramSource
from scipion_faml.types import FloatArray

logger = logging.getLogger(__name__)

START_ITERATIONS = 3  # of each of several starts
SHARP_ENOUGH = 3  # iterations with narrow posteriors, before axes are looked for
MAX_FOCUSED, MAX_SINCE_DENSE = 3, 8  # iterations before all poses are looked at again
SETTLED_DEG, SETTLED_LOCAL_GAIN = 0.3, 0.1
STALLED_GAIN, SETTLED_GAIN = 0.3, 0.003  # of the log evidence per particle, in an iteration
STALLED_SHARE = 0.01  # of the log evidence, gained in an iteration with equivalent poses
TRUSTED_FSC, SHELLS_BEYOND, GROWTH = 0.3, 3, 2


def initial_state(bench: Workbench) -> EnhancedState:
    """Return the starting Theta: random, or of several starts the one of highest evidence.

    Classes can collapse into one early; particles left out of their references tell: the evidence
    of such a start stays behind. Several classes are merged and split, unless that is turned off.
    """
    if bench.config.sampling_sweeps:
        return sampled_state(bench)
    if bench.config.merges_and_splits:
        found = population(bench, lambda part, state: iterate(part, state, logged=False))
        return replace(found, iteration=0)
    n_starts = bench.config.n_random_starts
    if n_starts == 1:
        return random_state(bench, 0)
    best: EnhancedState | None = None
    for start in range(n_starts):
        state, previous = random_state(bench, start), None
        for _ in range(START_ITERATIONS):
            result = iterate(bench, state, previous, logged=False)
            state, previous = cast(EnhancedState, result.state), result.assignments
        logger.info(
            "start %d of %d: log evidence per particle %.1f after %d iterations, alpha %s",
            start + 1, n_starts, state.evidence, START_ITERATIONS,
            np.array2string(state.alpha, precision=2),
        )
        if best is None or state.evidence > best.evidence:
            best = state
    assert best is not None
    return replace(best, iteration=0, is_converged=False)


def iterate(
    bench: Workbench,
    state: EnhancedState,
    previous: Assignments | None = None,
    on_progress: Callable[[int, int], None] = ignore_progress,
    logged: bool = True,
) -> IterationResult:
    """Return the result of one iteration: E-step over all particles, then M-step."""
    started = time.perf_counter()
    step = prepared_step(bench, state)
    box, prepared = bench.box, time.perf_counter()
    sums, found, seconds = sum_blocks(bench, state, step, on_progress)
    assignments = Assignments(
        found.class_index, found.poses, found.responsibility, found.evidence, found.class_weight)
    seconds["references"] = prepared - started
    pose_change = pose_change_deg(previous, assignments, state.groups)
    new = _decide(next_state(bench, sums, state, box), state, found, pose_change, bench)
    if bench.config.finds_symmetry:
        if _asks_for_symmetry(new, state):
            new, assignments = with_symmetry_found(
                bench, new, assignments, sums.coverage.sum(axis=0), box, _unlogged)
    elif not new.in_frame and (new.n_sharp >= SHARP_ENOUGH or new.is_converged):
        new, assignments = in_symmetry_frame(bench, new, assignments, box)
    seconds["total"] = time.perf_counter() - started
    result = IterationResult(
        new, assignments, new.half_averages, sums.evidence, pose_change, seconds)
    if not logged:
        return result
    log_iteration(result, state)
    logger.info(
        "  %s, %d shells, %.1f poses share a posterior, log evidence per particle %.1f",
        state.phase, box.radius, new.n_effective, sums.evidence / len(found.index),
    )
    return result


def _unlogged(bench: Workbench, state: EnhancedState) -> IterationResult:
    return iterate(bench, state, logged=False)


def _asks_for_symmetry(new: EnhancedState, before: EnhancedState) -> bool:
    """Whether point groups are to be looked for: averages are as good as they get without.

    Poses that a symmetry makes equivalent keep posteriors broad where averages show it already.
    """
    if new.evidence <= 0.0 or new.n_effective >= FOCUSED_BELOW:
        return False  # there is nothing to see it on
    if new.reference_radius <= before.searched_radius:
        return False
    gain = new.evidence - before.evidence
    shares = new.n_effective >= LOCAL_BELOW and new.radius == before.radius
    return new.is_converged or (shares and gain < STALLED_SHARE * new.evidence)


def prepared_step(bench: Workbench, state: EnhancedState) -> EStep:
    """Return an E-step at a state's resolution; it is that of the bench from now on."""
    config, box = bench.config, bench.open_box(state.radius)
    old = WorkingBox.of(bench.source.n, state.reference_radius).samples
    # Without leaving out, all folds share one reference.
    n_different = config.n_groups if config.n_folds > 1 else 1
    values = resampled(state.references[:n_different], old, box.samples)
    noise = bench.residual.noise(np.zeros(box.radius), config.noise == "white")
    known = min(state.reference_radius, box.radius)
    noise[:known] = state.noise[:known]
    noise = bench.compared(noise)
    grid = None
    if state.phase != "local":
        # Once posteriors are narrow, the grid only has to find their peaks.
        is_broad = state.n_effective >= FOCUSED_BELOW
        bandwidth = config.dense_bandwidth if is_broad else config.search_bandwidth
        radius = min(box.radius, config.dense_radius(bandwidth))
        shift_step = max(bench.source.n / (4.0 * radius), 1.0) / box.voxel_ratio
        grid = Grid(
            box.n, radius, config.bandwidth_of_shells(radius),
            config.max_shift_of(bench.source.n) / box.voxel_ratio, shift_step)
    references = References(
        values, bench.source.n, box.radius, noise, grid, bench.mask_of(state))
    if bench.executor.is_here:
        references.prepare(bench.executor, bench.store.reference_bytes)
    return EStep(
        config, references, noise, grid is not None and grid.radius < box.radius, state.alpha,
        state.zeta, state.phase, state.n_effective, state.symmetry)


def _decide(
    new: EnhancedState, state: EnhancedState, found: FoundTable, pose_change: float,
    bench: Workbench,
) -> EnhancedState:
    """Set what the next iteration does: its resolution, and how wide it looks."""
    n_effective = float(np.median(found.n_effective))
    n_since_dense = 0 if state.phase == "dense" else state.n_since_dense + 1
    radius = state.radius
    # While posteriors are broad, all shells follow the same blob: their FSC says nothing.
    if n_effective < FOCUSED_BELOW:
        radius = max(radius, _next_radius(new.fsc, radius, bench.max_radius))
    evidence = float(np.mean(found.evidence))
    gain = evidence - state.evidence
    if n_effective >= FOCUSED_BELOW and gain < STALLED_GAIN:
        # Nothing is left to learn here: finer detail may tell orientations apart.
        most = min(bench.max_radius, bench.config.dense_radius(bench.config.dense_bandwidth))
        radius = max(radius, min(radius + 1, most))
    grown = radius > state.radius
    is_still = pose_change < SETTLED_DEG or abs(gain) < SETTLED_LOCAL_GAIN
    settled = state.phase == "local" and not grown and is_still
    phase, checked, converged = "dense", state.checked_radius, False
    if n_effective < LOCAL_BELOW:
        phase = "local"
        if settled and checked == radius:
            converged = True
        elif settled or n_since_dense >= MAX_SINCE_DENSE:
            phase, checked = "dense", radius
    elif n_effective < FOCUSED_BELOW and n_since_dense < MAX_FOCUSED:
        phase = "focused"
    elif n_effective >= FOCUSED_BELOW:
        converged = not grown and abs(gain) < SETTLED_GAIN
    return replace(
        new, radius=radius, phase=phase, n_since_dense=n_since_dense, peaks=found.peaks,
        n_effective=n_effective, checked_radius=checked, is_converged=converged,
        phase_done=state.phase, evidence=evidence,
        n_sharp=state.n_sharp + 1 if n_effective < LOCAL_BELOW else 0,
    )


def _next_radius(fsc: FloatArray, radius: int, max_radius: int) -> int:
    """Shells to compare next: a little beyond the last where the best class's halves agree.

    Not the first where they do not: beyond a zero of the CTF there is signal again.
    """
    best = fsc.max(axis=0)
    agreeing = np.flatnonzero(best >= TRUSTED_FSC)
    reached = int(agreeing[-1]) + 1 if len(agreeing) else 0
    return int(np.clip(reached + SHELLS_BEYOND, 1, min(radius + GROWTH, max_radius)))


def run(
    source: SubtomogramSource,
    config: FamlConfig,
    executor: Executor | None = None,
    start: EnhancedState | None = None,
    previous: Assignments | None = None,
    on_progress: Callable[[int, int], None] = ignore_progress,
    references: FloatArray | None = None,
    mask: FloatArray | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Iterator[IterationResult]:
    """Yield the result of every iteration, until it has converged or config.n_iterations are done.

    Parameters and errors are those of `faml.run`; `references` (K, n, n, n) are maps to start from,
    one for each class, where there is no `start`; averages and references are multiplied by the
    mask (n, n, n), which lies in their frame. `cache_bytes` is the memory for what is kept of
    particles and references.
    """
    config.check_size(len(source))
    bench = Workbench(source, config, executor or SerialExecutor(), mask, cache_bytes)
    if start is not None:
        state = start
    elif references is not None:
        state = state_from_references(bench, references)
    else:
        state = initial_state(bench)
    while state.iteration < config.n_iterations and not state.is_converged:
        result = iterate(bench, state, previous, on_progress)
        state, previous = cast(EnhancedState, result.state), result.assignments
        yield result
