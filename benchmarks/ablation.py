"""What each part of enhanced mode is worth: one left out at a time, on the benchmark's blobs.

    python benchmarks/ablation.py            (32^3, N = 50, SNR 0.05 and 0.01, five seeds)

Prints a table: correlation with the truth in a sphere of 0.42 n, the same without the radial mean,
iterations and core-seconds; medians over seeds, worst in brackets.
"""

from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import logging  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import click  # noqa: E402
import numpy as np  # noqa: E402
from iteration import particles  # noqa: E402

from scipion_faml import enhanced, faml  # noqa: E402
from scipion_faml.evaluation.superposition import (  # noqa: E402
    move_map,
    superpose,
    without_radial_mean,
)
from scipion_faml.model import FamlConfig  # noqa: E402
from scipion_faml.simulation.phantom import blobs  # noqa: E402
from scipion_faml.types import FloatArray  # noqa: E402
from scipion_faml.volume import soft_sphere  # noqa: E402

VARIANTS: dict[str, dict[str, Any]] = {
    "enhanced": {},
    "references of all particles (--folds 1)": {"n_folds": 1},
    "four folds": {"n_folds": 4},
    "one noise variance (--noise white)": {"noise": "white"},
    "no Wiener prior (--no-regularise)": {"regularise": False},
    "peaks without their spread (--no-spread)": {"spread": False},
    "no floor on zeta": {"min_zeta": 0.01},
    "all shells from the start": {"start_radius": 15},
    "paper": {"mode": "paper"},
    "paper, turned start": {"mode": "paper", "start": "turned"},
    "paper, turned start, phases": {"mode": "paper", "start": "turned", "search": "both"},
}


def agreement(volume: FloatArray, truth: FloatArray) -> tuple[float, float]:
    """Correlation with the truth in a sphere of 0.42 n, and without the radial means."""
    inside = soft_sphere(len(truth), 0.42 * len(truth), 1.0) > 0.5
    moved = move_map(volume, superpose(volume, truth)[0])
    pairs = [(moved, truth), (without_radial_mean(moved), without_radial_mean(truth))]
    first, second = (float(np.corrcoef(a[inside], b[inside])[0, 1]) for a, b in pairs)
    return first, second


def one_run(options: dict[str, Any], snr: float, seed: int) -> list[float]:
    """Both correlations, iterations and core-seconds of one run."""
    truth = blobs(32, seed)
    source, _ = particles(truth, 50, snr, seed + 1)
    config = FamlConfig(
        **{"mode": "enhanced", "n_iterations": 25, "max_shift": 4.0, "seed": seed, **options})
    started = time.process_time()
    runs = enhanced.run if config.mode == "enhanced" else faml.run
    result = list(runs(source, config))[-1]
    spent = time.process_time() - started
    return [*agreement(result.state.averages[0], truth), result.state.iteration, spent]


@click.command()
@click.option("--snr", "snrs", multiple=True, default=(0.05, 0.01), show_default=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--only", multiple=True, help="Variants whose name holds this.")
def main(snrs: tuple[float, ...], seeds: int, only: tuple[str, ...]) -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    click.echo("| variant | SNR | correlation | without radial mean | iterations | core-s |")
    click.echo("|---|---|---|---|---|---|")
    for name, options in VARIANTS.items():
        if only and not any(part in name for part in only):
            continue
        for snr in snrs:
            rows = np.array([one_run(options, snr, seed) for seed in range(seeds)])
            middle, worst = np.median(rows, axis=0), rows.min(axis=0)
            click.echo(
                f"| {name} | {snr:g} | {middle[0]:.3f} ({worst[0]:.3f}) | "
                f"{middle[1]:.3f} ({worst[1]:.3f}) | {middle[2]:.0f} | {middle[3]:.1f} |"
            )


if __name__ == "__main__":
    main()
