"""Runs with symmetry and masks: blind, from references, and of known poses."""

import json

import mrcfile
import numpy as np
import pandas as pd
import pytest
from phantoms import particles

from scipion_faml import enhanced, faml
from scipion_faml.cli import run
from scipion_faml.evaluation.superposition import group_correlation, superpose
from scipion_faml.geometry import RigidTransforms
from scipion_faml.impose import turn_between_deg
from scipion_faml.io import write_volume
from scipion_faml.model import FamlConfig
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.tables import ParticleTable, optics_table, write_particles
from scipion_faml.volume import soft_sphere
from scipion_faml.wedge import MissingWedge

N = 20


def symmetric_map(group, n=N, seed=0, n_blobs=3):
    """Gaussian blobs in all places that a group makes equivalent."""
    rotations = symmetry_rotations(group)
    points = np.random.default_rng(seed).normal(0, 0.16 * n, (n_blobs, 3))
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    volume = np.zeros((n, n, n))
    for a, b, c in np.einsum("gij,pj->gpi", rotations, points).reshape(-1, 3):
        volume += np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * (0.06 * n) ** 2))
    return volume.astype(np.float32)


def settings(**options):
    return FamlConfig(mode="enhanced", dense_bandwidth=10, max_shift=2.0, **options)


@pytest.fixture(scope="module")
def four_fold():
    """Sixteen particles of a C4 structure, their poses, and the structure."""
    truth = symmetric_map("C4")
    source, _, poses = particles([truth], 16, snr=0.7, max_shift=1.5)
    return source, poses, truth


def likeness(first, second):
    return np.corrcoef(first.ravel(), second.ravel())[0, 1]


def test_a_blind_run_finds_the_axis_and_gains_from_the_symmetry(four_fold):
    source, poses, truth = four_fold
    results = list(enhanced.run(source, settings(n_iterations=12, symmetry="C4")))
    last = results[-1]
    assert not results[0].state.in_frame and last.state.in_frame
    assert last.state.symmetry_score > 0.5
    # The average lies in the group's frame ...
    assert group_correlation(last.state.averages[0], "C4") > 0.97
    # ... every particle's pose is that of the average found ...
    to_truth, likeness_found = superpose(last.state.averages[0], truth)
    own = last.assignments.poses.rotation
    angle = turn_between_deg(own, poses.rotation @ to_truth.rotation[0], symmetry_rotations("C4"))
    assert np.median(angle) < 8.0
    # ... and one of its equivalent ones only.
    trace = np.trace(own @ symmetry_rotations("C4")[:, None], axis1=2, axis2=3)
    assert np.all(np.trace(own, axis1=1, axis2=2) >= trace.max(axis=0) - 1e-6)
    *_, without = enhanced.run(source, settings(n_iterations=12))
    assert likeness_found > superpose(without.state.averages[0], truth)[1]


def test_a_run_from_a_reference_stays_in_its_frame(four_fold):
    source, poses, truth = four_fold
    config = settings(n_iterations=4, symmetry="C4")
    *_, last = enhanced.run(source, config, references=truth[None])
    assert likeness(last.state.averages[0], truth) > 0.93
    angle = turn_between_deg(
        last.assignments.poses.rotation, poses.rotation, symmetry_rotations("C4"))
    assert np.median(angle) < 8.0


def test_a_mask_cuts_averages_and_references_but_not_halves(four_fold):
    source, _, truth = four_fold
    mask = soft_sphere(N, 6.0, 2.0)
    *_, last = enhanced.run(source, settings(n_iterations=2), references=truth[None], mask=mask)
    assert np.abs(last.state.averages[0][mask == 0]).max() == 0.0
    assert np.abs(last.state.half_averages[:, 0][:, mask == 0]).max() > 0.0
    assert likeness(last.state.averages[0], truth * mask) > 0.9


@pytest.mark.parametrize("method", ["faml", "fa"])
def test_paper_mode_imposes_symmetry_and_mask_on_given_references(four_fold, method):
    source, _, truth = four_fold
    mask = soft_sphere(N, 6.0, 2.0)
    config = FamlConfig(n_iterations=1, symmetry="C4", method=method, search="exhaustive",
                        angular_step_deg=30.0, max_candidates=4, max_shift=2.0)
    start = faml.state_from_references(source, truth[None], config)
    *_, last = faml.run(source, config, start=start, mask=mask)
    assert group_correlation(last.state.averages[0], "C4") > 0.97
    assert np.abs(last.state.averages[0][mask == 0]).max() == 0.0
    with pytest.raises(ValueError, match="symmetry C4 needs references that lie in its frame"):
        next(faml.run(source, config))


