"""The point group of every class: found on its average, judged by particles left out of it.

A group is looked for where two copies of the average were both measured: a missing wedge has
symmetries of its own, and breaks those of the structure. What is found there are candidates only.
Each is imposed on the particles of the class for a few iterations; it stays if these explain the
particles better than as many iterations without it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from scipion_faml.enhanced.estep import MAX_PEAKS
from scipion_faml.enhanced.mstep import in_frames
from scipion_faml.enhanced.population import MIN_Z, Gain, Step, selected
from scipion_faml.enhanced.state import EnhancedState, PeakTable
from scipion_faml.enhanced.workbench import Workbench, resampled
from scipion_faml.evaluation.superposition import (
    Found,
    centre_of_mass,
    distinct_axes,
    hemisphere,
    refined_frame,
    some_of,
    turn_to_z,
)
from scipion_faml.faml import Assignments
from scipion_faml.fourier import SampleSet, turnable_spectrum, volume_from_spectrum
from scipion_faml.geometry import RigidTransforms
from scipion_faml.impose import moved_by
from scipion_faml.measured import WorkingBox
from scipion_faml.regularise import prior_coverage, shell_of
from scipion_faml.symmetry import generators, rotation_about, symmetry_rotations
from scipion_faml.types import ComplexArray, FloatArray, IntArray

logger = logging.getLogger(__name__)

FOLDS = tuple(range(2, 10))  # looked for about all axes
HIGHER_FOLDS = tuple(range(10, 18))  # about the axes found
SCANNED_RADIUS, REFINED_RADIUS = 8, 12  # shells
AXIS_STEP_DEG, SPIN_STEPS = 10.0, 16
N_AXES = 2  # of every fold, refined
N_TRIED = 5  # cyclic groups whose evidence is looked at
TRIAL_ITERATIONS = 2
MIN_PARTICLES = 8
LEAST_CONTRAST = 0.02
HOPELESS_Z, N_EXTENDED = -4.0, 2  # cyclic groups from which larger ones are built
CONTROL_TILT_DEG = 37.0
EQUAL_Z = -1.0  # a larger group that loses no more than this explains as well as a smaller one
SHARED = 0.5  # of a posterior, at its highest peak: below, equivalent poses share it
# Groups that hold a cyclic group of this fold; dihedral ones are added for every fold.
BEYOND = {2: ("T",), 3: ("T", "O", "I"), 4: ("O",), 5: ("I",)}


@dataclass(frozen=True, eq=False)
class Candidate:
    """A point group that an average may have."""

    group: str
    rotation: FloatArray  # (3, 3) into the group's frame
    centre: FloatArray  # (3,) xyz, voxels of the full box
    contrast: float  # correlation with copies turned by the group, beyond that of other turns

    @property
    def control(self) -> Candidate:
        """The same group about axes that lie elsewhere."""
        tilt = rotation_about((1.0, 0.6, 0.2), CONTROL_TILT_DEG)
        return replace(self, rotation=tilt @ self.rotation)

    @property
    def frame(self) -> RigidTransforms:
        """The pose that carries axes and centre to their places."""
        return RigidTransforms.from_rotation(
            self.rotation[None], -(self.rotation @ self.centre)[None])


@dataclass(frozen=True, eq=False)
class CoveredMap:
    """An average that is compared with its moved self where both were measured."""

    samples: SampleSet
    values: ComplexArray  # (J,) shells of equal power, each times its FSC and its coverage
    measured: FloatArray  # (J,) 0 to 1
    turnable: ComplexArray
    turnable_measured: ComplexArray

    @staticmethod
    def of(
        values: ComplexArray, coverage: FloatArray, fsc: FloatArray, samples: SampleSet
    ) -> CoveredMap:
        """From a regularised average and its coverage (J,), and the FSC (n_shells,) of halves."""
        shell = shell_of(samples)
        measured = coverage / (coverage + prior_coverage(fsc, coverage, samples)[shell] + 1e-30)
        weight = samples.multiplicity
        power = (np.bincount(shell, weight * np.abs(values) ** 2)
                 / np.maximum(np.bincount(shell, weight * measured**2), 1e-30))
        scale = np.clip(fsc, 0.0, 1.0) / np.sqrt(np.maximum(power, 1e-30))
        level = np.asarray(values * scale[shell], dtype=np.complex64)
        return CoveredMap(
            samples, level, measured, _turnable(level, 0.0, samples),
            _turnable(measured.astype(np.complex64), 1.0, samples))

    @property
    def n(self) -> int:
        """Box size (voxels)."""
        return self.samples.n

    def correlation(self, rotation: FloatArray, shift_xyz: FloatArray) -> float:
        """Correlation with the copy in which r lies at R r + t, over what both have."""
        one = rotation[None]
        copy = moved_by(self.turnable, self.samples, one, np.asarray(shift_xyz)[None])
        unmoved = moved_by(self.turnable_measured, self.samples, one, np.zeros((1, 3)))
        known = np.clip(unmoved.real, 0.0, 1.0)
        weight = self.samples.multiplicity
        cross = float(np.sum(weight * (self.values * copy.conj()).real))
        own = float(np.sum(weight * np.abs(self.values * known) ** 2))
        others = float(np.sum(weight * np.abs(copy * self.measured) ** 2))
        return cross / float(np.sqrt(own * others) + 1e-30)

    def likeness(self, turns: FloatArray, centre: FloatArray) -> float:
        """Mean correlation with copies turned (M, 3, 3) about a centre (voxels)."""
        return float(np.mean([self.correlation(h, centre - h @ centre) for h in turns]))


def _turnable(values: ComplexArray, origin: float, samples: SampleSet) -> ComplexArray:
    half = np.asarray(samples.put(values))
    half[0, 0, 0] = origin
    return turnable_spectrum(volume_from_spectrum(half, samples.n), samples.radius)


# ------------------------------------------------------------------------------------ candidates
@dataclass(frozen=True, eq=False)
class AverageToSearch:
    """An average of one class, at few shells to find axes on and at more to refine them."""

    coarse: CoveredMap
    fine: CoveredMap
    coarse_voxels: float  # of the full box, per voxel there
    fine_voxels: float
    centre: FloatArray  # (3,) of mass, voxels of the full box

    @staticmethod
    def of(
        values: ComplexArray, coverage: FloatArray, fsc: FloatArray, box: WorkingBox,
        volume: FloatArray,
    ) -> AverageToSearch:
        """From what a working box holds of an average, and the average (n, n, n) itself."""
        maps, voxels = [], []
        for radius in (SCANNED_RADIUS, REFINED_RADIUS):
            small = WorkingBox.of(volume.shape[0], min(radius, box.radius))
            maps.append(CoveredMap.of(
                resampled(values, box.samples, small.samples),
                np.maximum(resampled(coverage.astype(np.complex64), box.samples,
                                     small.samples).real, 0.0),
                fsc[: small.radius], small.samples))
            voxels.append(small.voxel_ratio)
        return AverageToSearch(maps[0], maps[1], voxels[0], voxels[1], centre_of_mass(volume))

    def cyclic(self) -> list[Candidate]:
        """Return the groups Cn, best first."""
        axes, centre = hemisphere(AXIS_STEP_DEG), self.centre / self.coarse_voxels
        turns = sorted({j / n for n in FOLDS for j in range(1, n // 2 + 1)})
        score = np.array([
            [self.coarse.likeness(rotation_about(axis, 360.0 * turn)[None], centre)
             for turn in turns] for axis in axes])
        found = [self._best_of_fold(n, axes, _fold_score(score, np.array(turns), n))
                 for n in FOLDS]
        # About an axis of high folds, a turn by any angle fits at low resolution.
        round_axis = axes[[int(score.mean(axis=1).argmax())]]
        higher = max(HIGHER_FOLDS, key=lambda n: self._contrast(n, round_axis[0]))
        found.append(self._best_of_fold(higher, round_axis, np.ones(1)))
        return sorted(found, key=lambda c: -c.contrast)

    def _contrast(self, fold: int, axis: FloatArray) -> float:
        """Likeness under turns by multiples of 360 deg / fold, beyond that of turns between."""
        turns = np.stack([rotation_about(axis, 360.0 * j / fold) for j in range(1, fold // 2 + 1)])
        halves = rotation_about(axis, 180.0 / fold) @ turns
        centre = self.centre / self.fine_voxels
        return self.fine.likeness(turns, centre) - self.fine.likeness(halves, centre)

    def _best_of_fold(self, fold: int, axes: FloatArray, score: FloatArray) -> Candidate:
        kept = distinct_axes(axes, score, 20.0, N_AXES)
        return max((self._refined(f"C{fold}", turn_to_z(axes[m]), self.centre) for m in kept),
                   key=lambda c: c.contrast)

    def _refined(self, group: str, rotation: FloatArray, centre: FloatArray) -> Candidate:
        turns = some_of(symmetry_rotations(group)[1:])
        fold = generators(group)[0][0]
        of_cycle = group.startswith("C")
        if of_cycle:  # the others are their inverses
            turns = symmetry_rotations(group)[1 : 1 + fold // 2]
        start = Found(0.0, rotation, centre / self.fine_voxels)
        found = refined_frame(self.fine, start, turns[:2] if of_cycle else turns)
        likeness = self.fine.likeness(found.rotation.T @ turns @ found.rotation, found.shift_xyz)
        axis = found.rotation.T @ np.asarray(generators(group)[0][1], dtype=float)
        between = np.stack([rotation_about(axis, 360.0 * (j + 0.5) / fold) for j in range(fold)])
        contrast = likeness - self.fine.likeness(between, found.shift_xyz)
        return Candidate(group, found.rotation, found.shift_xyz * self.fine_voxels, contrast)

    def multiple(self, cyclic: Candidate, fold: int) -> Candidate:
        """Return the group of a higher fold about the axis of another one."""
        return self._refined(f"C{fold}", cyclic.rotation, cyclic.centre)

    def about(self, cyclic: Candidate, group: str) -> Candidate:
        """Return a larger group whose axis of this fold is that of a cyclic group found."""
        fold = int(cyclic.group[1:])
        target = next(np.asarray(axis, dtype=float) for n, axis in generators(group) if n == fold)
        own_axis = cyclic.rotation.T @ np.array([0.0, 0.0, 1.0])
        base = turn_to_z(target / np.linalg.norm(target)).T @ turn_to_z(own_axis)
        turns, centre = some_of(symmetry_rotations(group)[1:]), cyclic.centre / self.fine_voxels
        frames = [rotation_about(target, 360.0 / fold * s / SPIN_STEPS) @ base
                  for s in range(SPIN_STEPS)]
        best = max(frames, key=lambda f: self.fine.likeness(f.T @ turns @ f, centre))
        return self._refined(group, best, cyclic.centre)


def _fold_score(score: FloatArray, turns: FloatArray, fold: int) -> FloatArray:
    """Mean correlation of every axis (A, T) with turns by multiples of 360 deg / fold."""
    own = np.isclose(turns * fold, np.rint(turns * fold))
    out: FloatArray = score[:, own].mean(axis=1)
    return out


def larger_groups(fold: int) -> list[str]:
    """Return names of groups that hold turns by 360 deg / fold, the smallest first."""
    return [f"D{fold}", *(g for g in BEYOND.get(fold, ())
                          if any(n == fold for n, _ in generators(g)))]


# ---------------------------------------------------------------------------------------- trials
@dataclass(frozen=True, eq=False)
class _Trial:
    """What particles say after some iterations with a group imposed, or with none."""

    order: int
    evidence: FloatArray  # (N,) log, over all poses
    share: FloatArray  # (N,) of the best pose in the posterior

    @property
    def at_best(self) -> FloatArray:
        """Log joint (N,) of the best pose alone: equivalent poses favour no group."""
        best: FloatArray = (
            self.evidence + np.log(np.maximum(self.share, 1e-30)) - np.log(self.order))
        return best

    def gain_over(self, other: _Trial) -> Gain:
        """What particles gain from this group over another, or none, at their best pose."""
        return Gain.of(self.at_best, other.at_best)

    def is_as_good_as(self, other: _Trial) -> bool:
        """Whether particles lose nothing: averages that lost what is not symmetric explain less."""
        if np.median(other.share) > SHARED:
            return self.gain_over(other).z > EQUAL_Z
        # The other average has copies that no particle can tell apart. The best of several equals
        # is too good; their mean is not. Only so many peaks are kept of each particle.
        missing = np.log(self.order / min(self.order, MAX_PEAKS * other.order))
        return Gain.of(self.evidence - missing, other.evidence).z > EQUAL_Z


@dataclass(frozen=True, eq=False)
class _ClassSearch:
    """One class, its particles, and what a group brings them."""

    bench: Workbench
    state: EnhancedState  # of this class alone
    assignments: Assignments
    box: WorkingBox
    step: Step

    def tried(self, candidate: Candidate | None) -> _Trial:
        """Run a few iterations with a group, or with the one the class has."""
        state = self.state
        if candidate is not None:
            state, _ = in_frames(self.bench, state, self.assignments, self.box,
                                 (candidate.group,), [candidate.frame], is_logged=False)
        for _ in range(TRIAL_ITERATIONS):
            state = cast(EnhancedState, self.step(self.bench, self._next(state)).state)
        looked = replace(self._next(state), noise=self.state.noise)
        found = self.step(self.bench, looked).assignments
        return _Trial(len(state.groups[0]), found.log_likelihood, found.responsibility)

    def _next(self, state: EnhancedState) -> EnhancedState:
        """The state as it is climbed from, at one resolution."""
        return replace(
            state, radius=self.box.radius, phase="local", in_frame=True, n_sharp=0,
            is_converged=False, n_since_dense=0)


@dataclass(frozen=True, eq=False)
class _Judged:
    """A candidate and what particles say of it."""

    candidate: Candidate
    trial: _Trial
    gain: Gain  # over the group that the class has, at the best pose
    is_supported: bool


def _class_alone(state: EnhancedState, k: int) -> EnhancedState:
    """The state of one class, with its peaks."""
    peaks = state.peaks
    if peaks is not None:
        mine = peaks.class_index == k
        peaks = PeakTable(peaks.particle[mine], np.zeros(int(mine.sum()), dtype=np.intp),
                          peaks.poses[np.flatnonzero(mine)])
    return replace(selected(state, np.array([k])), alpha=np.ones(1), peaks=peaks)


def _rows(assignments: Assignments, rows: IntArray) -> Assignments:
    """Some particles' assignments, all to one class."""
    return Assignments(
        np.zeros(len(rows), dtype=np.intp), assignments.poses[rows],
        assignments.responsibility[rows], assignments.log_likelihood[rows],
        np.ones((len(rows), 1)))


