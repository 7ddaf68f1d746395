"""How far a measured mean may lie from the truth: 95 % intervals."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""


def wilson_interval(successes: float, trials: float, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion; [0, 1] without trials.

    Neither number need be whole: answers that hang together (three questions about one video) count
    as fewer trials than there are.

    >>> low, high = wilson_interval(5, 5)
    >>> f"{low:.2f} {high:.2f}"
    '0.57 1.00'
    """
    if trials == 0:
        return 0.0, 1.0
    p, z2 = successes / trials, z * z
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    low = centre - half if successes > 0 else 0.0  # exactly, not up to rounding
    return low, centre + half if successes < trials else 1.0


def clustered_interval(
    outcomes: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[float, float]:
    """Return the interval of a share whose trials hang together in clusters.

    Wilson's, of as many trials as independent ones would be needed for the same variance: the
    trials over Kish's design effect (Survey Sampling, 1965), fewer where few clusters tell that
    effect (Korn and Graubard, Survey Methodology 24, 1998). Never fewer than if all trials of a
    cluster had to come out alike, which is what is assumed where all is right or all is wrong.

    Args:
        outcomes: 0 or 1 of each trial.
        clusters: for each trial, what it hangs together with.

    >>> [round(end, 2) for end in clustered_interval([1, 1, 0, 0], ["a", "a", "b", "b"])]
    [0.09, 0.91]
    >>> clustered_interval([1, 1, 1], ["a", "a", "a"]) == wilson_interval(1, 1)
    True
    """
    n = len(outcomes)
    mean = sum(outcomes) / n if n else 0.0
    residuals: dict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(outcomes, clusters, strict=True):
        residuals[cluster] += value - mean
    effective = n**2 / sum(size**2 for size in Counter(clusters).values()) if n else 0.0
    if 0 < mean < 1 and len(residuals) > 1:
        freedom = len(residuals) - 1
        variance = sum(r**2 for r in residuals.values()) / n**2 * len(residuals) / freedom
        alike = min(n, mean * (1 - mean) / variance) if variance else n
        effective = max(effective, alike * (Z95 / t95(freedom)) ** 2)
    return wilson_interval(mean * effective, effective)


def t95(freedom: int) -> float:
    """Return Student's t quantile of a two-sided 95 % interval, to 1 % from 2 degrees of freedom.

    The normal quantile's expansion, Abramowitz and Stegun 26.7.5.

    >>> [round(t95(freedom), 2) for freedom in (4, 9, 19)]
    [2.78, 2.26, 2.09]
    """
    z = Z95
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
