"""The default detector: points on a heat map at half the tomogram's resolution, without anchors.

After Zhou et al. (2019, "Objects as points"), in three dimensions and with one change: where a
particle is and what it is are told apart. Channel 0 is the heat map of centres whatever their
class; the next three are the offset of the centre from the cell's (cells, x y z); the others are
the logits of the classes. The heat map of class c is P(centre) softmax_c.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scipion_faml.detector.detections import Detections
from scipion_faml.detector.networks import ConvUnit, Residual, chain
from scipion_faml.detector.sampling import Crop
from scipion_faml.detector.second_look import SecondLook
from scipion_faml.detector.settings import DetectorSettings
from scipion_faml.types import FloatArray, IntArray

CELL = 2  # voxels
MARGIN = 2  # cells at a crop's faces that do not count: their particles are cut
HEAT_PRIOR = 0.02  # of a cell to hold a centre, before training
FOCUS, PENALTY = 2.0, 4.0  # alpha and beta of the penalty-reduced focal loss
CLASS_FROM, OFFSET_FROM = 0.3, 0.6  # heat from which a cell learns a class, an offset
SMOOTHING = 0.05
OFFSET_WEIGHT = 0.5
CANDIDATE = 0.05  # least heat of a candidate
NMS_SHARE = 0.5  # of a diameter: candidates nearer than this are one particle


class PointsNetwork(nn.Module):
    """A U-Net of three levels at strides 2, 4 and 8 with residual blocks and additive skips."""

    def __init__(self, n_classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        w1, w2, w3 = widths
        self.stem = ConvUnit(1, w1, 5, 2)
        self.level1 = chain(Residual, w1, 1)
        self.down2, self.level2 = ConvUnit(w1, w2, 3, 2), chain(Residual, w2, 2)
        self.down3, self.level3 = ConvUnit(w2, w3, 3, 2), chain(Residual, w3, 2)
        self.up2, self.merge2 = ConvUnit(w3, w2, 1), chain(Residual, w2, 1)
        self.up1, self.merge1 = ConvUnit(w2, w1, 1), chain(Residual, w1, 1)
        self.class_deep = nn.Conv3d(w2, n_classes, 1)
        self.head = nn.Conv3d(w1, 4 + n_classes, 1)
        with torch.no_grad():
            self.head.bias.zero_()  # type: ignore[union-attr]
            self.head.bias[0] = float(np.log(HEAT_PRIOR / (1 - HEAT_PRIOR)))  # type: ignore[index]

    def forward(self, crops: Tensor) -> Tensor:
        """Return (N, 4 + K, z / 2, y / 2, x / 2) of crops (N, 1, z, y, x), multiples of 8."""
        fine = self.level1(self.stem(crops))
        middle = self.level2(self.down2(fine))
        coarse = self.level3(self.down3(middle))
        middle = self.merge2(middle + _twice(self.up2(coarse)))
        fine = self.merge1(fine + _twice(self.up1(middle)))
        head = self.head(fine)
        classes = head[:, 4:] + _twice(self.class_deep(middle))
        return torch.cat([head[:, :4], classes], dim=1)


def _twice(features: Tensor) -> Tensor:
    """Features at twice the resolution, by repetition."""
    return functional.interpolate(features, scale_factor=2.0, mode="nearest")


class PointsDetector(nn.Module):
    """Network, targets, loss and decoding."""

    tile, overlap = 208, 16  # voxels

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.network = PointsNetwork(settings.n_classes, settings.widths)
        self.sigma = heat_widths(np.array(settings.diameters))
        self.second: SecondLook | None = None

    def forward(self, crops: Tensor) -> Tensor:
        """Return the network's output for crops (N, 1, z, y, x)."""
        output: Tensor = self.network(crops)
        return output

    def targets(self, crop: Crop) -> dict[str, FloatArray | IntArray]:
        """Return what the output for one crop should be; see `point_targets`."""
        cells = (crop.volume.shape[0] // CELL,) * 3
        return point_targets(cells, crop.position_xyz, crop.class_index, self.sigma)

    def loss(self, output: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the parts of the loss of a batch; their sum is minimised."""
        inner = (slice(None),) + (slice(MARGIN, -MARGIN),) * 3
        logits = output[:, 0][inner]
        heat, is_centre = targets["heat"][inner], targets["is_centre"][inner]
        n_centres = is_centre.sum().clamp(min=1.0)
        positive = is_centre * torch.sigmoid(-logits) ** FOCUS * functional.logsigmoid(logits)
        negative = ((1 - is_centre) * (1 - heat) ** PENALTY * torch.sigmoid(logits) ** FOCUS
                    * functional.logsigmoid(-logits))
        parts = {"centre": -(positive.sum() + negative.sum()) / n_centres}

        near = heat > OFFSET_FROM
        offset = output[:, 1:4].movedim(1, -1)[inner][near]
        wanted = targets["offset"].movedim(1, -1)[inner][near]
        count = near.sum().clamp(min=1)
        error = functional.smooth_l1_loss(offset, wanted, reduction="sum", beta=0.25) / count
        parts["offset"] = OFFSET_WEIGHT * error
        if self.settings.n_classes > 1:
            member = heat > CLASS_FROM
            weight = heat[member]
            entropy = functional.cross_entropy(
                output[:, 4:].movedim(1, -1)[inner][member], targets["class"][inner][member],
                reduction="none", label_smoothing=SMOOTHING)
            parts["class"] = (weight * entropy).sum() / weight.sum().clamp(min=1e-6)
        return parts

    @staticmethod
    def mirrored_back(output: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Return the output for crops that were flipped along `axes` (of the tensor) as if not."""
        back = output.flip(axes)
        for axis in axes:  # channels 1, 2, 3 are the offsets along x, y, z: axes 4, 3, 2
            back[:, 5 - axis] = -back[:, 5 - axis]
        return back

    def detections(self, output: Tensor) -> list[Detections]:
        """Return the candidates of every crop: maxima of the heat map, moved by the offset.

        The class is told by the cells around a maximum together, by their heat.
        """
        heat = torch.sigmoid(output[:, :1].float())
        is_peak = (heat == functional.max_pool3d(heat, 3, 1, 1)) & (heat >= CANDIDATE)
        posterior = torch.softmax(output[:, 4:].float(), dim=1)
        share = functional.avg_pool3d(heat, 3, 1, 1)
        posterior = functional.avg_pool3d(posterior * heat, 3, 1, 1) / share.clamp(min=1e-12)
        return [
            self._peaks(heat[i, 0], is_peak[i, 0], output[i, 1:4].float(), posterior[i])
            for i in range(len(output))
        ]

    def _peaks(
        self, heat: Tensor, is_peak: Tensor, offset: Tensor, posterior: Tensor
    ) -> Detections:
        z, y, x = torch.nonzero(is_peak, as_tuple=True)
        cell = torch.stack([x, y, z], dim=1).double()
        moved = cell + offset[:, z, y, x].T.double().clamp(-1.0, 1.0)
        probability = posterior[:, z, y, x].T.double().cpu().numpy()
        size = np.array(self.settings.diameters)[probability.argmax(axis=1)]
        return Detections(
            ((moved + 0.5) * CELL - 0.5).cpu().numpy(), heat[z, y, x].double().cpu().numpy(),
            probability, size)


def heat_widths(diameters: FloatArray) -> FloatArray:
    """Return the s.d. (cells) of the heat around a centre of each class: a tenth of its size."""
    widths: FloatArray = np.clip(0.1 * diameters / CELL, 0.8, 1.5)
    return widths


def point_targets(
    shape: tuple[int, int, int], position_xyz: FloatArray, class_index: IntArray,
    sigma: FloatArray,
) -> dict[str, FloatArray | IntArray]:
    """Return the targets of a crop on its cells.

    heat : (z, y, x) the largest of the particles' Gaussians; 1 in the cell of a centre.
    is_centre : (z, y, x) 1 in the cell of a centre, else 0.
    offset : (3, z, y, x) from the cell's centre to the hottest particle's (cells, x y z).
    class : (z, y, x) int64, of the hottest particle.
    """
    heat = np.zeros(shape, dtype=np.float32)
    is_centre = np.zeros(shape, dtype=np.float32)
    offset = np.zeros((3, *shape), dtype=np.float32)
    label = np.zeros(shape, dtype=np.int64)
    cells = (position_xyz + 0.5) / CELL - 0.5
    for cell, k in zip(cells, class_index, strict=True):
        reach = int(np.ceil(2.5 * sigma[k])) + 1
        nearest = np.rint(cell).astype(int)
        low = np.maximum(nearest[::-1] - reach, 0)
        high = np.minimum(nearest[::-1] + reach + 1, shape)
        if (high <= low).any():
            continue
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        dz, dy, dx = (cell[2 - axis] - np.arange(low[axis], high[axis]) for axis in range(3))
        squared = dz[:, None, None] ** 2 + dy[None, :, None] ** 2 + dx[None, None, :] ** 2
        value = np.exp(-0.5 * squared / sigma[k] ** 2).astype(np.float32)
        hotter = value > heat[window]
        heat[window][hotter] = value[hotter]
        label[window][hotter] = k
        for axis, d in enumerate((dx[None, None, :], dy[None, :, None], dz[:, None, None])):
            offset[axis][window][hotter] = np.broadcast_to(d, squared.shape)[hotter]
        centre = tuple(np.clip(nearest[::-1], 0, np.array(shape) - 1))
        heat[centre], is_centre[centre], label[centre] = 1.0, 1.0, k
        offset[(slice(None), *centre)] = cell - nearest
    return {"heat": heat, "is_centre": is_centre, "offset": offset, "class": label}
