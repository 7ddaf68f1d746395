"""A folder of pictures: their order, and when each is shown.

frames/
frame_2.jpg   Frame_10.JPG     natural order, whatever the case
times.txt                      optional: seconds, or a file's name and its seconds, a line each
"""

import re
from pathlib import Path

import numpy as np

from longva.errors import VideoError, first_few
from longva.files.writing import naming
from longva.media.sampling import seconds_of

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2"),
    *(".avif", ".heic", ".heif"),
}
TIMES = "times.txt"


def images_in(folder: Path) -> tuple[list[Path], str]:
    """Find a folder's images in natural order: frame2.jpg before frame10.jpg.

    Returns:
        The images; and what else is in the folder and is not hidden, in words, or nothing.

    Raises:
        VideoError: there is no image.
    """
    inside = sorted(folder.iterdir(), key=lambda path: natural_order(path.name))
    inside = [path for path in inside if not path.name.startswith(".") and path.name != TIMES]
    images = [p for p in inside if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()]
    others = [p.name + "/" * p.is_dir() for p in inside if p not in images]
    if not images:
        raise VideoError(
            f"the folder {folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}). "
            "Give a folder of frames, or a video file."
        )
    return images, f"left out as no images: {first_few(others)}" if others else ""


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Sort key that reads digits as numbers and takes no notice of case.

    >>> sorted(["f10.jpg", "F2.jpg", "f1.jpg"], key=natural_order)
    ['f1.jpg', 'F2.jpg', 'f10.jpg']
    """
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if part.isdecimal() else part for part in parts], name


def times_of(images: list[Path]) -> tuple[list[Path], np.ndarray | None]:
    """Read when a folder's images are shown, from the file `times.txt` in it.

    Each of its lines has the seconds of an image, in natural order, or the name of an image and its
    seconds, in any order; a time may be a clock (1:02:03.5), and lines that begin with # are notes.

    Returns:
        The images in the order of their times, and [N] float64; None where there is no such file.

    Raises:
        VideoError: the file does not give every image a time of its own.
    """
    file = images[0].parent / TIMES
    if not file.is_file():
        return images, None
    with naming(file):
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    rows = [line.rsplit(maxsplit=1) for line in lines if line and not line.startswith("#")]
    seconds = [seconds_of(row[-1], f"{file}: each line's last word") for row in rows]
    if all(len(row) == 1 for row in rows) and len(rows) == len(images):
        return images, np.array(seconds)
    named = {row[0]: time for row, time in zip(rows, seconds, strict=True)}
    if named.keys() != {image.name for image in images} or len(named) < len(rows):
        raise VideoError(
            f"{file} has {len(rows)} times for {len(images)} images. It needs the seconds of each "
            "image, a line each, or each image's name and its seconds."
        )
    ordered = sorted(images, key=lambda image: named[image.name])
    return ordered, np.array([named[image.name] for image in ordered])
