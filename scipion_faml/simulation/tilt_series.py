"""Tilt series of a density: projections, optics, noise (Zhao et al. 2018, section 3.1).

Tilt axis y, beam z: at tilt theta the specimen stands as Ry(theta) r and is projected along z. An
image is (n, n) in [y, x]; its spectrum is rfft2(ifftshift(image)), (n, n // 2 + 1), DC at 0.

Order of events, as in the microscope: projection, CTF, shot noise, detector MTF. The
signal-to-noise ratio of a series is the variance of its noise-free images after the CTF, over all
pixels of an image and averaged over the tilts, divided by the variance of the white noise before
the MTF. The MTF falls on both alike, so it changes the colour of the noise, not what a Fourier
sample is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from scipion_faml.cython_ext import _interpolate
from scipion_faml.fourier import spectrum, volume_from_spectrum
from scipion_faml.types import ComplexArray, FloatArray
from scipion_faml.volume import crop_or_pad
from scipion_faml.wedge import MissingWedge

MOST_TILTS = 10_000
SMALLEST_SNR = 1e-9
VOLTAGES_KV = 1.0, 10_000.0
CTF_CORRECTIONS = ("none", "phase-flip", "weights")  # of images, see `image_transfer`


@dataclass(frozen=True)
class Microscope:
    """What blurs and inverts the contrast of an image. The defaults are the paper's.

    Raises
    ------
    ValueError
        If voltage or amplitude contrast are those of no microscope.
    """

    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.07
    defocus_um: float = 6.0  # positive: underfocus

    def __post_init__(self) -> None:
        low, high = VOLTAGES_KV
        if not low <= self.voltage_kv <= high:
            raise ValueError(f"an acceleration voltage of {self.voltage_kv:g} kV is not possible: "
                             f"give {low:g} to {high:g}")
        if not 0.0 <= self.amplitude_contrast <= 1.0:
            raise ValueError(f"an amplitude contrast of {self.amplitude_contrast:g} is not "
                             "possible: give 0 to 1")

    @property
    def wavelength_angst(self) -> float:
        """Relativistic wavelength of the electron (angstrom): 0.0197 at 300 kV."""
        volt = self.voltage_kv * 1e3
        return float(12.2642 / np.sqrt(volt * (1.0 + 0.978466e-6 * volt)))


def tilt_angles_deg(tilt_min_deg: float, tilt_max_deg: float, tilt_step_deg: float) -> FloatArray:
    """Return the tilts from the smallest in equal steps, up to and with the largest (deg).

    Raises
    ------
    ValueError
        If the range is empty or beyond 90 deg, or the step is not positive.
    """
    if not (tilt_step_deg > 0 and -90.0 <= tilt_min_deg < tilt_max_deg <= 90.0):
        raise ValueError(
            f"tilts from {tilt_min_deg:g} to {tilt_max_deg:g} deg in steps of {tilt_step_deg:g}: "
            "the range must be ascending, within -90 to 90, and the step positive, for example "
            "-60, 60, 3"
        )
    n_steps = max(1, round((tilt_max_deg - tilt_min_deg) / tilt_step_deg))
    if n_steps > MOST_TILTS:
        raise ValueError(f"a tilt step of {tilt_step_deg:g} deg makes {n_steps:.3g} images: give a "
                         "larger one")
    return np.linspace(tilt_min_deg, tilt_max_deg, n_steps + 1)


def tilt_rotations(angles_deg: FloatArray) -> FloatArray:
    """Return Ry(theta), (T, 3, 3): specimen to microscope for every tilt."""
    angle = np.deg2rad(np.asarray(angles_deg, dtype=np.float64))
    rotation = np.zeros((len(angle), 3, 3))
    rotation[:, 0, 0] = rotation[:, 2, 2] = np.cos(angle)
    rotation[:, 0, 2] = np.sin(angle)
    rotation[:, 2, 0] = -np.sin(angle)
    rotation[:, 1, 1] = 1.0
    return rotation


def contrast_transfer(
    frequency_per_angst: FloatArray,
    microscope: Microscope,
    defocus_angst: FloatArray | float | None = None,
) -> FloatArray:
    """Return the CTF at spatial frequencies (1 / angstrom), signed so that it starts positive.

    sin(chi + phi), chi = pi lambda defocus k^2 - pi/2 Cs lambda^3 k^4, sin(phi) = amplitude
    contrast. A density that is positive stays white up to the first zero, near
    k = 1 / sqrt(lambda defocus): 34 A at 6 um and 300 kV.
    """
    if defocus_angst is None:
        defocus_angst = microscope.defocus_um * 1e4
    wavelength = microscope.wavelength_angst
    square = np.asarray(frequency_per_angst, dtype=np.float64) ** 2
    spherical = microscope.spherical_aberration_mm * 1e7
    chi = np.pi * wavelength * defocus_angst * square
    chi = chi - 0.5 * np.pi * spherical * wavelength**3 * square**2
    transfer: FloatArray = np.sin(chi + np.arcsin(microscope.amplitude_contrast))
    return transfer


def detector_transfer(fraction_of_nyquist: FloatArray) -> FloatArray:
    """Return the MTF sinc(pi w / 2) = sin(pi w / 2) / (pi w / 2), w the fraction of Nyquist."""
    transfer: FloatArray = np.sinc(0.5 * np.asarray(fraction_of_nyquist, dtype=np.float64))
    return transfer


def image_frequencies(shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Return (v, u) of an image spectrum in cycles per pixel; they broadcast to its shape."""
    n_y, n_x = shape
    return np.fft.fftfreq(n_y)[:, None], np.fft.rfftfreq(n_x)[None, :]


