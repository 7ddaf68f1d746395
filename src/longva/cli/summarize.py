"""`longva summarize`: chapters of a film, and what they come to."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from longva.cli.console import app, err, out, printable, progress_bar
from longva.cli.options import (
    FrameOptions,
    LoadingOptions,
    OpeningOptions,
    SamplingOptions,
    grouped,
)
from longva.finite import to_json


@app.command()
@grouped
def summarize(
    media: Annotated[str, typer.Argument(help="Video, animation or folder of frames.")],
    loading: LoadingOptions,
    given: OpeningOptions,
    taken: SamplingOptions,
    made: FrameOptions,
    chapter: Annotated[
        float | None, typer.Option(help="Seconds of a chapter; default: a tenth of the film.")
    ] = None,
    form: Annotated[
        Literal["markdown", "json", "srt"], typer.Option("--format", help="Of what is printed.")
    ] = "markdown",
    output: Annotated[
        Path | None, typer.Option("--out", help="Write it there instead: .md, .json, .srt.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 512,
) -> None:
    """Tell the chapters of a film with their times, and summarize it, however long it is.

    longva summarize film.mp4 --out film.md --model lmms-lab/LongVA-7B-DPO
    """
    from longva.files.writing import write_whole

    sampling = taken.rule()
    (opened,) = given.open([media])
    longva = loading.load(made)
    with progress_bar() as progress:
        summary = longva.summarize(
            opened,
            chapter=chapter,
            sampling=sampling,
            settings=made.settings(),
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
    for note in summary.notes:
        err.print(f"Note: {printable(note)}.")
    suffixes = {".md": "markdown", ".json": "json", ".srt": "srt"}
    chosen = suffixes.get(output.suffix.lower(), form) if output else form
    text = {
        "markdown": summary.markdown,
        "json": lambda: to_json(summary.to_json(), indent=2) + "\n",
        "srt": summary.srt,
    }[chosen]()
    if output is None:
        typer.echo(printable(text), nl=False)
    else:
        write_whole(output, text)
        out.print(f"Wrote {len(summary.chapters)} chapters to {output}.")
