"""Boxes at positions: crop, bin, invert contrast, normalise.

A box is cut around the voxel nearest to a position, so no value is interpolated; what is left of
the position, at most half a voxel along each axis, becomes the particle's shift in its box. A
particle's centre therefore lies at box centre + shift, before as after.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipion_faml.fourier import resample
from scipion_faml.types import BoolArray, FloatArray, IntArray
from scipion_faml.volume import overlap, squared_radius

NORMALISATIONS = ("box", "shell", "none")


@dataclass(frozen=True)
class ExtractionConfig:
    """Settings of extraction."""

    box: int  # voxels of the output
    binning: int = 1
    is_inverted: bool = False  # multiply by -1: particles are dark in the tomogram
    normalise: str = "box"  # mean 0, s.d. 1 of the whole box, of a shell around the particle; none
    radius_angst: float | None = None  # of the particle, for the shell; None: 0.4 boxes
    is_padded: bool = False  # fill what lies outside the tomogram with the mean of what lies inside

    def __post_init__(self) -> None:
        if self.box < 8:
            raise ValueError(f"a box of {self.box} voxels is too small: 8 at least")
        if self.binning < 1:
            raise ValueError(f"binning {self.binning}: it must be at least 1")
        if self.normalise not in NORMALISATIONS:
            raise ValueError(
                f"normalise is {self.normalise!r}: choose from {', '.join(NORMALISATIONS)}"
            )
        if self.radius_angst is not None and not self.radius_angst > 0:
            raise ValueError(f"radius {self.radius_angst:g}: give it in angstrom, above 0")

    @property
    def box_in_tomogram(self) -> int:
        """Voxels of the tomogram along a box."""
        return self.box * self.binning


def box_centres(position_xyz: FloatArray) -> tuple[IntArray, FloatArray]:
    """Return the voxels (P, 3) nearest to positions, and the shifts (P, 3) that are left over."""
    centre = np.floor(np.asarray(position_xyz, dtype=np.float64) + 0.5).astype(np.intp)
    return centre, position_xyz - centre


def overhang(centre_xyz: IntArray, shape: tuple[int, ...], box: int) -> IntArray:
    """Return by how many voxels boxes reach out of a tomogram (z, y, x), (P, 3) along x, y, z."""
    start = centre_xyz - box // 2
    stop = start + box
    size = np.array(shape)[::-1]
    out: IntArray = np.maximum(np.maximum(-start, stop - size), 0)
    return out


def reason_to_drop(
    centre_xyz: IntArray, shape: tuple[int, ...], config: ExtractionConfig
) -> str | None:
    """Return why a box cannot be cut where it should be, or None."""
    if ((centre_xyz < 0) | (centre_xyz >= np.array(shape)[::-1])).any():
        return "the position lies outside the tomogram"
    out = overhang(centre_xyz, shape, config.box_in_tomogram)
    if config.is_padded or not out.any():
        return None
    axis = int(out.argmax())
    return f"the box reaches {out[axis]} voxels out of the tomogram along {'xyz'[axis]}"


def cut_box(tomogram: FloatArray, centre_xyz: IntArray, box: int) -> FloatArray:
    """Return a box (box, box, box) float32 with voxel box // 2 at `centre_xyz`.

    Only the region is read from a memory map. What lies outside the tomogram is filled with the
    mean of what lies inside.
    """
    shape = (box,) * 3
    inside, part = overlap(centre_xyz[::-1] - box // 2, shape, tomogram.shape)
    found = np.asarray(tomogram[inside], dtype=np.float32)
    if found.size == 0:
        raise ValueError("the box lies outside the tomogram")
    if found.shape == shape:
        return found
    values = np.full(shape, found.mean(dtype=np.float64), dtype=np.float32)
    values[part] = found
    return values


def subtomogram(
    tomogram: FloatArray, centre_xyz: IntArray, voxel_size_angst: float, config: ExtractionConfig
) -> FloatArray:
    """Return one subtomogram (box, box, box) float32.

    Parameters
    ----------
    tomogram : (z, y, x)
    centre_xyz : (3,) int
        Voxel of the tomogram that becomes voxel box // 2.
    voxel_size_angst : float
        Of the tomogram.
    config : ExtractionConfig
        Binning crops the box's spectrum, so nothing above the new Nyquist folds back.

    Raises
    ------
    ValueError
        If the box holds NaN or is constant.
    """
    values = cut_box(tomogram, centre_xyz, config.box_in_tomogram)
    if not np.isfinite(values).all():
        raise ValueError("the box holds voxels that are NaN or infinite")
    if values.min() == values.max():
        raise ValueError("the box is constant")
    if config.binning > 1:
        values = resample(values, config.box)
    values = -values if config.is_inverted else values
    return normalised(values, voxel_size_angst * config.binning, config)


def normalised(
    volume: FloatArray, voxel_size_angst: float, config: ExtractionConfig
) -> FloatArray:
    """Return the box with mean 0 and s.d. 1, measured as the settings say."""
    if config.normalise == "none":
        return np.asarray(volume, dtype=np.float32)
    values = volume.ravel()
    if config.normalise == "shell":
        values = volume[background_shell(volume.shape[0], voxel_size_angst, config.radius_angst)]
    mean, sd = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    if not sd > 0:
        raise ValueError("the background of the box is constant")
    return np.asarray((volume - mean) / sd, dtype=np.float32)


def background_shell(n: int, voxel_size_angst: float, radius_angst: float | None) -> BoolArray:
    """Return the voxels (n, n, n) between the particle's radius and the box's inscribed ball.

    Raises
    ------
    ValueError
        If the particle leaves no shell of at least a voxel.
    """
    inner = 0.4 * n if radius_angst is None else radius_angst / voxel_size_angst
    outer = n / 2.0
    if inner > outer - 1.0:
        raise ValueError(
            f"a particle radius of {inner:.3g} voxels leaves no background in a box of {n}: choose "
            "a larger box or normalise over the whole box"
        )
    radius_sq = squared_radius(n)
    shell: BoolArray = (radius_sq > inner**2) & (radius_sq <= outer**2)
    return shell
