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

Other tasks hide and ask other things in the same cells (`text_needles`). The book (`book`) is
tokenised once; every prompt is a list of views of that one tensor.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longva.errors import RecipeError
from longva.model.chat_format import beginning, text_ids
from longva.niah.book import Book, draw_book, read_text, tokenise_book
from longva.niah.cells import Cell, Grid, Row
from longva.niah.measure import measure
from longva.niah.model import Model, Probe
from longva.niah.open_model import open_model
from longva.niah.recipe import MeasurementRecipe
from longva.niah.text_needles import (
    SEVERAL,
    Task,
    TextNeedle,
    make_text_needle,
    read_text_needles,
)
from longva.reporting.progress import Progress

PREFIX = "This is a very long story book: <book>"


@dataclass(frozen=True, kw_only=True)
class TextRecipe(MeasurementRecipe):
    """A text NIAH measurement."""

    grid: Grid
    """Lengths in tokens."""

    trials: int = 5
    """Needles hidden in each cell, one at a time. A file of `questions` has its own number."""

    task: Task = "magic"
    """What is hidden and asked, see `text_needles`; `magic` is the paper's."""

    questions: Path | None = None
    """A JSON file of your own needles and questions, in place of a task."""

    facts: int = 4
    """Sentences that together hold the answer, of multi_value, variables and chain."""

    distractors: int = 0
    """Further sentences that look alike, such as about the magic numbers of other cities; the paper
    has 0, 3 and 5."""

    haystack: Path | None = None
    """A text file or a folder of .txt files. Default: a story drawn to the length needed."""

    seed: int = 24242424
    """Of the needles, the places of further sentences, and a drawn story."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials < 1 or self.distractors < 0:
            raise RecipeError("trials must be 1 or more and distractors 0 or more")
        if self.facts < 1:
            raise RecipeError(f"facts must be 1 or more, got {self.facts}")
        if self.questions and self.task != "magic":
            raise RecipeError(
                f"questions: {self.questions} brings needles of its own, and task: {self.task} "
                "asks for others. Leave one of the two out.",
                task="magic",
            )
        if self.questions and self.distractors:
            raise RecipeError(
                "distractors of your own needles stand in the file of questions, as "
                '"distractors": [...] of each.',
                distractors=0,
            )


def text_needles(recipe: TextRecipe) -> list[TextNeedle]:
    """Return the needles of a recipe, one a trial.

    Raises:
        RecipeError: see `read_text_needles` and `make_text_needle`.
    """
    if recipe.questions:
        return read_text_needles(recipe.questions)
    told = {"seed": recipe.seed, "distractors": recipe.distractors, "facts": recipe.facts}
    return [make_text_needle(recipe.task, trial=n, **told) for n in range(recipe.trials)]


def choose_depths(needle: TextNeedle, seed: int, trial: int) -> tuple[float, ...]:
    """Return where the sentences after a needle's first stand: its own depths, or drawn ones."""
    others = len(needle.sentences) - 1
    if len(needle.depths) == others:
        return needle.depths
    return tuple(np.random.default_rng([seed, trial, 2]).random(others).tolist())


def ask(
    recipe: TextRecipe, book: Book, tokenizer: Any, needles: Sequence[TextNeedle] | None = None
) -> Iterator[Probe]:
    """Yield the prompt of every cell, trial after trial.

    Raises:
        RecipeError: a length that does not hold the prefix, the needles and the question.
    """

    def encode(text: str) -> Tensor:
        return torch.tensor(text_ids(tokenizer, text))

    needles = text_needles(recipe) if needles is None else needles
    prefix = torch.tensor(beginning(tokenizer) + text_ids(tokenizer, PREFIX))
    cells = list(recipe.grid.cells(len(needles)))
    for trial, needle in enumerate(needles):
        told, question = list(map(encode, needle.sentences)), encode(needle.question)
        depths = choose_depths(needle, recipe.seed, trial)
        fixed = sum(map(len, [prefix, question, *told]))
        for cell in (cell for cell in cells if cell.trial == trial):
            length = cell.length - fixed
            if length < 1:
                raise RecipeError(
                    f"grid.lengths: {cell.length} tokens do not hold the prompt, whose prefix, "
                    f"question, needle and {len(told) - needle.num_targets} distractors take "
                    f"{fixed}. Use lengths of {fixed + 1} or more."
                )
            point = cell.position if recipe.grid.kind == "absolute" else int(cell.depth * length)
            points = [point, *(int(depth * length) for depth in depths)]
            if needle.in_order:
                points[: needle.num_targets] = sorted(points[: needle.num_targets])
            ends = [book.sentence_end(point, length) for point in points]
            pieces, places = insert(book.tokens[:length], told, ends)
            positions = [len(prefix) + place for place in places]
            targets = sorted(positions[: needle.num_targets])
            row = _row(cell, needle, targets, sorted(positions[needle.num_targets :]))
            yield Probe(row=row, pieces=(prefix, *pieces, question))
        if recipe.blind:
            nowhere = Cell(length=0, depth=0.0, position=0, trial=trial)
            row = replace(_row(nowhere, needle, [], []), asked="blind")
            yield Probe(row=row, pieces=(prefix, question))


