"""The experiments of the FAML paper, run again: simulate, run every method, judge, print a table.

    python benchmarks/paper/run.py low-snr            one experiment
    python benchmarks/paper/run.py                    all of them
    python benchmarks/paper/run.py --table            the table of what was run so far

Seeds are fixed. A cell (setting, seed, method) that is finished lies in OUTPUT/cells as JSON and is
not run again; OUTPUT/pictures shows its averages beside the truth. One thread for every method;
--jobs runs several cells at once. RELION's cells take hours: they are run where --relion is given
and relion_refine is installed.
"""

from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import json  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import click  # noqa: E402
import numpy as np  # noqa: E402
from contenders import relion  # noqa: E402
from experiments import EXPERIMENTS, Experiment, Setting, smaller  # noqa: E402
from helix import write_helix  # noqa: E402
from iteration import machine  # noqa: E402
from judge import judge, true_maps  # noqa: E402
from methods import METHODS, answer_of, correction_of  # noqa: E402
from report import markdown  # noqa: E402

from scipion_faml import plots  # noqa: E402
from scipion_faml.cli.common import plain  # noqa: E402
from scipion_faml.disk import replacing  # noqa: E402
from scipion_faml.tables import read_particles  # noqa: E402


@dataclass(frozen=True)
class Cell:
    """One method on one set of particles."""

    experiment: Experiment
    setting: Setting
    seed: int
    method: str

    @property
    def name(self) -> str:
        """For file names."""
        classes = self.setting.n_classes or "auto"
        return f"{self.setting.name}_k{classes}_seed{self.seed}_{self.method}"


def cells_of(experiment: Experiment, seeds: Sequence[int], methods: Sequence[str]) -> list[Cell]:
    """Return the cells of an experiment, those of one set of particles together."""
    seeds = seeds or range(experiment.n_seeds)
    methods = methods or experiment.methods
    return [Cell(experiment, setting, seed, method)
            for setting in experiment.settings for seed in seeds for method in methods]


# ------------------------------------------------------------------------------------ particles
def simulate(cell: Cell, output: Path, shared: Path | None) -> Path:
    """Return the folder of a cell's particles, simulated unless they are there."""
    setting = cell.setting
    correction = correction_of(cell.method)
    folder = output / "data" / f"{setting.name}_seed{cell.seed}_{correction}_{cell.method}"
    command = [sys.executable, "-m", "scipion_faml", "simulate-subtomograms"]
    for model, count in zip(setting.models, setting.counts, strict=True):
        command += ["--model", _model(model, output, shared), "--count", str(count)]
    command += [
        "--box", str(setting.box), "--voxel-size", str(setting.voxel_size),
        "--snr", str(setting.snr), "--tilt-min", str(setting.tilts[0]),
        "--tilt-max", str(setting.tilts[1]), "--max-shift", str(setting.max_shift),
        "--ctf-correction", correction, "--seed", str(cell.seed), "--workers", "1",
        "--assembly", "none" if "tmv" in setting.models else "auto", "--output", str(folder),
    ]
    if setting.preferred_axis:
        command += ["--preferred-axis", setting.preferred_axis]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    return folder


def _model(model: str, output: Path, shared: Path | None) -> str:
    """What --model takes: a shipped structure, or the helix made for the run."""
    if model != "tmv":
        return model
    path = output / "models" / "tmv.cif"
    if not path.is_file():
        if shared is None:
            raise FileNotFoundError("the helix needs PDB 3KML: name its folder by --data")
        write_helix(shared / "models" / "3kml.pdb.gz", path)
    return str(path)


# ---------------------------------------------------------------------------------------- cells
def load_or_run(cell: Cell, output: Path, shared: Path | None) -> dict[str, Any]:
    """Return the result of a cell, from disk where it was finished before."""
    path = output / "cells" / f"{cell.name}.json"
    if path.is_file():
        known: dict[str, Any] = json.loads(path.read_text())
        return known
    work = output / "work" / cell.name
    shutil.rmtree(work, ignore_errors=True)
    data = simulate(cell, output, shared)
    setting = cell.setting
    answer = answer_of(
        cell.method, data / "particles.star", setting.n_classes, setting.options, work, cell.seed)
    figures, superposed = judge(answer, data, setting, cell.experiment)
    maps = true_maps(data, read_particles(data / "truth.star"))
    names = [f"{kind}: {model}" for kind in ("truth", cell.method) for model in setting.models]
    picture = plots.class_gallery(np.concatenate([maps, superposed]), names, setting.voxel_size)
    with replacing(output / "pictures" / f"{cell.name}.png") as temporary:
        temporary.write_bytes(plots.png_bytes(picture))
    result: dict[str, Any] = plain({
        "setting": setting.name, "seed": cell.seed, "method": cell.method, "machine": machine(),
        "particles": sum(setting.counts), **figures,
    })
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1))
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(data, ignore_errors=True)
    return result


def run_experiment(
    experiment: Experiment, output: Path, seeds: Sequence[int] = (), methods: Sequence[str] = (),
    shared: Path | None = None, jobs: int = 1, only_done: bool = False,
) -> str:
    """Run the cells of an experiment and return its table."""
    cells = cells_of(experiment, seeds, methods)
    if only_done:
        cells = [c for c in cells if (output / "cells" / f"{c.name}.json").is_file()]

    def work(cell: Cell) -> dict[str, Any]:
        result = load_or_run(cell, output, shared)
        if not only_done:
            figures = ", ".join(f"{v:.3f}" for v in result["cc"])
            click.echo(f"{cell.name}: cc {figures}, F1 {result['f1']:.2f}, "
                       f"{result['core_s']:.0f} core-s", err=True)
        return result

    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(work, cells))
    return markdown(experiment, [(c.setting, c.method, r)
                                 for c, r in zip(cells, results, strict=True)])


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(EXPERIMENTS)))
@click.option("--seed", "seeds", multiple=True, type=int, help="[default: 0 to 4]")
@click.option("--method", "methods", multiple=True, type=click.Choice(METHODS),
              help="[default: those of the experiment]")
@click.option("--relion", "with_relion", is_flag=True, help="RELION's row as well.")
@click.option("--small", is_flag=True, help="A version of seconds: boxes of 24, few particles.")
@click.option("--table", "only_done", is_flag=True, help="Run nothing, show what is there.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True,
              help="Cells run at once.")
@click.option("--data", "shared", type=click.Path(path_type=Path, exists=True), default=None,
              help="Folder with models/3kml.pdb.gz, for the helix.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("paper_experiments"),
              show_default=True)
def main(
    names: tuple[str, ...], seeds: tuple[int, ...], methods: tuple[str, ...], with_relion: bool,
    small: bool, only_done: bool, jobs: int, shared: Path | None, output: Path,
) -> None:
    """Run experiments (all by default) and print their tables."""
    click.echo(f"{machine()}\n")
    for experiment in (EXPERIMENTS[name] for name in names or EXPERIMENTS):
        chosen = smaller(experiment) if small else experiment
        used = methods or chosen.methods
        if with_relion and relion() is not None:
            used = (*used, "relion")
        if experiment.name == "helix" and shared is None:
            click.echo("helix: left out, it needs --data with models/3kml.pdb.gz", err=True)
            continue
        table = run_experiment(chosen, output, seeds, used, shared, jobs, only_done)
        click.echo(table + "\n")
        with replacing(output / f"{experiment.name}.md") as temporary:
            temporary.write_text(table + "\n")


if __name__ == "__main__":
    main()
