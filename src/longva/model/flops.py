"""What a decoder computes: floating point operations by token, by pair of tokens and by logit.

Attention grows with the square of the length, everything else with the length. A multiply-add is
two operations. Norms, softmax and rotary embeddings are left out: they are under a hundredth.
"""

import json
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations of a decoder whose every token goes through every matrix of its layers.

    >>> Flops(per_token=100, per_pair=1, per_logits=7).append(2, 4)     # 200 + 3 + 4
    207
    """

    per_token: int
    """All matrices of all layers."""

    per_pair: int
    """One query and one key: their product and the weighted value, all heads of all layers."""

    per_logits: int
    """The vocabulary projection at one position."""

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "Flops | None":
        """Count the matrices of a model's text decoder, built without memory for its weights.

        Returns:
            None where they do not tell: tokens choose among experts, or transformers cannot build
            the model from its config. This is an estimate, which no work should have to wait for.
        """
        config = config.get_text_config(decoder=True)
        return _flops(type(config), config.to_json_string(use_diff=False))

    def append(self, start: int, end: int) -> int:
        """Tokens `start` to `end` of a sequence, without logits; token i sees i + 1 tokens."""
        pairs = (end * (end + 1) - start * (start + 1)) // 2
        return (end - start) * self.per_token + pairs * self.per_pair


def head_dim(config: PreTrainedConfig) -> int:
    """Channels of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


@lru_cache(maxsize=64)
def _flops(kind: type[PreTrainedConfig], values: str) -> Flops | None:
    try:
        config = kind.from_dict(json.loads(values))
        with torch.device("meta"):
            model = AutoModel.from_config(config)
        width, heads = config.hidden_size, config.num_attention_heads
    except Exception:  # noqa: BLE001 - whatever a foreign config makes of it
        return None
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    layers = max(stacks, key=lambda stack: sum(w.numel() for w in stack.parameters()))
    if any(weight.ndim > 2 for weight in layers.parameters()):  # experts, or a convolution
        return None
    return Flops(
        per_token=2 * sum(w.numel() for w in layers.parameters() if w.ndim == 2),
        per_pair=4 * len(layers) * heads * head_dim(config),
        per_logits=2 * width * config.vocab_size,
    )
