"""Template matching from tomogram to picks: a coarse scan, then a refinement of its best peaks.

1. The template, low-passed to what a coarse step of rotations resolves, is scanned over the binned
   tomogram at all rotations that step apart. Turned by half a step it still looks like itself, and
   the structure's neighbourhood peaks.
2. Around the highest peaks boxes are cut from the tomogram itself. Fast rotational matching looks
   at all rotations and some shifts of each at once (`phase`), the best poses climb to the top in
   rotation and shift together (`refine`).
3. Each is scored anew by the definition of the scan, at the tomogram's own resolution: scores are
   those that a scan of infinitely small steps would give.
4. The same is done with a template of the same spectrum that is no structure (`controls`): what it
   reaches tells the score that chance reaches (`picking.template.chance`).

An exhaustive scan replaces 1 and the search over all rotations in 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import ndimage

from scipion_faml.picking import Picks
from scipion_faml.picking.peaks import suppress_neighbours
from scipion_faml.picking.template.chance import (
    FEWEST_MAXIMA,
    TAIL,
    Chance,
    analytic_chance,
    chance_of_control,
    root_of_metric,
    score_sd,
)
from scipion_faml.picking.template.controls import CONTROLS, mirrored, phase_randomised
from scipion_faml.picking.template.correlation import MASK_EDGE, Template, prepare_template
from scipion_faml.picking.template.filters import HIGHEST, Filter, band_pass
from scipion_faml.picking.template.rotations import scan_rotations
from scipion_faml.picking.template.scan import Maxima, ScoreMaps, View, scan, view_of
from scipion_faml.picking.tiles import Binned, TileMap
from scipion_faml.simulation.tilt_series import Microscope, contrast_transfer
from scipion_faml.structures import change_voxel_size
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.template_refinement import Refiner, prepare_refiner
from scipion_faml.types import BoolArray, FloatArray, IntArray
from scipion_faml.volume import crop_or_pad, soft_sphere, squared_radius
from scipion_faml.wedge import MissingWedge

COARSE_RESOLUTION = 0.8  # times diameter and coarse step (rad): finer detail a step scrambles
CANDIDATES_PER_FILLING = 0.5  # of the particles that would fill the tomogram, side by side
FEWEST_CANDIDATES = 100
CANDIDATE_DISTANCE = 0.4  # diameters
MIN_DIAMETER = 4.0  # voxels
TRANSFER_SAMPLES = 2048


@dataclass(frozen=True)
class TemplateConfig:
    """Settings of the picker."""

    diameter_angst: float  # of the spherical mask
    symmetry: str = "C1"
    angular_step_deg: float = 7.0  # of the exhaustive scan
    coarse_step_deg: float = 20.0  # of the scan that is refined
    is_exhaustive: bool = False
    is_dark: bool = False  # particles darker than their surroundings
    low_pass_angst: float | None = None
    high_pass_angst: float | None = None
    whitens: bool = False
    threshold: float | None = None  # correlation coefficient; None: from `false_positives`
    false_positives: float = 1.0  # expected in the whole tomogram
    control: str = "phase"  # template that tells what chance reaches
    n_candidates: int | None = None  # peaks of the coarse scan that are refined
    min_distance: float = 0.7  # between picks, in diameters
    border: float = 0.25  # picks keep this distance from the tomogram's faces, in diameters
    max_picks: int | None = None
    clip_sd: float = 5.0  # brighter and darker voxels are cut to this: gold beads
    tile: int = 128  # voxels of the core of a tile
    keeps_maps: bool = False
    seed: int = 0  # of the control's phases

    def __post_init__(self) -> None:
        if not self.diameter_angst > 0:
            raise ValueError(f"diameter {self.diameter_angst:g}: give it in angstrom, above 0")
        for name in ("angular_step_deg", "coarse_step_deg"):
            if not 1.0 <= getattr(self, name) <= 60.0:
                raise ValueError(f"{name} is {getattr(self, name):g}: choose 1 to 60 deg")
        if self.control not in CONTROLS:
            raise ValueError(f"control is {self.control!r}: choose from {', '.join(CONTROLS)}")
        if self.threshold is not None and not -1.0 <= self.threshold <= 1.0:
            raise ValueError(
                f"threshold {self.threshold:g}: scores are correlation coefficients, -1 to 1")
        if not self.false_positives > 0:
            raise ValueError(f"{self.false_positives:g} false positives: give a number above 0")
        if self.min_distance < 0 or self.border < 0:
            raise ValueError("min_distance and border must not be negative")
        for name in ("max_picks", "n_candidates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if not self.clip_sd > 0:
            raise ValueError("clip_sd must exceed 0")
        if self.tile < 16:
            raise ValueError(f"tiles of {self.tile} voxels are too small: 16 at least")


@dataclass(frozen=True, eq=False)
class TemplateModel:
    """A template in the tomogram's voxels, before anything is done to it."""

    density: FloatArray  # (n, n, n) positive where there is matter
    mask: FloatArray | None = None  # (n, n, n) 0 to 1, turned with it; None: a ball
    transfer: Filter | None = None  # that falls on the template alone, such as a CTF


