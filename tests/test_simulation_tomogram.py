"""Verb simulate-tomogram: crowds, surroundings, labels, presets."""

from __future__ import annotations

import json

import mrcfile
import numpy as np
import pytest
from scipy import fft

from scipion_faml.cli import presets, run
from scipion_faml.geometry import RigidTransforms
from scipion_faml.io import read_volume
from scipion_faml.simulation.density import structure_of_beads
from scipion_faml.simulation.packing import Obstacles
from scipion_faml.simulation.phantom import blob_model
from scipion_faml.simulation.scene import (
    Scene,
    by_class,
    compact,
    label_radius,
    make_scene,
    populate,
)
from scipion_faml.simulation.scene_imaging import image_scene, project_scene, through_ctf
from scipion_faml.simulation.surroundings import (
    LEAFLET_ANGST,
    gold_bead,
    make_surroundings,
    vesicle,
)
from scipion_faml.simulation.tilt_series import Microscope, tilt_angles_deg
from scipion_faml.structures import load_structure
from scipion_faml.tables import COORDINATES, read_particles
from scipion_faml.volume import move_volume, squared_radius


def blob_structures(n=24, seeds=(1, 2)):
    return [structure_of_beads(blob_model(n, seed, 10.0), n, 10.0, 0.0) for seed in seeds]


# ------------------------------------------------------------------------------------- labels
def test_labels_number_the_particles_and_none_covers_another():
    structures = blob_structures(16)
    scene = make_scene(structures, [60, 60], (160, 160, 60), seed=0)
    labels = populate(scene, structures)[1]
    n_voxels = np.bincount(labels.ravel(), minlength=121)[1:]
    for k, structure in enumerate(structures):
        own = n_voxels[scene.class_index == k]
        expected = (structure.map > 0.15 * structure.map.max()).sum()
        # A label cut by another would lose more than the few voxels that turning it changes.
        np.testing.assert_allclose(own, expected, rtol=0.12)
    radius = np.array([label_radius(s) for s in structures])[scene.class_index]
    z, y, x = np.nonzero(labels)
    number = labels[z, y, x] - 1
    distance = np.linalg.norm(np.stack([x, y, z], 1) - scene.position_xyz[number], axis=1)
    assert (distance <= radius[number] + 0.5).all()


def test_density_is_that_of_the_turned_map():
    structure = blob_structures(24, (3,))[0]
    scene = Scene((60, 50, 40), np.array([[31.3, 24.6, 19.0]]), np.array([[0.4, 1.1, -2.0]]),
                  np.zeros(1, int))
    density = populate(scene, [structure])[0]
    pose = RigidTransforms(scene.euler_zyz, np.array([[0.3, -0.4, 0.0]]))
    expected = move_volume(structure.map, pose)
    around = density[19 - 12 : 19 + 12, 25 - 12 : 25 + 12, 31 - 12 : 31 + 12]
    # The box of the map is cut to what exceeds 0.3 % of its maximum.
    np.testing.assert_allclose(around, expected, atol=0.005 * structure.map.max())


def test_a_compact_structure_keeps_its_density_in_a_smaller_box():
    whole = blob_structures(64, (1,))[0]
    small = compact(load_structure("blobs:1:90", 64, 10.0, 20.0))
    assert compact(whole).n <= whole.n and small.n < 24
    lost = load_structure("blobs:1:90", 64, 10.0, 20.0).map.sum() - small.map.sum()
    assert abs(lost) < 1e-3 * small.map.sum()


def test_classes_are_visited_once_each_and_empty_ones_not():
    scene = Scene((9, 9, 9), np.zeros((4, 3)), np.zeros((4, 3)), np.array([2, 0, 2, 2]))
    assert list(by_class(scene, 3)) == [(0, [1]), (2, [0, 2, 3])]


# ------------------------------------------------------------------------------- surroundings
def test_a_gold_bead_holds_its_volume_of_gold():
    bead = gold_bead(80.0, 10.0, 4.5)
    level = bead.map.max()
    volume = bead.map.sum(dtype=np.float64) / level * 10.0**3
    assert volume == pytest.approx(4.0 / 3.0 * np.pi * 40.0**3, rel=0.05)
    protein = load_structure("groel", 32, 10.0, 20.0)
    assert level > 10.0 * protein.map.max()


