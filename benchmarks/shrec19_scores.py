"""The published detections of SHREC'19's test tomogram, scored by our rules and by theirs.

    python benchmarks/shrec19_scores.py --data FOLDER [--conventions] [--output TABLE.md]

FOLDER holds `shrec19/`: the truth of tomogram 9 (class, z, y, x, three Euler angles), one network's
detections of it (class, z, y, x), the log that the organisers' script wrote about them, and the
masks of the twelve classes at 10 A. Prints the table of docs/results.md.

The organisers counted a detection when it fell on a voxel of their "hitbox" volume, which is not
part of the published data. It is rebuilt here in two ways: from the masks, turned and dilated, and
as an upright cube about each particle.
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from scipy.spatial.transform import Rotation

from scipion_faml.evaluation.matching import Pairs, pairs_by_distance, pairs_by_instance
from scipion_faml.evaluation.picks import PickAgreement, confusion_matrix, greedy_agreement
from scipion_faml.types import BoolArray, FloatArray, IntArray

CLASSES = ("1bxn", "1qvr", "1s3x", "1u6g", "2cg9", "3cf3", "3d2f", "3gl1", "3h84", "3qm1", "4b4t",
           "4d8q")
SHAPE = (200, 512, 512)  # z, y, x
RADII = (2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0)  # voxels of 10 A
REACHES = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
MASK_CENTRE = 20  # voxel of the 40^3 masks that lies on the position
# Upright cubes (voxels) that give the published matrix; `side_ranges` finds which others do.
SIDES = {
    "1bxn": 12, "1qvr": 15, "1s3x": 8, "1u6g": 15, "2cg9": 14, "3cf3": 14, "3d2f": 16, "3gl1": 10,
    "3h84": 17, "3qm1": 10, "4b4t": 29, "4d8q": 19,
}
LARGEST_SIDE = 40


@dataclass(frozen=True, eq=False)
class Positions:
    """Particles of one tomogram."""

    position_xyz: FloatArray  # (N, 3) voxels
    label: IntArray  # (N,) from 1 in the order of CLASSES
    euler_deg: FloatArray | None  # (N, 3) as in the file

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, eq=False)
class Log:
    """What the organisers' script printed."""

    n_picked: int
    n_hit: int
    n_true: int
    n_false: int
    n_missed: int
    n_truth_with_duplicates: int
    distance_mean: float  # voxels
    confusion: IntArray  # (13, 13): rows truth, columns detections; 0 is the background


# ------------------------------------------------------------------------------------------- files
def read_positions(path: Path) -> Positions:
    """Return the lines "class z y x [three Euler angles]" of a file."""
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    numbers = np.array([row[1:] for row in rows], dtype=float)
    label = np.array([CLASSES.index(row[0]) + 1 for row in rows], dtype=np.intp)
    return Positions(numbers[:, 2::-1], label, numbers[:, 3:] if numbers.shape[1] > 3 else None)


def read_log(path: Path) -> Log:
    """Return the counts and the confusion matrix of an evaluation log."""
    lines = path.read_text().splitlines()

    def words(start: str) -> list[str]:
        return next(line for line in lines if line.startswith(start)).split()

    matrix = [
        [int(word) for word in line.split()[1:]] for line in lines
        if len(line.split()) == 14 and line.split()[0] in ("0", *CLASSES)
        and all(word.isdigit() for word in line.split()[1:])
    ]
    return Log(
        int(words("Found")[1]), int(words("TP:")[1]), int(words("TP:")[-2]), int(words("FP:")[1]),
        int(words("FN:")[1]), int(words("Note:")[3]), float(words("Average")[-1]),
        np.array(matrix, dtype=np.intp),
    )


def read_mask(path: Path) -> BoolArray:
    """Return a class mask (40, 40, 40); the header lacks the byte order that MRC readers want."""
    values = np.frombuffer(gzip.decompress(path.read_bytes()), dtype="<f4", offset=1024)
    mask: BoolArray = values.reshape(40, 40, 40) > 0.5
    return mask


@dataclass(frozen=True, eq=False)
class Data:
    """Everything about tomogram 9."""

    truth: Positions
    picks: Positions
    log: Log
    masks: dict[str, BoolArray]


def read_data(folder: Path) -> Data:
    """Return what `folder`/shrec19 holds."""
    here = folder / "shrec19"
    return Data(
        read_positions(here / "particle_locations_model_9.txt"),
        read_positions(here / "deepfinder_particle_locations_tomo9.txt"),
        read_log(here / "deepfinder_evaluation_log.txt"),
        {name: read_mask(here / "masks_10A" / f"{name}.mrc.gz") for name in CLASSES},
    )


