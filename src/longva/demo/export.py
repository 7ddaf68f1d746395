"""What a visitor takes along: JSON, subtitles, clips.

An answer's clips are the watched frames that it rests on, with a moment before and after each; a
search's are its ranges.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from longva.demo.medium import Medium, names_of
from longva.demo.visitor import Job, Turn
from longva.errors import LongVAError
from longva.finite import to_json
from longva.media.clips import write_clip
from longva.media.cue import Cue, srt
from longva.media.sampling import clock
from longva.reporting.page import data_uri
from longva.watching.answer import Evidence
from longva.watching.found_files import cues, timed
from longva.watching.summarize import Summary
from longva.watching.tasks import Ranges

AROUND = 1.0
"""Seconds before and after a frame in its clip."""


@dataclass(frozen=True, kw_only=True)
class File:
    """Something to download."""

    label: str
    name: str
    address: str
    """data: URI."""


def _file(label: str, name: str, text: str, kind: str) -> File:
    return File(label=label, name=name, address=data_uri(text.encode(), kind))


def files_of(work: Turn | Job) -> list[File]:
    """Return what can be downloaded at once of work that is done."""
    films = [medium for medium in work.media if not medium.is_image]
    files, names = [], names_of(work.media)
    if isinstance(work, Turn) and work.answer is not None:
        told = to_json(work.answer.to_json(), indent=2, ensure_ascii=False)
        files.append(_file("JSON", "answer.json", told, "application/json"))
        for film in films:
            number = work.media.index(film)
            text = srt(evidence_cues(work, number))
            if text:
                label = "SRT" if len(films) == 1 else f"SRT of {names[number]}"
                files.append(_file(label, f"{film.path.stem}.srt", text, "application/x-subrip"))
    elif isinstance(work, Job) and isinstance(work.result, Summary):
        told = to_json(work.result.to_json(), indent=2, ensure_ascii=False)
        files.append(_file("JSON", "summary.json", told, "application/json"))
        files.append(_file("SRT", "chapters.srt", work.result.srt(), "application/x-subrip"))
        files.append(_file("Markdown", "summary.md", work.result.markdown(), "text/markdown"))
    elif isinstance(work, Job) and isinstance(work.result, Ranges):
        result, media = work.result, [medium.media for medium in work.media]
        told = result.to_json(names)
        text = to_json(told, indent=2, ensure_ascii=False)
        files.append(_file("JSON", "found.json", text, "application/json"))
        for film in films:
            number = work.media.index(film)
            own = [one for one in result.ranges if one.medium == number]
            if own and film.media.has_clock:
                label = "SRT" if len(films) == 1 else f"SRT of {names[number]}"
                text = srt(cues(own, media, result.query))
                files.append(_file(label, f"{film.path.stem}.srt", text, "application/x-subrip"))
    return files


def shown_until(turn: Turn, item: Evidence) -> float:
    """Seconds when the watched frame after a frame of evidence is shown, or its film ends."""
    times = (other.seconds for other in turn.attention if other.medium == item.medium)
    later = [time for time in times if time is not None and time > (item.seconds or 0.0)]
    return min(later, default=turn.media[item.medium].media.duration)


def evidence_cues(turn: Turn, number: int) -> list[Cue]:
    """Return the answer as subtitles of a film: at the frames that it rests on, in their order."""
    assert turn.answer is not None
    return [
        Cue(item.seconds, shown_until(turn, item), f"{turn.answer.text} ({item.weight:.2f})")
        for item in sorted(turn.answer.shown_evidence, key=lambda item: item.seconds or 0.0)
        if item.medium == number and item.seconds is not None
    ]


def parts_of(work: Turn | Job) -> list[tuple[Medium, float, float]]:
    """Return what is cut: a film, and seconds of its beginning and end; the surest first."""
    if isinstance(work, Job):
        ranges = work.result.ranges if isinstance(work.result, Ranges) else []
        found = timed(ranges, [medium.media for medium in work.media])
        return [(work.media[one.medium], start, end) for one, start, end in found]
    parts = []
    for item in work.answer.shown_evidence if work.answer else ():
        medium = work.media[item.medium]
        if not medium.is_image and item.seconds is not None:
            end = min(shown_until(work, item) + AROUND, medium.media.duration)
            parts.append((medium, max(0.0, item.seconds - AROUND), end))
    return parts


def write_clips(parts: Sequence[tuple[Medium, float, float]], folder: Path) -> Path:
    """Cut parts of films into MP4 files, and put them into one ZIP file.

    Args:
        parts: what `parts_of` gave.
        folder: where the file lies, in a folder of its own.

    Raises:
        LongVAError: there is nothing to cut, or a part cannot be cut.
    """
    if not parts:
        raise LongVAError("there is nothing to cut: no film with times is shown here.")
    place = folder / f"clips-{uuid4().hex}"
    place.mkdir(mode=0o700)
    target = place / "clips.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for number, (medium, start, end) in enumerate(parts, start=1):
            at = clock(start).replace(":", "-")
            clip = place / f"{number:02}_{medium.path.stem}_{at}.mp4"
            write_clip(medium.media, start, end, clip)
            archive.write(clip, clip.name)
            clip.unlink()
    return target
