"""The commands. Each reads its arguments, makes one call and prints the result.

Imports of torch and the models stand inside the commands, so that `longva --help` is instant.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from longva import __version__
from longva.errors import LongVAError

app = typer.Typer(
    name="longva",
    help="Watch hours of video, ask many questions, get answers with times.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False)

Model = Annotated[
    str, typer.Option("--model", help="`nano` (embedded), a folder, or a hub id; LLaVA format too.")
]
Frames = Annotated[int | None, typer.Option(help="Take this many frames, spread uniformly.")]
Fps = Annotated[float | None, typer.Option(help="Take this many frames a second.")]
MaxFrames = Annotated[int | None, typer.Option(help="Cap for --fps, --keyframes and the default.")]
Keyframes = Annotated[bool, typer.Option("--keyframes", help="Take the video's key frames.")]
Fit = Annotated[Literal["crop", "pad"], typer.Option(help="Centre crop, or pad the whole frame.")]
Resize = Annotated[Literal["torch", "pil"], typer.Option(help="Fast, or bit-exact with PIL.")]
AllowTruncated = Annotated[
    bool, typer.Option("--allow-truncated", help="Use what can be decoded of a broken file.")
]
PoolStride = Annotated[int | None, typer.Option(help="Patches a side pooled into one token.")]
PoolMode = Annotated[Literal["average", "max"] | None, typer.Option(help="How they are pooled.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: a GPU if any.")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Default: float32 on a CPU, bfloat16 on a GPU."),
]
Weights = Annotated[
    Literal["model", "int8", "int4"], typer.Option(help="Quantise the language model's weights.")
]
Kv = Annotated[Literal["model", "int8", "int4"], typer.Option(help="Quantise the KV cache.")]
Cache = Annotated[Path | None, typer.Option("--cache", help="Keep encoded videos in this folder.")]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 takes the most probable token.")]
TopP = Annotated[float, typer.Option(help="Sample among tokens of this much probability.")]
Seed = Annotated[int, typer.Option(help="Of the sampling.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.callback(invoke_without_command=True)
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Watch hours of video, ask many questions, get answers with times."""
    if show_version:
        typer.echo(f"longva {__version__}")
        raise typer.Exit


