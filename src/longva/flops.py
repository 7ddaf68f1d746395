"""What a decoder computes: floating point operations by token, by pair of tokens and by logit.

Attention grows with the square of the length, everything else with the length. A multiply-add is
two operations. Norms, softmax and rotary embeddings are left out: they are under a hundredth.
"""

from dataclasses import dataclass

from transformers import PreTrainedConfig


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations of a decoder with gated MLPs (Llama, Qwen2, Mistral).

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
    def of(cls, config: PreTrainedConfig) -> "Flops":
        """Read the sizes of a model's text decoder."""
        config = config.get_text_config(decoder=True)
        width, heads = config.hidden_size, config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or width // heads
        attention = width * head_dim * (2 * heads + 2 * config.num_key_value_heads)
        gated_mlp = 3 * width * config.intermediate_size
        return cls(
            per_token=2 * config.num_hidden_layers * (attention + gated_mlp),
            per_pair=4 * config.num_hidden_layers * heads * head_dim,
            per_logits=2 * width * config.vocab_size,
        )

    def append(self, start: int, end: int) -> int:
        """Tokens `start` to `end` of a sequence, without logits; token i sees i + 1 tokens."""
        pairs = (end * (end + 1) - start * (start + 1)) // 2
        return (end - start) * self.per_token + pairs * self.per_pair
