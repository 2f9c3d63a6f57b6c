"""Fourier shell correlation: how far two maps agree, frequency by frequency.

    FSC(s) = Re sum_{|k| in s} F1 conj(F2) / sqrt(sum |F1|^2 sum |F2|^2)

over shells of rounded |k|, as RELION forms them, each of the n^3 samples counted once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipion_faml.fourier import frequency_radius, shell_sums, spectrum, volume_from_spectrum
from scipion_faml.types import ComplexArray, FloatArray

# Phases are randomised from where the unmasked FSC falls to this (Chen et al. 2013).
RANDOMISE_FROM = 0.8
ROUNDING = 1e-12  # of the strongest shell's power: float32
BY_CHANCE = 4.0  # standard errors that halves of noise do not exceed
SMEARED_SHELLS = 2  # in which a mask mixes kept and random phases


def fourier_shell_correlation(
    first: FloatArray, second: FloatArray, mask: FloatArray | None = None
) -> FloatArray:
    """Return the FSC of two volumes (n, n, n) on shells 0 .. n // 2 - 1; 0 where one has no power.

    Shell s lies at frequency s / (n voxel sizes). `mask` multiplies both volumes first.

    Raises
    ------
    ValueError
        If shapes differ or are no cubes.
    """
    if first.shape != second.shape or len(set(first.shape)) != 1 or first.ndim != 3:
        raise ValueError(f"the FSC needs two cubes of one size, got {first.shape}, {second.shape}")
    return _correlate(*(_masked_spectrum(v, mask) for v in (first, second)))


def _masked_spectrum(volume: FloatArray, mask: FloatArray | None) -> ComplexArray:
    """Spectrum in double precision, after the mask."""
    values = np.asarray(volume, dtype=np.float64)
    if mask is None:
        return spectrum(values)
    if mask.shape != volume.shape:
        raise ValueError(f"the mask has shape {mask.shape}, the volume {volume.shape}")
    return spectrum(values * mask)


def _correlate(first: ComplexArray, second: ComplexArray) -> FloatArray:
    """FSC of two spectra."""
    n = first.shape[0]
    product: FloatArray = (first * second.conj()).real
    cross = shell_sums(product, n)
    power = _power(first) * _power(second)
    # An empty map, or one filtered to nothing, has no phase to agree with.
    has_power = power > np.finfo(float).tiny
    return np.where(has_power, cross / np.sqrt(np.where(has_power, power, 1.0)), 0.0)


def _power(half: ComplexArray) -> FloatArray:
    """Sum of |F|^2 in every shell."""
    squared: FloatArray = half.real**2 + half.imag**2
    return shell_sums(squared, half.shape[0])


def filled_shells(first: FloatArray, second: FloatArray) -> int:
    """Return how many shells, from 0, hold more than rounding errors in both volumes.

    Averages that were made up to some frequency are empty beyond; a mask smears into it what the
    shells below hold, and two such maps then seem to agree there.
    """
    filled = first.shape[0] // 2
    for volume in (first, second):
        power = _power(spectrum(np.asarray(volume, dtype=np.float64)))
        samples = shell_sums(np.ones_like(frequency_radius(volume.shape[0])), volume.shape[0])
        level = power / samples
        filled = min(filled, int(np.flatnonzero(level > ROUNDING * level.max())[-1]) + 1)
    return filled


def frequencies_per_angst(n: int, voxel_size_angst: float) -> FloatArray:
    """Return the spatial frequency (1/angstrom) of every shell of a box of n voxels."""
    return np.arange(n // 2) / (n * voxel_size_angst)


def resolution_angst(
    fsc: FloatArray, n: int, voxel_size_angst: float, threshold: float
) -> float:
    """Return where an FSC first falls below `threshold`, between shells by a straight line.

    A curve that stays above it gives the last shell's resolution: the truth may be better. One that
    is below it at once gives a value beyond the box size: shell 0 counts as 1.
    """
    curve = np.concatenate([[1.0], np.asarray(fsc, dtype=np.float64)[1:]])
    below = np.flatnonzero(curve < threshold)
    if not len(below):
        return n * voxel_size_angst / (len(curve) - 1)
    last = int(below[0]) - 1
    shell = last + (curve[last] - threshold) / (curve[last] - curve[last + 1])
    return float(n * voxel_size_angst / shell)


def agreement(fsc: FloatArray, n: int, n_copies: int = 1) -> float:
    """Return by how many standard errors independent halves agree more than noise does.

    The FSC of noise on a shell of P pairs of samples has a variance of 1 / P. Shells are taken
    together up to the one where the sum says most, so noise gives 1 to 3, seldom more than
    `BY_CHANCE`.

    Parameters
    ----------
    fsc : (n_shells,)
        Of two maps of n^3 voxels, from shell 0.
    n_copies : int
        Equivalent places of a symmetry, whose samples are no independent ones.
    """
    count = shell_sums(np.ones((n, n, n // 2 + 1)), n)[1 : len(fsc)]
    pairs = count / (2.0 * n_copies)
    agreed = np.cumsum(pairs * np.asarray(fsc, dtype=np.float64)[1:])
    return float(np.max(agreed / np.sqrt(np.cumsum(pairs))))


@dataclass(frozen=True, eq=False)
class MaskedFsc:
    """The curves of two masked half maps, each on shells 0 .. n // 2 - 1."""

    unmasked: FloatArray
    masked: FloatArray  # FSC_t
    randomised: FloatArray  # FSC_n: masked, after the phases beyond a shell were randomised
    corrected: FloatArray  # FSC_true
    random_from: int | None  # shell from which phases are random; None where none had to be


