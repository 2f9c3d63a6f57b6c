"""Reports of the verbs that work on tomograms."""

from __future__ import annotations

import json
import re

import pytest
from report_checks import check_in_chromium, check_run_report

from scipion_faml.cli import run


@pytest.fixture(scope="module")
def scene(tmp_path_factory, reports):
    """A tomogram of six particles, and picks in it."""
    folder = tmp_path_factory.mktemp("scene") / "tomogram"
    assert run(["simulate-tomogram", "--model", "blobs:1:150", "--count", "6", "--shape",
                "64,64,40", "--voxel-size", "10", "--snr", "0.5", "--workers", "1",
                "--output", str(folder)]) == 0
    assert run(["pick-dog", str(folder / "tomogram.mrc"), "--diameter", "150", "--tilt-min", "-60",
                "--tilt-max", "60", "--workers", "1", "--output",
                str(folder / "picks.star")]) == 0
    return folder


def test_a_simulated_tomogram_is_shown_with_what_is_in_it(scene):
    page = check_run_report(scene / "report.html", 4)
    assert "6 particles of 1 structure(s) in 64 x 64 x 40 voxels (x, y, z) of 10 Å." in page.text
    assert "Packing" in page.text


def test_picks_have_their_scores_threshold_and_slices(scene):
    page = check_run_report(scene / "picks.report.html", 3)
    assert re.search(r"\d+ picks; score \(s\.d\. of the response\) .* threshold", page.text)
    assert "64 x 64 x 40 voxels" in page.text  # the input
    assert "Voss" in page.text


def test_picks_of_several_sizes_are_told_apart(scene, tmp_path):
    assert run(["pick-dog", str(scene / "tomogram.mrc"), "--diameter", "80", "--diameter", "160",
                "--workers", "1", "--output", str(tmp_path / "p.star")]) == 0
    assert "By class" in check_run_report(tmp_path / "p.report.html", 3).text


def test_where_nothing_is_picked_the_report_says_so_first(scene, tmp_path):
    assert run(["pick-dog", str(scene / "tomogram.mrc"), "--diameter", "150", "--threshold",
                "500", "--workers", "1", "--output", str(tmp_path / "none.star")]) == 0
    page = check_run_report(tmp_path / "none.report.html", 1)
    assert "Nothing came out" in page.text and "Nothing scores enough" in page.text
    assert "Warning: " in page.text and "nothing scores above 500.00 s.d." in page.text


def test_template_picks_show_template_and_orientations(scene, tmp_path):
    assert run(["pick-template", str(scene / "tomogram.mrc"), "--template",
                str(scene / "maps" / "blobs:1:150.mrc"), "--coarse-step", "45", "--control",
                "none", "--threshold", "0.3", "--workers", "1", "--output",
                str(tmp_path / "t.star")]) == 0
    page = check_run_report(tmp_path / "t.report.html", 3)
    assert "Template" in page.text and "given by --threshold" in page.text
    assert "no tilt range is given" in page.text  # the warning that was logged


def test_extracted_particles_are_shown_and_dropped_ones_have_their_reasons(scene, tmp_path):
    assert run(["extract", str(scene / "tomogram.mrc"), str(scene / "truth.star"), "--box", "24",
                "--workers", "1", "--output", str(tmp_path / "e")]) == 0
    result = json.loads((tmp_path / "e" / "run.json").read_text())["result"]
    page = check_run_report(tmp_path / "e" / "report.html", 3)
    assert result["n_dropped"] > 0
    assert f"{result['n_dropped']} of 6 positions could not be cut: see Dropped." in page.text
    for dropped in result["dropped"]:
        assert dropped["reason"] in page.text


def test_picks_are_judged_in_the_report_that_is_asked_for(scene, tmp_path):
    assert run(["evaluate-picks", str(scene / "picks.star"), "--truth",
                str(scene / "truth.star"), "--radius", "80", "--tomogram",
                str(scene / "tomogram.mrc"), "--report", str(tmp_path / "k.html")]) == 0
    assert "particles were found: recall" in check_run_report(tmp_path / "k.html", 3).text


@pytest.mark.slow
def test_chromium_shows_reports_of_tomograms_without_complaint(scene, tmp_path):
    for number, path in enumerate([scene / "report.html", scene / "picks.report.html"]):
        check_in_chromium(path, tmp_path / f"{number}.png")
