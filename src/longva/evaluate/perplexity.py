"""Perplexity by context length: does more context help, and where does the model break?

    full      exp(mean loss of the first L tokens), L = 1K, 2K, ...    one pass serves every L
    sliding   exp(mean loss of tokens that see L tokens at most)       windows of L, moved by stride

`full` is what most papers plot: it mixes tokens with little and with much context. `sliding` scores
only the last `stride` tokens of each window, so that every scored token (but the first window's)
has at least L - stride tokens before it; it costs a pass of L tokens for every `stride` scored.
"""

import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from longva.attention.rotary import length_dependence
from longva.errors import RecipeError
from longva.files.writing import write_whole
from longva.finite import check_finite
from longva.model.chat_format import beginning, text_ids
from longva.niah.book import read_text
from longva.niah.cells import Span, values_of
from longva.niah.loading import load_measured
from longva.niah.recipe import ModelRecipe
from longva.prompts.kv_cache import (
    CachedSequence,
    SymbolSequence,
    context_length,
)
from longva.prompts.recomputed import RecomputedSequence
from longva.recipes import save_recipe
from longva.reporting.figure import new_figure, save_figure, scale_by_two, short
from longva.reporting.progress import Progress

LOSS_CHUNK = 1024
"""Positions whose logits are held at a time."""

MOST_UNKNOWN = 0.01
"""Share of a text for which a tokenizer may have no words."""


