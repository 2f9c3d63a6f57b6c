"""How each method gets its particles, runs, and what it answers.

All methods see the same noise. What is done about the CTF is the best that a method can use: signs
for the paper's methods, which know measured and missing samples only; signs, amplitudes and weights
for enhanced mode and RELION, which know the precision of every sample (`enhanced-flip`: enhanced
mode with signs only). `enhanced-symmetry` also finds the point group of every class; the others of
this name leave one part of enhanced mode out, for the ablation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from children import Finished, run_timed
from contenders import check, run_relion

from scipion_faml.enhanced.whitened import whitened
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import read_cube
from scipion_faml.sources import open_source
from scipion_faml.tables import read_particles
from scipion_faml.types import FloatArray, IntArray

TURNED = ("--mode", "paper", "--start", "turned", "--iterations", "20")
OPTIONS: dict[str, tuple[str, ...]] = {  # of classify
    "fa": (*TURNED, "--method", "fa"),
    "paper": TURNED,
    "enhanced": ("--mode", "enhanced"),
    "enhanced-flip": ("--mode", "enhanced"),
    "enhanced-symmetry": ("--mode", "enhanced", "--symmetry", "auto"),
    "enhanced-no-prior": ("--mode", "enhanced", "--no-regularise"),
    "enhanced-white-noise": ("--mode", "enhanced", "--noise", "white"),
    "enhanced-one-fold": ("--mode", "enhanced", "--folds", "1"),
    "enhanced-no-spread": ("--mode", "enhanced", "--no-spread"),
    "enhanced-all-shells": ("--mode", "enhanced", "--start-shells", "15"),
    "enhanced-no-split-merge": ("--mode", "enhanced", "--no-split-merge"),
}
METHODS = (*OPTIONS, "relion")


def correction_of(method: str) -> str:
    """Return what is done about the CTF for a method."""
    return "phase-flip" if method in ("fa", "paper", "enhanced-flip") else "weights"


@dataclass(frozen=True, eq=False)
class Answer:
    """What a method says about a set of particles."""

    averages: FloatArray  # (K, n, n, n)
    class_index: IntArray  # (N,) from 0
    poses: RigidTransforms  # N
    child: Finished
    n_iterations: int


def answer_of(
    method: str, particles: Path, n_classes: int, options: Sequence[str], folder: Path, seed: int
) -> Answer:
    """Run a method on a particle table with one thread and return its answer."""
    if method == "relion":
        return _relion_answer(particles, n_classes, folder, seed)
    output = folder / "classify"
    extra = options if method.startswith("enhanced") else ()
    command = [
        sys.executable, "-m", "scipion_faml", "classify", str(particles), *OPTIONS[method], *extra,
        "--classes", str(n_classes or "auto"), "--seed", str(seed), "--workers", "1",
        "--output", str(output), "--overwrite",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    child = run_timed(command, folder, log, lambda: len(list(output.glob("iter_[0-9]*"))))
    check(child, log)
    found = read_particles(output / "particles.star")
    maps = sorted(output.glob("class_[0-9][0-9][0-9].mrc"))
    averages = np.stack([read_cube(path)[0] for path in maps])
    return Answer(averages, found.class_index, found.poses, child, len(child.marks_s))


def _relion_answer(particles: Path, n_classes: int, folder: Path, seed: int) -> Answer:
    """RELION with its de-novo start, of particles whose noise is white on all shells."""
    source = whitened(open_source(read_particles(particles)))
    outcome = run_relion(source, n_classes, "relion", folder, seed)
    last = outcome.load(outcome.n_iterations)
    averages = np.stack([source.whitening.removed(a) for a in last.averages])
    return Answer(averages, last.class_index, last.poses, outcome.child, outcome.n_iterations)
