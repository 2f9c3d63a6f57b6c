"""One folder per iteration, complete or absent: what a killed run continues from.

    iter_007/  state.npz (averages, alpha, sigma, zeta, assignments), class_001.mrc ..., meta.json
               enhanced.npz (what else enhanced mode goes on from; kept of the last iterations)

Everything that the next iteration sees is saved bit for bit: a run that was stopped and goes on
ends as if it had not been.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scipion_faml.enhanced import EnhancedState, PeakTable
from scipion_faml.faml import Assignments, IterationResult
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import write_volume
from scipion_faml.model import ModelState

SCHEMA = 3
N_CONTINUABLE = 2  # iterations whose references of all folds are kept: they are large
ENHANCED = "enhanced.npz"


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
        _save_result(temporary / "state.npz", result)
        if isinstance(result.state, EnhancedState):
            _save_arrays(temporary / ENHANCED, _enhanced_arrays(result.state))
        meta = {"schema": SCHEMA, "settings": settings, "history": history}
        _write_durably(temporary / "meta.json", json.dumps(meta).encode())
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in range(1, result.state.iteration - N_CONTINUABLE + 1):
        (iteration_folder(output, old) / ENHANCED).unlink(missing_ok=True)
    return folder


def _save_result(path: Path, result: IterationResult) -> None:
    state, assignments = result.state, result.assignments
    _save_arrays(path, {
        **{f.name: getattr(state, f.name) for f in fields(ModelState)},
        "class_index": assignments.class_index,
        "euler_zyz": assignments.poses.euler_zyz,
        "shift_xyz": assignments.poses.shift_xyz,
        "responsibility": assignments.responsibility,
        "log_likelihood": assignments.log_likelihood,
        "class_posterior": assignments.class_posterior,
    })


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    with open(path, "wb") as handle:
        np.savez(handle, **arrays)
        handle.flush()
        os.fsync(handle.fileno())


def _own_fields() -> list[str]:
    """Names of what enhanced mode adds to Theta."""
    common = {f.name for f in fields(ModelState)}
    return [f.name for f in fields(EnhancedState) if f.name not in common]


def _enhanced_arrays(state: EnhancedState) -> dict[str, Any]:
    """What enhanced mode adds, under its names; the table of peaks as four arrays."""
    arrays = {name: getattr(state, name) for name in _own_fields()}
    peaks: PeakTable | None = arrays.pop("peaks")
    if peaks is not None:
        arrays |= {
            "peaks_particle": peaks.particle, "peaks_class_index": peaks.class_index,
            "peaks_euler_zyz": peaks.poses.euler_zyz, "peaks_shift_xyz": peaks.poses.shift_xyz,
        }
    return arrays


def _values(arrays: Mapping[str, NDArray[Any]], names: Iterable[str]) -> dict[str, Any]:
    """Named arrays; those without axes as plain values."""
    return {n: arrays[n] if arrays[n].ndim else arrays[n].item() for n in names}


def _load_state(folder: Path, arrays: Mapping[str, NDArray[Any]], mode: str) -> ModelState:
    """The state of a folder; `arrays` are those of its state.npz."""
    common = _values(arrays, [f.name for f in fields(ModelState)])
    if mode != "enhanced":
        return ModelState(**common)
    if not (folder / ENHANCED).is_file():
        raise ValueError(
            f"{folder} holds no {ENHANCED} to go on from: choose another --output or add "
            "--overwrite"
        )
    with np.load(folder / ENHANCED, allow_pickle=False) as own:
        values = _values(own, [name for name in _own_fields() if name in own])
        values["symmetry"] = tuple(str(name) for name in values["symmetry"])
        peaks = None
        if "peaks_particle" in own:
            poses = RigidTransforms(own["peaks_euler_zyz"], own["peaks_shift_xyz"])
            peaks = PeakTable(own["peaks_particle"], own["peaks_class_index"], poses)
    return EnhancedState(**common, **values, peaks=peaks)


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
        state = _load_state(folder, arrays, str(settings.get("mode", "paper")))
        assignments = _assignments(arrays)
    return Checkpoint(state, assignments, meta["history"])


def load_assignments(folder: Path) -> Assignments:
    """Return the classes and poses of the iteration in `folder`, to look at while a run goes on."""
    with np.load(folder / "state.npz", allow_pickle=False) as arrays:
        return _assignments(arrays)


def _assignments(arrays: Mapping[str, NDArray[Any]]) -> Assignments:
    """The best class and pose of every particle, of a state.npz."""
    return Assignments(
        arrays["class_index"],
        RigidTransforms(arrays["euler_zyz"], arrays["shift_xyz"]),
        arrays["responsibility"],
        arrays["log_likelihood"],
        arrays["class_posterior"],
    )


def remove_all(output: Path) -> None:
    """Remove every iteration in `output`."""
    for folder in output.glob("iter_[0-9]*"):
        shutil.rmtree(folder)
