"""Our viewers opened from a script, for pictures of them and for tests."""

from __future__ import annotations

from typing import Any

import pyworkflow as pw
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View


def viewer_of(project: Any, target: Any) -> Any:
    """Return our viewer of a protocol or an output, as Scipion's window would make it.

    Raises
    ------
    ValueError
        If no viewer of ours shows it.
    """
    ours = [viewer for viewer in pw.Config.getDomain().findViewers(target, DESKTOP_TKINTER)
            if viewer.__module__.startswith("scipion_faml.")]
    if not ours:
        raise ValueError(f"no viewer of scipion_faml shows a {type(target).__name__}")
    is_run = issubclass(ours[0], ProtocolViewer)
    viewer = ours[0](project=project, protocol=target if is_run else None,
                     tmpPath=project.getTmpPath())
    if is_run:
        viewer.setProtocol(target)
    return viewer


def views_of(project: Any, target: Any) -> dict[str, View]:
    """Return what Analyze results offers for a protocol or an output, by the name of the row.

    The viewer of an object has one view, named "view". A view has `show()`, which opens its window
    (a Tk main loop must run, or `window.update()` be called), and, where it is a picture,
    `savefig(path)`, which needs no display. What cannot be shown is a message (`getMessage()`).
    """
    viewer = viewer_of(project, target)
    if not isinstance(viewer, ProtocolViewer):
        return {"view": viewer._visualize(target)[0]}
    return {name: show(name)[0] for name, show in viewer._getVisualizeDict().items()}
