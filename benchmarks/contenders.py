"""Methods that average and classify simulated particles blind: RELION 3.1 and this project.

A contender gets the particles alone and returns an average of every class, classes and poses after
every iteration, and the CPU time that each took. `relion_refine` is used where it is installed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import write_case
from children import Finished, run_timed

from scipion_faml import faml
from scipion_faml.fourier import spectrum, volume_from_spectrum
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import read_cube, write_volume, write_weight
from scipion_faml.model import FamlConfig, starting_poses
from scipion_faml.sources import ArraySource, SubtomogramSource
from scipion_faml.tables import read_particles
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.volume import squared_radius

MASK_DIAMETER = 0.84  # of the box, RELION's: the sphere that averages are judged in


@dataclass(frozen=True, eq=False)
class Answer:
    """Averages, classes and poses after one iteration."""

    averages: FloatArray  # (K, n, n, n)
    class_index: IntArray  # (N,) from 0
    poses: RigidTransforms  # N


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a contender gave: a function that loads each iteration's answer, and the times."""

    child: Finished
    load: Callable[[int], Answer]  # iteration from 1

    @property
    def n_iterations(self) -> int:
        """Number of iterations that were finished."""
        return len(self.child.marks_s)


# ---------------------------------------------------------------------------------------- ours
OPTIONS = {  # of classify, beside what all share
    "paper": ("--start", "turned", "--max-shift", "5"),
    "enhanced": (),
}


def run_ours(
    source: ArraySource, classes: int, mode: str, folder: Path, seed: int = 0,
    limit_s: float | None = None, iterations: int | None = None,
) -> Outcome | None:
    """Run `scipion-faml classify` in one mode on one thread; None where it does not know it.

    `iterations` is the default of the verb unless given.
    """
    folder.mkdir(parents=True)
    table = write_case(folder / "input", source)
    output = folder / "classify"
    command = [
        sys.executable, "-m", "scipion_faml", "classify", str(table), "--classes", str(classes),
        "--mode", mode, *OPTIONS[mode], "--seed", str(seed), "--workers", "1",
        "--output", str(output),
    ]
    command += [] if iterations is None else ["--iterations", str(iterations)]
    log = folder / "log"
    child = run_timed(
        command, folder, log, lambda: len(list(output.glob("iter_[0-9]*"))), limit_s)
    if child.status == 2 and "--mode" in log.read_text():
        return None
    check(child, log)

    def load(iteration: int) -> Answer:
        inside = output / f"iter_{iteration:03d}"
        maps = [inside / f"class_{k + 1:03d}.mrc" for k in range(classes)]
        with np.load(inside / "state.npz") as arrays:
            poses = RigidTransforms(arrays["euler_zyz"], arrays["shift_xyz"])
            return Answer(_load_maps(maps), arrays["class_index"], poses)

    return Outcome(child, load)


# -------------------------------------------------------------------------------------- RELION
def relion() -> str | None:
    """Return the path of relion_refine, or None where RELION is not installed."""
    return shutil.which("relion_refine")


COMMON = (
    "--ctf", "--norm", "--scale", "--flatten_solvent", "--zero_mask", "--pad", "2", "--sym", "C1",
    "--j", "1", "--dont_combine_weights_via_disc",
)
# The first step of each search: RELION halves angles and offsets where the posterior has weight.
ADAPTIVE = ("--oversampling", "1", "--offset_range", "5", "--offset_step", "2")
SETTINGS = {
    "relion": ("--denovo_3dref", "--healpix_order", "1", *ADAPTIVE),  # 30 deg, then 15
    "relion-15deg": ("--denovo_3dref", "--healpix_order", "2", *ADAPTIVE),  # 15 deg, then 7.5
    "relion-paper": ("--healpix_order", "3", "--oversampling", "0", "--offset_range", "5",
                     "--offset_step", "1"),
}
RELION_ITERATIONS = 25  # the form's default


