"""Objects of this plugin that Scipion keeps in projects; it finds them here by their name."""

from __future__ import annotations

from pwem.objects import EMFile
from pyworkflow.object import Float, String


class FamlDetector(EMFile):
    """A trained detector: its weights file, and what a form wants to know without opening it."""

    def __init__(self, filename=None, **kwargs):
        super().__init__(filename, **kwargs)
        self._architecture = String()
        self._classNames = String()  # separated by commas, in the order of the class numbers
        self._samplingRate = Float()  # angstrom per voxel of the tomograms it was trained in
        self._diameter = Float()  # angstrom, of the largest class

    def setClassNames(self, names):
        """Keep the names of the classes."""
        self._classNames.set(", ".join(names))

    def getClassNames(self):
        """Return the names of the classes."""
        text = self._classNames.get("")
        return [name.strip() for name in text.split(",")] if text else []

    def setSamplingRate(self, voxel_size_angst):
        """Keep the voxel size that it was trained at."""
        self._samplingRate.set(voxel_size_angst)

    def getSamplingRate(self):
        """Return the voxel size that it was trained at (angstrom)."""
        return self._samplingRate.get()

    def setDiameter(self, diameter_angst):
        """Keep the diameter of the largest class."""
        self._diameter.set(diameter_angst)

    def getDiameter(self):
        """Return the diameter of the largest class (angstrom)."""
        return self._diameter.get()

    def setArchitecture(self, name):
        """Keep the name of the network."""
        self._architecture.set(name)

    def getArchitecture(self):
        """Return the name of the network."""
        return self._architecture.get()

    def __str__(self):
        """What the project window shows."""
        return (f"{self.getClassName()} ({len(self.getClassNames())} classes, "
                f"{self.getSamplingRate() or 0:.4g} Å/px)")
