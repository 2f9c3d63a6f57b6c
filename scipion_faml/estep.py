"""The E-step of paper mode over blocks of particles, here or in other processes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scipion_faml.align import (
    Candidates,
    Observation,
    PreparedWedge,
    Reference,
    observe,
    prepare_reference,
    prepare_wedge,
)
from scipion_faml.em import (
    Assignment,
    AverageUpdate,
    Posterior,
    SufficientStatistics,
    accumulate,
    assign,
    hard_assignment,
    imputed_average,
    observed_average,
    propose,
    search_of,
    soft_posterior,
)
from scipion_faml.execution import Desk, Executor, block_size, in_groups
from scipion_faml.fourier import SampleSet, sample_set
from scipion_faml.geometry import RigidTransforms
from scipion_faml.harmonics import ShellPlan, shell_plan
from scipion_faml.model import FamlConfig, ModelState
from scipion_faml.phase import PhaseSearch
from scipion_faml.sources import Row, SubtomogramSource
from scipion_faml.types import ComplexArray, FloatArray, IntArray

# What distinguishes the two methods: how candidates are weighted, and how averages are updated.
METHOD_STEPS: dict[str, tuple[Posterior, AverageUpdate]] = {
    "faml": (soft_posterior, imputed_average),
    "fa": (hard_assignment, observed_average),
}
MAX_CACHED_WEDGES = 8
CACHE_BYTES = 2**30  # of particles that stay at hand between iterations


@dataclass(frozen=True, eq=False)
class Assignments:
    """The best class and pose of every particle, a row each."""

    class_index: IntArray  # (N,)
    poses: RigidTransforms  # N
    responsibility: FloatArray  # (N,) of the best candidate
    log_likelihood: FloatArray  # (N,)
    class_posterior: FloatArray  # (N, K)

    @staticmethod
    def of(parts: Sequence[Assignment], n_classes: int) -> Assignments:
        """Collect single particles' assignments."""
        return Assignments(
            np.array([a.class_index for a in parts], dtype=np.intp),
            RigidTransforms.concatenate([a.pose for a in parts]),
            np.array([a.responsibility[a.best] for a in parts]),
            np.array([a.log_likelihood for a in parts]),
            np.stack(
                [np.bincount(a.candidates.class_index, a.responsibility, n_classes) for a in parts]
            ),
        )

    @staticmethod
    def concatenate(parts: Sequence[Assignments]) -> Assignments:
        """Return the particles of all parts, in their order."""
        return Assignments(
            np.concatenate([a.class_index for a in parts]),
            RigidTransforms.concatenate([a.poses for a in parts]),
            np.concatenate([a.responsibility for a in parts]),
            np.concatenate([a.log_likelihood for a in parts]),
            np.concatenate([a.class_posterior for a in parts]),
        )


@dataclass(frozen=True, eq=False)
class Geometry:
    """The samples and shells that a box size and the settings define, and what is kept of a source.

    As many particles as fit `cache_bytes` are kept; the rest is observed anew, with the same bits.
    """

    samples: SampleSet
    plan: ShellPlan
    cache_bytes: int = CACHE_BYTES
    key: str = field(default_factory=lambda: uuid.uuid4().hex)  # of what other processes keep
    _wedges: dict[int, PreparedWedge] = field(default_factory=dict)
    _observations: dict[int, Observation] = field(default_factory=dict)

    @staticmethod
    def of(
        source: SubtomogramSource, config: FamlConfig, cache_bytes: int = CACHE_BYTES
    ) -> Geometry:
        """Return the geometry of a source's box; use it for this source alone."""
        if source.n < 8:
            raise ValueError(f"the box of {source.n} voxels is too small: at least 8 are needed")
        radius = config.max_radius_of(source.n, source.voxel_size_angst)
        plan = shell_plan(config.bandwidth_of(source.n), radius)
        return Geometry(sample_set(source.n, radius), plan, cache_bytes)

    def observe(self, source: SubtomogramSource, index: int) -> Observation:
        """Return one particle, read if it is not at hand."""
        known = self._observations.get(index)
        if known is not None:
            return known
        particle = source[index]
        try:
            found = observe(particle.volume, self.prepare_wedge(particle.wedge), index)
        except ValueError as error:
            raise ValueError(f"subtomogram {index + 1}: {error}") from error
        size = found.n_bytes
        if particle.wedge.flags.writeable:  # its own: shared ones are read-only
            size += found.wedge.n_bytes
        if (len(self._observations) + 1) * size <= self.cache_bytes:
            self._observations[index] = found
        return found

    def prepare_wedge(self, weight: FloatArray) -> PreparedWedge:
        """Return a prepared wedge; those of tilt ranges, which particles share, are kept."""
        known = self._wedges.get(id(weight))
        if known is not None:
            return known
        prepared = prepare_wedge(weight, self.samples, self.plan)
        # Shared masks are read-only. An entry keeps its array alive, so the id stays its own.
        if not weight.flags.writeable and len(self._wedges) < MAX_CACHED_WEDGES:
            self._wedges[id(weight)] = prepared
        return prepared

    def references(self, averages: FloatArray) -> list[Reference]:
        """Prepare class averages."""
        return [prepare_reference(a, self.samples, self.plan) for a in averages]

    def at_samples(self, references: Sequence[Reference]) -> list[ComplexArray]:
        """Return the averages at the samples."""
        return [r.turned(np.eye(3)) for r in references]


