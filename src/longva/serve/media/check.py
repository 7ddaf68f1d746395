"""Open untrusted media; reject decompression bombs.

What the work depends on is read from headers and packets, and checked before anything is decoded.
"""

import logging
from dataclasses import replace
from pathlib import Path

from PIL import Image

from longva.errors import VideoError
from longva.media.bounds import Bounds
from longva.media.file import HeldFile, file_name
from longva.media.frames import video_media
from longva.media.medium import MAX_ANIMATION_PIXELS, Media, open_media
from longva.media.source import is_animation, open_image
from longva.media.video_index import open_video
from longva.serve.limits import Limits

logger = logging.getLogger("longva.serve")


def open_within(file: Path | HeldFile, limits: Limits, name: str) -> Media:
    """Open an untrusted medium.

    Args:
        file: to open.
        limits: of pixels, frames and seconds.
        name: what messages call it; they never name the path.

    Raises:
        VideoError: not a video or image, broken, or beyond the limits.
    """
    try:
        media = _open(file, limits, name)
    except VideoError as error:
        raise VideoError(error.message.replace(file_name(file), name), **error.remedies) from error
    except Exception as error:  # any failure of a decoder is taken as a fault of the medium
        logger.warning("a medium cannot be opened", exc_info=error)
        raise VideoError(f"{name} is not a video or image that can be read.") from error
    video = media.video and replace(media.video, name=name)
    return replace(media, name=name, video=video)


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
                check_animation(image, _size(file), limits, name)
        media = open_media(file, max_pixels=limits.pixels)
    if media.kind != "image":
        _check_seconds(media.duration, limits, name)
    return media


def check_animation(image: Image.Image, size: int, limits: Limits, name: str) -> None:
    """Count the pictures of a GIF, WebP or PNG animation against the limits."""
    pixels = image.width * image.height
    most = min(limits.animation_pixels / pixels, limits.animation_frames)
    if (
        pixels > MAX_ANIMATION_PIXELS
        or size > limits.animation_bytes
        or getattr(image, "n_frames", 1) > most
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
