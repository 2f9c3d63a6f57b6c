"""Oracles of template matching: direct sums, and the published search of cryoCAT's peak analysis.

The published search (cryocat_peak) turns template and mask about voxel n // 2 by linear
interpolation, R = Rz(psi) Rx(theta) Rz(phi) with columns phi, psi, theta of the angle list; means
and s.d. of the template are those over voxels where the mask is above 0, each counted once; the
correlation is that of the package, repeated at the box's ends, negative values set to 0.
"""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scipion_faml.geometry import (
    RigidTransforms,
    euler_to_matrix,
    random_rotations,
    rotation_angle_deg,
)
from scipion_faml.picking.template.correlation import (
    Template,
    piece_margins,
    prepare_piece,
    prepare_template,
)
from scipion_faml.picking.template.filters import band_pass
from scipion_faml.structures import load_structure
from scipion_faml.volume import move_volume, squared_radius

PEAK = Path("real_subtomograms") / "cryocat_peak"
TEMPLATE = Path("maps") / "cryocat_ribosome_bin4_48.em.gz"
SUBTOMOGRAM = "subtomo_ribosome_mmotl_ribosome_b4_trim_shift_t126_t126_b4_s48.em"
START_DEG = (-0.411447762773456, 7.545420764969551, 10.595623959307982)  # phi, psi, theta


def local_correlation(values, template, mask, corner):
    """Correlation coefficient under a mask with the part of `values` that begins at `corner`."""
    inside = tuple(slice(c, c + s) for c, s in zip(corner, mask.shape, strict=True))
    f, t, m = (np.asarray(v, dtype=np.float64) for v in (values[inside], template, mask))
    total = m.sum()
    f, t = f - (m * f).sum() / total, t - (m * t).sum() / total
    return (m * t * f).sum() / np.sqrt((m * t**2).sum() * (m * f**2).sum())


# ------------------------------------------------------------------------------ published search
def has_peak_data(data: Path) -> bool:
    """Whether the published search is there."""
    return (data / PEAK / "mask48_r22.em.gz").is_file() and (data / TEMPLATE).is_file()


