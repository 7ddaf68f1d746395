"""Tokenizers as their folders describe them."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

WHOLE = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes whose tokenizer.json says everything."""


def load_tokenizer(id_or_path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model: a folder or a Hub id.

    Where the folder says that tokenizer.json is all there is, that is what is read. AutoTokenizer
    then still takes the class usual for the model: for Qwen2 it rebuilds a byte-level BPE from the
    vocabulary, and turns a tokenizer of words into one of a few letters, silently.

    Raises:
        OSError: there is none.
        ValueError: it is of a kind that transformers does not know.
    """
    if get_tokenizer_config(id_or_path).get("tokenizer_class") in WHOLE:
        return PreTrainedTokenizerFast.from_pretrained(id_or_path)
    return AutoTokenizer.from_pretrained(id_or_path)
