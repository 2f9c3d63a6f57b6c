"""The front door for scripts: iterations of FAML over a source of subtomograms (Algorithm 1).

    for result in run(source, FamlConfig(n_classes=2), ThreadExecutor(4)):
        print(result.state.iteration, result.log_likelihood)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scipion_faml.align import Observation, Reference
from scipion_faml.em import (
    SufficientStatistics,
    half_averages,
    m_step,
    observed_averages,
    propose,
    search_of,
)
from scipion_faml.estep import (
    CACHE_BYTES,
    METHOD_STEPS,
    Assignments,
    EStep,
    Geometry,
    ignore_progress,
    particle_blocks,
    sum_blocks,
)
from scipion_faml.execution import Executor, SerialExecutor
from scipion_faml.fourier import SampleSet
from scipion_faml.geometry import RigidTransforms, rotation_angle_deg
from scipion_faml.impose import masked, representatives, symmetrised_sums, turn_between_deg
from scipion_faml.model import FamlConfig, ModelState, random_classes, starting_poses
from scipion_faml.sources import SubtomogramSource
from scipion_faml.types import FloatArray, IntArray

logger = logging.getLogger(__name__)

__all__ = [
    "Assignments", "Geometry", "IterationResult", "accumulate_known", "average_known",
    "ignore_progress", "initial_state", "iterate", "log_iteration", "pose_change_deg", "run",
    "state_from_references", "with_symmetry",
]

@dataclass(frozen=True, eq=False)
class IterationResult:
    """What one iteration gives."""

    state: ModelState
    assignments: Assignments
    half_averages: FloatArray  # (2, K, n, n, n), even and odd particles
    log_likelihood: float  # of the state before the iteration
    pose_change_deg: float  # median; NaN in the first iteration
    seconds: dict[str, float]  # total, and thread-seconds per stage

    @property
    def empty_classes(self) -> list[int]:
        """Classes (from 0) whose weight is below one particle: they kept their average."""
        n_particles = len(self.assignments.class_index)
        return [int(k) for k in np.flatnonzero(self.state.alpha * n_particles < 1.0)]


def accumulate_known(
    source: SubtomogramSource,
    class_index: IntArray,
    poses: RigidTransforms,
    config: FamlConfig,
    executor: Executor | None = None,
    on_progress: Callable[[int, int], None] = ignore_progress,
    half: IntArray | None = None,
) -> SufficientStatistics:
    """Return the statistics of particles whose class and pose are known.

    `half` (N,) is 0 or 1 of each particle; without it they alternate within each class.
    """
    if half is None:
        half = alternating_halves(class_index)
    geometry = Geometry.of(source, config, cache_bytes=0)
    job = EStep(None, config).opened(source, geometry)
    blocks = particle_blocks(len(source), config.chunk_size, class_index, poses, half)
    return sum_blocks(executor or SerialExecutor(), job, blocks, on_progress).statistics


def alternating_halves(class_index: IntArray) -> IntArray:
    """Return the half, 0 or 1, of each particle: in turn within each class."""
    half = np.zeros(len(class_index), dtype=np.intp)
    for k in np.unique(class_index):
        members = np.flatnonzero(class_index == k)
        half[members] = np.arange(len(members)) % 2
    return half


def with_symmetry(
    statistics: SufficientStatistics, samples: SampleSet, group: FloatArray
) -> SufficientStatistics:
    """Return statistics in which every particle counts in all poses that a group makes equivalent.

    Averages must lie in the group's frame.
    """
    if len(group) == 1:
        return statistics
    signal, coverage = statistics.signal.copy(), statistics.coverage.copy()
    for item in np.ndindex(statistics.weight.shape):
        signal[item], coverage[item] = symmetrised_sums(
            signal[item], coverage[item], float(statistics.weight[item]), samples, group)
    return replace(statistics, signal=signal, coverage=coverage)


def average_known(
    source: SubtomogramSource,
    class_index: IntArray,
    poses: RigidTransforms,
    config: FamlConfig,
    executor: Executor | None = None,
    on_progress: Callable[[int, int], None] = ignore_progress,
    half: IntArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Return weighted averages of particles with known classes and poses, of config.symmetry.

    Returns
    -------
    averages : (K, n, n, n) float32
        signal / coverage of each class.
    half_averages : (2, K, n, n, n) float32
        The same of each half of the particles (`accumulate_known`).
    """
    statistics = accumulate_known(
        source, class_index, poses, config, executor, on_progress, half)
    samples = Geometry.of(source, config).samples
    statistics = with_symmetry(statistics, samples, config.group)
    whole = observed_averages(
        statistics.signal.sum(axis=0), statistics.coverage.sum(axis=0),
        statistics.weight.sum(axis=0), samples,
    )
    return whole, half_averages(statistics, samples)


