"""Compact particles of one size, found as local maxima of a difference of Gaussians.

DoG = G(s) - G(q s) answers to blobs of one size and neither to slow changes of the background nor
to single voxels (Voss et al. 2009, J. Struct. Biol. 166). A ball of radius r answers most when the
scale between both Gaussians is r / sqrt(3), the optimum of the Laplacian of a Gaussian in 3-D.

Scores are in standard deviations of the response where there is no particle. The threshold follows
from the noise: a smooth Gaussian random field has, in a volume V, on average

    N(u) = V sqrt(l_x l_y l_z) (2 pi)^-2 (u^2 - 1) exp(-u^2 / 2)

maxima above a high level u (Adler 1981), l_a being the variance of its slope along a over its own.
Spread and slopes are measured in the response itself, so noise need not be white.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage, optimize
from scipy.spatial import cKDTree

from scipion_faml.picking import Picks
from scipion_faml.picking.peaks import between_voxels, robust_spread, suppress_neighbours
from scipion_faml.picking.tiles import Binned, TileMap
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.volume import iter_tiles

TRUNCATE = 4.0  # Gaussians are cut at this many standard deviations
MIN_SIGMA = 2.0  # voxels; a finer tomogram is binned first, which loses nothing at this scale
SAMPLES_OF_TILE = 100_000
LOWEST_SCORE = 2.0  # no threshold from the noise lies below
MAX_ROUNDS = 8
MIN_BACKGROUND = 0.02  # of the voxels: fewer do not tell the noise


@dataclass(frozen=True)
class DogConfig:
    """Settings of the picker."""

    diameter_angst: float
    is_dark: bool = False  # particles darker than their surroundings
    threshold: float | None = None  # s.d. of the response; None: from `false_positives`
    false_positives: float = 1.0  # expected in the whole tomogram, of noise alone
    min_distance: float = 0.8  # between picks, in diameters
    border: float = 0.5  # picks keep this distance from the tomogram's faces, in diameters
    max_picks: int | None = None  # the best of them
    ratio: float = 1.3  # q, of both Gaussians
    clip_sd: float = 5.0  # brighter and darker voxels are cut to this: gold beads
    tile: int = 192  # voxels of the core of a tile

    def __post_init__(self) -> None:
        if not self.diameter_angst > 0:
            raise ValueError(f"diameter {self.diameter_angst:g}: give it in angstrom, above 0")
        if self.threshold is not None and not np.isfinite(self.threshold):
            raise ValueError(f"threshold {self.threshold:g} s.d. is not a number")
        if not self.false_positives > 0:
            raise ValueError(f"{self.false_positives:g} false positives: give a number above 0")
        if self.min_distance < 0 or self.border < 0:
            raise ValueError("min_distance and border must not be negative")
        if not self.ratio > 1 or not self.clip_sd > 0:
            raise ValueError("the ratio of the Gaussians must exceed 1, clip_sd 0")
        if self.max_picks is not None and self.max_picks < 1:
            raise ValueError(f"max_picks is {self.max_picks}: it must be at least 1")
        if self.tile < 16:
            raise ValueError(f"tiles of {self.tile} voxels are too small: 16 at least")

    def sigmas(self, voxel_size_angst: float) -> tuple[float, float]:
        """Return the widths (voxels) of both Gaussians for particles of the diameter."""
        radius = 0.5 * self.diameter_angst / voxel_size_angst
        inner = radius * np.sqrt(2.0 / (3.0 * (1.0 + self.ratio**2)))
        return float(inner), float(inner * self.ratio)


@dataclass(frozen=True, eq=False)
class DogResult:
    """Picks, and what the threshold came from."""

    picks: Picks
    threshold: float  # s.d. of the response
    expected_false_positives: float  # of noise alone above the threshold
    noise_sd: float  # of the response, in units of the tomogram's s.d.
    n_near_border: int  # maxima above the threshold too near a face
    binning: int  # of the tomogram while picking


def pick_dog(
    tomogram: FloatArray, voxel_size_angst: float, config: DogConfig, tile_map: TileMap = map
) -> DogResult:
    """Return the particles of one size in a tomogram, the surest first.

    Parameters
    ----------
    tomogram : (z, y, x)
        Any array that can be sliced, for example a memory map: a tile is in memory at a time.
    voxel_size_angst : float
    config : DogConfig
    tile_map : callable
        `map`, or one that works on several tiles at once; the order of results must be kept.

    Raises
    ------
    ValueError
        If the diameter does not fit voxels or tomogram, or the tomogram is constant or not finite.
    """
    _check(tomogram, voxel_size_angst, config)
    inner, outer = config.sigmas(voxel_size_angst)
    binning = max(1, int(inner / MIN_SIGMA))
    binned = Binned(tomogram, binning)
    level, spread = robust_spread(binned.samples())
    if not spread > 0:
        raise ValueError("more than half of the tomogram is constant: crop it to what was imaged")
    work = partial(
        _tile_maxima, binned=binned, level=level, spread=-spread if config.is_dark else spread,
        sigmas=(inner / binning, outer / binning), clip_sd=config.clip_sd,
    )
    overlap = int(np.ceil(TRUNCATE * outer / binning)) + 2
    tiles = list(iter_tiles(binned.shape, config.tile, overlap))
    found = list(tile_map(work, tiles))
    maxima = _Maxima(
        np.concatenate([f.position_zyx for f in found]), np.concatenate([f.response for f in found])
    )
    diameter = config.diameter_angst / voxel_size_angst / binning
    margin = config.border * diameter
    searched = float(np.prod([max(size - 2 * margin, 1.0) for size in binned.shape]))
    noise = _Noise.between_particles(
        _Samples.concatenate([f.samples for f in found]), maxima, searched, config, diameter
    )
    return _selected(maxima, noise, binned, voxel_size_angst, config)


def _check(tomogram: FloatArray, voxel_size_angst: float, config: DogConfig) -> None:
    """Refuse what cannot be picked in."""
    if tomogram.ndim != 3:
        raise ValueError(f"the tomogram has {tomogram.ndim} dimensions, 3 are needed")
    if not voxel_size_angst > 0:
        raise ValueError(f"voxel size {voxel_size_angst:g}: give it in angstrom, above 0")
    voxels = config.diameter_angst / voxel_size_angst
    if voxels < 2:
        raise ValueError(
            f"a diameter of {config.diameter_angst:g} A is {voxels:.2g} voxels of "
            f"{voxel_size_angst:g} A: 2 at least are needed; check both"
        )
    if voxels > min(tomogram.shape):
        raise ValueError(
            f"a diameter of {config.diameter_angst:g} A is {voxels:.0f} voxels, the tomogram has "
            f"{min(tomogram.shape)} along its shortest side: check both"
        )


# --------------------------------------------------------------------------------------- tiles
@dataclass(frozen=True, eq=False)
class _Samples:
    """The response at some voxels."""

    position_zyx: FloatArray  # (S, 3) float32, binned voxels
    response: FloatArray  # (S,)
    slopes: FloatArray  # (S, 3) its derivatives along z, y, x

    @staticmethod
    def concatenate(parts: Sequence[_Samples]) -> _Samples:
        """All samples in one."""
        names = ("position_zyx", "response", "slopes")
        return _Samples(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    def away_from(self, position_zyx: FloatArray, distance: float) -> _Samples:
        """Those at least `distance` from all positions (M, 3)."""
        if not len(position_zyx):
            return self
        nearest = cKDTree(position_zyx).query(
            self.position_zyx, distance_upper_bound=distance)[0]
        keep = ~np.isfinite(nearest)
        return _Samples(self.position_zyx[keep], self.response[keep], self.slopes[keep])


@dataclass(frozen=True, eq=False)
class _Maxima:
    """Local maxima of the response."""

    position_zyx: FloatArray  # (M, 3) binned voxels of the tomogram, between voxels
    response: FloatArray  # (M,)


@dataclass(frozen=True, eq=False)
class _TileMaxima(_Maxima):
    """What one tile gives."""

    samples: _Samples


def _tile_maxima(
    tile: tuple[tuple[slice, ...], tuple[slice, ...]], binned: Binned, level: float, spread: float,
    sigmas: tuple[float, float], clip_sd: float,
) -> _TileMaxima:
    """Local maxima of the response in the core of a tile, and samples of it."""
    padded, core = tile
    values = np.clip((binned[padded] - level) / spread, -clip_sd, clip_sd)
    # Beyond the tomogram's faces lies background. Mirroring instead would double the variance
    # there, and with it the false positives.
    response = ndimage.gaussian_filter(values, sigmas[0], truncate=TRUNCATE, mode="constant")
    response -= ndimage.gaussian_filter(values, sigmas[1], truncate=TRUNCATE, mode="constant")
    inner = tuple(
        slice(c.start - p.start, c.stop - p.start) for c, p in zip(core, padded, strict=True)
    )
    peak = response[inner] == ndimage.maximum_filter(response, 3)[inner]
    peak &= response[inner] > 0
    start = np.array([s.start for s in inner])
    position, height = between_voxels(response, np.argwhere(peak) + start)
    origin = np.array([p.start for p in padded])
    return _TileMaxima(
        position + origin, height,
        _samples_of(response, _off_faces(padded, core, binned, sigmas[1]), origin),
    )


def _off_faces(
    padded: tuple[slice, ...], core: tuple[slice, ...], binned: Binned, sigma: float
) -> tuple[slice, ...]:
    """The part of a core, in its tile, that is not darkened by the nearness of a face."""
    slices = []
    for p, c, size in zip(padded, core, binned.shape, strict=True):
        margin = min(int(np.ceil(2.5 * sigma)), size // 4)
        low, high = max(c.start, margin), min(c.stop, size - margin)
        slices.append(slice(low - p.start, max(high, low) - p.start))
    return tuple(slices)


def _samples_of(
    response: FloatArray, region: tuple[slice, ...], origin: IntArray
) -> _Samples:
    """The response and its slopes at some voxels of a region of a tile that begins at `origin`."""
    part = response[region]
    if min(part.shape) < 3:
        return _Samples(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 3)))
    step = max(1, int(np.ceil((part.size / SAMPLES_OF_TILE) ** (1 / 3))))
    every = (slice(None, None, step),) * 3
    start = origin + np.array([s.start for s in region])
    grid = np.indices(part.shape)[(slice(None), *every)].reshape(3, -1).T + start
    slopes = [np.gradient(part, axis=axis)[every].ravel() for axis in range(3)]
    return _Samples(grid.astype(np.float32), part[every].ravel(), np.stack(slopes, axis=-1))


# --------------------------------------------------------------------------------------- noise
@dataclass(frozen=True, eq=False)
class _Noise:
    """The response where there is no particle."""

    level: float
    sd: float
    maxima_scale: float  # V sqrt(l_x l_y l_z) (2 pi)^-2

    @staticmethod
    def of(samples: _Samples, n_voxels: float) -> _Noise:
        """Measured robustly, for `n_voxels` searched."""
        if not len(samples.response):
            raise ValueError("the tomogram is too small to measure its noise in")
        level, sd = robust_spread(samples.response)
        if not sd > 0:
            raise ValueError("the tomogram is constant nearly everywhere: nothing can be picked")
        ratio = [robust_spread(slope)[1] / sd for slope in samples.slopes.T]
        scale = n_voxels * float(np.prod(ratio)) / (2.0 * np.pi) ** 2
        return _Noise(level, sd, scale)

    @staticmethod
    def between_particles(
        samples: _Samples, found: _Maxima, n_voxels: float, config: DogConfig, diameter: float
    ) -> _Noise:
        """Measured where no particle is: what scores high is left out, until nothing changes.

        In a crowded tomogram particles widen the distribution and would hide each other.
        """
        noise = _Noise.of(samples, n_voxels)
        n_high = -1
        for _ in range(MAX_ROUNDS):
            is_high = noise.score(found.response) >= noise.threshold_of(config)
            background = samples.away_from(found.position_zyx[is_high], diameter)
            too_few = len(background.response) < MIN_BACKGROUND * len(samples.response)
            if is_high.sum() == n_high or too_few:
                break
            n_high = int(is_high.sum())
            noise = _Noise.of(background, n_voxels)
        return noise

    def threshold_of(self, config: DogConfig) -> float:
        """The threshold in s.d. that the settings ask for."""
        if config.threshold is not None:
            return config.threshold
        return self.threshold(config.false_positives)

    def score(self, response: FloatArray) -> FloatArray:
        """Response in s.d. above its median."""
        return (response - self.level) / self.sd

    def expected_maxima(self, score: float) -> float:
        """Return N(u): maxima of noise alone above a score (at least 1.7, where N is largest)."""
        u = max(score, np.sqrt(3.0))
        return float(self.maxima_scale * (u**2 - 1.0) * np.exp(-0.5 * u**2))

    def threshold(self, false_positives: float) -> float:
        """Return the score that noise alone exceeds `false_positives` times in the tomogram."""
        lowest, highest = np.sqrt(3.0), 40.0
        if self.expected_maxima(lowest) <= false_positives:
            return LOWEST_SCORE
        solution = optimize.brentq(
            lambda u: np.log(max(self.expected_maxima(u), 1e-300) / false_positives),
            lowest, highest,
        )
        return max(float(solution), LOWEST_SCORE)


# ----------------------------------------------------------------------------------- selection
def _selected(
    maxima: _Maxima, noise: _Noise, binned: Binned, voxel_size_angst: float, config: DogConfig
) -> DogResult:
    """Maxima above the threshold, away from faces and from better ones."""
    score, threshold = noise.score(maxima.response), noise.threshold_of(config)
    # A binned voxel's centre lies (b - 1) / 2 voxels behind the first voxel it holds.
    position = maxima.position_zyx * binned.binning + (binned.binning - 1) / 2.0
    diameter = config.diameter_angst / voxel_size_angst
    margin = config.border * diameter
    limits = np.array(binned.tomogram.shape) - 1.0
    inside = ((position >= margin) & (position <= limits - margin)).all(axis=1)
    is_high = score >= threshold
    kept = np.flatnonzero(is_high & inside)
    kept = kept[np.argsort(-score[kept], kind="stable")]
    kept = kept[suppress_neighbours(position[kept], config.min_distance * diameter)]
    kept = kept[: config.max_picks]
    picks = Picks(position[kept][:, ::-1].copy(), score[kept], np.zeros(len(kept), dtype=np.intp))
    return DogResult(
        picks, float(threshold), noise.expected_maxima(threshold), noise.sd,
        int((is_high & ~inside).sum()), binned.binning,
    )
