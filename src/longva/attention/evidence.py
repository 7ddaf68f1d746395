"""`evidence`: causal attention over a KV cache that also tells where the last queries looked.

Asked for by name on the language model only:

    model.set_attn_implementation({"text_config": "evidence"})
    collector = EvidenceCollector()
    model(..., evidence=collector)      # keyword arguments reach every attention layer
    collector.weights()                 # [tokens], how much the last queries read each token

It differs from `sdpa` in two ways. A chunk of a prompt (Lq queries, Lk keys, the last Lq of them
its own) is computed as two blocks without a mask, where `sdpa` would build one of Lq x Lk:

    keys     0 ............ Lk-Lq .......... Lk
    block         past, full     own, causal

(where the device has a kernel for that; a T4 or Apple's chips get the mask), and with a collector,
the attention of the last queries is computed once more, one query at a time, to add up its mass per
key: [heads, Lk] numbers, never an Lq x Lk matrix.

Shapes: B batch, H query heads, K key heads, Lq queries, Lk keys, E head dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from longva.attention.kernels import BLOCK_KERNELS, attend_to_all, block_kernel
from longva.finite import check_finite


@dataclass
class Match:
    """How well places in a sequence match the last query of each append, in one head.

    By the scores before the softmax: afterwards the best of places none of which matches looks like
    a place that does.
    """

    layer: int
    head: int
    places: Sequence[Tensor]
    """[U, T] positions each: units, such as frames, of T tokens."""

    found: list[list[Tensor]] = field(default_factory=list)
    """Of each append, for each of the places, the highest score in each unit, [U]."""

    def hear(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Note an append: query [H, E] of its last position, key [K, L, E] of what it sees."""
        own = key[self.head // (len(query) // len(key))]
        self.note(own @ (query[self.head] * scaling))

    def note(self, scores: Tensor) -> None:
        """Note an append by its scores, [L]."""
        self.found.append([scores[at.to(scores.device)].amax(-1) for at in self.places])


class EvidenceCollector:
    """Adds up the attention that the last queries of each append pay to every token.

    Args:
        heads: (layer, head) pairs to listen to, or None for all of them.
        num_queries: how many last positions of each append count; for a teacher-forced answer of n
            tokens, n. Whoever appends in chunks passes `evidence_queries`, how many of them lie in
            a chunk, so that chunks change nothing.
        match: hears each append as well, where its last query counts.
    """

    def __init__(
        self,
        heads: Sequence[Sequence[int]] | None = None,
        num_queries: int = 1,
        match: Match | None = None,
    ):
        self.match = match
        self.heads = None if heads is None else {(int(layer), int(head)) for layer, head in heads}
        self.num_queries = num_queries
        self._mass: Tensor | None = None
        self._observed = 0

    def observe(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        scaling: float,
        num_queries: int | None = None,
        mask: Tensor | None = None,
    ) -> None:
        """Add one layer's attention; called by the attention function.

        Args:
            layer: index of the layer.
            query: [1, H, Lq, E].
            key: [1, K, Lk, E].
            scaling: factor of the dot products.
            num_queries: how many of the last queries count, instead of the collector's number.
            mask: bool [1, 1, Lq, Lk], where the layer sees more or less than what came before.

        Raises:
            ValueError: for a batch of more than one sequence.
        """
        if query.shape[0] != 1:
            raise ValueError(f"evidence is collected for one sequence, got {query.shape[0]}")
        counted = self.num_queries if num_queries is None else num_queries
        if counted and self.match is not None and self.match.layer == layer:
            self.match.hear(query[0, :, -1], key[0], scaling)
        heads = self.heads_of(layer, query.shape[1])
        if not heads:
            return
        if len(heads) < query.shape[1]:
            # Each with its key head: what nobody listens to is not computed.
            groups = query.shape[1] // key.shape[1]
            query = query[:, heads]
            key = torch.cat([key[:, head // groups, None] for head in heads], dim=1)
        num_queries = min(counted, query.shape[2])
        mass = last_attention(query, key, scaling, num_queries, mask).sum(0)
        self.add(mass, num_queries * len(heads))

    def heads_of(self, layer: int, num_heads: int) -> list[int]:
        """Return the heads of a layer that it listens to."""
        listened = self.heads
        return [n for n in range(num_heads) if listened is None or (layer, n) in listened]

    def add(self, mass: Tensor, count: int) -> None:
        """Add the attention of `count` queries and heads to each token, [tokens]."""
        if self._mass is not None:
            mass[: len(self._mass)] += self._mass.to(mass.device)  # layers may lie on several
        self._mass = mass
        self._observed += count

    def weights(self) -> Tensor:
        """Mean attention on each token, [tokens]; sums to 1. Float32 (float64 for float64 keys).

        Raises:
            ValueError: when no forward was observed.
            NonFiniteError: NaN or infinity among them.
        """
        if self._mass is None:
            raise ValueError(
                "no attention was observed. Set the language model's attention to 'evidence': "
                "model.set_attn_implementation({'text_config': 'evidence'})"
            )
        return check_finite(self._mass / self._observed, "its attention")


def last_attention(
    query: Tensor, key: Tensor, scaling: float, num_queries: int, mask: Tensor | None = None
) -> Tensor:
    """Add up what the last queries read, each on its own: [H, Lk].

    Args:
        query: [1, H, Lq, E].
        key: [1, K, Lk, E].
        scaling: factor of the dot products.
        num_queries: how many, at most Lq.
        mask: bool [1, 1, Lq, Lk]; without one, each sees itself and what came before.
    """
    num_keys = key.shape[2]
    # Scaled before the product, which might exceed the range of float16.
    grouped = (query[0, :, -num_queries:] * scaling).unflatten(0, (key.shape[1], -1))
    dtype = torch.promote_types(key.dtype, torch.float32)
    mass = torch.zeros(query.shape[1], num_keys, dtype=dtype, device=key.device)
    for back in range(1, num_queries + 1):  # the last query sees all keys, the one before one less
        seen = num_keys - back + 1 if mask is None else num_keys
        scores = grouped[:, :, -back] @ key[0, :, :seen].transpose(-1, -2)  # [K, H / K, seen]
        if mask is not None:
            scores = scores.masked_fill(~mask[0, 0, -back], -torch.inf)
        mass[:, :seen] += scores.to(dtype).softmax(-1).flatten(0, 1)
    return mass


def causal_attention_with_past(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Causal attention of the last Lq positions of a sequence over all its Lk keys.

    Two blocks, merged by their softmax denominators; see the picture at the top.

    Returns:
        [B, H, Lq, E].
    """
    past = key.shape[2] - query.shape[2]
    if query.shape[2] == 1:
        return attend_to_all(query, key, value, scaling)[0]
    attend = block_kernel(None, query).forward
    own, own_lse = attend(query, key[:, :, past:], value[:, :, past:], True, scaling)
    if past == 0:
        return own
    old, old_lse = attend(query, key[:, :, :past], value[:, :, :past], False, scaling)
    share = torch.sigmoid(own_lse - old_lse)[..., None]  # own / (own + old), in log space
    return torch.lerp(old.to(share.dtype), own.to(share.dtype), share).to(query.dtype)


def causal_mask(query: Tensor, key: Tensor) -> Tensor:
    """What the last Lq of Lk positions see: bool [1, 1, Lq, Lk]."""
    lq, lk = query.shape[2], key.shape[2]
    return torch.ones(lq, lk, dtype=torch.bool, device=query.device).tril(lk - lq)[None, None]


def evidence_attention(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling=None,
    evidence=None,
    evidence_queries=None,
    branches=None,
    **kwargs,
):
    """Attend as transformers' attention functions do.

    `evidence` is an optional collector; `branches`, of `attention/branches.py`, says that the
    queries are of several continuations of one sequence.

    Returns:
        out [B, Lq, H, E], and None in place of attention weights.

    Raises:
        ValueError: for a module that is not causal, such as the layers of a vision tower.
    """
    if not module.is_causal:
        raise ValueError(
            f"'evidence' attention is causal, {type(module).__name__} is not. Ask for it on the "
            "language model only: model.set_attn_implementation({'text_config': 'evidence'})."
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if branches is not None:
        branches.observe(module.layer_idx, query, key, scaling)
        out = branches.attend(query, key, value, scaling)
        return out.transpose(1, 2).contiguous(), None
    if evidence is not None:
        evidence.observe(module.layer_idx, query, key, scaling, evidence_queries, attention_mask)
    by_blocks = attention_mask is None and block_kernel(None, query) is not BLOCK_KERNELS["math"]
    if not by_blocks:
        if attention_mask is None and query.shape[2] > 1:
            attention_mask = causal_mask(query, key)  # cheaper than all scores in memory
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    out = causal_attention_with_past(query, key, value, scaling)
    return out.transpose(1, 2).contiguous(), None


def evidence_mask(*, attention_mask: Tensor | None = None, **asked) -> Tensor | None:
    """No mask where plain causality is meant; the one of `sdpa` everywhere else.

    Else is: padding, packed documents or windows (`allow_is_causal_skip` is off), static caches
    with slots that are not filled yet.
    """
    plain = asked.get("allow_is_causal_skip", True) and asked.get("local_size") is None
    filled = asked["kv_length"] == asked.get("q_offset", 0) + asked["q_length"]
    if plain and filled and (attention_mask is None or bool(attention_mask.all())):
        return None
    return sdpa_mask(attention_mask=attention_mask, **asked)


AttentionInterface.register("evidence", evidence_attention)
AttentionMaskInterface.register("evidence", evidence_mask)
