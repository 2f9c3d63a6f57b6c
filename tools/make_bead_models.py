"""Make the shipped bead models from PDB entries: python tools/make_bead_models.py FOLDER.

FOLDER holds the entries as PDB or mmCIF files, gzipped or not, under the file names below. Atoms
(waters left out, weighted by their electron scattering) are grouped by weighted k-means; a group
becomes one Gaussian with the group's weight, its centre, and its spread as width. The tool prints,
for 10 and 15 A, the correlation and the frequency up to which the shells of the bead model's
density correlate with those of the atoms' density above 0.5.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from scipion_faml.fourier import shell_sums, spectrum
from scipion_faml.simulation.density import BeadModel, centred, rasterise, width_of_resolution
from scipion_faml.structures import read_atoms

# name: (file, PDB id, what it is). All files hold the whole particle as they are.
ENTRIES = {
    "groel": ("1mnf.pdb", "1MNF", "GroEL, 14 subunits, with its peptides"),
    "groel-groes": ("1aon.pdb", "1AON", "GroEL-GroES-ADP7, 21 subunits"),
    "ribosome": ("7p6z.cif", "7P6Z", "70S ribosome of Mycoplasma pneumoniae"),
    "ribosome-80s": ("6s47_cropped.cif", "6S47", "80S ribosome of yeast, with New1"),
    "tric": ("4a0v.pdb", "4A0V", "TRiC / CCT, 16 subunits"),
    "proteasome": ("3j9i.pdb", "3J9I", "20S proteasome of Thermoplasma acidophilum"),
    "apoferritin": ("4v1w.cif", "4V1W", "apoferritin, 24 subunits"),
}
ATOMS_PER_BEAD = 40  # about five residues, 9 A across: what 10 A resolution needs
N_ROUNDS = 25


def group_atoms(atoms: BeadModel, n_beads: int, seed: int = 0) -> BeadModel:
    """Return `n_beads` beads from weighted k-means on the atoms (Lloyd's algorithm)."""
    rng = np.random.default_rng(seed)
    position, weight = atoms.position_angst, atoms.weight
    centre = position[rng.choice(len(position), n_beads, replace=False)]
    for _ in range(N_ROUNDS):
        label = cKDTree(centre).query(position)[1]
        mass = np.bincount(label, weight, n_beads)
        kept = mass > 0
        moved = np.stack([np.bincount(label, weight * x, n_beads) for x in position.T], axis=1)
        centre = moved[kept] / mass[kept, None]
        n_beads = len(centre)
    label = cKDTree(centre).query(position)[1]
    mass = np.bincount(label, weight, n_beads)
    square = np.bincount(label, weight * ((position - centre[label]) ** 2).sum(1), n_beads)
    kept = mass > 0
    width = np.sqrt(square[kept] / mass[kept] / 3.0)
    kept_mass = mass[kept].astype(np.float64)
    return BeadModel(centre[kept], width, kept_mass, atoms.name, atoms.pdb_id)


def compare(
    atoms: BeadModel, beads: BeadModel, resolution_angst: float, voxel_size_angst: float = 4.0
) -> tuple[float, float]:
    """Return the correlation of both densities, and where their FSC falls below 0.5 (angstrom)."""
    blur = width_of_resolution(resolution_angst)
    extent = 2.0 * np.linalg.norm(atoms.position_angst, axis=1).max() + 8.0 * blur
    n = 2 * int(np.ceil(extent / voxel_size_angst / 2.0))
    first, second = (rasterise(m, n, voxel_size_angst, blur) for m in (atoms, beads))
    correlation = float(np.corrcoef(first.ravel(), second.ravel())[0, 1])
    x, y = spectrum(first), spectrum(second)
    cross = shell_sums(np.real(x * y.conj()), n)
    power = [shell_sums(np.square(np.abs(z)), n) for z in (x, y)]
    fsc = cross / np.sqrt(power[0] * power[1])
    below = np.flatnonzero(fsc < 0.5)
    shell = below[0] if len(below) else len(fsc)
    return correlation, n * voxel_size_angst / shell


def save(path: Path, beads: BeadModel) -> None:
    """Write a bead model as the integers that `datasets.load_bead_model` reads."""
    np.savez_compressed(
        path,
        position_tenth_angst=_whole(beads.position_angst / 0.1, np.int16),
        width_hundredth_angst=_whole(beads.width_angst / 0.01, np.uint16),
        weight=beads.weight.astype(np.float16),
        pdb_id=np.array(beads.pdb_id),
    )


def _whole(values: NDArray[np.float64], kind: type) -> NDArray[np.integer[Any]]:
    return np.rint(values).astype(kind)


def find(folder: Path, name: str) -> Path:
    """Return the file `name` or `name`.gz in `folder`."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} holds neither {name} nor {name}.gz")


def main() -> None:
    """Make all bead models, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with the PDB entries")
    parser.add_argument("names", nargs="*", default=list(ENTRIES))
    parser.add_argument(
        "--output", type=Path,
        default=Path(__file__).resolve().parent.parent / "scipion_faml" / "datasets",
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        file, pdb_id, _ = ENTRIES[name]
        atoms = centred(read_atoms(str(find(arguments.folder, file)), assembly="none"))
        beads = group_atoms(atoms, len(atoms) // ATOMS_PER_BEAD)
        beads = BeadModel(beads.position_angst, beads.width_angst, beads.weight, name, pdb_id)
        path = arguments.output / f"{name}.npz"
        save(path, beads)
        quality = [compare(atoms, beads, resolution) for resolution in (10.0, 15.0)]
        radius = np.linalg.norm(atoms.position_angst, axis=1).max()
        print(
            f"{name:13s} {pdb_id} {len(atoms):7d} atoms {len(beads):5d} beads of "
            f"{np.median(beads.width_angst):.1f} A, {path.stat().st_size / 1000:.0f} kB, radius "
            f"{radius:.0f} A; correlation {quality[0][0]:.4f} at 10 A, "
            f"{quality[1][0]:.4f} at 15 A; "
            f"FSC 0.5 at {quality[0][1]:.1f} A"
        )


if __name__ == "__main__":
    main()
