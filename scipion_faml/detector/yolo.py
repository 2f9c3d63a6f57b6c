"""The published one-stage detector: YOLOv3 in three dimensions on cubes (Wu, Liu and Yang).

A cube of 64^3 voxels gives 16^3 cells of 4^3; a cell has three anchors, and each of them a box:
centre (t_x, t_y, t_z), size t_s, confidence and classes. Equation numbers are the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scipion_faml.detector.detections import Detections, without_overlap
from scipion_faml.detector.networks import ConvUnit, DarknetResidual, chain
from scipion_faml.detector.sampling import Crop
from scipion_faml.detector.settings import YOLO_CUBE, YOLO_OVERLAP, DetectorSettings
from scipion_faml.types import FloatArray, IntArray

CELL = 4  # voxels: the multiplier of Eq. 1
N_ANCHORS = 3
LEAK = 0.1
LAMBDA_BBOX, LAMBDA_OBJ, LAMBDA_NOOBJ, LAMBDA_CLASS = 5.0, 1.0, 0.1, 5.0
IGNORE = 1.0 / 3.0  # IoU from which a box that is not the best is not a negative either
NMS_IOU = 1.0 / 3.0
CANDIDATE = 0.05  # what is suppressed by better ones does not depend on what is kept later
MAX_PARTICLES = 512  # in a cube
MOST_BOXES = 600  # of a cube that suppression looks at: early in training all are possible
CONFIDENCE_PRIOR = 0.01  # of a box, before training
SMALLEST = 1e-7  # probability inside a logarithm


class YoloNetwork(nn.Module):
    """Strides 2, 4 and 8 by strided convolutions; the deepest features go back to stride 4."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.stem = ConvUnit(1, 32, 3, leak=LEAK)
        self.down1 = nn.Sequential(ConvUnit(32, 48, 3, 2, LEAK), chain(DarknetResidual, 48, 1))
        self.down2 = nn.Sequential(ConvUnit(48, 96, 3, 2, LEAK), chain(DarknetResidual, 96, 2))
        self.down3 = nn.Sequential(ConvUnit(96, 192, 3, 2, LEAK), chain(DarknetResidual, 192, 2))
        self.lateral = ConvUnit(192, 96, 1, leak=LEAK)
        self.merge = nn.Sequential(
            ConvUnit(192, 96, 1, leak=LEAK), ConvUnit(96, 128, 3, leak=LEAK))
        self.head = nn.Conv3d(128, N_ANCHORS * (5 + n_classes), 1)
        with torch.no_grad():
            bias: Tensor = self.head.bias  # type: ignore[assignment]
            bias[4 :: 5 + n_classes] = float(np.log(CONFIDENCE_PRIOR / (1 - CONFIDENCE_PRIOR)))

    def forward(self, cubes: Tensor) -> Tensor:
        """Return (N, 3 (5 + K), z / 4, y / 4, x / 4)."""
        shallow = self.down2(self.down1(self.stem(cubes)))
        deep = self.lateral(self.down3(shallow))
        deep = functional.interpolate(deep, scale_factor=2.0, mode="nearest")
        output: Tensor = self.head(self.merge(torch.cat([shallow, deep], dim=1)))
        return output


