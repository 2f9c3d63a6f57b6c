"""A real tomogram in a real project: one protofilament of a GDP microtubule, averaged.

    python benchmarks/real_microtubule.py --data DATA --output DIR

DATA/real_tomograms/cylindra_mt holds a crop of a cryo-tomogram with one microtubule of 13
protofilaments (13pf_MT.tif) and the positions of its tubulin monomers. Both are imported with
Scipion's own protocols; extraction and averaging are ours. Monomers of one protofilament differ by
a shift along it alone, so they are averaged as they are. Tubulin repeats every 4.1 nm: the average
must show this repeat along the protofilament, which no step was told of.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from scipy.ndimage import map_coordinates

from scipion_faml import plots
from scipion_faml.demo import NewProject
from scipion_faml.io import read_cube, write_volume
from scipion_faml.report import Report

VOXEL_SIZE = 10.52  # angstrom, of the TIFF's calibration
TILT_RANGE = (-60.0, 60.0)
N_PROTOFILAMENTS = 13
BOX = 24
# The file says nanometres, but its numbers count voxels. Taken as voxels, the monomers lie on the
# wall all around, their axial step is 3.90 x 1.052 = 4.10 nm, that of tubulin, and sums over each
# of the 13 protofilaments repeat every 4.05 to 4.19 nm. Divided by 1.052 the ring of monomers is
# 5 voxels off the tube, the step 3.90 nm, and four of the 13 sums have no such repeat.
VOXELS_PER_UNIT = 1.0
REPEAT_NM = (3.9, 4.3)  # where the repeat of tubulin is expected


def load(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the tomogram [z, y, x] and the monomers (ring, protofilament, xyz) in voxels."""
    tomogram = tifffile.imread(folder / "13pf_MT.tif").astype(np.float32)
    positions = np.loadtxt(folder / "13pf_monomer_coords_xyz_nm.txt", delimiter=",")
    return tomogram, (positions * VOXELS_PER_UNIT).reshape(-1, N_PROTOFILAMENTS, 3)


def densities(tomogram: np.ndarray, monomers: np.ndarray) -> np.ndarray:
    """Return the mean density (s.d. over the tomogram's mean) at each protofilament's monomers."""
    x, y, z = np.moveaxis(monomers, -1, 0)
    values = map_coordinates(tomogram, [z, y, x], order=1)
    return (values.mean(axis=0) - tomogram.mean()) / tomogram.std()


def axis_of(monomers: np.ndarray) -> np.ndarray:
    """Return the unit vector (x, y, z) along the microtubule."""
    ends = monomers[[0, -1]].mean(axis=1)
    return (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])


def best_seen(monomers: np.ndarray) -> int:
    """Return the protofilament farthest to a side of the axis as the beam sees it.

    The missing wedge smears density along the beam: walls at the sides stay sharp, the top and the
    bottom of the tube do not.
    """
    side = np.cross(axis_of(monomers), [0.0, 0.0, 1.0])
    offset = (monomers - monomers.mean(axis=1, keepdims=True)).mean(axis=0)
    return int(np.abs(offset @ side).argmax())