def known_block(
    block: ParticleBlock, source: SubtomogramSource, geometry: Geometry, config: FamlConfig
) -> BlockSums:
    """Return the statistics of particles of a block whose class and pose are known."""
    assert block.class_index is not None and block.poses is not None and block.half is not None
    statistics = SufficientStatistics.zero(config.n_classes, geometry.samples)
    for row, i in enumerate(block.indices):
        observation = geometry.observe(source, i)
        candidates = known_pose(block.poses[[row]], int(block.class_index[row]))
        assignment = Assignment(i, candidates, np.ones(1), 0.0)
        statistics = accumulate(statistics, observation, assignment, int(block.half[row]))
    return BlockSums(statistics, [], {})


def known_pose(pose: RigidTransforms, class_index: int) -> Candidates:
    """Return a given pose as the only candidate; nothing is scored."""
    one, zero = np.ones(1), np.zeros(1)
    return Candidates(pose, np.array([class_index]), zero, zero, zero, one)


def e_step_block(
    block: ParticleBlock,
    source: SubtomogramSource,
    geometry: Geometry,
    references: Sequence[Reference],
    state: ModelState,
    config: FamlConfig,
    search: PhaseSearch | None = None,
) -> BlockSums:
    """Return statistics and assignments of the particles in a block.

    Poses that the block has are those of the iteration before.
    """
    statistics = SufficientStatistics.zero(config.n_classes, geometry.samples)
    assignments = []
    seconds = {"read": 0.0, "candidates": 0.0, "statistics": 0.0}
    posterior, _ = METHOD_STEPS[config.method]
    for row, i in enumerate(block.indices):
        clock = [time.perf_counter()]
        observation = geometry.observe(source, i)
        clock.append(time.perf_counter())
        before = None if block.poses is None else block.poses[[row]]
        candidates = propose(observation, references, config, search, before)
        clock.append(time.perf_counter())
        assignment = assign(observation, candidates, state, posterior, config.min_responsibility)
        statistics = accumulate(statistics, observation, assignment, i % 2)
        assignments.append(assignment)
        clock.append(time.perf_counter())
        for name, spent in zip(seconds, np.diff(clock), strict=True):
            seconds[name] += float(spent)
    return BlockSums(statistics, [Assignments.of(assignments, config.n_classes)], seconds)


# ---------------------------------------------------------------------- sums over particles
@dataclass(frozen=True, eq=False)
class ParticleBlock:
    """Particles that a worker looks at one after another, and what is known of them."""

    indices: Sequence[int]
    class_index: IntArray | None = None  # (n,) of these particles
    poses: RigidTransforms | None = None  # n
    half: IntArray | None = None  # (n,) 0 or 1, where classes are known