def masked_fsc(
    first: FloatArray, second: FloatArray, mask: FloatArray, rng: np.random.Generator
) -> MaskedFsc:
    """Return the FSC of two half maps inside a mask, without what the mask itself correlates.

    FSC_true = (FSC_t - FSC_n) / (1 - FSC_n), FSC_n being that of the maps whose phases are random
    from the shell on where their unmasked FSC falls to 0.8, then masked (Chen et al. 2013,
    Ultramicroscopy 135). As in RELION the correction begins two shells later, because the mask
    smears the kept phases across the border, and where FSC_n exceeds FSC_t the result is 0.

    Parameters
    ----------
    first, second, mask : (n, n, n)
        Halves of one set; the mask lies in 0 to 1.
    rng : Generator
        Of the random phases.
    """
    unmasked = fourier_shell_correlation(first, second)
    masked = fourier_shell_correlation(first, second, mask)
    below = np.flatnonzero(unmasked[1:] < RANDOMISE_FROM) + 1
    if not len(below):
        return MaskedFsc(unmasked, masked, masked.copy(), masked.copy(), None)
    start = int(below[0])
    randomised = fourier_shell_correlation(
        randomise_phases(first, start, rng), randomise_phases(second, start, rng), mask
    )
    corrected = without_mask_correlation(masked, randomised, start + SMEARED_SHELLS)
    return MaskedFsc(unmasked, masked, randomised, corrected, start)


def without_mask_correlation(
    masked: FloatArray, randomised: FloatArray, from_shell: int
) -> FloatArray:
    """Return FSC_true of FSC_t and FSC_n from a shell on, FSC_t below it."""
    corrected = masked.copy()
    total, noise = masked[from_shell:], randomised[from_shell:]
    exceeds = total > noise  # so that noise < 1
    rest = np.where(exceeds, 1.0 - noise, 1.0)
    corrected[from_shell:] = np.where(exceeds, (total - noise) / rest, 0.0)
    return corrected


def corrected_fsc(
    first: FloatArray, second: FloatArray, mask: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Return the FSC of `masked_fsc` that is corrected for the mask."""
    return masked_fsc(first, second, mask, rng).corrected


def randomise_phases(
    volume: FloatArray, from_shell: int, rng: np.random.Generator
) -> FloatArray:
    """Return the volume with random phases at |k| >= from_shell and its amplitudes kept."""
    n = volume.shape[0]
    half = spectrum(np.asarray(volume, dtype=np.float64))
    # The phases of a real white-noise volume have the Hermitian symmetry that is needed.
    noise = spectrum(rng.standard_normal(volume.shape))
    phase = noise / np.maximum(np.abs(noise), np.finfo(float).tiny)
    is_random = frequency_radius(n) >= from_shell
    mixed: ComplexArray = np.where(is_random, np.abs(half) * phase, half)
    return volume_from_spectrum(mixed, n)
