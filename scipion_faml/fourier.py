"""Spectra: the half of the Fourier samples that a real volume needs, and what lives on them.

`spectrum` = rfftn(ifftshift(volume)): DC at index 0, (n, n, n // 2 + 1), index order [kz, ky, kx].
Transforms are ducc0's, on one thread: the work is parallel over particles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import ducc0
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from scipion_faml.types import ComplexArray, FloatArray, IntArray
from scipion_faml.volume import crop_or_pad, inscribed_sphere

Values = TypeVar("Values", bound=np.generic)

COARSEST_CUTOFF = 0.5  # cycles per box
OVERSAMPLING = 2  # padding before interpolation in Fourier space
SLAB_SAMPLES = 2**15  # complex64 samples that a core's second-level cache holds


def real_fft(
    values: FloatArray, axes: Sequence[int] | None = None, out: ComplexArray | None = None
) -> ComplexArray:
    """Return the FFT of real values along `axes` (all); of the last of them only k >= 0."""
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    half: ComplexArray = ducc0.fft.r2c(values, axes=axes, out=out, nthreads=1)
    return half


def inverse_real_fft(
    half: ComplexArray, n: int, axes: Sequence[int] | None = None, is_sum: bool = False,
    may_overwrite: bool = False,
) -> FloatArray:
    """Return the inverse of `real_fft`: n values along the last of `axes` (all).

    Parameters
    ----------
    is_sum : not divided by the number of values
    may_overwrite : `half` is not needed any more: faster
    """
    values: FloatArray = ducc0.fft.c2r(
        half, axes=axes, lastsize=n, forward=False, inorm=0 if is_sum else 2, nthreads=1,
        allow_overwriting_input=may_overwrite and half.flags.writeable,
    )
    return values


def complex_fft(
    values: ComplexArray, axes: Sequence[int] | None = None, out: ComplexArray | None = None,
    is_inverse: bool = False, is_sum: bool = False,
) -> ComplexArray:
    """Return the FFT of values along `axes` (all), or its inverse, into `out` if given.

    `out` may be `values` itself. An inverse that `is_sum` is not divided by the number of values.
    """
    transformed: ComplexArray = ducc0.fft.c2c(
        values, axes=axes, forward=not is_inverse, inorm=2 if is_inverse and not is_sum else 0,
        out=out, nthreads=1,
    )
    return transformed


def spectrum(volume: FloatArray) -> ComplexArray:
    """Return rfftn(ifftshift(volume)), (n, n, n // 2 + 1) complex64 (complex128 for float64)."""
    return real_fft(fft.ifftshift(volume))


def volume_from_spectrum(half: ComplexArray, n: int) -> FloatArray:
    """Return the real volume (n, n, n) of a spectrum (n, n, n // 2 + 1)."""
    volume: FloatArray = fft.fftshift(inverse_real_fft(half, n))
    return volume


@lru_cache(maxsize=8)
def frequencies(n: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return (kz, ky, kx), integer frequencies that broadcast to a spectrum's shape."""
    full = np.fft.fftfreq(n, 1.0 / n).round().astype(np.int32)
    half = np.arange(n // 2 + 1, dtype=np.int32)
    return full[:, None, None], full[None, :, None], half[None, None, :]


@lru_cache(maxsize=8)
def frequency_radius(n: int) -> FloatArray:
    """Return |k| of every sample of a spectrum, float32, read-only."""
    kz, ky, kx = frequencies(n)
    radius: FloatArray = np.sqrt((kz**2 + ky**2 + kx**2).astype(np.float32))
    radius.flags.writeable = False
    return radius


@lru_cache(maxsize=8)
def hermitian_multiplicity(n: int) -> IntArray:
    """Return how many of the J = n^3 samples each one of the half stands for: 1 or 2 (uint8)."""
    multiplicity = np.full((n, n, n // 2 + 1), 2, dtype=np.uint8)
    multiplicity[:, :, 0] = 1
    if n % 2 == 0:
        multiplicity[:, :, -1] = 1
    multiplicity.flags.writeable = False
    return multiplicity


def shell_sums(values: FloatArray, n: int) -> FloatArray:
    """Return sums of `values` (as a spectrum) over shells of rounded |k|, (n // 2,).

    Both Friedel mates are counted: the sums are over all J samples.
    """
    shell = np.rint(frequency_radius(n)).astype(np.intp).ravel()
    weighted = (values * hermitian_multiplicity(n)).astype(np.float64).ravel()
    sums: FloatArray = np.bincount(shell, weights=weighted)[: n // 2].astype(np.float64)
    return sums


def shift_spectrum(half: ComplexArray, shift_xyz: FloatArray) -> ComplexArray:
    """Return the spectrum of the volume moved by `shift_xyz` voxels."""
    n = half.shape[0]
    kz, ky, kx = frequencies(n)
    step = -2j * np.pi / n
    ramp = (
        np.exp(step * kz * shift_xyz[2])
        * np.exp(step * ky * shift_xyz[1])
        * np.exp(step * kx * shift_xyz[0])
    )
    return (half * ramp).astype(half.dtype)


def low_pass(volume: FloatArray, voxel_size_angst: float, cutoff_angst: float) -> FloatArray:
    """Return `volume` filtered by a Gaussian that falls to one half at `cutoff_angst`.

    Raises
    ------
    ValueError
        If that leaves nothing but the mean.
    """
    n = volume.shape[0]
    cutoff = n * voxel_size_angst / cutoff_angst  # as an integer-frequency radius
    if cutoff < COARSEST_CUTOFF:
        raise ValueError(
            f"low-pass {cutoff_angst:g} A leaves nothing of a box of {n * voxel_size_angst:g} A: "
            "give a smaller one")
    gain = np.exp(-np.log(2.0) * (frequency_radius(n) / cutoff) ** 2)
    filtered = volume_from_spectrum(spectrum(volume) * gain, n)
    return filtered.astype(np.float32)


def resample(volume: FloatArray, n_new: int) -> FloatArray:
    """Return `volume` on n_new^3 voxels of the same field of view: spectrum cropped or padded."""
    n = volume.shape[0]
    full = fft.fftshift(complex_fft(fft.ifftshift(volume)))
    small = crop_or_pad(full, (n_new, n_new, n_new))
    resampled = fft.fftshift(complex_fft(fft.ifftshift(small), is_inverse=True)).real
    return (resampled * (n_new / n) ** 3).astype(np.float32)


@dataclass(frozen=True, eq=False)
class SampleSet:
    """The samples of a half spectrum with 0 < |k| <= radius: what the method compares and averages.

    The corners beyond the sphere are left out, because a rotation carries them out of the spectrum.
    """

    n: int
    radius: float
    flat_index: IntArray  # (J,) into the raveled half spectrum
    frequency_xyz: FloatArray  # (J, 3) float32, integer values, (kx, ky, kz)
    multiplicity: FloatArray  # (J,) float32, 1 or 2
    n_shift: int  # a box just large enough for the samples: n / n_shift voxels resolve a shift

    def __len__(self) -> int:
        return len(self.flat_index)

    @property
    def n_total(self) -> float:
        """J: the number of Fourier samples of the whole spectrum that the set stands for."""
        return float(self.multiplicity.sum(dtype=np.float64))

    @cached_property
    def axes(self) -> FloatArray:
        """kx, ky and kz of the samples, (3, J) float32."""
        return np.ascontiguousarray(self.frequency_xyz.T)

    @cached_property
    def tiled(self) -> SampleRuns:
        """All samples, tile after tile."""
        return sample_runs(self, self.multiplicity)

    def take(self, half: NDArray[Values]) -> NDArray[Values]:
        """Return the samples of `half` (n, n, n // 2 + 1) as (J,)."""
        return half.reshape(-1)[self.flat_index]

    def put(self, values: NDArray[Values]) -> NDArray[Values]:
        """Return a half spectrum with `values` (J,) at the samples and 0 elsewhere."""
        half = np.zeros(self.n * self.n * (self.n // 2 + 1), dtype=values.dtype)
        half[self.flat_index] = values
        return half.reshape(self.n, self.n, self.n // 2 + 1)


@lru_cache(maxsize=16)
def sample_set(n: int, radius: float | None = None) -> SampleSet:
    """Return the samples with 0 < |k| <= radius (default: (n - 1) // 2, just inside Nyquist)."""
    limit = (n - 1) // 2 if radius is None else min(radius, (n - 1) // 2)
    kept = (frequency_radius(n) > 0) & (frequency_radius(n) <= limit)
    flat_index = np.flatnonzero(kept)
    if not len(flat_index):
        raise ValueError(f"no Fourier sample of a box of {n} lies within radius {limit:.3g}: give "
                         "a smaller low-pass")
    grids = np.broadcast_arrays(*frequencies(n))
    frequency_zyx = [g.ravel()[flat_index] for g in grids]
    frequency_xyz = np.stack(frequency_zyx[::-1], axis=-1).astype(np.float32)
    multiplicity = hermitian_multiplicity(n).ravel()[flat_index].astype(np.float32)
    n_shift = min(fft.next_fast_len(2 * int(limit) + 2, real=True), n)
    return SampleSet(n, limit, flat_index, frequency_xyz, multiplicity, n_shift)


@dataclass(frozen=True, eq=False)
class SampleRuns:
    """The samples that have a weight, in runs of consecutive kx, tile after tile (for `_scoring`).

    A tile of neighbours, turned, touches one small part of a spectrum, which the cache then holds.
    """

    index: IntArray  # (P,) into the J samples
    axes: FloatArray  # (3, P) float32: kx, ky, kz
    runs: IntArray  # (S, 3) int32: first kx, number of samples, row
    rows: IntArray  # (R, 2) int32: kz, ky, ascending
    tiles: IntArray  # (T + 1,) int32: the first sample of each tile, then P


TILE_ZYX = (8, 8, 16)


def sample_runs(samples: SampleSet, weight: FloatArray) -> SampleRuns:
    """Return the samples of positive `weight` (J,) in runs."""
    kept = np.flatnonzero(weight > 0)
    kx, ky, kz = samples.axes[:, kept].astype(np.int64)
    tiles = [k // size for k, size in zip((kz, ky, kx), TILE_ZYX, strict=True)]
    order = np.lexsort((kx, ky, kz, *tiles[::-1]))
    kx, ky, kz = kx[order], ky[order], kz[order]
    tile_changes = np.any([np.diff(tile[order]) != 0 for tile in tiles], axis=0)
    tile_starts = np.concatenate([[0], np.flatnonzero(tile_changes) + 1, [len(order)]])
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (np.diff(kx) != 1) | (np.diff(ky) != 0) | (np.diff(kz) != 0)
    starts[1:] |= kx[1:] % TILE_ZYX[2] == 0
    first = np.flatnonzero(starts)
    length = np.diff(np.append(first, len(order)))
    rows, row = np.unique(np.stack([kz[first], ky[first]], axis=1), axis=0, return_inverse=True)
    runs = np.stack([kx[first], length, row.ravel()], axis=1)
    axes = np.ascontiguousarray(samples.axes[:, kept[order]])
    return SampleRuns(
        kept[order], axes, runs.astype(np.int32), rows.astype(np.int32),
        tile_starts.astype(np.int32),
    )


def crop_half(half: NDArray[Values], n: int) -> NDArray[Values]:
    """Return the middle of a half spectrum as one of a box of n (values unchanged)."""
    if half.shape[0] == n:
        return half
    rows = np.fft.fftfreq(n, 1.0 / n).round().astype(np.intp)
    return half[np.ix_(rows % half.shape[0], rows % half.shape[0], np.arange(n // 2 + 1))]


def pad_half(half: ComplexArray, n: int) -> ComplexArray:
    """Return a half spectrum as one of a larger box of n, zeros beyond it (values unchanged)."""
    small = half.shape[0]
    if small == n:
        return half
    rows = np.fft.fftfreq(small, 1.0 / small).round().astype(np.intp) % n
    out = np.zeros((n, n, n // 2 + 1), dtype=half.dtype)
    out[np.ix_(rows, rows, np.arange(half.shape[2]))] = half
    return out


@lru_cache(maxsize=4)
def _interpolation_correction(n: int) -> FloatArray:
    """1 / sinc^2 per axis: the real-space window that trilinear interpolation multiplies by."""
    window = np.sinc((np.arange(n) - n // 2) / (OVERSAMPLING * n)) ** 2
    product = window[:, None, None] * window[None, :, None] * window[None, None, :]
    correction: FloatArray = (1.0 / product).astype(np.float32)
    return correction


def oversampled_spectrum(volume: FloatArray) -> ComplexArray:
    """Return the spectrum of `volume`, twice oversampled and corrected for trilinear interpolation.

    (2n, 2n, n + 1) complex64: sample 2k of it, interpolated, is sample k of `spectrum(volume)`.
    """
    n = volume.shape[0]
    padded = OVERSAMPLING * n
    corrected = (volume * _interpolation_correction(n)).astype(np.float32)
    box = crop_or_pad(corrected, (padded, padded, padded))
    return spectrum(box)


def turnable_spectrum(volume: FloatArray, radius: float) -> ComplexArray:
    """Return `oversampled_spectrum(volume)` out to `radius`, laid out for `_scoring.gather`.

    (2K + 1, 2K + 1, K + 1) complex64, K = 2 radius rounded up, DC at (K, K, 0): kz and ky ascend
    from -K to K, so that no index wraps and every cell within the radius has its upper end.
    """
    n = volume.shape[0]
    return _turnable(fft.ifftshift(volume * _interpolation_correction(n)), radius)


def turnable_in_ball(half: ComplexArray, n: int, radius: float) -> ComplexArray:
    """Return `turnable_spectrum` of what a spectrum holds in the inscribed ball; `half` is lost."""
    wrapped = inverse_real_fft(half, n, may_overwrite=True)
    wrapped *= _corrected_ball(n)
    return _turnable(wrapped, radius)


def ball_spectrum(half: ComplexArray, n: int) -> ComplexArray:
    """Return the spectrum of what a spectrum holds in the inscribed ball; `half` is lost."""
    wrapped = inverse_real_fft(half, n, may_overwrite=True)
    wrapped *= _wrapped_ball(n)
    return real_fft(wrapped)


@lru_cache(maxsize=4)
def _wrapped_ball(n: int) -> FloatArray:
    """The inscribed ball, its centre at voxel 0."""
    ball: FloatArray = fft.ifftshift(inscribed_sphere(n))
    return ball


@lru_cache(maxsize=4)
def _corrected_ball(n: int) -> FloatArray:
    """The inscribed ball times the correction for interpolation, its centre at voxel 0."""
    ball: FloatArray = fft.ifftshift(inscribed_sphere(n) * _interpolation_correction(n))
    return ball


def _turnable(wrapped: FloatArray, radius: float) -> ComplexArray:
    """Zero-padded FFT of a corrected volume with its centre at voxel 0, axis by axis.

    Frequencies beyond the table are never transformed. Slabs that fit a core's cache are, one after
    the other: for large boxes memory is the bound.
    """
    n, limit = wrapped.shape[0], int(OVERSAMPLING * radius) + 1
    side, n_positive = 2 * limit + 1, (n + 1) // 2
    slab = max(1, SLAB_SAMPLES // (n * (limit + 1)))
    # Not np.zeros: only np.empty asks for large pages, which matter where a table is turned.
    planes = np.empty((n, side, limit + 1), dtype=np.complex64)
    padded = np.zeros((slab, n, OVERSAMPLING * n), dtype=np.float32)
    rows = np.empty((slab, n, n + 1), dtype=np.complex64)
    for start in range(0, n, slab):
        here = slice(0, min(slab, n - start))
        part = wrapped[start : start + slab]
        padded[here, :, :n_positive] = part[..., :n_positive]
        padded[here, :, -(n // 2) :] = part[..., n_positive:]
        real_fft(padded[here], (2,), rows[here])
        _from_minus_limit(rows[here, :, : limit + 1], 1, planes[start : start + slab])
    table = np.empty((side, side, limit + 1), dtype=np.complex64)
    for start in range(0, side, slab):
        stop = min(start + slab, side)
        # No turned sample touches columns beyond the sphere: they stay 0.
        nearest = max(0, max(start - limit, limit + 1 - stop) - 1)
        width = min(limit + 1, int(np.sqrt(limit**2 - nearest**2)) + 2)
        _from_minus_limit(planes[:, start:stop, :width], 0, table[:, start:stop, :width])
        table[:, start:stop, width:] = 0
    return table


@lru_cache(maxsize=16)
def _ramps(n: int, limit: int) -> tuple[ComplexArray, ComplexArray]:
    """Factors in real space that move the frequencies -limit and 1 - limit of 2n to index 0."""
    position = np.arange(n)
    position[(n + 1) // 2 :] -= n
    angle = np.outer([limit, limit - 1], position) * (2 * np.pi / (OVERSAMPLING * n))
    first, second = np.exp(1j * angle).astype(np.complex64)
    return first, second


def _from_minus_limit(values: ComplexArray, axis: int, out: ComplexArray) -> None:
    """FFT along an axis of n wrapped values as if zero-padded to 2n: frequencies -limit..limit.

    Every second frequency is one of an FFT of n values; a ramp gives those between.
    """
    n, side = values.shape[axis], out.shape[axis]
    shape = [1, 1, 1]
    shape[axis] = n
    before = (slice(None),) * axis
    for parity, ramp in enumerate(_ramps(n, side // 2)):
        moved = values * ramp.reshape(shape)
        target = out[(*before, slice(parity, OVERSAMPLING * n, 2))]
        if target.shape == moved.shape:
            complex_fft(moved, (axis,), target)
        else:
            complex_fft(moved, (axis,), moved)
            target[...] = moved[(*before, slice(target.shape[axis]))]
    if side > OVERSAMPLING * n:  # an odd box: both ends are the same frequency
        ends = np.moveaxis(out, axis, 0)
        ends[-1] = ends[0]
