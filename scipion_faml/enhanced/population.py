"""How many classes there are, and which: too many at first, then merged and split by evidence.

Of random classes some grow into one structure together and others empty, so that a run of K random
classes often misses one of K structures. Here more classes start than are wanted, at low
resolution. Then classes are merged where one average explains the particles of both as well as
two do, and split where two explain them better. What counts is the evidence of particles in
averages that leave them out (`folds`): a class of nothing but noise, or half of a class, makes
worse averages and does not pay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from scipy.special import logsumexp

from scipion_faml.em import SMALLEST_PRIOR
from scipion_faml.enhanced.start import random_state
from scipion_faml.enhanced.state import FOCUSED_BELOW, EnhancedState
from scipion_faml.enhanced.workbench import Workbench
from scipion_faml.faml import IterationResult
from scipion_faml.model import FamlConfig
from scipion_faml.types import FloatArray, IntArray

logger = logging.getLogger(__name__)

Step = Callable[[Workbench, EnhancedState], IterationResult]

PILOT_ITERATIONS = 2  # of one class, which tell how far particles lie from the centre
START_ITERATIONS, MOVE_ITERATIONS, SPLIT_ITERATIONS = 8, 3, 5  # at most
SETTLED_SHARE = 0.01  # of the evidence, gained in an iteration
REACH = 3.0  # shifts looked at, in widths of their prior
SPARE = 1.5  # times as many classes at first as are wanted
SPLIT_CLASSES = 3  # at first, of a class that may be two
MIN_PARTICLES = 5.0  # of a class
MAX_ROUNDS = 3
CLEARLY_APART = 0.1  # of the log evidence per particle, lost without a class
DECIDED = 10.0  # log units: a particle that gains more counts as this
MIN_Z = 3.0  # standard errors by which more classes must explain particles better
SPLIT_SEEDS = 1000  # first start of the splits


@dataclass(frozen=True)
class Gain:
    """Log evidence that particles gain from one class more."""

    total: float
    z: float  # in standard errors, particles taken as independent

    @staticmethod
    def of(more: FloatArray, fewer: FloatArray) -> Gain:
        """The gain from the evidence of every particle with more and with fewer classes."""
        # One particle that falls into another pose must not outweigh all others.
        decided = np.clip(more - fewer, -DECIDED, DECIDED)
        error = float(decided.std()) * np.sqrt(len(decided)) + 1e-6 * len(decided)
        return Gain(float(np.sum(more - fewer)), float(decided.sum()) / error)

    @property
    def is_supported(self) -> bool:
        """Whether the gain is more than chance."""
        return self.z > MIN_Z


def population(bench: Workbench, step: Step) -> EnhancedState:
    """Return classes at low resolution: as many as wanted, or as the evidence supports.

    `step` takes one iteration.
    """
    config, everyone = bench.config, bench.members
    one = bench.part(everyone, replace(config, n_classes=1))
    pilot = settled(one, random_state(one, 0), step, PILOT_ITERATIONS)
    most = config.max_classes if config.find_classes else config.n_classes
    n_first = most if config.find_classes else int(np.ceil(SPARE * most))
    n_first = max(1, min(n_first, int(len(everyone) / MIN_PARTICLES)))
    view = bench.part(everyone, _within_reach(config, bench, pilot.zeta, max(n_first, most)))
    state = _best_start(view, step)
    if config.find_classes and state.evidence <= 0.0:
        logger.info("pure noise explains the particles as well: one class")
        return replace(pilot, evidence=-np.inf)
    fewest = 1 if config.find_classes else config.n_classes
    joint_evidence = JointEvidence(view, step)
    for turn in range(MAX_ROUNDS):
        state = without_needless(view, state, step, most, joint_evidence)
        state = merged_where_alike(view, state, step, joint_evidence)
        before = state.n_classes
        if before == most:
            break
        state = split_where_mixed(view, state, step, most, fewest, turn, joint_evidence)
        if state.n_classes == before:
            break
        state = settled(view, state, step, MOVE_ITERATIONS)
    return replace(_filled(view, state, fewest), evidence=-np.inf)


def _within_reach(
    config: FamlConfig, bench: Workbench, zeta: float, n_classes: int
) -> FamlConfig:
    """Settings that look at those shifts only which particles have."""
    reach = max(REACH * zeta, 1.0)
    return replace(
        config, n_classes=n_classes, max_shift=min(reach, config.max_shift_of(bench.source.n)))


def _best_start(view: Workbench, step: Step) -> EnhancedState:
    """Of several random starts the one of highest evidence."""
    n_starts = view.config.n_random_starts
    states = [settled(view, random_state(view, s), step, START_ITERATIONS)
              for s in range(n_starts)]
    for number, state in enumerate(states, 1):
        logger.info(
            "start %d of %d: log evidence per particle %.1f, alpha %s", number, n_starts,
            state.evidence, np.array2string(state.alpha, precision=2))
    return max(states, key=lambda s: s.evidence)


# ------------------------------------------------------------------------------------- classes
def selected(state: EnhancedState, classes: IntArray) -> EnhancedState:
    """Return the state with some of its classes."""
    if len(classes) == state.n_classes:
        return state
    alpha = state.alpha[classes]
    return replace(
        state, averages=state.averages[classes], alpha=alpha / alpha.sum(),
        references=state.references[:, classes], fsc=state.fsc[classes],
        half_averages=state.half_averages[:, classes], peaks=None, phase="dense",
        symmetry=tuple(state.symmetry[k] for k in classes),
        symmetry_gain=state.symmetry_gain[classes])


def joined(first: EnhancedState, second: EnhancedState, share: float) -> EnhancedState:
    """Return the classes of both, at one resolution; `share` of all particles are the second's."""
    def both(name: str, axis: int) -> Any:
        return np.concatenate([getattr(first, name), getattr(second, name)], axis=axis)

    return replace(
        first, averages=both("averages", 0), fsc=both("fsc", 0),
        alpha=np.concatenate([(1.0 - share) * first.alpha, share * second.alpha]),
        references=both("references", 1), half_averages=both("half_averages", 1),
        peaks=None, phase="dense", symmetry=first.symmetry + second.symmetry,
        symmetry_gain=both("symmetry_gain", 0))


