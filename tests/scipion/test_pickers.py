"""The pickers' protocols: streaming, masks, several sizes, orientations, classes, bad forms."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from scipion_faml.io import read_header

VOXEL_SIZE = 20.0


def copy_of_output(project, protocol, name, items, prefix, is_open=False):
    """Give a finished protocol one more output: a set of tomograms with these items."""
    from pyworkflow.object import Set
    from tomo.objects import SetOfTomograms

    made = SetOfTomograms.create(protocol.getPath(), prefix=prefix)
    made.copyInfo(protocol.tomograms)
    for item in items:
        made.append(item.clone())
    made.setStreamState(Set.STREAM_OPEN if is_open else Set.STREAM_CLOSED)
    made.write()
    protocol._defineOutputs(**{name: made})
    project.project.mapper.store(protocol)
    project.project.mapper.commit()
    return made


def wait_for(condition, what, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.5)


def ids_on_disk(path):
    """The tilt series ids in a set of coordinates that another process writes."""
    import sqlite3

    if not Path(path).is_file():
        return set()
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        columns = dict(connection.execute("SELECT label_property, column_name FROM Classes"))
        return {r[0] for r in connection.execute(f"SELECT {columns['_tomoId']} FROM Objects")}
    except sqlite3.OperationalError:
        return set()
    finally:
        connection.close()


# ------------------------------------------------------------------------------------- streaming
@pytest.mark.parametrize("threads", [1, 2])
def test_tomograms_are_picked_in_as_they_arrive(project, tomograms, threads):
    from pyworkflow.object import Set
    from tomo.objects import SetOfTomograms

    first, second = (item.clone() for item in tomograms.tomograms.iterItems())
    name = f"growing{threads}"
    growing = copy_of_output(project, tomograms, name, [first], name, is_open=True)
    run = project.new("ProtFamlPickDog", {"inputTomograms": (tomograms, name)}, diameter=150.0,
                      streamingSleepOnWait=1, numberOfThreads=threads, binThreads=1)
    project.project.launchProtocol(run, wait=False)
    output = run._getPath("coordinates.sqlite")
    wait_for(lambda: ids_on_disk(output) == {"tomogram_01"}, "positions of the first tomogram")
    project.project._updateProtocol(run)
    assert run.isActive()
    assert run.coordinates.isStreamOpen()
    more = SetOfTomograms(filename=growing.getFileName())
    more.loadAllProperties()
    more.enableAppend()
    more.append(second.clone())
    more.setStreamState(Set.STREAM_CLOSED)
    more.write()
    more.close()

    def is_over():
        project.project._updateProtocol(run)
        return not run.isActive()

    wait_for(is_over, "end")
    assert run.isFinished(), run.getErrorMessage()
    assert not run.coordinates.isStreamOpen()
    assert set(run.coordinates.getTSIds()) == {"tomogram_01", "tomogram_02"}
    assert Path(run.getStderrLog()).read_text().strip() == ""


def test_continue_picks_only_what_is_missing_and_anew_with_other_settings(project, tomograms):
    from pyworkflow.protocol import MODE_RESUME

    run = project.finished(project.new(
        "ProtFamlPickDog", {"inputTomograms": (tomograms, "tomograms")}, diameter=150.0))
    n_before = run.coordinates.getSize()
    made = Path(run._getExtraPath("tomogram_01", "picks.star")).stat().st_mtime_ns
    run.runMode.set(MODE_RESUME)
    project.finished(run)
    assert run.coordinates.getSize() == n_before
    assert Path(run._getExtraPath("tomogram_01", "picks.star")).stat().st_mtime_ns == made
    # The box says nothing about where particles are.
    run.boxSize.set(30)
    run.runMode.set(MODE_RESUME)
    project.finished(run)
    assert (run.coordinates.getSize(), run.coordinates.getBoxSize()) == (n_before, 30)
    run.maxPicks.set(2)
    run.runMode.set(MODE_RESUME)
    project.finished(run)
    assert run.coordinates.getSize() == 4


# ------------------------------------------------------------------------- masks, several sizes
@pytest.fixture(scope="module")
def masks(session_project, tomograms):
    """Masks of the left halves of the tomograms, as an output of their simulation."""
    import os

    from tomo.objects import SetOfTomoMasks, TomoMask

    from scipion_faml.io import read_volume, write_volume

    start = Path.cwd()
    session_project.enter()
    made = SetOfTomoMasks.create(tomograms.getPath(), prefix="masks")
    made.copyInfo(tomograms.tomograms)
    for tomogram in tomograms.tomograms.iterItems():
        volume = np.zeros(read_volume(tomogram.getFileName())[0].shape, dtype=np.float32)
        volume[:, :, :44] = 1.0
        path = tomograms._getExtraPath(f"{tomogram.getTsId()}_mask.mrc")
        write_volume(Path(path), volume, VOXEL_SIZE)
        mask = TomoMask()
        mask.setLocation(path)
        mask.setSamplingRate(VOXEL_SIZE)
        mask.setTsId(tomogram.getTsId())
        mask.setVolName(tomogram.getFileName())
        made.append(mask)
    made.write()
    tomograms._defineOutputs(masks=made)
    session_project.project.mapper.store(tomograms)
    session_project.project.mapper.commit()
    os.chdir(start)
    return tomograms


def test_a_mask_restricts_the_search(project, tomograms, masks):
    from tomo.constants import BOTTOM_LEFT_CORNER

    run = project.finished(project.new(
        "ProtFamlPickDog",
        {"inputTomograms": (tomograms, "tomograms"), "inputMasks": (masks, "masks")},
        diameter=150.0))
    found = [c.getPosition(BOTTOM_LEFT_CORNER)[0]
             for t in tomograms.tomograms.iterItems()
             for c in run.coordinates.iterCoordinates(volume=t)]
    assert found and max(found) < 44


def test_sizes_are_kept_with_the_positions_and_drawn(project, domain, tomograms, tmp_path):
    run = project.finished(project.new(
        "ProtFamlPickDog", {"inputTomograms": (tomograms, "tomograms")}, diameter=130.0,
        moreDiameters="260"))
    kept = {c._famlDiameter.get() for c in run.coordinates.iterCoordinates()}
    assert kept <= {130.0, 260.0} and kept
    assert run.coordinates.getBoxSize() == 20
    assert any(line.startswith("130 Å:") for line in run.summary())
    run.moreDiameters.set("big")
    assert "'big' is no positive number" in " ".join(run.validate())


# ------------------------------------------------------------------------------------- detector
def detector_can_run():
    import importlib.util

    return importlib.util.find_spec("torch") is not None


needs_torch = pytest.mark.skipif(not detector_can_run(), reason="PyTorch is not installed")


@pytest.fixture(scope="module")
def trained(session_project, tomograms):
    """A detector after one epoch on the simulated tomograms."""
    import os

    start = Path.cwd()
    session_project.enter()
    run = session_project.new("ProtFamlTrainDetector", epochs=1, batch=1, numberOfThreads=1,
                              classNames="groel, proteasome", diameters="160, 140")
    run.inputCoordinates.append(tomograms)
    run.inputCoordinates[0].setExtended("trueCoordinates")
    session_project.finished(run)
    os.chdir(start)
    return run


@needs_torch
def test_a_detector_is_trained_and_picks_with_classes(project, tomograms, trained):
    detector = trained.detector
    assert detector.getClassNames() == ["groel", "proteasome"]
    assert (detector.getSamplingRate(), detector.getDiameter()) == (VOXEL_SIZE, 160)
    assert Path(detector.getFileName()).is_file()
    assert len(trained.history()) == 1
    assert any("Epoch *1* of 1" in line for line in trained.summary())
    run = project.finished(project.new(
        "ProtFamlPickDetector",
        {"inputTomograms": (tomograms, "tomograms"), "inputDetector": (trained, "detector")},
        source=1, threshold=0.01, maxPicks=5, binThreads=1))
    groups = {c.getGroupId() for c in run.coordinates.iterCoordinates()}
    names = {c._famlModel.get() for c in run.coordinates.iterCoordinates()}
    assert groups <= {1, 2} and names <= {"groel", "proteasome"}
    assert run.coordinates.getBoxSize() == 12


@needs_torch
def test_training_is_shown_in_curves_and_words(domain, project, trained, tmp_path):
    viewer = domain.getViewers()["FamlTrainingViewer"](
        project=project.project, protocol=trained)
    viewer.setProtocol(trained)
    views = {name: show(name)[0] for name, show in viewer._getVisualizeDict().items()}
    views["showCurves"].savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert "proteasome: " in views["showResult"].getMessage()


@needs_torch
def test_one_set_for_each_class_is_training_data_too(project, tomograms, trained):
    run = project.new("ProtFamlTrainDetector", classesFrom=1, diameters="160")
    for number in range(2):
        run.inputCoordinates.append(tomograms)
        run.inputCoordinates[number].setExtended("trueCoordinates")
    assert not run.validate()
    table = run._labels(next(iter(tomograms.tomograms.iterItems())).clone())
    assert sorted(table.rows["rlnClassNumber"]) == [1] * 10 + [2] * 10
    run.classNames.set("one")
    run.heldOut.set("nowhere")
    errors = " ".join(run.validate())
    assert "1 names for 2 class(es)" in errors and "nowhere" in errors


@needs_torch
def test_a_weights_file_that_is_none_is_said(project, tomograms, tmp_path):
    missing = project.new("ProtFamlPickDetector", {"inputTomograms": (tomograms, "tomograms")},
                          source=2, weightsFile=str(tmp_path / "weights.pt"))
    assert "does not exist" in " ".join(missing.validate())
    (tmp_path / "weights.pt").write_text("not weights")
    run = project.run(project.new(
        "ProtFamlPickDetector", {"inputTomograms": (tomograms, "tomograms")}, source=2,
        weightsFile=str(tmp_path / "weights.pt")))
    assert run.isFailed() and "weights.pt" in run.getErrorMessage()
    assert "Traceback" not in run.getErrorMessage()


# --------------------------------------------------------------------------------------- forms
def test_forms_of_pickers_tell_every_problem(project, tomograms, particles):
    run = project.new(
        "ProtFamlPickTemplate",
        {"inputTomograms": (tomograms, "tomograms"),
         "inputTemplate": (tomograms, "trueAverages.1")},
        diameter=5000.0, symmetry="Z9", lowPass=60.0, highPass=30.0, boxSize=2, maxPicks=0,
        minDistance=-1.0)
    errors = " ".join(run.validate())
    for text in ("does not fit the template's box", "symmetry 'Z9' is not known",
                 "the first must be the larger", "8 at least", "must not be negative",
                 "one pick at least"):
        assert text in errors, text
    dog = project.new("ProtFamlPickDog", {"inputTomograms": (tomograms, "tomograms")},
                      diameter=30.0)
    assert "less than two voxels" in " ".join(dog.validate())


# ------------------------------------------------------------------------------------- template
def test_a_template_finds_particles_and_their_orientations(project, checks, tomograms):
    from scipion_faml import convert
    from scipion_faml.tables import COORDINATES

    run = project.finished(project.new(
        "ProtFamlPickTemplate",
        {"inputTomograms": (tomograms, "tomograms"),
         "inputTemplate": (tomograms, "trueAverages.1")},
        symmetry="D7", control=2, candidates=30, coarseStep=30.0, falsePositives=5.0, binThreads=2))
    coordinates = run.coordinates
    checks.checkCoordinates(coordinates, coordinates.getSize(), coordinates.getBoxSize(),
                            VOXEL_SIZE, orientedParticles=True)
    assert all(0 < c.getScore() <= 1 for c in coordinates.iterCoordinates())
    n_hit = 0
    for tomogram in convert.clones(tomograms.tomograms):
        truth = convert.picks_table(tomograms.trueCoordinates, tomogram).rows
        truth = truth[truth["rlnClassNumber"] == 1][COORDINATES].to_numpy()
        found = convert.picks_table(coordinates, tomogram).rows[COORDINATES].to_numpy()
        n_hit += int((np.linalg.norm(truth[:, None] - found[None], axis=2).min(axis=1) < 2).sum())
    assert n_hit >= 8  # of 10
    assert any("correlation" in line for line in run.summary())
    extracted = project.finished(project.new(
        "ProtFamlExtractSubtomograms", {"inputCoordinates": (run, "coordinates")}, boxSize=16,
        doPad=True))
    assert extracted.subtomograms.hasAlignment3D()


def test_a_template_is_a_file_too(project, tomograms, tmp_path):
    from pwem.objects import AtomStruct

    inputs = {"inputTomograms": (tomograms, "tomograms")}
    path = Path(next(iter(tomograms.trueAverages.iterItems())).getFileName()).resolve()
    run = project.new("ProtFamlPickTemplate", inputs, templateFrom=1, templateFile=str(path))
    assert run.validate() == []
    assert run.template().getSamplingRate() == pytest.approx(VOXEL_SIZE)
    run.templateVoxelSize.set(9.0)
    assert run.template().getSamplingRate() == 9.0
    assert read_header(run._templateFile(tmp_path))[1] == pytest.approx(9.0)
    (tmp_path / "model.CIF").write_text("data_x")
    run.templateFile.set(str(tmp_path / "model.CIF"))
    assert isinstance(run.template(), AtomStruct)
    for name, message in (("", "Choose the template's file"), ("gone.mrc", "does not exist"),
                          (str(tmp_path / "bad.mrc"), "not a readable MRC")):
        (tmp_path / "bad.mrc").write_text("no map")
        run.templateFile.set(name)
        assert message in " ".join(run.validate())
