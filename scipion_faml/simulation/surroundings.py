"""What lies around particles in a tomogram: gold beads and vesicles.

They are structures like any other, imaged with the particles and not counted among them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from scipion_faml.simulation.density import PROTEIN_LEVEL, Structure
from scipion_faml.simulation.packing import Obstacles, place_spheres
from scipion_faml.simulation.scene import Scene
from scipion_faml.types import FloatArray
from scipion_faml.volume import squared_radius

GOLD_LEVEL = 15.0  # of protein against ice: mean inner potentials of about 30 V and 2 V
# Sine of the phase of its contrast: 10 nm of gold leave exp(-0.56) of the amplitude (mean free
# path about 9 nm at 300 kV) and shift its phase by 1.8.
GOLD_AMPLITUDE_CONTRAST = 0.3
GOLD_DIAMETER_ANGST = (50.0, 100.0)
VESICLE_RADIUS_ANGST = (150.0, 400.0)  # of the middle of the bilayer
LEAFLET_ANGST = 18.0  # from the middle of a bilayer to its head groups
HEAD_GROUP_ANGST = 6.0  # standard deviation of their layer
HEAD_GROUP_LEVEL = 1.0  # of protein; the tails between them are no denser than ice
_BILAYER_HALF_ANGST = LEAFLET_ANGST + 2.0 * HEAD_GROUP_ANGST


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Gold beads and vesicles in their places, and the room they leave."""

    scene: Scene  # a structure each
    structures: list[Structure]
    diameter_angst: FloatArray  # (A,) of beads, and of the middle of vesicles' bilayers
    obstacles: Obstacles

    def of_kind(self, name: str) -> Scene:
        """Return the scene of what is called gold or vesicle, of the same structures."""
        kept = [number for number, s in enumerate(self.structures) if s.name == name]
        return Scene(self.scene.shape_xyz, self.scene.position_xyz[kept],
                     self.scene.euler_zyz[kept], self.scene.class_index[kept])


def gold_bead(diameter_angst: float, voxel_size_angst: float, blur_angst: float) -> Structure:
    """Return a dense ball with a soft edge of width `blur_angst`."""
    radius = diameter_angst / 2.0
    grid = _radii(radius + 4.0 * blur_angst, voxel_size_angst)
    ball = ndtr((radius - grid) / max(blur_angst, 0.3 * voxel_size_angst))
    level = GOLD_LEVEL * PROTEIN_LEVEL * voxel_size_angst**3
    return Structure("gold", (level * ball).astype(np.float32), voxel_size_angst)


def vesicle(radius_angst: float, voxel_size_angst: float, blur_angst: float) -> Structure:
    """Return a spherical bilayer: two layers of head groups about `radius_angst`, blurred."""
    width = float(np.sqrt(HEAD_GROUP_ANGST**2 + blur_angst**2 + voxel_size_angst**2 / 12.0))
    grid = _radii(radius_angst + LEAFLET_ANGST + 4.0 * width, voxel_size_angst)
    shells = sum(
        np.exp(-0.5 * ((grid - radius_angst + side * LEAFLET_ANGST) / width) ** 2)
        for side in (-1.0, 1.0)
    )
    level = HEAD_GROUP_LEVEL * HEAD_GROUP_ANGST / width * PROTEIN_LEVEL * voxel_size_angst**3
    return Structure("vesicle", (level * shells).astype(np.float32), voxel_size_angst)


def _radii(reach_angst: float, voxel_size_angst: float) -> FloatArray:
    """Distances from the centre (angstrom) in the smallest even box that holds `reach_angst`."""
    n = 2 * int(np.ceil(reach_angst / voxel_size_angst) + 1)
    distance: FloatArray = voxel_size_angst * np.sqrt(squared_radius(n).astype(np.float64))
    return distance


def make_surroundings(
    n_gold: int, n_vesicles: int, shape_xyz: tuple[int, int, int], voxel_size_angst: float,
    blur_angst: float, seed: int,
) -> Surroundings:
    """Return gold beads and vesicles at random places, apart from each other.

    Diameters of beads are uniform in 50 to 100 A, radii of vesicles in 150 to 400 A or what the
    tomogram's thickness holds. Vesicles may stick out at the sides.

    Raises
    ------
    ValueError
        If they do not fit.
    """
    rng = np.random.default_rng([seed, 2])
    radii = _vesicle_radii(n_vesicles, shape_xyz[2] * voxel_size_angst, rng)
    half = _BILAYER_HALF_ANGST / voxel_size_angst
    shell_xyz = _place(radii / voxel_size_angst + half, shape_xyz, rng, "vesicles (--membranes)")
    shells = Obstacles(
        shell_xyz=shell_xyz, shell_radius=radii / voxel_size_angst, shell_half_width=half
    )
    diameters = rng.uniform(*GOLD_DIAMETER_ANGST, size=n_gold)
    ball_radius = (diameters / 2.0 + 2.0 * blur_angst) / voxel_size_angst
    ball_xyz = _place(ball_radius, shape_xyz, rng, "gold beads (--gold)", shells)
    structures = [vesicle(r, voxel_size_angst, blur_angst) for r in radii]
    structures += [gold_bead(d, voxel_size_angst, blur_angst) for d in diameters]
    count = len(structures)
    scene = Scene(
        shape_xyz, np.concatenate([shell_xyz, ball_xyz]), np.zeros((count, 3)), np.arange(count)
    )
    obstacles = Obstacles(ball_xyz, ball_radius, shell_xyz, shells.shell_radius, half)
    return Surroundings(scene, structures, np.concatenate([2.0 * radii, diameters]), obstacles)


def _vesicle_radii(count: int, thickness_angst: float, rng: np.random.Generator) -> FloatArray:
    """Radii (angstrom) of vesicles that a specimen of this thickness can hold whole."""
    smallest, largest = VESICLE_RADIUS_ANGST
    largest = min(largest, 0.45 * thickness_angst - _BILAYER_HALF_ANGST)
    if count and largest < smallest:
        raise ValueError(
            f"a tomogram {thickness_angst:.0f} A thick is too thin for vesicles of "
            f"{2 * smallest:.0f} A: use a larger --shape or leave --membranes out"
        )
    return rng.uniform(smallest, max(largest, smallest), size=count)


def _place(
    radius: FloatArray, shape_xyz: tuple[int, int, int], rng: np.random.Generator, what: str,
    obstacles: Obstacles | None = None,
) -> FloatArray:
    """Centres of things in the box; they may stick out at its sides."""
    if len(radius) == 0:
        return np.empty((0, 3))
    try:
        return place_spheres(radius, shape_xyz, rng, obstacles=obstacles, open_sides=True)
    except ValueError as error:
        raise ValueError(
            f"a tomogram of {' x '.join(str(s) for s in shape_xyz)} voxels has no room for "
            f"{len(radius)} {what}: ask for fewer, or use a larger --shape"
        ) from error


