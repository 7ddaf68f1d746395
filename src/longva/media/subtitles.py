"""Subtitles: what is said when, read from SRT, WebVTT and ASS files and from a film's text tracks.

FFmpeg reads them; what formats a text (colours, places, voices) is left out.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import av
from av.container import InputContainer
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle

from longva.errors import VideoError
from longva.media.cue import Cue
from longva.media.frames import Media
from longva.media.video_track import open_stream

FORMATS = "srt,webvtt,ass"
TEXT = {"subrip", "srt", "ass", "ssa", "webvtt", "mov_text", "text"}
"""Codecs of tracks that hold text; others hold pictures of it."""

OWN = "own"
"""Stands for a film's own subtitles where a file may be named."""

MARKUP = re.compile(r"\{[^}]*\}")


def with_subtitles(media: Media, subtitles: str | Path | Sequence[Cue]) -> Media:
    """Give a medium its subtitles, which a prompt tells between the frames.

    Args:
        media: a video, an animation, or frames with times.
        subtitles: a file, `own` for the film's own text track, or what is said when.

    Raises:
        VideoError: they cannot be read, or the medium has no times.
    """
    if media.kind == "image" or not media.has_clock:
        raise VideoError(f"{media.name} has no times, which subtitles need.")
    if subtitles == OWN:
        cues = own_subtitles(media)
    elif isinstance(subtitles, str | Path):
        cues = read_subtitles(Path(subtitles))
    else:
        cues = list(subtitles)
    return replace(media, subtitles=tuple(sorted(cues, key=lambda cue: cue.start)))


def read_subtitles(path: Path) -> list[Cue]:
    """Read a file of subtitles.

    Raises:
        VideoError: it is missing, or holds no subtitles that can be read.
    """
    try:
        with av.open(f"file:{path}", container_options={"format_whitelist": FORMATS}) as container:
            cues = list(_cues(container, container.streams.subtitles[0], 0.0))
    except (av.FFmpegError, OSError, IndexError) as error:
        if not path.is_file():
            raise VideoError(f"there is no file {path}. Needed: subtitles.") from error
        raise VideoError(_why_unreadable(path)) from error
    if not cues:
        raise VideoError(f"{path} holds no subtitles.")
    return cues


def _why_unreadable(path: Path) -> str:
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError:
        convert = f"iconv -f latin1 -t utf-8 {path.name} > utf8{path.suffix}"
        return f"{path} is not UTF-8 text. If it is of Western Europe, convert it: {convert}"
    return f"{path} holds no subtitles that longva can read. Give an .srt, .vtt or .ass file."


def own_subtitles(media: Media) -> list[Cue]:
    """Read the subtitles that a film carries; times are those of the medium.

    Args:
        media: a video. Of several text tracks the first is read.

    Raises:
        VideoError: it carries none.
    """
    if media.video is None:
        raise VideoError(f"{media.name} is no video file, and carries no subtitles. Give a file.")
    video = media.video
    with open_stream(video.file, video.name, video.track) as (container, stream):
        tracks = [
            s
            for s in container.streams.subtitles
            if s.codec_context is not None and s.codec_context.name in TEXT
        ]
        if not tracks:
            others = len(container.streams.subtitles)
            pictures = f" ({others} others hold pictures of text)" if others else ""
            raise VideoError(f"{media.name} has 0 text tracks{pictures}. Give a file of subtitles.")
        begin = 0.0
        if video.stamps and stream.time_base is not None:
            begin = float(video.stamps[0] * stream.time_base)
        return list(_cues(container, tracks[0], begin))


def _cues(container: InputContainer, stream: SubtitleStream, begin: float) -> Iterator[Cue]:
    for packet in container.demux(stream):
        if not packet.size or packet.pts is None or packet.time_base is None:
            continue
        start = float(packet.pts * packet.time_base) - begin
        end = start + float((packet.duration or 0) * packet.time_base)
        rects = [rect for rect in packet.decode() if isinstance(rect, AssSubtitle)]
        text = " ".join(rect.dialogue.decode(errors="replace") for rect in rects)
        text = " ".join(MARKUP.sub("", text).split())
        if text:
            yield Cue(start, end, text)
