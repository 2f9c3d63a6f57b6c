"""Pictures of volumes: slices, projections, surfaces.

Still pictures of surfaces are cast by rays (`shaded_surface`); `surface_mesh` gives triangles for
windows in which a surface is turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from scipion_faml.geometry import euler_to_matrix
from scipion_faml.plots.style import GREY, grid_of, new_figure, show_picture
from scipion_faml.types import FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXIS_NAMES = ("z", "y", "x")
VIEW_EULER_DEG = (0.0, 55.0, 30.0)  # oblique, so that no symmetry axis points at the reader
MAX_GALLERY_ROWS = 24
SMALL_SURFACE = 112  # pixels across
SURFACE_COLOURS = "bone"
SMALL_BOX, FINER = 48, 2  # voxels of a box that is sampled more finely, and how much
LARGE_BOX = 128  # voxels of a box from which on it is sampled more coarsely
MAX_FACES = 25_000  # more triangles turn too slowly in matplotlib


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
    smooth = _smoothed(volume)  # a smoothed density has a smooth slope
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
    level: float | None = None,
) -> Figure:
    """Return a row for each class: central slices and projections along z, y, x, and a surface.

    Parameters
    ----------
    averages : (K, n, n, n) or (n, n, n) float32
        Density positive (bright). Of more than 24 classes the first are drawn, as the title says.
    titles : K texts, for example "class 1: 40 particles".
    voxel_size_angst : float
        Draws a scale bar when given and positive.
    level : float
        Density of the surfaces; by default each class has the one `contour_level` says.
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
        _gallery_row(row, volume, with_surface, level)
        row[0].set_ylabel(name.replace(": ", "\n"), fontsize=9)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(column, fontsize=9, color=GREY)
    if voxel_size_angst:
        _scale_bar(grid[0][0], stack.shape[-1], voxel_size_angst)
    if shown < n_classes:
        figure.suptitle(f"the first {shown} of {n_classes} classes", fontsize=10)
    return figure


def _gallery_row(
    row: Sequence[Axes], volume: FloatArray, with_surface: bool, level: float | None
) -> None:
    """Draw one class: slices share their grey scale, so do projections."""
    for start, pictures in ((0, central_slices(volume)), (3, projections(volume))):
        values = np.concatenate([p.ravel() for p in pictures])
        low, high = np.quantile(values, [0.005, 0.998])
        for axes, picture in zip(row[start : start + 3], pictures, strict=True):
            show_picture(axes, picture, (float(low), float(high)))
    if with_surface:
        picture = shaded_surface(volume, level, size=SMALL_SURFACE)
        show_picture(row[6], picture, (0.0, 1.0), SURFACE_COLOURS)


