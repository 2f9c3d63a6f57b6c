"""A SHREC-like tomogram: what it costs, and how like the challenge's ground truth it is.

    python benchmarks/simulate_tomogram.py [--data FOLDER] [--seed N] [--shape X,Y,Z] [--snr SNR]

FOLDER holds models/, templates_10A/ and shrec19/ (ground truth, class masks and the published
evaluation of one network on tomogram 9); without it the shipped models are timed alone.
"""

from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import gzip  # noqa: E402
import re  # noqa: E402
import resource  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import click  # noqa: E402
import mrcfile  # noqa: E402
import numpy as np  # noqa: E402
from scipy import fft  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402

from scipion_faml.cli import presets  # noqa: E402
from scipion_faml.simulation.back_projection import back_project  # noqa: E402
from scipion_faml.simulation.density import Structure  # noqa: E402
from scipion_faml.simulation.scene import Scene, make_scene, populate  # noqa: E402
from scipion_faml.simulation.scene_imaging import image_scene, project_scene  # noqa: E402
from scipion_faml.simulation.tilt_series import (  # noqa: E402
    Microscope,
    central_slices,
    image_transfer,
    projector,
    tilt_angles_deg,
    tilt_rotations,
)

VOXEL = 10.0
DEFOCUS = Microscope(defocus_um=3.0)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SHREC_NAME = {"4cr2": "4b4t", "tric": "4d8q"}  # theirs in 2019


# ------------------------------------------------------------------------------ the challenge
def shrec_truth(folder: Path) -> list[tuple[np.ndarray, list[str]]]:
    """Positions (N, 3), (x, y, z), and class names of the ten tomograms."""
    text = gzip.decompress((folder / "object_list_train.xml.gz").read_bytes()).decode()
    pattern = r'tomo_idx="(\d+)" class_label="(\d+)" x="(\S+)" y="(\S+)" z="(\S+)"'
    rows = np.array([[float(word) for word in words] for words in re.findall(pattern, text)])
    names = sorted({SHREC_NAME.get(n, n) for n in presets.SHREC_CLASSES})
    tomograms = [
        (part[:, 2:], [names[int(label) - 1] for label in part[:, 1]])
        for part in (rows[rows[:, 0] == number] for number in range(9))
    ]
    lines = [line.split() for line in
             (folder / "particle_locations_model_9.txt").read_text().splitlines() if line.strip()]
    last = np.array([[float(word) for word in line[3:0:-1]] for line in lines])
    return [*tomograms, (last, [line[0] for line in lines])]


