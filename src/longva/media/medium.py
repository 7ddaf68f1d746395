"""Media as frames: open a video, animation, image or folder, choose frames, read them small.

    open_media(source) -> Media              how many frames, when each is shown; no pixels yet
    choose_frames(...) -> indices            which ones: media/sampling.py
    stream_frames(media, indices)            their pixels, resized while decoding: media/resize.py
    read_frames(source, sampling) -> Frames  the three in one call

One full-size frame is held at a time, besides the few inside the decoder, so memory grows with the
frames asked for at their small size, never with the length or resolution of the video.

N: frames in the medium.  n: frames chosen.  S: side of a resized frame.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from longva.errors import VideoError
from longva.media.resize import Fit, Resize, resize_picture, working_pixels
from longva.media.sampling import FrameSampling, choose_frames
from longva.media.source import (
    Source,
    file_name,
    images_in,
    is_animation,
    load_animation,
    load_image,
    locate,
    open_image,
    other_pages,
)
from longva.media.video_file import IndexMismatch, VideoFile, video_pictures
from longva.media.video_index import open_video

Progress = Callable[[int, int], None]

MAX_PIXELS = 2 * 89_478_485
"""Pixels of one frame: the size from which Pillow calls a picture a decompression bomb."""

MAX_ANIMATION_PIXELS = 32_000_000
"""Less for animations: Pillow composes each of their frames in several full-size buffers."""


@dataclass(frozen=True, kw_only=True)
class Media:
    """What was opened: its frames' times, none of their pixels."""

    name: str
    """What messages call it: the path, or `data of 1234 bytes`."""

    kind: Literal["video", "animation", "image", "frames"]

    seconds: np.ndarray = field(repr=False)
    """[N] float64, presentation times relative to the first frame."""

    keyframes: np.ndarray = field(repr=False)
    """[K] int64, frames that are decoded without another; all of them outside videos."""

    duration: float
    """Seconds until the last frame leaves the screen; 0 for an image."""

    width: int
    height: int
    """Upright size of the first frame; others may differ in a folder."""

    truncated: str = ""
    """What is missing, as in `412 of 600 frames could be decoded`; empty for a sound file."""

    others: str = ""
    """What is there besides the frames: other files of a folder, more pages of a picture."""

    max_pixels: int = MAX_PIXELS
    files: tuple[Path | bytes, ...] = field(repr=False)
    video: VideoFile | None = field(default=None, repr=False)

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.seconds)

    @property
    def left_out(self) -> str:
        """What of the source is not among the frames, in words."""
        return "; ".join(part for part in (self.truncated, self.others) if part)

    def fingerprint(self) -> str:
        """SHA-256 over the content of the file or files, in order, read in a stream."""
        total = hashlib.sha256()
        for file in self.files:
            with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as opened:
                total.update(hashlib.file_digest(opened, "sha256").digest())
        return total.hexdigest()


class MisnumberedError(VideoError):
    """A container misled us about which frames there are; `exact` is the medium decoded to know."""

    def __init__(self, message: str, exact: Media):
        super().__init__(message)
        self.exact = exact


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Chosen frames, small."""

    pixels: Tensor = field(repr=False)
    """[n, 3, S, S] uint8."""

    seconds: np.ndarray
    """[n] float64, presentation times relative to the medium's first frame."""

    indices: np.ndarray
    """[n] int64 frame numbers."""

    num_frames_in_media: int
    duration: float
    truncated: str
    """As in `Media`."""