def _best_supported(
    search: _ClassSearch, average: AverageToSearch
) -> tuple[Candidate | None, float]:
    """The group of highest evidence, or None; and what each particle gains."""
    base = search.tried(None)
    looked_at: list[_Judged] = []

    def look_at(candidate: Candidate) -> None:
        if len(symmetry_rotations(candidate.group)) <= base.order:
            return
        trial = search.tried(candidate)
        gain, is_supported = trial.gain_over(base), trial.is_as_good_as(base)
        logger.info("    %s: contrast %.2f, log evidence per particle %+.1f (z %.1f)%s",
                    candidate.group, candidate.contrast, gain.total / len(trial.evidence),
                    max(gain.z, -99.0),
                    ", as good" if is_supported else "")
        looked_at.append(_Judged(candidate, trial, gain, is_supported))

    for candidate in [c for c in average.cyclic() if c.contrast > LEAST_CONTRAST][:N_TRIED]:
        look_at(candidate)
    # Half of a symmetry may not pay yet where the whole does.
    hopeful = sorted((j for j in looked_at if j.gain.z > HOPELESS_Z), key=lambda j: -j.gain.z)
    for judged in hopeful[:N_EXTENDED]:
        fold = int(judged.candidate.group[1:])
        for group in larger_groups(fold):
            look_at(average.about(judged.candidate, group))
        for multiple in range(2 * fold, max(HIGHER_FOLDS) + 1, fold):
            refined = average.multiple(judged.candidate, multiple)
            if refined.contrast > 0.5 * judged.candidate.contrast:
                look_at(refined)
    supported = [j for j in looked_at if j.is_supported]
    if not supported:
        return None, 0.0
    chosen = _chosen(supported)
    if not chosen.gain.is_supported:
        # Nothing is lost with it. Would these particles show it if something were?
        lost = search.tried(chosen.candidate.control).gain_over(chosen.trial)
        logger.info("    %s about other axes: z %.1f", chosen.candidate.group, lost.z)
        if lost.z > -MIN_Z:
            return None, 0.0
    return chosen.candidate, chosen.gain.total / len(chosen.trial.evidence)


