"""Small detectors, and tomograms of bright balls, for the tests of the detector."""

import numpy as np

from scipion_faml.detector.settings import DetectorSettings


def settings(architecture="points", n_classes=2, **others):
    names = tuple(f"c{k}" for k in range(1, n_classes + 1))
    more = {"widths": (8, 16, 24), "anchors": (5.0, 10.0, 15.0),
            "diameters": tuple(np.linspace(6.0, 14.0, n_classes).tolist()), **others}
    return DetectorSettings(
        architecture=architecture, voxel_size_angst=10.0, class_names=names,
        class_numbers=tuple(range(1, n_classes + 1)), thresholds=(0.3,) * n_classes, **more)


def balls(shape=(48, 64, 64), count=14, seed=0, contrast=2.0):
    """Noise with bright balls of two sizes, apart from each other, and where they are."""
    rng = np.random.default_rng(seed)
    volume = rng.normal(size=shape).astype(np.float32)
    centres: list[np.ndarray] = []
    while len(centres) < count:
        tried = rng.uniform(6, np.array(shape[::-1]) - 7)
        if all(np.linalg.norm(tried - c) > 14 for c in centres):
            centres.append(tried)
    classes = 1 + np.arange(count) % 2
    z, y, x = np.indices(shape)
    for (cx, cy, cz), k in zip(centres, classes, strict=True):
        radius = 3.0 if k == 1 else 5.0
        volume[(x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < radius**2] += contrast
    return volume, np.array(centres), classes
