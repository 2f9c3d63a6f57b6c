"""One folder per iteration, complete or absent: what a killed run continues from.

    iter_007/  state.npz (Theta and assignments), class_001.mrc ..., meta.json
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scipion_faml.faml import Assignments, IterationResult
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import write_volume
from scipion_faml.model import ModelState

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded iteration."""

    state: ModelState
    assignments: Assignments
    history: list[dict[str, Any]]  # one row for each iteration so far


def iteration_folder(output: Path, iteration: int) -> Path:
    """Return OUT/iter_NNN."""
    return output / f"iter_{iteration:03d}"


def save(
    output: Path,
    result: IterationResult,
    history: list[dict[str, Any]],
    settings: dict[str, Any],
    voxel_size_angst: float,
) -> Path:
    """Write one iteration under a temporary name and rename it; return its folder."""
    folder = iteration_folder(output, result.state.iteration)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for k, average in enumerate(result.state.averages, 1):
            write_volume(temporary / f"class_{k:03d}.mrc", average, voxel_size_angst)
        _save_arrays(temporary / "state.npz", result)
        meta = {"schema": SCHEMA, "settings": settings, "history": history}
        _write_durably(temporary / "meta.json", json.dumps(meta).encode())
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _save_arrays(path: Path, result: IterationResult) -> None:
    state, assignments = result.state, result.assignments
    with open(path, "wb") as handle:
        np.savez(
            handle,
            averages=state.averages, alpha=state.alpha,
            sigma=state.sigma, zeta=state.zeta, iteration=state.iteration,
            class_index=assignments.class_index,
            euler_zyz=assignments.poses.euler_zyz, shift_xyz=assignments.poses.shift_xyz,
            responsibility=assignments.responsibility,
            log_likelihood=assignments.log_likelihood,
            class_posterior=assignments.class_posterior,
        )
        handle.flush()
        os.fsync(handle.fileno())


def _write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def newest(output: Path) -> Path | None:
    """Return the folder of the newest complete iteration in `output`, or None."""
    complete = [p for p in output.glob("iter_[0-9]*") if (p / "meta.json").is_file()]
    return max(complete, key=lambda p: int(p.name.split("_")[1]), default=None)


def load(folder: Path, settings: dict[str, Any]) -> Checkpoint:
    """Return the iteration in `folder`.

    Raises
    ------
    ValueError
        If it was made with other settings (both values are named) or by another schema.
    """
    meta = json.loads((folder / "meta.json").read_text())
    if meta["schema"] != SCHEMA:
        raise ValueError(f"{folder} has schema {meta['schema']}, this version reads {SCHEMA}")
    for name in sorted({*meta["settings"], *settings}):
        was, now = meta["settings"].get(name), settings.get(name)
        if was != now:
            raise ValueError(
                f"{folder} was made with {name} = {was}, now {now}: choose another --output or add "
                "--overwrite"
            )
    with np.load(folder / "state.npz", allow_pickle=False) as arrays:
        state = ModelState(
            arrays["averages"], arrays["alpha"], float(arrays["sigma"]), float(arrays["zeta"]),
            int(arrays["iteration"]),
        )
        assignments = Assignments(
            arrays["class_index"],
            RigidTransforms(arrays["euler_zyz"], arrays["shift_xyz"]),
            arrays["responsibility"],
            arrays["log_likelihood"],
            arrays["class_posterior"],
        )
    return Checkpoint(state, assignments, meta["history"])


def remove_all(output: Path) -> None:
    """Remove every iteration in `output`."""
    for folder in output.glob("iter_[0-9]*"):
        shutil.rmtree(folder)
