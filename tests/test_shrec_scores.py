"""SHREC'19: our scores of the published detections against the published evaluation log."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from scipion_faml.cli import run
from scipion_faml.evaluation.matching import pairs_by_distance, pairs_by_instance
from scipion_faml.evaluation.picks import best_agreement
from scipion_faml.geometry import euler_to_matrix
from scipion_faml.io import write_volume
from scipion_faml.tables import COORDINATES, ParticleTable, write_particles

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def shrec():
    """The benchmark's module."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("shrec19_scores")
    sys.path.remove(str(BENCHMARKS))
    del sys.modules["shrec19_scores"]


@pytest.fixture
def data(shrec, shared_data):
    if not (shared_data / "shrec19").is_dir():
        pytest.skip(f"no SHREC'19 data in {shared_data}")
    return shrec.read_data(shared_data)


def test_the_log_is_read_whole(shrec, data):
    log = data.log
    assert (log.n_picked, log.n_hit, log.n_true) == (len(data.picks), 1916, len(data.truth))
    assert log.confusion.sum() == log.n_true
    assert log.confusion[1:, 1:].sum() == log.n_hit and log.confusion[:, 0].sum() == log.n_missed
    said = np.bincount(data.truth.label, minlength=13)
    np.testing.assert_array_equal(log.confusion.sum(axis=1), said)


def test_cubes_about_the_particles_give_every_number_of_the_log(shrec, data):
    pairs = pairs_by_instance(
        data.picks.position_xyz, data.truth.position_xyz,
        shrec.cube_instances(data.truth, shrec.SIDES))
    ours, theirs = shrec.score(data, pairs, "cubes"), shrec.published(data)
    # The twelve sides were chosen by the rows of the matrix; the mean distance was not.
    assert ours.n_elsewhere == 0
    assert round(ours.distance_mean, 5) == theirs.distance_mean == 2.15997
    for name in ("n_hit", "n_false", "n_missed", "n_truth_with_duplicates", "precision", "recall",
                 "f1"):
        assert getattr(ours, name) == getattr(theirs, name), name


def test_sides_of_cubes_are_tied_down_by_the_log(shrec, data):
    ranges = shrec.side_ranges(data)
    assert all(shrec.SIDES[name] in sides for name, sides in ranges.items())
    assert ranges["1s3x"] == [8] and ranges["4b4t"] == [29, 30]


def test_distances_come_near_the_log(shrec, data):
    here, there = data.picks.position_xyz, data.truth.position_xyz
    eight = shrec.score(data, pairs_by_distance(here, there, 8.0), "within 8 voxels")
    assert eight.n_hit == 1925 and eight.n_truth_with_duplicates == 0
    for radius in (6.0, 10.0):
        score = shrec.score(data, pairs_by_distance(here, there, radius), "")
        # One per cent of the particles: those at the rim of the organisers' boxes.
        assert abs(score.n_hit - data.log.n_hit) <= 25 and score.n_elsewhere <= 30
        assert score.f1 == pytest.approx(0.80946, abs=0.006)


def test_turned_and_dilated_masks_come_near_the_log(shrec, data):
    labels = shrec.mask_instances(data)
    for reach in (2.0, 3.0, 4.0):
        pairs = pairs_by_instance(data.picks.position_xyz, data.truth.position_xyz, labels, reach)
        score = shrec.score(data, pairs, "")
        assert abs(score.n_hit - data.log.n_hit) <= 12 and score.n_elsewhere <= 25
        assert score.f1 == pytest.approx(0.80946, abs=0.004)
        # A detection lies on one particle's voxels: how many are found is no matter of choice.
        assert best_agreement(pairs).n_hit == score.n_hit


def test_the_angles_are_zxz_and_turn_masks_into_particles(shrec):
    euler = np.random.default_rng(0).uniform(-180, 180, (5, 3))
    ours = np.deg2rad(euler + [-90.0, 0.0, 90.0])
    np.testing.assert_allclose(shrec.rotations(euler), euler_to_matrix(ours), atol=1e-12)


def test_masks_overlap_least_under_these_angles(shrec, data):
    # A fifth of the particles: those in the first 40 slices.
    near = np.flatnonzero(data.truth.position_xyz[:, 2] < 40)
    some = shrec.Positions(
        data.truth.position_xyz[near], data.truth.label[near], data.truth.euler_deg[near])
    part = shrec.Data(some, data.picks, data.log, data.masks)
    overlaps = {
        (sequence, order, inverted): shrec.overlap(
            part, shrec.rotations(some.euler_deg, sequence, order, inverted), 1.0)
        for sequence, order, inverted in (("ZXZ", "123", False), ("ZXZ", "123", True),
                                          ("ZXZ", "321", True), ("ZYZ", "321", True))
    }
    assert min(overlaps, key=overlaps.get) == ("ZXZ", "123", False), overlaps


def test_the_verb_says_what_the_log_says(shrec, data, tmp_path, capsys):
    import json

    import pandas as pd

    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [10.0]})
    for name, one in (("truth", data.truth), ("picks", data.picks)):
        rows = pd.DataFrame(one.position_xyz, columns=COORDINATES).assign(
            rlnTomoName="model_9", famlModel=[shrec.CLASSES[k - 1] for k in one.label],
            # The picker numbers classes in its own way: names count.
            rlnClassNumber=one.label if name == "truth" else 13 - one.label)
        write_particles(tmp_path / f"{name}.star", ParticleTable(rows, optics))
    cubes = shrec.cube_instances(data.truth, shrec.SIDES)
    write_volume(tmp_path / "cubes.mrc", cubes.astype(np.float32), 10.0)
    assert run(["evaluate-picks", str(tmp_path / "picks.star"), "--truth",
                str(tmp_path / "truth.star"), "--instances", str(tmp_path / "cubes.mrc"),
                "--matching", "greedy", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["n_picked"], said["n_hit"], said["n_false"], said["n_missed"]) == (
        2194, 1916, 270, 624)
    assert said["n_duplicate"] == said["n_truth_with_duplicates"] == 8
    assert round(said["f1"], 5) == 0.80946
    assert said["confusion_rows"][1:] == list(shrec.CLASSES)
    np.testing.assert_array_equal(np.array(said["confusion"])[1:], data.log.confusion[1:])
    # 1369 is the trace of the log's matrix; its "zero-one loss" of 1171 are the others.
    assert said["n_hit"] - said["n_misclassified"] == 1369 == 2540 - 1171
