"""How much of the halves' agreement is noise that was aligned to the same references.

Halves of enhanced mode are averages of different particles, but these were compared with references
that share most of theirs: noise, too, is turned until it fits. What it brings is measured. From
the shell on where the halves agree less than RANDOM_FROM, every particle is given fresh noise of
its own variance, and compared with the same references once more; the FSC of the halves of these,
FSC_n, is taken out,

    FSC_true = (FSC_t - FSC_n) / (1 - FSC_n)

(Chen et al. 2013, Ultramicroscopy 135, where a mask brought the agreement). Where noise explains
the particles or orientations are not known, the halves agree in nothing but their references: 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from scipion_faml.enhanced.estep import sum_blocks
from scipion_faml.enhanced.mstep import next_state
from scipion_faml.enhanced.run import prepared_step
from scipion_faml.enhanced.state import FOCUSED_BELOW, EnhancedState
from scipion_faml.enhanced.store import CACHE_BYTES
from scipion_faml.enhanced.workbench import Workbench
from scipion_faml.execution import Executor, SerialExecutor
from scipion_faml.fourier import frequency_radius, spectrum, volume_from_spectrum
from scipion_faml.model import FamlConfig
from scipion_faml.sources import Particle, SourceView, SubtomogramSource
from scipion_faml.types import FloatArray
from scipion_faml.wedge import is_measured

RANDOM_FROM = 0.8  # FSC


@dataclass(frozen=True, eq=False)
class NoiseSource(SourceView):
    """Particles of a source whose shells beyond `first_shells` hold fresh noise."""

    first_shells: int  # kept: |k| up to this
    noise: FloatArray  # (n_shells,) variance of a sample of weight 1, from |k| = 1
    seed: int

    def __getitem__(self, index: int) -> Particle:
        particle = self.source[index]
        n, weight = self.n, particle.wedge
        shell = np.rint(frequency_radius(n)).astype(np.intp)
        within = np.clip(shell - 1, 0, len(self.noise) - 1)
        measured = is_measured(weight)
        variance = np.where(measured, self.noise[within] / np.where(measured, weight, 1.0), 0.0)
        rng = np.random.default_rng([self.seed, 5, index])
        white = spectrum(rng.standard_normal((n, n, n), dtype=np.float32))
        fresh = white * np.sqrt(variance / n**3)
        half = np.where(shell > self.first_shells, fresh, spectrum(particle.volume))
        return Particle(index, volume_from_spectrum(half, n).astype(np.float32), weight)


def validated_fsc(
    source: SubtomogramSource, config: FamlConfig, state: EnhancedState,
    executor: Executor | None = None, mask: FloatArray | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> FloatArray:
    """Return the halves' FSC of a state without what aligned noise brings, (K, n_shells).

    Shells that keep their signal stay as they are. One more comparison of all particles with the
    state's references, over all poses. Parameters are those of `enhanced.run`.
    """
    if state.evidence <= 0.0 or state.n_effective >= FOCUSED_BELOW:
        return np.zeros_like(state.fsc)
    kept = _trusted_shells(state)
    if kept >= state.reference_radius:
        return state.fsc
    bench = Workbench(
        source, config, executor or SerialExecutor(), mask, cache_bytes,
        # Behind the whitening: the noise is that of whitened particles.
        lambda white: NoiseSource(white, kept, state.noise, config.seed))
    last = replace(state, phase="dense", radius=state.reference_radius)
    sums, _, _ = sum_blocks(bench, last, prepared_step(bench, last))
    of_noise = next_state(bench, sums, last, bench.box).fsc
    corrected = state.fsc.copy()
    changed = slice(kept, None)
    noise = np.clip(of_noise[:, changed], 0.0, 0.999)
    corrected[:, changed] = np.minimum(
        corrected[:, changed], (corrected[:, changed] - noise) / (1.0 - noise))
    return corrected


def _trusted_shells(state: EnhancedState) -> int:
    """Shells up to which the halves of every class that has particles agree."""
    held = state.alpha * len(state.alpha) > 1e-3
    reached = []
    for curve in state.fsc[held]:
        below = np.flatnonzero(curve < RANDOM_FROM)
        reached.append(int(below[0]) if len(below) else len(curve))
    return min(reached)
