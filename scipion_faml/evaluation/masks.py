"""A soft mask around what stands out of a map."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from scipion_faml.fourier import low_pass
from scipion_faml.types import BoolArray, FloatArray
from scipion_faml.volume import inscribed_sphere

N_BINS = 256
ABOVE_BACKGROUND = 0.5  # of the way from the background to Otsu's threshold: masks are generous
SMALLEST_PART = 0.1  # of the largest connected part; smaller ones are noise
LEAST_VOXELS = 8


def otsu_threshold(values: FloatArray) -> float:
    """Return the threshold that splits values into the two most compact groups (Otsu 1979)."""
    count, edges = np.histogram(values, bins=N_BINS)
    middle = 0.5 * (edges[1:] + edges[:-1])
    below = np.cumsum(count)[:-1].astype(np.float64)
    above = count.sum() - below
    total = np.cumsum(count * middle)
    mean_below = total[:-1] / np.maximum(below, 1)
    mean_above = (total[-1] - total[:-1]) / np.maximum(above, 1)
    between = below * above * (mean_below - mean_above) ** 2
    return float(edges[1:-1][int(between.argmax())])


def automatic_mask(
    volume: FloatArray, voxel_size_angst: float, low_pass_angst: float, extend: float = 2.0,
    edge: float = 4.0,
) -> FloatArray:
    """Return a soft mask (n, n, n) from 0 to 1 around the density of an average.

    The map is filtered; what lies above half of Otsu's threshold in the inscribed ball, in parts
    of at least a tenth of the largest, is extended and given a cosine edge.

    Parameters
    ----------
    volume : (n, n, n)
        Density positive.
    low_pass_angst : float
        Where a Gaussian filter falls to one half: noise must not stand out.
    extend, edge : float
        Voxels.

    Raises
    ------
    ValueError
        If nothing stands out.
    """
    n = volume.shape[0]
    ball = inscribed_sphere(n)
    smooth = low_pass(volume, voxel_size_angst, low_pass_angst)
    inside = smooth[ball > 0.5]
    background = float(np.median(inside))
    level = background + ABOVE_BACKGROUND * (otsu_threshold(inside) - background)
    dense = _large_parts((smooth > level) & (ball > 0.5))
    if dense.sum() < LEAST_VOXELS:
        raise ValueError(
            "no density stands out of the map: give a mask in a file, or a coarser low-pass filter")
    distance = ndimage.distance_transform_edt(~dense)
    phase = np.clip((distance - extend) / max(edge, 1e-6), 0.0, 1.0)
    mask: FloatArray = ((0.5 + 0.5 * np.cos(np.pi * phase)) * ball).astype(np.float32)
    return mask


def _large_parts(dense: BoolArray) -> BoolArray:
    """The connected parts that are no specks, without holes."""
    label, n_parts = ndimage.label(dense)
    if n_parts == 0:
        return dense
    size = np.bincount(label.ravel())[1:]
    kept = np.flatnonzero(size >= SMALLEST_PART * size.max()) + 1
    filled: BoolArray = ndimage.binary_fill_holes(np.isin(label, kept))
    return filled
