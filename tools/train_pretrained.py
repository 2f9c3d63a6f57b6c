"""Make the shipped detector of any globular particle: scipion_faml/detector/pretrained.pt.

    python tools/train_pretrained.py OUTPUT [--scenes 72] [--epochs 14] [--workers 2]

Scenes come from the project's own simulator and from seeds alone. Each has a few structures: sums
of Gaussian blobs in random numbers, sizes and shapes (compact, rods, rings, shells, pairs) or one
of the shipped bead models at a random scale, and at random a vesicle and a few gold beads, which
are not particles. Density, SNR, tilt range, tilt step, defocus, voxel size, CTF
correction and the filter of the microscopist are drawn anew for each. The classes are forgotten:
the detector knows one, "particle". Its voxels are 10 A, its particles 60 to 320 A wide.

Scenes are kept in OUTPUT/scenes, the training in OUTPUT; both go on where they were stopped.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from scipion_faml.datasets import bead_model_names, load_bead_model
from scipion_faml.detector import train, weights
from scipion_faml.detector.labels import Classes, Labelled, LabelSource, labelled
from scipion_faml.detector.matching import Matched
from scipion_faml.detector.settings import DetectorSettings, TrainingSettings
from scipion_faml.disk import replacing
from scipion_faml.execution import one_blas_thread
from scipion_faml.simulation.back_projection import back_project
from scipion_faml.simulation.density import (
    PROTEIN_LEVEL,
    BeadModel,
    Structure,
    centred,
    radius_angst,
    structure_of_beads,
    width_of_resolution,
)
from scipion_faml.simulation.scene import Scene, make_scene, populate
from scipion_faml.simulation.scene_imaging import (
    image_scene,
    image_shape,
    noisy_tomogram,
    project_scene,
)
from scipion_faml.simulation.surroundings import Surroundings, make_surroundings
from scipion_faml.simulation.tilt_series import Microscope, tilt_angles_deg
from scipion_faml.types import FloatArray
from scipion_faml.wedge import MissingWedge

VOXEL = 10.0  # angstrom
SHAPE = (112, 112, 80)  # x, y, z voxels
SMALLEST, LARGEST = 60.0, 320.0  # angstrom, diameters
DIAMETER = 160.0  # the one class's, angstrom: candidates nearer than half of it are one
BLUR = width_of_resolution(20.0)  # angstrom, of gold beads and membranes
HELD_OUT = 6  # scenes
WIDTHS = (24, 48, 96)  # 1.6 million weights: 3.2 MB in 16 bits
logger = logging.getLogger("train_pretrained")


# ------------------------------------------------------------------------------------ structures
def random_structure(rng: np.random.Generator, name: str) -> Structure:
    """Return a structure of random kind and size."""
    diameter = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))))
    kind = rng.uniform()
    model = _shipped(rng) if kind < 0.3 else _blobs(rng)
    scale = 0.5 * diameter / max(radius_angst(centred(model)), 1.0)
    if kind < 0.3:  # the shipped ones keep a plausible size
        scale = float(np.clip(scale, 0.7, 1.4))
    model = BeadModel(
        model.position_angst * scale, np.maximum(model.width_angst * scale, 4.0), model.weight,
        name)
    # Proteins have one density, and fill more or less of their ball.
    radius = max(radius_angst(centred(model)), 0.5 * SMALLEST)
    filled = rng.uniform(0.2, 0.6) * (0.5 * SMALLEST / radius) ** 0.3
    weight = model.weight / model.weight.sum() * PROTEIN_LEVEL * 4.19 * radius**3 * filled
    model = BeadModel(model.position_angst, model.width_angst, weight, name)
    box = 2 * int(np.ceil(radius / VOXEL + 4))
    return structure_of_beads(model, box, VOXEL, width_of_resolution(rng.uniform(20.0, 35.0)))


def _shipped(rng: np.random.Generator) -> BeadModel:
    names = bead_model_names()
    return load_bead_model(names[int(rng.integers(len(names)))])


def _blobs(rng: np.random.Generator) -> BeadModel:
    """Gaussian blobs in a ball of radius 1 (x 100 angstrom), squeezed or hollowed."""
    count = int(rng.integers(8, 90))
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    hollow = rng.uniform() < 0.25
    radius = rng.uniform(0.75 if hollow else 0.0, 1.0, size=(count, 1)) ** (1.0 / 3.0)
    squeeze = np.exp(rng.normal(0.0, 0.3, 3))
    position = 100.0 * direction * radius * squeeze / squeeze.max()
    if rng.uniform() < 0.2:  # two domains
        position = np.concatenate([position, position * rng.uniform(0.4, 1.0) + (120.0, 0.0, 0.0)])
    width = rng.uniform(10.0, 28.0) * np.exp(rng.normal(0.0, 0.3, len(position)))
    return BeadModel(position, width, width**3)


# ---------------------------------------------------------------------------------------- scenes
def make_tomogram(seed: int, workers: int) -> tuple[FloatArray, FloatArray]:
    """Return a tomogram (z, y, x) and the centres of its particles (P, 3), in voxels."""
    rng = np.random.default_rng([20, seed])
    structures = [random_structure(rng, f"s{k}") for k in range(int(rng.integers(3, 8)))]
    around = make_surroundings(
        int(rng.integers(1, 5)) if rng.uniform() < 0.3 else 0, int(rng.uniform() < 0.35),
        SHAPE, VOXEL, BLUR, seed)
    scene = _crowd(structures, around, rng, seed)
    wedge = MissingWedge(-rng.uniform(45.0, 68.0), rng.uniform(45.0, 68.0))
    snr = float(np.exp(rng.uniform(np.log(0.02), np.log(0.6))))
    if rng.uniform() < 0.25:  # no optics: white noise on the density
        other = populate(around.scene, around.structures)[0] if len(around.scene) else None
        density = populate(scene, structures, workers)[0]
        tomogram = noisy_tomogram(density, 0.3 * snr, wedge, rng, other)
    else:
        tomogram = _imaged(scene, structures, around, wedge, snr, rng, workers)
    filtered = rng.uniform()
    if filtered < 0.3:
        tomogram = ndimage.gaussian_filter(tomogram, rng.uniform(0.5, 1.2))
    elif filtered < 0.4:
        tomogram = tomogram - ndimage.gaussian_filter(tomogram, rng.uniform(12.0, 25.0))
    return np.asarray(tomogram, dtype=np.float32), scene.position_xyz


def _imaged(
    scene: Scene, structures: list[Structure], around: Surroundings, wedge: MissingWedge,
    snr: float, rng: np.random.Generator, workers: int,
) -> FloatArray:
    """The tomogram of a tilt series with random optics."""
    step = float(rng.choice([2.0, 3.0, 4.0]))
    angles = tilt_angles_deg(wedge.tilt_min_deg, wedge.tilt_max_deg, step)
    size = image_shape(SHAPE, [*structures, *around.structures])
    images = project_scene(scene, structures, angles, workers, size)
    other = None
    if len(around.scene):
        other = project_scene(around.scene, around.structures, angles, workers, size)
    correction = "phase-flip" if rng.uniform() < 0.6 else "none"
    microscope = Microscope(
        defocus_um=float(rng.uniform(1.5, 6.0)),
        amplitude_contrast=float(rng.uniform(0.05, 0.12)))
    recorded = image_scene(images, VOXEL, snr, microscope, correction, rng, other)
    return back_project(recorded, angles, SHAPE, workers)


def _crowd(
    structures: list[Structure], around: Surroundings, rng: np.random.Generator, seed: int
) -> Scene:
    """Particles filling 4 to 25 % of the volume, fewer where they do not fit."""
    fill = float(np.exp(rng.uniform(np.log(0.04), np.log(0.25))))
    volume = float(np.prod(SHAPE)) * fill
    counts = [max(2, min(80, int(volume / len(structures) / (4.19 * s.radius_voxels**3))))
              for s in structures]
    while True:
        try:
            return make_scene(structures, counts, SHAPE, seed, obstacles=around.obstacles)
        except ValueError:
            counts = [max(1, int(0.75 * c)) for c in counts]


def scene_of(folder: Path, seed: int, workers: int) -> Labelled:
    """Return scene `seed`, from its file where it was made before."""
    path = folder / f"scene_{seed:04d}.npz"
    if not path.is_file():
        tomogram, position = make_tomogram(seed, workers)
        with replacing(path) as temporary:
            np.savez(temporary, tomogram=tomogram.astype(np.float16), position=position)
    with np.load(path) as stored:
        tomogram, position = stored["tomogram"].astype(np.float32), stored["position"]
    ones = np.ones(len(position), dtype=np.intp)
    source = LabelSource(
        path.stem, tomogram, VOXEL, position * VOXEL, ones, ("particle",) * len(ones))
    classes = Classes(("particle",), (1,), (DIAMETER,))
    return labelled(source, classes, VOXEL, False)


def sparing_threshold(matched: Matched) -> float:
    """Return the threshold with the best F0.5: precision counts twice.

    Many simulated particles cannot be seen, and F1 would pay for guesses at them.
    """
    def f_half(threshold: float) -> float:
        kept = matched.score >= threshold
        hits = int((kept & (matched.true_class >= 0)).sum())
        return 1.25 * hits / max(1.0, 0.25 * float(matched.n_true.sum()) + float(kept.sum()))

    return float(max(np.arange(0.1, 0.9, 0.05).round(2), key=f_half))


def _tell(row: dict[str, float]) -> None:
    logger.info("epoch %d: %.0f s, loss %.3f, F1 %.3f at %.2f", row["epoch"], row["seconds"],
                row["loss"], row["f1"], row["threshold"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--scenes", type=int, default=72)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--install", action="store_true", help="Put it into the package.")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(arguments.workers)
    folder = arguments.output / "scenes"
    folder.mkdir(parents=True, exist_ok=True)
    scenes = []
    for seed in range(arguments.scenes):
        with one_blas_thread():
            scenes.append(scene_of(folder, seed, arguments.workers))
        logger.info("scene %d: %d particles", seed, len(scenes[-1]))
    what = DetectorSettings(
        "points", VOXEL, ("particle",), (1,), (DIAMETER / VOXEL,), (0.3,), widths=WIDTHS)
    how = TrainingSettings(
        epochs=arguments.epochs, steps=arguments.steps, batch=2, turns=True, seed=0)
    detector, scores = train.fit(
        what, how, scenes[HELD_OUT:], scenes[:HELD_OUT], "held-out simulated scenes",
        train.Course(arguments.output, torch.device("cpu"), on_epoch=_tell))
    logger.info("held out: F1 %.3f at %s", scores["f1"], detector.settings.thresholds)
    matched = train.evaluate(detector, scenes[:HELD_OUT], torch.device("cpu"))
    detector.settings = detector.settings.with_thresholds(
        (sparing_threshold(matched),), "held-out simulated scenes, F0.5")
    logger.info("threshold %s", detector.settings.thresholds)
    small = arguments.output / "pretrained.pt"
    weights.save(small, detector, half=True)
    if arguments.install:
        shutil.copyfile(small, Path(weights.__file__).with_name(weights.PRETRAINED))


if __name__ == "__main__":
    main()
