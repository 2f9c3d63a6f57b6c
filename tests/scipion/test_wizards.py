"""Wizards: what they fill in, what they say when something is missing, and their windows.

Windows are opened on a display of their own where Xvfb is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

VOXEL_SIZE = 20.0


class Form:
    """What a wizard needs of a form."""

    def __init__(self, protocol, row=None, root=None):
        self.protocol = protocol
        self.told = []
        self.root = root
        if row is not None:
            self.wizParamName = row

    def setVar(self, name, value):  # noqa: N802 (Scipion's name)
        getattr(self.protocol, name).set(None if value == "" else value)

    def showInfo(self, text):  # noqa: N802 (Scipion's name)
        self.told.append(text)


@pytest.fixture
def wizards(domain):
    """Scipion's wizards by name."""
    return domain.getWizards()


@pytest.fixture(scope="module")
def display():
    """A display of its own; its number is that of this process meanwhile."""
    if shutil.which("Xvfb") is None:
        pytest.skip("no display: Xvfb is not installed")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1200x1000x24"], pass_fds=[write],
        stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as numbers:
        number = numbers.readline().strip()
    before = os.environ.get("DISPLAY")
    os.environ["DISPLAY"] = f":{number}"
    yield number
    server.terminate()
    server.wait()
    if before is None:
        os.environ.pop("DISPLAY")
    else:
        os.environ["DISPLAY"] = before


@pytest.fixture(scope="module")
def root(display):
    """The main window."""
    import tkinter

    window = tkinter.Tk()
    window.geometry("300x200+0+0")
    window.update()
    yield window
    window.destroy()


def dialog_in(root):
    """The dialog that is open."""
    import tkinter

    return next((w for w in root.winfo_children() if isinstance(w, tkinter.Toplevel)), None)


def in_dialog(root, wizard, form, act, button="OK"):
    """Open a wizard's window, act in it, and press a button; errors of the actions are raised."""
    problems = []

    def drive():
        dialog = dialog_in(root)
        if dialog is None or dialog.grab_current() is not dialog:  # not on the screen yet
            root.after(50, drive)
            return
        try:
            dialog.update()
            act(dialog)
            dialog.update()
        except BaseException as error:
            problems.append(error)
        finally:
            dialog._handleResult({"OK": 0, "Cancel": 2}[button])

    root.after(50, drive)
    form.root = root
    wizard().show(form)
    if problems:
        raise problems[0]
    assert form.told == []


# ------------------------------------------------------------------------------ nothing chosen
EMPTY = [
    ("FamlPickBoxWizard", "ProtFamlPickDog", "tomograms"),
    ("FamlPickBoxWizard", "ProtFamlPickTemplate", "tomograms"),
    ("FamlPickBoxWizard", "ProtFamlPickDetector", "tomograms"),
    ("FamlExtractBoxWizard", "ProtFamlExtractSubtomograms", "coordinates"),
    ("FamlDogPreviewWizard", "ProtFamlPickDog", "tomograms"),
    ("FamlThresholdWizard", "ProtFamlPickTemplate", "tomograms"),
    ("FamlThresholdWizard", "ProtFamlPickDetector", "tomograms"),
    ("FamlMaskWizard", "ProtFamlPickTemplate", "template"),
    ("FamlMaskWizard", "ProtFamlClassify", "subtomograms"),
    ("FamlShiftWizard", "ProtFamlAlign", "subtomograms"),
    ("FamlBandWizard", "ProtFamlClassify", "subtomograms"),
    ("FamlBandWizard", "ProtFamlAlign", "subtomograms"),
    ("FamlBandWizard", "ProtFamlPickTemplate", "tomograms"),
    ("FamlTiltRangeWizard", "ProtFamlClassify", "subtomograms"),
    ("FamlTiltRangeWizard", "ProtFamlAverage", "subtomograms"),
    ("FamlHeldOutWizard", "ProtFamlTrainDetector", "positions"),
    ("FamlDiametersWizard", "ProtFamlTrainDetector", "positions"),
    ("FamlRadiusWizard", "ProtFamlEvaluate", "positions"),
    ("FamlDistancesWizard", "ProtFamlPickTemplate", "template"),
]


@pytest.mark.parametrize(("wizard", "protocol", "what"), EMPTY)
def test_an_empty_form_is_told_in_one_line_what_to_choose_first(
    project, wizards, wizard, protocol, what
):
    form = Form(project.new(protocol))
    wizards[wizard]().show(form)
    assert len(form.told) == 1
    assert form.told[0].startswith("Choose") and what in form.told[0] and "\n" not in form.told[0]


