"""The report.html that every verb leaves beside its results: what was run, and what came out.

A verb that works through `runs.run_once` leaves one without a line of its own: command, options
with units, inputs, versions, machine, time, everything that was logged as a warning, the numbers
it prints, and how to cite. To show results as well, add inside its `work`:

    run.report.title = "Subtomograms cut out of a tomogram"
    run.report.say_in_short(f"{n} particles of {box} voxels.")
    run.report.draw("Particles", "Central slices of some.", plots.particles, volumes)

`draw` takes the function of `scipion_faml.plots` and its arguments, so that nothing is drawn where
no report is wanted (--no-report, or FAML_NO_REPORT=1), and a picture that fails is a warning and
not the end of the run. Verbs that judge results and have --report use `evaluation.evaluate_once`,
which hands their `work` such a report.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import re
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pandas as pd
from click.core import ParameterSource

from scipion_faml import __version__
from scipion_faml.cli.invocation import Invocation, invocation_of
from scipion_faml.io import read_header
from scipion_faml.report import OWN_CITATION, Report
from scipion_faml.tables import read_particles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

FIRST_REFRESH_SECONDS = 10.0  # a run that is shorter has one report, at its end
REFRESH_SECONDS = 30.0  # at least, between two writings of the report of a run that goes on
REFRESH_COSTS = 20.0  # and so many times as long as a writing takes
PACKAGES = ("numpy", "scipy", "pandas", "mrcfile", "matplotlib", "ducc0")
MAX_ENTRIES = 12  # of a list in the table of numbers
MAX_INPUTS = 50
HIDDEN = {"as_json", "overwrite"}  # options that say nothing about the result

# What a verb builds on, besides the paper of the whole.
CITED = {
    "classify": ("Frazier2017", "Scheres2009"),
    "align": ("Frazier2017",),
    "pick-dog": ("Voss2009",),
}
UNITS = (
    (r"\bangstroms?\b|Å", "Å"), (r"\bvoxels?\b", "voxels"), (r"\bdeg(rees?)?\b", "°"),
    (r"\bmicrometres?\b", "µm"), (r"\bseconds?\b", "s"),
)


# ------------------------------------------------------------------------------------- report
class RunReport(Report):
    """The report of one call of a verb.

    Parameters
    ----------
    path : Path or None
        Where it is written; None: nowhere, and nothing is drawn.
    verb : str
    output : Path or None
        What the run made, named on top of the page.
    inputs : mapping
        Input files and hashes of their content.
    is_asked_for : bool
        Its file was named (--report): --no-report does not mean it.
    """

    def __init__(
        self, path: Path | None, verb: str, output: Path | None = None,
        inputs: Mapping[str, str] | None = None, is_asked_for: bool = False,
    ) -> None:
        super().__init__(verb)
        self._verb, self._output, self.inputs = verb, output, inputs or {}
        self._context = click.get_current_context(silent=True)
        self._invocation = invocation_of(self._context)
        self.path = path if is_asked_for or self._invocation.is_report_wanted else None
        self._short: tuple[Sequence[str], bool] | None = None
        self._short_pictures: list[tuple[Figure, str]] = []
        self._asked = time.monotonic()
        self._refresh_from = self._asked + FIRST_REFRESH_SECONDS

    @property
    def is_wanted(self) -> bool:
        """Whether it is written: what is only made for it may be left out otherwise."""
        return self.path is not None

    # ------------------------------------------------------------------------------ contents
    def say_in_short(self, *lines: str, nothing: bool = False) -> None:
        """Answer "did it work?" in two to four lines; `nothing`: nothing came out.

        Warnings change the badge by themselves.
        """
        self._short = lines, nothing

    def draw_in_short(
        self, caption: str, function: Callable[..., Figure], *arguments: Any, **options: Any
    ) -> None:
        """Add the picture to those lines that `function(*arguments, **options)` returns."""
        figure = self._figure(function, arguments, options)
        if figure is not None:
            self._short_pictures.append((figure, caption))

    def draw(
        self, heading: str, caption: str, function: Callable[..., Figure], *arguments: Any,
        **options: Any,
    ) -> None:
        """Add the figure that `function(*arguments, **options)` returns.

        Without a heading it stands beside the one before.
        """
        figure = self._figure(function, arguments, options)
        if figure is not None:
            self.add_figure(figure, caption, heading)

    def _figure(
        self, function: Callable[..., Figure], arguments: Sequence[Any], options: Mapping[str, Any]
    ) -> Figure | None:
        if not self.is_wanted:
            return None
        try:
            return function(*arguments, **options)
        except Exception as error:  # hours of work are not lost for a picture
            name = getattr(function, "__name__", "picture")
            logger.warning("the report lacks a picture (%s): %s", name, error, exc_info=True)
            return None

    def restart(self) -> RunReport:
        """Forget all sections: the page is made anew."""
        super().restart()
        self._short, self._short_pictures = None, []
        return self

    # -------------------------------------------------------------------------------- writing
    def clear(self) -> None:
        """Remove the report of an earlier run in the same place."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def is_due(self) -> bool:
        """Whether a run that goes on should refresh its report by now."""
        self._asked = time.monotonic()
        return self.is_wanted and self._asked >= self._refresh_from

    def refresh(self) -> None:
        """Write the report of a run that goes on, with what was added; then start anew.

        The next is due when this one's cost is a small part of the time between them.
        """
        if self.path is not None:
            for warning in self._invocation.warnings:
                self.add_warning(warning)
            self._write("running", self._short[0] if self._short else ["It has begun."], {})
        self.restart()
        now = time.monotonic()
        self._refresh_from = now + max(REFRESH_SECONDS, REFRESH_COSTS * (now - self._asked))

    def complete(self, result: Mapping[str, Any]) -> None:
        """Write the report of a run that ended with `result`."""
        if self.path is None:
            return
        for warning in [*result.get("warnings", []), *self._invocation.warnings]:
            self.add_warning(str(warning))
        lines, is_nothing = self._short or ((_numbers_in_words(result),), False)
        state = "nothing" if is_nothing else "doubt" if self.warnings else "finished"
        self._write(state, lines, result)

    def _write(self, state: str, lines: Sequence[str], result: Mapping[str, Any]) -> None:
        self.in_short(lines, state, self._short_pictures)
        numbers = numbers_of(result)
        if numbers:
            self.add_table("Numbers", numbers)
        self._add_provenance()
        if self.path is not None:
            self.write(self.path)

    # ----------------------------------------------------------------------------- provenance
    def _add_provenance(self) -> None:
        """What was run, with what, on what, and how to cite it."""
        made = [str(self._output.resolve())] if self._output else []
        self.subtitle = " · ".join([f"scipion-faml {self._verb}", *made])
        if self._context is not None:
            self.add_code(command_line(self._context), "What was run")
            self.add_text(f"In {Path.cwd()}")
            self.add_table("Settings", settings_table(self._context))
        if self.inputs:
            self.add_table("Input", inputs_table(self.inputs))
        self.add_table("Machine and versions", {
            **_times(self._invocation), **_machine(), **_versions()})
        self.add_citations([OWN_CITATION, *CITED.get(self._verb, ())])


