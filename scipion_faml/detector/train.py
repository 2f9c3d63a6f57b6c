"""Training: steps, a moving average of the weights, F1 on held-out tomograms, checkpoints.

What a step sees depends on the seed and its number alone, and a checkpoint holds everything that
changes, so a training that was stopped ends as one that was not: with the same bits on the same
machine with the same PyTorch and number of threads (sums of float32 differ otherwise).
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from scipion_faml.detector.ahead import ahead
from scipion_faml.detector.labels import Labelled
from scipion_faml.detector.matching import Matched, best_thresholds, f1_of, match
from scipion_faml.detector.networks import crops_tensor, fast_layout
from scipion_faml.detector.predict import find, mixed_precision
from scipion_faml.detector.sampling import Crop, CropSampler
from scipion_faml.detector.second_look import EDGE, CandidateSampler, SecondLook, posteriors
from scipion_faml.detector.settings import DetectorSettings, TrainingSettings
from scipion_faml.detector.view import TomogramView
from scipion_faml.detector.weights import Detector, build, read_checked, save, save_durably
from scipion_faml.disk import replacing
from scipion_faml.types import FloatArray

logger = logging.getLogger(__name__)

CHECKPOINT = "scipion-faml detector checkpoint"
QUICK_VOXELS = 2_000_000  # of the held-out tomograms looked at after each epoch
FEWEST_STEPS, MOST_STEPS = 20, 250

Progress = Callable[[int, int], None]
Trainable = Detector | SecondLook


class Sampler(Protocol):
    """Draws crop `number` of a run."""

    def crop(self, number: int) -> Crop: ...


@dataclass
class TrainingState:
    """All that changes in training."""

    detector: Trainable
    average: nn.Module  # the network with the moving average of the weights
    optimiser: torch.optim.Optimizer
    epoch: int = 0  # finished
    history: list[dict[str, float]] = field(default_factory=list)


def steps_per_epoch(tomograms: Sequence[Labelled], settings: TrainingSettings) -> int:
    """Return the steps of an epoch: the training volume once, within limits."""
    if settings.steps is not None:
        return settings.steps
    voxels = sum(float(np.prod(t.view.shape)) for t in tomograms)
    steps = round(voxels / (settings.crop**3 * settings.batch))
    return int(np.clip(steps, FEWEST_STEPS, MOST_STEPS))


def new_state(
    what: DetectorSettings, how: TrainingSettings, device: torch.device,
    start: Detector | None = None,
) -> TrainingState:
    """Return the state before the first epoch, all but the class layers from `start` if given."""
    torch.manual_seed(how.seed)
    detector = build(what)
    if start is not None:
        _take_weights(detector.network, start.network)
    detector.to(device)
    average = copy.deepcopy(detector.network).eval()
    return TrainingState(detector, average, _optimiser(detector, how))


def _optimiser(detector: Trainable, how: TrainingSettings) -> torch.optim.Optimizer:
    """Adam as published for yolo; for points with decoupled weight decay."""
    parameters = detector.network.parameters()
    if detector.settings.architecture == "yolo":
        return torch.optim.Adam(parameters, lr=how.learning_rate)
    return torch.optim.AdamW(parameters, lr=how.learning_rate, weight_decay=how.weight_decay)


def _take_weights(network: nn.Module, other: nn.Module) -> None:
    """Copy every weight that has the same name and shape in `other`."""
    own, given = network.state_dict(), other.state_dict()
    same = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    if not same:
        raise ValueError("the weights to start from are of another architecture")
    if "head.weight" in own and "head.weight" not in same and len(given["head.weight"]) >= 4:
        for key in ("head.weight", "head.bias"):  # heat and offset mean the same for all classes
            own[key][:4] = given[key][:4]
            same[key] = own[key]
    network.load_state_dict({**own, **same})
    logger.info("%d of %d arrays of weights taken over", len(same), len(own))


def rate_of(step: int, n_steps: int, how: TrainingSettings, is_constant: bool) -> float:
    """Return the learning rate: linear warm-up, then half a cosine; constant as published."""
    if is_constant:
        return how.learning_rate
    warm = max(1, round(how.warm_up * n_steps))
    if step < warm:
        return how.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, n_steps - warm)
    return how.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + float(np.cos(np.pi * done))))


def train_epoch(
    state: TrainingState, sampler: Sampler, how: TrainingSettings, n_steps: int,
    device: torch.device, on_step: Progress | None = None,
) -> dict[str, float]:
    """Do one epoch; return the mean of each part of the loss."""
    detector = state.detector
    detector.train()
    sums: dict[str, float] = {}
    first = state.epoch * n_steps
    is_yolo = detector.settings.architecture == "yolo"
    for done, (crops, targets) in enumerate(_batches(detector, sampler, how, first, n_steps)):
        rate = rate_of(first + done, how.epochs * n_steps, how, is_yolo)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        with mixed_precision(device):
            output = detector(crops_tensor(crops.to(device, non_blocking=True)))
        parts = detector.loss(output.float(), {k: v.to(device) for k, v in targets.items()})
        total = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(total):
            raise ValueError(
                f"the loss is not finite in epoch {state.epoch + 1}: lower --learning-rate")
        state.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if not is_yolo:
            nn.utils.clip_grad_norm_(detector.network.parameters(), how.clip)
        state.optimiser.step()
        _move_average(state.average, detector.network, first + done, how.ema)
        for name, value in {**parts, "loss": total}.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if on_step is not None:
            on_step(done + 1, n_steps)
    state.epoch += 1
    return {name: value / n_steps for name, value in sums.items()}


def _batches(
    detector: Trainable, sampler: Sampler, how: TrainingSettings, first: int, n_steps: int
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Batches (crops, targets) in order, each made while the one before is worked on."""
    def make(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        crops = [sampler.crop(step * how.batch + i) for i in range(how.batch)]
        rows = [detector.targets(c) for c in crops]
        targets = {k: torch.from_numpy(np.stack([r[k] for r in rows])) for k in rows[0]}
        return torch.from_numpy(np.stack([c.volume for c in crops])), targets

    return ahead(make, range(first, first + n_steps))


@torch.no_grad()
def _move_average(average: nn.Module, network: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average of weights and statistics, faster at the beginning."""
    rate = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, rate)
        else:
            old.copy_(new)


# ------------------------------------------------------------------------------------ evaluation
def averaged(state: TrainingState) -> Detector:
    """Return the detector with the averaged weights, on the CPU."""
    detector = build(state.detector.settings)
    detector.network.load_state_dict(state.average.state_dict())
    detector.eval()
    return detector


def evaluate(
    detector: Detector, tomograms: Sequence[Labelled], device: torch.device
) -> Matched:
    """Return the candidates of tomograms with what they hit."""
    diameters = np.array(detector.settings.diameters)
    parts = []
    for tomogram in tomograms:
        found = find(detector, tomogram.view, device)
        parts.append(match(found, tomogram.position_xyz, tomogram.class_index, diameters))
    return Matched.joined(parts)


@dataclass(frozen=True, eq=False)
class _Window(TomogramView):
    """Part of a view, as a view."""

    start: tuple[int, int, int] = (0, 0, 0)
    size: tuple[int, int, int] = (0, 0, 0)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.size

    def read(self, start: tuple[int, ...], size: tuple[int, ...]) -> FloatArray:
        moved = tuple(a + b for a, b in zip(start, self.start, strict=True))
        return TomogramView(
            self.source, self.level, self.spread, self.scale, self.sign).read(moved, size)


def quick_part(tomograms: Sequence[Labelled]) -> list[Labelled]:
    """Return the middle of each tomogram, small enough to be looked at after every epoch."""
    share = QUICK_VOXELS / sum(float(np.prod(t.view.shape)) for t in tomograms)
    if share >= 1.0:
        return list(tomograms)
    parts = []
    for tomogram in tomograms:
        n_z, n_y, n_x = tomogram.view.shape
        y, x = (max(16, int(n * np.sqrt(share))) for n in (n_y, n_x))
        size = (n_z, min(y, n_y), min(x, n_x))
        start = (0, (n_y - size[1]) // 2, (n_x - size[2]) // 2)
        v = tomogram.view
        window = _Window(v.source, v.level, v.spread, v.scale, v.sign, start, size)
        position = tomogram.position_xyz - start[::-1]
        inside = ((position > -0.5) & (position < np.array(size[::-1]) - 0.5)).all(axis=1)
        parts.append(
            Labelled(tomogram.name, window, position[inside], tomogram.class_index[inside]))
    return parts


# ----------------------------------------------------------------------------------- checkpoints
def save_checkpoint(path: Path, state: TrainingState, fingerprint: dict[str, Any]) -> None:
    """Write everything that changes; an older checkpoint is replaced in one step."""
    save_durably(path, {
        "format": CHECKPOINT, "fingerprint": fingerprint, "epoch": state.epoch,
        "network": state.detector.network.state_dict(), "average": state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(), "history": state.history,
        "rng": torch.get_rng_state(),
    })


def resume(path: Path, state: TrainingState, fingerprint: dict[str, Any]) -> bool:
    """Bring `state` to a checkpoint of the same training; return whether there was one.

    Raises
    ------
    ValueError
        If it belongs to a training with other settings.
    """
    if not path.is_file():
        return False
    content = read_checked(path, CHECKPOINT)
    if content["fingerprint"] != fingerprint:
        raise ValueError(
            f"{path} belongs to a training with other settings or labels: choose another --output "
            "or add --overwrite")
    state.detector.network.load_state_dict(content["network"])
    state.average.load_state_dict(content["average"])
    state.optimiser.load_state_dict(content["optimiser"])
    state.epoch, state.history = content["epoch"], content["history"]
    torch.set_rng_state(content["rng"])
    return True


@dataclass(frozen=True, eq=False)
class Course:
    """What every training does the same: where it writes, and whom it tells."""

    folder: Path
    device: torch.device
    fingerprint: dict[str, Any] = field(default_factory=dict)
    on_epoch: Callable[[dict[str, float]], None] | None = None
    on_step: Progress | None = None


def run_epochs(
    state: TrainingState, sampler: Sampler, how: TrainingSettings, n_steps: int, course: Course,
    scores: Callable[[], dict[str, float]], suffix: str = "",
) -> None:
    """Do the epochs that are left, of a training that may have been stopped.

    Writes checkpoint.pt and history.csv (names with `suffix`) after each; `scores` says how good
    the averaged weights are.
    """
    checkpoint = course.folder / f"checkpoint{suffix}.pt"
    prints = _as_stored(
        {"what": state.detector.settings.as_dict(), "how": asdict(how), **course.fingerprint})
    if resume(checkpoint, state, prints):
        logger.info("going on after epoch %d of %d", state.epoch, how.epochs)
    while state.epoch < how.epochs:
        began = time.perf_counter()
        losses = train_epoch(state, sampler, how, n_steps, course.device, course.on_step)
        row = {"epoch": state.epoch, "seconds": time.perf_counter() - began, **losses, **scores()}
        state.history.append(row)
        save_checkpoint(checkpoint, state, prints)
        write_history(course.folder / f"history{suffix}.csv", state.history)
        if course.on_epoch is not None:
            course.on_epoch(row)


def fit(
    what: DetectorSettings, how: TrainingSettings, trained: Sequence[Labelled],
    held_out: Sequence[Labelled], held_out_name: str, course: Course,
    start: Detector | None = None, with_second_look: bool = False,
) -> tuple[Detector, dict[str, Any]]:
    """Train, or go on with, a detector; return it with thresholds, and the final scores.

    Writes weights.pt at the end.
    """
    state = new_state(what, how, course.device, start)
    n_steps = steps_per_epoch(trained, how)
    quick = quick_part(held_out)
    run_epochs(state, CropSampler(trained, how), how, n_steps, course,
               lambda: _scores(evaluate(averaged(state), quick, course.device), what))
    detector = averaged(state)
    seconds = sum(row["seconds"] for row in state.history)
    result = {"training_seconds": seconds, "steps_per_epoch": n_steps,
              "loss": state.history[-1]["loss"]}
    if with_second_look and what.n_classes > 1:
        detector.second, result["second_look_accuracy"] = fit_second_look(
            what, how, trained, quick, n_steps, course)
    matched = evaluate(detector, held_out, course.device)
    thresholds = np.array(what.thresholds)
    if what.architecture != "yolo":  # its confidence is part of the published method
        thresholds = best_thresholds(matched)
        detector.settings = what.with_thresholds(
            tuple(float(t) for t in thresholds), held_out_name)
    save(course.folder / "weights.pt", detector)
    localisation, per_class = f1_of(matched, thresholds)
    known = per_class[np.isfinite(per_class)]
    return detector, {
        "f1": localisation, "macro_f1": float(known.mean()) if len(known) else 0.0,
        "f1_per_class": dict(zip(what.class_names, per_class.tolist(), strict=True)), **result,
    }


def fit_second_look(
    what: DetectorSettings, how: TrainingSettings, trained: Sequence[Labelled],
    held_out: Sequence[Labelled], n_steps: int, course: Course,
) -> tuple[SecondLook, float]:
    """Train the second network; return it and its mean accuracy over held-out classes.

    A step takes as many voxels as one of the detector's, and there are a third as many.
    """
    batch = max(2, how.batch * (how.crop // EDGE) ** 3)
    second_how = replace(how, epochs=max(1, round(how.epochs / 3)), batch=batch, crop=EDGE)
    torch.manual_seed(how.seed)
    second = SecondLook(what)
    fast_layout(second)
    second.to(course.device)
    average = copy.deepcopy(second.network).eval()
    state = TrainingState(second, average, _optimiser(second, second_how))
    course = replace(course, on_epoch=None)

    def averaged_second() -> SecondLook:
        ready = SecondLook(what)
        ready.network.load_state_dict(state.average.state_dict())
        fast_layout(ready)
        return ready.eval()

    def accuracy() -> dict[str, float]:
        right, label = [], []
        for tomogram in held_out:
            said = posteriors(
                averaged_second(), tomogram.view, tomogram.position_xyz, course.device)
            right.append(said.argmax(axis=1) == tomogram.class_index)
            label.append(tomogram.class_index)
        every, classes = np.concatenate(right), np.concatenate(label)
        return {"accuracy": float(np.mean([every[classes == k].mean() for k in set(classes)]))
                if len(classes) else 0.0}

    run_epochs(state, CandidateSampler(trained, how), second_how, n_steps, course, accuracy,
               "_second")
    return averaged_second(), state.history[-1]["accuracy"]


def _scores(matched: Matched, what: DetectorSettings) -> dict[str, float]:
    """F1 of localisation and classes at the thresholds that suit best now."""
    is_yolo = what.architecture == "yolo"
    thresholds = np.array(what.thresholds) if is_yolo else best_thresholds(matched)
    localisation, per_class = f1_of(matched, thresholds)
    known = per_class[np.isfinite(per_class)]
    return {"f1": localisation, "macro_f1": float(known.mean()) if len(known) else 0.0,
            "threshold": float(np.mean(thresholds))}


def _as_stored(value: Any) -> Any:
    """Tuples as lists, as they come back from a file."""
    if isinstance(value, dict):
        return {str(k): _as_stored(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_stored(v) for v in value]
    return value


def write_history(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Write a row for each epoch."""
    with replacing(path) as temporary:
        pd.DataFrame(list(history)).to_csv(temporary, index=False)