def test_every_target_of_a_wizard_is_a_row_of_a_form(domain, wizards):
    protocols = [p for name, p in domain.getProtocols().items() if name.startswith("ProtFaml")
                 and getattr(p, "_label", None)]
    names = [name for name in wizards if name.startswith("Faml")]
    assert len(names) >= 16
    for name in names:
        assert wizards[name]._targets, name
        for target, rows in wizards[name]._targets:
            forms = [p() for p in protocols if issubclass(p, target)]
            for row in rows:
                assert any(form.getParam(row) is not None for form in forms), (name, row)


def test_tilt_series_are_simulated_from_a_list_and_read_from_particles(domain):
    from pyworkflow.viewer import DESKTOP_TKINTER

    protocols = domain.getProtocols()
    for name, wizard in (("ProtFamlSimulateTomograms", "FamlTiltSchemeWizard"),
                         ("ProtFamlClassify", "FamlTiltRangeWizard"),
                         ("ProtFamlImportParticles", "FamlTiltRangeWizard")):
        found = domain.findWizards(protocols[name](), DESKTOP_TKINTER)
        assert found["tiltMin"].__name__ == wizard


def test_every_row_that_a_wizard_helps_with_has_one(domain):
    from pyworkflow.viewer import DESKTOP_TKINTER

    helped = {"symmetry", "tiltMin", "tiltMax", "boxSize", "lowPass", "highPass", "threshold",
              "particleDiameter", "maxDiameter", "maskDiameter"}
    nothing_tells = {("ProtFamlImportParticles", "boxSize")}
    for name, protocol in domain.getProtocols().items():
        if not name.startswith("ProtFaml") or not getattr(protocol, "_label", None):
            continue
        found = domain.findWizards(protocol(), DESKTOP_TKINTER)
        rows = {row for row, _ in protocol().iterDefinitionAttributes()}
        without = {(name, row) for row in (helped & rows) - set(found)}
        assert not without - nothing_tells


# ------------------------------------------------------------------------------------- numbers
def test_boxes_come_from_diameter_and_voxel_size(project, wizards, tomograms):
    pick = project.new("ProtFamlPickDog", {"inputTomograms": (tomograms, "tomograms")},
                       diameter=160.0)
    wizards["FamlPickBoxWizard"]().show(Form(pick))
    assert pick.boxSize.get() == 12  # 1.5 x 160 / 20, even
    simulate = project.new("ProtFamlSimulateSubtomograms", structures="groel", voxelSize=20.0,
                           maxShift=2.0)
    wizards["FamlSimulatedBoxWizard"]().show(Form(simulate))
    assert 190 / 20 + 4 <= simulate.boxSize.get() <= 24


@pytest.mark.parametrize("binning", [1, 2])
def test_the_box_of_an_extraction_keeps_its_width_when_binned(
    project, wizards, tomograms, binning
):
    extract = project.new("ProtFamlExtractSubtomograms",
                          {"inputCoordinates": (tomograms, "trueCoordinates")}, binning=binning,
                          boxSize=99)
    wizards["FamlExtractBoxWizard"]().show(Form(extract))
    box = tomograms.trueCoordinates.getBoxSize()
    assert abs(extract.boxSize.get() - max(box / binning, 8)) <= 1
    assert extract.boxSize.get() % 2 == 0


def test_the_tilt_range_of_the_particles_is_filled_in(project, wizards, particles):
    classify = project.new("ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")})
    form = Form(classify)
    wizards["FamlTiltRangeWizard"]().show(form)
    assert (classify.tiltMin.get(), classify.tiltMax.get(), form.told) == (-60, 60, [])


def test_tilt_series_to_simulate_start_with_those_of_the_project(project, tomograms):
    from scipion_faml.wizards.lists import TILT_SCHEMES, tilt_schemes

    schemes = tilt_schemes(project.new("ProtFamlSimulateTomograms"))
    assert schemes[-len(TILT_SCHEMES):] == list(TILT_SCHEMES)
    low, high, step, of = next(s for s in schemes if s[3].endswith("tomograms"))
    assert (low, high, step) == (-54.0, 60.0, 3.0) and of