def settled(
    bench: Workbench, state: EnhancedState, step: Step, n_iterations: int
) -> EnhancedState:
    """Iterate over the grid of poses at one resolution; classes that empty are left out."""
    radius, before = state.radius, 0.0
    for _ in range(n_iterations):
        new = cast(EnhancedState, step(bench, _fresh(state)).state)
        phase = "dense" if new.n_effective >= FOCUSED_BELOW else "focused"
        new = replace(new, radius=radius, phase=phase, is_converged=False, checked_radius=0,
                      n_since_dense=0, n_sharp=0)
        weight = new.alpha * len(bench.members)
        state = selected(new, np.flatnonzero(weight >= min(1.0, weight.max())))
        if new.evidence - before < SETTLED_SHARE * new.evidence:
            break
        before = new.evidence
    return state


def _fresh(state: EnhancedState) -> EnhancedState:
    """The state without a past that could end a run, or turn its classes into a frame."""
    return replace(state, evidence=-np.inf, n_sharp=0)


def evidence_of(
    bench: Workbench, state: EnhancedState, step: Step, noise: FloatArray
) -> FloatArray:
    """Return the evidence of every particle over all poses: models compare at the same noise."""
    looked = replace(
        _fresh(state), noise=noise, peaks=None, phase="dense", n_effective=float("inf"))
    found: FloatArray = step(bench, looked).assignments.log_likelihood
    return found


def evidence_alone(bench: Workbench, state: EnhancedState, step: Step) -> FloatArray:
    """Return the evidence (N, K) of every particle in every class alone."""
    return np.stack([
        evidence_of(bench, selected(state, np.array([k])), step, state.noise)
        for k in range(state.n_classes)], axis=1)


