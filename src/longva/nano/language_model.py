"""The nano language model before training: a small Qwen2 with three previous-token heads.

    3 layers, width 128, 4 heads of 64 (2 for keys and values), feed-forward 384: 0.8 M parameters

Copying from the context needs a head that attends to the previous token, the first half of an
induction circuit. Learned from nothing, it takes millions of tokens on a plateau; here the
biases of layer 0's first heads start with it, and everything else at random. All of it is trained.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from longva.nano.words import word_tokenizer

CONTEXT = 256
"""Tokens of the base model's longest row, and of alignment's longest sequence."""

ROPE_THETA = 1e4
LOOK_BACK = (1, 2, 3)
"""How many tokens back the first heads of layer 0 attend at the start."""

_SHARPNESS = 4.0


def initial_language_model(seed: int, *, honest: bool = False) -> Qwen2ForCausalLM:
    """Make the model that pre-training starts from, in float32. The same seed makes the same one.

    With `honest` it has the words of `longva.nano.wordings` besides.

    Matrices begin with standard deviation 0.68 / sqrt(width), those that write to the residual
    stream smaller by sqrt(2 layers); the last norm begins at one half, so that the first
    predictions are not too sure.
    """
    tokenizer = word_tokenizer(honest=honest)
    config: Any = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,  # pyright: ignore[reportCallIssue]
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = Qwen2ForCausalLM(config)
        deviation = 0.68 / math.sqrt(config.hidden_size)
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(parameter, std=deviation / math.sqrt(2 * config.num_hidden_layers))
            elif name.endswith("proj.weight"):
                nn.init.normal_(parameter, std=deviation)
        nn.init.normal_(model.model.embed_tokens.weight, std=0.2)
    nn.init.constant_(model.model.norm.weight, 0.5)
    look_back(model, LOOK_BACK)
    return model


@torch.no_grad()
def look_back(model: Any, offsets: tuple[int, ...]) -> None:
    """Let the first heads of layer 0 attend `offsets` tokens back, whatever the tokens are.

    Rotary position embedding turns the pair (i, i + d/2) of a query at m and a key at n by m f_i
    and n f_i. A key bias c (1, 0) and a query bias c (cos(o f_i), -sin(o f_i)) give the score
    c^2 sum_i cos((m - n - o) f_i), largest at n = m - o. The faster half of the pairs suffices.
    """
    config = model.config
    size = config.head_dim
    pairs = torch.arange(size // 4)
    frequencies = config.rope_parameters["rope_theta"] ** (-2.0 * pairs / size)
    attention = model.model.layers[0].self_attn
    keys = attention.k_proj.bias.view(-1, size)
    queries = attention.q_proj.bias.view(-1, size)
    keys[:, pairs] = _SHARPNESS
    for head, offset in enumerate(offsets):
        queries[head, pairs] = _SHARPNESS * torch.cos(offset * frequencies)
        queries[head, pairs + size // 2] = -_SHARPNESS * torch.sin(offset * frequencies)


@torch.no_grad()
def sharpen(decoder: Any, factor: float) -> None:
    """Multiply the attention logits of every layer of a decoder but the first, in place.

    A softmax over 32 times more tokens needs a larger gap between the right one and the rest. What
    was learned at 256 tokens is too soft for thousands, and training alone widens the gap slowly.
    (YaRN, arXiv 2309.00071, changes the temperature for the same reason.) Layer 0 looks at the last
    few tokens only, and is left as it is.
    """
    for layer in decoder.layers[1:]:
        layer.self_attn.q_proj.weight *= factor
        layer.self_attn.q_proj.bias *= factor


def save_sharpened(
    source: Path,
    folder: Path,
    factor: float,
    *,
    rope_theta: float = ROPE_THETA,
    honest: bool = False,
) -> None:
    """Write the checkpoint in `source`, sharpened, with a RoPE base, to `folder`."""
    model: Any = Qwen2ForCausalLM.from_pretrained(source)
    sharpen(model.model, factor)
    model.config.rope_parameters["rope_theta"] = rope_theta
    model.save_pretrained(folder)
    word_tokenizer(honest=honest).save_pretrained(folder)


def save_initial_language_model(folder: Path, seed: int, *, honest: bool = False) -> None:
    """Write `initial_language_model` and its tokenizer as a checkpoint for `longva extend`."""
    initial_language_model(seed, honest=honest).save_pretrained(folder)
    word_tokenizer(honest=honest).save_pretrained(folder)
