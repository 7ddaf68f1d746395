"""Which samples a rank reads at a step: a pure function, so that resuming needs the step alone.

    position   0 1 2 3 | 4 5 6 7 | 8 9 ...        samples_per_step = 4
    2 ranks    0 0 1 1 | 0 0 1 1 |                no accumulation, micro batches of 2
    1 rank     a a b b | a a b b |                2 micro batches a and b of 2

A step takes the same samples however they are dealt out. With micro batches of one sample this is
`order(seed, epoch)[(step * accumulation + micro) * dp + dp_rank]`. Epochs follow one another
without a gap: the last step of one may hold the first samples of the next, and none is dropped.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from longva.errors import RecipeError

STEPS_PER_GROUP = 50
"""Steps whose samples are sorted by length together: enough to be alike, few enough for chance."""


def shuffled(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of `num_samples` indices, int64, the same on every machine and release.

    The indices are sorted by a hash (SplitMix64) of seed, epoch and index; a library's generator
    may change its stream from one release to the next, and a resumed run would see other samples.

    >>> shuffled(6, seed=0, epoch=0).tolist(), shuffled(6, seed=0, epoch=1).tolist()
    ([4, 0, 1, 2, 5, 3], [0, 1, 3, 4, 5, 2])
    """
    key = _mix(_mix(np.array([seed], np.uint64)) + np.uint64(epoch))
    return np.argsort(_mix(key + np.arange(num_samples, dtype=np.uint64)), kind="stable")


def length_grouped(lengths: np.ndarray, samples_per_step: int, seed: int, epoch: int) -> np.ndarray:
    """Shuffle so that the samples of a step are about equally long, and all or none have media.

    Args:
        lengths: [N], of the samples in any unit; negative of those without media.
        samples_per_step: samples that are together in a step.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        [N] int64, a permutation. What is left of each kind comes last.

    >>> length_grouped(np.array([1, 9, 1, 9, 9, 1]), 3, seed=0, epoch=0).tolist()
    [0, 2, 5, 4, 1, 3]
    """
    order = shuffled(len(lengths), seed, epoch)
    size = samples_per_step * STEPS_PER_GROUP
    steps, rest = [], []
    for kind in (order[lengths[order] > 0], order[lengths[order] <= 0]):
        groups = [kind[start : start + size] for start in range(0, len(kind), size)]
        groups = [part[np.argsort(-abs(lengths[part]), kind="stable")] for part in groups]
        kind, whole = np.concatenate([kind[:0], *groups]), len(kind) // samples_per_step
        steps.append(kind[: whole * samples_per_step].reshape(whole, samples_per_step))
        rest.append(kind[whole * samples_per_step :])
    all_steps = np.concatenate(steps)
    all_steps = all_steps[shuffled(len(all_steps), seed + 1, epoch)]
    return np.concatenate([all_steps.ravel(), *rest])


class StepOrder:
    """The samples of every step of a run.

    Args:
        num_samples: length of the data set.
        samples_per_step: samples of an optimizer step, over all ranks and micro batches.
        seed: of the order.
        lengths: [num_samples], to group samples of like length; None: at random.

    Raises:
        RecipeError: the data set is empty.
    """

    def __init__(
        self,
        num_samples: int,
        samples_per_step: int,
        *,
        seed: int = 0,
        lengths: np.ndarray | None = None,
    ):
        if num_samples < 1 or samples_per_step < 1:
            raise RecipeError(
                f"{num_samples} samples in steps of {samples_per_step}: both must be 1 or more."
            )
        self.num_samples, self.samples_per_step = num_samples, samples_per_step
        self._seed, self._lengths = seed, lengths
        self.epoch_order = lru_cache(maxsize=2)(self._epoch_order)

    def steps(self, epochs: float) -> int:
        """Return the number of steps that read every sample `epochs` times; the last may hold more.

        >>> StepOrder(num_samples=10, samples_per_step=4).steps(epochs=3)
        8
        """
        return -int(-epochs * self.num_samples // self.samples_per_step)

    def repetition(self, steps: int) -> str:
        """Say how often each sample is read in so many steps; nothing if none is read twice.

        >>> StepOrder(num_samples=52, samples_per_step=8).repetition(steps=15)
        'the data repeat: 120 samples are read and there are 52, so each comes 2 or 3 times'
        """
        read = steps * self.samples_per_step
        least, most = read // self.num_samples, -(-read // self.num_samples)
        if most < 2:
            return ""
        times = f"{most:,}" if least == most else f"{least:,} or {most:,}"
        return (
            f"the data repeat: {read:,} samples are read and there are {self.num_samples:,}, so "
            f"each comes {times} times"
        )

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._lengths is None:
            return shuffled(self.num_samples, self._seed, epoch)
        return length_grouped(self._lengths, self.samples_per_step, self._seed, epoch)

    def sample(self, position: int) -> int:
        """Return the index of the sample at a position of the run, counted from 0."""
        epoch, place = divmod(position, self.num_samples)
        return int(self.epoch_order(epoch)[place])

    def micro_batches(
        self,
        start_step: int,
        stop_step: int,
        *,
        dp_rank: int = 0,
        dp: int = 1,
        accumulation: int = 1,
    ) -> Iterator[list[int]]:
        """Yield the indices of a rank's micro batches; a `batch_sampler` for torch's DataLoader.

        Args:
            start_step: the first step, counted from 0; to resume, the number of steps done.
            stop_step: one past the last.
            dp_rank: which of `dp` shares.
            dp: data-parallel ranks. Ranks of one ring read the same samples.
            accumulation: micro batches of each rank in a step; `dp * accumulation` must divide
                `samples_per_step`.

        >>> order = StepOrder(num_samples=8, samples_per_step=4)
        >>> list(order.micro_batches(0, 2, dp=2, dp_rank=1))
        [[1, 7], [5, 3]]
        """
        size = self.samples_per_step // (dp * accumulation)
        for step in range(start_step, stop_step):
            for micro in range(accumulation):
                first = step * self.samples_per_step + (micro * dp + dp_rank) * size
                yield [self.sample(position) for position in range(first, first + size)]


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64 of each number."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
