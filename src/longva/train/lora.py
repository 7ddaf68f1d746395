"""Low-rank adapters: put in before training, exported, and merged into ordinary weights.

y = W x + (alpha / rank) B A x        A [rank, in] random, B [out, rank] zero; W is frozen

W may be quantised (QLoRA). It then lies whole on every process: four bits are not sharded.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor, nn

from longva.checkpoints import Precision
from longva.errors import install_command, needing
from longva.files.writing import write_whole
from longva.train.checkpoints import gather_tensors
from longva.train.optim import LoraConfig


def add_adapters(model: Any, config: LoraConfig, device: torch.device | str = "cpu") -> None:
    """Add adapters to every linear layer in the blocks of a language model, in place.

    Args:
        model: with a decoder.
        config: of the adapters.
        device: where quantised weights are to lie.

    Raises:
        LongVAError: when peft is not installed, or bitsandbytes, where weights are to be quantised.
    """
    with needing("optim.lora", install_command("train")):
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(f"{prefix}.layers.")
    ]
    if config.weights != "model":
        for name in targets:
            layer = _quantised(model.get_submodule(name), config.weights, device)
            model.set_submodule(name, layer)
    adapters = PeftConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets
    )
    inject_adapter_in_model(adapters, model)


def _quantised(linear: Any, kind: Precision, device: torch.device | str) -> nn.Module:
    with needing(f"optim.lora.weights {kind}", install_command("quant")):
        import bitsandbytes
    quantised: Any = bitsandbytes.nn  # its classes take more than their signatures tell
    sizes = linear.in_features, linear.out_features, linear.bias is not None
    if kind == "int4":
        layer = quantised.Linear4bit(*sizes, quant_type="nf4", device="meta")
        # In evaluations it would pack the weights in a form that the backward does not know.
        layer.support_avx512bf16_for_cpu = False
        weight = quantised.Params4bit(linear.weight.data, quant_type="nf4", module=layer)
    else:
        layer = quantised.Linear8bitLt(*sizes, has_fp16_weights=False, device="meta")
        weight = quantised.Int8Params(
            linear.weight.data, requires_grad=False, has_fp16_weights=False
        )
        # Of each layer and step: that activations are rounded to float16 first.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    layer.weight, layer.bias = weight, linear.bias
    layer.register_state_dict_post_hook(_without_scales)
    return layer.to(device)


def _without_scales(layer: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """A checkpoint has parameters alone; torch does not find what bitsandbytes puts beside them."""
    for name in [key for key in state if key.startswith(prefix)]:
        if name.removeprefix(prefix) not in ("weight", "bias"):
            del state[name]


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
