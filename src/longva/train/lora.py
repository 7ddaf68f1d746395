"""Low-rank adapters: put in before training, merged into ordinary weights at the export.

y = W x + (alpha / rank) B A x        A [rank, in] random, B [out, rank] zero; W is frozen
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from longva.errors import RecipeError, install_command
from longva.train.optim import LoraConfig


def add_adapters(model: Any, config: LoraConfig) -> None:
    """Add adapters to every linear layer in the blocks of a language model, in place.

    Raises:
        RecipeError: when peft is not installed.
    """
    try:
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
    except ImportError:
        raise RecipeError(f"optim.lora needs peft: {install_command('train')}") from None
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(f"{prefix}.layers.")
    ]
    adapters = PeftConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets
    )
    inject_adapter_in_model(adapters, model)


def merge_adapters(
    tensors: Iterable[tuple[str, Tensor]], config: LoraConfig
) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a model with adapters -> those of the model without.

    A layer's tensors must come in their order in the model: its own weight first, then A, then B.
    """
    scale = config.alpha / config.rank
    weight: tuple[str, Tensor] | None = None
    a: Tensor | None = None
    for name, tensor in tensors:
        if ".lora_A." in name:
            a = tensor
        elif ".lora_B." in name:
            assert weight is not None and a is not None
            dtype = torch.promote_types(weight[1].dtype, torch.float32)
            merged = weight[1].to(dtype) + scale * (tensor.to(dtype) @ a.to(dtype))
            yield weight[0], merged.to(weight[1].dtype)
            weight = None
        elif name.endswith(".base_layer.weight"):
            weight = (name.replace(".base_layer.", "."), tensor)
        else:
            yield name.replace(".base_layer.", "."), tensor
