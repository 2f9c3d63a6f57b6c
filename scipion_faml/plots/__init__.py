"""Figures of volumes, runs and evaluations, shared by the reports and the Scipion viewers.

Every function takes arrays and returns a `matplotlib.figure.Figure` made without pyplot, so it
needs no screen and may be called from any thread; `png_bytes` renders one. Matplotlib is imported
on use.
"""

from scipion_faml.plots.curves import UNCORRECTED, fsc_curves, precision_recall_curves
from scipion_faml.plots.directions import orientations
from scipion_faml.plots.judged import confusion, pose_errors
from scipion_faml.plots.runs import class_sizes, convergence
from scipion_faml.plots.slices import (
    VERDICT_COLOURS,
    classes_on_slice,
    picks_on_slice,
    slab,
    verdicts_near_slice,
)
from scipion_faml.plots.style import CLASS_COLOURS, COLOURS, GREY, png_bytes
from scipion_faml.plots.volumes import (
    central_slices,
    class_gallery,
    contour_level,
    projections,
    shaded_surface,
    surface_view,
)

__all__ = [
    "CLASS_COLOURS",
    "COLOURS",
    "GREY",
    "UNCORRECTED",
    "VERDICT_COLOURS",
    "central_slices",
    "class_gallery",
    "class_sizes",
    "classes_on_slice",
    "confusion",
    "contour_level",
    "convergence",
    "fsc_curves",
    "orientations",
    "picks_on_slice",
    "png_bytes",
    "pose_errors",
    "precision_recall_curves",
    "projections",
    "shaded_surface",
    "slab",
    "surface_view",
    "verdicts_near_slice",
]
