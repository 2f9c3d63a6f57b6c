"""What all figures share: colours, empty figures, axes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from scipion_faml.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
GREY = "#5f6b7a"
# On grey slices: without black and with a lighter blue.
CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#4477FF")
LEGEND_COLUMNS = 4
PICTURE_DPI = 150.0


def png_bytes(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def picture(pixels: FloatArray, dpi: float = PICTURE_DPI) -> Figure:
    """Return a figure that is a picture (height, width, 3 or 4), such as a PNG read back."""
    from matplotlib.figure import Figure

    height, width = pixels.shape[:2]
    figure = Figure(figsize=(width / dpi, height / dpi), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(pixels, aspect="auto", interpolation="antialiased")
    axes.set_axis_off()
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches) that lays itself out."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def grid_of(
    figure: Figure, n_rows: int, n_columns: int, projection: str | None = None
) -> list[list[Axes]]:
    """Axes in rows and columns."""
    return [list(row) for row in figure.subplots(
        n_rows, n_columns, squeeze=False, subplot_kw={"projection": projection})]


def tidy(axes: Axes, x_label: str, y_label: str, title: str = "") -> None:
    """Label axes and take away what carries no information."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if title:
        axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)



def show_picture(
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
