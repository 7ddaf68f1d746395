"""How often does a 95 % interval hold the truth, where answers hang together in clusters?

Each cluster (a needle) has a probability of its own to be found, drawn from a beta distribution of
the true mean and of the given correlation within clusters; its answers are independent draws of it.
0 means that all needles are equally hard, 1 that each is found everywhere or nowhere. The interval
supposes such a distribution; the rows "two kinds" have another: a few hard needles, each found in
`HARD` of its places, among others that are all equally easy.

    python benchmarks/interval_coverage.py --samples 4000
"""

import argparse
from collections.abc import Iterator

import numpy as np

from longva.reporting.intervals import clustered_intervals, wilson_interval

CLUSTERS = (5, 10, 20, 50)
TWO_KINDS = "two kinds"
CORRELATIONS = (0.0, 0.3, 0.7, 1.0, TWO_KINDS)
MEANS = (0.5, 0.9, 0.98)
HARD = 0.2


def draw(
    rng: np.random.Generator,
    samples: int,
    clusters: int,
    trials: int,
    correlation: float | str,
    mean: float,
) -> np.ndarray:
    """Draw right answers, [samples, clusters] int."""
    shape = (samples, clusters)
    if isinstance(correlation, str):
        easy = (1 + mean) / 2
        found = np.where(rng.random(shape) < (easy - mean) / (easy - HARD), HARD, easy)
    elif correlation == 0:
        found = np.full(shape, mean)
    elif correlation == 1:
        found = (rng.random(shape) < mean).astype(float)
    else:
        strength = (1 - correlation) / correlation
        found = rng.beta(mean * strength, (1 - mean) * strength, shape)
    return rng.binomial(trials, found)


def coverage(right: np.ndarray, trials: int, mean: float) -> tuple[float, float, float]:
    """Return the shares of samples whose clustered and whose Wilson interval hold the true mean.

    Args:
        right: [samples, clusters] int.
        trials: answers of each cluster.
        mean: the true one.

    Returns:
        Clustered, Wilson, and the mean width of the clustered intervals.
    """
    low, high = clustered_intervals(right, np.full(right.shape[1], trials)).T
    plain = [wilson_interval(int(sum(x)), right.shape[1] * trials) for x in right]
    held = np.mean([bottom <= mean <= top for bottom, top in plain])
    return float(((low <= mean) & (mean <= high)).mean()), float(held), float((high - low).mean())


def table(samples: int, trials: int, seed: int) -> Iterator[str]:
    """Yield the lines of the table."""
    rng = np.random.default_rng(seed)
    yield "| clusters | correlation | " + " | ".join(f"true mean {mean:g}" for mean in MEANS) + " |"
    yield "|---" * (2 + len(MEANS)) + "|"
    for clusters in CLUSTERS:
        for correlation in CORRELATIONS:
            cells = []
            for mean in MEANS:
                batches = [
                    coverage(draw(rng, 500, clusters, trials, correlation, mean), trials, mean)
                    for _ in range(samples // 500)
                ]
                ours, wilson, width = np.mean(batches, axis=0)
                cells.append(f"**{ours:.1%}** ({wilson:.1%}; {width:.2f})")
            yield f"| {clusters} | {correlation} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=4000, help="Of each cell, in steps of 500.")
    parser.add_argument("--trials", type=int, default=90, help="Answers of each cluster.")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for line in table(args.samples, args.trials, args.seed):
        print(line, flush=True)


if __name__ == "__main__":
    main()
