import random

import pytest
import torch

from longva.parallel.zigzag import (
    attention_blocks,
    chunk_length,
    zigzag_index,
    zigzag_positions,
    zigzag_shard,
    zigzag_unshard,
)


def test_each_rank_holds_one_early_and_one_late_chunk():
    shards = [zigzag_shard(torch.arange(8)[None], rank, world_size=4) for rank in range(4)]
    assert [shard[0].tolist() for shard in shards] == [[0, 7], [1, 6], [2, 5], [3, 4]]


@pytest.mark.parametrize("length", [1, 3, 8, 13])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_length_comes_back_whole(length, world_size):
    x = torch.arange(2 * length * 3).view(2, length, 3) + 1
    shards = [zigzag_shard(x, rank, world_size, fill=-100) for rank in range(world_size)]
    assert {shard.shape[1] for shard in shards} == {2 * chunk_length(length, world_size)}
    assert torch.equal(zigzag_unshard(shards, length), x)
    padding = sum(int((shard == -100).sum()) for shard in shards)
    assert padding == 6 * (2 * world_size * chunk_length(length, world_size) - length)


def test_positions_are_the_shard_of_the_whole_count_and_go_on_into_the_padding():
    assert zigzag_positions(10, rank=1, world_size=2).tolist() == [3, 4, 5, 6, 7, 8]
    assert zigzag_positions(10, rank=0, world_size=2).tolist() == [0, 1, 2, 9, 10, 11]


def test_every_position_is_found_on_exactly_one_rank():
    wanted, found = torch.tensor([9, 0, 5, 5, 3]), torch.zeros(5, dtype=torch.long)
    for rank in range(2):
        held, index = zigzag_index(wanted, 10, rank, world_size=2)
        found[held] += zigzag_positions(10, rank, world_size=2)[index] + 100
    assert found.tolist() == [109, 100, 105, 105, 103]


def random_layout(rng: random.Random, with_documents: bool):
    world_size, c = rng.choice([1, 2, 3, 4, 8]), rng.randint(1, 9)
    length = 2 * world_size * c
    cuts = [rng.randrange(length) for _ in range(rng.randint(0, 12))]
    return world_size, c, sorted({0, *cuts}) if with_documents else None


def covered_pairs(world_size: int, c: int, starts: list[int] | None):
    """How often each (query, key) pair is computed [S, S], and each rank's number of products."""
    length = 2 * world_size * c
    count, work = torch.zeros(length, length), []
    shards = [zigzag_positions(length, rank, world_size) for rank in range(world_size)]
    for rank in range(world_size):
        before = count.sum()
        opened = torch.zeros(2 * c, dtype=torch.bool)
        for step in range(world_size):
            source = (rank - step) % world_size
            for queries, keys, causal in attention_blocks(rank, source, world_size, c, starts):
                q, k = shards[rank][queries], shards[source][keys]
                ones = torch.ones(len(q), len(k))
                assert ones.numel(), "an empty block"
                count[q[:, None], k[None]] += ones.tril() if causal else ones
                assert causal or opened[queries].all(), "merged into rows that nothing has opened"
                opened[queries] |= causal
        assert opened.all()
        work.append(int(count.sum() - before))
    return count, work


@pytest.mark.parametrize("seed", range(4))
def test_150_random_layouts_cover_every_allowed_pair_once_and_no_other(seed):
    rng = random.Random(seed)
    for trial in range(150):
        world_size, c, starts = random_layout(rng, with_documents=trial % 5 > 0)
        length = 2 * world_size * c
        begins = torch.zeros(length, dtype=torch.long)
        begins[torch.tensor(starts or [0])] = 1
        document = begins.cumsum(0)
        allowed = (document[:, None] == document[None]).tril().float()
        count, work = covered_pairs(world_size, c, starts)
        assert torch.equal(count, allowed), (world_size, c, starts)
        if starts is None:
            assert min(work) == max(work), "ranks work unequally"
