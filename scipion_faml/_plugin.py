"""What Scipion's plugin manager asks of this package."""

from __future__ import annotations

import importlib.util
import os

import pwem
import pyworkflow as pw
from pyworkflow.utils import Environ

from scipion_faml import __version__

# Without Xmipp's plugin Scipion would open these in a Java viewer that is not there.
_OWN_VIEWERS = {
    "SetOfClassesSubTomograms": "scipion_faml.viewers.FamlClassesViewer",
    "SetOfAverageSubTomograms": "scipion_faml.viewers.FamlAveragesViewer",
    "AverageSubTomogram": "scipion_faml.viewers.FamlAveragesViewer",
}


class Plugin(pwem.Plugin):
    """FAML: pure Python and Cython, nothing to download, no external binaries."""

    _url = "https://arxiv.org/abs/1804.01203"
    _supportedVersions = [__version__]

    @classmethod
    def _defineVariables(cls):
        if importlib.util.find_spec("xmipp3") is None:
            for class_name, viewer in _OWN_VIEWERS.items():
                pw.Config.VIEWERS.setdefault(class_name, [viewer])

    @classmethod
    def getEnviron(cls):
        # Environ() without arguments would start the commands in an empty environment.
        return Environ(os.environ)

    @classmethod
    def getActiveVersion(cls, home=None, versions=None):
        return __version__

    @classmethod
    def defineBinaries(cls, env):
        """Nothing to install: the kernels are compiled when the package is."""

    @classmethod
    def validateInstallation(cls):
        return []


# Scipion takes the plugin's folder from the module the class says it lives in.
Plugin.__module__ = "scipion_faml"
