"""Particles at working resolution, and references made comparable with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from scipion_faml.dense import DenseParticle, DensePlan
from scipion_faml.enhanced.state import EnhancedState, PeakTable
from scipion_faml.enhanced.store import CACHE_BYTES, ParticleStore
from scipion_faml.enhanced.whitened import whitened
from scipion_faml.execution import Desk, Executor, block_size, in_groups
from scipion_faml.folds import fold_of
from scipion_faml.fourier import (
    SampleSet,
    crop_half,
    pad_half,
    turnable_spectrum,
    volume_from_spectrum,
)
from scipion_faml.geometry import RigidTransforms
from scipion_faml.impose import mask_at, masked, rim_level
from scipion_faml.measured import Measured, WorkingBox
from scipion_faml.model import FamlConfig
from scipion_faml.regularise import ShellResidual
from scipion_faml.sources import Row, SubtomogramSource
from scipion_faml.types import ComplexArray, FloatArray, IntArray
from scipion_faml.volume import soft_sphere

PARTICLES_PER_CHUNK = 16
BALL_EDGE = 4.0  # voxels
NOT_COMPARED = 1e9  # times the noise of a shell that does not count


class Workbench:
    """Particles of a source at working resolution; as many as fit are kept between iterations."""

    def __init__(
        self, source: SubtomogramSource, config: FamlConfig, executor: Executor,
        mask: FloatArray | None = None,
        cache_bytes: int = CACHE_BYTES,
        view: Callable[[SubtomogramSource], SubtomogramSource] | None = None,
    ) -> None:
        """`view` changes particles after they were whitened."""
        if source.n < 8:
            raise ValueError(f"the box of {source.n} voxels is too small: at least 8 are needed")
        white = whitened(source)
        self.source: SubtomogramSource = white if view is None else view(white)
        self.whitening = white.whitening  # between particles as compared and as given
        self.config, self.executor, self.mask = config, executor, mask
        self.store = ParticleStore(self.source, self.max_radius, cache_bytes)
        self.folds = fold_of(len(source), config.n_groups, config.seed)
        self.members: IntArray = np.arange(len(source))  # particles looked at
        self.box = WorkingBox.of(source.n, 1)
        self.residual = ShellResidual(np.zeros(0), np.zeros(0))

    def part(self, members: IntArray, config: FamlConfig) -> Workbench:
        """Return the bench of some particles, by their numbers here, with settings of its own."""
        other = copy(self)
        other.members, other.config = np.sort(members), config
        if len(self.residual.power):
            other.residual = other._whole_residual()
        return other

    def enlarged(self, values: ComplexArray, box: WorkingBox) -> FloatArray:
        """Return samples (J,) of whitened averages as a volume of the full box, as given."""
        return self.whitening.removed(box.enlarged(values))

    @property
    def ball(self) -> FloatArray | None:
        """Soft ball of the particle's diameter in the full box, half way down at its surface."""
        diameter = self.config.particle_diameter_angst
        if diameter is None:
            return None
        radius = 0.5 * diameter / self.source.voxel_size_angst
        return soft_sphere(self.source.n, max(radius - 0.5 * BALL_EDGE, 0.0), BALL_EDGE)

    def average_mask(self, in_frame: bool) -> FloatArray | None:
        """What averages (n, n, n) are multiplied by: the ball, and the mask where they lie in its
        frame.
        """
        ball, mask = self.ball, self.mask if in_frame else None
        if ball is None or mask is None:
            return mask if ball is None else ball
        return mask * ball

    @property
    def round_mask(self) -> FloatArray | None:
        """The ball in the working box."""
        return None if self.ball is None else mask_at(self.ball, self.box.n)

    def compared(self, noise: FloatArray) -> FloatArray:
        """Return noise variances (n_shells,) in which shells below the high-pass are worthless."""
        first = self.config.first_shell_of(self.source.n, self.source.voxel_size_angst)
        return np.where(np.arange(1, len(noise) + 1) < first, NOT_COMPARED * noise, noise)

    def mask_of(self, state: EnhancedState) -> FloatArray | None:
        """What references are multiplied by, in the working box."""
        mask = self.average_mask(state.in_frame)
        return None if mask is None else mask_at(mask, self.box.n)

    @property
    def max_radius(self) -> int:
        """Shells that may be compared: up to Nyquist or the low-pass."""
        return self.config.max_radius_of(self.source.n, self.source.voxel_size_angst)

    def open_box(self, radius: int) -> WorkingBox:
        """Set and return the working box of a radius; sum the particles' power over its shells."""
        if radius != self.box.radius:
            self.box = self.store.box(radius)
            self.residual = self._whole_residual()
        return self.box

    def _whole_residual(self) -> ShellResidual:
        """Power and measured samples of all particles looked at."""
        zero = np.zeros(self.box.radius)
        total = ShellResidual(zero, zero)
        for part in self.sums(ResidualSum(self.box.radius), self.blocks()):
            total = total + part.residual
        return total

    def blocks(self) -> list[Block]:
        """Return the particles in blocks of one fold each: what a worker does at a time."""
        size = block_size(len(self.members), PARTICLES_PER_CHUNK)
        out = []
        for f in range(self.config.n_groups):
            members = self.members[self.folds[self.members] == f]
            for start in range(0, len(members), size):
                out.append(Block(f, [int(i) for i in members[start : start + size]]))
        return out

    def sums(
        self, step: BlockStep, blocks: Sequence[Block],
        on_done: Callable[[Block], None] = lambda block: None,
    ) -> Iterable[Any]:
        """Yield the sums over groups of blocks of one fold."""
        groups = [group for f in range(self.config.n_groups)
                  for group in in_groups([b for b in blocks if b.fold == f])]
        return self.executor.sums(OpenedStep(step, self.store), groups, on_done)

    def measured(self, index: int) -> Measured:
        """Return a particle at working resolution, read if it is not at hand."""
        return self.store.measured(index, self.box)

    def dense(self, index: int, plan: DensePlan) -> DenseParticle:
        """Return a particle's harmonic coefficients."""
        return self.store.dense(index, self.box, plan)


