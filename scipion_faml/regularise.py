"""What keeps noise out of an average: shell-wise noise, FSC between halves, a Wiener prior.

With the variances sigma^2(r) of the noise and tau^2(r) of the structure on shell r, the most
probable average given the responsibilities is

    A = signal / (coverage + sigma^2 / tau^2)

(Scheres 2012, J Mol Biol 415:406, Eq. 8). The ratio comes from the data: two halves of coverage
c / 2 correlate by FSC = s / (1 + s) with s = (c / 2) tau^2 / sigma^2, so that
sigma^2 / tau^2 = c (1 - FSC) / (2 FSC).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter1d

from scipion_faml.fourier import SampleSet
from scipion_faml.types import ComplexArray, FloatArray, IntArray

SMALLEST_FSC, LARGEST_FSC = 0.01, 0.999
# Of the power: no model is better than that (mask, interpolation, poses fitted to the noise). At
# 0.01 shells of high SNR drown the others: correlation 0.89 in place of 0.95 (32^3, SNR 0.01).
SMALLEST_RESIDUAL = 0.1
SMOOTH_SHELLS = 0.7  # s.d. of the window that tau^2 is smoothed with
SMALLEST_COVERAGE = 0.1  # of a shell's mean: what no particle measured is not blown up


@lru_cache(maxsize=16)
def _shells(samples: SampleSet) -> tuple[IntArray, int]:
    radius = np.sqrt(np.sum(samples.frequency_xyz.astype(np.float64) ** 2, axis=1))
    n_shells = int(samples.radius)
    return np.clip(np.rint(radius).astype(np.intp) - 1, 0, n_shells - 1), n_shells


def shell_of(samples: SampleSet) -> IntArray:
    """Return the shell, from 0 at |k| = 1, of every sample, (J,)."""
    return _shells(samples)[0]


def sums_over_shells(values: FloatArray, samples: SampleSet) -> FloatArray:
    """Return sums over shells |k| = 1.. of real values (J,), both Friedel mates counted."""
    shell, n_shells = _shells(samples)
    weighted = np.asarray(values * samples.multiplicity, dtype=np.float64)
    sums: FloatArray = np.bincount(shell, weights=weighted, minlength=n_shells).astype(np.float64)
    return sums


def shell_means(values: FloatArray, samples: SampleSet) -> FloatArray:
    """Return means over shells of real values (J,)."""
    ones = np.ones(len(samples))
    return sums_over_shells(values, samples) / sums_over_shells(ones, samples)


def half_correlation(
    signal: ComplexArray, coverage: FloatArray, samples: SampleSet
) -> FloatArray:
    """Return the FSC between two halves on shells |k| = 1.., from their sums (2, J)."""
    none = np.zeros(int(samples.radius))
    maps = [wiener_average(s, c, none, samples) for s, c in zip(signal, coverage, strict=True)]
    both: FloatArray = (maps[0] * maps[1].conj()).real
    cross = sums_over_shells(both, samples)
    power = [sums_over_shells((m * m.conj()).real, samples) for m in maps]
    return cross / np.sqrt(np.maximum(power[0] * power[1], np.finfo(float).tiny))


def prior_coverage(
    fsc: FloatArray, coverage: FloatArray, samples: SampleSet
) -> FloatArray:
    """Return sigma^2 / tau^2 on shells, in units of the coverage (J,) of all particles.

    A shell that hardly any particle measured (a zero of the CTF) cannot be judged by its own FSC,
    which is too good where both halves were aligned to references of shared particles. The power
    of a structure has no notches there: tau^2 is not taken larger than around the shell, each
    shell counting by its coverage.
    """
    bounded = np.clip(fsc, SMALLEST_FSC, LARGEST_FSC)
    mean = shell_means(np.maximum(coverage, 0.0), samples) + np.finfo(np.float32).tiny
    signal_to_noise = 2.0 * bounded / (1.0 - bounded)  # tau^2 coverage / sigma^2
    around = (gaussian_filter1d(signal_to_noise, SMOOTH_SHELLS, mode="constant")
              / gaussian_filter1d(mean, SMOOTH_SHELLS, mode="constant"))
    prior: FloatArray = 1.0 / np.minimum(signal_to_noise / mean, around)
    return prior


def wiener_average(
    signal: ComplexArray, coverage: FloatArray, prior: FloatArray, samples: SampleSet
) -> ComplexArray:
    """Return signal / (coverage + sigma^2 / tau^2) at the samples, `prior` (n_shells,).

    Where next to nothing was measured (a wedge that all particles miss, beside a tilt axis that all
    share), windows leak signal and coverage of other samples in, of either sign, and their ratio
    would be anything: where the coverage is below SMALLEST_COVERAGE of the shell's mean, m, the
    average falls to 0 by the factor 1 / (1 + (m / coverage)^4).
    """
    shell = shell_of(samples)
    known = np.maximum(coverage, 0.0)
    least = SMALLEST_COVERAGE * shell_means(known, samples)[shell] + 1e-9
    trust = known**4 / (known**4 + least**4)
    average: ComplexArray = trust * signal / (known + prior[shell] + np.finfo(np.float32).tiny)
    return average


@dataclass(frozen=True, eq=False)
class ShellResidual:
    """Sums over particles and shells from which the noise variance is estimated."""

    power: FloatArray  # (n_shells,) sum w |X|^2
    n_observed: FloatArray  # (n_shells,) measured samples

    def __add__(self, other: ShellResidual) -> ShellResidual:
        return ShellResidual(self.power + other.power, self.n_observed + other.n_observed)

    def explained(
        self, signal: ComplexArray, coverage: FloatArray, average: ComplexArray, samples: SampleSet
    ) -> FloatArray:
        """Return what an average explains of the power, (n_shells,).

        sum gamma (2 Re <X, R A>_w - |R A|_w^2) is <signal, A> and <coverage, |A|^2>: no particle is
        turned again.
        """
        cross = sums_over_shells((signal * average.conj()).real, samples)
        model = sums_over_shells(coverage * np.abs(average) ** 2, samples)
        return 2.0 * cross - model

    def noise(self, explained: FloatArray, is_white: bool) -> FloatArray:
        """Return sigma^2 of a sample on each shell; of all shells together where it is white."""
        # A reference that overfits would explain more than there is.
        left = np.maximum(self.power - explained, SMALLEST_RESIDUAL * self.power)
        if is_white:
            return np.full(len(left), left.sum() / max(self.n_observed.sum(), 1e-12))
        mean = left.sum() / max(self.n_observed.sum(), 1e-12)
        noise = np.where(self.n_observed > 0, left / np.maximum(self.n_observed, 1e-12), mean)
        return np.maximum(noise, 1e-12 * max(mean, 1e-30))