def initial_state(
    source: SubtomogramSource, config: FamlConfig, executor: Executor | None = None
) -> ModelState:
    """Return the starting Theta (Section 2.4).

    Particles are divided evenly into K sets at random and averaged, unturned or turned at random;
    alpha = 1/K; sigma^2 is the squared difference of one random particle and average, averaged over
    what the particle measured; zeta is the box size.
    """
    classes = random_classes(len(source), config.n_classes, config.seed)
    poses = starting_poses(len(source), config.start, config.seed)
    averages, _ = average_known(source, classes, poses, config, executor)
    geometry = Geometry.of(source, config)
    rng = np.random.default_rng([config.seed, 0, len(source)])
    observation = geometry.observe(source, int(rng.integers(len(source))))
    average = averages[int(rng.integers(config.n_classes))]
    difference = observation.values - geometry.at_samples(geometry.references(average[None]))[0]
    weight = observation.sample_weight.astype(np.float64)
    sigma_sq = float(weight @ (np.abs(difference).astype(np.float64) ** 2) / weight.sum())
    alpha = np.full(config.n_classes, 1.0 / config.n_classes)
    return ModelState(averages, alpha, float(np.sqrt(sigma_sq)), float(source.n))


def state_from_references(
    source: SubtomogramSource, averages: FloatArray, config: FamlConfig
) -> ModelState:
    """Return a starting Theta for references (K, n, n, n) that the user supplies.

    A reference comes on its own scale; it is brought onto the particles' by matching the power per
    sample above the noise, which the first particles show.
    """
    geometry = Geometry.of(source, config)
    observations = [geometry.observe(source, i) for i in range(min(len(source), 16))]
    noise = float(np.mean([o.power / o.wedge.n_observed for o in observations]))
    references = geometry.references(averages)
    scaled = []
    for reference, average in zip(references, averages, strict=True):
        gains = [_best_gain(o, reference, config) for o in observations]
        scaled.append(average * max(float(np.median(gains)), 1e-6))
    alpha = np.full(len(averages), 1.0 / len(averages))
    stack = np.stack(scaled).astype(np.float32)
    return ModelState(stack, alpha, float(np.sqrt(noise)), float(source.n))


def _best_gain(observation: Observation, reference: Reference, config: FamlConfig) -> float:
    """Least-squares scale of a reference at the particle's best candidate."""
    search = search_of(config, observation.samples)
    candidates = propose(observation, [reference], config, search)
    best = int(np.argmax(candidates.score))
    return float(candidates.cross[best] / candidates.model_power[best])


def iterate(
    source: SubtomogramSource,
    state: ModelState,
    config: FamlConfig,
    executor: Executor | None = None,
    previous: Assignments | None = None,
    on_progress: Callable[[int, int], None] = ignore_progress,
    mask: FloatArray | None = None,
    geometry: Geometry | None = None,
) -> IterationResult:
    """Return the result of one iteration: E-step over all particles, then M-step.

    Averages get config.symmetry, and are multiplied by the mask (n, n, n). A `geometry` of source
    and settings keeps particles at hand for the next iteration.
    """
    started = time.perf_counter()
    if geometry is None:
        geometry = Geometry.of(source, config, cache_bytes=0)
    job = EStep(state, config).opened(source, geometry)
    before = None if previous is None else previous.poses
    blocks = particle_blocks(len(source), config.chunk_size, poses=before)
    sums = sum_blocks(executor or SerialExecutor(), job, blocks, on_progress)
    _, update = METHOD_STEPS[config.method]
    current = geometry.at_samples(job.references)
    statistics = with_symmetry(sums.statistics, geometry.samples, config.group)
    new_state = m_step(statistics, state, current, geometry.samples, update)
    if mask is not None:
        averages = np.stack([masked(average, mask) for average in new_state.averages])
        new_state = replace(new_state, averages=averages)
    assignments, seconds = Assignments.concatenate(sums.assignments), sums.seconds
    poses = representatives(assignments.poses, config.group)
    assignments = replace(assignments, poses=poses)
    halves = half_averages(statistics, geometry.samples)
    seconds["total"] = time.perf_counter() - started
    result = IterationResult(
        new_state, assignments, halves, statistics.log_likelihood,
        pose_change_deg(previous, assignments, [config.group] * config.n_classes), seconds,
    )
    log_iteration(result, state)
    return result


