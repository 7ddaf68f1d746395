"""Teacher-forced logits of one sequence that no single device holds, without a cache.

V-NIAH on several devices: 3,000 frames are 432,000 tokens, whose keys and values take 25 GB beside
the model; spread over a ring, each device does one forward over its share. The result is that of
`CachedSequence` or of one plain forward.

A prompt is one tensor of symbols, as everywhere in this package: a value >= 0 is a token id, and
-(1 + r) is row r of a table of embeddings (the visual tokens). Each rank embeds its own share only.

    S symbols   R rows of the table   N asked positions   D width of the model   V words
"""

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from longva.finite import check_finite
from longva.parallel.registered_attention import ring_forward
from longva.parallel.ring_attention import RingSequence
from longva.parallel.zigzag import zigzag_index
from longva.prompts.kv_cache import LOGITS, project
from longva.prompts.symbols import embed_symbols


@torch.no_grad()  # not inference_mode: a model in training gathers its parameters in here
def ring_logits(
    model: PreTrainedModel,
    symbols: Tensor,
    positions: Tensor,
    *,
    embeddings: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Logits at a few positions of one long sequence, which is spread over a ring.

    Args:
        model: a causal language model with an output layer, the same on every rank, whose decoder
            attends by `zigzag_ring`: `model.get_decoder().set_attn_implementation("zigzag_ring")`.
        symbols: int64 [S], the whole prompt with its answer, the same on every rank.
        positions: int64 [N] in [0, S): where the next symbol is to be predicted. To score the
            answer symbols[a:], ask at a - 1, a, ..., S - 2.
        embeddings: [R, D], the table that negative symbols refer to.
        group: the ring. None: this process alone.

    Returns:
        [N, V] float32 (float64 for a float64 model), the same on every rank.

    Raises:
        ValueError: for positions outside the prompt or rows outside the table, and when the
            decoder does not attend by `zigzag_ring`.
        NonFiniteError: NaN or infinity among the logits.
    """
    length = len(symbols)
    if model.get_output_embeddings() is None:
        raise ValueError(
            f"{type(model).__name__} has no output layer; pass the causal model itself"
        )
    if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < length:
        raise ValueError(
            f"positions must lie in [0, {length}), the prompt's, got {positions.tolist()}"
        )
    ring = RingSequence(length=length, group=group)
    local = ring.shard(symbols.to(model.device), dim=0)[None]  # [1, L]
    embedded = embed_symbols(local, model.get_input_embeddings(), embeddings)
    hidden = ring_forward(model.get_decoder(), ring, inputs_embeds=embedded)[0]  # [L, D]

    held, index = zigzag_index(positions.to(hidden.device), length, ring.rank, ring.world_size)
    local_logits = project(model, hidden[index])  # [held, V]
    logits = local_logits.new_zeros(len(positions), local_logits.shape[1])
    logits[held] = local_logits
    if group is not None:
        dist.all_reduce(logits, group=group)  # each position comes from one rank, 0 from the rest
    return check_finite(logits, LOGITS)
