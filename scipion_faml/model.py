"""The model's parameters Theta, the settings of a run, and the starting point (Section 2.4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.types import FloatArray, IntArray

METHODS = ("faml", "fa")
STARTS = ("unturned", "turned")
SEARCHES = ("magnitude", "phase", "both", "exhaustive")
MODES = ("paper", "enhanced")
NOISES = ("shells", "white")
# Settings that only one of the modes looks at.
PAPER_ONLY = ("method", "start", "search", "angular_step_deg", "max_candidates", "bandwidth",
              "n_voronoi_points", "translation_weight", "chunk_size")
ENHANCED_ONLY = ("n_folds", "noise", "regularise", "min_zeta", "spread", "start_radius",
                 "dense_bandwidth", "n_starts", "find_classes", "max_classes", "split_merge",
                 "particle_diameter_angst", "high_pass_angst", "sampling_sweeps",
                 "sampling_temperature")
AUTO = "auto"
SEARCH_BANDWIDTH = 16
OBJECT_RADIUS = 0.35  # of the box: how far most of a particle's density reaches


@dataclass(frozen=True)
class FamlConfig:
    """Settings of a run. None means: chosen from the box size (see the properties below)."""

    n_classes: int = 1
    n_iterations: int = 20
    method: str = "faml"  # "faml": posteriors over candidates; "fa": the best candidate alone
    start: str = "unturned"  # Section 2.4; "turned": each particle turned at random first
    search: str = "magnitude"  # how candidates are found: Eq. 2, Eq. 1 with phases, both, or a scan
    angular_step_deg: float = 15.0  # of the exhaustive search
    max_candidates: int = 50
    max_shift: float | None = None  # voxels
    bandwidth: int | None = None
    low_pass_angst: float | None = None
    n_voronoi_points: int = 10_000
    translation_weight: float = 1.0  # alpha^trd of Eq. 5
    min_responsibility: float = 1e-3  # smaller ones are set to 0
    chunk_size: int = 4
    mode: str = "paper"  # or "enhanced"; what follows is for it alone
    n_folds: int = 10  # references leave out the fold of the particle; 1: they leave out nothing
    noise: str = "shells"  # a variance for each shell, or "white"
    regularise: bool = True  # Wiener prior from the FSC of halves
    min_zeta: float = 1.0  # voxels
    spread: bool = True
    start_radius: int = 5  # shells compared at first
    n_starts: int | None = None  # random starts, the best goes on; None: see n_random_starts
    dense_bandwidth: int = 24  # of the integral over all poses, at most
    find_classes: bool = False  # as many classes as the evidence supports, in place of n_classes
    max_classes: int = 8  # then
    split_merge: bool = True  # classes that are the same are merged, mixtures split, at the start
    particle_diameter_angst: float | None = None  # what lies further out is no part of averages
    high_pass_angst: float | None = None  # shells of coarser detail are not compared
    sampling_sweeps: int = 0  # of a start that draws poses from posteriors; 0: none
    sampling_temperature: float = 1.5  # held for two thirds of them, then falling to 1
    symmetry: str = "C1"  # of all classes: a point group of `symmetry`, or "auto": found from data
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_classes", "max_candidates", "n_voronoi_points", "chunk_size", "n_folds",
                     "max_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.n_iterations < 0 or self.seed < 0:
            raise ValueError("n_iterations and seed must not be negative")
        choices = (("method", METHODS), ("start", STARTS), ("search", SEARCHES), ("mode", MODES),
                   ("noise", NOISES))
        for name, known in choices:
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} is {value!r}: choose from {', '.join(known)}")
        if not 1.0 <= self.angular_step_deg <= 90.0:
            raise ValueError(f"angular_step_deg is {self.angular_step_deg:g}: choose 1 to 90")
        if self.max_shift is not None and self.max_shift < 0:
            raise ValueError(f"max_shift is {self.max_shift:g} voxels: it must not be negative")
        if self.bandwidth is not None and self.bandwidth < 4:
            raise ValueError(f"bandwidth is {self.bandwidth}: it must be at least 4")
        if self.low_pass_angst is not None and self.low_pass_angst <= 0:
            raise ValueError(f"low_pass_angst is {self.low_pass_angst:g}: give it in angstrom")
        if not 0 <= self.min_responsibility < 0.1:
            raise ValueError("min_responsibility must lie in [0, 0.1)")
        if not self.min_zeta > 0:
            raise ValueError(f"min_zeta is {self.min_zeta:g} voxels: it must be positive")
        for name in ("particle_diameter_angst", "high_pass_angst"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value:g}: give it in angstrom")
        if self.sampling_temperature < 1:
            raise ValueError(
                f"sampling_temperature is {self.sampling_temperature:g}: it must be at least 1")
        for name, least in (("start_radius", 2), ("dense_bandwidth", 8), ("sampling_sweeps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if self.n_starts is not None and self.n_starts < 1:
            raise ValueError(f"n_starts is {self.n_starts}: it must be at least 1")
        if self.find_classes and self.mode != "enhanced":
            raise ValueError("find_classes needs enhanced mode: give n_classes")
        if self.find_classes and self.n_folds == 1:
            raise ValueError(
                "n_folds is 1: the number of classes is judged by particles left out of their "
                "references, choose 4 or more")
        if self.n_folds in (2, 3):
            # Halves that are aligned to each other only, in turn, drift apart.
            raise ValueError(f"n_folds is {self.n_folds}: choose 1 (none left out) or at least 4")
        if self.sampling_sweeps and self.find_classes:
            raise ValueError("sampling needs a number of classes: give one, or no sampling_sweeps")
        if self.finds_symmetry:
            self._check_symmetry_search()
        else:
            symmetry_rotations(self.symmetry)  # raises where the group is not known

    def _check_symmetry_search(self) -> None:
        if self.mode != "enhanced":
            raise ValueError("symmetry auto needs enhanced mode: name a point group, such as C7")
        if self.n_folds == 1:
            raise ValueError(
                "n_folds is 1: symmetry auto is judged by particles left out of their references, "
                "choose 4 or more")

    def check_size(self, n_particles: int) -> None:
        """Raise a ValueError when there are too few particles for these settings."""
        if n_particles < 2:
            raise ValueError(f"{n_particles} particle: at least 2 are needed to average")
        if self.n_classes > n_particles:
            raise ValueError(
                f"{self.n_classes} classes asked of {n_particles} particles: ask for fewer classes"
            )

    @property
    def finds_symmetry(self) -> bool:
        """Whether the point group of every class is looked for."""
        return self.symmetry == AUTO

    @property
    def known_symmetry(self) -> str:
        """The point group of all classes; C1 where it has to be found."""
        return "C1" if self.finds_symmetry else self.symmetry

    @property
    def group(self) -> FloatArray:
        """Rotations (order, 3, 3) of the known symmetry, the identity first."""
        return symmetry_rotations(self.known_symmetry)

    @property
    def n_groups(self) -> int:
        """Groups of particles summed apart: folds, or two halves."""
        return max(self.n_folds, 2)

    @property
    def merges_and_splits(self) -> bool:
        """Whether a run starts from too many classes, which are merged and split."""
        return self.find_classes or (self.n_classes > 1 and self.split_merge)

    @property
    def n_random_starts(self) -> int:
        """Random starts: unless set one, or for several classes that stay as they are four."""
        if self.n_starts is not None:
            return self.n_starts
        return 1 if self.n_classes == 1 or self.merges_and_splits else 4

    @property
    def search_bandwidth(self) -> int:
        """Bandwidth at which peaks of the posterior are looked for."""
        return min(SEARCH_BANDWIDTH, self.dense_bandwidth)

    @staticmethod
    def dense_radius(bandwidth: int) -> int:
        """Shells that a bandwidth can carry."""
        return max(int((bandwidth - 3) / (2 * np.pi * OBJECT_RADIUS)), 1)

    @property
    def sampled_shells(self) -> int:
        """Shells compared while poses are sampled: as many as the dense bandwidth carries."""
        return self.dense_radius(self.dense_bandwidth + 1)

    def first_shell_of(self, n: int, voxel_size_angst: float) -> int:
        """Return the lowest shell |k| that is compared: 1, or what the high-pass leaves."""
        if self.high_pass_angst is None:
            return 1
        first = max(int(np.ceil(n * voxel_size_angst / self.high_pass_angst - 1e-9)), 1)
        last = self.max_radius_of(n, voxel_size_angst)
        if first > last - 1:
            raise ValueError(
                f"a high-pass of {self.high_pass_angst:g} A leaves nothing below shell {last} of a "
                f"box of {n * voxel_size_angst:g} A: choose a larger value")
        return first

    @staticmethod
    def bandwidth_of_shells(radius: int) -> int:
        """Bandwidth of spectra on shells up to `radius` of a particle that fills the box."""
        return int(2 * np.pi * OBJECT_RADIUS * radius) + 3

    def max_shift_of(self, n: int) -> float:
        """Largest shift searched (voxels): a sixth of the box unless set."""
        return n / 6 if self.max_shift is None else min(self.max_shift, n / 2 - 1)

    def bandwidth_of(self, n: int) -> int:
        """Bandwidth of the rotational matching: 3/4 of the box, 8 to 32, unless set."""
        return min(max(3 * n // 4, 8), 32) if self.bandwidth is None else self.bandwidth

    def max_radius_of(self, n: int, voxel_size_angst: float) -> int:
        """Largest |k| compared: just inside Nyquist, or the low-pass."""
        nyquist = (n - 1) // 2
        if self.low_pass_angst is None:
            return nyquist
        radius = int(n * voxel_size_angst / self.low_pass_angst)
        if radius < 2:
            raise ValueError(
                f"low-pass {self.low_pass_angst:g} A leaves {radius} shells of a box of "
                f"{n * voxel_size_angst:g} A: choose a smaller value"
            )
        return min(radius, nyquist)


@dataclass(frozen=True, eq=False)
class ModelState:
    """Theta after `iteration` iterations; an iteration returns a new one."""

    averages: FloatArray  # (K, n, n, n) float32
    alpha: FloatArray  # (K,) class priors
    sigma: float  # noise s.d. of a Fourier sample
    zeta: float  # s.d. of a shift component, voxels
    iteration: int = 0

    def __post_init__(self) -> None:
        if self.averages.ndim != 4 or len(self.averages) != len(self.alpha):
            raise ValueError(
                f"averages {self.averages.shape} and alpha {self.alpha.shape} disagree"
            )
        if not (np.isfinite(self.averages).all() and np.isfinite(self.alpha).all()):
            raise ValueError("averages or class priors are not finite")
        if not (self.sigma > 0 and self.zeta > 0):
            raise ValueError(f"sigma = {self.sigma:g} and zeta = {self.zeta:g} must be positive")

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.alpha)


def random_classes(n_particles: int, n_classes: int, seed: int) -> IntArray:
    """Return the class of each particle when divided evenly into K sets at random (Section 2.4)."""
    classes = np.arange(n_particles) % n_classes
    np.random.default_rng([seed, 0]).shuffle(classes)
    return classes


def starting_poses(n_particles: int, start: str, seed: int) -> RigidTransforms:
    """Return the poses of the first averages: unturned (the paper), or turned at random."""
    if start == "unturned":
        return RigidTransforms.identity(n_particles)
    angles = [random_rotations(1, np.random.default_rng([seed, 0, i])) for i in range(n_particles)]
    return RigidTransforms(np.concatenate(angles), np.zeros((n_particles, 3)))
