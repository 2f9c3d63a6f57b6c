"""Time of an iteration of enhanced mode by its phase, and the recall of phase-aware candidates.

    python benchmarks/enhanced_iteration.py          (part of `make bench`)

Core-seconds per particle and class. An iteration from scratch looks at all rotations and shifts; a
local one climbs from the peaks of the iteration before, once posteriors are sharp. What reading a
particle at working resolution costs is paid when the resolution grows, not in every iteration.
"""

from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import logging  # noqa: E402
import time  # noqa: E402
from collections import defaultdict  # noqa: E402
from statistics import median  # noqa: E402

import click  # noqa: E402
import numpy as np  # noqa: E402
from iteration import MAX_SHIFT, machine, particles  # noqa: E402

from scipion_faml import enhanced, faml  # noqa: E402
from scipion_faml.align import prepare_reference  # noqa: E402
from scipion_faml.em import search_of  # noqa: E402
from scipion_faml.execution import SerialExecutor  # noqa: E402
from scipion_faml.geometry import rotation_angle_deg  # noqa: E402
from scipion_faml.model import FamlConfig  # noqa: E402
from scipion_faml.phase import phase_candidates  # noqa: E402
from scipion_faml.simulation.phantom import blobs  # noqa: E402


def time_phases(n: int, n_particles: int, snr: float) -> dict[str, list[float]]:
    """Core-seconds per particle of a run's iterations by phase, K = 1."""
    source, _ = particles(blobs(n, 0), n_particles, snr)
    config = FamlConfig(mode="enhanced", n_iterations=12, max_shift=4.0 * n / 32)
    bench = enhanced.Workbench(source, config, SerialExecutor())
    state, previous = enhanced.initial_state(bench), None
    spent: dict[str, list[float]] = defaultdict(list)
    while state.iteration < config.n_iterations and not state.is_converged:
        started = time.process_time()
        bench.open_box(state.radius)  # before the clock of the phase: its own line
        opened = time.process_time()
        if opened - started > 1e-3:
            spent["read again"].append((opened - started) / n_particles)
        result = enhanced.iterate(bench, state, previous)
        spent[state.phase].append((time.process_time() - opened) / n_particles)
        state, previous = result.state, result.assignments
    return spent


def phase_recall(
    n: int, snr: float, n_particles: int, seed: int
) -> tuple[float, float]:
    """Share of particles with a candidate at the truth, and core-seconds of each search."""
    volume = blobs(n, seed)
    source, poses = particles(volume, n_particles, snr, seed + 1)
    config = FamlConfig(search="phase", max_shift=MAX_SHIFT + 1.0)
    geometry = faml.Geometry.of(source, config)
    reference = prepare_reference(volume, geometry.samples, geometry.plan)
    search = search_of(config, geometry.samples)
    assert search is not None
    search.dense(reference)
    hits, spent = 0, 0.0
    for i in range(n_particles):
        observation = geometry.observe(source, i)
        started = time.process_time()
        found = phase_candidates(observation, reference, 0, 50, search).transforms
        spent += time.process_time() - started
        angle = rotation_angle_deg(found.rotation, poses.rotation[i])
        shift = np.linalg.norm(found.shift_xyz - poses.shift_xyz[i], axis=1)
        hits += bool(np.any((angle < 10.0) & (shift < 1.5)))
    return hits / n_particles, spent / n_particles


@click.command()
@click.option("--box", "boxes", multiple=True, default=(32, 64, 128), show_default=True)
@click.option("--snr", default=0.02, show_default=True)
def main(boxes: tuple[int, ...], snr: float) -> None:
    """Print the tables."""
    logging.disable(logging.WARNING)
    click.echo(machine())
    click.echo(f"\n| box, SNR {snr:g} | from scratch | local | read at a new resolution |")
    click.echo("|---|---|---|---|")
    for n in boxes:
        spent = time_phases(n, 24, snr)
        cells = [f"{median(spent[p]):.4f}" if spent[p] else "-"
                 for p in ("dense", "local", "read again")]
        click.echo(f"| {n}^3 | " + " | ".join(cells) + " |")
    click.echo("\n| SNR | candidate recall, 32^3, clean reference, phases | core-s a search |")
    click.echo("|---|---|---|")
    for level in (0.1, 0.05, 0.01):
        rows = [phase_recall(32, level, 40, seed) for seed in range(3)]
        recall, seconds = (median(column) for column in zip(*rows, strict=True))
        click.echo(f"| {level} | {recall:.2f} | {seconds:.3f} |")


if __name__ == "__main__":
    main()
