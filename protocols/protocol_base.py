"""What the protocols of this plugin share: starting a verb, settings of steps, common form rows.

A protocol is a form, tables on disk, a `scipion-faml` command in a process of its own, and outputs
read back into Scipion's objects. No arithmetic on arrays happens here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from pwem.protocols import EMProtocol
from pyworkflow import NEW
from pyworkflow.constants import QUEUE_FOR_JOBS
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.object import PointerList
from pyworkflow.protocol import Protocol, params
from pyworkflow.utils import Environ
from tomo.protocols import ProtTomoBase

from scipion_faml.convert import clones, tilt_range_of
from scipion_faml.status import HEARTBEAT_SECONDS, STATUS_FILE
from scipion_faml.wedge import MissingWedge

from .cluster_form import CLUSTER_ROWS
from .run_status import RunStatus, note_stop

# Form rows that say how a run is done, not what comes out of it.
NOT_SETTINGS = {
    "runName", "runMode", "hostName", "numberOfThreads", "numberOfMpi", "binThreads",
    "useQueue", "queueParams", "gpuList", "useGpu", "streamingSleepOnWait", *CLUSTER_ROWS,
}
STAMP = ".settings"  # file in a folder of results: what they were made with
MAX_LINKS = 8  # to reports, in the summary
QUEUE_PATIENCE_SECONDS = 3 * HEARTBEAT_SECONDS  # for what a job wrote on another machine


class ProtFamlBase(EMProtocol, ProtTomoBase):
    """Base of all protocols of the plugin; it has no label, so Scipion does not list it."""

    _devStatus = NEW

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # pyworkflow 3.11 drops both, so labels of workflow templates would be lost.
        if kwargs.get("objLabel"):
            self.setObjLabel(kwargs["objLabel"])
        if kwargs.get("objComment"):
            self.setObjComment(kwargs["objComment"])

    # -------------------------------------------------------------------------------- status
    def run(self):
        """Run all steps; extra/status.json says how it goes and how it ended."""
        self._runStatus = RunStatus(self)
        self._runStatus.begin()
        try:
            super().run()
        finally:
            self._runStatus.end()

    def setAborted(self):
        """Note that the run was stopped, also in extra/status.json: it was killed and cannot."""
        super().setAborted()
        note_stop(self)

    def count(self, **counts):
        """Say in extra/status.json how many there are of what, for example tomograms=3."""
        self._runStatus.count(**counts)

    # ------------------------------------------------------------------------------ commands
    def runVerb(self, verb, *arguments, **options):
        """Run `python -m scipion_faml VERB ARGUMENTS --option value ...` and wait for it.

        An option that is None or False is left out, True is a flag, a list repeats the option.
        The command's log goes to the run's log; its one-line error becomes the run's error.
        """
        command = ["-m", "scipion_faml", verb, *map(str, arguments), *_as_options(options)]
        error_file = Path(self._getTmpPath(f"{verb}-{os.getpid()}-{id(command)}.err")).resolve()
        environment = Environ(self._getEnviron() or os.environ)
        environment["FAML_ERROR_FILE"] = str(error_file)
        environment[STATUS_FILE] = str(self._runStatus.path)
        environment.update(self._gpuVariables())
        # 2>&1: the command logs to stderr, which Scipion shows as errors.
        line = shlex.join(command) + " 2>&1"
        self._runStatus.command(verb)
        try:
            if self.useQueueForSteps():
                self._runInQueue(line, environment, error_file.with_suffix(".exit"))
            else:
                self.runJob(shlex.quote(sys.executable), line, env=environment, numberOfMpi=1)
        except subprocess.CalledProcessError as error:
            message = error_file.read_text().strip() if error_file.exists() else (
                f"scipion-faml {verb} stopped with status {error.returncode}: see the output log")
            raise PyworkflowException(message) from None

    def _runInQueue(self, line, environment, exit_file):
        """Run a command as a job of its own; Scipion does not ask how a job ended.

        Raises
        ------
        CalledProcessError
            If the command failed.
        PyworkflowException
            If the job is gone and left nothing.
        """
        exit_file.unlink(missing_ok=True)
        self.runJob(
            shlex.quote(sys.executable), f"{line}; echo $? > {shlex.quote(str(exit_file))}",
            env=environment, numberOfMpi=1)
        if not self._isThere(exit_file):
            raise PyworkflowException(
                "the queue's job ended before its command did (killed, out of time or memory?): "
                f"see {self._getLogsPath()}; Continue goes on")
        status = int(exit_file.read_text())
        if status:
            raise subprocess.CalledProcessError(status, line)

    def _isThere(self, exit_file):
        """Wait for a file of a job that the queue does not know any more; return whether it came.

        A queue that does not answer looks as if the job had ended: while the command writes its
        status it has not.
        """
        alive, seen = time.monotonic(), None
        while not _has_text(exit_file):
            stamp = _stamp_of(self._runStatus.path)
            if stamp != seen:
                alive, seen = time.monotonic(), stamp
            if time.monotonic() - alive > QUEUE_PATIENCE_SECONDS:
                return False
            time.sleep(1.0)
        return True

    def getProtocolsToUpdate(self):
        """Return the ids of all runs that this one depends on, for Scipion's scheduler.

        Its own list ends with the runs that made the inputs of the inputs; but subtomograms lead
        to positions, and these to tomograms.
        """
        above, waiting = {}, [self]
        while waiting:
            for _, pointer in waiting.pop().iterInputAttributes():
                source = pointer.getObjValue()
                if isinstance(source, Protocol) and source.getObjId() not in above:
                    above[source.getObjId()] = source
                    waiting.append(source)
        return list(dict.fromkeys([*super().getProtocolsToUpdate(), *above]))

    def getSubmitDict(self):
        """Return Scipion's variables of a queue's job; JOB_THREADS counts the commands' threads.

        Scipion's own number is that of steps at a time, where a protocol has such.
        """
        variables = super().getSubmitDict()
        if self.modeParallel() and "JOB_THREADS" not in self.getQueueParams()[1]:
            at_once = max(1, self.numberOfThreads.get() - 1)
            if variables[QUEUE_FOR_JOBS] == "Y":
                at_once = 1
            variables["JOB_THREADS"] = at_once * max(1, self.getBinThreads())
            variables["JOB_CORES"] = variables["JOB_NODES"] * variables["JOB_THREADS"]
        return variables

    def _gpuVariables(self):
        """Return the environment that shows a command the GPUs of its step only."""
        if not self.allowsGpu() or not self.useGpu.get():
            return {}
        gpus = self._stepsExecutor.getGpuListStr(",")
        return {"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}

    def device(self):
        """Return --device of a command that can use a GPU."""
        return "auto" if self.useGpu.get() else "cpu"

    def programThreads(self):
        """Threads for one command."""
        return max(1, self.numberOfThreads.get())

    # ------------------------------------------------------------------------------- settings
    def settingsFingerprint(self, *besides, growing=()):
        """Return a hash of the form and of the input sets: an argument of every step.

        Scipion skips a finished step on Continue when its name and arguments are the same,
        whatever the form now says. `besides` names rows that may change without a new start,
        `growing` inputs to which more may come.
        """
        settings = {}
        for name, attribute in self.iterDefinitionAttributes():
            if name in NOT_SETTINGS or name in besides:
                continue
            if isinstance(attribute, PointerList):
                settings[name] = [_stamp(pointer) for pointer in attribute]
            else:
                settings[name] = (
                    _stamp(attribute, name in growing) if attribute.isPointer()
                    else attribute.get())
        text = json.dumps(settings, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def resultsFolder(self, settings, name="results"):
        """Return the extra folder `name`, emptied if it holds results of other settings."""
        folder = Path(self._getExtraPath(name))
        stamp = folder / STAMP
        if folder.exists() and not (stamp.exists() and stamp.read_text() == settings):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        stamp.write_text(settings)
        return folder

    def tiltRangeGiven(self):
        """Return the tilt range typed into the form, or None to take the acquisition's."""
        low, high = self.tiltMin.get(), self.tiltMax.get()
        return None if low is None or high is None else MissingWedge(low, high)

    # -------------------------------------------------------------------- one tomogram at a time
    @staticmethod
    def tomogramOf(tomograms, ts_id):
        """Return the tomogram with this tilt series id (cloned).

        Raises
        ------
        PyworkflowException
            If there is none.
        """
        # A search of the set for an id that it lacks ends in an UnboundLocalError.
        for tomogram in clones(tomograms):
            if tomogram.getTsId() == ts_id:
                return tomogram
        raise PyworkflowException(f"no tomogram has the tilt series id {ts_id}")

    @contextmanager
    def failureRecorded(self, ts_id):
        """Keep a tomogram's error in a file, so that the other tomograms go on."""
        path = self._failureFile(ts_id)
        path.unlink(missing_ok=True)
        try:
            yield
        except (PyworkflowException, ValueError, OSError) as error:
            path.write_text(str(error))
            self.info(f"{ts_id} failed: {error}")

    def _failureFile(self, ts_id):
        return Path(self._getExtraPath(f"{ts_id}.failed"))

    def failureOf(self, ts_id):
        """Return a tomogram's error, or an empty text."""
        path = self._failureFile(ts_id)
        return path.read_text() if path.is_file() else ""

    def _failures(self):
        return {path.stem: path.read_text()
                for path in sorted(Path(self._getExtraPath()).glob("*.failed"))}

    def forgetFailures(self):
        """Remove what an earlier run said of tomograms that failed."""
        for path in Path(self._getExtraPath()).glob("*.failed"):
            path.unlink()

    def failureLines(self):
        """Return a line of the summary for every tomogram that failed."""
        return [f"*{ts_id} failed:* {text}" for ts_id, text in self._failures().items()]

    def raiseIfAllFailed(self, n_results):
        """Raise the first tomogram's error when nothing came out of any."""
        failures = self._failures()
        if n_results == 0:
            raise PyworkflowException(
                next(iter(failures.values())) if failures else
                "nothing was found in any tomogram: see the output log")

    # ----------------------------------------------------------------------------- validation
    def checkSubtomograms(self, images, n_needed, errors):
        """Add to `errors` what is wrong with a set of subtomograms (cheap: one header is read)."""
        n_particles = images.getSize()
        if n_particles < n_needed:
            errors.append(
                f"{n_particles} subtomogram(s) in the set: at least {n_needed} are needed.")
        if not images.getSamplingRate() or images.getSamplingRate() <= 0:
            errors.append("The set of subtomograms has no voxel size: import or extract it again.")
        shape = images.getDim()
        if shape and len(set(shape)) != 1:
            errors.append(f"The subtomograms measure {shape} voxels (x, y, z): a cube is needed.")
        self.checkTiltRange(images, errors)

    def checkTiltRange(self, images, errors):
        """Add to `errors` what is wrong with the tilt range, given or of the acquisition."""
        low, high = self.tiltMin.get(), self.tiltMax.get()
        if (low is None) != (high is None):
            errors.append("Give both the smallest and the largest tilt, or neither.")
            return
        try:
            wedge = self.tiltRangeGiven() or tilt_range_of(images)
        except ValueError as error:
            errors.append(_sentence(error))
            return
        if wedge is None:
            errors.append(
                "The acquisition has no tilt range (or 0 to 0 degrees): give the smallest and the "
                "largest tilt (deg) in the form; -90 and 90 if nothing is missing.")

    # -------------------------------------------------------------------------------- reports
    def reportPaths(self):
        """Return the reports that the commands of this run have left so far, the oldest first."""
        paths = Path(self._getExtraPath()).rglob("*.html")
        return sorted(paths, key=lambda path: (path.stat().st_mtime, str(path)))

    def _reportName(self, path):
        """Return what a report is of: a tomogram, or a part of the run."""
        first, *rest = path.relative_to(self._getExtraPath()).parts
        if rest and first != "results":
            return first
        stem = path.name.removesuffix(".html").removesuffix(".report")
        return "results" if stem == "report" else stem

    def summary(self):
        """Return Scipion's summary, and links that open the reports in a browser."""
        paths = self.reportPaths()
        # The window looks for a file; its own folder is the project's, others may have another.
        links = [f"[[{path.resolve()}][{self._reportName(path)}]]" for path in paths]
        more = f" and {len(links) - MAX_LINKS} more" if len(links) > MAX_LINKS else ""
        line = f"Report: {', '.join(links[:MAX_LINKS])}{more}" if links else ""
        return [*super().summary(), *([line] if line else [])]

    # ------------------------------------------------------------------------------- messages
    def notReady(self):
        """Return the summary of a run without outputs yet."""
        return ["Output not ready yet."]

    def _citations(self):
        return ["Zhao2018"]


