"""Every protocol on small simulated data, with the Scipion team's interoperability checks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scipion_faml.io import read_cube, read_volume

VOXEL_SIZE = 20.0


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_scipion_finds_protocols_viewers_wizards_and_references(domain):
    ours = {name: p for name, p in domain.getProtocols().items() if name.startswith("ProtFaml")}
    labels = {p._label for p in ours.values() if p._label and p._label != "None"}
    assert {"simulate tomograms", "simulate subtomograms", "extract subtomograms",
            "pick particles (difference of Gaussians)", "classify and average (FAML)",
            "align to a reference (FA)", "average aligned subtomograms",
            "evaluate against truth"} <= labels
    assert {n for n in domain.getViewers() if n.startswith("Faml")} >= {
        "FamlClassifyViewer", "FamlAlignViewer", "FamlClassesViewer", "FamlAveragesViewer",
        "FamlEvaluationViewer", "FamlPicksViewer"}
    assert {"FamlPickBoxWizard", "FamlExtractBoxWizard", "FamlTiltRangeWizard"} <= set(
        domain.getWizards())
    references = domain.getPluginModule("scipion_faml")._bibtex
    for protocol in ours.values():
        cited = protocol(workingDir=".")._citations() if protocol._label else []
        assert set(cited) <= set(references)


def test_the_menu_lists_every_protocol(domain):
    import pyworkflow as pw
    from pyworkflow.gui.project.viewprotocols_extra import ProtocolTreeConfig

    def leaves(node):
        yield getattr(node, "value", None)
        for child in node.childs:
            yield from leaves(child)

    tree = ProtocolTreeConfig.load(domain, pw.Config.SCIPION_PROTOCOLS)["Tomography"]
    listed = {str(value) for value in leaves(tree) if str(value).startswith("ProtFaml")}
    assert listed == {name for name in domain.getProtocols()
                      if name.startswith("ProtFaml") and name != "ProtFamlBase"}


# ------------------------------------------------------------------------------------ simulation
def test_simulated_tomograms_pass_the_checks_and_hold_particles_where_they_say(
    project, checks, tomograms
):
    from tomo.constants import BOTTOM_LEFT_CORNER

    from scipion_faml import convert

    acquisition = convert.new_acquisition(-54, 60, 3)
    checks.checkTomograms(tomograms.tomograms, 2, VOXEL_SIZE, [88, 80, 40],
                          testSetAcqObj=acquisition, testAcqObj=acquisition,
                          isHeterogeneousSet=False)
    truth = tomograms.trueCoordinates
    checks.checkCoordinates(truth, 20, truth.getBoxSize(), VOXEL_SIZE, orientedParticles=True)
    assert {c.getGroupId() for c in truth.iterCoordinates()} == {1, 2}
    for tomogram in tomograms.tomograms.iterItems():
        volume = read_volume(tomogram.getFileName())[0]
        positions = [c.getPosition(BOTTOM_LEFT_CORNER)
                     for c in truth.iterCoordinates(volume=tomogram)]
        index = np.round(positions).astype(int)
        near = [volume[z - 2:z + 3, y - 2:y + 3, x - 2:x + 3].mean() for x, y, z in index]
        assert np.mean(near) > volume.mean() + 0.5 * volume.std()
    assert [a.getObjLabel() for a in tomograms.trueAverages.iterItems()] == ["groel", "proteasome"]


def test_simulated_subtomograms_come_without_and_with_answers(project, checks, particles):
    blind, true = particles.subtomograms, particles.trueSubtomograms
    for images in (blind, true):
        checks.checkSetGeneralProps(images, 12, VOXEL_SIZE)
        for image in images.iterItems():
            checks.checkSubtomogram(image, VOXEL_SIZE, 16)
            assert (image.getAcquisition().getAngleMin(), image.getAcquisition().getAngleMax()) == (
                -60, 60)
    assert not blind.hasAlignment3D() and true.hasAlignment3D()
    assert all(np.array_equal(i.getTransform().getMatrix(), np.eye(4)) for i in blind.iterItems())
    assert sorted(i.getClassId() for i in true.iterItems()) == [1] * 6 + [2] * 6
    assert [i.getFileName() for i in blind.iterItems()] == [
        i.getFileName() for i in true.iterItems()]
    for average in particles.trueAverages.iterItems():
        checks.checkAverage(average, VOXEL_SIZE, 16, hasHalves=False)


# ------------------------------------------------------------------------------------- averaging
def test_true_orientations_average_to_the_true_map_through_scipion(project, checks, particles):
    one = project.finished(project.new(
        "ProtFamlSimulateSubtomograms", structures="blobs:3", counts="10", boxSize=16,
        voxelSize=VOXEL_SIZE, snr=4.0, maxShift=1.0, optics=1))
    run = project.finished(project.new(
        "ProtFamlAverage", {"inputSubtomograms": (one, "trueSubtomograms")}, numberOfThreads=2))
    checks.checkAverage(run.average, VOXEL_SIZE, 16, hasHalves=True)
    average = read_cube(run.average.getFileName())[0]
    truth = read_cube(one.trueAverages.getFirstItem().getFileName())[0]
    # Ten particles at SNR 4: the average must be the map, in the map's own frame.
    assert correlation(average, truth) > 0.9
    assert float(run.fscs.getFirstItem().calculateResolution()) < 8 * VOXEL_SIZE


def test_classification_outputs_pass_the_checks(project, checks, particles, classified):
    checks.checkClasses(classified.classes, VOXEL_SIZE, classified.classes.getSize())
    checks.checkSetGeneralProps(classified.averages, 2, VOXEL_SIZE)
    for average in classified.averages.iterItems():
        checks.checkAverage(average, VOXEL_SIZE, 16, hasHalves=False)
    aligned = classified.subtomograms
    checks.checkSetGeneralProps(aligned, 12, VOXEL_SIZE)
    assert aligned.hasAlignment3D()
    by_class = {c.getObjId(): {i.getObjId() for i in c.iterItems()}
                for c in classified.classes.iterItems()}
    for image in aligned.iterItems():
        assert image.getObjId() in by_class[image.getClassId()]
        assert 0 < image._famlProbability.get() <= 1
    assert len(classified.history()) == 2
    assert any("Iteration *2* of 2" in line for line in classified.summary())
    assert "[Zhao2018]" in classified._methods()[0]


def test_enhanced_mode_gives_halves_and_fsc(project, checks, particles, enhanced):
    checks.checkClasses(enhanced.classes, VOXEL_SIZE, enhanced.classes.getSize())
    checks.checkSetGeneralProps(enhanced.averages, 2, VOXEL_SIZE)
    for average in enhanced.averages.iterItems():
        checks.checkAverage(average, VOXEL_SIZE, 16, hasHalves=True)
        halves = [read_cube(name)[0] for name in average.getHalfMaps().split(",")]
        assert len(halves) == 2 and all(h.shape == (16, 16, 16) for h in halves)
    names = ["class_001", "class_002"]  # cleared of aligned noise, then as they were
    assert [f.getObjLabel() for f in enhanced.fscs.iterItems()] == [
        *names, *(f"{name}_uncorrected" for name in names)]
    summary = " ".join(enhanced.summary())
    assert "log evidence against noise" in summary and "FSC 0.143" in summary
    assert "enhanced mode, symmetry C1" in enhanced._methods()[0]
    assert {row["phase"] for row in enhanced.history()} <= {"dense", "focused", "local"}


def test_symmetry_and_mask_reach_the_averages(project, checks):
    truth = project.finished(project.new(
        "ProtFamlSimulateSubtomograms", structures="groel", counts="10", boxSize=20,
        voxelSize=VOXEL_SIZE, snr=1.0, maxShift=1.0, optics=1))
    average = {
        group: project.finished(project.new(
            "ProtFamlAverage", {"inputSubtomograms": (truth, "trueSubtomograms")}, symmetry=group))
        for group in ("C1", "D7")
    }
    true_map = read_cube(truth.trueAverages.getFirstItem().getFileName())[0]
    found = {g: read_cube(run.average.getFileName())[0] for g, run in average.items()}
    assert correlation(found["D7"], true_map) > correlation(found["C1"], true_map)
    blind = project.new(
        "ProtFamlClassify", {"inputSubtomograms": (truth, "subtomograms")}, numberOfClasses=1,
        numberOfIterations=1, symmetry="D7", mode=1)
    assert "enhanced mode finds the axes" in " ".join(blind.validate())
    blind.symmetry.set("auto")
    assert "Symmetry auto needs enhanced mode" in " ".join(blind.validate())
    blind.mode.set(0)
    assert not blind.validate()
    blind.symmetry.set("Z9")
    assert "symmetry 'Z9' is not known" in " ".join(blind.validate())


def test_the_number_of_classes_is_found_and_every_class_has_its_average(project, checks):
    two = project.finished(project.new(
        "ProtFamlSimulateSubtomograms", structures="blobs:1, blobs:2", counts="7", boxSize=16,
        voxelSize=VOXEL_SIZE, snr=2.0, maxShift=1.0, optics=1))
    run = project.finished(project.new(
        "ProtFamlClassify", {"inputSubtomograms": (two, "subtomograms")}, findClasses=True,
        numberOfClasses=9, maxClasses=3, numberOfIterations=1, maxShift=1.5, lowPass=80.0,
        startShells=4, denseBandwidth=12, folds=4, numberOfThreads=2))
    n_found = run.classCount()
    assert 1 <= n_found <= 3
    checks.checkSetGeneralProps(run.averages, n_found, VOXEL_SIZE)
    assert f"{n_found} class(es)" in run._methods()[0]
    assert "9" not in run._methods()[0]


def test_finding_classes_needs_folds_and_no_starting_averages(project, particles):
    run = project.new("ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")},
                      findClasses=True, numberOfClasses=13, folds=1)
    run.inputReferences.set(particles)
    run.inputReferences.setExtended("trueAverages")
    errors = " ".join(run.validate())
    assert "use 4 folds or more" in errors and "do not ask to find" in errors
    assert "13 classes" not in errors
    run.mode.set(1)
    assert "13 classes asked of 12" in " ".join(run.validate())


def test_aligning_to_the_true_map_finds_the_true_orientations(project, checks, particles):
    from scipion_faml.geometry import from_scipion_matrices, rotation_angle_deg

    one = project.finished(project.new(
        "ProtFamlSimulateSubtomograms", structures="blobs:3", counts="5", boxSize=16,
        voxelSize=VOXEL_SIZE, snr=4.0, maxShift=1.0, optics=1))
    run = project.new("ProtFamlAlign", {"inputSubtomograms": (one, "subtomograms")},
                      search=0, lowPass=50.0, numberOfThreads=2)
    run.inputReference.set(one)
    run.inputReference.setExtended("trueAverages.1")
    project.finished(run)
    checks.checkAverage(run.average, VOXEL_SIZE, 16, hasHalves=True)
    checks.checkSetGeneralProps(run.subtomograms, 5, VOXEL_SIZE)
    found, true = (
        from_scipion_matrices(np.array([i.getTransform().getMatrix() for i in s.iterItems()]))
        for s in (run.subtomograms, one.trueSubtomograms)
    )
    assert np.median(rotation_angle_deg(found.rotation, true.rotation)) < 15
    assert np.median(np.linalg.norm(found.shift_xyz - true.shift_xyz, axis=1)) < 1.0


# ---------------------------------------------------------------------------- picking, extraction
def test_picks_pass_the_checks_and_find_the_particles(project, checks, tomograms, picked):
    coordinates = picked.coordinates
    checks.checkCoordinates(coordinates, coordinates.getSize(), 16, VOXEL_SIZE)
    assert 14 <= coordinates.getSize() <= 26  # of 20
    assert all(c.getScore() > 0 for c in coordinates.iterCoordinates())


def test_extracted_subtomograms_pass_the_checks(project, checks, tomograms, picked):
    run = project.finished(project.new(
        "ProtFamlExtractSubtomograms", {"inputCoordinates": (picked, "coordinates")},
        boxSize=16, binThreads=2))
    n_taken = run.subtomograms.getSize()
    if n_taken == picked.coordinates.getSize():
        checks.checkExtractedSubtomos(picked.coordinates, run.subtomograms, n_taken, 16, VOXEL_SIZE)
    else:
        assert any("left out" in line for line in run.summary())
    for image in run.subtomograms.iterSubtomos():
        assert image.getAcquisition().getAngleMin() == -54
        assert image.getVolName() == image.getCoordinate3D().getTomoId()


@pytest.mark.parametrize("binning", [1, 2])
def test_extracted_true_positions_keep_their_orientations(project, checks, tomograms, binning):
    from scipion_faml import convert

    run = project.finished(project.new(
        "ProtFamlExtractSubtomograms", {"inputCoordinates": (tomograms, "trueCoordinates")},
        boxSize=16 // binning, binning=binning, binThreads=2))
    images = run.subtomograms
    assert images.hasAlignment3D() and images.getSamplingRate() == VOXEL_SIZE * binning
    assert images.getDim() == (16 // binning,) * 3
    for image in images.iterSubtomos():
        ours = convert.matrix_of(image)[:3, :3]
        np.testing.assert_allclose(ours, image.getCoordinate3D().getMatrix()[:3, :3], atol=1e-4)


def test_particles_extracted_at_true_positions_average_to_the_true_map(project, tomograms):
    extracted = project.finished(project.new(
        "ProtFamlExtractSubtomograms", {"inputCoordinates": (tomograms, "trueCoordinates")},
        boxSize=16, binThreads=2))
    run = project.finished(project.new(
        "ProtFamlAverage", {"inputSubtomograms": (extracted, "subtomograms")}))
    maps = [read_cube(a.getFileName())[0] for a in tomograms.trueAverages.iterItems()]
    from scipion_faml.volume import crop_or_pad

    # Both structures together: the mean of the two true maps.
    truth = sum(crop_or_pad(m, (16, 16, 16)) for m in maps)
    assert correlation(read_cube(run.average.getFileName())[0], truth) > 0.8


# ------------------------------------------------------------------------------------ evaluation
def test_evaluation_of_the_truth_itself_is_perfect(project, particles):
    run = project.finished(project.new(
        "ProtFamlEvaluate",
        {"inputSubtomograms": (particles, "trueSubtomograms"),
         "trueSubtomograms": (particles, "trueSubtomograms"),
         "inputAverages": (particles, "trueAverages"),
         "trueAverages": (particles, "trueAverages")}))
    results = run.results()
    assert results["classes"]["f1_mean"] == 1.0
    assert results["classes"]["true_names"] == ["blobs:1", "blobs:2"]
    assert results["poses"]["rotation_median_deg"] < 0.1
    assert all(r["cc_masked"] > 0.95 for r in run.averageResults().values())
    assert run.fscs.getSize() == 2


def test_evaluation_of_picks_counts_hits(project, tomograms, picked):
    run = project.finished(project.new(
        "ProtFamlEvaluate",
        {"inputCoordinates": (picked, "coordinates"),
         "trueCoordinates": (tomograms, "trueCoordinates")}, radius=60.0))
    assert run.results()["picks"]["f1"] > 0.8
    assert any(line.startswith("Positions:") for line in run.summary())


# ---------------------------------------------------------------------------------- user mistakes
def test_all_problems_of_a_form_are_told_at_once(project, particles):
    run = project.new("ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")},
                      numberOfClasses=13, tiltMin=0.0, tiltMax=0.0)
    errors = " ".join(run.validate())
    assert "13 classes asked of 12" in errors
    assert "Tilt range 0 to 0 deg is not possible" in errors
    run.tiltMax.set(None)
    assert "or neither" in " ".join(run.validate())
    simulation = project.new("ProtFamlSimulateSubtomograms", structures="groel, tric",
                             counts="3, x", tiltStep=0.0)
    errors = " ".join(simulation.validate())
    assert "'x' is no number" in errors and "tilt step" in errors


def test_nothing_to_judge_is_an_error(project, particles, picked):
    run = project.new("ProtFamlEvaluate", {"inputCoordinates": (picked, "coordinates"),
                                           "trueSubtomograms": (particles, "trueSubtomograms")})
    assert any("Nothing can be judged" in error for error in run.validate())


def test_a_damaged_particle_ends_in_one_line_that_names_it(project, particles, capfd):
    from tomo.objects import SetOfSubTomograms

    from scipion_faml import convert

    source = project.finished(project.new(
        "ProtFamlSimulateSubtomograms", structures="blobs:1", counts="3", boxSize=16,
        voxelSize=VOXEL_SIZE, optics=1))
    assert isinstance(source.subtomograms, SetOfSubTomograms)
    path = Path(convert.mrc_file(source.subtomograms.getFirstItem(), "unused.mrc"))
    path.write_bytes(path.read_bytes()[:2000])
    run = project.run(project.new(
        "ProtFamlClassify", {"inputSubtomograms": (source, "subtomograms")}, numberOfClasses=1,
        numberOfIterations=1))
    assert run.isFailed()
    message = run.getErrorMessage()
    assert path.name in message and "Traceback" not in message and "\n" not in message.strip()
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("protocol, values", [
    ("ProtFamlClassify", {"numberOfClasses": 1, "numberOfIterations": 1, "mode": 1}),
    ("ProtFamlAlign", {}), ("ProtFamlAverage", {})])
def test_damaged_particles_are_left_out_on_request_and_listed(project, protocol, values):
    from scipion_faml import convert
    from scipion_faml.tables import read_particles

    source = project.finished(project.new(
        "ProtFamlSimulateSubtomograms", structures="blobs:1", counts="5", boxSize=16,
        voxelSize=VOXEL_SIZE, optics=1, snr=4.0))
    items = list(convert.clones(source.subtomograms))
    short, blank = (Path(convert.mrc_file(item, "unused.mrc")) for item in items[1:3])
    content = blank.read_bytes()
    short.write_bytes(short.read_bytes()[:2000])
    blank.write_bytes(content[:1024] + bytes(len(content) - 1024))
    pointers = {"inputSubtomograms": (source, "subtomograms")}
    if protocol == "ProtFamlAlign":
        pointers["inputReference"] = (source, "trueAverages.1")
    run = project.run(project.new(protocol, pointers, **values))
    assert run.isFailed() and "--skip-bad" in run.getErrorMessage()
    run = project.finished(project.new(protocol, pointers, skipBad=True, **values))
    (listed,) = Path(run._getExtraPath()).glob("*/excluded.star")
    reasons = read_particles(listed).rows
    assert [Path(name).name for name in reasons["rlnImageName"]] == [short.name, blank.name]
    assert reasons["famlReason"].str.len().min() > 10
    assert f"*2* subtomograms could not be used: {listed} lists them" in " ".join(run.summary())
    if protocol != "ProtFamlAverage":
        kept = {item.getObjId() for item in convert.clones(run.subtomograms)}
        assert kept == {item.getObjId() for item in items} - {i.getObjId() for i in items[1:3]}


def test_a_damaged_tomogram_is_reported_and_the_other_is_picked(project):
    source = project.finished(project.new(
        "ProtFamlSimulateTomograms", structures="groel", counts="4", sizeX=64, sizeY=64, sizeZ=40,
        voxelSize=VOXEL_SIZE, snr=0.05, optics=1, numberOfTomograms=2, binThreads=1))
    path = Path(source._getExtraPath("tomogram_02.mrc")).resolve()
    path.write_bytes(path.read_bytes()[:5000])
    run = project.finished(project.new(
        "ProtFamlPickDog", {"inputTomograms": (source, "tomograms")}, diameter=150.0))
    assert {c.getTomoId() for c in run.coordinates.iterCoordinates()} == {"tomogram_01"}
    told = " ".join(run.summary())
    assert "tomogram_02 failed" in told and "tomogram.mrc" in told


def test_a_tomogram_that_is_missing_for_extraction_is_said(project, tomograms):
    one = project.finished(project.new(
        "ProtFamlSimulateTomograms", structures="groel", counts="2", sizeX=88, sizeY=80, sizeZ=40,
        voxelSize=VOXEL_SIZE, snr=0.05, optics=1, binThreads=1))
    run = project.finished(project.new(
        "ProtFamlExtractSubtomograms",
        {"inputCoordinates": (tomograms, "trueCoordinates"), "inputTomograms": (one, "tomograms")},
        boxSize=12))
    assert {image.getVolName() for image in run.subtomograms.iterItems()} == {"tomogram_01"}
    assert any("tomogram_02 failed" in line for line in run.summary())
