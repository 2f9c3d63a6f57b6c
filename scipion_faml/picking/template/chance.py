"""How often chance reaches a score: maxima of the correlation with noise, over all poses.

Noise of unit variance, smooth over a space of D dimensions, has on average

    N(z) = V sqrt(det L) (2 pi)^(-(D + 1) / 2) He_(D-1)(z) exp(-z^2 / 2)

maxima above a high level z in a volume V, L being the covariance of its gradient and He Hermite's
polynomials (Adler 1981). Poses have D = 6: three shifts, three turns, V the voxels searched times
8 pi^2 / |G|. Of noise with the s.d. s a correlation coefficient c is z = sqrt(-log(1 - c^2)) / s,
which knows that c cannot exceed 1.

Either L and s come from template and tomogram (`analytic_chance`), or V sqrt(det L) and s are
fitted to the maxima of a template that is no structure (`chance_of_control`), which knows of
everything that is in the tomogram beside noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize
from scipy.spatial import cKDTree

from scipion_faml.fourier import frequencies, hermitian_multiplicity, spectrum
from scipion_faml.geometry import euler_to_matrix, random_rotations, rotation_from_vector
from scipion_faml.picking.peaks import robust_spread
from scipion_faml.picking.template.correlation import Template, piece_margins, prepare_piece
from scipion_faml.picking.template.filters import radial_power
from scipion_faml.picking.template.scan import View
from scipion_faml.types import BoolArray, ComplexArray, FloatArray
from scipion_faml.volume import crop_or_pad
from scipion_faml.wedge import MissingWedge

LOWEST = 3.4  # z: below it the formula does not fall with z
HIGHEST = 40.0
FEWEST_MAXIMA = 12  # of a control that tell its tail
TAIL = 0.5  # of a control's maxima are fitted, the highest
MAX_ROUNDS = 8
MARGIN = 1.5  # times a control's score: a structure scores that much higher, and more
N_ROTATIONS, N_BLOCKS, ROTATIONS_OF_BLOCK, SD_BLOCK = 8, 12, 3, 24  # looked at for L and s
SMALL_TURN = np.deg2rad(1.5)


def _tail(z: FloatArray) -> FloatArray:
    """He_5(z) exp(-z^2 / 2)."""
    z = np.asarray(z, dtype=np.float64)
    tail: FloatArray = (z**5 - 10.0 * z**3 + 15.0 * z) * np.exp(-0.5 * z**2)
    return tail


def _log_slope(z: FloatArray) -> FloatArray:
    """log of He_6(z) exp(-z^2 / 2), how fast the tail falls."""
    z = np.asarray(z, dtype=np.float64)
    polynomial = z**6 - 15.0 * z**4 + 45.0 * z**2 - 15.0
    slope: FloatArray = np.log(np.maximum(polynomial, 1e-300)) - 0.5 * z**2
    return slope


def unbounded(score: FloatArray) -> FloatArray:
    """Return sqrt(-log(1 - c^2)) of coefficients c, 0 for those below 0."""
    squared = np.clip(np.asarray(score, dtype=np.float64), 0.0, 1.0 - 1e-12) ** 2
    root: FloatArray = np.sqrt(-np.log1p(-squared))
    return root


@dataclass(frozen=True, eq=False)
class Chance:
    """Maxima that chance makes in the whole search."""

    sd: float  # s
    scale: float  # V sqrt(det L) (2 pi)^(-7 / 2)
    observed: FloatArray | None = None  # (M,) coefficients of a control, the highest first
    ratio: float = 1.0  # maxima of the control for each of the template

    def moved(self, sd: float, scale: float) -> Chance:
        """Return the chance of a template whose s and sqrt(det L) are these times larger."""
        return replace(
            self, sd=self.sd * sd, scale=self.scale * scale, ratio=self.ratio / scale)

    def expected(self, score: float) -> float:
        """Return how many maxima chance makes above a coefficient."""
        z = max(float(unbounded(np.array(score))) / self.sd, LOWEST)
        return float(self.scale * _tail(np.array(z)))

    def threshold(self, false_positives: float) -> float:
        """Return the coefficient that chance exceeds `false_positives` times.

        Where a control exceeds it oftener than that may happen, by three standard deviations, there
        is more than noise (another structure, membranes): it is raised to where it does not.
        """
        if self.scale * _tail(np.array(LOWEST)) <= false_positives:
            z = LOWEST
        else:
            z = float(optimize.brentq(
                lambda z: np.log(self.scale * max(float(_tail(np.array(z))), 1e-300)
                                 / false_positives), LOWEST, HIGHEST))
        by_formula = float(np.sqrt(-np.expm1(-((z * self.sd) ** 2))))
        most = int(np.ceil(self.ratio * (false_positives + 3.0 * np.sqrt(false_positives))))
        if self.observed is None or most >= len(self.observed):
            return by_formula
        return max(by_formula, float(np.nextafter(self.observed[most], 1.0)))


# --------------------------------------------------------------------------------- from a control
def chance_of_maxima(score: FloatArray, n_places: float) -> Chance:
    """Return the chance of which these scores are the highest at places apart from each other.

    Were every place to hold the highest of N(z) / n_places maxima, P(highest < z) would be
    exp(-N(z) / n_places): s and the scale of N are those of highest likelihood, given the upper
    half of the scores and that all other places lie below.

    Parameters
    ----------
    score : (M,)
    n_places : M or more: places whose score is not known are taken to lie below the half

    Raises
    ------
    ValueError
        If there are too few.
    """
    height = np.sort(unbounded(score))[::-1]
    n_tail = int(TAIL * len(height))
    if n_tail < FEWEST_MAXIMA:
        raise ValueError(
            f"{len(height)} maxima of the control are too few to tell what chance reaches: give "
            "--threshold, or --control none")
    above, lowest = height[:n_tail], float(height[n_tail])
    if not above[0] > lowest:
        raise ValueError("all maxima of the control are alike: give --threshold")
    n_below = max(n_places, len(height)) - n_tail

    def rate(sd: float) -> float:
        """Of N / n_places, the likeliest for a given s."""
        return n_tail / float(np.sum(_tail(above / sd)) + n_below * _tail(np.array(lowest / sd)))

    def unlikely(log_sd: float) -> float:
        sd = float(np.exp(log_sd))
        return float(n_tail * (log_sd - np.log(rate(sd))) - np.sum(_log_slope(above / sd)))

    # The tail must fall from the lowest score on.
    widest = np.log(lowest / LOWEST)
    best = optimize.minimize_scalar(
        unlikely, bounds=(widest - 2.0, widest), method="bounded", options={"xatol": 1e-6})
    sd = float(np.exp(best.x))
    return Chance(sd, rate(sd) * (n_below + n_tail), np.sort(score)[::-1])


def chance_of_control(
    score: FloatArray,
    position: FloatArray,
    found_score: FloatArray,
    found_position: FloatArray,
    distance: float,
    false_positives: float,
    n_places: float,
) -> Chance:
    """Return the chance that a control tells, away from what is found.

    A control with the power of the structure answers to the structure, too: its maxima within
    `distance` of what scores above the threshold, and `MARGIN` times higher than they, are left
    out, until that changes nothing. What answers to control and template nearly alike stays: it is
    another structure.

    Parameters
    ----------
    score (M,), position (M, 3) : of the control's maxima
    found_score, found_position : of the template's
    n_places : where the control has a maximum, whether its score is known or not
    """
    chance = chance_of_maxima(score, n_places)
    n_found = -1
    for _ in range(MAX_ROUNDS):
        is_found = found_score >= chance.threshold(false_positives)
        if int(is_found.sum()) == n_found:
            break
        n_found = int(is_found.sum())
        away = _away(
            position, score, found_position[is_found], found_score[is_found], distance)
        if TAIL * away.sum() < FEWEST_MAXIMA:
            break
        chance = chance_of_maxima(score[away], n_places - float((~away).sum()))
    return chance


def _away(
    position: FloatArray, score: FloatArray, found_position: FloatArray, found_score: FloatArray,
    distance: float,
) -> BoolArray:
    """Which maxima have nothing found within a distance that scores much higher."""
    is_away = np.ones(len(position), dtype=bool)
    if not len(found_position):
        return is_away
    for m, near in enumerate(cKDTree(found_position).query_ball_point(position, distance)):
        is_away[m] = not len(near) or found_score[near].max() < MARGIN * score[m]
    return is_away


# ---------------------------------------------------------------------- from template and tomogram
def analytic_chance(
    view: View, template: Template, wedge: MissingWedge, n_voxels: float, group_order: int
) -> Chance:
    """Return the chance of Gaussian noise with the tomogram's own spectrum.

    Parameters
    ----------
    n_voxels : that are searched
    group_order : of the template's symmetry
    """
    metric = root_of_metric(view, template, wedge)
    volume = n_voxels * 8.0 * np.pi**2 / group_order
    return Chance(score_sd(view, template), volume * metric * (2.0 * np.pi) ** -3.5)


def score_sd(view: View, template: Template) -> float:
    """Return the s.d. of a template's score where there is no particle, over some rotations."""
    rotation = _some_rotations()
    before, after = piece_margins(template.support)
    # Near a face part of the mask lies outside, and fewer voxels make a wider spread.
    lowest = np.full(3, before)
    highest = np.maximum(np.array(view.shape) - after - SD_BLOCK, lowest)
    corners = [np.clip(corner, lowest, highest) for corner in view.blocks()]
    chosen = np.unique(np.linspace(0, len(corners) - 1, N_BLOCKS).astype(np.intp))
    values = []
    for i in chosen:
        size = np.minimum(SD_BLOCK, np.array(view.shape) - before - after)
        shape = [int(s) for s in np.maximum(size, 1) + before + after]
        values_here = view.region([int(c) - before for c in corners[i]], shape)
        piece = prepare_piece(values_here, template, view.filtered_sd)
        for r in range(ROTATIONS_OF_BLOCK):
            score = piece.correlation(template, rotation[(i + r) % len(rotation)])
            values.append(score[score != 0])
    return max(robust_spread(np.concatenate(values))[1], 1e-6)


