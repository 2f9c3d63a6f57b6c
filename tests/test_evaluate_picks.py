"""The verb evaluate-picks: from file to file, every fate of a pick, and clear errors."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from scipion_faml.cli import run
from scipion_faml.io import read_volume, write_volume
from scipion_faml.tables import COORDINATES, ORIGINS, ParticleTable, read_particles, write_particles

VOXEL = 8.0


def run_json(capsys, *arguments):
    """Run a verb with --json; return its object."""
    assert run([*map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_evaluate_picks_by_radius_and_over_tomograms(tmp_path, capsys):
    truth = pd.DataFrame({
        "rlnTomoName": ["a", "a", "b"], "rlnClassNumber": [1, 2, 2],
        "rlnCoordinateX": [10.0, 50, 10], "rlnCoordinateY": 10.0, "rlnCoordinateZ": 10.0})
    # The third lies where only the other tomogram has a particle; the fourth repeats the first.
    picks = pd.DataFrame({
        "rlnTomoName": ["a", "b", "b", "a"], "rlnCoordinateX": [11.0, 12, 50, 9],
        "rlnCoordinateY": 10.0, "rlnCoordinateZ": 10.0, "famlScore": [4.0, 3, 2, 1]})
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [VOXEL]})
    for name, rows in (("truth", truth), ("picks", picks)):
        write_particles(tmp_path / f"{name}.star", ParticleTable(rows, optics))
    result = run_json(capsys, "evaluate-picks", tmp_path / "picks.star", "--truth",
                      tmp_path / "truth.star", "--radius", 5 * VOXEL)
    assert (result["n_truth"], result["n_picked"], result["n_hit"], result["n_duplicate"]) == (
        3, 4, 2, 1)
    assert result["precision"] == 0.5 and result["recall"] == pytest.approx(2 / 3)
    assert result["per_class"]["2"]["recall"] == 0.5 and result["macro_f1"] is None
    assert result["distance_median_angst"] == pytest.approx(1.5 * VOXEL)


def test_origins_move_the_particle_not_the_box(tmp_path, capsys):
    base = {"rlnCoordinateX": [30.0], "rlnCoordinateY": [30.0], "rlnCoordinateZ": [30.0]}
    shifted = {**base, "rlnCoordinateX": [26.0], ORIGINS[0]: [-4 * VOXEL], ORIGINS[1]: [0.0],
               ORIGINS[2]: [0.0]}
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [VOXEL]})
    write_particles(tmp_path / "truth.star", ParticleTable(pd.DataFrame(base), optics))
    write_particles(tmp_path / "picks.star", ParticleTable(pd.DataFrame(shifted), optics))
    result = run_json(capsys, "evaluate-picks", tmp_path / "picks.star", "--truth",
                      tmp_path / "truth.star", "--radius", VOXEL)
    assert result["n_hit"] == 1 and result["distance_median_angst"] == pytest.approx(0, abs=1e-3)


SHAPE = (24, 40, 64)  # z, y, x
PLACES = np.array([[10.0, 10, 12], [32, 10, 12], [54, 10, 12], [10, 30, 12], [32, 30, 12]])
KINDS = np.array([1, 2, 2, 1, 3])
NAMES = np.array(["small", "round", "long"])


def positions_star(path, positions, **columns):
    """A STAR table of positions in voxels of 10 A."""
    rows = pd.DataFrame(np.atleast_2d(positions), columns=COORDINATES)
    rows = rows.assign(**{"rlnTomoName": "t", **columns})
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [10.0]})
    write_particles(path, ParticleTable(rows, optics))


@pytest.fixture
def scene(tmp_path):
    """Five particles of three classes, their labels, and seven picks of every fate."""
    positions_star(tmp_path / "truth.star", PLACES, rlnClassNumber=KINDS,
                   famlModel=NAMES[KINDS - 1])
    grid = np.indices(SHAPE)[::-1]
    labels = np.zeros((2, *SHAPE), dtype=np.float32)
    for number, (place, kind) in enumerate(zip(PLACES, KINDS, strict=True), 1):
        inside = ((grid - place[:, None, None, None]) ** 2).sum(axis=0) <= 16
        labels[:, inside] = np.array([[number], [kind]])
    write_volume(tmp_path / "instances.mrc", labels[0], 10.0)
    write_volume(tmp_path / "classes.mrc", labels[1], 10.0)
    # Right; right and twice; wrong class; within 2 voxels of the label; false; none on the fifth.
    picks = PLACES[[0, 1, 1, 2, 3, 3]] + [[1, 0, 0], [0, 1, 0], [0, 3, 0], [0, 0, 2], [6, 0, 0],
                                          [12, 0, 0]]
    positions_star(tmp_path / "picks.star", picks, famlScore=[6.0, 4, 5, 3, 2, 1],
                   rlnClassNumber=[1, 2, 2, 3, 1, 1])
    return tmp_path


def judge(capsys, folder, *arguments, picks="picks.star"):
    return run_json(capsys, "evaluate-picks", folder / picks, "--truth", folder / "truth.star",
                    *arguments)


def fault(capsys, folder, *arguments, picks="picks.star", truth="truth.star"):
    """The one line that a mistake ends with."""
    call = ["evaluate-picks", folder / picks, "--truth", folder / truth, *arguments]
    assert run(list(map(str, call))) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1, told
    return told[0]


def test_evaluate_picks_on_instances_tells_every_fate(scene, capsys):
    result = judge(capsys, scene, "--instances", scene / "instances.mrc")
    counts = {k: result[f"n_{k}"] for k in ("truth", "picked", "hit", "missed", "false",
                                            "duplicate", "misclassified")}
    assert counts == {"truth": 5, "picked": 6, "hit": 3, "missed": 2, "false": 2, "duplicate": 1,
                      "misclassified": 1}
    assert result["confusion_rows"] == ["background", "small", "round", "long"]
    assert result["confusion"] == [[0, 2, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]]
    assert result["macro_f1"] == pytest.approx((2 * 1 / 5 + 2 * 1 / 4 + 0) / 3)
    assert result["classification_accuracy"] == pytest.approx(2 / 3)
    wider = judge(capsys, scene, "--instances", scene / "instances.mrc", "--radius", 20)
    assert wider["n_hit"] == 4 and wider["rule"] == "within 20 A of voxels of the particle"
    by_class = judge(capsys, scene, "--labels", scene / "classes.mrc")
    assert by_class["n_hit"] == 3 and by_class["confusion"] == result["confusion"]


def test_matching_by_score_prefers_the_surer_pick_and_curves_are_its(scene, capsys):
    rule = ("--instances", scene / "instances.mrc")
    best = judge(capsys, scene, *rule, "--judged", scene / "best.star")
    greedy = judge(capsys, scene, *rule, "--matching", "greedy", "--judged", scene / "greedy.star",
                   "--curve", scene / "curve.csv")
    assert best["n_hit"] == greedy["n_hit"]
    fates = [read_particles(scene / f"{m}.star").rows["famlVerdict"].tolist()[1:3]
             for m in ("best", "greedy")]
    assert fates == [["hit", "duplicate"], ["duplicate", "hit"]]
    # Falling scores: hit, hit, duplicate, hit, false, false of 5.
    average = (1 + 1 + 3 / 4) / 5
    assert best["average_precision"] == greedy["average_precision"] == pytest.approx(average)
    curve = pd.read_csv(scene / "curve.csv")
    assert curve["class"].unique().tolist() == ["all", "small", "round", "long"]
    whole = curve[curve["class"] == "all"]
    assert whole["n_hit"].tolist() == [1, 2, 2, 3, 3, 3]
    assert greedy["best_f1"] == pytest.approx(6 / 9) and greedy["best_f1_threshold"] == 3.0
    assert greedy["mean_average_precision"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)


def test_recall_weighs_beta_times(scene, capsys):
    result = judge(capsys, scene, "--radius", 40, "--beta", 4)
    precision, recall = result["precision"], result["recall"]
    assert result["f_beta"] == pytest.approx(17 * precision * recall / (16 * precision + recall))


def test_judged_picks_and_missed_particles_are_one_table(scene, capsys):
    judge(capsys, scene, "--instances", scene / "instances.mrc", "--judged", scene / "j.star",
          "--report", scene / "report.html")
    rows = read_particles(scene / "j.star").rows
    assert rows["famlVerdict"].tolist() == [
        "hit", "hit", "duplicate", "misclassified", "false", "false", "missed", "missed"]
    assert rows["famlTruth"].tolist() == [1, 2, 2, 3, 0, 0, 4, 5]
    np.testing.assert_allclose(rows[COORDINATES].to_numpy(float)[-2:], PLACES[3:])
    html = (scene / "report.html").read_text()
    assert html.count("<img") == 2 and "misclassified" in html


def test_the_report_shows_slices_of_the_tomogram(scene, capsys):
    noise = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    write_volume(scene / "tomogram.mrc", noise, 10.0)
    judge(capsys, scene, "--radius", 40, "--tomogram", scene / "tomogram.mrc", "--report",
          scene / "report.html")
    assert (scene / "report.html").read_text().count("<img") == 5


def test_classes_are_compared_by_name_where_both_have_names(scene, capsys):
    names = {"famlModel": ["small", "round", "round", "long", "small", "tiny"]}
    rows = read_particles(scene / "picks.star").rows
    positions_star(scene / "named.star", rows[COORDINATES].to_numpy(float),
                   rlnClassNumber=[7, 8, 8, 9, 7, 6], **names)
    by_name = judge(capsys, scene, "--instances", scene / "instances.mrc", picks="named.star")
    assert by_name["confusion_columns"] == ["not found", "small", "round", "long", "tiny"]
    assert by_name["n_misclassified"] == 1 and by_name["average_precision"] is None
    positions_star(scene / "other.star", PLACES, famlModel="globular", rlnClassNumber=1)
    result = judge(capsys, scene, "--radius", 40, picks="other.star")
    assert result["f1"] == 1.0 and result["macro_f1"] is None
    assert "no name in common" in result["warnings"][0]
    assert "no name in common" in fault(
        capsys, scene, "--radius", 40, "--classes", picks="other.star")
    assert judge(capsys, scene, "--radius", 40, "--no-classes")["n_misclassified"] is None


def test_names_alone_are_classes_and_a_truth_without_any_judges_none(scene, capsys):
    positions_star(scene / "truth.star", PLACES, famlModel=NAMES[KINDS - 1])
    positions_star(scene / "picks.star", PLACES, famlModel=NAMES[[0, 1, 1, 0, 1]])
    result = judge(capsys, scene, "--radius", 40)
    assert result["confusion_rows"] == ["background", "long", "round", "small"]
    assert result["n_misclassified"] == 1
    positions_star(scene / "truth.star", PLACES)
    positions_star(scene / "picks.star", PLACES, rlnClassNumber=KINDS)
    result = judge(capsys, scene, "--radius", 40)
    assert result["f1"] == 1.0 and result["n_misclassified"] is None


def test_several_tomograms_need_a_label_volume_each(scene, capsys):
    twice = np.concatenate([PLACES, PLACES])
    tomograms = np.repeat(["a", "b"], 5)
    positions_star(scene / "truth.star", twice, rlnTomoName=tomograms,
                   rlnClassNumber=np.tile(KINDS, 2))
    positions_star(scene / "picks.star", twice[1:], rlnTomoName=tomograms[1:])
    volume = scene / "instances.mrc"
    result = judge(capsys, scene, "--instances", f"a={volume}", "--instances", f"b={volume}")
    assert (result["n_truth"], result["n_hit"], result["n_false"]) == (10, 9, 0)
    assert "--instances NAME=FILE for each" in fault(
        capsys, scene, "--instances", f"a={volume}")


def test_picks_in_tomograms_without_truth_are_not_judged(scene, capsys):
    positions_star(scene / "truth.star", PLACES, rlnTomoName=["a", "a", "a", "b", "b"])
    positions_star(scene / "picks.star", PLACES, rlnTomoName=["a", "a", "a", "c", "c"])
    result = judge(capsys, scene, "--radius", 40)
    assert (result["n_picked"], result["n_hit"], result["n_missed"]) == (3, 3, 2)
    assert "2 picks lie in tomograms" in result["warnings"][0]
    assert "no picks in b" in result["warnings"][1]


def test_hollow_particles_are_warned_about(scene, capsys):
    volume, voxel_size = read_volume(scene / "instances.mrc")
    x, y, z = PLACES[0].astype(int)
    volume[z - 2 : z + 3, y - 2 : y + 3, x - 2 : x + 3] = 0
    write_volume(scene / "hollow.mrc", volume, voxel_size)
    result = judge(capsys, scene, "--instances", scene / "hollow.mrc")
    assert "1 of 5 particles have no voxel" in result["warnings"][0] and result["n_hit"] == 2
    assert judge(capsys, scene, "--instances", scene / "hollow.mrc", "--radius", 30)["n_hit"] == 4


def test_mistakes_of_evaluate_picks_end_in_one_line(scene, capsys):
    instances, labels = scene / "instances.mrc", scene / "classes.mrc"
    assert "give --radius" in fault(capsys, scene)
    assert "two rules" in fault(capsys, scene, "--instances", instances, "--labels", labels)
    assert "none.mrc does not exist" in fault(capsys, scene, "--labels", scene / "none.mrc")
    volume = read_volume(instances)[0]
    write_volume(scene / "coarse.mrc", volume, 20.0)
    assert "voxels of 20 A" in fault(capsys, scene, "--instances", scene / "coarse.mrc")
    write_volume(scene / "thin.mrc", volume[:, :, :40], 10.0)
    assert "1 particles of" in fault(capsys, scene, "--instances", scene / "thin.mrc")
    write_volume(scene / "turned.mrc", np.where(volume > 0, 6 - volume, 0), 10.0)
    assert "rows in order" in fault(capsys, scene, "--instances", scene / "turned.mrc")
    positions_star(scene / "bare.star", PLACES)
    assert "do not both say classes" in fault(
        capsys, scene, "--radius", 40, "--classes", picks="bare.star")
    assert "rlnClassNumber is missing" in fault(
        capsys, scene, "--labels", labels, truth="bare.star")
    assert "a curve needs scores" in fault(
        capsys, scene, "--radius", 40, "--curve", scene / "c.csv", picks="bare.star")
    positions_star(scene / "score.star", PLACES, famlScore=[1.0, 2, np.nan, 1, 1])
    assert "row 3 has famlScore" in fault(capsys, scene, "--radius", 40, picks="score.star")
    positions_star(scene / "nowhere.star", [[1.0, np.nan, 2.0]])
    assert "row 1 has rlnCoordinateY" in fault(
        capsys, scene, "--radius", 40, picks="nowhere.star")
    positions_star(scene / "two.star", PLACES, rlnTomoName=["x", "x", "y", "y", "y"])
    assert "no tomogram (rlnTomoName) in common" in fault(
        capsys, scene, "--radius", 40, picks="two.star")
    (scene / "empty.star").write_text(
        "data_particles\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnCoordinateZ #3\n")
    assert "empty.star holds no particles" in fault(
        capsys, scene, "--radius", 40, picks="empty.star")
    assert "empty.star holds no particles" in fault(
        capsys, scene, "--radius", 40, truth="empty.star")
