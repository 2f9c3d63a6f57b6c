"""Simulated tomograms of a preset, with gold and vesicles."""

from __future__ import annotations

import numpy as np

from scipion_faml.io import read_volume
from scipion_faml.tables import read_particles


def test_a_crowd_of_twelve_classes_with_gold_and_a_vesicle(project):
    run = project.finished(project.new(
        "ProtFamlSimulateTomograms", preset=1, sizeX=110, sizeY=100, sizeZ=70, voxelSize=12.0,
        snr=1.0, tiltStep=20.0, gold=2, membranes=1, binThreads=1))
    truth = run.trueCoordinates
    assert {c.getGroupId() for c in truth.iterCoordinates()} == set(range(1, 13))
    assert run.trueAverages.getSize() == 12
    folder = run._getExtraPath("tomogram_01")
    others = read_particles(f"{folder}/surroundings.star").rows
    assert list(others["famlModel"]) == ["vesicle", "gold", "gold"]
    labels = read_volume(f"{folder}/instances.mrc")[0]
    # A particle that the sides cut may have its label outside.
    assert truth.getSize() - 3 <= len(np.unique(labels)) - 1 <= truth.getSize()
    assert "twelve classes as in SHREC" in " ".join(run.summary())


def test_the_ctf_is_left_alone_when_the_form_says_so(project):
    def volume(**choice):
        run = project.finished(project.new(
            "ProtFamlSimulateTomograms", structures="groel", counts="2", sizeX=64, sizeY=64,
            sizeZ=40, voxelSize=12.0, snr=1.0, tiltStep=20.0, binThreads=1, **choice))
        return read_volume(run._getExtraPath("tomogram_01.mrc"))[0]

    flipped, plain = volume(), volume(ctfCorrection=0)
    assert not np.allclose(flipped, plain)


def test_a_missing_folder_of_models_is_said_before_the_run(project):
    protocol = project.new("ProtFamlSimulateTomograms", preset=1, modelFolders="/nowhere/models")
    assert any("/nowhere/models is no folder" in error for error in protocol.validate())
