"""Template matching from tomogram to picks."""


import numpy as np
import pytest
from oracles_template import DIAMETER, PLACES, VOXEL, cut_wedge

from scipion_faml.execution import ThreadExecutor
from scipion_faml.geometry import (
    euler_to_matrix,
    rotation_angle_deg,
)
from scipion_faml.picking.template.scan import Maxima
from scipion_faml.simulation.tilt_series import Microscope
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.template_matching import (
    TemplateConfig,
    TemplateModel,
    diameter_of,
    enlarged,
    match_template,
    transfer_filter,
)
from scipion_faml.template_matching.search import Search
from scipion_faml.volume import soft_sphere
from scipion_faml.wedge import MissingWedge

WEDGE = MissingWedge(-60.0, 60.0)


def config(**changes):
    settings = {"symmetry": "D7", "threshold": 0.3, "n_candidates": 12, **changes}
    return TemplateConfig(DIAMETER, **settings)


def assert_found(picks, rotation, within_deg):
    """All four, each near its place and rotation."""
    group = symmetry_rotations("D7")
    for place, matrix in zip(PLACES, rotation, strict=True):
        distance = np.linalg.norm(picks.position_xyz[:, ::-1] - place, axis=1)
        assert distance.min() < 1.0
        found = euler_to_matrix(picks.euler_zyz[distance.argmin()])
        assert rotation_angle_deg(found, matrix @ group).min() < within_deg


# -------------------------------------------------------------------------------------- the search
def test_a_coarse_scan_and_refinement_find_all_with_far_fewer_poses(groel_scene, groel):
    result = match_template(groel_scene[0], VOXEL, TemplateModel(groel), WEDGE, config())
    assert len(result.picks) == 4
    assert_found(result.picks, groel_scene[1], 10.0)
    assert result.n_rotations_exhaustive > 20 * len(result.rotations)
    assert result.poses_factor > 6.0


def test_an_exhaustive_scan_finds_the_same_at_the_same_scores(groel_scene, groel):
    model = TemplateModel(groel)
    quick = match_template(groel_scene[0], VOXEL, model, WEDGE, config())
    slow = match_template(
        groel_scene[0], VOXEL, model, WEDGE,
        config(is_exhaustive=True, angular_step_deg=16.0, keeps_maps=True))
    assert_found(slow.picks, groel_scene[1], 10.0)
    np.testing.assert_allclose(slow.picks.score, quick.picks.score, rtol=0.1)
    assert slow.maps.score.shape == groel_scene[0].shape
    # Refined scores exceed those of the scan's grid.
    place = tuple(np.rint(slow.picks.position_xyz[0, ::-1]).astype(int))
    assert slow.picks.score[0] > slow.maps.score[place] - 0.02


def test_workers_change_no_bit(groel_scene, groel):
    model = TemplateModel(groel)
    results = [
        match_template(
            groel_scene[0], VOXEL, model, WEDGE, config(tile=36, n_candidates=4), None, m)
        for m in (map, ThreadExecutor(3).map)
    ]
    for name in ("position_zyx", "score", "euler_zyz"):
        np.testing.assert_array_equal(*(getattr(r.found, name) for r in results))


def test_dark_particles_are_bright_ones_inverted(groel_scene, groel):
    model = TemplateModel(groel)
    bright = match_template(groel_scene[0], VOXEL, model, WEDGE, config(n_candidates=4))
    dark = match_template(
        -groel_scene[0], VOXEL, model, WEDGE, config(n_candidates=4, is_dark=True))
    np.testing.assert_allclose(dark.picks.position_xyz, bright.picks.position_xyz, atol=1e-3)
    wrong = match_template(-groel_scene[0], VOXEL, model, WEDGE, config(n_candidates=4))
    assert wrong.found.score.max() < 0.7 * bright.found.score.max()


def test_a_mask_restricts_the_search(groel_scene, groel):
    mask = np.zeros(groel_scene[0].shape, dtype=np.float32)
    mask[:, :, 32:] = 1.0
    picks = match_template(
        groel_scene[0], VOXEL, TemplateModel(groel), WEDGE, config(tile=16), mask).picks
    assert len(picks) == 2
    assert (picks.position_xyz[:, 0] > 31.5).all()