def open_media(
    source: Source | Sequence[Source],
    *,
    allow_truncated: bool = False,
    exact: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Media:
    """Find out what a source is and when its frames are shown.

    Args:
        source: a path or file:// address of a video, an image (animated or not) or a folder of
            images in natural order (2.jpg before 10.jpg); the bytes of a file; a data: URI; or a
            list of images given in these ways. Folders and lists have no clock: a frame a second.
        allow_truncated: use the frames of a broken video that can be decoded, instead of refusing
            it. This decodes the whole video once to find them.
        exact: decode a whole video once to index it, instead of trusting its container.
        max_pixels: refuse larger frames, which could fill the memory; of animations those larger
            than `MAX_ANIMATION_PIXELS` in any case.

    Raises:
        VideoError: missing, empty, not a medium, without frames, too large, or broken. Damage is
            known as far as FFmpeg notices it, which for HEVC is seldom; and a transport stream
            does not say how long it should be.
    """
    if not isinstance(source, str | Path | bytes):
        files = [locate(one) for one in source]
        return _open_images(files, f"the list of {len(files)} images", "frames", max_pixels)
    file = locate(source)
    name = file_name(file)
    if isinstance(file, Path) and file.is_dir():
        images, others = images_in(file)
        return replace(_open_images(images, name, "frames", max_pixels), others=others)
    image = open_image(file, max_pixels)
    if image is not None:
        with image:
            moves, others = is_animation(image), other_pages(image)
        if moves:
            return _open_animation(file, min(max_pixels, MAX_ANIMATION_PIXELS))
        return replace(_open_images([file], name, "image", max_pixels), others=others)
    video = open_video(
        file, name, exact=exact, allow_truncated=allow_truncated, max_pixels=max_pixels
    )
    return Media(
        name=name,
        kind="video",
        seconds=video.seconds,
        keyframes=video.keyframes,
        duration=video.duration,
        width=video.width,
        height=video.height,
        truncated=video.damage,
        max_pixels=max_pixels,
        files=(file,),
        video=video,
    )


def stream_frames(
    media: Media,
    indices: Sequence[int] | np.ndarray,
    *,
    size: int = 336,
    fit: Fit = "crop",
    resize: Resize = "torch",
    batch: int = 16,
    progress: Progress | None = None,
) -> Iterator[Tensor]:
    """Decode and resize frames in a stream.

    Args:
        media: from `open_media`.
        indices: [n] frame numbers that never decrease; a repeated number repeats its frame.
        size: S, side of the square frames.
        fit: `crop` keeps the centre square as the published evaluation did, `pad` everything.
        resize: `torch`, or `pil` to be bit-exact with CLIPImageProcessor.
        batch: frames in each result; the last may have fewer.
        progress: called with (frames done, n) after each batch.

    Yields:
        [batch, 3, S, S] uint8.

    Raises:
        VideoError: an index that does not exist, or a frame that cannot be decoded.
        MisnumberedError: the container had misled `open_media` about which frames there are, so
            that the indices mean nothing; choose again from the error's `exact`.
    """
    if fit not in get_args(Fit) or resize not in get_args(Resize) or size < 1 or batch < 1:
        raise VideoError(
            f"fit must be one of {get_args(Fit)}, resize one of {get_args(Resize)}, size and batch "
            f"at least 1; got fit={fit!r}, resize={resize!r}, size={size}, batch={batch}."
        )
    wanted = _check_indices(indices, media)
    if np.any(np.diff(wanted) < 0):
        raise VideoError("stream_frames reads forward: sort the indices, or use read_frames.")
    done = 0
    while done < len(wanted):
        try:
            for pixels in _batches(media, wanted[done:], size, fit, resize, batch):
                done += len(pixels)
                yield pixels
                if progress:
                    progress(done, len(wanted))
        except IndexMismatch as mismatch:
            media = _decoded_to_know(media, mismatch)


def read_frames(
    source: Source | Sequence[Source],
    sampling: FrameSampling | Sequence[int] | np.ndarray,
    *,
    size: int = 336,
    fit: Fit = "crop",
    resize: Resize = "torch",
    allow_truncated: bool = False,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> Frames:
    """Open a medium, choose frames and read them.

    Args:
        source: see `open_media`.
        sampling: a rule, or explicit frame numbers in any order, repetitions allowed.
        size: S, side of the square frames.
        fit: see `stream_frames`.
        resize: see `stream_frames`.
        allow_truncated: see `open_media`; the rule is then applied to the decodable frames.
        max_pixels: see `open_media`.
        progress: see `stream_frames`.

    Raises:
        VideoError: see `open_media` and `stream_frames`.
    """
    media = open_media(source, allow_truncated=allow_truncated, max_pixels=max_pixels)
    try:
        return _read(media, sampling, size, fit, resize, progress)
    except MisnumberedError as error:
        return _read(error.exact, sampling, size, fit, resize, progress)


def _read(
    media: Media,
    sampling: FrameSampling | Sequence[int] | np.ndarray,
    size: int,
    fit: Fit,
    resize: Resize,
    progress: Progress | None,
) -> Frames:
    if isinstance(sampling, FrameSampling):
        times, keys = media.seconds, media.keyframes
        indices = choose_frames(times, keys, sampling, duration=media.duration)
    else:
        indices = _check_indices(sampling, media)
    order = np.argsort(indices, kind="stable")
    stream = stream_frames(
        media, indices[order], size=size, fit=fit, resize=resize, progress=progress
    )
    pixels, done = torch.empty(len(indices), 3, size, size, dtype=torch.uint8), 0
    for part in stream:
        pixels[torch.from_numpy(order[done : done + len(part)])] = part
        done += len(part)
    return Frames(
        pixels=pixels,
        seconds=media.seconds[indices],
        indices=indices,
        num_frames_in_media=media.num_frames,
        duration=media.duration,
        truncated=media.truncated,
    )


def _check_indices(indices: Sequence[int] | np.ndarray, media: Media) -> np.ndarray:
    """Frame numbers as [n] int64."""
    numbers = np.asarray(indices)
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
        raise VideoError(f"frame indices must be a list of whole numbers, got {indices!r}.")
    outside = numbers[(numbers < 0) | (numbers >= media.num_frames)]
    if len(outside):
        raise VideoError(
            f"{media.name} has {media.num_frames} frames, numbered 0 to {media.num_frames - 1}; "
            f"frame {outside[0]} was asked for."
        )
    return numbers.astype(np.int64)


def _batches(
    media: Media, wanted: np.ndarray, size: int, fit: Fit, resize: Resize, batch: int
) -> Iterator[Tensor]:
    numbers, repeats = np.unique(wanted, return_counts=True)
    held: list[Tensor] = []
    pictures = _pictures(media, numbers.tolist())
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


def _pictures(media: Media, numbers: list[int]) -> Iterator[np.ndarray]:
    """Yield [height, width, 3] uint8 pictures of strictly increasing frame numbers."""
    if media.video:
        yield from video_pictures(media.video, numbers)
    elif media.kind == "animation":
        wanted = set(numbers)
        for number, (picture, _) in enumerate(load_animation(media.files[0], media.max_pixels)):
            if number in wanted:
                yield picture
    else:
        for number in numbers:
            yield load_image(media.files[number], media.max_pixels)


def _decoded_to_know(media: Media, mismatch: IndexMismatch) -> Media:
    """Index a medium again by decoding it, provided that its frames keep their numbers."""
    if media.video is None or media.video.scanned:
        raise VideoError(f"{media.name} cannot be decoded reliably: {mismatch}.") from mismatch
    exact = open_media(media.files[0], exact=True, max_pixels=media.max_pixels)
    if not np.array_equal(exact.seconds, media.seconds):
        raise MisnumberedError(
            f"{media.name}: its container lists {media.num_frames} frames, but decoding gives "
            f"{exact.num_frames} or other times. Open it with open_media(..., exact=True).",
            exact,
        ) from mismatch
    return exact


def _open_images(
    files: list[Path | bytes], name: str, kind: Literal["image", "frames"], max_pixels: int
) -> Media:
    if not files:
        raise VideoError("the list of images is empty. Give at least one.")
    height, width = load_image(files[0], max_pixels).shape[:2]
    return Media(
        name=name,
        kind=kind,
        seconds=np.arange(len(files), dtype=np.float64),
        keyframes=np.arange(len(files)),
        duration=float(len(files)) if kind == "frames" else 0.0,
        width=width,
        height=height,
        max_pixels=max_pixels,
        files=tuple(files),
    )


def _open_animation(file: Path | bytes, max_pixels: int) -> Media:
    shown = [(picture.shape, seconds) for picture, seconds in load_animation(file, max_pixels)]
    height, width = shown[0][0][:2]
    ends = np.cumsum([seconds for _, seconds in shown])
    return Media(
        name=file_name(file),
        kind="animation",
        seconds=np.concatenate([[0.0], ends[:-1]]),
        keyframes=np.arange(len(shown)),
        duration=float(ends[-1]),
        width=width,
        height=height,
        max_pixels=max_pixels,
        files=(file,),
    )