def test_what_is_held_out_and_the_diameters_of_training_are_filled_in(
    project, wizards, tomograms
):
    train = project.new("ProtFamlTrainDetector")
    train.inputCoordinates.append(tomograms)
    train.inputCoordinates[0].setExtended("trueCoordinates")
    form = Form(train)
    wizards["FamlHeldOutWizard"]().show(form)
    assert train.heldOut.get() == "tomogram_02"
    assert "tomogram_01, tomogram_02" in form.told[-1]
    wizards["FamlDiametersWizard"]().show(form)
    box = tomograms.trueCoordinates.getBoxSize()
    assert float(train.diameters.get()) == pytest.approx(box * VOXEL_SIZE / 1.5, abs=1)


def test_the_radius_of_an_evaluation_is_half_a_particle(project, wizards, tomograms, picked):
    run = project.new("ProtFamlEvaluate", {"trueCoordinates": (tomograms, "trueCoordinates"),
                                           "inputCoordinates": (picked, "coordinates")})
    wizards["FamlRadiusWizard"]().show(Form(run))
    box = tomograms.trueCoordinates.getBoxSize()
    assert run.radius.get() == pytest.approx(box * VOXEL_SIZE / 3, abs=1)


def test_distances_are_those_that_the_pickers_keep_by_themselves(project, wizards, tomograms):
    dog = project.new("ProtFamlPickDog", {"inputTomograms": (tomograms, "tomograms")},
                      diameter=100.0)
    for row in ("minDistance", "border"):
        wizards["FamlDistancesWizard"]().show(Form(dog, row))
    assert (dog.minDistance.get(), dog.border.get()) == (80, 50)
    template = project.new(
        "ProtFamlPickTemplate", {"inputTemplate": (tomograms, "trueAverages.1")}, diameter=200.0)
    wizards["FamlDistancesWizard"]().show(Form(template, "minDistance"))
    assert template.minDistance.get() == 140


def test_a_template_is_measured_for_the_box(project, wizards, tomograms):
    from scipion_faml.wizards.numbers import template_diameter

    run = project.new(
        "ProtFamlPickTemplate",
        {"inputTomograms": (tomograms, "tomograms"),
         "inputTemplate": (tomograms, "trueAverages.1")})
    diameter = template_diameter(run)
    assert 130 < diameter < 260  # GroEL: 150 A along its axis, 140 across
    wizards["FamlPickBoxWizard"]().show(Form(run))
    assert run.boxSize.get() == 2 * round(0.75 * diameter / VOXEL_SIZE)


def test_a_missing_file_is_told(project, wizards, tomograms, tmp_path):
    run = project.new(
        "ProtFamlPickTemplate",
        {"inputTomograms": (tomograms, "tomograms"),
         "inputTemplate": (tomograms, "trueAverages.1")})
    path = Path(run.inputTemplate.get().getFileName())
    target = path.resolve()
    moved = target.rename(target.with_suffix(".gone"))
    try:
        for name in ("FamlMaskWizard", "FamlPickBoxWizard", "FamlThresholdWizard"):
            form = Form(run)
            wizards[name]().show(form)
            assert len(form.told) == 1 and "does not exist" in form.told[0]
    finally:
        moved.rename(target)


# --------------------------------------------------------------------------------- what is drawn
def drawn(draw, *arguments):
    """What a picture's figure looks like after drawing."""
    from scipion_faml.plots.style import new_figure

    figure = new_figure(8, 4)
    draw(figure, *arguments)
    figure.canvas.draw()
    return figure


def test_the_mean_of_particles_passes_over_what_cannot_be_read(project, particles, tmp_path):
    from scipion_faml.wizards.sources import particles as mean_source

    images = particles.trueSubtomograms
    first = images.getFirstItem().clone()
    target = Path(first.getFileName()).resolve()
    moved = target.rename(target.with_suffix(".gone"))
    try:
        shown = mean_source(images, tmp_path).load()
    finally:
        moved.rename(target)
    assert shown.name == "mean of 11 of 12 particles"
    assert shown.volume.shape == (16, 16, 16) and shown.voxel_size_angst == VOXEL_SIZE


def test_aligned_particles_are_turned_before_they_are_averaged(project, particles, tmp_path):
    from scipion_faml.io import read_cube
    from scipion_faml.wizards.sources import particles as mean_source

    aligned = mean_source(particles.trueSubtomograms, tmp_path).load().volume
    as_they_are = mean_source(particles.subtomograms, tmp_path).load().volume
    truth = sum(read_cube(a.getFileName())[0] for a in particles.trueAverages.iterItems())
    agreement = [np.corrcoef(v.ravel(), truth.ravel())[0, 1] for v in (aligned, as_they_are)]
    assert agreement[0] > agreement[1] and agreement[0] > 0.8