def _has_text(path):
    return path.is_file() and path.stat().st_size > 0


def _stamp_of(path):
    """What changes when a file is written; None while there is none."""
    return path.stat().st_mtime_ns if path.is_file() else None


def _as_options(options):
    """Return command line words: {'max_shift': 3} becomes --max-shift 3."""
    words = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            words.append(flag)
        else:
            values = value if isinstance(value, (list, tuple)) else [value]
            for one in values:
                words += [flag, str(one)]
    return words


def _stamp(pointer, may_grow=False):
    """What identifies the object behind a pointer, and changes when it is made again.

    Of an object that may grow its file says nothing.
    """
    target = pointer.get()
    if target is None:
        return None
    stamp = [pointer.getObjValue().getObjId(), pointer.getExtended()]
    if may_grow:
        return stamp
    file_name = target.getFileName() if hasattr(target, "getFileName") else None
    if file_name and Path(file_name).is_file():
        state = Path(file_name).stat()
        stamp += [file_name, state.st_size, int(state.st_mtime)]
    return stamp


def _sentence(error):
    text = str(error)
    return text[0].upper() + text[1:] + "."


# ------------------------------------------------------------------------------------- GPU
def add_gpu(form):
    """Hidden rows by which Scipion hands out GPUs."""
    form.addHidden(params.USE_GPU, params.BooleanParam, default=True, label="Use GPU?",
                   help="Where there is none the processor works.")
    form.addHidden(params.GPU_LIST, params.StringParam, default="0", label="Choose GPU IDs")


