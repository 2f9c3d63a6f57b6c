"""The detector's networks, losses, training and picking. Needs PyTorch."""

import numpy as np
import pandas as pd
import pytest
from detector_scenes import balls, settings

torch = pytest.importorskip("torch", reason="the detector needs PyTorch (extra `detector`)")

from scipion_faml.detector import points, predict, second_look, train, weights, yolo  # noqa: E402
from scipion_faml.detector.detections import Detections, cube_iou  # noqa: E402
from scipion_faml.detector.labels import Classes, LabelSource, labelled  # noqa: E402
from scipion_faml.detector.matching import f1_of  # noqa: E402
from scipion_faml.detector.sampling import Crop  # noqa: E402
from scipion_faml.detector.settings import TrainingSettings  # noqa: E402
from scipion_faml.detector.view import view_of  # noqa: E402
from scipion_faml.evaluation.picks import f1_score, match_positions  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ball_labels(seed, **how):
    volume, centres, classes = balls(seed=seed, **how)
    source = LabelSource(f"t{seed}", volume, 10.0, centres * 10.0, classes,
                         tuple(f"c{k}" for k in classes))
    return labelled(source, Classes(("c1", "c2"), (1, 2), (60.0, 100.0)), 10.0, False)


# ---------------------------------------------------------------------------------- yolo, Eq. 1-6
def output_of(position, size, label, what, confidence=30.0, grid=16):
    """The network output that predicts exactly these particles with each one's best anchor."""
    n_classes = what.n_classes
    output = np.zeros((3, 5 + n_classes, grid, grid, grid), dtype=np.float64)
    output[:, 4] = -confidence
    anchors = np.array(what.anchors)
    for place, edge, k in zip(position, size, label, strict=True):
        scaled = (place + 0.5) / 4
        cell = np.floor(scaled).astype(int)
        t = scaled - cell
        a = np.abs(np.log(anchors / edge)).argmin()
        at = (a, slice(None), cell[2], cell[1], cell[0])
        values = np.zeros(5 + n_classes)
        values[:3] = np.log(t / (1 - t))
        values[3] = np.log(edge / anchors[a])
        values[4] = confidence
        values[5:] = -confidence
        values[5 + k] = confidence
        output[at] = values
    flat = output.reshape(1, -1, grid, grid, grid)
    return torch.from_numpy(flat.astype(np.float32))


def particles(count=12, seed=0, n_classes=2):
    rng = np.random.default_rng(seed)
    cells = rng.permutation(12**3)[:count]
    corner = np.stack(np.unravel_index(cells, (12, 12, 12)), axis=1) + 2
    position = (corner + rng.uniform(0.05, 0.95, (count, 3))) * 4 - 0.5
    return position, rng.integers(0, n_classes, count)


def yolo_targets(detector, position, label):
    crop = Crop(np.zeros((64, 64, 64), dtype=np.float32), position, label)
    return {k: torch.from_numpy(np.asarray(v))[None] for k, v in detector.targets(crop).items()}


def test_equations_1_and_2_and_their_inverse_bring_a_box_back():
    what = settings("yolo")
    position, label = particles()
    size = np.array(what.diameters)[label]
    boxes = yolo.Boxes(output_of(position, size, label, what), what.anchors)
    sure = boxes.confidence[0] > 0.5
    centre, edge = boxes.centre()[0][sure].numpy(), boxes.size()[0][sure].numpy()
    nearest = np.linalg.norm(centre[:, None] - position[None], axis=2).argmin(axis=1)
    assert sorted(nearest) == list(range(len(position)))
    np.testing.assert_allclose(centre, position[nearest], atol=1e-4)
    np.testing.assert_allclose(edge, size[nearest], rtol=1e-5)


def test_a_perfect_prediction_loses_nothing_and_a_wrong_one_does():
    what = settings("yolo")
    detector = yolo.YoloDetector(what)
    position, label = particles()
    size = np.array(what.diameters)[label]
    targets = yolo_targets(detector, position, label)
    perfect = detector.loss(output_of(position, size, label, what), targets)
    assert set(perfect) == {"box", "confidence", "class"}
    for value in perfect.values():
        assert float(value) < 1e-4
    moved = detector.loss(output_of(position + 0.8, size, label, what), targets)
    named = detector.loss(output_of(position, size, 1 - label, what), targets)
    assert float(moved["box"]) > 0.1
    assert float(named["class"]) > 10 and float(named["box"]) < 1e-4


