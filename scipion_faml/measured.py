"""Particles at working resolution: cropped in Fourier space to what is compared.

The work of an iteration follows the resolution, not the box: a particle is windowed in its own box
and then kept only out to a radius, in the smallest box that holds it. Shifts in the working box
are in its own, larger voxels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy import fft

from scipion_faml.cython_ext import _local
from scipion_faml.fourier import (
    OVERSAMPLING,
    SampleSet,
    ball_spectrum,
    crop_half,
    pad_half,
    sample_set,
    spectrum,
    turnable_spectrum,
    volume_from_spectrum,
)
from scipion_faml.regularise import sums_over_shells
from scipion_faml.types import ComplexArray, FloatArray, IntArray
from scipion_faml.wedge import is_measured

MAX_CACHED_WEDGES = 32


@dataclass(frozen=True, eq=False)
class MeasuredWedge:
    """What was measured of a particle's spectrum, through the particle's own window.

    Wedges of equal weights are equal: sums that particles share do not depend on which objects,
    kept or made again, stand for one wedge.
    """

    samples: SampleSet
    weight: FloatArray  # (J,) float32 in [0, 1]
    turnable: ComplexArray  # of w within the inscribed ball
    stamp: bytes  # hash of the weights in the full box
    is_shared: bool = True  # by particles

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MeasuredWedge):
            return NotImplemented
        same_box = (self.samples.n, self.samples.radius) == (other.samples.n, other.samples.radius)
        return same_box and self.stamp == other.stamp

    def __hash__(self) -> int:
        return hash((self.stamp, self.samples.radius))

    @cached_property
    def observed(self) -> IntArray:
        """(P,) indices of samples with a weight."""
        return np.flatnonzero(self.weight > 0)

    @cached_property
    def observed_axes(self) -> FloatArray:
        """Their frequencies, (3, P) float32."""
        return np.ascontiguousarray(self.samples.axes[:, self.observed])

    @cached_property
    def n_observed(self) -> FloatArray:
        """Number of measured samples on every shell, both Friedel mates counted."""
        return sums_over_shells(is_measured(self.weight).astype(np.float32), self.samples)

    def add_turned_back(
        self, rotation: FloatArray, weight: FloatArray, out: ComplexArray
    ) -> None:
        """Add the sum over poses (M, 3, 3) of weight R^-1 w at the samples to `out` (J,)."""
        _add_turned_back(self, self.turnable, rotation, np.zeros((len(rotation), 3)), weight, out)


@dataclass(frozen=True, eq=False)
class Measured:
    """One particle. Build it with `WorkingBox.measure`."""

    index: int
    wedge: MeasuredWedge
    values: ComplexArray  # (J,) complex64, w X
    turnable: ComplexArray  # of w X within the inscribed ball: what is defined when it is turned
    power: FloatArray  # (n_shells,) sum w |X|^2 of the whole box

    @property
    def n_bytes(self) -> int:
        """Memory it takes, with a wedge of its own and what that keeps."""
        wedge = self.wedge
        own = 0 if wedge.is_shared else wedge.turnable.nbytes + 6 * wedge.weight.nbytes
        return self.turnable.nbytes + self.values.nbytes + own

    def add_turned_back(
        self, rotation: FloatArray, shift_xyz: FloatArray, weight: FloatArray, out: ComplexArray
    ) -> None:
        """Add the sum over poses of weight R^-1 (w X), moved back, at the samples to `out` (J,).

        rotation (M, 3, 3), shift_xyz (M, 3) working voxels, weight (M,), out complex128.
        """
        _add_turned_back(self.wedge, self.turnable, rotation, shift_xyz, weight, out)


def _add_turned_back(
    wedge: MeasuredWedge, turnable: ComplexArray, rotation: FloatArray, shift_xyz: FloatArray,
    weight: FloatArray, out: ComplexArray,
) -> None:
    _local.add_turned_back(
        turnable, float(OVERSAMPLING), wedge.samples.axes, float(wedge.samples.n),
        np.ascontiguousarray(rotation), np.ascontiguousarray(shift_xyz),
        np.ascontiguousarray(weight), out,
    )


@dataclass(frozen=True, eq=False)
class WedgeSpectra:
    """Weights, cropped in Fourier space. Build it with `wedge_spectra`."""

    plain: FloatArray  # (m, m, m // 2 + 1) float32 in [0, 1]
    windowed: ComplexArray  # spectrum of w within the inscribed ball of the full box
    stamp: bytes  # hash of the weights in the full box
    is_shared: bool  # by particles: read-only


@dataclass(frozen=True, eq=False)
class ParticleSpectra:
    """All that working boxes of up to m voxels need of a particle; cropping changes no value."""

    plain: ComplexArray  # (m, m, m // 2 + 1) complex64 of X
    windowed: ComplexArray  # of w X within the inscribed ball of the full box
    wedge: WedgeSpectra

    @property
    def n_bytes(self) -> int:
        """Memory it takes, with a wedge of its own."""
        own = 0 if self.wedge.is_shared else self.wedge.plain.nbytes + self.wedge.windowed.nbytes
        return self.plain.nbytes + self.windowed.nbytes + own


def wedge_spectra(weight: FloatArray, m: int) -> WedgeSpectra:
    """Return weights (n, n, n // 2 + 1) cropped to a box of m."""
    n = weight.shape[0]
    stamp = hashlib.blake2b(np.ascontiguousarray(weight).data, digest_size=16).digest()
    windowed = crop_half(ball_spectrum(weight.astype(np.complex64), n), m)
    plain = np.asarray(crop_half(weight, m), dtype=np.float32)
    return WedgeSpectra(plain, windowed, stamp, not weight.flags.writeable)


def particle_spectra(
    volume: FloatArray, weight: FloatArray, wedge: WedgeSpectra, m: int
) -> ParticleSpectra:
    """Return a particle (n, n, n) with its weights (n, n, n // 2 + 1) cropped to a box of m."""
    n = volume.shape[0]
    half = spectrum(volume).astype(np.complex64, copy=False)
    plain = crop_half(half, m) if m < n else half.copy()
    half *= weight
    return ParticleSpectra(plain, crop_half(ball_spectrum(half, n), m), wedge)


def _check_shapes(volume: FloatArray, weight: FloatArray, n: int) -> None:
    if volume.shape != (n, n, n) or weight.shape != (n, n, n // 2 + 1):
        raise ValueError(
            f"a volume of shape {volume.shape} with weights {weight.shape} does not fit a box "
            f"of {n}"
        )


class SpectrumShelf:
    """Particles' spectra for working boxes up to a radius, as many as fit `n_bytes`.

    Growing the radius within it needs no particle read again: three transforms of the full box.
    What is not on the shelf is made anew, with the same bits.
    """

    def __init__(self, n_full: int, radius: int, n_bytes: int) -> None:
        self.n_full, self.radius, self.n_bytes = n_full, radius, n_bytes
        self.n = WorkingBox.of(n_full, radius).n
        self._particles: dict[int, ParticleSpectra] = {}
        self._wedges: dict[int, tuple[FloatArray, WedgeSpectra]] = {}

    def get(self, index: int) -> ParticleSpectra | None:
        """Return a particle's spectra if they are at hand."""
        return self._particles.get(index)

    def put(self, index: int, volume: FloatArray, weight: FloatArray) -> ParticleSpectra:
        """Return a particle's spectra, kept where they fit."""
        _check_shapes(volume, weight, self.n_full)
        found = particle_spectra(volume, weight, self._wedge(weight), self.n)
        if (len(self._particles) + 1) * found.n_bytes <= self.n_bytes:
            self._particles[index] = found
        return found

    def _wedge(self, weight: FloatArray) -> WedgeSpectra:
        """Spectra of weights; those that particles share are kept."""
        known = self._wedges.get(id(weight))
        if known is not None:
            return known[1]
        made = wedge_spectra(weight, self.n)
        # Keeping the array keeps its id its own.
        if made.is_shared and len(self._wedges) < MAX_CACHED_WEDGES:
            self._wedges[id(weight)] = (weight, made)
        return made


@dataclass(frozen=True, eq=False)
class WorkingBox:
    """A box of `n_full` voxels cropped in Fourier space to |k| <= radius, in `samples.n` voxels."""

    n_full: int
    radius: int
    samples: SampleSet
    _wedges: dict[WedgeSpectra, MeasuredWedge] = field(default_factory=dict)

    @staticmethod
    def of(n_full: int, radius: int) -> WorkingBox:
        """Return the smallest working box for shells 1..radius."""
        n = min(fft.next_fast_len(2 * radius + 2, real=True), n_full)
        n += (n - n_full) % 2 if n < n_full else 0  # both even or both odd: centres coincide
        return WorkingBox(n_full, radius, sample_set(min(n, n_full), radius))

    @property
    def n(self) -> int:
        """Voxels along an edge of the working box."""
        return self.samples.n

    @property
    def voxel_ratio(self) -> float:
        """Full voxels in a voxel of the working box."""
        return self.n_full / self.n

    def measure(self, index: int, volume: FloatArray, weight: FloatArray) -> Measured:
        """Return a particle (n, n, n) with weights (n, n, n // 2 + 1) at working resolution."""
        _check_shapes(volume, weight, self.n_full)
        return self.measure_spectra(
            index, particle_spectra(volume, weight, wedge_spectra(weight, self.n), self.n))

    def measure_spectra(self, index: int, spectra: ParticleSpectra) -> Measured:
        """Return a particle at working resolution from spectra of this box or a larger one."""
        wedge = self.measure_wedge(spectra.wedge)
        values = self.samples.take(crop_half(spectra.plain, self.n))
        power = sums_over_shells(np.abs(values) ** 2 * wedge.weight, self.samples)
        turnable = self._turnable(spectra.windowed)
        return Measured(index, wedge, values * wedge.weight, turnable, power)

    def measure_wedge(self, spectra: WedgeSpectra) -> MeasuredWedge:
        """Return weights at working resolution; those that particles share are kept."""
        known = self._wedges.get(spectra)
        if known is not None:
            return known
        cropped = self.samples.take(crop_half(spectra.plain, self.n))
        if not cropped.any():
            raise ValueError("the wedge leaves no Fourier sample measured")
        turnable = self._turnable(spectra.windowed)
        wedge = MeasuredWedge(
            self.samples, cropped, turnable, spectra.stamp, spectra.is_shared)
        if spectra.is_shared and len(self._wedges) < MAX_CACHED_WEDGES:
            self._wedges[spectra] = wedge
        return wedge

    def _turnable(self, windowed: ComplexArray) -> ComplexArray:
        """Turnable spectrum of a spectrum out to this radius or beyond."""
        inside = crop_half(windowed, self.n)
        return turnable_spectrum(volume_from_spectrum(inside, self.n), self.radius)

    def enlarged(self, values: ComplexArray) -> FloatArray:
        """Return samples (J,) as a volume of the full box, (n_full, n_full, n_full) float32."""
        half = pad_half(np.asarray(self.samples.put(values)), self.n_full)
        return volume_from_spectrum(half, self.n_full).astype(np.float32)
