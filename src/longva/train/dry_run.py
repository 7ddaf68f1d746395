"""Print a recipe with its defaults, and the memory and time it would take; nothing is run."""

import os
from collections.abc import Callable, Iterable

import torch
from transformers import PreTrainedConfig

from longva.errors import LongVAError, first_line
from longva.planning.devices import DEVICES, GIB, free_host_memory, usable_bytes
from longva.recipes import recipe_yaml
from longva.train.order import StepOrder
from longva.train.planning import model_sizes, step_seconds, training_memory
from longva.train.recipe import LoopConfig, StageConfig


def describe(
    config: StageConfig,
    read_model: Callable[[], PreTrainedConfig],
    data: Iterable[tuple[LoopConfig, Callable[[], int]]],
    *,
    length: int,
    rows: int,
    gpus: int | None,
    text_only: bool = False,
) -> str:
    """A recipe with its defaults, then the planner's estimate, as text.

    Args:
        config: the recipe.
        read_model: reads the config of the model that it trains; where it cannot, because the run
            that makes the model is still to come, there is no estimate.
        data: how long each of its runs is, and what counts the samples that it reads.
        length: tokens of a row, at most.
        rows: rows that a sample makes, 2 for preferences.
        gpus: processes in all; None: those of torchrun, or one ring.
        text_only: of a model that sees, the language model alone is trained.
    """
    lines = [recipe_yaml(config), *(_reading(*run) for run in data)]
    try:
        model = read_model()
    except LongVAError as error:
        return "\n".join([*lines, f"# No estimate of memory and time: {error}"])
    loop, parallel = config.loop, config.parallel
    gpus = gpus or max(parallel.ring, int(os.environ.get("WORLD_SIZE", "1")))
    sizes = model_sizes(model, config.optim, text_only)
    if text_only:
        model = model.get_text_config(decoder=True)
    tokens = -(-rows * loop.samples_per_micro_batch * length // parallel.ring)
    memory = training_memory(model, sizes, parallel, tokens=tokens, gpus=gpus, optim=config.optim)
    parts = ("states", "root", "checkpoints", "block", "loss", "end", "peak", "host")
    lines += [
        f"# {sizes.trained / 1e9:.2f} billion parameters trained, {sizes.frozen / 1e9:.2f} frozen, "
        f"on {gpus} GPU(s); at most {tokens:,} tokens on each at a time.",
        "# GiB a GPU: "
        + ", ".join(f"{name} {getattr(memory, name) / GIB:.1f}" for name in parts)
        + ". (peak = states + root + the largest moment; host = host memory.)",
        _host_memory(memory.host, gpus),
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


def _host_memory(of_a_gpu: int, gpus: int) -> str:
    """Say how much host memory a machine needs, and whether this one has it free."""
    here = min(gpus, torch.cuda.device_count() or gpus)
    line = f"# Host memory: {of_a_gpu * here / 1e9:,.0f} GB for {here} GPU(s) of a machine"
    if (free := free_host_memory()) is None:
        return f"{line}."
    verdict = "fits" if of_a_gpu * here <= free else "does not fit"
    return f"{line}; {verdict} this one, which has {free / 1e9:,.0f} GB free."


def _reading(loop: LoopConfig, count: Callable[[], int]) -> str:
    """Say how many samples a run reads of how many, and whether they repeat."""
    try:
        num_samples = count()
    except LongVAError as error:  # the data may be still to come
        return f"# Data that cannot be counted yet: {first_line(error)}"
    order = StepOrder(num_samples, loop.samples_per_step)
    steps = loop.max_steps or order.steps(loop.epochs or 0)
    read = f"{steps * loop.samples_per_step:,} samples are read of {num_samples:,}"
    return f"# {steps:,} steps: {order.repetition(steps) or read}."
