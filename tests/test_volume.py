"""Volumes: boxes in a whole, mirror images."""

import numpy as np
import pytest

from scipion_faml.volume import crop_or_pad, mirrored, overlap


@pytest.mark.parametrize("start", [(-2, 0), (3, 4), (6, -3), (9, 0), (-4, 2), (-9, 20)])
def test_a_box_and_the_whole_share_the_voxels_that_both_hold(start):
    whole, box = np.zeros((8, 6), dtype=int), np.zeros((4, 5), dtype=int)
    inside, part = overlap(start, box.shape, whole.shape)
    places = {(start[0] + i, start[1] + j): (i, j) for i in range(4) for j in range(5)}
    shared = [p for p in places if 0 <= p[0] < 8 and 0 <= p[1] < 6]
    whole[inside] += 1
    box[part] += 1
    assert whole[inside].shape == box[part].shape
    assert {tuple(p) for p in np.argwhere(whole)} == set(shared)
    assert {tuple(p) for p in np.argwhere(box)} == {places[p] for p in shared}


@pytest.mark.parametrize(("old", "new"), [(5, 8), (8, 5), (6, 6), (4, 9)])
def test_a_cropped_or_padded_volume_keeps_its_centre_voxel(old, new):
    volume = np.zeros((old, old + 1, old + 2), dtype=np.float32)
    volume[tuple(n // 2 for n in volume.shape)] = 1.0
    changed = crop_or_pad(volume, (new, new, new + 1), fill=-1.0)
    assert np.argwhere(changed == 1.0).tolist() == [[new // 2, new // 2, (new + 1) // 2]]
    kept = [min(a, b) for a, b in zip(volume.shape, changed.shape, strict=True)]
    assert (changed > -1.0).sum() == np.prod(kept)


@pytest.mark.parametrize("n", [9, 10])
def test_mirroring_keeps_the_centre_and_undoes_itself(n):
    volume = np.random.default_rng(4).standard_normal((n, n, n))
    once = mirrored(volume)
    c = n // 2
    assert once[c, 2, 3] == volume[c, 2, 3] and once[c + 1, 2, 3] == volume[c - 1, 2, 3]
    np.testing.assert_array_equal(mirrored(once), volume)
