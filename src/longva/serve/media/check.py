"""Open untrusted media; reject decompression bombs.

A file of a few bytes can decode to gigapixels, a million frames or hours of black. What the work
depends on is read from headers and packets and checked before the medium is indexed or decoded.
"""

import logging
from dataclasses import replace
from pathlib import Path

import av
from PIL import Image

from longva.errors import VideoError
from longva.media.file import HeldFile, file_name
from longva.media.medium import MAX_ANIMATION_PIXELS, Media, open_media
from longva.media.source import is_animation, open_image
from longva.media.video_track import open_stream
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
        check_video(file, limits, name)
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


def check_video(file: Path | HeldFile, limits: Limits, name: str) -> None:
    """Count the packets of a video against the limits, without decoding any."""
    with open_stream(file, name) as (container, stream):
        pixels = stream.codec_context.width * stream.codec_context.height
        if pixels > limits.pixels:
            raise VideoError(
                f"{name} has frames of {pixels:,} pixels, {limits.pixels:,} are allowed. "
                "Scale it down first."
            )
        most = min(limits.stored_frames, limits.decoded_pixels / max(1, pixels))
        if stream.duration and stream.time_base:
            _check_seconds(float(stream.duration * stream.time_base), limits, name)
        first, packets = None, 0
        try:
            for packet in container.demux(stream):
                packets += 1
                if packets > most:
                    raise VideoError(
                        f"{name} has too many frames of its size: {most:,.0f} are allowed. "
                        "Shorten it or scale it down first."
                    )
                if packet.pts is not None and packet.time_base is not None:
                    first = packet.pts if first is None else min(first, packet.pts)
                    _check_seconds(float((packet.pts - first) * packet.time_base), limits, name)
        except (av.FFmpegError, IndexError):
            pass  # `open_media` says what is wrong with the file


def _size(file: Path | HeldFile) -> int:
    return file.stat().st_size if isinstance(file, Path) else file.size


def _check_seconds(seconds: float, limits: Limits, name: str) -> None:
    if seconds > limits.media_seconds:
        raise VideoError(
            f"{name} lasts {seconds:,.0f} seconds, {limits.media_seconds:,.0f} are allowed. Cut it."
        )
