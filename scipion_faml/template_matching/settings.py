"""Settings of template matching."""

from __future__ import annotations

from dataclasses import dataclass

from scipion_faml.picking.template.controls import CONTROLS


@dataclass(frozen=True)
class TemplateConfig:
    """Settings of the picker."""

    diameter_angst: float  # of the spherical mask
    symmetry: str = "C1"
    angular_step_deg: float = 7.0  # of the exhaustive scan
    coarse_step_deg: float = 20.0  # of the scan that is refined
    is_exhaustive: bool = False
    is_dark: bool = False  # particles darker than their surroundings
    low_pass_angst: float | None = None
    high_pass_angst: float | None = None
    whitens: bool = False
    threshold: float | None = None  # correlation coefficient; None: from `false_positives`
    false_positives: float = 1.0  # expected in the whole tomogram
    control: str = "phase"  # template that tells what chance reaches
    n_candidates: int | None = None  # peaks of the coarse scan that are refined
    min_distance: float = 0.7  # between picks, in diameters
    border: float = 0.25  # picks keep this distance from the tomogram's faces, in diameters
    max_picks: int | None = None
    clip_sd: float = 5.0  # brighter and darker voxels are cut to this: gold beads
    tile: int = 128  # voxels of the core of a tile
    keeps_maps: bool = False
    seed: int = 0  # of the control's phases

    def __post_init__(self) -> None:
        if not self.diameter_angst > 0:
            raise ValueError(f"--diameter {self.diameter_angst:g}: give it in angstrom, above 0")
        for name in ("angular_step_deg", "coarse_step_deg"):
            if not 1.0 <= getattr(self, name) <= 60.0:
                raise ValueError(f"{name} is {getattr(self, name):g}: choose 1 to 60 deg")
        if self.control not in CONTROLS:
            raise ValueError(f"control is {self.control!r}: choose from {', '.join(CONTROLS)}")
        if self.threshold is not None and not -1.0 <= self.threshold <= 1.0:
            raise ValueError(
                f"threshold {self.threshold:g}: scores are correlation coefficients, -1 to 1")
        if not self.false_positives > 0:
            raise ValueError(f"{self.false_positives:g} false positives: give a number above 0")
        if self.min_distance < 0 or self.border < 0:
            raise ValueError("min_distance and border must not be negative")
        for name in ("max_picks", "n_candidates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if not self.clip_sd > 0:
            raise ValueError("clip_sd must exceed 0")
        if self.tile < 16:
            raise ValueError(f"tiles of {self.tile} voxels are too small: 16 at least")