@contextmanager
def progress_bar(show: bool) -> Iterator:
    """Show a bar a stage on stderr; yields a function (stage, done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not show) as bars:
        stages = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage)
            bars.update(stages[stage], completed=done, total=total)

        yield report


def watch(
    media: list[str],
    *,
    model: str,
    device: str | None,
    dtype: str | None,
    weights: str,
    kv: str,
    cache: Path | None,
    settings: dict,
    sampling: dict,
    quiet: bool,
):
    """Load the model and watch; what `ask` and `chat` share."""
    from longva.assistant import LongVA
    from longva.visual_features import FrameSettings

    longva = LongVA.from_pretrained(
        model,
        device=device,
        dtype=dtype,
        quantization=None if weights == "model" else weights,
        kv=kv,
        cache_dir=cache,
    )
    if longva.notice:
        err.print(f"Note: {longva.notice}.")
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
    evidence: Annotated[int, typer.Option(help="Evidence frames to report.")] = 5,
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
    from longva.assistant import Sampling

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
    )
    answers = [
        session.ask(
            question,
            max_new_tokens=max_new_tokens,
            sampling=Sampling(temperature=temperature, top_p=top_p, seed=seed),
            evidence=evidence,
        )
        for question in questions
    ]
    if as_json:
        typer.echo(json.dumps([answer.to_json() for answer in answers], indent=2))
        return
    for answer in answers:
        print_answer(answer)


def print_answer(answer) -> None:
    """Print an answer, its evidence and what it took."""
    out.print(f"Q  {printable(answer.question)}", markup=False)
    out.print(f"A  {printable(answer.text)}", markup=False)
    if answer.finish_reason == "length":
        out.print(f"   (cut at {answer.answer_tokens} tokens: raise --max-new-tokens)")
    for item in answer.evidence:
        when = f"grid {item.frame}" if item.seconds is None else clock(item.seconds)
        out.print(f"   {when:>10}  frame {item.frame}  weight {item.weight:.3f}")
    seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in answer.timings.items())
    out.print(f"   {answer.frames} frames, {answer.prompt_tokens:,} tokens; {seconds}\n")


def printable(text: str) -> str:
    """Escape what a terminal would obey: a model's words must not move the cursor."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def clock(seconds: float) -> str:
    """Write seconds as h:mm:ss.t."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes // 60)}:{int(minutes % 60):02}:{rest:04.1f}"


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
    from longva.assistant import Sampling

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
                sampling=Sampling(temperature=temperature, top_p=top_p),
                keep=True,
            )
            for piece in stream:
                out.print(printable(piece), end="", markup=False)
        except LongVAError as error:  # one bad question does not end a conversation
            err.print(f"longva: {error}", markup=False)
            continue
        times = [clock(e.seconds) for e in stream.answer.evidence if e.seconds is not None]
        out.print(f"\n   evidence: {', '.join(times)}" if times else "")


@app.command()
def plan(
    model: Annotated[
        str, typer.Argument(help="longva-7b, nano, a folder or a hub id.")
    ] = "longva-7b",
    frames: Annotated[int, typer.Option(help="Frames to watch.")] = 1000,
    device: Annotated[
        str | None, typer.Option(help="h200, h100, a100-80g, a100-40g, l40s, rtx4090.")
    ] = None,
    memory: Annotated[float | None, typer.Option(help="Device memory in GB, instead.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Of weights and activations.")
    ] = "bfloat16",
    weights: Weights = "model",
    kv: Kv = "model",
    chunk_tokens: Annotated[int, typer.Option(help="Tokens prefilled at a time.")] = 4096,
    pool_stride: PoolStride = None,
    as_json: Json = False,
) -> None:
    """Say what watching a video takes, and how many frames fit, without loading anything.

    longva plan longva-7b --frames 3000 --device h200 --kv int8
    """
    import torch

    from longva.planner import DEVICES, USABLE_MEMORY, UTILISATION, load_config
    from longva.planner import plan as make_plan

    if device is not None and device not in DEVICES:
        raise LongVAError(
            f"unknown device {device!r}. Choose one of {', '.join(DEVICES)}, or --memory"
        )
    gigabytes, rate = DEVICES[device] if device else (memory, None)
    gigabytes = memory if memory is not None else gigabytes
    result = make_plan(
        load_config(model),
        frames=frames,
        dtype=getattr(torch, dtype),
        weights=weights,
        kv=kv,
        chunk_tokens=chunk_tokens,
        pool_stride=pool_stride,
        device_memory=None if gigabytes is None else int(USABLE_MEMORY * gigabytes * 1e9),
        flops_per_second=rate and rate * UTILISATION,
    )
    if as_json:
        typer.echo(json.dumps({**asdict(result), "fits": result.fits}, indent=2))
        return
    print_plan(model, result)


def print_plan(model: str, plan) -> None:
    """Print a plan as a table and its verdict as a sentence."""
    table = Table(title=f"{model}: {plan.frames:,} frames, {plan.prompt_tokens:,} tokens", box=None)
    table.add_column("part")
    table.add_column("GiB", justify="right")
    for part in (
        "weights",
        "features",
        "kv_cache",
        "vision_chunk",
        "prefill_chunk",
        "logits",
        "peak",
    ):
        table.add_row(part.replace("_", " "), f"{getattr(plan, part) / 2**30:.2f}")
    out.print(table)
    if plan.seconds is not None:
        out.print(f"About {plan.seconds:.0f} s to encode and prefill, at an assumed rate.")
    limit = "the context" if plan.device_memory is None else "memory and context"
    verdict = "It fits" if plan.fits else "It does NOT fit"
    out.print(f"{verdict}. At most {plan.max_frames:,} frames fit {limit}.")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Checkpoint folder or hub id.")],
    destination: Annotated[Path, typer.Argument(help="Folder to write.")],
    to: Annotated[Literal["longva", "llava"], typer.Option(help="Format to write.")] = "longva",
    rope_theta: Annotated[float | None, typer.Option(help="New RoPE base.")] = None,
    context: Annotated[int | None, typer.Option(help="New context length in tokens.")] = None,
    max_grids: Annotated[int | None, typer.Option(help="New cap of grids an image.")] = None,
    vision_tower: Annotated[
        str | None, typer.Option(help="Folder or hub id of the tower's config; default CLIP-L/336.")
    ] = None,
    remote_code: Annotated[
        bool, typer.Option("--remote-code", help="Add the model's code, for people without longva.")
    ] = False,
    dtype: Dtype = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
) -> None:
    """Rewrite a published LLaVA-format checkpoint as ours, or ours as LLaVA format.

    longva convert lmms-lab/LongVA-7B ./longva-7b
    longva convert ./longva-7b ./back --to llava
    """
    from longva.model.checkpoint import convert_checkpoint

    convert_checkpoint(
        source,
        destination,
        to=to,
        rope_theta=rope_theta,
        max_position_embeddings=context,
        max_grids=max_grids,
        vision_tower=vision_tower,
        remote_code=remote_code,
        dtype=dtype,
        overwrite=overwrite,
    )
    out.print(f"Wrote {destination}. Next: longva ask VIDEO QUESTION --model {destination}")
