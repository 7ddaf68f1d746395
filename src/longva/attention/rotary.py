"""Rotary position embeddings (RoPE, arXiv 2104.09864): their base, and are their frequencies exact?

    angle of channel pair i at position p  =  p * inv_freq[i]

Two things go wrong without an error. `model.to(torch.bfloat16)` rounds `inv_freq` to 8 bits, and at
position 223,000 an error of 0.4 % is many turns. And some types (dynamic NTK, LongRoPE) choose
their frequencies by the length of the sequence, so that keys computed for a shorter one, as in a KV
cache, are wrong in a longer one.

Modules are taken as transformers writes them: `inv_freq` in a buffer, `type(module)(module.config)`
makes another, `module(x, position_ids)` gives cos and sin, both [1, L, channels].
"""

import copy
import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from longva.errors import LongVAError


def rope_theta(config: PreTrainedConfig) -> float | dict[str, float | None] | None:
    """Return a decoder's RoPE base, by kind of layer where they differ, None without RoPE."""
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = {name: part for name, part in parameters.items() if isinstance(part, dict)}
    if kinds:
        return {name: part.get("rope_theta") for name, part in kinds.items()}
    return parameters.get("rope_theta")


def set_yarn(config: PreTrainedConfig, context: int) -> None:
    """Have YaRN (arXiv 2309.00071) stretch a decoder's own positions to `context` tokens.

    What was stretched before, as on a ladder's lower rungs, is stretched anew, not further.

    Raises:
        LongVAError: the model has no single RoPE base, or its context is as long already.
    """
    theta, had = rope_theta(config), config.rope_parameters or {}
    original = had.get("original_max_position_embeddings") or config.max_position_embeddings
    if not isinstance(theta, float | int):
        raise LongVAError(f"yarn: {config.model_type} has no single RoPE base but {theta}.")
    if context <= original:
        raise LongVAError(
            f"yarn: the model reads {original:,} tokens as it is, no fewer than the {context:,} "
            "asked for. Leave yarn out, or raise seq_len."
        )
    kept = {name: had[name] for name in ("mrope_section", "mrope_interleaved") if name in had}
    config.rope_parameters = kept | {
        "rope_type": "yarn",
        "rope_theta": float(theta),
        "factor": context / original,
        "original_max_position_embeddings": original,
    }


def set_rope_theta(model: PreTrainedConfig | PreTrainedModel, theta: float) -> None:
    """Give a language model another RoPE base.

    Args:
        model: the config of its decoder; or the loaded model, which is then as if it had been
            loaded with that base.
        theta: the base.

    Raises:
        LongVAError: the model has none, or several; or `theta` is no base.
    """
    decoder: Any = model.get_decoder() if isinstance(model, PreTrainedModel) else None
    config = model if isinstance(model, PreTrainedConfig) else decoder.config
    if not 0 < theta < math.inf:
        raise LongVAError(f"rope_theta must be a number above 0, got {theta}.")
    if not isinstance(had := rope_theta(config), float | int):
        raise LongVAError(
            f"rope_theta: {config.model_type} has no single RoPE base but {had}. Leave rope_theta "
            "out."
        )
    config.rope_parameters = {**config.rope_parameters, "rope_theta": float(theta)}
    if decoder is not None:
        rotary = decoder.rotary_emb
        decoder.rotary_emb = type(rotary)(config).to(rotary.inv_freq.device)


FAR = 1 << 24
"""A position beyond every context: where frequencies that depend on the length have changed."""


def rotary_embeddings(decoder: nn.Module) -> Iterator[Any]:
    """Yield the modules that hold rotary frequencies."""
    for module in decoder.modules():
        if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            yield module


def restore_frequencies(decoder: nn.Module) -> None:
    """Undo the rounding of rotary frequencies to half precision, exactly.

    They are computed from the config anew, in float32, where they are what half precision makes of
    those: converted now, or converted once and back. Others, set by hand, are left alone.

    Raises:
        LongVAError: frequencies in half precision that the config does not explain.
    """
    for module in rotary_embeddings(decoder):
        held = {n: b for n, b in module.named_buffers(recurse=False) if n.endswith("inv_freq")}
        if any(buffer.dtype.itemsize < 4 for buffer in held.values()):
            _forget_length(module)
            held = {name: getattr(module, name) for name in held}
        exact: dict[str, Tensor] = {}
        if hasattr(module, "config"):
            exact = dict(type(module)(module.config).named_buffers(recurse=False))
        for name, buffer in held.items():
            if name in exact and _is_rounded(buffer.cpu(), exact[name]):
                setattr(module, name, exact[name].to(buffer.device))
            elif buffer.dtype.itemsize < 4:
                raise LongVAError(
                    f"the rotary frequencies of {type(decoder).__name__} are in {buffer.dtype}, "
                    "which loses positions beyond a few hundred tokens, and its config does not "
                    "tell what they were. Load the model with from_pretrained(..., dtype=...) "
                    "instead of converting it with .to(dtype)."
                )


def _is_rounded(held: Tensor, exact: Tensor) -> bool:
    """Whether frequencies are those of the config after a visit to half precision."""
    if held.shape != exact.shape or torch.equal(held.float(), exact.float()):
        return held.dtype.itemsize < 4 and held.shape == exact.shape
    halves = (exact.to(half).float() for half in (torch.bfloat16, torch.float16))
    return any(torch.equal(held.float(), rounded) for rounded in halves)


def length_dependence(decoder: nn.Module) -> str | None:
    """Name the rotary type of a decoder whose frequencies depend on the length of the sequence.

    Every rotary module is asked for the angles of two positions, alone and before a far one. One
    that cannot be asked counts as dependent, as nothing that follows is then wrong.

    Returns:
        None where every type stays as it is: default, linear, yarn, llama3, and no RoPE at all.
    """
    for module in rotary_embeddings(decoder):
        if "position_ids" not in inspect.signature(module.forward).parameters:
            return type(module).__name__
        for layer_type in _layer_types(module):
            asked = [0, 1], [0, 1, FAR]
            near, among = (_ask(copy.deepcopy(module), at, layer_type) for at in asked)
            if not all(torch.allclose(a, b[:, :2]) for a, b in zip(near, among, strict=True)):
                rope_type = getattr(module, "rope_type", type(module).__name__)
                return rope_type[layer_type] if isinstance(rope_type, dict) else rope_type
    return None


def forget_length(decoder: nn.Module) -> None:
    """Bring rotary types that remember the longest sequence so far back to their beginning."""
    for module in rotary_embeddings(decoder):
        _forget_length(module)


def _forget_length(module: Any) -> None:
    for layer_type in _layer_types(module):
        _ask(module, [0], layer_type)


def _layer_types(module: Any) -> list[str | None]:
    """The kinds of layers that have frequencies of their own, where a model has several."""
    kinds = getattr(module, "rope_type", None)
    return list(kinds) if isinstance(kinds, dict) else [None]


def _ask(module: Any, positions: list[int], layer_type: str | None) -> tuple[Tensor, ...]:
    """Return what a module makes of positions; it may remember the largest."""
    device = next(module.buffers()).device
    x = torch.empty(1, 1, 1, device=device)  # tells device and dtype of the result
    kind = {} if layer_type is None else {"layer_type": layer_type}
    angles = module(x, torch.tensor([positions], device=device), **kind)
    return (angles,) if isinstance(angles, Tensor) else angles  # complex, or cos and sin
