"""The verb train-detector. PyTorch is imported when it runs."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml import plots
from scipion_faml.cli.common import (
    common_options,
    n_workers,
    progress_callback,
    seed_option,
    workers_option,
)
from scipion_faml.cli.runs import Run, run_once
from scipion_faml.cli.tomograms import FILE, open_tomogram, voxel_size_of, voxel_size_option
from scipion_faml.cli.torch_modules import device_option, torch_module
from scipion_faml.cli.truth import coordinate_voxel_size_angst, particle_centres_angst
from scipion_faml.detector.curves import training_curves
from scipion_faml.detector.labels import (
    Classes,
    Labelled,
    LabelSource,
    classes_of,
    labelled,
    split,
)
from scipion_faml.detector.settings import ARCHITECTURES, DetectorSettings, TrainingSettings
from scipion_faml.detector.view import is_same_size
from scipion_faml.disk import replacing
from scipion_faml.paths import check_inside
from scipion_faml.tables import CLASS_NAME_COLUMN, DIAMETER_COLUMN, ParticleTable, read_particles

logger = logging.getLogger(__name__)

DEFAULT_THRESHOLD = 0.5


@click.command("train-detector")
@click.argument("tables", metavar="STAR...", nargs=-1, required=True, type=FILE)
@click.option("--tomogram", "tomograms", multiple=True, metavar="[NAME=]FILE",
              help="MRC that a table's rlnTomoName NAME stands for; without names one for each "
              "table, in order.  [default: the file that rlnTomoName names, or NAME.mrc or "
              "tomogram.mrc beside the table]")
@click.option("--held-out", multiple=True, metavar="NAME",
              help="Tomogram for thresholds and curves, not trained on: its rlnTomoName, or the "
              "folder of its table. Repeatable.  [default: the last; of a lone one a slab]")
@click.option("--architecture", default="points", show_default=True,
              type=click.Choice(ARCHITECTURES),
              help="points: a heat map, no anchors. yolo: the published detector.")
@click.option("--diameter", "diameters", multiple=True, metavar="NAME=A",
              help="Diameter of a class, angstrom (one number for all).  [default: the column "
              f"{DIAMETER_COLUMN}, or 10 voxels]")
@click.option("--epochs", default=40, show_default=True, type=click.IntRange(min=1))
@click.option("--steps", default=None, type=click.IntRange(min=1),
              help="Of an epoch.  [default: the training volume once, 20 to 250]")
@click.option("--batch", default=4, show_default=True, type=click.IntRange(min=1),
              help="Crops in a step.")
@click.option("--crop", default=64, show_default=True, type=click.IntRange(min=32),
              help="Voxels of a crop's edge, a multiple of 8; the published detector has 64.")
@click.option("--learning-rate", default=None, type=click.FloatRange(min=0, min_open=True),
              help="[default: 0.002, yolo 0.001]")
@click.option("--quarter-turns", is_flag=True,
              help="Also turn crops by a quarter about the beam, which turns the missing wedge: "
              "for tomograms with different tilt axes.")
@click.option("--start", default=None, type=FILE,
              help="Weights to start from: a weights.pt, or the word pretrained for the shipped "
              "ones.")
@click.option("--dark", is_flag=True, help="Particles are darker than their surroundings.")
@click.option("--reclassify", is_flag=True,
              help="Train a second network, for a third of the time, that looks at each candidate "
              "by itself and names it again.")
@device_option
@click.option("--output", default=Path("detector"), show_default=True,
              type=click.Path(path_type=Path, file_okay=False), help="Folder.")
@voxel_size_option
@seed_option
@workers_option
@common_options
def train_detector(
    tables: tuple[Path, ...], tomograms: tuple[str, ...], held_out: tuple[str, ...],
    architecture: str, diameters: tuple[str, ...], epochs: int, steps: int | None, batch: int,
    crop: int, learning_rate: float | None, quarter_turns: bool, start: Path | None, dark: bool,
    reclassify: bool, device: str, output: Path, voxel_size: float | None, seed: int,
    workers: int | None, as_json: bool, overwrite: bool,
) -> None:
    """Train a detector on coordinates and classes of particles in tomograms.

    Writes OUTPUT/weights.pt, history.csv (a row an epoch: losses, F1 on what is held out),
    curves.png and checkpoint.pt. A training that was killed goes on where its last epoch ended.
    The result is the same on the same machine with the same number of threads.
    """
    if crop % 8 or (architecture == "yolo" and crop != 64):
        raise ValueError(f"--crop {crop}: give a multiple of 8, for yolo 64")
    if architecture == "yolo" and reclassify:
        raise ValueError("--reclassify goes with --architecture points")
    how = TrainingSettings(
        epochs=epochs, steps=steps, batch=batch, crop=crop, turns=quarter_turns, seed=seed,
        learning_rate=learning_rate or (1e-3 if architecture == "yolo" else 2e-3))
    train = torch_module("train", workers)
    weights = torch_module("weights", workers)
    predict = torch_module("predict", workers)
    if start is not None and str(start) == "pretrained" and not start.is_file():
        start = weights.pretrained()
    found = _tomogram_files(tables, tomograms)
    settings = {
        **asdict(how), "held_out": held_out, "architecture": architecture,
        "diameters": diameters, "start": start, "dark": dark, "voxel_size": voxel_size,
        "reclassify": reclassify, "names": [name for name, *_ in found],
    }
    files = [*tables, *(path for _, path, _ in found), *([start] if start else [])]
    run = Run("train-detector", output, settings, list(dict.fromkeys(files)), overwrite)
    if overwrite:
        (output / "checkpoint.pt").unlink(missing_ok=True)

    def work() -> dict[str, Any]:
        where = predict.device_of(device)
        started = weights.load(start) if start else None
        with ExitStack() as opened:
            sources = [_source(name, path, table, voxel_size, opened)
                       for name, path, table in found]
            trained, tested, classes, size, tested_name = _prepare(
                sources, held_out, diameters, dark,
                started.settings.voxel_size_angst if started else None)
            what = _settings_of(
                architecture, trained, classes, size, dark,
                started.settings.widths if started else None)
            inputs = {"inputs": run.settings["inputs"], "dark": dark, "start": str(start)}
            course = train.Course(
                output, where, inputs, _epoch_line(epochs, run), progress_callback("steps"))
            detector, scores = train.fit(
                what, how, trained, tested, tested_name, course, started, reclassify)
        _draw_curves(output)
        _describe(run, what, detector.settings, trained, tested)
        return {
            "weights": output / "weights.pt", "architecture": architecture,
            "n_classes": what.n_classes, "classes": what.class_names,
            "voxel_size_angst": size, "n_particles": sum(len(t) for t in trained),
            "n_tomograms": len(trained), "n_held_out_particles": sum(len(t) for t in tested),
            "thresholds": detector.settings.thresholds,
            "thresholds_from": detector.settings.thresholds_from,
            "device": str(where), "threads": n_workers(workers), **scores,
        }

    run_once(run, work, as_json)


Found = tuple[str, Path, ParticleTable]  # name, tomogram, its rows


def _tomogram_files(tables: Sequence[Path], given: Sequence[str]) -> list[Found]:
    """Every tomogram of the tables with its particles, under names that differ."""
    by_name = dict(item.split("=", 1) for item in given if "=" in item)
    in_order = [Path(item) for item in given if "=" not in item]
    if in_order and len(in_order) != len(tables):
        raise ValueError(
            f"{len(in_order)} --tomogram without NAME= for {len(tables)} tables: give one for each")
    found = []
    for number, path in enumerate(tables):
        table = read_particles(path)
        names = np.array(table.tomogram_names)
        if in_order and len(set(names)) > 1:
            raise ValueError(
                f"{path} holds particles of {len(set(names))} tomograms: give --tomogram NAME=FILE")
        for name in dict.fromkeys(names.tolist()):
            rows = ParticleTable(table.rows[names == name], table.optics, {}, path)
            keys = (name, _folder_name(path))
            chosen = next((Path(by_name.pop(k)) for k in keys if k in by_name), None)
            if chosen is None:
                chosen = in_order[number] if in_order else _tomogram_beside(path, name)
            found.append((name, chosen, rows))
    if by_name:
        known = ", ".join(dict.fromkeys(name for name, *_ in found))
        raise ValueError(f"no particle is in a tomogram called {sorted(by_name)[0]!r}: {known}")
    return _with_different_names(found)


def _folder_name(table: Path) -> str:
    return table.resolve().parent.name


def _tomogram_beside(table: Path, name: str) -> Path:
    """The tomogram that a table's rlnTomoName stands for when nobody told."""
    folder = table.parent
    options = [Path(name), folder / name] if name.endswith((".mrc", ".rec", ".map")) else []
    options += [folder / f"{name}.mrc", folder / f"{name}.rec", folder / "tomogram.mrc"]
    for option in options:
        if option.is_file():
            check_inside(name, option, table)
            return option
    raise FileNotFoundError(
        f"no tomogram of {table} (rlnTomoName {name!r}) is found beside it: give "
        "--tomogram NAME=FILE")