@dataclass(eq=False)
class JointEvidence:
    """Log of alpha_k times the evidence (N, K) of every particle in every class alone.

    The steps of a round ask for that of the same state: it is kept until another is asked for.
    """

    bench: Workbench
    step: Step
    _state: EnhancedState | None = None
    _values: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))

    def of(self, state: EnhancedState) -> FloatArray:
        """Return it for a state."""
        if state is not self._state:
            log_alpha = np.log(np.maximum(state.alpha, SMALLEST_PRIOR))
            self._values = evidence_alone(self.bench, state, self.step) + log_alpha
            self._state = state
        return self._values


# --------------------------------------------------------------------------------------- merging
def without_needless(
    bench: Workbench, state: EnhancedState, step: Step, most: int,
    joint_evidence: JointEvidence | None = None,
) -> EnhancedState:
    """Leave out classes whose particles others explain as well, and the least needed above `most`.

    The particles go to the other classes in the iterations that follow.
    """
    if state.n_classes == 1:
        return state
    joint = (joint_evidence or JointEvidence(bench, step)).of(state)
    kept = np.arange(state.n_classes)
    while len(kept) > 1:
        whole = logsumexp(joint[:, kept], axis=1).sum()
        loss = [whole - logsumexp(np.delete(joint[:, kept], k, axis=1), axis=1).sum()
                for k in range(len(kept))]
        least = int(np.argmin(loss))
        if len(kept) <= most and loss[least] > 0.0:
            break
        kept = np.delete(kept, least)
    if len(kept) == state.n_classes:
        return state
    return settled(bench, selected(state, kept), step, MOVE_ITERATIONS)


def merged_where_alike(
    bench: Workbench, state: EnhancedState, step: Step, joint_evidence: JointEvidence
) -> EnhancedState:
    """Merge classes, a pair at a time, until two averages explain every pair better than one."""
    while state.n_classes > 1:
        for pair in _nearest_pairs(bench, joint_evidence.of(state)):
            if pair.is_apart:
                continue
            view = bench.part(pair.members, bench.config)
            one, gain = as_one(view, selected(state, np.array(pair.classes)), step)
            logger.info("classes %d and %d: two explain %d particles better by %.1f (z %.1f)",
                        pair.classes[0] + 1, pair.classes[1] + 1, len(pair.members), gain.total,
                        gain.z)
            if not gain.is_supported:
                state = _replaced(state, pair.classes, one)
                break
        else:
            return state
        state = settled(bench, state, step, 1)
    return state


