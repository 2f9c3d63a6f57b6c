"""What the detector sees and how it is judged: views, labels, crops, candidates. No PyTorch."""

import dataclasses

import numpy as np
import pytest

from scipion_faml.detector.detections import (
    Detections,
    cube_iou,
    without_neighbours,
    without_overlap,
)
from scipion_faml.detector.labels import Classes, LabelSource, classes_of, labelled, split
from scipion_faml.detector.matching import Matched, best_thresholds, f1_of, match
from scipion_faml.detector.sampling import Crop, CropSampler, ParticleDraw, mirrored
from scipion_faml.detector.settings import DetectorSettings, TrainingSettings
from scipion_faml.detector.view import CLIP, view_of


def noise(shape=(40, 48, 56), seed=0):
    return np.random.default_rng(seed).normal(5.0, 3.0, shape).astype(np.float32)


def ramp(shape=(40, 48, 56)):
    """A volume whose value is its x coordinate, on a little noise-free slope in y and z."""
    z, y, x = np.indices(shape, dtype=np.float32)
    return x + 0.01 * y + 0.001 * z


def source(volume, positions, classes=None, name="t", voxel_size=10.0, names=None):
    classes = np.ones(len(positions), dtype=int) if classes is None else np.asarray(classes)
    names = tuple(f"c{k}" for k in classes) if names is None else names
    return LabelSource(
        name, volume, voxel_size, np.asarray(positions, dtype=float) * voxel_size, classes, names)


# ----------------------------------------------------------------------------------------- views
def test_a_view_has_median_0_and_unit_noise_and_clips_gold():
    volume = noise()
    volume[10:13, 10:13, 10:13] = 1000.0
    block = view_of(volume, 10.0, 10.0).read((0, 0, 0), volume.shape)
    assert abs(np.median(block)) < 0.02
    assert 0.95 < block[20:].std() < 1.05  # of a Gaussian, half a million voxels
    assert block.max() == CLIP


def test_dark_particles_come_out_bright():
    volume = noise()
    bright = view_of(volume, 10.0, 10.0).read((0, 0, 0), volume.shape)
    dark = view_of(volume, 10.0, 10.0, is_dark=True).read((0, 0, 0), volume.shape)
    np.testing.assert_allclose(dark, -bright, atol=1e-6)


