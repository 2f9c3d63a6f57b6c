"""Signal-to-noise ratio of particles from the correlation of aligned pairs.

Two aligned particles hold the same signal and independent noise, so their correlation coefficient
is rho = S / (S + N), and SNR = S / N = rho / (1 - rho) (Frank and Al-Ali 1975, Nature 256:376).
Pairs are compared in the frame of their average, over the Fourier samples that both have measured.

A particle that was aligned to an average which holds it is correlated with others in its noise too:
the SNR of few particles comes out too high.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scipion_faml.cython_ext import _interpolate
from scipion_faml.fourier import (
    OVERSAMPLING,
    SampleSet,
    oversampled_spectrum,
    shift_spectrum,
    spectrum,
    volume_from_spectrum,
)
from scipion_faml.geometry import RigidTransforms
from scipion_faml.types import BoolArray, ComplexArray, FloatArray, IntArray

BLOCK = 16  # particles held at once: all their pairs are compared
MEASURED = 0.5  # a turned weight above counts as measured


@dataclass(frozen=True, eq=False)
class AlignedParticle:
    """One particle turned back into the frame of its average."""

    values: ComplexArray  # (J,)
    measured: BoolArray  # (J,)


def aligned_particle(
    volume: FloatArray, wedge: FloatArray, pose: RigidTransforms, samples: SampleSet,
    mask: FloatArray | None = None,
) -> AlignedParticle:
    """Return a particle (n, n, n) turned back by the first pose, at some Fourier samples.

    Parameters
    ----------
    volume, wedge : the particle and its weights (n, n, n // 2 + 1)
    mask : (n, n, n), optional
        In the frame of the average; without one the whole box counts, its corners too: a turn of
        the spectrum keeps their noise.
    """
    rotation, shift = pose.rotation[0], pose.shift_xyz[0]
    centred = volume - float(volume.mean())
    # r -> R r + t is undone by moving by -t, then turning by R^T.
    moved = volume_from_spectrum(shift_spectrum(spectrum(centred), -shift), samples.n)
    values = _turned(oversampled_spectrum(moved.astype(np.float32)), rotation.T, samples)
    measured = _turned_weight(wedge, rotation.T, samples)
    if mask is not None:
        # What was not measured must not leak in: the mask mixes neighbouring samples.
        inside = volume_from_spectrum(samples.put(values * measured), samples.n) * mask
        inside = inside - mask * (inside.sum() / max(float(mask.sum()), 1e-12))
        values = samples.take(spectrum(inside.astype(np.float32)))
    return AlignedParticle(values, measured)


def _turned(table: ComplexArray, rotation: FloatArray, samples: SampleSet) -> ComplexArray:
    """An oversampled spectrum after a turn, at the samples."""
    values = np.empty(len(samples), dtype=np.complex64)
    matrix = np.ascontiguousarray(OVERSAMPLING * rotation.T, dtype=np.float64)
    _interpolate.gather_complex(table, samples.frequency_xyz, matrix, values)
    return values


def _turned_weight(wedge: FloatArray, rotation: FloatArray, samples: SampleSet) -> BoolArray:
    """Where the turned particle was measured."""
    n = samples.n
    k = np.rint(samples.frequency_xyz @ rotation).astype(np.intp)  # R^T k of every sample
    k = np.where((k[:, 0] < 0)[:, None], -k, k)
    within = np.abs(k).max(axis=1) <= n // 2
    kx, ky, kz = (np.where(within, axis, 0) for axis in k.T)
    measured: BoolArray = within & (wedge[kz % n, ky % n, kx] > MEASURED * float(wedge.max()))
    return measured


def pair_correlation(
    first: AlignedParticle, second: AlignedParticle, samples: SampleSet
) -> float:
    """Return the correlation coefficient of two particles over what both measured; NaN if nothing.

    DC is not among the samples: this is Pearson's coefficient of the volumes.
    """
    both = first.measured & second.measured
    weight = samples.multiplicity[both].astype(np.float64)
    a, b = first.values[both], second.values[both]
    power = (weight @ _squared(a)) * (weight @ _squared(b))
    if not power > 0:
        return float("nan")
    return float(weight @ (a.real * b.real + a.imag * b.imag) / np.sqrt(power))


def _squared(values: ComplexArray) -> FloatArray:
    squared: FloatArray = values.real.astype(np.float64) ** 2 + values.imag.astype(np.float64) ** 2
    return squared


def blocks_of_pairs(
    n_particles: int, n_pairs: int, rng: np.random.Generator
) -> Iterator[tuple[IntArray, list[tuple[int, int]]]]:
    """Yield particles (B,) to hold at once, and pairs of positions among them, n_pairs in all.

    Every particle is drawn once before any is drawn again; no pair is compared twice.
    """
    seen: set[tuple[int, int]] = set()
    n_possible = n_particles * (n_particles - 1) // 2
    wanted = min(n_pairs, n_possible)
    size = n_particles if n_particles <= 2 * BLOCK else BLOCK
    while len(seen) < wanted:
        order = rng.permutation(n_particles)
        for start in range(0, n_particles, size):
            rows = order[start : start + size]
            fresh = [(a, b) for a in range(len(rows)) for b in range(a + 1, len(rows))
                     if _pair(rows[a], rows[b]) not in seen]
            fresh = [fresh[i] for i in rng.permutation(len(fresh))[: wanted - len(seen)]]
            seen.update(_pair(rows[a], rows[b]) for a, b in fresh)
            if fresh:
                yield rows, fresh
            if len(seen) == wanted:
                return


def _pair(a: int, b: int) -> tuple[int, int]:
    return (min(int(a), int(b)), max(int(a), int(b)))


@dataclass(frozen=True, eq=False)
class SnrEstimate:
    """The SNR from P pairs."""

    snr: float  # of the mean correlation
    standard_error: float
    mean_of_pairs: float  # of rho / (1 - rho), the published average
    median_of_pairs: float
    spread_of_pairs: float  # standard deviation of one pair's rho / (1 - rho)
    correlation: float  # mean rho
    n_pairs: int


def snr_of_correlations(rho: FloatArray) -> SnrEstimate:
    """Return SNR = rho / (1 - rho) of the correlations of P pairs.

    rho is averaged before it is turned into a ratio: of pairs far noisier than their signal the
    ratio's mean is pulled up by those that happen to agree. The error takes pairs as independent.

    Raises
    ------
    ValueError
        If no pair has a correlation.
    """
    known = np.asarray(rho, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        raise ValueError("no two particles have measured the same Fourier samples")
    mean = float(known.mean())
    ratio = known / np.maximum(1.0 - known, 1e-9)
    error = float(known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else float("nan")
    rest = max(1.0 - mean, 1e-9)
    return SnrEstimate(
        mean / rest, error / rest**2, float(ratio.mean()), float(np.median(ratio)),
        float(ratio.std()), mean, len(known),
    )
