"""Template matching: coarse scan and refinement against the exhaustive scan, and other programs.

    python benchmarks/template_matching.py [scan] [chance] [published] [pytme] [--data FOLDER]
                                           [--pytme-python PYTHON]

scan       a simulated tomogram of ribosomes and GroEL, searched for both in both ways: rotations,
           seconds, recall, precision, orientation error
chance     picks in pure noise, against the number asked for
published  the score and angle volumes of cryoCAT's peak analysis (FOLDER as in tests)
pytme      the same tomogram and rotations with pyTME, run by PYTHON (a Python that has it)

Without names all are run; what lacks its data or program says so. Seconds are CPU seconds of one
core.
"""

from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from scipion_faml.cli import run as run_verb  # noqa: E402
from scipion_faml.evaluation.picks import match_positions  # noqa: E402
from scipion_faml.geometry import euler_to_matrix, rotation_angle_deg  # noqa: E402
from scipion_faml.io import read_volume  # noqa: E402
from scipion_faml.structures import load_structure  # noqa: E402
from scipion_faml.symmetry import symmetry_rotations  # noqa: E402
from scipion_faml.tables import read_particles  # noqa: E402
from scipion_faml.template_matching import (  # noqa: E402
    TemplateConfig,
    TemplateModel,
    match_template,
)
from scipion_faml.template_matching.search import Matches  # noqa: E402
from scipion_faml.volume import crop_or_pad  # noqa: E402
from scipion_faml.wedge import MissingWedge  # noqa: E402

VOXEL, SHAPE, COUNT, SNR = 15.0, "104,104,52", 12, 0.004
MODELS = {"groel": (195.0, "D7"), "ribosome": (270.0, "C1")}
WEDGE = MissingWedge(-60.0, 60.0)


def simulated(folder: Path) -> Path:
    """A tomogram of both structures; made once."""
    out = folder / "tomogram"
    if not (out / "truth.star").is_file():
        arguments = ["simulate-tomogram", "--voxel-size", str(VOXEL), "--shape", SHAPE, "--snr",
                     str(SNR), "--output", str(out), "--seed", "1", "--workers", "1"]
        for name in MODELS:
            arguments += ["--model", name, "--count", str(COUNT)]
        if run_verb(arguments):
            raise SystemExit("the tomogram could not be simulated")
    return out


