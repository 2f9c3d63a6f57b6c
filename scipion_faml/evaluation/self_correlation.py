"""Symmetry of a map from its correlation with itself turned about an axis.

About an axis the map is a sum of circular harmonics a_m(rho, z) e^(i m phi), of power P_m. Its
correlation with itself turned by omega is

    c(omega) = sum_m P_m cos(m omega) / sum_m P_m      (m >= 1: the axisymmetric part is left out),

so one resampling in cylindrical coordinates gives it for every turn. An n-fold axis has no power
but at multiples of n. For each fold, log P at multiples of n is compared with that of the orders
between; what the same figure is about other axes of the same map says what chance and the shape
of the map bring.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage, optimize

from scipion_faml.evaluation.superposition import (
    centre_of_mass,
    group_correlation,
    group_frame,
    hemisphere,
    move_map,
    turn_to_z,
)
from scipion_faml.fourier import resample
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.types import FloatArray, IntArray
from scipion_faml.volume import inscribed_sphere

AXIS_STEP_DEG = 8.0
LARGEST_FOLD = 24
MULTIPLES = 2  # of the largest fold, up to which orders are computed
REACH = 0.42  # radius and half height of the cylinder, box sizes
NEAR_DEG = 15.0  # axes nearer to the one looked at say nothing about chance
LEAST_POWER = 1e-4  # of all orders together, added to each: what is weaker is no structure
# Maps without symmetry, smooth or noisy, stayed below one or the other.
SIGNIFICANT_Z, SIGNIFICANT_CONTRAST = 6.0, 0.2
N_REFINED = 5
PROMOTED = 0.35  # of an axis's contrast, below which orders between count as empty
SCANNED_BOX, REFINED_BOX = 40, 56
N_CONTROLS = 16  # other frames in which a group is tried
LEAST_OF_CYCLIC = 0.75  # of the likeness under Cn that a larger group must reach
SAME_FOLD = 2  # axes of one fold that are refined
GROUPS_OF_FOLD = {3: ("T", "O", "I"), 4: ("O",), 5: ("I",)}


@dataclass(frozen=True, eq=False)
class CyclicAxis:
    """An axis, and how much of an n-fold axis it is."""

    fold: int
    axis: FloatArray  # (3,) unit vector
    centre: FloatArray  # (3,) xyz, voxels from voxel n // 2: a point on the axis
    contrast: float  # mean log power of multiples of the fold over that of the orders between
    z: float  # standard deviations of that above its median about other axes
    share: float  # of the power, axisymmetric part left out, at multiples of the fold
    power: FloatArray  # (M,) P_m of orders from 1

    @property
    def is_significant(self) -> bool:
        """Whether chance and the shape of the map do not explain it."""
        return self.z >= SIGNIFICANT_Z and self.contrast >= SIGNIFICANT_CONTRAST


@dataclass(frozen=True, eq=False)
class Cylinder:
    """Rings, in the ball of REACH n, on which maps of n voxels are sampled."""

    points: FloatArray  # (P, C, 3) xyz about the axis z, voxels from the centre; C turns of a ring
    weight: FloatArray  # (P,) radius of every ring
    n_orders: int

    @staticmethod
    def of(n: int, largest_fold: int = LARGEST_FOLD) -> Cylinder:
        """Rings one voxel apart, with two samples for each highest order."""
        n_orders = min(MULTIPLES * largest_fold + largest_fold // 2, int(np.pi * REACH * n))
        n_turns = 2 * (n_orders + 1)
        turn = 2 * np.pi * np.arange(n_turns) / n_turns
        height = np.arange(-int(REACH * n), int(REACH * n) + 1.0)
        radius = np.arange(1, int(REACH * n) + 1) - 0.5
        z, rho = (grid.ravel() for grid in np.meshgrid(height, radius, indexing="ij"))
        kept = z**2 + rho**2 < (REACH * n) ** 2
        z, rho = z[kept, None], rho[kept, None]
        points = np.stack(np.broadcast_arrays(rho * np.cos(turn), rho * np.sin(turn), z), axis=-1)
        return Cylinder(points.astype(np.float32), rho[:, 0], n_orders)

    def powers(self, volume: FloatArray, axis: FloatArray, centre: FloatArray) -> FloatArray:
        """Return P_m of orders 1 to n_orders about an axis through a centre (voxels)."""
        # Rows times R are R^T of each point: from the frame in which the axis is z.
        xyz = self.points.reshape(-1, 3) @ turn_to_z(axis).astype(np.float32)
        xyz += (centre + volume.shape[0] // 2).astype(np.float32)
        values = ndimage.map_coordinates(
            volume, xyz[:, ::-1].T, order=1, mode="constant", prefilter=False)
        harmonics = np.fft.rfft(values.reshape(self.points.shape[:2]), axis=1)
        power: FloatArray = self.weight @ (np.abs(harmonics[:, 1 : self.n_orders + 1]) ** 2)
        return power


def contrast_of_folds(power: FloatArray, folds: IntArray) -> FloatArray:
    """Return mean log P at multiples of each fold less that of the orders between (..., F).

    `power` (..., M) holds the orders from 1. A multiple jn is compared with its neighbours up to
    half a fold away that are no multiples, so that a smooth fall with the order cancels.
    """
    total = power.sum(axis=-1, keepdims=True)
    level = np.log(power / total + LEAST_POWER)
    n_orders = power.shape[-1]
    order = np.arange(1, n_orders + 1)
    out = []
    for fold in folds:
        terms = []
        for multiple in range(int(fold), n_orders + 1, int(fold)):
            near = (np.abs(order - multiple) <= max(int(fold) // 2, 1)) & (order % fold != 0)
            terms.append(level[..., multiple - 1] - level[..., near].mean(axis=-1))
        out.append(np.mean(terms, axis=0))
    return np.stack(out, axis=-1)


@dataclass(frozen=True, eq=False)
class AxisScan:
    """All axes looked at on a coarse map."""

    axis: FloatArray  # (A, 3)
    power: FloatArray  # (A, M)
    folds: IntArray  # (F,)
    contrast: FloatArray  # (A, F)

    def null(self, axis: FloatArray, fold_index: int) -> tuple[float, float]:
        """Median and robust standard deviation of a fold's contrast about all other axes."""
        other = np.abs(self.axis @ axis) < np.cos(np.deg2rad(NEAR_DEG))
        values = self.contrast[other, fold_index]
        middle = float(np.median(values))
        return middle, float(1.4826 * np.median(np.abs(values - middle))) + 1e-9

    def scores(self) -> FloatArray:
        """Contrasts (A, F) in standard deviations above the median over axes."""
        middle = np.median(self.contrast, axis=0)
        spread = 1.4826 * np.median(np.abs(self.contrast - middle), axis=0) + 1e-9
        z: FloatArray = (self.contrast - middle) / spread
        return z


