"""Media -> visual tokens in a stream: decode, resize, encode, and forget.

    decode ahead (thread)   frames 16..31        frames 32..47     ...
    encode (device)                 frames 0..15         frames 16..31

Frames stay small: uint8 at the size of a grid, a few batches at a time; of the features there is
one batch.

Shapes: F frames (or grids of an image), T tokens a frame, D hidden size, S pixels a side.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from longva.errors import LongVAError, NonFiniteError, VideoError
from longva.finite import check_finite
from longva.media.medium import Media
from longva.media.resize import Fit, Resize
from longva.model import LongVAForConditionalGeneration, LongVAProcessor
from longva.prompts.steps import pause, stand_back, steps

FEATURES = "its features of frames"
"""Named where they are not finite."""

BATCHES_AHEAD = 4
"""So that decoding goes on while the language model reads a chunk, which spans a few batches."""

wait: ContextVar[Callable[[Future], object]] = ContextVar("wait", default=lambda _: None)
"""Called in the thread that watches, before it waits for what is decoded in another: an engine lets
others have the model meanwhile."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """How frames are made, once they are chosen; the model's config says how they are pooled."""

    fit: Fit = "crop"
    """`crop`: shortest edge to the grid, centre crop. `pad`: the whole frame on a square."""

    resize: Resize = "torch"
    """`torch` is fast and within 2 of 255 levels of `pil`, which is bit-exact."""

    time_tokens: float | None = None
    """Write the time into the prompt every so many seconds. The released weights never saw that."""

    named: bool = True
    """Write the names of several media before each, unless the model's config has `names_media`
    false. One alone is not named."""

    opening: tuple[tuple[str, str], ...] = ()
    """The conversation up to its last medium, where media stand among its words: role and text of
    each message, `PLACE` of `turns.py` in the text for each medium. Without, media stand at the
    head of the first message."""

    def __post_init__(self) -> None:
        if self.time_tokens is not None and not 0 < self.time_tokens < float("inf"):
            raise LongVAError(f"time_tokens needs more than 0 seconds, got {self.time_tokens}.")