def _some_rotations() -> FloatArray:
    return euler_to_matrix(random_rotations(N_ROTATIONS, np.random.default_rng(0)))


def root_of_metric(view: View, template: Template, wedge: MissingWedge) -> float:
    """Return sqrt(det L), the mean over some rotations; gradients per voxel and per radian."""
    rotation = _some_rotations()
    n = template.n
    edge = (view.edge,) * 3
    blocks = (view.region(corner, edge) for corner in view.blocks())
    power = radial_power(blocks, wedge.mask(view.edge)).on((n, n, n)) * wedge.mask(n)
    weight = (power * hermitian_multiplicity(n)).astype(np.float64).ravel()
    axes = [np.broadcast_to(k, power.shape).ravel() * (2.0 * np.pi / n) for k in frequencies(n)]
    turns = rotation_from_vector(SMALL_TURN * np.eye(3))

    def half(matrix: FloatArray) -> ComplexArray:
        mask = template.turned_mask(matrix)
        return spectrum(crop_or_pad(template.standardised(matrix, mask), (n, n, n))).ravel()

    roots = []
    for matrix in rotation:
        here = half(matrix)
        gradients = [1j * k * here for k in axes]
        gradients += [(half(t @ matrix) - half(t.T @ matrix)) / (2 * SMALL_TURN) for t in turns]
        unit = float(np.sum(weight * np.abs(here) ** 2))
        along = [float(np.sum(weight * (g * here.conj()).real)) / unit for g in gradients]
        across = [g - a * here for g, a in zip(gradients, along, strict=True)]
        covariance = np.array(
            [[float(np.sum(weight * (g * h.conj()).real)) / unit for h in across] for g in across])
        roots.append(np.sqrt(max(float(np.linalg.det(covariance)), 0.0)))
    return float(np.mean(roots))
