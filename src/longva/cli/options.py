"""Options that several commands take, with the words of their help.

Options that are used together are a dataclass, a group: a command under `grouped` takes the group
as one argument, and the command line shows each of its fields as an option.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from longva.checkpoints import Dtype, Precision
from longva.cli.console import err
from longva.errors import LongVAError, RecipeError
from longva.planning.devices import GIB

T = TypeVar("T")


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options.

    Args:
        command: those of its parameters whose type is a dataclass become one option a field.
    """
    taken = inspect.signature(command).parameters.values()
    groups: dict[str, Any] = {p.name: p.annotation for p in taken if is_dataclass(p.annotation)}
    flat: list[inspect.Parameter] = []
    for parameter in taken:
        if parameter.name in groups:
            flat += inspect.signature(groups[parameter.name]).parameters.values()
        else:
            flat.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def call(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in fields(group)})
        try:
            command(**values)
        except LongVAError as error:
            if not isinstance(error, RecipeError):  # whose remedies are keys of --set
                known = {parameter.name for parameter in flat}
                kept = {name: v for name, v in error.remedies.items() if name in known}
                error.remedies = kept
            raise

    vars(call)["__signature__"] = inspect.Signature(flat)
    return call


Frames = Annotated[int | None, typer.Option(help="Take this many frames, spread uniformly.")]
Fps = Annotated[float | None, typer.Option(help="Take this many frames a second.")]
MaxFrames = Annotated[int | None, typer.Option(help="Cap for --fps, --keyframes and the default.")]
Fit = Annotated[Literal["crop", "pad"], typer.Option(help="Centre crop, or pad the whole frame.")]
PoolStride = Annotated[int | None, typer.Option(help="Patches a side pooled into one token.")]
Weights = Annotated[Precision, typer.Option(help="Quantise the language model's weights.")]
Kv = Annotated[Precision, typer.Option(help="Quantise the KV cache.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Shard = Annotated[str | None, typer.Option(help="Part I of N only, I/N from 1/N: for job arrays.")]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A model, its device and its precision."""

    model: Annotated[
        str, typer.Option(help="`nano` (embedded), `longva-7b`, a folder or a hub id.")
    ] = "nano"
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda:1, mps ...; default: cuda if any.")
    ] = None
    dtype: Annotated[
        Dtype | None, typer.Option(help="Default: float32 on a CPU, bfloat16 on a GPU.")
    ] = None
    weights: Weights = "model"
    kv: Kv = "model"


@dataclass(frozen=True, kw_only=True)
class LoadingOptions(ModelOptions):
    """A model that the command itself loads."""

    cache: Annotated[Path | None, typer.Option(help="Keep encoded videos in this folder.")] = None
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test/--no-self-test",
            help="Compare a model other than LongVA with its own forward first.",
        ),
    ] = True
    cache_size: Annotated[
        float, typer.Option(help="GiB of them, at most: what was used least recently is deleted.")
    ] = 100.0

    def load(self, made: "FrameOptions | None" = None) -> Any:
        """Load it as `LongVA`, which pools as `made` says, and print its notice if it has one."""
        from longva.watching.assistant import LongVA

        longva = LongVA.from_pretrained(
            self.model,
            device=self.device,
            dtype=self.dtype,
            quantization=self.weights,
            kv=self.kv,
            cache_dir=self.cache,
            self_test=self.self_test,
            cache_bytes=as_bytes(self.cache_size, "--cache-size"),
            look_again=getattr(self, "look_again", 0),
            pool_stride=made and made.pool_stride,
            pool_mode=made and made.pool_mode,
        )
        if longva.notice:
            err.print(f"Note: {longva.notice}.")
        return longva


