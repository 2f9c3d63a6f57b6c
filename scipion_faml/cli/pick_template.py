"""The verb pick-template."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from scipion_faml import datasets, plots
from scipion_faml.cli.averaging import symmetry_option
from scipion_faml.cli.common import seed_option
from scipion_faml.cli.picked import Picked, add_picks
from scipion_faml.cli.picking import PickerArguments, picker_options, tile_map_of
from scipion_faml.cli.pictures import GALLERY_CAPTION
from scipion_faml.cli.runs import run_once
from scipion_faml.cli.tomograms import FILE, naming
from scipion_faml.disk import replacing
from scipion_faml.geometry import RigidTransforms, relion_angles_deg
from scipion_faml.io import VOXEL_SIZE_TOLERANCE, read_cube, write_volume
from scipion_faml.picking.template.controls import CONTROLS
from scipion_faml.picking.template.scan import ScoreMaps
from scipion_faml.simulation.tilt_series import Microscope
from scipion_faml.structures import (
    MODEL_SUFFIXES,
    change_voxel_size,
    kind_of,
    load_structure,
    suitable_box,
)
from scipion_faml.template_matching import (
    TemplateConfig,
    TemplateModel,
    TemplateResult,
    diameter_of,
    enlarged,
    match_template,
    transfer_filter,
)
from scipion_faml.types import FloatArray
from scipion_faml.wedge import NO_WEDGE

logger = logging.getLogger(__name__)

THRESHOLD_FROM = {
    "setting": "given by --threshold", "control": "from what the control found",
    "formula": "by formula, for Gaussian noise"}
CTF_CORRECTIONS = ("phase-flip", "none")


@click.command("pick-template")
@click.option("--template", required=True, metavar="FILE|NAME",
              help="MRC map (a cube, for example a class average), PDB or mmCIF file, or a shipped "
              "bead model such as ribosome. Brought to the tomogram's voxel size.")
@click.option("--template-voxel-size", default=None, type=click.FloatRange(min=0, min_open=True),
              help="Of an MRC template, angstrom.  [default: what its header says]")
@click.option("--template-dark", is_flag=True,
              help="The template's density is darker than what surrounds it.")
@click.option("--template-mask", default=None, type=FILE,
              help="MRC map from 0 to 1 of the template's box and voxel size, turned with it.  "
              "[default: a soft ball of --diameter]")
@symmetry_option
@click.option("--diameter", default=None, type=click.FloatRange(min=0, min_open=True),
              help="Of the soft ball that is compared, angstrom.  [default: measured in the "
              "template]")
@click.option("--angular-step", default=7.0, show_default=True,
              type=click.FloatRange(min=1, max=60),
              help="Of --exhaustive, degrees. Without it poses are refined to better than this, "
              "and it only says what the search is compared with.")
@click.option("--coarse-step", default=20.0, show_default=True,
              type=click.FloatRange(min=1, max=60),
              help="Of the scan whose best peaks are refined, degrees.")
@click.option("--candidates", default=None, type=click.IntRange(min=1),
              help="Peaks of the scan that are refined.  [default: half as many as particles would "
              "fill the tomogram, 100 at least]")
@click.option("--exhaustive", is_flag=True,
              help="Scan at --angular-step and full resolution; peaks only climb from there.")
@click.option("--dark", is_flag=True, help="Particles are darker than their surroundings.")
@click.option("--threshold", default=None, type=click.FloatRange(min=-1, max=1),
              help="Lowest score kept, a correlation coefficient.  [default: from "
              "--false-positives]")
@click.option("--false-positives", default=1.0, show_default=True,
              type=click.FloatRange(min=0, min_open=True),
              help="Picks in the whole tomogram that chance may cause; sets the threshold.")
@click.option("--control", default="phase", show_default=True, type=click.Choice(CONTROLS),
              help="What tells the score that chance reaches: the template with random phases or "
              "mirrored, looked for in the same way; none: Gaussian noise of the tomogram's "
              "spectrum, by formula.")
@click.option("--low-pass", default=None, type=click.FloatRange(min=0, min_open=True),
              help="Compare to this resolution, angstrom.  [default: Nyquist]")
@click.option("--high-pass", default=None, type=click.FloatRange(min=0, min_open=True),
              help="Compare from this resolution on, angstrom.  [default: all]")
@click.option("--whiten", is_flag=True,
              help="Divide tomogram and template by the root of the tomogram's spectrum.")
@click.option("--defocus", default=None, type=float,
              help="Micrometres, positive: underfocus. The template gets the CTF of a tomogram "
              "(300 kV, Cs 2.7 mm).  [default: no CTF]")
@click.option("--amplitude-contrast", default=0.07, show_default=True,
              type=click.FloatRange(min=0, max=1), help="Of the CTF.")
@click.option("--ctf-correction", default="phase-flip", show_default=True,
              type=click.Choice(CTF_CORRECTIONS),
              help="What was done about the CTF when the tomogram was reconstructed.")
@click.option("--min-distance", default=None, type=click.FloatRange(min=0),
              help="Between picks, angstrom.  [default: 0.7 diameters]")
@click.option("--border", default=None, type=click.FloatRange(min=0),
              help="Picks keep this distance from the tomogram's faces, angstrom.  [default: a "
              "quarter of a diameter]")
@click.option("--tile", default=128, show_default=True, type=click.IntRange(min=16),
              help="Voxels of the tiles worked on at a time: bounds the memory.")
@click.option("--score-map", default=None, type=FILE,
              help="Write the scan's best score at every voxel to this MRC file (of the coarse "
              "scan, interpolated, without --exhaustive).")
@click.option("--angle-map", default=None, type=FILE,
              help="Write which rotation that score is of, from 1, to this MRC file, and the "
              "rotations beside it as CSV.")
@seed_option
@picker_options
def pick_template(
    given: PickerArguments, template: str, template_voxel_size: float | None,
    template_dark: bool, template_mask: Path | None, symmetry: str, diameter: float | None,
    angular_step: float, coarse_step: float, candidates: int | None, exhaustive: bool, dark: bool,
    threshold: float | None, false_positives: float, control: str, low_pass: float | None,
    high_pass: float | None, whiten: bool, defocus: float | None, amplitude_contrast: float,
    ctf_correction: str, min_distance: float | None, border: float | None, tile: int,
    score_map: Path | None, angle_map: Path | None, seed: int,
) -> None:
    """Find a known structure, and how it is turned, by its correlation with the tomogram.

    Writes positions (voxels from the first one) and orientations with famlScore, the locally
    normalised correlation coefficient under the mask, the surest first. A coarse scan finds the
    peaks, which fast rotational matching refines. Where nothing is found no file is written, and
    the result says so.
    """
    config = TemplateConfig(
        diameter or 1.0, symmetry, angular_step, coarse_step, exhaustive, dark, low_pass,
        high_pass, whiten, threshold, false_positives, control, candidates,
        max_picks=given.max_picks, tile=tile,
        keeps_maps=score_map is not None or angle_map is not None, seed=seed,
    )
    settings = {
        **dataclasses.asdict(config), "diameter_angst": diameter, "min_distance": min_distance,
        "border": border, "template": template, "template_voxel_size": template_voxel_size,
        "template_dark": template_dark, "defocus": defocus,
        "amplitude_contrast": amplitude_contrast, "ctf_correction": ctf_correction,
        "score_map": score_map, "angle_map": angle_map,
    }
    run = given.run(
        "pick-template", settings, Path(template) if _is_file(template) else None, template_mask)

    def work() -> dict[str, Any]:
        size = given.voxel_size_angst()
        model = _model(template, size, template_voxel_size, template_dark, template_mask, low_pass)
        if defocus is not None:
            microscope = Microscope(amplitude_contrast=amplitude_contrast, defocus_um=defocus)
            model = dataclasses.replace(
                model, transfer=transfer_filter(microscope, size, ctf_correction == "phase-flip"))
        final = _with_lengths(config, diameter, min_distance, border, model, size)
        if given.wedge is None:
            logger.warning(
                "%s: no tilt range is given, and none missing is assumed: orientations and scores "
                "suffer where that is wrong; give --tilt-min and --tilt-max", given.tomogram)
        with given.opened() as (volume, where):
            with naming(given.tomogram):
                found = match_template(volume, size, model, given.wedge or NO_WEDGE, final, where,
                                       tile_map_of(given.workers))
            given.draw(volume, found.picks, 0.5 * final.diameter_angst / size)
            add_picks(run.report, _picked(found, final, given, size), volume)
            shape = volume.shape
        if found.maps is not None:
            _write_maps(found, found.maps, shape, size, score_map, angle_map)
        given.write(
            found.picks, size, f"nothing scores above {found.threshold:.3f}: check --diameter, "
            "--dark and voxel sizes, or lower --threshold; no file is written")
        run.report.draw("Template", f"As it was compared. {GALLERY_CAPTION}",
                        plots.class_gallery, model.density, ["template"], size)
        own = _of_template(found, final)
        return given.result(
            found.picks, {**own, "score_map": score_map, "angle_map": angle_map})

    run_once(run, work, given.as_json)


def _is_file(template: str) -> bool:
    """Whether a template is meant as a file and no name."""
    is_name = template in datasets.bead_model_names() or template.partition(":")[0] == "blobs"
    return not is_name


def _model(
    template: str, size: float, template_size: float | None, is_dark: bool, mask: Path | None,
    low_pass: float | None,
) -> TemplateModel:
    """The template and its mask in voxels of a size (angstrom)."""
    if not _is_file(template) or kind_of(template) in MODEL_SUFFIXES:
        if mask is not None:
            raise ValueError(
                f"--template-mask {mask} needs a template that is a map: {template} has no box")
        resolution = max(low_pass or 0.0, 2.0 * size)
        box = suitable_box([template], size, resolution)
        return TemplateModel(load_structure(template, box, size, resolution).map)
    density, in_header = read_cube(template)
    density = -density if is_dark else density
    own_size = template_size or in_header
    if not own_size > 0:
        raise ValueError(f"{template} has no voxel size in its header: give --template-voxel-size")
    weights = None
    if mask is not None:
        weights = read_cube(mask)[0]
        if weights.shape != density.shape:
            raise ValueError(
                f"{mask} has {weights.shape[0]}^3 voxels, {template} {density.shape[0]}^3: a "
                "template's mask must have its box")
    if abs(own_size / size - 1) <= VOXEL_SIZE_TOLERANCE:
        return TemplateModel(density, weights)
    logger.info("%s is resampled from %.4g to %.4g A per voxel", template, own_size, size)
    return TemplateModel(
        change_voxel_size(density, own_size, size),
        None if weights is None else np.clip(change_voxel_size(weights, own_size, size), 0.0, 1.0))


def _with_lengths(
    config: TemplateConfig, diameter: float | None, min_distance: float | None,
    border: float | None, model: TemplateModel, size: float,
) -> TemplateConfig:
    """The settings with the diameter, measured if it is not given, and what is counted in it."""
    if diameter is None:
        diameter = diameter_of(model) * size
        if not diameter > 0:
            raise ValueError("the template shows no particle in the tomogram's voxels of "
                             f"{size:g} A: check voxel sizes, or give --diameter")
        logger.info("the template is %.0f A wide", diameter)
    return dataclasses.replace(
        config, diameter_angst=diameter,
        min_distance=config.min_distance if min_distance is None else min_distance / diameter,
        border=config.border if border is None else border / diameter,
    )


def _write_maps(
    found: TemplateResult, maps: ScoreMaps, shape: tuple[int, ...], size: float,
    score_map: Path | None, angle_map: Path | None,
) -> None:
    """Write the scan's maps in the tomogram's voxels, and the rotations that indices name."""
    if score_map is not None:
        write_volume(score_map, enlarged(maps.score, shape, found.binning, order=1), size)
    if angle_map is None:
        return
    index: FloatArray = (maps.rotation_index + 1).astype(np.float32)
    write_volume(angle_map, enlarged(index, shape, found.binning, order=0), size)
    angles = relion_angles_deg(RigidTransforms(found.rotations, np.zeros_like(found.rotations)))
    table = pd.DataFrame(angles, columns=["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"])
    table.insert(0, "index", np.arange(1, len(table) + 1))
    with replacing(angle_map.with_suffix(".csv")) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")


def _picked(
    found: TemplateResult, config: TemplateConfig, given: PickerArguments, voxel_size: float
) -> Picked:
    """What the report shows."""
    note = f"The threshold is {THRESHOLD_FROM[found.threshold_from]}."
    if found.expected_false_positives is not None:
        note += f" False picks expected above it: {found.expected_false_positives:.2g}."
    return Picked(
        found.picks, given.name, 0.5 * config.diameter_angst / voxel_size,
        "correlation with the template", found.threshold, notes=[note])


def _of_template(found: TemplateResult, config: TemplateConfig) -> dict[str, Any]:
    """What pick-template prints besides what all pickers do."""
    return {
        "threshold": found.threshold,
        "threshold_from": found.threshold_from,
        "expected_false_positives": found.expected_false_positives,
        "chance_sd": found.chance_sd,
        "diameter_angst": config.diameter_angst,
        "n_rotations": len(found.rotations),
        "n_rotations_exhaustive": found.n_rotations_exhaustive,
        "poses_factor": found.poses_factor,
        "n_candidates": found.n_candidates,
        "scan_binning": found.binning,
        "scan_low_pass_angst": found.low_pass_angst,
    }