def run_relion(
    source: SubtomogramSource, classes: int, settings: str, folder: Path, seed: int = 0,
    limit_s: float | None = None, iterations: int = RELION_ITERATIONS,
    n_used: int | None = None, tau2_fudge: float = 1.0,
) -> Outcome:
    """Run relion_refine on one thread.

    `n_used` gives it the first particles alone, and the average of all, turned at random, as
    reference in place of the de-novo start: to time settings that are too slow for a whole run.
    """
    program = relion()
    if program is None:
        raise FileNotFoundError("relion_refine is not installed: apt-get install relion")
    folder.mkdir(parents=True)
    (folder / "run").mkdir()
    n_used = len(source) if n_used is None else n_used
    _write_relion(folder, source, n_used)
    command = [
        program, "--i", "particles.star", "--o", "run/run", "--K", str(classes),
        "--iter", str(iterations), "--tau2_fudge", str(tau2_fudge),
        "--particle_diameter", f"{MASK_DIAMETER * source.n * source.voxel_size_angst:.1f}",
        "--random_seed", str(seed + 1),
        *COMMON, *SETTINGS[settings],
    ]
    if "--denovo_3dref" not in command:
        command += ["--ref", "turned.mrc"]
        _write_turned_average(folder / "turned.mrc", source, seed)
    log = folder / "log"
    child = run_timed(command, folder, log, lambda: _relion_done(folder), limit_s)
    check(child, log)

    def load(iteration: int) -> Answer:
        name = f"run/run_it{iteration:03d}"
        maps = [folder / f"{name}_class{k + 1:03d}.mrc" for k in range(classes)]
        table = read_particles(folder / f"{name}_data.star")
        # RELION sorts particles as it likes.
        number = [int(Path(image).stem) for image in table.rows["rlnImageName"]]
        order = np.argsort(number)
        return Answer(_load_maps(maps), table.class_index[order], table.poses[order])

    return Outcome(child, load)


def _relion_done(folder: Path) -> int:
    """Number of iterations on disk; iteration 0 is the start."""
    return max(len(list((folder / "run").glob("run_it*_model.star"))) - 1, 0)


def _write_relion(folder: Path, source: SubtomogramSource, n_used: int) -> None:
    """Write particles as RELION wants them: background of mean 0 and s.d. 1, weights as a CTF.

    The CTF volume is the whole cube with DC at voxel n // 2; a subtomogram is modelled as
    CTF x reference + noise of one variance on each shell. A sample of weight w, its noise variance
    sigma^2 / w, is brought to that by sqrt(w), which is its CTF: 0 and 1 are a wedge. The first
    particle's weights stand for all.
    """
    voxel_size, n = source.voxel_size_angst, source.n
    outside = np.sqrt(squared_radius(n)) > 0.5 * MASK_DIAMETER * n
    (folder / "input").mkdir()
    transfer = np.sqrt(source[0].wedge)
    scale = float(transfer.max())
    write_weight(folder / "input" / "wedge.mrc", transfer / scale, voxel_size)
    lines = [
        "data_optics", "", "loop_", "_rlnOpticsGroup", "_rlnOpticsGroupName", "_rlnImagePixelSize",
        "_rlnImageSize", "_rlnImageDimensionality", "_rlnVoltage", "_rlnSphericalAberration",
        "_rlnAmplitudeContrast", f"1 opticsGroup1 {voxel_size:.6f} {n} 3 300 2.7 0.1", "",
        "data_particles", "", "loop_", "_rlnMicrographName", "_rlnImageName", "_rlnCtfImage",
        "_rlnOpticsGroup",
    ]
    for i in range(n_used):
        volume, name = source[i].volume, f"input/{i + 1:06d}.mrc"
        if not np.isin(transfer, (0.0, 1.0)).all():
            volume = volume_from_spectrum(spectrum(volume) * transfer, n)
        background = volume[outside]
        scaled = (volume - background.mean()) / background.std()
        write_volume(folder / name, scaled, voxel_size)
        lines.append(f"tomogram {name} input/wedge.mrc 1")
    (folder / "particles.star").write_text("\n".join(["", *lines, ""]))


def _write_turned_average(path: Path, source: SubtomogramSource, seed: int) -> None:
    """The average of particles turned at random, on the scale of RELION's input."""
    poses = starting_poses(len(source), "turned", seed)
    classes = np.zeros(len(source), dtype=np.intp)
    average = faml.average_known(source, classes, poses, FamlConfig())[0][0]
    spread = float(source[0].volume.std(dtype=np.float64))
    write_volume(path, average / spread, source.voxel_size_angst)


def _load_maps(paths: list[Path]) -> FloatArray:
    return np.stack([read_cube(path)[0] for path in paths])


def check(child: Finished, log: Path) -> None:
    """Raise an OSError with the end of the log where a child failed of itself."""
    if child.status and not child.is_stopped:
        tail = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()[-6:]
        raise OSError(f"exit status {child.status}: {' / '.join(tail)}")