def _with_different_names(found: list[Found]) -> list[Found]:
    """Names that occur twice become those of the tables' folders, or else of the files."""
    names = [name for name, *_ in found]
    folders = [_folder_name(table.path or Path()) for *_, table in found]
    for options in (names, folders, [str(path) for _, path, _ in found]):
        if len(set(options)) == len(options) and all(options):
            return [(option, path, table)
                    for option, (_, path, table) in zip(options, found, strict=True)]
    return [(f"{name}_{i + 1}", path, table) for i, (name, path, table) in enumerate(found)]


def _source(
    name: str, path: Path, table: ParticleTable, voxel_size: float | None, opened: ExitStack
) -> LabelSource:
    """The particles of one tomogram, with the tomogram mapped into memory."""
    try:
        unit = coordinate_voxel_size_angst(table)
    except ValueError:
        unit = 0.0  # a table without optics counts the tomogram's voxels
    size = voxel_size_of(path, voxel_size, unit or None)
    if not unit:
        optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [size]})
        rows = table.rows.drop(columns="rlnOpticsGroup", errors="ignore")
        table = ParticleTable(rows, optics, {}, table.path)
    elif not is_same_size(unit, size):
        logger.info("%s: coordinates count voxels of %g A, its voxels have %g A", name, unit, size)
    centres = particle_centres_angst(table)
    numbers = (table.class_index + 1 if "rlnClassNumber" in table.rows
               else np.ones(len(table), dtype=np.intp))
    has_classes = "rlnClassNumber" in table.rows
    if not has_classes and CLASS_NAME_COLUMN in table.rows:
        raise ValueError(f"{table.path}: famlModel needs rlnClassNumber beside it: add the numbers")
    names = ([str(n) for n in table.rows[CLASS_NAME_COLUMN]] if CLASS_NAME_COLUMN in table.rows
             else [f"class_{n:03d}" if has_classes else "particle" for n in numbers])
    diameters = (table.numbers(DIAMETER_COLUMN)[:, 0]
                 if DIAMETER_COLUMN in table.rows else None)
    volume = opened.enter_context(open_tomogram(path))
    return LabelSource(name, volume, size, centres, numbers, tuple(names), diameters)


