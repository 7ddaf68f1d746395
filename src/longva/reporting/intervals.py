"""How far a measured share may lie from the truth: 95 % intervals.

Trials that are independent have Wilson's interval. Answers about the same needle, or the same
video, are not: ninety answers about each of five needles tell little about a sixth. Such a share
has `clustered_interval`; `benchmarks/interval_coverage.py` simulates how often it holds the truth.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""

_ANGLES = (np.arange(32) + 0.5) * math.pi / 64
CORRELATIONS = np.sin(_ANGLES) ** 4
"""Correlations within clusters that are tried: close together where they are small, and near 1."""

SPACING = np.sin(_ANGLES) ** 3 * np.cos(_ANGLES)
"""Of `CORRELATIONS`, up to a factor: the weights of a uniform distribution."""


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """Return the Wilson score interval of a share of independent trials; [0, 1] without trials.

    >>> low, high = wilson_interval(5, 5)
    >>> f"{low:.2f} {high:.2f}"
    '0.57 1.00'
    """
    if trials == 0:
        return 0.0, 1.0
    p, z2 = successes / trials, Z95**2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    low = centre - half if successes > 0 else 0.0  # exactly, not up to rounding
    return low, centre + half if successes < trials else 1.0


def clustered_interval(
    outcomes: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[float, float]:
    """Return the interval of a share whose trials hang together in clusters; [0, 1] without trials.

    Args:
        outcomes: 0 or 1 of each trial.
        clusters: for each trial, what it hangs together with.

    >>> [round(end, 2) for end in clustered_interval([1, 1, 0, 0], ["a", "a", "b", "b"])]
    [0.01, 0.99]
    >>> [round(end, 2) for end in clustered_interval([1] * 5, range(5))]
    [0.48, 1.0]
    """
    numbers: dict[Hashable, int] = {}
    owners = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    right = np.zeros(len(numbers), dtype=np.int64)
    np.add.at(right, owners, np.array(outcomes, dtype=np.int64))
    low, high = clustered_intervals(right[None], np.bincount(owners))[0].tolist()
    return low, high


def clustered_intervals(right: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """Return the intervals of several samples of clusters of the same sizes.

    Clopper and Pearson's, of as many trials as independent ones would be needed for the same
    variance (Korn and Graubard, Survey Methodology 24, 1998): the trials over Kish's design effect
    (Survey Sampling, 1965). That depends on the correlation within clusters, which few clusters
    tell badly, and an estimate of it comes out far too low where almost all is right. So the
    interval is taken over all correlations, each weighed by how well it fits the clusters. An end
    claims no more than it would if all were right, or all wrong: what the clusters have in common
    does not tell how rare others are.

    Args:
        right: [samples, clusters] int, right trials.
        trials: [clusters] int, trials, 1 or more.

    Returns:
        [samples, 2] float64, the lower and the upper ends.
    """
    n = int(trials.sum())
    if n == 0:
        return np.tile([0.0, 1.0], (len(right), 1))
    right = np.vstack([right, trials, np.zeros_like(trials)])
    steps = max(256, math.ceil(8 * math.pi * math.sqrt(n)))  # a step: an eighth standard error
    edges = np.arange(steps + 1) * math.pi / 2 / steps
    share = _shares(steps)
    weights = _correlation_weights(right, trials, _shares(steps // 6))
    effective = n**2 / (n + CORRELATIONS * (trials * (trials - 1)).sum())
    means, sample = np.unique(right.sum(axis=1) / n, return_inverse=True)
    fit = means[:, None] * np.log(share) + (1 - means[:, None]) * np.log1p(-share)
    fit -= fit.max(axis=1, keepdims=True)
    density = np.exp(fit[..., None] * effective)  # [means, shares, correlations]
    ends = []
    # With x of n right they are quantiles of Beta(x, n - x + 1) and Beta(x + 1, n - x): densities
    # that differ by a factor from that of Beta(x + 1/2, n - x + 1/2), which is even in the angle.
    for power, quantile in ((-0.5, 0.025), (0.5, 0.975)):
        below = np.cumsum(density * ((share / (1 - share)) ** power)[:, None], axis=1)
        below = np.einsum("spc,sc->sp", (below / below[:, -1:])[sample], weights)
        ends.append([np.interp(quantile, np.append(0, line), edges) for line in below])
    low, high = np.sin(ends) ** 2
    low[means[sample] == 0], high[means[sample] == 1] = 0.0, 1.0
    *low, if_all_right, _ = low
    *high, _, if_all_wrong = high
    return np.stack([np.minimum(low, if_all_right), np.maximum(high, if_all_wrong)], axis=1)


def _shares(steps: int) -> np.ndarray:
    """Return squared sines of evenly spaced angles, [steps]: uniform there is Jeffreys' prior."""
    return np.sin((np.arange(steps) + 0.5) * math.pi / 2 / steps) ** 2


def _correlation_weights(right: np.ndarray, trials: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Say how probable each correlation within clusters is, [samples, correlations].

    By the likelihood of a beta-binomial distribution whose mean is unknown (Jeffreys' prior) and
    whose correlation may be anything from 0 to 1 (uniform prior). Clusters of another distribution
    may differ by more than such a fit admits, so no correlation is thought lower than the one that
    their own variance gives.

    Args:
        right: [samples, clusters] int.
        trials: [clusters] int.
        share: [shares], means that are tried, of `_shares`.
    """
    drawn = np.arange(trials.max())
    times = (right, trials - right, np.broadcast_to(trials, right.shape))
    # How many clusters have a right answer, a wrong one, any one, after j of them: [samples, j].
    after = [np.stack([(t > j).sum(axis=1) for j in drawn], axis=1).astype(float) for t in times]

    def fit(correlation: float) -> np.ndarray:
        """Return the log-likelihood, up to a constant, [samples, shares]: Polya's urn."""
        rightly, wrongly, either = (
            np.log((1 - correlation) * of + correlation * drawn[:, None])  # [j, shares]
            for of in (share, 1 - share, np.ones(1))
        )
        return after[0] @ rightly + after[1] @ wrongly - after[2] @ either

    fits = np.stack([fit(float(correlation)) for correlation in CORRELATIONS], axis=2)
    likelihood = np.exp(fits - fits.max(axis=(1, 2), keepdims=True))
    weights = likelihood.sum(axis=1) * SPACING

    n, clusters = trials.sum(), len(trials)
    mean = right.sum(axis=1) / n
    variance = ((right - mean[:, None] * trials) ** 2).sum(axis=1) * clusters / max(clusters - 1, 1)
    excess = variance / np.maximum(mean * (1 - mean), 0.25 / n) - n
    pairs = (trials * (trials - 1)).sum()
    least = np.searchsorted(CORRELATIONS[:-1], excess / max(pairs, 1))  # [samples]
    lower = np.arange(len(CORRELATIONS)) < least[:, None]
    weights[np.arange(len(weights)), least] += (weights * lower).sum(axis=1)
    weights[lower] = 0
    return weights / weights.sum(axis=1, keepdims=True)
