"""The benchmarks run: simulated cases are what they say, and cells are scored, kept and tabled."""

from __future__ import annotations

import importlib
import json
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from scipion_faml.evaluation import superposition
from scipion_faml.fourier import spectrum
from scipion_faml.volume import move_volume

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """Import a module of benchmarks/, which is no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    before = dict(sys.modules)
    yield importlib.import_module
    for name in names & set(sys.modules):
        if name not in before:
            del sys.modules[name]


def test_a_case_is_the_same_for_the_same_seed_and_has_the_snr_it_says(bench):
    cases = bench("cases")
    source, truth = cases.simulate_case(24, 6, 2, 0.5, 3)
    again, _ = cases.simulate_case(24, 6, 2, 0.5, 3)
    np.testing.assert_array_equal(source.volumes, again.volumes)
    assert np.bincount(truth.class_index).tolist() == [3, 3]
    np.testing.assert_allclose(truth.maps.std(axis=(1, 2, 3)), 1.0, rtol=1e-5)
    assert np.linalg.norm(truth.poses.shift_xyz, axis=1).max() <= 3.0
    wedge = cases.WEDGE.mask(24)
    for i, k in enumerate(truth.class_index):
        clean = spectrum(move_volume(truth.maps[k], truth.poses[[i]]))
        half = spectrum(source.volumes[i])
        assert np.abs(half[wedge == 0]).max() < 1e-2  # of a root mean square of 170
        noise = np.mean(np.abs(half - clean)[wedge > 0] ** 2) / 24**3
        # 2 = 1 / SNR; 9000 samples and the interpolation of the map leave a few hundredths.
        assert noise == pytest.approx(2.0, abs=0.15)


def test_poses_of_a_case_do_not_depend_on_the_snr(bench):
    simulate = bench("cases").simulate_case
    poses = [simulate(16, 3, 1, snr, 0)[1].poses for snr in (0.1, 1.0)]
    np.testing.assert_array_equal(poses[0].euler_zyz, poses[1].euler_zyz)


def test_convergence_is_the_first_iteration_after_which_nothing_leaves_the_band(bench):
    convergence = bench("versus_relion").convergence
    scores = [0.2, 0.9, 0.5, 0.897, 0.9]
    assert convergence(scores, [90, 1, 1, 1, 0]) == 4
    assert convergence(scores, [90, 1, 1, 40, 0]) == 5
    assert convergence([0.9], [0.0]) == 1


def test_a_small_comparison_without_relion_is_scored_kept_and_tabled(bench, monkeypatch, tmp_path):
    versus = bench("versus_relion")
    monkeypatch.setattr(versus, "relion", lambda: None)
    # A coarse search is enough for maps of 16 voxels, and takes an eighth of the time.
    monkeypatch.setattr(superposition, "GRID_STEP_DEG", 30.0)
    arguments = ["--box", "16", "--count", "8", "--snr", "1", "--iterations", "1", "--output",
                 str(tmp_path)]
    for method in ("known", "relion", "paper"):
        arguments += ["--methods", method]
    done = CliRunner().invoke(versus.main, arguments)
    assert done.exit_code == 0, done.output
    assert "relion_refine is not installed" in done.output
    cells = {path.name.rpartition("_")[2]: json.loads(path.read_text())
             for path in (tmp_path / "cells").glob("*.json")}
    assert set(cells) == {"known.json", "paper.json"}
    assert cells["known.json"]["cc"][0] > 0.9
    assert cells["paper.json"]["core_s"] >= cells["paper.json"]["core_s_marks"][0] > 0
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    assert not list((tmp_path / "work").glob("*"))
    # Finished cells are read, not run.
    monkeypatch.setattr(versus, "run_cell", None)
    again = CliRunner().invoke(versus.main, arguments)
    assert again.exit_code == 0 and "| 16^3 | 8 | 1 | 1 | 0 | paper |" in again.output


FAKE_RELION = """#!{python}
import glob, re, shutil, sys
value = dict(zip(sys.argv[1:], sys.argv[2:]))
text = open(value["--i"]).read()
images = re.findall(r"(input/[0-9]+\\.mrc) input/wedge\\.mrc 1", text)
columns = ["rlnImageName", "rlnOpticsGroup", "rlnClassNumber", "rlnAngleRot", "rlnAngleTilt",
           "rlnAnglePsi"]
for iteration in range(int(value["--iter"]) + 1):
    name = value["--o"] + f"_it{{iteration:03d}}"
    optics, _, _ = text.partition("data_particles")
    rows = [f"{{image}} 1 1 {{int(image[6:12])}} 0 0" for image in images]
    with open(name + "_data.star", "w") as handle:
        handle.write(optics + "data_particles\\n\\nloop_\\n")
        handle.write("\\n".join(["_" + c for c in columns] + rows[::-1]) + "\\n")
    shutil.copy(images[0], name + "_class001.mrc")
    open(name + "_model.star", "w").close()
"""


def test_relion_is_given_normalised_particles_and_its_rows_are_put_in_order(
    bench, monkeypatch, tmp_path
):
    program = tmp_path / "bin" / "relion_refine"
    program.parent.mkdir()
    program.write_text(FAKE_RELION.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))
    cases, contenders = bench("cases"), bench("contenders")
    source, _ = cases.simulate_case(16, 4, 1, 1.0, 0)
    outcome = contenders.run_relion(source, 1, "relion", tmp_path / "work", iterations=2)
    assert outcome.n_iterations == 2 and len(outcome.child.marks_s) == 2
    assert outcome.child.cpu_s > 0 and not outcome.child.is_stopped
    answer = outcome.load(2)
    # The stand-in turned particle i by i degrees, and returned its rows the other way round.
    turn = np.rad2deg(answer.poses.euler_zyz.sum(axis=1)) % 360.0
    np.testing.assert_allclose(turn, 360.0 - np.arange(1, 5), atol=1e-6)
    scaled = answer.averages[0]
    gain = scaled.std() / source.volumes[0].std()
    np.testing.assert_allclose(np.corrcoef(scaled.ravel(), source.volumes[0].ravel())[0, 1], 1.0)
    assert gain != pytest.approx(1.0, abs=1e-3)


def test_a_child_that_fails_is_reported_with_the_end_of_its_log(bench, monkeypatch, tmp_path):
    program = tmp_path / "relion_refine"
    program.write_text("#!/bin/sh\necho no such label >&2\nexit 3\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    cases, contenders = bench("cases"), bench("contenders")
    source, _ = cases.simulate_case(16, 2, 1, 1.0, 0)
    with pytest.raises(OSError, match="exit status 3: no such label"):
        contenders.run_relion(source, 1, "relion", tmp_path / "work")
