"""Verb reconstruct-particles: on stacks made here, and on real ones."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from scipion_faml.cython_ext import _interpolate
from scipy import fft

from scipion_faml.cli import run
from scipion_faml.cli.reconstruct import find_image
from scipion_faml.fourier import (
    oversampled_spectrum,
    sample_set,
    shell_sums,
    spectrum,
    volume_from_spectrum,
)
from scipion_faml.geometry import (
    RigidTransforms,
    compose,
    from_relion,
    random_rotations,
    relion_angles_deg,
    relion_origin_angst,
)
from scipion_faml.io import read_cube
from scipion_faml.simulation.density import rasterise
from scipion_faml.simulation.phantom import blob_model
from scipion_faml.simulation.tilt_series import (
    Microscope,
    central_slices,
    projector,
    tilt_angles_deg,
    tilt_rotations,
)
from scipion_faml.simulation.tilt_weights import TiltOptics, image_transfers
from scipion_faml.sources import open_source
from scipion_faml.tables import read_particles
from scipion_faml.volume import soft_sphere

N, PIXEL = 32, 12.0
FLIP = np.diag([1.0, 1.0, -1.0])


def weighted_average(table):
    """Sum of R^-1 (w X) / sum of R^-1 w over all particles of a table, as a volume."""
    source = open_source(table)
    samples = sample_set(source.n)
    signal, coverage = np.zeros(len(samples), complex), np.zeros(len(samples))
    value, weight = np.empty(len(samples), np.complex64), np.empty(len(samples), np.float32)
    poses = table.poses
    for i, rotation in enumerate(poses.rotation):
        particle = source[i]
        turn = np.ascontiguousarray(rotation)
        half = oversampled_spectrum(particle.volume)
        _interpolate.gather_complex(half, samples.frequency_xyz, 2.0 * turn, value)
        _interpolate.gather_real(
            np.ascontiguousarray(particle.wedge), samples.frequency_xyz, turn, weight
        )
        phase = samples.frequency_xyz @ (rotation.T @ poses.shift_xyz[i])
        signal += weight * value * np.exp(2j * np.pi / source.n * phase)
        coverage += weight
    half = samples.put((signal / np.maximum(coverage, 1e-9)).astype(np.complex64))
    return volume_from_spectrum(half, source.n)


def shell_correlation(first, second):
    x, y = spectrum(first), spectrum(second)
    n = len(first)
    cross = shell_sums((x * y.conj()).real, n)
    return cross / np.sqrt(shell_sums(abs(x) ** 2, n) * shell_sums(abs(y) ** 2, n) + 1e-30)


def write_project(folder, hand=1, noise=0.0, premultiplied=1, n_particles=8):
    """Stacks of a turned phantom in Warp's layout, the tilt axis along -x; return the phantom."""
    rng = np.random.default_rng(0)
    model = blob_model(N, 7)
    volume = rasterise(replace(model, width_angst=0.5 * model.width_angst), N, 1.0)
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    rotations = quarter @ tilt_rotations(tilt_angles_deg(-60, 60, 3))
    n_tilts = len(rotations)
    dose = 3.0 * np.arange(n_tilts)
    defocus = np.full(n_tilts, 25000.0)
    scale = np.ones(n_tilts)
    scale[3] = 0.0
    optics = TiltOptics(defocus, defocus - 2000.0, np.full(n_tilts, 30.0), scale, dose)
    transfers = image_transfers(optics, Microscope(), N, PIXEL)
    poses = RigidTransforms(
        random_rotations(n_particles, rng), rng.uniform(-2, 2, (n_particles, 3))
    )
    density = projector(volume)
    names = []
    for i, rotation in enumerate(poses.rotation):
        shift = poses.shift_xyz[i]
        beam = rotations
        if hand < 0:  # the truth is the other hand of what the tables say
            beam, rotation, shift = rotations @ FLIP, FLIP @ rotation @ FLIP, FLIP @ shift
        slices = central_slices(density, beam @ rotation, beam @ shift)
        raw = slices * transfers + noise * fft.rfft2(rng.normal(size=(n_tilts, N, N)))
        images = fft.irfft2(raw * transfers if premultiplied else raw, (N, N))
        name = folder / "stacks" / f"{i}.mrcs"
        name.parent.mkdir(exist_ok=True, parents=True)
        with mrcfile.new(name) as mrc:
            mrc.set_data(fft.fftshift(images, axes=(1, 2)).astype(np.float32))
            mrc.voxel_size = PIXEL
        names.append(f"project/elsewhere/stacks/{i}.mrcs")
    visible = np.ones(n_tilts, int)
    visible[5] = 0
    rows = pd.DataFrame({
        "rlnTomoName": "T1", "rlnImageName": names, "rlnOpticsGroup": 1, "userNote": "kept",
        "rlnTomoVisibleFrames": "[" + ",".join(str(v) for v in visible) + "]",
    })  # fmt: skip
    for column, values in zip(
        ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), relion_angles_deg(poses).T, strict=True
    ):
        rows[column] = values
    for axis, values in zip("XYZ", relion_origin_angst(poses, PIXEL).T, strict=True):
        rows[f"rlnOrigin{axis}Angst"] = values
    groups = pd.DataFrame({
        "rlnOpticsGroup": [1], "rlnImagePixelSize": [PIXEL], "rlnImageSize": [N],
        "rlnCtfDataAreCtfPremultiplied": [premultiplied], "rlnImageDimensionality": [2],
    })  # fmt: skip
    general = {"rlnTomoSubTomosAre2DStacks": 1}
    starfile.write(
        {"general": general, "optics": groups, "particles": rows}, folder / "particles.star"
    )
    tilts = pd.DataFrame({
        f"rlnTomoProj{axis}": ["[" + ",".join(f"{v:.8f}" for v in (*row, 0)) + "]" for row in rows_]
        for axis, rows_ in zip("XYZ", np.moveaxis(rotations, 1, 0), strict=True)
    })  # fmt: skip
    tilts = tilts.assign(
        rlnDefocusU=defocus, rlnDefocusV=defocus - 2000.0, rlnDefocusAngle=30.0,
        rlnCtfScalefactor=scale, rlnMicrographPreExposure=dose,
    )  # fmt: skip
    table = pd.DataFrame({"rlnTomoName": ["T1"], "rlnTomoHand": [float(hand)]})
    starfile.write({"global": table, "T1": tilts}, folder / "tomograms.star")
    return volume