def _prepare(
    sources: list[LabelSource], held_out: Sequence[str], diameters: Sequence[str], dark: bool,
    voxel_size: float | None,
) -> tuple[list[Labelled], list[Labelled], Classes, float, str]:
    """Training and held-out tomograms in voxels of one size, and their classes."""
    left, tested, tested_name = split(sources, held_out)
    size = voxel_size or float(np.median([s.voxel_size_angst for s in left]))
    for source in sources:
        if not is_same_size(source.voxel_size_angst, size):
            logger.info("%s: voxels of %g A are brought to %g A", source.name,
                        source.voxel_size_angst, size)
    given = _diameters(diameters, sources)
    classes = classes_of(sources, given, size)
    untrained = set(classes.numbers) - {int(n) for s in left for n in s.class_number}
    if untrained:
        names = [n for n, k in zip(classes.names, classes.numbers, strict=True) if k in untrained]
        raise ValueError(f"class {names[0]} occurs only in what is held out: nothing to learn from")
    return ([labelled(s, classes, size, dark) for s in left],
            [labelled(s, classes, size, dark) for s in tested], classes, size, tested_name)


def _diameters(given: Sequence[str], sources: Sequence[LabelSource]) -> dict[str, float]:
    """--diameter NAME=A, or one A for all."""
    sizes: dict[str, float] = {}
    for item in given:
        name, _, text = item.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"--diameter {item}: give NAME=ANGSTROM") from None
        if not (value > 0 and np.isfinite(value)):
            raise ValueError(f"--diameter {item}: a diameter is above 0 angstrom")
        for known in [name] if name else {n for s in sources for n in s.class_name}:
            sizes.setdefault(known, value) if not name else sizes.update({known: value})
    return sizes