# -------------------------------------------------------------------------------- form rows
def add_structures(form, counts_help, condition="True"):
    """Rows that say which structures to simulate, and how many of each."""
    form.addParam(
        "structures", params.StringParam, default="ribosome, groel", important=True,
        label="Structures", condition=condition,
        help="Names or files, separated by commas. Names: ribosome (70S), ribosome-80s, groel, "
             "groel-groes, tric, proteasome, apoferritin, blobs:1, blobs:2, ... (a test object). "
             "Files: atomic models (PDB, mmCIF) or "
             "density maps (MRC, bright density).")
    form.addParam("counts", params.StringParam, default="40", label="Particles", help=counts_help,
                  condition=condition)


def add_imaging(form, snr, defocus):
    """Rows of a simulated tilt series, with the defaults of the data it makes."""
    form.addParam("voxelSize", params.FloatParam, default=13.7, validators=[params.GT(0)],
                  label="Voxel size (Å)",
                  help="Of what is simulated; detail finer than two voxels is left out.")
    line = form.addLine("Tilt series (deg)", help="Smallest and largest tilt, and the step.")
    line.addParam("tiltMin", params.FloatParam, default=-60.0, label="from")
    line.addParam("tiltMax", params.FloatParam, default=60.0, label="to")
    line.addParam("tiltStep", params.FloatParam, default=3.0, label="step")
    form.addParam("snr", params.FloatParam, default=snr, validators=[params.GT(0)],
                  label="Signal-to-noise ratio",
                  help="Variance of the signal over variance of the noise: in the tilt images with "
                       "optics, in the volume without.")
    form.addParam(
        "optics", params.EnumParam, default=0, label="Imaging",
        choices=["tilt series with CTF", "white noise and missing wedge only"],
        help="Projections with CTF, noise and detector, reconstructed; or, faster and simpler, "
             "noise on the density, whose missing wedge is then cut out.")
    form.addParam("defocus", params.FloatParam, default=defocus, label="Defocus (µm)",
                  condition="optics==0",
                  help="Underfocus is positive. 300 kV and Cs 2.7 mm are assumed.")
    form.addParam("seed", params.IntParam, default=0, expertLevel=params.LEVEL_ADVANCED,
                  label="Random seed", help="The same seed gives the same data.")