@dataclass(frozen=True, eq=False)
class Matches:
    """Poses found in a tomogram, the best first."""

    position_zyx: FloatArray  # (M, 3) voxels
    score: FloatArray  # (M,) correlation coefficient
    euler_zyz: FloatArray  # (M, 3) rad

    def __len__(self) -> int:
        return len(self.score)

    def take(self, index: IntArray | BoolArray) -> Matches:
        """Return the matches at `index`."""
        return Matches(self.position_zyx[index], self.score[index], self.euler_zyz[index])

    @staticmethod
    def ranked(found: Sequence[tuple[FloatArray, float, FloatArray]]) -> Matches:
        """Return positions, scores and angles as matches."""
        if not found:
            return Matches(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 3)))
        position, score, euler_zyz = (np.array(column) for column in zip(*found, strict=True))
        order = np.argsort(-score, kind="stable")
        return Matches(position[order], score[order], euler_zyz[order])


@dataclass(frozen=True, eq=False)
class Searched:
    """What one template gives."""

    matches: Matches
    n_candidates: int  # that were refined
    share: float  # of the scan's peaks that were
    n_poses: float  # that were scored
    maps: ScoreMaps | None  # of the scan, in its voxels


@dataclass(frozen=True, eq=False)
class TemplateResult:
    """Picks, what the threshold came from, and how much was looked at."""

    picks: Picks
    threshold: float
    threshold_from: str  # "setting", "control" or "formula"
    expected_false_positives: float | None  # above the threshold; None: not known
    chance_sd: float | None  # of the score where there is no particle
    n_candidates: int  # that were refined
    rotations: FloatArray  # (R, 3) of the scan, ZYZ angles (rad); the maps' indices name them
    n_rotations_exhaustive: int  # of a scan at the angular step
    poses_factor: float  # times fewer poses scored than by such a scan, refinement counted
    binning: int  # of the scan
    low_pass_angst: float | None  # of the scan
    maps: ScoreMaps | None  # of the scan, in its voxels
    found: Matches  # all that were refined, before the threshold
    control: Matches | None  # of the template that is no structure


def match_template(
    tomogram: FloatArray,
    voxel_size_angst: float,
    model: TemplateModel,
    wedge: MissingWedge,
    config: TemplateConfig,
    mask: FloatArray | None = None,
    tile_map: TileMap = map,
) -> TemplateResult:
    """Return where a template lies in a tomogram and how it is turned, the surest first.

    Parameters
    ----------
    tomogram : (z, y, x)
        Any array that can be sliced, for example a memory map: a tile is in memory at a time.
    model : in the tomogram's voxels
    mask : (z, y, x)
        Particles are looked for where it is above 0.5.
    tile_map : callable
        `map`, or one that works on several tiles at once; the order of results must be kept.

    Raises
    ------
    ValueError
        If template, mask or settings do not fit the tomogram, or it is constant or not finite.
    """
    _check(tomogram, voxel_size_angst, config)
    search = _Search(tomogram, voxel_size_angst, wedge, config, mask, tile_map)
    found = search.searched(model, config.keeps_maps)
    needs_control = config.threshold is None and config.control != "none"
    control = search.searched(search.control(model), False) if needs_control else None
    return search.result(model, found, control)


def _check(tomogram: FloatArray, voxel_size_angst: float, config: TemplateConfig) -> None:
    """Refuse what cannot be searched."""
    if tomogram.ndim != 3:
        raise ValueError(f"the tomogram has {tomogram.ndim} dimensions, 3 are needed")
    if not voxel_size_angst > 0:
        raise ValueError(f"voxel size {voxel_size_angst:g}: give it in angstrom, above 0")
    voxels = config.diameter_angst / voxel_size_angst
    if voxels < MIN_DIAMETER:
        raise ValueError(
            f"a diameter of {config.diameter_angst:g} A is {voxels:.2g} voxels of "
            f"{voxel_size_angst:g} A: {MIN_DIAMETER:g} at least are needed; check both"
        )
    if _width(voxels) > min(tomogram.shape):
        raise ValueError(
            f"a template of {config.diameter_angst:g} A is {_width(voxels)} voxels wide with the "
            f"edge of its mask, the tomogram {min(tomogram.shape)} along its shortest side: check "
            "--diameter and voxel sizes"
        )


