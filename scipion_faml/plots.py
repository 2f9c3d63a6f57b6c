"""Figures of volumes, runs and evaluations, shared by the report and the Scipion viewers.

Every function returns a `matplotlib.figure.Figure` made without pyplot, so it needs no screen and
may be called from any thread; `png_bytes` renders one. Matplotlib is imported on use.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from scipion_faml.geometry import euler_to_matrix
from scipion_faml.types import FloatArray
from scipion_faml.volume import standardise

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
GREY = "#5f6b7a"
# On grey slices: without black and with a lighter blue.
CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#4477FF")
LEGEND_COLUMNS = 4
UNCORRECTED = "_uncorrected"  # curves of halves whose aligned noise is not taken out
SCALE_WIDTH = 0.9  # inches of a colour bar
AXIS_NAMES = ("z", "y", "x")
VIEW_EULER_DEG = (0.0, 55.0, 30.0)  # oblique, so that no symmetry axis points at the reader
MAX_GALLERY_ROWS = 24


def png_bytes(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    """An empty figure (inches) that lays itself out."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _grid(figure: Figure, n_rows: int, n_columns: int) -> list[list[Axes]]:
    """Axes in rows and columns."""
    return [list(row) for row in np.atleast_2d(figure.subplots(n_rows, n_columns, squeeze=False))]


