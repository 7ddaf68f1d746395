"""One image or animation file: the pictures in it, [height, width, 3] uint8, upright."""

import importlib
import io
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import av
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from longva.errors import VideoError
from longva.media.colours import to_rgb
from longva.media.file import File, file_name, open_file

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
DEMUXERS = {"GIF": "gif", "PNG": "apng", "AVIF": "mov"}
"""FFmpeg's names of animated formats. It reads no animations in WebP."""

FILM_SUFFIXES = {".mjpeg", ".mjpg"}
"""Films that are JPEG pictures one after another, which look like the first of them."""

STILL_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif")
"""First words of MP4 files that hold one picture, which is often stored as a mosaic of tiles."""

DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError, TypeError),
    RuntimeError,  # of its AVIF
    *(struct.error, Image.DecompressionBombError),
)
"""What Pillow raises on broken files."""


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn what Pillow raises on a broken file into a `VideoError`."""
    try:
        yield
    except VideoError:
        raise
    except DECODE_ERRORS as error:
        raise VideoError(f"{name} is broken: {error}. Copy it again.") from error


def open_image(file: File, max_pixels: int) -> Image.Image | None:
    """Open a picture without loading its pixels; None if the file is something else.

    Raises:
        VideoError: the file cannot be opened, or its picture has more than `max_pixels` or is of a
            kind that Pillow cannot read.
    """
    if Path(file_name(file)).suffix.lower() in FILM_SUFFIXES:
        return None
    Image.init()  # without it only the commonest formats are known
    with suppress(ImportError):  # Pillow itself reads no HEIC
        importlib.import_module("pillow_heif").register_heif_opener()
    source = file if isinstance(file, Path) else open_file(file)
    try:
        image = Image.open(source, formats=[name for name in IMAGE_FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        if problem := _why_unreadable(file):
            raise VideoError(f"{file_name(file)} is {problem}") from error
        return None
    except Image.DecompressionBombError as error:
        raise VideoError(f"{file_name(file)}: {error} Scale it down first.") from error
    except DECODE_ERRORS as error:
        raise VideoError(f"{file_name(file)} cannot be opened: {error}.") from error
    if image.width * image.height > max_pixels:
        raise VideoError(
            f"{file_name(file)}: a picture of {image.width} x {image.height} exceeds "
            f"max_pixels={max_pixels}. Scale it down first."
        )
    return image


def _why_unreadable(file: File) -> str:
    """What a picture is that Pillow does not know; nothing if the file is no picture."""
    with open_file(file) as opened:
        head = opened.read(12)
    if head[4:8] == b"ftyp" and head[8:] in STILL_BRANDS:  # FFmpeg would show its first tile
        return (
            "a HEIC or AVIF picture that longva cannot read. Convert it to JPEG or PNG, or try "
            "`pip install pillow-heif`."
        )
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "a TIFF of a kind that Pillow cannot read. Convert it to PNG."
    return ""


def is_animation(image: Image.Image) -> bool:
    """Whether an image moves. Other files of many pictures, such as TIFF, show their first."""
    with decoding(f"a {image.format} animation"):  # a GIF is searched for its second frame
        return image.format in ANIMATED_FORMATS and getattr(image, "is_animated", False)


def require_image(file: File, max_pixels: int) -> Image.Image:
    """Open a picture without loading its pixels.

    Raises:
        VideoError: not an image, or too large.
    """
    image = open_image(file, max_pixels)
    if image is None:
        raise VideoError(f"{file_name(file)} is not an image. Take it out or replace it.")
    return image


def upright_size(file: File, max_pixels: int) -> tuple[int, int]:
    """Width and height of a picture once turned upright, from its header.

    Raises:
        VideoError: not an image, too large or broken.
    """
    with decoding(file_name(file)), require_image(file, max_pixels) as image:
        if image.format == "TIFF":  # whose size Pillow turns itself
            return image.size
        # A PNG may tell its orientation behind its pixels, which have to be decoded to get there.
        late = image.format == "PNG" and any(
            kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt") for kind in _png_chunks_at_end(file)
        )
        exif = image.getexif() if late else Image.Image.getexif(image)
        turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else image.size


def _png_chunks_at_end(file: File) -> list[bytes]:
    """Kinds of the chunks after the first with pixels."""
    kinds: list[bytes] = []
    with open_file(file) as opened:
        opened.seek(8)  # the signature
        while len(head := opened.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kinds or kind == b"IDAT":
                kinds.append(kind)
            opened.seek(length + 4, io.SEEK_CUR)  # a checksum follows the data
    return kinds


def load_image(file: File, max_pixels: int) -> np.ndarray:
    """Load one picture, turned upright as its EXIF data say.

    Raises:
        VideoError: not an image, too large or broken.
    """
    with decoding(file_name(file)), require_image(file, max_pixels) as image:
        ImageOps.exif_transpose(image, in_place=True)  # a copy would not know its format
        return np.array(to_rgb(image))


def animation_pictures(file: File, max_pixels: int, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield pictures of an animation by increasing number; those after the last are not composed.

    Raises:
        VideoError: broken.
    """
    with decoding(file_name(file)), require_image(file, max_pixels) as image:
        for number in numbers:
            image.seek(number)
            yield np.array(to_rgb(image))


