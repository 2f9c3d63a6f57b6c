"""What a run starts from: particles in random classes and poses, or maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from scipion_faml.enhanced.mstep import next_state
from scipion_faml.enhanced.state import EnhancedState
from scipion_faml.enhanced.store import ParticleStore
from scipion_faml.enhanced.workbench import Block, Workbench
from scipion_faml.folds import FoldSums
from scipion_faml.fourier import crop_half, shell_sums, spectrum
from scipion_faml.impose import symmetrised
from scipion_faml.model import random_classes, starting_poses
from scipion_faml.types import ComplexArray, FloatArray
from scipion_faml.volume import inscribed_sphere
from scipion_faml.wedge import is_measured

START_FSC = 0.3
SEED_STEP = 1_000_003  # between several starts
MAX_SCALED = 64  # particles whose power sets the scale of maps to start from
SMALLEST_SIGNAL = 1e-3  # of the particles' power, given to such a map at least


def random_state(bench: Workbench, start: int) -> EnhancedState:
    """Return Theta of particles in random classes, turned at random, and averaged."""
    config, n_classes = bench.config, bench.config.n_classes
    n_particles = len(bench.members)
    seed = config.seed + SEED_STEP * start
    classes = random_classes(n_particles, n_classes, seed)
    poses = starting_poses(n_particles, "turned", seed)
    radius = min(config.start_radius, bench.max_radius)
    box = bench.open_box(radius)
    shape = (config.n_groups, n_classes, len(box.samples))
    signal, coverage = np.zeros(shape, dtype=complex), np.zeros(shape, dtype=complex)
    weight, blocks = np.zeros(shape[:2]), []
    for block in bench.blocks():
        rows = np.searchsorted(bench.members, block.indices)
        blocks.append(replace(block, class_index=classes[rows], poses=poses[rows]))
    for part in bench.sums(StartSum(radius, n_classes), blocks):
        signal[part.fold] += part.signal
        coverage[part.fold] += part.coverage
        weight[part.fold] += part.weight
    sums = FoldSums(signal, coverage.real, weight, bench.residual, 0.0, n_particles, 0.0)
    # Nothing correlates yet but the round blob; what is there must not be filtered away.
    return next_state(bench, sums, None, box, START_FSC)


@dataclass(frozen=True, eq=False)
class StartSum:
    """Adds up particles whose class and orientation are given."""

    radius: int
    n_classes: int

    def work(self, block: Block, store: ParticleStore) -> StartPart:
        """Return the sums over a block."""
        assert block.class_index is not None and block.poses is not None
        box, one = store.box(self.radius), np.ones(1)
        shape = (self.n_classes, len(box.samples))
        signal, coverage = np.zeros(shape, dtype=complex), np.zeros(shape, dtype=complex)
        rotation = block.poses.rotation
        for row, i in enumerate(block.indices):
            particle, k = store.measured(i, box), block.class_index[row]
            particle.add_turned_back(rotation[[row]], np.zeros((1, 3)), one, signal[k])
            particle.wedge.add_turned_back(rotation[[row]], one, coverage[k])
        weight = np.bincount(block.class_index, minlength=self.n_classes).astype(np.float64)
        return StartPart(block.fold, signal, coverage, weight)


@dataclass(frozen=True, eq=False)
class StartPart:
    """Sums over some blocks of one fold."""

    fold: int
    signal: ComplexArray  # (K, J) complex128
    coverage: ComplexArray  # (K, J) complex128
    weight: FloatArray  # (K,)

    def absorb(self, other: StartPart) -> StartPart:
        """Return the sum of both."""
        return StartPart(
            self.fold, self.signal + other.signal, self.coverage + other.coverage,
            self.weight + other.weight)


def state_from_references(bench: Workbench, maps: FloatArray) -> EnhancedState:
    """Return a starting Theta for maps (K, n, n, n) that the user supplies, one for each class.

    All folds start from the same map, low-passed to the first shells. A map comes on its own
    scale: the power of the particles is taken as that of the map times a gain plus white noise,
    and both follow by least squares over all shells.
    """
    config, n = bench.config, bench.source.n
    power, n_observed = _mean_power(bench)
    box = bench.open_box(min(config.start_radius, bench.max_radius))
    ball = inscribed_sphere(n)
    values = []
    for volume in maps:
        level = float(np.average(volume, weights=1.0 - ball))
        half = spectrum(bench.whitening.applied(((volume - level) * ball).astype(np.float32)))
        gain = _least_squares_gain(half, power, n_observed)
        low = gain * np.asarray(box.samples.take(crop_half(half, box.n)))
        values.append(symmetrised(low, gain * half[0, 0, 0].real, box.samples, config.group)
                      if len(config.group) > 1 else low)
    references = np.stack(values).astype(np.complex64)
    is_white = config.noise == "white"
    n_shells, n_classes = box.radius, len(maps)
    noise = bench.residual.noise(np.zeros(n_shells), is_white)
    averages = np.stack([bench.enlarged(v, box) for v in references])
    return EnhancedState(
        averages, np.full(n_classes, 1.0 / n_classes), float(np.sqrt(noise.mean())),
        max(config.max_shift_of(n) / 2.0, config.min_zeta), 0,
        radius=box.radius, references=np.repeat(references[None], config.n_groups, axis=0),
        reference_radius=box.radius, noise=noise, fsc=np.zeros((n_classes, n_shells)),
        phase="dense", n_since_dense=0, peaks=None, evidence=-np.inf,
        n_effective=float("inf"),
        half_averages=np.stack([averages, averages]), in_frame=not config.finds_symmetry,
        symmetry=(config.known_symmetry,) * n_classes, symmetry_gain=np.zeros(n_classes),
    )


def _mean_power(bench: Workbench) -> tuple[FloatArray, FloatArray]:
    """Mean power of a measured sample on shells from 1, and how many were measured."""
    n = bench.source.n
    n_shells = min(bench.max_radius, n // 2 - 1)  # what `shell_sums` has in an odd box too
    power, n_observed = np.zeros(n_shells), np.zeros(n_shells)
    for i in range(min(len(bench.source), MAX_SCALED)):
        particle = bench.source[i]
        half = spectrum(particle.volume)
        power += shell_sums(np.abs(half) ** 2 * particle.wedge, n)[1 : n_shells + 1]
        measured = is_measured(particle.wedge).astype(np.float32)
        n_observed += shell_sums(measured, n)[1 : n_shells + 1]
    return power / np.maximum(n_observed, 1e-12), n_observed


def _least_squares_gain(half: ComplexArray, power: FloatArray, weight: FloatArray) -> float:
    """The gain g of a map's spectrum for which power = g^2 |map|^2 + noise on shells fits best."""
    n, n_shells = half.shape[0], len(power)
    squared = (half * half.conj()).real
    own = (shell_sums(squared, n) / shell_sums(np.ones(half.shape), n))[1 : n_shells + 1]
    # Errors of a shell's power are proportional to it, and fall with the number of samples.
    scale = np.sqrt(weight) / power
    (gain_sq, _), _ = nnls(np.stack([own * scale, scale], axis=1), power * scale)
    least = SMALLEST_SIGNAL * float(power @ weight) / float(own @ weight)
    return float(np.sqrt(max(gain_sq, least)))