def test_a_mask_is_drawn_where_it_cuts_the_slices():
    from scipion_faml.volume import soft_sphere
    from scipion_faml.wizards.drawing import BallPicture
    from scipion_faml.wizards.sources import Shown

    picture = BallPicture(Shown("a ball", soft_sphere(32, 8.0), 10.0))
    assert picture.suggested() == pytest.approx(180, abs=30)
    figure = drawn(picture.draw, 16, 160.0)
    assert [axes.patches[0].radius for axes in figure.axes] == pytest.approx([8.0, 8.0, 8.0])
    figure = drawn(picture.draw, 28, 160.0)  # above the ball
    assert [len(axes.patches) for axes in figure.axes] == [0, 1, 1]


def test_a_filter_is_shown_before_and_after(rng=None):
    from scipion_faml.previews import shell_gain
    from scipion_faml.wizards.drawing import BandPicture
    from scipion_faml.wizards.sources import Shown

    noise = np.random.default_rng(0).normal(size=(40, 210, 200)).astype(np.float32)
    picture = BandPicture(Shown("noise", noise, 10.0), shell_gain)
    before, after = picture.slices(3, 60.0, None)
    assert before.shape == after.shape == (192, 192)
    assert after.std() < 0.4 * before.std()
    assert "up to 60" in drawn(picture.draw, 3, 60.0, None).axes[1].get_title()
    with pytest.raises(ValueError, match="nothing is left"):
        picture.slices(3, 60.0, 40.0)


def test_the_dog_preview_shows_what_the_run_will_pick(
    wizards, project, tomograms, picked, tmp_path
):
    from scipion_faml import convert
    from scipion_faml.tables import COORDINATES

    run = project.new("ProtFamlPickDog", {"inputTomograms": (tomograms, "tomograms")},
                      diameter=150.0)
    previews = wizards["FamlDogPreviewWizard"].previews(run)
    assert [name for name, _ in previews] == ["tomogram_01", "tomogram_02"]
    preview, first = previews[0][1](), convert.clones(tomograms.tomograms)[0]
    in_run = convert.picks_table(picked.coordinates, first).rows[COORDINATES].to_numpy()
    z = int(np.round(np.median(in_run[:, 2])))
    threshold = preview.suggested_threshold(z, 150.0)
    near = in_run[np.abs(in_run[:, 2] - z) <= 0.3 * 150 / VOXEL_SIZE]
    shown = preview.positions(z, 150.0, threshold)
    apart = np.linalg.norm(near[:, None] - shown[None], axis=2).min(axis=1)
    assert (apart < 1.0).mean() >= 0.7  # the slab tells another noise than the whole
    assert len(preview.positions(z, 150.0, threshold + 2)) <= len(shown)
    assert preview.highest_score(z, 150.0) >= threshold
    preview.draw(z, 150.0, threshold).savefig(tmp_path / "preview.png")
    assert (tmp_path / "preview.png").stat().st_size > 5000


def truth_in(tomograms, region):
    """True positions of the first tomogram in a region."""
    from scipion_faml import convert
    from scipion_faml.previews import within
    from scipion_faml.tables import COORDINATES

    first = convert.clones(tomograms.tomograms)[0]
    position = convert.picks_table(tomograms.trueCoordinates, first).rows
    position = position[position["rlnClassNumber"] == 1][COORDINATES].to_numpy()
    return position[within(position, region)]


