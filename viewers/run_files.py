"""What a classification or an average has on disk, at any moment of the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from scipion_faml import checkpoint, convert, plots
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import read_cube
from scipion_faml.tables import read_particles

from .run_viewer import read_curves

AVERAGES = "class_[0-9][0-9][0-9].mrc"
PHASE = "phase"


@dataclass(frozen=True, eq=False)
class Found:
    """Classes and poses of the particles; what is not known is None."""

    class_index: np.ndarray | None = None  # (N,)
    probability: np.ndarray | None = None  # (N,)
    poses: RigidTransforms | None = None  # N


@dataclass(frozen=True, eq=False)
class ClassificationFiles:
    """The folder of the results, up to an iteration or (None) the last."""

    folder: Path
    n_particles: int
    history: pd.DataFrame
    result: dict = field(default_factory=dict)
    iteration: int | None = None

    @property
    def number(self) -> int:
        """The iteration that is shown; 0 before the first has ended."""
        return int(self.history["iteration"].iloc[-1]) if len(self.history) else 0

    def is_final(self) -> bool:
        """Whether the run's result is there and is what is to be shown."""
        return self.iteration is None and (self.folder / "particles.star").is_file()

    def average_files(self) -> list[Path]:
        """Averages of the iteration: the final ones, or of its checkpoint."""
        of_iteration = checkpoint.iteration_folder(self.folder, self.number)
        folders = [self.folder] if self.is_final() else [of_iteration, self.folder]
        for folder in folders:
            files = sorted(folder.glob(AVERAGES))
            if files:
                return files
        return []

    def half_files(self) -> list[Path]:
        """Half averages of the classes, which a finished enhanced run has."""
        return sorted(self.folder.glob("class_[0-9][0-9][0-9]_half[12].mrc"))

    def found(self) -> Found:
        """Classes and poses of the iteration."""
        if self.is_final():
            return found_in_table(self.folder / "particles.star")
        folder = checkpoint.iteration_folder(self.folder, self.number)
        if not (folder / "state.npz").is_file():
            return Found()
        assignments = checkpoint.load_assignments(folder)
        return Found(assignments.class_index, assignments.responsibility, assignments.poses)

    def counts(self, n_classes: int) -> np.ndarray:
        """Particles in every class; the expected numbers where classes are not known."""
        index = self.found().class_index
        if index is not None:
            return np.bincount(index, minlength=n_classes)
        shares = self.history.filter(like="alpha_").iloc[-1].to_numpy(dtype=float)
        return np.round(shares * self.n_particles, 1)

    def state(self) -> plots.RunState:
        """Return all of it, for the overview."""
        averages = np.stack([read_cube(path)[0] for path in self.average_files()])
        found = self.found()
        return plots.RunState(
            averages, self.counts(len(averages)), self.history,
            self.result if self.is_final() else {}, found.probability,
            None if found.poses is None else found.poses.rotation,
            read_curves(self.folder / "fsc.csv") if self.is_final() else {})


def found_in_table(path: Path) -> Found:
    """Return what a particles.star says."""
    table = read_particles(path)
    rows = table.rows
    probability = (rows[convert.PROBABILITY].to_numpy(dtype=float)
                   if convert.PROBABILITY in rows else None)
    has_class = "rlnClassNumber" in rows
    return Found(table.class_index if has_class else np.zeros(len(rows), dtype=int), probability,
                 table.poses if convert.has_pose_columns(table) else None)
