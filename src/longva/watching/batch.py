"""Many films, many questions: a film is watched once, an answer written as soon as it is known.

    answers.jsonl             an answer a line; once the run is complete in the questions' order
    answers.1-of-4.jsonl      those of a shard: each has whole films
    answers.settings.json     what the answers depend on; a run with other settings is refused

A killed run goes on: what has an answer is not asked again, by any later run, whatever the shards.
What failed has no answer, so that the next run tries it again.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longva.checkpoints.fingerprint import weights_fingerprint
from longva.errors import LongVAError, reason
from longva.files.claim import claim
from longva.files.lock import only_run
from longva.files.writing import append_line, naming, parse_json, read_lines, write_lines
from longva.finite import to_json
from longva.parallel.ranks import joined_ranks
from longva.prompts.decoding import Sampling
from longva.reporting.progress import Progress
from longva.watching.assistant import LongVA
from longva.watching.session import Session

Asked = dict[str, Any]
"""A row of a table of questions: `media`, `question`, and what else the table says about it."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a run came to, of its own shard."""

    answered: int = 0
    """Questions answered by this run."""

    found: int = 0
    """Questions that earlier runs had answered."""

    failures: list[str] = field(default_factory=list)
    """What could not be watched or answered, and why, a line each."""


def read_questions(table: Path, media: Sequence[str] = ()) -> list[Asked]:
    """Read a table of questions: CSV with a line of names, or JSON lines.

    Args:
        table: its column `question` is asked about the row's `media`; other columns come along.
        media: what a row without `media` is asked about, each of them.

    Returns:
        The questions in the table's order, film by film; equal ones once.

    Raises:
        LongVAError: there are none, or a row that is none.
    """
    if not table.is_file():
        raise LongVAError(f"there is no file {table}. Needed: questions, as CSV or JSON lines.")
    by_medium: dict[str, dict[str, Asked]] = {}
    for number, row in enumerate(_rows(table), start=1):
        where = f"{table}, question {number}"
        if not isinstance(row, dict) or not str(row.get("question") or "").strip():
            raise LongVAError(f"{where}: needed is a row with a `question`, got {row!r}")
        own = row.get("media")
        if not own and not media:
            raise LongVAError(f"{where} names no `media`. Give it a column, or name media for all.")
        for medium in [str(own)] if own else media:
            asked = {**row, "media": medium, "question": str(row["question"])}
            by_medium.setdefault(medium, {})[key_of(asked)] = asked
    if not by_medium:
        raise LongVAError(f"{table} holds no questions.")
    return [asked for rows in by_medium.values() for asked in rows.values()]


def _rows(table: Path) -> Iterator[Any]:
    try:
        with naming(table):
            text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LongVAError(f"{table} is not UTF-8 text: {error}.") from None
    if table.suffix.lower() == ".csv":
        try:
            yield from csv.DictReader(io.StringIO(text, newline=""), restkey="more columns")
        except csv.Error as error:  # a cell of more than 131,072 characters
            raise LongVAError(f"{table} is no table that can be read: {error}.") from None
        return
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            if line.strip():
                yield parse_json(line)
        except ValueError as error:
            raise LongVAError(f"{table}, line {number} is no JSON: {error}.") from None


def key_of(asked: Asked) -> str:
    """Return what tells a question from all others: its whole row.

    >>> key_of({"question": "Who?", "media": "a.mp4"})
    '{"media": "a.mp4", "question": "Who?"}'
    """
    return to_json(asked, sort_keys=True)


def shard_file(out: Path, shard: tuple[int, int]) -> Path:
    """Return where a shard writes its answers.

    >>> shard_file(Path("answers.jsonl"), (1, 4)).name
    'answers.1-of-4.jsonl'
    """
    number, count = shard
    return out if count == 1 else out.with_name(f"{out.stem}.{number}-of-{count}{out.suffix}")