def test_the_box_loss_is_equation_3():
    what = settings("yolo", n_classes=1)
    detector = yolo.YoloDetector(what)
    position = np.array([[30.0, 31.0, 32.0]])
    targets = yolo_targets(detector, position, np.array([0]))
    shift = np.array([0.4, -0.4, 0.2])  # voxels: t differs by a quarter of it
    loss = detector.loss(
        output_of(position + shift, np.array([6.5]), [0], what), targets)
    expected = 5.0 * ((shift / 4) ** 2).sum() + 5.0 * np.log(6.5 / what.diameters[0]) ** 2
    assert float(loss["box"]) == pytest.approx(expected, rel=1e-4)


def test_boxes_are_positive_ignored_or_negative_as_brute_force_says():
    rng = np.random.default_rng(6)
    grid, anchors = (4, 5, 6), (5.0, 10.0, 15.0)
    output = torch.from_numpy(rng.normal(0, 1, (1, 3 * 7, *grid)).astype(np.float32))
    boxes = yolo.Boxes(output, anchors)
    centre, size = boxes.centre()[0], boxes.size()[0]
    position = rng.uniform(0, np.array(grid[::-1]) * 4 - 1, (7, 3))
    edges = rng.uniform(5, 15, 7)
    owner, ignored = yolo.assign(
        centre, size, grid, torch.from_numpy(position).float(), torch.from_numpy(edges).float())
    iou = cube_iou(centre.numpy()[:, None], size.numpy()[:, None], position[None], edges[None])
    expected = np.full(len(size), -1)
    for p in range(7):
        cell = np.floor((position[p] + 0.5) / 4)
        own = np.flatnonzero((boxes.corner.numpy() == cell).all(axis=1))
        own = own[expected[own] < 0]
        expected[own[iou[own, p].argmax()]] = p
    np.testing.assert_array_equal(owner.numpy(), expected)
    np.testing.assert_array_equal(
        ignored.numpy(), (iou > 1 / 3).any(axis=1) & (expected < 0))
    assert ignored.any() and (expected >= 0).sum() == 7


def test_particles_in_the_overlap_are_not_learnt_there():
    detector = yolo.YoloDetector(settings("yolo"))
    position = np.array([[7.0, 30, 30], [8.0, 30, 30], [55.0, 30, 30], [56.0, 30, 30]])
    crop = Crop(np.zeros((64, 64, 64), dtype=np.float32), position, np.zeros(4, dtype=int))
    targets = detector.targets(crop)
    np.testing.assert_allclose(targets["position"][: targets["count"], 0], [8.0, 55.0])


def test_anchors_are_the_best_three_clusters():
    rng = np.random.default_rng(7)
    sizes = np.concatenate([rng.normal(m, 0.4, 30) for m in (5.0, 10.0, 15.0)])
    np.testing.assert_allclose(yolo.anchors_of(sizes), [5, 10, 15], atol=0.3)
    values = np.sort(rng.uniform(3, 20, 12))
    best = min(
        sum(((part - part.mean()) ** 2).sum() for part in np.split(values, [a, b]))
        for a in range(1, 11) for b in range(a + 1, 12))
    anchors = np.array(yolo.anchors_of(values))
    cost = ((values[:, None] - anchors) ** 2).min(axis=1).sum()
    assert cost == pytest.approx(best)
    for few in ([10.0], [8.0, 12.0]):
        anchors = yolo.anchors_of(np.array(few))
        assert len(set(anchors)) == 3 and set(few) <= set(anchors)


# ---------------------------------------------------------------------------------------- points
def perfect_points(targets, n_classes):
    heat = np.clip(targets["heat"], 1e-4, 1 - 1e-4)
    heat = np.where(targets["is_centre"] > 0, 0.999, 0.9 * heat)
    label = np.moveaxis(np.eye(n_classes)[targets["class"]], -1, 0)
    logits = np.concatenate([np.log(heat / (1 - heat))[None], targets["offset"], 20 * label])
    return torch.from_numpy(logits.astype(np.float32))[None]


def test_points_bring_positions_and_classes_back():
    what = settings()
    detector = points.PointsDetector(what)
    rng = np.random.default_rng(8)
    position = np.stack(np.meshgrid(*[[12.0, 30.0, 48.0]] * 3), axis=-1).reshape(-1, 3)
    position = position + rng.uniform(-2, 2, position.shape)
    label = rng.integers(0, 2, len(position))
    targets = detector.targets(Crop(np.zeros((64,) * 3, dtype=np.float32), position, label))
    assert targets["is_centre"].sum() == len(position)
    found = detector.detections(perfect_points(targets, 2))[0]
    assert len(found) == len(position)
    nearest = np.linalg.norm(found.position_xyz[:, None] - position[None], axis=2).argmin(axis=1)
    np.testing.assert_allclose(found.position_xyz, position[nearest], atol=1e-4)
    np.testing.assert_array_equal(found.class_index, label[nearest])


