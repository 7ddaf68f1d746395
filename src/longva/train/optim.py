"""Which parameters are trained, how fast, and with which optimizer.

A recipe lists the trained parts with their learning rates; what it does not list stays frozen:

    optim: {lr: {projector: 1.0e-3}, schedule: cosine, warmup: 0.03}                   stage 1
    optim: {lr: {projector: 1.0e-5, language: 1.0e-5, vision: 2.0e-6}, ...}            stage 2
    optim: {lr: {all: 1.0e-5}}                                                         extension

The schedule is a pure function of the step, so that there is nothing of it to save or restore.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from longva.checkpoints import Precision
from longva.errors import RecipeError, install_command, needing
from longva.recipes import STRICT, require_at_least

PARTS = {
    "all": r"",
    "projector": r"\bmulti_modal_projector\b",
    "vision": r"\bvision_tower\b",
    "language": r"^(?!.*\b(multi_modal_projector|vision_tower)\b)",
}
"""Parts of a model as regular expressions, searched in the names of parameters."""


@dataclass(kw_only=True, frozen=True)
class LoraConfig:
    """Train low-rank adapters instead of the language model's layers (arXiv 2106.09685)."""

    __pydantic_config__ = STRICT

    rank: int = 64
    alpha: int = 16
    dropout: float = 0.05

    weights: Precision = "model"
    """Of the layers that the adapters stand beside: `int4` (NF4, as QLoRA, arXiv 2305.14314) or
    `int8` by bitsandbytes, whole on every process. What is exported has the values that were
    trained on, in `parallel.precision`."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "rank")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


@dataclass(kw_only=True, frozen=True)
class OptimConfig:
    """The optimizer of a run."""

    __pydantic_config__ = STRICT

    lr: dict[str, float]
    """Learning rate of each trained part: `all`, `projector`, `vision`, `language`, or a regular
    expression that is searched in parameter names. The first that matches counts; parameters that
    none matches are frozen."""

    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """What follows the warm-up: nothing, half a cosine to 0, or a line to 0."""

    warmup: float = 0.0
    """Share of the steps in which the rate rises to its full value."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    weight_decay: float = 0.0
    """On every trained parameter, as in the original."""

    clip_norm: float = 1.0
    """Largest norm of the gradient of all parameters together. 0: not clipped."""

    name: Literal["adamw", "adamw8bit"] = "adamw"
    """`adamw8bit` holds the two moments in 8 bits (torchao), 6 bytes less a parameter; for one GPU,
    since torchao 0.18 fails where a parameter cannot be dealt out evenly."""

    lora: LoraConfig | None = None
    """Adapters on every linear layer of the language model's blocks. Its own weights are then
    frozen; the rate of its part is that of the adapters, which the final export merges."""

    def __post_init__(self) -> None:
        if not self.lr or not all(0 < rate < math.inf for rate in self.lr.values()):
            raise ValueError(
                f"lr must list the trained parts with positive rates, such as {{all: 1.0e-5}}, got "
                f"{self.lr}. To freeze a part, leave it out."
            )
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is a share of the steps, 0 to 1, got {self.warmup}")
        for part in self.lr:
            try:
                re.compile(PARTS.get(part, part))
            except re.error as error:
                raise ValueError(f"lr.{part} is no regular expression: {error}") from None
        require_at_least(self, 0, "clip_norm")  # an infinite one clips nothing, as 0
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if not all(0 <= beta < 1 for beta in self.betas) or not self.eps > 0:
            raise ValueError(
                f"betas must lie in [0, 1) and eps be above 0, got {self.betas} and {self.eps}"
            )


def learning_rate_factor(config: OptimConfig, step: int, num_steps: int) -> float:
    """Factor on every learning rate at `step`, counted from 0.

    >>> cosine = OptimConfig(lr={"all": 1e-3}, schedule="cosine", warmup=0.2)
    >>> [round(learning_rate_factor(cosine, step, num_steps=10), 2) for step in range(10)]
    [0.5, 1.0, 1.0, 0.96, 0.85, 0.69, 0.5, 0.31, 0.15, 0.04]
    """
    warmup_steps = math.ceil(config.warmup * num_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    match config.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        case "linear":
            return 1 - done


def part_of(name: str, config: OptimConfig) -> str | None:
    """Key of `config.lr` that the parameter `name` is trained by, or None.

    >>> stage_2 = OptimConfig(lr={"language": 1e-5, "vision": 2e-6})
    >>> part_of("model.vision_tower.embeddings.class_embedding", stage_2)
    'vision'
    """
    if config.lora is not None and ".lora_" not in name and re.search(PARTS["language"], name):
        return None
    return next((key for key in config.lr if re.search(PARTS.get(key, key), name)), None)


def choose_trained(model: nn.Module, config: OptimConfig) -> None:
    """Freeze every parameter that the recipe does not train.

    Raises:
        RecipeError: when a part or expression of the recipe finds no parameter.
    """
    found = set()
    for name, parameter in model.named_parameters():
        part = part_of(name, config)
        parameter.requires_grad_(part is not None)
        found.add(part)
    if idle := [key for key in config.lr if key not in found]:
        raise RecipeError(
            f"optim.lr.{idle[0]} matches no parameter of this {type(model).__name__}. Choose among "
            f"{', '.join(PARTS)}, or write an expression that is found in parameter names, such as "
            f"{next(name for name, _ in model.named_parameters())}."
        )


def freeze_vision(model: Any) -> None:
    """Freeze what text does not pass through: tower, projector."""
    through = model.get_decoder(), model.get_output_embeddings()
    kept = {id(parameter) for part in through for parameter in part.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Make the optimizer of the trained parameters, one group a part.

    Each group's `base_lr` is its full rate; `lr` is what the schedule makes of it.
    """
    parts: dict[str, list[nn.Parameter]] = {key: [] for key in config.lr}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (part := part_of(name, config)) is not None:
            parts[part].append(parameter)
    groups = [
        {"params": parameters, "lr": config.lr[part], "base_lr": config.lr[part]}
        for part, parameters in parts.items()
    ]
    settings = {"betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay}
    if config.name == "adamw":
        return torch.optim.AdamW(groups, fused=True, **settings)
    with needing("optim.name adamw8bit", install_command("lowbit")):
        from torchao.optim import AdamW8bit
    if any(parameter.dtype != torch.float32 for group in parts.values() for parameter in group):
        raise RecipeError("optim.name adamw8bit needs parallel.masters: fp32")
    return AdamW8bit(groups, **settings)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to `factor` times its full rate."""
    for group in optimizer.param_groups:
        rate = group["base_lr"] * factor
        if isinstance(group["lr"], torch.Tensor):  # torchao's
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
