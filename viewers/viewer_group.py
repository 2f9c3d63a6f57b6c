"""Viewer of coarse groups: did they part, what are they like, which particles are in them."""

from __future__ import annotations

import pandas as pd

from scipion_faml import plots
from scipion_faml.grouping.descriptors import radial_profile
from scipion_faml.io import read_cube
from scipion_faml.plots import groups as pictures

from ..protocols.protocol_group import ProtFamlGroup
from .figure_view import NothingToShow
from .report_view import REPORT_GROUP
from .run_viewer import NOT_FINISHED, FamlRunViewer, Row
from .viewer_faml import SLICES, AveragesRows
from .volume_views import NamedVolume


class FamlGroupViewer(AveragesRows, FamlRunViewer):
    """Components, sizes, radial profiles and means of coarse groups."""

    _label = "groups (FAML)"
    _targets = [ProtFamlGroup]
    _groups = (
        ("Did it work?", (
            Row("showComponents", "Components", lambda v: v.components(), tab="Components",
                help="The first two components of the particles' descriptors, a colour a group; "
                     "rings mark those that fit none."),
            Row("showSizes", "Group sizes", lambda v: v.sizes(), tab="Sizes",
                help="Particles of each group."),
        )),
        ("Groups", (
            Row("showProfiles", "Radial density", lambda v: v.profiles(), tab="Radial density",
                help="Spherical average of each group about the centre of the box."),
            SLICES,
        )),
        REPORT_GROUP,
    )

    def files(self):
        """Return the means of the groups.

        Raises
        ------
        NothingToShow
            Before the run has finished.
        """
        found = sorted(self.results().glob("group_*.mrc"))
        if not found or not self.results("descriptors.csv").is_file():
            raise NothingToShow(NOT_FINISHED)
        return found

    def maps(self):
        return [NamedVolume(f"group {k}", path) for k, path in enumerate(self.files(), 1)]

    def _table(self):
        self.files()
        return pd.read_csv(self.results("descriptors.csv"))

    def components(self):
        """Return the window with the first two components."""
        table = self._table()
        values = table[[name for name in table if name.startswith("component_")]].to_numpy()
        return self.figureView(pictures.components(
            values, table["group"].to_numpy() - 1, table["outlier"].to_numpy() > 0), "components")

    def sizes(self):
        """Return the window with the sizes."""
        table = self._table()
        counts = [int((table["group"] == k).sum()) for k in range(1, len(self.files()) + 1)]
        return self.figureView(plots.class_sizes(counts), "group sizes")

    def profiles(self):
        """Return the window with the radial density."""
        loaded = [read_cube(path) for path in self.files()]
        return self.figureView(pictures.radial_profiles(
            [radial_profile(volume) for volume, _ in loaded], loaded[0][1]), "radial density")
