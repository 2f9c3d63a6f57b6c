"""Results judged without a truth, and the noise control, in Scipion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # many runs of Scipion


@pytest.fixture(scope="module")
def judged(session_project, particles, enhanced, classified):
    """Everything that can be judged of the small classification."""
    session_project.enter()
    return session_project.finished(session_project.new(
        "ProtFamlValidate",
        {"inputAverages": (enhanced, "averages"), "inputSubtomograms": (enhanced, "subtomograms"),
         "otherSubtomograms": (classified, "subtomograms")}, mask=2, pairs=20, numberOfThreads=2))


def test_halves_symmetry_and_particles_are_judged(project, enhanced, judged):
    assert set(judged.results()) == {"snr", "orientations", "agreement"}
    halves, symmetry = judged.resultsOf("fsc"), judged.resultsOf("symmetry")
    assert set(halves) == set(symmetry) == {1, 2}
    for number, one in halves.items():
        assert one["halves"][0].endswith(f"class_{number:03d}_half1.mrc")
        assert len(one["directional"]["directions"]) == len(one["directional"]["sampling"])
    text = " ".join(judged.summary())
    for words in ("halves agree to", "by direction", "Signal-to-noise ratio", "sampling",
                  "change class"):
        assert words in text
    folder = Path(judged._getExtraPath("results"))
    for name in ("fsc_001", "symmetry_002", "snr", "orientations", "agreement"):
        assert (folder / f"{name}.png").stat().st_size > 5000
        assert (folder / f"{name}.html").is_file()
    assert "pairs of aligned particles" in judged._methods()[0]


def test_the_curves_are_scipions(judged):
    labels = [curve.getObjLabel() for curve in judged.fscs.iterItems()]
    assert labels == ["class 1", "class 2"]


def test_classes_bring_their_particles_and_halves(project, enhanced):
    run = project.finished(project.new(
        "ProtFamlValidate", {"inputAverages": (enhanced, "classes")}, findSymmetry=False,
        directional=False, pairs=5))
    assert set(run.resultsOf("fsc")) == {c.getObjId() for c in enhanced.classes.iterItems()}
    assert "snr" in run.results() and not run.resultsOf("symmetry")


def test_averages_are_compared_with_a_map(project, particles, enhanced):
    true = project.finished(project.new(
        "ProtFamlAverage", {"inputSubtomograms": (particles, "trueSubtomograms")}))
    run = project.finished(project.new(
        "ProtFamlValidate",
        {"inputAverages": (enhanced, "averages"), "inputModel": (true, "average")},
        findSymmetry=False, directional=False))
    model = run.resultsOf("model")
    assert set(model) == {1, 2} and all(-1 <= r["cc_masked"] <= 1 for r in model.values())
    assert "class 1 and model" in [curve.getObjLabel() for curve in run.fscs.iterItems()]


def test_what_cannot_be_judged_is_said(project, enhanced, particles):
    empty = project.new("ProtFamlValidate")
    assert "Nothing can be judged" in empty._validate()[0]
    other = project.new("ProtFamlValidate", {"inputAverages": (enhanced, "averages"),
                                             "otherSubtomograms": (particles, "subtomograms")},
                        mask=3, symmetry="X9")
    text = " ".join(other._validate())
    assert "give them too" in text and "map of the mask" in text and "'X9'" in text


def test_a_noise_control_repeats_the_run_and_gives_a_verdict(project, checks, enhanced):
    run = project.new("ProtFamlNoiseControl", numberOfIterations=2, numberOfThreads=2)
    run.inputRun.set(enhanced)
    run = project.finished(run)
    assert run.averages.getSize() == 2
    assert sum(c.getSize() for c in run.classes.iterItems()) == 12
    result = run.runResult()
    assert isinstance(result["structure_from_noise"], bool)
    assert "hase-randomised particles make" in run.summary()[0]
    record = json.loads(Path(run._getExtraPath("results", "run.json")).read_text())
    original = json.loads(Path(enhanced._getExtraPath("results", "run.json")).read_text())
    for name in ("seed", "mode", "max_shift", "n_folds"):
        assert record["settings"][name] == original["settings"][name]


def test_a_noise_control_needs_a_finished_run(project, particles):
    waiting = project.new("ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")})
    project.project.saveProtocol(waiting)
    run = project.new("ProtFamlNoiseControl")
    run.inputRun.set(waiting)
    assert "has not finished" in run._validate()[0]
