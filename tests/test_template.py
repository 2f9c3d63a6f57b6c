"""Scores, filters, rotations and chance of template matching."""

import numpy as np
import oracles_template as oracles
import pytest

from scipion_faml.fourier import frequency_radius, shell_sums, spectrum
from scipion_faml.geometry import (
    RigidTransforms,
    euler_to_matrix,
    random_rotations,
    rotation_angle_deg,
)
from scipion_faml.picking.template.chance import (
    Chance,
    chance_of_control,
    chance_of_maxima,
    unbounded,
)
from scipion_faml.picking.template.controls import phase_randomised
from scipion_faml.picking.template.correlation import (
    prepare_piece,
    prepare_template,
)
from scipion_faml.picking.template.filters import (
    band_pass,
    combined,
    no_filter,
    radial_power,
    whitening,
)
from scipion_faml.picking.template.rotations import scan_rotations
from scipion_faml.picking.template.scan import scan, view_of
from scipion_faml.picking.tiles import Binned
from scipion_faml.simulation.density import rasterise
from scipion_faml.simulation.phantom import blob_model
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.volume import crop_or_pad, move_volume, soft_sphere
from scipion_faml.wedge import MissingWedge

ALL = MissingWedge(-90.0, 90.0)


def blobs(n=20, seed=0):
    return rasterise(blob_model(n, seed, 1.0), n, 1.0).astype(np.float32)


