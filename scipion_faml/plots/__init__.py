"""Figures of volumes, runs and evaluations, shared by the reports and the Scipion viewers.

Every function takes arrays and returns a `matplotlib.figure.Figure` made without pyplot, so it
needs no screen and may be called from any thread; `png_bytes` renders one. Matplotlib is imported
on use.
"""

from scipion_faml.plots.curves import UNCORRECTED, fsc_curves, precision_recall_curves
from scipion_faml.plots.directions import (
    AXIS,
    BEAM,
    class_orientations,
    orientation_maps,
    orientations,
)
from scipion_faml.plots.judged import confusion, evaluation_overview, pose_errors
from scipion_faml.plots.overview import RunState, findings, run_overview
from scipion_faml.plots.runs import class_sizes, convergence, sizes_and_posteriors
from scipion_faml.plots.slices import (
    VERDICT_COLOURS,
    classes_on_slice,
    picks_on_slice,
    slab,
    verdicts_near_slice,
)
from scipion_faml.plots.style import CLASS_COLOURS, COLOURS, GREY, picture, png_bytes
from scipion_faml.plots.volumes import (
    MAX_FACES,
    Mesh,
    central_slices,
    class_gallery,
    contour_level,
    grey_limits,
    light_surface,
    projections,
    shaded_surface,
    slice_of,
    surface_mesh,
    surface_view,
    turnable_surface,
    volume_slice,
)

__all__ = [
    "AXIS",
    "BEAM",
    "CLASS_COLOURS",
    "COLOURS",
    "GREY",
    "MAX_FACES",
    "UNCORRECTED",
    "VERDICT_COLOURS",
    "Mesh",
    "RunState",
    "central_slices",
    "class_gallery",
    "class_orientations",
    "class_sizes",
    "classes_on_slice",
    "confusion",
    "contour_level",
    "convergence",
    "evaluation_overview",
    "findings",
    "fsc_curves",
    "grey_limits",
    "light_surface",
    "orientation_maps",
    "orientations",
    "picks_on_slice",
    "picture",
    "png_bytes",
    "pose_errors",
    "precision_recall_curves",
    "projections",
    "run_overview",
    "shaded_surface",
    "sizes_and_posteriors",
    "slab",
    "slice_of",
    "surface_mesh",
    "surface_view",
    "turnable_surface",
    "verdicts_near_slice",
    "volume_slice",
]
