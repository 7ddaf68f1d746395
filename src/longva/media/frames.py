"""The frames of a medium: numbered and timed, taken by number, time or rule.

    len(media), media.pts_seconds
    media.choose(FrameSampling(fps=1))      numbers of the frames that a rule takes: sampling.py
    media.frames_at([0, 25])                their pixels, resized while decoding: resize.py
    media.frames_played_at([0.0, 1.0])      the frames on screen at these seconds
    media.stream([0, 25])                   the same in batches

One full-size frame is held at a time, besides the few inside the decoder, so memory grows with the
frames asked for at their small size, never with the length or resolution of the video.

N: frames in the medium.  n: frames chosen.  S: side of a resized frame.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, TypeVar, Unpack, get_args

import numpy as np
import torch
from torch import Tensor

from longva.errors import VideoError
from longva.media.bounds import Bounds
from longva.media.cue import Cue
from longva.media.file import Version, file_version
from longva.media.image_file import animation_pictures
from longva.media.pixels import Picture
from longva.media.resize import Fit, Geometry, Resize, Size, resize_picture, working_pixels
from longva.media.sampling import FrameSampling, choose_frames, frames_played, given_times
from longva.media.still import Still, content_digest, load_still
from longva.media.video_file import IndexMismatch, VideoFile, video_pictures
from longva.media.video_index import open_video

Result = TypeVar("Result")

MAX_PIXELS = 2 * 89_478_485
"""Pixels of one frame: the size from which Pillow calls a picture a decompression bomb."""


SPARE_PIXELS = 3
"""Pixels a side, for each of the result, that a scaled-down picture keeps for its last resize."""


@dataclass(frozen=True, kw_only=True)
class Media:
    """What was opened: its frames, numbered and timed, decoded when they are asked for."""

    name: str
    """What messages call it: the path, or `data of 1234 bytes`."""

    kind: Literal["video", "animation", "image", "frames"]

    pts_seconds: np.ndarray = field(repr=False)
    """[N] float64, presentation times: of a file relative to its first frame, else as given."""

    has_clock: bool = True
    """Whether these times mean something: without, a picture counts as one a second."""

    keyframes: np.ndarray = field(repr=False)
    """[K] int64, frames that are decoded without another; all of them outside videos."""

    duration: float
    """Seconds until the last frame leaves the screen; 0 for an image."""

    width: int
    height: int
    """Upright size of the first frame; others may differ in a folder."""

    truncated: str = ""
    """What is missing, as in `412 of 600 frames could be decoded`; empty for a sound file."""

    names: tuple[str, ...] = field(default=(), repr=False)
    """[N] names of the pictures' files, if the medium is a folder or list of them."""

    others: str = ""
    """What is there besides the frames: other files of a folder, more pages of a picture."""

    chosen: int | None = None
    """Where whoever gave the frames has chosen them: how many of these are taken at most. A rule
    says a part only, and perhaps fewer at most."""

    subtitles: tuple[Cue, ...] = field(default=(), repr=False)
    """What is said when; see `with_subtitles`."""

    max_pixels: int = MAX_PIXELS
    files: tuple[Still, ...] = field(repr=False)
    video: VideoFile | None = field(default=None, repr=False)

    versions: tuple[Version | None, ...] = field(default=(), repr=False, compare=False)
    """Of each file by its path, as it was opened; None of what is held open or in memory."""

    def __post_init__(self) -> None:
        if not self.versions:
            object.__setattr__(self, "versions", tuple(map(file_version, self.files)))

    def __len__(self) -> int:
        """N."""
        return len(self.pts_seconds)

    @property
    def is_unchanged(self) -> bool:
        """Whether its files are those that were opened, and have not been written to since."""
        return self.versions == tuple(map(file_version, self.files))

    @property
    def left_out(self) -> str:
        """What of the source is not among the frames, in words."""
        return "; ".join(part for part in (self.truncated, self.others) if part)

    def fingerprint(self) -> str:
        """SHA-256 over the content of the files or pixels, in order; files are read in a stream."""
        total = hashlib.sha256()
        for file in self.files:
            total.update(content_digest(file))
        return total.hexdigest()

    def with_times(
        self, *, fps: float | None = None, seconds: Sequence[float] | np.ndarray | None = None
    ) -> "Media":
        """Give pictures without a clock their rate, or their times.

        Args:
            fps: pictures a second.
            seconds: [N] when each picture is shown, increasing; broken ones that were left out have
                theirs as well.

        Raises:
            VideoError: it is no such medium, or these are no such times.
        """
        if self.kind != "frames" or self.has_clock:
            had = "has times of its own" if self.has_clock else "is one picture"
            raise VideoError(f"{self.name} {had}: a rate or times are for frames without them.")
        slots = self.pts_seconds.astype(np.int64)  # without a clock, places in the folder
        times, end = given_times(round(self.duration), fps=fps, seconds=seconds)
        return replace(self, pts_seconds=times[slots], duration=end, has_clock=True)

    def choose(self, which: FrameSampling | Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the numbers of the frames that a rule takes, [n] int64; or check given numbers.

        Raises:
            VideoError: a number is not that of a frame.
        """
        if isinstance(which, FrameSampling):
            if not self.has_clock and (which.start is not None or which.end is not None):
                remedy = {"frames_fps": 1} if self.kind == "frames" else {}
                raise VideoError(
                    f"{self.name} has no times, so it has no part from a time to another.", **remedy
                )
            if self.chosen:
                which = FrameSampling(
                    max_frames=which.max_frames or self.chosen, start=which.start, end=which.end
                )
            about = {"duration": self.duration, "name": self.name}
            return choose_frames(self.pts_seconds, self.keyframes, which, **about)
        numbers = np.asarray(which)
        if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
            raise VideoError(f"frame indices must be a list of whole numbers, got {which!r}.")
        outside = numbers[(numbers < 0) | (numbers >= len(self))]
        if len(outside):
            raise VideoError(
                f"{self.name} has {len(self)} frames, numbered 0 to {len(self) - 1}; "
                f"frame {outside[0]} was asked for."
            )
        return numbers.astype(np.int64)

    def played_at(self, seconds: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the numbers of the frames that are on screen at these times, [n] int64.

        Raises:
            VideoError: a time before the first frame or after the last.
        """
        about = {"duration": self.duration, "name": self.name}
        return frames_played(self.pts_seconds, np.asarray(seconds, np.float64), **about)

    def frames_at(
        self, which: FrameSampling | Sequence[int] | np.ndarray, **geometry: Unpack[Geometry]
    ) -> "Frames":
        """Decode frames by a rule, or by their numbers in any order, repeated if need be.

        Args:
            which: a rule, or [n] frame numbers.
            **geometry: size, fit and resize as `stream` takes them.

        Raises:
            VideoError: a number is not that of a frame, or a frame cannot be decoded.
        """
        return self.read(lambda media: media.choose(which), partial(_frames, **geometry))

    def frames_played_at(
        self, seconds: Sequence[float] | np.ndarray, **geometry: Unpack[Geometry]
    ) -> "Frames":
        """Decode the frames that are on screen at [n] times; the rest is as for `frames_at`."""
        return self.read(lambda media: media.played_at(seconds), partial(_frames, **geometry))

    def read(
        self,
        choose: Callable[["Media"], np.ndarray],
        use: Callable[["Media", np.ndarray], Result],
    ) -> Result:
        """Choose frames and use them; once more if the container turns out to list wrong ones.

        Args:
            choose: gives numbers of frames of a medium.
            use: takes the medium and these numbers; it may stream the frames.
        """
        try:
            return use(self, choose(self))
        except MisnumberedError as error:
            return use(error.exact, choose(error.exact))

    def stream(
        self,
        indices: Sequence[int] | np.ndarray,
        *,
        size: Size = 336,
        fit: Fit = "crop",
        resize: Resize = "torch",
        batch: int = 16,
    ) -> Iterator[Tensor]:
        """Decode and resize frames in a stream.

        Args:
            indices: [n] frame numbers that never decrease; a repeated number repeats its frame.
            size: S, side of the square frames; or height and width of stretched ones.
            fit: `crop` keeps the centre square as the published evaluation did, `pad` everything.
            resize: `torch`, or `pil` to be bit-exact with CLIPImageProcessor.
            batch: frames in each result; the last may have fewer.

        Yields:
            [batch, 3, S, S] uint8, or [batch, 3, height, width].

        Raises:
            VideoError: an index that does not exist, or a frame that cannot be decoded.
            MisnumberedError: decoding gives other frames than the container lists, so that the
                indices mean nothing; `read` chooses again.
        """
        known = fit in get_args(Fit) and resize in get_args(Resize)
        if not known or min(_short_side(size), batch) < 1:
            raise VideoError(
                f"fit must be one of {get_args(Fit)}, resize one of {get_args(Resize)}, size and "
                f"batch at least 1; got fit={fit!r}, resize={resize!r}, size={size}, batch={batch}."
            )
        wanted = self.choose(indices)
        if np.any(np.diff(wanted) < 0):
            raise VideoError("stream reads forward: sort the indices, or use frames_at.")
        media, done = self, 0
        while done < len(wanted):
            try:
                for pixels in _batches(media, wanted[done:], size, fit, resize, batch):
                    done += len(pixels)
                    yield pixels
            except IndexMismatch as mismatch:
                media = _indexed_by_decoding(media, mismatch)

    def pictures(self, numbers: Sequence[int], *, at_least: int = 0) -> Iterator[np.ndarray]:
        """Yield [height, width, 3] uint8 pictures of strictly increasing frame numbers.

        Args:
            numbers: of frames.
            at_least: pixels that the shorter side keeps where frames of a video, if they are far
                larger, are scaled down while they become RGB; 0 for full size.

        Raises:
            VideoError: a picture is broken.
            IndexMismatch: a frame of a video cannot be had as its index promised.
        """
        if self.video:
            yield from video_pictures(self.video, numbers, at_least=at_least)
        elif self.kind == "animation":
            file = self.files[0]
            assert not isinstance(file, Picture)
            yield from animation_pictures(file, self.max_pixels, numbers)
        else:
            for number in numbers:
                try:
                    yield load_still(self.files[number], self.max_pixels)
                except VideoError as error:
                    remedy = {"allow_truncated": True} if self.kind == "frames" else {}
                    raise VideoError(error.message, **remedy) from error


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Chosen frames, small."""

    pixels: Tensor = field(repr=False)
    """[n, 3, S, S] uint8."""

    indices: np.ndarray
    """[n] int64 frame numbers."""

    media: Media
    """What they are frames of; indexed by decoding, if its container listed other frames."""

    @property
    def pts_seconds(self) -> np.ndarray:
        """[n] float64, presentation times relative to the medium's first frame."""
        return self.media.pts_seconds[self.indices]


class MisnumberedError(VideoError):
    """A container lists other frames than decoding gives; `exact` is indexed by decoding."""

    def __init__(self, message: str, exact: Media):
        super().__init__(message)
        self.exact = exact


def video_media(video: VideoFile, max_pixels: int) -> Media:
    """Return a video file as a medium."""
    return Media(
        name=video.name,
        kind="video",
        pts_seconds=video.seconds,
        keyframes=video.keyframes,
        duration=video.duration,
        width=video.width,
        height=video.height,
        truncated=video.damage,
        max_pixels=max_pixels,
        files=(video.file,),
        video=video,
    )


def _frames(media: Media, indices: np.ndarray, **geometry: Unpack[Geometry]) -> Frames:
    order, done = np.argsort(indices, kind="stable"), 0
    pixels = torch.empty(0)
    for part in media.stream(indices[order], **geometry):
        pixels = pixels if done else part.new_empty(len(indices), *part.shape[1:])
        pixels[torch.from_numpy(order[done : done + len(part)])] = part
        done += len(part)
    return Frames(pixels=pixels, indices=indices, media=media)


def _batches(
    media: Media, wanted: np.ndarray, size: Size, fit: Fit, resize: Resize, batch: int
) -> Iterator[Tensor]:
    numbers, repeats = np.unique(wanted, return_counts=True)
    held: list[Tensor] = []
    at_least = SPARE_PIXELS * _short_side(size) if resize == "torch" else 0
    pictures = media.pictures(numbers.tolist(), at_least=at_least)
    for picture, times in zip(pictures, repeats.tolist(), strict=True):
        height, width = picture.shape[:2]
        if working_pixels(height, width, size, fit) > media.max_pixels:
            raise VideoError(
                f"{media.name}: resizing a frame of {width} x {height} with fit={fit!r} would need "
                f"more than max_pixels={media.max_pixels}. Scale it down first."
            )
        held += [resize_picture(picture, size, fit, resize)] * times
        while len(held) >= batch:
            yield torch.stack(held[:batch])
            held = held[batch:]
    if held:
        yield torch.stack(held)


def _short_side(size: Size) -> int:
    """The shorter side."""
    return size if isinstance(size, int) else min(size)


def _indexed_by_decoding(media: Media, mismatch: IndexMismatch) -> Media:
    """Index a medium again by decoding it, provided that its frames keep their numbers."""
    if media.video is None or media.video.scanned:
        raise VideoError(f"{media.name} cannot be decoded reliably: {mismatch}.") from mismatch
    old, most = media.video, media.max_pixels
    video = open_video(
        old.file,
        old.name,
        track=old.track,
        exact=True,
        bounds=Bounds(pixels=most),
    )
    kept = {"versions": media.versions, "subtitles": media.subtitles}
    exact = replace(video_media(video, most), **kept)
    if not np.array_equal(exact.pts_seconds, media.pts_seconds):
        raise MisnumberedError(
            f"{media.name}: its container lists {len(media)} frames, but decoding gives "
            f"{len(exact)} or other times. Open it with open_media(..., exact=True).",
            exact,
        ) from mismatch
    return exact