def _tidy(axes: Axes, x_label: str, y_label: str, title: str = "") -> None:
    """Label axes and take away what carries no information."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if title:
        axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


# --------------------------------------------------------------------------------------- volumes
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


def _show_picture(
    axes: Axes, picture: FloatArray, limits: tuple[float, float], cmap: str = "gray"
) -> None:
    """Draw one grey picture without ticks; y grows upwards, as in a microscopist's slice viewer."""
    low, high = limits
    axes.imshow(
        picture, cmap=cmap, origin="lower", interpolation="bilinear",
        vmin=low, vmax=max(high, low + 1e-12),
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


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
    figure = _figure(1.45 * len(columns) + 0.4, 1.45 * shown + 0.4)
    grid = _grid(figure, shown, len(columns))
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
            _show_picture(axes, picture, (float(low), float(high)))
    if with_surface:
        _show_picture(row[6], shaded_surface(volume, size=112), (0.0, 1.0), "bone")


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
    figure = _figure(8.4, 2.5 if title else 2.3)
    grid = _grid(figure, 1, len(views))[0]
    for axes, (name, angles) in zip(grid, views.items(), strict=True):
        picture = shaded_surface(volume, level, angles)
        _show_picture(axes, picture, (0.0, 1.0), "bone")
        axes.set_title(name, fontsize=9, color=GREY)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


# ------------------------------------------------------------------------------------------ runs
def convergence(history: pd.DataFrame) -> Figure:
    """Return how a run went: log-likelihood, sigma, zeta, class shares, pose change, resolution.

    `history` is the table of history.csv (a row an iteration); panels whose columns are missing or
    empty are left out.
    """
    panels: list[tuple[str, list[str], str]] = [
        ("log-likelihood", ["log_likelihood"], ""),
        ("noise s.d. (sigma)", ["sigma"], "per Fourier sample"),
        ("shift s.d. (zeta)", ["zeta"], "voxels"),
        ("class shares (alpha)", [c for c in history if str(c).startswith("alpha_")], "share"),
        ("pose change", ["pose_change_deg"], "median, deg"),
        ("resolution", ["resolution_angst"], "A"),
        ("shells compared", ["shells"], ""),
        ("poses that share a posterior", ["n_effective"], "median"),
    ]
    usable = [
        (title, [c for c in columns if c in history and history[c].notna().any()], unit)
        for title, columns, unit in panels
    ]
    usable = [panel for panel in usable if panel[1]]
    n_columns = min(3, max(len(usable), 1))
    n_rows = max(-(-len(usable) // n_columns), 1)
    figure = _figure(3.2 * n_columns, 2.3 * n_rows)
    grid = [axes for row in _grid(figure, n_rows, n_columns) for axes in row]
    for axes, (title, columns, unit) in zip(grid, usable, strict=False):
        _curves(axes, history, columns)
        _tidy(axes, "iteration", unit, title)
        if columns == ["n_effective"]:
            axes.set_yscale("log")
        if columns in (["shells"], ["n_effective"]) and "phase" in history:
            _phase_bands(axes, history)
    for axes in grid[len(usable) :]:
        axes.set_visible(False)
    return figure


def _curves(axes: Axes, history: pd.DataFrame, columns: Sequence[str]) -> None:
    """Draw some columns against the iteration."""
    from matplotlib.ticker import MaxNLocator

    iteration = history["iteration"] if "iteration" in history else np.arange(1, len(history) + 1)
    for k, column in enumerate(columns):
        label = f"class {int(column[6:])}" if column.startswith("alpha_") else None
        axes.plot(
            iteration, history[column], color=COLOURS[k % len(COLOURS)], label=label,
            marker="o", markersize=3, linewidth=1.4,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if len(columns) > 1:
        axes.set_ylim(0, None)
        axes.legend(fontsize=7, frameon=False, ncols=1 + len(columns) // 6)


def _phase_bands(axes: Axes, history: pd.DataFrame) -> None:
    """Shade iterations by how they looked for poses."""
    names = list(dict.fromkeys(history["phase"]))
    for name, colour in zip(names, ("#56B4E9", "#F0E442", "#009E73"), strict=False):
        label: str | None = str(name)
        for iteration in history["iteration"][history["phase"] == name]:
            axes.axvspan(iteration - 0.5, iteration + 0.5, color=colour, alpha=0.2, linewidth=0,
                         label=label)
            label = None
    axes.legend(fontsize=7, frameon=False)


def class_sizes(counts: ArrayLike, names: Sequence[str] | None = None) -> Figure:
    """Return bars of the number of particles in every class."""
    values = np.asarray(counts)
    labels = list(names) if names is not None else [str(k + 1) for k in range(len(values))]
    figure = _figure(max(2.8, 0.55 * len(values) + 1.6), 2.6)
    axes = figure.add_subplot()
    bars = axes.bar(labels, values, color=COLOURS[0], width=0.7)
    axes.bar_label(bars, fmt="%g", fontsize=8, padding=2)
    axes.margins(y=0.12)
    _tidy(axes, "class", "particles")
    axes.grid(visible=False, axis="x")
    return figure


# ----------------------------------------------------------------------------------- evaluations
def fsc_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], marks: Sequence[float] = (0.5, 0.143)
) -> Figure:
    """Return Fourier shell correlations {name: (frequency in 1/A, fsc)} with thresholds `marks`.

    A curve called NAME_uncorrected is drawn like NAME, thin and dotted.
    """
    figure = _figure(4.8, 3.2)
    axes = figure.add_subplot()
    colour_of: dict[str, str] = {}
    for name, (frequency, value) in curves.items():
        base = name.removesuffix(UNCORRECTED)
        colour = colour_of.setdefault(base, COLOURS[len(colour_of) % len(COLOURS)])
        label = name if base == name else f"{base}, uncorrected"
        axes.plot(frequency, value, color=colour, label=label,
                  linewidth=1.6 if base == name else 0.9, linestyle="-" if base == name else ":")
    for mark in marks:
        axes.axhline(mark, color=GREY, linewidth=0.8, linestyle="--")
        axes.text(
            1.0, mark, f" {mark:g}", transform=axes.get_yaxis_transform(), fontsize=7,
            color=GREY, va="center",
        )
    axes.axhline(0.0, color="black", linewidth=0.6)
    axes.set_xlim(0, None)
    axes.set_ylim(min(-0.1, axes.get_ylim()[0]), 1.03)
    _tidy(axes, "spatial frequency (1/A)", "Fourier shell correlation")
    axes.secondary_xaxis("top", functions=(_reciprocal, _reciprocal)).set_xlabel(
        "resolution (A)", fontsize=8, color=GREY
    )
    _resolution_ticks(axes)
    if curves:
        axes.legend(fontsize=8, frameon=False)
    return figure


def _reciprocal(values: ArrayLike) -> FloatArray:
    """1 / x with 0 -> a large number: resolution of a frequency and back."""
    x = np.asarray(values, dtype=float)
    return 1.0 / np.where(np.abs(x) < 1e-9, 1e-9, x)


def _resolution_ticks(axes: Axes) -> None:
    """Put round resolutions on the upper axis."""
    highest = axes.get_xlim()[1]
    round_angst = [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40, 60, 80, 100, 200]
    ticks = [a for a in round_angst if 1.0 / a <= highest]
    kept: list[int] = []
    for tick in ticks:
        if not kept or (1.0 / kept[-1] - 1.0 / tick) > 0.09 * highest:
            kept.append(tick)
    upper = axes.child_axes[0]
    upper.set_xticks(kept, [str(t) for t in kept], fontsize=7, color=GREY)


def confusion(
    matrix: ArrayLike,
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
) -> Figure:
    """Return a confusion matrix: rows are true classes, columns assigned ones."""
    counts = np.atleast_2d(np.asarray(matrix))
    n_rows, n_columns = counts.shape
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = _figure(max(2.6, 0.62 * n_columns + 1.8), max(2.3, 0.5 * n_rows + 1.2))
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.55 else "black"
        axes.text(column, row, f"{count:g}", ha="center", va="center", color=colour, fontsize=9)
    rows = row_names or [str(k + 1) for k in range(n_rows)]
    columns = column_names or [str(k + 1) for k in range(n_columns)]
    axes.set_xticks(range(n_columns), columns, fontsize=8)
    axes.set_yticks(range(n_rows), rows, fontsize=8)
    axes.set_xlabel("assigned class")
    axes.set_ylabel("true class")
    axes.spines[:].set_visible(False)
    return figure


def pose_errors(
    rotation_error_deg: ArrayLike, shift_error_voxels: ArrayLike | None = None
) -> Figure:
    """Return histograms of pose errors with their medians."""
    panels = [("rotation error (deg)", np.asarray(rotation_error_deg, float))]
    if shift_error_voxels is not None:
        panels.append(("shift error (voxels)", np.asarray(shift_error_voxels, float)))
    figure = _figure(3.6 * len(panels), 2.6)
    grid = _grid(figure, 1, len(panels))[0]
    for axes, (name, errors) in zip(grid, panels, strict=True):
        errors = errors[np.isfinite(errors)]
        axes.hist(errors, bins=min(40, max(10, len(errors) // 4)), color=COLOURS[0])
        if len(errors):
            median = float(np.median(errors))
            axes.axvline(median, color=COLOURS[1], linewidth=1.4, label=f"median {median:.3g}")
            axes.legend(fontsize=8, frameon=False)
        _tidy(axes, name, "particles")
    return figure


def picks_on_slice(
    slice2d: FloatArray,
    xy: ArrayLike,
    radius: float | ArrayLike | None = None,
    score: ArrayLike | None = None,
    truth_xy: ArrayLike | None = None,
    title: str = "",
    score_range: tuple[float, float] | None = None,
) -> Figure:
    """Return a tomogram slice [y, x] with circles of `radius` (voxels) at positions (P, 2).

    `radius` is one for all, or one for each. Circles are coloured by `score` when given, from the
    lowest to the highest or over `score_range`; `truth_xy` are true positions, drawn as crosses.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    positions = np.asarray(xy, dtype=float).reshape(-1, 2)
    figure, axes = _slice_figure(slice2d, title, 0.0 if score is None else SCALE_WIDTH)
    circles = _circles(positions, _radii(radius, len(positions), slice2d), COLOURS[4], "-")
    if score is not None and (len(positions) or score_range):
        values = np.asarray(score, dtype=float)
        limits = score_range or (float(values.min()), float(values.max()))
        # The darkest colours of the map cannot be told from the slice.
        colours = ListedColormap(colormaps["plasma"](np.linspace(0.35, 1.0, 256)))
        scale = ScalarMappable(Normalize(*limits), cmap=colours)
        circles.set_edgecolor(list(map(tuple, scale.to_rgba(values))))
        figure.colorbar(scale, ax=axes, label="score", shrink=0.7)
    axes.add_collection(circles)
    if truth_xy is not None:
        crosses = np.asarray(truth_xy, dtype=float).reshape(-1, 2)
        axes.plot(*crosses.T, "+", color=COLOURS[5], markersize=7, label="truth")
        axes.legend(fontsize=8, loc="upper right")
    return figure


def classes_on_slice(
    slice2d: FloatArray, xy: ArrayLike, radius: float | ArrayLike | None, label: Sequence[str],
    names: Sequence[str], title: str = "",
) -> Figure:
    """Return a tomogram slice [y, x] with circles at positions (P, 2), coloured by class.

    `label` says the class of each position; `names` are all classes, so that a class has the same
    colour in every slice. The legend counts the positions.
    """
    positions, labels = np.asarray(xy, dtype=float).reshape(-1, 2), np.asarray(label, dtype=object)
    figure, axes = _slice_figure(slice2d, title)
    radii = _radii(radius, len(positions), slice2d)
    for number, name in enumerate(names):
        here = labels == name
        colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
        style = ("-", "--", ":")[number // len(CLASS_COLOURS) % 3]
        axes.add_collection(_circles(positions[here], radii[here], colour, style))
        axes.plot([], [], style, color=colour, label=f"{name} ({here.sum()})")
    figure.legend(fontsize=8, frameon=False, ncols=min(len(names), LEGEND_COLUMNS),
                  loc="outside lower center", handlelength=1.2, columnspacing=1.0)
    return figure


def _slice_figure(
    slice2d: FloatArray, title: str, besides: float = 0.0
) -> tuple[Figure, Axes]:
    """A slice in grey, with some inches besides it."""
    figure = _figure(5.6 + besides, 5.6 * slice2d.shape[0] / slice2d.shape[1])
    axes = figure.add_subplot()
    low, high = np.quantile(slice2d, [0.005, 0.995])
    _show_picture(axes, slice2d, (float(low), float(high)))
    if title:
        axes.set_title(title, fontsize=10)
    return figure, axes


def _radii(radius: float | ArrayLike | None, n: int, slice2d: FloatArray) -> FloatArray:
    """A radius (voxels) for each of n circles."""
    reach = max(slice2d.shape) / 60 if radius is None else radius
    return np.array(np.broadcast_to(np.asarray(reach, dtype=float), (n,)))


def precision_recall_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, float]]
) -> Figure:
    """Return curves {name: (recall, precision, average precision)}; the first is drawn black.

    A dot marks the best F1 of each, grey lines are lines of equal F1.
    """
    figure = _figure(6.4 if len(curves) > 1 else 4.8, 3.8)
    axes = figure.add_subplot()
    for f1 in (0.2, 0.4, 0.6, 0.8):
        along = np.linspace(f1 / (2.0 - f1), 1.0, 100)
        axes.plot(along, f1 * along / (2.0 * along - f1), color=GREY, alpha=0.35, linewidth=0.7)
        axes.text(1.005, f1 / (2.0 - f1), f"F1 {f1:g}", fontsize=6, color=GREY, va="center")
    for k, (name, (recall, precision, average)) in enumerate(curves.items()):
        r, p = np.asarray(recall, dtype=float), np.asarray(precision, dtype=float)
        colour = "black" if k == 0 else COLOURS[(k - 1) % (len(COLOURS) - 1)]
        style = "-" if k <= len(COLOURS) - 1 else "--"
        # Steps whose area is the average precision: up to each recall at its precision.
        axes.step([0.0, *r], [*p[:1], *p], style, where="pre", color=colour,
                  linewidth=2.0 if k == 0 else 1.2, label=f"{name}  {average:.2f}",
                  zorder=3 if k == 0 else 2)
        if len(r):
            best = int((r * p / np.maximum(r + p, 1e-12)).argmax())
            axes.plot(r[best], p[best], "o", color=colour, markersize=4, zorder=4)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.02)
    _tidy(axes, "recall", "precision")
    if curves:
        figure.legend(fontsize=7, frameon=False, loc="outside right upper",
                      title="average precision", title_fontsize=7)
    return figure


VERDICT_COLOURS = {
    "hit": "#00B884", "misclassified": "#FFA620", "duplicate": "#D58BE0", "false": "#F03B35",
    "missed": "#4DA6FF",
}


def verdicts_near_slice(
    tomogram: FloatArray,
    position_xyz: FloatArray,
    verdict: Sequence[str],
    z: int,
    radius: float | None = None,
    name: str = "",
) -> Figure:
    """Return slice z of a tomogram [z, y, x] with judged positions (P, 3) within `radius` of it.

    Verdicts are those of `VERDICT_COLOURS`: circles; of false picks crossed, of missed particles
    dashed.
    """
    reach = radius if radius else max(tomogram.shape[1:]) / 50
    near = np.abs(position_xyz[:, 2] - z) <= reach
    said = np.asarray(verdict, dtype=object)
    figure = picks_on_slice(slab(tomogram, z), np.zeros((0, 2)))
    axes = figure.axes[0]
    for kind, colour in VERDICT_COLOURS.items():
        xy = position_xyz[near & (said == kind), :2]
        axes.add_collection(_circles(xy, reach, colour, "--" if kind == "missed" else "-"))
        if kind == "false":
            axes.plot(*xy.T, "x", color=colour, markersize=4, markeredgewidth=1.0)
        axes.plot([], [], "--" if kind == "missed" else "-", color=colour,
                  label=f"{len(xy)} {kind}")
    # A legend inside would hide picks.
    figure.legend(fontsize=8, frameon=False, ncols=len(VERDICT_COLOURS),
                  loc="outside lower center", handlelength=1.2, columnspacing=1.0)
    axes.set_title(f"{name}, slice {z}" if name else f"slice {z}", fontsize=10)
    return figure


def _circles(xy: FloatArray, radius: float | FloatArray, colour: str, style: str) -> Any:
    """Circles of one kind, of one radius or of one each."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Circle

    return PatchCollection(
        [Circle((x, y), r) for (x, y), r in zip(xy, np.broadcast_to(radius, len(xy)), strict=True)],
        linewidth=1.3, facecolor="none", edgecolor=colour, linestyle=style)


def slab(tomogram: FloatArray, z: int, thickness: int = 5) -> FloatArray:
    """Return the mean of `thickness` slices around z of a standardised tomogram, [y, x]."""
    low = max(z - thickness // 2, 0)
    return standardise(np.asarray(tomogram[low : low + thickness], dtype=np.float32).mean(axis=0))


def orientations(rotation: FloatArray) -> Figure:
    """Return a map of the directions the particles' z axes point in (rotations (N, 3, 3))."""
    direction = np.asarray(rotation, dtype=float)[:, :, 2]
    longitude = np.arctan2(direction[:, 1], direction[:, 0])
    latitude = np.arcsin(np.clip(direction[:, 2], -1.0, 1.0))
    figure = _figure(4.8, 2.8)
    axes = figure.add_subplot(projection="mollweide")
    axes.grid(alpha=0.4, linewidth=0.5)
    axes.scatter(longitude, latitude, s=9, alpha=0.6, color=COLOURS[0], linewidths=0)
    axes.set_xticklabels([])
    axes.tick_params(labelsize=7)
    axes.set_title("directions of the particles' z axes (poles: beam)", fontsize=9, color=GREY)
    return figure
