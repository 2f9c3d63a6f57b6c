"""A turned, filtered, masked template, and its local correlation with a piece of a tomogram.

With the mask m, 0 to 1, P = sum m, and T_R the template turned by R, filtered and cut by the
missing wedge, the template that is correlated is

    t(r) = m(r) (T_R(r) - T') / (P s_T),   T' = sum m T_R / P,   s_T^2 = sum m (T_R - T')^2 / P,

so that sum_r t(r) f(x + r) / s_f(x), s_f^2 = sum m f^2 / P - (sum m f / P)^2, is the coefficient of
the package's head: -1 to 1. A mask that is a ball is the same under every R: s_f is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft

from scipion_faml.cython_ext import _scoring
from scipion_faml.fourier import (
    OVERSAMPLING,
    SampleSet,
    complex_fft,
    inverse_real_fft,
    real_fft,
    sample_set,
    turnable_spectrum,
    volume_from_spectrum,
)
from scipion_faml.geometry import RigidTransforms
from scipion_faml.types import ComplexArray, FloatArray, IntArray
from scipion_faml.volume import check_cube, move_volume, soft_sphere

MASK_EDGE = 2.0  # voxels over which a spherical mask falls to 0
SMALLEST_SPREAD = 0.05  # of the tomogram's s.d.: where there is less, nothing was imaged
NEGLIGIBLE = 1e-3  # of a mask that is turned: what interpolation leaves beyond its edge
Y_BLOCK = 16  # rows whose transforms along z are worked on together: they fit a core's cache


@dataclass(frozen=True, eq=False)
class Template:
    """A template ready to be turned. Build it with `prepare_template`."""

    turnable: ComplexArray  # spectrum of what lies under the mask, before filters
    samples: SampleSet  # those that pass the filters
    transfer: FloatArray  # (J,) float32 at them: filters and wedge
    mask: FloatArray  # (n, n, n) float32, 0 to 1
    turns_mask: bool
    support: int  # odd: edge of the cube about the centre that holds the mask however turned

    @property
    def n(self) -> int:
        """Voxels along an edge of its box."""
        return self.samples.n

    def filtered(self, rotation: FloatArray) -> FloatArray:
        """Return the template turned by a matrix (3, 3) and filtered, (s, s, s), s = support."""
        kept = np.empty(len(self._kept), dtype=np.complex64)
        matrix = np.ascontiguousarray(OVERSAMPLING * rotation.T, dtype=np.float64)
        _scoring.gather(self.turnable, self._kept_axes, matrix, kept)
        values = np.zeros(len(self.samples), dtype=np.complex64)
        values[self._kept] = kept * self.transfer[self._kept]
        return self._cut(volume_from_spectrum(self.samples.put(values), self.n))

    def turned_mask(self, rotation: FloatArray) -> FloatArray:
        """Return the mask turned by a matrix, (s, s, s)."""
        if not self.turns_mask:
            return self._support_mask
        pose = RigidTransforms.from_rotation(rotation[None], np.zeros((1, 3)))
        mask = np.clip(self._cut(move_volume(self.mask, pose, order=1)), 0.0, 1.0)
        mask[mask < NEGLIGIBLE] = 0.0
        return mask

    def standardised(self, rotation: FloatArray, mask: FloatArray) -> FloatArray:
        """Return t of the module's head for a turned mask, (s, s, s) float32."""
        return standardised(self.filtered(rotation), mask)

    @cached_property
    def _kept(self) -> IntArray:
        """Samples that the filters let through."""
        return np.flatnonzero(self.transfer)

    @cached_property
    def _kept_axes(self) -> FloatArray:
        return np.ascontiguousarray(self.samples.axes[:, self._kept])

    @cached_property
    def _support_mask(self) -> FloatArray:
        return self._cut(self.mask)

    def _cut(self, volume: FloatArray) -> FloatArray:
        """The cube about the centre that holds the mask."""
        start = self.n // 2 - self.support // 2
        inside = slice(start, start + self.support)
        return np.ascontiguousarray(volume[inside, inside, inside])