@pytest.mark.parametrize("wanted", [4.0, 7.0, 10.0, 13.0, 20.0, 35.0])
def test_a_view_in_other_voxels_shows_each_thing_where_it_is(wanted):
    view = view_of(ramp(), 10.0, wanted)
    z, y, x = (n // 2 for n in view.shape)
    block = view.read((z, y, x), (2, 2, 4))
    own = view.to_own(np.array([[x + i, y, z] for i in range(4)], dtype=float))
    expected = own[:, 0] + 0.01 * own[:, 1] + 0.001 * own[:, 2]
    shown = block[0, 0] * view.spread + view.level
    np.testing.assert_allclose(shown, expected, atol=0.1)
    np.testing.assert_allclose(view.from_own(own)[:, 0], x + np.arange(4), atol=1e-9)


@pytest.mark.parametrize("wanted", [7.3, 13.0])
def test_noise_is_as_strong_between_voxels_as_on_them(wanted):
    volume = np.random.default_rng(1).normal(size=(64, 64, 64)).astype(np.float32)
    view = view_of(volume, 10.0, wanted)
    spread = view.read((0, 0, 0), view.shape)[4:-4, 4:-4, 4:-4].std(axis=(0, 1))
    assert spread.min() > 0.85 * spread.max()


def test_pieces_of_a_resampled_view_are_those_of_the_whole():
    view = view_of(noise(), 7.3, 11.0)
    whole = view.read((0, 0, 0), view.shape)
    np.testing.assert_allclose(view.read((5, 7, 9), (8, 9, 10)), whole[5:13, 7:16, 9:19],
                               atol=1e-4)


def test_outside_of_a_tomogram_there_is_nothing():
    view = view_of(noise(), 10.0, 10.0)
    block = view.read((-4, -4, 50), (10, 10, 10))
    assert not block[:4].any() and not block[:, :4].any() and not block[:, :, 6:].any()
    assert block[4:, 4:, :6].any()


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan")])
def test_voxel_sizes_that_are_none_are_refused(size):
    with pytest.raises(ValueError, match="voxel size"):
        view_of(noise(), size, 10.0)


def test_a_constant_tomogram_is_refused():
    with pytest.raises(ValueError, match="same value"):
        view_of(np.ones((40, 40, 40), dtype=np.float32), 10.0, 10.0)


def test_a_tomogram_mostly_filled_with_one_value_is_normalised_by_the_rest():
    volume = noise()
    volume[8:] = 0.0
    block = view_of(volume, 10.0, 10.0).read((0, 0, 0), (8, 40, 40))
    assert abs(np.median(block)) < 0.1 and 0.9 < block.std() < 1.1


# ---------------------------------------------------------------------------------------- labels
def test_particles_outside_the_tomogram_are_refused_with_their_number_and_place():
    bad = source(noise(), [[3.0, 3, 3], [60.0, 3, 3]])
    with pytest.raises(ValueError, match=r"t: 1 of 2 particles lie outside.*60\.0, 3\.0, 3\.0"):
        labelled(bad, Classes(("c1",), (1,), (100.0,)), 10.0, False)


def test_labels_follow_a_tomogram_into_other_voxels():
    made = labelled(source(noise(), [[9.5, 19.5, 29.5]]), Classes(("c1",), (1,), (100.0,)), 20.0,
                    False)
    np.testing.assert_allclose(made.position_xyz, [[4.5, 9.5, 14.5]])


def test_classes_need_one_name_for_a_number_and_known_names_for_diameters():
    one = source(noise(), [[1.0, 1, 1], [2.0, 2, 2]], [2, 1])
    other = source(noise(), [[1.0, 1, 1]], [2], "u", names=("ribosome",))
    with pytest.raises(ValueError, match="class 2 is called"):
        classes_of([one, other], {}, 10.0)
    with pytest.raises(ValueError, match="no particle is of class 'c9'"):
        classes_of([one], {"c9": 100.0}, 10.0)
    found = classes_of([one], {"c2": 250.0}, 10.0)
    assert found.names == ("c1", "c2")
    assert found.diameter_angst == (100.0, 250.0)  # 10 voxels where nobody told


def test_the_last_tomogram_is_held_out_or_a_slab_of_a_lone_one():
    positions = np.random.default_rng(0).uniform(2, 38, (60, 3))
    several = [source(noise(), positions, name=n) for n in "abc"]
    left, tested, _ = split(several, [])
    assert [t.name for t in left] == ["a", "b"] and [t.name for t in tested] == ["c"]
    left, tested, _ = split(several, ["a", "c"])
    assert [t.name for t in left] == ["b"]
    lone = source(noise((40, 40, 40)), positions, name="a")
    left, tested, told = split([lone], [])
    assert "slab" in told
    assert left[0].tomogram.shape[2] + tested[0].tomogram.shape[2] == 40
    back = tested[0].centre_angst + [300.0, 0.0, 0.0]
    both = np.concatenate([left[0].centre_angst, back])
    np.testing.assert_allclose(np.sort(both, axis=0), np.sort(positions, axis=0) * 10)
    with pytest.raises(ValueError, match="no tomogram is called 'd'"):
        split(several, ["d"])
    with pytest.raises(ValueError, match="leave one"):
        split(several, ["a", "b", "c"])


# ----------------------------------------------------------------------------------------- crops
@pytest.mark.parametrize("turns", [False, True])
def test_particles_keep_to_their_voxels_under_every_mirror(turns):
    n = 12
    position = np.array([[2.0, 5, 7], [9.0, 1, 3]])
    volume = np.zeros((n, n, n), dtype=np.float32)
    for value, (x, y, z) in enumerate(position.astype(int), start=1):
        volume[z, y, x] = value
    seen = set()
    for seed in range(60):
        made = mirrored(Crop(volume, position, np.array([0, 1])), np.random.default_rng(seed),
                        turns)
        for value, (x, y, z) in enumerate(made.position_xyz.astype(int), start=1):
            assert made.volume[z, y, x] == value
        seen.add(tuple(made.position_xyz.ravel()))
    assert len(seen) == (16 if turns else 8)


def test_mirrors_leave_the_missing_wedge_where_it_is():
    rng = np.random.default_rng(1)
    n = 16
    half = np.fft.fftn(rng.normal(size=(n, n, n)))
    kz, kx = np.fft.fftfreq(n)[:, None, None], np.fft.fftfreq(n)[None, None, :]
    missing = np.broadcast_to(np.abs(kz) > np.tan(np.deg2rad(50)) * np.abs(kx) + 1e-9, half.shape)
    volume = np.fft.ifftn(np.where(missing, 0, half)).real.astype(np.float32)
    for seed in range(8):
        crop = Crop(volume, np.zeros((0, 3)), np.zeros(0, dtype=int))
        made = mirrored(crop, np.random.default_rng(seed), False)
        assert np.abs(np.fft.fftn(made.volume))[missing].max() < 1e-3 * np.abs(half).max()


def test_crops_depend_on_seed_and_number_alone_and_rare_classes_come_more_often():
    rng = np.random.default_rng(2)
    volume = noise((64, 96, 96))
    position = rng.uniform(2, 60, (200, 3))
    classes = np.where(np.arange(200) < 190, 1, 2)
    made = labelled(source(volume, position, classes), Classes(("a", "b"), (1, 2), (100.0, 100.0)),
                    10.0, False)
    sampler = CropSampler([made], TrainingSettings(crop=32, balance=0.5))
    again = CropSampler([made], TrainingSettings(crop=32, balance=0.5))
    np.testing.assert_array_equal(sampler.crop(17).volume, again.crop(17).volume)
    assert not np.array_equal(sampler.crop(17).volume, sampler.crop(18).volume)
    for balance in (0.0, 0.5, 1.0):
        draw = ParticleDraw([made], balance)
        rows = [draw.one(rng)[1] for _ in range(4000)]
        few, many = 10 ** (1 - balance), 190 ** (1 - balance)
        # The s.d. of a share of 4000 is 0.008 at most.
        assert np.mean(classes[rows] == 2) == pytest.approx(few / (few + many), abs=0.03)


# ------------------------------------------------------------------------------------ candidates
def candidates(position, score, size=10.0, posterior=None):
    position = np.asarray(position, dtype=float)
    posterior = np.ones((len(position), 1)) if posterior is None else posterior
    return Detections(position, np.asarray(score, dtype=float), posterior,
                      np.broadcast_to(np.asarray(size, dtype=float), len(position)).copy())


def test_iou_of_cubes_is_that_of_counted_voxels():
    rng = np.random.default_rng(3)
    grid = np.indices((40, 40, 40)).reshape(3, -1).T + 0.5
    for _ in range(20):
        low_a, low_b = rng.integers(0, 15, (2, 3))
        edge_a, edge_b = rng.integers(4, 20, 2)
        a = ((grid > low_a) & (grid < low_a + edge_a)).all(axis=1)
        b = ((grid > low_b) & (grid < low_b + edge_b)).all(axis=1)
        iou = cube_iou(low_a + edge_a / 2, np.float64(edge_a), low_b + edge_b / 2,
                       np.float64(edge_b))
        assert iou == pytest.approx((a & b).sum() / (a | b).sum())


def test_suppression_is_the_greedy_one():
    rng = np.random.default_rng(4)
    for rule in ("iou", "distance"):
        found = candidates(rng.uniform(0, 40, (150, 3)), rng.uniform(size=150),
                           rng.uniform(4, 12, 150))
        order = np.argsort(-found.score)
        kept = []
        for i in order:
            if rule == "iou":
                twins = [cube_iou(found.position_xyz[k], found.size[k], found.position_xyz[i],
                                  found.size[i]) > 0.3 for k in kept]
            else:
                twins = [np.linalg.norm(found.position_xyz[k] - found.position_xyz[i])
                         < 0.5 * found.size[k] for k in kept]
            if not any(twins):
                kept.append(i)
        left = without_overlap(found, 0.3) if rule == "iou" else without_neighbours(found, 0.5)
        np.testing.assert_allclose(left.score, found.score[kept])


def test_f1_counts_hits_and_classes():
    found = candidates([[5.0, 5, 5], [20, 5, 5], [30, 30, 30]], [0.9, 0.8, 0.7],
                       posterior=np.array([[1.0, 0], [1, 0], [0, 1]]))
    matched = match(found, np.array([[6.0, 5, 5], [20, 6, 5], [50, 50, 50]]), np.array([0, 1, 1]),
                    np.array([10.0, 10.0]))
    np.testing.assert_array_equal(matched.true_class, [0, 1, -1])
    localisation, per_class = f1_of(matched, np.zeros(2))
    assert localisation == pytest.approx(2 * 2 / (3 + 3))
    np.testing.assert_allclose(per_class, [2 * 1 / (2 + 1), 0.0])


def test_thresholds_separate_where_scores_do():
    rng = np.random.default_rng(5)
    true_score, false_score = rng.uniform(0.6, 1.0, 200), rng.uniform(0.05, 0.5, 300)
    classes = rng.integers(0, 2, 500)
    shift = np.where(classes == 1, -0.3, 0.0)  # class 1 scores lower
    score = np.concatenate([true_score, false_score]) + np.where(shift < 0, shift, 0)
    hit = np.arange(500) < 200
    matched = Matched(score, classes, np.where(hit, classes, -1),
                      np.bincount(classes[hit], minlength=2))
    thresholds = best_thresholds(matched)
    localisation, per_class = f1_of(matched, thresholds)
    assert localisation == 1.0 and per_class.min() == 1.0
    assert thresholds[1] < thresholds[0]


def test_settings_survive_a_file():
    what = DetectorSettings("points", 10.0, ("a", "b"), (1, 5), (8.0, 9.0), (0.4, 0.5))
    assert DetectorSettings.from_dict(what.as_dict()) == what
    assert set(what.as_dict()) == {field.name for field in dataclasses.fields(what)}
    with pytest.raises(ValueError, match="voxel size"):
        DetectorSettings("points", 0.0, ("a",), (1,), (8.0,), (0.4,))
