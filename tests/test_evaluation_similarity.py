"""The two figures of an average: known values, invariances, and what each of them cannot see."""

from __future__ import annotations

import numpy as np
import pytest

from scipion_faml.evaluation.similarity import (
    correlation_without_radial_mean,
    masked_correlation,
    similarity,
    similarity_of_hands,
)
from scipion_faml.evaluation.superposition import evaluation_mask
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.simulation.density import rasterise, turned
from scipion_faml.simulation.phantom import blob_model, blobs
from scipion_faml.volume import mirrored, squared_radius

N = 28


def round_blob(n, width):
    return np.exp(-squared_radius(n) / (2 * width**2))


def test_both_figures_are_one_for_a_scaled_and_raised_copy():
    volume = blobs(N, 1)
    copy = 3.0 * volume + 2.0
    # A constant is a radial mean of its own; float32 leaves 1e-6.
    assert masked_correlation(copy, volume) == pytest.approx(1.0, abs=1e-5)
    assert correlation_without_radial_mean(copy, volume) == pytest.approx(1.0, abs=1e-5)


def test_figures_do_not_depend_on_the_order_of_the_maps():
    first, second = blobs(N, 1), blobs(N, 2)
    for figure in (masked_correlation, correlation_without_radial_mean):
        assert figure(first, second) == pytest.approx(figure(second, first), abs=1e-12)


def test_a_round_blob_resembles_a_structure_by_the_first_figure_alone():
    volume, blob = blobs(N, 0), round_blob(N, 0.19 * N)
    assert masked_correlation(blob, volume) > 0.7
    noisy_blob = blob + 1e-3 * np.random.default_rng(0).normal(size=blob.shape)
    assert abs(correlation_without_radial_mean(noisy_blob, volume)) < 0.1


def test_noise_lowers_the_correlation_as_the_ratio_of_variances_says():
    volume = blobs(N, 3)
    inside = evaluation_mask(N) > 0
    weight = evaluation_mask(N)[inside]
    mean = np.average(volume[inside], weights=weight)
    variance = np.average((volume[inside] - mean) ** 2, weights=weight)
    noise = np.random.default_rng(0).normal(0.0, np.sqrt(variance), volume.shape)
    # Equal variances give 1 / sqrt(2); 7000 voxels leave an error of about 0.01.
    assert masked_correlation(volume + noise, volume) == pytest.approx(0.5**0.5, abs=0.02)


def test_what_lies_outside_the_mask_does_not_count():
    volume = blobs(N, 1)
    spoilt = np.where(evaluation_mask(N) > 0, volume, 100.0)
    assert masked_correlation(spoilt, volume) == pytest.approx(1.0, abs=1e-6)
    half = (np.arange(N) < N // 2).astype(float)[:, None, None] * evaluation_mask(N)
    spoilt = np.where(half > 0, volume, -volume)
    assert masked_correlation(spoilt, volume, half) == pytest.approx(1.0, abs=1e-6)


def test_a_moved_map_is_found_again_and_its_mirror_image_told_apart():
    n = 20  # a small box: three searches over all rotations
    model = blob_model(n, 5)
    pose = RigidTransforms(random_rotations(1, np.random.default_rng(1)), [[1.2, -0.7, 0.4]])
    moved = rasterise(turned(model, pose.rotation[0], pose.shift_xyz[0]), n, 1.0)
    found = similarity_of_hands(moved, blobs(n, 5))
    assert found["same"].masked_correlation > 0.995
    assert found["same"].correlation_without_radial_mean > 0.985
    assert found["mirrored"].correlation_without_radial_mean < 0.8
    other = similarity(mirrored(moved), blobs(n, 5), "mirrored")
    assert other.masked_correlation > 0.995


def test_different_boxes_masks_and_hands_are_refused():
    with pytest.raises(ValueError, match="resample"):
        masked_correlation(blobs(24, 0), blobs(28, 0))
    with pytest.raises(ValueError, match="mask"):
        correlation_without_radial_mean(blobs(24, 0), blobs(24, 0), evaluation_mask(28))
    with pytest.raises(ValueError, match="hand"):
        similarity(blobs(24, 0), blobs(24, 0), "left")