def particle_blocks(
    n_particles: int, chunk_size: int, class_index: IntArray | None = None,
    poses: RigidTransforms | None = None, half: IntArray | None = None,
) -> list[ParticleBlock]:
    """Return all particles in blocks, with what is known of each."""
    size, out = block_size(n_particles, chunk_size), []
    for start in range(0, n_particles, size):
        rows = slice(start, min(start + size, n_particles))
        out.append(ParticleBlock(
            range(rows.start, rows.stop),
            None if class_index is None else class_index[rows],
            None if poses is None else poses[rows],
            None if half is None else half[rows]))
    return out


@dataclass(frozen=True, eq=False)
class BlockSums:
    """What comes of some blocks."""

    statistics: SufficientStatistics
    assignments: list[Assignments]
    seconds: dict[str, float]

    def absorb(self, other: BlockSums) -> BlockSums:
        """Return the sum of both; `self` is used up."""
        seconds = {name: self.seconds.get(name, 0.0) + other.seconds.get(name, 0.0)
                   for name in {**self.seconds, **other.seconds}}
        return BlockSums(
            self.statistics.absorb(other.statistics), self.assignments + other.assignments, seconds)


@dataclass(frozen=True, eq=False)
class EStep:
    """The E-step of an iteration: what all particles need of it, and no particle."""

    state: ModelState | None  # None: classes and poses are known
    config: FamlConfig

    def opened(self, source: SubtomogramSource, geometry: Geometry) -> OpenedEStep:
        """Return the E-step with its references prepared."""
        if self.state is None:
            return OpenedEStep(self, source, geometry, [], None)
        references = geometry.references(self.state.averages)
        search = search_of(self.config, geometry.samples)
        if search is not None:  # before the workers: they share it
            for reference in references:
                search.dense(reference)
        return OpenedEStep(self, source, geometry, references, search)


@dataclass(frozen=True, eq=False)
class OpenedEStep:
    """An E-step in a process that has a source of particles: a `Job`."""

    step: EStep
    source: SubtomogramSource
    geometry: Geometry
    references: list[Reference]
    search: PhaseSearch | None

    @property
    def recipe(self) -> EStepRecipe:
        """The E-step as it is sent to other processes."""
        source: Any = self.source
        return EStepRecipe(
            self.step, source.emptied(), self.geometry.key, keeps=self.geometry.cache_bytes > 0)

    def work(self, block: ParticleBlock) -> BlockSums:
        """Return the sums over a block."""
        if self.step.state is None:
            return known_block(block, self.source, self.geometry, self.step.config)
        return e_step_block(
            block, self.source, self.geometry, self.references, self.step.state, self.step.config,
            self.search)

    def learn(self, rows: Mapping[int, Row]) -> None:
        """Take up particles, in another process."""
        source: Any = self.source
        source.learn(rows)

    def forget(self, indices: Iterable[int]) -> None:
        """Drop particles that were taken up."""
        source: Any = self.source
        source.forget(indices)


@dataclass(frozen=True, eq=False)
class EStepRecipe:
    """An E-step on its way to other processes."""

    step: EStep
    source: Any  # emptied
    key: str
    keeps: bool

    def open(self, desk: Desk) -> OpenedEStep:
        """Return the E-step; particles that are kept there stay from one iteration to the next."""
        n_bytes = desk.cache_bytes if self.keeps else 0

        def make() -> tuple[Any, Geometry]:
            return self.source, Geometry.of(self.source, self.step.config, n_bytes)

        return self.step.opened(*desk.kept(self.key, make))


def sum_blocks(
    executor: Executor, job: OpenedEStep, blocks: Sequence[ParticleBlock],
    on_progress: Callable[[int, int], None],
) -> BlockSums:
    """Work on blocks and add the results up in their order."""
    done, n_particles = 0, sum(len(block.indices) for block in blocks)

    def count(block: ParticleBlock) -> None:
        nonlocal done
        done += len(block.indices)
        on_progress(done, n_particles)

    total: BlockSums | None = None
    for part in executor.sums(job, in_groups(blocks), count):
        total = part if total is None else total.absorb(part)
    if total is None:
        raise ValueError("there is no particle")
    return total


def ignore_progress(done: int, total: int) -> None:
    """Report nothing."""
