"""Pictures of volumes: slices, projections, surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from scipion_faml.geometry import euler_to_matrix
from scipion_faml.plots.style import GREY, grid_of, new_figure, show_picture
from scipion_faml.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXIS_NAMES = ("z", "y", "x")
VIEW_EULER_DEG = (0.0, 55.0, 30.0)  # oblique, so that no symmetry axis points at the reader
MAX_GALLERY_ROWS = 24


def central_slices(volume: FloatArray) -> list[FloatArray]:
    """Return the slices through the centre across z, y and x."""
    centre = [n // 2 for n in volume.shape]
    return [volume[centre[0]], volume[:, centre[1]], volume[:, :, centre[2]]]


def projections(volume: FloatArray) -> list[FloatArray]:
    """Return the sums along z, y and x."""
    return [volume.sum(axis=axis, dtype=np.float64) for axis in range(3)]


def contour_level(volume: FloatArray) -> float:
    """Return a density to draw a surface at: between the background and the strongest 0.5 %."""
    background = float(np.median(volume))
    return background + 0.4 * (float(np.quantile(volume, 0.995)) - background)


def shaded_surface(
    volume: FloatArray,
    level: float | None = None,
    euler_zyz_deg: tuple[float, float, float] = VIEW_EULER_DEG,
    size: int = 160,
) -> FloatArray:
    """Return a picture (size, size) of the surface volume = level, lit from the upper left.

    Parallel rays run down z through the turned volume; where one first meets the level the slope of
    the density gives the normal. Values lie in [0, 1]; the background is NaN.
    """
    scale = size / max(volume.shape)
    inverse = euler_to_matrix(np.deg2rad(np.array(euler_zyz_deg))).T[::-1, ::-1] / scale
    centre_in = np.array([n // 2 for n in volume.shape], dtype=float)
    offset = centre_in - inverse @ np.full(3, size // 2, dtype=float)
    # A smoothed density has a smooth slope; half a voxel hides the lattice, not the structure.
    smooth = ndimage.gaussian_filter(np.asarray(volume, dtype=np.float32), 0.5)
    low = float(np.median(smooth))
    turned = ndimage.affine_transform(
        smooth, inverse, offset, output_shape=(size,) * 3, order=1, cval=low
    )
    turned = ndimage.gaussian_filter(turned, 0.5 * scale)
    inside = turned[::-1] > (contour_level(volume) if level is None else level)
    is_hit = inside.any(axis=0)
    depth = size - 1 - inside.argmax(axis=0)
    y, x = np.nonzero(is_hit)
    z = depth[y, x]
    normal = -np.stack(_slope(turned, z, y, x))
    normal /= np.linalg.norm(normal, axis=0) + 1e-12
    light = np.array([0.75, -0.45, -0.48])  # z, y, x
    diffuse = np.clip(light @ normal, 0.0, 1.0)
    nearness = (z - z.min()) / max(np.ptp(z), 1) if len(z) else z
    picture = np.full((size, size), np.nan)
    picture[y, x] = 0.18 + 0.60 * diffuse + 0.22 * nearness
    return picture


def _slope(volume: FloatArray, z: Any, y: Any, x: Any) -> list[FloatArray]:
    """Central differences of a volume at some voxels, along z, y, x."""
    slopes = []
    for axis, position in enumerate((z, y, x)):
        above, below = [z, y, x], [z, y, x]
        above[axis] = np.minimum(position + 1, volume.shape[axis] - 1)
        below[axis] = np.maximum(position - 1, 0)
        slopes.append(volume[tuple(above)] - volume[tuple(below)])
    return slopes


def class_gallery(
    averages: FloatArray,
    titles: Sequence[str] | None = None,
    voxel_size_angst: float | None = None,
    with_surface: bool = True,
) -> Figure:
    """Return a row for each class: central slices and projections along z, y, x, and a surface.

    Parameters
    ----------
    averages : (K, n, n, n) or (n, n, n) float32
        Density positive (bright). Of more than 24 classes the first are drawn, as the title says.
    titles : K texts, for example "class 1: 40 particles".
    voxel_size_angst : float
        Draws a scale bar when given and positive.
    """
    stack = np.asarray(averages, dtype=np.float32)
    stack = stack[None] if stack.ndim == 3 else stack
    n_classes = len(stack)
    names = list(titles) if titles is not None else [f"class {k + 1}" for k in range(n_classes)]
    shown = min(n_classes, MAX_GALLERY_ROWS)
    columns = [f"slice {a}" for a in AXIS_NAMES] + [f"projection {a}" for a in AXIS_NAMES]
    columns += ["surface"] if with_surface else []
    figure = new_figure(1.45 * len(columns) + 0.4, 1.45 * shown + 0.4)
    grid = grid_of(figure, shown, len(columns))
    for row, volume, name in zip(grid, stack, names, strict=False):
        _gallery_row(row, volume, with_surface)
        row[0].set_ylabel(name.replace(": ", "\n"), fontsize=9)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(column, fontsize=9, color=GREY)
    if voxel_size_angst:
        _scale_bar(grid[0][0], stack.shape[-1], voxel_size_angst)
    if shown < n_classes:
        figure.suptitle(f"the first {shown} of {n_classes} classes", fontsize=10)
    return figure


def _gallery_row(row: Sequence[Axes], volume: FloatArray, with_surface: bool) -> None:
    """Draw one class: slices share their grey scale, so do projections."""
    for start, pictures in ((0, central_slices(volume)), (3, projections(volume))):
        values = np.concatenate([p.ravel() for p in pictures])
        low, high = np.quantile(values, [0.005, 0.998])
        for axes, picture in zip(row[start : start + 3], pictures, strict=True):
            show_picture(axes, picture, (float(low), float(high)))
    if with_surface:
        show_picture(row[6], shaded_surface(volume, size=112), (0.0, 1.0), "bone")


def _scale_bar(axes: Axes, n: int, voxel_size_angst: float) -> None:
    """Draw a bar of a round length, about a quarter of the box."""
    target = 0.3 * n * voxel_size_angst
    power = 10.0 ** np.floor(np.log10(target))
    length = max(step * power for step in (1, 2, 5) if step * power <= target)
    right, height = 0.93 * n, 0.07 * n
    axes.plot([right - length / voxel_size_angst, right], [height] * 2, color="white", linewidth=2)
    axes.text(
        right, height + 0.03 * n, f"{length / 10:g} nm", color="white", fontsize=6, ha="right"
    )


def surface_view(volume: FloatArray, level: float | None = None, title: str = "") -> Figure:
    """Return the surface of a volume from four sides."""
    views = {
        "along z": (0.0, 0.0, 0.0),
        "along y": (0.0, 90.0, 90.0),
        "along x": (90.0, 90.0, 0.0),
        "oblique": VIEW_EULER_DEG,
    }
    figure = new_figure(8.4, 2.5 if title else 2.3)
    grid = grid_of(figure, 1, len(views))[0]
    for axes, (name, angles) in zip(grid, views.items(), strict=True):
        picture = shaded_surface(volume, level, angles)
        show_picture(axes, picture, (0.0, 1.0), "bone")
        axes.set_title(name, fontsize=9, color=GREY)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