def pose_change_deg(
    before: Assignments | None, after: Assignments, groups: Sequence[FloatArray] | None = None
) -> float:
    """Return the median angle between the best poses of two iterations (NaN without a first).

    Poses that the group of rotations (G, 3, 3) of a particle's class makes equivalent count as one.
    """
    if before is None:
        return float("nan")
    old, new = before.poses.rotation, after.poses.rotation
    turn = np.asarray(rotation_angle_deg(old, new), dtype=np.float64)
    for k, group in enumerate(groups or []):
        mine = np.flatnonzero(after.class_index == k)
        if len(group) > 1:
            turn[mine] = turn_between_deg(old[mine], new[mine], group)
    return float(np.median(turn))


def log_iteration(result: IterationResult, before: ModelState) -> None:
    """Log one iteration in a line, and warn of classes that emptied in it."""
    state = result.state
    logger.info(
        "iteration %d: log-likelihood %.6g, sigma %.4g, zeta %.3g voxels, alpha %s, "
        "pose change %.2f deg, %.1f s",
        state.iteration, result.log_likelihood, state.sigma, state.zeta,
        np.array2string(state.alpha, precision=3), result.pose_change_deg, result.seconds["total"],
    )
    n_particles = len(result.assignments.class_index)
    was_empty = set(np.flatnonzero(before.alpha * n_particles < 1.0).tolist())
    is_empty = set(result.empty_classes)
    for k in sorted(is_empty - was_empty):
        logger.warning(
            "class %d is retired: it holds less than one particle after iteration %d and keeps its "
            "average; try fewer classes or another seed", k + 1, state.iteration,
        )
    for k in sorted(was_empty - is_empty):
        logger.warning("class %d holds particles again after iteration %d", k + 1,
                       state.iteration)


def run(
    source: SubtomogramSource,
    config: FamlConfig,
    executor: Executor | None = None,
    start: ModelState | None = None,
    previous: Assignments | None = None,
    on_progress: Callable[[int, int], None] = ignore_progress,
    mask: FloatArray | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Iterator[IterationResult]:
    """Yield the result of every iteration up to config.n_iterations.

    Parameters
    ----------
    source : SubtomogramSource
    config : FamlConfig
    executor : Executor
        Where chunks of particles are worked on; the result does not depend on it.
    start : ModelState
        Theta to continue from (a checkpoint, references); by default `initial_state`.
    previous : Assignments
        Those of the iteration before, to report how far poses moved.
    mask : (n, n, n)
        Multiplies the averages after every iteration.
    cache_bytes : int
        Memory for particles that are kept between iterations.

    Raises
    ------
    ValueError
        If there are too few particles, a particle is damaged (it is named), or a symmetry is to be
        imposed on averages of which nobody knows how they lie.
    """
    config.check_size(len(source))
    if start is None and len(config.group) > 1:
        raise ValueError(
            f"symmetry {config.symmetry} needs references that lie in its frame: give some, or use "
            "enhanced mode, which finds the axes"
        )
    state = initial_state(source, config, executor) if start is None else start
    geometry = Geometry.of(source, config, cache_bytes)
    while state.iteration < config.n_iterations:
        result = iterate(source, state, config, executor, previous, on_progress, mask, geometry)
        state, previous = result.state, result.assignments
        yield result