@dataclass(frozen=True, eq=False)
class ImageTransfer:
    """Filters of an image spectrum: what optics and detector do to it, and what undoes them."""

    ctf: FloatArray  # (n_y, n_x // 2 + 1)
    mtf: FloatArray
    correction: FloatArray


def image_transfer(
    shape: tuple[int, int],
    pixel_size_angst: float,
    microscope: Microscope,
    ctf_correction: str = "none",
) -> ImageTransfer:
    """Return the filters of images of `shape` (y, x).

    `ctf_correction`: "none" corrects nothing, as in the paper; "phase-flip" multiplies by the sign
    of the CTF, so that every frequency has the contrast of the structure; "weights" by the CTF
    itself, and undoes the MTF: what an inversion with the weights CTF^2 asks for.

    Raises
    ------
    ValueError
        If the correction has another name.
    """
    if ctf_correction not in CTF_CORRECTIONS:
        raise ValueError(
            f"ctf_correction is {ctf_correction!r}: choose from {', '.join(CTF_CORRECTIONS)}")
    v, u = image_frequencies(shape)
    radius = np.hypot(u, v)
    ctf = contrast_transfer(radius / pixel_size_angst, microscope)
    mtf = detector_transfer(2.0 * radius)
    if ctf_correction == "weights":
        correction = ctf / mtf
    elif ctf_correction == "phase-flip":
        correction = np.where(ctf < 0, -1.0, 1.0)
    else:
        correction = np.ones_like(ctf)
    return ImageTransfer(ctf, mtf, correction)


def record(
    projections: ComplexArray,
    shape: tuple[int, int],
    snr: float,
    transfer: ImageTransfer,
    rng: np.random.Generator,
    around: ComplexArray | None = None,
) -> ComplexArray:
    """Return spectra of the recorded images: CTF, noise to `snr`, MTF, correction.

    Parameters
    ----------
    projections : (T, n_y, n_x // 2 + 1) complex
        Spectra of the noise-free projections.
    shape : (n_y, n_x)
    snr : float
        Variance of the images after the CTF (mean over the tilts) over that of the noise;
        `numpy.inf` adds none.
    around : (T, n_y, n_x // 2 + 1) complex, optional
        Spectra of what else is in the images, after its own CTF: it does not count as signal.
    """
    check_snr(snr)
    blurred = projections * transfer.ctf
    if np.isfinite(snr):
        images = fft.irfft2(blurred, shape, axes=(1, 2))
        noise_sd = np.sqrt(images.var(axis=(1, 2), dtype=np.float64).mean() / snr)
        noise = rng.standard_normal(images.shape, dtype=np.float32) * np.float32(noise_sd)
        blurred = blurred + fft.rfft2(noise, axes=(1, 2))
    if around is not None:
        blurred = blurred + around
    recorded: ComplexArray = (blurred * (transfer.mtf * transfer.correction)).astype(np.complex64)
    return recorded