def reconstruct(folder, *more):
    return run([
        "reconstruct-particles", str(folder / "particles.star"), "--output", str(folder / "out"),
        *more,
    ])  # fmt: skip


@pytest.mark.parametrize("hand, premultiplied", [(1, 1), (-1, 1), (1, 0)])
def test_poses_turn_the_average_onto_the_volumes_in_the_right_hand(tmp_path, hand, premultiplied):
    truth = write_project(tmp_path, hand, noise=0.03, premultiplied=premultiplied)
    assert reconstruct(tmp_path, "--whitening", "0") == 0
    average = weighted_average(read_particles(tmp_path / "out" / "particles.star"))
    mask = soft_sphere(N, 12.0)
    mirrored = np.roll(truth[::-1], 1, axis=0)
    right = shell_correlation(average * mask, truth * mask)
    wrong = shell_correlation(average * mask, mirrored * mask)
    assert right[1:6].min() > 0.9
    assert wrong[2:6].mean() < 0.6


def test_the_hand_can_be_forced(tmp_path):
    write_project(tmp_path, hand=1, n_particles=2)
    assert reconstruct(tmp_path, "--mirror", "yes") == 0
    given = read_particles(tmp_path / "particles.star").poses
    made = read_particles(tmp_path / "out" / "particles.star").poses
    np.testing.assert_allclose(made.rotation, FLIP @ given.rotation @ FLIP, atol=1e-5)
    np.testing.assert_allclose(made.shift_xyz, given.shift_xyz @ FLIP, atol=1e-5)


def test_weights_are_precisions_between_0_and_1_and_nothing_in_the_missing_wedge(tmp_path):
    write_project(tmp_path, noise=0.03)
    assert reconstruct(tmp_path, "--whitening", "1") == 0
    table = read_particles(tmp_path / "out" / "particles.star")
    assert set(table.rows["userNote"]) == {"kept"}
    assert table.optics["rlnImageDimensionality"].iloc[0] == 3
    weight = open_source(table)[0].wedge
    assert weight.min() == 0.0 and weight.max() == 1.0
    # Here the axis lies along y of the specimen: the beam z is missing.
    assert weight[10, 0, 0] == 0.0 and weight[0, 10, 0] > 0.05 and weight[0, 0, 10] > 0.05