def test_mirror_images_say_the_same_once_they_are_mirrored_back():
    what = settings()
    detector = points.PointsDetector(what)
    rng = np.random.default_rng(9)
    position, label = rng.uniform(8, 56, (6, 3)), rng.integers(0, 2, 6)

    def output(place):
        made = detector.targets(Crop(np.zeros((64,) * 3, dtype=np.float32), place, label))
        return perfect_points(made, 2)

    for axes in predict.MIRRORS:
        other = position.copy()
        for axis in axes:
            other[:, 4 - axis] = 63 - other[:, 4 - axis]
        np.testing.assert_allclose(
            detector.mirrored_back(output(other), axes).numpy(), output(position).numpy(),
            atol=1e-4)


def test_the_focal_loss_is_smallest_at_the_truth():
    what = settings()
    detector = points.PointsDetector(what)
    position, label = np.array([[30.0, 31, 32], [12.0, 40, 20]]), np.array([0, 1])
    raw = detector.targets(Crop(np.zeros((64,) * 3, dtype=np.float32), position, label))
    targets = {k: torch.from_numpy(np.asarray(v))[None] for k, v in raw.items()}
    perfect = perfect_points(raw, 2)
    good = detector.loss(perfect, targets)
    assert float(good["centre"]) < 0.1 and float(good["offset"]) < 1e-6
    for change in (perfect.roll(2, 2), -perfect, torch.zeros_like(perfect)):
        assert float(sum(detector.loss(change, targets).values())) > 3 * float(sum(good.values()))


def test_a_loss_without_any_particle_is_finite():
    for architecture in ("points", "yolo"):
        detector = weights.build(settings(architecture))
        crop = Crop(np.zeros((64,) * 3, dtype=np.float32), np.zeros((0, 3)), np.zeros(0, dtype=int))
        raw = detector.targets(crop)
        targets = {k: torch.from_numpy(np.asarray(v))[None] for k, v in raw.items()}
        output = detector(torch.zeros(1, 1, 64, 64, 64))
        total = sum(detector.loss(output, targets).values())
        total.backward()
        assert torch.isfinite(total.detach())


# --------------------------------------------------------------------------------- whole pictures
def test_folding_the_normalisations_changes_nothing():
    for architecture in ("points", "yolo"):
        torch.manual_seed(0)
        detector = weights.build(settings(architecture))
        crops = torch.randn(2, 1, 32, 32, 32)
        detector.train()
        detector(crops)
        detector.eval()
        with torch.no_grad():
            np.testing.assert_allclose(
                weights.folded(detector.network)(crops).numpy(), detector(crops).numpy(),
                atol=2e-4)


def test_tiles_find_what_the_whole_finds():
    torch.manual_seed(1)
    detector = weights.build(settings(n_classes=1))
    detector.eval()
    volume = balls()[0]
    view = view_of(volume, 10.0, 10.0)
    with torch.no_grad():
        detector.network.head.bias[0] = -0.5
    whole = predict.find(detector, view, CPU)
    # The deepest level sees further than the overlap; its say there is small.
    tiled = predict.find(detector, view, CPU, tile=32)
    assert len(predict.find(detector, view, CPU, mirrors=3)) > 20
    assert len(whole) > 20
    apart = np.linalg.norm(whole.position_xyz[:, None] - tiled.position_xyz[None], axis=2)
    assert np.mean(apart.min(axis=1) < 1.0) > 0.9


def trained(folder, epochs=3, on_epoch=None, how=None, seed=0, shape=(48, 64, 64), count=14,
            second=False):
    how = how or TrainingSettings(epochs=epochs, steps=2, batch=2, crop=32, seed=seed)
    what = settings(diameters=(6.0, 10.0))
    scenes = [ball_labels(i, shape=shape, count=count) for i in (1, 2)]
    course = train.Course(folder, CPU, on_epoch=on_epoch)
    return train.fit(what, how, scenes[:1], scenes[1:], "held-out t2", course,
                     with_second_look=second)[0]


def test_a_killed_training_ends_with_the_same_bits(tmp_path):
    class Killed(Exception):
        pass

    def kill(row):
        if row["epoch"] == 2:
            raise Killed

    small = {"shape": (32, 32, 32), "count": 3}
    straight = trained(tmp_path / "a", **small)
    with pytest.raises(Killed):
        trained(tmp_path / "b", on_epoch=kill, **small)
    assert len(pd.read_csv(tmp_path / "b" / "history.csv")) == 2
    resumed = trained(tmp_path / "b", **small)
    assert len(pd.read_csv(tmp_path / "b" / "history.csv")) == 3
    for key, value in straight.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key
    other = trained(tmp_path / "c", epochs=1, seed=1, **small)
    assert not torch.equal(other.network.head.weight, straight.network.head.weight)
    with pytest.raises(ValueError, match="other settings"):
        trained(tmp_path / "b", epochs=4, **small)