# ------------------------------------------------------------------------- sums over particles
@dataclass(frozen=True, eq=False)
class Block:
    """Particles of one fold, and what is known of each."""

    fold: int
    indices: Sequence[int]
    peaks: PeakTable | None = None
    class_index: IntArray | None = None  # (n,) of these particles
    poses: RigidTransforms | None = None  # n

    @property
    def chunks(self) -> list[Sequence[int]]:
        """The particles that are summed apart, in single precision, within the block."""
        return [self.indices[a : a + PARTICLES_PER_CHUNK]
                for a in range(0, len(self.indices), PARTICLES_PER_CHUNK)]


class BlockStep(Protocol):
    """What is done with blocks: all that it needs besides particles, to be sent as it is."""

    def work(self, block: Block, store: ParticleStore) -> Any: ...


@dataclass(frozen=True, eq=False)
class OpenedStep:
    """A step in a process that has a source of particles: a `Job`."""

    step: BlockStep
    store: ParticleStore

    @property
    def source(self) -> SubtomogramSource:
        """Where particles are read."""
        return self.store.source

    @property
    def recipe(self) -> StepRecipe:
        """The step as it is sent to other processes."""
        source: Any = self.store.source
        return StepRecipe(
            self.step, source.emptied(), self.store.max_radius, self.store.key)

    def work(self, block: Block) -> Any:
        """Return the sums over a block."""
        return self.step.work(block, self.store)

    def learn(self, rows: Mapping[int, Row]) -> None:
        """Take up particles, in another process."""
        source: Any = self.store.source
        source.learn(rows)

    def forget(self, indices: Iterable[int]) -> None:
        """Drop particles that were taken up."""
        source: Any = self.store.source
        source.forget(indices)


@dataclass(frozen=True, eq=False)
class StepRecipe:
    """A step on its way to other processes."""

    step: BlockStep
    source: Any  # emptied
    max_radius: int
    key: str

    def open(self, desk: Desk) -> OpenedStep:
        """Return the step; particles at hand stay from one step to the next."""
        def make() -> ParticleStore:
            return ParticleStore(self.source, self.max_radius, desk.cache_bytes)

        return OpenedStep(self.step, desk.kept(self.key, make))


@dataclass(frozen=True, eq=False)
class ResidualSum:
    """Sums the power and the measured samples of particles."""

    radius: int

    def work(self, block: Block, store: ParticleStore) -> ResidualPart:
        """Return the sums over a block."""
        box = store.box(self.radius)
        total = ShellResidual(np.zeros(self.radius), np.zeros(self.radius))
        for i in block.indices:
            particle = store.measured(i, box)
            total = total + ShellResidual(particle.power, particle.wedge.n_observed)
        return ResidualPart(total)


@dataclass(frozen=True, eq=False)
class ResidualPart:
    """Sums over some blocks."""

    residual: ShellResidual

    def absorb(self, other: ResidualPart) -> ResidualPart:
        """Return the sum of both."""
        return ResidualPart(self.residual + other.residual)


def reference_turnable(
    values: ComplexArray, box: WorkingBox, mask: FloatArray | None = None
) -> ComplexArray:
    """Return samples (J,) of an average as a turnable spectrum, its background level removed.

    The average is known but for its mean; what surrounds the particle is taken as zero.
    """
    n = box.n
    volume = volume_from_spectrum(np.asarray(box.samples.put(values)), n)
    edge = 3.0 / box.voxel_ratio
    if mask is not None:
        return turnable_spectrum(masked(volume, mask, edge), box.radius)
    level = rim_level(volume, edge)
    ball = soft_sphere(n, n / 2 - edge, edge)
    return turnable_spectrum(((volume - level) * ball).astype(np.float32), box.radius)


def resampled(values: ComplexArray, old: SampleSet, new: SampleSet) -> ComplexArray:
    """Return averages (..., J) at the samples of another working box, 0 beyond the old ones."""
    flat = values.reshape(-1, values.shape[-1])
    n = max(old.n, new.n)
    out = [new.take(crop_half(pad_half(np.asarray(old.put(v)), n), new.n)) for v in flat]
    return np.stack(out).reshape(*values.shape[:-1], len(new))