def read_em(path: Path) -> np.ndarray:
    """An EM volume of float32, [z, y, x]."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    n_x, n_y, n_z = struct.unpack("<3i", raw[4:16])
    values = np.frombuffer(raw, dtype="<f4", offset=512, count=n_x * n_y * n_z)
    return values.reshape(n_z, n_y, n_x).astype(np.float32)


def zxz(phi_psi_theta_deg: Any) -> np.ndarray:
    """Rz(psi) Rx(theta) Rz(phi)."""
    phi, psi, theta = np.deg2rad(phi_psi_theta_deg)

    def about(a: int, b: int, angle: float) -> np.ndarray:
        matrix = np.eye(3)
        matrix[a, a] = matrix[b, b] = np.cos(angle)
        matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
        return matrix

    return about(0, 1, psi) @ about(1, 2, theta) @ about(0, 1, phi)


def published(data: Path) -> dict[str, np.ndarray]:
    """Template, mask, score volume, index volume (from 0) and rotations of the published search."""
    folder = data / PEAK
    angles = np.loadtxt(folder / "AGL_anglist_20_deg_c1.csv", delimiter=",")
    name = "expected_ribosome_id_0_results_id_0_{}.em.gz"
    return {
        "template": read_em(data / TEMPLATE), "mask": read_em(folder / "mask48_r22.em.gz"),
        "score": read_em(folder / name.format("scores")),
        "index": read_em(folder / name.format("angles")).astype(np.intp) - 1,
        "rotation": np.stack([zxz(row) for row in angles]),
    }


def their_score(volume: np.ndarray, template: np.ndarray, mask: np.ndarray, rotation: np.ndarray):
    """One rotation of the published search, by its definition, through our transforms."""
    pose = RigidTransforms.from_rotation(rotation[None], np.zeros((1, 3)))
    turned, weight = move_volume(template, pose, order=1), move_volume(mask, pose, order=1)
    weight = np.clip(np.where(weight < 1e-3, 0.0, weight), 0.0, 1.0)
    under = turned[weight > 0]
    kernel = (turned - under.mean()) / under.std() * weight
    n = len(volume)
    shifts = [np.fft.fftn(np.fft.ifftshift(v)) for v in (kernel, weight)]
    spectra = [np.fft.fftn(v) for v in (volume - volume.mean(), (volume - volume.mean()) ** 2)]

    def correlated(k: np.ndarray, f: np.ndarray) -> np.ndarray:
        return np.fft.ifftn(np.conj(k) * f).real

    spread = weight.sum() * correlated(shifts[1], spectra[1])
    spread -= correlated(shifts[1], spectra[0]) ** 2
    assert spread.shape == (n, n, n)
    return np.clip(correlated(shifts[0], spectra[0]) / np.sqrt(spread), 0.0, 1.0)


def our_scan(volume: np.ndarray, template: Template, rotation: np.ndarray):
    """Best score and its index at every voxel, the volume repeated at its ends."""
    before, after = piece_margins(template.support)
    piece = prepare_piece(np.pad(volume, [(before, after)] * 3, mode="wrap"), template, 1e-9)
    best = np.full(volume.shape, -np.inf, dtype=np.float32)
    index = np.zeros(volume.shape, dtype=np.intp)
    for r in range(len(rotation)):
        score = piece.correlation(template, rotation[r])
        better = score > best
        best[better], index[better] = score[better], r
    return best, index


def compare_with_published(data: Path, every: int) -> dict[str, Any]:
    """Our scan of the published searches at every n-th of their rotations; what agrees.

    Template against itself (volumes are published), and against a real subtomogram with its wedge
    (peak and its place are published). Masks are balls and are not turned.
    """
    theirs = published(data)
    n = len(theirs["template"])
    template, rotation = theirs["template"], theirs["rotation"]
    band = band_pass(1.0, None, None)
    ours = prepare_template(template, band.on((n, n, n)), mask=theirs["mask"])
    best, index = our_scan(
        band.applied(template / template.std()), replace(ours, turns_mask=False),
        rotation[::every])
    score = np.clip(best, 0.0, 1.0)
    turn = rotation_angle_deg(rotation[::every][index], rotation[theirs["index"]])
    high = theirs["score"] > 0.3
    volume, transfer = _filtered_subtomogram(data)
    wedged = prepare_template(template, transfer, mask=theirs["mask"])
    real, _ = our_scan(
        volume, replace(wedged, turns_mask=False), (rotation @ zxz(START_DEG))[::every])
    near = np.where(squared_radius(n) <= 100, real, -1.0)
    return {
        "rotations": len(rotation[::every]),
        "correlation of score volumes": float(
            np.corrcoef(score.ravel(), theirs["score"].ravel())[0, 1]),
        "highest": float(score.max()), "published highest": float(theirs["score"].max()),
        "place": [int(i) for i in np.unravel_index(score.argmax(), score.shape)],
        "published place": [
            int(i) for i in np.unravel_index(theirs["score"].argmax(), score.shape)],
        "same rotation where score > 0.3": float((turn[high] < 1e-3).mean()),
        "within 21 deg there": float((turn[high] < 21.0).mean()),
        "real, highest": float(near.max()), "real, published highest": 0.14795902371406555,
        "real, place": [int(i) for i in np.unravel_index(near.argmax(), near.shape)],
        "real, published place": [20, 25, 25],
    }


def _filtered_subtomogram(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """The real subtomogram through its filter, and the filter of the template, half a spectrum."""
    folder = data / PEAK
    volume = read_em(folder / SUBTOMOGRAM).astype(np.float64)
    measured = read_em(folder / "tile_filt_48_t126_b4_f24.em.gz")
    spectrum = np.fft.fftn(volume / volume.std()) * measured
    spectrum[0, 0, 0] = 0.0
    filtered = np.fft.ifftn(spectrum).real
    transfer = read_em(folder / "tmpl_filt_48_t126_b4_f24.em.gz")
    n = len(transfer)
    minus = (-np.arange(n)) % n
    even = 0.5 * (transfer + transfer[minus][:, minus][:, :, minus])
    return (filtered / filtered.std()).astype(np.float32), np.ascontiguousarray(
        even[:, :, : n // 2 + 1])


# ----------------------------------------------------------------------------------- a small scene
VOXEL, DIAMETER = 16.0, 195.0
PLACES = np.array([[12, 14, 15], [20, 44, 18], [16, 20, 46], [22, 48, 50]])  # z, y, x


def cut_wedge(values):
    """Values without what tilts of +-60 deg do not measure."""
    half = np.fft.rfftn(values)
    kz, kx = np.fft.fftfreq(values.shape[0])[:, None, None], np.fft.rfftfreq(values.shape[2])
    half *= np.abs(np.arctan2(kz, kx)) <= np.deg2rad(60.0)
    return np.fft.irfftn(half, values.shape).astype(np.float32)


def groel_map(n=20, voxel_size=VOXEL):
    """A template."""
    return load_structure("groel", n, voxel_size, 40.0).map


def groel_scene():
    """Four GroEL in noise with a missing wedge, and their rotations."""
    groel, rng = groel_map(), np.random.default_rng(4)
    values = np.zeros((36, 62, 64), dtype=np.float32)
    rotation = euler_to_matrix(random_rotations(len(PLACES), rng))
    for place, matrix in zip(PLACES, rotation, strict=True):
        pose = RigidTransforms.from_rotation(matrix[None], np.zeros((1, 3)))
        inside = tuple(slice(c - 10, c + 10) for c in place)
        values[inside] += move_volume(groel, pose)
    values /= groel.std()
    return cut_wedge(values + 1.5 * rng.normal(size=values.shape)), rotation
