"""Particles of a source with equal noise on all shells (`whitening`)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from scipion_faml.sources import Particle, SourceView, SubtomogramSource
from scipion_faml.types import FloatArray
from scipion_faml.whitening import Whitening

N_LOOKED_AT = 32  # particles whose weights set the gains
MAX_SHARED = 32  # weights that are kept whitened


@dataclass(frozen=True, eq=False)
class WhitenedSource(SourceView):
    """A source whose particles and weights are whitened when read. Build it with `whitened`."""

    whitening: Whitening
    _shared: dict[int, tuple[FloatArray, FloatArray]] = field(default_factory=dict)

    def __getitem__(self, index: int) -> Particle:
        particle = self.source[index]
        if self.whitening.is_flat:
            return particle
        weight = particle.wedge
        known = self._shared.get(id(weight))
        volume = self.whitening.applied(particle.volume)
        if known is not None:
            return Particle(index, volume, known[1])
        relative = self.whitening.relative(weight)
        # Keeping the array keeps its id its own.
        if not weight.flags.writeable and len(self._shared) < MAX_SHARED:
            relative.flags.writeable = False
            relative = self._shared.setdefault(id(weight), (weight, relative))[1]
        return Particle(index, volume, relative)


def whitened(source: SubtomogramSource) -> WhitenedSource:
    """Return the source with the gains that the weights of some of its particles ask for."""
    rows = np.unique(np.linspace(0, len(source) - 1, min(N_LOOKED_AT, len(source))).astype(int))
    distinct = {id(w): w for w in (source[int(i)].wedge for i in rows)}
    return WhitenedSource(source, Whitening.of(distinct.values()))
