"""What `find` found, for eyes and for editing: clips, a contact sheet, subtitles, a cut list."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from longva.errors import LongVAError
from longva.media.clips import write_clip
from longva.media.cue import Cue, one_line
from longva.media.frames import Media
from longva.media.sampling import clock
from longva.watching.evidence_pictures import THUMBNAIL, pictures_of
from longva.watching.find import Found
from longva.watching.turns import unique_names

COLUMNS = 4
CAPTION = 28
"""Pixels below a picture of the sheet."""


def timed(found: Sequence[Found], media: Sequence[Media]) -> list[tuple[Found, float, float]]:
    """Return ranges with their start and end; those of still images, which have none, are left out.

    Raises:
        LongVAError: one is of pictures without a clock.
    """
    moving = [item for item in found if media[item.medium].kind != "image"]
    ranges = [(f, f.start, f.end) for f in moving if f.start is not None and f.end is not None]
    if len(ranges) < len(moving):
        raise LongVAError("these pictures have no times. Give their rate.", frames_fps=1)
    return ranges


def write_clips(found: Sequence[Found], media: Sequence[Media], folder: Path) -> list[Path]:
    """Write each range as an MP4 file named by its rank, medium and start; see `write_clip`."""
    files = []
    for item, start, end in timed(found, media):
        rank, medium = list(found).index(item) + 1, f"medium_{item.medium + 1}_"
        medium = medium if len(media) > 1 else ""
        files.append(folder / f"{rank:02}_{medium}{clock(start).replace(':', '-')}.mp4")
        write_clip(media[item.medium], start, end, files[-1])
    return files


def contact_sheet(found: Sequence[Found], media: Sequence[Media]) -> Image.Image:
    """Draw the best frame of each range with its times and score, the surest first.

    Raises:
        VideoError: a frame cannot be decoded.
    """
    names = unique_names([medium.name for medium in media])
    rows = -(-len(found) // COLUMNS)
    size = (min(len(found), COLUMNS) * THUMBNAIL, rows * (THUMBNAIL + CAPTION))
    sheet = Image.new("RGB", (max(size[0], 1), max(size[1], 1)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for place, (item, image) in enumerate(zip(found, pictures_of(found, media), strict=True)):
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        left, top = place % COLUMNS * THUMBNAIL, place // COLUMNS * (THUMBNAIL + CAPTION)
        below = top + THUMBNAIL
        sheet.paste(image, (left + (THUMBNAIL - image.width) // 2, below - image.height))
        medium = f"{names[item.medium]}, " if len(media) > 1 else ""
        text = f"{medium}{when(item)}\nscore {item.score:.2g}"
        draw.text((left + 4, below), text, fill="black", font=font)
    return sheet


def when(item: Found) -> str:
    """Say when a range is shown, or which frames it has."""
    if item.start is None or item.end is None:
        return f"frames {item.first} to {item.last}"
    return f"{clock(item.start)} - {clock(item.end)}"


def cues(found: Sequence[Found], media: Sequence[Media], query: str) -> list[Cue]:
    """Return ranges as subtitles in the order of time, for a player that shows where they are.

    Raises:
        LongVAError: they are of several media, or have no times.
    """
    ranges = sorted(timed(found, media), key=lambda one: one[1])
    if len({item.medium for item, _, _ in ranges}) > 1:
        raise LongVAError("subtitles belong to one film. Find in each film alone.")
    return [Cue(start, end, f"{query} ({item.score:.2g})") for item, start, end in ranges]


def edl(found: Sequence[Found], media: Sequence[Media], title: str) -> str:
    """Write ranges as an edit decision list (CMX 3600), which editing programs cut films by.

    Timecodes count a film's frames, at its rate rounded to whole frames a second, without drop.
    """
    lines = [f"TITLE: {one_line(title)}", "FCM: NON-DROP FRAME", ""]
    at = 0
    for number, (item, start, end) in enumerate(timed(found, media), start=1):
        medium = media[item.medium]
        steps = np.diff(medium.pts_seconds)
        rate = 1 / float(np.median(steps)) if len(steps) else 1.0
        nominal = max(1, round(rate))
        begin, stop = round(start * rate), round(end * rate)
        codes = (begin, stop, at, at + stop - begin)
        times = " ".join(timecode(frame, nominal) for frame in codes)
        lines += [
            f"{number:03}  AX       V     C        {times}",
            f"* FROM CLIP NAME: {one_line(Path(medium.name).name)}",
            *([f"* SOURCE FILE: {one_line(medium.name)}"] if len(media) > 1 else []),
            f"* COMMENT: score {item.score:.3g}",
            "",
        ]
        at += stop - begin
    return "\n".join(lines)


def timecode(frame: int, rate: int) -> str:
    """Write the number of a frame as hours, minutes, seconds and frames.

    >>> timecode(25 * 61 + 3, 25)
    '00:01:01:03'
    """
    seconds, frames = divmod(frame, rate)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:{frames:02}"
