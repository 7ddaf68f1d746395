"""From questions to a finished folder: what text and visual measurements have in common.

output_dir/
    recipe.yaml  fingerprint.json  cells.jsonl         what was asked, of what, and every answer
    summary.json  details.json                         what it comes down to
    heatmap.png  localisation.png                      what it looks like
    all_accuracies.json  avg_accuracy.txt              the original's files
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist

from longva.finite import to_json
from longva.folder_lock import only_run
from longva.niah.cells import Row
from longva.niah.heatmap import draw, panel_of, write_accuracies
from longva.niah.log import CellLog, Key
from longva.niah.models import MeasurementRecipe, Model, Pictures, Prompt, Reply
from longva.niah.scoring import answers_match, details, summarise
from longva.recipes import save_recipe
from longva.whole_files import write_whole

EVIDENCE_FRAMES = 5
"""Best frames kept in a row."""

Progress = Callable[[int, int], None]
"""Called with the cells done by this process and all that it has to do."""


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
        progress: see `Progress`.

    Returns:
        `summary.json` on rank 0, None on the others.

    Raises:
        RecipeError: the folder holds another measurement, or another process is at work in it.
    """
    rank, world_size, wait = meet()
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
                progress(done, len(mine))
        wait()
        if rank != 0:
            return None
        log.merge()
        rows = [log.rows[question.row.key] for question in questions]
        cost = model.cost([prompt for question in questions for prompt in question.prompts])
        return write_report(rows, fingerprint, output_dir, cost)


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
) -> dict[str, Any]:
    """Write summary, details, pictures and the original's files of a complete run."""
    summary = summarise(rows, cost)
    unit: Literal["tokens", "frames"] = fingerprint["settings"]["unit"]
    for name, content in (("summary", summary), ("details", details(rows))):
        write_whole(output_dir / f"{name}.json", to_json(content, indent=2) + "\n")
    write_accuracies(rows, unit, output_dir)
    draw([panel_of(rows, fingerprint, output_dir.name)], output_dir / "heatmap.png")
    if any(row.evidence_frame is not None for row in rows):
        panel = panel_of(rows, fingerprint, f"{output_dir.name}: best frame", of="localisation")
        draw([panel], output_dir / "localisation.png", label="Share of hits")
    return summary


def meet() -> tuple[int, int, Callable[[], None]]:
    """Return this process's rank, how many there are, and a barrier between them.

    Ranks finish hours apart, so the barrier is patient, and on gloo: it keeps no GPU busy.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        return 0, 1, lambda: None
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    group: Any = dist.new_group(backend="gloo", timeout=timedelta(days=30))

    def wait() -> None:
        dist.barrier(group=group)

    return dist.get_rank(), world_size, wait
