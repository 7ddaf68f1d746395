"""From questions to a finished folder: what text and visual measurements have in common.

output_dir/
    recipe.yaml  fingerprint.json  cells.jsonl         what was asked, of what, and every answer
    summary.json  details.json                         what it comes down to
    heatmap.png  localisation.png                      what it looks like
    all_accuracies.json  avg_accuracy.txt              the original's files
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from longva.checkpoints.published import EMBEDDED_MODEL
from longva.errors import RecipeError
from longva.files.lock import only_run
from longva.files.writing import write_whole
from longva.finite import to_json
from longva.niah.cells import Key, Row
from longva.niah.frames import Pictures
from longva.niah.heatmap import draw, panel_of, write_accuracies
from longva.niah.log import CellLog
from longva.niah.model import Model, Prompt, Reply
from longva.niah.recipe import MeasurementRecipe
from longva.niah.scoring import Frames, Protocol, answers_match, details, summarise
from longva.parallel.ranks import init_ranks
from longva.recipes import save_recipe
from longva.reporting.progress import Progress

EVIDENCE_FRAMES = 5
"""Best frames kept in a row."""

ASK_OTHERWISE = "Ask in its words: needles.source json, with a needles.file of yours."
ASK_NANO = (
    "It knows its own small drawn world and nothing else: measure it there, with the recipe "
    "nano/niah_visual, or measure a checkpoint, such as lmms-lab/LongVA-7B."
)
"""What to do about words that a model lacks."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A cell before the model has answered."""

    row: Row
    prompts: tuple[Prompt, ...]
    """The first is the one that is scored; a second may ask for the time."""


def measure(
    model: Model,
    questions: Sequence[Question],
    recipe: MeasurementRecipe,
    *,
    settings: dict[str, Any],
    haystack: dict[str, Any],
    albums: Sequence[Pictures] = (),
    progress: Progress | None = None,
) -> dict[str, Any] | None:
    """Ask the model what is not yet in `cells.jsonl`, and write everything that follows from it.

    Under torchrun every rank answers its share of the questions, on its own copy of the model.

    Args:
        model: under test.
        questions: every cell of the grid.
        recipe: its output folder is new, or of the same measurement, to be resumed or extended.
        settings: all that changes an answer besides model and haystack; `unit` and `grid` among it.
        haystack: what identifies it.
        albums: the pictures that the questions name by number, one album after another.
        progress: called with ("cells", questions asked, questions to ask).

    Returns:
        `summary.json` on rank 0, None on the others.

    Raises:
        RecipeError: the folder holds another measurement, or another process is at work in it, or
            the model has no words for what is asked.
    """
    check_words(model, questions)
    rank, world_size, wait = init_ranks()
    output_dir, features = recipe.output_dir, recipe.features or recipe.output_dir / "features"
    settings = settings | {"max_new_tokens": recipe.max_new_tokens}
    fingerprint = {"model": model.fingerprint(), "settings": settings, "haystack": haystack}
    with only_run(output_dir) if rank == 0 else nullcontext():
        if rank == 0:  # before the others, who then find a folder claimed and the features in it
            CellLog(output_dir, fingerprint)
            save_recipe(recipe, output_dir / "recipe.yaml")
            model.look(albums, features)
        wait()
        if rank != 0:
            model.look(albums, features)
        log = CellLog(output_dir, fingerprint, rank=rank, world_size=world_size)
        left = {q.row.key: q for q in questions if q.row.key not in log.rows}
        wait()  # all have read the same rows before anyone appends
        scored = [question.prompts[0] for question in left.values()]
        mine = [left[prompt.key[0]] for prompt in model.share(scored, rank, world_size)]
        for done, row in enumerate(answered(model, mine), 1):
            if rank == 0 or not model.in_unison:
                log.append(row)
            if progress:
                progress("cells", done, len(mine))
        wait()
        if rank != 0:
            return None
        log.merge()
        rows = [log.rows[question.row.key] for question in questions]
        cost = model.cost([prompt for question in questions for prompt in question.prompts])
        return write_report(rows, fingerprint, output_dir, cost, model.frames_as)


