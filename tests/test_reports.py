"""Every verb that leaves results leaves a report beside them, which opens anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from report_checks import check_in_chromium, check_report, check_run_report

from scipion_faml.cli import run
from scipion_faml.cli.reporting import describe, in_words, numbers_of
from scipion_faml.report import CITATIONS, Report, collected

N = 20


@pytest.fixture(scope="module")
def particles(tmp_path_factory, reports):
    """Sixteen particles of two structures, in a folder whose name HTML must escape."""
    folder = tmp_path_factory.mktemp("reports") / "a <b> & c"
    assert run(["simulate-subtomograms", "--model", "blobs:1", "--model", "blobs:2", "--count",
                "8", "--box", str(N), "--voxel-size", "10", "--snr", "0.5", "--workers", "1",
                "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def classes(particles):
    """One class, two iterations in enhanced mode."""
    output = particles.parent / "classes"
    assert run(["classify", str(particles / "particles.star"), "--classes", "1", "--iterations",
                "2", "--low-pass", "40", "--workers", "1", "--output", str(output)]) == 0
    return output


# ------------------------------------------------------------------------------------ each verb
def test_simulated_particles_are_shown_and_names_are_escaped(particles):
    page = check_run_report(particles / "report.html", 4)
    assert str(particles) in page.text
    assert "16 subtomograms of 20 voxels of 10 Å: 8 blobs:1, 8 blobs:2." in page.text


def test_the_command_can_be_typed_again_and_settings_have_units(particles):
    page = check_run_report(particles / "report.html")
    assert ("scipion-faml simulate-subtomograms --model blobs:1 --model blobs:2 --count 8 "
            "--voxel-size 10.0") in page.text
    assert "--box 20 voxels given" in page.text
    assert "--tilt-max 60 ° default" in page.text
    assert "--resolution (2 voxels) Å default" in page.text


def test_a_classification_says_whether_there_is_structure(classes):
    page = check_run_report(classes / "report.html", 5)
    assert "Structure found: the averages explain" in page.text or (
        "No structure found: pure noise" in page.text)
    assert "16 particles in one average." in page.text
    for heading in ("Classes and resolution", "Convergence", "Orientations", "Iterations"):
        assert heading in page.text
    for word in ("Scheres", "Frazier", "16 particles, box 20"):
        assert word in page.text


def test_a_run_that_goes_on_has_a_report_that_says_so(particles, tmp_path, monkeypatch):
    from scipion_faml.cli import reporting
    from scipion_faml.cli.reporting import RunReport

    monkeypatch.setattr(reporting, "FIRST_REFRESH_SECONDS", 0.0)
    written = []
    refresh = RunReport.refresh

    def note(report):
        refresh(report)
        written.append(report.path.read_text())

    monkeypatch.setattr(RunReport, "refresh", note)
    monkeypatch.delenv("FAML_NO_REPORT", raising=False)
    assert run(["classify", str(particles / "particles.star"), "--mode", "paper", "--classes",
                "2", "--iterations", "2", "--workers", "1", "--output", str(tmp_path / "c")]) == 0
    assert len(written) == 1  # the next is due later
    assert "Still running" in written[0] and "after 1 iterations" in written[0]
    page = check_run_report(tmp_path / "c" / "report.html", 4)
    assert "Still running" not in page.text and "Stopped after 2 iterations" in page.text
    assert "16 particles in 2 classes of" in page.text


def test_alignment_and_averages_show_their_halves(particles, tmp_path):
    assert run(["align", str(particles / "particles.star"), "--reference",
                str(particles / "maps" / "blobs:1.mrc"), "--search", "magnitude", "--workers",
                "1", "--output", str(tmp_path / "a")]) == 0
    assert run(["average", str(particles / "truth.star"), "--workers", "1", "--output",
                str(tmp_path / "v")]) == 0
    page = check_run_report(tmp_path / "a" / "report.html", 5)
    assert "noise follows it" in page.text
    page = check_run_report(tmp_path / "v" / "report.html", 2)
    assert "16 particles in 2 average(s) of 8 and 8." in page.text


def test_evaluations_leave_a_report_beside_their_result_or_where_it_is_asked(
    particles, classes, tmp_path
):
    truth, found = str(particles / "truth.star"), str(classes / "particles.star")
    assert run(["evaluate-poses", found, "--truth", truth, "--output",
                str(tmp_path / "p.json")]) == 0
    assert "Median error" in check_run_report(tmp_path / "p.report.html", 1).text
    assert run(["evaluate-classes", found, "--truth", truth, "--report",
                str(tmp_path / "c.html")]) == 0
    assert "Mean F1" in check_run_report(tmp_path / "c.html", 1).text
    assert run(["evaluate-average", str(classes / "class_001.mrc"), "--reference",
                str(particles / "maps" / "blobs:1.mrc"), "--report", str(tmp_path / "m.html")]) == 0
    assert "Correlation" in check_run_report(tmp_path / "m.html", 2).text


def test_exchanged_particles_are_shown(particles, tmp_path):
    assert run(["export-particles", str(particles / "truth.star"), "--format", "relion3",
                "--output", str(tmp_path / "x")]) == 0
    page = check_run_report(tmp_path / "x" / "report.html", 2)
    assert "16 particles were written for relion3" in page.text


# ----------------------------------------------------------------------------- what all of them do
def test_no_report_is_left_where_none_is_wanted(particles, tmp_path, monkeypatch):
    monkeypatch.delenv("FAML_NO_REPORT", raising=False)
    command = ["average", str(particles / "truth.star"), "--workers", "1"]
    assert run([*command, "--no-report", "--output", str(tmp_path / "a")]) == 0
    monkeypatch.setenv("FAML_NO_REPORT", "1")
    assert run([*command, "--output", str(tmp_path / "b")]) == 0
    assert not list(tmp_path.rglob("*.html"))


def test_a_picture_that_fails_is_a_warning_and_not_the_end(particles, tmp_path, monkeypatch):
    from scipion_faml import plots

    def broken(*_arguments, **_options):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(plots, "class_gallery", broken)
    monkeypatch.delenv("FAML_NO_REPORT", raising=False)
    assert run(["average", str(particles / "truth.star"), "--workers", "1", "--output",
                str(tmp_path / "a")]) == 0
    text = (tmp_path / "a" / "report.html").read_text()
    assert "the report lacks a picture (broken): no fonts" in text
    assert "Finished, with warnings" in text


def test_only_the_report_depends_on_when_a_run_was_made(particles, tmp_path, monkeypatch):
    monkeypatch.delenv("FAML_NO_REPORT", raising=False)
    for name in ("a", "b"):
        assert run(["average", str(particles / "truth.star"), "--workers", "1", "--output",
                    str(tmp_path / name)]) == 0
    for path in sorted((tmp_path / "a").glob("*.[cm]*")):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_an_old_report_does_not_outlive_the_run_it_was_of(particles, tmp_path, monkeypatch):
    monkeypatch.delenv("FAML_NO_REPORT", raising=False)
    command = ["average", str(particles / "truth.star"), "--workers", "1", "--output",
               str(tmp_path / "a")]
    assert run(command) == 0
    assert run([*command, "--overwrite", "--mask", str(particles / "particles.star")]) == 2
    assert not (tmp_path / "a" / "report.html").exists()


def test_several_reports_become_one_page(particles, classes, tmp_path):
    paths = [particles / "report.html", classes / "report.html"]
    output = particles.parent / "all.html"
    for _ in range(2):  # the page itself is none of the reports
        assert run(["reports", str(particles), str(classes), "--output", str(output)]) == 0
    assert collected([*paths, output], "All", tmp_path).states == {"finished": 1, "doubt": 1}
    text = output.read_text()
    assert "Reports of 2 runs: 1 finished; 1 finished, with warnings." in text
    assert text.count("The whole report") == 2
    assert 'href="classes/report.html"' in text and 'href="a%20%3Cb%3E' in text
    assert text.count("<img") >= 2


def test_a_folder_without_reports_is_a_mistake(tmp_path, capsys):
    assert run(["reports", str(tmp_path), "--output", str(tmp_path / "all.html")]) == 2
    assert "runs leave report.html" in capsys.readouterr().err
    assert not (tmp_path / "all.html").exists()


def test_numbers_leave_out_curves_and_long_lists():
    result = {"n": 3, "curve": list(range(50)), "nested": [[1], [2]], "few": [1, 2], "none": None,
              "by": {"a": 1}, "deep": {"a": {"b": 1}}, "warnings": ["x"]}
    assert numbers_of(result) == {"n": 3, "few": [1, 2], "by": {"a": 1}}


@pytest.mark.parametrize(("seconds", "words"), [
    (0.04, "0.0 s"), (12.3, "12 s"), (59.9, "60 s"), (61, "1 min 1 s"), (7300, "2 h 1 min")])
def test_durations_are_said_as_people_say_them(seconds, words):
    assert in_words(seconds) == words


def test_inputs_that_cannot_be_read_are_listed_all_the_same(tmp_path):
    (tmp_path / "broken.mrc").write_bytes(b"no")
    assert describe(tmp_path / "broken.mrc")["holds"] == ""
    assert describe(tmp_path / "gone.star")["holds"] == ""
    (tmp_path / "w.pt").write_bytes(bytes(2_000_000))
    assert describe(tmp_path / "w.pt")["holds"] == "2 MB"


def test_citations_are_those_of_the_plugin():
    from scipion_faml import bibtex

    for key, (_, doi) in CITATIONS.items():
        entry = bibtex.__doc__.split(f"{{{key},")[1].split("\n}")[0]
        assert f"doi = {{{doi}}}" in entry


def test_a_large_picture_of_noise_stays_small(tmp_path):
    from scipion_faml import plots

    noise = np.random.default_rng(0).standard_normal((400, 400))
    figure = plots.picks_on_slice(noise, np.zeros((0, 2)))
    path = Report("Noise").in_short(["Nothing."], "nothing", [(figure, "A slice of noise.")]).write(
        tmp_path / "r.html")
    check_report(path, 1)
    assert path.stat().st_size < 700_000 and "image/jpeg" in path.read_text()


# ------------------------------------------------------------------------------------- browser
@pytest.mark.slow
def test_chromium_shows_reports_without_complaint(particles, classes, tmp_path):
    for number, path in enumerate([particles / "report.html", classes / "report.html"]):
        check_in_chromium(path, tmp_path / f"{number}.png")