def _width(diameter: float) -> int:
    """Voxels that a spherical mask of a diameter (voxels) takes, with its edge."""
    return 2 * int(np.ceil(0.5 * diameter + MASK_EDGE)) + 1


@dataclass(frozen=True, eq=False)
class _Search:
    """One tomogram and the settings."""

    tomogram: FloatArray
    voxel_size_angst: float
    wedge: MissingWedge
    config: TemplateConfig
    mask: FloatArray | None
    tile_map: TileMap

    # ------------------------------------------------------------------------- what is looked at
    @property
    def diameter(self) -> float:
        """Of the mask, voxels."""
        return self.config.diameter_angst / self.voxel_size_angst

    @cached_property
    def rotations(self) -> FloatArray:
        """(R, 3) of the scan."""
        config = self.config
        step = config.angular_step_deg if config.is_exhaustive else config.coarse_step_deg
        return scan_rotations(step, config.symmetry)

    @cached_property
    def low_pass_angst(self) -> float | None:
        """Of the scan: what its step of rotations resolves."""
        if self.config.is_exhaustive:
            return self.config.low_pass_angst
        return max(self._resolved_angst, self.config.low_pass_angst or 0.0)

    @property
    def _resolved_angst(self) -> float:
        step = np.deg2rad(self.config.coarse_step_deg)
        return float(COARSE_RESOLUTION * self.config.diameter_angst * step)

    @cached_property
    def binning(self) -> int:
        """Of the scan: the most with which voxels hold its resolution and the template fits."""
        if self.config.is_exhaustive:
            return 1
        largest = min(self._resolved_angst / 2.0, self.config.diameter_angst / MIN_DIAMETER)
        for binning in range(int(largest / self.voxel_size_angst + 1e-6), 1, -1):
            if _width(self.diameter / binning) <= min(self.tomogram.shape) // binning:
                return binning
        return 1

    def _view(self, binning: int, low_pass_angst: float | None) -> View:
        config = self.config
        band = band_pass(
            self.voxel_size_angst * binning, low_pass_angst, config.high_pass_angst)
        return view_of(Binned(self.tomogram, binning), config.is_dark, config.clip_sd, band,
                       config.whitens, self.wedge)

    @cached_property
    def view(self) -> View:
        """The tomogram in its own voxels."""
        return self._view(1, self.config.low_pass_angst)

    @cached_property
    def scanned(self) -> View:
        """The tomogram as it is scanned."""
        if self.config.is_exhaustive:
            return self.view
        return self._view(self.binning, self.low_pass_angst)

    @cached_property
    def scan_mask(self) -> FloatArray | None:
        """The mask in the voxels of the scan, of which those count that it touches at all."""
        if self.mask is None or self.binning == 1:
            return self.mask
        binned = Binned(self.mask, self.binning)
        whole = (slice(0, binned.shape[1]), slice(0, binned.shape[2]))
        slabs = [binned[(slice(z, z + 1), *whole)] > 0 for z in range(binned.shape[0])]
        return np.concatenate(slabs).astype(np.float32)

    @cached_property
    def n_searched(self) -> float:
        """Voxels in which picks may lie."""
        margin = self.config.border * self.diameter
        inner = float(np.prod([max(size - 2 * margin, 1.0) for size in self.tomogram.shape]))
        if self.mask is None:
            return inner
        share = np.mean([float((slab > 0.5).mean()) for slab in self.mask])
        return max(inner * float(share), 1.0)

    def _may_lie(
        self, position_zyx: FloatArray, mask: FloatArray | None, slack: float = 0.0
    ) -> IntArray:
        """Which positions (M, 3) are in the mask and away from the tomogram's faces."""
        margin = self.config.border * self.diameter - slack
        limits = np.array(self.tomogram.shape) - 1.0
        inside = ((position_zyx >= margin) & (position_zyx <= limits - margin)).all(axis=1)
        if mask is not None:
            nearest = np.rint(position_zyx * (mask.shape[0] / self.tomogram.shape[0]))
            nearest = np.clip(nearest.astype(np.intp), 0, np.array(mask.shape) - 1)
            inside &= mask[tuple(nearest.T)] > 0.5
        return np.flatnonzero(inside)

    # --------------------------------------------------------------------------------- templates
    def _model_at(self, model: TemplateModel, binning: int) -> TemplateModel:
        """A template in binned voxels, in a box that holds its mask and shifts of it."""
        density, mask, transfer = model.density, model.mask, model.transfer
        sizes = self.voxel_size_angst, self.voxel_size_angst * binning
        if binning > 1:
            density = change_voxel_size(density, *sizes)
            mask = None if mask is None else np.clip(change_voxel_size(mask, *sizes), 0.0, 1.0)
        if transfer is not None:
            transfer = Filter(transfer.frequency * binning, transfer.gain)
        n = 2 * int(np.ceil(_width(self.diameter / binning) / 2.0 + self.max_shift / binning + 1))
        if mask is not None:
            n = max(n, mask.shape[0])
            mask = crop_or_pad(mask, (n, n, n))
        return TemplateModel(crop_or_pad(density, (n,) * 3, _border(density)), mask, transfer)

    @property
    def max_shift(self) -> float:
        """Voxels that a peak may lie from where the scan saw it."""
        return 1.0 + 0.75 * self.binning

    def _gain(self, model: TemplateModel, view: View) -> FloatArray:
        """What falls on a template at all directions: the view's filter and its own transfer."""
        shape = model.density.shape
        gain = view.filter.on(shape)
        return gain if model.transfer is None else gain * model.transfer.on(shape)

    def _template(self, model: TemplateModel, view: View, binning: int) -> Template:
        n = model.density.shape[0]
        transfer = self._gain(model, view) * self.wedge.mask(n)
        return prepare_template(
            model.density, transfer, 0.5 * self.diameter / binning, model.mask)

    def control(self, model: TemplateModel) -> TemplateModel:
        """Return a template that is no structure, as like the given one as can be."""
        n = model.density.shape[0]
        mask = model.mask
        if self.config.control == "mirror":
            return replace(
                model, density=mirrored(model.density),
                mask=None if mask is None else mirrored(mask))
        if mask is None:
            mask = soft_sphere(n, min(0.5 * self.diameter, n / 2 - 1), MASK_EDGE)
        rng = np.random.default_rng([self.config.seed, 0])
        density = phase_randomised(model.density, mask, self.config.symmetry, rng)
        return replace(model, density=density)

    # ------------------------------------------------------------------------------------ search
    def searched(self, model: TemplateModel, keeps_maps: bool) -> Searched:
        """Return what a scan for a template finds, its best peaks refined."""
        coarse = self._template(self._model_at(model, self.binning), self.scanned, self.binning)
        maxima, maps = scan(
            self.scanned, coarse, self.rotations, self.config.tile, self.scan_mask, self.tile_map,
            keeps_maps,
        )
        peaks = self._peaks(maxima)
        maxima = peaks.take(np.arange(min(self._most_candidates(), len(peaks))))
        refiner = self._refiner(model)
        work = refiner.nearby if self.config.is_exhaustive else refiner.anywhere
        starts = zip(maxima.position_zyx, self.rotations[maxima.rotation_index], strict=True)
        found = Matches.ranked(list(self.tile_map(work, starts)))
        kept = suppress_neighbours(found.position_zyx, self.config.min_distance * self.diameter)
        found = found.take(kept)
        found = found.take(self._may_lie(found.position_zyx, self.mask))
        n_poses = float(np.prod(self.scanned.shape)) * len(self.rotations)
        if not self.config.is_exhaustive:
            n_poses += float(len(maxima)) * refiner.n_poses
        return Searched(found, len(maxima), len(maxima) / max(len(peaks), 1), n_poses, maps)

    def _refiner(self, model: TemplateModel) -> Refiner:
        fine = self._model_at(model, 1)
        template = self._template(fine, self.view, 1)
        return prepare_refiner(
            fine.density, template, self.view, self.wedge, self._gain(fine, self.view),
            self.max_shift)

    def _peaks(self, maxima: Maxima) -> Maxima:
        """The maxima of a scan that are apart from each other, in voxels of the tomogram."""
        b = self.binning
        # A binned voxel's centre lies (b - 1) / 2 voxels behind the first voxel it holds.
        position = maxima.position_zyx * b + (b - 1) / 2.0
        maxima = replace(maxima, position_zyx=position)
        maxima = maxima.take(self._may_lie(position, self.scan_mask, self.max_shift))
        kept = suppress_neighbours(maxima.position_zyx, CANDIDATE_DISTANCE * self.diameter)
        return maxima.take(kept)

    def _most_candidates(self) -> int:
        if self.config.n_candidates is not None:
            return self.config.n_candidates
        filling = self.n_searched / (np.pi / 6.0 * self.diameter**3)
        return max(FEWEST_CANDIDATES, int(CANDIDATES_PER_FILLING * filling))

    # ------------------------------------------------------------------------------------ result
    def chance(
        self, model: TemplateModel, found: Matches, control: Searched | None
    ) -> Chance | None:
        """Return what chance makes of the search; None where a threshold is given.

        Where a control has too few peaks to tell, as in small tomograms, the formula tells.
        """
        config = self.config
        if config.threshold is not None:
            return None
        template = self._template(self._model_at(model, 1), self.view, 1)
        if control is None or TAIL * len(control.matches) < FEWEST_MAXIMA:
            order = len(symmetry_rotations(config.symmetry))
            return analytic_chance(self.view, template, self.wedge, self.n_searched, order)
        own = control.matches
        chance = chance_of_control(
            own.score, own.position_zyx, found.score, found.position_zyx, self.diameter,
            config.false_positives, len(own) / control.share)
        # A control has finer detail at every angle than a compact structure.
        other = self._template(self._model_at(self.control(model), 1), self.view, 1)
        sd = score_sd(self.view, template) / score_sd(self.view, other)
        metric = (root_of_metric(self.view, template, self.wedge)
                  / root_of_metric(self.view, other, self.wedge))
        return chance.moved(sd, metric)

    def result(
        self, model: TemplateModel, searched: Searched, control: Searched | None
    ) -> TemplateResult:
        """Return the matches above the threshold as picks."""
        config, found = self.config, searched.matches
        chance = self.chance(model, found, control)
        threshold = config.threshold
        if chance is not None:
            threshold = chance.threshold(config.false_positives)
        level = -1.0 if threshold is None else float(threshold)
        picked = found.take(np.flatnonzero(found.score >= level)[: config.max_picks])
        picks = Picks(
            picked.position_zyx[:, ::-1].copy(), picked.score,
            np.zeros(len(picked), dtype=np.intp), picked.euler_zyz)
        n_exhaustive = len(scan_rotations(config.angular_step_deg, config.symmetry))
        return TemplateResult(
            picks, level, _source_of(chance), None if chance is None else chance.expected(level),
            None if chance is None else chance.sd, searched.n_candidates, self.rotations,
            n_exhaustive, n_exhaustive * float(np.prod(self.tomogram.shape)) / searched.n_poses,
            self.binning, self.low_pass_angst, searched.maps, found,
            None if control is None else control.matches,
        )