def test_a_vesicle_has_two_leaflets_and_nothing_inside():
    shell = vesicle(200.0, 5.0, 4.5)
    radius = 5.0 * np.sqrt(squared_radius(shell.n))
    profile = [shell.map[np.abs(radius - r) < 2.5].mean()
               for r in (100.0, 200.0 - LEAFLET_ANGST, 200.0, 200.0 + LEAFLET_ANGST, 250.0)]
    inside, inner, middle, outer, outside = np.array(profile) / max(profile)
    assert inner > 0.9 and outer > 0.9
    assert middle < 0.5 and inside < 1e-3 and outside < 1e-2


def test_particles_keep_off_gold_and_membranes():
    structures = blob_structures(12)
    around = make_surroundings(6, 2, (150, 150, 90), 10.0, 4.5, seed=1)
    assert len(around.scene) == 8 and len(around.structures) == 8
    scene = make_scene(structures, [80, 80], (150, 150, 90), 1, obstacles=around.obstacles)
    labels = populate(scene, structures)[1]
    dense = populate(around.scene, around.structures)[0]
    assert not (dense[labels > 0] > 0.02 * dense.max()).any()
    blocked = around.obstacles
    assert isinstance(blocked, Obstacles) and len(blocked.ball_xyz) == 6
    in_vesicle = np.linalg.norm(scene.position_xyz[:, None] - blocked.shell_xyz, axis=2)
    assert (in_vesicle < blocked.shell_radius).any()


def test_too_much_around_is_a_clear_error():
    with pytest.raises(ValueError, match="no room for 40 vesicles"):
        make_surroundings(0, 40, (120, 120, 90), 10.0, 4.5, 0)
    with pytest.raises(ValueError, match="too thin for vesicles"):
        make_surroundings(0, 1, (120, 120, 30), 10.0, 4.5, 0)


def test_what_lies_around_does_not_count_as_signal():
    structures = blob_structures(16)
    scene = make_scene(structures, [3, 3], (90, 80, 40), seed=0)
    angles = tilt_angles_deg(-60, 60, 20)
    images = project_scene(scene, structures, angles)
    bead = gold_bead(80.0, 10.0, 4.5)
    gold = project_scene(
        Scene((90, 80, 40), np.array([[20.0, 20.0, 20.0]]), np.zeros((1, 3)), np.zeros(1, int)),
        [bead], angles, shape=images.shape[1:])
    microscope = Microscope(defocus_um=4.0)

    def imaged(snr, what, around=None):
        rng = np.random.default_rng(0)
        shown = None if around is None else through_ctf(around, 10.0, microscope)
        return image_scene(what, 10.0, snr, microscope, "none", rng, shown)

    with_gold, without = imaged(0.1, images, gold), imaged(0.1, images)
    np.testing.assert_allclose(
        with_gold - without, imaged(np.inf, gold), atol=1e-3 * np.abs(with_gold).max())


def test_the_snr_is_that_of_the_images_after_the_ctf():
    structures = blob_structures(16)
    scene = make_scene(structures, [10, 10], (120, 120, 40), seed=0)
    images = project_scene(scene, structures, tilt_angles_deg(-60, 60, 10))
    microscope = Microscope(defocus_um=3.0)

    def imaged(snr, seed):
        return image_scene(images, 10.0, snr, microscope, "none", np.random.default_rng(seed))

    signal = imaged(np.inf, 0)
    noise = imaged(0.05, 1) - signal
    # Both carry the MTF: undo it before their variances are compared.
    frequency = np.hypot(np.fft.fftfreq(images.shape[1])[:, None], np.fft.rfftfreq(images.shape[2]))
    mtf = np.sinc(0.5 * 2.0 * frequency)
    plain = [fft.irfft2(fft.rfft2(part) / mtf, images.shape[1:]) for part in (signal, noise)]
    variance = [part.var(axis=(1, 2)).mean() for part in plain]
    assert variance[0] / variance[1] == pytest.approx(0.05, rel=0.02)


# -------------------------------------------------------------------------------- command line
def tomogram(folder, *more):
    return run(["simulate-tomogram", "--output", str(folder), "--workers", "1", *more])


def small_crowd(folder, *more):
    return tomogram(
        folder, "--model", "apoferritin", "--model", "blobs:1:90", "--count", "5", "--voxel-size",
        "12", "--shape", "100,90,60", "--snr", "1", *more)