def _chosen(supported: Sequence[_Judged]) -> _Judged:
    """The group of highest evidence, or a larger one that explains as well."""
    best = max(supported, key=lambda j: float(j.trial.at_best.sum()))
    for other in sorted(supported, key=lambda j: j.trial.order):
        is_larger = other.trial.order > best.trial.order
        if is_larger and other.trial.gain_over(best.trial).z > EQUAL_Z:
            best = other
    return best


def with_symmetry_found(
    bench: Workbench, state: EnhancedState, assignments: Assignments, coverage: FloatArray,
    box: WorkingBox, step: Step,
) -> tuple[EnhancedState, Assignments]:
    """Return the state with each class in the frame of the point group that its particles support.

    Parameters
    ----------
    coverage : (K, J) of the averages, at the samples of `box`
    step : takes one iteration
    """
    other = bench.part(bench.members, replace(bench.config, symmetry="C1"))
    other.mask = None  # it lies in a frame that is yet to be found
    symmetry, gains = list(state.symmetry), state.symmetry_gain.copy()
    frames = [RigidTransforms.identity(1) for _ in symmetry]
    for k in range(state.n_classes):
        rows = np.flatnonzero(assignments.class_index == k)
        if len(rows) < MIN_PARTICLES:
            continue
        logger.info("  class %d: which symmetry?", k + 1)
        search = _ClassSearch(
            other.part(bench.members[rows], replace(other.config, n_classes=1)),
            _class_alone(state, k), _rows(assignments, rows), box, step)
        average = AverageToSearch.of(
            state.references[:, k].mean(axis=0), coverage[k], state.fsc[k], box,
            state.averages[k])
        found, gain = _best_supported(search, average)
        if found is not None:
            symmetry[k], frames[k] = found.group, found.frame
            gains[k] += gain
        logger.info("  class %d: %s", k + 1, symmetry[k])
    searched = replace(state, searched_radius=box.radius, symmetry_gain=gains, in_frame=True)
    if tuple(symmetry) == state.symmetry and (bench.mask is None or state.in_frame):
        return searched, assignments
    return in_frames(bench, searched, assignments, box, tuple(symmetry), frames)
