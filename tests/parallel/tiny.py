"""A tiny Qwen2 with grouped heads, and its loss and gradients by plain attention on one process."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 97
CONFIG = Qwen2Config(
    vocab_size=VOCABULARY,
    hidden_size=48,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    tie_word_embeddings=False,
    rope_parameters={"rope_type": "default", "rope_theta": 1e9},
)


def tiny_qwen2(attention: str, dtype: torch.dtype = torch.float32, **changes) -> Qwen2ForCausalLM:
    config = copy.deepcopy(CONFIG)  # models that share a config share its attention
    config.update(changes)
    config._attn_implementation = attention
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).to(dtype)


def tiny_batch(length: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Ids and labels [B, S], a third of the labels ignored."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (batch, length), generator=generator)
    ignored = torch.rand(batch, length, generator=generator) < 1 / 3
    return ids, ids.masked_fill(ignored, -100)


def document_mask(length: int, starts: tuple[int, ...] | None) -> Tensor | None:
    """Block-diagonal causal mask, bool [1, 1, S, S]; None without documents."""
    if starts is None:
        return None
    begins = torch.zeros(length, dtype=torch.long)
    begins[list(starts)] = 1
    document = begins.cumsum(0)
    return (document[:, None] == document[None]).tril()[None, None]


def plain_loss(model, ids: Tensor, labels: Tensor, starts: tuple[int, ...] | None = None) -> Tensor:
    """Mean next-token loss over all targets, by the attention that torch ships."""
    mask = document_mask(ids.shape[1], starts)
    mask = None if mask is None else mask.expand(len(ids), -1, -1, -1)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(dtype).flatten(0, 1), labels[:, 1:].flatten())
