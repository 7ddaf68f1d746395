"""`longva watch`: films that are still being recorded, and cameras."""

import queue
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from longva.cli.ask import print_evidence, say
from longva.cli.console import app, err, out, printable, worded
from longva.cli.options import AnswerOptions, AskedOptions, FrameOptions, Json, grouped
from longva.errors import LongVAError
from longva.finite import to_json


@app.command()
@grouped
def watch(
    source: Annotated[
        str, typer.Argument(help="File being written, pipe, - or address (rtsp://, udp://, ...).")
    ],
    questions: Annotated[
        list[str] | None, typer.Argument(help="Asked every so often (--every) and at the end.")
    ] = None,
    *,
    loading: AskedOptions,
    made: FrameOptions,
    answering: AnswerOptions,
    fps: Annotated[float, typer.Option(help="Take this many frames a second.")] = 1.0,
    every: Annotated[
        float | None, typer.Option(help="Ask the questions every so many seconds of film.")
    ] = None,
    policy: Annotated[
        Literal["stop", "newest", "thin"],
        typer.Option(help="When the context is full: stop, keep first and newest, or thin out."),
    ] = "newest",
    max_frames: Annotated[
        int | None, typer.Option(min=2, help="Hold no more frames; default: as many as fit.")
    ] = None,
    idle: Annotated[
        float, typer.Option(help="It has ended when nothing has come for so many seconds.")
    ] = 10.0,
    evidence: Annotated[int, typer.Option(min=0, help="Evidence frames to report.")] = 5,
    save_session: Annotated[
        Path | None, typer.Option(help="Write what was watched, for --resume and longva ask.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with a session that --save-session wrote.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Watch a film while it is recorded, or a camera, and answer meanwhile.

    Lines typed (or piped in) are questions about what has been watched until then. Ctrl-C ends the
    watching; what was watched is summed up, and the questions of the command line are asked.

    longva watch recording.ts "Who is there?" --every 60 --model ./longva-7b
    """
    from longva.media.frames import SPARE_PIXELS
    from longva.media.live import LiveSource
    from longva.watching.answer import check_question
    from longva.watching.live import follow

    for question in questions or ():
        check_question(question)
    if every is not None and not 0 < every < float("inf"):
        raise LongVAError(f"--every needs seconds, more than 0, got {every:g}.")
    opened = _opened(source)
    longva = loading.load(made)
    session = None if resume is None else longva.resume(resume)
    until = None if session is None else session.watched_until
    frames = LiveSource(
        opened,
        fps=fps,
        idle=idle,
        after=float("-inf") if until is None else until,
        at_least=SPARE_PIXELS * longva.family.frame_side if made.resize == "torch" else 0,
    )
    options = {**answering.arguments(), "evidence": evidence}
    typed, ended = _lines(source)
    asked_at = None

    def ask(session: Any, question: str) -> None:
        check_question(question)
        if as_json:
            typer.echo(to_json(session.ask(question, **options).to_json()))
            return
        out.print(f"{_until(session)}  Q  {printable(question)}\nA  ", end="")
        answer = say(session, question, **options)
        print_evidence(answer, answer.notes)

    def ask_what_was_typed(session: Any) -> None:
        while not typed.empty():
            try:
                ask(session, typed.get())
            except LongVAError as error:  # one bad question does not end the watching
                err.print(f"longva: {worded(error)}")

    try:
        steps = follow(
            longva,
            frames,
            name="standard input" if source == "-" else source,
            policy=policy,
            max_frames=max_frames,
            every=float("inf") if every is None else every,
            settings=made.settings(),
            session=session,
        )
        for session, is_due in steps:
            if session is not None:
                ask_what_was_typed(session)
            if is_due and session is not None:
                asked_at = session.watched_until
                for question in questions or ():
                    ask(session, question)
    except KeyboardInterrupt:
        err.print("Stopped.")
    except LongVAError:  # a camera that broke off, for example
        if save_session is not None and session is not None and session.frames:
            keep(session, save_session)
        raise
    frames.stop()
    if session is None or not session.frames:
        raise LongVAError(f"nothing of {source} was watched.")
    for question in questions or () if asked_at != session.watched_until else ():
        ask(session, question)
    if sys.stdin is not None and not sys.stdin.isatty():
        ended.wait(1.0)  # for questions that were piped in
    ask_what_was_typed(session)
    lost = f"; {frames.lost:,} more came faster than they were watched" if frames.lost else ""
    notes = "".join(f" {printable(note)}." for note in session.notes)
    err.print(f"Watched until {_until(session)}: {session.frames:,} frames are known{lost}.{notes}")
    if save_session is not None:
        keep(session, save_session)


def keep(session: Any, file: Path) -> None:
    """Write what was watched, and say what can be done with it."""
    session.save(file)
    err.print(f"Wrote {file}. Ask about it: longva ask {file} ...")


def _opened(source: str):
    """Standard input, an address, or the path of what is there."""
    if source == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise LongVAError("- is a film on standard input: ffmpeg ... - | longva watch -")
        return sys.stdin.buffer
    from longva.media.live import ADDRESS

    if not ADDRESS.match(source) and not Path(source).exists():
        raise LongVAError(
            f"{source}: there is no such file. Give a file that is being written, a pipe, or an "
            "address such as rtsp://camera/stream."
        )
    return source


def _lines(source: str) -> "tuple[queue.Queue[str], threading.Event]":
    """The lines of standard input as they come, and when no more do; none if a film comes there."""
    lines: queue.Queue[str] = queue.Queue()
    ended = threading.Event()

    def read() -> None:
        for line in sys.stdin:
            if line.strip():
                lines.put(line.strip())
        ended.set()

    if source == "-" or sys.stdin is None:
        ended.set()
    else:
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no UTF-8 is no question
        threading.Thread(target=read, daemon=True).start()
    return lines, ended


def _until(session) -> str:
    from longva.media.sampling import clock

    return clock(session.watched_until or 0.0)