def scan_axes(
    volume: FloatArray, folds: IntArray, centre: FloatArray, step_deg: float = AXIS_STEP_DEG
) -> AxisScan:
    """Return the powers about axes of a half sphere through a centre (voxels)."""
    cylinder = Cylinder.of(volume.shape[0], int(folds.max()))
    axes = hemisphere(step_deg)
    ball = np.asarray(volume * inscribed_sphere(volume.shape[0]), dtype=np.float32)
    power = np.stack([cylinder.powers(ball, axis, centre) for axis in axes])
    usable = folds[folds <= cylinder.n_orders]
    if not len(usable):
        raise ValueError(f"a {folds.min()}-fold axis cannot be seen in {volume.shape[0]} voxels: "
                         f"look for --fold {cylinder.n_orders} at most, or use a finer map")
    return AxisScan(axes, power, usable, contrast_of_folds(power, usable))


def best_axes(scan: AxisScan, n_best: int = N_REFINED) -> list[tuple[FloatArray, int]]:
    """Return axes and folds of the highest scores, two of a fold at most, and those apart."""
    score = scan.scores()
    kept: list[tuple[FloatArray, int]] = []
    for flat in np.argsort(-score, axis=None, kind="stable"):
        a, f = np.unravel_index(flat, score.shape)
        axis, fold = scan.axis[a], int(scan.folds[f])
        same = [known for known, other in kept if other == fold]
        if len(same) < SAME_FOLD and not any(is_same_axis(axis, known) for known in same):
            kept.append((axis, fold))
        if len(kept) == n_best:
            break
    return kept


def is_same_axis(first: FloatArray, second: FloatArray) -> bool:
    """Whether two axes (3,) lie within 15 deg of each other."""
    return bool(abs(first @ second) > np.cos(np.deg2rad(NEAR_DEG)))


