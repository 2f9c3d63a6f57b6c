"""Extraction follows picking while tomograms arrive; the result is that of one go."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from scipion_faml.io import read_volume


def new_set(project, protocol, name, like, items, is_open=False):
    """Give a finished protocol one more output: a set like another with these items."""
    from pyworkflow.object import Set

    made = type(like).create(protocol.getPath(), prefix=name)
    made.copyInfo(like)
    if hasattr(like, "_precedentsPointer"):
        made.setPrecedents(like._precedentsPointer)
    for item in items:
        made.append(item)
    made.setStreamState(Set.STREAM_OPEN if is_open else Set.STREAM_CLOSED)
    made.write()
    protocol._defineOutputs(**{name: made})
    project.project.mapper.store(protocol)
    project.project.mapper.commit()
    return made


def grow(path, kind, items, close=True):
    """Append to a set on disk, as another process does."""
    from pyworkflow.object import Set

    more = kind(filename=path)
    more.loadAllProperties()
    more.enableAppend()
    for item in items:
        more.append(item)
    more.setStreamState(Set.STREAM_CLOSED if close else Set.STREAM_OPEN)
    more.write()
    more.close()


def positions(coordinates, tomogram):
    """The coordinates in a tomogram (cloned, without ids of their own)."""
    found = []
    for item in coordinates.iterCoordinates(volume=tomogram):
        found.append(item.clone())
        found[-1].setVolume(tomogram)
    return found


def extraction(project, source, name, **values):
    return project.new(
        "ProtFamlExtractSubtomograms", {"inputCoordinates": (source, name)},
        **{"boxSize": 16, "doPad": True, "binThreads": 1, "streamingSleepOnWait": 1, **values})


def content(run):
    """Each particle's bits, matrix and centre by its tomogram and place."""
    found = {}
    for image in run.subtomograms.iterItems():
        place = image.getCoordinate3D()
        xyz = (place._x, place._y, place._z)
        key = image.getVolName(), *(round(float(v.get()), 3) for v in xyz)
        assert key not in found
        found[key] = (read_volume(image.getFileName())[0].tobytes(),
                      image.getTransform().getMatrix().tolist(), image._famlCentreX.get(),
                      image.getAcquisition().getAngleMin(), image.getSamplingRate())
    run.subtomograms.close()  # or the set stays locked for the next run in this process
    return found


def file_names(run):
    names = [image.getFileName() for image in run.subtomograms.iterItems()]
    run.subtomograms.close()
    return names


def wait_for(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.3)


def over(project, run):
    project.project._updateProtocol(run)
    return not run.isActive()


def test_extraction_follows_a_picker_while_tomograms_arrive(project, tomograms):
    first, second = (item.clone() for item in tomograms.tomograms.iterItems())
    growing = new_set(project, tomograms, "arriving", tomograms.tomograms, [first.clone()], True)
    pick = project.new("ProtFamlPickDog", {"inputTomograms": (tomograms, "arriving")},
                       diameter=150.0, boxSize=16, streamingSleepOnWait=1, binThreads=1)
    project.project.launchProtocol(pick, wait=False)
    wait_for(lambda: over(project, pick) or hasattr(pick, "coordinates"), "positions")
    run = extraction(project, pick, "coordinates")
    assert run.worksInStreaming() and not run.validate()
    project.project.launchProtocol(run, wait=False)
    wait_for(lambda: over(project, run) or hasattr(run, "subtomograms"), "subtomograms")
    assert run.isActive() and run.subtomograms.isStreamOpen(), run.getErrorMessage()
    status = json.loads(Path(run._getExtraPath("status.json")).read_text())
    assert status["state"] == "running" and status["verb"] == "extract"
    assert status["run"]["counts"] == {
        "tomograms": 1, "positions": run.subtomograms.getSize(),
        "particles": run.subtomograms.getSize()}
    early = run.subtomograms.getSize()
    assert early > 0 and "More positions may come." in run.summary()
    grow(growing.getFileName(), type(growing), [second.clone()])
    wait_for(lambda: over(project, pick), "end of picking")
    wait_for(lambda: over(project, run), "end of extraction")
    assert pick.isFinished() and run.isFinished(), run.getErrorMessage()
    assert not run.subtomograms.isStreamOpen() and run.subtomograms.getSize() > early
    assert Path(run.getStderrLog()).read_text().strip() == ""
    status = json.loads(Path(run._getExtraPath("status.json")).read_text())
    assert status["state"] == "finished" and status["run"]["counts"]["tomograms"] == 2
    at_once = project.finished(extraction(project, pick, "coordinates"))
    assert content(run) == content(at_once)