# ------------------------------------------------------------------------------------ numbers
def numbers_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a result that fit into a table: no curves, no long lists."""
    return {key: value for key, value in result.items()
            if key != "warnings" and value is not None and _is_short(value)}


def _is_short(value: Any) -> bool:
    if isinstance(value, Mapping):
        return len(value) <= MAX_ENTRIES and all(
            not isinstance(item, (Mapping, list)) for item in value.values())
    if isinstance(value, (list, tuple)):
        return len(value) <= MAX_ENTRIES and not any(
            isinstance(item, (Mapping, list)) for item in value)
    return True


def _numbers_in_words(result: Mapping[str, Any]) -> str:
    """A line for a verb that says nothing itself."""
    counts = [f"{key.removeprefix('n_').replace('_', ' ')}: {value}"
              for key, value in result.items() if isinstance(value, int)]
    return "; ".join(counts[:4]) or "The run has finished."


# ----------------------------------------------------------------------------------- settings
def command_line(context: click.Context) -> str:
    """Return the command as it could be typed again: the options that were given."""
    words = ["scipion-faml", str(context.info_name)]
    arguments = []
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if isinstance(parameter, click.Argument):
            arguments += _as_words(value)
        elif _is_given(context, parameter):
            words += _option_words(parameter, value)
    return " ".join(shlex.quote(word) for word in [*words[:2], *arguments, *words[2:]])


def _option_words(parameter: click.Parameter, value: Any) -> list[str]:
    """An option and its value, or values."""
    name = max(parameter.opts, key=len)
    if isinstance(value, bool):
        if not value and parameter.secondary_opts:
            return [parameter.secondary_opts[0]]
        return [name] if value else []
    if isinstance(parameter, click.Option) and parameter.multiple:
        return [word for one in value for word in (name, *_as_words(one))]
    if isinstance(value, tuple):  # one text such as 64,64,32
        return [name, ",".join(map(str, value))]
    return [name, *_as_words(value)]


def _as_words(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, (list, tuple)) else [str(value)]


def _is_given(context: click.Context, parameter: click.Parameter) -> bool:
    return context.get_parameter_source(str(parameter.name)) in (
        ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def settings_table(context: click.Context) -> pd.DataFrame:
    """Return every option with its value, unit and meaning; those that were given come first."""
    rows = []
    for parameter in context.command.params:
        name = str(parameter.name)
        if not isinstance(parameter, click.Option) or name not in context.params.keys() - HIDDEN:
            continue
        is_given = _is_given(context, parameter)
        meaning = " ".join((parameter.help or "").split())
        rows.append({
            "option": max(parameter.opts, key=len),
            "value": _shown(context.params[name], meaning),
            "unit": unit_of(parameter, meaning),
            "": "given" if is_given else "default",
            "meaning": re.sub(r"\s*\[default: [^]]*\]", "", meaning),
        })
    rows.sort(key=lambda row: row[""] != "given")
    return pd.DataFrame(rows)


def _shown(value: Any, meaning: str) -> str:
    """A value as a reader wants it; where there is none, what the verb takes instead."""
    if value is None or value == ():
        known = re.search(r"\[default: ([^]]*)\]", meaning)
        return f"({known[1]})" if known else "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def unit_of(parameter: click.Option, meaning: str) -> str:
    """Return the unit of an option that is a number: the first that its help names."""
    kind = parameter.type
    if not isinstance(kind, (click.types.FloatParamType, click.types.IntParamType)):
        return ""
    found = [(match.start(), unit) for pattern, unit in UNITS
             if (match := re.search(pattern, meaning, re.IGNORECASE))]
    return min(found)[1] if found else ""


# ------------------------------------------------------------------------------------- inputs
def inputs_table(inputs: Mapping[str, str]) -> pd.DataFrame:
    """Return the input files: what is in them, voxel size, and a hash of their content."""
    rows = [{"file": path, **describe(Path(path)), "content (SHA-256)": stamp}
            for path, stamp in list(inputs.items())[:MAX_INPUTS]]
    return pd.DataFrame(rows).fillna("")


def describe(path: Path) -> dict[str, str]:
    """Return what a file holds, in words, and its voxel size (angstrom) where it has one."""
    try:
        if path.suffix == ".star":
            return _describe_particles(path)
        if path.suffix in {".mrc", ".mrcs", ".rec", ".map", ".st"}:
            shape, voxel_size = read_header(path)
            size = " x ".join(map(str, shape[::-1]))
            return {"holds": f"{size} voxels", "voxel size (Å)": f"{voxel_size:.4g}"}
        return {"holds": f"{path.stat().st_size / 1e6:.3g} MB", "voxel size (Å)": ""}
    except (OSError, ValueError):  # a file that has gone since, or of another kind
        return {"holds": "", "voxel size (Å)": ""}


def _describe_particles(path: Path) -> dict[str, str]:
    table = read_particles(path)
    names = set(table.tomogram_names) - {""}
    where = f" in {len(names)} tomograms" if len(names) > 1 else ""
    box = table.optics["rlnImageSize"].iloc[0] if "rlnImageSize" in table.optics else 0
    boxes = f", box {box}" if box else ""
    try:
        voxel_size = f"{table.voxel_size_angst:.4g}"
    except ValueError:
        voxel_size = ""
    return {"holds": f"{len(table)} particles{where}{boxes}", "voxel size (Å)": voxel_size}


# ------------------------------------------------------------------------------------ machine
def _times(invocation: Invocation) -> dict[str, str]:
    """When it ran and how long."""
    started = datetime.fromtimestamp(invocation.started)
    return {
        "started": f"{started:%Y-%m-%d %H:%M:%S}",
        "took": f"{in_words(invocation.seconds())}, of processor time "
                f"{in_words(invocation.cpu_seconds())}",
        "memory at most": f"{_peak_memory_bytes() / 2**30:.2f} GiB",
    }


def _peak_memory_bytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def in_words(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _machine() -> dict[str, str]:
    """What it ran on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    said = {
        "machine": platform.node(), "system": f"{platform.system()} {platform.release()}",
        "processor": f"{_processor()}, {cores} core(s) for this run",
    }
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("PBS_JOBID") or os.environ.get("JOB_ID")
    if job:
        said["queue job"] = job
    gpu = _gpu()
    return {**said, "GPU": gpu} if gpu else said


def _processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _gpu() -> str:
    """The GPU that PyTorch would use, when the run loaded it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    return str(torch.cuda.get_device_name())


def _versions() -> dict[str, str]:
    """Versions of the packages that numbers depend on."""
    names: Iterable[str] = (*PACKAGES, "torch") if "torch" in sys.modules else PACKAGES
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"scipion-em-faml": __version__, "Python": platform.python_version(), **found}
