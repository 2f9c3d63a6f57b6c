"""Shipped bead models, and structures by name or file."""

from __future__ import annotations

import gzip
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from scipion_faml import datasets
from scipion_faml.fourier import shell_sums, spectrum
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import write_volume
from scipion_faml.simulation.density import rasterise, width_of_resolution
from scipion_faml.structures import (
    change_voxel_size,
    load_structure,
    load_structures,
    read_atoms,
    suitable_box,
)
from scipion_faml.volume import move_volume

PDB_IDS = {
    "groel": "1MNF", "groel-groes": "1AON", "ribosome": "7P6Z", "ribosome-80s": "6S47",
    "tric": "4A0V", "proteasome": "3J9I", "apoferritin": "4V1W",
}  # fmt: skip
# Radii of gyration of the entries' CA and P atoms (A), measured once on the PDB files.
GYRATION = {
    "groel": 63.3, "groel-groes": 68.4, "ribosome": 88.3, "ribosome-80s": 96.5, "tric": 71.6,
}  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent


def correlation(first, second):
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def shared_model(name):
    folder = Path(os.environ.get("FAML_SHARED_DATA", ROOT.parent / "shared" / "data"))
    path = folder / "models" / name
    if not path.is_file():
        pytest.skip(f"{path} is not here: set FAML_SHARED_DATA")
    return str(path)


def test_all_models_are_there_small_and_say_where_they_come_from():
    assert set(datasets.bead_model_names()) == set(PDB_IDS)
    for name, pdb_id in PDB_IDS.items():
        assert datasets.load_bead_model(name).pdb_id == pdb_id
        assert (Path(datasets.__file__).parent / f"{name}.npz").stat().st_size < 100_000


@pytest.mark.parametrize("name", GYRATION)
def test_models_have_the_size_of_their_entries(name):
    model = datasets.load_bead_model(name)
    centre = np.average(model.position_angst, axis=0, weights=model.weight)
    np.testing.assert_allclose(centre, 0.0, atol=0.1)
    square = (model.position_angst**2).sum(1) + 3.0 * model.width_angst**2
    radius = np.sqrt(np.average(square, weights=model.weight))
    # All atoms in place of CA and P, and nucleic acid scatters more: a few percent.
    assert radius == pytest.approx(GYRATION[name], rel=0.04)


def test_groel_has_its_seven_fold_axis_and_no_other():
    structure = load_structure("groel", 32, 8.0, 20.0)
    axis = structure.axis()

    def turned(order):
        half = 0.5 * 2.0 * np.pi / order
        x, y, z = np.sin(half) * axis
        w = np.cos(half)
        rotation = np.array([
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ])  # fmt: skip
        pose = RigidTransforms.from_rotation(rotation[None], np.zeros((1, 3)))
        return correlation(move_volume(structure.map, pose), structure.map)

    assert turned(7) > 0.99
    assert max(turned(5), turned(6), turned(8)) < 0.98


def test_a_bead_model_follows_the_atoms_to_ten_angstrom():
    atoms = read_atoms(shared_model("1mnf.pdb.gz"), "none")
    beads = datasets.load_bead_model("groel")
    centre = np.average(atoms.position_angst, axis=0, weights=atoms.weight)
    atoms = type(atoms)(atoms.position_angst - centre, atoms.width_angst, atoms.weight)
    for resolution, least in ((10.0, 0.98), (15.0, 0.995)):
        blur = width_of_resolution(resolution)
        first, second = (rasterise(m, 60, 4.0, blur) for m in (atoms, beads))
        assert correlation(first, second) > least
        x, y = spectrum(first), spectrum(second)
        cross = shell_sums((x * y.conj()).real, 60)
        fsc = cross / np.sqrt(shell_sums(abs(x) ** 2, 60) * shell_sums(abs(y) ** 2, 60))
        assert fsc[: int(60 * 4.0 / 10.0) + 1].min() > 0.5


def test_the_assembly_of_one_ring_is_the_double_ring():
    path = shared_model("1oel.pdb.gz")
    assert len(read_atoms(path, "auto")) == 2 * len(read_atoms(path, "none"))
    with pytest.raises(ValueError, match="no assembly '9'"):
        read_atoms(path, "9")


