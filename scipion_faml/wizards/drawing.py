"""What the wizards' windows draw, without a window: each draws on a figure it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from scipion_faml.plots.style import CLASS_COLOURS, COLOURS, show_picture
from scipion_faml.previews import (
    Region,
    cut_by_slice,
    diameter_range,
    filtered,
    frequencies_of,
    measured_diameter,
    region_about,
    resolution_range,
)

from .sources import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Gain = Callable[[np.ndarray, float, float | None, float | None], np.ndarray]
MASK_COLOUR, OTHER_COLOUR = COLOURS[4], COLOURS[5]
REGION_VOXELS = 192  # of a tomogram that is filtered: enough to see, quick enough to slide
REGION_SLICES = 33
SLAB = 3  # slices of a tomogram that are averaged for the eye


def grey(axes: Any, picture: np.ndarray, title: str = "", limits: tuple | None = None) -> None:
    """Draw a slice [y, x] in grey, its lowest and highest values cut."""
    show_picture(axes, picture, limits or tuple(np.quantile(picture, [0.005, 0.995])))
    if title:
        axes.set_title(title, fontsize=9)


def circle(axes: Any, x: float, y: float, radius: float, colour: str, style: str = "-") -> None:
    """Draw a circle."""
    from matplotlib.patches import Circle

    axes.add_patch(Circle((x, y), radius, fill=False, edgecolor=colour, linewidth=1.8,
                          linestyle=style))


# ------------------------------------------------------------------------------------- balls
@dataclass(frozen=True, eq=False)
class BallPicture:
    """Slices through a map with the ball of a diameter drawn on them."""

    shown: Shown

    @property
    def n(self) -> int:
        """Voxels of the box."""
        return int(self.shown.volume.shape[0])

    @property
    def limits(self) -> tuple[float, float]:
        """Diameters (angstrom) that fit."""
        return diameter_range(self.n, self.shown.voxel_size_angst)

    def suggested(self) -> float:
        """The diameter (angstrom) of what stands out."""
        low, high = self.limits
        found = measured_diameter(self.shown.volume) * self.shown.voxel_size_angst
        return float(np.clip(found, low, high))

    def draw(self, figure: Figure, z: int, diameter_angst: float, words: str = "") -> None:
        """Slice z, and the central slices across y and x, with the ball's edge."""
        volume, n = self.shown.volume, self.n
        radius, centre = 0.5 * diameter_angst / self.shown.voxel_size_angst, n // 2
        limits = tuple(np.quantile(volume, [0.005, 0.998]))
        depths = (z - centre, 0, 0)
        slices = (volume[z], volume[:, centre], volume[:, :, centre])
        names = (f"x y, slice {z}", f"x z, slice {centre}", f"y z, slice {centre}")
        figure.clear()
        panels = figure.subplots(1, 3)
        for axes, picture, name, depth in zip(panels, slices, names, depths, strict=True):
            grey(axes, picture, name, limits)
            if abs(depth) < radius:
                cut = float(np.sqrt(radius**2 - depth**2))
                circle(axes, centre, centre, cut, MASK_COLOUR)
        words = words or (f"{diameter_angst:.0f} Å = {2 * radius:.1f} voxels, "
                          f"{200.0 * radius / n:.0f} % of the box")
        figure.suptitle(f"{self.shown.name}: {words}", fontsize=9)


