"""Language models, their configs and their tokenizers, as their folders describe them."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from longva.attention.rotary import set_rope_theta, set_yarn
from longva.checkpoints.names import fetching, locate_model
from longva.errors import CheckpointError, loading

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
    if config.get_text_config() is not config:
        raise CheckpointError(
            f"{id_or_path!r} is a {config.model_type}, which sees more than text; needed a "
            "language model such as Qwen/Qwen2-7B-Instruct"
        )
    return config


def load_language_model(
    id_or_path: str,
    *,
    rope_theta: float | None = None,
    yarn: bool = False,
    context: int | None = None,
    architecture: dict[str, Any] | None = None,
    seed: int = 0,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a causal language model on the CPU, in its checkpoint's dtype, and its tokenizer.

    Args:
        id_or_path: a folder or a Hub id.
        rope_theta: another RoPE base.
        yarn: stretch the positions to `context` by YaRN.
        context: another context length; also the longest input of the tokenizer.
        architecture: `model_type` and fields of a config, to start from random float32 weights;
            `vocab_size` is the tokenizer's unless it is given. Only the tokenizer is then loaded.
        seed: of random weights.

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
    if rope_theta is not None:
        set_rope_theta(config, rope_theta)
    if yarn and context is not None:
        set_yarn(config, context)
    if context is not None:
        config.max_position_embeddings = tokenizer.model_max_length = context
    if architecture is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config), tokenizer
    with loading(f"cannot load {id_or_path!r}"):
        model = AutoModelForCausalLM.from_pretrained(id_or_path, config=config, dtype="auto")
    return model, tokenizer
