"""What stands around and between frames in a prompt: names of media, times, subtitles.

    system . user . a.mp4: 0:00:00 . frame . frame . "Hello" 0:00:10 . frame . frame . question
                    [before 0    ]                   [before 2     ]

A conversation is kept as texts; its media are put before the first one whenever a prompt is made of
it, because media that are watched on have more parts then; or, if a client wants it so, where a
text has the mark `PLACE`. Times, and what becomes of all this in a message, are
`prompts/between_frames.py`'s.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from longva.errors import LongVAError
from longva.media.medium import Media
from longva.model.chat_format import text_ids
from longva.prompts.between_frames import parts_of, times_between
from longva.prompts.phrases import phrases
from longva.watching.features import FrameSettings, WatchedFrames

PLACE = "\ufdd1"
"""Stands in a text for a medium. Unicode keeps this character for the inside of programs."""


def with_media(
    messages: Sequence[Mapping[str, Any]], media: Sequence[WatchedFrames]
) -> tuple[list[dict[str, Any]], list[int]]:
    """Put media before the text of the first message, or where the messages have `PLACE`.

    Args:
        messages: `role` and `content`; media that a content holds are replaced, each in its place
            where the media are `in_place`.
        media: that were watched.

    Returns:
        Messages as a chat template takes them, and the rows of each of their parts that is frames.
    """
    cut = [parts_of(m.kind, m.texts, m.after) for m in media]
    rows = [
        n * m.tokens_per_frame for m, (_, frames) in zip(media, cut, strict=True) for n in frames
    ]
    if media and media[0].in_place:
        return _in_place(messages, [parts for parts, _ in cut]), rows
    content = [part for parts, _ in cut for part in parts]
    first = dict(messages[0])
    told = first["content"]
    if not isinstance(told, str):
        told = "".join(part["text"] for part in told if part["type"] == "text")
    first["content"] = [*content, {"type": "text", "text": told}]
    return [first, *map(dict, messages[1:])], rows


def _in_place(
    messages: Sequence[Mapping[str, Any]], media: Sequence[list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Put media where messages have `PLACE`, or media as parts, in order.

    A place without a medium is left out.
    """
    said, ahead = [], iter(media)
    for message in messages:
        if not isinstance(message["content"], str):
            own = [[p] if p["type"] == "text" else next(ahead, []) for p in message["content"]]
            said.append({**message, "content": [part for parts in own for part in parts]})
            continue
        first, *others = message["content"].split(PLACE)
        parts = [{"type": "text", "text": first}] if first else []
        for text in others:
            parts += next(ahead, [])
            parts += [{"type": "text", "text": text}] if text else []
        said.append({**message, "content": parts if others else first})
    return said


def labels(media: Sequence[Media], settings: FrameSettings, config: Any = None) -> list[str]:
    """Name several media by their files, equal names numbered; one alone needs no name.

    Args:
        media: that are watched.
        settings: of their frames.
        config: of the model. With `names_media` false it is told none: the embedded one never read
            a name, and takes it for words of the question, or for something that is shown.
    """
    if len(media) < 2 or not settings.named or not getattr(config, "names_media", True):
        return [""] * len(media)
    return unique_names([medium.name for medium in media])


def unique_names(sources: Sequence[str]) -> list[str]:
    """Name media by their files, equal names numbered.

    >>> unique_names(["a/film.mp4", "b/film.mp4", "c.mp4"])
    ['film.mp4 (1)', 'film.mp4 (2)', 'c.mp4']
    """
    names = [Path(source).name or source for source in sources]
    return [
        f"{name} ({names[: number + 1].count(name)})" if names.count(name) > 1 else name
        for number, name in enumerate(names)
    ]


def told_between(
    frames: WatchedFrames,
    media: Media,
    settings: FrameSettings,
    *,
    label: str = "",
    before: WatchedFrames | None = None,
) -> WatchedFrames:
    """Say what stands before and between frames: a medium's name, its subtitles, times.

    A subtitle stands after the frame that is on screen when it begins; a time before the first
    frame at or after each multiple of `settings.time_tokens` seconds. Of frames that go on after
    those `before`, times stand where they would in the whole.

    Raises:
        LongVAError: times or subtitles are asked for, and the frames have no times.
    """
    words, every = phrases()["between_frames"], settings.time_tokens
    told: list[list[str]] = [[] for _ in range(len(frames) + 1)]
    if label:
        told[0].append(words["label"].format(name=label))
    if frames.kind == "image" or not len(frames):
        every, cues = None, ()
    else:
        cues = media.subtitles
    if (every is not None or cues) and frames.seconds is None:
        raise LongVAError(
            f"{media.name} has no times, which subtitles and times in the prompt need.",
            frames_fps=1,
        )
    seconds = frames.seconds if frames.seconds is not None else np.array([])
    end = frames.shown_from(len(frames))
    for cue in cues:
        if cue.end > seconds[0] and cue.start < (end or 0.0):
            place = int(np.searchsorted(seconds, cue.start, side="right"))
            told[place].append(words["subtitle"].format(text=cue.text))
    if every is not None:
        last = None if before is None or before.seconds is None else float(before.seconds[-1])
        for number, time in enumerate(times_between(seconds.tolist(), every, last)):
            told[number] += [time] if time else []
    texts = tuple("\n".join(lines) for lines in told)
    if not any(texts):
        return frames
    return replace(frames, before=texts[:-1], after=texts[-1])


def told_tokens(
    media: Sequence[Media],
    settings: FrameSettings,
    tokenizer: Any,
    part: tuple[float, float] = (0.0, math.inf),
    config: Any = None,
) -> int:
    """Count the tokens that names, subtitles and times may take, whichever frames are chosen.

    Args:
        media: that are watched.
        settings: of the frames; where media stand among words, these are counted, too.
        tokenizer: of the model.
        part: seconds of videos from which frames are taken.
        config: of the model, see `labels`.
    """
    words, (start, end) = phrases()["between_frames"], part
    texts = [text for _, text in settings.opening]
    for medium, label in zip(media, labels(media, settings, config), strict=True):
        texts += [words["label"].format(name=label)] if label else []
        cues = [cue for cue in medium.subtitles if cue.start < end and start < cue.end]
        texts += [words["subtitle"].format(text=cue.text) for cue in cues]
        if settings.time_tokens is not None and medium.kind != "image":
            seconds = max(0.0, min(medium.duration, end) - max(0.0, start))
            marks = math.ceil(seconds / settings.time_tokens) + 1
            texts += [words["time"].format(time="0:00:00.0")] * min(marks, len(medium))
    return len(text_ids(tokenizer, "\n".join(["", *texts])))
