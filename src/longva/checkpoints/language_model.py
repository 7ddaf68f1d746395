"""Language models, their configs and their tokenizers, as their folders describe them."""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from longva.attention.rotary import set_rope_theta, set_yarn
from longva.checkpoints.names import fetching, locate_model
from longva.errors import CheckpointError, install_command, loading, needing

WHOLE = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes whose tokenizer.json says everything."""


def load_tokenizer(id_or_path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model: a folder or a Hub id.

    Where the folder says that tokenizer.json is all there is, that is what is read. AutoTokenizer
    then still takes the class usual for the model: for Qwen2 it rebuilds a byte-level BPE from the
    vocabulary, and turns a tokenizer of words into one of a few letters, silently.

    Raises:
        CheckpointError: there is none, or it is of a kind that transformers does not know.
    """
    id_or_path = str(locate_model(id_or_path))
    with fetching(id_or_path, f"no tokenizer in {id_or_path!r}"):
        if get_tokenizer_config(id_or_path).get("tokenizer_class") in WHOLE:
            return PreTrainedTokenizerFast.from_pretrained(id_or_path)
        return AutoTokenizer.from_pretrained(id_or_path)


def add_control_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[int]:
    """Give a tokenizer the control tokens that it lacks, and return the ids of `tokens`.

    It will pad at the left, because a batch is generated at its right end.
    """
    added = [AddedToken(token, special=True, normalized=False) for token in tokens]
    tokenizer.add_tokens(added, special_tokens=True)
    tokenizer.padding_side = "left"
    return tokenizer.convert_tokens_to_ids(list(tokens))  # pyright: ignore[reportReturnType]


def is_multimodal(config: PreTrainedConfig) -> bool:
    """Whether a model has more parts than a language model."""
    return config.get_text_config() is not config


def read_language_config(id_or_path: str, architecture: dict[str, Any] | None = None) -> Any:
    """Config of a causal language model, or the one that a recipe's `architecture` spells out.

    Raises:
        CheckpointError: when there is none, or it is not that of a text model.
    """
    id_or_path = str(locate_model(id_or_path))
    what = f"{id_or_path!r} is neither a folder with a language model nor one on the Hub"
    with fetching(id_or_path, what):
        if architecture is not None:
            return AutoConfig.for_model(**architecture)
        config = AutoConfig.from_pretrained(id_or_path)
    if is_multimodal(config):
        raise CheckpointError(
            f"{id_or_path!r} is a {config.model_type}, which sees more than text; needed a "
            "language model such as Qwen/Qwen2-7B-Instruct"
        )
    return config


def torch_dtype(name: torch.dtype | str | None) -> torch.dtype | None:
    """Return a dtype by its name; None for None and for `auto`.

    Raises:
        CheckpointError: it is none of floating point.
    """
    if name is None or name == "auto":
        return None
    dtype = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise CheckpointError(f"dtype must be float32, float16 or bfloat16, got {name!r}")
    return dtype


def quantised(kind: str, config: Any, compute_dtype: torch.dtype) -> dict[str, Any]:
    """Return the argument by which a model that sees is loaded with quantised layers.

    Tower, projector and output layer are few weights, which need their precision.

    Args:
        kind: `int8` or `int4`, of the language model's layers; `model` for none.
        config: of the model.
        compute_dtype: of what is computed with them.

    Raises:
        CheckpointError: for another `kind`.
        LongVAError: without bitsandbytes.
    """
    if kind == "model":
        return {}
    with needing(f"the precision {kind}", install_command("quant")):
        importlib.import_module("bitsandbytes")
    if kind not in ("int8", "int4"):
        raise CheckpointError(f"quantization must be 'model', 'int8' or 'int4', got {kind!r}")
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config)
    decoder = model.get_decoder()
    # Names must be whole: `vision_tower` would match nothing.
    kept = [name for name, part in model.base_model.named_children() if part is not decoder]
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_8bit=kind == "int8",
            load_in_4bit=kind == "int4",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=compute_dtype,
            llm_int8_skip_modules=[*(f"model.{name}" for name in kept), "lm_head"],
        )
    }


def lengthen(
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rope_theta: float | None = None,
    yarn: bool = False,
    context: int | None = None,
) -> None:
    """Give a decoder another context, in its config and in the longest input of the tokenizer.

    Args:
        config: of the decoder.
        tokenizer: of the model.
        rope_theta: another RoPE base.
        yarn: stretch the positions to `context` by YaRN.
        context: in tokens.

    Raises:
        LongVAError: the decoder has no single RoPE base; see `set_yarn`.
    """
    if rope_theta is not None:
        set_rope_theta(config, rope_theta)
    if yarn and context is not None:
        set_yarn(config, context)
    if context is not None:
        config.max_position_embeddings = tokenizer.model_max_length = context


def load_language_model(
    id_or_path: str,
    *,
    architecture: dict[str, Any] | None = None,
    seed: int = 0,
    **lengths: Any,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a causal language model on the CPU, in its checkpoint's dtype, and its tokenizer.

    Args:
        id_or_path: a folder or a Hub id.
        architecture: `model_type` and fields of a config, to start from random float32 weights;
            `vocab_size` is the tokenizer's unless it is given. Only the tokenizer is then loaded.
        seed: of random weights.
        **lengths: another context; see `lengthen`.

    Raises:
        CheckpointError: when a part is missing, or the tokenizer has more words than the model.
    """
    tokenizer = load_tokenizer(id_or_path)
    if architecture is not None:
        ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
        architecture = {"vocab_size": len(tokenizer), **ids, **architecture}
    config = read_language_config(id_or_path, architecture)
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer in {id_or_path!r} has {len(tokenizer)} words, the model "
            f"{config.vocab_size}: they do not belong together"
        )
    lengthen(config, tokenizer, **lengths)
    if architecture is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config), tokenizer
    with loading(f"cannot load {id_or_path!r}"):
        model = AutoModelForCausalLM.from_pretrained(id_or_path, config=config, dtype="auto")
    return model, tokenizer