def test_threads_do_not_change_the_volumes(tmp_path):
    write_project(tmp_path, noise=0.03, n_particles=3)
    volumes = []
    for workers in ("1", "3"):
        assert reconstruct(tmp_path, "--workers", workers, "--overwrite") == 0
        volumes.append(read_cube(tmp_path / "out" / "subtomograms" / "particle_000003.mrc")[0])
    np.testing.assert_array_equal(*volumes)


@pytest.mark.parametrize("box", [24, 40])
def test_another_box_holds_the_same_particle(tmp_path, box):
    write_project(tmp_path, n_particles=2)
    assert reconstruct(tmp_path, "--box", str(box), "--whitening", "0") == 0
    path = tmp_path / "out" / "subtomograms" / "particle_000001.mrc"
    other = read_cube(path)[0]
    assert other.shape == (box, box, box)
    assert reconstruct(tmp_path, "--overwrite", "--whitening", "0") == 0
    same = read_cube(path)[0]
    crop = [v[tuple(slice(s // 2 - 6, s // 2 + 6) for s in v.shape)] for v in (other, same)]
    assert np.corrcoef(crop[0].ravel(), crop[1].ravel())[0, 1] > 0.9


def test_images_are_found_without_the_project_folder(tmp_path):
    image = tmp_path / "stacks" / "a.mrcs"
    image.parent.mkdir()
    image.touch()
    found = find_image(str(tmp_path / "project/x/stacks/a.mrcs"), tmp_path / "particles.star")
    assert found == str(image)
    with pytest.raises(FileNotFoundError, match=r"b\.mrcs"):
        find_image(str(tmp_path / "project/b.mrcs"), tmp_path / "particles.star")


def test_bad_tables_are_one_line_and_status_2(tmp_path, capsys):
    write_project(tmp_path, n_particles=1)
    blocks = starfile.read(tmp_path / "tomograms.star", always_dict=True)

    def error_of(**changed):
        starfile.write({**blocks, **changed}, tmp_path / "tomograms.star", overwrite=True)
        assert reconstruct(tmp_path) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    tilts = blocks["T1"]
    other = pd.DataFrame({"rlnTomoName": ["T2"]})
    assert "does not describe tomogram T1" in error_of(**{"global": other})
    assert "rlnTomoProjX" in error_of(T1=tilts.drop(columns="rlnTomoProjX"))
    assert "is no rotation" in error_of(T1=tilts.assign(rlnTomoProjX=tilts["rlnTomoProjY"]))
    assert "entries" in error_of(T1=tilts.iloc[:-1])
    (tmp_path / "tomograms.star").unlink()
    assert reconstruct(tmp_path) == 2
    assert "--tomograms" in capsys.readouterr().err


# ------------------------------------------------------------------------------------- real data
def real_stacks():
    root = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("FAML_SHARED_DATA", root)) / "real_subtomograms/tomodrgn_10499"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: set FAML_SHARED_DATA")
    return folder


def test_real_ribosomes_average_to_the_published_map(tmp_path, capsys):
    folder = real_stacks()
    output = tmp_path / "out"
    arguments = ["reconstruct-particles", str(folder / "particles.star"), "--output", str(output)]
    assert run([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n_particles"] == 40 and result["mirrored"] is True
    average = weighted_average(read_particles(output / "particles.star"))
    published = read_cube(folder / "reconstruct.mrc")[0]
    fsc = shell_correlation(average, published)
    # Shell 10 of 32 x 12 A is 38 A. No mask beyond the one in the volumes.
    assert fsc[1:11].min() > 0.5
    assert fsc[1] > 0.95 and fsc[1:11].mean() > 0.65
    other_hand = shell_correlation(np.roll(average[::-1], 1, axis=0), published)
    assert other_hand[4:11].mean() < 0.2


def test_given_angles_of_the_real_particles_come_through_unchanged_but_for_the_mirror(tmp_path):
    folder = real_stacks()
    output = tmp_path / "out"
    arguments = ["reconstruct-particles", str(folder / "particles.star"), "--output", str(output)]
    assert run([*arguments, "--mirror", "no"]) == 0
    given = starfile.read(folder / "particles.star", always_dict=True)["particles"]
    angles = given[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float)
    made = read_particles(output / "particles.star").poses
    expected = from_relion(angles, np.zeros((40, 3)), PIXEL)
    difference = compose(
        RigidTransforms.from_rotation(np.swapaxes(expected.rotation, 1, 2), np.zeros((40, 3))), made
    )
    np.testing.assert_allclose(difference.rotation, np.tile(np.eye(3), (40, 1, 1)), atol=1e-5)
