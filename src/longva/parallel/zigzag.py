"""Zigzag sharding: every rank of a ring gets an equal share of causal attention.

A sequence of S tokens is padded at its right to 2W chunks of c tokens. Rank r of W holds chunks r
and 2W-1-r, one early and one late, so the later chunk's long row and the earlier chunk's short row
of the causal triangle add up to the same work on every rank:

    W = 4    chunk   0  1  2  3  4  5  6  7
             rank    0  1  2  3  3  2  1  0

The padding sits after every real token, which no real token attends to, so any length is exact and
no tail is ever dropped. Everything here is a pure function of (S, W, r).
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def chunk_length(length: int, world_size: int) -> int:
    """Tokens in each of the 2W chunks of a sequence of `length` tokens, padding included.

    >>> chunk_length(250, world_size=4)     # 8 chunks of 32 hold 256 tokens, 6 of them padding
    32
    """
    return -(-length // (2 * world_size))


def zigzag_positions(length: int, rank: int, world_size: int, device=None) -> Tensor:
    """Positions in the whole sequence of the tokens that `rank` holds: int64 [2c].

    Padding continues the count, from `length` on.

    >>> zigzag_positions(7, rank=0, world_size=2).tolist()      # position 7 is padding
    [0, 1, 6, 7]
    """
    c = chunk_length(length, world_size)
    late = 2 * world_size - 1 - rank
    early_and_late = torch.tensor([[rank * c], [late * c]], device=device)
    return (early_and_late + torch.arange(c, device=device)).flatten()


def zigzag_shard(x: Tensor, rank: int, world_size: int, dim: int = 1, fill: float = 0) -> Tensor:
    """Return the two chunks of `x` that `rank` owns, in sequence order, padded with `fill`.

    >>> zigzag_shard(torch.arange(7)[None], rank=0, world_size=2, fill=-100)
    tensor([[   0,    1,    6, -100]])
    """
    length = x.shape[dim]
    c = chunk_length(length, world_size)
    starts = [min(chunk * c, length) for chunk in (rank, 2 * world_size - 1 - rank)]
    local = torch.cat([x.narrow(dim, s, min(c, length - s)) for s in starts], dim)
    missing = list(local.shape)
    missing[dim] = 2 * c - local.shape[dim]
    return torch.cat([local, x.new_full(missing, fill)], dim) if missing[dim] else local


def zigzag_unshard(shards: Sequence[Tensor], length: int, dim: int = 1) -> Tensor:
    """Undo `zigzag_shard`: the shards of ranks 0 to W-1 -> the sequence without its padding.

    >>> zigzag_unshard([torch.tensor([0, 1, 6, 0]), torch.tensor([2, 3, 4, 5])], length=7, dim=0)
    tensor([0, 1, 2, 3, 4, 5, 6])
    """
    early, late = zip(*(shard.chunk(2, dim) for shard in shards), strict=True)
    return torch.cat([*early, *reversed(late)], dim).narrow(dim, 0, length)


def zigzag_place(positions: Tensor, length: int, world_size: int) -> tuple[Tensor, Tensor]:
    """Find positions of the whole sequence on the ranks.

    Args:
        positions: int64 [N], each in [0, length).
        length: tokens of the whole sequence.
        world_size: ranks of the ring.

    Returns:
        The rank that holds each token, and the token's index in that rank's shard, int64 [N].

    >>> zigzag_place(torch.tensor([5, 0, 6]), length=7, world_size=2)
    (tensor([1, 0, 0]), tensor([3, 0, 2]))
    """
    c = chunk_length(length, world_size)
    chunk = positions // c
    late = chunk >= world_size
    return torch.where(late, 2 * world_size - 1 - chunk, chunk), positions % c + late * c


def zigzag_index(
    positions: Tensor, length: int, rank: int, world_size: int
) -> tuple[Tensor, Tensor]:
    """Find positions of the whole sequence in the shard of `rank`.

    Args:
        positions: int64 [N], each in [0, length).
        length: tokens of the whole sequence.
        rank: of the ring.
        world_size: ranks of the ring.

    Returns:
        `held`, bool [N], true where this rank holds the token; and the token's index in the shard,
        int64 [held.sum()]. Each position is held by exactly one rank.

    >>> zigzag_index(torch.tensor([5, 0, 6]), length=7, rank=0, world_size=2)
    (tensor([False,  True,  True]), tensor([0, 2]))
    """
    holder, index = zigzag_place(positions, length, world_size)
    held = holder == rank
    return held, index[held]


class Block(NamedTuple):
    """One product of local queries with received keys. `causal` blocks are square."""

    queries: slice
    keys: slice
    causal: bool


def attention_blocks(
    rank: int, source: int, world_size: int, c: int, document_starts: Sequence[int] | None = None
) -> list[Block]:
    """List the blocks of `rank`'s queries and `source`'s keys to compute, as slices of the shards.

    Without documents there are three cases, equal in work, and none needs a mask:

        source == rank   causal, 2c queries x 2c keys
        source <  rank   all 2c queries x the c keys of the early chunk
        source >  rank   the c queries of the late chunk x all 2c keys

    Documents are contiguous, so at most one reaches from an earlier key chunk into a query chunk.
    A document mask is therefore a list of rectangles too: on the diagonal a causal square a
    document, off it a single slice. (torch's own context parallelism has no document masks for
    SDPA; varlen or Flex kernels are not needed.)

    Args:
        rank: whose queries.
        source: whose keys.
        world_size: ranks of the ring.
        c: chunk length.
        document_starts: ascending positions in the whole sequence at which a document begins, the
            first of them 0; tokens attend within their document only. None: no documents.

    Returns:
        Causal blocks first: each row's softmax must be opened by its own key before anything is
        merged into it (merging into log-sum-exp = -inf would give NaN).
    """
    early, late, both = slice(0, c), slice(c, 2 * c), slice(0, 2 * c)
    if document_starts is None:
        if source == rank:
            return [Block(both, both, True)]
        return [Block(both, early, False) if source < rank else Block(late, both, False)]

    starts, ends = document_starts, [*document_starts[1:], 2 * world_size * c]
    squares, rectangles = [], []
    for q_base, q_chunk in enumerate((rank, 2 * world_size - 1 - rank)):
        q0, q_shift = q_chunk * c, (q_base - q_chunk) * c  # sequence -> shard
        opening = bisect_right(starts, q0) - 1  # the document that the query chunk opens in
        for k_base, k_chunk in enumerate((source, 2 * world_size - 1 - source)):
            k0, k_shift = k_chunk * c, (k_base - k_chunk) * c
            if k_chunk == q_chunk:
                for start, end in zip(starts[opening:], ends[opening:], strict=True):
                    if start >= q0 + c:
                        break
                    square = slice(max(start, q0) + q_shift, min(end, q0 + c) + q_shift)
                    squares.append(Block(square, square, True))
            elif k_chunk < q_chunk and starts[opening] < k0 + c:
                queries = slice(q0 + q_shift, min(ends[opening], q0 + c) + q_shift)
                keys = slice(max(starts[opening], k0) + k_shift, k0 + c + k_shift)
                rectangles.append(Block(queries, keys, False))
    return squares + rectangles