def _source_of(chance: Chance | None) -> str:
    """What a threshold comes from."""
    if chance is None:
        return "setting"
    return "formula" if chance.observed is None else "control"


def _border(density: FloatArray) -> float:
    """The level at a map's faces: what surrounds it."""
    faces = [np.take(density, end, axis=axis).ravel() for axis in range(3) for end in (0, -1)]
    return float(np.median(np.concatenate(faces)))


def transfer_filter(
    microscope: Microscope, voxel_size_angst: float, is_phase_flipped: bool
) -> Filter:
    """Return the CTF as what falls on a template: its magnitude where phases were flipped."""
    frequency = np.linspace(0.0, HIGHEST, TRANSFER_SAMPLES)
    transfer = contrast_transfer(frequency / voxel_size_angst, microscope)
    return Filter(frequency, np.abs(transfer) if is_phase_flipped else transfer)


def diameter_of(model: TemplateModel) -> float:
    """Return the diameter (voxels) of the ball to compare: that of the mask, or of the density.

    The density's holds 99 % of what is above a tenth of its highest level.
    """
    if model.mask is not None:
        return float(2.0 * (model.mask.sum(dtype=np.float64) * 0.75 / np.pi) ** (1.0 / 3.0))
    density = model.density - _border(model.density)
    weight = np.maximum(density - 0.1 * float(density.max()), 0.0).ravel()
    if not weight.sum() > 0:
        raise ValueError("the template holds nothing: is its density dark?")
    n = density.shape[0]
    distance = np.sqrt(squared_radius(n)).ravel()
    order = np.argsort(distance, kind="stable")
    inside = np.cumsum(weight[order]) / weight.sum(dtype=np.float64)
    radius = float(distance[order][int(np.searchsorted(inside, 0.99))])
    return min(2.0 * radius + 2.0, n - 2.0 * MASK_EDGE - 1.0)


def enlarged(
    values: FloatArray, shape: tuple[int, ...], binning: int, order: int
) -> FloatArray:
    """Return a map of binned voxels in those of a tomogram of a shape, float32.

    `order`: 0 takes the nearest, 1 interpolates.
    """
    if binning == 1:
        return np.asarray(values, dtype=np.float32)
    step = 1.0 / binning
    large: FloatArray = ndimage.affine_transform(
        values, step * np.eye(3), offset=-0.5 * (binning - 1) * step, output_shape=shape,
        output=np.float32, order=order, mode="nearest")
    return large
