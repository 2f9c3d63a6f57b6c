"""Picking by difference of Gaussians: finds balls, keeps to its expected false positives."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from scipion_faml.cli import run
from scipion_faml.evaluation.picks import compare_positions
from scipion_faml.io import write_volume
from scipion_faml.picking import Picks
from scipion_faml.picking.dog import DogConfig, pick_dog, pick_down_to
from scipion_faml.picking.peaks import suppress_neighbours
from scipion_faml.picking.tiles import Binned
from scipion_faml.tables import read_particles

DIAMETER = 12.0


def balls(shape, positions_xyz, radius):
    """Solid balls of density 1, edges smoothed over a voxel."""
    grid = np.indices(shape, dtype=np.float32)
    volume = np.zeros(shape, dtype=np.float32)
    for x, y, z in positions_xyz:
        distance = np.sqrt((grid[0] - z) ** 2 + (grid[1] - y) ** 2 + (grid[2] - x) ** 2)
        volume += np.clip(radius + 0.5 - distance, 0, 1)
    return volume


@pytest.fixture(scope="module")
def scene():
    """A noisy tomogram (z, y, x) with 20 balls, their positions, and the noise alone."""
    rng = np.random.default_rng(0)
    shape = (56, 96, 110)
    found: list[np.ndarray] = []
    while len(found) < 20:
        candidate = rng.uniform(8, np.array(shape)[::-1] - 9)
        if all(np.linalg.norm(candidate - other) > 1.1 * DIAMETER for other in found):
            found.append(candidate)
    noise = rng.standard_normal(shape).astype(np.float32)
    return balls(shape, found, DIAMETER / 2) + noise, np.array(found), noise


def test_balls_are_found_where_they_are_and_nothing_else(scene):
    tomogram, truth, _ = scene
    result = pick_dog(tomogram, 1.0, DogConfig((DIAMETER,)))
    agreement = compare_positions(result.picks.position_xyz, truth, DIAMETER / 2)
    assert agreement.recall == 1.0
    assert agreement.precision >= 0.95
    assert np.median(agreement.distance) < 1.0
    assert (np.diff(result.picks.score) <= 0).all()


def test_voxel_size_and_scale_of_the_density_change_nothing(scene):
    tomogram, _, _ = scene
    here = pick_dog(tomogram, 1.0, DogConfig((DIAMETER,))).picks
    there = pick_dog(1000.0 * tomogram - 7.0, 10.0, DogConfig((10 * DIAMETER,))).picks
    np.testing.assert_allclose(here.position_xyz, there.position_xyz, atol=0.01)
    np.testing.assert_allclose(here.score, there.score, rtol=1e-3)


def test_dark_particles_are_the_bright_ones_of_the_negative(scene):
    tomogram, _, _ = scene
    bright = pick_dog(tomogram, 1.0, DogConfig((DIAMETER,))).picks
    dark = pick_dog(-tomogram, 1.0, DogConfig((DIAMETER,), is_dark=True)).picks
    np.testing.assert_allclose(bright.position_xyz, dark.position_xyz, atol=1e-3)


def test_tiles_of_any_size_and_threads_give_the_same_picks(scene):
    tomogram, _, _ = scene
    whole = pick_dog(tomogram, 1.0, DogConfig((DIAMETER,), threshold=4.0))
    with ThreadPoolExecutor(2) as pool:
        tiled = pick_dog(tomogram, 1.0, DogConfig((DIAMETER,), threshold=4.0, tile=24), pool.map)
    # The noise is sampled differently; maxima and their places are the same.
    assert compare_positions(
        whole.picks.position_xyz, tiled.picks.position_xyz, 0.05).f1 > 0.97
    assert whole.noise_sd[0] == pytest.approx(tiled.noise_sd[0], rel=0.02)


@pytest.mark.parametrize("smoothing", [0.0, 1.2])
def test_noise_alone_gives_as_many_picks_as_expected(smoothing):
    counts = []
    for seed in range(3):
        noise = np.random.default_rng(seed).standard_normal((64, 100, 100)).astype(np.float32)
        if smoothing:
            noise = ndimage.gaussian_filter(noise, smoothing)
        config = DogConfig((10.0,), false_positives=15.0, min_distance_angst=0.0)
        counts.append(len(pick_dog(noise, 1.0, config).picks))
    # A Poisson sum of 45 has s.d. 7; the formula holds for high levels to some 30 %.
    assert 25 < sum(counts) < 75


def test_fewer_false_positives_mean_a_higher_threshold(scene):
    _, _, noise = scene
    thresholds = [
        pick_dog(noise, 1.0, DogConfig((DIAMETER,), false_positives=f)).threshold
        for f in (0.01, 1.0, 10.0)
    ]
    assert thresholds[0] > thresholds[1] > thresholds[2] >= 2.0


def test_a_fixed_threshold_and_a_number_of_picks_are_kept_to(scene):
    tomogram, _, _ = scene
    result = pick_dog(tomogram, 1.0, DogConfig((DIAMETER,), threshold=6.5))
    assert result.threshold == 6.5 and result.picks.score.min() >= 6.5
    best = pick_dog(tomogram, 1.0, DogConfig((DIAMETER,), max_picks=5)).picks
    assert len(best) == 5
    assert pick_dog(tomogram, 1.0, DogConfig((DIAMETER,), threshold=500.0)).picks.score.size == 0


def test_no_pick_lies_nearer_to_a_face_than_the_border(scene):
    tomogram, _, _ = scene
    result = pick_dog(tomogram, 1.0, DogConfig((DIAMETER,), border_angst=DIAMETER, threshold=2.0))
    away = np.minimum(
        result.picks.position_xyz, np.array(tomogram.shape)[::-1] - 1 - result.picks.position_xyz)
    assert away.min() >= DIAMETER
    assert result.n_near_border > 0


def test_picks_keep_their_distance(scene):
    tomogram, _, _ = scene
    picks = pick_dog(tomogram, 1.0, DogConfig((DIAMETER,), threshold=2.0)).picks
    apart = np.linalg.norm(picks.position_xyz[:, None] - picks.position_xyz[None], axis=2)
    assert apart[~np.eye(len(picks), dtype=bool)].min() > 0.8 * DIAMETER


def test_a_crowd_does_not_raise_the_noise(scene):
    tomogram, _, noise = scene
    crowded = pick_dog(tomogram, 1.0, DogConfig((DIAMETER,))).noise_sd[0]
    empty = pick_dog(noise, 1.0, DogConfig((DIAMETER,))).noise_sd[0]
    # Clipping and scaling by the tomogram's own spread differ a little between the two.
    assert crowded == pytest.approx(empty, rel=0.1)


def test_a_gold_bead_does_not_outshine_particles(scene):
    tomogram, truth, _ = scene
    with_gold = tomogram.copy()
    spot = np.array([55, 48, 28])
    away = np.linalg.norm(truth - spot, axis=1) > 1.5 * DIAMETER
    with_gold[27:30, 47:50, 54:57] = 500.0
    picks = pick_dog(with_gold, 1.0, DogConfig((DIAMETER,))).picks
    agreement = compare_positions(picks.position_xyz, truth[away], DIAMETER / 2)
    assert agreement.recall == 1.0


def test_fine_tomograms_are_binned_and_positions_stay(scene):
    rng = np.random.default_rng(1)
    shape, truth = (64, 64, 64), np.array([[20.0, 25, 30], [44, 40, 35]])
    tomogram = balls(shape, truth, 11.0) + 0.5 * rng.standard_normal(shape).astype(np.float32)
    result = pick_dog(tomogram, 2.0, DogConfig((44.0,)))
    assert result.binning == (2,)
    found = compare_positions(result.picks.position_xyz, truth, 3.0)
    assert found.recall == 1.0 and found.distance.max() < 1.0


def test_a_binned_view_is_the_mean_of_blocks():
    volume = np.random.default_rng(2).standard_normal((7, 8, 10)).astype(np.float32)
    view = Binned(volume, 2)
    assert view.shape == (3, 4, 5)
    region = view[(slice(1, 3), slice(0, 4), slice(2, 5))]
    assert region.shape == (2, 4, 3)
    assert region[0, 0, 0] == pytest.approx(volume[2:4, 0:2, 4:6].mean(), abs=1e-6)


def test_neighbours_are_suppressed_best_first():
    line = np.array([[0.0, 0, 0], [3, 0, 0], [6, 0, 0], [20, 0, 0]])
    # The second falls to the first, so it cannot suppress the third.
    assert suppress_neighbours(line, 4.0).tolist() == [0, 2, 3]
    assert suppress_neighbours(line, 0.0).tolist() == [0, 1, 2, 3]


def test_integer_tomograms_are_picked_in(scene):
    tomogram, truth, _ = scene
    counts = np.clip(100 + 20 * tomogram, 0, 255).astype(np.uint8)
    picks = pick_dog(counts, 1.0, DogConfig((DIAMETER,))).picks
    assert compare_positions(picks.position_xyz, truth, DIAMETER / 2).recall == 1.0


@pytest.mark.parametrize("change, message", [
    ({"diameters_angst": (1.0,)}, "2 at least are needed"),
    ({"diameters_angst": (80.0,)}, "shortest side"),
    ({"diameters_angst": (-5.0,)}, "above 0"),
    ({"false_positives": 0.0}, "above 0"),
    ({"ratio": 1.0}, "must exceed 1"),
    ({"max_picks": 0}, "at least 1"),
])
def test_impossible_settings_are_named(scene, change, message):
    tomogram, _, _ = scene
    with pytest.raises(ValueError, match=message):
        pick_dog(tomogram, 1.0, DogConfig(**{"diameters_angst": (DIAMETER,), **change}))


def test_damaged_tomograms_are_refused(scene):
    tomogram, _, _ = scene
    with pytest.raises(ValueError, match="constant"):
        pick_dog(np.zeros((40, 40, 40), dtype=np.float32), 1.0, DogConfig((DIAMETER,)))
    damaged = tomogram.copy()
    damaged[5, 5, 5] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        pick_dog(damaged, 1.0, DogConfig((DIAMETER,)))


def test_picks_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="picks need"):
        Picks(np.zeros((2, 3)), np.zeros(3), np.zeros(2, dtype=int))


# ------------------------------------------------------------------ several sizes, mask, gold, LoG
SIZES = (8.0, 20.0)


@pytest.fixture(scope="module")
def two_sizes():
    """A noisy tomogram with balls of two diameters, their positions and diameters."""
    rng = np.random.default_rng(3)
    shape = (64, 110, 110)
    truth = np.array([[x, y, z] for x in (20, 45, 70, 92) for y in (20, 45, 70, 92)
                      for z in (18, 46)], dtype=float)
    diameters = rng.permutation(np.repeat(SIZES, len(truth) // 2))
    tomogram = rng.standard_normal(shape).astype(np.float32)
    for size, contrast in zip(SIZES, (2.0, 0.7), strict=True):
        tomogram += contrast * balls(shape, truth[diameters == size], size / 2)
    return tomogram, truth, diameters


@pytest.mark.parametrize("name", ["dog", "log"])
def test_each_pick_tells_the_diameter_that_answers_best(two_sizes, name):
    tomogram, truth, diameters = two_sizes
    found = pick_dog(tomogram, 1.0, DogConfig(SIZES, filter=name))
    distance, nearest = cKDTree(truth).query(found.picks.position_xyz)
    assert len(found.picks) == len(truth) and distance.max() < 3.0
    assert (found.diameter_angst == diameters[nearest]).mean() > 0.95


def test_one_size_alone_finds_fewer_of_the_other(two_sizes):
    tomogram, truth, diameters = two_sizes
    small = pick_dog(tomogram, 1.0, DogConfig(SIZES[:1])).picks
    large = truth[diameters == SIZES[1]]
    assert compare_positions(small.position_xyz, large, 4.0).recall < 0.9


def test_sizes_share_the_false_positives():
    counts, expected = [], 15.0
    for seed in range(3):
        noise = np.random.default_rng(seed).standard_normal((64, 100, 100)).astype(np.float32)
        config = DogConfig((8.0, 12.0), false_positives=expected, min_distance_angst=0.0)
        found = pick_dog(noise, 1.0, config)
        assert found.expected_false_positives == pytest.approx(expected)
        counts.append(len(found.picks))
    assert 25 < sum(counts) < 90  # of 45, and some more at so low a level


def test_a_mask_bounds_picks_and_the_false_positives():
    n_found = 0
    mask = np.zeros((64, 100, 100), dtype=np.uint8)
    mask[16:48, :, :50] = 1  # a quarter
    for seed in range(3):
        noise = np.random.default_rng(seed).standard_normal(mask.shape).astype(np.float32)
        # Louder noise elsewhere must not raise the threshold within.
        noise[mask == 0] *= 3.0
        config = DogConfig((8.0,), false_positives=15.0, min_distance_angst=0.0, clip_sd=20.0)
        found = pick_dog(noise, 1.0, config, mask=mask)
        nearest = np.rint(found.picks.position_xyz[:, ::-1]).astype(int)
        assert (mask[tuple(nearest.T)] == 1).all()
        n_found += len(found.picks)
    assert 25 < n_found < 100  # of 45; the filter sees a little beyond the mask


def test_a_smaller_mask_allows_a_lower_threshold(scene):
    _, _, noise = scene
    mask = np.zeros(noise.shape, dtype=np.float32)
    mask[:, :48] = 1.0
    whole = pick_dog(noise, 1.0, DogConfig((DIAMETER,)))
    part = pick_dog(noise, 1.0, DogConfig((DIAMETER,)), mask=mask)
    assert part.threshold < whole.threshold


def test_masks_that_fit_nothing_are_refused(scene):
    tomogram, _, _ = scene
    with pytest.raises(ValueError, match="nowhere above 0.5"):
        pick_dog(tomogram, 1.0, DogConfig((DIAMETER,)), mask=np.zeros_like(tomogram))
    with pytest.raises(ValueError, match="the mask has shape"):
        pick_dog(tomogram, 1.0, DogConfig((DIAMETER,)), mask=np.ones((4, 4, 4)))


@pytest.mark.parametrize("noise_sd", [1.0, 0.05])
def test_gold_beads_of_the_particles_size_are_left_out(scene, noise_sd):
    tomogram, truth, noise = scene
    volume = tomogram + (noise_sd - 1.0) * noise  # 0.05: as after denoising
    shape, gold = volume.shape, np.array([[55.0, 48.0, 28.0], [20.0, 80.0, 12.0]])
    volume = volume + 30.0 * balls(shape, gold, DIAMETER / 2)
    result = pick_dog(volume, 1.0, DogConfig((DIAMETER,)))
    assert result.n_gold == 2
    assert cKDTree(gold).query(result.picks.position_xyz)[0].min() > DIAMETER / 2
    away = cKDTree(gold).query(truth)[0] > 1.5 * DIAMETER
    assert compare_positions(result.picks.position_xyz, truth[away], DIAMETER / 2).recall == 1.0


def test_a_low_threshold_in_a_denoised_tomogram_takes_no_particle_for_gold(scene):
    tomogram, truth, noise = scene
    result = pick_dog(tomogram - 0.95 * noise, 1.0, DogConfig((DIAMETER,), threshold=1.0))
    assert result.n_gold == 0
    assert compare_positions(result.picks.position_xyz, truth, DIAMETER / 2).recall == 1.0


def test_a_preview_holds_the_picks_of_every_threshold(scene):
    tomogram, _, _ = scene
    preview = pick_down_to(2.0, tomogram, 1.0, DogConfig((DIAMETER,)))
    picks = pick_dog(tomogram, 1.0, DogConfig((DIAMETER,))).picks
    above = preview.picks.score >= preview.threshold
    np.testing.assert_allclose(preview.picks.position_xyz[above], picks.position_xyz)
    assert above.sum() < len(above)


def test_distances_of_their_own_suppress_by_their_mean():
    line = np.array([[0.0, 0, 0], [5, 0, 0], [11, 0, 0]])
    own = np.array([4.0, 8.0, 8.0])  # means: 6 between the first two, 8 between the last two
    assert suppress_neighbours(line, own).tolist() == [0, 2]
    assert suppress_neighbours(line[1:], own[1:]).tolist() == [0]


@pytest.mark.parametrize("change, message", [
    ({"diameters_angst": ()}, "no diameter"),
    ({"diameters_angst": (12.0, 12.0)}, "given twice"),
    ({"filter": "sobel"}, "is not known"),
    ({"min_distance_angst": -1.0}, "not be negative"),
])
def test_impossible_settings_of_several_sizes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        DogConfig(**{"diameters_angst": (DIAMETER,), **change})


# ------------------------------------------------------------------------------------- the verb
@pytest.fixture(scope="module")
def files(two_sizes, tmp_path_factory):
    """The tomogram of two sizes at 10 A, a mask of a half, and masks that do not do."""
    folder = tmp_path_factory.mktemp("dog")
    tomogram = two_sizes[0]
    mask = np.zeros(tomogram.shape, dtype=np.float32)
    mask[:, :, :55] = 1.0
    for name, values in (("tomogram", tomogram), ("mask", mask), ("none", 0 * mask),
                         ("small", mask[:20])):
        write_volume(folder / f"{name}.mrc", values, 10.0)
    return folder


def test_the_verb_writes_the_diameter_of_each_pick_in_the_mask(files, two_sizes, capsys):
    call = ["pick-dog", str(files / "tomogram.mrc"), "--diameter", "80", "--diameter", "200",
            "--mask", str(files / "mask.mrc"), "--output", str(files / "p.star"), "--json"]
    assert run(call) == 0
    told = json.loads(capsys.readouterr().out)
    rows = read_particles(files / "p.star").rows
    assert set(rows["famlDiameter"]) == {80.0, 200.0}
    assert told["n_of_diameter"] == {
        f"{d}": int((rows["famlDiameter"] == d).sum()) for d in (80, 200)}
    assert rows["rlnCoordinateX"].max() <= 55
    n_there = int((two_sizes[1][:, 0] < 54).sum())
    assert n_there <= len(rows) <= n_there + 2  # one false pick is allowed by default


@pytest.mark.parametrize("options, message", [
    (["--diameter", "80", "--mask", "small.mrc"], "must have the tomogram's size"),
    (["--diameter", "80", "--mask", "none.mrc"], "nowhere above 0.5"),
    (["--diameter", "80", "--diameter", "80"], "given twice"),
    (["--diameter", "9"], "2 at least are needed"),
    (["--diameter", "5000"], "shortest side"),
    (["--diameter", "80", "--voxel-size", "0"], "voxel-size"),
])
def test_the_verb_says_in_one_line_what_is_wrong(files, monkeypatch, capsys, options, message):
    monkeypatch.chdir(files)
    assert run(["pick-dog", "tomogram.mrc", *options, "--output", "wrong.star"]) == 2
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told
    assert not (files / "wrong.star").exists()
