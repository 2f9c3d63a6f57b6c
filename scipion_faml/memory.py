"""How much memory a run needs, and what is left to keep particles at hand."""

from __future__ import annotations

import numpy as np

from scipion_faml import estep
from scipion_faml.dense import shift_lattice
from scipion_faml.enhanced import store
from scipion_faml.model import FamlConfig

PROGRAM_BYTES = 230 * 10**6  # interpreter, libraries and their tables
FULL_BOXES = 12  # arrays of the whole box that a worker has at a time


def needed_bytes(
    config: FamlConfig, n: int, voxel_size_angst: float, n_threads: int
) -> int:
    """Return about how much memory `n_threads` need at most for particles in boxes of n.

    Besides what is kept of particles. It does not grow with their number, but for some hundred
    bytes each.
    """
    radius = config.max_radius_of(n, voxel_size_angst)
    n_classes = max(config.n_classes, config.max_classes if config.find_classes else 1)
    n_samples = 2.1 * radius**3 + 100  # half of the samples in a ball
    box = 4.0 * n**3
    sums = 24.0 * n_classes * n_samples
    turnable = 8.0 * 4.5 * (2 * radius + 2) ** 3 / 2
    worker = FULL_BOXES * box + 2 * sums
    if config.mode == "paper":
        shared = n_classes * (turnable + 6 * box) + 4 * 2 * sums
        return int(PROGRAM_BYTES + n_threads * (worker + sums + 4 * turnable) + shared)
    shared = n_classes * (10 * box + 2 * turnable) + config.n_groups * (3 * sums)
    grid, poses = _grid_bytes(config, n, radius)
    return int(PROGRAM_BYTES + n_threads * (worker + n_classes * (grid + poses))
               + shared + 3 * n_classes * grid)


def _grid_bytes(config: FamlConfig, n: int, radius: int) -> tuple[float, float]:
    """Memory of one average for all shifts of the largest grid, and of one posterior over it."""
    radius = min(radius, config.dense_radius(config.dense_bandwidth))
    bandwidth = config.bandwidth_of_shells(radius)
    step = max(n / (4.0 * radius), 1.0)
    n_shifts = len(shift_lattice(step, config.max_shift_of(n)))
    n_rotations = bandwidth * (2 * bandwidth) ** 2
    return 8.0 * radius * bandwidth**2 * n_shifts, 4.0 * n_rotations * n_shifts


def cache_bytes_within(memory_bytes: int | None, needed: int, mode: str) -> int:
    """Return what may be kept of particles: what memory leaves, or as much as is usual.

    Raises
    ------
    ValueError
        If the memory does not suffice without.
    """
    if memory_bytes is None:
        return store.CACHE_BYTES if mode == "enhanced" else estep.CACHE_BYTES
    if memory_bytes < needed:
        raise ValueError(
            f"--memory {memory_bytes / 1e9:.3g} (GB) is too little: about {needed / 1e9:.2g} GB "
            "are needed for this box, the classes and the workers; give more, or use fewer "
            "--workers, a smaller --max-shift or --dense-bandwidth, or bin the particles")
    return int(np.clip(memory_bytes - needed, 0, memory_bytes))