def standardised(volume: FloatArray, mask: FloatArray) -> FloatArray:
    """Return a volume with mean 0 and s.d. 1 / sum(mask) under a mask, times the mask, float32.

    Raises
    ------
    ValueError
        If it is constant under the mask.
    """
    weight = mask.astype(np.float64)
    total = weight.sum()
    centred = volume - (weight * volume).sum() / total
    spread = np.sqrt((weight * centred**2).sum() / total)
    if not spread > 0:
        raise ValueError("the template is constant under its mask: check both")
    scaled: FloatArray = (mask * centred / (total * spread)).astype(np.float32)
    return scaled


def prepare_template(
    density: FloatArray,
    transfer: FloatArray,
    radius: float | None = None,
    mask: FloatArray | None = None,
) -> Template:
    """Return a template (n, n, n) under a ball of `radius` voxels, or under a `mask` (n, n, n).

    Parameters
    ----------
    transfer : (n, n, n // 2 + 1)
        What the turned template's spectrum is multiplied by: wedge and filters, in the tomogram's
        frame.

    Raises
    ------
    ValueError
        If shapes differ, the template is constant, or the mask does not fit its box.
    """
    density = check_cube(density, "the template")
    n = density.shape[0]
    if transfer.shape != (n, n, n // 2 + 1):
        raise ValueError(f"filters of shape {transfer.shape} do not fit a template box of {n}")
    turns_mask = mask is not None
    if mask is None:
        if radius is None or not radius > 0:
            raise ValueError("a template needs a mask or the radius of one, above 0")
        mask = soft_sphere(n, radius, MASK_EDGE)
        reach = radius + MASK_EDGE
    else:
        mask = _checked_mask(mask, n)
        offset = np.argwhere(mask > NEGLIGIBLE) - n // 2
        reach = float(np.sqrt((offset**2).sum(axis=1).max())) + 1.0
    support = 2 * int(np.ceil(reach)) + 1
    if support > n:
        raise ValueError(
            f"the mask reaches {reach:.0f} voxels from the centre, the template's box of {n} holds "
            f"{n // 2}: use a smaller --diameter or a larger box")
    total = float(mask.sum(dtype=np.float64))
    level = float((mask * density).sum(dtype=np.float64)) / total
    # What lies outside the mask is not looked for, and filters would carry it in.
    inside = ((density - level) * (mask > NEGLIGIBLE)).astype(np.float32)
    if not np.ptp(inside[mask > NEGLIGIBLE]) > 0:
        raise ValueError("the template is constant under its mask: check both")
    samples = sample_set(n)
    return Template(
        turnable_spectrum(inside, samples.radius), samples,
        np.asarray(samples.take(transfer), dtype=np.float32), mask, turns_mask, support,
    )


def _checked_mask(mask: FloatArray, n: int) -> FloatArray:
    if mask.shape != (n, n, n):
        raise ValueError(
            f"the template's mask has {' x '.join(map(str, mask.shape[::-1]))} voxels, the "
            f"template {n} x {n} x {n}: they must be alike")
    if not mask.max() > NEGLIGIBLE or mask.min() < -1e-6 or mask.max() > 1.0 + 1e-5:
        raise ValueError(
            f"the template's mask has values from {mask.min():g} to {mask.max():g}: scale it to "
            "0 to 1")
    return np.asarray(np.clip(mask, 0.0, 1.0), dtype=np.float32)


# ------------------------------------------------------------------------------------ a piece
@dataclass(frozen=True, eq=False)
class Piece:
    """Part of a tomogram, ready to be correlated. Build it with `prepare_piece`."""

    half: ComplexArray  # (Z, Y, X // 2 + 1) complex64 of f
    half_squared: ComplexArray | None  # of f^2, where the mask turns
    shape: tuple[int, int, int]  # of the positions scored
    fft_shape: tuple[int, int, int]
    support: int
    smallest: float  # s_f below it: nothing was imaged
    inverse_spread: FloatArray | None  # of `shape`: 1 / s_f, where the mask does not turn

    def correlation(self, template: Template, rotation: FloatArray) -> FloatArray:
        """Return c(x, R) of the package's head at all positions, `shape` float32."""
        mask = template.turned_mask(rotation)
        sums = self.sums(template.standardised(rotation, mask))
        spread = self.inverse_spread
        sums *= self._inverse_spread(mask) if spread is None else spread
        return sums

    def sums(self, kernel: FloatArray) -> FloatArray:
        """Return sum_r kernel(r) f(x + r), for a kernel (s, s, s) about its centre, at all x.

        Transforms are cut short: a kernel is small, and only some positions are asked for.
        """
        return _correlate(self.half, kernel, self.shape, self.fft_shape)

    def _inverse_spread(self, mask: FloatArray) -> FloatArray:
        """1 / s_f under a mask, 0 where s_f is nearly so."""
        if self.half_squared is None:
            raise ValueError("this piece was prepared for a mask that does not turn")
        return _inverse_spread(
            self.half, self.half_squared, mask, self.shape, self.fft_shape, self.smallest)


def piece_margins(support: int) -> tuple[int, int]:
    """Return how many voxels before and after the positions scored a template reaches."""
    return support // 2, support - 1 - support // 2


def prepare_piece(values: FloatArray, template: Template, tomogram_sd: float = 1.0) -> Piece:
    """Return values (z, y, x) ready to be correlated with a template at their inner positions.

    Positions scored are those with `piece_margins` around them within the values.
    """
    support = template.support
    z, y, x = (size - support + 1 for size in values.shape)
    if min(z, y, x) < 1:
        raise ValueError(f"values of shape {values.shape} hold no template of {support} voxels")
    shape = (z, y, x)
    sizes = [fft.next_fast_len(size, real=True) for size in values.shape]
    fft_shape = (sizes[0], sizes[1], sizes[2])
    padded = np.zeros(fft_shape, dtype=np.float32)
    padded[: values.shape[0], : values.shape[1], : values.shape[2]] = values
    half = real_fft(padded)
    half_squared = real_fft(padded**2)
    smallest = SMALLEST_SPREAD * tomogram_sd
    if template.turns_mask:
        return Piece(half, half_squared, shape, fft_shape, support, smallest, None)
    mask = template.turned_mask(np.eye(3))
    inverse = _inverse_spread(half, half_squared, mask, shape, fft_shape, smallest)
    return Piece(half, None, shape, fft_shape, support, smallest, inverse)


def _inverse_spread(
    half: ComplexArray, half_squared: ComplexArray, mask: FloatArray, shape: tuple[int, int, int],
    fft_shape: tuple[int, int, int], smallest: float,
) -> FloatArray:
    weight = (mask / mask.sum(dtype=np.float64)).astype(np.float32)
    mean = _correlate(half, weight, shape, fft_shape)
    variance = _correlate(half_squared, weight, shape, fft_shape)
    variance -= mean**2
    is_imaged = variance > smallest**2
    inverse: FloatArray = np.where(
        is_imaged, 1.0 / np.sqrt(np.maximum(variance, smallest**2)), np.float32(0.0))
    return inverse


def _correlate(
    half: ComplexArray, kernel: FloatArray, shape: tuple[int, int, int],
    fft_shape: tuple[int, int, int],
) -> FloatArray:
    """sum_r kernel(r) f(x + r), r from 0, for x from 0 to `shape`, of f with a half spectrum."""
    n_z, n_y, n_x = fft_shape
    s = kernel.shape[0]
    rows = np.zeros((s, s, n_x), dtype=np.float32)
    rows[:, :, :s] = kernel
    planes = np.zeros((s, n_y, n_x // 2 + 1), dtype=np.complex64)
    planes[:, :s] = real_fft(rows, (2,))
    complex_fft(planes, (1,), planes)
    np.conj(planes, out=planes)
    # conj(FFT(k)) along z is the inverse transform of conj(k) without its 1 / n.
    inner = np.empty((shape[0], n_y, n_x // 2 + 1), dtype=np.complex64)
    block = np.zeros((n_z, Y_BLOCK, n_x // 2 + 1), dtype=np.complex64)
    for start in range(0, n_y, Y_BLOCK):
        stop = min(start + Y_BLOCK, n_y)
        part = block[:, : stop - start]
        part[:s] = planes[:, start:stop]
        part[s:] = 0
        complex_fft(part, (0,), part, is_inverse=True, is_sum=True)
        part *= half[:, start:stop]
        complex_fft(part, (0,), part, is_inverse=True)
        inner[:, start:stop] = part[: shape[0]]
    columns = complex_fft(inner, (1,), inner, is_inverse=True)[:, : shape[1]]
    return np.ascontiguousarray(
        inverse_real_fft(np.ascontiguousarray(columns), n_x, (2,), may_overwrite=True)
        [:, :, : shape[2]])
