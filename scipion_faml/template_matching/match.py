"""From a tomogram and a template to picks: search, control, threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from scipion_faml.picking import Picks
from scipion_faml.picking.template.chance import (
    FEWEST_MAXIMA,
    TAIL,
    Chance,
    analytic_chance,
    chance_of_control,
    root_of_metric,
    score_sd,
)
from scipion_faml.picking.template.rotations import scan_rotations
from scipion_faml.picking.template.scan import ScoreMaps
from scipion_faml.picking.tiles import TileMap, check_tomogram
from scipion_faml.symmetry import symmetry_rotations
from scipion_faml.template_matching.model import TemplateModel, mask_width
from scipion_faml.template_matching.search import MIN_DIAMETER, Matches, Search, Searched
from scipion_faml.template_matching.settings import TemplateConfig
from scipion_faml.types import FloatArray
from scipion_faml.wedge import MissingWedge


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
    search = Search(tomogram, voxel_size_angst, wedge, config, mask, tile_map)
    found = search.searched(model, config.keeps_maps)
    needs_control = config.threshold is None and config.control != "none"
    control = search.searched(search.control(model), False) if needs_control else None
    return _result(search, model, found, control)


def _check(tomogram: FloatArray, voxel_size_angst: float, config: TemplateConfig) -> None:
    """Refuse what cannot be searched."""
    check_tomogram(tomogram, voxel_size_angst)
    voxels = config.diameter_angst / voxel_size_angst
    if voxels < MIN_DIAMETER:
        raise ValueError(
            f"a diameter of {config.diameter_angst:g} A is {voxels:.2g} voxels of "
            f"{voxel_size_angst:g} A: {MIN_DIAMETER:g} at least are needed; check both"
        )
    if mask_width(voxels) > min(tomogram.shape):
        raise ValueError(
            f"a template of {config.diameter_angst:g} A is {mask_width(voxels)} voxels wide with "
            f"the edge of its mask, the tomogram {min(tomogram.shape)} along its shortest side: "
            "check --diameter and voxel sizes"
        )


def _chance(
    search: Search, model: TemplateModel, found: Matches, control: Searched | None
) -> Chance | None:
    """What chance makes of a search; None where a threshold is given.

    Where a control has too few peaks to tell, as in small tomograms, the formula tells.
    """
    config, view, wedge = search.config, search.view, search.wedge
    if config.threshold is not None:
        return None
    template = search.fine_template(model)
    if control is None or TAIL * len(control.matches) < FEWEST_MAXIMA:
        order = len(symmetry_rotations(config.symmetry))
        return analytic_chance(view, template, wedge, search.n_searched, order)
    own = control.matches
    chance = chance_of_control(
        own.score, own.position_zyx, found.score, found.position_zyx, search.diameter,
        config.false_positives, len(own) / control.share)
    # A control has finer detail at every angle than a compact structure.
    other = search.fine_template(search.control(model))
    sd = score_sd(view, template) / score_sd(view, other)
    metric = root_of_metric(view, template, wedge) / root_of_metric(view, other, wedge)
    return chance.moved(sd, metric)


def _result(
    search: Search, model: TemplateModel, searched: Searched, control: Searched | None
) -> TemplateResult:
    """The matches above the threshold as picks."""
    config, found = search.config, searched.matches
    chance = _chance(search, model, found, control)
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
        None if chance is None else chance.sd, searched.n_candidates, search.rotations,
        n_exhaustive, n_exhaustive * float(np.prod(search.tomogram.shape)) / searched.n_poses,
        search.binning, search.low_pass_angst, searched.maps, found,
        None if control is None else control.matches,
    )


def _source_of(chance: Chance | None) -> str:
    """What a threshold comes from."""
    if chance is None:
        return "setting"
    return "formula" if chance.observed is None else "control"


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