@pytest.mark.parametrize("beside", [-0.4, 0.4])
def test_a_mask_lets_pass_the_peaks_of_the_binned_scan_that_lie_in_it(beside):
    noise = np.random.default_rng(0).normal(size=(59, 44, 44)).astype(np.float32)
    mask = np.zeros_like(noise)
    search = Search(noise, 10.0, WEDGE, TemplateConfig(200.0, border=0.0), mask, map)
    b, planes = search.binning, np.arange(59 // search.binning)
    assert b > 1
    mask[planes[-2] * b] = 1.0  # one plane of the tomogram: one of the scan
    places = np.stack([planes + beside, np.full(len(planes), 9), np.full(len(planes), 9)], axis=-1)
    found = search.peaks(Maxima(
        places, np.linspace(1.0, 0.5, len(planes)), np.zeros(len(planes), int)))
    centre = (planes[-2] + beside) * b + (b - 1) / 2
    np.testing.assert_allclose(found.position_zyx[:, 0], [centre])


def test_a_mask_of_the_template_is_turned_with_it(groel_scene, groel):
    mask = soft_sphere(20, 6.2, 2.0).copy()
    mask[:, :9] *= 0.5
    result = match_template(
        groel_scene[0], VOXEL, TemplateModel(groel, mask), WEDGE,
        config(symmetry="C7", n_candidates=5))
    assert_found(result.picks, groel_scene[1], 12.0)


@pytest.mark.parametrize("changes", [{"whitens": True}, {"high_pass_angst": 400.0},
                                     {"low_pass_angst": 50.0}])
def test_filters_keep_what_is_there(groel_scene, groel, changes):
    result = match_template(
        groel_scene[0], VOXEL, TemplateModel(groel), WEDGE, config(n_candidates=6, **changes))
    assert_found(result.picks, groel_scene[1], 12.0)


def test_a_control_tells_a_threshold_between_chance_and_particles(groel_scene, groel):
    result = match_template(
        groel_scene[0], VOXEL, TemplateModel(groel), WEDGE, config(threshold=None, n_candidates=60))
    assert 4 <= len(result.picks) <= 6
    assert_found(result.picks, groel_scene[1], 10.0)
    assert result.expected_false_positives <= 1.01
    assert result.threshold_from == "control"


def test_where_a_control_has_too_few_peaks_the_formula_tells(groel_scene, groel):
    result = match_template(
        groel_scene[0], VOXEL, TemplateModel(groel), WEDGE, config(threshold=None, n_candidates=8))
    assert result.threshold_from == "formula"
    assert_found(result.picks, groel_scene[1], 10.0)


def test_the_formula_alone_tells_a_threshold_too(groel_scene, groel):
    result = match_template(
        groel_scene[0], VOXEL, TemplateModel(groel), WEDGE, config(threshold=None, control="none"))
    # Beside a strong particle lie its wedge's streaks, of which noise knows nothing: they follow.
    assert result.threshold_from == "formula"
    assert_found(result.picks.take(np.arange(4)), groel_scene[1], 10.0)


@pytest.mark.parametrize("control", ["phase", "none"])
def test_noise_alone_makes_no_more_picks_than_were_asked_for(groel, control):
    asked, counts = 3.0, []
    for seed in range(2 if control == "phase" else 1):
        noise = np.random.default_rng([1, seed]).normal(size=(40, 52, 52))
        result = match_template(
            cut_wedge(noise), VOXEL, TemplateModel(groel), WEDGE,
            TemplateConfig(DIAMETER, "D7", false_positives=asked, control=control, border=0.4,
                           n_candidates=60))
        counts.append(len(result.picks))
    # Poisson counts of 6 in all exceed 14 once in 700 times; the formula counts maxima that
    # belong together, and coarse scans miss some, so that there may be fewer.
    assert sum(counts) <= 14
    if control == "phase":
        assert sum(counts) >= 1


# ----------------------------------------------------------------------------------------- helpers
def test_the_diameter_is_measured():
    n = 32
    ball = np.array(soft_sphere(n, 8.0, 1.0))
    assert diameter_of(TemplateModel(ball)) == pytest.approx(19, abs=2)
    mask = np.array(soft_sphere(n, 8.0, 1.0))
    assert diameter_of(TemplateModel(np.zeros((n, n, n)), mask)) == pytest.approx(17, abs=1)


def test_an_enlarged_map_lies_where_the_binned_one_does():
    fine = np.add.outer(np.add.outer(np.arange(8.0), np.arange(8.0)), np.arange(8.0))
    binned = fine.reshape(4, 2, 4, 2, 4, 2).mean(axis=(1, 3, 5))
    large = enlarged(binned, (8, 8, 8), 2, order=1)
    np.testing.assert_allclose(large[1:-1, 1:-1, 1:-1], fine[1:-1, 1:-1, 1:-1], atol=1e-5)
    assert enlarged(binned, (8, 8, 8), 2, order=0)[5, 0, 0] == binned[2, 0, 0]


def test_a_ctf_where_phases_were_flipped_is_positive():
    microscope = Microscope(defocus_um=3.0)
    flipped, raw = (transfer_filter(microscope, 10.0, f) for f in (True, False))
    np.testing.assert_allclose(flipped.gain, np.abs(raw.gain))
    assert raw.gain.min() < -0.5
    assert raw.gain[0] == pytest.approx(0.07)


def test_settings_that_cannot_be_are_refused():
    for changes, said in (
        ({"coarse_step_deg": 90.0}, "1 to 60"), ({"control": "other"}, "choose from"),
        ({"threshold": 3.0}, "-1 to 1"), ({"false_positives": 0.0}, "above 0"),
        ({"border": -1.0}, "negative"), ({"max_picks": 0}, "at least 1"), ({"tile": 4}, "16"),
        ({"clip_sd": 0.0}, "clip_sd"),
    ):
        with pytest.raises(ValueError, match=said):
            TemplateConfig(200.0, **changes)
    with pytest.raises(ValueError, match="above 0"):
        TemplateConfig(0.0)
    model = TemplateModel(np.array(soft_sphere(16, 4.0)))
    with pytest.raises(ValueError, match="voxel size 0"):
        match_template(np.zeros((30, 30, 30)), 0.0, model, WEDGE, TemplateConfig(100.0))
    with pytest.raises(ValueError, match="constant"):
        match_template(np.zeros((30, 30, 30)), 10.0, model, WEDGE, TemplateConfig(100.0))
