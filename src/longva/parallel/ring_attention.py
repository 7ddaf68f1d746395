"""Exact causal attention over a sequence that is spread over ranks: forward and backward.

Each rank keeps its queries and passes its keys and values on to the next rank, W - 1 times, while
it computes; partial results merge by their log-sum-exp. In the backward, keys travel the ring again
and their gradients follow one step behind, W hops, until they are home. The result is that of plain
attention on one process, and no rank ever holds more than two ranks' keys. (Ring attention: arXiv
2310.01889; the paper extends its language model with it, section 3.1.)

    B batch   H query heads   K key heads   d head dimension
    S tokens of the whole sequence   L = 2c tokens of a rank, padding included
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from longva.attention.kernels import block_kernel
from longva.losses import IGNORE_INDEX
from longva.parallel.zigzag import (
    Block,
    attention_blocks,
    chunk_length,
    zigzag_positions,
    zigzag_shard,
)


class RingSequence:
    """One batch of sequences of a common length, spread over the ranks of a ring.

    Not a dataclass: FSDP's mixed precision takes dataclasses among a module's arguments apart and
    builds new ones, layer by layer.

    Args:
        length: tokens of each sequence, over all ranks, without padding. Any number from 1.
        group: the ring. None: this process alone.
        document_starts: where documents begin, ascending from 0; tokens then attend within their
            document only, in every row of the batch. None: attend to everything before, as the
            paper does. Positions run on across documents either way: rotary attention sees
            distances only.
        kernel: name in `BLOCK_KERNELS`. None: the fastest that runs.
    """

    def __init__(
        self,
        *,
        length: int,
        group: dist.ProcessGroup | None = None,
        document_starts: Sequence[int] | None = None,
        kernel: str | None = None,
    ):
        starts = None if document_starts is None else list(document_starts)
        if length < 1:
            raise ValueError(f"a ring needs a sequence of at least 1 token, got {length}")
        if starts is not None and (
            not starts
            or starts[0] != 0
            or starts[-1] >= length
            or any(a >= b for a, b in pairwise(starts))
        ):
            shown = f"{starts[:12]}" + (" ..." if len(starts) > 12 else "")
            raise ValueError(
                f"document_starts must ascend from 0 and stay below the length {length}, "
                f"got {shown}"
            )
        self.length, self.group, self.kernel = length, group, kernel
        self.document_starts = starts
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world_size = 1 if group is None else dist.get_world_size(group)

    @property
    def local_length(self) -> int:
        """L, the tokens that each rank holds, padding included."""
        return 2 * chunk_length(self.length, self.world_size)

    def positions(self, device: torch.device | str | None = None) -> Tensor:
        """Positions of the local tokens: int64 [1, L], the `position_ids` of the model."""
        return zigzag_positions(self.length, self.rank, self.world_size, device)[None]

    def shard(self, x: Tensor, dim: int = 1, fill: float = 0) -> Tensor:
        """Take this rank's part of `x`, which has S entries along `dim`, padded with `fill`."""
        if x.shape[dim] != self.length:
            raise ValueError(
                f"this ring holds sequences of {self.length} tokens, got {x.shape[dim]} along "
                f"dimension {dim} of a tensor {list(x.shape)}"
            )
        return zigzag_shard(x, self.rank, self.world_size, dim, fill)

    def shard_targets(self, labels: Tensor) -> Tensor:
        """Labels as transformers has them, int [B, S], -> this rank's next-token targets [B, L].

        The shift comes before the cut: shifting a shard would take the first token of the late
        chunk for the successor of the last token of the early one.
        """
        last = labels.new_full((labels.shape[0], 1), IGNORE_INDEX)
        return self.shard(torch.cat([labels[:, 1:], last], dim=1), fill=IGNORE_INDEX)

    @cached_property
    def blocks(self) -> list[list[Block]]:
        """What this rank computes at each step of the ring."""
        starts, c = self.document_starts, self.local_length // 2
        if starts is not None and self.length < 2 * self.world_size * c:
            starts = [*starts, self.length]  # the padding is a document of its own
        return [
            attention_blocks(
                self.rank, (self.rank - step) % self.world_size, self.world_size, c, starts
            )
            for step in range(self.world_size)
        ]


