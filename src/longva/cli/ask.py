"""`longva ask` and `longva chat`: watch once, ask many."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from longva.cli.console import app, err, out, printable, progress_bar, worded
from longva.cli.options import (
    AnswerOptions,
    AskedOptions,
    FrameOptions,
    Json,
    LoadingOptions,
    OpeningOptions,
    SamplingOptions,
    grouped,
)
from longva.errors import ContextLengthError, LongVAError, NonFiniteError
from longva.finite import to_json

HEAD = 4096
"""Bytes at the beginning of a file that tell whether it is a session."""

COMMANDS = "/forget clears the conversation, /watch goes on watching, /exit or Ctrl-D ends it."


def watch(
    media: list | Path,
    loading: LoadingOptions,
    made: FrameOptions,
    sampling: Any,
    *,
    quiet: bool = False,
    questions: Sequence[str] = (),
    partly: bool = False,
    first: Callable[[Any], None] | None = None,
):
    """Load the model and watch opened media, or go on with a session; `ask` and `chat` share it.

    `partly`: Ctrl-C ends the watching. `first`: called with the session before it watches.
    """
    from longva.watching.answer import check_question

    longva = loading.load(made)
    for question in questions:
        check_question(question)
    if isinstance(media, Path):
        session = longva.resume(media)
        watch_on(session, quiet=quiet, partly=partly)
        return noted(session)
    session = longva.watch(media, sampling=sampling, settings=made.settings(), now=False)
    if first is not None:
        first(session)
    watch_on(session, quiet=quiet, partly=partly)
    return noted(session)


def noted(session):
    """Tell what of the media is not known; return the session."""
    for note in session.notes:
        err.print(f"Note: {printable(note)}.")
    return session


def saved_session(medium: str, **of_films: Any) -> Path | None:
    """Return the path of a session that was kept, None if a medium is something else.

    Args:
        medium: as it was typed.
        of_films: options and their values, which a session does not take.

    Raises:
        LongVAError: such an option was given.
    """
    path = Path(medium)
    if not path.is_file():
        return None
    head = b""
    with suppress(OSError), path.open("rb") as file:  # who opens it as a film says so
        head = file.read(HEAD)
    if not head[8:].startswith(b'{"__metadata__"') or b"longva session" not in head:
        return None
    for name, value in of_films.items():
        if value not in (None, False, []):
            option = f"--{name.replace('_', '-')}"
            raise LongVAError(
                f"{option} is for films; {medium} is a session, whose film has been watched. Leave "
                "it out, or give the film."
            )
    return path


def watch_on(session, *, quiet: bool = False, partly: bool = False) -> None:
    """Watch what is not watched yet; `partly`: Ctrl-C ends that and keeps what was watched."""
    try:
        with progress_bar(show=not quiet) as progress:
            session.watch(progress)
    except KeyboardInterrupt:
        if not partly or not session.frames:
            raise
        from longva.media.sampling import clock

        until = session.watched_until
        at = "" if until is None else f" at {clock(until)}"
        err.print(f"Stopped{at}: answers are about what was watched until then. /watch goes on.")


def say(session, question: str, **options):
    """Print an answer while it comes, and whether it was cut; return it."""
    stream = session.stream(question, **options)
    for piece in stream:
        out.print(printable(piece), end="")
    answer = stream.answer
    out.print()
    if answer.finish_reason == "length":
        full = answer.answer_tokens < options["max_new_tokens"]
        why = "the model's context is full" if full else "raise --max-new-tokens"
        out.print(f"   (cut at {answer.answer_tokens} tokens: {why})")
    if answer.confidence is not None:
        out.print(f"   confidence {answer.confidence:.0%}")
    if answer.doubt:
        out.print(f"   ({answer.doubt})")
    return answer


@app.command()
@grouped
def ask(
    media: Annotated[str, typer.Argument(help="Video, image, folder of frames, or a session.")],
    questions: Annotated[list[str], typer.Argument(help="One or more questions.")],
    loading: AskedOptions,
    given: OpeningOptions,
    taken: SamplingOptions,
    made: FrameOptions,
    answering: AnswerOptions,
    also: Annotated[
        list[str] | None, typer.Option("--also", help="A further medium in the same prompt.")
    ] = None,
    evidence: Annotated[int, typer.Option(min=0, help="Evidence frames to report.")] = 5,
    evidence_dir: Annotated[
        Path | None, typer.Option(help="Write them as JPEG files, a folder a question.")
    ] = None,
    save_session: Annotated[
        Path | None, typer.Option(help="Keep what was watched; ask it later, in place of the film.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer questions about a video, image or folder of frames.

    The medium is watched once; every question reuses it, and so does a later call that is given
    what --save-session wrote.

    longva ask film.mp4 "Who arrives?" --fps 1 --model lmms-lab/LongVA-7B-DPO
    """
    sampling = taken.rule()
    of_films = {**vars(taken), **vars(given), "also": also, "evidence_dir": evidence_dir}
    saved = saved_session(media, **of_films)
    opened = [] if saved else given.open([media, *(also or [])])
    options = {**answering.arguments(), "evidence": evidence}
    session = watch(saved or opened, loading, made, sampling, quiet=as_json, questions=questions)
    if save_session is not None:
        session.save(save_session)
    if as_json:
        answers = session.ask_all(questions, **options)
        for number, answer in enumerate(answers, start=1):
            write_pictures(answer, opened, evidence_dir, number)
        typer.echo(to_json([answer.to_json() for answer in answers], indent=2))
        return
    for number, question in enumerate(questions, start=1):
        out.print(f"Q  {printable(question)}\nA  ", end="")
        answer = say(session, question, **options)
        print_evidence(answer)
        write_pictures(answer, opened, evidence_dir, number)


