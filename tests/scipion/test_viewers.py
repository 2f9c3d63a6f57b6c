"""Viewers without a display: figures are made and can be saved."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest


def views(project, target):
    """Everything that a viewer of ours offers for a run or an output."""
    from scipion_faml.viewers import views_of

    return views_of(project.project, target)


def message(view):
    """The text of a view that is no picture."""
    return view.getMessage()


def assert_drawn(view, tmp_path, least=5000):
    path = tmp_path / "figure.png"
    view.savefig(path)
    assert path.stat().st_size > least


def assert_made(view, absent=()):
    """There is a figure with something in it; in every tab that is not greyed. Quicker than drawn.
    """
    if not hasattr(view, "tabs"):
        assert any(axes.has_data() or axes.texts for axes in view.figure.get_axes()), view.title
        return
    for tab in view.tabs:
        assert bool(tab.why_not) == (tab.name in absent), (tab.name, tab.why_not)
        if not tab.why_not:
            assert_made(view.view(tab.name))


def unsaved(project, name, pointers):
    """A run that was never started."""
    run = project.new(name, pointers)
    project.project.saveProtocol(run)
    return run


# ------------------------------------------------------------------------------- classifications
def test_every_row_of_a_classification_is_drawn(project, enhanced, tmp_path):
    found = views(project, enhanced)
    assert next(iter(found)) == "showEverything"
    for name in ("showOverview", "showConvergence", "showFsc", "showSurface", "showViews"):
        assert_drawn(found[name], tmp_path)
    assert_made(found["showEverything"])
    assert "iteration" in found["showAverages"].title


def test_an_iteration_can_be_chosen(project, classified, tmp_path):
    from scipion_faml.viewers.scripted import viewer_of

    viewer = viewer_of(project.project, classified)
    viewer.iteration.set(1)
    for name, show in viewer._getVisualizeDict().items():
        (view,) = show(name)
        assert name not in {"showAverages", "showSizes"} or "iteration 1" in view.title
        if name not in {"showEverything", "openReport"}:
            assert_made(view)


def test_paper_mode_has_no_row_for_the_fsc_and_says_why(project, classified):
    from scipion_faml.viewers.scripted import viewer_of

    viewer = viewer_of(project.project, classified)
    assert "showFsc" not in viewer._getVisualizeDict()
    label = viewer._definition.getParam("showFsc").label.get()
    assert "paper mode makes no half averages" in label


@pytest.fixture
def going(stopped):
    """A run in its second iteration, its files as they were before the last test."""
    run, kept = stopped
    results = Path(run._getExtraPath("results"))
    shutil.rmtree(results)
    shutil.copytree(kept, results)
    run.setStatus("running")
    return run


@pytest.fixture(scope="module")
def stopped(session_project, particles, tmp_path_factory):
    """What a run in its second iteration has on disk: a checkpoint, but no final files yet."""
    start = Path.cwd()
    session_project.enter()
    run = session_project.finished(session_project.new(
        "ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")},
        numberOfClasses=2, numberOfIterations=1, mode=1, bandwidth=8))
    results = Path(run._getExtraPath("results"))
    for path in (*results.glob("class_*.mrc"), results / "particles.star", results / "run.json"):
        path.unlink()
    kept = shutil.copytree(results, tmp_path_factory.mktemp("run") / "results")
    os.chdir(start)
    return run, kept


def test_a_classification_is_shown_in_any_state_of_its_run(project, going, tmp_path):
    for status in ("running", "failed"):
        going.setStatus(status)
        found = views(project, going)
        # Orientations and posteriors are those of the checkpoint.
        found.pop("openReport")
        assert all(hasattr(view, "figure") for view in found.values()), status
        assert {tab.name for tab in found["showEverything"].tabs if tab.why_not} == {"FSC"}
    assert_made(found["showEverything"], absent=["FSC"])


def test_convergence_draws_itself_again_when_an_iteration_has_ended(project, going):
    going.setStatus("running")
    view = views(project, going)["showConvergence"]
    assert view.refresh() is False
    before, path = view.figure, Path(going._getExtraPath("results", "history.csv"))
    lines = path.read_text().splitlines()
    second = ",".join(["2", *lines[-1].split(",")[1:]])
    path.write_text("\n".join([*lines, second, ""]))
    os.utime(path, (2e9, 2e9))
    assert view.refresh() is True and view.figure is not before
    assert len(view.figure.axes[0].lines[0].get_xdata()) == 2
    path.write_text("")  # half written: the picture before stays
    os.utime(path, (2.1e9, 2.1e9))
    assert view.refresh() is False


def test_a_run_without_an_iteration_says_so(project, particles):
    run = unsaved(project, "ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")})
    found = views(project, run)
    everything = found.pop("showEverything")
    said = {name: message(view) for name, view in found.items()}
    assert said.pop("showFsc").startswith("There is no curve yet")
    assert "no report yet" in said.pop("openReport")
    assert all("first iteration" in text for text in said.values())
    from scipion_faml.viewers.figure_view import NothingToShow

    for tab in everything.tabs:
        with pytest.raises(NothingToShow, match="first iteration|no curve"):
            everything.view(tab.name)


def test_one_class_is_an_average(project, particles, tmp_path):
    run = project.finished(project.new(
        "ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")},
        numberOfClasses=1, numberOfIterations=1, mode=1, bandwidth=8))
    found = views(project, run)
    assert_drawn(found["showOverview"], tmp_path)
    assert_made(found["showEverything"], absent=["FSC"])


def test_a_damaged_file_is_a_message(project, going):
    Path(going._getExtraPath("results", "iter_001", "class_001.mrc")).write_bytes(b"no map")
    found = views(project, going)
    assert "Class averages cannot be shown" in message(found["showAverages"])


# --------------------------------------------------------------------------------------- outputs
@pytest.mark.parametrize(("output", "name", "absent"), [
    ("classes", "FamlClassesViewer", []), ("averages", "FamlAveragesViewer", ["FSC"])])
def test_classes_and_averages_open_in_our_viewers_first(
    domain, project, classified, tmp_path, output, name, absent
):
    from pyworkflow.viewer import DESKTOP_TKINTER

    target = getattr(classified, output)
    assert domain.findViewers(target, DESKTOP_TKINTER)[0].__name__ == name
    assert_made(views(project, target)["view"], absent)


def test_halves_and_curves_of_averages_are_drawn(domain, project, enhanced, tmp_path):
    from pyworkflow.viewer import DESKTOP_TKINTER

    assert_made(views(project, enhanced.averages)["view"])
    assert_made(views(project, enhanced.classes)["view"])
    assert domain.findViewers(enhanced.fscs, DESKTOP_TKINTER)[0].__name__ == "FamlFscViewer"
    assert_drawn(views(project, enhanced.fscs)["view"], tmp_path)
    assert_drawn(views(project, enhanced.fscs.getFirstItem())["view"], tmp_path)


def test_a_single_average_opens_in_our_viewer_first(domain, project, particles, tmp_path):
    from pyworkflow.viewer import DESKTOP_TKINTER

    run = project.finished(project.new(
        "ProtFamlAverage", {"inputSubtomograms": (particles, "trueSubtomograms")}))
    assert domain.findViewers(run.average, DESKTOP_TKINTER)[0].__name__ == "FamlAveragesViewer"
    assert_made(views(project, run.average)["view"])
    assert_made(views(project, run)["showEverything"])


def test_an_alignment_that_has_not_run_says_so(project, particles, classified):
    run = unsaved(project, "ProtFamlAlign", {"inputSubtomograms": (particles, "subtomograms")})
    found = views(project, run)
    found.pop("showEverything")
    assert {message(found[name]) for name in ("showAverage", "showSlices", "showOverview")} == {
        "The average is not there yet."}


@pytest.mark.parametrize(("class_name", "said"), [
    ("SetOfClassesSubTomograms", "no classes"), ("SetOfAverageSubTomograms", "no average"),
    ("SetOfSubTomograms", "no particles"), ("SetOfFSCs", "no curves"),
    ("SetOfCoordinates3D", "no positions")])
def test_an_empty_set_is_a_message(project, tmp_path, class_name, said):
    import pwem.objects
    import tomo.objects

    one = getattr(tomo.objects, class_name, None) or getattr(pwem.objects, class_name)
    empty = one.create(str(tmp_path))
    assert said in message(views(project, empty)["view"])


def test_classes_without_averages_show_their_sizes(project, classified, tmp_path):
    from tomo.objects import ClassSubTomogram, SetOfClassesSubTomograms

    images = classified.subtomograms
    classes = SetOfClassesSubTomograms.create(str(tmp_path))
    classes.setImages(images)
    one = ClassSubTomogram()
    one.setObjId(1)
    classes.append(one)
    for item in images.iterItems(limit=3):
        one.append(item)
    classes.update(one)
    view = views(project, classes)["view"]
    assert_drawn(view.view("Sizes"), tmp_path, 3000)
    assert {tab.name for tab in view.tabs if tab.why_not} == {"Averages", "Slices", "Surface"}


# ------------------------------------------------------------------------------------- positions
def test_positions_are_drawn_on_slices(project, tomograms, tmp_path):
    view = views(project, tomograms.trueCoordinates)["view"]
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


def test_scores_have_one_scale_in_all_slices(project, picked):
    view = views(project, picked)["view"]
    pictures = view.pictures
    assert view.colour == "score"
    scales = {pictures.draw(n, z, "score").axes[1].get_ylim() for n in range(2) for z in (0, 20)}
    assert scales == {pictures.score_range}
    # Drawn with the diameter that they were picked at: 150 A in voxels of 20 A.
    assert {float(r) for t in pictures.tomograms for r in t.radius} == {3.75}


def test_positions_of_another_plugin_are_drawn(project, tomograms, tmp_path):
    """Without scores, groups and box, in the voxels of binned tomograms, as imports leave them."""
    from pyworkflow.object import Pointer
    from tomo.constants import BOTTOM_LEFT_CORNER
    from tomo.objects import Coordinate3D, SetOfCoordinates3D

    plain = SetOfCoordinates3D.create(str(tmp_path))
    plain.setPrecedents(Pointer(tomograms, extended="tomograms"))
    plain.setSamplingRate(2 * tomograms.tomograms.getSamplingRate())
    for tomogram in [t.clone() for t in tomograms.tomograms.iterItems()]:
        coordinate = Coordinate3D()
        coordinate.setVolume(tomogram)
        coordinate.setPosition(20, 16, 10, BOTTOM_LEFT_CORNER)
        plain.append(coordinate)
    plain.write()
    view = views(project, plain)["view"]
    assert_drawn(view, tmp_path)
    assert view.pictures.choices == []  # one colour


def test_a_set_whose_tomograms_are_gone_is_a_message(project, tomograms, tmp_path):
    from tomo.objects import Coordinate3D, SetOfCoordinates3D

    lost = SetOfCoordinates3D.create(str(tmp_path))
    lost.setPrecedents(tomograms.tomograms)
    coordinate = Coordinate3D()
    coordinate.setTomoId("elsewhere")
    lost.append(coordinate)
    assert "tomograms" in message(views(project, lost)["view"])


@pytest.mark.parametrize(("fixture", "name"), [
    ("picked", "FamlPicksViewer"), ("tomograms", "FamlPicksViewer"),
    ("particles", "FamlParticlesViewer"), ("classified", "FamlClassifyViewer")])
def test_analyze_results_of_our_protocols_opens_our_viewers(
    domain, project, request, tmp_path, fixture, name
):
    from pyworkflow.viewer import DESKTOP_TKINTER

    run = request.getfixturevalue(fixture)
    assert domain.findViewers(run, DESKTOP_TKINTER)[0].__name__ == name
    if name != "FamlClassifyViewer":
        assert_drawn(views(project, run)["view"], tmp_path)


@pytest.mark.parametrize(("name", "said"), [
    ("ProtFamlPickDog", "no positions yet"), ("ProtFamlPickTemplate", "no positions yet"),
    ("ProtFamlPickDetector", "no positions yet"), ("ProtFamlSimulateTomograms", "no positions yet"),
    ("ProtFamlExtractSubtomograms", "no particles yet"),
    ("ProtFamlSimulateSubtomograms", "no particles yet")])
def test_runs_without_outputs_say_so(project, name, said):
    assert said in message(views(project, unsaved(project, name, {}))["view"])


def test_a_training_that_has_not_begun_says_so(project):
    found = views(project, unsaved(project, "ProtFamlTrainDetector", {}))
    found.pop("openReport")
    assert {message(view) for view in found.values()} == {
        "The first epoch has not finished.",
        "The result can be shown when the training has finished."}


def test_particles_are_leafed_through_and_their_orientations_drawn(project, particles, tmp_path):
    plain = views(project, particles.subtomograms)["view"]
    assert_made(plain, absent=["Orientations", "Views"])
    assert len(plain.view("Slices").slices.volumes) == 12
    assert_made(views(project, particles.trueSubtomograms)["view"])


# ------------------------------------------------------------------------------------ evaluation
def test_the_evaluation_viewer_draws_what_was_judged(project, particles, tmp_path):
    run = project.finished(project.new(
        "ProtFamlEvaluate",
        {"inputSubtomograms": (particles, "trueSubtomograms"),
         "trueSubtomograms": (particles, "trueSubtomograms")}))
    found = views(project, run)
    assert_drawn(found["showOverview"], tmp_path)
    for name in ("showConfusion", "showPoseErrors"):
        assert_made(found[name])
    assert "mean F1 1.00" in message(found["showNumbers"])
    assert "showAverages" not in found and "showHits" not in found  # labels say: not judged
    everything = found["showEverything"]
    assert {tab.why_not for tab in everything.tabs} == {
        "", "positions were not judged", "averages were not judged"}


def test_an_evaluation_that_has_not_run_says_so(project):
    found = views(project, unsaved(project, "ProtFamlEvaluate", {}))
    found.pop("showEverything")
    said = {message(view) for view in found.values()}
    assert "Nothing has been judged yet." in said
    assert all("cannot" not in text for text in said)


# -------------------------------------------------------------------------------------- ChimeraX
def test_chimerax_is_found_by_variable_or_path_and_told_what_to_open(tmp_path, monkeypatch):
    from scipion_faml.viewers import chimerax

    monkeypatch.delenv("CHIMERA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert chimerax.find_chimerax() is None
    for folder in (tmp_path / "path", tmp_path / "home" / "bin"):
        folder.mkdir(parents=True)
    on_path, at_home = tmp_path / "path" / "chimerax", tmp_path / "home" / "bin" / "ChimeraX"
    for program in (on_path, at_home):
        program.write_text(f"#!/bin/sh\n/bin/cp $1 {tmp_path}/opened.part\n"
                           f"/bin/mv {tmp_path}/opened.part {tmp_path}/opened.cxc\n")
        program.chmod(0o755)
    assert chimerax.find_chimerax() == str(on_path)
    monkeypatch.setenv("CHIMERA_HOME", str(tmp_path / "home"))
    assert chimerax.find_chimerax() == str(at_home)
    chimerax.ChimeraXView(["a map.mrc", "b.mrc"], [0.5, None]).show()
    opened = tmp_path / "opened.cxc"
    for _ in range(100):
        if opened.exists():
            break
        time.sleep(0.05)
    commands = opened.read_text()
    assert f'open "{Path.cwd()}/a map.mrc"' in commands and "#1" in commands
    assert "level 0.5" in commands and commands.count("level") == 1 and "tile" in commands


def test_without_chimerax_the_row_says_so(project, enhanced, monkeypatch, tmp_path):
    from scipion_faml.viewers.scripted import viewer_of

    monkeypatch.delenv("CHIMERA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    viewer = viewer_of(project.project, enhanced)
    assert "openChimerax" not in viewer._getVisualizeDict()
    assert "CHIMERA_HOME" in viewer._definition.getParam("openChimerax").label.get()