def picture_count(file: File, image: Image.Image, most: float) -> int:
    """Count the pictures of an animation from headers, no further than one past `most`.

    Args:
        file: the animation.
        image: the same, opened.
        most: pictures that are of interest. Pillow reads all of a GIF, however long, to tell.

    Raises:
        VideoError: broken.
    """
    with decoding(file_name(file)):
        if image.format == "GIF":
            with open_file(file) as opened, av.open(opened, format=DEMUXERS["GIF"]) as tracks:
                pictures = (packet for packet in tracks.demux() if packet.size)
                count = sum(1 for _ in islice(pictures, int(most) + 1))
            if count > most:
                return count
        return getattr(image, "n_frames", 1)


def animation_durations(file: File, image: Image.Image) -> list[float]:
    """Seconds that each picture of an animation is shown, from headers; none is composed.

    Browsers show a picture without a useful duration for a tenth of a second.

    Args:
        file: the animation.
        image: the same, opened.

    Raises:
        VideoError: broken.
    """
    with decoding(file_name(file)):
        count = getattr(image, "n_frames", 1)
        if image.format == "WEBP":
            durations = _webp_durations(file)
        else:
            durations = _packet_durations(file, DEMUXERS[str(image.format)], count)
        if len(durations) != count:  # a container that no header describes: compose them
            durations = []
            for number in range(count):
                image.seek(number)
                image.load()
                durations.append(image.info.get("duration", 0) / 1000)
    return [seconds if seconds > 0.010 else 0.1 for seconds in durations]


def _packet_durations(file: File, demuxer: str, count: int) -> list[float]:
    """Durations in a file's track of `count` packets; nothing if there is no such track."""
    durations: dict[int, list[float]] = defaultdict(list)  # by track
    options = {"default_fps": "10"} if demuxer == "apng" else {}
    try:
        with open_file(file) as opened, av.open(opened, format=demuxer, options=options) as tracks:
            for packet in tracks.demux():
                if packet.size:
                    seconds = (packet.duration or 0) * (packet.time_base or 0)
                    durations[packet.stream_index].append(round(float(seconds), 5))
    except av.FFmpegError:
        return []
    return next((track for track in durations.values() if len(track) == count), [])


def _webp_durations(file: File) -> list[float]:
    """Durations in the frames' headers of a WebP file."""
    durations = []
    with open_file(file) as opened:
        opened.seek(12)  # the file's own header
        while len(head := opened.read(8)) == 8:
            kind, length = struct.unpack("<4sI", head)
            end = opened.tell() + length + length % 2
            if kind == b"ANMF":
                opened.seek(12, io.SEEK_CUR)  # place and size
                durations.append(int.from_bytes(opened.read(3), "little") / 1000)
            opened.seek(end)
    return durations


def other_pages(image: Image.Image) -> str:
    """Say that only the first picture of a TIFF of several is read; nothing of other files."""
    with decoding("a TIFF picture"):
        pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    return f"only the first of its {pages} pictures is read" if pages > 1 else ""
