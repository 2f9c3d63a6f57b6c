"""The response of a filter where no particle is, and how high it may rise there by chance.

A smooth Gaussian random field has, in a volume V, on average

    N(u) = V sqrt(l_x l_y l_z) (2 pi)^-2 (u^2 - 1) exp(-u^2 / 2)

maxima above a high level u (Adler 1981), l_a being the variance of its slope along a over its own.
Spread and slopes are measured in the response itself, so noise need not be white.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy.spatial import cKDTree

from scipion_faml.picking.peaks import robust_spread
from scipion_faml.types import BoolArray, FloatArray

LOWEST_SCORE = 2.0  # no threshold from the noise lies below
MAX_ROUNDS = 8
MIN_BACKGROUND = 0.02  # of the samples: fewer do not tell the noise
MIN_SAMPLES = 2_000  # in what is searched, to measure the noise there and not everywhere
MAX_SAMPLES = 300_000


@dataclass(frozen=True, eq=False)
class Samples:
    """The response at some voxels."""

    position_zyx: FloatArray  # (S, 3) float32, voxels of the tomogram
    response: FloatArray  # (S,)
    slopes: FloatArray  # (S, 3) its derivatives along z, y, x
    is_searched: BoolArray  # (S,) whether picks may lie here

    @staticmethod
    def none() -> Samples:
        """No samples."""
        return Samples(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 3)), np.zeros(0, dtype=bool))

    @staticmethod
    def concatenate(parts: Sequence[Samples]) -> Samples:
        """All samples in one."""
        names = ("position_zyx", "response", "slopes", "is_searched")
        return Samples(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    def take(self, keep: BoolArray | slice) -> Samples:
        """Those where `keep` (S,) is true."""
        return Samples(
            self.position_zyx[keep], self.response[keep], self.slopes[keep], self.is_searched[keep])

    def searched(self) -> Samples:
        """Those where picks may lie, not too many; any where these are too few for the noise."""
        enough = min(MIN_SAMPLES, len(self.response))
        chosen = self.take(self.is_searched) if self.is_searched.sum() >= enough else self
        return chosen.take(slice(None, None, max(1, round(len(chosen.response) / MAX_SAMPLES))))

    def away_from(self, position_zyx: FloatArray, distance: float) -> Samples:
        """Those at least `distance` from all positions (M, 3)."""
        if not len(position_zyx):
            return self
        nearest = cKDTree(position_zyx).query(self.position_zyx, distance_upper_bound=distance)[0]
        return self.take(~np.isfinite(nearest))


@dataclass(frozen=True, eq=False)
class Background:
    """The response where there is no particle, in the volume searched."""

    level: float
    sd: float
    maxima_scale: float  # V sqrt(l_x l_y l_z) (2 pi)^-2

    @staticmethod
    def of(samples: Samples, n_voxels: float) -> Background:
        """Measured robustly, for `n_voxels` searched.

        Raises
        ------
        ValueError
            If there is nothing to measure it in, or nothing varies.
        """
        if not len(samples.response):
            raise ValueError("the tomogram is too small to measure its noise in")
        level, sd = robust_spread(samples.response)
        if not sd > 0:
            raise ValueError("the tomogram is constant nearly everywhere: nothing can be picked")
        ratio = [robust_spread(slope)[1] / sd for slope in samples.slopes.T]
        scale = n_voxels * float(np.prod(ratio)) / (2.0 * np.pi) ** 2
        return Background(level, sd, scale)

    def score(self, response: FloatArray) -> FloatArray:
        """Response in s.d. above its median."""
        return (response - self.level) / self.sd

    def expected_maxima(self, score: float) -> float:
        """Return N(u): maxima of noise alone above a score (at least 1.7, where N is largest)."""
        u = max(score, np.sqrt(3.0))
        return float(self.maxima_scale * (u**2 - 1.0) * np.exp(-0.5 * u**2))


@dataclass(frozen=True, eq=False)
class Response:
    """The response of one filter in the volume searched: what its background is measured from."""

    samples: Samples
    position_zyx: FloatArray  # (M, 3) of its local maxima, voxels of the tomogram
    height: FloatArray  # (M,)
    n_voxels: float  # of the response that are searched
    diameter: float  # of the particles it answers to, voxels of the tomogram


def between_particles(
    response: Response, false_positives: float, threshold: float | None
) -> Background:
    """Return the background where no particle of the response's size is.

    What scores high is left out, until nothing changes: in a crowded tomogram particles widen the
    distribution and would hide each other. High is what exceeds the threshold, or, without one,
    what noise exceeds `false_positives` times. Particles of other sizes stay in: a filter must
    score them as low as the rest.
    """
    samples = response.samples.searched()
    found = Background.of(samples, response.n_voxels)
    n_high = -1
    for _ in range(MAX_ROUNDS):
        lowest = threshold_of([found], false_positives) if threshold is None else threshold
        is_high = found.score(response.height) >= lowest
        left = samples.away_from(response.position_zyx[is_high], response.diameter)
        too_few = len(left.response) < MIN_BACKGROUND * len(samples.response)
        if is_high.sum() == n_high or too_few:
            break
        n_high = int(is_high.sum())
        found = Background.of(left, response.n_voxels)
    return found


def expected_maxima(backgrounds: Sequence[Background], score: float) -> float:
    """Return the maxima of noise alone above a score, in the responses of all filters together."""
    return sum(background.expected_maxima(score) for background in backgrounds)


def threshold_of(backgrounds: Sequence[Background], false_positives: float) -> float:
    """Return the score that noise alone exceeds `false_positives` times, all filters together."""
    lowest, highest = np.sqrt(3.0), 40.0
    if expected_maxima(backgrounds, lowest) <= false_positives:
        return LOWEST_SCORE
    solution = optimize.brentq(
        lambda u: np.log(max(expected_maxima(backgrounds, u), 1e-300) / false_positives),
        lowest, highest,
    )
    return max(float(solution), LOWEST_SCORE)
