"""One folder per iteration, complete or absent: what a killed run continues from.

    iter_007/  state.npz (averages, alpha, sigma, zeta, assignments), class_001.mrc ...,
               meta.json (settings, history, sizes of the files)
               enhanced.npz (what else enhanced mode goes on from; kept of the last iterations)

Everything that the next iteration sees is saved bit for bit: a run that was stopped and goes on
ends as if it had not been.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scipion_faml.disk import temporary_of, write_faults
from scipion_faml.enhanced import EnhancedState, PeakTable
from scipion_faml.faml import Assignments, IterationResult
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import write_volume
from scipion_faml.model import ModelState

logger = logging.getLogger(__name__)

SCHEMA = 4
N_CONTINUABLE = 2  # iterations whose references of all folds are kept: they are large
ENHANCED = "enhanced.npz"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded iteration."""

    state: ModelState
    assignments: Assignments
    history: list[dict[str, Any]]  # one row for each iteration so far


class DamagedError(ValueError):
    """An iteration's folder is incomplete or cannot be read; the message names the file."""


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
    """Write one iteration under a temporary name and rename it; return its folder.

    Raises
    ------
    DiskError
        If the disk is full, read-only, or gone; what was saved before stays.
    """
    folder = iteration_folder(output, result.state.iteration)
    with write_faults(folder):
        _save(folder, result, history, settings, voxel_size_angst)
        for old in range(1, result.state.iteration - N_CONTINUABLE + 1):
            (iteration_folder(output, old) / ENHANCED).unlink(missing_ok=True)
    return folder


def _save(
    folder: Path, result: IterationResult, history: list[dict[str, Any]],
    settings: dict[str, Any], voxel_size_angst: float,
) -> None:
    temporary = temporary_of(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for k, average in enumerate(result.state.averages, 1):
            write_volume(temporary / f"class_{k:03d}.mrc", average, voxel_size_angst)
        _save_result(temporary / "state.npz", result)
        if isinstance(result.state, EnhancedState):
            _save_arrays(temporary / ENHANCED, _enhanced_arrays(result.state))
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        meta = {"schema": SCHEMA, "settings": settings, "files": sizes, "history": history}
        meta["checksum"] = _checksum(meta)
        _write_durably(temporary / "meta.json", json.dumps(meta).encode())
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checksum(meta: Mapping[str, Any]) -> int:
    """A number that changes with any letter of what meta.json says."""
    as_read = json.loads(json.dumps(meta))
    return zlib.crc32(json.dumps(as_read, sort_keys=True).encode())


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
        archive = zipfile.ZipFile(handle, "w")  # a checksum for each, which reading compares
        try:
            for name, values in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(  # type: ignore[no-untyped-call]
                        member, np.asanyarray(values), allow_pickle=False)
            archive.close()
        except BaseException:
            archive.fp = None  # it would try to write again when it is collected
            raise
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


def folders(output: Path) -> list[Path]:
    """Return the iterations in `output`, the newest first."""
    found = [p for p in output.glob("iter_[0-9]*") if p.name[5:].isdecimal()]
    return sorted(found, key=lambda p: -int(p.name[5:]))


def newest(output: Path) -> Path | None:
    """Return the folder of the newest complete iteration in `output`, or None."""
    return next((p for p in folders(output) if (p / "meta.json").is_file()), None)


def load_newest(output: Path, settings: dict[str, Any]) -> Checkpoint | None:
    """Return the newest iteration that can be read; None where there is none.

    Damaged ones are left out with a warning: what they hold is computed again.

    Raises
    ------
    ValueError
        As `load`.
    """
    damaged = 0
    for folder in folders(output):
        try:
            found = load(folder, settings)
        except DamagedError as error:
            # Old iterations of enhanced mode hold no references to go on from.
            log = logger.debug if damaged and _is_old(folder) else logger.warning
            log("%s: going back to an iteration before", error)
            damaged += 1
            continue
        if damaged:
            logger.warning("going on after iteration %d", found.state.iteration)
        return found
    if damaged:
        logger.warning("%s: no iteration to go back to: starting again", output)
    return None


def _is_old(folder: Path) -> bool:
    return (folder / "state.npz").is_file() and not (folder / ENHANCED).exists()


def load(folder: Path, settings: dict[str, Any]) -> Checkpoint:
    """Return the iteration in `folder`.

    Raises
    ------
    ValueError
        If it was made with other settings (both values are named) or by another schema.
    DamagedError
        If a file is missing, incomplete or altered.
    """
    with _damage(folder / "meta.json"):
        meta = json.loads((folder / "meta.json").read_text())
        schema = meta["schema"]
    if schema != SCHEMA:
        raise ValueError(f"{folder} has schema {schema}, this version reads {SCHEMA}: choose "
                         "another --output or add --overwrite")
    with _damage(folder / "meta.json"):
        if meta.pop("checksum") != _checksum(meta):
            raise ValueError("its checksum is another")
        known, history = dict(meta["settings"]), list(meta["history"])
        sizes = dict(meta.get("files", {}))
    for name in sorted({*known, *settings}):
        was, now = known.get(name), settings.get(name)
        if was != now:
            raise ValueError(
                f"{folder} was made with {name} = {was}, now {now}: choose another --output or add "
                "--overwrite"
            )
    for name, size in sizes.items():
        with _damage(folder / name):
            found = (folder / name).stat().st_size
            if found != size:
                raise ValueError(f"{found} bytes, {size} were written")
    with _damage(folder / "state.npz"), \
            np.load(folder / "state.npz", allow_pickle=False) as arrays:
        values = dict(arrays.items())  # all of them: this compares their checksums
        assignments = _assignments(values)
    with _damage(folder / ENHANCED):
        state = _load_state(folder, values, str(settings.get("mode", "paper")))
    return Checkpoint(state, assignments, history)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what reading stumbles over into one line that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(f"{path} is missing") from error
    except OSError as error:
        if error.errno is not None:  # the disk, not what is on it
            raise OSError(error.errno, f"{path} cannot be read ({error.strerror}): the same "
                          "command goes on when it can") from error
        raise DamagedError(f"{path} is damaged ({error})") from error
    except (ValueError, KeyError, TypeError, EOFError, AttributeError, NotImplementedError,
            zipfile.BadZipFile, zlib.error, SyntaxError, tokenize.TokenError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedError(f"{path} is damaged ({reason[:200]})") from error


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
