"""Structures by name or file: shipped bead models, the phantom, PDB / mmCIF files, MRC maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from scipion_faml import datasets
from scipion_faml.fourier import frequency_radius, low_pass, spectrum, volume_from_spectrum
from scipion_faml.io import read_header, read_volume
from scipion_faml.simulation.density import (
    PROTEIN_LEVEL,
    BeadModel,
    Structure,
    centred,
    radius_angst,
    rasterise,
    structure_of_beads,
    width_of_resolution,
)
from scipion_faml.simulation.phantom import blob_model
from scipion_faml.types import FloatArray
from scipion_faml.volume import check_edge, crop_or_pad

MODEL_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")
MAP_SUFFIXES = (".mrc", ".map", ".rec")
PHANTOM_WIDTH = 0.8  # diameter of a phantom's visible part, of the box that it is made in


def load_structures(
    models: Sequence[str],
    n: int,
    voxel_size_angst: float,
    resolution_angst: float,
    assembly: str = "auto",
) -> list[Structure]:
    """Return the structures of `models` in boxes of n voxels, with different names.

    A model is the name of a shipped bead model, `blobs`, `blobs:SEED` or `blobs:SEED:ANGSTROM` (of
    the diameter), a PDB or mmCIF file or an MRC map (files may be gzipped). See `read_atoms` about
    `assembly`.

    Raises
    ------
    OSError, ValueError
        If a name is unknown, a file cannot be read, or the box is too small.
    """
    if not resolution_angst > 0:
        raise ValueError(f"--resolution {resolution_angst:g} A is not possible: give it above 0")
    structures: list[Structure] = []
    for model in models:
        structure = load_structure(model, n, voxel_size_angst, resolution_angst, assembly)
        same = sum(structure.name == other.name for other in structures)
        if same:
            raise ValueError(f"model {model} is given twice: give it once, with the sum of counts")
        structures.append(structure)
    return structures


def suitable_box(
    models: Sequence[str], voxel_size_angst: float, resolution_angst: float, assembly: str = "auto"
) -> int:
    """Return an even box size (voxels) that holds every model whole, under any rotation.

    A phantom without a diameter takes 32 voxels, a map its own size.
    """
    sizes = []
    for model in models:
        kind = kind_of(model)
        if kind in MAP_SUFFIXES:
            shape, voxel_size = read_header(model)
            sizes.append(max(shape) * voxel_size / voxel_size_angst)
        elif kind in MODEL_SUFFIXES or model in datasets.bead_model_names():
            beads = (
                read_atoms(model, assembly)
                if kind in MODEL_SUFFIXES
                else datasets.load_bead_model(model)
            )
            reach = radius_angst(centred(beads), 1.0) + 3.0 * width_of_resolution(resolution_angst)
            sizes.append(2.0 * reach / voxel_size_angst)
        else:
            diameter_angst = _phantom_words(model)[1] if _is_phantom(model) else None
            sizes.append(1.4 * diameter_angst / voxel_size_angst if diameter_angst else 32.0)
    return 2 * int(np.ceil(check_edge(max(sizes), "the structures' box") / 2.0))


def _is_phantom(model: str) -> bool:
    return model == "blobs" or model.startswith("blobs:")


def kind_of(model: str) -> str:
    """File suffix of a model, without .gz, in lower case."""
    suffixes = [suffix.lower() for suffix in Path(model).suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def load_structure(
    model: str, n: int, voxel_size_angst: float, resolution_angst: float, assembly: str = "auto"
) -> Structure:
    """Return one structure in a box of n voxels (`load_structures`)."""
    blur_angst = width_of_resolution(resolution_angst)
    if model in datasets.bead_model_names():
        beads = datasets.load_bead_model(model)
        return structure_of_beads(beads, n, voxel_size_angst, blur_angst)
    if _is_phantom(model):
        return _phantom(model, n, voxel_size_angst)
    kind = kind_of(model)
    if kind in MODEL_SUFFIXES:
        return structure_of_beads(read_atoms(model, assembly), n, voxel_size_angst, blur_angst)
    if kind in MAP_SUFFIXES:
        return _structure_of_map(model, n, voxel_size_angst, resolution_angst)
    raise ValueError(
        f"model {model!r} is unknown: give a PDB, mmCIF or MRC file, blobs, blobs:SEED or one of "
        f"{', '.join(datasets.bead_model_names())}"
    )


def _phantom(model: str, n: int, voxel_size_angst: float) -> Structure:
    """The phantom `blobs`, `blobs:SEED` or `blobs:SEED:ANGSTROM`; it knows no resolution.

    Without a diameter it scales with the box.
    """
    seed, diameter_angst = _phantom_words(model)
    size = n if diameter_angst is None else diameter_angst / (PHANTOM_WIDTH * voxel_size_angst)
    beads = blob_model(1, seed, size * voxel_size_angst)
    level = float(rasterise(beads, n, voxel_size_angst).max())
    gain = PROTEIN_LEVEL * voxel_size_angst**3 / level
    beads = replace(beads, weight=gain * beads.weight, name=model)
    return structure_of_beads(beads, n, voxel_size_angst, 0.0)


def _phantom_words(model: str) -> tuple[int, float | None]:
    """Seed and diameter (angstrom) in the name of a phantom."""
    seed, _, diameter = model.partition(":")[2].partition(":")
    if not (seed or "0").isdecimal() or not (diameter or "1").isdecimal() or diameter == "0":
        raise ValueError(
            f"model {model!r}: seed and diameter (A) must be whole numbers, for example blobs:1 or "
            "blobs:1:120"
        )
    return int(seed or "0"), float(diameter) if diameter else None


def _stem(path: str) -> str:
    name = Path(path).name
    for suffix in (".gz", *MODEL_SUFFIXES, *MAP_SUFFIXES):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name


@lru_cache(maxsize=4)
def read_atoms(path: str, assembly: str = "auto") -> BeadModel:
    """Return the atoms of a PDB or mmCIF file as beads of width 0, without waters.

    Weights are electron scattering factors at zero angle (integrals of the electrostatic
    potential), times occupancy.

    Parameters
    ----------
    path : str
        The file, or the file gzipped.
    assembly : str
        Name of the biological assembly to build; `none`: the coordinates as they are; `auto`: the
        first assembly that the authors determined, else the coordinates as they are (assemblies
        guessed by software are wrong too often).

    Raises
    ------
    OSError, ValueError
        If the file is missing, unreadable, has no atoms or not that assembly.
    """
    import gemmi

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        entry = gemmi.read_structure(str(path))
        entry.setup_entities()
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{path} is not a readable PDB or mmCIF file ({error})") from error
    if len(entry) == 0:
        raise ValueError(f"{path} holds no atoms")
    molecule = _assemble(entry, assembly, path)
    factor: dict[str, float] = {}
    position, weight = [], []
    for chain in molecule:
        for residue in chain:
            if residue.is_water():
                continue
            for atom in residue:
                symbol = atom.element.name
                if symbol not in factor:
                    factor[symbol] = _scattering(atom.element)
                position.append(atom.pos.tolist())
                weight.append(factor[symbol] * atom.occ)
    if not position or not np.sum(weight) > 0:
        raise ValueError(f"{path} holds no atoms")
    return BeadModel(
        np.array(position), np.zeros(len(weight)), np.array(weight), _stem(path), entry.name
    )


def _assemble(entry, assembly: str, path: str):  # type: ignore[no-untyped-def]
    """The gemmi model of the wanted assembly of a gemmi structure."""
    import gemmi

    if assembly == "none":
        return entry[0]
    if assembly == "auto":
        chosen = [a for a in entry.assemblies if a.author_determined][:1]
    else:
        chosen = [a for a in entry.assemblies if a.name == assembly]
        if not chosen:
            names = ", ".join(a.name for a in entry.assemblies) or "none"
            raise ValueError(f"{path} has no assembly {assembly!r}; it has: {names}")
    if not chosen:
        return entry[0]
    return gemmi.make_assembly(chosen[0], entry[0], gemmi.HowToNameCopiedChain.Short)


def _scattering(element) -> float:  # type: ignore[no-untyped-def]
    """Electron scattering factor of an element at zero angle (angstrom); unknown ones as carbon."""
    import gemmi

    table = element.c4322
    if table is None:
        table = gemmi.Element("C").c4322
    return float(table.calculate_sf(0.0))


def _structure_of_map(
    path: str, n: int, voxel_size_angst: float, resolution_angst: float
) -> Structure:
    """An MRC map (density positive), low-pass filtered and resampled about its centre."""
    volume, voxel_size_of_file = read_volume(path)
    if not voxel_size_of_file > 0:
        raise ValueError(f"{path} has no voxel size in its header: set it (angstrom)")
    n_file = max(volume.shape)
    # The mean of the faces is the solvent: padding with it leaves no edge.
    faces = np.concatenate([volume[0].ravel(), volume[-1].ravel(), volume[:, 0].ravel()])
    cube = crop_or_pad(volume - faces.mean(), (n_file, n_file, n_file))
    cube = low_pass(cube, voxel_size_of_file, 1.2 * resolution_angst)
    density = crop_or_pad(
        change_voxel_size(cube, voxel_size_of_file, voxel_size_angst), (n, n, n)
    )
    level = float(np.percentile(density, 99.9))
    if not level > 0:
        raise ValueError(f"{path} holds no density above its border: invert its contrast, or use "
                         "another map")
    density *= np.float32(PROTEIN_LEVEL * voxel_size_angst**3 / level)
    return Structure(_stem(path), density, voxel_size_angst)


def change_voxel_size(volume: FloatArray, from_angst: float, to_angst: float) -> FloatArray:
    """Return a cube on voxels of another size, in a box that holds it whole, centre on centre.

    Frequencies that the new voxels cannot hold are dropped; grey levels stay.

    Raises
    ------
    ValueError
        If that box would be too large for any machine.
    """
    n = volume.shape[0]
    n_new = 2 * int(np.ceil(check_edge(n * from_angst / to_angst, "a resampled map") / 2.0))
    nyquist = 0.5 * n * from_angst / to_angst
    half = spectrum(volume) * (frequency_radius(n) <= nyquist)
    scale = to_angst / from_angst
    changed: FloatArray = ndimage.affine_transform(
        volume_from_spectrum(half, n), scale * np.eye(3), n // 2 - scale * (n_new // 2),
        output_shape=(n_new, n_new, n_new), order=3, mode="constant",
    )
    return changed.astype(np.float32)