def test_the_template_finds_its_particles_in_a_part_of_the_tomogram(project, tomograms):
    from scipion_faml.io import read_volume
    from scipion_faml.previews import region_about
    from scipion_faml.wizards.drawing import FoundPicture
    from scipion_faml.wizards.searches import template_search
    from scipion_faml.wizards.sources import Shown

    run = project.new(
        "ProtFamlPickTemplate",
        {"inputTomograms": (tomograms, "tomograms"),
         "inputTemplate": (tomograms, "trueAverages.1")}, symmetry="D7", coarseStep=30.0)
    search, size = template_search(run)
    volume = read_volume(tomograms.tomograms.getFirstItem().getFileName())[0]
    region = region_about(volume.shape, (20, 40, 44), size(VOXEL_SIZE))
    found = search(volume, VOXEL_SIZE, region)
    truth = truth_in(tomograms, region)
    assert len(truth) and 0 < found.suggested < 1
    likely = found.position_xyz[found.above(found.suggested)]
    apart = np.linalg.norm(truth[:, None] - likely[None], axis=2).min(axis=1)
    assert (apart < 3.0).mean() >= 0.5
    picture = FoundPicture(Shown("tomogram", volume, VOXEL_SIZE))
    z = int(found.position_xyz[0, 2])
    figure = drawn(picture.draw, region, z, found, found.suggested)
    assert len(figure.axes[1].patches) >= 1
    assert "not searched" in drawn(picture.draw, region, z, None, 0.5).axes[1].get_title()


def test_the_detector_looks_at_a_part_of_the_tomogram(project, tomograms):
    pytest.importorskip("torch")
    from scipion_faml.io import read_volume
    from scipion_faml.previews import region_about, within
    from scipion_faml.wizards.searches import detector_search

    run = project.new("ProtFamlPickDetector", {"inputTomograms": (tomograms, "tomograms")})
    search, size = detector_search(run)
    volume = read_volume(tomograms.tomograms.getFirstItem().getFileName())[0]
    assert all(n > 0 for n in size(VOXEL_SIZE))
    region = region_about(volume.shape, (20, 40, 44), (8, 24, 24))
    found = search(volume, VOXEL_SIZE, region)
    assert within(found.position_xyz, region).all()
    assert len(found.position_xyz) == len(found.score) == len(found.radius) == len(found.names)
    assert 0 < found.suggested < 1 and (np.diff(found.score) <= 0).all()


# ------------------------------------------------------------------------------------- windows
def test_a_mask_is_chosen_in_its_window(project, wizards, particles, root):
    run = project.new("ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms"),
                                           "inputReferences": (particles, "trueAverages")})

    def act(dialog):
        assert len(dialog.sources) == 3
        dialog._chosen.current(2)
        dialog._otherSource()
        assert dialog.shown.name == "mean of 12 of 12 particles"
        dialog.size.set(140)
        dialog.z.set(3)
        dialog.redraw()

    in_dialog(root, wizards["FamlMaskWizard"], Form(run), act)
    assert run.particleDiameter.get() == 140
    in_dialog(root, wizards["FamlMaskWizard"], Form(run), lambda d: d.size.set(60), "Cancel")
    assert run.particleDiameter.get() == 140


def test_a_shift_counts_the_particles_voxels_on_a_reference_of_other_voxels(
    project, wizards, particles, tomograms, root
):
    """Particles of 16 voxels of 20 A; the reference has a box of its own."""
    from scipion_faml.wizards.sources import Shown

    run = project.new("ProtFamlAlign", {"inputSubtomograms": (particles, "subtomograms"),
                                        "inputReference": (particles, "trueAverages.1")})

    def act(dialog):
        assert dialog.size.get() == 2.5  # a sixth of the box is 2.67; steps of a half
        dialog.size.set(2)
        dialog.redraw()
        assert dialog.figure.axes[0].patches[0].radius == pytest.approx(2.0)
        volume = np.zeros((40, 40, 40), dtype=np.float32)
        volume[20, 20, 20] = 1.0
        dialog.shown = Shown("finer", volume, 10.0)
        dialog.sourceChanged()
        dialog.redraw()
        assert dialog.figure.axes[0].patches[0].radius == pytest.approx(4.0)

    in_dialog(root, wizards["FamlShiftWizard"], Form(run), act)
    assert run.maxShift.get() == 2


def test_resolutions_are_chosen_and_emptied_in_their_window(project, wizards, particles, root):
    run = project.new("ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")})

    def act(dialog):
        assert not dialog.is_low.get()
        dialog.low.set(80)
        dialog.update()
        time.sleep(0.1)
        dialog.update()
        assert dialog.is_low.get() and not dialog.is_high.get()

    in_dialog(root, wizards["FamlBandWizard"], Form(run), act)
    assert (run.lowPass.get(), run.highPass.get()) == (80, None)

    def let_all_pass(dialog):
        dialog.is_low.set(0)
        dialog.redraw()

    in_dialog(root, wizards["FamlBandWizard"], Form(run), let_all_pass)
    assert run.lowPass.get() is None


