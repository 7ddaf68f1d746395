"""The ring as an attention of transformers, chosen by the name `zigzag_ring`, and its guards.

    model.get_decoder().set_attn_implementation("zigzag_ring")
    ring = RingSequence(length=ids.shape[1], group=ring_group)      # for each batch
    hidden = ring_forward(model.get_decoder(), ring, input_ids=ring.shard(ids))

How data reaches the attention function: `ring` is a keyword argument of the decoder's forward,
which transformers hands down to each layer's attention. There is no global and no context manager,
so activation checkpointing, which calls a layer again during the backward with the arguments of its
first call, sees the same group and documents; two batches in flight can have different ones; and a
model that is called without one raises.

    B batch   H query heads   K key heads   d head dimension   D width of the model
    L tokens of a rank
"""

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from longva.attention.rotary import length_dependence
from longva.errors import LongVAError
from longva.parallel.ring_attention import RingSequence, ring_attention


def _zigzag_ring_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    ring: RingSequence | None = None,
    position_ids: Tensor | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """The signature of transformers' attention functions: returns [B, L, H, d] and no weights."""
    who = type(module).__name__
    is_causal = kwargs.get("is_causal")
    if not (getattr(module, "is_causal", False) if is_causal is None else is_causal):
        raise ValueError(
            f"zigzag_ring is causal, {who} is not. Ask for it on the language model only: "
            "model.get_decoder().set_attn_implementation('zigzag_ring')."
        )
    if ring is None:
        raise ValueError(
            f"{who} attends by zigzag_ring but was not told how the sequence lies on the ranks. "
            "Call longva.parallel.ring_forward(decoder, ring, ...), or give this model its own "
            "copy of the config: models that share one config object share its attention."
        )
    if attention_mask is not None:
        raise ValueError(
            "zigzag_ring takes no mask. To mask documents, give RingSequence their document_starts."
        )
    if kwargs.get("use_cache") or key.shape[2] != query.shape[2]:
        raise ValueError("zigzag_ring keeps no cache: call the model with use_cache=False.")
    refused = [n for n in ("sliding_window", "softcap", "s_aux") if kwargs.get(n) is not None]
    if dropout or refused:
        raise ValueError(
            f"zigzag_ring has no {refused[0] if refused else 'dropout'}, which {who} asks for. "
            "Turn it off in the model's config."
        )
    if query.shape[2] != ring.local_length:
        raise ValueError(
            f"each of {ring.world_size} ranks holds {ring.local_length} tokens of a sequence of "
            f"{ring.length}, but the model got {query.shape[2]}. Cut its inputs with ring.shard()."
        )
    if getattr(module, "layer_idx", 0) == 0:  # once a forward: reading a value waits for the GPU
        given, expected = position_ids, ring.positions(query.device)
        if given is None or given.shape[-1] != expected.shape[-1] or (given != expected).any():
            raise ValueError(
                "position_ids are not those of this rank's shard (transformers counts from 0 when "
                "it gets none). Pass position_ids=ring.positions()."
            )
    out = ring_attention(query, key, value, ring, scaling)
    return out.transpose(1, 2).contiguous(), None


def _refuse_padding_mask(attention_mask: Tensor | None = None, **_) -> None:
    """Stand in for mask creation: without a mask function, transformers drops a mask silently."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise ValueError(
            "zigzag_ring cannot honour a padding mask. Pad at the right, where causal attention "
            "does not look, with labels of -100, and pass no attention_mask."
        )


AttentionInterface.register("zigzag_ring", _zigzag_ring_forward)
AttentionMaskInterface.register("zigzag_ring", _refuse_padding_mask)


def check_ring(decoder: nn.Module) -> None:
    """Refuse a decoder whose ranks would disagree about its rotary frequencies.

    Raises:
        LongVAError: they depend on the length of the sequence, of which a rank sees its shard.
    """
    if rope_type := length_dependence(decoder):
        raise LongVAError(
            f"{rope_type} RoPE chooses its frequencies by the length of the sequence, and a rank "
            "of a ring sees only its share of it. Use one process a sequence (no ring), or a RoPE "
            "type that stays the same: default, linear, yarn or llama3."
        )


def ring_forward(decoder: nn.Module, ring: RingSequence, **shard: Tensor) -> Tensor:
    """Run a decoder of transformers on this rank's shard.

    Args:
        decoder: a causal decoder without its output layer (`model.get_decoder()`).
        ring: how the sequence lies on the ranks.
        **shard: of this rank: `input_ids`, [B, L], or `inputs_embeds`, [B, L, D].

    Returns:
        Hidden states of the local tokens, [B, L, D].

    Raises:
        ValueError: when the decoder attends by something other than `zigzag_ring`: each rank would
            then see its own shard only, silently.
    """
    attention = decoder.config._attn_implementation
    if attention != "zigzag_ring":
        raise ValueError(
            f"{type(decoder).__name__} attends by {attention!r}, within the shard of each rank. "
            "Call model.get_decoder().set_attn_implementation('zigzag_ring') first."
        )
    (inputs,) = shard.values()
    positions = ring.positions(inputs.device)
    if "mrope_section" in (getattr(decoder.config, "rope_parameters", None) or {}):
        positions = positions.expand(4, 1, -1)  # the token's own; time, height and width, as text
    return decoder(**shard, position_ids=positions, use_cache=False, ring=ring).last_hidden_state