def write_pictures(answer, media: list, folder: Path | None, number: int) -> None:
    """Write what --evidence-dir asks for."""
    if folder is not None:
        from longva.watching.evidence_pictures import write_evidence

        files = write_evidence(answer, media, folder / f"question_{number}")
        err.print(f"Wrote {len(files)} frames to {folder / f'question_{number}'}.")


def place(item) -> str:
    """Say where evidence is: its time, else its file, else its part of the image."""
    from longva.media.sampling import clock

    if item.seconds is not None:
        return clock(item.seconds)
    return printable(item.file or f"grid {item.frame}")


def print_evidence(answer, notes: Sequence[str] = ()) -> None:
    """Print what an answer rests on, notes of it, and what it took."""
    for item in answer.shown_evidence:
        when = place(item)
        name = printable(answer.film_of(item))
        of = f"{name}  " if name else ""
        out.print(f"   {when:>10}  {of}frame {item.frame}  weight {item.weight:.3f}")
    if answer.evidence and not answer.shown_evidence:
        out.print("   no frame stands out: each has less than 0.001 of the attention on frames")
    for note in notes:
        out.print(f"   {printable(note)}")
    seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in answer.timings.items())
    again = f", {answer.looked_again} frames read again" if answer.looked_again else ""
    out.print(f"   {answer.frames} frames, {answer.prompt_tokens:,} tokens{again}; {seconds}\n")


@app.command()
@grouped
def chat(
    media: Annotated[str, typer.Argument(help="Video, image, folder of frames, or a session.")],
    loading: AskedOptions,
    given: OpeningOptions,
    taken: SamplingOptions,
    made: FrameOptions,
    answering: AnswerOptions,
) -> None:
    """Talk about a video, which is watched once.

    Answers are streamed, and questions may follow up.

    Ctrl-C stops watching, and what was watched until then can be asked about; /watch goes on. It
    also stops an answer; /forget clears the conversation, /exit or Ctrl-D ends it.

    longva chat film.mp4 --fps 1 --model lmms-lab/LongVA-7B-DPO
    """
    if sys.stdin is None:
        raise LongVAError("chat reads questions from standard input, which is closed. Use ask.")
    sampling = taken.rule()
    opened = saved_session(media, **vars(taken), **vars(given))
    opened = opened or given.open([media], standard_input=False)
    options = answering.arguments()
    session = watch(opened, loading, made, sampling, partly=True)
    out.print(f"Watched {session.frames} frames. Ask away. {COMMANDS}")
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - gives input() a history and the arrow keys
    sys.stdin.reconfigure(errors="surrogateescape")  # what is no UTF-8 is refused as a question
    while True:
        try:
            question = input("> ").strip()
            if question in ("/exit", "/quit"):
                return
            if question == "/forget":
                session.history.clear()
                out.print("   (forgotten; what was watched stays)")
            elif question == "/watch":
                watch_on(session, partly=True)
                out.print(f"   ({session.frames} frames watched)")
            elif question.startswith("/"):
                out.print(COMMANDS)
            elif question:
                answer = say(session, question, keep=True, **options)
                found = answer.shown_evidence
                timed = [e for e in found if e.seconds is not None or e.file]
                told = [f"{printable(answer.film_of(e))} {place(e)}".strip() for e in timed]
                if told:
                    out.print(f"   evidence: {', '.join(told)}")
        except EOFError:
            out.print()  # leaves the line of the prompt
            return
        except KeyboardInterrupt:
            out.print(f"\n   (stopped) {COMMANDS}")
        except NonFiniteError:  # no question would do better
            raise
        except LongVAError as error:  # one bad question does not end a conversation
            err.print(f"longva: {worded(error)}")
            if session.history and isinstance(error, ContextLengthError):
                err.print("/forget makes room: it clears the conversation.")
