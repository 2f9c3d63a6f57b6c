"""A structure whose turned and shifted spectrum is known in closed form: a sum of Gaussian blobs.

Nothing is interpolated, so that what the algorithms interpolate can be judged.
"""

from __future__ import annotations

import numpy as np

from scipion_faml.fourier import frequencies, volume_from_spectrum


class Blobs:
    """Chiral blobs of one width within `reach` of the centre; lengths are fractions of the box."""

    def __init__(self, seed=0, n_blobs=8, reach=0.16, width=0.06):
        rng = np.random.default_rng(seed)
        direction = rng.normal(size=(n_blobs, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        self.centre = direction * reach * rng.uniform(0.3, 1.0, (n_blobs, 1))
        self.height = rng.uniform(0.5, 1.5, n_blobs)
        self.width = width

    def spectrum_at(self, points, n, rotation=None, shift_xyz=None):
        """The spectrum of the turned, shifted structure at frequencies (3, J), complex128."""
        centre = self.centre if rotation is None else self.centre @ rotation.T
        centre = centre + (0 if shift_xyz is None else np.asarray(shift_xyz) / n)
        k = np.asarray(points, dtype=float)
        envelope = np.exp(-2 * np.pi**2 * self.width**2 * np.sum(k**2, axis=0))
        volume_of_one = (np.sqrt(2 * np.pi) * self.width * n) ** 3
        return volume_of_one * envelope * (self.height @ np.exp(-2j * np.pi * (centre @ k)))

    def half(self, n, rotation=None, shift_xyz=None):
        """The half spectrum (n, n, n // 2 + 1)."""
        kz, ky, kx = (g.ravel() for g in np.broadcast_arrays(*frequencies(n)))
        values = self.spectrum_at(np.stack([kx, ky, kz]), n, rotation, shift_xyz)
        return values.reshape(n, n, n // 2 + 1)

    def volume(self, n, rotation=None, shift_xyz=None):
        """The density (n, n, n) float32."""
        return volume_from_spectrum(self.half(n, rotation, shift_xyz), n).astype(np.float32)


def random_weight(n, rng, low=0.0):
    """Weights (n, n, n // 2 + 1) float32 in [low, 1], even: w(-k) = w(k)."""
    full = rng.uniform(low, 1.0, (n, n, n))
    minus = -np.arange(n) % n
    full = 0.5 * (full + full[np.ix_(minus, minus, minus)])
    return np.ascontiguousarray(full[:, :, : n // 2 + 1], dtype=np.float32)


def smooth_weight(n, rng):
    """Even weights in [0, 1] that vary slowly and reach 0: as CTF^2 summed over tilts."""
    kz, ky, kx = np.broadcast_arrays(*frequencies(n))
    k = np.stack([kx, ky, kz], axis=-1) / n
    total = np.zeros(kx.shape)
    for direction in rng.normal(size=(6, 3)):
        total += np.cos(2 * np.pi * (k @ direction))
    total -= total.min()
    return np.ascontiguousarray(total / total.max(), dtype=np.float32)
