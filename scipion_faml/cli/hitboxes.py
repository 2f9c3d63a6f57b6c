"""Volumes that say at every voxel which particle, or which class of particle, is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scipion_faml.cli.evaluation import classes_of
from scipion_faml.cli.tomograms import naming, open_tomogram
from scipion_faml.cli.truth import (
    by_tomogram,
    coordinate_voxel_size_angst,
    particle_centres_angst,
)
from scipion_faml.evaluation.matching import (
    Pairs,
    labels_at,
    pairs_by_class_label,
    pairs_by_instance,
)
from scipion_faml.io import VOXEL_SIZE_TOLERANCE, read_header
from scipion_faml.tables import ParticleTable
from scipion_faml.types import FloatArray, IntArray


@dataclass(frozen=True)
class LabelFiles:
    """One volume for each tomogram."""

    by_name: dict[str, Path]  # rlnTomoName, or "" for the only one
    are_instances: bool

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return list(self.by_name.values())

    def of(self, name: str, n_tomograms: int) -> Path:
        """Return the file of one of the truth's tomograms."""
        if n_tomograms == 1 and len(self.by_name) == 1:
            return self.paths[0]
        if name not in self.by_name:
            option = "--instances" if self.are_instances else "--labels"
            raise ValueError(
                f"the truth holds {n_tomograms} tomograms: give {option} NAME=FILE for each, "
                f"{name} has none")
        return self.by_name[name]


def label_files(instances: Sequence[str], labels: Sequence[str]) -> LabelFiles | None:
    """Return what --instances or --labels [NAME=]FILE name, if anything."""
    if instances and labels:
        raise ValueError("--instances and --labels are two rules: give one of them")
    if not instances and not labels:
        return None
    by_name: dict[str, Path] = {}
    for item in instances or labels:
        name, _, file = item.rpartition("=") if not Path(item).is_file() else ("", "", item)
        if name in by_name:
            raise ValueError(f"{by_name[name]} and {file} are for the same tomogram: give "
                             "NAME=FILE, each name once")
        by_name[name] = Path(file)
    return LabelFiles(by_name, bool(instances))


def pairs_on_labels(
    table: ParticleTable, truth: ParticleTable, files: LabelFiles, reach_angst: float,
    warnings: list[str],
) -> Pairs:
    """Return picks and particles by the voxels that they lie on, over all tomograms (angstrom)."""
    if not files.are_instances:
        truth.require("rlnClassNumber")
    here, there = particle_centres_angst(table), particle_centres_angst(truth)
    classes, voxel_size = classes_of(truth), coordinate_voxel_size_angst(truth)
    names, parts = truth.tomogram_names, []
    for a, b in by_tomogram(table, truth):
        path = files.of(names[b[0]], len(set(names)))
        reach = reach_angst / voxel_size
        with open_tomogram(path) as volume, naming(path):
            true_xyz = there[b] / voxel_size
            expected = np.arange(1, len(b) + 1) if files.are_instances else classes[b]
            _check_labels(path, volume, voxel_size, true_xyz, truth)
            _check_truth_on_labels(volume, true_xyz, expected, reach, truth, path, warnings)
            picked_xyz = here[a] / voxel_size
            found = (
                pairs_by_instance(picked_xyz, true_xyz, volume, reach) if files.are_instances
                else pairs_by_class_label(picked_xyz, true_xyz, classes[b], volume, reach))
        parts.append(found.within(a, b, len(table), len(truth)))
    whole = Pairs.joined(parts)
    return Pairs(
        whole.pick, whole.truth, whole.distance * voxel_size, whole.n_picked, whole.n_true)


def _check_labels(
    path: Path, volume: FloatArray, voxel_size: float, true_xyz: FloatArray, truth: ParticleTable
) -> None:
    """Raise where labels and positions cannot belong to one tomogram."""
    in_header = read_header(path)[1]
    if in_header > 0 and abs(in_header / voxel_size - 1) > VOXEL_SIZE_TOLERANCE:
        raise ValueError(
            f"voxels of {in_header:g} A, but the positions of {truth.path} count voxels of "
            f"{voxel_size:g} A: give labels of the same tomogram")
    shape_xyz = np.array(volume.shape[::-1])
    nearest = np.rint(true_xyz)
    outside = ((nearest < 0) | (nearest >= shape_xyz)).any(axis=1)
    if outside.any():
        raise ValueError(
            f"{outside.sum()} particles of {truth.path} lie outside its "
            f"{' x '.join(map(str, shape_xyz))} voxels: give labels of the same tomogram")


def _check_truth_on_labels(
    volume: FloatArray, true_xyz: FloatArray, expected: IntArray, reach: float,
    truth: ParticleTable, path: Path, warnings: list[str],
) -> None:
    """Raise where voxels at the particles say others; warn where they say nothing."""
    own = labels_at(volume, true_xyz, reach)
    is_other = (own > 0) & (own != expected)
    if is_other.sum() > 0.5 * len(own):
        raise ValueError(
            f"at {is_other.sum()} of the {len(own)} particles of {truth.path} it says another "
            "particle or class: give the labels and the truth of one simulation, rows in order")
    if (own == 0).any():
        warnings.append(
            f"{(own == 0).sum()} of {len(own)} particles have no voxel of {path} at their own "
            "position (hollow ones do): a perfect pick misses them; dilate by --radius")
