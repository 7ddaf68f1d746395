"""The frames that an answer rests on, as pictures: in a folder, and in a notebook.

write_evidence(answer, media, folder)      folder/0-34-54.0_frame_2094.jpg ...
answer in a notebook                       the answer, a time line and thumbnails
"""

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from longva.errors import LongVAError
from longva.files.writing import write_whole
from longva.media.frames import Media
from longva.media.medium import open_media
from longva.media.sampling import clock
from longva.reporting.figure import new_figure, plain_axes
from longva.reporting.page import data_uri, page_template

THUMBNAIL = 160
"""Longest side in pixels."""


def pictures_of(items: Sequence[Any], media: Sequence[Media]) -> list[Image.Image]:
    """Decode the frames of evidence, or the best ones of what was found, in full size.

    Args:
        items: each with its `medium` and `frame`.
        media: what these are numbers of.

    Returns:
        A picture of each item; an image is shown whole for each of its grids.

    Raises:
        VideoError: a frame cannot be decoded.
    """
    pictures = {}
    places = [(i.medium, 0 if media[i.medium].kind == "image" else i.frame) for i in items]
    for number, medium in enumerate(media):
        frames = sorted({frame for of, frame in places if of == number})
        for frame, pixels in zip(frames, medium.pictures(frames), strict=True):
            pictures[number, frame] = Image.fromarray(pixels)
    return [pictures[place] for place in places]


def write_evidence(answer: Any, media: Sequence[Media], folder: Path) -> list[Path]:
    """Write the frames that an answer rests on as JPEG files named by time, medium and frame.

    Args:
        answer: an `Answer`.
        media: what it was asked about.
        folder: is made if it is missing.

    Returns:
        The files, in the order of the evidence.
    """
    files, shown = [], answer.shown_evidence
    for item, image in zip(shown, pictures_of(shown, media), strict=True):
        medium = f"medium_{item.medium + 1}_" if len(media) > 1 else ""
        time = "" if item.seconds is None else f"{clock(item.seconds).replace(':', '-')}_"
        files.append(folder / f"{medium}{time}frame_{item.frame}.jpg")
        write_whole(files[-1], jpeg(image))
    return files


def evidence_page(answer: Any) -> str:
    """Draw an answer for a notebook; pictures are those of media whose files are still there."""
    shown = answer.shown_evidence
    pictures: Sequence[Image.Image | None] = [None] * len(shown)
    with suppress(LongVAError):
        if all(Path(name).exists() for name in answer.media):
            pictures = pictures_of(shown, [open_media(name) for name in answer.media])
    rows = []
    for item, image in zip(shown, pictures, strict=True):
        if image is not None:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
        uri = image and data_uri(jpeg(image), "image/jpeg")
        where = item.file or f"grid {item.frame}" if item.seconds is None else clock(item.seconds)
        rows.append({"where": f"{answer.film_of(item)} {where}".strip(), "item": item, "uri": uri})
    page = page_template(Path(__file__).with_name("answer.html.jinja"))
    # A line for each medium that lasts, all of one scale.
    lasting = enumerate(zip(answer.names, answer.durations, strict=False))
    lines = [(number, name, seconds) for number, (name, seconds) in lasting if seconds]
    return page.render(answer=answer, rows=rows, lines=lines, end=_end(answer))


def _end(answer: Any) -> float:
    """Seconds at which the longest medium of an answer ends."""
    seconds = (item.seconds or 0.0 for item in answer.evidence)
    return max([0.0, *answer.durations, *seconds]) or 1.0


def evidence_figure(answer: Any) -> Any:
    """Draw an answer's evidence over time, a panel a medium; see `Answer.plot`."""
    timed = [item for item in answer.evidence if item.seconds is not None]
    if not timed:
        raise LongVAError("there is nothing to plot: the answer's evidence has no times.")
    media = sorted({item.medium for item in timed})
    figure, panels = new_figure(7, 0.8 + 1.4 * len(media), len(media), squeeze=False, sharex=True)
    for number, ax in zip(media, panels[:, 0], strict=True):
        own = [item for item in timed if item.medium == number]
        ax.stem([item.seconds for item in own], [item.weight for item in own], basefmt=" ")
        ax.set_xlim(0, _end(answer))
        ax.set_ylim(0)
        ax.set_title(answer.names[number], loc="left", fontsize="small")
        ax.xaxis.set_major_formatter(lambda seconds, _: clock(max(0.0, seconds)).partition(".")[0])
        plain_axes(ax)
    panels[0, 0].set_ylabel("evidence")
    figure.suptitle(f"{answer.question}  {answer.text}", fontsize="medium", parse_math=False)

    def png() -> bytes:
        written = io.BytesIO()
        figure.savefig(written, format="png", dpi=100)
        return written.getvalue()

    figure._repr_png_ = png  # notebooks draw figures of pyplot only
    return figure


def jpeg(image: Image.Image) -> bytes:
    """Return an image as the bytes of a JPEG file."""
    written = io.BytesIO()
    image.convert("RGB").save(written, "JPEG", quality=92)
    return written.getvalue()
