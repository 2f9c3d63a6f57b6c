"""A second network that looks at each candidate by itself and names it again.

The detector shares its features among all places of a tomogram; this one sees a cube of 32^3 voxels
around a candidate and nothing else. Both posteriors are multiplied. Where particles are is left as
the detector says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scipion_faml.detector.ahead import ahead
from scipion_faml.detector.detections import Detections
from scipion_faml.detector.labels import Labelled
from scipion_faml.detector.networks import ConvUnit, Residual, chain, crops_tensor
from scipion_faml.detector.sampling import Crop, ParticleDraw, mirrored, with_other_contrast
from scipion_faml.detector.settings import DetectorSettings, TrainingSettings
from scipion_faml.detector.view import TomogramView
from scipion_faml.types import FloatArray, IntArray

EDGE = 32  # voxels
JITTER = 0.8  # voxels, s.d. of how far candidates lie from the particles
SMOOTHING = 0.05
BATCH = 64  # candidates looked at together
LEAST_SCORE = 0.15  # of candidates that are looked at: others are hardly ever kept


class SecondLook(nn.Module):
    """The network with what the training of a detector asks for."""

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.network = nn.Sequential(
            ConvUnit(1, 24, 5, 2), chain(Residual, 24, 1),
            ConvUnit(24, 64, 3, 2), chain(Residual, 64, 2),
            ConvUnit(64, 128, 3, 2), chain(Residual, 128, 1),
            nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(128, settings.n_classes),
        )

    def forward(self, crops: Tensor) -> Tensor:
        """Return logits (N, K) of crops (N, 1, 32, 32, 32)."""
        logits: Tensor = self.network(crops)
        return logits

    def targets(self, crop: Crop) -> dict[str, FloatArray | IntArray]:
        """Return the class of the crop's one particle."""
        return {"class": crop.class_index[0].astype(np.int64)}

    def loss(self, output: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the cross-entropy of a batch."""
        return {"class": functional.cross_entropy(
            output, targets["class"], label_smoothing=SMOOTHING)}


class CandidateSampler:
    """Draws cubes around particles, every class as often; cube i depends on seed and i alone."""

    def __init__(self, tomograms: Sequence[Labelled], settings: TrainingSettings) -> None:
        self.settings = settings
        self._particles = ParticleDraw(tomograms, balance=1.0)

    def crop(self, number: int) -> Crop:
        """Return cube `number` of the run."""
        rng = np.random.default_rng([self.settings.seed, 11, number])
        chosen, row = self._particles.one(rng)
        place = chosen.position_xyz[row] + rng.normal(0.0, JITTER, 3)
        volume = cube_around(chosen.view, place)
        middle = np.full((1, 3), EDGE / 2)
        crop = Crop(volume, middle, chosen.class_index[[row]])
        return with_other_contrast(mirrored(crop, rng, self.settings.turns), rng)


def cube_around(view: TomogramView, position_xyz: FloatArray) -> FloatArray:
    """Return the voxels (32, 32, 32) around a position."""
    start = np.rint(position_xyz[::-1]).astype(np.intp) - EDGE // 2
    return view.read(tuple(start.tolist()), (EDGE,) * 3)


def posteriors(
    second: SecondLook, view: TomogramView, position_xyz: FloatArray, device: torch.device
) -> FloatArray:
    """Return the posterior (P, K) of the class at each position."""
    network = second.network.to(device).eval()
    groups = [position_xyz[i : i + BATCH] for i in range(0, len(position_xyz), BATCH)]

    def read(group: FloatArray) -> FloatArray:
        return np.stack([cube_around(view, place) for place in group])

    parts = [np.zeros((0, second.settings.n_classes))]
    with torch.inference_mode():
        for cubes in ahead(read, groups):
            logits = network(crops_tensor(torch.from_numpy(cubes).to(device)))
            parts.append(torch.softmax(logits.double(), dim=1).cpu().numpy())
    return np.concatenate(parts)


def named_again(
    second: SecondLook, found: Detections, view: TomogramView, device: torch.device
) -> Detections:
    """Return the candidates with the product of both posteriors; those of low score unchanged."""
    sure = np.flatnonzero(found.score >= LEAST_SCORE)
    product = found.posterior[sure] * posteriors(second, view, found.position_xyz[sure], device)
    posterior = found.posterior.copy()
    posterior[sure] = product / np.maximum(product.sum(axis=1, keepdims=True), 1e-300)
    size = np.array(second.settings.diameters)[posterior.argmax(axis=1)]
    return Detections(found.position_xyz, found.score, posterior, size)
