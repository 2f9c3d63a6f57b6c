"""Compact particles found as local maxima of a difference of Gaussians, at one size or several.

DoG = G(s) - G(q s) answers to blobs of one size and neither to slow changes of the background nor
to single voxels (Voss et al. 2009, J. Struct. Biol. 166). A ball of radius r answers most when the
scale between both Gaussians is r / sqrt(3), the optimum of the Laplacian of a Gaussian in 3-D, to
which DoG tends for q -> 1: at q = 1.3 both filters agree to 0.999.

Scores are in standard deviations of the response where there is no particle; the threshold follows
from that noise (`background`), for all sizes together. Where responses of several sizes overlap,
the one is kept that would score most in white noise: density times diameter^(3/2), the signal of a
ball over the noise of its filter. It takes a particle as a whole rather than its parts, and tells
sizes apart that differ by a factor of two or more. The scores themselves would not do: in a crowd
the others widen what is taken for the noise of large filters, but not that of small ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from scipion_faml.picking import Picks, in_mask
from scipion_faml.picking.background import (
    Background,
    Response,
    Samples,
    between_particles,
    expected_maxima,
    threshold_of,
)
from scipion_faml.picking.peaks import between_voxels, suppress_neighbours
from scipion_faml.picking.tiles import (
    Binned,
    Tile,
    TileMap,
    check_tomogram,
    core_in_tile,
    level_and_spread,
    searched_tiles,
)
from scipion_faml.types import BoolArray, FloatArray, IntArray

TRUNCATE = 4.0  # Gaussians are cut at this many standard deviations
MIN_SIGMA = 2.0  # voxels; a finer tomogram is binned first, which loses nothing at this scale
SAMPLES_OF_TILE = 100_000
MIN_DISTANCE, BORDER = 0.8, 0.5  # in diameters, where the settings say nothing
CORE = 0.15  # diameters: half the edge of the cube at a pick that tells gold
GOLD_PER_PARTICLE = 3.0  # times as dense as the fainter picks: no protein among proteins


@dataclass(frozen=True)
class DogConfig:
    """Settings of the picker."""

    diameters_angst: tuple[float, ...]
    is_dark: bool = False  # particles darker than their surroundings
    threshold: float | None = None  # s.d. of the response; None: from `false_positives`
    false_positives: float = 1.0  # expected in the whole tomogram, of noise alone
    min_distance_angst: float | None = None  # between picks; None: 0.8 of their mean diameter
    border_angst: float | None = None  # picks keep it from the faces; None: half a diameter
    max_picks: int | None = None  # the best of them
    filter: str = "dog"  # or "log"
    ratio: float = 1.3  # q, of both Gaussians
    clip_sd: float = 5.0  # brighter and darker voxels are cut to this: gold beads
    tile: int = 192  # voxels of the core of a tile

    def __post_init__(self) -> None:
        if not self.diameters_angst:
            raise ValueError("no diameter: give one or more, in angstrom")
        for diameter in self.diameters_angst:
            if not 0 < diameter < np.inf:
                raise ValueError(f"--diameter {diameter:g}: give it in angstrom, above 0")
        if len(set(self.diameters_angst)) != len(self.diameters_angst):
            raise ValueError("a diameter is given twice: give each once")
        if self.threshold is not None and not np.isfinite(self.threshold):
            raise ValueError(f"threshold {self.threshold:g} s.d. is not a number")
        if not 0 < self.false_positives < np.inf:
            raise ValueError(f"{self.false_positives:g} false positives: give a number above 0")
        if (self.min_distance_angst or 0) < 0 or (self.border_angst or 0) < 0:
            raise ValueError("distances between picks and from the border must not be negative")
        if not self.ratio > 1 or not self.clip_sd > 0:
            raise ValueError("the ratio of the Gaussians must exceed 1, clip_sd 0")
        if self.max_picks is not None and self.max_picks < 1:
            raise ValueError(f"max_picks is {self.max_picks}: it must be at least 1")
        if self.filter not in FILTERS:
            raise ValueError(f"filter '{self.filter}' is not known: use {' or '.join(FILTERS)}")
        if self.tile < 16:
            raise ValueError(f"tiles of {self.tile} voxels are too small: 16 at least")


@dataclass(frozen=True, eq=False)
class DogResult:
    """Picks, and what the threshold came from. Tuples have an entry for each diameter."""

    picks: Picks
    diameter_angst: FloatArray  # (P,) the one of those given that answered best
    threshold: float  # s.d. of the response
    expected_false_positives: float  # of noise alone above the threshold
    noise_sd: tuple[float, ...]  # of the responses, in units of the tomogram's s.d.
    n_near_border: int  # maxima above the threshold too near a face
    n_gold: int  # maxima left out because they are far denser than the others
    binning: tuple[int, ...]  # of the tomogram while picking


def pick_dog(
    tomogram: FloatArray, voxel_size_angst: float, config: DogConfig, tile_map: TileMap = map,
    mask: FloatArray | None = None,
) -> DogResult:
    """Return the particles of some sizes in a tomogram, the surest first.

    Parameters
    ----------
    tomogram : (z, y, x)
        Any array that can be sliced, for example a memory map: a tile is in memory at a time.
    voxel_size_angst : float
    config : DogConfig
    tile_map : callable
        `map`, or one that works on several tiles at once; the order of results must be kept.
    mask : (z, y, x), optional
        Picks lie where it is above 0.5; noise is measured there too, if that is enough.

    Raises
    ------
    ValueError
        If a diameter does not fit voxels or tomogram, the tomogram is constant or not finite, or
        the mask leaves nothing.
    """
    _check(tomogram, voxel_size_angst, config, mask)
    scales, backgrounds = _scales(tomogram, voxel_size_angst, config, tile_map, mask)
    threshold = config.threshold
    if threshold is None:
        threshold = threshold_of(backgrounds, config.false_positives)
    return _result(scales, backgrounds, threshold, threshold, mask, voxel_size_angst, config)


def pick_down_to(
    lowest: float, tomogram: FloatArray, voxel_size_angst: float, config: DogConfig
) -> DogResult:
    """Return picks as `pick_dog` does, but all down to a score, beside the threshold it would use.

    For previews: the picks of any higher threshold are those that score more.
    """
    _check(tomogram, voxel_size_angst, config, None)
    scales, backgrounds = _scales(tomogram, voxel_size_angst, config, map, None)
    threshold = threshold_of(backgrounds, config.false_positives)
    return _result(scales, backgrounds, threshold, lowest, None, voxel_size_angst, config)


def _scales(
    tomogram: FloatArray, voxel_size_angst: float, config: DogConfig, tile_map: TileMap,
    mask: FloatArray | None,
) -> tuple[list[_Scale], list[Background]]:
    """What the filter of each diameter found, and its background."""
    scales = [
        _searched(tomogram, mask, voxel_size_angst, diameter, config, tile_map)
        for diameter in config.diameters_angst
    ]
    return scales, [
        between_particles(scale.response, config.false_positives, config.threshold)
        for scale in scales]


def _result(
    scales: list[_Scale], backgrounds: list[Background], threshold: float, lowest: float,
    mask: FloatArray | None, voxel_size_angst: float, config: DogConfig,
) -> DogResult:
    """Picks that score `lowest` or more, and the threshold that was asked for."""
    found = _joined([
        _candidates(scale, background, lowest, mask, voxel_size_angst, config)
        for scale, background in zip(scales, backgrounds, strict=True)])
    sure = threshold_of(backgrounds, config.false_positives)
    kept, n_gold = _selected(found, scales, sure, voxel_size_angst, config)
    return DogResult(
        kept.picks, kept.diameter_angst, float(threshold),
        expected_maxima(backgrounds, threshold), tuple(b.sd for b in backgrounds),
        kept.n_near_border, n_gold, tuple(scale.binned.binning for scale in scales),
    )


def _check(
    tomogram: FloatArray, voxel_size_angst: float, config: DogConfig, mask: FloatArray | None
) -> None:
    """Refuse what cannot be picked in."""
    check_tomogram(tomogram, voxel_size_angst)
    if mask is not None and mask.shape != tomogram.shape:
        raise ValueError(f"the mask has shape {mask.shape}, the tomogram {tomogram.shape}")
    for diameter in config.diameters_angst:
        voxels = diameter / voxel_size_angst
        if voxels < 2:
            raise ValueError(
                f"a diameter of {diameter:g} A is {voxels:.2g} voxels of "
                f"{voxel_size_angst:g} A: 2 at least are needed; check both"
            )
        if voxels > min(tomogram.shape):
            raise ValueError(
                f"a diameter of {diameter:g} A is {voxels:.0f} voxels, the tomogram has "
                f"{min(tomogram.shape)} along its shortest side: check both"
            )


# --------------------------------------------------------------------------------------- filters
def difference_of_gaussians(values: FloatArray, radius: float, ratio: float) -> FloatArray:
    """Return G(s) - G(q s) of `values`, for balls of `radius` voxels."""
    # Beyond the tomogram's faces lies background. Mirroring instead would double the variance
    # there, and with it the false positives.
    inner, outer = sigmas_of(radius, ratio)
    smooth = partial(ndimage.gaussian_filter, truncate=TRUNCATE, mode="constant")
    response: FloatArray = smooth(values, inner)
    response -= smooth(values, outer)
    return response


def laplacian_of_gaussian(values: FloatArray, radius: float, _ratio: float) -> FloatArray:
    """Return -s^2 times the Laplacian of G(s) of `values`, for balls of `radius` voxels."""
    sigma = radius / np.sqrt(3.0)
    response: FloatArray = ndimage.gaussian_laplace(
        values, sigma, truncate=TRUNCATE, mode="constant")
    response *= -(sigma**2)
    return response


FILTERS: dict[str, Callable[[FloatArray, float, float], FloatArray]] = {
    "dog": difference_of_gaussians, "log": laplacian_of_gaussian,
}


def sigmas_of(radius: float, ratio: float) -> tuple[float, float]:
    """Return the widths of both Gaussians that answer most to balls of `radius`."""
    inner = radius * np.sqrt(2.0 / (3.0 * (1.0 + ratio**2)))
    return float(inner), float(inner * ratio)


# ----------------------------------------------------------------------------------------- scales
@dataclass(frozen=True, eq=False)
class _Scale:
    """What was found with the filter of one diameter."""

    diameter_angst: float
    binned: Binned
    level: float  # of the tomogram's voxels
    spread: float  # their s.d., negative for dark particles
    response: Response

    def core_density(self, position_zyx: FloatArray, half: int) -> FloatArray:
        """Mean density (P,), s.d. of voxels, in cubes of 2 half + 1 binned voxels at positions."""
        binning = self.binned.binning
        centre = np.rint((position_zyx - (binning - 1) / 2.0) / binning).astype(np.intp)
        low = np.maximum(centre - half, 0)
        high = np.minimum(centre + half + 1, self.binned.shape)
        means = [
            float(self.binned[tuple(map(slice, start, stop))].mean())
            for start, stop in zip(low.tolist(), high.tolist(), strict=True)
        ]
        return (np.array(means) - self.level) / self.spread


def _searched(
    tomogram: FloatArray, mask: FloatArray | None, voxel_size_angst: float, diameter_angst: float,
    config: DogConfig, tile_map: TileMap,
) -> _Scale:
    """Maxima of the response to one diameter in the whole tomogram, and its background."""
    diameter = diameter_angst / voxel_size_angst
    binning = max(1, int(sigmas_of(diameter / 2, config.ratio)[0] / MIN_SIGMA))
    binned = Binned(tomogram, binning)
    binned_mask = None if mask is None else Binned(mask, binning)
    level, spread = level_and_spread(binned, config.is_dark)
    radius = diameter / 2 / binning
    outer = sigmas_of(radius, config.ratio)[1]
    tiles = searched_tiles(
        binned.shape, config.tile, int(np.ceil(TRUNCATE * outer)) + 2, binned_mask)
    border = _border(config, diameter_angst) / voxel_size_angst / binning
    work = partial(
        _tile_maxima, binned=binned, mask=binned_mask, level=level, spread=spread, radius=radius,
        border=border, config=config)
    found = list(tile_map(work, tiles))
    return _Scale(diameter_angst, binned, level, spread, Response(
        Samples.concatenate([f.samples for f in found]),
        np.concatenate([f.position_zyx for f in found]),
        np.concatenate([f.height for f in found]),
        max(sum(f.n_searched for f in found), 1), diameter))


def _border(config: DogConfig, diameter_angst: float) -> float:
    """The distance from the faces that picks keep, angstrom."""
    return BORDER * diameter_angst if config.border_angst is None else config.border_angst


class _TileMaxima(NamedTuple):
    """What one tile gives."""

    position_zyx: FloatArray  # (M, 3) voxels of the tomogram, between voxels
    height: FloatArray  # (M,)
    samples: Samples
    n_searched: int  # voxels where picks may lie


def _tile_maxima(
    tile: Tile, binned: Binned, mask: Binned | None, level: float, spread: float, radius: float,
    border: float, config: DogConfig,
) -> _TileMaxima:
    """Local maxima of the response in the core of a tile, and samples of it."""
    padded, core = tile
    with np.errstate(over="ignore"):  # clipped
        values = np.clip((binned[padded] - level) / spread, -config.clip_sd, config.clip_sd)
    response = FILTERS[config.filter](values, radius, config.ratio)
    inner = core_in_tile(tile)
    peak = response[inner] == ndimage.maximum_filter(response, 3)[inner]
    peak &= response[inner] > 0
    start = np.array([s.start for s in inner])
    position, height = between_voxels(response, np.argwhere(peak) + start)
    position += np.array([p.start for p in padded])
    is_searched = np.ones(peak.shape, dtype=bool) if mask is None else mask[core] > 0.5
    outer = sigmas_of(radius, config.ratio)[1]
    return _TileMaxima(
        binned.full_voxels(position), height,
        _samples_of(
            response, _away_from_faces(tile, binned, 2.5 * outer), is_searched, tile, binned),
        _count_searched(is_searched, core, binned.shape, border),
    )


def _away_from_faces(tile: Tile, binned: Binned, distance: float) -> tuple[slice, ...]:
    """The part of a core, in its padded tile, that a face does not darken."""
    slices = []
    for p, c, size in zip(*tile, binned.shape, strict=True):
        margin = min(int(np.ceil(distance)), size // 4)
        low, high = max(c.start, margin), min(c.stop, size - margin)
        slices.append(slice(low - p.start, max(high, low) - p.start))
    return tuple(slices)


def _count_searched(
    is_searched: BoolArray, core: tuple[slice, ...], shape: tuple[int, ...], border: float
) -> int:
    """Voxels of a core where picks may lie: in the mask, and a border from the faces."""
    slices = []
    for c, size in zip(core, shape, strict=True):
        low, high = max(c.start, int(border)), min(c.stop, size - int(border))
        slices.append(slice(low - c.start, max(high, low) - c.start))
    return int(np.count_nonzero(is_searched[tuple(slices)]))


def _samples_of(
    response: FloatArray, region: tuple[slice, ...], is_searched: BoolArray, tile: Tile,
    binned: Binned,
) -> Samples:
    """The response and its slopes at some voxels of a region of a padded tile."""
    part = response[region]
    if min(part.shape) < 3:
        return Samples.none()
    padded, core = tile
    step = max(1, int(np.ceil((part.size / SAMPLES_OF_TILE) ** (1 / 3))))
    every = (slice(None, None, step),) * 3
    start = np.array([p.start + s.start for p, s in zip(padded, region, strict=True)])
    grid = np.indices(part.shape, dtype=np.int32)[(slice(None), *every)].reshape(3, -1).T + start
    in_core = grid - np.array([c.start for c in core])
    slopes = [np.gradient(part, axis=axis)[every].ravel() for axis in range(3)]
    place = binned.full_voxels(grid).astype(np.float32)
    return Samples(place, part[every].ravel(), np.stack(slopes, axis=-1),
                   is_searched[tuple(in_core.T)])


# -------------------------------------------------------------------------------------- selection
class _Candidates(NamedTuple):
    """Maxima above the threshold where picks may lie."""

    picks: Picks
    diameter_angst: FloatArray  # (P,)
    strength: FloatArray  # (P,) what is compared between sizes
    n_near_border: int  # those besides, too near a face

    def take(self, index: IntArray) -> _Candidates:
        """Those at `index`, in its order."""
        return _Candidates(self.picks.take(index), self.diameter_angst[index],
                           self.strength[index], self.n_near_border)


def _candidates(
    scale: _Scale, background: Background, threshold: float, mask: FloatArray | None,
    voxel_size_angst: float, config: DogConfig,
) -> _Candidates:
    """Maxima of one scale above the threshold, in the mask and away from the faces."""
    position, score = scale.response.position_zyx, background.score(scale.response.height)
    border = _border(config, scale.diameter_angst) / voxel_size_angst
    limits = np.array(scale.binned.tomogram.shape) - 1.0
    inside = ((position >= border) & (position <= limits - border)).all(axis=1)
    is_high = score >= threshold
    kept = np.flatnonzero(is_high & inside)
    kept = kept[in_mask(position[kept][:, ::-1], mask)]
    picks = Picks(position[kept][:, ::-1].copy(), score[kept], np.zeros(len(kept), dtype=np.intp))
    return _Candidates(
        picks, np.full(len(picks), scale.diameter_angst),
        scale.response.height[kept] * abs(scale.spread) * scale.diameter_angst**1.5,
        int((is_high & ~inside).sum()))


def _joined(parts: list[_Candidates]) -> _Candidates:
    """Candidates of all scales, the strongest response first."""
    names = ("position_xyz", "score", "label")
    picks = Picks(*(np.concatenate([getattr(p.picks, name) for p in parts]) for name in names))
    strength = np.concatenate([p.strength for p in parts])
    together = _Candidates(
        picks, np.concatenate([p.diameter_angst for p in parts]), strength,
        sum(p.n_near_border for p in parts))
    return together.take(np.argsort(-strength, kind="stable"))


def _selected(
    found: _Candidates, scales: list[_Scale], sure: float, voxel_size_angst: float,
    config: DogConfig,
) -> tuple[_Candidates, int]:
    """The best of neighbours at any scale without gold, and how many were gold.

    What scores above `sure` is no noise: it tells how dense particles are.
    """
    distance = (
        MIN_DISTANCE * found.diameter_angst if config.min_distance_angst is None
        else np.full(len(found.picks), config.min_distance_angst)
    )
    found = found.take(
        suppress_neighbours(found.picks.position_xyz, distance / voxel_size_angst))
    # Only now: a bead also takes the place of the maxima in its halo.
    density = _core_density(found, scales, voxel_size_angst)
    is_gold = _is_gold(density, density[found.picks.score >= sure], config.clip_sd)
    kept = np.flatnonzero(~is_gold)
    kept = kept[np.argsort(-found.picks.score[kept], kind="stable")]
    return found.take(kept[: config.max_picks]), int(is_gold.sum())


def _core_density(found: _Candidates, scales: list[_Scale], voxel_size_angst: float) -> FloatArray:
    """Mean density (P,) in a small cube at each pick, s.d. of voxels; particles are positive."""
    density = np.zeros(len(found.picks))
    position_zyx = found.picks.position_xyz[:, ::-1]
    for scale in scales:
        here = np.flatnonzero(found.diameter_angst == scale.diameter_angst)
        half = max(1, round(CORE * scale.diameter_angst / voxel_size_angst / scale.binned.binning))
        density[here] = scale.core_density(position_zyx[here], half)
    return density


def _is_gold(density: FloatArray, of_sure: FloatArray, clip_sd: float) -> BoolArray:
    """Which picks (P,) are far denser than the fainter sure ones, and beyond what is clipped.

    In noise a particle's voxels hardly rise above the noise, a bead's all do. In a denoised
    tomogram particles do too; then a bead still outshines them.
    """
    of_particles = float(np.quantile(of_sure, 0.25)) if len(of_sure) else 0.0
    return density > max(clip_sd, GOLD_PER_PARTICLE * of_particles)
