"""Coarse groups through Scipion: classes, alignments kept, the viewer, wrong forms."""

from __future__ import annotations

import numpy as np
import pytest

VOXEL_SIZE = 20.0


@pytest.fixture(scope="module")
def mixed(session_project):
    session_project.enter()
    return session_project.finished(session_project.new(
        "ProtFamlSimulateSubtomograms", structures="ribosome, apoferritin", counts="12, 12",
        boxSize=20, voxelSize=VOXEL_SIZE, snr=0.3, maxShift=1.0, optics=1))


@pytest.fixture(scope="module")
def grouped(session_project, mixed):
    session_project.enter()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FAML_NO_REPORT", raising=False)
        return session_project.finished(session_project.new(
            "ProtFamlGroup", {"inputSubtomograms": (mixed, "trueSubtomograms")},
            numberOfThreads=2, findGroups=False, numberOfGroups=2))


def test_groups_are_classes_that_keep_the_alignment(project, checks, mixed, grouped):
    from scipion_faml import convert

    checks.checkClasses(grouped.classes, VOXEL_SIZE, 2)
    before = {item.getObjId(): item for item in convert.clones(mixed.trueSubtomograms)}
    members = {}
    for one_class in grouped.classes.iterItems():
        assert one_class.hasAlignment3D()
        assert one_class.getRepresentative().getFileName().endswith(
            f"group_{one_class.getObjId():03d}.mrc")
        members[one_class.getObjId()] = []
        for item in one_class.iterItems():
            known = before.pop(item.getObjId())
            np.testing.assert_array_equal(
                item.getTransform().getMatrix(), known.getTransform().getMatrix())
            assert item.getFileName() == known.getFileName()
            assert 0 <= item._famlProbability.get() <= 1
            members[one_class.getObjId()].append(known.getClassId())
    assert not before
    # Of 24 particles at SNR 0.3 nearly all are with their kind.
    assert all(max(kinds.count(1), kinds.count(2)) >= 0.9 * len(kinds)
               for kinds in members.values())
    summary = " ".join(grouped.summary())
    assert "*24* subtomograms in *2* group(s)" in summary and "Report" in summary


def test_the_viewer_shows_components_profiles_sizes_and_means(project, grouped):
    from scipion_faml.viewers import FamlGroupViewer

    viewer = FamlGroupViewer(project=project.project, protocol=grouped)
    everything = viewer.everything()
    for name in ("Components", "Sizes", "Radial density", "Slices"):
        assert everything.view(name).figure.axes, name
    page = viewer._show(next(r for r in viewer.rows() if r.name == "openReport"))[0].page()
    assert page.name == "report.html" and "Typical particles" in page.read_text()


def test_classes_of_groups_open_in_the_viewer_of_classes(project, grouped):
    from scipion_faml.viewers import FamlClassesViewer

    view = FamlClassesViewer(project=project.project).view(grouped.classes)
    for name in ("Averages", "Sizes", "Orientations"):
        assert view.view(name).figure.axes, name


def test_unfinished_groups_say_so(project, mixed):
    from scipion_faml.viewers import FamlGroupViewer
    from scipion_faml.viewers.figure_view import NothingToShow

    run = project.new("ProtFamlGroup", {"inputSubtomograms": (mixed, "subtomograms")})
    viewer = FamlGroupViewer(project=project.project, protocol=run)
    for show in (viewer.components, viewer.sizes, viewer.profiles, viewer.slices):
        with pytest.raises(NothingToShow, match="finished"):
            show()


def test_wrong_numbers_of_groups_are_told_before_the_run(project, mixed):
    run = project.new("ProtFamlGroup", {"inputSubtomograms": (mixed, "subtomograms")},
                      findGroups=False, numberOfGroups=25)
    assert any("25 groups asked of 24" in error for error in run.validate())
    run.findGroups.set(True)
    assert not run.validate()