def _scale_bar(axes: Axes, n: int, voxel_size_angst: float, fontsize: int = 6) -> None:
    """Draw a bar of a round length, about a quarter of the box."""
    target = 0.3 * n * voxel_size_angst
    power = 10.0 ** np.floor(np.log10(target))
    length = max(step * power for step in (1, 2, 5) if step * power <= target)
    right, height = 0.93 * n, 0.07 * n
    axes.plot([right - length / voxel_size_angst, right], [height] * 2, color="white", linewidth=2)
    axes.text(
        right, height + 0.03 * n, f"{length / 10:g} nm", color="white", fontsize=fontsize,
        ha="right",
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
        show_picture(axes, picture, (0.0, 1.0), SURFACE_COLOURS)
        axes.set_title(name, fontsize=9, color=GREY)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


# --------------------------------------------------------------------------- surfaces to be turned
@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles of a surface; positions are voxels from the box centre, x y z."""

    vertices: FloatArray  # (V, 3)
    faces: IntArray  # (F, 3) rows of `vertices`
    normals: FloatArray  # (F, 3) unit vectors out of the density


def surface_mesh(
    volume: FloatArray, level: float | None = None, max_faces: int = MAX_FACES
) -> Mesh:
    """Return the surface volume = level by marching cubes; no triangles where it is not reached.

    A small box is sampled twice as finely, a large one more coarsely: triangles are few enough to
    be turned by hand.
    """
    from skimage import measure

    marching_cubes: Any = measure.marching_cubes  # has no types

    fine = FINER if max(volume.shape) <= SMALL_BOX else 1
    smooth = _smoothed(volume)
    if fine > 1:
        smooth = ndimage.zoom(smooth, fine, order=3, grid_mode=True, mode="nearest")
    threshold = contour_level(volume) if level is None else level
    if not smooth.min() < threshold < smooth.max():
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int), np.zeros((0, 3)))
    for step in range(max(1, max(volume.shape) // LARGE_BOX), 17):
        corners, faces, *_ = marching_cubes(smooth, threshold, step_size=step)
        if len(faces) <= max_faces:
            break
    # Voxel i of a finer grid lies at (i + 1/2) / fine - 1/2 of the volume's.
    corners = (corners + 0.5) / fine - 0.5
    vertices = (corners - np.array(volume.shape) // 2)[:, ::-1]
    return Mesh(vertices, faces, -_slope_at(_smoothed(volume), corners[faces].mean(axis=1)))


def _slope_at(volume: FloatArray, position_zyx: FloatArray) -> FloatArray:
    """Unit vectors (P, 3), x y z, up the density; they turn more smoothly than triangles do."""
    slope = np.empty(position_zyx.shape)
    for axis in range(3):
        half = 0.5 * np.eye(3)[axis]
        ahead, behind = (
            ndimage.map_coordinates(volume, (position_zyx + step).T, order=1, mode="nearest")
            for step in (half, -half)
        )
        slope[:, 2 - axis] = ahead - behind
    return slope / (np.linalg.norm(slope, axis=1, keepdims=True) + 1e-12)


def _smoothed(volume: FloatArray) -> FloatArray:
    """Half a voxel hides the lattice, not the structure."""
    smooth: FloatArray = ndimage.gaussian_filter(np.asarray(volume, dtype=np.float32), 0.5)
    return smooth


def turnable_surface(mesh: Mesh, n: int) -> tuple[Figure, Any]:
    """Return a figure with a mesh in a box of n voxels, to be turned, and the drawn triangles.

    Call `light_surface` whenever it was turned.
    """
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    figure = new_figure(6.0, 6.0)
    axes: Any = figure.add_subplot(projection="3d")
    triangles = Poly3DCollection(mesh.vertices[mesh.faces] if len(mesh.faces) else [],
                                 linewidths=0.2)
    axes.add_collection3d(triangles)
    reach = 0.8 * n / 2
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
    axes.set_box_aspect((1, 1, 1), zoom=1.45)
    axes.set_proj_type("ortho")
    axes.set_axis_off()
    axes.view_init(elev=30.0, azim=-50.0)
    light_surface(axes, triangles, mesh)
    return figure, triangles


def light_surface(axes: Any, triangles: Any, mesh: Mesh) -> None:
    """Light a mesh from the reader's upper left, as the axes are turned now."""
    from matplotlib import colormaps

    if not len(mesh.faces):
        return
    azimuth, elevation = np.deg2rad([axes.azim, axes.elev])
    towards = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth),
                        np.sin(elevation)])
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    light = 0.75 * towards - 0.45 * right + 0.48 * np.cross(towards, right)
    diffuse = np.clip(mesh.normals @ light, 0.0, 1.0)
    nearness = mesh.vertices[mesh.faces].mean(axis=1) @ towards
    nearness = (nearness - nearness.min()) / max(np.ptp(nearness), 1e-6)
    colours = colormaps[SURFACE_COLOURS](0.18 + 0.60 * diffuse + 0.22 * nearness)
    triangles.set_facecolor(colours)
    triangles.set_edgecolor(colours)  # hides the seams between triangles


# ------------------------------------------------------------------------------------ one slice
def slice_of(volume: FloatArray, axis: int, index: int) -> FloatArray:
    """Return slice `index` across an axis (0: z, 1: y, 2: x)."""
    picture: FloatArray = np.take(volume, index, axis=axis)
    return picture


def volume_slice(
    volume: FloatArray, axis: int, index: int, contrast: float = 4.0, title: str = "",
    voxel_size_angst: float | None = None,
) -> Figure:
    """Return one slice across an axis; black and white lie `contrast` s.d. from the mean.

    Mean and s.d. are the whole volume's, so that slices can be compared.
    """
    rows, columns = [n for k, n in enumerate(volume.shape) if k != axis]
    figure = new_figure(6.0, min(6.0 * rows / columns, 8.0) + 0.3)
    axes = figure.add_subplot()
    show_picture(axes, slice_of(volume, axis, index), grey_limits(volume, contrast))
    across, up = [name for k, name in enumerate(AXIS_NAMES) if k != axis][::-1]
    axes.set_xlabel(f"{across} (voxels)", fontsize=8, color=GREY)
    axes.set_ylabel(f"{up} (voxels)", fontsize=8, color=GREY)
    axes.set_title(title, fontsize=10)
    if voxel_size_angst:
        _scale_bar(axes, columns, voxel_size_angst, 9)
    return figure


def grey_limits(volume: FloatArray, contrast: float) -> tuple[float, float]:
    """Return the densities that are drawn black and white: `contrast` s.d. about the mean."""
    mean, spread = float(volume.mean()), float(volume.std())
    return mean - contrast * spread, mean + contrast * spread
