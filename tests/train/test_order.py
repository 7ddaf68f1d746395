import numpy as np
import pytest

from longva.errors import RecipeError
from longva.train.order import StepOrder, length_grouped, shuffled


def dealt(order: StepOrder, steps: range, dp: int, accumulation: int) -> list[list[int]]:
    """The samples of each step as the ranks read them, in the order of micro batches and ranks."""
    ranks = [
        list(
            order.micro_batches(
                steps.start, steps.stop, dp_rank=rank, dp=dp, accumulation=accumulation
            )
        )
        for rank in range(dp)
    ]
    return [
        [
            sample
            for micro in range(accumulation)
            for rank in range(dp)
            for sample in ranks[rank][step * accumulation + micro]
        ]
        for step in range(len(steps))
    ]


def test_an_epoch_reads_every_sample_once_and_the_next_in_another_order():
    first, second = shuffled(1000, seed=3, epoch=0), shuffled(1000, seed=3, epoch=1)
    assert sorted(first) == sorted(second) == list(range(1000))
    assert (first != second).mean() > 0.9
    assert (first != shuffled(1000, seed=4, epoch=0)).mean() > 0.9


def test_the_order_is_that_of_splitmix64_sorted():
    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    key = mix((mix(7) + 2) % 2**64)
    want = sorted(range(50), key=lambda index: mix((key + index) % 2**64))
    assert shuffled(50, seed=7, epoch=2).tolist() == want


@pytest.mark.parametrize(("dp", "accumulation"), [(1, 1), (1, 4), (4, 1), (2, 2), (8, 1), (2, 4)])
def test_a_step_takes_the_same_samples_however_they_are_dealt(dp, accumulation):
    order = StepOrder(num_samples=21, samples_per_step=8, seed=1)
    assert dealt(order, range(6), dp, accumulation) == dealt(order, range(6), 1, 1)


def test_micro_batches_of_one_follow_the_formula():
    order = StepOrder(num_samples=64, samples_per_step=4)
    permutation = shuffled(64, seed=0, epoch=0)
    for rank in range(2):
        got = [s for (s,) in order.micro_batches(3, 6, dp=2, dp_rank=rank, accumulation=2)]
        want = [
            permutation[(step * 2 + micro) * 2 + rank] for step in range(3, 6) for micro in range(2)
        ]
        assert got == want


def test_a_resumed_run_reads_what_the_uninterrupted_one_would():
    whole = list(StepOrder(num_samples=10, samples_per_step=4).micro_batches(0, 9))
    resumed = list(StepOrder(num_samples=10, samples_per_step=4).micro_batches(5, 9))
    assert resumed == whole[5:]
    read = [sample for batch in whole for sample in batch][:30]
    assert [read.count(sample) for sample in range(10)] == [3] * 10  # none dropped in three epochs


def test_grouped_samples_are_alike_within_a_step():
    lengths = np.random.default_rng(0).lognormal(5, 1, 4000).astype(int)
    order = length_grouped(lengths, 16, seed=0, epoch=0)
    assert sorted(order) == list(range(4000))
    steps = lengths[order].reshape(-1, 16)
    random_steps = lengths[shuffled(4000, 0, 0)].reshape(-1, 16)
    padding = (steps.max(1) * 16).sum() / lengths.sum()
    assert padding < 1.25 < 2.5 < (random_steps.max(1) * 16).sum() / lengths.sum()
    assert abs(np.corrcoef(np.arange(len(steps)), steps.mean(1))[0, 1]) < 0.2  # steps are shuffled
    assert not np.array_equal(order, length_grouped(lengths, 16, seed=0, epoch=1))


def test_a_data_set_without_samples_is_refused():
    with pytest.raises(RecipeError, match="0 samples in steps of 6"):
        StepOrder(num_samples=0, samples_per_step=6)


def test_a_step_has_samples_with_media_alone_or_without_alone():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 1000, 403) * rng.choice([1, 1, -1], 403)
    order = length_grouped(lengths, 8, seed=0, epoch=0)
    assert sorted(order) == list(range(403))
    kinds = [set(np.sign(lengths[order[start : start + 8]])) for start in range(0, 403, 8)]
    whole = sum(int((np.sign(lengths) == sign).sum()) // 8 for sign in (1, -1))
    assert all(len(kind) == 1 for kind in kinds[:whole]) and {1} in kinds and {-1} in kinds
    of_one = length_grouped(abs(lengths), 8, seed=0, epoch=0)
    assert sorted(of_one) == list(range(403))
