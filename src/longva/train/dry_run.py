"""What a recipe would do: itself, resolved, and what memory and time it takes. Nothing is run."""

import os
from collections.abc import Callable
from typing import Any

from transformers import PreTrainedConfig

from longva.errors import LongVAError
from longva.model import LongVAConfig
from longva.planner import DEVICES, GIB, LONGVA_7B, load_config, usable_bytes
from longva.recipes import recipe_yaml
from longva.train.loop import StageConfig
from longva.train.memory import model_sizes, step_seconds, training_memory

PUBLISHED: dict[str, dict[str, Any]] = dict.fromkeys(
    (
        *("Qwen/Qwen2-7B-Instruct", "lmms-lab/Qwen2-7B-Instruct-224K"),
        *("lmms-lab/LongVA-7B", "lmms-lab/LongVA-7B-DPO"),
    ),
    LONGVA_7B["text_config"],
)
"""Language models whose sizes are known without asking the Hub."""


def longva_config(model: str) -> LongVAConfig:
    """Config of a LongVA, without asking the Hub for the published ones."""
    if model in PUBLISHED:
        return LongVAConfig(text_config=dict(PUBLISHED[model]))
    return load_config(model)


def describe(
    config: StageConfig,
    read_model: Callable[[], PreTrainedConfig],
    *,
    length: int,
    rows: int,
    gpus: int | None,
) -> str:
    """A recipe with its defaults, then the planner's estimate, as text.

    Args:
        config: the recipe.
        read_model: reads the config of the model that it trains; where it cannot, because the run
            that makes the model is still to come, there is no estimate.
        length: tokens of a row, at most.
        rows: rows that a sample makes, 2 for preferences.
        gpus: processes in all; None: those of torchrun, or one ring.
    """
    try:
        model = read_model()
    except LongVAError as error:
        return f"{recipe_yaml(config)}\n# No estimate of memory and time: {error}"
    loop, parallel = config.loop, config.parallel
    gpus = gpus or max(parallel.ring, int(os.environ.get("WORLD_SIZE", "1")))
    sizes = model_sizes(model, config.optim)
    tokens = -(-rows * loop.samples_per_micro_batch * length // parallel.ring)
    memory = training_memory(model, sizes, parallel, tokens=tokens, gpus=gpus, optim=config.optim)
    parts = ("states", "root", "checkpoints", "block", "loss", "end", "peak", "host")
    lines = [
        recipe_yaml(config),
        f"# {sizes.trained / 1e9:.2f} billion parameters trained, {sizes.frozen / 1e9:.2f} frozen, "
        f"on {gpus} GPU(s); at most {tokens:,} tokens on each at a time.",
        "# GiB a GPU: "
        + ", ".join(f"{name} {getattr(memory, name) / GIB:.1f}" for name in parts)
        + ". (peak = states + root + the largest moment; host = host memory.)",
    ]
    for device, (gib, _) in DEVICES.items():
        seconds = step_seconds(
            *(model, length, rows * loop.samples_per_step, parallel.checkpoint_activations),
            *(gpus, device),
        )
        verdict = "fits" if memory.peak <= usable_bytes(gib) else "does not fit"
        if seconds is None:
            lines.append(f"#   {device:10} {verdict}; its operations, and so its time, are unknown")
            continue
        total = f", {loop.max_steps * seconds / 3600:,.1f} h in all" if loop.max_steps else ""
        lines.append(f"#   {device:10} {verdict}; about {seconds:,.1f} s a step{total}")
    return "\n".join(lines)
