"""Open untrusted media; reject decompression bombs.

What the work depends on is read from headers and packets, and checked before anything is decoded.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from longva.errors import VideoError
from longva.media.bounds import Bounds
from longva.media.file import HeldFile, file_name, open_file
from longva.media.frames import video_media
from longva.media.image_file import is_animation, open_image, picture_count
from longva.media.medium import MAX_ANIMATION_PIXELS, Media, open_media
from longva.media.video_index import open_video
from longva.serve.limits import Limits

logger = logging.getLogger("longva.serve")


@dataclass(frozen=True, kw_only=True)
class FrameList:
    """How the pictures of a video are watched that is given as a list of them."""

    fps: float | None = None
    """Frames a second of the video, or of the list; without, they have no times."""

    indices: tuple[int, ...] = ()
    """Numbers of the pictures in the video; without, they are all of it."""

    chosen: bool = True
    """Whether each is watched, whatever the rule for films."""

    most: int | None = None
    """How many of chosen ones are watched at most."""


def open_within(
    file: Path | HeldFile,
    limits: Limits,
    name: str,
    frames: Sequence[int] = (),
    times: FrameList = FrameList(),
) -> Media:
    """Open an untrusted medium.

    Args:
        file: to open.
        limits: of pixels, frames and seconds.
        name: what messages call it; they never name the path.
        frames: bytes of each picture, if the file is a list of pictures.
        times: of such pictures.

    Raises:
        VideoError: not a video or image, broken, or beyond the limits.
    """
    try:
        if frames:
            media = replace(_open_list(file, frames, times, limits), chosen=times.most)
        else:
            media = _open(file, limits, name)
    except VideoError as error:
        raise VideoError(error.message.replace(file_name(file), name), **error.remedies) from error
    except Exception as error:  # any failure of a decoder is taken as a fault of the medium
        logger.warning("a medium cannot be opened", exc_info=error)
        raise VideoError(f"{name} is not a video or image that can be read.") from error
    video = media.video and replace(media.video, name=name)
    return replace(media, name=name, video=video)


def _open_list(file: Path | HeldFile, sizes: Sequence[int], times: FrameList, limits) -> Media:
    with open_file(file) as opened:
        pictures = [opened.read(size) for size in sizes]
    if times.indices and len(times.indices) != len(pictures):
        raise VideoError(
            f"frames_indices are {len(times.indices)} numbers for {len(pictures)} frames: one each."
        )
    if times.fps is None:
        return open_media(pictures, max_pixels=limits.pixels)
    seconds = np.array(times.indices or range(len(pictures))) / times.fps
    return open_media(pictures, seconds=seconds, max_pixels=limits.pixels)


def _open(file: Path | HeldFile, limits: Limits, name: str) -> Media:
    image = open_image(file, limits.pixels)
    if image is None:
        bounds = Bounds(
            pixels=limits.pixels, frames=limits.stored_frames, all_pixels=limits.decoded_pixels
        )
        media = video_media(open_video(file, file_name(file), bounds=bounds), limits.pixels)
    else:
        with image:
            if is_animation(image):
                check_animation(file, image, limits, name)
        media = open_media(file, max_pixels=limits.pixels)
    if media.kind != "image":
        _check_seconds(media.duration, limits, name)
    return media


def check_animation(file: Path | HeldFile, image: Image.Image, limits: Limits, name: str) -> None:
    """Count the pictures of a GIF, WebP or PNG animation against the limits."""
    pixels = image.width * image.height
    most = min(limits.animation_pixels / pixels, limits.animation_frames)
    if (
        pixels > MAX_ANIMATION_PIXELS
        or _size(file) > limits.animation_bytes
        or picture_count(file, image, most) > most
    ):
        raise VideoError(
            f"{name} is too large an animation: {limits.animation_bytes:,} bytes, "
            f"{limits.animation_frames:,} pictures, {MAX_ANIMATION_PIXELS:,} pixels a picture and "
            f"{limits.animation_pixels:,.0f} in all are allowed. Shorten it, or send a video."
        )


def _size(file: Path | HeldFile) -> int:
    return file.stat().st_size if isinstance(file, Path) else file.size


def _check_seconds(seconds: float, limits: Limits, name: str) -> None:
    if seconds > limits.media_seconds:
        raise VideoError(
            f"{name} lasts {seconds:,.0f} seconds, {limits.media_seconds:,.0f} are allowed. Cut it."
        )
