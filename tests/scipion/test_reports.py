"""Runs leave the reports of their commands; summary and viewers lead to them."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from report_checks import check_report, check_run_report


def links(protocol):
    """The paths in the links of a summary's last line."""
    last = protocol.summary()[-1]
    assert last.startswith("Report: ")
    return re.findall(r"\[\[(.*?)\]\[(.*?)\]\]", last)


@pytest.fixture(scope="module")
def simulated(session_project, reports):
    """A small simulation that leaves its report."""
    session_project.enter()
    return session_project.finished(session_project.new(
        "ProtFamlSimulateSubtomograms", structures="blobs:1", counts="6", boxSize=16,
        voxelSize=20.0, snr=4.0, maxShift=1.0, optics=1, numberOfThreads=1))


def test_a_run_leaves_a_report_and_its_summary_leads_there(project, simulated):
    paths = simulated.reportPaths()
    assert [path.name for path in paths] == ["report.html"]
    check_run_report(paths[0], 4)
    assert links(simulated) == [(str(paths[0].resolve()), "results")]
    assert "6* subtomograms" in simulated.summary()[0]


def never_started(project):
    """A run that has only been saved."""
    protocol = project.new("ProtFamlSimulateSubtomograms")
    project.project.saveProtocol(protocol)
    return protocol


def test_a_run_without_a_report_has_no_such_line(project):
    protocol = never_started(project)
    assert protocol.reportPaths() == []
    assert not any(line.startswith("Report") for line in protocol.summary())


def test_a_run_of_two_commands_has_both_reports(project, simulated, reports):
    aligned = project.finished(project.new(
        "ProtFamlAlign",
        {"inputSubtomograms": (simulated, "subtomograms"),
         "inputReference": (simulated, "trueAverages.1")},
        search=0, lowPass=60.0, numberOfThreads=1))
    for path in aligned.reportPaths():
        check_run_report(path, 2)
    assert [name for _, name in links(aligned)] == ["results", "average"]


def test_each_tomogram_has_its_report_and_one_page_leads_to_all(project, tomograms, reports):
    from scipion_faml.viewers.report_view import REPORT_ROW

    picked = project.finished(project.new(
        "ProtFamlPickDog", {"inputTomograms": (tomograms, "tomograms")}, diameter=150.0,
        boxSize=16, binThreads=1))
    assert sorted(name for _, name in links(picked)) == ["tomogram_01", "tomogram_02"]
    for path in picked.reportPaths():
        check_run_report(path, 2)
    view = REPORT_ROW.make(SimpleNamespace(protocol=picked, heading=lambda: "picks"))
    page = view.page()
    assert page.read_text().count("The whole report") == 2
    for link in re.findall(r'href="([^"#]*report\.html)"', page.read_text()):
        assert (page.parent / link).resolve() in [p.resolve() for p in picked.reportPaths()]


def test_the_viewer_opens_a_report_or_says_that_there_is_none(project, simulated, monkeypatch):
    import webbrowser

    from scipion_faml.viewers.figure_view import NothingToShow
    from scipion_faml.viewers.report_view import REPORT_ROW

    opened = []
    monkeypatch.setattr(webbrowser, "open_new_tab", opened.append)
    REPORT_ROW.make(SimpleNamespace(protocol=simulated, heading=lambda: "run")).show()
    assert opened == [simulated.reportPaths()[0].resolve().as_uri()]
    check_report(Path(simulated.reportPaths()[0]))
    with pytest.raises(NothingToShow, match="no report yet"):
        REPORT_ROW.make(SimpleNamespace(protocol=never_started(project), heading=lambda: "run"))
