"""Enhanced mode: expectation-maximisation over all poses, regularised, at growing resolution.

Where Algorithm 1 of the paper takes fifty candidates of a magnitude score from the first iteration,
at full resolution, with one noise variance, this one

1. integrates over all rotations and shifts at low bandwidth while posteriors are broad (`dense`),
2. climbs to the few maxima that are left once they are sharp (`refine`),
3. compares each particle with an average of other particles only: particles are divided into
   folds, and every fold has references made without it,
4. weights shells by their own noise, and regularises averages by their own reliability
   (`regularise`), which also decides how far in resolution to look next.

    for result in run(source, FamlConfig(mode="enhanced", n_classes=2), ThreadExecutor(2)):
        print(result.state.iteration, result.log_likelihood)

Its modules, each of which uses those before it only: `state`, `whitened`, `store`, `workbench`,
`references`, `estep`, `mstep`, `start`, `population`, `sampling`, `symmetry_search`, `run`,
`validation`.
"""

from scipion_faml.enhanced.run import initial_state, iterate, run
from scipion_faml.enhanced.start import state_from_references
from scipion_faml.enhanced.state import FOCUSED_BELOW, EnhancedState, PeakTable
from scipion_faml.enhanced.validation import validated_fsc
from scipion_faml.enhanced.workbench import Workbench

__all__ = [
    "FOCUSED_BELOW", "EnhancedState", "PeakTable", "Workbench", "initial_state", "iterate",
    "run", "state_from_references", "validated_fsc",
]
