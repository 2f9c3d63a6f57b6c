"""The verb noise-control: a finished classification once more, on particles without structure."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml import checkpoint, plots
from scipion_faml.cli.averaging import load_mask
from scipion_faml.cli.classify import Engine, classify_particles
from scipion_faml.cli.cluster import Cluster, cluster_options
from scipion_faml.cli.common import SEED, common_options, plain
from scipion_faml.cli.reporting import RunReport
from scipion_faml.cli.runs import Run, file_stamp, run_once
from scipion_faml.cli.validation import run_record
from scipion_faml.disk import replacing
from scipion_faml.io import read_cube
from scipion_faml.model import FamlConfig
from scipion_faml.noise_control import PhaseRandomised, most_alike, verdict
from scipion_faml.sources import open_source
from scipion_faml.tables import read_particles
from scipion_faml.types import FloatArray


@dataclasses.dataclass(frozen=True, eq=False)
class _Original:
    """A finished run of classify."""

    folder: Path
    settings: dict[str, Any]
    result: dict[str, Any]

    @staticmethod
    def of(folder: Path) -> _Original:
        """From its record."""
        record = run_record(folder)
        settings, result = record.get("settings", {}), record.get("result")
        if settings.get("verb") != "classify" or result is None:
            raise ValueError(f"{folder} holds no finished run of classify (run.json): give its "
                             "output folder")
        return _Original(folder, settings, result)

    def config(self, iterations: int | None) -> FamlConfig:
        """The settings of the run; at most as many iterations as it took."""
        known = {f.name for f in dataclasses.fields(FamlConfig)}
        values = {k: v for k, v in self.settings.items() if k in known}
        return FamlConfig(**{
            **values, "n_iterations": iterations or int(self.result["iterations"])})

    def inputs(self) -> tuple[Path, list[Path], Path | None]:
        """Particles, references and mask of the run, which must not have changed since."""
        paths = [Path(p) for p in self.settings["inputs"]]
        for path, stamp in self.settings["inputs"].items():
            if not Path(path).is_file():
                raise FileNotFoundError(f"{path}, an input of {self.folder}, does not exist: call "
                                        "from the folder that classify was called from")
            if file_stamp(path) != stamp:
                raise ValueError(f"{path} has changed since {self.folder} was made: run classify "
                                 "again")
        mask = Path(self.settings["mask"]) if self.settings.get("mask") else None
        return paths[0], [p for p in paths[1:] if p != mask], mask

    def averages(self) -> FloatArray:
        """Its class averages (K, n, n, n)."""
        files = sorted(f for f in self.folder.glob("class_[0-9]*.mrc") if f.stem[6:].isdecimal())
        if not files:
            raise ValueError(f"{self.folder} holds no averages: run classify again")
        return np.stack([read_cube(f)[0] for f in files])


@click.command("noise-control")
@click.argument("classified", metavar="RUN", type=click.Path(path_type=Path, file_okay=False))
@click.option("--iterations", type=click.IntRange(min=1), default=None,
              help="At most.  [default: as many as RUN took]")
@click.option("--phase-seed", default=0, show_default=True, type=SEED,
              help="Seed of the random phases.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("noise-control"),
              show_default=True, help="Folder.")
@cluster_options
@common_options
def noise_control(
    classified: Path, iterations: int | None, phase_seed: int, output: Path, cluster: Cluster,
    as_json: bool, overwrite: bool,
) -> None:
    """Repeat a finished classify run on phase-randomised particles: does a structure appear?

    RUN is the output folder of classify; its settings, references and mask are used again. Every
    particle keeps the amplitudes of its Fourier samples, and with them its missing wedge, but holds
    no structure. Writes what classify writes, and verdict.json. A killed run goes on from its last
    iteration.

    JSON: verdict (one line), structure_from_noise, reasons, run_log_evidence_per_particle and
    run_resolution_angst (of RUN), averages (class, most_alike, cc_masked, cc_no_radial: with the
    average of RUN that each of the control's resembles most), and of the control what classify
    reports: log_evidence_per_particle (enhanced mode), resolution_angst (FSC 0.143 of the halves;
    null: they agree in nothing), class_sizes and so on.
    """
    original = _Original.of(classified)
    config = original.config(iterations)
    particles, references, mask = original.inputs()
    settings = {**{k: v for k, v in original.settings.items() if k not in ("verb", "inputs")},
                "phase_seed": phase_seed, "n_iterations": config.n_iterations}
    inputs = [particles, *references, *([mask] if mask else []), classified / "run.json"]
    run = Run("noise-control", output, settings, inputs, overwrite)
    if overwrite:
        checkpoint.remove_all(output)

    def work() -> dict[str, Any]:
        table = read_particles(particles)
        source = open_source(table)
        config.check_size(len(source))
        n_bytes = cluster.cache_bytes(config, source.n, source.voxel_size_angst)
        with cluster.opened() as executor:
            engine = Engine(PhaseRandomised(source, phase_seed), config, executor,
                            load_mask(source, mask), n_bytes)
            found = classify_particles(table, engine, run, tuple(references))
        # That the control itself holds no structure is what it should be.
        warnings = [text for text in found["warnings"] if not text.startswith(found["verdict"])]
        result = {**found, **_judged(original, found, output), "warnings": warnings}
        with replacing(output / "verdict.json") as temporary:
            temporary.write_text(json.dumps(
                plain({k: v for k, v in result.items() if k in _VERDICT_KEYS}), indent=1))
        _show(run.report, original, result, output)
        return result

    run_once(run, work, as_json)


_VERDICT_KEYS = ("verdict", "structure_from_noise", "reasons", "averages",
                 "run_log_evidence_per_particle", "run_resolution_angst")


def _judged(original: _Original, found: dict[str, Any], output: Path) -> dict[str, Any]:
    """What the control says of the run."""
    controls = _Original(output, {}, found).averages()
    alike = most_alike(controls, original.averages())
    resolution, of_run = (_number(r.get("halves_resolution_angst", r.get("resolution_angst")))
                          for r in (found, original.result))
    evidence = found.get("log_evidence_per_particle")
    said = verdict(evidence, original.result.get("log_evidence_per_particle"), resolution, of_run,
                   alike)
    return {
        "verdict": said.text, "structure_from_noise": said.is_from_noise,
        "reasons": list(said.reasons),
        "averages": [
            {"class": one.control, "most_alike": one.original, "cc_masked": one.cc_masked,
             "cc_no_radial": one.cc_no_radial} for one in alike],
        "run_log_evidence_per_particle": original.result.get("log_evidence_per_particle"),
        "run_resolution_angst": of_run,
    }


def _number(value: Any) -> float:
    """A number of a record; NaN for null."""
    return float("nan") if value is None else float(value)


def _curves(folder: Path, name: str) -> dict[str, Any]:
    """The FSC of a run's halves, where it wrote them."""
    path = folder / "fsc.csv"
    if not path.is_file():
        return {}
    table = pd.read_csv(path)
    return {f"{name}, {column.replace('_', ' ')}": (table["frequency_per_angst"], table[column])
            for column in table if column.startswith("class_") and "uncorrected" not in column}


def _show(report: RunReport, original: _Original, result: dict[str, Any], output: Path) -> None:
    """The verdict on top of what classify shows."""
    report.title = "Noise control"
    evidence = [result.get("log_evidence_per_particle"), result["run_log_evidence_per_particle"]]
    lines = [f"Verdict: {result['verdict']}."]
    if None not in evidence:
        lines.append(f"Log evidence of a particle: control {evidence[0]:.2f}, run "
                     f"{evidence[1]:.2f}.")
    report.say_in_short(*lines, nothing=False)
    both = [*_Original(output, {}, result).averages(), *original.averages()]
    n_controls = len(result["averages"])
    names = [f"control {k + 1}" if k < n_controls else f"run {k + 1 - n_controls}"
             for k in range(len(both))]
    report.draw("Control and run", "Averages of phase-randomised particles, then those of the run.",
                plots.class_gallery, np.stack(both), names)
    curves = {**_curves(output, "control"), **_curves(original.folder, "run")}
    if curves:
        report.draw("", "Fourier shell correlation of the halves.", plots.fsc_curves, curves)