def answer_all(
    longva: LongVA,
    questions: Sequence[Asked],
    out: Path,
    *,
    watch: Callable[[str], Session] | None = None,
    settings: dict[str, Any] | None = None,
    shard: tuple[int, int] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Batch:
    """Answer all questions that have no answer yet.

    Under torchrun the processes share the films, and the answers are in `out` at the end. Shards of
    a job array (`shard`) leave theirs in files beside it, which a run without `shard` collects.

    Args:
        longva: the model.
        questions: see `read_questions`.
        out: JSON lines: what `Answer.to_json` gives, and the question's row as `asked`.
        watch: how a medium is watched; default: `longva.watch`.
        settings: of `watch`, for the note of what the answers depend on.
        shard: (i, n): answer the i-th of n parts, i from 1 to n.
        progress: called with ("films", done, films).
        **options: of `Session.ask`.

    Raises:
        RecipeError: `out` holds answers of another model or other settings, or is being written.
        LongVAError: `out` holds something else, or cannot be written.
    """
    with joined_ranks() as (rank, world_size, barrier):
        if shard is not None and world_size > 1:
            raise LongVAError("torchrun's processes share the films already: leave the shard out.")
        shard = shard or (rank + 1, world_size)
        if not 1 <= shard[0] <= shard[1]:
            raise LongVAError(f"shards are 1/n, 2/n ... n/n, got {shard[0]}/{shard[1]}.")
        mine, watch = shard_file(out, shard), watch or longva.watch
        with ExitStack() as held:
            for file in [mine, *(_parts(out) if shard[1] == 1 else ())]:
                held.enter_context(only_run(file.parent, file.name))
            depends = {
                "model": weights_fingerprint(longva.model),
                "dtype": str(longva.model.dtype),
                "kv": longva.kv,
                "look_again": longva.look_again,
                "watching": settings or {},
                "answering": {
                    n: asdict(v) if isinstance(v, Sampling) else v for n, v in options.items()
                },
            }
            done = read_answers(out)
            note = out.with_name(f"{out.stem}.settings.json")
            what = "the answers of another model or of other settings"
            claim(note, depends, what, empty=not done, output=out)

            films: dict[str, list[Asked]] = {}
            for asked in questions:
                films.setdefault(asked["media"], []).append(asked)
            share = list(films.items())[shard[0] - 1 :: shard[1]]
            answered, found, failures = 0, 0, []
            for number, (medium, rows) in enumerate(share):
                if progress:
                    progress("films", number, len(share))
                waiting = [asked for asked in rows if key_of(asked) not in done]
                found += len(rows) - len(waiting)
                for asked, answer in _answers(watch, medium, waiting, options):
                    if isinstance(answer, dict):
                        append_line(mine, {"asked": asked, **answer})
                        answered += 1
                    else:
                        failures.append(f"{medium}: {answer}")
            if world_size == 1 and shard[1] == 1:
                collect(out, questions)
        barrier()
        if rank == 0 and world_size > 1:
            collect(out, questions)
        return Batch(answered=answered, found=found, failures=failures)


def _answers(watch, medium: str, waiting: list[Asked], options) -> Iterator[tuple[Asked, Any]]:
    """Yield each question with its answer as JSON, or with why it has none.

    Whatever a film does to the decoder or the memory is that film's failure, and not the night's.
    """
    if not waiting:
        return
    try:
        session = watch(medium)
    except Exception as error:
        yield waiting[0], _why(error)
        return
    for asked in waiting:
        try:
            answer = session.ask(asked["question"], **options).to_json()
        except Exception as error:
            answer = f"{asked['question']!r}: {_why(error)}"
        yield asked, answer


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, LongVAError) else reason(error)


def _parts(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f"{out.stem}.*-of-*{out.suffix}"))


def read_answers(out: Path) -> dict[str, dict[str, Any]]:
    """Return all answers to a table of questions, those in shards' files too, by `key_of`.

    Raises:
        LongVAError: a line is no answer.
    """
    answers = {}
    for file in [*_parts(out), out]:
        for row in read_lines(file):
            if not isinstance(row.get("asked"), dict):
                raise LongVAError(f"{file} has a line that is no answer. Name another output.")
            answers[key_of(row["asked"])] = row
    return answers


def collect(out: Path, questions: Sequence[Asked]) -> None:
    """Put all answers into `out` in the order of the questions, others after them."""
    answers = read_answers(out)
    keys = [key for key in map(key_of, questions) if key in answers]
    if answers:
        write_lines(out, [answers[key] for key in dict.fromkeys([*keys, *answers])])
    for part in _parts(out):
        part.unlink()
