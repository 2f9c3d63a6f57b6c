"""The demonstration: one tomogram from simulation to evaluated class averages in a Scipion project.

Every step is a protocol launched in a process of its own, as from the project window; what is left
behind is a project that the window opens, and a report. This module needs Scipion.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scipion_faml import plots, scipion_env
from scipion_faml.cli.reporting import RunReport
from scipion_faml.io import read_cube, read_volume
from scipion_faml.tables import COORDINATES, read_particles

PROJECT = "faml_demo"
REPORT_LINE = "Report: "
STRUCTURES = ("ribosome", "groel")
SYMMETRY = "C1,D7"
VOXEL_SIZE = 13.7  # angstrom
DIAMETER = 200.0  # angstrom, between the two structures'
BOX = 24  # voxels: the ribosome and room for shifts
LOW_PASS = 40.0  # angstrom; what 13.7 A voxels and this noise can hold
RADIUS = 80.0  # angstrom within which a position counts as found


@dataclass(frozen=True)
class DemoSize:
    """How much is simulated and how long the classification goes on."""

    shape_xyz: tuple[int, int, int]
    n_each: int
    n_iterations: int
    snr: float


SIZES = {
    "small": DemoSize((144, 144, 56), 16, 30, 0.05),
    "standard": DemoSize((208, 208, 64), 40, 30, 0.04),
}


class NewProject:
    """A new Scipion project, and the protocols that run in it one after the other.

    Makes the project's folder the working folder: Scipion's paths are relative to it. An older
    project of the same name is deleted.
    """

    def __init__(self, workspace: Path, name: str, tell: Callable[[str], None]) -> None:
        scipion_env.set_up(workspace)
        import pyworkflow as pw
        from pyworkflow.project import Manager

        domain = pw.Config.getDomain()
        domain.getPlugins()
        self._protocols = domain.getProtocols()
        self._tell = tell
        shutil.rmtree(workspace / "projects" / name, ignore_errors=True)
        self.project = Manager().createProject(name)
        os.chdir(self.project.path)
        self.project.getSettings().setProtocolView("Tomography")
        self.project.saveSettings()
        self.seconds: dict[str, float] = {}

    def run(self, name: str, label: str, inputs: dict[str, tuple[Any, str]],
            **values: Any) -> Any:
        """Run a protocol to its end and return it.

        Raises
        ------
        ValueError
            If it fails, with its error message.
        """
        protocol = self.project.newProtocol(self._protocols[name], objLabel=label, **values)
        for parameter, (source, output) in inputs.items():
            getattr(protocol, parameter).set(source)
            getattr(protocol, parameter).setExtended(output)
        self._tell(label)
        start = time.monotonic()
        self.project.launchProtocol(protocol, wait=True)
        self.seconds[label] = time.monotonic() - start
        if not protocol.isFinished():
            message = re.sub(r"\x1b\[\d*m", "", protocol.getErrorMessage() or "it did not finish")
            raise ValueError(f"{label}: {message} (log: {Path(protocol.getStdoutLog()).resolve()})")
        for line in protocol.summary():
            if not line.startswith(REPORT_LINE):  # a link of the window
                self._tell("    " + line.replace("*", ""))
        return protocol


def run_demo(workspace: Path, size: DemoSize, workers: int, seed: int,
             tell: Callable[[str], None], report: RunReport | None = None) -> dict[str, Any]:
    """Build the project in `workspace`, run everything, fill the report; return the results."""
    start, folder = time.monotonic(), Path.cwd()
    try:
        demo = NewProject(workspace, PROJECT, tell)
        runs = _run_protocols(demo, size, workers, seed)
        result = _results(runs, demo.seconds)
        result["seconds"] = time.monotonic() - start
        if report is not None:
            report.say_in_short(*in_words(result))
            if report.is_wanted:
                fill_report(report, runs, result)
    finally:
        os.chdir(folder)
    return {**result, "project": workspace / "projects" / PROJECT,
            "report": workspace / "report.html"}


def _run_protocols(
    demo: NewProject, size: DemoSize, workers: int, seed: int
) -> dict[str, Any]:
    """Simulate, pick, extract, classify, evaluate; return the protocols by name."""
    x, y, z = size.shape_xyz
    threads = {"numberOfThreads": 1, "binThreads": workers}
    simulated = demo.run(
        "ProtFamlSimulateTomograms", "1 simulate a tomogram", {},
        structures=", ".join(STRUCTURES), counts=str(size.n_each), sizeX=x, sizeY=y, sizeZ=z,
        voxelSize=VOXEL_SIZE, snr=size.snr, seed=seed, **threads)
    picked = demo.run(
        "ProtFamlPickDog", "2 pick particles", {"inputTomograms": (simulated, "tomograms")},
        diameter=DIAMETER, boxSize=BOX, **threads)
    extracted = demo.run(
        "ProtFamlExtractSubtomograms", "3 extract subtomograms",
        {"inputCoordinates": (picked, "coordinates")}, doPad=True, **threads)
    classified = demo.run(
        "ProtFamlClassify", "4 classify and average",
        {"inputSubtomograms": (extracted, "subtomograms")}, numberOfClasses=2,
        numberOfIterations=size.n_iterations, lowPass=LOW_PASS, seed=seed,
        numberOfThreads=workers)
    evaluated = demo.run(
        "ProtFamlEvaluate", "5 evaluate against the truth",
        {"inputCoordinates": (picked, "coordinates"),
         "inputSubtomograms": (classified, "subtomograms"),
         "inputAverages": (classified, "averages"),
         "trueCoordinates": (simulated, "trueCoordinates"),
         "trueAverages": (simulated, "trueAverages")},
        radius=RADIUS, symmetry=SYMMETRY)
    return {"simulated": simulated, "picked": picked, "extracted": extracted,
            "classified": classified, "evaluated": evaluated}


def _results(runs: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    """The numbers of the demonstration."""
    judged = runs["evaluated"].results()
    averages = runs["evaluated"].averageResults()
    picks, classes, poses = judged["picks"], judged["classes"], judged["poses"]
    return {
        "n_particles": picks["n_truth"],
        "picks": {k: picks[k] for k in ("precision", "recall", "f1", "n_picked", "n_hit")},
        "classes": {k: classes[k] for k in ("f1_mean", "accuracy", "ari", "n_particles")},
        "poses": {k: poses[k] for k in ("rotation_median_deg", "fraction_within_20_deg")},
        "averages": {label: {k: r[k] for k in ("cc", "cc_masked", "fsc_half_angst")}
                     for label, r in averages.items()},
        "seconds_of": seconds,
    }


def result_table(result: dict[str, Any]) -> pd.DataFrame:
    """Return the results as a table to print: what was judged, measure, value."""
    rows = [
        ("positions", "precision", result["picks"]["precision"]),
        ("positions", "recall", result["picks"]["recall"]),
        ("positions", "F1", result["picks"]["f1"]),
        ("classes", "mean F1", result["classes"]["f1_mean"]),
        ("classes", "accuracy", result["classes"]["accuracy"]),
        ("orientations", "median error (deg)", result["poses"]["rotation_median_deg"]),
        ("orientations", "within 20 deg", result["poses"]["fraction_within_20_deg"]),
    ]
    for label, average in result["averages"].items():
        rows += [(label, "correlation with the true map", average["cc_masked"]),
                 (label, "FSC 0.5 against it (A)", average["fsc_half_angst"])]
    frame = pd.DataFrame(rows, columns=["of", "measure", "value"])
    frame["value"] = [f"{v:.3g}" if v is not None else "-" for v in frame["value"]]
    return frame


# ------------------------------------------------------------------------------------- report
def fill_report(report: RunReport, runs: dict[str, Any], result: dict[str, Any]) -> None:
    """Add the pictures of every step and the table of results."""
    report.title = "FAML demonstration: from a tomogram to class averages"
    report.add_text(
        f"One tomogram with {result['n_particles']} particles of {' and '.join(STRUCTURES)} was "
        "simulated, picked without a template, extracted and classified without a reference, and "
        "compared with the truth. Every step is a run in a Scipion project, with a report of its "
        "own.", "What this is")
    report.add_table("Results", result_table(result))
    report.add_figure(_picks_figure(runs), "Circles: picked positions in this slice. Crosses: "
                      "true positions.", "The tomogram")
    _add_classes(report, runs)
    _add_truth(report, runs)
    report.add_table("Seconds", {k: round(v, 1) for k, v in result["seconds_of"].items()})


def in_words(result: dict[str, Any]) -> list[str]:
    """Return what came out, in short."""
    correlations = [f"{label} {average['cc_masked']:.2f}"
                    for label, average in result["averages"].items()]
    return [
        f"{result['picks']['n_hit']} of {result['n_particles']} particles were picked (F1 "
        f"{result['picks']['f1']:.2f}); {result['classes']['accuracy']:.0%} of them came into the "
        "class of their structure.",
        f"Correlation of the averages with the true maps: {', '.join(correlations) or 'none'}."]


def _picks_figure(runs: dict[str, Any]) -> Any:
    """The slice with most picks, with picked and true positions near it."""
    name = "tomogram_01"
    volume = read_volume(runs["simulated"]._getExtraPath(f"{name}.mrc"))[0]
    picked, true = (
        read_particles(run._getExtraPath(name, table)).rows[COORDINATES].to_numpy(dtype=float)
        for run, table in ((runs["picked"], "picks.star"), (runs["simulated"], "truth.star"))
    )
    z = int(np.bincount(np.round(true[:, 2]).astype(int)).argmax())
    reach = 0.5 * DIAMETER / VOXEL_SIZE
    near, true_near = (np.abs(p[:, 2] - z) < reach for p in (picked, true))
    return plots.picks_on_slice(plots.slab(volume, z), picked[near, :2], reach,
                                truth_xy=true[true_near, :2], title=f"slice {z}")


def _add_classes(report: RunReport, runs: dict[str, Any]) -> None:
    """Averages, class sizes and convergence."""
    run = runs["classified"]
    averages = [read_cube(a.getFileName()) for a in run.averages.iterItems()]
    sizes = {c.getObjId(): c.getSize() for c in run.classes.iterItems()}
    titles = [f"class {k}: {sizes.get(k, 0)} particles" for k in range(1, len(averages) + 1)]
    report.add_figure(
        plots.class_gallery(np.stack([v for v, _ in averages]), titles, averages[0][1]),
        "As they come out of the classification: turned and shifted as a whole.", "Class averages")
    report.add_figure(plots.convergence(pd.DataFrame(run.history())),
                      "How the classification went.")


def _add_truth(report: RunReport, runs: dict[str, Any]) -> None:
    """Averages on their true maps, confusion matrix, curves."""
    judged = runs["evaluated"].results()["classes"]
    report.add_figure(
        plots.confusion(judged["confusion"], judged.get("true_names"),
                        [str(k) for k in judged["assigned_classes"]]),
        "Particles of each structure (rows) in each class (columns).", "Classes")
    results = runs["evaluated"].averageResults()
    if not results:
        return
    true_maps = {a.getObjLabel(): read_cube(a.getFileName())[0]
                 for a in runs["simulated"].trueAverages.iterItems()}
    volumes, titles = [], []
    for label, r in results.items():
        volumes.append(read_cube(Path(r["file"]).with_suffix(".mrc"))[0])
        titles.append(label)
    report.draw_in_short(
        "Class averages, superposed on their true maps; below them the true maps, without noise.",
        plots.class_gallery, np.stack([*volumes, *true_maps.values()]),
        [*titles, *(f"true map: {name}" for name in true_maps)], VOXEL_SIZE)
    curves = {label: (r["frequency_per_angst"], r["fsc"]) for label, r in results.items()}
    report.add_figure(plots.fsc_curves(curves, marks=(0.5,)),
                      "Fourier shell correlation of averages and true maps.",
                      "Averages against the truth")
