"""Which row of a particle table belongs to which row of the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scipion_faml import star
from scipion_faml.evaluation.picks import match_positions
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import LARGEST_VOXEL, SMALLEST_VOXEL
from scipion_faml.tables import COORDINATES, ORIGINS, ParticleTable
from scipion_faml.types import FloatArray, IntArray

TOMOGRAM_VOXEL_SIZE = "rlnTomoTiltSeriesPixelSize"  # the unit of coordinates, where it is given


@dataclass(frozen=True, eq=False)
class RowMatch:
    """Rows of two tables that are the same particle."""

    particle: IntArray  # (M,) rows of the particle table
    truth: IntArray  # (M,) rows of the truth
    matched_by: str  # "rlnImageName", "coordinates" or "order"


def coordinate_voxel_size_angst(table: ParticleTable) -> float:
    """Return the size of the voxels that coordinates count: the tomogram's, not a binned box's."""
    if TOMOGRAM_VOXEL_SIZE not in table.optics:
        return table.voxel_size_angst
    size = float(star.to_numbers(table.optics[TOMOGRAM_VOXEL_SIZE])[0])
    if not SMALLEST_VOXEL <= size <= LARGEST_VOXEL:
        raise ValueError(f"{table.path}: {TOMOGRAM_VOXEL_SIZE} is {size}: give it in angstrom")
    return size


def box_centres_angst(table: ParticleTable) -> FloatArray:
    """Return where the boxes were cut (N, 3), angstrom from the tomogram's first voxel."""
    return table.numbers(*COORDINATES) * coordinate_voxel_size_angst(table)


def particle_centres_angst(table: ParticleTable) -> FloatArray:
    """Return where the particles are (N, 3): a centre lies at -origin from its box's centre."""
    centres = box_centres_angst(table)
    if set(ORIGINS) <= set(table.rows.columns):
        centres = centres - table.numbers(*ORIGINS)
    return centres


def by_tomogram(first: ParticleTable, second: ParticleTable) -> list[tuple[IntArray, IntArray]]:
    """Return the rows of both tables in each tomogram; one tomogram each need not share a name."""
    names = [np.array(table.tomogram_names) for table in (first, second)]
    if all(len(set(n)) == 1 for n in names):
        return [(np.arange(len(first)), np.arange(len(second)))]
    every = sorted(set(names[0]) | set(names[1]))
    return [(np.flatnonzero(names[0] == t), np.flatnonzero(names[1] == t)) for t in every]


def match_rows(
    particles: ParticleTable, truth: ParticleTable, radius_angst: float | None
) -> RowMatch:
    """Return which rows belong together.

    By position when `radius_angst` is given; else by the file name of rlnImageName when both tables
    name the same images; else by order.

    Raises
    ------
    ValueError
        If numbers or names of particles differ, or no position matches.
    """
    if radius_angst is not None:
        return _match_by_position(particles, truth, radius_angst)
    if len(particles) != len(truth):
        raise ValueError(
            f"{particles.path} holds {len(particles)} particles but {truth.path} {len(truth)}: "
            "give the truth of these particles, or match them by position with --radius"
        )
    if "rlnImageName" in particles.rows and "rlnImageName" in truth.rows:
        return _match_by_name(particles, truth)
    order = np.arange(len(particles))
    return RowMatch(order, order, "order")


def _match_by_position(
    particles: ParticleTable, truth: ParticleTable, radius_angst: float
) -> RowMatch:
    """Nearest particles within a radius, tomogram by tomogram."""
    here, there = particle_centres_angst(particles), particle_centres_angst(truth)
    rows, true_rows = [], []
    for some, others in by_tomogram(particles, truth):
        matched, matched_truth = match_positions(here[some], there[others], radius_angst)
        rows.append(some[matched])
        true_rows.append(others[matched_truth])
    row, true_row = np.concatenate(rows), np.concatenate(true_rows)
    if not len(row):
        raise ValueError(
            f"no particle of {particles.path} lies within {radius_angst:g} A of one of "
            f"{truth.path}: check voxel sizes and rlnTomoName, or raise --radius"
        )
    order = np.argsort(row)
    return RowMatch(row[order], true_row[order], "coordinates")


def _match_by_name(particles: ParticleTable, truth: ParticleTable) -> RowMatch:
    """The same image file in both tables: by file name, or by path where file names repeat."""
    order = np.arange(len(particles))
    missing: list[str] = []
    for part in (lambda name: Path(name).name, str):
        names, true_names = ([part(str(n)) for n in t.rows["rlnImageName"]]
                             for t in (particles, truth))
        row_of = {name: row for row, name in enumerate(true_names)}
        if len(row_of) == len(truth) and set(names) == set(row_of):
            return RowMatch(order, np.array([row_of[n] for n in names]), "rlnImageName")
        missing = missing or sorted(set(names) - set(row_of))
    raise ValueError(
        f"{truth.path} does not name {missing[0] if missing else 'each image once'}: give the "
        "truth of these particles, or match them by position with --radius"
    )


def true_poses(particles: ParticleTable, truth: ParticleTable, match: RowMatch) -> RigidTransforms:
    """Return the true poses of the matched particles, shifts in voxels of the particles' boxes."""
    voxel_size = particles.voxel_size_angst
    poses = truth.poses[match.truth]
    if match.matched_by != "coordinates":
        return RigidTransforms(
            poses.euler_zyz, poses.shift_xyz * truth.voxel_size_angst / voxel_size
        )
    offset = particle_centres_angst(truth)[match.truth] - box_centres_angst(particles)[
        match.particle
    ]
    return RigidTransforms(poses.euler_zyz, offset / voxel_size)
