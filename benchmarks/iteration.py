"""Time of one FAML iteration and of its parts, and the recall of its candidates.

    make bench            (or: python benchmarks/iteration.py --box 32 --box 64 --box 128)

Prints core-seconds per particle and class for a whole iteration in paper mode, where they go, what
each stage costs, how two threads scale, and the recall of the candidates. CPU time of one thread,
medians over repeats, with the machine and what its core does in a matrix product meanwhile: on a
shared machine only figures of one run compare.
"""

from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import platform  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import median  # noqa: E402

import click  # noqa: E402
import numpy as np  # noqa: E402

from scipion_faml import faml  # noqa: E402
from scipion_faml.align import (  # noqa: E402
    IDENTITY,
    best_rotations,
    find_candidates,
    gather,
    magnitude_scores,
    prepare_reference,
    score_rotations,
)
from scipion_faml.estep import CACHE_BYTES  # noqa: E402
from scipion_faml.execution import executor_of  # noqa: E402
from scipion_faml.fourier import (  # noqa: E402
    spectrum,
    turnable_spectrum,
    volume_from_spectrum,
)
from scipion_faml.geometry import RigidTransforms, random_rotations, rotation_angle_deg  # noqa: E402
from scipion_faml.harmonics import (  # noqa: E402
    harmonic_coefficients,
    rotational_correlation,
)
from scipion_faml.model import FamlConfig, ModelState  # noqa: E402
from scipion_faml.simulation.phantom import blobs  # noqa: E402
from scipion_faml.sources import ArraySource  # noqa: E402
from scipion_faml.types import FloatArray  # noqa: E402
from scipion_faml.volume import move_volume  # noqa: E402
from scipion_faml.voronoi import pose_points, voronoi_weights  # noqa: E402
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


def start(n: int, n_particles: int) -> tuple[ArraySource, FamlConfig, ModelState]:
    """Particles of one structure, settings of paper mode and a warm starting point."""
    source, _ = particles(blobs(n, 0), n_particles, snr=0.02)
    config = FamlConfig(start="turned", max_shift=5.0)
    return source, config, faml.initial_state(source, config)


def time_iteration(
    n: int, n_particles: int, repeats: int, cache_bytes: int = 0
) -> dict[str, float]:
    """Median CPU seconds per particle of a whole iteration, and of its stages (K = 1, one thread).

    Without a cache every particle is observed anew, as where there are more than fit.
    Stages are measured by wall time; they are scaled so that all add up to CPU time.
    """
    source, config, state = start(n, n_particles)
    geometry = faml.Geometry.of(source, config, cache_bytes)
    faml.iterate(source, state, config, geometry=geometry)  # tables and caches
    runs = []
    for _ in range(repeats):
        began = time.process_time()
        seconds = faml.iterate(source, state, config, geometry=geometry).seconds
        spent = time.process_time() - began
        runs.append({name: s * spent / seconds["total"] for name, s in seconds.items()})
    return {name: median(run[name] for run in runs) / n_particles for name in runs[0]}


def thread_speedup(n: int, n_particles: int, repeats: int) -> float:
    """Median of wall time with one thread over wall time with two, taken in turns."""
    source, config, state = start(n, n_particles)
    geometry = faml.Geometry.of(source, config, cache_bytes=0)
    faml.iterate(source, state, config, geometry=geometry)  # tables and caches
    ratios = []
    for _ in range(repeats):
        wall = []
        for n_workers in (1, 2):
            began = time.perf_counter()
            faml.iterate(source, state, config, executor_of(n_workers), geometry=geometry)
            wall.append(time.perf_counter() - began)
        ratios.append(wall[0] / wall[1])
    return median(ratios)


def cpu_ms(function: Callable[[], object], repeats: int) -> float:
    """Median CPU time of a call (ms), after one that warms up."""
    function()
    spent = []
    for _ in range(max(repeats, 3)):
        began = time.process_time()
        function()
        spent.append(time.process_time() - began)
    return 1e3 * median(spent)


