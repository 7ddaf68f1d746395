"""`longva ask` and `longva chat`: watch once, ask many."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from longva.cli.console import app, clock, err, load_assistant, out, printable, progress_bar
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
from longva.errors import LongVAError


def watch(
    media: list[str],
    *,
    model: str,
    device: str | None,
    dtype: str | None,
    weights: Literal["model", "int8", "int4"],
    kv: Literal["model", "int8", "int4"],
    cache: Path | None,
    settings: dict,
    sampling: dict,
    quiet: bool,
    questions: Sequence[str] = (),
):
    """Load the model and watch; what `ask` and `chat` share. Mistakes are found before the work."""
    from longva.media_files import locate
    from longva.visual_features import FrameSettings

    for medium in media:
        locate(medium)
    longva = load_assistant(model, device, dtype, weights, kv, cache)
    for question in questions:
        longva.check_question(question)
    with progress_bar(show=not quiet) as progress:
        session = longva.watch(
            media if len(media) > 1 else media[0],
            settings=FrameSettings(**settings),
            progress=progress,
            **sampling,
        )
    for medium in session.media:
        if medium.truncated:
            err.print(f"Note: {medium.source}: {medium.truncated}.")
    return session


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
    """Answer questions about a video, an image or a folder of frames.

    The medium is watched once; every question reuses it.

    longva ask film.mp4 "Who arrives?" "When does the train leave?" --fps 1 --max-frames 1500
    """
    from longva.session import Sampling

    choice = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    session = watch(
        [media, *(also or [])],
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
        sampling={
            "frames": frames,
            "fps": fps,
            "max_frames": max_frames,
            "keyframes": keyframes,
            "allow_truncated": allow_truncated,
        },
        quiet=as_json,
        questions=questions,
    )
    answers = []
    for question in questions:
        answers.append(
            session.ask(question, max_new_tokens=max_new_tokens, sampling=choice, evidence=evidence)
        )
        if not as_json:
            print_answer(answers[-1])
    if as_json:
        typer.echo(json.dumps([answer.to_json() for answer in answers], indent=2))


def print_answer(answer) -> None:
    """Print an answer, its evidence and what it took."""
    out.print(f"Q  {printable(answer.question)}")
    out.print(f"A  {printable(answer.text)}")
    if answer.finish_reason == "length":
        out.print(f"   (cut at {answer.answer_tokens} tokens: raise --max-new-tokens)")
    for item in answer.evidence:
        when = f"grid {item.frame}" if item.seconds is None else clock(item.seconds)
        of = f"medium {item.medium + 1}  " if len(answer.media) > 1 else ""
        out.print(f"   {when:>10}  {of}frame {item.frame}  weight {item.weight:.3f}")
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
    """Talk about a video: streamed answers, follow-up questions, the video watched once.

    longva chat film.mp4 --fps 1        An empty line or Ctrl-D ends the conversation.
    """
    from longva.session import Sampling

    choice = Sampling(temperature=temperature, top_p=top_p)
    session = watch(
        [media],
        model=model,
        device=device,
        dtype=dtype,
        weights=weights,
        kv=kv,
        cache=cache,
        settings={"fit": fit},
        sampling={
            "frames": frames,
            "fps": fps,
            "max_frames": max_frames,
            "allow_truncated": allow_truncated,
        },
        quiet=False,
    )
    out.print(f"Watched {session.frames} frames. Ask away; an empty line ends.")
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            return
        if not question:
            return
        try:
            stream = session.stream(
                question,
                max_new_tokens=max_new_tokens,
                sampling=choice,
                keep=True,
            )
            for piece in stream:
                out.print(printable(piece), end="")
        except LongVAError as error:  # one bad question does not end a conversation
            err.print(f"longva: {error}")
            continue
        assert stream.answer is not None  # the stream has ended
        times = [clock(e.seconds) for e in stream.answer.evidence if e.seconds is not None]
        out.print(f"\n   evidence: {', '.join(times)}" if times else "")
