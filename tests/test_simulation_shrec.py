"""How like the ground truth of the SHREC'19 challenge the preset of simulate-tomogram is."""

from __future__ import annotations

import gzip
import re
import warnings

import mrcfile
import numpy as np
import pytest
from scipy.spatial import cKDTree

from scipion_faml.cli import presets
from scipion_faml.simulation.scene import make_scene


@pytest.fixture(scope="module")
def shrec_scene(shared_data):
    """Structures and scene of the preset, 512 x 512 x 200 voxels."""
    folders = [str(shared_data / "models"), str(shared_data / "templates_10A")]
    structures = presets.load_named(presets.shrec_models(folders), None, 10.0, 20.0, "none")
    shape = (512, 512, 200)
    counts = presets.draw_counts([s.name for s in structures], np.prod(shape) * 1e3, 0)
    scene = make_scene(structures, counts, shape, 0, open_sides=True, label_level=0.02)
    return structures, scene


def neighbour_quantiles(position_xyz):
    distance = cKDTree(position_xyz).query(position_xyz, 2)[0][:, 1]
    return np.quantile(distance, [0.05, 0.25, 0.5, 0.75, 0.95])


def test_a_preset_tomogram_is_spaced_and_filled_like_the_challenge(shrec_scene, shared_data):
    text = gzip.decompress((shared_data / "shrec19/object_list_train.xml.gz").read_bytes()).decode()
    rows = np.array([[float(w) for w in words] for words in re.findall(
        r'tomo_idx="(\d+)" class_label="\d+" x="(\S+)" y="(\S+)" z="(\S+)"', text)])
    truth = [rows[rows[:, 0] == number, 1:] for number in range(9)]
    scene = shrec_scene[1]
    numbers = [len(place) for place in truth]
    assert min(numbers) - 100 < len(scene) < max(numbers) + 100
    theirs = np.mean([neighbour_quantiles(place) for place in truth], axis=0)
    # Half a voxel; the challenge rounds its positions to voxels.
    np.testing.assert_allclose(neighbour_quantiles(scene.position_xyz), theirs, atol=0.6)
    z = np.concatenate(truth)[:, 2]
    assert abs(scene.position_xyz[:, 2].min() - z.min()) < 2.5
    assert abs(scene.position_xyz[:, 2].max() - z.max()) < 2.5
    assert scene.position_xyz[:, :2].min() < 3 and scene.position_xyz[:, :2].max() > 508
    in_order = np.bincount(scene.class_index)
    assert in_order.min() > 120 and in_order.max() < 270


def test_preset_structures_have_the_sizes_of_the_challenges_masks(shrec_scene, shared_data):
    names = {"4cr2": "4b4t", "tric": "4d8q"}
    total = 0
    for structure in shrec_scene[0]:
        path = shared_data / "shrec19/masks_10A" / f"{names.get(structure.name, structure.name)}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the header lacks the machine stamp
            with mrcfile.open(f"{path}.mrc.gz", permissive=True) as mrc:
                mask = np.asarray(mrc.data) > 0
        label = structure.map > 0.02 * structure.map.max()
        places = [np.argwhere(label), np.argwhere(mask)]
        sizes = [np.sqrt(((p - p.mean(0)) ** 2).sum(1).mean()) for p in places]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.08), structure.name
        total += label.sum() - mask.sum()
    assert abs(total) < 1500  # of 14,000: the space filled is theirs to 10 %