def everything(n):
    return np.ones((n, n, n // 2 + 1), dtype=np.float32)


def lopsided_mask(n):
    """A soft ball, cut."""
    mask = np.array(soft_sphere(n, 6.0, 2.0))
    mask[:, :, n // 2 + 3 :] *= 0.5
    return mask


# ------------------------------------------------------------------------------------- the score
@pytest.mark.parametrize("turns_mask", [False, True])
def test_the_score_is_the_correlation_coefficient_under_the_mask(turns_mask):
    rng = np.random.default_rng(0)
    n, wedge = 20, MissingWedge(-50.0, 60.0)
    values = rng.normal(size=(31, 40, 37)).astype(np.float32) + 3.0
    mask = lopsided_mask(n) if turns_mask else None
    template = prepare_template(blobs(n), wedge.mask(n), 6.0, mask)
    rotation = euler_to_matrix(random_rotations(1, rng))[0]
    score = prepare_piece(values, template).correlation(template, rotation)
    assert score.shape == tuple(s - template.support + 1 for s in values.shape)
    for _ in range(6):
        corner = [int(rng.integers(s)) for s in score.shape]
        direct = oracles.local_correlation(
            values, template.filtered(rotation), template.turned_mask(rotation), corner)
        # float32 sums over 10^3 voxels.
        assert score[tuple(corner)] == pytest.approx(direct, abs=2e-5)


def test_a_template_turned_is_that_of_a_spline_inside_its_mask():
    template = prepare_template(blobs(20), everything(20), 7.0)
    rotation = euler_to_matrix(np.array([0.4, 1.1, -0.7]))
    pose = RigidTransforms.from_rotation(rotation[None], np.zeros((1, 3)))
    expected = crop_or_pad(move_volume(blobs(20), pose), (template.support,) * 3)
    mask = template.turned_mask(rotation)
    assert oracles.local_correlation(
        expected, template.filtered(rotation), mask, (0, 0, 0)) > 0.995


def test_the_score_of_the_structure_itself_is_one():
    n = 20
    template = prepare_template(blobs(n), band_pass(1.0, None, None).on((n, n, n)), 6.0)
    rotation = euler_to_matrix(np.array([1.0, 0.6, 0.2]))
    values = np.zeros((40, 40, 40), dtype=np.float32)
    s = template.support
    values[8 : 8 + s, 10 : 10 + s, 12 : 12 + s] = template.filtered(rotation)
    score = prepare_piece(values, template, float(values.std())).correlation(template, rotation)
    assert np.unravel_index(score.argmax(), score.shape) == (8, 10, 12)
    assert score.max() == pytest.approx(1.0, abs=1e-4)
    assert score.min() >= -1.0 - 1e-4


def test_grey_level_and_contrast_of_the_tomogram_change_no_score():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(30, 30, 30)).astype(np.float32)
    template = prepare_template(blobs(20), everything(20), 6.0)
    rotation = np.eye(3)
    one, other = (prepare_piece(v, template, sd).correlation(template, rotation)
                  for v, sd in ((values, 1.0), (7.0 * values + 5.0, 7.0)))
    np.testing.assert_allclose(one, other, atol=1e-4)  # float32: the level is 5 s.d.


def test_where_nothing_was_imaged_the_score_is_zero():
    values = np.zeros((40, 40, 40), dtype=np.float32)
    values[:, :, 30:] = np.random.default_rng(0).normal(size=(40, 40, 10))
    template = prepare_template(blobs(16), everything(16), 5.0)
    score = prepare_piece(values, template, 0.5).correlation(template, np.eye(3))
    assert (score[:, :, :5] == 0).all()
    assert np.isfinite(score).all()


def test_templates_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="constant"):
        prepare_template(np.ones((16, 16, 16)), everything(16), 5.0)
    outside = np.zeros((16, 16, 16), dtype=np.float32)
    outside[0, 0, 0] = 1.0
    with pytest.raises(ValueError, match="constant under its mask"):
        prepare_template(outside, everything(16), 4.0)
    with pytest.raises(ValueError, match="cube"):
        prepare_template(np.zeros((16, 16, 12)), everything(16), 4.0)
    with pytest.raises(ValueError, match="must be alike"):
        prepare_template(blobs(16), everything(16), None, np.ones((12, 12, 12)))
    with pytest.raises(ValueError, match="0 to 1"):
        prepare_template(blobs(16), everything(16), None, 3.0 * soft_sphere(16, 4.0))
    with pytest.raises(ValueError, match="smaller --diameter"):
        prepare_template(blobs(16), everything(16), 8.0)


# ------------------------------------------------------------------------------------- published
def test_the_published_scores_are_ours_by_their_interpolation(shared_data):
    if not oracles.has_peak_data(shared_data):
        pytest.skip(f"{shared_data} holds no {oracles.PEAK}")
    theirs = oracles.published(shared_data)
    for r in np.unique(theirs["index"])[5::400]:
        here = theirs["index"] == r
        score = oracles.their_score(
            theirs["template"], theirs["template"], theirs["mask"], theirs["rotation"][r])
        # The published volume is the best of all rotations: where r is it, they agree.
        np.testing.assert_allclose(score[here], theirs["score"][here], atol=1e-5)


def test_our_scan_agrees_with_the_published_one(shared_data):
    if not oracles.has_peak_data(shared_data):
        pytest.skip(f"{shared_data} holds no {oracles.PEAK}")
    found = oracles.compare_with_published(shared_data, every=4)
    assert found["place"] == found["published place"]
    assert found["highest"] > 0.99
    assert found["real, place"] == found["real, published place"]
    # A quarter of the rotations; all of them: 0.995. Ours turns without the blur of theirs.
    assert found["correlation of score volumes"] > 0.97
    assert found["real, highest"] == pytest.approx(found["real, published highest"], rel=0.2)


# ------------------------------------------------------------------------------------- rotations
@pytest.mark.parametrize("group", ["C1", "C7", "D7", "O"])
def test_rotations_cover_all_that_a_symmetry_leaves_different(group):
    step, rng = 20.0, np.random.default_rng(0)
    rotation = euler_to_matrix(scan_rotations(step, group))
    symmetry = symmetry_rotations(group)
    expected = 8 * np.pi**2 / np.deg2rad(step) ** 3 / len(symmetry)
    assert len(rotation) == pytest.approx(expected, rel=0.05, abs=4)
    distances = [
        rotation_angle_deg(rotation[None], (true @ symmetry)[:, None]).min()
        for true in euler_to_matrix(random_rotations(100, rng))
    ]
    assert np.max(distances) < step
    assert np.mean(distances) < 0.55 * step


def test_seven_degrees_are_43298_rotations():
    assert len(scan_rotations(7.0)) == 43298
    assert len(scan_rotations(7.0, "D7")) == 3086


# --------------------------------------------------------------------------------------- filters
def test_a_band_pass_falls_to_half_at_its_resolutions():
    band = band_pass(5.0, 40.0, 200.0)
    low, high = band.at(np.array([5.0 / 40.0, 5.0 / 200.0]))
    assert low == pytest.approx(0.5, abs=0.02)
    assert high == pytest.approx(0.5, abs=0.02)
    assert band.at(np.array([0.0]))[0] == pytest.approx(0.0, abs=1e-6)
    assert band_pass(5.0, None, None).at(np.array([0.6]))[0] == 0.0
    with pytest.raises(ValueError, match="finer"):
        band_pass(5.0, 200.0, 100.0)


def test_whitening_makes_the_power_of_coloured_noise_even():
    rng = np.random.default_rng(0)
    n = 32
    colour = combined([band_pass(1.0, 5.0, None)])
    blocks = [colour.applied(rng.normal(size=(n, n, n)) + 0.0) + 0.2 * rng.normal(size=(n, n, n))
              for _ in range(6)]
    white = whitening(radial_power(blocks, everything(n)))
    power = radial_power([white.applied(b) for b in blocks], everything(n))
    inside = (power.frequency > 0.05) & (power.frequency < 0.45)
    assert power.gain[inside].max() / power.gain[inside].min() < 1.5
    assert no_filter().reach == 0
    assert 0 < white.reach <= 32


def test_a_filtered_region_is_a_region_of_the_filtered_tomogram():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(48, 50, 52)).astype(np.float32)
    view = view_of(Binned(values, 1), False, 50.0, band_pass(1.0, 6.0, None), False, ALL)
    whole = view.region((0, 0, 0), values.shape)
    part = view.region((20, 22, 24), (8, 9, 10))
    # What the filter carries farther than its reach is 3 % of its kernel.
    assert np.abs(part - whole[20:28, 22:31, 24:34]).max() < 0.05 * whole.std()