def _row(cell: Cell, needle: TextNeedle, targets: list[int], others: list[int]) -> Row:
    place: dict[str, Any] = vars(cell) | {"position": targets[0] if targets else 0}
    return Row(
        **place,
        needle=needle.name,
        answer=needle.answer,
        chance=needle.chance,
        question=needle.question,
        distractors=others,
        targets=targets if needle.num_targets > 1 else None,
        parts=list(needle.parts) or None,
    )


def insert(
    book: Tensor, sentences: Sequence[Tensor], ends: Sequence[int]
) -> tuple[list[Tensor], list[int]]:
    """Put sentences into a book; those at one place stand in their order.

    Args:
        book: [N] tokens.
        sentences: in tokens.
        ends: before which of the book's tokens each goes.

    Returns:
        Views of the book and the sentences, one after another, and where each sentence begins.

    >>> told = [torch.tensor([8, 8]), torch.tensor([9])]
    >>> pieces, places = insert(torch.arange(4), told, [2, 0])
    >>> torch.cat(pieces).tolist(), places
    ([9, 0, 1, 8, 8, 2, 3], [3, 0])
    """
    pieces: list[Tensor] = []
    places, read, length = [0] * len(ends), 0, 0
    for index in sorted(range(len(ends)), key=lambda i: ends[i]):
        pieces += [book[read : ends[index]], sentences[index]]
        places[index] = length + ends[index] - read
        length = places[index] + len(sentences[index])
        read = ends[index]
    return [*pieces, book[read:]], places


def hide_needles(
    recipe: TextRecipe, tokenizer: Any, text: str | None = None
) -> tuple[Book, list[Probe]]:
    """Return the book, of the recipe's haystack or `text`, and all prompts.

    Raises:
        RecipeError: see `read_text`, `tokenise_book` and `ask`.
    """
    longest = recipe.grid.all_lengths[-1]
    if text is None and recipe.haystack is None:
        book = draw_book(recipe.seed, tokenizer, longest)
    else:
        text = read_text(recipe.haystack) if text is None else text
        book = tokenise_book(text, tokenizer, longest)
    if book.repeats > 1:
        text_tokens = len(book.tokens) // book.repeats
        warnings.warn(
            f"the haystack repeats: its text has {text_tokens:,} tokens, the longest prompt "
            f"{longest:,}. Name a longer one as `haystack`, or none, to have it drawn.",
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
    # A missing text or needle is found before the model is loaded.
    text_needles(recipe)
    if text is None and recipe.haystack is not None:
        text = read_text(recipe.haystack)
    with nullcontext(model) if model else open_model(recipe, video=False) as tested:
        return _measure(tested, recipe, text, progress)


def _measure(
    model: Model, recipe: TextRecipe, text: str | None, progress: Progress | None
) -> dict[str, Any] | None:
    if model.tokenizer is None:
        raise RecipeError(f"{model.name}: text is measured in tokens. Set tokenizer: FOLDER or ID.")
    book, probes = hide_needles(recipe, model.tokenizer, text)
    hidden: dict[str, Any] = {"seed": recipe.seed, "distractors": recipe.distractors}
    if recipe.task != "magic":
        hidden["task"] = recipe.task
        hidden |= {"facts": recipe.facts} if recipe.task in SEVERAL else {}
    if recipe.questions:
        needles = text_needles(recipe)
        hidden["questions"] = [[*n.sentences, n.question, n.answer] for n in needles]
    return measure(
        model,
        probes,
        recipe,
        settings={"unit": "tokens", "grid": recipe.grid.kind, **hidden},
        haystack=book.about,
        progress=progress,
    )
