"""Load a model to be measured as its recipe says.

Any causal language model of transformers, and LongVA in either format, with the RoPE base of the
recipe and the attention that needs no mask over a long cache.
"""

from typing import Any

from transformers import AutoModelForCausalLM, PretrainedConfig

from longva.attention.rotary import restore_frequencies, set_rope_theta
from longva.checkpoints.language_model import load_tokenizer
from longva.checkpoints.names import fetching, locate_model
from longva.checkpoints.settings import OURS
from longva.errors import loading
from longva.niah.recipe import ModelRecipe
from longva.parallel.ranks import default_dtype, own_device
from longva.prompts.kv_cache import check_readable
from longva.watching.assistant import LongVA


def load_longva(recipe: ModelRecipe) -> LongVA:
    """Load the LongVA model of a recipe."""
    return LongVA.from_pretrained(recipe.model, device=recipe.device, dtype=recipe.dtype)


def load_measured(recipe: ModelRecipe) -> tuple[Any, Any]:
    """Load any causal language model, LongVA's included, and its tokenizer."""
    if is_longva(recipe.model):
        longva = load_longva(recipe)
        return prepare(longva.model, recipe.rope_theta), longva.processor.tokenizer
    tokenizer = load_tokenizer(recipe.model)
    return prepare(load_auto(AutoModelForCausalLM, recipe), recipe.rope_theta), tokenizer


def load_auto(kind: Any, recipe: ModelRecipe) -> Any:
    """Load a model by one of transformers' Auto classes onto the recipe's device."""
    device = own_device(recipe.device)
    with loading(f"cannot load {recipe.model!r}"):
        dtype = recipe.dtype or default_dtype(device)
        return kind.from_pretrained(locate_model(recipe.model), dtype=dtype).to(device)


def prepare(model: Any, theta: float | None = None) -> Any:
    """Set a model's RoPE base and the attention that needs no mask over a long cache.

    A model that cannot change its attention keeps its own. What a conversion to half precision did
    to its rotary frequencies is mended.

    Raises:
        LongVAError: a layer forgets tokens, or logits are more than a projection; or it has no
            single RoPE base, and `theta` sets one.
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
    id_or_path = str(locate_model(id_or_path))
    with fetching(id_or_path, f"cannot load {id_or_path!r}"):
        values, _ = PretrainedConfig.get_config_dict(id_or_path)
    return values.get("model_type") in OURS
