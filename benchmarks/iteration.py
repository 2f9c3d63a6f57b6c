"""Time of one FAML iteration and of its parts, and the recall of its candidates.

    make bench            (or: python benchmarks/iteration.py --box 32 --box 64 --box 128)

Prints core-seconds per particle and class for a whole iteration in paper mode, and where they go;
medians over repeats, one thread, with the machine they were taken on.
"""

from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import platform  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import median  # noqa: E402

import click  # noqa: E402
import numpy as np  # noqa: E402

from scipion_faml import faml  # noqa: E402
from scipion_faml.align import find_candidates, prepare_reference  # noqa: E402
from scipion_faml.fourier import spectrum, volume_from_spectrum  # noqa: E402
from scipion_faml.geometry import RigidTransforms, random_rotations, rotation_angle_deg  # noqa: E402
from scipion_faml.io import ArraySource  # noqa: E402
from scipion_faml.model import FamlConfig  # noqa: E402
from scipion_faml.simulation.phantom import blobs  # noqa: E402
from scipion_faml.types import FloatArray  # noqa: E402
from scipion_faml.volume import move_volume  # noqa: E402
from scipion_faml.wedge import MissingWedge  # noqa: E402

WEDGE = MissingWedge(-60.0, 60.0)
MAX_SHIFT = 3.0  # voxels


def particles(
    volume: FloatArray, n_particles: int, snr: float, seed: int = 0
) -> tuple[ArraySource, RigidTransforms]:
    """Turned, shifted copies with white noise (variance ratio over the box) and a wedge."""
    rng = np.random.default_rng(seed)
    n = volume.shape[0]
    direction = rng.normal(size=(n_particles, 3))
    radius = MAX_SHIFT * rng.uniform(size=(n_particles, 1)) ** (1 / 3)
    shifts = radius * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    poses = RigidTransforms(random_rotations(n_particles, rng), shifts)
    out = []
    for i in range(n_particles):
        noise = rng.normal(0.0, volume.std() / np.sqrt(snr), volume.shape)
        noisy = move_volume(volume, poses[[i]]) + noise
        out.append(volume_from_spectrum(spectrum(noisy) * WEDGE.mask(n), n))
    return ArraySource(np.stack(out).astype(np.float32), WEDGE, 10.0), poses


def time_iteration(n: int, n_particles: int, repeats: int) -> dict[str, float]:
    """Median seconds per particle of a whole iteration and of its stages (K = 1, one thread)."""
    source, _ = particles(blobs(n, 0), n_particles, snr=0.02)
    config = FamlConfig(start="turned", max_shift=5.0)
    state = faml.initial_state(source, config)
    faml.iterate(source, state, config)  # tables and caches
    runs = [faml.iterate(source, state, config).seconds for _ in range(repeats)]
    return {name: median(run[name] for run in runs) / n_particles for name in runs[0]}


def candidate_recall(n: int, snr: float, n_particles: int, seed: int = 0) -> float:
    """Share of particles with a candidate within 10 deg and 1.5 voxels of the truth."""
    volume = blobs(n, seed)
    source, poses = particles(volume, n_particles, snr, seed + 1)
    geometry = faml.Geometry.of(source, FamlConfig())
    reference = prepare_reference(volume, geometry.samples, geometry.plan)
    hits = 0
    for i in range(n_particles):
        found = find_candidates(geometry.observe(source, i), reference, 0, 50, MAX_SHIFT + 1.0)
        angle = rotation_angle_deg(found.transforms.rotation, poses.rotation[i])
        shift = np.linalg.norm(found.transforms.shift_xyz - poses.shift_xyz[i], axis=1)
        hits += bool(np.any((angle < 10.0) & (shift < 1.5)))
    return hits / n_particles


def machine() -> str:
    """Processor and libraries, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    name = names[0] if names else platform.processor()
    return f"{name}, {os.cpu_count()} cores, numpy {np.__version__}"


@click.command()
@click.option("--box", "boxes", multiple=True, default=(32, 64, 128), show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(boxes: tuple[int, ...], repeats: int) -> None:
    """Print both tables."""
    click.echo(machine())
    click.echo("\n| box | s per particle and class | read | candidates | statistics |")
    click.echo("|---|---|---|---|---|")
    for n in boxes:
        spent = time_iteration(n, max(4, 640 // n), repeats)
        stages = " | ".join(f"{spent[s]:.4f}" for s in ("read", "candidates", "statistics"))
        click.echo(f"| {n}^3 | {spent['total']:.4f} | {stages} |")
    click.echo("\n| SNR | candidate recall, 32^3, clean reference, magnitudes |")
    click.echo("|---|---|")
    for snr in (0.1, 0.05, 0.01):
        recall = median(candidate_recall(32, snr, 40, seed) for seed in range(3))
        click.echo(f"| {snr} | {recall:.2f} |")


if __name__ == "__main__":
    main()
