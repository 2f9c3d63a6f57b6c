"""A tomogram as the network sees it: in its voxels, with the noise's s.d. as unit, piece by piece.

Voxel j of a tomogram in other voxels, `ratio` of the own ones wide, covers the own voxels from
j ratio to (j + 1) ratio, so its centre lies at (j + 1/2) ratio - 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipion_faml.picking.peaks import robust_spread
from scipion_faml.picking.tiles import Binned
from scipion_faml.types import FloatArray
from scipion_faml.volume import overlap

CLIP = 6.0  # s.d.: gold beads and dust must not outshine the particles
SAME_SIZE = 0.03  # voxel sizes that differ by less are taken as they are
LOBES = 3  # of Lanczos's kernel
SAMPLE_EDGE, SAMPLES_PER_AXIS = 32, 4


@dataclass(frozen=True, eq=False)
class Resampled:
    """A tomogram in voxels of `ratio` own ones; read when sliced."""

    binned: Binned
    ratio: float  # of the binned voxels

    @property
    def shape(self) -> tuple[int, int, int]:
        """Whole new voxels (z, y, x)."""
        z, y, x = (max(1, int(np.floor(n / self.ratio + 1e-6))) for n in self.binned.shape)
        return z, y, x

    def __getitem__(self, region: tuple[slice, ...]) -> FloatArray:
        """Return a region as float32."""
        if self.ratio == 1.0:
            return self.binned[region]
        source, weights = [], []
        for wanted, n in zip(region, self.binned.shape, strict=True):
            part, weight = _axis_weights(wanted, n, self.ratio)
            source.append(part)
            weights.append(weight)
        values = self.binned[tuple(source)]
        for axis, weight in enumerate(weights):
            values = np.moveaxis(np.tensordot(weight, values, (1, axis)), 0, axis)
        return np.ascontiguousarray(values, dtype=np.float32)


def _axis_weights(wanted: slice, n: int, ratio: float) -> tuple[slice, FloatArray]:
    """The own voxels that the wanted ones need, and their shares (wanted, own).

    Lanczos's windowed sinc: it cuts what the larger of both voxels cannot carry, and leaves noise
    of the same variance everywhere, which linear interpolation does not.
    """
    centre = np.clip((np.arange(wanted.start, wanted.stop) + 0.5) * ratio - 0.5, 0, n - 1)
    width = max(1.0, ratio)
    reach = LOBES * width
    first = max(0, int(np.floor(centre[0] - reach)))
    last = min(n, int(np.ceil(centre[-1] + reach)) + 1)
    away = (np.arange(first, last)[None] - centre[:, None]) / width
    share = np.where(np.abs(away) < LOBES, np.sinc(away) * np.sinc(away / LOBES), 0.0)
    share /= share.sum(axis=1, keepdims=True)
    return slice(first, last), share.astype(np.float32)


@dataclass(frozen=True, eq=False)
class TomogramView:
    """A tomogram normalised for a detector."""

    source: Resampled
    level: float
    spread: float
    scale: float  # own voxels per voxel of the view
    sign: float = 1.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x)."""
        return self.source.shape

    def read(self, start: tuple[int, ...], size: tuple[int, ...]) -> FloatArray:
        """Return a block (z, y, x) of `size` from `start`; outside the tomogram it is 0."""
        block = np.zeros(size, dtype=np.float32)
        inside, part = overlap(start, size, self.shape)
        if block[part].size:
            values = (self.source[inside] - np.float32(self.level)) * np.float32(
                self.sign / self.spread)
            block[part] = np.clip(values, -CLIP, CLIP)
        return block

    def to_own(self, position_xyz: FloatArray) -> FloatArray:
        """Return positions (P, 3) of the view in the tomogram's own voxels."""
        return (position_xyz + 0.5) * self.scale - 0.5

    def from_own(self, position_xyz: FloatArray) -> FloatArray:
        """Return positions (P, 3) of the tomogram in the view's voxels."""
        return (position_xyz + 0.5) / self.scale - 0.5


def is_same_size(first_angst: float, second_angst: float) -> bool:
    """Whether voxel sizes are alike enough not to be brought to one another."""
    return abs(first_angst / second_angst - 1.0) <= SAME_SIZE


def view_of(
    tomogram: FloatArray, voxel_size_angst: float, wanted_angst: float, is_dark: bool = False
) -> TomogramView:
    """Return the tomogram [z, y, x] in voxels of `wanted_angst`, particles bright.

    Level and unit are median and scaled median absolute deviation of blocks from all over it.

    Raises
    ------
    ValueError
        If a voxel size is not positive, or the tomogram is constant or not finite.
    """
    if not voxel_size_angst > 0 or not wanted_angst > 0:
        raise ValueError(
            f"a voxel size of {min(voxel_size_angst, wanted_angst):g} A is not possible: give it "
            "in angstrom with --voxel-size")
    scale = 1.0 if is_same_size(voxel_size_angst, wanted_angst) else wanted_angst / voxel_size_angst
    binning = max(1, int(scale + 1e-6))
    if min(tomogram.shape) < binning:
        raise ValueError(
            f"it is {min(tomogram.shape) * voxel_size_angst:.0f} A thin, one voxel of the detector "
            f"{wanted_angst:g} A: use other weights, or check the voxel size")
    source = Resampled(Binned(tomogram, binning), scale / binning)
    samples = _samples(source)
    level, spread = robust_spread(samples)
    if not spread > 0:  # most of it is filled with one value: what is not counts
        rest = samples[samples != level]
        if len(rest) < 2 or not (spread := robust_spread(rest)[1]) > 0:
            raise ValueError("all of its voxels hold the same value: there is nothing to pick")
        level = robust_spread(rest)[0]
    return TomogramView(source, level, spread, scale, -1.0 if is_dark else 1.0)


def _samples(source: Resampled) -> FloatArray:
    """Voxels of blocks spread over the tomogram."""
    starts = [
        np.unique(np.linspace(0, max(n - SAMPLE_EDGE, 0), SAMPLES_PER_AXIS).astype(int))
        for n in source.shape
    ]
    blocks = []
    for z in starts[0]:
        for y in starts[1]:
            for x in starts[2]:
                region = tuple(slice(int(s), min(int(s) + SAMPLE_EDGE, n)) for s, n in
                               zip((z, y, x), source.shape, strict=True))
                blocks.append(source[region].ravel())
    return np.concatenate(blocks)