@dataclass(frozen=True, kw_only=True)
class WatchedFrames:
    """Which frames of one medium are watched, and when they are shown."""

    kind: str
    """`video` or `image`."""

    source: str
    tokens_per_frame: int
    """T; where a model encodes frames in pairs, of a pair."""

    seconds: np.ndarray | None
    """[F] presentation times of a video's frames; None for what has no clock, such as an image."""

    indices: np.ndarray
    """[F] positions of the frames in the video, or of the grids in the image."""

    names: tuple[str, ...] = ()
    """[F] files of the frames, if the medium is a folder or list of them; or nothing."""

    left_out: str = ""
    """What of the medium is not watched, in words; see `Media.left_out`."""

    before: tuple[str, ...] = ()
    """[F] what stands before each frame in the prompt, or nothing; see `turns.py`."""

    after: str = ""
    """What stands after the last one."""

    offset: int = 0
    """By how much `indices` exceed the numbers in the file or array that holds these frames."""

    unit: int = 1
    """Frames encoded together."""

    size: tuple[int, int] | None = None
    """Height and width of the frames, where they are chosen for a film; else the model's."""

    duration: float = 0.0
    """Seconds until the last frame of the whole medium leaves the screen; 0 without a clock."""

    step: float = 1.0
    """Seconds between frames, of models that are told one rate for a film."""

    in_place: bool = False
    """Whether it stands where a message says; see `FrameSettings.opening`."""

    def __len__(self) -> int:
        """F."""
        return len(self.indices)

    @property
    def units(self) -> int:
        """U: frames, or what of them a model encodes together."""
        return -(-len(self) // self.unit)

    @property
    def rows(self) -> int:
        """Tokens of all frames."""
        return self.units * self.tokens_per_frame

    @property
    def texts(self) -> tuple[str, ...]:
        """[F] what stands before each frame; nothing stands between frames encoded together."""
        texts, unit = self._texts(), self.unit
        together = [texts[n : n + unit] for n in range(0, len(texts), unit)]
        told = [("\n".join(filter(None, one)), *[""] * (len(one) - 1)) for one in together]
        return tuple(text for one in told for text in one)

    def shown_from(self, frame: int) -> float | None:
        """Seconds from which a frame is shown, and of frame F, which is not there, the end of all.

        That end is as far from the last frame as usual from one to the next.
        """
        if self.seconds is None:
            return None
        if frame < len(self):
            return float(self.seconds[frame])
        usual = float(np.median(np.diff(self.seconds))) if len(self) > 1 else 0.0
        return float(self.seconds[-1]) + usual

    def part(self, start: int, stop: int | None = None) -> "WatchedFrames":
        """Return some of the frames."""
        seconds = None if self.seconds is None else self.seconds[start:stop]
        return replace(
            self,
            seconds=seconds,
            indices=self.indices[start:stop],
            names=self.names[start:stop],
            before=self.before[start:stop],
            after=self.after if stop is None or stop >= len(self) else "",
        )

    def pick(self, where: np.ndarray) -> "WatchedFrames":
        """Return the frames of these numbers."""
        seconds = None if self.seconds is None else self.seconds[where]
        names, before = (tuple(t[n] for n in where) if t else () for t in (self.names, self.before))
        indices = self.indices[where]
        return replace(self, seconds=seconds, indices=indices, names=names, before=before, after="")

    def excerpt(self, where: np.ndarray) -> "WatchedFrames":
        """Return the frames of these numbers, and all that is told between any."""
        texts, ends = self._texts(), [0, *(where + 1), len(self)]
        told = ["\n".join(filter(None, texts[a:b])) for a, b in pairwise(ends)]
        after = "\n".join(filter(None, (told.pop(), self.after)))
        before = tuple(told) if any(told) else ()
        return replace(self.pick(where), before=before, after=after)

    def followed_by(self, more: "WatchedFrames") -> "WatchedFrames":
        """Return these frames and then the others, as of one medium."""
        seconds, later = self.seconds, np.asarray(more.seconds)
        return replace(
            more,
            source=self.source,
            seconds=None if seconds is None else np.append(seconds, later),
            indices=np.append(self.indices, more.indices),
            names=self.names + more.names,
            before=texts if any(texts := self._texts() + more._texts()) else (),
        )

    def _texts(self) -> tuple[str, ...]:
        return self.before or ("",) * len(self)

    def what_follows(self, more: "WatchedFrames") -> "WatchedFrames":
        """Return those of other frames that are later than these; numbers go on from here.

        Raises:
            VideoError: one has times or names of files and the other has none.
        """
        if (self.seconds is None, not self.names) != (more.seconds is None, not more.names):
            raise VideoError(
                f"{more.source} cannot follow {self.source}: either both have times, or none; "
                "either both are files of pictures, or none. Open it as the first was opened."
            )
        own, other = (f.indices if f.seconds is None else f.seconds for f in (self, more))
        later = more.part(int(np.searchsorted(other, own[-1], side="right")))
        if len(later) and later.indices[0] <= self.indices[-1]:  # not the medium grown longer
            offset = int(self.indices[-1]) + 1
            later = replace(later, indices=later.indices + offset, offset=offset)
        return later


def joined(
    media: Sequence[WatchedFrames], more: Sequence[tuple[WatchedFrames, bool]]
) -> list[WatchedFrames]:
    """Add media, or frames to the last one where they do not begin a medium."""
    media = list(media)
    for frames, begins in more:
        media.append(frames if begins else media.pop().followed_by(frames))
    return media


def describe(
    media: Media, indices: np.ndarray, tokens: int, note: str = "", **about: Any
) -> WatchedFrames:
    """Say which frames of a medium are watched.

    Args:
        media: what `open_media` gave.
        indices: [F], increasing, of the frames taken; of an image, of all grids.
        tokens: T.
        note: what else there is to say of them.
        **about: further fields of `WatchedFrames`.
    """
    return WatchedFrames(
        kind="image" if media.kind == "image" else "video",
        source=media.name,
        tokens_per_frame=tokens,
        seconds=media.pts_seconds[indices] if media.has_clock else None,
        indices=indices,
        names=tuple(media.names[index] for index in indices) if media.names else (),
        left_out="; ".join(filter(None, (media.left_out, note))),
        duration=media.duration if media.has_clock else 0.0,
        **about,
    )


def encode_frames(
    media: Media,
    indices: np.ndarray,
    encode: Callable[[Tensor], Tensor],
    timings: dict[str, float],
    *,
    unit: int,
    batch: int,
    **geometry: Any,
) -> Generator[Tensor]:
    """Decode, resize and encode frames of a film, a batch at a time.

    Args:
        media: what `open_media` gave.
        indices: [F], increasing.
        encode: makes [n, T, D] of a batch of frames, [n, 3, H, W] uint8.
        timings: seconds spent are added to `decode` and `encode`, which overlap.
        unit: frames that are encoded together.
        batch: frames that are encoded at a time, whole units.
        **geometry: see `Media.stream`.

    Yields:
        [n, T, D].

    Raises:
        VideoError: when a frame cannot be decoded.
        MisnumberedError: when decoding gives other frames than the container lists.
        NonFiniteError: after the last batch, if tower or projector computed NaN or infinity.
    """
    finite = torch.ones((), dtype=torch.bool)
    frames = media.stream(indices, **geometry, batch=1)
    with closing(_decoded_ahead(frames, batch, timings)) as decoded:
        for pixels in decoded:
            started = time.perf_counter()
            with torch.inference_mode():
                rows = in_steps(encode, pixels, unit)
                # Looked at when all is done, to wait only once.
                finite = finite.to(rows.device) & rows.isfinite().all()
            timings["encode"] += time.perf_counter() - started
            yield rows
    if not finite:
        raise NonFiniteError(FEATURES)


def in_steps(encode: Callable[[Tensor], Tensor], pixels: Tensor, unit: int) -> Tensor:
    """Encode a batch, in parts of whole units where others wait for the model."""
    cut = steps.get()
    if cut is None or len(pixels) <= cut.frames:
        encoded = encode(pixels)
        pause()
        return encoded
    parts = []
    for part in pixels.split(max(unit, cut.frames - cut.frames % unit)):
        parts.append(encode(part))
        pause()
    return torch.cat(parts)


def encode_image(
    model: LongVAForConditionalGeneration,
    processor: LongVAProcessor,
    media: Media,
    indices: np.ndarray,
    timings: dict[str, float],
) -> Generator[Tensor]:
    """Encode one image: a grid is a frame (AnyRes: the whole image is one).

    Args:
        model: whose vision tower and projector are used.
        processor: cuts the image into grids.
        media: the image.
        indices: [F], increasing: the grids to take.
        timings: see `encode_frames`.

    Yields:
        [F, T, D], all at once.
    """
    started = time.perf_counter()

    def decode() -> Mapping[str, Any]:
        return processor.image_processor(Image.fromarray(next(media.pictures([0]))))

    inputs = elsewhere(decode)
    decoded = time.perf_counter()
    with torch.inference_mode():
        (tokens,) = model.model.encode_media(**inputs)["image"]
    check_finite(tokens, FEATURES)
    timings["decode"] += decoded - started
    timings["encode"] += time.perf_counter() - decoded
    each = model.config.tokens_per_grid() if model.config.image_packing == "unires" else len(tokens)
    yield tokens.unflatten(0, (-1, each))[torch.from_numpy(indices)]


def _decoded_ahead(
    frames: Iterator[Tensor], size: int, timings: dict[str, float]
) -> Generator[Tensor]:
    """Decode the next few batches of `size` frames in a thread while the caller uses this one."""
    given_up = threading.Event()

    def decode() -> Tensor | None:
        started, batch = time.perf_counter(), []
        while len(batch) < size and not given_up.is_set():
            if (frame := next(frames, None)) is None:
                break
            batch.append(frame)
        timings["decode"] += time.perf_counter() - started
        return torch.cat(batch) if batch else None

    pool = ThreadPoolExecutor(max_workers=1, initializer=stand_back if steps.get() else None)
    try:
        pending = deque(pool.submit(decode) for _ in range(BATCHES_AHEAD))
        while (batch := _result(pending.popleft())) is not None:
            pending.append(pool.submit(decode))
            yield batch
    finally:
        given_up.set()
        pool.shutdown(wait=False, cancel_futures=True)  # it ends after the frame that it is at


def elsewhere(work: Callable[[], T]) -> T:
    """Do work in a thread of its own, and wait for its result; see `wait`."""
    pool = ThreadPoolExecutor(max_workers=1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return _result(future)


def _result(future: Future[T]) -> T:
    if not future.done():
        wait.get()(future)
    return future.result()