class _Rotation:
    """Pass one tensor to the next rank of the ring, while the caller computes."""

    def __init__(self, ring: RingSequence, tag: int):
        self.group, self.tag, self.hops = ring.group, tag, ring.world_size > 1
        if self.hops:
            ranks = dist.get_process_group_ranks(ring.group)
            self.next = ranks[(ring.rank + 1) % ring.world_size]
            self.previous = ranks[(ring.rank - 1) % ring.world_size]

    def start(self, outgoing: Tensor) -> None:
        self.outgoing = outgoing  # alive until it has been sent
        self.incoming = torch.empty_like(outgoing)
        # Two rotations are under way at once in the backward: gloo tells them apart by their tag.
        self.requests = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, self.outgoing, self.next, self.group, self.tag),
                dist.P2POp(dist.irecv, self.incoming, self.previous, self.group, self.tag),
            ]
        )

    def wait(self) -> Tensor:
        for request in self.requests:
            request.wait()
        return self.incoming


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, scale, ring):
        kernel = block_kernel(ring.kernel, query)
        dtype = torch.promote_types(query.dtype, torch.float32)
        out = torch.empty(query.shape, dtype=dtype, device=query.device)
        lse = torch.empty(query.shape[:3], dtype=dtype, device=query.device)
        keys_values = torch.stack((key, value))  # [2, B, K, L, d]
        rotation = _Rotation(ring, tag=0)
        for step, blocks in enumerate(ring.blocks):
            last = step + 1 == ring.world_size
            if not last:
                rotation.start(keys_values)
            for queries, keys, causal in blocks:
                k, v = keys_values[:, :, :, keys]
                o, part = kernel.forward(query[:, :, queries], k, v, causal, scale)
                if causal:  # the first block of these rows
                    out[:, :, queries], lse[:, :, queries] = o, part
                else:
                    total = torch.logaddexp(lse[:, :, queries], part)
                    weight = (part - total).exp().unsqueeze(-1)
                    out[:, :, queries].lerp_(o.to(dtype), weight)
                    lse[:, :, queries] = total
            if not last:
                keys_values = rotation.wait()
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.scale, ctx.ring = scale, ring
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        query, key, value, out, lse = ctx.saved_tensors
        ring = ctx.ring
        kernel = block_kernel(ring.kernel, query)
        grad_out = grad_out.contiguous()
        grad_query = torch.zeros(query.shape, dtype=lse.dtype, device=query.device)
        keys_values = torch.stack((key, value))
        grad_keys_values = torch.zeros_like(keys_values, dtype=lse.dtype)
        rotation, grad_rotation = _Rotation(ring, tag=1), _Rotation(ring, tag=2)
        for step, blocks in enumerate(ring.blocks):
            last = step + 1 == ring.world_size
            if not last:
                rotation.start(keys_values)
            parts = []
            for queries, keys, causal in blocks:
                k, v = keys_values[:, :, :, keys]
                rows = (t[:, :, queries] for t in (grad_out, query, out, lse))
                do, q, o, part_lse = rows
                parts.append(kernel.backward(do, q, k, v, o, part_lse, causal, ctx.scale))
            if step:  # what earlier ranks owe to the keys that have just been used here
                grad_keys_values = grad_rotation.wait()
            for (queries, keys, _), (dq, dk, dv) in zip(blocks, parts, strict=True):
                grad_query[:, :, queries] += dq
                grad_keys_values[0, :, :, keys] += dk
                grad_keys_values[1, :, :, keys] += dv
            if grad_rotation.hops:
                grad_rotation.start(grad_keys_values)
            if not last:
                keys_values = rotation.wait()
        if grad_rotation.hops:
            grad_keys_values = grad_rotation.wait()
        grads = (grad_query, *grad_keys_values)
        return *(grad.to(query.dtype) for grad in grads), None, None


def ring_attention(
    query: Tensor, key: Tensor, value: Tensor, ring: RingSequence, scale: float | None = None
) -> Tensor:
    """Attend causally to the whole sequence, of which each rank gives and gets its shard.

    Args:
        query: [B, H, L, d].
        key: [B, K, L, d], H a multiple of K. Keys of grouped heads are not copied.
        value: [B, K, L, d].
        ring: how the sequence lies on the ranks.
        scale: of the scores; None is 1 / sqrt(d).

    Returns:
        [B, H, L, d] in the dtype of `query`. Partial results are float32 inside (float64 for
        float64), though a kernel returns each block's in the dtype of `query`.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return _RingAttention.apply(query, key, value, scale, ring)