def test_classes_and_their_averages_are_shown_too(project, wizards, classified, root):
    run = project.new("ProtFamlValidate", {"inputAverages": (classified, "classes")})

    def act(dialog):
        assert [s.name for s in dialog.sources] == ["average 1", "average 2"]
        dialog.low.set(90)
        dialog.is_low.set(1)
        dialog.redraw()

    in_dialog(root, wizards["FamlBandWizard"], Form(run), act)
    assert run.snrLowPass.get() == 90
    run.inputSubtomograms.set(classified)
    run.inputSubtomograms.setExtended("classes")
    wizards["FamlTiltRangeWizard"]().show(Form(run))
    assert (run.tiltMin.get(), run.tiltMax.get()) == (-60, 60)


def test_a_threshold_is_chosen_in_its_window(project, wizards, tomograms, root):
    run = project.new(
        "ProtFamlPickTemplate",
        {"inputTomograms": (tomograms, "tomograms"),
         "inputTemplate": (tomograms, "trueAverages.1")}, symmetry="D7", coarseStep=45.0)

    def act(dialog):
        end = time.monotonic() + 30
        while dialog.is_searching and time.monotonic() < end:
            dialog.update()
            time.sleep(0.05)
        assert dialog.found is not None and dialog.threshold is None
        assert "the run decides" in dialog.message.cget("text")
        dialog.level.set(0.31)
        dialog._levelMoved("0.31")
        dialog.redraw()

    in_dialog(root, wizards["FamlThresholdWizard"], Form(run), act)
    assert run.threshold.get() == pytest.approx(0.31)


def test_a_search_that_fails_is_told_in_its_window(project, wizards, tomograms, root):
    run = project.new(
        "ProtFamlPickTemplate",
        {"inputTomograms": (tomograms, "tomograms"),
         "inputTemplate": (tomograms, "trueAverages.1")}, symmetry="Z9")

    def act(dialog):
        end = time.monotonic() + 30
        while dialog.is_searching and time.monotonic() < end:
            dialog.update()
            time.sleep(0.05)
        assert "'Z9' is not known" in dialog.message.cget("text")

    in_dialog(root, wizards["FamlThresholdWizard"], Form(run), act)


def test_a_symmetry_is_chosen_from_the_list(project, wizards, particles, root):
    run = project.new("ProtFamlClassify", {"inputSubtomograms": (particles, "subtomograms")})

    def choose(dialog):
        rows = dialog.tree.get_children()
        words = [dialog.tree.item(row)["text"] for row in rows]
        assert words[:2] == ["auto", "C1"]  # enhanced mode finds it
        dialog.tree.selection_set(rows[words.index("D7")])

    in_dialog(root, wizards["FamlSymmetryWizard"], Form(run), choose)
    assert run.symmetry.get() == "D7"
    run.mode.set(1)
    in_dialog(root, wizards["FamlSymmetryWizard"], Form(run), lambda dialog: dialog.tree.
              selection_set(dialog.tree.get_children()[0]))
    assert run.symmetry.get() == "C1"


def test_all_symmetries_of_the_list_are_known():
    from scipion_faml.symmetry import symmetry_rotations
    from scipion_faml.wizards.lists import symmetries

    for name, words in symmetries(takes_auto=False):
        assert len(symmetry_rotations(name)) >= 1 and words
    assert symmetries(takes_auto=True)[0][0] == "auto"


def test_structures_of_the_list_can_be_simulated():
    from scipion_faml.structures import suitable_box
    from scipion_faml.wizards.lists import structures

    for name, words in structures():
        assert suitable_box([name], 13.7, 27.4) > 0 and words


def test_the_dog_preview_tells_of_a_tomogram_that_is_gone(project, wizards, tomograms, root):
    run = project.new("ProtFamlPickDog", {"inputTomograms": (tomograms, "tomograms")},
                      diameter=150.0)
    second = [item.clone() for item in tomograms.tomograms.iterItems()][1]
    target = Path(second.getFileName()).resolve()
    moved = target.rename(target.with_suffix(".gone"))

    def act(dialog):
        dialog._chosen.current(1)
        dialog._other_tomogram(None)
        assert "does not exist" in dialog._message.cget("text")
        dialog._threshold.set(5.0)
        dialog._drawn()

    try:
        in_dialog(root, wizards["FamlDogPreviewWizard"], Form(run), act)
    finally:
        moved.rename(target)
    assert run.threshold.get() == pytest.approx(5.0)