def refined_axis(
    volume: FloatArray, axis: FloatArray, fold: int, centre: FloatArray, scan: AxisScan
) -> CyclicAxis:
    """Return the axis and centre near given ones about which a map is most of an n-fold map."""
    n = volume.shape[0]
    cylinder = Cylinder.of(n, int(scan.folds.max()))
    ball = np.asarray(volume * inscribed_sphere(n), dtype=np.float32)
    side = np.linalg.svd(axis[None])[2][1:]  # two directions across the axis
    lever = 0.3 * n

    def at(parameter: FloatArray) -> tuple[FloatArray, FloatArray]:
        tilted = axis + parameter[:2] @ side / lever
        return tilted / np.linalg.norm(tilted), centre + parameter[2:] @ side

    def share(parameter: FloatArray) -> float:
        return multiples_share(cylinder.powers(ball, *at(parameter)), fold)

    start = np.vstack([np.zeros(4), 1.5 * np.eye(4)])
    solution = optimize.minimize(
        lambda p: -share(p), np.zeros(4), method="Nelder-Mead",
        options={"initial_simplex": start, "xatol": 0.03, "fatol": 1e-4, "maxfev": 100})
    found_axis, found_centre = at(solution.x)
    power = cylinder.powers(ball, found_axis, found_centre)
    # An axis of four copies is also half of one of eight; one of twelve is one of six, too.
    divisors = [d for d in range(2, fold + 1) if fold % d == 0 and d in scan.folds]
    best = max((_judged(d, found_axis, found_centre, power, scan) for d in divisors),
               key=lambda one: one.z)
    whole = _judged(whole_fold(power, best.fold, scan.folds), found_axis, found_centre, power, scan)
    return whole if whole.is_significant else best


def whole_fold(power: FloatArray, fold: int, folds: IntArray) -> int:
    """Return the highest multiple of a fold that explains its power (M,) as well.

    Orders that are multiples of the fold, but not of the higher one, must not stand out of those
    that are multiples of neither.
    """
    level = np.log(power / power.sum() + LEAST_POWER)
    order = np.arange(1, len(power) + 1)
    best = fold
    for higher in folds[(folds > fold) & (folds % fold == 0)]:
        near = order <= 2 * higher
        inside = _stands_out(level, order[near & (order % higher == 0)], fold)
        left_out = _stands_out(
            level, order[near & (order % fold == 0) & (order % higher != 0)], fold)
        if inside >= SIGNIFICANT_CONTRAST and left_out < PROMOTED * inside:
            best = int(higher)
    return best


def _stands_out(level: FloatArray, orders: IntArray, fold: int) -> float:
    """Mean log power of some orders above that of neighbours which are no multiples of a fold."""
    between = np.arange(1, len(level) + 1)
    between = between[between % fold != 0]
    return float(np.mean([
        level[m - 1] - level[between[np.abs(between - m) <= fold] - 1].mean() for m in orders]))


def _judged(
    fold: int, axis: FloatArray, centre: FloatArray, power: FloatArray, scan: AxisScan
) -> CyclicAxis:
    """One fold of an axis against what it is about other axes."""
    contrast = float(contrast_of_folds(power, np.array([fold]))[0])
    middle, spread = scan.null(axis, int(np.flatnonzero(scan.folds == fold)[0]))
    return CyclicAxis(fold, axis, centre, contrast, (contrast - middle) / spread,
                      multiples_share(power, fold), power)


def multiples_share(power: FloatArray, fold: int) -> float:
    """Return the share of the power (M,) of orders from 1 at multiples of a fold."""
    return float(power[fold - 1 :: fold].sum() / max(float(power.sum()), 1e-30))


def self_correlation_curve(power: FloatArray, turn_deg: FloatArray) -> FloatArray:
    """Return c(omega) for turns (T,) in deg from the powers (M,) of orders from 1."""
    order = np.arange(1, len(power) + 1)
    curve: FloatArray = np.cos(np.deg2rad(turn_deg)[:, None] * order) @ power / power.sum()
    return curve