def check_words(model: Model, questions: Sequence[Question]) -> None:
    """Make sure that the model can read what it is asked.

    A tokenizer of whole words, such as nano's, turns one that it lacks into its unknown token: the
    model would be asked something else, and be found not to know.

    Raises:
        RecipeError: a question or an answer has such a word.
    """
    tokenizer = model.tokenizer
    if tokenizer is None or tokenizer.unk_token_id is None:
        return
    asked = {question.row.question or "" for question in questions}
    asked |= {
        t for q in questions for prompt in q.prompts for t in (prompt.question, prompt.answer)
    }
    for text in sorted(asked):
        ids = {
            word: tokenizer(word, add_special_tokens=False)["input_ids"] for word in text.split()
        }
        if unknown := [word for word in ids if tokenizer.unk_token_id in ids[word]]:
            remedy = ASK_NANO if model.name == EMBEDDED_MODEL else ASK_OTHERWISE
            raise RecipeError(
                f"{model.name} has no words for {', '.join(unknown)} in {text.strip()!r}, so it "
                f"cannot be asked that. {remedy}"
            )


def answered(model: Model, questions: Sequence[Question]) -> Iterator[Row]:
    """Yield the row of each question as soon as the model has answered all its prompts."""
    asked = {question.row.key: question for question in questions}
    replies: dict[Key, dict[str, Reply]] = {}
    for reply in model.answer([prompt for question in questions for prompt in question.prompts]):
        key, part = reply.key
        replies.setdefault(key, {})[part] = reply
        if len(replies[key]) == len(asked[key].prompts):
            yield complete(asked[key].row, replies.pop(key))


def complete(row: Row, replies: dict[str, Reply]) -> Row:
    """Add to a row what the model replied."""
    scored, timed = replies["answer"], replies.get("time")
    weights, generated = scored.frame_weights, scored.generated
    best = None
    if weights is not None:
        best = weights.topk(min(EVIDENCE_FRAMES, len(weights))).indices.tolist()
    return replace(
        row,
        prompt_tokens=scored.prompt_tokens,
        predicted=scored.predicted,
        is_greedy=scored.is_greedy,
        logprob=None if scored.logprob is None else round(scored.logprob, 6),
        generated=generated,
        generated_correct=None if generated is None else answers_match(generated, row.answer),
        evidence_frame=best[0] if best else None,
        evidence_frames=best,
        time_generated=timed.generated if timed else None,
        time_seconds=first_number(timed.generated) if timed and timed.generated else None,
    )


def first_number(text: str) -> float | None:
    """Return the first number of a reply; `1:02:03` and `2:03` are hours, minutes and seconds.

    >>> first_number("At 1:05."), first_number("about 12.5 seconds"), first_number("never")
    (65.0, 12.5, None)
    >>> first_number("At 1,200 seconds"), first_number("frame 3, 200 of it")
    (1200.0, 3.0)
    """
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    found = re.search(r"\d+(?::\d{1,2}){1,2}|\d+(?:\.\d+)?", text)
    if not found:
        return None
    seconds = 0.0
    for part in found.group().split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def write_report(
    rows: Sequence[Row],
    fingerprint: dict[str, Any],
    output_dir: Path,
    cost: dict[str, Any],
    frames_as: Frames = "video",
) -> dict[str, Any]:
    """Write summary, details, pictures and the original's files of a complete run."""
    unit: Literal["tokens", "frames"] = fingerprint["settings"]["unit"]
    summary = summarise(rows, cost, frames_as if unit == "frames" else None)
    for name, content in (("summary", summary), ("details", details(rows))):
        write_whole(output_dir / f"{name}.json", to_json(content, indent=2) + "\n")
    write_accuracies(rows, unit, output_dir)
    panel = panel_of(rows, fingerprint, output_dir.name, Protocol(**summary["protocol"]))
    draw([panel], output_dir / "heatmap.png")
    if any(row.evidence_frame is not None for row in rows):
        panel = panel_of(rows, fingerprint, f"{output_dir.name}: best frame", of="localisation")
        draw([panel], output_dir / "localisation.png", label="Share of hits")
    return summary
