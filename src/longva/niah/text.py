"""Text needle in a haystack: one magic number in a very long story book.

    PREFIX . haystack . \nThe special magic Singapore number is: 4471902.\n . haystack . QUESTION
                      ^ the end of a sentence, at or after `depth` of the haystack

Strings and scoring are the original's: no chat template, and right means that every token of the
number is the model's most likely one. Three things differ. Needles go to the end of a sentence in
the text, whatever the tokenizer (the original looked for two token ids of Llama-2, so that with
Qwen2 they cut sentences at random). A length counts the whole prompt, so that a cell of 32,000
tokens fits a context of 32,000 (the original counts the haystack alone). Each trial has its own
random generator, seeded by the recipe's seed and the trial's number: its numbers, and the depths of
its distractors, are the same in every cell and do not depend on the other trials.

The book is tokenised once; every prompt is a list of views of that one tensor.
"""

import hashlib
import re
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longva.errors import RecipeError, first_few
from longva.model.chat_format import beginning, text_ids
from longva.niah.cells import Grid, Row
from longva.niah.measure import measure
from longva.niah.model import Model, Probe
from longva.niah.open_model import open_model
from longva.niah.recipe import MeasurementRecipe
from longva.reporting.progress import Progress

PREFIX = "This is a very long story book: <book>"
QUESTION = (
    "</book>.\n Based on the content of the book, Question: What is the special magic Singapore "
    "number? Answer: The special magic Singapore number is: "
)
NEEDLE = "\nThe special magic Singapore number is: {}.\n"
DISTRACTORS = [
    f"\nThe special magic {city} number is: {{}}.\n"
    for city in ("New York", "London", "Paris", "Tokyo", "Beijing", "Berlin")
]
NUMBERS = 10**7
"""Numbers are drawn from 0 to 9,999,999, so the chance of guessing one is 1e-7."""

SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)")


@dataclass(frozen=True, kw_only=True)
class Book:
    """The haystack, tokenised once."""

    tokens: Tensor
    """[N] int64."""

    ends: Tensor
    """[M] int64, rising: a needle may stand before these tokens. The first is 0."""

    sha256: str
    """Of the text."""

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
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        repeats=repeats,
    )


def magic_numbers(seed: int, trial: int, distractors: int) -> tuple[list[int], np.ndarray]:
    """Draw what a trial hides: its numbers, and where the distractors lie.

    Returns:
        The needle's number and then the distractors', all different, and the distractors' depths in
        [0, 1), float64 [distractors].
    """
    rng = np.random.default_rng([seed, trial])
    numbers: list[int] = []
    while len(numbers) < 1 + distractors:
        number = int(rng.integers(NUMBERS))
        if number not in numbers:
            numbers.append(number)
    return numbers, rng.random(distractors)


