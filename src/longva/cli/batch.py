"""`longva batch`: many films, many questions."""

from dataclasses import asdict
from glob import glob, has_magic
from pathlib import Path
from typing import Annotated

import typer

from longva.cli.console import app, out, printable, progress_bar
from longva.cli.options import (
    AnswerOptions,
    AskedOptions,
    FrameOptions,
    OpeningOptions,
    SamplingOptions,
    Shard,
    grouped,
    read_shard,
)
from longva.errors import LongVAError


@app.command()
@grouped
def batch(
    questions: Annotated[
        Path, typer.Argument(help="CSV or JSON lines: `question`, and `media` if each has its own.")
    ],
    loading: AskedOptions,
    given: OpeningOptions,
    taken: SamplingOptions,
    made: FrameOptions,
    answering: AnswerOptions,
    media: Annotated[
        list[str] | None,
        typer.Option("--media", help="Ask about these: 'films/*.mp4', in quotes; repeat."),
    ] = None,
    answers: Annotated[Path, typer.Option("--out", help="JSON lines to write.")] = Path(
        "answers.jsonl"
    ),
    shard: Shard = None,
    evidence: Annotated[int, typer.Option(min=0, help="Evidence frames to report.")] = 5,
) -> None:
    """Answer many questions about many films: one load, and each film is watched once.

    Run again to go on after a kill, and to try what failed again. Exit code 1: some has failed.

    longva batch questions.csv --media 'films/*.mp4' --out answers.jsonl
    """
    from longva.watching.batch import answer_all, read_questions

    asked = read_questions(questions, named(media or []))
    part, sampling = read_shard(shard), taken.rule()
    longva = loading.load(made)
    settings = made.settings()
    with progress_bar() as progress:

        def watch(medium: str):
            opened = given.open([medium], standard_input=False)
            return longva.watch(opened, sampling=sampling, settings=settings, progress=progress)

        done = answer_all(
            longva,
            asked,
            answers,
            watch=watch,
            settings={"opening": asdict(given), **asdict(taken), **asdict(made)},
            shard=part,
            progress=progress,
            evidence=evidence,
            **answering.arguments(),
        )
    before = f", {done.found:,} before" if done.found else ""
    out.print(f"{done.answered:,} answers{before}: {answers}")
    if done.failures:
        failed = f"{len(done.failures):,} failed; the same command tries them again:"
        lines = [failed, *(f"  {printable(failure)}" for failure in done.failures)]
        typer.echo("\n".join(lines), err=True)
        raise typer.Exit(1)


def named(media: list[str]) -> list[str]:
    """Return the media that patterns stand for, those of a pattern sorted.

    Raises:
        LongVAError: nothing is of the pattern.
    """
    found = []
    for pattern in media:
        matches = [pattern]
        if has_magic(pattern):  # which may be absolute, what Path.glob refuses
            matches = sorted(glob(pattern, recursive=True))  # noqa: PTH207
        if not matches and not Path(pattern).exists():
            raise LongVAError(f"nothing here is named {pattern}.")
        found += matches or [pattern]
    return list(dict.fromkeys(found))
