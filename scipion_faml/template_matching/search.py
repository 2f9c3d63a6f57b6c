"""One tomogram searched for one template: a scan, and its best peaks refined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from scipion_faml.picking import in_mask
from scipion_faml.picking.peaks import suppress_neighbours
from scipion_faml.picking.template.controls import phase_randomised
from scipion_faml.picking.template.correlation import MASK_EDGE, Template, prepare_template
from scipion_faml.picking.template.filters import Filter, band_pass
from scipion_faml.picking.template.rotations import scan_rotations
from scipion_faml.picking.template.scan import Maxima, ScoreMaps, View, scan, view_of
from scipion_faml.picking.tiles import Binned, TileMap
from scipion_faml.structures import change_voxel_size
from scipion_faml.template_matching.model import TemplateModel, border_level, mask_width
from scipion_faml.template_matching.refinement import Refiner, prepare_refiner
from scipion_faml.template_matching.settings import TemplateConfig
from scipion_faml.types import BoolArray, FloatArray, IntArray
from scipion_faml.volume import crop_or_pad, mirrored, soft_sphere
from scipion_faml.wedge import MissingWedge

COARSE_RESOLUTION = 0.8  # times diameter and coarse step (rad): finer detail a step scrambles
CANDIDATES_PER_FILLING = 0.5  # of the particles that would fill the tomogram, side by side
FEWEST_CANDIDATES = 100
CANDIDATE_DISTANCE = 0.4  # diameters
MIN_DIAMETER = 4.0  # voxels


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
class Search:
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
            if mask_width(self.diameter / binning) <= min(self.tomogram.shape) // binning:
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

    def _off_faces(self, position_zyx: FloatArray, slack: float = 0.0) -> BoolArray:
        """Which positions (M, 3) keep the border from the tomogram's faces, less a slack."""
        margin = self.config.border * self.diameter - slack
        limits = np.array(self.tomogram.shape) - 1.0
        inside: BoolArray = (
            (position_zyx >= margin) & (position_zyx <= limits - margin)).all(axis=1)
        return inside

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
        width = mask_width(self.diameter / binning)
        n = 2 * int(np.ceil(width / 2.0 + self.max_shift / binning + 1))
        if mask is not None:
            n = max(n, mask.shape[0])
            mask = crop_or_pad(mask, (n, n, n))
        return TemplateModel(crop_or_pad(density, (n,) * 3, border_level(density)), mask, transfer)

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

    def fine_template(self, model: TemplateModel) -> Template:
        """Return a template as it is compared with the tomogram in its own voxels."""
        return self._template(self._model_at(model, 1), self.view, 1)

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
        peaks = self.peaks(maxima)
        maxima = peaks.take(np.arange(min(self._most_candidates(), len(peaks))))
        refiner = self._refiner(model)
        work = refiner.nearby if self.config.is_exhaustive else refiner.anywhere
        starts = zip(maxima.position_zyx, self.rotations[maxima.rotation_index], strict=True)
        found = Matches.ranked(list(self.tile_map(work, starts)))
        kept = suppress_neighbours(found.position_zyx, self.config.min_distance * self.diameter)
        found = found.take(kept)
        found = found.take(self._off_faces(found.position_zyx)
                           & in_mask(found.position_zyx[:, ::-1], self.mask))
        n_poses = float(np.prod(self.scanned.shape)) * len(self.rotations)
        if not self.config.is_exhaustive:
            n_poses += float(len(maxima)) * refiner.n_poses
        return Searched(found, len(maxima), len(maxima) / max(len(peaks), 1), n_poses, maps)

    def _refiner(self, model: TemplateModel) -> Refiner:
        fine = self._model_at(model, 1)
        return prepare_refiner(
            fine.density, self.fine_template(model), self.view, self.wedge,
            self._gain(fine, self.view), self.max_shift)

    def peaks(self, maxima: Maxima) -> Maxima:
        """Return the maxima of a scan where particles may lie and that are apart from each other.

        They come in voxels of the scan and leave in those of the tomogram.
        """
        is_searched = in_mask(maxima.position_zyx[:, ::-1], self.scan_mask)
        position = self.scanned.binned.full_voxels(maxima.position_zyx)
        is_searched &= self._off_faces(position, self.max_shift)
        maxima = replace(maxima, position_zyx=position).take(np.flatnonzero(is_searched))
        kept = suppress_neighbours(maxima.position_zyx, CANDIDATE_DISTANCE * self.diameter)
        return maxima.take(kept)

    def _most_candidates(self) -> int:
        if self.config.n_candidates is not None:
            return self.config.n_candidates
        filling = self.n_searched / (np.pi / 6.0 * self.diameter**3)
        return max(FEWEST_CANDIDATES, int(CANDIDATES_PER_FILLING * filling))
