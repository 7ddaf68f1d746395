"""One picture of a medium: in a file, or in the hands of the program."""

import hashlib
from typing import Any

import numpy as np
from PIL import Image

from longva.errors import VideoError
from longva.media.address import locate
from longva.media.file import File, file_name, open_file
from longva.media.image_file import decoding, load_image, upright_size
from longva.media.pixels import Picture, is_pixels, pixels_of, rgb_pixels, shown_size

Still = File | Picture


def as_still(given: Any) -> Still:
    """Take a source, a PIL image or the pixels of one picture.

    Raises:
        VideoError: it is none of them, or several pictures.
    """
    if not is_pixels(given):
        return locate(given)
    if isinstance(given, Image.Image):
        return given
    pixels = pixels_of(given)
    if pixels.ndim != 3:
        raise VideoError(f"a list holds single pictures, but one has the shape {pixels.shape}.")
    return pixels


def still_name(still: Still) -> str:
    """What messages call a picture."""
    if isinstance(still, Picture):
        width, height = shown_size(still)
        return f"a picture of {width} x {height} pixels"
    return file_name(still)


def still_size(still: Still, max_pixels: int) -> tuple[int, int]:
    """Width and height of a picture once turned upright; of a file, from its header.

    Raises:
        VideoError: not an image, too large or broken.
    """
    if not isinstance(still, Picture):
        return upright_size(still, max_pixels)
    width, height = shown_size(still)
    if width * height > max_pixels:
        raise VideoError(
            f"{still_name(still)} exceeds max_pixels={max_pixels}. Scale it down first."
        )
    return width, height


def load_still(still: Still, max_pixels: int) -> np.ndarray:
    """Load a picture: [height, width, 3] uint8, upright.

    Raises:
        VideoError: not an image, too large or broken.
    """
    if isinstance(still, Picture):
        still_size(still, max_pixels)
        with decoding(still_name(still)):  # a PIL image may be read only now
            return rgb_pixels(still)
    return load_image(still, max_pixels)


def content_digest(content: Still) -> bytes:
    """SHA-256 of a file's bytes, or of a picture's size and pixels."""
    if isinstance(content, Picture):
        pixels = rgb_pixels(content)
        return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
    with open_file(content) as opened:
        return hashlib.file_digest(opened, "sha256").digest()