# ------------------------------------------------------------------------------------------ scan
def planted(shape=(40, 44, 48), n=16, noise=0.0):
    """A tomogram with one blob structure, its place and rotation."""
    rng = np.random.default_rng(2)
    rotation = euler_to_matrix(scan_rotations(30.0))[17]
    pose = RigidTransforms.from_rotation(rotation[None], np.zeros((1, 3)))
    values = noise * rng.normal(size=shape).astype(np.float32)
    values[13:29, 17:33, 20:36] += move_volume(blobs(n), pose)
    return values, (21, 25, 28), 17


def test_a_scan_finds_place_and_rotation_whatever_its_tiles():
    values, place, which = planted(noise=0.05)
    view = view_of(Binned(values, 1), False, 50.0, band_pass(1.0, 4.0, None), False, ALL)
    n = 16
    template = prepare_template(blobs(n), view.filter.on((n, n, n)), 5.0)
    euler_zyz = scan_rotations(30.0)[:100]
    whole, maps = scan(view, template, euler_zyz, 64, keeps_maps=True)
    tiled, tiled_maps = scan(view, template, euler_zyz, 16, keeps_maps=True)
    np.testing.assert_allclose(whole.position_zyx[0], place, atol=0.5)
    assert whole.rotation_index[0] == which
    assert maps.score[place] == pytest.approx(whole.score[0], abs=0.02)
    assert maps.rotation_index[place] == which
    assert len(whole) == len(tiled)
    np.testing.assert_allclose(maps.score, tiled_maps.score, atol=1e-4)  # float32 transforms


def test_the_best_of_chunks_is_the_best_of_all(monkeypatch):
    values, _, _ = planted(noise=0.1)
    view = view_of(Binned(values, 1), False, 50.0, no_filter(), False, ALL)
    template = prepare_template(blobs(16), everything(16), 5.0)
    euler_zyz = scan_rotations(40.0)
    one, _ = scan(view, template, euler_zyz, 64)
    monkeypatch.setattr("scipion_faml.picking.template.scan.ROTATIONS_OF_CHUNK", 50)
    many, _ = scan(view, template, euler_zyz, 64)
    np.testing.assert_array_equal(one.score, many.score)
    np.testing.assert_array_equal(one.rotation_index, many.rotation_index)


def test_tiles_outside_a_mask_are_not_looked_at():
    values, place, _ = planted(noise=0.1)
    mask = np.zeros(values.shape, dtype=np.float32)
    mask[:, :, :16] = 1.0
    view = view_of(Binned(values, 1), False, 50.0, no_filter(), False, ALL)
    template = prepare_template(blobs(16), everything(16), 5.0)
    found, maps = scan(view, template, scan_rotations(60.0), 16, mask, keeps_maps=True)
    assert (maps.rotation_index[:, :, 16:] == -1).all()
    assert (found.position_zyx[:, 2] < 16.5).all()
    assert len(found) > 0


