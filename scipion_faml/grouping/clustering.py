"""Groups of particles in the space of their descriptors: principal components and a mixture.

Descriptors have a known noise (`descriptors`), so that every step knows what is noise: components
are kept above the largest eigenvalue that noise alone would show (Marchenko and Pastur), and no
Gaussian of the mixture is narrower than it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp, xlogy

from scipion_faml.types import BoolArray, FloatArray, IntArray

MOST_COMPONENTS = 6
MOST_GROUPS = 10  # looked for
N_STARTS = 8
MOST_STEPS = 300
CONVERGED = 1e-6  # of the log-likelihood of a particle
FIT_AT_MOST = 10_000  # particles that the mixture is fitted to; all are assigned
MOST_OUTLIERS = 0.05  # share of particles that belong to no group
LEAST_IN_GROUP = 5.0  # particles
FAR, FAR_QUANTILE = 3.0, 0.95  # beyond 3 times the distance of most, particles are drawn in
SILHOUETTE_OF = 1000  # particles
SHALLOW = 0.2  # density of a valley over the lower of its peaks: above, there is one group
RIDGE_POINTS = 41


# ------------------------------------------------------------------------------- components
@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of descriptors."""

    values: FloatArray  # (N, D)
    axes: FloatArray  # (D, P)
    variances: FloatArray  # (P,) of all components, the largest first
    edge: float  # the largest variance of noise alone
    noise: float  # its mean variance


def principal_components(descriptors: FloatArray, noise_variance: FloatArray) -> Components:
    """Return the components of descriptors (N, P) that stand above their noise, at least one.

    Particles far from all others (dirt, gold) would take the axes for themselves: they are drawn
    in to `FAR` times the distance of most before axes are found.
    """
    n_particles, n_values = descriptors.shape
    centred = descriptors - np.median(descriptors, axis=0)
    distance = np.linalg.norm(centred, axis=1)
    reach = FAR * max(float(np.quantile(distance, FAR_QUANTILE)), 1e-12)
    drawn_in = centred * np.minimum(1.0, reach / np.maximum(distance, 1e-12))[:, None]
    drawn_in -= drawn_in.mean(axis=0)
    variances, vectors = np.linalg.eigh(drawn_in.T @ drawn_in / n_particles)
    variances, vectors = variances[::-1], vectors[:, ::-1]
    noise = float(noise_variance.mean())
    edge = noise * (1.0 + np.sqrt(n_values / n_particles)) ** 2
    n_kept = int(np.clip((variances > edge).sum(), 1, min(MOST_COMPONENTS, n_values)))
    axes = vectors[:, :n_kept].T
    # An eigenvector has no sign of its own: the largest entry is positive.
    axes = axes * np.sign(axes[np.arange(n_kept), np.abs(axes).argmax(axis=1)])[:, None]
    return Components(drawn_in @ axes.T, axes, variances, edge, noise)