def as_one(
    bench: Workbench, two: EnhancedState, step: Step, is_settled: bool = False
) -> tuple[EnhancedState, Gain]:
    """Return the better of the two classes alone, for all particles, and what two classes gain."""
    noise = two.noise
    both = two if is_settled else settled(bench, two, step, MOVE_ITERATIONS)
    single = [settled(bench, selected(two, np.array([k])), step, MOVE_ITERATIONS)
              for k in range(two.n_classes)]
    found = [evidence_of(bench, s, step, noise) for s in single]
    best = int(np.argmax([f.sum() for f in found]))
    return single[best], Gain.of(evidence_of(bench, both, step, noise), found[best])


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two classes that may be one."""

    classes: tuple[int, int]
    members: IntArray  # particles of either
    is_apart: bool  # by so much that there is no need to try


def _nearest_pairs(bench: Workbench, joint: FloatArray) -> list[_Pair]:
    """Pairs of classes and their particles: first those that lose least without one of them.

    joint : (N, K) of `JointEvidence`
    """
    n_classes = joint.shape[1]
    best = joint.argmax(axis=1)
    whole = logsumexp(joint, axis=1)
    losses: dict[tuple[int, int], float] = {}
    for k in range(n_classes):
        others = np.delete(np.arange(n_classes), k)
        left = logsumexp(joint[:, others], axis=1)
        mine = best == k
        heirs = others[joint[np.ix_(mine, others)].argmax(axis=1)]
        heir = int(np.bincount(heirs, minlength=1).argmax()) if len(heirs) else int(others[0])
        loss = float(np.sum(whole - left)) / max(int(mine.sum()), 1)
        pair = (min(k, heir), max(k, heir))
        losses[pair] = min(loss, losses.get(pair, np.inf))
    ordered = sorted(losses, key=lambda pair: losses[pair])
    logger.info("log evidence lost without a class: %s", {p: round(losses[p], 1) for p in ordered})
    mean = float(whole.mean())
    return [_Pair(pair, bench.members[np.isin(best, pair)], losses[pair] > CLEARLY_APART * mean > 0)
            for pair in ordered]


def _replaced(state: EnhancedState, pair: tuple[int, int], one: EnhancedState) -> EnhancedState:
    """The state with one class in the place of two."""
    others = np.setdiff1d(np.arange(state.n_classes), pair)
    if not len(others):
        return one
    return joined(selected(state, others), one, float(state.alpha[list(pair)].sum()))


# ------------------------------------------------------------------------------------- splitting
def split_where_mixed(
    bench: Workbench, state: EnhancedState, step: Step, most: int, fewest: int, turn: int,
    joint_evidence: JointEvidence,
) -> EnhancedState:
    """Split every class that two explain better, up to `most`; and on, down to `fewest`."""
    best = joint_evidence.of(state).argmax(axis=1)
    tried: list[tuple[Gain, int, EnhancedState]] = []
    for k in range(state.n_classes):
        members = bench.members[best == k]
        if state.n_classes >= most or len(members) < 2 * MIN_PARTICLES:
            continue
        found = _two_of(bench, members, step, SPLIT_SEEDS * (turn + 1) + 10 * k)
        if found is None:
            continue
        two, gain = found
        logger.info("class %d in two (%s): %d particles gain %.1f (z %.1f)", k + 1,
                    np.array2string(two.alpha, precision=2), len(members), gain.total, gain.z)
        tried.append((gain, k, two))
    tried.sort(key=lambda t: -t[0].total)
    gone: list[int] = []
    new: list[tuple[EnhancedState, float]] = []
    n_classes = state.n_classes
    for gain, k, two in tried:
        if n_classes < most and (gain.is_supported or n_classes < fewest):
            gone.append(k)
            new.append((two, float(state.alpha[k])))
            n_classes += 1
    others = np.setdiff1d(np.arange(state.n_classes), gone)
    shares = np.array([share for _, share in new])
    out: EnhancedState | None = selected(state, others) if len(others) else None
    done = float(state.alpha[others].sum())
    for (two, _), share in zip(new, shares, strict=True):
        out = two if out is None else joined(out, two, share / (done + share))
        done += share
    assert out is not None
    return out


def _filled(bench: Workbench, state: EnhancedState, fewest: int) -> EnhancedState:
    """The state with random halves of its largest classes, until it has as many as asked for."""
    while state.n_classes < fewest:
        largest = int(state.alpha.argmax())
        share = float(state.alpha[largest])
        # Which particles hardly matters: nothing tells these classes apart.
        count = max(int(share * len(bench.members)), 2)
        rng = np.random.default_rng([bench.config.seed, 2, state.n_classes])
        members = np.sort(rng.choice(bench.members, min(count, len(bench.members)), replace=False))
        halves = random_state(
            bench.part(members, replace(bench.config, n_classes=2)), state.n_classes)
        others = np.delete(np.arange(state.n_classes), largest)
        state = halves if not len(others) else joined(selected(state, others), halves, share)
    return state


def _two_of(
    bench: Workbench, members: IntArray, step: Step, start: int
) -> tuple[EnhancedState, Gain] | None:
    """Two classes of particles that are one so far, and what they gain; None if one empties."""
    n_first = min(SPLIT_CLASSES, int(len(members) / MIN_PARTICLES))
    view = bench.part(members, replace(bench.config, n_classes=n_first))
    two = settled(view, random_state(view, start), step, SPLIT_ITERATIONS)
    least = MIN_PARTICLES / len(members)
    two = selected(two, np.flatnonzero(two.alpha >= min(least, two.alpha.max())))
    two = without_needless(view, two, step, 2)
    if two.n_classes < 2:
        return None
    _, gain = as_one(view, two, step, is_settled=True)
    return two, gain
