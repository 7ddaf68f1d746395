"""Will it fit, and how long will it take: the memory and time of watching N frames.

Everything follows from the model's config, so the answer comes before anything is loaded:

    encode    weights + KV cache + one batch of frames in the vision tower  + rows that wait
    prefill   weights + KV cache + one chunk of tokens in the language model + rows that wait
    answer    weights + KV cache + one row of logits

The peak is the largest of the three. `benchmarks/planner.py` compares it with measured peaks.

Letters: F frames, T tokens a frame, L prompt tokens, c tokens a prefill chunk, D hidden size.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, DynamicCache, PreTrainedConfig

from longva.checkpoints import Precision
from longva.errors import ContextLengthError, LongVAError
from longva.model.flops import Flops, head_dim
from longva.planning.devices import GIB

WEIGHT_BYTES = {"int8": 1.01, "int4": 0.5625}
"""Bytes a quantised weight, scales included: one a row (int8), float32 for 64 weights (int4)."""


CHUNK_TOKENS = (4096, 2048, 1024, 512)
"""Sizes of a prefill chunk to choose from: smaller ones take less memory and a little more time."""

TEXT_TOKENS = 1280
"""Tokens reserved for the prompt's text and the answer."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What watching `frames` frames takes. Sizes in bytes."""

    frames: int
    prompt_tokens: int
    context_length: int
    weights: int
    kv_cache: int
    vision_chunk: int
    prefill_chunk: int
    logits: int
    peak: int
    device_memory: int | None
    """Memory that may be used, or None when unknown."""

    max_frames: int
    """Most frames that fit the memory (where known) and the context."""

    prefill_flops: float | None
    """None where the decoder's operations are not known."""

    chunk_tokens: int
    """Tokens prefilled at a time."""

    seconds: float | None
    """Rough time to encode and prefill; None without a device rate or operations."""

    @property
    def fits(self) -> bool:
        """Whether both the context and the memory are large enough."""
        return self.frames <= self.max_frames

    def check(self) -> None:
        """Refuse what does not fit.

        Raises:
            ContextLengthError: with the numbers and the number of frames that fits.
        """
        if self.fits:
            return
        most = f"At most {self.max_frames} frames fit."
        remedies: dict[str, Any] = {"frames": self.max_frames}
        if self.max_frames < 1:
            most, remedies = "Not even one frame fits: take a smaller model.", {}
        if self.prompt_tokens > self.context_length:
            raise ContextLengthError(
                f"{self.frames} frames make a prompt of {self.prompt_tokens:,} tokens, but the "
                f"model's context is {self.context_length:,}. {most}",
                **remedies,
            )
        parts = {"weights": self.weights, "KV cache": self.kv_cache}
        listed = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items())
        raise ContextLengthError(
            f"{self.frames} frames need {self.peak / GIB:.1f} GiB ({listed}), but only "
            f"{(self.device_memory or 0) / GIB:.1f} GiB may be used. {most} A quantised cache "
            "takes less.",
            **remedies,
            kv="int8",
        )


