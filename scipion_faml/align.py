"""Fast alignment: candidate poses of a subtomogram against an average (Eq. 1-2, Section 2.1).

With weights w in [0, 1] (the paper's are 0 or 1, so that w^2 = w) the score of a pose is

    c = sum_j w_j X_j conj((R_phi A)_j) / sqrt(sum_j w_j |(R_phi A)_j|^2),

and its bound over all shifts replaces X and A by their magnitudes: a fraction of two rotational
correlations, evaluated on all rotations at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from scipion_faml.cython_ext import _interpolate, _peaks, _residual, _scoring
from scipion_faml.fourier import (
    OVERSAMPLING,
    SampleRuns,
    SampleSet,
    sample_runs,
    spectrum,
    turnable_in_ball,
    turnable_spectrum,
)
from scipion_faml.geometry import (
    RigidTransforms,
    covering_rotations,
    euler_to_matrix,
    matrix_to_euler,
    rotation_from_vector,
)
from scipion_faml.harmonics import (
    Coefficients,
    ShellPlan,
    grid_euler_zyz,
    harmonic_coefficients,
    rotational_correlation,
)
from scipion_faml.types import BoolArray, ComplexArray, FloatArray, IntArray
from scipion_faml.wedge import is_measured

IDENTITY = np.eye(3)
MAX_CACHED_DENOMINATORS = 32


def gather(turnable: ComplexArray, axes: FloatArray, rotation: FloatArray) -> ComplexArray:
    """Return a turnable spectrum at rotation @ frequency, (J,) complex64; axes (3, J) hold k."""
    values = np.empty(axes.shape[1], dtype=np.complex64)
    matrix = np.ascontiguousarray(OVERSAMPLING * rotation, dtype=np.float64)
    _scoring.gather(turnable, axes, matrix, values)
    return values


def gather_weight(weight: FloatArray, frequency_xyz: FloatArray) -> FloatArray:
    """Return weights (n, n, n // 2 + 1) interpolated at frequencies (J, 3), (J,) float32."""
    values = np.empty(len(frequency_xyz), dtype=np.float32)
    _interpolate.gather_real(weight, frequency_xyz, IDENTITY, values)
    return values


@dataclass(frozen=True, eq=False)
class PreparedWedge:
    """A wedge, ready to be turned and correlated. Build it with `prepare_wedge`.

    It goes through the same window and interpolation as the particle it belongs to, so that the
    quotient signal / coverage is free of what they do to the wedge's edge.
    """

    samples: SampleSet
    plan: ShellPlan
    weight: FloatArray  # (n, n, n // 2 + 1) float32 in [0, 1]: 1 measured, 0 missing
    sample_weight: FloatArray  # (J,) float32, weight times Hermitian multiplicity
    runs: SampleRuns  # the samples with a weight

    @cached_property
    def turnable(self) -> FloatArray:
        """Spectrum of the wedge within the inscribed ball, (2K + 1, 2K + 1, K + 1) float32.

        It is real: wedge and ball are the same at opposite samples.
        """
        n = self.samples.n
        table = turnable_in_ball(self.weight.astype(np.complex64), n, self.samples.radius)
        return np.ascontiguousarray(table.real)

    @cached_property
    def coefficients(self) -> Coefficients:
        """Harmonics of p_1 = w (Eq. 2)."""
        on_shells = gather_weight(self.weight, self.plan.points_xyz)
        return harmonic_coefficients(on_shells, self.plan)

    @cached_property
    def support_on_shells(self) -> FloatArray:
        """1 where something was measured, 0 elsewhere, at the plan's points."""
        support = (self.weight > 0).astype(np.float32)
        return gather_weight(support, self.plan.points_xyz)

    @cached_property
    def run_weight(self) -> FloatArray:
        """`sample_weight` in the order of the runs, (P,) float32."""
        return self.sample_weight[self.runs.index]

    @cached_property
    def n_observed(self) -> float:
        """Number of measured samples, both Friedel mates counted."""
        measured = is_measured(self.samples.take(self.weight))
        return float(self.samples.multiplicity[measured].sum(dtype=np.float64))

    @property
    def n_bytes(self) -> int:
        """Memory it takes, roughly."""
        per_sample = self.runs.index.nbytes + self.runs.axes.nbytes + self.weight.nbytes
        table = 4 * int(2 * self.samples.radius + 2) ** 3  # half of a cube of twice the radius
        return per_sample + 4 * table


def prepare_wedge(weight: FloatArray, samples: SampleSet, plan: ShellPlan) -> PreparedWedge:
    """Return weights (n, n, n // 2 + 1) in [0, 1] ready for use.

    Raises
    ------
    ValueError
        If the shape does not belong to the samples' box or nothing is measured.
    """
    n = samples.n
    if weight.shape != (n, n, n // 2 + 1):
        raise ValueError(f"a wedge of shape {weight.shape} does not belong to a box of {n}")
    sample_weight = np.asarray(samples.take(weight) * samples.multiplicity, dtype=np.float32)
    if not sample_weight.any():
        raise ValueError("the wedge leaves no Fourier sample measured")
    runs = sample_runs(samples, sample_weight)
    return PreparedWedge(samples, plan, weight, sample_weight, runs)


@dataclass(frozen=True, eq=False)
class Observation:
    """One subtomogram as the method sees it. Build it with `observe`."""

    index: int
    wedge: PreparedWedge
    values: ComplexArray  # (J,) complex64, X at the samples
    turnable: ComplexArray  # (2K + 1, 2K + 1, K + 1) complex64, of w X in the inscribed ball

    @property
    def samples(self) -> SampleSet:
        """The samples compared."""
        return self.wedge.samples

    @property
    def sample_weight(self) -> FloatArray:
        """(J,) float32: wedge times Hermitian multiplicity."""
        return self.wedge.sample_weight

    @cached_property
    def power(self) -> float:
        """sum_j w_j |X_j|^2."""
        squared = self.values.real**2 + self.values.imag**2
        return float(np.dot(squared.astype(np.float64), self.sample_weight))

    @cached_property
    def weighted_runs(self) -> FloatArray:
        """Real and imaginary part of w X times multiplicity in the wedge's runs, (2, P) float32."""
        weighted = self.values[self.wedge.runs.index] * self.wedge.run_weight
        return np.ascontiguousarray(weighted.view(np.float32).reshape(-1, 2).T)

    @cached_property
    def magnitude_coefficients(self) -> Coefficients:
        """Harmonics of p_0 = w |X| (Eq. 2)."""
        # What the window smears into the missing wedge has random phases, but as magnitudes it
        # would add up, and draw every particle to the orientation of its wedge.
        plan = self.wedge.plan
        magnitude: FloatArray = np.abs(gather(self.turnable, plan.axes, IDENTITY))
        return harmonic_coefficients(magnitude * self.wedge.support_on_shells, plan)

    @property
    def n_bytes(self) -> int:
        """Memory it takes without its wedge, roughly."""
        return self.turnable.nbytes + 3 * self.values.nbytes

    def add_turned_back(
        self, rotation: FloatArray, shift_xyz: FloatArray, weight: FloatArray,
        signal: ComplexArray, coverage: FloatArray,
    ) -> None:
        """Add the sums over poses of weight R^-1 (w X), moved back, and of weight R^-1 w.

        Parameters
        ----------
        rotation (M, 3, 3), shift_xyz (M, 3) and weight (M,) of the poses
        signal : (J,) complex128, coverage : (J,) float64
            Sums at the samples, in the frame of the average; added to in place.
        """
        # Moving X by -t multiplies it by exp(+2 pi i (R k) . t) = exp(+2 pi i k . (R^T t)).
        moved = np.einsum("mji,mj->mi", rotation, shift_xyz)
        tiled = self.samples.tiled
        _scoring.add_turned_back(
            self.turnable, self.wedge.turnable, tiled.axes, tiled.runs, tiled.rows, tiled.index,
            np.ascontiguousarray(OVERSAMPLING * rotation), separable_phase(self.samples, moved),
            np.ascontiguousarray(weight, dtype=np.float64), signal, coverage,
        )


def separable_phase(samples: SampleSet, shift_xyz: FloatArray) -> FloatArray:
    """Return cos and sin (2 pi k t / n) of shifts (M, 3) for `_scoring.add_turned_back`.

    (M, 3, 2, W) float32: x, y, z; k from -radius, as many beyond the radius as the kernel may read.
    """
    radius = int(samples.radius)
    k = np.arange(-radius, radius + 1 + _scoring.RAMP_PADDING)
    angle = 2 * np.pi / samples.n * shift_xyz[:, :, None] * k
    return np.stack([np.cos(angle), np.sin(angle)], axis=2).astype(np.float32)


def observe(volume: FloatArray, wedge: PreparedWedge, index: int = 0) -> Observation:
    """Return a subtomogram (n, n, n) with its wedge, ready for the E-step.

    The spectrum that is turned is that of w X within the inscribed ball: only this part of a box is
    defined under every rotation. The likelihood compares the whole box.
    """
    n = wedge.samples.n
    if volume.shape != (n, n, n):
        raise ValueError(f"a volume of shape {volume.shape} does not fit a box of {n}")
    half = spectrum(volume)
    values = np.asarray(wedge.samples.take(half), dtype=np.complex64)
    half *= wedge.weight
    turnable = turnable_in_ball(half, n, wedge.samples.radius)
    return Observation(index, wedge, values, turnable)


@dataclass(frozen=True, eq=False)
class Reference:
    """A class average, ready to be turned and correlated. Build it with `prepare_reference`."""

    samples: SampleSet
    plan: ShellPlan
    turnable: ComplexArray  # (2K + 1, 2K + 1, K + 1) complex64
    magnitude_coefficients: Coefficients  # of |A|
    power_coefficients: Coefficients  # of |A|^2
    _denominators: dict[PreparedWedge, FloatArray] = field(default_factory=dict)
    # Of threads that are not at work now: new pages for every particle cost as much as a transform.
    _memory: list[_scoring.WorkingMemory] = field(default_factory=list)

    def turned(self, rotation: FloatArray) -> ComplexArray:
        """Return R A at the samples, (J,) complex64, for a rotation matrix."""
        return gather(self.turnable, self.samples.axes, rotation.T)

    def take_memory(self) -> _scoring.WorkingMemory:
        """Return working memory that no other thread uses; `give_memory` it back."""
        try:
            return self._memory.pop()
        except IndexError:
            return _scoring.WorkingMemory()

    def give_memory(self, memory: _scoring.WorkingMemory) -> None:
        """Keep working memory for the next call."""
        self._memory.append(memory)

    def denominator(self, wedge: PreparedWedge) -> FloatArray:
        """Return sqrt(c_1) of Eq. 2 on the SO(3) grid; particles that share a wedge share it."""
        known = self._denominators.get(wedge)
        if known is not None:
            return known
        correlation = rotational_correlation(
            wedge.coefficients, self.power_coefficients, self.plan
        )
        # Truncating the series can push it to or below zero where little is measured.
        highest = float(correlation.max())
        denominator = np.sqrt(np.maximum(correlation, max(1e-3 * highest, 1e-30)))
        if len(self._denominators) < MAX_CACHED_DENOMINATORS:
            self._denominators[wedge] = denominator
        return denominator


def prepare_reference(average: FloatArray, samples: SampleSet, plan: ShellPlan) -> Reference:
    """Return the reference of a class average (n, n, n)."""
    turnable = turnable_spectrum(average, samples.radius)
    magnitude: FloatArray = np.abs(gather(turnable, plan.axes, IDENTITY))
    return Reference(
        samples,
        plan,
        turnable,
        harmonic_coefficients(magnitude, plan),
        harmonic_coefficients(magnitude**2, plan),
    )


@dataclass(frozen=True, eq=False)
class Candidates:
    """Poses kept for one subtomogram, all classes together, and what the E-step needs of each."""

    transforms: RigidTransforms  # M poses
    class_index: IntArray  # (M,)
    score: FloatArray  # (M,) Re c of Eq. 1
    cross: FloatArray  # (M,) Re sum_j w_j X_j conj((R_phi A)_j)
    model_power: FloatArray  # (M,) sum_j w_j |(R_phi A)_j|^2
    voronoi_weight: FloatArray  # (M,)

    def __len__(self) -> int:
        return len(self.class_index)

    def select(self, keep: BoolArray | IntArray | list[int]) -> Candidates:
        """Return the candidates at `keep`."""
        return Candidates(
            self.transforms[keep], self.class_index[keep], self.score[keep], self.cross[keep],
            self.model_power[keep], self.voronoi_weight[keep],
        )

    @staticmethod
    def concatenate(parts: list[Candidates]) -> Candidates:
        """Return all candidates of `parts` in one table."""
        return Candidates(
            RigidTransforms.concatenate([p.transforms for p in parts]),
            *(
                np.concatenate([getattr(p, name) for p in parts])
                for name in ("class_index", "score", "cross", "model_power", "voronoi_weight")
            ),
        )


def magnitude_scores(observation: Observation, reference: Reference) -> FloatArray:
    """Return the bound c of Eq. 2 on the SO(3) grid (axes alpha, gamma, beta)."""
    numerator = rotational_correlation(
        observation.magnitude_coefficients, reference.magnitude_coefficients, reference.plan
    )
    score = numerator / reference.denominator(observation.wedge)
    return np.ascontiguousarray(score, dtype=np.float32)


def best_rotations(score: FloatArray, plan: ShellPlan, n_best: int) -> FloatArray:
    """Return the ZYZ angles (M, 3) of the highest local maxima of a score on the SO(3) grid.

    Maxima are refined within their cell by a parabola along each axis; of two closer than a grid
    step the higher is kept (the grid crowds at the poles of beta).
    """
    extended = _beyond_poles(score)
    marked = np.empty(score.shape, dtype=np.uint8)
    _peaks.local_maxima(extended, marked)
    flat = np.flatnonzero(marked.reshape(-1).view(bool))
    order = np.argsort(-score.reshape(-1)[flat], kind="stable")[: 6 * n_best]
    position = np.stack(np.unravel_index(flat[order], score.shape), axis=1)
    euler_zyz = grid_euler_zyz(_parabolic(extended, position), plan)
    return euler_zyz[separated(euler_to_matrix(euler_zyz), 360.0 / plan.n_angles, n_best)]


def _beyond_poles(score: FloatArray) -> FloatArray:
    """A score on the SO(3) grid with one more sample of beta before 0 and after pi.

    (alpha, -beta, gamma) is the rotation (alpha + pi, beta, gamma + pi), and so at pi.
    """
    n_angles, _, n_beta = score.shape
    extended = np.empty((n_angles, n_angles, n_beta + 2), dtype=np.float32)
    extended[:, :, 1:-1] = score
    for end, inner in ((0, 1), (-1, -2)):
        extended[:, :, end] = np.roll(score[:, :, inner], (n_angles // 2,) * 2, axis=(0, 1))
    return extended


def _parabolic(extended: FloatArray, position: IntArray) -> FloatArray:
    """Grid positions (M, 3) moved to the top of the parabola through three samples on each axis."""
    refined = position.astype(float)
    alpha, gamma, beta = position[:, 0], position[:, 1], position[:, 2] + 1
    n_angles = len(extended)
    here = extended[alpha, gamma, beta].astype(float)
    neighbours = (
        (extended[alpha - 1, gamma, beta], extended[(alpha + 1) % n_angles, gamma, beta]),
        (extended[alpha, gamma - 1, beta], extended[alpha, (gamma + 1) % n_angles, beta]),
        (extended[alpha, gamma, beta - 1], extended[alpha, gamma, beta + 1]),
    )
    for axis, (below, above) in enumerate(neighbours):
        curvature = below - 2.0 * here + above
        slope = 0.5 * (below.astype(float) - above)
        offset = np.where(curvature < 0, slope / np.minimum(curvature, -1e-30), 0.0)
        refined[:, axis] += np.clip(offset, -0.5, 0.5)
    return refined


def separated(rotation: FloatArray, min_angle_deg: float, n_best: int) -> IntArray:
    """Return indices of up to n_best rotations, in order, at least an angle from those before."""
    flat = rotation.reshape(-1, 9)
    # The trace of R1^T R2 is 1 + 2 cos(angle).
    is_close = flat @ flat.T >= 1.0 + 2.0 * np.cos(np.deg2rad(min_angle_deg))
    is_free = np.ones(len(flat), dtype=bool)
    kept: list[int] = []
    for m in range(len(flat)):
        if len(kept) == n_best:
            break
        if is_free[m]:
            kept.append(m)
            is_free &= ~is_close[m]
    return np.array(kept, dtype=np.intp)


def shift_ramp(n: int, shift_xyz: FloatArray) -> ComplexArray:
    """Return exp(-2 pi i k t / n) for k = -(n // 2) .. n // 2 along each axis, (3, n | 1)."""
    k = np.arange(-(n // 2), n // 2 + 1)
    ramp: ComplexArray = np.exp(-2j * np.pi / n * np.outer(shift_xyz, k))
    return ramp


@lru_cache(maxsize=16)
def _shift_tables(samples: SampleSet, max_shift: float) -> tuple[int, FloatArray, FloatArray]:
    """Steps that reach `max_shift` voxels, and cos and sin (2 pi k s / n_shift) for `_scoring`."""
    n_shift = samples.n_shift
    reach = min(int(max_shift * n_shift / samples.n), n_shift // 2 - 1)
    k = np.arange(-int(samples.radius), int(samples.radius) + 1)
    s = np.arange(-(-(reach + 2) // _scoring.SHIFT_LANES) * _scoring.SHIFT_LANES)
    phase = 2 * np.pi / n_shift * np.outer(k, s)
    return reach, np.cos(phase).astype(np.float32), np.sin(phase).astype(np.float32)


def score_pose(
    observation: Observation, model: ComplexArray, shift_xyz: FloatArray
) -> tuple[float, float]:
    """Return Re <X, R_phi A>_w and |R_phi A|_w^2 for a turned average, then shifted."""
    sums = np.empty(2)
    _residual.cross_and_power(
        model,
        observation.values,
        observation.sample_weight,
        observation.samples.frequency_xyz,
        shift_ramp(observation.samples.n, shift_xyz),
        sums,
    )
    return float(sums[0]), float(sums[1])


def score_rotations(
    observation: Observation,
    reference: Reference,
    euler_zyz: FloatArray,
    class_index: int,
    max_shift: float,
) -> Candidates:
    """Return rotations (M, 3) as candidates of one class, each with its best shift and score.

    The numerator of Eq. 1 is evaluated on a grid of shifts up to `max_shift` voxels from the
    centre, and a parabola along each axis finds the maximum in between; the score is that of the
    shift found. With a low-pass the grid is as coarse as the samples allow.
    """
    samples, wedge = observation.samples, observation.wedge
    reach, cosines, sines = _shift_tables(samples, max_shift)
    euler_zyz = np.reshape(euler_zyz, (-1, 3))
    inverse = np.swapaxes(euler_to_matrix(euler_zyz), 1, 2)
    found = np.empty((len(euler_zyz), 5))
    memory = reference.take_memory()
    _scoring.score_rotations(
        reference.turnable, wedge.runs.axes, wedge.run_weight, observation.weighted_runs,
        wedge.runs.runs, wedge.runs.rows, wedge.runs.tiles,
        np.ascontiguousarray(OVERSAMPLING * inverse), cosines, sines, samples.n, reach,
        samples.n / samples.n_shift, max_shift, found, memory,
    )
    reference.give_memory(memory)
    cross, power = np.ascontiguousarray(found[:, 3:].T)
    return Candidates(
        RigidTransforms(euler_zyz, found[:, :3]),
        np.full(len(found), class_index, dtype=np.intp),
        cross / np.sqrt(np.maximum(power, np.finfo(float).tiny)), cross, power,
        np.full(len(found), 1.0 / max(len(found), 1)),
    )


def exhaustive_candidates(
    observation: Observation,
    reference: Reference,
    class_index: int,
    max_candidates: int,
    max_shift: float,
    step_deg: float = 15.0,
) -> Candidates:
    """Return the best poses of a scan over all rotations, each with its best shift, then refined.

    The rotations cover SO(3) evenly about `step_deg` apart; the `max_candidates` best are refined
    by `refine_rotation` down to a sixteenth of the step. Slow, but it sees every pose.
    """
    grid = covering_rotations(step_deg)
    scanned = score_rotations(observation, reference, grid, class_index, max_shift)
    order = np.argsort(-scanned.score, kind="stable")[: 20 * max_candidates]
    best = order[separated(euler_to_matrix(grid[order]), step_deg, max_candidates)]
    refined = [
        refine_rotation(observation, reference, scanned.select([m]), max_shift, step_deg / 2)
        for m in best
    ]
    return Candidates.concatenate(refined)


def refine_rotation(
    observation: Observation,
    reference: Reference,
    candidate: Candidates,
    max_shift: float,
    step_deg: float,
) -> Candidates:
    """Return one candidate moved uphill in score: turns about x, y, z, halved until none helps."""
    step = np.deg2rad(step_deg)
    class_index = int(candidate.class_index[0])
    smallest = step / 8
    while step >= smallest:
        turns = np.concatenate([step * IDENTITY, -step * IDENTITY])
        rotation = rotation_from_vector(turns) @ candidate.transforms.rotation[0]
        trial = score_rotations(
            observation, reference, matrix_to_euler(rotation), class_index, max_shift
        )
        best = int(np.argmax(trial.score))
        if trial.score[best] > candidate.score[0]:
            candidate = trial.select([best])
        else:
            step /= 2
    return candidate


def find_candidates(
    observation: Observation,
    reference: Reference,
    class_index: int,
    max_candidates: int,
    max_shift: float,
) -> Candidates:
    """Return up to `max_candidates` poses of the subtomogram against one average (Section 2.1).

    Rotations are the highest local maxima of the translation-invariant bound (Eq. 2); each gets
    its best shift by FFT. Voronoi weights are equal until `voronoi_weights` sets them.
    """
    score = magnitude_scores(observation, reference)
    rotations = best_rotations(score, reference.plan, max_candidates)
    return score_rotations(observation, reference, rotations, class_index, max_shift)
