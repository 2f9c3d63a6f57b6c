"""Coarse groups of simulated mixtures before any alignment, beside k-means on low-passed voxels.

    python benchmarks/coarse_groups.py

Boxes of 32 voxels of 10 A: ribosome, GroEL, apoferritin and boxes of nothing but noise, as many of
each (mixture "kinds"), or four of one size or nearly (mixture "alike"). White noise on turned,
shifted maps of standard deviation 1, so that the noise says nothing about the class; shifts uniform
in a ball of 3 voxels, rotations uniform; then a missing wedge: +-60 deg for all, or ("mixed") of
+-45, -70 to 60 deg, or +-60 deg about the other axis, at random. The SNR is the variance of the map
over the box / the variance of the noise before the wedge is cut. K-means gets the true number of
groups and particles low-passed to the same resolution, as they lie.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
from cases import draw_shifts
from scipy.cluster.vq import kmeans2

from scipion_faml.evaluation.classes import compare_classes
from scipion_faml.execution import one_blas_thread
from scipion_faml.fourier import low_pass, spectrum, volume_from_spectrum
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.grouping.clustering import find_groups
from scipion_faml.grouping.descriptors import DescriptorSettings, describe
from scipion_faml.structures import load_structure
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.wedge import MissingWedge

BOX, VOXEL_SIZE = 32, 10.0
MIXTURES = {
    "kinds": ("ribosome", "groel", "apoferritin", None),
    "alike": ("groel", "tric", "proteasome", "apoferritin"),
}
K_MEANS_STARTS = 5


def wedges(name: str) -> list[FloatArray]:
    """Return the weights that particles have one of."""
    usual = MissingWedge(-60.0, 60.0).mask(BOX)
    if name == "one":
        return [usual]
    about_x = np.ascontiguousarray(np.swapaxes(usual, 0, 1))
    return [MissingWedge(-45.0, 45.0).mask(BOX), MissingWedge(-70.0, 60.0).mask(BOX), about_x]


def simulate(
    models: Sequence[str | None], per_class: int, snr: float, wedge: str, seed: int
) -> tuple[FloatArray, list[FloatArray], IntArray]:
    """Return particles (N, n, n, n), their weights and their kinds."""
    rng = np.random.default_rng([seed, 5])
    structures = [None if m is None else load_structure(m, BOX, VOXEL_SIZE, 20.0) for m in models]
    kinds = rng.permutation(np.repeat(np.arange(len(models)), per_class))
    of = wedges(wedge)
    weights = [of[k] for k in rng.integers(0, len(of), len(kinds))]
    poses = RigidTransforms(random_rotations(len(kinds), rng), draw_shifts(len(kinds), rng))
    volumes = np.empty((len(kinds), BOX, BOX, BOX), dtype=np.float32)
    for i, k in enumerate(kinds):
        volume = rng.normal(0.0, snr**-0.5, volumes.shape[1:])
        structure = structures[k]
        if structure is not None:
            volume += structure.posed(poses[[i]]) / structure.map.std(dtype=np.float64)
        volumes[i] = volume_from_spectrum(spectrum(volume) * weights[i], BOX)
    return volumes, weights, kinds


def scores(truth: IntArray, found: IntArray) -> tuple[float, float]:
    """Return adjusted Rand index and mean F1."""
    agreement = compare_classes(truth, found)
    return agreement.adjusted_rand_index, agreement.f1_mean


def by_voxels(volumes: FloatArray, n_groups: int, cutoff: float) -> IntArray:
    """Return the best of some runs of k-means on low-passed voxels."""
    rows = np.stack([low_pass(v, VOXEL_SIZE, cutoff).ravel() for v in volumes])
    rows -= rows.mean(axis=0)
    best, index = np.inf, np.zeros(len(rows), dtype=np.intp)
    for seed in range(K_MEANS_STARTS):
        centres, found = kmeans2(rows, n_groups, minit="++", seed=seed)
        within = float(((rows - centres[found]) ** 2).sum())
        if within < best:
            best, index = within, found
    return index


def cell(mixture: str, wedge: str, snr: float, per_class: int, seed: int) -> dict[str, float]:
    """Return the scores and seconds of one simulated set."""
    models = MIXTURES[mixture]
    volumes, weights, truth = simulate(models, per_class, snr, wedge, seed)
    how = DescriptorSettings.of(BOX, VOXEL_SIZE)
    begun = time.process_time()
    described = [describe(v, w, how) for v, w in zip(volumes, weights, strict=True)]
    seconds = (time.process_time() - begun) / len(truth)
    values = np.stack([d.values for d in described])
    noise = np.stack([d.noise_variance for d in described])
    begun = time.process_time()
    found = find_groups(values, noise, None)
    grouping = time.process_time() - begun
    ari, f1 = scores(truth, found.index)
    ari_given, f1_given = scores(truth, find_groups(values, noise, len(models)).index)
    ari_voxels, f1_voxels = scores(
        truth, by_voxels(volumes, len(models), BOX * VOXEL_SIZE / how.n_shells))
    return {
        "groups": len(found.sizes), "ari": ari, "f1": f1, "ari_given": ari_given,
        "f1_given": f1_given, "ari_voxels": ari_voxels, "f1_voxels": f1_voxels,
        "ms": 1e3 * seconds, "seconds": grouping,
    }


def main() -> None:
    """Print a row of the table for each mixture, wedge and SNR: median and worst of the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=60, help="particles of each kind")
    parser.add_argument("--snr", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.3])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print("| mixture | wedges | SNR | groups found | ARI, F1, number found | ARI, F1, number given "
          "| ARI, F1, k-means on voxels | ms a particle, s to group |")
    print("|---|---|---|---|---|---|---|---|")
    for mixture, wedge in (("kinds", "one"), ("kinds", "mixed"), ("alike", "one")):
        for snr in given.snr:
            cells = [cell(mixture, wedge, snr, given.count, seed) for seed in range(given.seeds)]
            column = {key: [c[key] for c in cells] for key in cells[0]}

            def told(key: str, column: dict[str, list[float]] = column) -> str:
                return f"{np.median(column[key]):.2f} ({min(column[key]):.2f})"

            groups = ", ".join(f"{g:.0f}" for g in column["groups"])
            print(f"| {mixture} | {wedge} | {snr:g} | {groups} | {told('ari')}, {told('f1')} "
                  f"| {told('ari_given')}, {told('f1_given')} "
                  f"| {told('ari_voxels')}, {told('f1_voxels')} "
                  f"| {np.median(column['ms']):.2f}, {np.median(column['seconds']):.1f} |",
                  flush=True)


if __name__ == "__main__":
    with one_blas_thread():
        main()