# ----------------------------------------------------------------------------------- label volumes
def rotations(euler_deg: FloatArray, sequence: str = "ZXZ", order: str = "123",
              inverted: bool = False) -> FloatArray:
    """Return matrices (N, 3, 3) that turn masks into particles; the defaults are SHREC's.

    The default is R = Rz(first) Rx(second) Rz(third), which in this project's angles is ZYZ of
    (first - 90, second, third + 90).
    """
    columns = [int(digit) - 1 for digit in order]
    turned = Rotation.from_euler(sequence, euler_deg[:, columns], degrees=True)
    matrix: FloatArray = (turned.inv() if inverted else turned).as_matrix()
    return matrix


def turned_masks(
    truth: Positions, masks: Mapping[str, BoolArray], rotation: FloatArray
) -> Iterable[tuple[int, IntArray]]:
    """Yield each particle's number and voxels (M, 3) (z, y, x) inside the tomogram."""
    reach = {name: _reach(mask) for name, mask in masks.items()}
    balls = {name: _ball(radius) for name, radius in reach.items()}
    for number, label in enumerate(truth.label):
        name = CLASSES[label - 1]
        offset = balls[name]
        # A voxel at r is in the particle where R^T r is in the mask.
        there = np.rint((offset @ rotation[number])[:, ::-1]).astype(np.intp) + MASK_CENTRE
        inside = ((there >= 0) & (there < 40)).all(axis=1)
        inside[inside] = masks[name][tuple(there[inside].T)]
        voxels = np.rint(offset[inside] + truth.position_xyz[number])[:, ::-1].astype(np.intp)
        yield number, voxels[((voxels >= 0) & (voxels < SHAPE)).all(axis=1)]


def _reach(mask: BoolArray) -> float:
    """Distance of the mask's farthest voxel from its centre."""
    return float(np.linalg.norm(np.argwhere(mask) - MASK_CENTRE, axis=1).max()) + 1.0


def _ball(radius: float) -> FloatArray:
    """All offsets (M, 3) (x, y, z) of whole voxels up to a radius."""
    axis = np.arange(-int(radius), int(radius) + 1)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    kept: FloatArray = grid[np.linalg.norm(grid, axis=1) <= radius].astype(float)
    return kept


def mask_instances(data: Data) -> IntArray:
    """Return the instance volume of the masks, turned as the truth says."""
    assert data.truth.euler_deg is not None
    labels = np.zeros(SHAPE, dtype=np.int16)
    rotation = rotations(data.truth.euler_deg)
    for number, voxels in turned_masks(data.truth, data.masks, rotation):
        labels[tuple(voxels.T)] = number + 1
    return labels


def cube_instances(truth: Positions, sides: Mapping[str, int]) -> IntArray:
    """Return the instance volume of upright cubes about the particles.

    A cube of s voxels begins s // 2 voxels before the particle's.
    """
    labels = np.zeros(SHAPE, dtype=np.int16)
    for number, (position, label) in enumerate(zip(truth.position_xyz, truth.label, strict=True)):
        side = sides[CLASSES[label - 1]]
        low = np.rint(position[::-1]).astype(int) - side // 2
        labels[tuple(slice(max(a, 0), max(a + side, 0)) for a in low)] = number + 1
    return labels


def overlap(data: Data, rotation: FloatArray, dilation: float) -> int:
    """Return how many voxels lie in two dilated particles or more: fewest for true rotations."""
    from scipy.ndimage import distance_transform_edt

    count = np.zeros(SHAPE, dtype=np.int16)
    masks = {name: distance_transform_edt(~mask) <= dilation for name, mask in data.masks.items()}
    for _, voxels in turned_masks(data.truth, masks, rotation):
        count[tuple(voxels.T)] += 1
    return int((count > 1).sum())


# -------------------------------------------------------------------------------------- comparison
@dataclass(frozen=True)
class Score:
    """One rule's counts, in the words of the log."""

    rule: str
    n_hit: int
    n_false: int
    n_missed: int
    n_truth_with_duplicates: int
    distance_mean: float  # of all detections on particles
    precision: float
    recall: float
    f1: float
    n_elsewhere: int  # particles in another cell of the confusion matrix than the log says


def score(data: Data, pairs: Pairs, rule: str) -> Score:
    """Return what a rule finds; of several detections of a particle the first one counts.

    Detections have no score, so that "greedy by score" is the order of the file, as in the
    organisers' script.
    """
    found = greedy_agreement(pairs, -np.arange(len(data.picks), dtype=float))
    return Score(
        rule, found.n_hit, len(found.false_pick), len(found.missed_truth),
        len(np.unique(found.duplicate_truth)), _mean_distance(data, found),
        found.precision, found.recall, found.f1,
        int(np.abs(matrix(data, found) - data.log.confusion).sum()) // 2,
    )


def matrix(data: Data, found: PickAgreement) -> IntArray:
    """Return the confusion matrix as the log has it: nothing about false detections."""
    _, counts = confusion_matrix(found, data.truth.label, data.picks.label)
    counts[0] = 0
    return counts


