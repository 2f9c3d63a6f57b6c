"""Pick particles as local maxima of a difference of Gaussians."""

from __future__ import annotations

from pyworkflow.protocol import params

from .protocol_base import numbers_of
from .protocol_pick_base import ProtFamlPickBase

FILTERS = ["dog", "log"]


class ProtFamlPickDog(ProtFamlPickBase):
    """Finds compact particles of one size, or of several, in tomograms without a template.

    The difference of two Gaussian blurs answers to blobs of the given diameter; its local maxima
    above a threshold become positions, with the height as their score [Voss2009]. Positions have
    no orientation. Gold beads are left out.
    """

    _label = "pick particles (difference of Gaussians)"
    VERB = "pick-dog"

    # ---------------------------------------------------------------------------------- form
    def _definePickerParams(self, form):
        form.addParam("diameter", params.FloatParam, default=250.0, validators=[params.GT(0)],
                      important=True, label="Particle diameter (Å)",
                      help="About 130 Å for a proteasome or GroEL seen from the top, 250 Å for a "
                           "ribosome. The wizard draws it on a slice, with the picks that it "
                           "gives.")
        form.addParam("moreDiameters", params.StringParam, default="",
                      label="Other diameters (Å)",
                      help="Of particles of other sizes, separated by commas; a factor of two "
                           "apart is best. Every pick is then made at the size that answers most, "
                           "which is kept with it.")
        form.addParam("threshold", params.FloatParam, allowsNull=True, label="Threshold",
                      help="Lowest score kept, in standard deviations of the response where there "
                           "is no particle. Empty: from the false positives allowed. The wizard "
                           "shows what it leaves.")
        form.addParam("falsePositives", params.FloatParam, default=1.0,
                      expertLevel=params.LEVEL_ADVANCED, validators=[params.GT(0)],
                      label="False positives allowed",
                      help="How many picks noise alone may cause in a whole tomogram (or its "
                           "mask): sets the threshold where none is given.")
        form.addParam("filter", params.EnumParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                      choices=["difference of Gaussians", "Laplacian of a Gaussian"],
                      label="Filter", help="Nearly the same; the second is slower.")

    def diameters(self):
        """Return all diameters (angstrom), the first row's first."""
        return [self.diameter.get(), *numbers_of(self.moreDiameters.get())]

    def diameterToBox(self):
        return max(self.diameters())

    def pickOptions(self, tomogram, folder):
        return {
            "diameter": self.diameters(), "dark": self.isDark.get(),
            "threshold": self.threshold.get(), "false_positives": self.falsePositives.get(),
            "filter": FILTERS[self.filter.get()],
        }

    # ---------------------------------------------------------------------------------- info
    def _checkPicker(self, tomograms, errors):
        try:
            diameters = self.diameters()
        except ValueError as error:
            errors.append(f"Other diameters: {error}.")
            return
        if len(set(diameters)) < len(diameters):
            errors.append("A diameter is given twice.")
        for diameter in diameters:
            self._checkDiameter(diameter, tomograms, errors)

    def _pickerSummary(self, results):
        lines = []
        n_gold = sum(result.get("n_gold", 0) for result in results.values())
        if n_gold:
            lines.append(f"{n_gold} maxima as dense as gold were left out.")
        if self.moreDiameters.get():
            for diameter in self.diameters():
                count = sum(r.get("n_of_diameter", {}).get(f"{diameter:g}", 0)
                            for r in results.values())
                lines.append(f"{diameter:g} Å: {count} particles.")
        return lines

    def _methods(self):
        if not hasattr(self, "coordinates"):
            return []
        sizes = ", ".join(f"{diameter:g}" for diameter in self.diameters())
        return [f"{self.coordinates.getSize()} particles of {sizes} Å were picked "
                "by a difference of Gaussians [Voss2009]."]

    def _citations(self):
        return ["Voss2009"]
