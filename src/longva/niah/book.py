"""The haystack of text needles: a book, tokenised once.

A file or folder, or a story drawn from a seed that is as long as it needs to be (`drawn_text`).
Needles stand where a sentence ends in the text, whatever the tokenizer.
"""

import hashlib
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longva.errors import RecipeError, first_few
from longva.files.writing import naming
from longva.niah.drawn_text import story

SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)")

SAMPLE = 1000
"""Sentences by which a drawn story is told from another."""


@dataclass(frozen=True, kw_only=True)
class Book:
    """The haystack, tokenised once."""

    tokens: Tensor
    """[N] int64."""

    ends: Tensor
    """[M] int64, rising: a needle may stand before these tokens. The first is 0."""

    about: dict[str, Any]
    """What it depends on: the hash of its text, or the seed of a drawn one."""

    repeats: int
    """How often the text was needed to reach N tokens."""

    def sentence_end(self, point: int, length: int) -> int:
        """Return the first sentence end at or after `point`, in a book cut to `length` tokens."""
        index = int(torch.searchsorted(self.ends, point))
        return min(int(self.ends[index]), length) if index < len(self.ends) else length


def read_text(source: Path | None, key: str = "haystack") -> str:
    """Return the text of a file, of every `.txt` of a folder by name, or the one of this package.

    Args:
        source: the file or folder; None: the text of this package.
        key: of the recipe, which the messages name.

    Raises:
        RecipeError: no text there, or it is not UTF-8.
    """
    if source is None:
        return Path(__file__).with_name("haystack.txt").read_text(encoding="utf-8")
    files = sorted(source.glob("*.txt")) if source.is_dir() else [source]
    if not files or not all(file.is_file() for file in files):
        raise RecipeError(
            f"{key}: {source} is neither a text file nor a folder of .txt files. Name one, or take "
            "the short text that comes with longva.",
            **{key: None},
        )
    if source.is_dir():
        others = [path.name for path in sorted(source.iterdir()) if path not in files]
        if others := [name for name in others if not name.startswith(".")]:
            warnings.warn(f"{source}: left out as no .txt files: {first_few(others)}", stacklevel=2)
    text = "\n\n".join(_decode(file, key).strip() for file in files)
    if not text:
        raise RecipeError(f"{key}: {source} holds no text.")
    return text


def _decode(file: Path, key: str) -> str:
    try:
        with naming(file):
            return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{key}: {file} is not UTF-8 text: byte {error.start} is "
            f"{error.object[error.start]:#x}. Convert it: iconv -f latin1 -t utf-8"
        ) from None


def tokenise_book(text: str, tokenizer: Any, num_tokens: int) -> Book:
    """Tokenise a text and repeat it to at least `num_tokens` tokens.

    A token boundary is a sentence end if nothing but white space lies between it and the full stop,
    question or exclamation mark (and closing quotes) before it.
    """
    if not tokenizer.is_fast:
        raise RecipeError(
            f"{type(tokenizer).__name__} does not tell where its tokens lie in the text, which is "
            "needed to find the ends of sentences. Use the model's fast tokenizer (tokenizer.json)."
        )
    text = text.rstrip() + "\n\n"
    encoded = tokenizer(
        text,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    tokens = torch.tensor(encoded["input_ids"])
    stops = np.array([0, *(match.end() for match in SENTENCE_END.finditer(text))])
    starts = np.array([start for start, _ in encoded["offset_mapping"]])
    words = np.array([match.start() for match in re.finditer(r"\S", text)] + [len(text)])
    next_words = words[np.searchsorted(words, stops)]  # where the following sentence starts
    before = np.searchsorted(stops, starts, side="right") - 1  # last stop at or before a token
    is_end = (starts <= next_words[before]) & (np.diff(starts, prepend=-1) > 0)
    repeats = max(1, -(-num_tokens // len(tokens)))
    ends = torch.from_numpy(is_end).repeat(repeats).nonzero().flatten()
    return Book(
        tokens=tokens.repeat(repeats),
        ends=ends,
        about={"sha256": hashlib.sha256(text.encode()).hexdigest()},
        repeats=repeats,
    )


def draw_book(seed: int, tokenizer: Any, num_tokens: int) -> Book:
    """Draw a story of at least `num_tokens` tokens; nothing in it is repeated to reach them."""
    count = max(20, num_tokens // 16)
    sample = hashlib.sha256(story(seed, SAMPLE).encode()).hexdigest()
    while True:
        book = tokenise_book(story(seed, count), tokenizer, 1)
        if len(book.tokens) >= num_tokens:
            return replace(book, about={"drawn": seed, "sha256": sample})
        count = int(count * num_tokens / len(book.tokens) * 1.02) + 10
