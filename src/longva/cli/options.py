"""Options that several commands take, with the words of their help."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from longva.checkpoints import Precision
from longva.errors import LongVAError

GIB = 2**30

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
Device = Annotated[str | None, typer.Option(help="cpu, cuda:1, mps ...; default: cuda if any.")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Default: float32 on a CPU, bfloat16 on a GPU."),
]
Weights = Annotated[Precision, typer.Option(help="Quantise the language model's weights.")]
Kv = Annotated[Precision, typer.Option(help="Quantise the KV cache.")]
Cache = Annotated[Path | None, typer.Option("--cache", help="Keep encoded videos in this folder.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 takes the most probable token.")]
TopP = Annotated[float, typer.Option(help="Sample among tokens of this much probability.")]
Seed = Annotated[int, typer.Option(help="Of the sampling.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Recipe = Annotated[str, typer.Argument(help="A name of `longva recipes`, or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change one key of the recipe: a.b=value.")
]


def session_bytes(gib: float) -> int:
    """Return the bytes of --session-memory.

    Raises:
        LongVAError: it is no size.
    """
    if not 0 < gib < float("inf"):
        raise LongVAError(f"--session-memory needs a size greater than 0 GiB, got {gib:g}.")
    return int(gib * GIB)