def _mean_distance(data: Data, found: PickAgreement) -> float:
    """Mean distance (voxels) of hits and duplicates from their particles."""
    pick = np.concatenate([found.hit_pick, found.duplicate_pick])
    truth = np.concatenate([found.hit_truth, found.duplicate_truth])
    offset = data.picks.position_xyz[pick] - data.truth.position_xyz[truth]
    return float(np.linalg.norm(offset, axis=1).mean())


def published(data: Data) -> Score:
    """Return the log in the same form."""
    log = data.log
    n_hit = log.n_hit
    return Score(
        "published log", n_hit, log.n_false, log.n_missed, log.n_truth_with_duplicates,
        log.distance_mean, n_hit / log.n_picked, n_hit / log.n_true,
        2 * n_hit / (log.n_picked + log.n_true), 0)


def scores(data: Data) -> list[Score]:
    """Return the log and every rule."""
    here, there = data.picks.position_xyz, data.truth.position_xyz
    found = [published(data)]
    found += [score(data, pairs_by_distance(here, there, r), f"within {r:g} voxels")
              for r in RADII]
    labels = mask_instances(data)
    found += [score(data, pairs_by_instance(here, there, labels, r),
                    f"masks dilated by {r:g} voxels") for r in REACHES]
    cubes = cube_instances(data.truth, SIDES)
    return [*found, score(data, pairs_by_instance(here, there, cubes), "upright cubes")]


def side_ranges(data: Data) -> dict[str, list[int]]:
    """Return for each class the sides of cubes that give its row of the published matrix."""
    near = pairs_by_distance(
        data.picks.position_xyz, data.truth.position_xyz, np.sqrt(3.0) * LARGEST_SIDE / 2)
    offset = data.picks.position_xyz[near.pick] - data.truth.position_xyz[near.truth]
    # The smallest cube that holds an offset: it reaches from -(s // 2) to (s - 1) // 2.
    smallest = np.where(offset < 0, -2 * offset, 2 * offset + 1).max(axis=1)
    return {
        name: [side for side in range(1, LARGEST_SIDE) if (
            _row_of_class(data, near, smallest <= side, label) == data.log.confusion[label]).all()]
        for label, name in enumerate(CLASSES, 1)
    }


def _row_of_class(data: Data, near: Pairs, is_inside: BoolArray, label: int) -> IntArray:
    """Row of the confusion matrix of one class: what the first detection of each particle says."""
    pick, truth = near.pick[is_inside], near.truth[is_inside]
    order = np.argsort(pick, kind="stable")
    found, first = np.unique(truth[order], return_index=True)
    said = np.zeros(len(data.truth), dtype=np.intp)
    said[found] = data.picks.label[pick[order][first]]
    return np.bincount(said[data.truth.label == label], minlength=len(CLASSES) + 1)


# ------------------------------------------------------------------------------------------ tables
def table(rows: Iterable[Score]) -> str:
    """Return the comparison as Markdown."""
    lines = ["| rule | found | false | missed | found twice | mean distance | precision | recall | "
             "F1 | in another cell |", "|" + "---|" * 10]
    lines += [
        f"| {r.rule} | {r.n_hit} | {r.n_false} | {r.n_missed} | {r.n_truth_with_duplicates} | "
        f"{r.distance_mean:.5f} | {r.precision:.5f} | {r.recall:.5f} | {r.f1:.5f} | "
        f"{r.n_elsewhere} |" for r in rows
    ]
    return "\n".join(lines)


def conventions(data: Data, say: Callable[[str], None]) -> None:
    """Print how much the dilated masks overlap under each reading of the angles."""
    assert data.truth.euler_deg is not None
    say("| angles | voxels in two masks, dilated by 1 | by 2 |\n|---|---|---|")
    for sequence, order, inverted in itertools.product(
            ("ZXZ", "ZYZ"), ("123", "321"), (False, True)):
        rotation = rotations(data.truth.euler_deg, sequence, order, inverted)
        counts = [overlap(data, rotation, d) for d in (1.0, 2.0)]
        name = f"{sequence} of columns {order}{', inverted' if inverted else ''}"
        say(f"| {name} | {counts[0]} | {counts[1]} |")


@click.command()
@click.option("--data", "folder", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--conventions", "with_conventions", is_flag=True,
              help="Also try other readings of the Euler angles (two minutes).")
@click.option("--output", default=None, type=click.Path(path_type=Path), help="Markdown file.")
def main(folder: Path, with_conventions: bool, output: Path | None) -> None:
    """Score the published detections of SHREC'19 tomogram 9."""
    data = read_data(folder)
    text = table(scores(data))
    click.echo(text)
    click.echo("\nsides of cubes that give the published row of each class (voxels):")
    for name, sides in side_ranges(data).items():
        click.echo(f"{name} {sides[0]} to {sides[-1]}" if sides else f"{name} none")
    if with_conventions:
        conventions(data, click.echo)
    if output is not None:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
