"""Statistics of particles in folds, and the M-step of enhanced mode.

Particles are divided into folds. Each fold's references are made of the particles of the other
folds, so that no particle meets itself: its own noise would be worth (1 + 1 / SNR) / N of a perfect
match. Even and odd folds together are the two halves of the Fourier shell correlation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from scipion_faml.fourier import SampleSet
from scipion_faml.regularise import (
    ShellResidual,
    half_correlation,
    prior_coverage,
    wiener_average,
)
from scipion_faml.types import ComplexArray, FloatArray, IntArray

SMALLEST_WEIGHT = 1.0  # particles: a class below keeps its references
SMALLEST_OTHERS = 0.5  # particles of other folds: a fold with less keeps its reference


@dataclass(frozen=True, eq=False)
class FoldSums:
    """Sums over particles; all that the M-step sees. `a + b` merges two sets of particles."""

    signal: ComplexArray  # (F, K, J) complex128, sum gamma R^-1 (w X)
    coverage: FloatArray  # (F, K, J) float64, sum gamma R^-1 w
    weight: FloatArray  # (F, K) sum gamma
    residual: ShellResidual
    sq_shift: float  # sum gamma |t|^2, working voxels
    n_particles: int
    evidence: float  # sum of log likelihood ratios to pure noise

    def __add__(self, other: FoldSums) -> FoldSums:
        return FoldSums(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def halves(self) -> tuple[ComplexArray, FloatArray]:
        """Return signal and coverage of even and odd folds, (2, K, J) each."""
        return (
            np.stack([self.signal[h::2].sum(axis=0) for h in range(2)]),
            np.stack([self.coverage[h::2].sum(axis=0) for h in range(2)]),
        )


@dataclass(frozen=True, eq=False)
class FoldAverages:
    """What the M-step makes of `FoldSums`."""

    averages: ComplexArray  # (K, J) complex64, of all particles, regularised
    references: ComplexArray  # (F, K, J) complex64, each of the other folds' particles
    halves: ComplexArray  # (2, K, J) complex64, of even and odd folds
    fsc: FloatArray  # (K, n_shells) between the halves
    noise: FloatArray  # (n_shells,) sigma^2


def fold_of(n_particles: int, n_folds: int, seed: int) -> IntArray:
    """Return the fold of every particle: random, of equal size."""
    folds = np.arange(n_particles) % n_folds
    np.random.default_rng([seed, 1]).shuffle(folds)
    return folds


def fold_averages(
    sums: FoldSums,
    samples: SampleSet,
    previous: ComplexArray,
    leave_out: bool = True,
    is_white: bool = False,
    regularise: bool = True,
    smallest_fsc: float = 0.0,
) -> FoldAverages:
    """Return averages, references and noise from the sums of all particles.

    Parameters
    ----------
    previous : (F, K, J) references so far, kept by classes of less than one particle
    leave_out : whether a fold's own particles are left out of its references
    is_white : one noise variance for all shells
    regularise : Wiener prior from the FSC; else signal / coverage
    smallest_fsc : the FSC is taken to be at least this, before there is anything to correlate
    """
    n_folds, n_classes, _ = sums.signal.shape
    half_signal, half_coverage = sums.halves()
    references = previous.astype(np.complex64).copy()
    averages = np.zeros((n_classes, len(samples)), dtype=np.complex64)
    halves = np.zeros((2, n_classes, len(samples)), dtype=np.complex64)
    curves, explained = [], np.zeros(len(sums.residual.power))
    for k in range(n_classes):
        signal, coverage = half_signal[:, k].sum(axis=0), half_coverage[:, k].sum(axis=0)
        fsc = half_correlation(half_signal[:, k], half_coverage[:, k], samples)
        curves.append(fsc)
        trusted = np.maximum(fsc, smallest_fsc) if regularise else np.full(len(fsc), 0.95)
        prior = prior_coverage(trusted, coverage, samples)
        for h in range(2):
            halves[h, k] = wiener_average(
                half_signal[h, k], half_coverage[h, k], 0.5 * prior, samples)
        averages[k] = wiener_average(signal, coverage, prior, samples)
        weight = float(sums.weight[:, k].sum())
        kept = weight >= SMALLEST_WEIGHT
        for f in range(n_folds):
            # A class of one fold's particles alone would leave that fold a reference of nothing.
            others = weight - float(sums.weight[f, k]) if leave_out else weight
            if kept and others >= SMALLEST_OTHERS:
                own = (sums.signal[f, k], sums.coverage[f, k]) if leave_out else (0.0, 0.0)
                references[f, k] = wiener_average(
                    signal - own[0], coverage - own[1], prior, samples)
            explained += sums.residual.explained(
                sums.signal[f, k], sums.coverage[f, k], references[f, k], samples)
        if not kept:
            averages[k] = references[:, k].mean(axis=0)
    noise = sums.residual.noise(explained, is_white)
    return FoldAverages(averages, references, halves, np.array(curves), noise)
