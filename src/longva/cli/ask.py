"""`longva ask` and `longva chat`: watch once, ask many."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from longva.cli.console import app, clock, err, load_assistant, out, printable, progress_bar, worded
from longva.cli.options import (
    AllowTruncated,
    Cache,
    Device,
    Dtype,
    Fit,
    Fps,
    Frames,
    Json,
    Keyframes,
    Kv,
    MaxFrames,
    MaxNewTokens,
    Model,
    PoolMode,
    PoolStride,
    Resize,
    Seed,
    Temperature,
    TopP,
    Weights,
)
from longva.errors import ContextLengthError, LongVAError, NonFiniteError
from longva.finite import to_json

COMMANDS = "/forget clears the conversation, /exit or Ctrl-D ends it."


def open_all(media: list[str], allow_truncated: bool) -> list:
    """Open the media: what cannot be read is found before the model loads."""
    from longva.media.source import locate

    for medium in media:
        locate(medium)

    from longva.media.medium import (
        open_media,  # loads torch, which a misspelt name need not wait for
    )

    return [open_media(medium, allow_truncated=allow_truncated) for medium in media]


def watch(
    media: list,
    *,
    model: str,
    device: str | None,
    dtype: str | None,
    weights: Literal["model", "int8", "int4"],
    kv: Literal["model", "int8", "int4"],
    cache: Path | None,
    settings: dict,
    sampling,
    quiet: bool,
    questions: Sequence[str] = (),
):
    """Load the model and watch opened media; what `ask` and `chat` share."""
    from longva.watching.features import FrameSettings

    longva = load_assistant(model, device, dtype, weights, kv, cache)
    for question in questions:
        longva.check_question(question)
    with progress_bar(show=not quiet) as progress:
        session = longva.watch(
            media, sampling=sampling, settings=FrameSettings(**settings), progress=progress
        )
    for note in session.notes:
        err.print(f"Note: {printable(note)}.")
    return session


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
    return answer


@app.command()
def ask(
    media: Annotated[str, typer.Argument(help="Video, image or folder of frames.")],
    questions: Annotated[list[str], typer.Argument(help="One or more questions.")],
    model: Model = "nano",
    also: Annotated[
        list[str] | None, typer.Option("--also", help="A further medium in the same prompt.")
    ] = None,
    frames: Frames = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    keyframes: Keyframes = False,
    fit: Fit = "crop",
    resize: Resize = "torch",
    allow_truncated: AllowTruncated = False,
    pool_stride: PoolStride = None,
    pool_mode: PoolMode = None,
    evidence: Annotated[int, typer.Option(min=0, help="Evidence frames to report.")] = 5,
    max_new_tokens: MaxNewTokens = 1024,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    weights: Weights = "model",
    kv: Kv = "model",
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Answer questions about a video, image or folder of frames.

    The medium is watched once; every question reuses it.

    longva ask film.mp4 "Who arrives?" --fps 1 --model lmms-lab/LongVA-7B-DPO
    """
    from longva.media.sampling import FrameSampling

    sampling = FrameSampling(num_frames=frames, fps=fps, max_frames=max_frames, keyframes=keyframes)
    opened = open_all([media, *(also or [])], allow_truncated)

    from longva.prompts.decoding import Sampling

    choice = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    session = watch(
        opened,
        model=model,
        device=device,
        dtype=dtype,
        weights=weights,
        kv=kv,
        cache=cache,
        settings={
            "fit": fit,
            "resize": resize,
            "pool_stride": pool_stride,
            "pool_mode": pool_mode,
        },
        sampling=sampling,
        quiet=as_json,
        questions=questions,
    )
    options = {"max_new_tokens": max_new_tokens, "sampling": choice, "evidence": evidence}
    if as_json:
        answers = [session.ask(question, **options) for question in questions]
        typer.echo(to_json([answer.to_json() for answer in answers], indent=2))
        return
    for question in questions:
        out.print(f"Q  {printable(question)}\nA  ", end="")
        print_evidence(say(session, question, **options))


def print_evidence(answer) -> None:
    """Print what an answer rests on, and what it took."""
    for item in answer.shown_evidence:
        when = f"grid {item.frame}" if item.seconds is None else clock(item.seconds)
        of = f"medium {item.medium + 1}  " if len(answer.media) > 1 else ""
        out.print(f"   {when:>10}  {of}frame {item.frame}  weight {item.weight:.3f}")
    if answer.evidence and not answer.shown_evidence:
        out.print("   no frame stands out: each has less than 0.001 of the attention on frames")
    seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in answer.timings.items())
    out.print(f"   {answer.frames} frames, {answer.prompt_tokens:,} tokens; {seconds}\n")


@app.command()
def chat(
    media: Annotated[str, typer.Argument(help="Video, image or folder of frames.")],
    model: Model = "nano",
    frames: Frames = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    fit: Fit = "crop",
    allow_truncated: AllowTruncated = False,
    max_new_tokens: MaxNewTokens = 1024,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    device: Device = None,
    dtype: Dtype = None,
    weights: Weights = "model",
    kv: Kv = "model",
    cache: Cache = None,
) -> None:
    """Talk about a video, which is watched once.

    Answers are streamed, and questions may follow up.

    Ctrl-C stops an answer; /forget clears the conversation, /exit or Ctrl-D ends it.

    longva chat film.mp4 --fps 1 --model lmms-lab/LongVA-7B-DPO
    """
    if sys.stdin is None:
        raise LongVAError("chat reads questions from standard input, which is closed. Use ask.")
    from longva.media.sampling import FrameSampling

    sampling = FrameSampling(num_frames=frames, fps=fps, max_frames=max_frames)
    opened = open_all([media], allow_truncated)

    from longva.prompts.decoding import Sampling

    choice = Sampling(temperature=temperature, top_p=top_p)
    session = watch(
        opened,
        model=model,
        device=device,
        dtype=dtype,
        weights=weights,
        kv=kv,
        cache=cache,
        settings={"fit": fit},
        sampling=sampling,
        quiet=False,
    )
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
            elif question.startswith("/"):
                out.print(COMMANDS)
            elif question:
                answer = say(
                    session, question, max_new_tokens=max_new_tokens, sampling=choice, keep=True
                )
                times = [clock(e.seconds) for e in answer.shown_evidence if e.seconds is not None]
                if times:
                    out.print(f"   evidence: {', '.join(times)}")
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
