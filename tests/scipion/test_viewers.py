"""Viewers and wizards without a display: figures are made and can be saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def viewer_of(domain, project, protocol, name):
    """A protocol viewer as the project window makes it, without the window."""
    viewer = domain.getViewers()[name](project=project.project, protocol=protocol)
    viewer.setProtocol(protocol)
    return viewer


def figures(viewer):
    """Call everything a viewer offers; return the figure views by the name of the row."""
    views = {}
    for name, show in viewer._getVisualizeDict().items():
        for view in show(name):
            views.setdefault(name, []).append(view)
    return views


def assert_drawn(view, tmp_path):
    path = tmp_path / "figure.png"
    view.savefig(path)
    assert path.stat().st_size > 5000


def test_the_classification_viewer_draws_averages_sizes_and_convergence(
    domain, project, classified, tmp_path
):
    viewer = viewer_of(domain, project, classified, "FamlClassifyViewer")
    views = figures(viewer)
    drawn = {"showAverages", "showSizes", "showConvergence", "showOrientations"}
    assert set(views) == drawn | {"showFsc"}  # paper mode has no FSC
    for name in drawn:
        assert_drawn(views[name][0], tmp_path)
    assert "iteration 2" in views["showAverages"][0].title
    viewer.iteration.set(1)
    assert "iteration 1" in figures(viewer)["showAverages"][0].title


def test_the_classification_viewer_works_while_the_run_is_going(
    domain, project, particles, tmp_path
):
    run = project.finished(project.new(
        "ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")},
        numberOfClasses=2, numberOfIterations=1, mode=1, bandwidth=8))
    # What a run in its second iteration has on disk: a checkpoint, but no final files yet.
    results = Path(run._getExtraPath("results"))
    for path in (*results.glob("class_*.mrc"), results / "particles.star", results / "run.json"):
        path.unlink()
    views = figures(viewer_of(domain, project, run, "FamlClassifyViewer"))
    assert_drawn(views["showAverages"][0], tmp_path)
    assert_drawn(views["showConvergence"][0], tmp_path)
    assert "finished" in views["showOrientations"][0].getMessage()


def test_the_fsc_of_a_classification_is_drawn_in_enhanced_mode(
    domain, project, classified, enhanced, tmp_path
):
    views = figures(viewer_of(domain, project, enhanced, "FamlClassifyViewer"))
    for name in ("showFsc", "showAverages", "showConvergence"):
        assert_drawn(views[name][0], tmp_path)
    views = figures(viewer_of(domain, project, classified, "FamlClassifyViewer"))
    assert "no half averages" in views["showFsc"][0].getMessage()


def test_a_run_without_an_iteration_says_so(domain, project, particles):
    run = project.new("ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")})
    project.project.saveProtocol(run)
    views = figures(viewer_of(domain, project, run, "FamlClassifyViewer"))
    assert all("getMessage" in dir(view[0]) for view in views.values())


@pytest.mark.parametrize(("output", "name", "n_views"), [
    ("classes", "FamlClassesViewer", 2), ("averages", "FamlAveragesViewer", 1)])
def test_classes_and_averages_open_in_our_viewers_first(
    domain, project, classified, tmp_path, output, name, n_views
):
    from pyworkflow.viewer import DESKTOP_TKINTER

    target = getattr(classified, output)
    first = domain.findViewers(target, DESKTOP_TKINTER)[0]
    assert first.__name__ == name
    views = first(project=project.project, protocol=classified)._visualize(target)
    assert len(views) == n_views
    for view in views:
        assert_drawn(view, tmp_path)


def test_a_single_average_opens_in_our_viewer_first(domain, project, particles, tmp_path):
    from pyworkflow.viewer import DESKTOP_TKINTER

    run = project.finished(project.new(
        "ProtFamlAverage", {"inputSubtomograms": (particles, "trueSubtomograms")}))
    first = domain.findViewers(run.average, DESKTOP_TKINTER)[0]
    assert first.__name__ == "FamlAveragesViewer"
    assert_drawn(first(project=project.project)._visualize(run.average)[0], tmp_path)
    views = figures(viewer_of(domain, project, run, "FamlAlignViewer"))
    assert_drawn(views["showAverage"][0], tmp_path)
    assert_drawn(views["showFsc"][0], tmp_path)


def test_positions_are_drawn_on_slices(domain, project, tomograms, tmp_path):
    viewer = domain.getViewers()["FamlPicksViewer"](
        project=project.project, tmpPath=str(tmp_path))
    (view,) = viewer._visualize(tomograms.trueCoordinates)
    assert_drawn(view, tmp_path)
    pictures = view.pictures
    assert [t.name for t in pictures.tomograms] == ["tomogram_01", "tomogram_02"]
    assert pictures.classes == ["groel", "proteasome"]
    assert (pictures.choices, view.colour) == (["class"], "class")  # the truth has no scores
    for number in range(2):
        assert pictures.n_slices(number) == 40
        z = pictures.fullest_slice(number)
        depth = pictures.tomograms[number].position_xyz[:, 2]
        assert np.abs(depth - z).min() < 1
        assert "of 10 positions" in pictures.draw(number, z, "class").axes[0].get_title()


def test_scores_have_one_scale_in_all_slices(domain, project, picked, tmp_path):
    viewer = domain.getViewers()["FamlPicksViewer"](
        project=project.project, protocol=picked, tmpPath=str(tmp_path))
    (view,) = viewer._visualize(picked)
    pictures = view.pictures
    assert view.colour == "score"
    scales = {pictures.draw(n, z, "score").axes[1].get_ylim() for n in range(2) for z in (0, 20)}
    assert scales == {pictures.score_range}
    # Drawn with the diameter that they were picked at: 150 A in voxels of 20 A.
    assert {float(r) for t in pictures.tomograms for r in t.radius} == {3.75}


@pytest.mark.parametrize(("fixture", "name"), [
    ("picked", "FamlPicksViewer"), ("tomograms", "FamlPicksViewer"),
    ("particles", "FamlParticlesViewer"), ("classified", "FamlClassifyViewer")])
def test_analyze_results_of_our_protocols_opens_our_viewers(
    domain, project, request, tmp_path, fixture, name
):
    from pyworkflow.viewer import DESKTOP_TKINTER

    run = request.getfixturevalue(fixture)
    first = domain.findViewers(run, DESKTOP_TKINTER)[0]
    assert first.__name__ == name
    if name != "FamlClassifyViewer":
        viewer = first(project=project.project, protocol=run, tmpPath=str(tmp_path))
        assert_drawn(viewer._visualize(run)[0], tmp_path)


def test_the_evaluation_viewer_draws_what_was_judged(domain, project, particles, tmp_path):
    run = project.finished(project.new(
        "ProtFamlEvaluate",
        {"inputSubtomograms": (particles, "trueSubtomograms"),
         "trueSubtomograms": (particles, "trueSubtomograms")}))
    views = figures(viewer_of(domain, project, run, "FamlEvaluationViewer"))
    assert_drawn(views["showConfusion"][0], tmp_path)
    assert_drawn(views["showPoseErrors"][0], tmp_path)
    assert "mean F1 1.00" in views["showNumbers"][0].getMessage()
    assert "not judged" in views["showAverages"][0].getMessage()


# ---------------------------------------------------------------------------------------- wizards
class Form:
    """What a wizard needs of a form."""

    def __init__(self, protocol):
        self.protocol = protocol
        self.told = []

    def setVar(self, name, value):  # noqa: N802 (Scipion's name)
        getattr(self.protocol, name).set(value)

    def showInfo(self, text):  # noqa: N802 (Scipion's name)
        self.told.append(text)


def test_wizards_suggest_a_box_and_show_the_tilt_range(domain, project, tomograms, particles):
    wizards = domain.getWizards()
    pick = project.new("ProtFamlPickDog", {"inputTomograms": (tomograms, "tomograms")},
                       diameter=160.0)
    wizards["FamlPickBoxWizard"]().show(Form(pick))
    assert pick.boxSize.get() == 12  # 1.5 x 160 / 20, even
    extract = project.new("ProtFamlExtractSubtomograms",
                          {"inputCoordinates": (tomograms, "trueCoordinates")})
    wizards["FamlExtractBoxWizard"]().show(Form(extract))
    assert extract.boxSize.get() == tomograms.trueCoordinates.getBoxSize()
    classify = project.new("ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")})
    form = Form(classify)
    wizards["FamlTiltRangeWizard"]().show(form)
    assert (classify.tiltMin.get(), classify.tiltMax.get(), form.told) == (-60, 60, [])