def truth_of(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions (x, y, z) and rotations of one structure."""
    table = read_particles(folder / "truth.star")
    rows = table.rows
    mine = (rows.famlModel == name).to_numpy()
    columns = ["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]
    return rows[columns].to_numpy()[mine], table.poses.rotation[mine]


def quality(found: Matches, threshold: float, folder: Path, name: str) -> dict[str, float]:
    """Recall, precision and orientation error of what scores above a threshold."""
    position, rotation = truth_of(folder, name)
    diameter, group = MODELS[name][0], symmetry_rotations(MODELS[name][1])
    kept = found.take(found.score >= threshold)
    pick, true = match_positions(kept.position_zyx[:, ::-1], position, 0.4 * diameter / VOXEL)
    turn = [float(rotation_angle_deg(euler_to_matrix(kept.euler_zyz[p]), rotation[t] @ group).min())
            for p, t in zip(pick, true, strict=True)]
    return {
        "recall": len(pick) / len(position), "precision": len(pick) / max(len(kept), 1),
        "turn_median_deg": float(np.median(turn)) if turn else float("nan"),
    }


def best_f1(found: Matches, folder: Path, name: str) -> float:
    """The highest F1 over all thresholds."""
    best = 0.0
    for threshold in found.score:
        q = quality(found, float(threshold), folder, name)
        total = q["recall"] + q["precision"]
        best = max(best, 2 * q["recall"] * q["precision"] / total if total else 0.0)
    return best


def scan(folder: Path, whole: bool, step: float) -> None:
    """Both ways on the same tomogram, with the threshold that the control gives the quick one."""
    tomogram, _ = read_volume(simulated(folder) / "tomogram.mrc")
    print(f"tomogram {SHAPE} of {VOXEL:g} A, {COUNT} each of {', '.join(MODELS)}, SNR {SNR:g}")
    print(f"{'':26s}{'rotations':>10s}{'of poses':>10s}{'CPU s':>8s}{'recall':>8s}{'precis.':>8s}"
          f"{'best F1':>8s}{'turn deg':>9s}")
    for name, (diameter, symmetry) in MODELS.items():
        model = TemplateModel(read_volume(folder / "tomogram" / "maps" / f"{name}.mrc")[0])
        config = TemplateConfig(diameter, symmetry)
        threshold = match_template(tomogram, VOXEL, model, WEDGE, config).threshold
        ways = ("coarse, refined", False), (f"exhaustive, {step:g} deg", True)
        for label, is_exhaustive in ways:
            if is_exhaustive and symmetry == "C1" and not whole:
                continue
            own = TemplateConfig(
                diameter, symmetry, step, is_exhaustive=is_exhaustive, threshold=threshold)
            start = time.process_time()
            result = match_template(tomogram, VOXEL, model, WEDGE, own)
            seconds = time.process_time() - start
            q = quality(result.found, threshold, folder / "tomogram", name)
            f1 = best_f1(result.found, folder / "tomogram", name)
            print(f"{name + ', ' + label:26s}{len(result.rotations):10d}"
                  f"{1 / result.poses_factor:10.4f}{seconds:8.1f}{q['recall']:8.2f}"
                  f"{q['precision']:8.2f}{f1:8.2f}{q['turn_median_deg']:9.1f}", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def noise(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """White noise with the wedge cut."""
    half = np.fft.rfftn(np.random.default_rng([7, seed]).normal(size=shape))
    kz, kx = np.fft.fftfreq(shape[0])[:, None, None], np.fft.rfftfreq(shape[2])
    half *= np.abs(np.arctan2(kz, kx)) <= np.deg2rad(60.0)
    return np.fft.irfftn(half, shape).astype(np.float32)


def chance(n_seeds: int = 4, asked: float = 5.0) -> None:
    """Picks in pure noise."""
    for name, size, diameter in (("groel", 10.0, 170.0), ("ribosome", 16.0, 272.0)):
        model = TemplateModel(load_structure(name, 32, size, 2.5 * size).map)
        for control in ("phase", "mirror", "none"):
            config = TemplateConfig(
                diameter, MODELS[name][1], control=control, false_positives=asked)
            counts = [
                len(match_template(noise((96, 128, 128), s), size, model, WEDGE, config).picks)
                for s in range(n_seeds)]
            print(f"{name}, control {control}: {np.mean(counts):.1f} picks in pure noise, "
                  f"{asked:g} asked for; {counts}", flush=True)


# -------------------------------------------------------------------------------------- pyTME
PYTME = """
import json, sys, time
import numpy as np
from scipy.spatial.transform import Rotation
arguments = json.loads(sys.argv[1])
start = time.process_time()
from tme import matching_exhaustive
from tme.matching_data import MatchingData
from tme.matching_exhaustive import scan_subsets, MATCHING_EXHAUSTIVE_REGISTER
from tme.analyzer import MaxScoreOverRotations
target = np.load(arguments["target"]); template = np.load(arguments["template"])
mask = np.load(arguments["mask"]); rotations = np.load(arguments["rotations"])
data = MatchingData(target=target, template=template, template_mask=mask, rotations=rotations)
setup, scoring = MATCHING_EXHAUSTIVE_REGISTER[arguments["score"]]
start = time.process_time()
result = scan_subsets(
    data, scoring, setup, callback_class=MaxScoreOverRotations, job_schedule=(1, 1),
    pad_target_edges=True)
np.save(arguments["output"], np.asarray(result[0]))
print(json.dumps({"seconds": time.process_time() - start}))
"""


def pytme(folder: Path, python: str | None) -> None:
    """The same rotations of the same template, scored by pyTME and by us, in the same box."""
    if python is None:
        print("pyTME: skipped, give --pytme-python")
        return
    compare_with_pytme(simulated(folder), folder, python)


def compare_with_pytme(tomogram_folder: Path, folder: Path, python: str) -> None:
    """Print seconds of both and how far their score volumes agree."""
    from scipion_faml.picking.template.correlation import (
        piece_margins,
        prepare_piece,
        prepare_template,
    )
    from scipion_faml.picking.template.rotations import scan_rotations

    name, (diameter, symmetry) = "groel", MODELS["groel"]
    tomogram, _ = read_volume(tomogram_folder / "tomogram.mrc")
    density, _ = read_volume(tomogram_folder / "maps" / f"{name}.mrc")
    n = density.shape[0]
    rotation = euler_to_matrix(scan_rotations(20.0, symmetry))
    template = prepare_template(
        density, np.ones((n, n, n // 2 + 1), np.float32), min(0.5 * diameter / VOXEL, n / 2 - 3))
    files = {key: str(folder / f"pytme_{key}.npy")
             for key in ("target", "template", "mask", "rotations", "output")}
    np.save(files["target"], tomogram)
    # They turn about (n - 1) / 2, and give the matrix from turned to template, in (z, y, x).
    odd = (n - 1 + n % 2,) * 3
    np.save(files["template"], crop_or_pad(density, odd))
    np.save(files["mask"], crop_or_pad(template.mask, odd))
    theirs_zyx = rotation.transpose(0, 2, 1)[:, ::-1, ::-1]
    np.save(files["rotations"], np.ascontiguousarray(theirs_zyx, dtype=np.float32))
    arguments = json.dumps({**files, "score": "FLCSphericalMask"})
    done = subprocess.run([python, "-c", PYTME, arguments], capture_output=True, text=True)
    if done.returncode:
        print(f"pyTME: skipped, it failed: {done.stderr.strip().splitlines()[-1:]}")
        return
    theirs = np.load(files["output"])
    start = time.process_time()
    before, after = piece_margins(template.support)
    piece = prepare_piece(np.pad(tomogram - tomogram.mean(), [(before, after)] * 3), template,
                          float(tomogram.std()))
    ours = np.full(piece.shape, -1.0, np.float32)
    for matrix in rotation:
        np.maximum(ours, piece.correlation(template, matrix), out=ours)
    seconds = time.process_time() - start
    inner = tuple(slice(before, size - after) for size in tomogram.shape)
    agreement = np.corrcoef(ours[inner].ravel(), theirs[inner].ravel())[0, 1]
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"pyTME: {len(rotation)} rotations, no wedge, their {said['seconds']:.1f} CPU s, ours "
          f"{seconds:.1f}; score volumes correlate {agreement:.4f}; highest at "
          f"{np.unravel_index(theirs.argmax(), theirs.shape)} and "
          f"{np.unravel_index(ours.argmax(), ours.shape)}")


# ------------------------------------------------------------------------------------ published
def published(data: Path) -> None:
    """The comparison that the test makes, in full."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import oracles_template as oracles

    if not oracles.has_peak_data(data):
        print(f"published: skipped, {data} holds no cryocat_peak")
        return
    print(json.dumps(oracles.compare_with_published(data, every=1), indent=1))


def main() -> None:
    """Run what is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ("scan", "chance", "published", "pytme")
    parser.add_argument("names", nargs="*", help=", ".join(names))
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--pytme-python")
    parser.add_argument("--folder", type=Path, help="keeps what is made")
    parser.add_argument("--quick", action="store_true", help="no exhaustive scan without symmetry")
    parser.add_argument("--step", type=float, default=7.0, help="of exhaustive scans, degrees")
    given = parser.parse_args()
    chosen = given.names or names
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if "scan" in chosen:
            simulated(folder)
            scan(folder, not given.quick, given.step)
        if "chance" in chosen:
            chance()
        if "published" in chosen:
            published(given.data)
        if "pytme" in chosen:
            pytme(folder, given.pytme_python)


if __name__ == "__main__":
    main()