@dataclass(frozen=True, kw_only=True)
class TextRecipe(MeasurementRecipe):
    """A text NIAH measurement."""

    grid: Grid
    """Lengths in tokens."""

    trials: int = 5
    """Numbers hidden in each cell, one at a time."""

    distractors: int = 0
    """Further sentences about the magic numbers of other cities; the paper has 0, 3 and 5."""

    haystack: Path | None = None
    """A text file or a folder of .txt files. Default: the text that comes with longva."""

    seed: int = 24242424
    """Of the numbers and the places of the distractors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials < 1 or self.distractors < 0:
            raise RecipeError("trials must be 1 or more and distractors 0 or more")


def ask(recipe: TextRecipe, book: Book, tokenizer: Any) -> Iterator[Probe]:
    """Yield the prompt of every cell, trial after trial.

    Raises:
        RecipeError: a length that does not hold the prefix, the needles and the question.
    """

    def encode(text: str) -> Tensor:
        return torch.tensor(text_ids(tokenizer, text))

    prefix = torch.tensor(beginning(tokenizer) + text_ids(tokenizer, PREFIX))
    question, cells = encode(QUESTION), list(recipe.grid.cells(recipe.trials))
    for trial in range(recipe.trials):
        numbers, depths = magic_numbers(recipe.seed, trial, recipe.distractors)
        sentence = NEEDLE.format(numbers[0])
        needle = encode(sentence)
        others = [
            encode(DISTRACTORS[i % len(DISTRACTORS)].format(number))
            for i, number in enumerate(numbers[1:])
        ]
        fixed = sum(map(len, [prefix, question, needle, *others]))
        for cell in (cell for cell in cells if cell.trial == trial):
            length = cell.length - fixed
            if length < 1:
                raise RecipeError(
                    f"grid.lengths: {cell.length} tokens do not hold the prompt, whose prefix, "
                    f"question, needle and {recipe.distractors} distractors take {fixed}. "
                    f"Use lengths of {fixed + 1} or more."
                )
            point = cell.position if recipe.grid.kind == "absolute" else int(cell.depth * length)
            hidden = [(book.sentence_end(point, length), 0, needle)]
            for depth, other in zip(depths, others, strict=True):
                hidden.append((book.sentence_end(int(depth * length), length), 1, other))
            pieces, read = [prefix], 0
            positions: tuple[list[int], list[int]] = [], []  # of the needle, of the distractors
            for end, kind, tokens in sorted(hidden, key=lambda item: item[:2]):
                pieces.append(book.tokens[read:end])
                positions[kind].append(sum(map(len, pieces)))
                pieces.append(tokens)
                read = end
            pieces += [book.tokens[read:length], question]
            place: dict[str, Any] = vars(cell) | {"position": positions[0][0]}
            row = Row(
                **place,
                needle=sentence.strip(),
                answer=str(numbers[0]),
                chance=1 / NUMBERS,
                question=QUESTION,
                distractors=positions[1],
            )
            yield Probe(row=row, pieces=tuple(pieces))


def hide_needles(
    recipe: TextRecipe, tokenizer: Any, text: str | None = None
) -> tuple[Book, list[Probe]]:
    """Return the book, of the recipe's haystack or `text`, and all prompts.

    Raises:
        RecipeError: see `read_text`, `tokenise_book` and `ask`.
    """
    text = read_text(recipe.haystack) if text is None else text
    longest = recipe.grid.all_lengths[-1]
    book = tokenise_book(text, tokenizer, longest)
    if book.repeats > 1:
        text_tokens = len(book.tokens) // book.repeats
        warnings.warn(
            f"the haystack repeats: its text has {text_tokens:,} tokens, the longest prompt "
            f"{longest:,}. Name a longer one as `haystack`.",
            stacklevel=2,
        )
    return book, list(ask(recipe, book, tokenizer))


def run_text(
    recipe: TextRecipe,
    progress: Progress | None = None,
    *,
    model: Model | None = None,
    text: str | None = None,
) -> dict[str, Any] | None:
    """Measure a model on a text: those of the recipe, or those of the caller.

    See `measure` for what is returned, written and raised.
    """
    # A missing text is found before the model is loaded.
    text = read_text(recipe.haystack) if text is None else text
    with nullcontext(model) if model else open_model(recipe, video=False) as tested:
        return _measure(tested, recipe, text, progress)


def _measure(
    model: Model, recipe: TextRecipe, text: str, progress: Progress | None
) -> dict[str, Any] | None:
    if model.tokenizer is None:
        raise RecipeError(f"{model.name}: text is measured in tokens. Set tokenizer: FOLDER or ID.")
    book, probes = hide_needles(recipe, model.tokenizer, text)
    return measure(
        model,
        probes,
        recipe,
        settings={
            "unit": "tokens",
            "grid": recipe.grid.kind,
            "seed": recipe.seed,
            "distractors": recipe.distractors,
        },
        haystack={"sha256": book.sha256},
        progress=progress,
    )
