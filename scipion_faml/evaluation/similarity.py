"""Two figures for how much an average resembles the true map.

The first is Pearson's correlation inside a sphere of 0.42 box sizes. Any round blob reaches some
0.8 of it on a globular structure, so the second leaves out what a turn of the map would leave in
place: the means of both maps over spherical shells about the centre. Both are taken after the
average has been laid on the map by rotation and shift, for each of its hands.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipion_faml.evaluation.superposition import (
    correlation,
    evaluation_mask,
    move_map,
    superpose,
    without_radial_mean,
)
from scipion_faml.geometry import RigidTransforms
from scipion_faml.types import FloatArray
from scipion_faml.volume import mirrored

HANDS = ("same", "mirrored")


def masked_correlation(
    volume: FloatArray, reference: FloatArray, mask: FloatArray | None = None
) -> float:
    """Return the correlation of two superposed volumes (n, n, n) inside a mask.

    `mask` (n, n, n) weighs the voxels; without one it is a soft sphere of 0.42 n.

    Raises
    ------
    ValueError
        If a volume is constant inside the mask, or the shapes differ.
    """
    weight = _weight(volume, reference, mask)
    return correlation(volume, reference, weight)


def correlation_without_radial_mean(
    volume: FloatArray, reference: FloatArray, mask: FloatArray | None = None
) -> float:
    """Return `masked_correlation` of what is left of both volumes without their radial means."""
    weight = _weight(volume, reference, mask)
    return correlation(without_radial_mean(volume), without_radial_mean(reference), weight)


def _weight(volume: FloatArray, reference: FloatArray, mask: FloatArray | None) -> FloatArray:
    """The weights of voxels, after a look at the shapes."""
    if volume.shape != reference.shape:
        raise ValueError(
            f"the volumes have boxes of {volume.shape} and {reference.shape}: resample one of them"
        )
    weight = evaluation_mask(volume.shape[0]) if mask is None else mask
    if weight.shape != volume.shape:
        raise ValueError(f"the mask has a box of {weight.shape}, the volumes {volume.shape}")
    return weight


@dataclass(frozen=True, eq=False)
class Similarity:
    """How much a superposed map resembles its reference."""

    masked_correlation: float
    correlation_without_radial_mean: float
    pose: RigidTransforms  # 1: carries the map, or its mirror image, onto the reference
    superposed: FloatArray  # (n, n, n) the map there


def similarity(
    volume: FloatArray, reference: FloatArray, hand: str = "same", mask: FloatArray | None = None
) -> Similarity:
    """Superpose a map (n, n, n) of one hand on a reference and return both figures.

    Parameters
    ----------
    volume, reference : (n, n, n)
        Of the same voxel size.
    hand : "same" or "mirrored"
        Whether the map or its mirror image is laid on the reference.
    mask : (n, n, n), optional
        In the frame of the reference.
    """
    if hand not in HANDS:
        raise ValueError(f"hand is {hand!r}: choose from {', '.join(HANDS)}")
    version = volume if hand == "same" else mirrored(volume)
    pose, _ = superpose(version, reference)
    moved = move_map(version, pose)
    return Similarity(
        masked_correlation(moved, reference, mask),
        correlation_without_radial_mean(moved, reference, mask),
        pose, moved,
    )


def similarity_of_hands(
    volume: FloatArray, reference: FloatArray, mask: FloatArray | None = None
) -> dict[str, Similarity]:
    """Return `similarity` of the map as it is ("same") and of its mirror image ("mirrored")."""
    return {hand: similarity(volume, reference, hand, mask) for hand in HANDS}
