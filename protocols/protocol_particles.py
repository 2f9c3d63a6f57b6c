"""What classifying, aligning and averaging share: the table of particles, the average."""

from __future__ import annotations

import json
from pathlib import Path

from pwem.objects import SetOfFSCs
from pyworkflow.protocol import params
from tomo.objects import SetOfSubTomograms

from scipion_faml import convert
from scipion_faml.screening import EXCLUDED
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.tables import read_particles

from .cluster_form import cluster_options
from .protocol_base import ProtFamlBase

# In the order of the choices in the forms; saved projects store the position.
SEARCHES = ["magnitude", "exhaustive"]
SEARCH_LABELS = ["fast rotational matching", "exhaustive (slower)"]


def add_skip_bad(form):
    """Row that says what becomes of particles that cannot be used."""
    form.addParam(
        "skipBad", params.BooleanParam, default=False, expertLevel=params.LEVEL_ADVANCED,
        label="Skip bad particles?",
        help="Files that cannot be read, are constant, hold NaN or have another box: the summary "
             "counts them, extra/*/excluded.star lists each with the reason. No: the run stops and "
             "names the first.")


class ProtFamlParticles(ProtFamlBase):
    """Base of these; it has no label, so Scipion does not list it."""

    RESULTS = "results"  # folder in extra of the command that reads the input's particles

    def _particleTable(self):
        return self._getExtraPath("input", "particles.star")

    def convertInputStep(self, settings):
        """Write the input set as a STAR table; volumes that are no MRC files are converted."""
        convert.write_particle_table(
            self.inputSubtomograms.get(), self._particleTable(), self.tiltRangeGiven())
        return [self._particleTable()]

    def _averageParticles(self, table, settings, **options):
        """Average particles with known poses, and their halves, into extra/average."""
        averages = self.resultsFolder(settings, "average")
        self.runVerb("average", table, output=averages, overwrite=True,
                     **cluster_options(self), **options)
        return [str(averages / "average.mrc")]

    def _averageOutputs(self):
        """Return the average with its halves, and their FSC."""
        halves = tuple(self._getExtraPath("average", f"half{h}.mrc") for h in (1, 2))
        average = convert.new_average(
            self._getExtraPath("average", "average.mrc"),
            self.inputSubtomograms.get().getSamplingRate(), halves)
        fscs = SetOfFSCs.create(self.getPath(), prefix="fscs")
        for curve in convert.read_fscs(self._getExtraPath("average", "fsc.csv")):
            fscs.append(curve)
        return {"average": average, "fscs": fscs}

    def _maskFile(self):
        """The mask of the form as an MRC file, or None."""
        mask = self.inputMask.get()
        return None if mask is None else convert.mrc_file(
            mask, self._getExtraPath("input", "mask.mrc"))

    def _checkSymmetry(self, errors):
        try:
            symmetry_rotations(self.symmetry.get() or "C1")
        except ValueError as error:
            errors.append(f"{error}.")

    def _resultTable(self):
        return read_particles(Path(self._getExtraPath("results", "particles.star")))

    def _alignedSubtomograms(self, update):
        images = self.inputSubtomograms.get()
        aligned = SetOfSubTomograms.create(self.getPath(), prefix="subtomograms")
        aligned.copyInfo(images)
        aligned.copyItems(images, updateItemCallback=update)
        aligned.setAlignment3D()
        return aligned

    def runResult(self):
        """Return what the finished command reported: converged, warnings, n_excluded ..."""
        path = Path(self._getExtraPath(self.RESULTS, "run.json"))
        return json.loads(path.read_text())["result"] if path.is_file() else {}

    def lostLines(self, n_result):
        """Say in the summary how many input particles the result lacks, and why."""
        n_excluded = self.runResult().get("n_excluded", 0)
        n_disabled = self.inputSubtomograms.get().getSize() - n_result - n_excluded
        lines = []
        if n_excluded:
            path = self._getExtraPath(self.RESULTS, EXCLUDED)
            lines.append(f"*{n_excluded}* subtomograms could not be used: {path} lists them with "
                         "the reason.")
        if n_disabled > 0:
            lines.append(f"{n_disabled} subtomograms are missing in the result (disabled).")
        return lines
