"""Load a model to be measured as its recipe says.

Any causal language model of transformers, and LongVA in either format, with the RoPE base of the
recipe and the attention that needs no mask over a long cache.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from longva.attention.rotary import restore_frequencies
from longva.checkpoints.language_model import load_tokenizer
from longva.checkpoints.settings import reason
from longva.errors import CheckpointError, LongVAError, RecipeError
from longva.niah.recipe import ModelRecipe
from longva.prompts.kv_cache import check_readable
from longva.watching.assistant import EMBEDDED_MODEL, LongVA


def load_longva(recipe: ModelRecipe) -> LongVA:
    """Load the LongVA model of a recipe."""
    device = recipe.device or local_device()
    return LongVA.from_pretrained(recipe.model, device=device, dtype=recipe.dtype)


def load_language_model(recipe: ModelRecipe) -> tuple[Any, Any]:
    """Load any causal language model, LongVA's included, and its tokenizer."""
    if is_longva(recipe.model):
        longva = load_longva(recipe)
        return prepare(longva.model, recipe.rope_theta), longva.processor.tokenizer
    with loading(recipe.model):
        tokenizer = load_tokenizer(recipe.model)
    return prepare(load_auto(AutoModelForCausalLM, recipe), recipe.rope_theta), tokenizer


def load_auto(kind: Any, recipe: ModelRecipe) -> Any:
    """Load a model by one of transformers' Auto classes onto the recipe's device."""
    device = recipe.device or local_device()
    dtype = recipe.dtype or ("float32" if device == "cpu" else "bfloat16")
    with loading(recipe.model):
        return kind.from_pretrained(recipe.model, dtype=dtype).to(device)


@contextmanager
def loading(id_or_path: str) -> Iterator[None]:
    """Say in a line why transformers cannot load a model.

    Raises:
        CheckpointError: naming the model.
    """
    try:
        yield
    except LongVAError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"cannot load {id_or_path!r}: {reason(error)}") from error


def prepare(model: Any, theta: float | None = None) -> Any:
    """Set a model's RoPE base and the attention that needs no mask over a long cache.

    A model that cannot change its attention keeps its own. What a conversion to half precision did
    to its rotary frequencies is mended.

    Raises:
        LongVAError: a layer forgets tokens, or logits are more than a projection.
        RecipeError: it has no single RoPE base, and `theta` sets one.
    """
    if theta is not None:
        set_rope_theta(model, theta)
    check_readable(model)
    restore_frequencies(model.get_decoder())
    sees = hasattr(model.config, "vision_config")
    if model._supports_attention_backend:
        model.set_attn_implementation({"text_config": "evidence"} if sees else "evidence")
    return model.eval()


def is_longva(id_or_path: str) -> bool:
    """Whether a model is LongVA, in our format or in LLaVA's."""
    if id_or_path == EMBEDDED_MODEL:
        return True
    with loading(id_or_path):
        values, _ = PretrainedConfig.get_config_dict(id_or_path)
    return values.get("model_type") in ("longva", "llava_qwen")


def local_device() -> str:
    """Return this process's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"


def rope_theta(config: PretrainedConfig) -> float | dict[str, float | None] | None:
    """Return a decoder's RoPE base, by kind of layer where they differ, None without RoPE."""
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = {name: part for name, part in parameters.items() if isinstance(part, dict)}
    if kinds:
        return {name: part.get("rope_theta") for name, part in kinds.items()}
    return parameters.get("rope_theta")


def set_rope_theta(model: PreTrainedModel, theta: float) -> None:
    """Give a loaded language model another RoPE base, as if it had been loaded with it.

    Raises:
        RecipeError: it has none, or several; or `theta` is no base.
    """
    if not 0 < theta < math.inf:
        raise RecipeError(f"rope_theta must be a number above 0, got {theta}.")
    decoder: Any = model.get_decoder()
    if not isinstance(had := rope_theta(decoder.config), float | int):
        raise RecipeError(
            f"rope_theta: {decoder.config.model_type} has no single RoPE base but {had}. "
            "Leave rope_theta out."
        )
    decoder.config.rope_parameters["rope_theta"] = theta
    rotary = decoder.rotary_emb
    decoder.rotary_emb = type(rotary)(decoder.config).to(rotary.inv_freq.device)