def axial_profile(volume: np.ndarray, axis: np.ndarray, radius: float = 2.0) -> np.ndarray:
    """Return the mean density of discs across `axis`, one each quarter voxel through the box."""
    n = volume.shape[0]
    steps = np.arange(-n / 2 + 3, n / 2 - 3, 0.25)
    across = np.linalg.svd(axis[None])[2][1:]
    disc = np.array([(a, b) for a in np.arange(-2, 2.1, 0.5) for b in np.arange(-2, 2.1, 0.5)
                     if a * a + b * b <= radius * radius])
    points = steps[:, None, None] * axis + (disc @ across)[None]
    return map_coordinates(volume, list(np.moveaxis(points[..., ::-1], -1, 0) + n // 2),
                           order=3).mean(axis=1)


def repeat_of(profile: np.ndarray) -> tuple[float, float]:
    """Return the strongest repeat between 2.5 and 8 nm, and its power over the median."""
    repeats = np.arange(2.5, 8.0, 0.01)
    position = 0.25 * np.arange(len(profile)) * VOXEL_SIZE / 10
    line = np.polyval(np.polyfit(position, profile, 2), position)
    window = np.hanning(len(profile))
    waves = np.exp(-2j * np.pi * position[None] / repeats[:, None])
    power = np.abs(waves @ ((profile - line) * window)) ** 2
    return float(repeats[power.argmax()]), float(power.max() / np.median(power))


def run_project(workspace: Path, tomogram: np.ndarray, monomers: np.ndarray,
                workers: int) -> tuple[Path, Path]:
    """Import, extract and average in a new project; return the average and its FSC table."""
    source = workspace / "input"
    write_volume(source / "microtubule.mrc", tomogram, VOXEL_SIZE)
    np.savetxt(source / "microtubule.txt", monomers, fmt="%.3f")  # named as its tomogram
    project = NewProject(workspace, "real_microtubule", lambda text: print(text, file=sys.stderr))
    imported = project.run(
        "ProtImportTomograms", "1 import the tomogram", {}, filesPath=str(source),
        filesPattern="microtubule.mrc", samplingRate=VOXEL_SIZE, acquisitionAngleMin=TILT_RANGE[0],
        acquisitionAngleMax=TILT_RANGE[1], tiltAxisAngle=0.0)
    coordinates = project.run(
        "ProtImportCoordinates3D", "2 import the monomers",
        {"importTomograms": (imported, "Tomograms")}, filesPath=str(source),
        filesPattern="microtubule.txt", boxSize=BOX)
    extracted = project.run(
        "ProtFamlExtractSubtomograms", "3 extract subtomograms",
        {"inputCoordinates": (coordinates, "outputCoordinates")}, doPad=True, numberOfThreads=1,
        binThreads=workers)
    averaged = project.run(
        "ProtFamlAverage", "4 average a protofilament",
        {"inputSubtomograms": (extracted, "subtomograms")}, numberOfThreads=workers)
    return (Path(averaged.average.getFileName()).resolve(),
            Path(averaged._getExtraPath("average", "fsc.csv")).resolve())


def write_report(path: Path, result: dict, average: np.ndarray, profile: np.ndarray,
                 curve: pd.DataFrame) -> None:
    """Picture, numbers and curve in one HTML file."""
    report = Report("One protofilament of a real microtubule")
    report.add_table("Numbers", result)
    report.add_figure(plots.class_gallery(average, [f"{result['n_monomers']} monomers"],
                                          VOXEL_SIZE), "The average, not turned.")
    frequency = curve.pop("frequency_per_angst")
    report.add_figure(plots.fsc_curves({"halves": (frequency, curve.iloc[:, 0])}),
                      "Fourier shell correlation of even and odd monomers.")
    step = 0.25 * VOXEL_SIZE / 10
    table = pd.DataFrame({"nm along the protofilament": np.round(
        step * (np.arange(len(profile)) - len(profile) / 2), 2), "density": np.round(profile, 3)})
    report.add_table("Axial profile", table).write(path)


def main() -> None:
    """Run everything and print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--output", type=Path, default=Path("real_microtubule"))
    parser.add_argument("--protofilament", type=int, default=None,
                        help="0 to 12 [default: the one farthest to a side of the tube]")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    folder = options.data / "real_tomograms" / "cylindra_mt"
    if not folder.is_dir():
        sys.exit(f"error: {folder} does not exist: give the folder of the real data with --data")
    workspace = options.output.resolve()
    tomogram, monomers = load(folder)
    density = densities(tomogram, monomers)
    chosen = best_seen(monomers) if options.protofilament is None else options.protofilament
    average_file, curve_file = run_project(
        workspace, tomogram, monomers[:, chosen], options.workers)
    average = read_cube(average_file)[0]
    profile = axial_profile(average, axis_of(monomers))
    repeat_nm, over_median = repeat_of(profile)
    result = {
        "protofilament": chosen, "n_monomers": len(monomers),
        "density_of_protofilaments_sd": [round(float(d), 2) for d in density],
        "axial_step_of_positions_nm": round(float(np.linalg.norm(
            np.diff(monomers.mean(axis=1), axis=0), axis=1).mean()) * VOXEL_SIZE / 10, 3),
        "repeat_nm": round(repeat_nm, 2), "power_over_median": round(over_median, 1),
        "is_tubulin_repeat": REPEAT_NM[0] <= repeat_nm <= REPEAT_NM[1],
    }
    write_report(workspace / "report.html", result, average, profile, pd.read_csv(curve_file))
    print(json.dumps({**result, "average": str(average_file),
                      "report": str(workspace / "report.html")}, indent=1))


if __name__ == "__main__":
    main()
