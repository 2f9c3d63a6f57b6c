"""Expectation-maximisation over candidate poses (Eq. 10-15).

With gamma the responsibility of a candidate, one pass over the data gives

    signal = sum gamma R^-1 (w X),   coverage = sum gamma R^-1 w,   weight = sum gamma,

and Eq. 10 is A_new = (signal + (weight - coverage) A) / weight. Weights w in [0, 1] generalise the
paper's 0 and 1: the noise variance of sample j is sigma^2 / w_j (CTF^2, dose, multiplicity).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.special import logsumexp

from scipion_faml.align import (
    Candidates,
    Observation,
    Reference,
    exhaustive_candidates,
    find_candidates,
    score_rotations,
)
from scipion_faml.fourier import SampleSet, volume_from_spectrum
from scipion_faml.geometry import RigidTransforms
from scipion_faml.model import FamlConfig, ModelState
from scipion_faml.phase import PhaseSearch, best_apart, climbed, phase_candidates
from scipion_faml.types import ComplexArray, FloatArray
from scipion_faml.volume import inscribed_sphere
from scipion_faml.voronoi import pose_points, voronoi_weights

SMALLEST_PRIOR = 1e-12  # keeps log(alpha) finite for a class that lost all particles
SMALLEST_COVERAGE = 0.05  # of the class's weight
SMALLEST_VARIANCE = 1e-4  # of noise (Fourier units) and shifts (voxels^2)


# -------------------------------------------------------------------------------------- E-step
def log_joint(candidates: Candidates, observed_power: float, state: ModelState) -> FloatArray:
    """Return log e(phi, k) of every candidate (Zhao et al. 2018, Eq. 15), (M,) float64.

    The squared residual is expanded: |R A - X|_w^2 = |X|_w^2 + |R A|_w^2 - 2 Re <X, R A>_w.
    """
    residual = squared_residual(candidates, observed_power)
    squared_shift = np.sum(candidates.transforms.shift_xyz**2, axis=1)
    prior = np.log(np.maximum(state.alpha, SMALLEST_PRIOR))[candidates.class_index]
    return prior - residual / (2.0 * state.sigma**2) - squared_shift / (2.0 * state.zeta**2)


def squared_residual(candidates: Candidates, observed_power: float) -> FloatArray:
    """Return sum_j w_j |(R_phi A_k)_j - X_j|^2 of every candidate, (M,) float64."""
    expanded = observed_power + candidates.model_power - 2.0 * candidates.cross
    return np.maximum(expanded, 0.0)


def responsibilities(log_joint: FloatArray, voronoi_weight: FloatArray) -> FloatArray:
    """Return the posterior times Voronoi weight of each candidate (Zhao et al. 2018, Eq. 14).

    Parameters
    ----------
    log_joint : (M,) float64
        log e(phi, k) of Eq. 15 for every candidate of one subtomogram, over all classes.
    voronoi_weight : (M,) float64
        Share of pose space of each candidate; positive.

    Raises
    ------
    ValueError
        If the lengths differ.
    """
    if log_joint.shape != voronoi_weight.shape:
        raise ValueError(
            f"{len(log_joint)} log_joint values but {len(voronoi_weight)} voronoi_weight"
        )
    # Exponents reach -1e5 at 64^3 voxels: outside the log domain every posterior is 0/0.
    log_weighted = log_joint + np.log(voronoi_weight)
    return np.exp(log_weighted - logsumexp(log_weighted))


# A posterior turns candidates and their log_joint into weights that sum to 1.
Posterior = Callable[[Candidates, FloatArray], FloatArray]


def soft_posterior(candidates: Candidates, log_joint: FloatArray) -> FloatArray:
    """Return the responsibilities of FAML (Eq. 14)."""
    return responsibilities(log_joint, candidates.voronoi_weight)


def hard_assignment(candidates: Candidates, log_joint: FloatArray) -> FloatArray:
    """Return all weight on the best alignment score of all classes: fast alignment (FA)."""
    one_hot = np.zeros(len(candidates))
    one_hot[int(np.argmax(candidates.score))] = 1.0
    return one_hot


def without_small(weights: FloatArray, smallest: float) -> FloatArray:
    """Return weights with those below `smallest` set to 0; the rest sums to 1 again."""
    kept = np.where(weights >= smallest, weights, 0.0)
    return kept / kept.sum()


@dataclass(frozen=True, eq=False)
class Assignment:
    """What one particle got: its candidates and their responsibilities."""

    index: int
    candidates: Candidates
    responsibility: FloatArray  # (M,)
    log_likelihood: float

    @property
    def best(self) -> int:
        """The candidate with the highest responsibility."""
        return int(np.argmax(self.responsibility))

    @property
    def class_index(self) -> int:
        """Class of the best candidate."""
        return int(self.candidates.class_index[self.best])

    @property
    def pose(self) -> RigidTransforms:
        """Pose of the best candidate (length 1)."""
        return self.candidates.transforms[[self.best]]


def search_of(config: FamlConfig, samples: SampleSet) -> PhaseSearch | None:
    """Return the phase-aware search of an iteration where the settings ask for one."""
    if config.search not in ("phase", "both"):
        return None
    radius = min(config.dense_radius(config.search_bandwidth), int(samples.radius))
    return PhaseSearch(
        samples.n, radius, config.bandwidth_of_shells(radius), config.max_shift_of(samples.n))


def propose(
    observation: Observation, references: Sequence[Reference], config: FamlConfig,
    search: PhaseSearch | None = None, previous: RigidTransforms | None = None,
) -> Candidates:
    """Return the candidates of all classes with their Voronoi weights (Algorithm 1, lines 5-6).

    Parameters
    ----------
    search : `search_of` the settings
    previous : best pose of the iteration before: one more candidate where phases are used
    """
    points = pose_points(config.n_voronoi_points, config.seed)
    parts = []
    for k, reference in enumerate(references):
        found = _candidates_of(observation, reference, k, config, search, previous)
        weight = voronoi_weights(found.transforms, points, config.translation_weight)
        parts.append(replace(found, voronoi_weight=weight).select(weight > 0))
    return Candidates.concatenate(parts)


def _candidates_of(
    observation: Observation, reference: Reference, k: int, config: FamlConfig,
    search: PhaseSearch | None, previous: RigidTransforms | None,
) -> Candidates:
    """Candidates of one class by the search that was asked for."""
    max_shift = config.max_shift_of(observation.samples.n)
    if config.search == "exhaustive":
        return exhaustive_candidates(
            observation, reference, k, config.max_candidates, max_shift, config.angular_step_deg
        )
    parts = []
    if config.search in ("magnitude", "both"):
        parts.append(
            find_candidates(observation, reference, k, config.max_candidates, max_shift))
    if search is not None:
        parts.append(phase_candidates(observation, reference, k, config.max_candidates, search))
        if previous is not None:
            again = score_rotations(observation, reference, previous.euler_zyz, k, max_shift)
            parts.append(climbed(observation, reference, again, 1, max_shift))
    if len(parts) == 1:
        return parts[0]
    return best_apart(Candidates.concatenate(parts), config.max_candidates)


def assign(
    observation: Observation,
    candidates: Candidates,
    state: ModelState,
    posterior: Posterior = soft_posterior,
    min_responsibility: float = 0.0,
) -> Assignment:
    """Return the responsibilities of given candidates: the E-step of one particle."""
    log_e = log_joint(candidates, observation.power, state)
    weights = without_small(posterior(candidates, log_e), min_responsibility)
    log_likelihood = (
        float(logsumexp(log_e + np.log(candidates.voronoi_weight)))
        - 0.5 * observation.wedge.n_observed * np.log(2 * np.pi * state.sigma**2)
        - 1.5 * np.log(2 * np.pi * state.zeta**2)
    )
    return Assignment(observation.index, candidates, weights, log_likelihood)


# ---------------------------------------------------------------------- sufficient statistics
@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """Sums over particles; all that the M-step sees. `a + b` merges two sets of particles.

    Two halves of the particles are summed apart (axis `half`), for a Fourier shell correlation.
    """

    signal: ComplexArray  # (2, K, J) complex128, sum gamma R^-1 (w X)
    coverage: FloatArray  # (2, K, J) float64, sum gamma R^-1 w
    weight: FloatArray  # (2, K) sum gamma
    sq_residual: float  # sum gamma |R A - X|_w^2
    n_missing: float  # sum over particles of sum_j (1 - w_j)
    sq_shift: float  # sum gamma |t|^2
    n_particles: int
    log_likelihood: float

    def __add__(self, other: SufficientStatistics) -> SufficientStatistics:
        return SufficientStatistics(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def absorb(self, other: SufficientStatistics) -> SufficientStatistics:
        """Return `self + other`; the arrays of `self` hold the sums from now on."""
        for mine, theirs in (
            (self.signal, other.signal), (self.coverage, other.coverage),
            (self.weight, other.weight),
        ):
            mine += theirs
        return replace(
            self,
            **{f.name: getattr(self, f.name) + getattr(other, f.name)
               for f in fields(self) if f.name not in ("signal", "coverage", "weight")},
        )

    @staticmethod
    def zero(n_classes: int, samples: SampleSet) -> SufficientStatistics:
        """Return the statistics of no particle."""
        shape = (2, n_classes, len(samples))
        return SufficientStatistics(
            np.zeros(shape, dtype=np.complex128), np.zeros(shape), np.zeros((2, n_classes)),
            0.0, 0.0, 0.0, 0, 0.0,
        )


def accumulate(
    statistics: SufficientStatistics, observation: Observation, assignment: Assignment, half: int
) -> SufficientStatistics:
    """Add one particle to half 0 or 1: the arrays are updated in place, the new sums returned."""
    candidates, gamma = assignment.candidates, assignment.responsibility
    rotation, shift_xyz = candidates.transforms.rotation, candidates.transforms.shift_xyz
    for k in np.unique(candidates.class_index[gamma > 0]):
        m = np.flatnonzero((gamma > 0) & (candidates.class_index == k))
        observation.add_turned_back(
            rotation[m], shift_xyz[m], gamma[m], statistics.signal[half, k],
            statistics.coverage[half, k],
        )
        statistics.weight[half, k] += gamma[m].sum()
    wedge = observation.wedge
    residual = squared_residual(candidates, observation.power)
    squared_shift = np.sum(candidates.transforms.shift_xyz**2, axis=1)
    return replace(
        statistics,
        sq_residual=statistics.sq_residual + float(gamma @ residual),
        n_missing=statistics.n_missing + wedge.samples.n_total - wedge.n_observed,
        sq_shift=statistics.sq_shift + float(gamma @ squared_shift),
        n_particles=statistics.n_particles + 1,
        log_likelihood=statistics.log_likelihood + assignment.log_likelihood,
    )


# -------------------------------------------------------------------------------------- M-step
def imputed_average(
    signal: ComplexArray, coverage: FloatArray, weight: float, current: ComplexArray
) -> ComplexArray:
    """Return A_new at the samples (Eq. 10): what no particle measured keeps its current value."""
    new: ComplexArray = np.asarray((signal + (weight - coverage) * current) / weight)
    return new


def observed_average(
    signal: ComplexArray, coverage: FloatArray, weight: float, current: ComplexArray
) -> ComplexArray:
    """Return signal / coverage: the fixed point of Eq. 10, near 0 where nothing was measured.

    The coverage is floored at a twentieth of the class's weight, so that what leaks out of a wedge
    into a sample that no particle measured is not blown up.
    """
    return signal / np.maximum(coverage, SMALLEST_COVERAGE * weight + np.finfo(float).tiny)


AverageUpdate = Callable[[ComplexArray, FloatArray, float, ComplexArray], ComplexArray]


def volume_at_samples(values: ComplexArray, samples: SampleSet) -> FloatArray:
    """Return the average (n, n, n) float32 with the given samples, within the inscribed ball."""
    half = samples.put(np.asarray(values, dtype=np.complex64))
    volume = volume_from_spectrum(half, samples.n)
    volume *= inscribed_sphere(samples.n)
    return volume


def m_step(
    statistics: SufficientStatistics,
    state: ModelState,
    current: Sequence[ComplexArray],
    samples: SampleSet,
    update: AverageUpdate = imputed_average,
) -> ModelState:
    """Return the next Theta (Eq. 10-13) from the statistics of all particles.

    Parameters
    ----------
    statistics : SufficientStatistics
        Sums over all particles.
    state : ModelState
        The current Theta.
    current : K arrays (J,) complex
        The current averages at the samples.
    samples : SampleSet
    update : function
        Eq. 10, or its fixed point.

    A class whose weight fell below one particle keeps its average.
    """
    weight = statistics.weight.sum(axis=0)
    averages = state.averages.copy()
    signal, coverage = statistics.signal.sum(axis=0), statistics.coverage.sum(axis=0)
    for k in np.flatnonzero(weight >= 1.0):
        values = update(signal[k], coverage[k], float(weight[k]), current[k])
        averages[k] = volume_at_samples(values, samples)
    n_particles = statistics.n_particles
    n_total = n_particles * samples.n_total
    sigma_sq = (statistics.sq_residual + statistics.n_missing * state.sigma**2) / n_total  # Eq. 12
    zeta_sq = statistics.sq_shift / (3.0 * n_particles)  # Eq. 13
    return ModelState(
        averages,
        alpha=weight / n_particles,  # Eq. 11
        sigma=float(np.sqrt(max(sigma_sq, SMALLEST_VARIANCE))),
        # Shifts that are all 0 would forbid every other one for ever.
        zeta=float(np.sqrt(max(zeta_sq, SMALLEST_VARIANCE))),
        iteration=state.iteration + 1,
    )


def observed_averages(
    signal: ComplexArray, coverage: FloatArray, weight: FloatArray, samples: SampleSet
) -> FloatArray:
    """Return signal / coverage of every class as volumes, (K, n, n, n) float32."""
    return np.stack([
        volume_at_samples(observed_average(signal[k], coverage[k], float(weight[k]), signal[k]),
                          samples)
        for k in range(len(weight))
    ])


def half_averages(statistics: SufficientStatistics, samples: SampleSet) -> FloatArray:
    """Return the averages of both halves of the particles, (2, K, n, n, n) float32."""
    halves = zip(statistics.signal, statistics.coverage, statistics.weight, strict=True)
    return np.stack([observed_averages(*half, samples) for half in halves])
