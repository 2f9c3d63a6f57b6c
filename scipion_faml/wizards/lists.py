"""Wizards that let something be chosen from a list: symmetries, structures, tilt series."""

from __future__ import annotations

from scipion_faml import datasets
from scipion_faml.convert import missing_wedge
from scipion_faml.protocols import (
    ProtFamlClassify,
    ProtFamlEvaluate,
    ProtFamlSimulateSubtomograms,
    ProtFamlSimulateTomograms,
)
from scipion_faml.protocols.protocol_base import ProtFamlBase

from .base import FamlWizard, choose

AUTO = ("auto", "found by itself in every class")
SYMMETRIES = (
    ("C1", "none"),
    ("C2", "two-fold axis along z"),
    ("C3", "three-fold axis along z: viral spikes"),
    ("C4", "four-fold axis along z: ryanodine receptor, channels"),
    ("C5", "five-fold axis along z: pentameric channels"),
    ("C6", "six-fold axis along z: AAA+ hexamers"),
    ("C7", "seven-fold axis along z: GroEL-GroES"),
    ("C8", "eight-fold axis along z: nuclear pore complex"),
    ("C17", "seventeen-fold axis along z: TMV disk"),
    ("D2", "two-fold axes along x, y and z: beta-galactosidase"),
    ("D3", "three-fold along z, two-fold along x"),
    ("D4", "four-fold along z, two-fold along x: RuBisCO"),
    ("D6", "six-fold along z, two-fold along x: glutamine synthetase"),
    ("D7", "seven-fold along z, two-fold along x: GroEL, 20S proteasome"),
    ("D8", "eight-fold along z, two-fold along x: TRiC (nearly)"),
    ("T", "tetrahedral, three-fold along z"),
    ("O", "octahedral, four-folds along x, y, z: apoferritin"),
    ("I", "icosahedral (I2), two-fold along z, five-folds in the x z plane: viruses"),
    ("I1", "icosahedral, two-folds along x, y, z; turned by 90° about z against I2"),
    ("I3", "icosahedral, five-fold along z"),
    ("I4", "icosahedral, five-fold along z, turned by 180° against I3"),
)
STRUCTURES = {
    "apoferritin": "apoferritin, 140 Å, O",
    "groel": "GroEL, 190 Å, D7",
    "groel-groes": "GroEL-GroES, 230 Å, C7",
    "proteasome": "20S proteasome, 180 Å, D7",
    "ribosome": "70S ribosome, 300 Å, C1",
    "ribosome-80s": "80S ribosome, 330 Å, C1",
    "tric": "TRiC / CCT, 220 Å, D8",
    "blobs:1": "a test object without symmetry",
    "blobs:2": "another test object",
}
TILT_SCHEMES = (
    (-60.0, 60.0, 3.0, "usual, dose-symmetric"),
    (-60.0, 60.0, 2.0, "usual, finer"),
    (-54.0, 54.0, 3.0, "thick specimen"),
    (-70.0, 70.0, 2.0, "thin specimen"),
    (-90.0, 90.0, 1.0, "nothing missing"),
)


# --------------------------------------------------------------------------------- symmetry
def symmetries(takes_auto: bool) -> list[tuple[str, str]]:
    """Return point groups to choose from, with a word about each."""
    return [*([AUTO] if takes_auto else []), *SYMMETRIES]


class FamlSymmetryWizard(FamlWizard):
    """Point group, from a list."""

    _targets = [(ProtFamlBase, ["symmetry"])]  # every protocol that has the row

    def helpWith(self, form):
        protocol = form.protocol
        takes_auto = isinstance(protocol, ProtFamlClassify) and protocol.isEnhanced()
        several = isinstance(protocol, ProtFamlEvaluate)
        message = ("Several: of the true structures, in their order." if several else
                   "Other n than listed may be typed: C11, D5.")
        found = choose(form, "Symmetry (FAML)", (("Point group", 90), ("Axes, examples", 430)),
                       symmetries(takes_auto), message, several)
        if found:
            form.setVar("symmetry", ", ".join(found))


# ------------------------------------------------------------------------------- structures
def structures() -> list[tuple[str, str]]:
    """Return the structures that come with the plugin, with a word about each."""
    names = [*datasets.bead_model_names(), "blobs:1", "blobs:2"]
    return [(name, STRUCTURES.get(name, "")) for name in names]


class FamlStructuresWizard(FamlWizard):
    """Structures to simulate, from those that come with the plugin."""

    _targets = [(ProtFamlSimulateTomograms, ["structures"]),
                (ProtFamlSimulateSubtomograms, ["structures"])]

    def helpWith(self, form):
        found = choose(
            form, "Structures (FAML)", (("Name", 120), ("Structure, diameter, symmetry", 300)),
            structures(), "Ctrl: several. Paths of PDB, mmCIF and MRC files may be typed.", True)
        if found:
            form.setVar("structures", ", ".join(found))


# --------------------------------------------------------------------------------- tilt series
class FamlTiltSchemeWizard(FamlWizard):
    """Tilt series to simulate: a usual one, or that of tomograms in this project.

    Scipion takes the last wizard of a row by name, so this one goes before FamlTiltRangeWizard.
    """

    NAMES = ("tiltMin", "tiltMax", "tiltStep")
    _targets = [(ProtFamlSimulateTomograms, list(NAMES)),
                (ProtFamlSimulateSubtomograms, list(NAMES))]

    def helpWith(self, form):
        schemes = {}
        for scheme in tilt_schemes(form.protocol):
            schemes.setdefault(tilt_words(*scheme[:3]), scheme)
        rows = [(words, scheme[3]) for words, scheme in schemes.items()]
        found = choose(form, "Tilt series (FAML)", (("Tilts", 200), ("Of", 320)), rows,
                       "Those of this project's tomograms come first.")
        if found:
            for name, value in zip(self.NAMES, schemes[found[0]], strict=False):
                form.setVar(name, value)


def tilt_schemes(protocol):
    """Return (smallest, largest, step, of what): those in the project, then usual ones."""
    return [*_of_project(protocol), *TILT_SCHEMES]


def _of_project(protocol):
    project = protocol.getProject()
    for run in project.getRuns() if project is not None else []:
        if run.getObjId() == protocol.getObjId():
            continue
        for name, output in run.iterOutputAttributes():
            acquisition = output.getAcquisition() if hasattr(output, "getAcquisition") else None
            wedge = missing_wedge(acquisition)
            step = acquisition.getStep() if hasattr(acquisition, "getStep") else None
            if wedge is not None and step:
                yield (wedge.tilt_min_deg, wedge.tilt_max_deg, float(step),
                       f"{run.getRunName()}: {name}")


def tilt_words(low: float, high: float, step: float) -> str:
    """Return a tilt series in words."""
    return f"{low:g} to {high:g} deg every {step:g}"
