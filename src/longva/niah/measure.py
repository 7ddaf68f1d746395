"""Ask what has no row yet; write the summary and the figures.

output_dir/
    recipe.yaml  fingerprint.json  cells.jsonl         what was asked, of what, and every answer
    summary.json  details.json                         what it comes down to
    heatmap.png  localisation.png  absent.png          what it looks like
    all_accuracies.json  avg_accuracy.txt              the original's files
"""

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from longva.checkpoints.names import EMBEDDED_MODEL
from longva.errors import RecipeError
from longva.files.lock import only_run
from longva.files.writing import write_json
from longva.niah.cells import Row
from longva.niah.haystack import Pictures
from longva.niah.heatmap import draw, panel_of, write_accuracies
from longva.niah.log import CellLog
from longva.niah.model import Model, Probe
from longva.niah.recipe import MeasurementRecipe
from longva.niah.scoring import (
    Frames,
    Protocol,
    answers_match,
    details,
    parts_match,
    summarise,
    trials_of,
)
from longva.parallel.ranks import joined_ranks
from longva.recipes import save_recipe
from longva.reporting.progress import Progress

ASK_OTHERWISE = "Ask in its words: needles.source json, with a needles.file of yours."
ASK_NANO = (
    "It knows its own small drawn world and nothing else: measure it there, with the recipe "
    "nano/niah_visual, or measure a checkpoint, such as lmms-lab/LongVA-7B."
)
"""What to do about words that a model lacks."""


def measure(
    model: Model,
    probes: Sequence[Probe],
    recipe: MeasurementRecipe,
    *,
    settings: dict[str, Any],
    haystack: dict[str, Any],
    pictures: Sequence[Pictures] = (),
    progress: Progress | None = None,
) -> dict[str, Any] | None:
    """Ask the model what is not yet in `cells.jsonl`, and write everything that follows from it.

    Under torchrun every rank answers its share of the probes, on its own copy of the model.

    Args:
        model: under test.
        probes: of every cell of the grid.
        recipe: its output folder is new, or of the same measurement, to be resumed or extended.
        settings: all that changes an answer besides model and haystack; `unit` and `grid` among it.
        haystack: what identifies it.
        pictures: that the probes name by number, one set after another.
        progress: called with ("cells", cells done, cells to do) of this process.

    Returns:
        `summary.json` on rank 0, None on the others.

    Raises:
        RecipeError: the folder holds another measurement, or another process is at work in it, or
            the model has no words for what is asked.
    """
    check_words(model, probes)
    output_dir, features = recipe.output_dir, recipe.features or recipe.output_dir / "features"
    settings = settings | {"max_new_tokens": recipe.max_new_tokens}
    fingerprint = {"model": model.fingerprint(), "settings": settings, "haystack": haystack}
    with (
        joined_ranks() as (rank, world_size, wait),
        only_run(output_dir) if rank == 0 else nullcontext(),
    ):
        if rank == 0:  # before the others, who then find a folder claimed and the features in it
            CellLog(output_dir, fingerprint)
            save_recipe(recipe, output_dir / "recipe.yaml")
            model.encode(pictures, features)
        wait()
        if rank != 0:
            model.encode(pictures, features)
        log = CellLog(output_dir, fingerprint, rank=rank, world_size=world_size)
        left = [probe for probe in probes if probe.row.key not in log.rows]
        wait()  # all have read the same rows before anyone appends
        mine = model.share(left, rank, world_size)
        for done, row in enumerate(model.answer(mine), 1):
            if rank == 0 or not model.collective:
                log.append(judged(row))
            if progress:
                progress("cells", done, len(mine))
        wait()
        if rank != 0:
            return None
        log.merge()
        rows = [log.rows[probe.row.key] for probe in probes]
        return write_report(rows, fingerprint, output_dir, model.cost(probes), model.frames_as)


def check_words(model: Model, probes: Sequence[Probe]) -> None:
    """Make sure that the model can read what it is asked.

    A tokenizer of whole words, such as nano's, turns one that it lacks into its unknown token: the
    model would be asked something else, and be found not to know.

    Raises:
        RecipeError: a question or an answer has such a word.
    """
    tokenizer = model.tokenizer
    if tokenizer is None or tokenizer.unk_token_id is None:
        return
    asked = ((p.row.question or "", p.row.answer, p.time_question) for p in probes)
    for text in sorted({text for texts in asked for text in texts}):
        ids = {
            word: tokenizer(word, add_special_tokens=False)["input_ids"] for word in text.split()
        }
        if unknown := [word for word in ids if tokenizer.unk_token_id in ids[word]]:
            remedy = ASK_NANO if model.name == EMBEDDED_MODEL else ASK_OTHERWISE
            raise RecipeError(
                f"{model.name} has no words for {', '.join(unknown)} in {text.strip()!r}, so it "
                f"cannot be asked that. {remedy}"
            )


def judged(row: Row) -> Row:
    """Add to a row what the model's replies are worth."""
    said, time = row.generated, row.time_generated
    right = None
    if said is not None:
        right = parts_match(said, row.parts) if row.parts else answers_match(said, row.answer)
    return replace(
        row,
        logprob=None if row.logprob is None else round(row.logprob, 6),
        generated_correct=right,
        time_seconds=first_number(time) if time else None,
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
        write_json(output_dir / f"{name}.json", content)
    trials = trials_of(rows)
    write_accuracies(trials, unit, output_dir)
    protocol = Protocol(**summary["protocol"])
    draw([panel_of(trials, fingerprint, output_dir.name, protocol)], output_dir / "heatmap.png")
    if refused := trials_of(rows, "absent"):
        panel = panel_of(refused, fingerprint, f"{output_dir.name}: not there, and said so")
        draw([panel], output_dir / "absent.png", label="Share not invented")
    if any(row.evidence_frame is not None for row in trials):
        panel = panel_of(trials, fingerprint, f"{output_dir.name}: best frame", of="localisation")
        draw([panel], output_dir / "localisation.png", label="Share of hits")
    return summary