def add_tilt_range(form):
    """Rows that overrule the tilt range of the acquisition."""
    line = form.addLine(
        "Tilt range (deg)",
        help="Leave empty to use the acquisition's; the wizard shows it. It defines the missing "
             "wedge; the tilt axis is y, the beam z.")
    line.addParam("tiltMin", params.FloatParam, allowsNull=True, label="smallest")
    line.addParam("tiltMax", params.FloatParam, allowsNull=True, label="largest")


def add_mask(form, note=""):
    """Row of a mask that multiplies averages."""
    form.addParam(
        "inputMask", params.PointerParam, allowsNull=True, expertLevel=params.LEVEL_ADVANCED,
        pointerClass="VolumeMask, Volume, SubTomogram", label="Mask",
        help=f"Optional map from 0 to 1 that multiplies the averages, not their halves. {note}")


def words_of(text):
    """Return the comma-separated words of a form row."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def numbers_of(text):
    """Return the comma-separated numbers of a form row; all must be positive.

    Raises
    ------
    ValueError
        If a word is no positive number.
    """
    numbers = []
    for word in words_of(text):
        try:
            number = float(word)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            raise ValueError(f"'{word}' is no positive number")
        numbers.append(number)
    return numbers


def counts_for(structures, counts):
    """Return one count for each structure: as many as given, or the one given for all.

    Raises
    ------
    ValueError
        If a count is no positive whole number or their number fits neither.
    """
    numbers = []
    for word in counts:
        if not word.isdigit() or int(word) < 1:
            raise ValueError(f"'{word}' is no number of particles: give positive whole numbers")
        numbers.append(int(word))
    if len(numbers) == 1:
        numbers *= len(structures)
    if len(numbers) != len(structures):
        raise ValueError(
            f"{len(numbers)} numbers of particles for {len(structures)} structures: give one for "
            "all, or one each")
    return numbers


def check_tomograms(tomograms, errors):
    """Add to `errors` what is wrong with a set of tomograms (cheap: no file is read)."""
    if tomograms.getSize() < 1:
        errors.append("The set of tomograms is empty.")
    if not (tomograms.getSamplingRate() or 0) > 0:
        errors.append("The tomograms have no voxel size: import them again.")


def check_simulation(structures, counts, tilts, errors):
    """Add to `errors` what is wrong with the rows of a simulation."""
    if not structures:
        errors.append("Name at least one structure.")
        return
    try:
        counts_for(structures, counts)
        MissingWedge(*tilts)
    except ValueError as error:
        errors.append(_sentence(error))

