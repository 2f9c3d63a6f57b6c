"""The detector on simulated tomograms: training, held-out picks, their scores, time and memory.

    python benchmarks/detector.py --data DIR --output OUT [--train N] [--architecture points]
    python benchmarks/detector.py --weights FILE --test DIR/heldout_0 ... --output OUT

DIR holds folders of simulate-tomogram: train_0, train_1 ... (made with --make, SHREC-like, the
models of --models) and heldout_0 ..., which no threshold was chosen on. Picks are judged by the
particles' own voxels, dilated by two (evaluate-picks --instances --radius 20). A slab of 128 voxels
at SNR 0.032 has the noise per particle of 200 voxels at the preset's 0.05. Prints a
JSON object; CPU time and peak memory are those of the child process.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

REACH_ANGST = 20.0  # by which the particles' voxels are dilated
DIRECTORY = click.Path(path_type=Path, file_okay=False)


def verb(*arguments: object) -> tuple[dict[str, Any], dict[str, float]]:
    """Run a verb with --json; return what it printed, and its seconds and memory."""
    command = [sys.executable, "-m", "scipion_faml", *map(str, arguments), "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert done.stdout is not None
    text = done.stdout.read()
    _, status, usage = os.wait4(done.pid, 0)
    done.returncode = os.waitstatus_to_exitcode(status)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {
        "wall_s": time.perf_counter() - began,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_gib": usage.ru_maxrss / 2**20,
    }
    return json.loads(text.decode().strip().splitlines()[-1]), cost


def make(folder: Path, count: int, models: tuple[Path, ...], workers: int) -> None:
    """Simulate what is missing: training tomograms and one held out."""
    sources = [item for path in models for item in ("--models-dir", path)]
    shapes = [(f"train_{i}", i, ("--shape", "256,256,128", "--snr", 0.032)) for i in range(count)]
    shapes.append(("heldout_0", 100, ()))
    for name, seed, options in shapes:
        if not (folder / name / "truth.star").is_file():
            verb("simulate-tomogram", "--preset", "shrec", *sources, *options, "--seed", seed,
                 "--output", folder / name, "--workers", workers)


def judge(weights: Path | None, test: Path, output: Path, workers: int) -> dict[str, Any]:
    """Pick one tomogram and compare with its truth."""
    picks = output / f"{test.name}_{weights.parent.name if weights else 'pretrained'}.star"
    given = ("--weights", weights) if weights else ()
    picked, cost = verb("pick-detector", test / "tomogram.mrc", *given, "--output", picks,
                        "--workers", workers, "--overwrite")
    scores, _ = verb("evaluate-picks", picks, "--truth", test / "truth.star", "--instances",
                     test / "instances.mrc", "--radius", REACH_ANGST)
    kept = ("precision", "recall", "f1", "macro_f1", "n_truth", "n_picked", "n_duplicate")
    return {
        "tomogram": test.name, **{k: scores[k] for k in kept},
        "f1_per_class": {v["name"]: v.get("f1") for v in scores["per_class"].values()},
        "pick": cost, "n_candidates": picked["n_candidates"],
    }


@click.command()
@click.option("--data", type=DIRECTORY, help="Folder of train_*, heldout_*.")
@click.option("--output", required=True, type=DIRECTORY)
@click.option("--train", "n_train", default=10, show_default=True, help="Training tomograms.")
@click.option("--make", "is_made", is_flag=True, help="Simulate what is missing.")
@click.option("--models", multiple=True, type=DIRECTORY, help="Folders of models, for --make.")
@click.option("--architecture", default="points", show_default=True)
@click.option("--epochs", default=26, show_default=True)
@click.option("--steps", default=32, show_default=True)
@click.option("--batch", default=2, show_default=True)
@click.option("--diameter", multiple=True, help="NAME=A, as for train-detector.")
@click.option("--weights", type=click.Path(path_type=Path, dir_okay=False),
              help="Judge this detector instead of training one.")
@click.option("--pretrained", is_flag=True, help="Judge the shipped detector.")
@click.option("--test", multiple=True, type=DIRECTORY, help="[default: DATA/heldout_*]")
@click.option("--workers", default=2, show_default=True)
def main(
    data: Path | None, output: Path, n_train: int, is_made: bool, models: tuple[Path, ...],
    architecture: str, epochs: int, steps: int, batch: int, diameter: tuple[str, ...],
    weights: Path | None, pretrained: bool, test: tuple[Path, ...], workers: int,
) -> None:
    """Train a detector and judge it on tomograms that it has not seen."""
    output.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"workers": workers}
    if data is not None and is_made:
        make(data, n_train, models, workers)
    if weights is None and not pretrained:
        if data is None:
            raise SystemExit("give --data, --weights or --pretrained")
        stars = [data / f"train_{i}" / "truth.star" for i in range(n_train)]
        sizes = [item for d in diameter for item in ("--diameter", d)]
        trained, cost = verb(
            "train-detector", *stars, "--architecture", architecture, "--epochs", epochs,
            "--steps", steps, "--batch", batch, *sizes, "--held-out", stars[-1].parent.name,
            "--output", output / architecture, "--workers", workers)
        weights = output / architecture / "weights.pt"
        result["training"] = {**cost, **{k: trained[k] for k in (
            "f1", "macro_f1", "n_particles", "n_tomograms", "training_seconds", "device")}}
    tests = test or tuple(sorted(data.glob("heldout_*"))) if data else test
    result["held_out"] = [judge(weights, t, output, workers) for t in tests]
    (output / "detector.json").write_text(json.dumps(result, indent=1))
    click.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
