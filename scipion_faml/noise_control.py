"""Particles whose phases are random: what a method makes of them comes from the method.

Every particle keeps the amplitudes of its own Fourier samples, so its power spectrum, missing wedge
and CTF zeros stay, but holds no structure. An average with features that comes out of such
particles was made by the alignment, the start, a reference or a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scipion_faml.evaluation.fsc import randomise_phases
from scipion_faml.evaluation.similarity import similarity
from scipion_faml.sources import Particle, SourceView
from scipion_faml.types import FloatArray

SEED_STREAM = 11  # apart from the draws of a run with the same seed
ALIKE = 0.3  # correlation, radial mean left out, from which a control's average is the run's
COMPARABLE = 0.1  # of the run's evidence, from which a control's counts as a structure
NEARLY_AS_FINE = 1.3  # resolutions of control and run whose ratio is below do not differ


@dataclass(frozen=True, eq=False)
class PhaseRandomised(SourceView):
    """Particles of a source with random phases and their own amplitudes."""

    seed: int = 0

    def __getitem__(self, index: int) -> Particle:
        particle = self.source[index]
        rng = np.random.default_rng([self.seed, SEED_STREAM, index])
        volume = randomise_phases(particle.volume, 1, rng)
        return Particle(index, volume.astype(np.float32), particle.wedge)


@dataclass(frozen=True, eq=False)
class LikeAverage:
    """A control's average and the run's average that it resembles most."""

    control: int
    original: int
    cc_masked: float
    cc_no_radial: float


def most_alike(controls: FloatArray, originals: FloatArray) -> list[LikeAverage]:
    """Return for every control's average (K, n, n, n) the most similar one of a run (L, n, n, n).

    Maps are superposed first; numbers count from 1.
    """
    found = []
    for k, control in enumerate(controls, 1):
        fits = [similarity(control, original) for original in originals]
        best = int(np.argmax([fit.correlation_without_radial_mean for fit in fits]))
        found.append(LikeAverage(k, best + 1, fits[best].masked_correlation,
                                 fits[best].correlation_without_radial_mean))
    return found


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a noise control says of a run."""

    is_from_noise: bool  # a structure appeared from nothing
    reasons: Sequence[str]

    @property
    def text(self) -> str:
        """One line."""
        if not self.is_from_noise:
            return "phase-randomised particles make no structure like the run's"
        return "phase-randomised particles make a structure: " + "; ".join(self.reasons)


def verdict(
    evidence: float | None, original_evidence: float | None, resolution_angst: float,
    original_resolution_angst: float, alike: Sequence[LikeAverage],
) -> Verdict:
    """Return what a control says.

    In enhanced mode noise supports an average, if at all, by far less than structure does; in paper
    mode the resolutions of the halves are compared, as nothing better is there.

    Parameters
    ----------
    evidence, original_evidence : mean log evidence of particles against noise, of the control and
        of the run; None: none was computed
    resolution_angst, original_resolution_angst : of the halves (FSC 0.143); NaN: they agree in
        nothing
    alike : the control's averages and those of the run
    """
    reasons = []
    has_resolution = bool(np.isfinite(resolution_angst))
    if evidence is not None and has_resolution and (
            evidence > max(COMPARABLE * (original_evidence or 0.0), 0.0)):
        reasons.append(f"its particles support an average by a log evidence of {evidence:.2f} "
                       f"each, the run's by {original_evidence or 0.0:.2f}")
    elif evidence is None and has_resolution and (
            not np.isfinite(original_resolution_angst)
            or resolution_angst < NEARLY_AS_FINE * original_resolution_angst):
        reasons.append(f"its halves agree to {resolution_angst:.1f} A, the run's to "
                       f"{original_resolution_angst:.1f} A: that resolution is no evidence")
    reasons += [
        f"its average {one.control} correlates with the run's average {one.original} by "
        f"{one.cc_no_radial:.2f}: a reference, a mask or the missing wedge makes it"
        for one in alike if one.cc_no_radial >= ALIKE]
    return Verdict(bool(reasons), reasons)
