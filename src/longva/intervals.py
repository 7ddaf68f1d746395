"""How far a measured mean may lie from the truth: 95 % intervals."""

import math

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