def mean_over_turns(power: FloatArray, fold: int) -> tuple[float, float]:
    """Return the mean of c over turns by multiples of 360 / n, and over those half way between.

    sum_j c(2 pi j / n) is n times the share of multiples of n; the turn by 0 is left out of the
    first.
    """
    order = np.arange(1, len(power) + 1)
    is_multiple = order % fold == 0
    total = float(power.sum())
    at_turns = (fold * float(power[is_multiple].sum()) / total - 1.0) / (fold - 1)
    sign = np.where((order // fold) % 2 == 0, 1.0, -1.0)
    between = float((power * sign)[is_multiple].sum()) / total
    return at_turns, between


# ------------------------------------------------------------------------------------- from a map
def cyclic_axes(volume: FloatArray, folds: IntArray) -> list[CyclicAxis]:
    """Return the most n-fold axes of a map (n, n, n) for some folds, the most significant first.

    Axes 8 deg apart are looked at on 40^3 voxels or fewer, the best refined on 56^3; all of them
    pass near the centre of mass.
    """
    n = volume.shape[0]
    centred = np.asarray(volume - np.median(volume), dtype=np.float32)
    centre = centre_of_mass(volume)
    coarse, fine = (centred if n <= box else resample(centred, box)
                    for box in (SCANNED_BOX, REFINED_BOX))
    scan = scan_axes(coarse, folds, centre * coarse.shape[0] / n)
    ratio = n / fine.shape[0]
    found = [refined_axis(fine, axis, fold, centre / ratio, scan)
             for axis, fold in best_axes(scan, N_REFINED)]
    return by_rank([replace(one, centre=one.centre * ratio) for one in found])


def by_rank(found: list[CyclicAxis]) -> list[CyclicAxis]:
    """Return axes, the main one first: of those on one axis the most significant fold, of
    different axes the highest significant fold; the others by significance."""
    falling = sorted(found, key=lambda one: (-one.is_significant, -one.z))
    leaders: list[CyclicAxis] = []
    for one in falling:
        if one.is_significant and not any(is_same_axis(one.axis, o.axis) for o in leaders):
            leaders.append(one)
    leaders.sort(key=lambda one: (-one.fold, -one.z))
    return [*leaders, *(one for one in falling if all(one is not o for o in leaders))]


def frame_of_axis(found: CyclicAxis) -> RigidTransforms:
    """Return the pose that carries an axis onto z through the centre."""
    rotation = turn_to_z(found.axis)
    return RigidTransforms.from_rotation(rotation[None], -(rotation @ found.centre)[None])


@dataclass(frozen=True, eq=False)
class GroupFit:
    """A point group tried on a map."""

    group: str
    frame: RigidTransforms  # carries the map's axes to the group's
    correlation: float  # mean, with copies turned by the group; radial mean left out
    control_mean: float  # the same about axes elsewhere
    control_spread: float

    @property
    def z(self) -> float:
        """Standard deviations above the controls."""
        return (self.correlation - self.control_mean) / max(self.control_spread, 1e-9)


def larger_groups(fold: int) -> list[str]:
    """Return names of the point groups that hold turns by 360 deg / fold, besides cyclic ones."""
    return [f"D{fold}", *GROUPS_OF_FOLD.get(fold, ())]


def fitted_group(volume: FloatArray, group: str, rng: np.random.Generator) -> GroupFit:
    """Return how well a map (n, n, n) fits a point group, and how well it does about other axes."""
    frame, _ = group_frame(volume, group)
    return with_controls(volume, group, frame, rng)


def with_controls(
    volume: FloatArray, group: str, frame: RigidTransforms, rng: np.random.Generator
) -> GroupFit:
    """Return the fit of a group in a known frame."""
    n = volume.shape[0]
    small = volume if n <= SCANNED_BOX else resample(volume, SCANNED_BOX)
    there = RigidTransforms(frame.euler_zyz, frame.shift_xyz * small.shape[0] / n)
    placed = move_map(small, there)
    other = RigidTransforms(random_rotations(N_CONTROLS, rng), np.zeros((N_CONTROLS, 3)))
    control = [group_correlation(move_map(placed, other[[i]]), group) for i in range(N_CONTROLS)]
    return GroupFit(group, frame, group_correlation(placed, group),
                    float(np.mean(control)), float(np.std(control)))


def is_larger_group(fit: GroupFit, cyclic: GroupFit) -> bool:
    """Whether a map that has a cyclic group has a larger one."""
    return (fit.z >= SIGNIFICANT_Z
            and fit.correlation >= LEAST_OF_CYCLIC * cyclic.correlation)
