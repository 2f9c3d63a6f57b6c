"""Export and import of particles as Scipion's sets."""

from __future__ import annotations

from pathlib import Path

import dynamotable
import numpy as np
import pytest
import starfile

from scipion_faml.exchange.formats import FORMATS

MAIN_FILE = {"relion3": "particles.star", "relion4": "particles.star",
             "relion5": "particles.star", "dynamo": "particles.tbl",
             "eman": "particle_parms_01.json", "motl": "motl_1.em"}


def matrices_of(images):
    return np.array([item.getTransform().getMatrix() for item in images.iterItems()])


def positions_of(coordinates):
    from tomo.constants import BOTTOM_LEFT_CORNER

    return np.array([item.clone().getPosition(BOTTOM_LEFT_CORNER)
                     for tomogram in list(coordinates.getPrecedents().iterItems())
                     for item in coordinates.iterCoordinates(volume=tomogram.clone())])


def export(project, source, output, name, **settings):
    return project.finished(project.new(
        "ProtFamlExportParticles", {"inputParticles": (source, output)},
        fileFormat=FORMATS.index(name), **settings))


@pytest.fixture(scope="module")
def extracted(session_project, tomograms):
    """Particles cut at the true positions, with their orientations."""
    import os

    start = Path.cwd()
    session_project.enter()
    try:
        return session_project.finished(session_project.new(
            "ProtFamlExtractSubtomograms", {"inputCoordinates": (tomograms, "trueCoordinates")},
            boxSize=16, binThreads=1, doPad=True))
    finally:
        os.chdir(start)


@pytest.mark.parametrize("name", ["relion5", "dynamo", "eman", "motl"])
def test_particles_come_back_with_their_alignment_and_positions(
        project, extracted, tomograms, checks, name):
    run = export(project, extracted, "subtomograms", name)
    back = project.finished(project.new(
        "ProtFamlImportParticles", {"inputTomograms": (tomograms, "tomograms")},
        filePath=run._getExtraPath("results", MAIN_FILE[name]), voxelSize=20.0,
        tiltMin=-54.0, tiltMax=60.0))
    given, found = extracted.subtomograms, back.subtomograms
    assert found.getSize() == given.getSize()
    np.testing.assert_allclose(matrices_of(found), matrices_of(given), atol=1e-4)
    assert [i.getVolName() for i in found.iterItems()] == [
        i.getVolName() for i in given.iterItems()]
    checks.checkExtractedSubtomos(
        back.coordinates, found, expectedSetSize=given.getSize(), expectedSRate=20.0,
        expectedBoxSize=16, convention=None, orientedParticles=True)
    item = found.getFirstItem()
    assert (item.getAcquisition().getAngleMin(), item.getAcquisition().getAngleMax()) == (-54, 60)
    # The position is the box's centre, a whole voxel; the remainder is in the matrix.
    np.testing.assert_allclose(
        positions_of(back.coordinates), positions_of(given.getCoordinates3D()), atol=0.51)
    assert back._summary()[0].startswith("*")


def test_particles_that_were_refined_elsewhere_update_their_set(project, extracted):
    run = export(project, extracted, "subtomograms", "dynamo")
    path = Path(run._getExtraPath("results", "particles.tbl"))
    table = dynamotable.read(str(path))
    refined = path.with_name("refined.tbl")
    dynamotable.write(table.iloc[1:].assign(**{"class": 2}, dx=table["dx"] + 1), str(refined))
    wrong = project.new("ProtFamlImportParticles", filePath="nothing.tbl")
    assert wrong._validate() == ["nothing.tbl does not exist."]
    back = project.new("ProtFamlImportParticles", filePath=str(refined))
    back.exportRun.set(run)
    project.finished(back)
    assert back.subtomograms.getSize() == extracted.subtomograms.getSize() - 1
    before = {i.getObjId(): i.clone() for i in extracted.subtomograms.iterItems()}
    for item in back.subtomograms.iterItems():
        assert item.getClassId() == 2
        old = before[item.getObjId()]
        assert item.getFileName() == old.getFileName()
        centre, old_centre = (np.linalg.inv(i.getTransform().getMatrix())[:3, 3]
                              for i in (item, old))
        np.testing.assert_allclose(centre - old_centre, [1, 0, 0], atol=1e-4)


def test_positions_go_to_relion_5_and_come_back(project, tomograms):
    run = export(project, tomograms, "trueCoordinates", "relion5")
    rows = starfile.read(run._getExtraPath("results", "particles.star"), always_dict=True)
    assert "rlnCenteredCoordinateXAngst" in rows["particles"]
    back = project.finished(project.new(
        "ProtFamlImportParticles", {"inputTomograms": (tomograms, "tomograms")},
        filePath=run._getExtraPath("results", "particles.star"), boxSize=18))
    assert not hasattr(back, "subtomograms")
    assert back.coordinates.getBoxSize() == 18
    np.testing.assert_allclose(
        positions_of(back.coordinates), positions_of(tomograms.trueCoordinates), atol=1e-3)
    for found, given in zip(back.coordinates.iterCoordinates(),
                            tomograms.trueCoordinates.iterCoordinates(), strict=True):
        np.testing.assert_allclose(found.getMatrix(), given.getMatrix(), atol=1e-4)


def test_peet_gets_a_list_for_each_tomogram(project, tomograms):
    run = export(project, tomograms, "trueCoordinates", "peet")
    folder = Path(run._getExtraPath("results"))
    assert sorted(path.name for path in folder.glob("*.csv")) == [
        "tomogram_01_MOTL.csv", "tomogram_02_MOTL.csv"]
    assert any("point2model" in line for line in run._summary())


def test_impossible_exports_are_said_in_the_form(project, particles, tomograms):
    run = project.new("ProtFamlExportParticles", {"inputParticles": (particles, "subtomograms")},
                      fileFormat=FORMATS.index("eman"), volumes=3)
    assert any("cannot have these volumes" in error for error in run._validate())
    run = project.new("ProtFamlExportParticles", {"inputParticles": (particles, "subtomograms")},
                      fileFormat=FORMATS.index("relion5"))
    assert any("tomograms.star" in error for error in run._validate())
    run = project.new("ProtFamlExportParticles", {"inputParticles": (tomograms, "trueCoordinates")},
                      fileFormat=FORMATS.index("eman"))
    assert any("extract" in error for error in run._validate())
    run = project.new("ProtFamlImportParticles", filePath=__file__)
    assert any("--format" in error for error in run._validate())
