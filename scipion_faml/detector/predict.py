"""Picking: the network on overlapping tiles, its candidates as one list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from scipion_faml.detector.ahead import ahead
from scipion_faml.detector.detections import Detections, without_neighbours, without_overlap
from scipion_faml.detector.networks import crops_tensor
from scipion_faml.detector.points import NMS_SHARE, PointsDetector
from scipion_faml.detector.sampling import BEYOND
from scipion_faml.detector.second_look import named_again
from scipion_faml.detector.settings import YOLO_CUBE
from scipion_faml.detector.view import TomogramView
from scipion_faml.detector.weights import Detector, folded
from scipion_faml.detector.yolo import NMS_IOU
from scipion_faml.picking import Picks
from scipion_faml.picking.tiles import searched_tiles
from scipion_faml.types import FloatArray, IntArray

MULTIPLE = 8  # voxels: what the deepest level divides by
MIRRORS = ((2, 3, 4), (2,), (3, 4), (3,), (2, 4), (4,), (2, 3))  # axes; none is the first image
CUBES = 8  # small tiles worked on together

Watch = Callable[[list[Any]], Iterable[Any]]


def device_of(name: str) -> torch.device:
    """Return the device of a name: auto takes a GPU where there is one.

    Raises
    ------
    ValueError
        If a GPU is asked for that PyTorch does not see.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("PyTorch sees no GPU: use --device cpu")
    return torch.device(name)


@contextmanager
def mixed_precision(device: torch.device) -> Iterator[None]:
    """16 bits (bfloat16) where a GPU computes with them; 32 elsewhere.

    CPUs without bfloat16 arithmetic only lose by it.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        with torch.autocast("cuda", torch.bfloat16):
            yield
    else:
        yield


def find(
    detector: Detector, view: TomogramView, device: torch.device, mask: FloatArray | None = None,
    tile: int | None = None, min_distance: float | None = None, watch: Watch = list,
    mirrors: int = 1,
) -> Detections:
    """Return all candidates in a tomogram, best first, none beside a better one.

    Parameters
    ----------
    mask : (z, y, x), optional
        Of the view's shape; tiles without any of it are skipped.
    tile : int, optional
        Voxels of the tiles' cores; bounds the memory. The published detector has its own.
    min_distance : float, optional
        Voxels; the default is half the diameter of the better one, or the published suppression.
    mirrors : int
        Mirror images of each tile that are looked at, 1 to 8 (points); their outputs are averaged.
    """
    is_yolo = detector.settings.architecture == "yolo"
    edge = detector.tile if is_yolo else _best_edge(
        view.shape, tile or detector.tile, detector.overlap)
    cores = [core for _, core in searched_tiles(view.shape, edge, 0, mask)]
    network = folded(detector.network).to(device)
    groups = [cores[i : i + CUBES] for i in range(0, len(cores), CUBES)] if is_yolo else [
        [core] for core in cores]

    def read(group: list[tuple[slice, ...]]) -> tuple[list[tuple[int, ...]], FloatArray]:
        corners = [_block(core, view.shape, detector.overlap, is_yolo) for core in group]
        return [start for start, _ in corners], np.stack([view.read(*c) for c in corners])

    parts = []
    with torch.inference_mode():
        for group, (starts, blocks) in zip(watch(groups), ahead(read, groups), strict=True):
            crops = crops_tensor(torch.from_numpy(blocks).to(device))
            with mixed_precision(device):
                output = network(crops)
                if isinstance(detector, PointsDetector) and mirrors > 1:
                    others = (detector.mirrored_back(network(crops.flip(axes)), axes)
                              for axes in MIRRORS[: mirrors - 1])
                    output = sum(others, start=output) / mirrors
            found = detector.detections(output)
            for candidates, start, core in zip(found, starts, group, strict=True):
                moved = candidates.moved(np.array(start[::-1], dtype=np.float64))
                parts.append(moved.take(_in_core(moved.position_xyz, core)))
    every = Detections.joined(parts, detector.settings.n_classes)
    if min_distance is not None:
        left = without_neighbours(every, 0.0, min_distance)
    elif is_yolo:
        left = without_overlap(every, NMS_IOU)
    else:
        left = without_neighbours(every, NMS_SHARE)
    if detector.second is None:
        return left
    return named_again(detector.second, left, view, device)


def _block(
    core: tuple[slice, ...], shape: tuple[int, ...], overlap: int, is_fixed: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Start and size of what the network reads for a core: its overlap, a multiple of 8.

    Outside the tomogram are zeros, of which fewer do than the overlap; a fixed tile has all.
    """
    if is_fixed:
        return tuple(c.start - overlap for c in core), (YOLO_CUBE,) * 3
    start = tuple(max(c.start - overlap, -BEYOND) for c in core)
    stop = tuple(min(c.stop + overlap, n + BEYOND) for c, n in zip(core, shape, strict=True))
    size = (b - a for a, b in zip(start, stop, strict=True))
    return start, tuple(-(-n // MULTIPLE) * MULTIPLE for n in size)


def _best_edge(shape: tuple[int, int, int], largest: int, overlap: int) -> int:
    """The tile edge up to `largest` with which the fewest voxels are read."""
    def read(edge: int) -> int:
        total = 1
        for n in shape:
            starts = range(0, n, edge)
            total *= sum(_block((slice(s, min(s + edge, n)),), (n,), overlap, False)[1][0]
                         for s in starts)
        return total

    options = range(max(MULTIPLE, largest // 2), largest + 1, MULTIPLE)
    return min(options, key=lambda edge: (read(edge), edge))


def _in_core(position_xyz: FloatArray, core: tuple[slice, ...]) -> IntArray:
    """Indices of the positions that belong to a tile: every place belongs to one tile."""
    low = np.array([s.start for s in core[::-1]]) - 0.5
    high = np.array([s.stop for s in core[::-1]]) - 0.5
    inside = ((position_xyz >= low) & (position_xyz < high)).all(axis=1)
    return np.flatnonzero(inside)


def picks_of(
    found: Detections, detector: Detector, view: TomogramView, threshold: float | None,
    border: float = 0.0, max_picks: int | None = None, mask: FloatArray | None = None,
) -> Picks:
    """Return candidates above their class's threshold (or `threshold`) as picks.

    Parameters
    ----------
    border : float
        Own voxels that picks keep from the tomogram's faces.
    mask : (z, y, x), optional
        Of the tomogram's own shape.
    """
    settings = detector.settings
    limits = np.array(settings.thresholds) if threshold is None else np.full(
        settings.n_classes, threshold)
    found = found.take(np.flatnonzero(found.score >= limits[found.class_index])).best_first()
    position = view.to_own(found.position_xyz)
    own = np.array(view.source.binned.tomogram.shape[::-1])
    inside = ((position >= border - 0.5) & (position <= own - 0.5 - border)).all(axis=1)
    label = np.array(settings.class_numbers, dtype=np.intp)[found.class_index]
    picks = Picks(np.clip(position, 0.0, own - 1.0), found.score, label)
    picks = picks.take(np.flatnonzero(inside)).inside(mask)
    return picks if max_picks is None else picks.take(np.arange(min(max_picks, len(picks))))
