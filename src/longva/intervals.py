"""How far a measured mean may lie from the truth: 95 % intervals."""

import math
from collections import defaultdict
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

    Wilson's, of as many trials as independent ones would be needed for the same variance (the
    trials over Kish's design effect, Survey Sampling, 1965): from all of them where clusters vary
    no more than chance would, down to the number of clusters where all is right or all is wrong.

    Args:
        outcomes: 0 or 1 of each trial.
        clusters: for each trial, what it hangs together with.

    >>> [round(end, 2) for end in clustered_interval([1, 1, 0, 0], ["a", "a", "b", "b"])]
    [0.09, 0.91]
    >>> clustered_interval([1, 0, 1, 0], ["a", "a", "b", "b"]) == wilson_interval(2, 4)
    True
    """
    n = len(outcomes)
    mean = sum(outcomes) / n if n else 0.0
    residuals: dict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(outcomes, clusters, strict=True):
        residuals[cluster] += value - mean
    effective: float = len(residuals)
    if 0 < mean < 1:
        variance = sum(residual**2 for residual in residuals.values()) / n**2
        effective = min(n, mean * (1 - mean) / variance) if variance else n
    return wilson_interval(mean * effective, effective)
