"""Sizes of the GPU suite, its models, and how it measures time and memory.

Models have the shape of the real ones and small random weights, made on the device.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2ForCausalLM

from longva.checkpoints.published import QWEN2_7B_224K
from longva.model import LongVAConfig
from longva.planning.devices import GIB

Row = dict[str, float | str]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row to measure."""

    name: str
    run: Callable[[], Row]

    flops: float = 0
    """Operations, to foresee whether the time that is left is enough."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of everything: `FULL` for one GPU of 141 GB, `TOY` for a CPU."""

    device: str
    dtype: torch.dtype
    config: dict[str, Any]
    heads: tuple[int, int, int]
    """H, K, d of the ring."""

    rings: list[tuple[int, int]]
    """Tokens and ranks."""

    exact_up_to: int
    """Tokens up to which the float32 reference, with all scores in memory, is computed."""

    kernels: list[str]
    frames: list[int]
    rows: list[int]
    """Tokens of a training step: the longest that fits is sought among them."""

    compared: int
    """Tokens at which training is compared with plain transformers."""

    haystacks: list[int]
    asked: list[int]
    """Frames of the films that are asked about."""

    budget: float
    """Bytes of the card that the memory section plays."""

    loss: tuple[int, int, int]
    """Tokens, words, width."""

    pictures: int
    vision_chunks: list[int]
    precision: Any
    mlp_tile: int


FULL = Scale(
    device="cuda",
    dtype=torch.bfloat16,
    config={"text_config": QWEN2_7B_224K},
    heads=(28, 4, 128),
    rings=[(16_384, 1), (16_384, 4), (65_536, 4), (65_536, 8)],
    exact_up_to=16_384,
    kernels=["cuda_flash", "cudnn"],
    frames=[200, 1000, 2000, 3000],
    rows=[224_000, 112_000, 56_000, 28_000],
    compared=16_384,
    haystacks=[75, 150, 225, 300],
    asked=[1000, 3000],
    budget=24e9,
    loss=(32_768, 152_064, 3584),
    pictures=512,
    vision_chunks=[512, 1, 4, 16, 64, 256],
    precision="bf16",
    mlp_tile=8192,
)
TOY = Scale(
    device="cpu",
    dtype=torch.float32,
    config={
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14,
        },
        "text_config": {
            "model_type": "qwen2", "vocab_size": 512, "hidden_size": 56, "intermediate_size": 112,
            "num_hidden_layers": 2, "num_attention_heads": 14, "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    },
    heads=(14, 2, 16),
    rings=[(255, 1), (256, 4)],
    exact_up_to=256,
    kernels=["cpu_flash"],
    frames=[20, 40],
    rows=[256, 128],
    compared=64,
    haystacks=[4, 8],
    asked=[20],
    budget=5e6,
    loss=(256, 1024, 32),
    pictures=8,
    vision_chunks=[8, 2],
    precision="fp32",
    mlp_tile=64,
)  # fmt: skip


def measured(run: Callable[[], Any], device: str) -> tuple[Any, float, float]:
    """Run something once. Returns its result, seconds, and the process's peak memory in GiB."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # reset VmHWM
    start = time.perf_counter()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
        return result, time.perf_counter() - start, torch.cuda.max_memory_allocated() / GIB
    seconds = time.perf_counter() - start
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return result, seconds, kib * 1024 / GIB


def build(kind: Callable[[Any], Any], config: Any, scale: Scale) -> Any:
    """Make a model with random weights (standard deviation 0.02) on the device, in its dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(scale.dtype)
    torch.manual_seed(0)
    try:
        with torch.device(scale.device):
            return kind(config).eval()
    finally:
        torch.set_default_dtype(before)


def longva_config(scale: Scale) -> LongVAConfig:
    text = {**scale.config["text_config"], "max_position_embeddings": 1 << 20}
    return LongVAConfig(**{**scale.config, "text_config": text})


def language_model(scale: Scale) -> Any:
    return build(Qwen2ForCausalLM, longva_config(scale).text_config, scale)