def shrec_mask(folder: Path, name: str) -> np.ndarray:
    """The mask of a class, bool."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its header lacks the machine stamp
        with mrcfile.open(folder / "masks_10A" / f"{name}.mrc.gz", permissive=True) as mrc:
            return np.asarray(mrc.data) > 0


def published_recall(folder: Path) -> dict[str, float]:
    """Share of each class that the published network found in tomogram 9, under any class."""
    text = (folder / "deepfinder_evaluation_log.txt").read_text()
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 14 and words[0] in {"4b4t", "4d8q", *presets.SHREC_CLASSES}:
            row = np.array([int(word) for word in words[1:]])
            found[words[0]] = float(1.0 - row[0] / row.sum())
    return found


def spacing(position_xyz: np.ndarray) -> np.ndarray:
    """Quantiles of the distance from a particle to its nearest neighbour."""
    distance = cKDTree(position_xyz).query(position_xyz, 2)[0][:, 1]
    return np.quantile(distance, QUANTILES)


def gyration(mask: np.ndarray) -> float:
    """Radius of gyration of a mask (voxels)."""
    place = np.argwhere(mask)
    return float(np.sqrt(((place - place.mean(axis=0)) ** 2).sum(axis=1).mean()))


# ------------------------------------------------------------------------------ ours
def detectability(
    structures: Sequence[Structure], images: np.ndarray, angles: np.ndarray, snr: float
) -> dict[str, float]:
    """Signal-to-noise ratio of a matched filter on the tilt series at each class, amplitude.

    It is sqrt(sum of the squared samples of a particle's images after the CTF / noise variance):
    the mean height of its peak over the noise of the filter's output. Neighbours are not counted.
    """
    shape = images.shape[1:]
    signal = fft.irfft2(fft.rfft2(images) * image_transfer(shape, VOXEL, DEFOCUS).ctf, shape)
    noise = float(signal.var(axis=(1, 2)).mean()) / snr
    heights = {}
    for structure in structures:
        n = structure.n
        ctf = image_transfer((n, n), VOXEL, DEFOCUS).ctf
        slices = central_slices(projector(structure.map), tilt_rotations(angles))
        power = (fft.irfft2(slices * ctf, (n, n)) ** 2).sum()
        heights[structure.name] = float(np.sqrt(power / noise))
    return heights


class Clock:
    """Core-seconds of named steps, printed as they end."""

    def run(self, name: str, function: Callable[[], Any]) -> Any:
        """Return function(), and say what it took."""
        start = time.process_time()
        result = function()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        click.echo(f"{name:24s} {time.process_time() - start:7.2f} s   peak {peak:.2f} GiB")
        return result


def compare(
    folder: Path, scene: Scene, structures: Sequence[Structure], labels: np.ndarray, level: float,
    height: dict[str, float],
) -> None:
    """Print our scene beside the challenge's truth."""
    truth = shrec_truth(folder)
    recall = published_recall(folder)
    theirs = np.array([[names.count(SHREC_NAME.get(s.name, s.name)) for s in structures]
                       for _, names in truth])
    ours = np.bincount(scene.class_index, minlength=len(structures))
    click.echo("\nclass  | count ours, SHREC mean (range) | label voxels ours, SHREC | "
               "Rg ours, SHREC | peak height | found in SHREC'19")
    filled = 0.0
    for number, structure in enumerate(structures):
        name = SHREC_NAME.get(structure.name, structure.name)
        mask, label = shrec_mask(folder, name), structure.map > level * structure.map.max()
        filled += mask.sum() * theirs[:, number].mean()
        click.echo(
            f"{structure.name:6s} | {ours[number]}, {theirs[:, number].mean():.0f} "
            f"({theirs[:, number].min()}-{theirs[:, number].max()}) | {label.sum()}, {mask.sum()} "
            f"| {gyration(label):.2f}, {gyration(mask):.2f} | {height[structure.name]:.1f} | "
            f"{recall[name]:.2f}")
    click.echo("\n       | particles | nearest neighbour 5, 25, 50, 75, 95 % (voxels) | z | filled")
    rows = [("ours", scene.position_xyz)] + [("SHREC", place) for place, _ in truth]
    share = [float((labels > 0).mean())] + [filled / labels.size] * len(truth)
    for (name, place), part in zip(rows, share, strict=True):
        words = ", ".join(f"{q:.1f}" for q in spacing(place))
        z = place[:, 2]
        click.echo(f"{name:6s} | {len(place)} | {words} | {z.min():.0f} to {z.max():.0f} | "
                   f"{100 * part:.1f} %")


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=None)
@click.option("--seed", default=0, show_default=True)
@click.option("--shape", default="512,512,200", show_default=True)
@click.option("--snr", default=0.05, show_default=True)
def main(data: Path | None, seed: int, shape: str, snr: float) -> None:
    """Simulate one tomogram, step by step."""
    clock = Clock()
    x, y, z = (int(word) for word in shape.split(","))
    size = (x, y, z)
    folders = [] if data is None else [str(data / "models"), str(data / "templates_10A")]
    level = float(presets.OPTIONS["shrec"]["label_level"])  # type: ignore[arg-type]
    models = presets.shrec_models(folders)
    structures = clock.run(
        "structures", lambda: presets.load_named(models, None, VOXEL, 20.0, "none"))
    counts = presets.draw_counts([s.name for s in structures], x * y * z * VOXEL**3, seed)
    scene = clock.run(f"packing of {sum(counts)}", lambda: make_scene(
        structures, counts, size, seed, open_sides=True, label_level=level))
    labels = clock.run("labels and density", lambda: populate(
        scene, structures, label_level=level)[1])
    angles = tilt_angles_deg(-60.0, 60.0, 3.0)
    images = clock.run("projections", lambda: project_scene(scene, structures, angles))
    recorded = clock.run("optics and noise", lambda: image_scene(
        images, VOXEL, snr, DEFOCUS, "phase-flip", np.random.default_rng(seed)))
    clock.run("back-projection", lambda: back_project(recorded, angles, size))
    height = detectability(structures, images, angles, snr)
    if data is not None:
        compare(data / "shrec19", scene, structures, labels, level, height)
    else:
        click.echo(" ".join(f"{name} {value:.1f}" for name, value in height.items()))


if __name__ == "__main__":
    main()