# ------------------------------------------------------------------------------------- bands
@dataclass(frozen=True, eq=False)
class BandPicture:
    """A slice before and after a filter that keeps a band of resolutions."""

    shown: Shown
    gain: Gain

    def __post_init__(self) -> None:
        object.__setattr__(self, "_block", lru_cache(maxsize=2)(self._block_about))

    @property
    def n_slices(self) -> int:
        """Slices of the volume."""
        return int(self.shown.volume.shape[0])

    @property
    def limits(self) -> tuple[float, float]:
        """Resolutions (angstrom) that may be chosen."""
        shortest = min(min(self.shown.volume.shape), REGION_VOXELS)
        return resolution_range(shortest, self.shown.voxel_size_angst)

    def _block_about(self, z: int) -> tuple[np.ndarray, np.ndarray, int]:
        """The part that is filtered, its frequencies, and where slice z is in it."""
        shape = self.shown.volume.shape
        # A map is filtered whole, once for all slices.
        is_map = max(shape) <= REGION_VOXELS and len(set(shape)) == 1
        size = shape if is_map else (REGION_SLICES, REGION_VOXELS, REGION_VOXELS)
        centre = (z, shape[1] / 2, shape[2] / 2)
        region = region_about(shape, centre, size)
        block = np.asarray(self.shown.volume[region], dtype=np.float32)
        block = block - block.mean(dtype=np.float64)
        return block.astype(np.float32), frequencies_of(block.shape), z - region[0].start

    def slices(
        self, z: int, low_pass: float | None, high_pass: float | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return slice z before and after the filter, [y, x] each."""
        if low_pass is not None and high_pass is not None and low_pass >= high_pass:
            raise ValueError(f"from {high_pass:g} to {low_pass:g} A nothing is left: the first "
                             "must be the larger")
        block, frequency, inside = self._block(z)
        gain = self.gain(frequency, self.shown.voxel_size_angst, low_pass, high_pass)
        return block[inside], filtered(block, gain)[inside]

    def draw(
        self, figure: Figure, z: int, low_pass: float | None, high_pass: float | None
    ) -> None:
        """The slice before and after."""
        before, after = self.slices(z, low_pass, high_pass)
        figure.clear()
        left, right = figure.subplots(1, 2)
        grey(left, before, f"{self.shown.name}, slice {z}")
        grey(right, after, self._kept(low_pass, high_pass))

    @staticmethod
    def _kept(low_pass: float | None, high_pass: float | None) -> str:
        """The band in words."""
        if low_pass is None and high_pass is None:
            return "everything is kept"
        if high_pass is None:
            return f"up to {low_pass:g} Å"
        if low_pass is None:
            return f"finer than {high_pass:g} Å"
        return f"from {high_pass:g} to {low_pass:g} Å"


# ------------------------------------------------------------------------------------- picks
@dataclass(frozen=True, eq=False)
class Found:
    """What a picker finds in a region, down to a low score, the surest first."""

    position_xyz: np.ndarray  # (P, 3) voxels of the tomogram
    score: np.ndarray  # (P,)
    radius: np.ndarray  # (P,) voxels
    names: tuple[str, ...] = ()  # (P,) classes, or none
    suggested: float | None = None  # threshold that the run would take
    note: str = ""
    seconds: float = field(default=0.0)

    def above(self, threshold: float) -> np.ndarray:
        """Return the numbers of what scores enough."""
        return np.flatnonzero(self.score >= threshold)


@dataclass(frozen=True, eq=False)
class FoundPicture:
    """A region of a tomogram with what a picker finds in it, beside the whole slice."""

    shown: Shown

    def region(self, centre_zyx: tuple[float, float, float], size: tuple[int, ...]) -> Region:
        """Return the region of a size about a place, moved into the tomogram."""
        return region_about(self.shown.volume.shape, centre_zyx, size)

    def _slab(self, z: int, y: slice, x: slice) -> np.ndarray:
        low = max(z - SLAB // 2, 0)
        values = self.shown.volume[low : low + SLAB, y, x]
        return np.asarray(values, dtype=np.float32).mean(axis=0)

    def draw(
        self, figure: Figure, region: Region, z: int, found: Found | None, threshold: float
    ) -> None:
        """Left the tomogram's slice z with the region, right the region with its picks."""
        from matplotlib.patches import Rectangle

        figure.clear()
        left, right = figure.subplots(1, 2)
        whole = slice(None)
        grey(left, self._slab(z, whole, whole), f"{self.shown.name}, slice {z}")
        _, y, x = region
        left.add_patch(Rectangle((x.start - 0.5, y.start - 0.5), x.stop - x.start,
                                 y.stop - y.start, fill=False, edgecolor=MASK_COLOUR))
        title = "not searched yet"
        picture = self._slab(z, y, x)
        if found is not None:
            kept = found.above(threshold)
            cut, radius = cut_by_slice(found.position_xyz[kept], found.radius[kept], z)
            title = f"{len(kept)} picks above {threshold:.3g}, {len(cut)} in this slice"
        grey(right, picture, title)
        if found is None:
            return
        colours = dict(zip(sorted(set(found.names)), cycle(CLASS_COLOURS), strict=False))
        for number, r in zip(kept[cut], radius, strict=True):
            px, py, _ = found.position_xyz[number]
            colour = colours.get(found.names[number]) if found.names else MASK_COLOUR
            circle(right, px - x.start, py - y.start, float(r), colour or MASK_COLOUR)
        for name, colour in colours.items():
            right.plot([], [], color=colour, label=name)
        if len(colours) > 1:
            figure.legend(fontsize=8, frameon=False, ncols=4, loc="outside lower center")
        right.set_xlim(-0.5, picture.shape[1] - 0.5)
        right.set_ylim(-0.5, picture.shape[0] - 0.5)