def _settings_of(
    architecture: str, trained: Sequence[Labelled], classes: Classes, size: float, dark: bool,
    widths: tuple[int, ...] | None,
) -> DetectorSettings:
    """The detector to be trained."""
    diameters = tuple(d / size for d in classes.diameter_angst)
    anchors: tuple[float, ...] = ()
    if architecture == "yolo":
        yolo = importlib.import_module("scipion_faml.detector.yolo")
        members = np.concatenate([t.class_index for t in trained])
        anchors = yolo.anchors_of(np.array(diameters)[members])
    settings = DetectorSettings(
        architecture, size, classes.names, classes.numbers, diameters,
        (DEFAULT_THRESHOLD,) * len(classes.names), anchors=anchors, is_dark=dark)
    return settings if widths is None else DetectorSettings.from_dict(
        {**settings.as_dict(), "widths": widths})


def _epoch_line(epochs: int, run: Run) -> Callable[[dict[str, float]], None]:
    """Say how each epoch went; epochs are the iterations of the run's status."""
    run.status.iteration(0, epochs)

    def say(row: dict[str, float]) -> None:
        run.status.iteration(int(row["epoch"]), epochs)
        click.echo(
            f"epoch {int(row['epoch'])}/{epochs}: {row['seconds']:.0f} s, loss {row['loss']:.3f}, "
            f"held out: F1 {row['f1']:.3f}, macro F1 {row['macro_f1']:.3f}", err=True)
    return say


def _draw_curves(folder: Path) -> None:
    figure = training_curves(pd.read_csv(folder / "history.csv"))
    with replacing(folder / "curves.png") as temporary:
        temporary.write_bytes(plots.png_bytes(figure))


def _describe(
    run: Run, what: DetectorSettings, tuned: DetectorSettings, trained: Sequence[Labelled],
    tested: Sequence[Labelled],
) -> None:
    """Fill the report: what was learned from, the curves, and the threshold of each class."""
    report, history = run.report, pd.read_csv(run.output / "history.csv")
    report.title = "Training of a detector"
    counts = [sum(int((t.class_index == k).sum()) for t in trained) for k in range(what.n_classes)]
    last = history.iloc[-1]
    report.say_in_short(
        f"Trained on {sum(counts)} particles of {what.n_classes} class(es) in {len(trained)} "
        f"tomogram(s), {int(last['epoch'])} epochs.",
        f"On {sum(map(len, tested))} particles held out: F1 {last['f1']:.3g}, over classes "
        f"{last['macro_f1']:.3g} (1: all found, none false).",
        "Use weights.pt with pick-detector. Loss that falls while F1 on what is held out falls too "
        "says that there is too little to learn from.")
    report.draw_in_short(
        "Left: losses, right: F1 on what is held out, after each epoch.", training_curves, history)
    report.add_table("Classes", pd.DataFrame({
        "class": what.class_names, "particles": counts,
        "diameter (Å)": [d * what.voxel_size_angst for d in what.diameters],
        "threshold": tuned.thresholds}))
