"""Positions judged in Scipion: numbers in the summary, curves, hits and misses on slices."""

from __future__ import annotations

import pytest

RADIUS = 60.0


@pytest.fixture(scope="module")
def judged(session_project, tomograms, picked):
    """Picks of the DoG picker (scores, no classes) against the truth."""
    session_project.enter()
    return session_project.finished(session_project.new(
        "ProtFamlEvaluate",
        {"inputCoordinates": (picked, "coordinates"),
         "trueCoordinates": (tomograms, "trueCoordinates")}, radius=RADIUS, matching=1))


@pytest.fixture(scope="module")
def perfect(session_project, tomograms):
    """The truth (classes, no scores) against itself."""
    session_project.enter()
    return session_project.finished(session_project.new(
        "ProtFamlEvaluate",
        {"inputCoordinates": (tomograms, "trueCoordinates"),
         "trueCoordinates": (tomograms, "trueCoordinates")}, radius=RADIUS))


def assert_drawn(view, path):
    view.savefig(path)
    assert path.stat().st_size > 5000


def test_the_summary_tells_what_became_of_the_positions(project, judged, perfect):
    result = judged.results()["picks"]
    assert result["matching"] == "greedy" and result["n_truth"] == 20
    text = " ".join(judged.summary())
    assert f"F1 {result['f1']:.2f}" in text and f"{result['n_false']} false" in text
    assert "Average precision" in text and "Classes of the picks" not in text
    text = " ".join(perfect.summary())
    assert "F1 1.00" in text and "mean F1 1.00; 0 of 20 hits" in text
    assert "Average precision" not in text  # the truth has no scores


def views(project, run):
    from scipion_faml.viewers import views_of

    return views_of(project.project, run)


def test_hits_and_misses_are_drawn_on_slices_of_each_tomogram(project, judged, tmp_path):
    window = views(project, judged)["showHits"]
    assert [tab.name for tab in window.tabs] == ["tomogram_01", "tomogram_02"]
    for tab in window.tabs:
        view = window.view(tab.name)
        assert_drawn(view, tmp_path / "hits.png")
        texts = [text.get_text() for text in view.figure.legends[0].get_texts()]
        assert [text.split()[1] for text in texts] == [
            "hit", "misclassified", "duplicate", "false", "missed"]
        assert int(texts[0].split()[0]) > 0
        other = view._draw(0)  # what moving the slider does
        assert "slice 0" in other.axes[0].get_title()


def test_curves_are_drawn_where_picks_have_scores(project, judged, perfect, tmp_path):
    assert_drawn(views(project, judged)["showPickCurves"], tmp_path / "curve.png")
    assert why_not(project, perfect)["Precision, recall"] == "the positions have no scores"


def test_classes_are_drawn_where_picks_say_them(project, judged, perfect, tmp_path):
    assert_drawn(views(project, perfect)["showPickClasses"], tmp_path / "classes.png")
    assert why_not(project, judged)["Classes of positions"] == "the positions say no classes"


def why_not(project, run):
    """What the greyed tabs of a run's window say."""
    return {tab.name: tab.why_not for tab in views(project, run)["showEverything"].tabs}


def test_what_was_not_judged_is_said(project, particles):
    run = project.finished(project.new(
        "ProtFamlEvaluate", {"inputSubtomograms": (particles, "trueSubtomograms"),
                             "trueSubtomograms": (particles, "trueSubtomograms")}))
    said = why_not(project, run)
    for tab in ("Positions", "Precision, recall", "Classes of positions"):
        assert said[tab] == "positions were not judged"
