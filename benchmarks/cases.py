"""Simulated sets of particles that the benchmarks share: the setting of the peers' figures.

    source, truth = simulate_case(box=32, count=50, classes=2, snr=0.05, seed=0)

White noise on the turned, shifted structure, then a missing wedge (+-60 deg). The SNR is the
variance of the structure over the whole box / the variance of the noise before the wedge is cut.
Shifts are uniform in a ball of 3 voxels, rotations uniform. One class: the phantom `blobs`; two:
also GroEL (bead model), as many particles each. All maps have standard deviation 1 over the box,
so that the noise says nothing about the class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scipion_faml.fourier import spectrum, volume_from_spectrum
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.io import write_volume
from scipion_faml.simulation.density import Structure, structure_of_beads
from scipion_faml.simulation.phantom import blob_model
from scipion_faml.sources import ArraySource
from scipion_faml.structures import load_structure
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.tables import ParticleTable, optics_table, write_particles
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.wedge import MissingWedge

WEDGE = MissingWedge(-60.0, 60.0)
MAX_SHIFT = 3.0  # voxels
BOX_ANGST = 320.0  # 10 A per voxel at a box of 32
MODELS = (("blobs", "C1"), ("groel", "D7"))


@dataclass(frozen=True, eq=False)
class Truth:
    """The answers of a simulated set."""

    maps: FloatArray  # (K, n, n, n) float32, standard deviation 1
    class_index: IntArray  # (N,) from 0
    poses: RigidTransforms  # N
    noise_sd: float  # of a voxel, before the wedge is cut
    symmetry: dict[int, FloatArray]  # class -> rotations (G, 3, 3) of the map's point group


def case_structures(box: int, classes: int, seed: int) -> list[Structure]:
    """Return the structures of a case, on their own grey levels."""
    voxel_size = BOX_ANGST / box
    phantom = structure_of_beads(blob_model(box, seed, voxel_size), box, voxel_size, 0.0)
    others = [load_structure(name, box, voxel_size, 20.0) for name, _ in MODELS[1:classes]]
    return [phantom, *others]


def draw_shifts(count: int, rng: np.random.Generator) -> FloatArray:
    """Return shifts (count, 3), voxels, uniform in the ball of MAX_SHIFT."""
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return MAX_SHIFT * rng.uniform(size=(count, 1)) ** (1 / 3) * direction


def simulate_case(
    box: int, count: int, classes: int, snr: float, seed: int
) -> tuple[ArraySource, Truth]:
    """Return `count` particles of `classes` structures (1 or 2, equally many each) and the truth.

    The phantom, the poses and the noise are drawn from `seed`; poses do not depend on the SNR.
    """
    if not 1 <= classes <= len(MODELS):
        raise ValueError(f"{classes} classes: this set has 1 to {len(MODELS)}")
    structures = case_structures(box, classes, seed)
    gains = [1.0 / float(s.map.std(dtype=np.float64)) for s in structures]
    rng = np.random.default_rng([seed, 1])
    class_index = rng.permutation(np.arange(count) % classes)
    poses = RigidTransforms(random_rotations(count, rng), draw_shifts(count, rng))
    noise_sd = 1.0 / float(np.sqrt(snr))
    volumes = np.empty((count, box, box, box), dtype=np.float32)
    for i, k in enumerate(class_index):
        noise = np.random.default_rng([seed, 2, i]).normal(0.0, noise_sd, (box,) * 3)
        noisy = gains[k] * structures[k].posed(poses[[i]]) + noise
        volumes[i] = volume_from_spectrum(spectrum(noisy) * WEDGE.mask(box), box)
    maps = np.stack([g * s.map for g, s in zip(gains, structures, strict=True)])
    groups = {k: symmetry_rotations(group) for k, (_, group) in enumerate(MODELS[:classes])}
    truth = Truth(maps.astype(np.float32), class_index, poses, noise_sd, groups)
    return ArraySource(volumes, WEDGE, BOX_ANGST / box), truth


def write_case(folder: Path, source: ArraySource) -> Path:
    """Write subtomograms/*.mrc and particles.star without any answer; return the STAR file."""
    import pandas as pd

    names = [folder / "subtomograms" / f"{i + 1:06d}.mrc" for i in range(len(source))]
    for name, volume in zip(names, source.volumes, strict=True):
        write_volume(name, volume, source.voxel_size_angst)
    rows = pd.DataFrame({
        "rlnImageName": [str(name.resolve()) for name in names],
        "rlnOpticsGroup": 1,
    })
    table = ParticleTable(rows, optics_table(source.voxel_size_angst, source.n, [WEDGE]))
    write_particles(folder / "particles.star", table)
    return folder / "particles.star"
