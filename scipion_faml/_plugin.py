"""What Scipion's plugin manager asks of this package."""

from __future__ import annotations

import importlib.util
import os

import pwem
import pyworkflow as pw
from pyworkflow.utils import Environ

from scipion_faml import __version__

# Without these plugins Scipion would open such outputs in a Java viewer that is not there, or as
# tables of numbers.
_XMIPP = ("xmipp3",)
_WITH_PICKERS = ("xmipp3", "emantomo", "dynamo")  # they bring windows for positions
_OWN_VIEWERS = {
    "SetOfClassesSubTomograms": ("FamlClassesViewer", _XMIPP),
    "SetOfAverageSubTomograms": ("FamlAveragesViewer", _XMIPP),
    "AverageSubTomogram": ("FamlAveragesViewer", _XMIPP),
    "SetOfSubTomograms": ("FamlParticlesViewer", _XMIPP),
    "SetOfFSCs": ("FamlFscViewer", _XMIPP),
    "SetOfCoordinates3D": ("FamlPicksViewer", _WITH_PICKERS),
}


class Plugin(pwem.Plugin):
    """FAML: pure Python and Cython, nothing to download, no external binaries."""

    _url = "https://arxiv.org/abs/1804.01203"
    _supportedVersions = [__version__]

    @classmethod
    def _defineVariables(cls):
        for class_name, (viewer, others) in _OWN_VIEWERS.items():
            if not any(map(importlib.util.find_spec, others)):
                pw.Config.VIEWERS.setdefault(class_name, [f"scipion_faml.viewers.{viewer}"])

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
