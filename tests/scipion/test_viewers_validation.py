"""Viewers of results judged without a truth, and of noise controls, without a display."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow  # many runs of Scipion


def views(project, target):
    from scipion_faml.viewers import views_of

    return views_of(project.project, target)


def assert_drawn(view, tmp_path):
    path = tmp_path / "figure.png"
    view.savefig(path)
    assert path.stat().st_size > 5000


@pytest.fixture(scope="module")
def judged(session_project, particles, enhanced, classified):
    """Everything that can be judged of the small classification."""
    session_project.enter()
    return session_project.finished(session_project.new(
        "ProtFamlValidate",
        {"inputAverages": (enhanced, "averages"), "inputSubtomograms": (enhanced, "subtomograms"),
         "otherSubtomograms": (classified, "subtomograms"),
         "inputModel": (particles, "trueAverages.1")}, mask=2, pairs=10, numberOfThreads=2))


def test_everything_that_was_judged_is_shown(project, judged, tmp_path):
    found = views(project, judged)
    assert "halves agree" in found["showNumbers"].getMessage()
    assert_drawn(found["showOverview"], tmp_path)
    labels = [line.get_label() for line in found["showFsc"].figure.axes[0].lines]
    assert {"class 1", "class 1, masked", "class 2, unmasked", "class 2, randomised"} <= set(labels)
    for name in ("showDirections", "showSymmetry", "showModel"):
        assert len(found[name].tabs) == 2
        for tab in found[name].tabs:
            assert_drawn(found[name].view(tab.name), tmp_path)
    for name in ("showSnr", "showAgreement", "showOrientations"):
        assert_drawn(found[name], tmp_path)
    assert not any(tab.why_not for tab in found["showEverything"].tabs)
    assert hasattr(found["openReport"], "page")


def test_what_was_not_judged_has_no_button(project, enhanced):
    run = project.finished(project.new(
        "ProtFamlValidate", {"inputAverages": (enhanced, "averages")}, findSymmetry=False,
        directional=False))
    found = views(project, run)
    greyed = {tab.name: tab.why_not for tab in found["showEverything"].tabs if tab.why_not}
    assert set(greyed) == {"Symmetry", "Model", "SNR", "Orientations", "Agreement"}
    assert greyed["Model"] == "no model was given"
    assert "showSnr" not in found and "showFsc" in found


@pytest.mark.parametrize(("name", "rows", "said"), [
    ("ProtFamlValidate", ("showNumbers", "showOverview", "showSnr", "showModel"),
     "Nothing has been judged yet."),
    ("ProtFamlNoiseControl", ("showVerdict", "showBeside"),
     "The verdict can be given when the control has finished.")])
def test_runs_that_have_not_begun_say_so(project, name, rows, said):
    run = project.new(name)
    project.project.saveProtocol(run)
    found = views(project, run)
    assert {found[row].getMessage() for row in rows} == {said}


def test_a_noise_control_is_shown_beside_its_classification(project, enhanced, tmp_path):
    run = project.new("ProtFamlNoiseControl", numberOfIterations=1, numberOfThreads=2)
    run.inputRun.set(enhanced)
    run = project.finished(run)
    found = views(project, run)
    beside = found["showBeside"].figure
    assert sum("correlation" in axes.get_ylabel() for axes in beside.get_axes()) == 2
    assert found["showVerdict"].getMessage()
    for name in ("showOverview", "showConvergence", "showSizes"):
        assert_drawn(found[name], tmp_path)
