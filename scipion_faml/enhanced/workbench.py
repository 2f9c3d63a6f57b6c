"""Particles at working resolution, and references made comparable with them."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np

from scipion_faml.dense import DenseParticle, DensePlan, dense_particle
from scipion_faml.enhanced.state import EnhancedState
from scipion_faml.enhanced.whitened import whitened
from scipion_faml.execution import Executor
from scipion_faml.folds import fold_of
from scipion_faml.fourier import (
    SampleSet,
    crop_half,
    pad_half,
    turnable_spectrum,
    volume_from_spectrum,
)
from scipion_faml.impose import mask_at, masked, rim_level
from scipion_faml.io import SubtomogramSource
from scipion_faml.measured import Measured, SpectrumShelf, WorkingBox
from scipion_faml.model import FamlConfig
from scipion_faml.regularise import ShellResidual
from scipion_faml.types import ComplexArray, FloatArray, IntArray
from scipion_faml.volume import soft_sphere

CACHE_BYTES = 2**30  # particles at working resolution, and as many bytes of coefficients
SHELF_BYTES, SHELF_AHEAD = 2**29, 1.5  # spectra out to this times the radius, and a little
PARTICLES_PER_CHUNK = 16
BALL_EDGE = 4.0  # voxels
NOT_COMPARED = 1e9  # times the noise of a shell that does not count


class Workbench:
    """Particles of a source at working resolution; as many as fit are kept between iterations."""

    def __init__(
        self, source: SubtomogramSource, config: FamlConfig, executor: Executor,
        mask: FloatArray | None = None,
    ) -> None:
        if source.n < 8:
            raise ValueError(f"the box of {source.n} voxels is too small: at least 8 are needed")
        white = whitened(source)
        self.source: SubtomogramSource = white
        self.whitening = white.whitening  # between particles as compared and as given
        self.config, self.executor, self.mask = config, executor, mask
        self.folds = fold_of(len(source), config.n_groups, config.seed)
        self.members: IntArray = np.arange(len(source))  # particles looked at
        self.box = WorkingBox.of(source.n, 1)
        self.residual = ShellResidual(np.zeros(0), np.zeros(0))
        self._shelf = SpectrumShelf(source.n, 1, SHELF_BYTES)
        self._measured: dict[int, Measured] = {}
        self._dense: dict[int, DenseParticle] = {}
        self._dense_plan: DensePlan | None = None

    def part(self, members: IntArray, config: FamlConfig) -> Workbench:
        """Return the bench of some particles, by their numbers here, with settings of its own."""
        other = copy(self)
        other.members, other.config = np.sort(members), config
        other._measured, other._dense = dict(self._measured), dict(self._dense)
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
            self.box = WorkingBox.of(self.source.n, radius)
            if radius > self._shelf.radius:
                ahead = min(int(SHELF_AHEAD * radius) + 4, self.max_radius)
                self._shelf = SpectrumShelf(self.source.n, max(ahead, radius), SHELF_BYTES)
            self._measured.clear()
            self._dense.clear()
            self.residual = self._whole_residual()
        return self.box

    def _whole_residual(self) -> ShellResidual:
        """Power and measured samples of all particles looked at."""
        zero = np.zeros(self.box.radius)
        return sum(self.executor.map(self._residual_of, self.chunks()), ShellResidual(zero, zero))

    def _residual_of(self, chunk: Chunk) -> ShellResidual:
        total = ShellResidual(np.zeros(self.box.radius), np.zeros(self.box.radius))
        for i in chunk.indices:
            particle = self.measured(i)
            total = total + ShellResidual(particle.power, particle.wedge.n_observed)
        return total

    def chunks(self) -> list[Chunk]:
        """Return the particles in chunks of one fold each: what a worker does at a time."""
        out = []
        for f in range(self.config.n_groups):
            members = self.members[self.folds[self.members] == f]
            for start in range(0, len(members), PARTICLES_PER_CHUNK):
                out.append(Chunk(f, [int(i) for i in members[start : start + PARTICLES_PER_CHUNK]]))
        return out

    def measured(self, index: int) -> Measured:
        """Return a particle at working resolution, read if it is not at hand."""
        known = self._measured.get(index)
        if known is not None:
            return known
        spectra = self._shelf.get(index)
        particle = self.source[index] if spectra is None else None
        try:
            if particle is not None:
                spectra = self._shelf.put(index, particle.volume, particle.wedge)
            assert spectra is not None
            found = self.box.measure_spectra(index, spectra)
        except ValueError as error:
            raise ValueError(f"subtomogram {index + 1}: {error}") from error
        size = found.turnable.nbytes + found.values.nbytes
        if (len(self._measured) + 1) * size <= CACHE_BYTES:
            self._measured[index] = found
        return found

    def dense(self, index: int, plan: DensePlan) -> DenseParticle:
        """Return a particle's harmonic coefficients."""
        if plan is not self._dense_plan:
            self._dense, self._dense_plan = {}, plan
        known = self._dense.get(index)
        if known is not None:
            return known
        found = dense_particle(self.measured(index), plan)
        if (len(self._dense) + 1) * sum(r.nbytes for r in found.rows) <= CACHE_BYTES:
            self._dense[index] = found
        return found


@dataclass(frozen=True)
class Chunk:
    """Particles of one fold."""

    fold: int
    indices: list[int]


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