def check_snr(snr: float) -> None:
    """Raise a ValueError unless `snr` is positive (infinity: no noise) and noise fits float32."""
    if not snr >= SMALLEST_SNR:
        raise ValueError(f"an SNR of {snr:g} is not possible: give a variance ratio above 0, of "
                         f"{SMALLEST_SNR:g} or more")


# ------------------------------------------------------------------------- sampling the density
@dataclass(frozen=True, eq=False)
class Projector:
    """The finely sampled spectrum of a density, to take slices of. Build it with `projector`."""

    n: int  # box of the density (voxels)
    oversampling: int
    half: ComplexArray  # (f n, f n, f n // 2 + 1) complex64, f = oversampling


def projector(volume: FloatArray) -> Projector:
    """Return the spectrum of a density (n, n, n), corrected for trilinear interpolation.

    Four samples for one keep slices within 2 % of the projections (two: 3 to 7 %); boxes above
    80 voxels take two, for their memory.
    """
    n = volume.shape[0]
    factor = 4 if n <= 80 else 2
    window = np.sinc((np.arange(n) - n // 2) / (factor * n)) ** 2
    correction = window[:, None, None] * window[None, :, None] * window[None, None, :]
    padded = crop_or_pad(
        (volume / correction).astype(np.float32), (factor * n, factor * n, factor * n)
    )
    return Projector(n, factor, np.ascontiguousarray(spectrum(padded), dtype=np.complex64))


def central_slices(
    density: Projector, rotations: FloatArray, shifts_xyz: FloatArray | None = None
) -> ComplexArray:
    """Return the spectra of projections along z of a turned density (Fourier slice theorem).

    Parameters
    ----------
    density : Projector
    rotations : (T, 3, 3)
        Density to microscope of every image.
    shifts_xyz : (T, 2 or 3), optional
        Where the density's centre lies in the microscope's frame (voxels).

    Returns
    -------
    (T, n, n // 2 + 1) complex64; frequencies outside the inscribed circle are 0.
    """
    n = density.n
    v, u = image_frequencies((n, n))
    grid_v, grid_u = (np.rint(np.broadcast_to(g, (n, n // 2 + 1)) * n).ravel() for g in (v, u))
    kept = np.hypot(grid_v, grid_u) <= (n - 1) // 2
    frequency = np.zeros((int(kept.sum()), 3), dtype=np.float32)
    frequency[:, 0], frequency[:, 1] = grid_u[kept], grid_v[kept]
    slices = np.zeros((len(rotations), n * (n // 2 + 1)), dtype=np.complex64)
    values = np.empty(len(frequency), dtype=np.complex64)
    for number, rotation in enumerate(rotations):
        turn = np.ascontiguousarray(density.oversampling * rotation.T, dtype=np.float64)
        _interpolate.gather_complex(density.half, frequency, turn, values)
        slices[number, kept] = values
        if shifts_xyz is not None:
            phase = frequency[:, :2] @ shifts_xyz[number, :2]
            slices[number, kept] *= np.exp(-2j * np.pi / n * phase)
    return slices.reshape(len(rotations), n, n // 2 + 1)


# ----------------------------------------------------------------------- subtomograms, no optics
def noisy_subtomogram(
    density: FloatArray, snr: float, wedge: MissingWedge, rng: np.random.Generator
) -> FloatArray:
    """Return density + white noise with its missing wedge cut out (no optics).

    Parameters
    ----------
    density : (n, n, n) float32
        The turned, shifted structure.
    snr : float
        Variance of `density` over the whole box / variance of the noise, before the wedge is cut;
        `numpy.inf` adds no noise.
    """
    check_snr(snr)
    n = density.shape[0]
    if np.isfinite(snr):
        noise_sd = np.sqrt(density.var(dtype=np.float64) / snr)
        noise = rng.standard_normal(density.shape, dtype=np.float32)
        density = density + np.float32(noise_sd) * noise
    half = fft.rfftn(fft.ifftshift(density)) * wedge.mask(n)
    return volume_from_spectrum(half, n).astype(np.float32)