def test_the_tool_makes_beads_of_the_atoms_mass_and_centre():
    path = ROOT / "tools" / "make_bead_models.py"
    specification = importlib.util.spec_from_file_location("make_bead_models", path)
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    rng = np.random.default_rng(0)
    atoms = tool.BeadModel(rng.normal(size=(2000, 3)) * 20, np.zeros(2000), rng.uniform(1, 3, 2000))
    beads = tool.group_atoms(atoms, 50)
    assert beads.weight.sum() == pytest.approx(atoms.weight.sum())
    np.testing.assert_allclose(
        beads.weight @ beads.position_angst, atoms.weight @ atoms.position_angst, rtol=1e-6
    )
    # Grouping loses no spread: within and between groups it adds up to that of the atoms.
    spread = beads.weight @ ((beads.position_angst**2).sum(1) + 3.0 * beads.width_angst**2)
    assert spread == pytest.approx(atoms.weight @ (atoms.position_angst**2).sum(1), rel=1e-6)


# ------------------------------------------------------------------------------ names and files
PDB = """\
ATOM      1  CA  ALA A   1    {0:8.3f}{1:8.3f}{2:8.3f}  1.00  0.00           C
ATOM      2  P     A A   2    {3:8.3f}{4:8.3f}{5:8.3f}  1.00  0.00           P
HETATM    3  O   HOH A   3    50.000  50.000  50.000  1.00  0.00           O
END
"""


def test_atoms_weigh_what_they_scatter_and_waters_nothing(tmp_path):
    path = tmp_path / "two.pdb.gz"
    with gzip.open(path, "wt") as handle:
        handle.write(PDB.format(0, 0, 0, 10, 0, 0))
    atoms = read_atoms(str(path))
    assert len(atoms) == 2
    # Electron scattering factors at zero angle: C 2.51 A, P 5.49 A.
    np.testing.assert_allclose(atoms.weight, [2.51, 5.49], rtol=0.02)
    structure = load_structure(str(path), 16, 4.0, 8.0)
    assert structure.name == "two"
    assert structure.map.sum() == pytest.approx(8.0, rel=0.02)


def test_a_map_keeps_place_and_shape_at_another_voxel_size(tmp_path):
    fine = load_structure("groel", 72, 4.0, 24.0)
    path = tmp_path / "fine.mrc"
    write_volume(path, fine.map, 4.0)
    for n, voxel_size in ((36, 8.0), (48, 6.0), (31, 10.0)):
        loaded = load_structure(str(path), n, voxel_size, 1.0).map
        assert correlation(loaded, load_structure("groel", n, voxel_size, 24.0).map) > 0.99


def test_changing_the_voxel_size_keeps_grey_levels():
    fine = load_structure("groel", 72, 4.0, 40.0).map / 4.0**3
    coarse = change_voxel_size(fine, 4.0, 8.0)
    assert coarse.max() == pytest.approx(fine.max(), rel=0.03)


def test_structures_of_every_kind_come_to_one_grey_level(tmp_path):
    beads = load_structure("groel", 32, 10.0, 20.0)
    path = tmp_path / "faint.mrc"
    write_volume(path, 1e-4 * beads.map, 10.0)
    others = [load_structure(m, 32, 10.0, 1.0) for m in (str(path), "blobs")]
    for other in others:
        assert other.map.max() == pytest.approx(beads.map.max(), rel=0.3)


def test_names_and_files_that_do_not_exist_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match="apoferritin, groel"):
        load_structure("nonsense", 32, 10.0, 20.0)
    with pytest.raises(FileNotFoundError):
        load_structure(str(tmp_path / "none.pdb"), 32, 10.0, 20.0)
    with pytest.raises(ValueError, match="whole number"):
        load_structure("blobs:x", 32, 10.0, 20.0)
    with pytest.raises(ValueError, match="twice"):
        load_structures(["blobs:1", "blobs:1"], 32, 10.0, 20.0)
    with pytest.raises(ValueError, match="box of"):
        load_structure("ribosome", 16, 6.0, 20.0)
    empty = tmp_path / "empty.pdb"
    empty.write_text("END\n")
    with pytest.raises(ValueError, match="no atoms"):
        load_structure(str(empty), 32, 10.0, 20.0)


def test_the_suitable_box_holds_the_largest_model_whole():
    n = suitable_box(["groel", "ribosome"], 10.0, 20.0)
    assert n == suitable_box(["ribosome"], 10.0, 20.0) and n % 2 == 0
    volume = load_structure("ribosome", n, 10.0, 20.0).map
    assert max(abs(volume[[0, -1]]).max(), abs(volume[:, :, [0, -1]]).max()) < 0.01 * volume.max()