@pytest.mark.parametrize("optics", ["none", "full"])
def test_gold_and_membranes_are_in_the_tomogram_but_not_in_the_truth(tmp_path, optics):
    more = ["--gold", "3", "--membranes", "1", "--write-density", "--optics", optics]
    assert small_crowd(tmp_path, *more) == 0
    truth = read_particles(tmp_path / "truth.star").rows
    assert sorted(set(truth["famlModel"])) == ["apoferritin", "blobs:1:90"] and len(truth) == 10
    others = read_particles(tmp_path / "surroundings.star").rows
    assert list(others["famlModel"]) == ["vesicle", "gold", "gold", "gold"]
    assert others["famlDiameter"].iloc[1:].between(50, 100).all()
    volume, voxel_size = read_volume(tmp_path / "tomogram.mrc")
    density = read_volume(tmp_path / "density.mrc")[0]
    classes = read_volume(tmp_path / "classes.mrc")[0]
    assert voxel_size == 12.0
    for x, y, z in np.rint(others[COORDINATES].to_numpy()[1:]).astype(int):
        assert classes[z, y, x] == 0
        assert density[z, y, x] > 0.5 * density.max()
        assert volume[z, y, x] > volume.mean() + 5.0 * np.median(np.abs(volume))


def test_label_files_are_whole_numbers_and_agree(tmp_path):
    assert small_crowd(tmp_path) == 0
    truth = read_particles(tmp_path / "truth.star")
    labels = {}
    for name in ("classes", "instances"):
        with mrcfile.open(tmp_path / f"{name}.mrc") as mrc:
            assert mrc.data.dtype == np.int16
            labels[name] = np.array(mrc.data)
    assert set(np.unique(labels["instances"])) == set(range(11))
    of_particle = np.concatenate([[0], truth.class_index + 1])
    np.testing.assert_array_equal(of_particle[labels["instances"]], labels["classes"])
    for number, place in enumerate(truth.rows[COORDINATES].to_numpy(), 1):
        centre = np.argwhere(labels["instances"] == number)[:, ::-1].mean(axis=0)
        assert np.linalg.norm(centre - place) < 1.5
    assert not (tmp_path / "surroundings.star").exists()


def test_the_preset_needs_no_files_and_draws_its_abundances(tmp_path, capsys):
    more = ["--preset", "shrec", "--shape", "160,150,70", "--tilt-step", "20", "--json"]
    assert tomogram(tmp_path / "a", *more) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n_classes"] == 12 and list(report["counts"]) == list(presets.SHIPPED)
    # 208 of each in 512 x 512 x 200 voxels are 6.7 here; Poisson numbers spread by their root.
    assert report["n_particles"] == pytest.approx(12 * 208 * 160 * 150 * 70 / (512 * 512 * 200),
                                                  abs=4 * np.sqrt(80))
    volume, voxel_size = read_volume(tmp_path / "a" / "tomogram.mrc")
    assert volume.shape == (70, 150, 160) and voxel_size == 10.0
    assert tomogram(tmp_path / "b", *more, "--seed", "1", "--count", "2", "--voxel-size", "12") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["counts"].values()) == {2}
    assert read_volume(tmp_path / "b" / "tomogram.mrc")[1] == 12.0


def test_a_seed_gives_the_same_tomogram_from_any_number_of_workers(tmp_path):
    for name, workers, seed in (("a", "1", "3"), ("b", "3", "3"), ("c", "1", "4")):
        more = ["--workers", workers, "--seed", seed, "--gold", "1", "--tilt-step", "12"]
        assert small_crowd(tmp_path / name, *more) == 0
    one, same, other = (read_volume(tmp_path / name / "tomogram.mrc")[0] for name in "abc")
    np.testing.assert_array_equal(one, same)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.2


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "Give --model"),
    (["--model", "groel"], "Give --count"),
    (["--model", "groel", "--model", "tric", "--count", "1", "--count", "2", "--count", "3"],
     "2 --model but 3 --count"),
    (["--model", "blobs:1:x", "--count", "1"], "blobs:1:120"),
    (["--preset", "shrec", "--models-dir", "nowhere"], "nowhere is no folder"),
    (["--model", "groel", "--count", "1", "--models-dir", "."], "--models-dir goes with --preset"),
    (["--model", "groel", "--count", "500", "--shape", "60,60,40"], "of 500 particles fit"),
    (["--model", "ribosome", "--count", "1", "--shape", "60,60,20"], "does not fit"),
    (["--model", "groel", "--count", "1", "--gold", "900", "--shape", "60,60,40"], "--gold"),
    (["--model", "groel", "--count", "1", "--shape", "60,60"], "X,Y,Z"),
])  # fmt: skip
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, arguments, message):
    assert tomogram(tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_classes_without_a_file_are_named(tmp_path, capsys):
    (tmp_path / "1bxn.pdb").write_text("END\n")
    arguments = ["--preset", "shrec", "--models-dir", str(tmp_path)]
    assert tomogram(tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert "1s3x, 3qm1" in error and "1bxn" not in error.split("in " + str(tmp_path))[0]
