"""What a detector is, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

ARCHITECTURES = ("points", "yolo")
DEFAULT_DIAMETER = 10.0  # voxels, of a class whose size nobody told
STRIDE = {"points": 8, "yolo": 8}  # input sizes are multiples of it
YOLO_CUBE, YOLO_OVERLAP = 64, 8
MAX_CLASSES = 1000


@dataclass(frozen=True)
class DetectorSettings:
    """What a detector is: with its weights, all that picking needs. Lengths in voxels."""

    architecture: str
    voxel_size_angst: float
    class_names: tuple[str, ...]
    class_numbers: tuple[int, ...]  # rlnClassNumber of each class
    diameters: tuple[float, ...]  # voxels
    thresholds: tuple[float, ...]  # lowest score of each class
    widths: tuple[int, ...] = (24, 64, 96)  # channels at strides 2, 4 and 8 (points)
    anchors: tuple[float, ...] = ()  # voxels (yolo)
    thresholds_from: str = "default"
    is_dark: bool = False

    def __post_init__(self) -> None:
        n_classes = len(self.class_names)
        lengths = {len(self.class_numbers), len(self.diameters), len(self.thresholds), n_classes}
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"no architecture is called {self.architecture!r}")
        if len(lengths) != 1 or not 0 < n_classes <= MAX_CLASSES:
            raise ValueError(f"{n_classes} classes with {sorted(lengths)} numbers of properties")
        if not self.voxel_size_angst > 0 or not min(self.diameters) > 0:
            raise ValueError("voxel size and diameters of a detector must be above 0")

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def as_dict(self) -> dict[str, Any]:
        """Plain types only: numbers of numpy would need code to be run when they are loaded."""
        return {
            "architecture": self.architecture,
            "voxel_size_angst": float(self.voxel_size_angst),
            "class_names": [str(name) for name in self.class_names],
            "class_numbers": [int(number) for number in self.class_numbers],
            "diameters": [float(d) for d in self.diameters],
            "thresholds": [float(t) for t in self.thresholds],
            "widths": [int(w) for w in self.widths],
            "anchors": [float(a) for a in self.anchors],
            "thresholds_from": self.thresholds_from,
            "is_dark": bool(self.is_dark),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> DetectorSettings:
        """Of `as_dict`, also after lists took the place of tuples."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return DetectorSettings(**plain)

    def with_thresholds(self, thresholds: tuple[float, ...], source: str) -> DetectorSettings:
        """Return the same detector with other thresholds."""
        return replace(self, thresholds=thresholds, thresholds_from=source)


@dataclass(frozen=True)
class TrainingSettings:
    """How a detector is trained."""

    epochs: int = 40
    steps: int | None = None  # per epoch; default: the training volume once
    batch: int = 4
    crop: int = 64  # voxels
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warm_up: float = 0.05  # share of all steps
    clip: float = 5.0  # norm of the gradient
    ema: float = 0.995
    balance: float = 0.5  # classes are drawn with count ** -balance relative to their abundance
    turns: bool = False  # quarter turns about the beam, which move the missing wedge
    seed: int = 0