@dataclass(frozen=True, kw_only=True)
class PerplexityRecipe(ModelRecipe):
    """A perplexity measurement of one model on one text."""

    lengths: Span | tuple[int, ...]
    """Context lengths in tokens."""

    text: Path | None = None
    """A text file, or a folder of .txt files that are joined. Default: longva's own text."""

    mode: Literal["full", "sliding"] = "full"

    stride: int = 256
    """Tokens scored in each window of `sliding`."""

    documents: int = 20
    """The text is cut into documents of the longest length; use at most so many."""

    def __post_init__(self) -> None:
        if min(values_of(self.lengths), default=0) < 2 or self.stride < 1 or self.documents < 1:
            raise RecipeError("lengths must be 2 tokens or more, stride and documents 1 or more")
        if self.mode == "sliding" and self.stride >= (shortest := min(values_of(self.lengths))):
            raise RecipeError(
                f"windows of {shortest:g} tokens moved by {self.stride} would leave tokens out.",
                stride=max(1, int(shortest) // 2),
            )


@dataclass(frozen=True, kw_only=True)
class Point:
    """One row of `perplexity.csv`."""

    tokens: int
    perplexity: float
    scored_tokens: int


def run_perplexity(
    recipe: PerplexityRecipe, progress: Progress | None = None, *, text: str | None = None
) -> list[Point]:
    """Measure a recipe's model, on the recipe's text or one of the caller.

    Writes `perplexity.csv`, `perplexity.png` and `recipe.yaml`.

    Args:
        recipe: of the measurement.
        progress: called with ("documents", documents done, documents).
        text: of the caller, in which `<|im_start|>` and its like are control tokens; in a text of
            the recipe they are plain text.

    Raises:
        RecipeError: there is no text, it is shorter than the longest length, or the model's
            tokenizer has no words for it.
        NonFiniteError: the model computes NaN or infinity; then nothing is written.
    """
    # A missing one is found before the model is loaded.
    told = read_text(recipe.text, key="text") if text is None else text
    model, tokenizer = load_measured(recipe)
    ids = text_ids(tokenizer, told, control_tokens=text is not None)
    ids = torch.tensor(beginning(tokenizer) + ids)
    unknown = float((ids == tokenizer.unk_token_id).float().mean()) if tokenizer.unk_token else 0
    if unknown > MOST_UNKNOWN:
        raise RecipeError(
            f"text: {recipe.model} has no words for {unknown:.0%} of it: their perplexity would be "
            "that of one unknown word. Give a text in its words.",
            text="FILE_OR_FOLDER",
        )
    lengths = [int(length) for length in values_of(recipe.lengths)]
    documents = ids[: len(ids) // lengths[-1] * lengths[-1]].unflatten(0, (-1, lengths[-1]))
    if not len(documents):
        raise RecipeError(
            f"the text has {len(ids):,} tokens, the longest length is {lengths[-1]:,}. "
            "Give a longer text, or shorter lengths.",
            text="FILE_OR_FOLDER",
        )
    documents = documents[: recipe.documents]  # [documents, L]
    if rope_type := length_dependence(model.get_decoder()):
        warnings.warn(
            f"{rope_type} RoPE depends on the text's length: one forward a length"
            f"{' and window' if recipe.mode == 'sliding' else ''}, none shared",
            stacklevel=2,
        )
    sums = torch.zeros(len(lengths), 2, dtype=torch.float64)  # loss, scored tokens
    for done, document in enumerate(documents, 1):
        if recipe.mode == "full":
            losses = full_losses(model, document, lengths, recipe.chunk_tokens)
        else:
            losses = [
                sliding_losses(model, document, length, recipe.stride, recipe.chunk_tokens)
                for length in lengths
            ]
        sums += torch.stack([total(one) for one in losses])
        if progress:
            progress("documents", done, len(documents))
    perplexities = check_finite((sums[:, 0] / sums[:, 1]).exp(), "its perplexity")
    columns = zip(lengths, perplexities.tolist(), sums[:, 1].tolist(), strict=True)
    points = [Point(tokens=n, perplexity=p, scored_tokens=int(count)) for n, p, count in columns]
    save_recipe(recipe, recipe.output_dir / "recipe.yaml")
    write_csv(points, recipe.output_dir / "perplexity.csv")
    trained = recipe.training_length or context_length(model.config)
    plot_perplexity([recipe.output_dir], recipe.output_dir / "perplexity.png", trained)
    return points


def full_losses(model: Any, ids: Tensor, lengths: Sequence[int], chunk_tokens: int) -> list[Tensor]:
    """Return the losses of the first L tokens for each length L: of one pass, where that is right.

    A model whose rotary frequencies depend on the length reads each length by itself.
    """
    if length_dependence(model.get_decoder()):
        return [token_losses(model, ids[:length], chunk_tokens) for length in lengths]
    losses = token_losses(model, ids, chunk_tokens)
    return [losses[: length - 1] for length in lengths]


@torch.inference_mode()
def token_losses(model: Any, ids: Tensor, chunk_tokens: int) -> Tensor:
    """Return the loss of every token but the first: [L] -> [L - 1], nats."""
    sequence: SymbolSequence
    if length_dependence(model.get_decoder()):
        sequence = RecomputedSequence(model, allow_beyond_context=True)
        chunk_tokens = len(ids)  # one plain forward over all of them, the last included
    else:
        sequence = CachedSequence(model, chunk_tokens=chunk_tokens, allow_beyond_context=True)
        sequence.reserve(len(ids))
    losses = []
    targets = ids[1:]
    for inputs in ids.split(chunk_tokens):
        hidden = sequence.append(inputs, keep=len(inputs))  # [n, D]
        for h in hidden.split(LOSS_CHUNK):
            y, targets = targets[: len(h)].to(h.device), targets[len(h) :]
            losses.append(F.cross_entropy(sequence.logits(h[: len(y)]), y, reduction="none"))
    return torch.cat(losses).cpu()


def sliding_losses(model: Any, ids: Tensor, length: int, stride: int, chunk_tokens: int) -> Tensor:
    """Return the loss of every token but the first, each within a window of `length` tokens."""
    losses = [token_losses(model, ids[:length], chunk_tokens)]
    for stop in range(length + stride, len(ids) + stride, stride):
        stop, scored = min(stop, len(ids)), min(stride, len(ids) - stop + stride)
        losses.append(token_losses(model, ids[stop - length : stop], chunk_tokens)[-scored:])
    return torch.cat(losses)


def total(losses: Tensor) -> Tensor:
    """Return their sum and number, float64 [2]."""
    return torch.tensor([losses.double().sum(), len(losses)], dtype=torch.float64)


def write_csv(points: Sequence[Point], path: Path) -> None:
    """Write `tokens,perplexity,scored_tokens` lines under a header."""
    rows = [f"{p.tokens},{p.perplexity:.6g},{p.scored_tokens}" for p in points]
    write_whole(path, "\n".join(["tokens,perplexity,scored_tokens", *rows, ""]))


def read_csv(path: Path) -> list[Point]:
    """Read what `write_csv` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Point(tokens=int(tokens), perplexity=float(perplexity), scored_tokens=int(scored))
            for tokens, perplexity, scored in list(csv.reader(file))[1:]
        ]


def plot_perplexity(
    folders: Sequence[Path | str], out: Path | str, training_length: int | None = None
) -> None:
    """Draw the `perplexity.csv` of one or more runs into one picture.

    Raises:
        RecipeError: a folder has none.
    """
    figure, ax = new_figure(9, 5)
    measured: set[int] = set()
    for folder in map(Path, folders):
        if not (folder / "perplexity.csv").is_file():
            raise RecipeError(
                f"{folder} holds no perplexity.csv. Make one: longva perplexity RECIPE"
            )
        points = read_csv(folder / "perplexity.csv")
        measured |= {point.tokens for point in points}
        xs, ys = [p.tokens for p in points], [p.perplexity for p in points]
        ax.plot(xs, ys, marker="o", label=folder.name)
    lengths = sorted(measured)
    scale_by_two(ax, lengths, map(short, lengths))
    if training_length and lengths[0] <= training_length <= lengths[-1]:
        ax.axvline(training_length, color="black", linestyle=":", linewidth=2)
    ax.set_xlabel("Context (tokens)")
    ax.set_ylabel("Perplexity")
    ax.grid(alpha=0.3)
    ax.legend()
    save_figure(figure, out)
