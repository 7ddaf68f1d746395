"""Attention of several continuations of one sequence, computed together (cascade attention).

    keys       0 ............... P  | a a a b b a b a b ...
    block      shared by all, full  |  the tail: each branch sees its own

The keys that all share are read once for all branches. Both blocks keep the log-sum-exp of their
scores, with which they merge into exactly the softmax over what one branch sees.

    P shared keys    T keys of the tail    n queries, one or more a branch    E channels of a head
    H query heads    K key heads
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longva.attention.evidence import EvidenceCollector
from longva.attention.kernels import attend_to_all


@dataclass(frozen=True)
class BranchAttention:
    """What the queries of one forward see, and who listens to which of them."""

    shared: int
    """P."""

    visible: Tensor
    """[n, T] bool: the keys of the tail that each query sees, its own among them."""

    heard: Sequence[tuple[int, EvidenceCollector]] = ()
    """Queries whose attention counts, and where. The collectors listen to the same heads."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Return [1, H, n, E] of query [1, H, n, E], key and value [1, K, P + T, E]."""
        visible, at = self.visible.to(query.device), self.shared
        own, own_lse = _masked_block(query, key[:, :, at:], value[:, :, at:], visible, scaling)
        if at == 0:
            return own.to(query.dtype)
        old, old_lse = attend_to_all(query, key[:, :, :at], value[:, :, :at], scaling)
        share = torch.sigmoid(own_lse - old_lse)[..., None]  # own / (own + old), in log space
        return torch.lerp(old.to(share.dtype), own, share).to(query.dtype)

    def observe(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add one layer's attention to the collectors; see `EvidenceCollector.observe`."""
        if not self.heard:
            return
        rows, first = [row for row, _ in self.heard], self.heard[0][1]
        heads = first.heads_of(layer, query.shape[1])
        match = first.match if first.match is not None and first.match.layer == layer else None
        if not heads and match is None:
            return
        visible, at = self.visible[rows].to(key.device), self.shared  # [r, T]
        groups = query.shape[1] // key.shape[1]

        def scores(head: int) -> Tensor:
            return (query[0, head, rows] * scaling) @ key[0, head // groups].T  # [r, P + T]

        def own(of_all: Tensor) -> list[Tensor]:
            """Of each query, what is about the keys that it sees, in the order of its branch."""
            tails = (tail[seen] for tail, seen in zip(of_all[:, at:], visible, strict=True))
            return [torch.cat([one[:at], tail]) for one, tail in zip(of_all, tails, strict=True)]

        if match is not None:
            for (_, collector), told in zip(self.heard, own(scores(match.head)), strict=True):
                assert collector.match is not None
                collector.match.note(told)
        if not heads:
            return
        dtype = torch.promote_types(key.dtype, torch.float32)
        mass = torch.zeros(len(rows), key.shape[2], dtype=dtype, device=key.device)  # [r, P + T]
        for head in heads:  # one at a time: all of them would be heads x r x (P + T) numbers
            weights = scores(head).to(dtype)
            weights[:, at:].masked_fill_(~visible, -torch.inf)
            mass += weights.softmax(-1)
        for (_, collector), told in zip(self.heard, own(mass), strict=True):
            collector.add(told, len(heads))


def _masked_block(query, key, value, visible, scaling) -> tuple[Tensor, Tensor]:
    """One block by its scores, which are few: out [1, H, n, E] and lse [1, H, n], upcast."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    q = query.to(dtype).unflatten(1, (key.shape[1], -1))  # [1, K, H / K, n, E]
    scores = q @ key.to(dtype).unsqueeze(2).transpose(-1, -2) * scaling  # [1, K, H / K, n, T]
    scores = scores.masked_fill(~visible, -torch.inf)
    out = scores.softmax(-1) @ value.to(dtype).unsqueeze(2)
    return out.flatten(1, 2), scores.logsumexp(-1).flatten(1, 2)