# -------------------------------------------------------------------------------------- controls
def test_a_control_has_the_power_and_profile_of_the_structure_and_its_symmetry():
    n, rng = 24, np.random.default_rng(0)
    density, mask = blobs(n), soft_sphere(n, 8.0, 2.0)
    control = phase_randomised(density, mask, "C4", rng)
    inside = (density - (mask * density).sum() / mask.sum()) * mask
    ours, theirs = (shell_sums(np.abs(spectrum(v.astype(np.float32))) ** 2, n)
                    for v in (control, inside))
    np.testing.assert_allclose(ours[1:8], theirs[1:8], rtol=0.5)
    assert abs(np.corrcoef(control[mask > 0], inside[mask > 0])[0, 1]) < 0.5
    quarter = RigidTransforms(np.array([[np.pi / 2, 0.0, 0.0]]), np.zeros((1, 3)))
    assert np.corrcoef(move_volume(control, quarter).ravel(), control.ravel())[0, 1] > 0.97
    assert control[frequency_radius(n).shape[0] // 2, 0, 0] == pytest.approx(0.0, abs=1e-3)


# ---------------------------------------------------------------------------------------- chance
def test_chance_reaches_its_threshold_as_often_as_asked():
    chance = Chance(0.03, 4000.0)
    for asked in (0.1, 1.0, 20.0):
        assert chance.expected(chance.threshold(asked)) == pytest.approx(asked, rel=1e-6)
    assert chance.threshold(0.1) > chance.threshold(1.0)
    assert 0.0 < chance.threshold(1e-9) < 1.0


def drawn_maxima(chance, n_places, rng):
    """Highest scores of places of a known chance, by inversion of exp(-N / n_places)."""
    z = np.linspace(3.4, 12.0, 4000)
    score = np.sqrt(-np.expm1(-((z * chance.sd) ** 2)))
    below = np.exp(-np.array([chance.expected(s) for s in score]) / n_places)
    return np.interp(rng.uniform(below[0], 1.0, n_places), below, score)


def test_the_tail_of_known_maxima_is_recovered():
    rng = np.random.default_rng(0)
    true = Chance(0.03, 7000.0)
    thresholds = [chance_of_maxima(drawn_maxima(true, 400, rng), 400.0).threshold(1.0)
                  for _ in range(10)]
    counts = [true.expected(t) for t in thresholds]
    assert 0.5 < np.median(counts) < 2.0


def test_places_whose_score_is_not_known_count_as_lower():
    rng = np.random.default_rng(1)
    score = np.sort(drawn_maxima(Chance(0.03, 7000.0), 400, rng))[::-1]
    whole, part = chance_of_maxima(score, 400.0), chance_of_maxima(score[:200], 400.0)
    assert part.threshold(1.0) == pytest.approx(whole.threshold(1.0), rel=0.05)


def test_what_a_structure_makes_a_control_score_is_no_chance():
    rng = np.random.default_rng(2)
    chance = drawn_maxima(Chance(0.03, 7000.0), 200, rng)
    position = rng.uniform(0.0, 500.0, (200, 3))
    structures = rng.uniform(600.0, 900.0, (30, 3))
    score = np.concatenate([chance, np.full(30, 0.3)])
    where = np.concatenate([position, structures + 1.0])
    found = np.full(30, 0.6), structures
    alone = chance_of_maxima(chance, 200.0).threshold(1.0)
    told = chance_of_control(score, where, *found, 10.0, 1.0, 230.0).threshold(1.0)
    assert told == pytest.approx(alone, rel=0.02)
    # Another structure, which answers to both nearly alike, is chance all the same.
    alike = chance_of_control(score, where, found[0] - 0.25, structures, 10.0, 1.0, 230.0)
    assert alike.threshold(1.0) >= 0.3


def test_too_few_maxima_tell_no_threshold():
    with pytest.raises(ValueError, match="too few"):
        chance_of_maxima(np.linspace(0.1, 0.2, 10), 10.0)


def test_coefficients_are_spread_to_infinity():
    np.testing.assert_allclose(unbounded(np.array([-0.2, 0.0, 0.01])), [0.0, 0.0, 0.01], atol=1e-6)
    assert unbounded(np.array([0.9999]))[0] > 2.5
