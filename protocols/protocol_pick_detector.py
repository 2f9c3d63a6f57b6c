"""Find and name particles with a trained detector."""

from __future__ import annotations

from pathlib import Path

from pyworkflow.protocol import params

from .protocol_pick_base import ProtFamlPickBase, box_of

SHIPPED, TRAINED, FROM_FILE = range(3)


class ProtFamlPickDetector(ProtFamlPickBase):
    """Finds particles in tomograms with a one-stage detector, and tells their classes.

    Without a detector of your own the one that comes with the plugin finds globular particles of
    any kind. One that was trained (train a detector) also tells classes: they become the groups of
    the positions. Tomograms of another voxel size are brought to the detector's.
    """

    _label = "pick particles with a detector"
    VERB = "pick-detector"
    USES_GPU = True

    # ---------------------------------------------------------------------------------- form
    def _definePickerParams(self, form):
        form.addParam("source", params.EnumParam, default=SHIPPED, label="Detector",
                      choices=["any globular particle (comes with the plugin)",
                               "trained in this project", "weights file"],
                      help="Train one with 'train a detector' on some hundred positions.")
        form.addParam("inputDetector", params.PointerParam, pointerClass="FamlDetector",
                      condition=f"source=={TRAINED}", allowsNull=True, important=True,
                      label="Trained detector",
                      help="The output of a run of train a detector.")
        form.addParam("weightsFile", params.FileParam, default="", label="Weights file",
                      condition=f"source=={FROM_FILE}",
                      help="weights.pt of train-detector.")
        form.addParam("threshold", params.FloatParam, allowsNull=True, label="Threshold",
                      help="Lowest score kept, 0 to 1. Empty: of each class the one that was best "
                           "in the tomograms held out when it was trained.")

    def pickOptions(self, tomogram, folder):
        # What the form asks overrules the training; a file's contrast is not known here.
        return {
            "weights": self.weights(), "threshold": self.threshold.get(),
            "dark": self.isDark.get(), "bright": not self.isDark.get(),
            "device": self.device(),
        }

    def weights(self):
        """Return the weights file, or None for the one that comes with the plugin."""
        if self.source.get() == TRAINED:
            return Path(self.inputDetector.get().getFileName()).resolve()
        if self.source.get() == FROM_FILE:
            return Path(self.weightsFile.get()).resolve()
        return None

    def box(self):
        """Return the box size: as given, or for the largest class of the detector."""
        if self.boxSize.get():
            return self.boxSize.get()
        diameters = [d for result in self.verbResults().values()
                     for d in result.get("diameters_angst", [])]
        return box_of(max(diameters, default=0.0), self.inputTomograms.get().getSamplingRate())

    # ---------------------------------------------------------------------------------- info
    def _checkPicker(self, tomograms, errors):
        detector = self.inputDetector.get()
        if self.source.get() == TRAINED:
            if detector is None:
                errors.append("Choose a trained detector, or another row above.")
            elif not Path(detector.getFileName()).is_file():
                errors.append(f"{detector.getFileName()} does not exist: train the detector again.")
        if self.source.get() == FROM_FILE and not Path(self.weightsFile.get() or "").is_file():
            errors.append(f"The weights file '{self.weightsFile.get()}' does not exist.")
        threshold = self.threshold.get()
        if threshold is not None and not 0 <= threshold <= 1:
            errors.append(f"Threshold {threshold:g}: scores lie between 0 and 1.")

    def _pickerSummary(self, results):
        counts = {}
        for result in results.values():
            for name, count in result.get("per_class", {}).items():
                counts[name] = counts.get(name, 0) + count
        if len(counts) < 2:
            return []
        return [", ".join(f"{name}: {count}" for name, count in counts.items()) + "."]

    def _methods(self):
        if not hasattr(self, "coordinates"):
            return []
        kind = "pretrained on simulated particles" if self.source.get() == SHIPPED else "trained"
        return [f"{self.coordinates.getSize()} particles were picked with a one-stage detector "
                f"{kind}."]

    def _citations(self):
        return []
