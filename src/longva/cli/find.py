"""`longva find`: when something is shown."""

from pathlib import Path
from typing import Annotated

import typer

from longva.cli.ask import watch
from longva.cli.console import app, err, out, printable, progress_bar
from longva.cli.options import (
    FrameOptions,
    Json,
    LoadingOptions,
    OpeningOptions,
    SamplingOptions,
    grouped,
)
from longva.finite import to_json


@app.command()
@grouped
def find(
    media: Annotated[str, typer.Argument(help="Video, animation or folder of frames.")],
    query: Annotated[str, typer.Argument(help="What is looked for, or a question ending in `?`.")],
    loading: LoadingOptions,
    given: OpeningOptions,
    taken: SamplingOptions,
    made: FrameOptions,
    also: Annotated[
        list[str] | None, typer.Option("--also", help="A further film to look in.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="At most so many ranges.")] = 20,
    least: Annotated[
        float | None, typer.Option(min=0, max=1, help="Score that a range needs.")
    ] = None,
    clips: Annotated[Path | None, typer.Option(help="Write each range as MP4 there.")] = None,
    contact_sheet: Annotated[
        Path | None, typer.Option(help="Draw a frame of each range: .png, .jpg.")
    ] = None,
    srt: Annotated[Path | None, typer.Option(help="Write the ranges as subtitles.")] = None,
    edl: Annotated[Path | None, typer.Option(help="Write a cut list for editors.")] = None,
    as_json: Json = False,
) -> None:
    """Find when something is shown: ranges of time, the surest first.

    longva find film.mp4 "the red car" --clips cut --contact-sheet found.png
    """
    from longva.files.writing import whole_file, write_whole
    from longva.media.cue import srt as subtitles
    from longva.watching import found_files
    from longva.watching.tasks import Ranges
    from longva.watching.turns import unique_names

    sampling = taken.rule()
    opened = given.open([media, *(also or [])])
    session = watch(
        opened,
        loading,
        made,
        sampling,
        quiet=as_json,
        first=lambda session: session.check_find(query),
    )
    with progress_bar(show=not as_json) as progress:
        found = session.find(query, least=least, progress=progress)[:most]
    if as_json:
        names = [medium.source for medium in session.media]
        told = Ranges.of(session, query, found)
        typer.echo(to_json(told.to_json(names), indent=2))
    else:
        out.print(f"{len(found)} found: {printable(query)}")
        films = unique_names([medium.name for medium in opened])
        for item in found:
            of = f"{printable(films[item.medium])}  " if also else ""
            when = found_files.when(item)
            out.print(f"   {of}{when}  score {item.score:.2g} ({item.by})  frame {item.frame}")
    if contact_sheet is not None:
        with whole_file(contact_sheet) as temporary, temporary.open("wb") as file:
            image = found_files.contact_sheet(found, opened)
            image.save(file, "PNG" if contact_sheet.suffix.lower() == ".png" else "JPEG")
    if clips is not None or srt is not None or edl is not None:
        stills = len(found) - len(found_files.timed(found, opened))
        if stills:
            what = "still images, which have no times"
            err.print(f"Left out of clips, subtitles and cut list: {stills} in {what}.")
    if clips is not None:
        files = found_files.write_clips(found, opened, clips)
        err.print(f"Wrote {len(files)} clips to {clips}.")
    if srt is not None:
        write_whole(srt, subtitles(found_files.cues(found, opened, query)))
    if edl is not None:
        write_whole(edl, found_files.edl(found, opened, query))