# ----------------------------------------------------------------------------------- mixture
@dataclass(frozen=True, eq=False)
class Mixture:
    """Gaussians with covariances of their own, and a constant density for what fits none."""

    share: FloatArray  # (K,) of the groups
    outliers: float  # share of the constant density
    mean: FloatArray  # (K, D)
    covariance: FloatArray  # (K, D, D)
    log_constant: float  # of the constant density
    log_likelihood: float = -np.inf  # of all particles

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.share)

    def log_joint(self, values: FloatArray) -> FloatArray:
        """Return log of share times density, (N, K + 1): the last is that of no group."""
        columns = [np.log(self.share[k]) + _log_normal(values, self.mean[k], self.covariance[k])
                   for k in range(self.n_groups)]
        nowhere = np.full(len(values), np.log(max(self.outliers, 1e-300)) + self.log_constant)
        return np.stack([*columns, nowhere], axis=1)

    def criterion(self, values: FloatArray) -> float:
        """Return the integrated completed likelihood; the smaller the better.

        The Bayesian information criterion and twice the entropy of the posteriors (Biernacki,
        Celeux and Govaert 2000): Gaussians that overlap are no groups.
        """
        d = self.mean.shape[1]
        n_free = self.n_groups * (1 + d + d * (d + 1) // 2)
        log_joint = self.log_joint(values)
        posterior = np.exp(log_joint - logsumexp(log_joint, axis=1)[:, None])
        entropy = -float(xlogy(posterior, posterior).sum())
        return float(
            -2.0 * self.log_likelihood + n_free * np.log(len(values)) + 2.0 * entropy)


def _log_normal(values: FloatArray, mean: FloatArray, covariance: FloatArray) -> FloatArray:
    """Log of a Gaussian density at values (N, D)."""
    factor = np.linalg.cholesky(covariance)
    whitened = solve_triangular(factor, (values - mean).T, lower=True)
    constant = len(mean) * np.log(2.0 * np.pi) + 2.0 * np.log(np.diag(factor)).sum()
    log_density: FloatArray = -0.5 * ((whitened**2).sum(axis=0) + constant)
    return log_density


def fit_mixture(
    values: FloatArray, n_groups: int, noise: float, rng: np.random.Generator
) -> Mixture:
    """Return the likeliest mixture of several starts, by expectation-maximisation.

    Parameters
    ----------
    values : (N, D) components
    noise : variance that no Gaussian falls below in any direction
    """
    # Twice the range of the particles: those at its ends are no outliers for that.
    spread = 2.0 * np.maximum(np.ptp(values, axis=0), np.sqrt(noise))
    log_constant = -float(np.log(spread).sum())
    starts = N_STARTS if n_groups > 1 else 1
    fitted = [_maximised(_start(values, n_groups, noise, log_constant, rng), values, noise)
              for _ in range(starts)]
    return max(fitted, key=lambda mixture: mixture.log_likelihood)


def _start(
    values: FloatArray, n_groups: int, noise: float, log_constant: float,
    rng: np.random.Generator,
) -> Mixture:
    """Particles of the nearest of centres drawn far apart (k-means++)."""
    centres = [values[rng.integers(len(values))]]
    squared = ((values - centres[0]) ** 2).sum(axis=1)
    for _ in range(1, n_groups):
        total = squared.sum()
        chosen = (rng.choice(len(values), p=squared / total) if total > 0
                  else rng.integers(len(values)))
        centres.append(values[chosen])
        squared = np.minimum(squared, ((values - centres[-1]) ** 2).sum(axis=1))
    distance = np.stack([((values - c) ** 2).sum(axis=1) for c in centres], axis=1)
    posterior = np.zeros((len(values), n_groups + 1))
    posterior[np.arange(len(values)), distance.argmin(axis=1)] = 1.0
    return _maximisation(values, posterior, noise, log_constant)


def _maximised(mixture: Mixture, values: FloatArray, noise: float) -> Mixture:
    """The mixture after EM steps until nothing changes."""
    before = -np.inf
    for _ in range(MOST_STEPS):
        log_joint = mixture.log_joint(values)
        log_density = logsumexp(log_joint, axis=1)
        total = float(log_density.sum())
        if total - before < CONVERGED * len(values):
            break
        before = total
        posterior = np.exp(log_joint - log_density[:, None])
        mixture = _maximisation(values, posterior, noise, mixture.log_constant)
    return replace(mixture, log_likelihood=total)


def _maximisation(
    values: FloatArray, posterior: FloatArray, noise: float, log_constant: float
) -> Mixture:
    """Shares, means and covariances of particles that belong to groups by `posterior`."""
    n_particles, d = values.shape
    counts = posterior[:, :-1].sum(axis=0) + 1e-9
    outliers = min(posterior[:, -1].sum() / n_particles, MOST_OUTLIERS)
    outliers = max(outliers, 0.5 / n_particles)
    mean = (posterior[:, :-1].T @ values) / counts[:, None]
    covariance = np.empty((len(counts), d, d))
    for k, count in enumerate(counts):
        apart = values - mean[k]
        # As if D + 1 more particles had shown the noise: few particles give no narrow Gaussian.
        seen = (apart * posterior[:, k, None]).T @ apart + (d + 1) * noise * np.eye(d)
        covariance[k] = _not_below(seen / (count + d + 1), noise)
    share = (1.0 - outliers) * counts / counts.sum()
    return Mixture(share, float(outliers), mean, covariance, log_constant)


def _not_below(covariance: FloatArray, least: float) -> FloatArray:
    """The covariance with variances of `least` or more in every direction."""
    variances, axes = np.linalg.eigh(covariance)
    if variances[0] >= least:
        return covariance
    bounded: FloatArray = (axes * np.maximum(variances, least)) @ axes.T
    return bounded


# ------------------------------------------------------------------------------------ groups
@dataclass(frozen=True, eq=False)
class Groups:
    """The group of every particle; the largest group is 0."""

    index: IntArray  # (N,) from 0
    probability: FloatArray  # (N,) of that group among all groups
    is_outlier: BoolArray  # (N,) fits no group
    typicality: FloatArray  # (N,) log density within its group
    components: Components
    criterion: dict[int, float]  # number of Gaussians -> `Mixture.criterion` of those tried
    silhouette: float | None  # -1 to 1; None of one group

    @property
    def sizes(self) -> IntArray:
        """Particles of each group."""
        sizes: IntArray = np.bincount(self.index, minlength=int(self.index.max()) + 1)
        return sizes


def find_groups(
    descriptors: FloatArray, noise_variance: FloatArray, n_groups: int | None, seed: int = 0
) -> Groups:
    """Return groups of particles by their descriptors.

    Parameters
    ----------
    descriptors, noise_variance : (N, P)
    n_groups : None: as many, from 1, as the mixture of the smallest `Mixture.criterion` has of
        Gaussians with valleys between them.

    Raises
    ------
    ValueError
        If there are fewer particles than groups.
    """
    n_particles = len(descriptors)
    if n_groups is not None and n_groups > n_particles:
        raise ValueError(f"{n_groups} groups asked of {n_particles} particles: ask for fewer")
    components = principal_components(descriptors, noise_variance)
    rng = np.random.default_rng(seed)
    rows = (np.arange(n_particles) if n_particles <= FIT_AT_MOST
            else np.sort(rng.choice(n_particles, FIT_AT_MOST, replace=False)))
    mixtures = _tried(components.values[rows], n_groups, components.noise, seed)
    criterion = {k: m.criterion(components.values[rows]) for k, m in mixtures.items()}
    best = mixtures[min(criterion, key=criterion.__getitem__)]
    group = joined(best) if n_groups is None else np.arange(n_groups)
    return _assigned(best, group, components, criterion, rng)


def _tried(
    values: FloatArray, n_groups: int | None, noise: float, seed: int
) -> dict[int, Mixture]:
    """A mixture of the number asked for, or of 1, 2 ... until more only make it worse."""
    def fitted(k: int) -> Mixture:
        return fit_mixture(values, k, noise, np.random.default_rng([seed, k]))

    if n_groups is not None:
        return {n_groups: fitted(n_groups)}
    found = {1: fitted(1)}
    scores = [found[1].criterion(values)]
    for k in range(2, MOST_GROUPS + 1):
        mixture = fitted(k)
        if (mixture.share * len(values)).min() < LEAST_IN_GROUP:
            break
        found[k] = mixture
        scores.append(mixture.criterion(values))
        if k > 2 and scores[-1] > scores[-2] > scores[-3]:
            break
    return found


def joined(mixture: Mixture) -> IntArray:
    """Return the group (K,) of each Gaussian: those without a valley between them are one.

    Orientations and wedges bend the cloud of one kind, which then takes several Gaussians. All
    extremes of the density of two lie on a curve between their means (Ray and Lindsay 2005);
    Gaussians are joined where the density on it falls nowhere below SHALLOW times the lower peak
    (Hennig 2010).
    """
    group = np.arange(mixture.n_groups)
    for i in range(mixture.n_groups):
        for j in range(i):
            if group[i] != group[j] and _valley(mixture, i, j) > SHALLOW:
                group[group == group[i]] = group[j]
    joined_index: IntArray = np.unique(group, return_inverse=True)[1]
    return joined_index


def _valley(mixture: Mixture, i: int, j: int) -> float:
    """Lowest density between two Gaussians over the lower of the peaks beside it; 1: none."""
    first, second = (np.linalg.inv(mixture.covariance[k]) for k in (i, j))
    ridge = np.stack([
        np.linalg.solve((1.0 - a) * first + a * second,
                        (1.0 - a) * first @ mixture.mean[i] + a * second @ mixture.mean[j])
        for a in np.linspace(0.0, 1.0, RIDGE_POINTS)])
    log_density = np.logaddexp(*(
        np.log(mixture.share[k]) + _log_normal(ridge, mixture.mean[k], mixture.covariance[k])
        for k in (i, j)))
    before = np.maximum.accumulate(log_density)
    after = np.maximum.accumulate(log_density[::-1])[::-1]
    return float(np.exp((log_density - np.minimum(before, after)).min()))


def _assigned(
    mixture: Mixture, group: IntArray, components: Components, criterion: dict[int, float],
    rng: np.random.Generator,
) -> Groups:
    """Every particle in its likeliest group; groups without particles vanish."""
    log_joint = mixture.log_joint(components.values)
    in_groups = np.stack([logsumexp(log_joint[:, :-1][:, group == g], axis=1)
                          for g in range(group.max() + 1)], axis=1)
    share = np.bincount(group, weights=mixture.share)
    index = in_groups.argmax(axis=1)
    rows = np.arange(len(index))
    in_any = logsumexp(in_groups, axis=1)
    probability = np.exp(in_groups[rows, index] - in_any)
    typicality = in_groups[rows, index] - np.log(share)[index]
    is_outlier = log_joint[:, -1] > in_any
    order = np.argsort(-np.bincount(index, minlength=len(share)), kind="stable")
    number = np.argsort(order, kind="stable")[index]
    return Groups(number, probability, is_outlier, typicality, components, criterion,
                  _silhouette(components.values, number, rng))


def _silhouette(
    values: FloatArray, index: IntArray, rng: np.random.Generator
) -> float | None:
    """Mean silhouette of some particles (Rousseeuw 1987)."""
    if len(index) > SILHOUETTE_OF:
        some = np.sort(rng.choice(len(index), SILHOUETTE_OF, replace=False))
        values, index = values[some], index[some]
    labels, index = np.unique(index, return_inverse=True)
    if len(labels) < 2:
        return None
    squared = (values**2).sum(axis=1)
    distance = np.sqrt(np.maximum(
        squared[:, None] + squared[None] - 2.0 * values @ values.T, 0.0))
    np.fill_diagonal(distance, 0.0)
    counts = np.bincount(index).astype(float)
    sums = np.stack([distance[:, index == k].sum(axis=1) for k in range(len(labels))], axis=1)
    rows = np.arange(len(index))
    own = sums[rows, index] / np.maximum(counts[index] - 1.0, 1.0)
    others = sums / counts
    others[rows, index] = np.inf
    nearest = others.min(axis=1)
    score = (nearest - own) / np.maximum(np.maximum(nearest, own), 1e-30)
    return float(np.where(counts[index] > 1, score, 0.0).mean())