def test_a_tomogram_that_fails_is_listed_and_the_others_go_on(project, tomograms, picked):
    first, second = (item.clone() for item in tomograms.tomograms.iterItems())
    broken = second.clone()
    gone = Path(second.getFileName()).with_name("gone.mrc")
    gone.write_bytes(Path(second.getFileName()).read_bytes())
    broken.setLocation(str(gone))
    new_set(project, tomograms, "oneBroken", tomograms.tomograms, [first.clone(), broken])
    gone.unlink()
    run = project.new(
        "ProtFamlExtractSubtomograms",
        {"inputCoordinates": (picked, "coordinates"), "inputTomograms": (tomograms, "oneBroken")},
        boxSize=16, doPad=True, binThreads=1)
    project.finished(run)
    assert {key[0] for key in content(run)} == {"tomogram_01"}
    summary = " ".join(run.summary())
    assert "tomogram_02 failed:" in summary and "gone.mrc does not exist" in summary
    # Mended, Continue extracts what is missing, and nothing twice.
    from pyworkflow.protocol import MODE_RESUME

    first_file = Path(file_names(run)[0])
    stamp = first_file.stat().st_mtime_ns
    mended = new_set(project, tomograms, "mended", tomograms.tomograms, [first.clone(), second])
    path = Path(tomograms.oneBroken.getFileName())
    tomograms.oneBroken.close()
    mended.close()
    path.write_bytes(Path(mended.getFileName()).read_bytes())
    run.runMode.set(MODE_RESUME)
    project.finished(run)
    assert first_file.stat().st_mtime_ns == stamp
    assert "failed" not in " ".join(run.summary())
    at_once = project.finished(extraction(project, picked, "coordinates"))
    assert content(run) == content(at_once)


def test_positions_that_come_later_are_a_batch_of_their_own(project, tomograms, picked):
    from pyworkflow.protocol import MODE_RESUME

    first, second = (item.clone() for item in tomograms.tomograms.iterItems())
    found = positions(picked.coordinates, first)
    more = positions(picked.coordinates, second)
    growing = new_set(project, picked, "growing", picked.coordinates, found[:4])
    run = project.finished(extraction(project, picked, "growing"))
    assert run.subtomograms.getSize() == 4
    names = file_names(run)
    stamps = [Path(name).stat().st_mtime_ns for name in names]
    grow(growing.getFileName(), type(growing), found[4:] + more)
    run.runMode.set(MODE_RESUME)
    project.finished(run)
    assert [Path(name).stat().st_mtime_ns for name in names] == stamps
    assert Path(run._getExtraPath("tomogram_01_part2", "subtomograms")).is_dir()
    at_once = project.finished(extraction(project, picked, "coordinates"))
    assert content(run) == content(at_once)
    # A finished run has nothing to do; other settings begin anew.
    run.runMode.set(MODE_RESUME)
    project.finished(run)
    assert content(run) == content(at_once)
    run.runMode.set(MODE_RESUME)
    run.doInvert.set(True)
    project.finished(run)
    inverted, upright = content(run), content(at_once)
    assert inverted.keys() == upright.keys()
    assert not Path(run._getExtraPath("tomogram_01_part2")).exists()
    for key, (bits, *_) in inverted.items():
        np.testing.assert_allclose(
            np.frombuffer(bits, np.float32), -np.frombuffer(upright[key][0], np.float32), atol=1e-5)


def test_positions_that_have_moved_are_extracted_anew(project, tomograms, picked):
    from pyworkflow.protocol import MODE_RESUME

    first, _ = (item.clone() for item in tomograms.tomograms.iterItems())
    found = positions(picked.coordinates, first)
    new_set(project, picked, "moving", picked.coordinates, found[:3])
    run = project.finished(extraction(project, picked, "moving"))
    before = content(run)
    picked.moving.close()
    for item in found[:3]:
        item.cleanObjId()
        item._x.set(item._x.get() + 2)
    Path(picked.moving.getFileName()).unlink()
    new_set(project, picked, "moving", picked.coordinates, found[:3])
    run.runMode.set(MODE_RESUME)
    project.finished(run)
    after = content(run)
    assert len(after) == 3 and not after.keys() & before.keys()


@pytest.mark.parametrize("is_open", [False, True])
def test_an_empty_set_is_refused_unless_it_may_grow(project, picked, is_open):
    name = f"empty{is_open}"
    new_set(project, picked, name, picked.coordinates, [], is_open)
    errors = extraction(project, picked, name).validate()
    assert ("The set of coordinates is empty." in errors) != is_open