class Boxes:
    """The network's output by anchor and cell, flattened: (N, 3 cells^3, ...)."""

    def __init__(self, output: Tensor, anchors: Sequence[float]) -> None:
        n, channels = output.shape[:2]
        self.grid = tuple(output.shape[2:])
        parts = output.float().reshape(n, N_ANCHORS, channels // N_ANCHORS, -1)
        parts = parts.movedim(2, -1).reshape(n, -1, channels // N_ANCHORS)
        self.place = torch.sigmoid(parts[..., :3])  # t_x, t_y, t_z in the cell
        self.log_size = parts[..., 3]  # t_s
        self.confidence = torch.sigmoid(parts[..., 4])
        self.classes = torch.softmax(parts[..., 5:], dim=-1)
        z, y, x = torch.meshgrid(*(torch.arange(g) for g in self.grid), indexing="ij")
        corner = torch.stack([x.reshape(-1), y.reshape(-1), z.reshape(-1)], dim=1)
        self.corner = corner.repeat(N_ANCHORS, 1).to(output.device)
        n_cells = len(corner)
        self.anchor = torch.tensor(anchors, dtype=torch.float32).repeat_interleave(n_cells).to(
            output.device)

    def centre(self) -> Tensor:
        """Eq. 1, as voxels from the cube's first one (whose own lower face is at -1/2)."""
        return (self.place + self.corner) * CELL - 0.5

    def size(self) -> Tensor:
        """Eq. 2."""
        return self.anchor * torch.exp(self.log_size.clamp(max=4.0))


def true_places(position_xyz: Tensor) -> tuple[Tensor, Tensor]:
    """Return cell (P, 3) and place in it in [0, 1) (P, 3) of positions: Eq. 1 inverted."""
    scaled = (position_xyz + 0.5) / CELL
    cell = scaled.floor()
    return cell.long(), scaled - cell


def assign(
    boxes_centre: Tensor, boxes_size: Tensor, grid: tuple[int, ...], position_xyz: Tensor,
    size: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return for each box (B,) its particle or -1, and whether it is ignored.

    The positive sample of a particle is the box with the largest IoU with it among those of the
    cell that its centre lies in: no other can reach it, as t_x lies in (0, 1). Other boxes with an
    IoU above 1/3 with any particle are ignored; the rest is negative.
    """
    owner = torch.full((len(boxes_size),), -1, dtype=torch.long, device=boxes_size.device)
    overlapping = torch.zeros(len(boxes_size), dtype=torch.bool, device=boxes_size.device)
    n_cells = int(np.prod(grid))
    cells = true_places(position_xyz)[0]
    for number in range(len(size)):
        iou = torch_cube_iou(boxes_centre, boxes_size, position_xyz[number], size[number])
        overlapping |= iou > IGNORE
        x, y, z = cells[number].tolist()
        first = (z * grid[1] + y) * grid[2] + x
        own = first + n_cells * torch.arange(N_ANCHORS, device=iou.device)
        free = owner[own] < 0
        if free.any():
            best = torch.where(free, iou[own], torch.full_like(iou[own], -1.0)).argmax()
            owner[own[best]] = number
    return owner, overlapping & (owner < 0)


def torch_cube_iou(centre: Tensor, edge: Tensor, other: Tensor, other_edge: Tensor) -> Tensor:
    """Intersection over union of cubes (B, 3), (B,) with one cube (3,), ()."""
    apart = (centre - other).abs()
    half = 0.5 * (edge + other_edge)[..., None]
    smaller = torch.minimum(edge, other_edge)[..., None]
    common = torch.minimum(half - apart, smaller).clamp(min=0.0).prod(dim=-1)
    return common / (edge**3 + other_edge**3 - common)


class YoloDetector(nn.Module):
    """Network, loss (Eq. 3-6) and decoding (Eq. 1-2)."""

    tile, overlap = YOLO_CUBE - 2 * YOLO_OVERLAP, YOLO_OVERLAP
    second = None  # the published detector looks once

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.network = YoloNetwork(settings.n_classes)

    def forward(self, cubes: Tensor) -> Tensor:
        """Return the network's output for cubes (N, 1, z, y, x)."""
        output: Tensor = self.network(cubes)
        return output

    def targets(self, crop: Crop) -> dict[str, FloatArray | IntArray]:
        """Return the particles in the effective zone of a cube, padded to a fixed number."""
        place, high = crop.position_xyz, crop.volume.shape[0] - YOLO_OVERLAP - 0.5
        inside = ((place >= YOLO_OVERLAP - 0.5) & (place < high)).all(axis=1)
        position, label = place[inside], crop.class_index[inside]
        count = min(len(label), MAX_PARTICLES)
        padded = np.zeros((MAX_PARTICLES, 3), dtype=np.float32)
        padded[:count] = position[:count]
        classes = np.zeros(MAX_PARTICLES, dtype=np.int64)
        classes[:count] = label[:count]
        return {"position": padded, "class": classes, "count": np.array(count)}

    def loss(self, output: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return L_bbox, L_conf and L_class (Eq. 3-5), per cube; their sum is Eq. 6."""
        boxes = Boxes(output, self.settings.anchors)
        diameters = torch.tensor(self.settings.diameters, device=output.device)
        inner = effective(boxes.corner, boxes.grid)
        total = {name: output.new_zeros((), dtype=torch.float32)
                 for name in ("box", "confidence", "class")}
        centre, size = boxes.centre(), boxes.size()
        for i, count in enumerate(targets["count"].tolist()):
            position, label = targets["position"][i, :count], targets["class"][i, :count]
            with torch.no_grad():
                owner, ignored = assign(
                    centre[i], size[i], boxes.grid, position, diameters[label])
            positive = torch.nonzero(owner >= 0)[:, 0]
            particle = owner[positive]
            place = true_places(position)[1][particle]
            log_size = torch.log(diameters[label][particle] / boxes.anchor[positive])
            error = ((boxes.place[i, positive] - place) ** 2).sum()
            error = error + ((boxes.log_size[i, positive] - log_size) ** 2).sum()
            total["box"] = total["box"] + LAMBDA_BBOX * error
            sure = boxes.confidence[i, positive].clamp(min=SMALLEST)
            negative = inner & (owner < 0) & ~ignored
            empty = (1.0 - boxes.confidence[i, negative]).clamp(min=SMALLEST)
            total["confidence"] = (total["confidence"] - LAMBDA_OBJ * sure.log().sum()
                                   - LAMBDA_NOOBJ * empty.log().sum())
            said = boxes.classes[i, positive].clamp(SMALLEST, 1.0 - SMALLEST)
            truth = functional.one_hot(label[particle], self.settings.n_classes).float()
            entropy = functional.binary_cross_entropy(said, truth, reduction="sum")
            total["class"] = total["class"] + LAMBDA_CLASS * entropy
        return {name: value / len(output) for name, value in total.items()}

    def detections(self, output: Tensor) -> list[Detections]:
        """Return the boxes of every cube after the first suppression."""
        boxes = Boxes(output, self.settings.anchors)
        centre, size = boxes.centre(), boxes.size()
        inner = effective(boxes.corner, boxes.grid)
        found = []
        for i in range(len(output)):
            sure, order = torch.where(inner, boxes.confidence[i], 0.0).topk(
                min(MOST_BOXES, len(inner)))
            kept = order[sure > CANDIDATE]
            found.append(without_overlap(Detections(
                *(values[i][kept].double().cpu().numpy() for values in
                  (centre, boxes.confidence, boxes.classes, size))), NMS_IOU))
        return found


def effective(corner: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Whether the cells at `corner` (B, 3) lie in the effective detection zone of a cube."""
    margin = YOLO_OVERLAP // CELL
    high = torch.tensor(grid[::-1], device=corner.device) - margin
    inside: Tensor = ((corner >= margin) & (corner < high)).all(dim=1)
    return inside


def anchors_of(sizes: FloatArray, n_anchors: int = N_ANCHORS) -> tuple[float, ...]:
    """Return anchor sizes by k-means on the particles' sizes (voxels), in rising order.

    In one dimension the clusters are intervals of the sorted sizes, so the best ones are found
    exactly. With fewer different sizes than anchors, these are spread by thirds around them.
    """
    values, counts = np.unique(np.asarray(sizes, dtype=np.float64), return_counts=True)
    while len(values) < n_anchors:
        middle = float(np.average(values, weights=counts))
        extra = middle * (2.0 / 3.0 if len(values) % 2 else 1.5)
        values, index = np.unique(np.append(values, extra), return_index=True)
        counts = np.append(counts, 1)[index]
    n = len(values)
    weight, first = np.cumsum(counts), np.cumsum(counts * values)
    second = np.cumsum(counts * values**2)

    def cost(low: int, high: int) -> float:
        """Squared deviations of values low .. high - 1 from their mean."""
        w = weight[high - 1] - (weight[low - 1] if low else 0)
        s = first[high - 1] - (first[low - 1] if low else 0.0)
        q = second[high - 1] - (second[low - 1] if low else 0.0)
        return float(q - s * s / w)

    best = {(0, 0): (0.0, [0])}
    for k in range(1, n_anchors + 1):
        for end in range(k, n + 1):
            options = [(best[k - 1, mid][0] + cost(mid, end), best[k - 1, mid][1] + [end])
                       for mid in range(k - 1, end) if (k - 1, mid) in best]
            best[k, end] = min(options)
    edges = best[n_anchors, n][1]
    return tuple(float(np.average(values[a:b], weights=counts[a:b]))
                 for a, b in zip(edges, edges[1:], strict=False))
