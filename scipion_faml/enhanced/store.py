"""Particles at working resolution: as many as fit are kept, the rest is made anew when needed."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from scipion_faml.dense import DenseParticle, DensePlan, dense_particle
from scipion_faml.measured import Measured, SpectrumShelf, WorkingBox
from scipion_faml.sources import SubtomogramSource

CACHE_BYTES = 7 * 2**29  # of everything that is kept
SHARES = {"measured": 2 / 7, "dense": 2 / 7, "spectra": 1 / 7, "references": 2 / 7}
SHELF_AHEAD = 1.5  # spectra are kept out to this times the radius, and a little


@dataclass(eq=False)
class _Shelf:
    """Things of some particles, as many as fit."""

    most_bytes: int
    n_bytes: int = 0
    items: dict[int, object] = field(default_factory=dict)

    def put(self, index: int, item: object, n_bytes: int) -> None:
        """Keep an item if it fits. First come, first served: all are asked for in turn."""
        if index not in self.items and self.n_bytes + n_bytes <= self.most_bytes:
            self.n_bytes += n_bytes
            self.items[index] = item


@dataclass(eq=False)
class _Level:
    """What is kept at one radius, and the coefficients of one plan."""

    box: WorkingBox
    measured: _Shelf
    dense: _Shelf
    plan: DensePlan | None = None


class ParticleStore:
    """Particles of a source at one working resolution at a time.

    What is not at hand is read and made anew, with the same bits; so it does not matter who else
    asks for another resolution in between.
    """

    def __init__(
        self, source: SubtomogramSource, max_radius: int, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.source, self.max_radius, self.cache_bytes = source, max_radius, cache_bytes
        self.key = uuid.uuid4().hex  # of what other processes keep of it
        self._spectra = SpectrumShelf(source.n, 1, self._share("spectra"))
        self._level = self._empty(WorkingBox.of(source.n, 1))

    def _share(self, name: str) -> int:
        return int(SHARES[name] * self.cache_bytes)

    @property
    def reference_bytes(self) -> int:
        """Memory for prepared references of all folds at once."""
        return self._share("references")

    def _empty(self, box: WorkingBox) -> _Level:
        return _Level(box, _Shelf(self._share("measured")), _Shelf(self._share("dense")))

    def box(self, radius: int) -> WorkingBox:
        """Return the working box of a radius; what was kept at another one is dropped."""
        return self._at(radius).box

    def _at(self, radius: int) -> _Level:
        level = self._level  # a name of its own: other threads may open another
        if level.box.radius != radius:
            if radius > self._spectra.radius:  # first: no thread may find a level without
                ahead = min(int(SHELF_AHEAD * radius) + 4, self.max_radius)
                self._spectra = SpectrumShelf(
                    self.source.n, max(ahead, radius), self._share("spectra"))
            level = self._level = self._empty(WorkingBox.of(self.source.n, radius))
        return level

    def measured(self, index: int, box: WorkingBox) -> Measured:
        """Return a particle in a working box, read if it is not at hand."""
        return self._measured(index, self._at(box.radius))

    def _measured(self, index: int, level: _Level) -> Measured:
        known = level.measured.items.get(index)
        if isinstance(known, Measured):
            return known
        shelf = self._spectra
        spectra = shelf.get(index)
        particle = self.source[index] if spectra is None else None
        try:
            if particle is not None:
                spectra = shelf.put(index, particle.volume, particle.wedge)
            assert spectra is not None
            found = level.box.measure_spectra(index, spectra)
        except ValueError as error:
            raise ValueError(f"subtomogram {index + 1}: {error}") from error
        level.measured.put(index, found, found.n_bytes)
        return found

    def dense(self, index: int, box: WorkingBox, plan: DensePlan) -> DenseParticle:
        """Return a particle's harmonic coefficients."""
        level = self._at(box.radius)
        if plan is not level.plan:
            level.dense, level.plan = _Shelf(self._share("dense")), plan
        shelf = level.dense
        known = shelf.items.get(index)
        if isinstance(known, DenseParticle):
            return known
        found = dense_particle(self._measured(index, level), plan)
        shelf.put(index, found, sum(rows.nbytes for rows in found.rows))
        return found
