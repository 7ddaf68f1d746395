"""How long a sequence can a training step hold, by hardware and option? By formula, nothing is run.

    python benchmarks/training_capacity.py

Prints the table of docs/training.md.
"""

import sys
from dataclasses import replace
from typing import Any

from transformers import PreTrainedConfig

from longva.checkpoints.published import load_config
from longva.planning.devices import DEVICES, usable_bytes
from longva.train.optim import OptimConfig
from longva.train.planning import EVERYTHING, Sizes, model_sizes, training_memory
from longva.train.sharding import ParallelConfig

EIGHT_BIT = OptimConfig(lr={"all": 1e-5}, name="adamw8bit")

TABLE_RUNS: dict[str, tuple[str, int, ParallelConfig, OptimConfig]] = {
    "8 x A100-80G": ("a100-80g", 8, ParallelConfig(ring=8), EVERYTHING),
    "8 x A100-80G, states on host": (
        *("a100-80g", 8),
        *(ParallelConfig(ring=8, offload_states=True), EVERYTHING),
    ),
    "1 x H200, states on host": ("h200", 1, ParallelConfig(offload_states=True), EVERYTHING),
    "1 x H200, 8-bit Adam": ("h200", 1, ParallelConfig(), EIGHT_BIT),
    "8 x H200": ("h200", 8, ParallelConfig(ring=8), EVERYTHING),
    "1 x H100, states on host": ("h100", 1, ParallelConfig(offload_states=True), EVERYTHING),
}
"""Device, GPUs, layout and optimizer of each column of the table."""

TABLE_SAVERS: dict[str, tuple[dict[str, Any], bool]] = {
    "plain logits (as the paper)": ({}, True),
    "plain logits, hidden states on host": ({"offload_activations": True}, True),
    "chunked loss": ({}, False),
    "chunked loss, hidden states on host": ({"offload_activations": True}, False),
    "chunked loss, tiled MLP": ({"mlp_tile": 8192}, False),
    "chunked loss, hidden states on host, tiled MLP": (
        {"offload_activations": True, "mlp_tile": 8192},
        False,
    ),
}
"""Memory savers of each row, all with checkpointed activations."""


def longest(
    config: PreTrainedConfig,
    sizes: Sizes,
    parallel: ParallelConfig,
    *,
    memory: float,
    plain_loss: bool = False,
    **rest: Any,
) -> int:
    """Most tokens on each GPU that fit `memory` bytes; see `training_memory` for the rest.

    A plain loss holds all logits at once: in bfloat16 and float32, and the gradients of both.
    """
    low, high = 0, 1 << 24
    while high - low > 256:
        middle = (low + high) // 2
        needed = training_memory(config, sizes, parallel, tokens=middle, **rest)
        if plain_loss:
            logits = (2 + 4 + 4 + 2) * middle * config.vocab_size
            needed = replace(needed, loss=logits + 4 * 2 * config.hidden_size * middle)
        low, high = (middle, high) if needed.peak <= memory else (low, middle)
    return low


def capacity_table() -> str:
    """Thousands of tokens of one sequence that fit, by hardware and option, as Markdown."""
    config = load_config("longva-7b").text_config
    lines = [f"| | {' | '.join(TABLE_RUNS)} |", "|---" * (len(TABLE_RUNS) + 1) + "|"]
    for label, (savers, plain_loss) in TABLE_SAVERS.items():
        cells = []
        for device, gpus, parallel, optim in TABLE_RUNS.values():
            tokens = longest(
                *(config, model_sizes(config, optim), replace(parallel, **savers)),
                memory=usable_bytes(DEVICES[device][0]),
                gpus=gpus,
                optim=optim,
                plain_loss=plain_loss,
            )
            cells.append(f"{tokens * gpus / 1000:,.0f}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(capacity_table() + "\n")
