"""Coarse groups: descriptors know neither turns nor wedges, and the mixture finds what is there."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

from scipion_faml.cli import run
from scipion_faml.evaluation.classes import compare_classes
from scipion_faml.fourier import frequencies, spectrum, volume_from_spectrum
from scipion_faml.geometry import RigidTransforms, random_rotations
from scipion_faml.grouping import clustering
from scipion_faml.grouping.clustering import (
    find_groups,
    fit_mixture,
    principal_components,
)
from scipion_faml.grouping.descriptors import (
    DescriptorSettings,
    describe,
    radial_profile,
    radial_volume,
)
from scipion_faml.io import read_volume, write_volume
from scipion_faml.structures import load_structure
from scipion_faml.tables import ParticleTable, optics_table, read_particles, write_particles
from scipion_faml.volume import move_volume, squared_radius
from scipion_faml.wedge import NO_WEDGE, MissingWedge

N, VOXEL_SIZE = 32, 10.0
HOW = DescriptorSettings.of(N, VOXEL_SIZE)
MODELS = ("ribosome", "groel", "apoferritin")
ALL = NO_WEDGE.mask(N)
WEDGE = MissingWedge(-60.0, 60.0).mask(N)


@pytest.fixture(scope="module")
def structures():
    return [load_structure(name, N, VOXEL_SIZE, 20.0) for name in MODELS]


def pose(rng, max_shift=3.0):
    direction = rng.normal(size=3)
    shift = max_shift * rng.uniform() ** (1 / 3) * direction / np.linalg.norm(direction)
    return RigidTransforms(random_rotations(1, rng), shift[None])


def cut(volume, weight):
    return volume_from_spectrum(spectrum(volume) * weight, len(volume)).astype(np.float32)


def noisy(structure, snr, weight, rng):
    """A particle in any pose, or (None) nothing, with noise of variance 1 / snr; wedge cut."""
    volume = rng.normal(0.0, snr**-0.5, (N, N, N))
    if structure is not None:
        volume = volume + structure.posed(pose(rng)) / structure.map.std()
    return cut(volume, weight)


def described(volumes, weights):
    found = [describe(v, w, HOW) for v, w in zip(volumes, weights, strict=True)]
    return np.stack([d.values for d in found]), np.stack([d.noise_variance for d in found])


def mixture_of(structures, per_class, snr, rng, weight=WEDGE):
    truth = np.repeat(np.arange(len(structures)), per_class)
    return [noisy(structures[k], snr, weight, rng) for k in truth], truth


# ------------------------------------------------------------------------------- descriptors
def test_descriptors_are_the_sums_of_their_equations_sample_by_sample():
    rng = np.random.default_rng(0)
    n, how = 8, DescriptorSettings(8, 2)
    volume = rng.normal(size=(n, n, n)).astype(np.float32)
    weight = rng.uniform(0.2, 1.0, (n, n, n // 2 + 1)).astype(np.float32)
    weight[rng.uniform(size=weight.shape) < 0.3] = 0.0
    half = spectrum(volume).astype(complex)
    kz, ky, kx = (np.broadcast_to(k, half.shape) for k in frequencies(n))
    sums = {s: np.zeros(5) for s in range(n // 2 + 1)}  # w Re X, w |X|^2, w, N, N'
    for index in np.ndindex(half.shape):
        shell = round(float(np.sqrt(kz[index] ** 2 + ky[index] ** 2 + kx[index] ** 2)))
        if shell > n // 2:
            continue
        both = 1 if kx[index] in (0, n // 2) else 2
        w = weight[index]
        sums[shell] += both * np.array([
            w * half[index].real, w * abs(half[index]) ** 2, w, w > 0, 1.0])
    outer = sum(sums[s] for s in (3, 4))
    variance = outer[1] / outer[3]
    means = [sums[s][0] / sums[s][2] * np.sqrt(sums[s][4] / variance) for s in (1, 2)]
    powers = [np.log(max(1 + (sums[s][1] - sums[s][3] * variance) / sums[s][2] / variance, 0.1))
              * np.sqrt(sums[s][4] / 2) for s in (1, 2)]
    found = describe(volume, weight, how)
    np.testing.assert_allclose(found.values, [*means, *powers], rtol=1e-4)
    np.testing.assert_allclose(
        found.noise_variance, 2 * [sums[s][4] / sums[s][3] for s in (1, 2)])


def test_a_quarter_turn_changes_no_descriptor_and_any_turn_hardly(structures):
    rng = np.random.default_rng(1)
    # An odd box is its own image under quarter turns about its centre.
    volume = np.zeros((33, 33, 33), np.float32)
    volume[:32, :32, :32] = structures[0].map / structures[0].map.std()
    volume += rng.normal(size=volume.shape).astype(np.float32)
    how, weight = DescriptorSettings.of(33, VOXEL_SIZE), NO_WEDGE.mask(33)
    values = describe(volume, weight, how).values
    turned = np.ascontiguousarray(np.rot90(volume, axes=(0, 2)))
    np.testing.assert_allclose(describe(turned, weight, how).values, values, rtol=1e-3, atol=1e-2)
    # Any turn: against the distance from another structure, with noise as a scale.
    noise = rng.normal(0.0, 3.0, (N, N, N))
    apart = [describe((s.map / s.map.std() + noise).astype(np.float32), ALL, HOW).values
             for s in structures[:2]]
    moved = move_volume(structures[0].map, RigidTransforms(
        random_rotations(1, rng), np.zeros((1, 3)))) / structures[0].map.std()
    again = describe((moved + noise).astype(np.float32), ALL, HOW).values
    distance = np.linalg.norm(again - apart[0])
    assert distance < 0.15 * np.linalg.norm(apart[1] - apart[0])


def test_power_does_not_know_shifts_nor_either_descriptor_grey_levels(structures):
    rng = np.random.default_rng(2)
    volume = noisy(structures[0], 0.3, ALL, rng)
    values = describe(volume, ALL, HOW).values
    rolled = np.roll(volume, (3, -2, 1), axis=(0, 1, 2))
    np.testing.assert_allclose(
        describe(rolled, ALL, HOW).values[HOW.n_shells:], values[HOW.n_shells:], rtol=1e-3,
        atol=1e-3)
    np.testing.assert_allclose(
        describe(7.0 * volume + 3.0, ALL, HOW).values, values, rtol=1e-3, atol=1e-2)


def test_descriptors_of_noise_have_the_variance_that_they_state():
    rng = np.random.default_rng(3)
    values, variance = described([noisy(None, 1.0, WEDGE, rng) for _ in range(300)], [WEDGE] * 300)
    ratio = values.var(axis=0) / variance[0]
    # 300 draws know a variance to 8 %; log power of the innermost shell, of few samples, is skewed.
    assert ratio[1:].min() > 0.75 and ratio[1:].max() < 1.45
    assert np.abs(values[:, :HOW.n_shells].mean(axis=0)).max() < 0.4


def test_missing_samples_are_left_out_and_not_taken_for_zeros():
    ball = np.exp(-squared_radius(N) / 18.0).astype(np.float32)
    whole = describe(ball, ALL, HOW).shell_means
    for low, high in ((-40.0, 40.0), (-60.0, 50.0)):
        weight = MissingWedge(low, high).mask(N)
        found = describe(cut(ball, weight), weight, HOW).shell_means
        # A wedge takes other radii of the lattice out of a shell than it leaves: some per cent.
        np.testing.assert_allclose(found[:8], whole[:8], rtol=0.06, atol=1e-3 * whole[0])
    # The round volume of a round particle is the particle.
    np.testing.assert_allclose(radial_volume(whole, N), ball, atol=0.03)
    np.testing.assert_allclose(
        radial_profile(radial_volume(whole, N)), ball[N // 2, N // 2, N // 2:], atol=0.03)


def test_tilt_range_and_orientation_of_the_wedge_decide_no_group(structures):
    rng = np.random.default_rng(0)
    about_x = np.ascontiguousarray(np.swapaxes(WEDGE, 0, 1))
    weights = (MissingWedge(-45.0, 45.0).mask(N), MissingWedge(-70.0, 60.0).mask(N), about_x)
    truth, which = rng.integers(0, 2, 120), rng.integers(0, 3, 120)
    volumes = [noisy([structures[0], structures[2]][k], 0.1, weights[w], rng)
               for k, w in zip(truth, which, strict=True)]
    values, variance = described(volumes, [weights[w] for w in which])
    groups = find_groups(values, variance, None)
    assert compare_classes(truth, groups.index).adjusted_rand_index > 0.95
    for k in (0, 1):  # nor do two groups of one structure part by their wedges
        mine = truth == k
        halves = find_groups(values[mine], variance[mine], 2)
        assert compare_classes(which[mine], halves.index).adjusted_rand_index < 0.2


# -------------------------------------------------------------------------------- clustering
@pytest.mark.parametrize("snr", [0.05, 0.3])
def test_sizes_and_junk_part_before_any_alignment(structures, snr):
    rng = np.random.default_rng(4)
    volumes, truth = mixture_of([*structures, None], 25, snr, rng)
    values, variance = described(volumes, [WEDGE] * len(volumes))
    for asked in (None, 4):
        groups = find_groups(values, variance, asked)
        assert compare_classes(truth, groups.index).f1_mean > 0.97
        assert groups.silhouette > 0.3


def test_particles_of_one_kind_are_one_group(structures):
    rng = np.random.default_rng(5)
    for structure, snr in ((structures[1], 0.1), (structures[1], 0.3), (None, 0.1)):
        volumes, _ = mixture_of([structure], 60, snr, rng)
        groups = find_groups(*described(volumes, [WEDGE] * 60), None)
        assert list(groups.sizes) == [60] and groups.silhouette is None


def test_components_of_noise_alone_are_not_kept():
    rng = np.random.default_rng(6)
    noise = rng.normal(size=(400, 12))
    assert principal_components(noise, np.ones((400, 12))).values.shape[1] == 1  # at least one
    signal = noise + 5.0 * rng.normal(size=(400, 1)) * np.eye(12)[3]
    found = principal_components(signal, np.ones((400, 12)))
    assert found.values.shape[1] == 1 and abs(found.axes[0, 3]) > 0.99


def test_the_likelihood_of_the_mixture_is_that_of_its_densities():
    rng = np.random.default_rng(7)
    values = np.concatenate([rng.normal(size=(40, 2)), rng.normal(8.0, 2.0, (40, 2))])
    mixture = fit_mixture(values, 2, 0.1, rng)
    density = mixture.outliers * np.exp(mixture.log_constant) + sum(
        mixture.share[k] * multivariate_normal(mixture.mean[k], mixture.covariance[k]).pdf(values)
        for k in range(2))
    assert np.log(density).sum() == pytest.approx(mixture.log_likelihood, abs=1e-3)
    assert mixture.share.sum() + mixture.outliers == pytest.approx(1.0)


def test_the_criterion_of_groups_apart_is_the_bayesian_and_of_two_halves_of_one_is_worse():
    rng = np.random.default_rng(15)
    one = rng.normal(size=(300, 2))
    apart = np.where(np.arange(300)[:, None] < 150, one, one + 50.0)
    mixture = fit_mixture(apart, 2, 0.1, rng)
    n_free = 2 * (1 + 2 + 3)  # of each group: share, mean, covariance
    assert mixture.criterion(apart) == pytest.approx(
        -2 * mixture.log_likelihood + n_free * np.log(300), abs=2.0)
    assert fit_mixture(one, 1, 0.1, rng).criterion(one) < fit_mixture(
        one, 2, 0.1, rng).criterion(one)


def test_gaussians_without_a_valley_between_them_are_one_group():
    rng = np.random.default_rng(16)

    def pair(distance):
        covariance = np.stack([np.eye(2), np.eye(2)])
        return clustering.Mixture(
            np.array([0.5, 0.5]), 0.0, np.array([[0.0, 0.0], [distance, 0.0]]), covariance, -9.0)

    # Equal Gaussians d apart: density 2 exp(-d^2 / 8) in the middle over 1 + exp(-d^2 / 2).
    for distance in (1.0, 2.5, 3.5, 5.0):
        middle = min(2 * np.exp(-distance**2 / 8) / (1 + np.exp(-distance**2 / 2)), 1.0)
        assert clustering._valley(pair(distance), 0, 1) == pytest.approx(middle, rel=0.1)
        n_groups = len(set(clustering.joined(pair(distance)).tolist()))
        assert n_groups == (1 if middle > clustering.SHALLOW else 2)
    angle = rng.uniform(0.0, np.pi, 500)  # a bent cloud takes several Gaussians, and is one
    bent = 12.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(size=(500, 2))
    groups = find_groups(bent, np.ones_like(bent), None)
    assert min(groups.criterion, key=groups.criterion.get) > 1 and len(groups.sizes) == 1


def test_steps_of_the_mixture_never_lose_likelihood_without_its_bounds():
    rng = np.random.default_rng(8)
    values = np.concatenate([rng.normal(m, 1.0, (60, 2)) for m in (0.0, 3.0, 6.0)])
    constant = -float(np.log(np.ptp(values, axis=0)).sum())
    mixture = clustering._start(values, 3, 1e-6, constant, rng)
    before = -np.inf
    for _ in range(30):
        log_joint = mixture.log_joint(values)
        total = np.logaddexp.reduce(log_joint, axis=1)
        assert total.sum() > before - 1e-2  # the noise's prior weighs D + 1 particles
        before = total.sum()
        mixture = clustering._maximisation(
            values, np.exp(log_joint - total[:, None]), 1e-6, constant)


def test_a_far_particle_is_marked_and_founds_no_group():
    rng = np.random.default_rng(9)
    values = np.concatenate([rng.normal(size=(80, 4)), rng.normal(size=(80, 4)) + [20, 0, 0, 0]])
    values[5] += [0.0, 900.0, 0.0, 0.0]
    groups = find_groups(values, np.ones_like(values), None)
    assert len(groups.sizes) == 2
    assert np.flatnonzero(groups.is_outlier).tolist() == [5]


def test_silhouette_and_groups_agree_with_scikit_learn():
    mixture = pytest.importorskip("sklearn.mixture")
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(10)
    values = np.concatenate([rng.normal(m, s, (70, 3)) for m, s in ((0, 1), (6, 2), (-7, 1.5))])
    groups = find_groups(values, np.full(values.shape, 0.01), 3)
    assert groups.silhouette == pytest.approx(
        silhouette_score(groups.components.values, groups.index), abs=1e-6)
    theirs = mixture.GaussianMixture(3, n_init=5, random_state=0).fit_predict(values)
    assert compare_classes(theirs, groups.index).adjusted_rand_index > 0.95


def test_many_particles_are_grouped_by_a_mixture_of_some(monkeypatch):
    monkeypatch.setattr(clustering, "FIT_AT_MOST", 100)
    rng = np.random.default_rng(11)
    truth = rng.integers(0, 3, 900)
    values = rng.normal(size=(900, 5)) + 12.0 * truth[:, None] * np.eye(5)[1]
    groups = find_groups(values, np.ones_like(values), None)
    assert compare_classes(truth, groups.index).adjusted_rand_index > 0.99


def test_more_groups_than_particles_or_nothing_measured_is_refused():
    rng = np.random.default_rng(12)
    with pytest.raises(ValueError, match="5 groups asked of 3 particles"):
        find_groups(rng.normal(size=(3, 4)), np.ones((3, 4)), 5)
    volume = rng.normal(size=(N, N, N)).astype(np.float32)
    with pytest.raises(ValueError, match="no Fourier sample was measured"):
        describe(volume, np.zeros_like(ALL), HOW)
    for low_pass, diameter in ((1e6, None), (None, 5.0)):
        with pytest.raises(ValueError, match="give"):
            DescriptorSettings.of(N, VOXEL_SIZE, low_pass, diameter)
    with pytest.raises(ValueError, match="too small"):
        DescriptorSettings.of(6, VOXEL_SIZE)


# --------------------------------------------------------------------------------------- verb
@pytest.fixture(scope="module")
def table(tmp_path_factory, structures):
    folder = tmp_path_factory.mktemp("group")
    volumes, truth = mixture_of([structures[0], None], 20, 0.2, np.random.default_rng(13))
    order = np.random.default_rng(14).permutation(len(truth))
    names = [str(folder / f"p{i:03d}.mrc") for i in range(len(order))]
    for name, i in zip(names, order, strict=True):
        write_volume(name, volumes[i], VOXEL_SIZE)
    rows = pd.DataFrame({"rlnImageName": names, "rlnOpticsGroup": 1, "rlnAngleRot": 10.0,
                         "rlnAngleTilt": 20.0, "rlnAnglePsi": 30.0, "myColumn": range(len(names))})
    path = folder / "particles.star"
    write_particles(path, ParticleTable(
        rows, optics_table(VOXEL_SIZE, N, [MissingWedge(-60.0, 60.0)])))
    return path, truth[order]


def grouped(path, output, *options):
    return run(["group", str(path), "--output", str(output), *options])


def test_the_verb_writes_groups_descriptors_means_and_a_report(
    table, tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("FAML_NO_REPORT", raising=False)
    path, truth = table
    assert grouped(path, tmp_path / "out", "--json", "--workers", "2") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["groups"] == 2 and sum(result["sizes"]) == 40
    assert result["criterion"] == min(result["criteria"].values()) and result["silhouette"] > 0.3
    found = read_particles(tmp_path / "out" / "particles.star")
    assert compare_classes(truth, found.class_index).f1_mean > 0.97
    assert found.rows["rlnMaxValueProbDistribution"].between(0, 1).all()
    before = read_particles(path).rows  # poses and unknown columns stay
    for column in ("rlnAngleRot", "rlnAngleTilt", "myColumn"):
        assert found.rows[column].tolist() == before[column].tolist()
    descriptors = pd.read_csv(tmp_path / "out" / "descriptors.csv")
    assert len(descriptors) == 40 and {"group", "mean_001", "power_008"} <= set(descriptors)
    ribosomes = int(found.class_index[truth == 0][0])
    means = [read_volume(tmp_path / "out" / f"group_{k:03d}.mrc")[0] for k in (1, 2)]
    assert radial_profile(means[ribosomes])[:8].mean() > 5 * abs(
        radial_profile(means[1 - ribosomes])[:8].mean())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Typical particles" in page and "It is no structure" in page


def test_workers_change_no_bit_and_a_finished_run_is_not_repeated(table, tmp_path, capsys):
    path, _ = table
    for workers in ("1", "3"):
        assert grouped(path, tmp_path / workers, "--workers", workers, "--no-report") == 0
    for name in ("descriptors.csv", "group_001.mrc", "group_002.mrc"):
        one, three = ((tmp_path / w / name).read_bytes() for w in ("1", "3"))
        assert one == three or name.endswith("mrc")
        if name.endswith("mrc"):  # headers hold the time
            np.testing.assert_array_equal(*(read_volume(tmp_path / w / name)[0] for w in "13"))
    assert grouped(path, tmp_path / "1") == 0
    assert "nothing to do" in capsys.readouterr().err
    assert grouped(path, tmp_path / "1", "--groups", "3") == 2
    assert "add --overwrite" in capsys.readouterr().err


def test_a_lower_number_of_groups_leaves_no_file_of_the_run_before(table, tmp_path):
    path, _ = table
    assert grouped(path, tmp_path / "out", "--groups", "3", "--no-report") == 0
    assert grouped(path, tmp_path / "out", "--groups", "1", "--overwrite", "--no-report") == 0
    assert [p.name for p in sorted((tmp_path / "out").glob("group_*"))] == ["group_001.mrc"]


@pytest.mark.parametrize(("options", "said"), [
    (["--groups", "0"], "is no number of groups"), (["--groups", "many"], "is no number of groups"),
    (["--groups", "41"], "41 groups asked of 40 particles"),
    (["--low-pass", "100000"], "leaves nothing"), (["--particle-diameter", "3"], "2 voxels")])
def test_wrong_input_is_one_line(table, tmp_path, capsys, options, said):
    assert grouped(table[0], tmp_path / "out", *options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]


def test_a_damaged_particle_is_named_or_left_out(table, tmp_path, capsys):
    path, _ = table
    rows = read_particles(path)
    broken = tmp_path / "broken.mrc"
    write_volume(broken, np.full((N, N, N), 2.0, np.float32), VOXEL_SIZE)
    names = rows.rows["rlnImageName"].tolist()
    names[3] = str(broken)
    write_particles(tmp_path / "bad.star", rows.with_columns(rlnImageName=names))
    assert grouped(tmp_path / "bad.star", tmp_path / "a") == 2
    assert "broken.mrc" in capsys.readouterr().err
    assert grouped(tmp_path / "bad.star", tmp_path / "b", "--skip-bad", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n_excluded"] == 1 and result["particles"] == 39
