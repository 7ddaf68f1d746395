"""Share the prompts of a tree out over ranks, each with a cache of its own."""

from collections.abc import Iterable

from transformers import PreTrainedConfig

from longva.model.flops import Flops
from longva.prompts.tree import TOKENS_ALONE, Prompt, visits


def partition(
    prompts: Iterable[Prompt], world_size: int, config: PreTrainedConfig
) -> list[list[Prompt]]:
    """Share prompts out over ranks so that the slowest of them is done as early as possible.

    Every rank gets a run of the walk's order, and computes for itself what its first prompt shares
    with the run before. A run costs more the longer it is, so the smallest limit under which
    `world_size` runs filled one after the other hold everything is found by bisection.

    Returns:
        `world_size` lists in the order of the walk, some empty if there are fewer distinct prompts.
        Every rank computes the same lists of the same prompts.
    """
    flops = Flops.of(config) or TOKENS_ALONE
    stops = visits(prompts)
    alone = [stop.flops(flops, 0) for stop in stops]
    after = [stop.flops(flops, stop.shared) for stop in stops]

    def runs_within(limit: int) -> list[list[Prompt]]:
        runs: list[list[Prompt]] = []
        spent = limit
        for stop, first, next_one in zip(stops, alone, after, strict=True):
            if not runs or spent + next_one > limit:
                runs.append([])
                spent = first
            else:
                spent += next_one
            runs[-1] += stop.prompts
        return runs

    low, high = max(alone, default=0), sum(alone)
    while low < high:
        middle = (low + high) // 2
        if len(runs_within(middle)) <= world_size:
            high = middle
        else:
            low = middle + 1
    runs = runs_within(high)
    return runs + [[] for _ in range(world_size - len(runs))]