def test_symmetry_fills_what_few_particles_left_out():
    truth = symmetric_map("O", n_blobs=2)
    source, class_index, poses = particles([truth], 2, snr=50.0, tilt_deg=40.0)
    found = {
        group: faml.average_known(source, class_index, poses, FamlConfig(symmetry=group))[0][0]
        for group in ("C1", "O")
    }
    assert likeness(found["O"], truth) > 0.98 > likeness(found["C1"], truth)


# ------------------------------------------------------------------------------- command line
@pytest.fixture(scope="module")
def data(tmp_path_factory, four_fold):
    """The particles as files, with and without their poses, and a mask."""
    source, poses, truth = four_fold
    folder = tmp_path_factory.mktemp("symmetric")
    for i, volume in enumerate(source.volumes):
        write_volume(folder / f"p{i:02d}.mrc", volume, 10.0)
    rows = pd.DataFrame({"rlnImageName": [str(folder / f"p{i:02d}.mrc") for i in range(16)],
                         "rlnOpticsGroup": 1})
    table = ParticleTable(rows, optics_table(10.0, N, [MissingWedge(-60, 60)]))
    write_particles(folder / "particles.star", table)
    write_particles(folder / "truth.star", table.with_poses(
        RigidTransforms(poses.euler_zyz, poses.shift_xyz)))
    write_volume(folder / "mask.mrc", soft_sphere(N, 6.0, 2.0), 10.0)
    write_volume(folder / "loud.mrc", 9.0 * soft_sphere(N, 6.0, 2.0), 10.0)
    write_volume(folder / "truth.mrc", truth, 10.0)
    return folder


def test_average_takes_symmetry_and_mask(data, tmp_path, capsys):
    command = ["average", str(data / "truth.star"), "--json"]
    assert run([*command, "--output", str(tmp_path / "c1")]) == 0
    assert run([*command, "--output", str(tmp_path / "c4"), "--symmetry", "c4",
                "--mask", str(data / "mask.mrc")]) == 0
    capsys.readouterr()
    truth = mrcfile.read(data / "truth.mrc")
    one, four = (mrcfile.read(tmp_path / f / "average.mrc") for f in ("c1", "c4"))
    assert likeness(four, truth) > likeness(one, truth)
    assert np.abs(four[mrcfile.read(data / "mask.mrc") == 0]).max() == 0.0


def test_a_run_stopped_before_the_axis_was_found_ends_the_same(data, tmp_path, capsys):
    def classify(output, iterations):
        assert run(["classify", str(data / "particles.star"), "--symmetry", "C4", "--mask",
                    str(data / "mask.mrc"), "--dense-bandwidth", "10", "--max-shift", "2",
                    "--workers", "1", "--json", "--iterations", str(iterations),
                    "--output", str(output)]) == 0
        return json.loads(capsys.readouterr().out)

    early = classify(tmp_path / "a", 2)
    assert not early["symmetry_imposed"] and "C4 was not imposed" in early["warnings"][0]
    late, whole = classify(tmp_path / "a", 6), classify(tmp_path / "b", 6)
    assert late["symmetry_imposed"] and late["warnings"] == []
    del late["output"], whole["output"]
    assert late == whole
    for name in ("class_001.mrc", "class_001_half2.mrc"):
        np.testing.assert_array_equal(*(mrcfile.read(tmp_path / f / name) for f in "ab"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--symmetry", "X7"], "symmetry 'X7' is not known: use C1, C7, D7"),
        (["--symmetry", "C4", "--mode", "paper"], "--symmetry C4 with --mode paper needs a"),
        (["--mask", "none.mrc"], "none.mrc does not exist"),
        (["--mask", "loud.mrc"], "loud.mrc holds values from 0 to 9: a mask lies between 0 and 1"),
    ],
)
def test_a_mistake_gives_one_line_and_status_2(data, tmp_path, capsys, options, message):
    options = [str(data / o) if o == "loud.mrc" else o for o in options]
    arguments = ["classify", str(data / "particles.star"), "--output", str(tmp_path / "out")]
    assert run([*arguments, *options]) == 2
    assert {p.name for p in (tmp_path / "out").glob("*")} <= {"status.json"}
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_groel_gains_from_d7(tmp_path, capsys):
    sim, out = tmp_path / "sim", {g: tmp_path / g for g in ("C1", "C7", "D7")}
    assert run(["simulate-subtomograms", "--model", "groel", "--count", "30", "--box", "28",
                "--voxel-size", "10", "--snr", "0.1", "--optics", "none",
                "--output", str(sim)]) == 0
    truth = mrcfile.read(sim / "maps" / "groel.mrc")
    found = {}
    for group, folder in out.items():
        assert run(["classify", str(sim / "particles.star"), "--symmetry", group,
                    "--output", str(folder)]) == 0
        found[group] = superpose(mrcfile.read(folder / "class_001.mrc"), truth)[1]
    capsys.readouterr()
    assert found["D7"] > 0.99 and found["D7"] > found["C7"] > found["C1"]
