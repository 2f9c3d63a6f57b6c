"""Signal-to-noise ratio of particles from the correlation of aligned pairs.

Two aligned particles hold the same signal and independent noise, so their correlation coefficient
is rho = S / (S + N), and SNR = S / N = rho / (1 - rho) (Frank and Al-Ali 1975, Nature 256:376).
Pairs are compared in the frame of their average, over the Fourier samples that both have measured:

    rho = sum over pairs of Re sum_k X_i conj(X_j)
          / sum over pairs of (sum_k v_j |X_i|^2 sum_k v_i |X_j|^2)^(1/2),

v_i being the turned mask of what was measured. It has no sharp border after a turn, and at the
lowest frequencies, where the signal is, all samples lie near the border: X_i is v_i times the
signal there, and noise of variance v_i.

A turn carries the corners of the spectrum out of it. They hold noise alone, half of that of a box,
and count as such: SNR is that of voxels, as in real space.

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
    hermitian_multiplicity,
    oversampled_spectrum,
    shift_spectrum,
    spectrum,
    volume_from_spectrum,
)
from scipion_faml.geometry import RigidTransforms
from scipion_faml.types import ComplexArray, FloatArray, IntArray
from scipion_faml.wedge import is_measured

BLOCK = 16  # particles held at once: all their pairs are compared


@dataclass(frozen=True, eq=False)
class AlignedParticle:
    """One particle turned back into the frame of its average."""

    values: ComplexArray  # (J,)
    measured: FloatArray  # (J,) v, 0 to 1
    corner_power: float = 0.0  # sum of |X|^2 of samples beyond the reach of a turn


def aligned_particle(
    volume: FloatArray, wedge: FloatArray, pose: RigidTransforms, samples: SampleSet,
    mask: FloatArray | None = None, with_corners: bool = True,
) -> AlignedParticle:
    """Return a particle (n, n, n) turned back by the first pose, at some Fourier samples.

    Parameters
    ----------
    volume, wedge : the particle and its weights (n, n, n // 2 + 1)
    mask : (n, n, n), optional
        In the frame of the average; without one the whole box counts, its corners too: a turn of
        the spectrum keeps their noise.
    with_corners : bool
        Count the noise beyond the samples, which must then reach Nyquist.
    """
    rotation, shift = pose.rotation[0], pose.shift_xyz[0]
    half = spectrum(volume - float(volume.mean()))
    corners = _corner_power(half, wedge, samples) if with_corners else 0.0
    # r -> R r + t is undone by moving by -t, then turning by R^T.
    moved = volume_from_spectrum(shift_spectrum(half, -shift), samples.n)
    values = _turned(oversampled_spectrum(moved.astype(np.float32)), rotation.T, samples)
    measured = _turned_mask(wedge, rotation.T, samples)
    if mask is not None:
        inside = volume_from_spectrum(samples.put(values), samples.n) * mask
        inside = inside - mask * (inside.sum() / max(float(mask.sum()), 1e-12))
        values = samples.take(spectrum(inside.astype(np.float32)))
        corners *= float(np.mean(np.square(mask, dtype=np.float64)))
    return AlignedParticle(values, measured, corners)


def _corner_power(half: ComplexArray, wedge: FloatArray, samples: SampleSet) -> float:
    """Power of what was measured beyond the samples, DC aside."""
    weight = hermitian_multiplicity(samples.n) * is_measured(wedge)
    beyond = weight.ravel() * _squared(half).ravel()
    beyond[samples.flat_index] = 0.0
    beyond[0] = 0.0
    return float(beyond.sum())


def _turned(table: ComplexArray, rotation: FloatArray, samples: SampleSet) -> ComplexArray:
    """An oversampled spectrum after a turn, at the samples."""
    values = np.empty(len(samples), dtype=np.complex64)
    matrix = np.ascontiguousarray(OVERSAMPLING * rotation.T, dtype=np.float64)
    _interpolate.gather_complex(table, samples.frequency_xyz, matrix, values)
    return values


def _turned_mask(wedge: FloatArray, rotation: FloatArray, samples: SampleSet) -> FloatArray:
    """What was measured, turned as a particle is, 0 to 1."""
    spread = volume_from_spectrum(is_measured(wedge).astype(np.complex64), samples.n)
    turned = _turned(oversampled_spectrum(spread.astype(np.float32)), rotation, samples)
    return np.clip(turned.real, 0.0, 1.0)


def pair_products(
    first: AlignedParticle, second: AlignedParticle, samples: SampleSet
) -> tuple[float, float]:
    """Return Re sum X_1 conj(X_2) over what both measured, and (sum |X_1|^2 sum |X_2|^2)^(1/2).

    DC is not among the samples: their quotient is Pearson's coefficient of the volumes.
    """
    weight = samples.multiplicity.astype(np.float64)
    a, b = first.values, second.values
    cross = float(weight @ (a.real * b.real + a.imag * b.imag))
    common = float(weight @ (first.measured * second.measured))
    power = [
        float((weight * other.measured) @ _squared(one.values))
        + one.corner_power * common / max(float(weight @ one.measured), 1.0)
        for one, other in ((first, second), (second, first))]
    return cross, float(np.sqrt(power[0] * power[1]))


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

    snr: float  # of all pairs together
    standard_error: float
    mean_of_pairs: float  # of every pair's own ratio, the published average
    median_of_pairs: float
    spread_of_pairs: float  # standard deviation of one pair's ratio
    correlation: float  # rho of all pairs together
    n_pairs: int


def snr_of_pairs(cross: FloatArray, power: FloatArray) -> SnrEstimate:
    """Return SNR = rho / (1 - rho) from the products (P,) of P pairs (`pair_products`).

    Sums over pairs are divided, not every pair: two particles that share few samples, or whose
    signal is far below the noise, have a ratio that means little. The error is that of a ratio of
    sums, pairs taken as independent.

    Raises
    ------
    ValueError
        If no pair has anything in common.
    """
    known = np.asarray(power) > 0
    if not known.any():
        raise ValueError("no two particles have measured the same Fourier samples")
    cross, power = np.asarray(cross, float)[known], np.asarray(power, float)[known]
    rho = float(cross.sum() / power.sum())
    each = cross / power
    ratio = each / np.maximum(1.0 - each, 1e-9)
    count = len(each)
    error = float("nan")
    if count > 1:
        residual = cross - rho * power
        error = float(np.sqrt(np.sum(residual**2) * count / (count - 1)) / power.sum())
    rest = max(1.0 - rho, 1e-9)
    return SnrEstimate(
        rho / rest, error / rest**2, float(ratio.mean()), float(np.median(ratio)),
        float(ratio.std()), rho, count,
    )