def time_stages(n: int, repeats: int) -> dict[str, float]:
    """CPU time (ms) of every stage of one particle and class, 50 candidates."""
    source, _ = particles(blobs(n, 0), 1, snr=0.02)
    geometry = faml.Geometry.of(source, FamlConfig(), cache_bytes=0)
    plan = geometry.plan
    reference = prepare_reference(blobs(n, 0), geometry.samples, plan)
    seen = geometry.observe(source, 0)
    on_shells = np.abs(gather(seen.turnable, plan.axes, IDENTITY))
    score = magnitude_scores(seen, reference)
    euler_zyz = random_rotations(50, np.random.default_rng(0))
    found = score_rotations(seen, reference, euler_zyz, 0, 5.0).transforms
    p, q = seen.magnitude_coefficients, reference.magnitude_coefficients
    points = pose_points()
    signal, coverage = np.zeros(len(seen.samples), complex), np.zeros(len(seen.samples))
    stages: dict[str, Callable[[], object]] = {
        "observe": lambda: geometry.observe(source, 0),
        "- its turnable spectrum": lambda: turnable_spectrum(source[0].volume, (n - 1) // 2),
        "magnitudes on shells": lambda: np.abs(gather(seen.turnable, plan.axes, IDENTITY)),
        "harmonic coefficients": lambda: harmonic_coefficients(on_shells, plan),
        "rotational correlation": lambda: rotational_correlation(p, q, plan),
        "maxima": lambda: best_rotations(score, plan, 50),
        "shift and score of 50 rotations": lambda: score_rotations(
            seen, reference, euler_zyz, 0, 5.0
        ),
        "Voronoi weights": lambda: voronoi_weights(found, points),
        "turn back 1 candidate": lambda: seen.add_turned_back(
            found.rotation[:1], found.shift_xyz[:1], np.ones(1), signal, coverage
        ),
        "turn back 4 candidates": lambda: seen.add_turned_back(
            found.rotation[:4], found.shift_xyz[:4], np.ones(4), signal, coverage
        ),
    }
    return {name: cpu_ms(stage, repeats) for name, stage in stages.items()}


def matrix_product_gflops() -> float:
    """What one core does in a float32 matrix product now."""
    a = np.ones((768, 768), dtype=np.float32)
    return 2 * 768**3 / cpu_ms(lambda: a @ a, 5) / 1e6


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
    """Print the tables."""
    click.echo(f"{machine()}, {matrix_product_gflops():.0f} GFLOP/s in a matrix product")
    click.echo("\n| box | core-s per particle and class | read | candidates | statistics "
               "| particles at hand from the iteration before |")
    click.echo("|---|---|---|---|---|---|")
    for n in boxes:
        n_particles = max(8, 640 // n)
        spent = time_iteration(n, n_particles, repeats)
        stages = " | ".join(f"{spent[s]:.4f}" for s in ("read", "candidates", "statistics"))
        kept = time_iteration(n, n_particles, repeats, CACHE_BYTES)["total"]
        click.echo(f"| {n}^3 | {spent['total']:.4f} | {stages} | {kept:.4f} |")
    tables = {n: time_stages(n, repeats) for n in boxes}
    click.echo("\n| stage, ms of a core | " + " | ".join(f"{n}^3" for n in boxes) + " |")
    click.echo("|---|" + "---|" * len(boxes))
    for name in tables[boxes[0]]:
        click.echo(f"| {name} | " + " | ".join(f"{tables[n][name]:.2f}" for n in boxes) + " |")
    if 64 in boxes and (os.cpu_count() or 1) > 1:
        click.echo(f"\nTwo threads, 64^3: {thread_speedup(64, 16, repeats):.2f} times one")
    click.echo("\n| SNR | candidate recall, 32^3, clean reference, magnitudes |")
    click.echo("|---|---|")
    for snr in (0.1, 0.05, 0.01):
        recall = median(candidate_recall(32, snr, 40, seed) for seed in range(3))
        click.echo(f"| {snr} | {recall:.2f} |")


if __name__ == "__main__":
    main()