@dataclass(frozen=True, kw_only=True)
class AskedOptions(LoadingOptions):
    """A model that the command itself loads, and asks about films; others read no frame again."""

    look_again: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Of a longer film, read so many frames again, alone, for each answer: where a "
            "first answer looks. 0: never. Default: as the checkpoint says, 128 for nano.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class OpeningOptions:
    """How media are opened."""

    frames_fps: Annotated[
        float | None, typer.Option(help="Frames a second of a folder or list of pictures.")
    ] = None
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Use what can be decoded of a broken medium.")
    ] = False
    track: Annotated[
        int | None, typer.Option(help="Which video track of the first medium, from 1.")
    ] = None
    subtitles: Annotated[
        str | None,
        typer.Option(help="Of the first medium: .srt, .vtt, .ass, or `own` for its text track."),
    ] = None

    def open(self, media: list[str], *, standard_input: bool = True) -> list[Any]:
        """Open media, `-` from standard input: what cannot be read is found before a model loads.

        Args:
            media: paths, addresses, and `-` once.
            standard_input: whether `-` may be read.
        """
        from longva.media.address import locate
        from longva.media.file import hold

        files = []
        for medium in media:
            if medium != "-":
                files.append(locate(medium))
                continue
            piped = sys.stdin if standard_input and media.count("-") == 1 else None
            if piped is None or piped.isatty():
                raise LongVAError("- is one file on standard input: longva ask - ... < film.mp4")
            files.append(hold(piped.buffer, "standard input"))

        # It loads torch, which a misspelt name need not wait for.
        from longva.media.medium import open_media, with_rate
        from longva.media.subtitles import with_subtitles

        tracks = [self.track] + [None] * (len(files) - 1)
        opened = [
            open_media(file, allow_truncated=self.allow_truncated, track=track)
            for file, track in zip(files, tracks, strict=True)
        ]
        if self.frames_fps is not None:
            opened = with_rate(opened, self.frames_fps)
        if self.subtitles is not None:
            opened[0] = with_subtitles(opened[0], self.subtitles)
        return opened


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Which frames of a video are taken."""

    frames: Frames = None
    fps: Fps = None
    max_frames: MaxFrames = None
    keyframes: Annotated[bool, typer.Option("--keyframes", help="Take the video's key frames.")] = (
        False
    )
    start: Annotated[str | None, typer.Option(help="Watch from here on: seconds, or 1:02:03.")] = (
        None
    )
    end: Annotated[str | None, typer.Option(help="And up to here.")] = None

    def rule(self) -> Any:
        """Return them as `FrameSampling`."""
        from longva.media.sampling import FrameSampling

        return FrameSampling(
            num_frames=self.frames,
            fps=self.fps,
            max_frames=self.max_frames,
            keyframes=self.keyframes,
            start=self.start,
            end=self.end,
        )


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """How a frame is made into tokens: resized as `FrameSettings` says, pooled by the model."""

    fit: Fit = "crop"
    resize: Annotated[
        Literal["torch", "pil"], typer.Option(help="Fast, or bit-exact with PIL.")
    ] = "torch"
    pool_stride: PoolStride = None
    pool_mode: Annotated[
        Literal["average", "max"] | None, typer.Option(help="How they are pooled.")
    ] = None
    time_tokens: Annotated[
        float | None, typer.Option(help="Write the time between frames every so many seconds.")
    ] = None

    def settings(self) -> Any:
        """Return them as `FrameSettings`; pooling is the model's."""
        from longva.watching.features import FrameSettings

        return FrameSettings(fit=self.fit, resize=self.resize, time_tokens=self.time_tokens)


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How an answer is written."""

    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 1024
    temperature: Annotated[float, typer.Option(help="0 takes the most probable token.")] = 0.0
    top_p: Annotated[float, typer.Option(help="Sample among tokens of this much probability.")] = (
        1.0
    )
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `Session.ask`."""
        from longva.prompts.decoding import Sampling

        choice = Sampling(temperature=self.temperature, top_p=self.top_p, seed=self.seed)
        return {"max_new_tokens": self.max_new_tokens, "sampling": choice}


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """A recipe and what is changed in it."""

    recipe: Annotated[str, typer.Argument(help="A name of `longva recipes`, or a YAML file.")]
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change one key of the recipe: a.b=value.")
    ] = None

    def read(self, kind: type[T]) -> T:
        """Read the recipe into the dataclass `kind`."""
        from longva.recipes import load_recipe

        return load_recipe(kind, self.recipe, self.overrides or [])


def read_shard(text: str | None) -> tuple[int, int] | None:
    """Read --shard.

    Raises:
        LongVAError: it is none.

    >>> read_shard("2/4")
    (2, 4)
    """
    if text is None:
        return None
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise LongVAError(f"--shard is I/N, such as 1/4, got {text!r}.")
    return int(number), int(count)


def session_bytes(gib: float) -> int:
    """Return the bytes of --session-memory; see `as_bytes`."""
    return as_bytes(gib, "--session-memory")


def as_bytes(gib: float, flag: str) -> int:
    """Return the bytes of a size that a flag gave.

    Raises:
        LongVAError: it is no size.
    """
    if not 0 < gib < float("inf"):
        raise LongVAError(f"{flag} needs a size greater than 0 GiB, got {gib:g}.")
    return int(gib * GIB)
