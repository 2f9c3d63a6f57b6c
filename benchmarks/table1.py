"""Table 1 of the paper re-run: time and quality of FA and FAML on 20 ribosomes at SNR 0.02.

    python benchmarks/table1.py                 (boxes of 32, 64 and 128 voxels)

The paper's figures are seconds of one iteration with 12 processes; times 12 / 20 they are
core-seconds per particle. Here one thread, CPU time of an iteration per particle; the correlation
with the truth (sphere of 0.42 n, and without the radial means) after the last iteration.
`benchmarks/versus_relion.py --methods relion-paper` times RELION at the paper's settings.
"""

from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import logging  # noqa: E402
import time  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import click  # noqa: E402
from ablation import agreement  # noqa: E402
from iteration import machine, particles  # noqa: E402

from scipion_faml import enhanced, faml  # noqa: E402
from scipion_faml.datasets import load_bead_model  # noqa: E402
from scipion_faml.model import FamlConfig  # noqa: E402
from scipion_faml.simulation.density import rasterise  # noqa: E402

BOX_ANGST = 384.0  # 6 A per voxel at 64^3, as in the paper
# Core-seconds per particle and iteration: seconds of Table 1 times 12 processes / 20 particles.
PAPER = {"FA": {32: 4, 64: 16, 128: 86}, "FAML": {32: 34, 64: 90, 128: 269},
         "RELION": {32: 204, 64: 204, 128: 553}}
METHODS: dict[str, dict[str, Any]] = {
    "FA": {"method": "fa", "start": "turned"},
    "FAML": {"start": "turned"},
    "enhanced": {"mode": "enhanced"},
}


@click.command()
@click.option("--box", "boxes", multiple=True, default=(32, 64, 128), show_default=True)
@click.option("--count", default=20, show_default=True)
@click.option("--iterations", default=8, show_default=True)
def main(boxes: tuple[int, ...], count: int, iterations: int) -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    click.echo(machine())
    click.echo("\n| box | method | core-s per particle and iteration | the paper's | times less | "
               "correlation | without radial mean |\n|---|---|---|---|---|---|---|")
    for n in boxes:
        truth = rasterise(load_bead_model("ribosome"), n, BOX_ANGST / n)
        source, _ = particles(truth, count, 0.02)
        for name, options in METHODS.items():
            config = FamlConfig(
                **{"n_iterations": iterations, "max_shift": 4.0 * n / 32, **options})
            run = enhanced.run if config.mode == "enhanced" else faml.run
            spent, started = [], time.process_time()
            averages = None
            for result in run(source, config):
                averages = result.state.averages
                spent.append((time.process_time() - started) / count)
                started = time.process_time()
            first, second = agreement(averages[0], truth)
            was = PAPER.get(name, {}).get(n)
            factor = f"{was / median(spent):.0f}" if was else "-"
            click.echo(f"| {n}^3 | {name} | {median(spent):.4f} | {was or '-'} | {factor} | "
                       f"{first:.3f} | {second:.3f} |")


if __name__ == "__main__":
    main()
