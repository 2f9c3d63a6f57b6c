"""Is there structure in what paper mode found? Particles against averages that do not hold them.

In paper mode every particle is compared with references that hold it, so that halves of pure noise
agree, too, and likelihoods grow. Here the particles of each half are compared once more with the
averages of the other half; and so are copies with random phases, which have the same power
spectrum and missing wedge and no structure. Both meet the same references, whatever made them: a
start, a mask or a map given. Where particles fit no better than their copies, there is no
structure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipion_faml import faml
from scipion_faml.align import Observation, Reference
from scipion_faml.em import SMALLEST_PRIOR, assign, propose, search_of, soft_posterior
from scipion_faml.estep import Assignments, Geometry
from scipion_faml.execution import Executor, SerialExecutor
from scipion_faml.impose import masked
from scipion_faml.model import FamlConfig, ModelState
from scipion_faml.noise_control import PhaseRandomised
from scipion_faml.phase import PhaseSearch
from scipion_faml.sources import SubtomogramSource
from scipion_faml.types import FloatArray, IntArray

MOST_PARTICLES = 256  # looked at: more tell nothing new
COPIES = (1009, 2003, 3001)  # seeds of the copies of a particle, with random phases
# Standard errors. Of noise 2.6 were reached (40 runs of 8 to 120 particles in 1 to 5 classes), of
# structure 13 at least (8 particles of SNR 0.2).
MIN_Z = 5.0


@dataclass(frozen=True, eq=False)
class StructureCheck:
    """How much better particles fit the other half's averages than their copies do."""

    gain: float  # mean of the log-likelihoods' differences
    z: float  # in standard errors
    n_particles: int

    @property
    def is_found(self) -> bool:
        """Whether there is structure, by more than chance."""
        return self.z > MIN_Z

    @staticmethod
    def of(gains: FloatArray) -> StructureCheck:
        """The mean of the particles' gains (N,) and its error, particles taken as independent."""
        if len(gains) < 2:
            return StructureCheck(0.0, 0.0, len(gains))
        error = float(gains.std(ddof=1)) / np.sqrt(len(gains)) + 1e-9
        return StructureCheck(float(gains.mean()), float(gains.mean()) / error, len(gains))


def structure_check(
    source: SubtomogramSource, state: ModelState, assignments: Assignments, config: FamlConfig,
    executor: Executor | None = None, mask: FloatArray | None = None,
) -> StructureCheck:
    """Compare particles, and copies of random phases, with the averages of the other half.

    The halves alternate within each class. All particles are averaged by the executor; some are
    compared, in this process.
    """
    executor, classes = executor or SerialExecutor(), assignments.class_index
    half = faml.alternating_halves(classes)
    averages = faml.average_known(
        source, classes, assignments.poses, config, executor, half=half)[1]
    if mask is not None:
        averages = np.stack([[masked(a, mask) for a in half] for half in averages])
    geometry = Geometry.of(source, config, cache_bytes=0)
    halves = [_Half.of(averages[h], classes[half == h], state, config, geometry)
              for h in range(2)]
    views = [source, *(PhaseRandomised(source, config.seed + seed) for seed in COPIES)]

    def gain(index: int) -> float:
        others = halves[1 - half[index]]
        fits = [others.fit(geometry.observe(view, index)) for view in views]
        return fits[0] - float(np.mean(fits[1:]))

    if not all(half.references for half in halves):
        return StructureCheck.of(np.empty(0))
    indices = range(0, len(source), -(-len(source) // MOST_PARTICLES))
    return StructureCheck.of(np.array(list(executor.map(gain, indices))))


@dataclass(frozen=True, eq=False)
class _Half:
    """The averages of one half, of the classes that it has particles in."""

    references: list[Reference]
    state: ModelState  # of these classes
    config: FamlConfig
    search: PhaseSearch | None

    @staticmethod
    def of(
        averages: FloatArray, class_index: IntArray, state: ModelState, config: FamlConfig,
        geometry: Geometry,
    ) -> _Half:
        """Prepare the averages (K, n, n, n) of particles in some classes."""
        kept = np.unique(class_index)
        references = geometry.references(averages[kept])
        search = search_of(config, geometry.samples)
        if search is not None:  # before the workers: they share it
            for reference in references:
                search.dense(reference)
        alpha = np.maximum(state.alpha[kept], SMALLEST_PRIOR)
        mine = ModelState(averages[kept], alpha / alpha.sum(), state.sigma, state.zeta)
        return _Half(references, mine, config, search)

    def fit(self, observation: Observation) -> float:
        """The log-likelihood of a particle, up to what does not depend on its phases."""
        found = propose(observation, self.references, self.config, self.search)
        return assign(observation, found, self.state, soft_posterior,
                      self.config.min_responsibility).log_likelihood
