"""Low-rank adapters: put in before training, exported, and merged into ordinary weights.

y = W x + (alpha / rank) B A x        A [rank, in] random, B [out, rank] zero; W is frozen
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor, nn

from longva.errors import RecipeError, install_command
from longva.files.writing import write_whole
from longva.train.checkpoints import gather_tensors
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


def export_adapters(folder: Path, model: Any, dtype: torch.dtype, base: str) -> None:
    """Write the adapters by themselves, as peft loads them; every rank calls this.

        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)

    Args:
        folder: to write.
        model: with adapters, sharded.
        dtype: of their tensors.
        base: names the model that they were trained on.
    """
    tensors = {
        f"base_model.model.{name.replace('.default.', '.')}": tensor.contiguous()
        for name, tensor in gather_tensors(model, dtype, part=".lora_")
    }
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        config = model.peft_config["default"]
        config.base_model_name_or_path = base
        config.save_pretrained(folder)
        write_whole(folder / "adapter_model.safetensors", save(tensors, {"format": "pt"}))


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
