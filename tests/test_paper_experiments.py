"""The paper's experiments, small: simulated, run, judged and tabulated by their one command."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path[:0] = [str(FOLDER / "paper"), str(FOLDER)]

gemmi = pytest.importorskip("gemmi")
import experiments  # noqa: E402
import helix  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402

from scipion_faml.structures import load_structure  # noqa: E402

NAMES = [name for name in experiments.EXPERIMENTS if name != "helix"]


def small(name):
    """A small version of an experiment, of its first setting."""
    experiment = experiments.smaller(experiments.EXPERIMENTS[name])
    return experiments.replace(experiment, settings=experiment.settings[:1])


def test_the_low_snr_experiment_finds_groel_again(tmp_path):
    table = run.run_experiment(small("low-snr"), tmp_path, methods=("enhanced",))
    (cell,) = (tmp_path / "cells").iterdir()
    result = json.loads(cell.read_text())
    assert result["cc"][0] > 0.85 and result["fraction_within_20_deg"] > 0.9
    assert result["fold_truth_detail"][0] > 0.8  # the truth's axis lies along z
    assert "Fig. 3" in table and "| enhanced | 1 |" in table
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1
    # A finished cell is read, not run again.
    stamp = cell.stat().st_mtime_ns
    assert run.run_experiment(small("low-snr"), tmp_path, methods=("enhanced",)) == table
    assert cell.stat().st_mtime_ns == stamp


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_runs_with_all_its_methods(name, tmp_path):
    experiment = small(name)
    table = run.run_experiment(experiment, tmp_path)
    for method in experiment.methods:
        assert f"| {method} | 1 |" in table


def test_a_table_has_medians_and_ranges_over_seeds():
    experiment = experiments.EXPERIMENTS["how-many"]
    (setting,) = experiment.settings
    figures = {
        name: [0.5] * 4 for name in ("cc", "cc_box", "cc_detail", "fsc_angst")} | {
        "rotation_median_deg": 3.0, "fraction_within_20_deg": 1.0}
    results = [
        (setting, "enhanced", figures | {"f1": f1, "n_classes_found": k, "core_s": 10.0 * k})
        for f1, k in ((1.0, 4), (0.9, 4), (0.7, 3))]
    table = report.markdown(experiment, results)
    assert "0.90 (0.70 to 1.00)" in table
    assert "right 2 of 3: 4, 4, 3" in table
    assert "| 40 |" in table


def test_settings_of_other_particles_have_other_names():
    settings = [s for e in experiments.EXPERIMENTS.values() for s in e.settings]
    particles = {replace(s, classes=None, options=(), label="") for s in settings}
    assert len({s.name for s in particles}) == len(particles)


def disc(path, count=17, radius=60.0):
    """A disc of chains of three atoms, its axis along x."""
    structure, model = gemmi.Structure(), gemmi.Model("1")
    for c in range(count):
        chain = gemmi.Chain(chr(65 + c))
        angle = 2 * np.pi * c / count
        for a in range(3):
            residue = gemmi.Residue()
            residue.name, residue.seqid = "ALA", gemmi.SeqId(str(a + 1))
            atom = gemmi.Atom()
            atom.name, atom.element = "CA", gemmi.Element("C")
            r = radius + 5.0 * (a - 1)
            atom.pos = gemmi.Position(7.0 + 2.0 * (a - 1), r * np.cos(angle), r * np.sin(angle))
            residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    path.write_text(structure.make_pdb_string())
    return path


def test_the_helix_is_seventeen_fold_about_z_and_repeats_every_pitch(tmp_path):
    path = helix.write_helix(disc(tmp_path / "disc.pdb"), tmp_path / "tmv.cif")
    atoms = np.array([
        atom.pos.tolist() for chain in gemmi.read_structure(str(path))[0]
        for residue in chain for atom in residue])
    assert len(atoms) == helix.N_DISCS * 17 * 3
    np.testing.assert_allclose(atoms.mean(axis=0), 0.0, atol=0.01)
    np.testing.assert_allclose(np.ptp(atoms[:, 2]), 10 * helix.PITCH_ANGST + 4.0, atol=0.1)

    def same_set(moved, others):
        gap = np.linalg.norm(moved[:, None] - others, axis=2).min(axis=1)
        return gap.max() < 0.05

    assert same_set(atoms @ helix._about_z(360.0 / 17).T, atoms)
    one_up = atoms @ helix._about_z(360.0 * (17 / 16.34 - 1.0)).T + [0.0, 0.0, 23.0]
    below = atoms[:, 2] < atoms[:, 2].max() - 10.0
    assert same_set(one_up[below], atoms)
    structure = load_structure(str(path), 32, 12.0, 24.0, "none")
    assert structure.map.max() > 0


def test_a_disc_of_another_number_of_subunits_is_refused(tmp_path):
    with pytest.raises(ValueError, match="5 chains: a disc of 17 is needed"):
        helix.write_helix(disc(tmp_path / "disc.pdb", 5), tmp_path / "tmv.cif")