@dataclass(frozen=True)
class Shape:
    """Numbers of a config that the formulas need: LongVA's."""

    config: Any
    dtype_bytes: int
    weights: Precision
    kv: Precision
    chunk_tokens: int

    @property
    def text(self) -> Any:
        """Config of the language model."""
        return self.config.get_text_config(decoder=True)

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return head_dim(self.text)

    @property
    def row_width(self) -> int:
        """Width of a row of features."""
        return self.text.hidden_size

    @property
    def batch_rows(self) -> int:
        """Rows of a batch of frames."""
        return self.config.vision_batch_size * self.config.tokens_per_grid()

    def tokens(self, frames: int) -> int:
        """Tokens of so many frames."""
        return frames * self.config.tokens_per_grid()

    def weight_bytes(self) -> int:
        """Bytes of the weights, of a model without any."""
        with torch.device("meta"):
            model: Any = AutoModelForImageTextToText.from_config(self.config)
        layers = model.get_decoder().layers
        linear = sum(w.numel() for w in layers.parameters() if w.ndim == 2)
        total = sum(w.numel() for w in model.parameters())
        per_linear = WEIGHT_BYTES.get(self.weights, self.dtype_bytes)
        return int((total - linear) * self.dtype_bytes + linear * per_linear)

    def kv_bytes_per_token(self) -> float:
        """Bytes of keys and values of a token, over all layers that keep their own.

        A layer that sees a window keeps every token, too.
        """
        layers = len(DynamicCache(config=self.text).layers)
        values = 2 * layers * self.text.num_key_value_heads
        per_head = {
            "model": self.head_dim * self.dtype_bytes,
            "int8": self.head_dim + 2,  # one bfloat16 scale a head
            "int4": self.head_dim / 2 + 2 * max(1, self.head_dim // 32),  # one for 32 channels
        }
        return values * per_head[self.kv]

    def vision_chunk(self, frames: int) -> int:
        """Bytes of a batch of frames in one layer of the tower, and its pixels."""
        vision, text = self.config.vision_config, self.text
        grids = min(self.config.vision_batch_size, frames)
        patches = self.config.patches_per_side**2
        layer = patch_width(vision)
        projector = vision.hidden_size + 3 * text.hidden_size
        pixels = 3 * self.config.grid_size**2
        values = max((patches + 1) * layer, patches * projector) + pixels
        return grids * (values * self.dtype_bytes + 2 * pixels * 4)

    def waiting_rows(self, tokens: int) -> int:
        """Visual tokens that are less than a chunk yet, and the batch that has come last."""
        rows = min(tokens, self.chunk_tokens + 2 * self.batch_rows)
        return rows * self.row_width * self.dtype_bytes

    def prefill_chunk(self, tokens: int) -> int:
        """Bytes of a chunk of tokens in one layer of the language model."""
        text, b = self.text, self.dtype_bytes
        heads, keys = text.num_attention_heads, text.num_key_value_heads
        # Queries, two blocks' outputs and their merge (in float32); keys and values of the chunk.
        attention = (2 * heads + 2 * keys) * self.head_dim * b + 2 * heads * self.head_dim * 4
        mlp = 3 * text.intermediate_size * b
        a_token = 3 * text.hidden_size * b + max(attention, mlp)
        # A quantised cache is read back a layer at a time: keys, values, and one of them twice.
        read_back = 0 if self.kv == "model" else 3 * keys * self.head_dim * b
        rest = tokens % self.chunk_tokens
        chunks = [(min(self.chunk_tokens, tokens), tokens - rest or tokens), (rest, tokens)]
        return max(n * a_token + end * read_back for n, end in chunks)

    def prefill_flops(self, frames: int, tokens: int) -> float | None:
        """Operations to encode frames and read tokens; None where they are not known."""
        text, vision = self.text, self.config.vision_config
        patches = self.config.patches_per_side**2 + 1
        width = vision.hidden_size
        tower = 2 * patches * (4 * width**2 + 2 * width * mlp_width(vision))
        tower += 4 * patches**2 * width
        projector = 2 * (patches - 1) * text.hidden_size * (width + text.hidden_size)
        layers = self.config.vision_feature_layer % (vision.num_hidden_layers + 1)
        encode = frames * (layers * tower + projector)
        flops = Flops.of(self.config)
        return encode + flops.append(0, tokens) if flops else None


def patch_width(vision: Any) -> int:
    """Values of a patch in one layer of a tower.

    They are its input, residual and norm; queries, keys, values and output, or the MLP.
    """
    hidden = getattr(vision, "embed_dim", None) or vision.hidden_size
    return 3 * hidden + max(4 * hidden, 3 * mlp_width(vision))


def mlp_width(vision: Any) -> int:
    """Width of a tower's feed-forward layers; DINOv2 and others tell it as a ratio, mostly 4."""
    hidden = getattr(vision, "embed_dim", None) or vision.hidden_size
    return getattr(vision, "intermediate_size", None) or getattr(vision, "mlp_ratio", 4) * hidden


def plan(
    config: PreTrainedConfig,
    *,
    frames: int,
    dtype: torch.dtype = torch.bfloat16,
    weights: Precision = "model",
    kv: Precision = "model",
    text_tokens: int = TEXT_TOKENS,
    chunk_tokens: int | None = None,
    weight_bytes: int | None = None,
    device_memory: int | None = None,
    flops_per_second: float | None = None,
    look_again: int = 0,
    keeps_rows: bool = False,
    shape: Callable[..., Shape] = Shape,
) -> Plan:
    """Compute what watching a video takes.

    Args:
        config: of the model.
        frames: frames (or grids of an image) to watch.
        dtype: of the weights and activations.
        weights: `int8` or `int4` when the language model's layers are quantised.
        kv: `int8` or `int4` when the KV cache is quantised.
        text_tokens: room for the prompt's text and the answer.
        chunk_tokens: tokens prefilled at a time; None for the most of `CHUNK_TOKENS` with which
            hardly fewer frames fit than with the least.
        weight_bytes: of the weights, when they are loaded already and need not be computed.
        device_memory: bytes that may be used; None leaves only the context as a limit.
        flops_per_second: rate for the time estimate.
        look_again: frames that are read again beside all others.
        keeps_rows: all features stay in the same memory, for that.
        shape: makes the numbers of a config; another for models other than LongVA.
    """
    if chunk_tokens is None:
        if weight_bytes is None:
            weight_bytes = shape(config, dtype.itemsize, weights, kv, 1).weight_bytes()
        plans = [
            plan(
                config,
                frames=frames,
                dtype=dtype,
                weights=weights,
                kv=kv,
                text_tokens=text_tokens,
                chunk_tokens=tokens,
                weight_bytes=weight_bytes,
                device_memory=device_memory,
                flops_per_second=flops_per_second,
                look_again=look_again,
                keeps_rows=keeps_rows,
                shape=shape,
            )
            for tokens in CHUNK_TOKENS
        ]
        enough = 0.99 * max(p.max_frames for p in plans)
        return next(p for p in plans if p.max_frames >= enough)
    if frames < 0 or chunk_tokens < 1:
        raise LongVAError(
            f"a plan needs frames of 0 or more and chunk_tokens of 1 or more, got {frames} and "
            f"{chunk_tokens}."
        )
    numbers = shape(config, dtype.itemsize, weights, kv, chunk_tokens)
    text = numbers.text
    weight_bytes = numbers.weight_bytes() if weight_bytes is None else weight_bytes
    logits = 4 * text.vocab_size * 4  # float32, and the copies that sampling makes

    def sizes(n: int) -> dict[str, int]:
        visual = numbers.tokens(n)
        tokens = visual + text_tokens
        again = numbers.tokens(look_again) + text_tokens if n > look_again > 0 else 0
        kv_cache = int((tokens + again) * numbers.kv_bytes_per_token())
        kv_cache += visual * numbers.row_width * dtype.itemsize if keeps_rows else 0
        waiting = numbers.waiting_rows(visual)
        vision = numbers.vision_chunk(n) + waiting
        prefill = numbers.prefill_chunk(tokens) + waiting
        return {
            "prompt_tokens": tokens,
            "kv_cache": kv_cache,
            "vision_chunk": vision,
            "prefill_chunk": prefill,
            "peak": weight_bytes + kv_cache + max(vision, prefill, logits),
        }

    def fits(n: int) -> bool:
        size = sizes(n)
        small_enough = device_memory is None or size["peak"] <= device_memory
        return small_enough and size["prompt_tokens"] <= text.max_position_embeddings

    possible = range(1, text.max_position_embeddings + 1)
    max_frames = bisect_left(possible, True, key=lambda n: not fits(n))  # how many of them fit
    size = sizes(frames)
    flops = numbers.prefill_flops(frames, size["prompt_tokens"])
    return Plan(
        frames=frames,
        context_length=text.max_position_embeddings,
        weights=weight_bytes,
        logits=logits,
        device_memory=device_memory,
        chunk_tokens=chunk_tokens,
        max_frames=max_frames,
        prefill_flops=flops,
        seconds=flops / flops_per_second if flops and flops_per_second else None,
        **size,
    )
