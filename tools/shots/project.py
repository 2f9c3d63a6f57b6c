"""A project with runs to look at, and protocols with inputs from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SIMULATED = "ProtFamlSimulateTomograms"
# Runs that a demo lacks: class, inputs {row: (class of the run, output)}, values.
RUNS: tuple[tuple[str, dict[str, tuple[str, str]], dict[str, Any]], ...] = (
    ("ProtFamlSimulateSubtomograms", {}, {
        "structures": "groel, ribosome", "counts": "12", "boxSize": 24, "snr": 0.5, "optics": 1}),
    ("ProtFamlGroup", {"inputSubtomograms": ("ProtFamlSimulateSubtomograms", "subtomograms")}, {}),
    ("ProtFamlAlign", {"inputSubtomograms": ("ProtFamlExtractSubtomograms", "subtomograms"),
                       "inputReference": (SIMULATED, "trueAverages.1")}, {}),
    ("ProtFamlAverage", {"inputSubtomograms": ("ProtFamlClassify", "subtomograms")}, {}),
    ("ProtFamlPickTemplate", {"inputTomograms": (SIMULATED, "tomograms"),
                              "inputTemplate": (SIMULATED, "trueAverages.1")},
     {"coarseStep": 30.0, "candidates": 40, "control": 2}),
    ("ProtFamlPickDetector", {"inputTomograms": (SIMULATED, "tomograms")}, {}),
    ("ProtFamlTrainDetector", {"inputCoordinates": (SIMULATED, "trueCoordinates")},
     {"epochs": 2, "diameters": "290, 190"}),
    ("ProtFamlExportParticles", {"inputParticles": ("ProtFamlClassify", "subtomograms")}, {}),
    ("ProtFamlValidate", {"inputAverages": ("ProtFamlClassify", "classes"),
                          "inputSubtomograms": ("ProtFamlClassify", "subtomograms")}, {}),
)
TINY: tuple[tuple[str, dict[str, tuple[str, str]], dict[str, Any]], ...] = (
    (SIMULATED, {}, {"structures": "groel, proteasome", "counts": "5", "sizeX": 88, "sizeY": 80,
                     "sizeZ": 40, "voxelSize": 20.0, "optics": 1}),
    ("ProtFamlPickDog", {"inputTomograms": (SIMULATED, "tomograms")}, {"diameter": 150.0}),
)


def newest_of_each_class(project: Any) -> list[Any]:
    """Return the newest finished run of each of our protocols."""
    newest = {}
    for run in project.getRuns():
        if type(run).__name__.startswith("ProtFaml") and run.isFinished():
            newest[type(run).__name__] = run
    return list(newest.values())


def prepared(project: Any, class_name: str) -> Any:
    """Return a new protocol, set as the run of its class was, or with inputs that fit it."""
    from pyworkflow.protocol import params

    kind = project.getDomain().getProtocols()[class_name]
    protocol = project.newProtocol(kind)
    for run in newest_of_each_class(project):
        if type(run).__name__ == class_name:
            protocol.copyDefinitionAttributes(run)
            protocol.runName.set(None)
            return protocol
    for name, _ in protocol.iterDefinitionAttributes():
        param = protocol.getParam(name)
        if not isinstance(param, params.PointerParam) or param.allowsNull.get():
            continue
        source = output_for(project, str(param.pointerClass.get()), name)
        if source is not None:
            fill(protocol, name, param, *source)
    return protocol


def fill(protocol: Any, name: str, param: Any, run: Any, output: str) -> None:
    """Point a row to an output."""
    from pyworkflow.protocol import params

    if isinstance(param, params.MultiPointerParam):
        getattr(protocol, name).append(run)
        getattr(protocol, name)[0].setExtended(output)
    else:
        getattr(protocol, name).set(run)
        getattr(protocol, name).setExtended(output)


def output_for(project: Any, classes: str, row: str) -> tuple[Any, str] | None:
    """Return the newest output of one of some classes: a true one where the row asks for truth."""
    wanted = {c.strip() for c in classes.split(",")}
    found = [(run, name) for run in newest_of_each_class(project)
             for name, output in run.iterOutputAttributes()
             if wanted & {c.__name__ for c in type(output).__mro__}]
    is_true = "true" in row.lower()
    alike = [f for f in found if ("true" in f[1].lower()) == is_true]
    return (alike or found or [None])[-1]


def copy_or_make(given: Path | None, folder: Path, is_small: bool) -> None:
    """Put a workspace with the runs to look at into `folder`."""
    is_new = is_small and not folder.exists()
    if given is not None and not folder.exists():
        shutil.copytree(given, folder, symlinks=True)
    elif not is_small and not folder.exists():
        subprocess.run([sys.executable, "-m", "scipion_faml", "demo", "--size", "small",
                        "--output", str(folder)], check=True)
    start = Path.cwd()
    try:
        add_runs(folder, TINY if is_small else RUNS, is_new)
    finally:
        os.chdir(start)


def add_runs(workspace: Path, runs: Any, is_new: bool) -> None:
    """Run what the project of a workspace lacks; a run that fails is told and left out."""
    from scipion_faml import scipion_env

    scipion_env.set_up(workspace)
    import pyworkflow as pw
    from pyworkflow.project import Manager, Project

    domain = pw.Config.getDomain()
    domain.getPlugins()
    kinds = domain.getProtocols()
    if is_new:
        workspace.mkdir(parents=True, exist_ok=True)
        project = Manager().createProject("faml_demo")
        os.chdir(project.path)
    else:
        project = Project(domain, str(scipion_env.only_project(workspace)))
        project.load()
        os.chdir(project.path)
    for class_name, inputs, values in runs:
        there = {type(run).__name__: run for run in newest_of_each_class(project)}
        if class_name in there or any(source not in there for source, _ in inputs.values()):
            continue
        protocol = project.newProtocol(kinds[class_name], **values)
        for row, (source, output) in inputs.items():
            fill(protocol, row, protocol.getParam(row), there[source], output)
        project.launchProtocol(protocol, wait=True)
        state = "finished" if protocol.isFinished() else f"FAILED: {protocol.getErrorMessage()}"
        print(f"{class_name}: {state}", flush=True)
        if not protocol.isFinished():
            project.deleteProtocol(protocol)
        project.getRuns(refresh=True)