def test_training_finds_balls_it_has_not_seen(tmp_path):
    how = TrainingSettings(epochs=1, steps=60, batch=4, crop=32, learning_rate=5e-3, ema=0.9)
    detector = trained(tmp_path, how=how)
    matched = train.evaluate(detector, [ball_labels(3)], CPU)
    localisation, per_class = f1_of(matched, np.array(detector.settings.thresholds))
    assert localisation > 0.85 and per_class.min() > 0.6
    # The same tomogram in voxels of half the size.
    volume, centres, _ = balls(seed=3)
    view = view_of(volume.repeat(2, 0).repeat(2, 1).repeat(2, 2), 5.0, 10.0)
    picks = predict.picks_of(predict.find(detector, view, CPU), detector, view, None)
    apart = np.linalg.norm(
        (2 * centres + 0.5)[:, None] - picks.position_xyz[None], axis=2).min(axis=1)
    assert np.mean(apart < 4.0) > 0.8


def test_a_second_look_is_trained_kept_and_names_candidates_again(tmp_path):
    detector = trained(tmp_path, epochs=1, second=True, shape=(32, 32, 32), count=3)
    assert (tmp_path / "checkpoint_second.pt").is_file()
    assert "accuracy" in pd.read_csv(tmp_path / "history_second.csv")
    back = weights.load(tmp_path / "weights.pt")
    view = ball_labels(3, shape=(32, 32, 32), count=3).view
    found = Detections(
        np.array([[10.0, 12, 14], [20.0, 20, 20]]), np.array([0.9, 0.01]),
        np.array([[0.6, 0.4], [0.7, 0.3]]), np.array([6.0, 6.0]))
    named = second_look.named_again(detector.second, found, view, CPU)
    second = second_look.posteriors(back.second, view, found.position_xyz, CPU)
    product = found.posterior[0] * second[0]
    np.testing.assert_allclose(named.posterior[0], product / product.sum(), rtol=1e-5)
    np.testing.assert_array_equal(named.posterior[1], found.posterior[1])  # too unsure to look at
    np.testing.assert_array_equal(named.position_xyz, found.position_xyz)


def test_the_shipped_detector_finds_balls_it_was_never_shown():
    path = weights.pretrained()
    assert path.stat().st_size < 4_000_000
    detector = weights.load(path)
    assert detector.settings.class_names == ("particle",)
    volume, centres, _ = balls(seed=5)
    view = view_of(volume, detector.settings.voxel_size_angst, 10.0)
    picks = predict.picks_of(predict.find(detector, view, CPU), detector, view, None)
    hit = match_positions(picks.position_xyz, centres, 4.0)[0]
    assert f1_score(len(hit), len(picks), len(centres)) > 0.8


# ------------------------------------------------------------------------------------------ files
def test_weights_come_back_and_foreign_or_damaged_files_are_refused(tmp_path):
    detector = weights.build(settings())
    weights.save(tmp_path / "w.pt", detector)
    back = weights.load(tmp_path / "w.pt")
    assert back.settings == detector.settings
    for key, value in detector.network.state_dict().items():
        assert torch.equal(value, back.network.state_dict()[key])
    weights.save(tmp_path / "half.pt", detector, half=True)
    assert (tmp_path / "half.pt").stat().st_size < 0.6 * (tmp_path / "w.pt").stat().st_size
    weights.load(tmp_path / "half.pt")

    content = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.pt").write_text("these are no weights")
    torch.save({"model": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("cut", "text", "other", "list"):
        with pytest.raises(ValueError, match=f"{name}.pt is not a file of this detector"):
            weights.load(tmp_path / f"{name}.pt")
    broken = torch.load(tmp_path / "w.pt", weights_only=True)
    broken["weights"].pop("head.weight")
    torch.save(broken, tmp_path / "broken.pt")
    with pytest.raises(ValueError, match=r"broken\.pt is damaged"):
        weights.load(tmp_path / "broken.pt")
    broken["version"] = 99
    torch.save(broken, tmp_path / "new.pt")
    with pytest.raises(ValueError, match="version 99"):
        weights.load(tmp_path / "new.pt")
    with pytest.raises(OSError, match="does not exist"):
        weights.load(tmp_path / "none.pt")
