"""A helix like that of tobacco mosaic virus: discs of PDB 3KML stacked with the virus's symmetry.

The disc has 17 subunits; the virus 16.34 in a turn of 23 A. One disc above the other, turned by
what 17 subunits exceed a turn, keeps both: rise 23 A, twist 360 (17 / 16.34 - 1) deg.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import gemmi
import numpy as np

PITCH_ANGST, PER_TURN, PER_DISC = 23.0, 16.34, 17
N_DISCS = 11  # 253 A: the rod turns freely in the box


def write_helix(disc: Path, path: Path) -> Path:
    """Write the helix made of a disc (a PDB file, axis found from its chains) as mmCIF."""
    text = gzip.decompress(disc.read_bytes()).decode() if disc.suffix == ".gz" else disc.read_text()
    structure = gemmi.read_pdb_string(text)
    structure.remove_ligands_and_waters()
    chains = list(structure[0])
    if len(chains) != PER_DISC:
        raise ValueError(f"{disc} has {len(chains)} chains: a disc of {PER_DISC} is needed")
    onto = _onto_z(np.array([_centre(chain) for chain in chains]))
    helix = gemmi.Structure()
    helix.name = "tmv"
    model = gemmi.Model("1")
    twist = 360.0 * (PER_DISC / PER_TURN - 1.0)
    for layer in range(N_DISCS):
        height = (layer - (N_DISCS - 1) / 2) * PITCH_ANGST
        for number, chain in enumerate(chains):
            copy = chain.clone()
            copy.name = f"{chr(65 + layer)}{number}"
            for residue in copy:
                for atom in residue:
                    x = onto[0] @ np.array(atom.pos.tolist()) + onto[1]
                    x = _about_z(layer * twist) @ x + [0.0, 0.0, height]
                    atom.pos = gemmi.Position(*x)
            model.add_chain(copy)
    helix.add_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    helix.make_mmcif_document().write_file(str(path))
    return path


def _centre(chain: gemmi.Chain) -> np.ndarray:
    return np.mean([atom.pos.tolist() for residue in chain for atom in residue], axis=0)


def _about_z(angle_deg: float) -> np.ndarray:
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _onto_z(centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and shift that put a ring of points around z, its centre at 0."""
    middle = centres.mean(axis=0)
    rows = np.linalg.svd(centres - middle)[2]
    rotation = rows if np.linalg.det(rows) > 0 else rows * [[1], [1], [-1]]
    return rotation, -rotation @ middle
