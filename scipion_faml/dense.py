"""The whole integral over poses at low bandwidth, in spherical harmonics.

Where posteriors are broad, no set of fifty candidates carries them. But on shells the
log-likelihood of every rotation at once is one inverse Fourier transform on SO(3) for each shift,
and the sum of a particle turned back by every rotation, each with its posterior, is a product of
the particle's coefficients with the posterior's, one forward transform: E- and M-step without
turning a volume. The sum over the grid replaces Eq. 4; Voronoi volumes become quadrature weights.

Poses are those of `geometry` with the shift on the side of the average: X = R T_t A, so that the
shifted averages' coefficients are shared by all particles. A shift t here is R t there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
from scipy.interpolate import CubicSpline

from scipion_faml.align import IDENTITY, gather
from scipion_faml.cython_ext import _posterior
from scipion_faml.fourier import SampleSet
from scipion_faml.geometry import RigidTransforms, apart, euler_to_matrix
from scipion_faml.harmonics import legendre_table
from scipion_faml.shells import ShellSampling, shell_sampling
from scipion_faml.so3 import RotationGrid, rotation_grid
from scipion_faml.types import ComplexArray, FloatArray, IntArray

MAX_CACHED_WEDGES = 32
ALL = slice(None)
# Poses this far below the best (log units) are left out: e^-18 times 10^6 poses is still nothing.
NEGLIGIBLE = 18.0
SMALLEST_CELL, MAX_CELLS = 1e-3, 200  # of the highest share: cells that may be peaks
SHIFT_BLOCK = 16  # shifts whose posteriors are computed together: they fit a core's cache
SMALLEST_SHIFT_SHARE = 1e-5  # of a particle's posterior: shifts below take no part in the M-step


def shift_lattice(step: float, max_shift: float) -> FloatArray:
    """Return shifts (T, 3) on a cubic lattice of `step` within a ball of `max_shift` voxels."""
    reach = int(max_shift / step + 1e-9)
    axis = np.arange(-reach, reach + 1) * step
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    shifts = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    inside: FloatArray = shifts[np.sum(shifts**2, axis=1) <= max_shift**2 + 1e-6]
    return inside


@dataclass(frozen=True, eq=False)
class DensePlan:
    """Shells, rotations and shifts of a dense E-step. Build it with `dense_plan`."""

    n: int
    sampling: ShellSampling
    grid: RotationGrid
    shift_xyz: FloatArray  # (T, 3) voxels, of the average before it is turned
    shift_step: float  # voxels
    phase: ComplexArray  # (T, n_shells, rings, points) complex64, exp(-2 pi i k t / n)
    _wedges: dict[TurnableWedge, ComplexArray] = field(default_factory=dict)

    @property
    def bandwidth(self) -> int:
        """Degrees below it are kept."""
        return self.grid.bandwidth

    @property
    def n_poses(self) -> int:
        """Rotations times shifts."""
        return len(self.grid) * len(self.shift_xyz)

    def at_points(self, turnable: ComplexArray) -> ComplexArray:
        """Return a turnable spectrum at the points of the shells, (n_shells, rings, points)."""
        return gather(turnable, self.sampling.axes, IDENTITY).reshape(self.sampling.shape)

    def wedge_coefficients(self, wedge: TurnableWedge) -> ComplexArray:
        """Return the coefficients of w, (n_shells, l, m); particles that share w share them."""
        known = self._wedges.get(wedge)
        if known is not None:
            return known
        turnable = np.asarray(wedge.turnable, dtype=np.complex64)  # a wedge's spectrum is real
        coefficients = self.sampling.analyse(self.at_points(turnable))
        if len(self._wedges) < MAX_CACHED_WEDGES:
            self._wedges[wedge] = coefficients
        return coefficients

    def log_prior(self, zeta: float) -> FloatArray:
        """Return log of the share of each pose under a Gaussian of shifts, (n_beta, T) float32."""
        shift = -np.sum(self.shift_xyz**2, axis=1) / (2.0 * zeta**2)
        shift -= np.log(np.exp(shift).sum())
        prior: FloatArray = (np.log(self.grid.weight)[:, None] + shift).astype(np.float32)
        return prior

    def poses(self, index: tuple[IntArray, ...]) -> RigidTransforms:
        """Return the poses at grid positions (alpha, gamma, beta, shift)."""
        a, g, b, t = index
        euler_zyz = np.stack([self.grid.alpha[a], self.grid.beta[b], self.grid.gamma[g]], axis=-1)
        rotation = euler_to_matrix(euler_zyz)
        return RigidTransforms(euler_zyz, np.einsum("mij,mj->mi", rotation, self.shift_xyz[t]))

    def to_samples(self, values: ComplexArray, samples: SampleSet) -> ComplexArray:
        """Return a spectrum on the shells' points at the Fourier samples of a box, (J,) complex64.

        Its harmonics are interpolated along the radius and evaluated at the samples; beyond the
        shells it is 0.
        """
        table = _sample_table(self.sampling, samples)
        out = np.zeros(len(samples), dtype=np.complex64)
        out[table.inside] = table.evaluate(self.sampling.analyse(values))
        return out


@lru_cache(maxsize=4)
def dense_plan(
    n: int, radius: int, bandwidth: int, max_shift: float, shift_step: float
) -> DensePlan:
    """Return the plan for a box of n, shells 1..radius, and shifts up to `max_shift` voxels."""
    sampling, grid = shell_sampling(bandwidth, radius), rotation_grid(bandwidth)
    shifts = shift_lattice(shift_step, max_shift)
    angle = (-2 * np.pi / n) * (shifts @ sampling.axes.astype(np.float64))
    phase = np.exp(1j * angle).astype(np.complex64).reshape(len(shifts), *sampling.shape)
    return DensePlan(n, sampling, grid, shifts, shift_step, phase)


# ------------------------------------------------------------------------ from shells to samples
@dataclass(frozen=True, eq=False)
class SampleTable:
    """From harmonics on shells to samples between them. Build it with `_sample_table`."""

    inside: IntArray  # (P,) samples within the shells
    length: IntArray  # (P,) index of their |k| among the different ones
    radial: FloatArray  # (3, n_lengths, n_shells): interpolation for l = 0, odd and even l
    real: FloatArray  # (P, n_lm) float32, Re Y_lm, twice for m > 0
    imaginary: FloatArray  # (P, n_lm) float32
    degree: IntArray  # (n_lm,)
    order: IntArray  # (n_lm,)

    def evaluate(self, coefficients: ComplexArray) -> ComplexArray:
        """Return the spectrum at the samples inside, (P,), of Z (n_shells, l, m)."""
        packed = coefficients[:, self.degree, self.order]
        kind = np.where(self.degree == 0, 0, 2 - self.degree % 2)
        between = np.empty((self.radial.shape[1], packed.shape[1]), dtype=np.complex64)
        for which, matrix in enumerate(self.radial):
            between[:, kind == which] = matrix @ packed[:, kind == which]
        terms = self.real * between.real[self.length]
        terms -= self.imaginary * between.imag[self.length]
        # F_lm = i^l Z_lm: even degrees are real, odd ones imaginary.
        terms *= np.array([1.0, 1.0, -1.0, -1.0], dtype=np.float32)[self.degree % 4]
        is_odd = self.degree % 2 == 1
        values: ComplexArray = terms[:, ~is_odd].sum(axis=1) + 1j * terms[:, is_odd].sum(axis=1)
        return values


@lru_cache(maxsize=4)
def _sample_table(sampling: ShellSampling, samples: SampleSet) -> SampleTable:
    """Tables for the samples with |k| up to the last shell."""
    k = samples.frequency_xyz.astype(np.float64)
    squared = np.rint(np.sum(k**2, axis=1)).astype(np.intp)
    inside = np.flatnonzero(squared <= sampling.n_shells**2)
    different, length = np.unique(squared[inside], return_inverse=True)
    radius = np.sqrt(different)
    # F(-k) = conj F(k): through the origin degree l goes on as (-1)^l times itself, and only
    # l = 0 has a value there, which no shell holds.
    shells = np.arange(1, sampling.n_shells + 1)
    knots = np.concatenate([-shells[::-1], [0], shells])
    unit, zero = np.eye(sampling.n_shells), np.zeros((1, sampling.n_shells))
    radial = []
    for sign, at in ((1, knots != 0), (-1, slice(None)), (1, slice(None))):
        rows = np.concatenate([sign * unit[::-1], zero, unit])
        radial.append(CubicSpline(knots[at], rows[at])(radius))
    degree, order = np.tril_indices(sampling.bandwidth)
    direction = k[inside] / radius[length][:, None]
    cosines, which = np.unique(direction[:, 2], return_inverse=True)
    table = legendre_table(sampling.bandwidth, np.clip(cosines, -1.0, 1.0))
    ring = np.where(order > 0, 2.0, 1.0) * table[degree, order].T[which]
    azimuth = np.arctan2(direction[:, 1], direction[:, 0])[:, None] * order
    return SampleTable(
        inside, length, np.stack(radial).astype(np.float32),
        (ring * np.cos(azimuth)).astype(np.float32), (ring * np.sin(azimuth)).astype(np.float32),
        degree, order,
    )


# ------------------------------------------------------------------- the two sides of a product
def _rows(coefficients: ComplexArray) -> list[FloatArray]:
    """Left factors of sum_r p_lm conj(q_lm'), for each l (2 (l + 1), 2 n_shells) float32.

    Rows are m with real and imaginary part of the product, columns real and imaginary part of p.
    """
    blocks = []
    for l in range(coefficients.shape[1]):
        p = coefficients[:, l, : l + 1].T
        real = np.concatenate([p.real, p.imag], axis=1)
        imaginary = np.concatenate([p.imag, -p.real], axis=1)
        block = np.stack([real, imaginary], axis=1).reshape(2 * (l + 1), -1)
        blocks.append(np.ascontiguousarray(block, dtype=np.float32))
    return blocks


def _columns(coefficients: ComplexArray, shell_weight: FloatArray) -> list[FloatArray]:
    """Right factors, for each l (2 n_shells, (2l + 1), T) float32, of coefficients (T, S, l, m)."""
    blocks = []
    weighted = coefficients * shell_weight[:, None, None]
    for l in range(coefficients.shape[2]):
        positive = weighted[:, :, l, : l + 1]
        sign = (-1.0) ** np.arange(l, 0, -1)
        full = np.concatenate([positive[:, :, :0:-1].conj() * sign, positive], axis=2)
        full = full.transpose(1, 2, 0)
        blocks.append(np.concatenate([full.real, full.imag], axis=0).astype(np.float32))
    return blocks


def correlate(
    rows: Sequence[FloatArray], columns: Sequence[FloatArray], grid: RotationGrid
) -> FloatArray:
    """Return the correlation on all rotations for T functions, (alpha, gamma, beta, T) float32."""
    b, n_columns = grid.bandwidth, columns[0].shape[-1]
    product = np.zeros((b, 2, 2 * b - 1, b, n_columns), dtype=np.float32)
    for l, (left, right) in enumerate(zip(rows, columns, strict=True)):
        block = left @ right.reshape(len(right), -1)
        product[: l + 1, :, b - 1 - l : b + l, l] = block.reshape(l + 1, 2, 2 * l + 1, n_columns)
    return grid.inverse(product)


class TurnableWedge(Protocol):
    """What the integral needs of a wedge; equal wedges are one object."""

    @property
    def turnable(self) -> ComplexArray | FloatArray: ...


class TurnableParticle(Protocol):
    """What the integral needs of a particle."""

    @property
    def index(self) -> int: ...
    @property
    def turnable(self) -> ComplexArray: ...
    @property
    def wedge(self) -> TurnableWedge: ...


@dataclass(frozen=True, eq=False)
class DenseParticle:
    """One particle's coefficients: they never change. Build it with `dense_particle`."""

    index: int
    wedge: TurnableWedge
    rows: list[FloatArray]  # of the coefficients of w X (`_rows`)


def dense_particle(measured: TurnableParticle, plan: DensePlan) -> DenseParticle:
    """Return the coefficients of a particle."""
    coefficients = plan.sampling.analyse(plan.at_points(measured.turnable))
    return DenseParticle(measured.index, measured.wedge, _rows(coefficients))


@dataclass(frozen=True, eq=False)
class DenseReference:
    """One average for all shifts, weighted by the noise. Build it with `dense_reference`."""

    plan: DensePlan
    columns: list[FloatArray]  # of A, for every shift
    power_columns: list[FloatArray]  # of |A|^2
    _norms: dict[TurnableWedge, FloatArray] = field(default_factory=dict)

    def half_power(self, wedge: TurnableWedge) -> FloatArray:
        """Return sum_j w_j |R A|_j^2 / (2 sigma_j^2) on all rotations, (alpha, gamma, beta)."""
        known = self._norms.get(wedge)
        if known is not None:
            return known
        rows = _rows(self.plan.wedge_coefficients(wedge))
        norm = 0.5 * correlate(rows, self.power_columns, self.plan.grid)[..., 0]
        if len(self._norms) < MAX_CACHED_WEDGES:
            self._norms[wedge] = norm
        return norm


def dense_reference(turnable: ComplexArray, noise: FloatArray, plan: DensePlan) -> DenseReference:
    """Return the reference of an average's turnable spectrum and noise variances (n_shells,)."""
    values = plan.at_points(turnable)
    weight = (plan.sampling.radius**2 / noise).astype(np.float32)
    shifted = plan.sampling.analyse(values * plan.phase)
    power = plan.sampling.analyse((np.abs(values) ** 2).astype(np.complex64)[None])
    return DenseReference(plan, _columns(shifted, weight), _columns(power, weight))


# -------------------------------------------------------------------------------------- E-step
@dataclass(frozen=True, eq=False)
class ShiftBlock:
    """The posterior of one class over all rotations and a few shifts, not yet normalised."""

    shifts: IntArray  # (t,) into the plan's
    share: FloatArray  # (alpha, gamma, beta, t) float32
    mass: FloatArray  # (t,) sums over rotations


@dataclass(frozen=True, eq=False)
class DensePosterior:
    """The posterior of one particle over all rotations and the shifts that matter."""

    evidence: float  # log of the likelihood ratio to pure noise, integrated over classes and poses
    n_effective: float  # how many poses share the posterior: 1 / sum of its squares
    class_weight: FloatArray  # (K,)
    blocks: list[list[ShiftBlock]]  # for each class
    scale: float  # shares times it are the posterior
    best_class: int
    best_pose: RigidTransforms  # on the grid


def log_likelihood(
    particle: DenseParticle, reference: DenseReference, shifts: IntArray | slice = ALL
) -> FloatArray:
    """Return the log-likelihood ratio to pure noise of every pose, (alpha, gamma, beta, t).

    sum_j w_j (Re X_j conj(M_j) - |M_j|^2 / 2) / sigma_j^2 with M = R T_t A: Eq. 15 up to what no
    pose changes.
    """
    result = _cross(particle, reference, shifts)
    result -= reference.half_power(particle.wedge)[..., None]
    return result


def _cross(
    particle: DenseParticle, reference: DenseReference, shifts: IntArray | slice
) -> FloatArray:
    """sum_j w_j Re X_j conj(M_j) / sigma_j^2 of every pose."""
    columns = [block[..., shifts] for block in reference.columns]
    return correlate(particle.rows, columns, reference.plan.grid)


def cross_terms(
    particle: DenseParticle, reference: DenseReference, shifts: IntArray | None = None
) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield some shifts (t,) and sum_j w_j Re X_j conj(M_j) / sigma_j^2 of them, (rotations, t)."""
    plan = reference.plan
    looked_at = np.arange(len(plan.shift_xyz)) if shifts is None else shifts
    for start in range(0, len(looked_at), SHIFT_BLOCK):
        block = looked_at[start : start + SHIFT_BLOCK]
        yield block, _cross(particle, reference, block).reshape(len(plan.grid), len(block))


def dense_posterior(
    particle: DenseParticle,
    references: Sequence[DenseReference],
    log_alpha: FloatArray,
    log_prior: FloatArray,
    shifts: IntArray | None = None,
) -> DensePosterior:
    """Return the posterior of one particle over classes, all rotations and shifts.

    Parameters
    ----------
    log_alpha : (K,) logarithm of the class priors
    log_prior : (n_beta, T) `DensePlan.log_prior`
    shifts : indices of the shifts to look at (all)
    """
    plan = references[0].plan
    highest, best = -np.inf, (0, 0, 0)
    found: list[tuple[int, IntArray, FloatArray, FloatArray]] = []
    for k, reference in enumerate(references):
        norm = reference.half_power(particle.wedge).ravel()
        for block, joint in cross_terms(particle, reference, shifts):
            peak = np.empty(len(block), dtype=np.float32)
            prior = np.ascontiguousarray(log_prior[:, block])
            _posterior.add_prior(joint, norm, prior, float(log_alpha[k]), peak)
            top = int(peak.argmax())
            if peak[top] > highest:
                highest = float(peak[top])
                best = (k, int(block[top]), int(joint[:, top].argmax()))
            if peak[top] > highest - NEGLIGIBLE:
                found.append((k, block, joint, peak))
    total = squared = 0.0
    weight = np.zeros(len(references))
    blocks: list[list[ShiftBlock]] = []
    for k in range(len(references)):
        mine = [(b, j, np.flatnonzero(p > highest - NEGLIGIBLE)) for c, b, j, p in found if c == k]
        blocks.append([])
        for shifts_kept, joint in _merged(mine):
            joint -= np.float32(highest)
            share = np.exp(joint, out=joint)
            mass = np.ones(len(share), dtype=np.float32) @ share
            squared += float(np.vdot(share, share))
            weight[k] += mass.sum(dtype=np.float64)
            blocks[k].append(ShiftBlock(shifts_kept, share.reshape(*plan.grid.shape, -1), mass))
    total = float(weight.sum())
    k, t, flat = best
    where = (*np.unravel_index(flat, plan.grid.shape), t)
    return DensePosterior(
        highest + float(np.log(total)), total**2 / squared, weight / total,
        [_without_negligible(b, SMALLEST_SHIFT_SHARE * total) for b in blocks], 1.0 / total,
        k, plan.poses(tuple(np.array([w]) for w in where)),
    )


def _merged(
    parts: Sequence[tuple[IntArray, FloatArray, IntArray]]
) -> Iterator[tuple[IntArray, FloatArray]]:
    """Blocks of full width from the kept columns of many: (shifts, values)."""
    waiting: list[tuple[IntArray, FloatArray]] = []
    n_waiting = 0
    for shifts, values, kept in parts:
        if not len(kept):
            continue
        if len(kept) == SHIFT_BLOCK:
            yield shifts, values
            continue
        if n_waiting + len(kept) > SHIFT_BLOCK:
            yield _joined(waiting)
            waiting, n_waiting = [], 0
        waiting.append((shifts[kept], values[:, kept]))
        n_waiting += len(kept)
    if waiting:
        yield _joined(waiting)


def _joined(parts: Sequence[tuple[IntArray, FloatArray]]) -> tuple[IntArray, FloatArray]:
    values = np.ascontiguousarray(np.concatenate([v for _, v in parts], axis=1))
    return np.concatenate([s for s, _ in parts]), values


def _without_negligible(blocks: Sequence[ShiftBlock], smallest: float) -> list[ShiftBlock]:
    """Blocks without the shifts whose posterior is nothing."""
    out = []
    for block in blocks:
        kept = np.flatnonzero(block.mass > smallest)
        if len(kept) == len(block.mass):
            out.append(block)
        elif len(kept):
            share = np.ascontiguousarray(block.share[..., kept])
            out.append(ShiftBlock(block.shifts[kept], share, block.mass[kept]))
    return out


def highest_poses(
    blocks: Sequence[ShiftBlock], plan: DensePlan, n_best: int
) -> RigidTransforms:
    """Return the grid poses of a class's highest shares that are apart from each other.

    Two cells of the grid are one peak when they are neighbours in rotation and shift.
    """
    if not blocks:
        return RigidTransforms.identity(0)
    top = max(float(b.share.max()) for b in blocks)
    index, share = [], []
    for block in blocks:
        where = np.nonzero(block.share > SMALLEST_CELL * top)
        share.append(block.share[where])
        index.append(np.stack([*where[:3], block.shifts[where[3]]]))
    joined, height = np.concatenate(index, axis=1), np.concatenate(share)
    if len(height) > MAX_CELLS:  # the highest, in the order of the grid
        low = np.partition(height, len(height) - MAX_CELLS)[len(height) - MAX_CELLS]
        joined, height = joined[:, height >= low], height[height >= low]
    order = np.argsort(-height, kind="stable")[:MAX_CELLS]
    poses = plan.poses(tuple(joined[:, order]))
    own_shift = plan.shift_xyz[joined[3, order]]
    two_steps = 2.2 * 180.0 / plan.bandwidth, 2.0 * plan.shift_step
    kept = apart(poses.rotation, own_shift, *two_steps, n_best)
    return poses[kept]


# -------------------------------------------------------------------------------------- M-step
@dataclass(frozen=True, eq=False)
class DenseSums:
    """Posterior-weighted sums of one class in harmonic space: `zero`, then `add` particles."""

    plan: DensePlan
    signal: list[FloatArray]  # for each l (2 n_shells, 2l + 1, T) float32: re, im; m' from -l
    rotations: dict[TurnableWedge, FloatArray]  # posterior over rotations of particles that share w

    @staticmethod
    def zero(plan: DensePlan) -> DenseSums:
        """Return the sums of no particle."""
        return DenseSums(plan, _zero_sums(plan, len(plan.shift_xyz)), {})

    def add(
        self, particle: DenseParticle, blocks: Sequence[ShiftBlock], scale: float = 1.0
    ) -> None:
        """Add a particle with its posterior, the blocks' shares times `scale`, in place."""
        for block in blocks:
            turned = self.plan.grid.forward(block.share)
            _add_turned_back(self.signal, particle.rows, turned, block.shifts, scale)
            marginal = block.share @ np.full(len(block.shifts), scale, dtype=np.float32)
            known = self.rotations.get(particle.wedge)
            self.rotations[particle.wedge] = marginal if known is None else known + marginal

    def at_points(self) -> tuple[ComplexArray, ComplexArray]:
        """Return sum gamma R^-1 (w X) and sum gamma R^-1 w at the shells' points."""
        plan, sampling = self.plan, self.plan.sampling
        coverage = _zero_sums(plan, 1)
        for wedge, marginal in self.rotations.items():
            turned = plan.grid.forward(marginal[..., None])
            _add_turned_back(coverage, _rows(plan.wedge_coefficients(wedge)), turned, ALL, 1.0)
        moved = sampling.synthesise(_both_signs(self.signal)) * plan.phase.conj()
        return moved.sum(axis=0), sampling.synthesise(_both_signs(coverage))[0]


def _zero_sums(plan: DensePlan, n_columns: int) -> list[FloatArray]:
    n_rows = 2 * plan.sampling.n_shells
    return [np.zeros((n_rows, 2 * l + 1, n_columns), np.float32) for l in range(plan.bandwidth)]


def _add_turned_back(
    sums: list[FloatArray], rows: Sequence[FloatArray], turned: FloatArray,
    shifts: IntArray | slice, scale: float,
) -> None:
    """Add scale sum_m X_lm Q^l_mm' over m >= 0 (m = 0 halved), to the sums over l.

    `rows` are the left factors of a correlation: transposed, they are those of its adjoint.
    """
    b, n_columns = turned.shape[0], turned.shape[-1]
    for l, (block, left) in enumerate(zip(sums, rows, strict=True)):
        part = turned[: l + 1, :, b - 1 - l : b + l, l].reshape(2 * (l + 1), -1)
        product = (left.T @ part).reshape(-1, 2 * l + 1, n_columns)
        block[..., shifts] += np.float32(scale) * product


def _both_signs(sums: list[FloatArray]) -> ComplexArray:
    """Coefficients (T, S, l, m >= 0) of sums over m >= 0: m < 0 gives their mirrored conjugates."""
    bandwidth, n_shells, n_columns = len(sums), len(sums[0]) // 2, sums[0].shape[2]
    out = np.zeros((n_columns, n_shells, bandwidth, bandwidth), dtype=np.complex64)
    for l, block in enumerate(sums):
        values = block[:n_shells] + 1j * block[n_shells:]
        sign = ((-1.0) ** np.arange(l + 1))[:, None]
        whole = values[:, l:] + sign * values[:, l::-1].conj()
        out[:, :, l, : l + 1] = np.moveaxis(whole, -1, 0)
    return out
