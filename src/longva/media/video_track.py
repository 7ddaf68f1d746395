"""A video file opened at one of its tracks, and the track's packets on one clock.

A recorder that pauses, a broadcast in segments, `cat a.ts b.ts`: parts are joined, and the stamps
of each begin anew. Here every part follows the one before it, from its first keyframe on:

    in the file     K0 40 80 | 80 K0 40 ...        |: joined here; the 80 behind it has no keyframe
    on one clock    K0 40 80 |   K120 160 ...

A stamp is a presentation time in the track's own ticks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from longva.errors import VideoError
from longva.media.file import File, open_file
from longva.media.sample_tables import UNPARSED, SampleTables

CONTAINERS = (
    "mov,matroska,avi,flv,asf,mpegts,mpeg,ogg,ivf,h264,hevc,m4v,mpegvideo,mxf,nut,dv,wtv,rm,"
    "yuv4mpegpipe,mjpeg,wav,mp3,flac,aac"
)
"""What may be opened. Playlists (HLS, concat) are absent: they make FFmpeg open other files and
addresses. So is plain text, which FFmpeg would draw as a picture. Audio is here to be named."""

WHOLE_FILES = {"mov", "matroska", "avi", "flv", "asf"}
"""Containers that begin at their beginning and say how long they are. The others are streams, which
may have been joined midway: there, nothing before the first keyframe can be decoded."""

STILLS = {"mjpeg", "png", "bmp", "gif", "webp", "tiff"}
"""Codecs of pictures, in which a cover may be stored that its container does not call one."""

TAGS: dict[str, Any] = (
    {"metadata_errors": "replace"} if hasattr(InputContainer, "metadata_errors") else {}
)
"""Tags that are not UTF-8, as old cameras write, keep no film from being opened. PyAV takes them as
they are from version 19 on; before, it has to be told."""

JUMP, LONG_JUMP = 10, 3600
"""Seconds forward that betray a join, with a jump of the packet counter beside it or without."""


class Part(NamedTuple):
    """One of the parts that a file was joined from."""

    number: int
    offset: int
    """Ticks to add to its stamps."""


@contextmanager
def open_stream(
    file: File, name: str, track: int | None = None, *, tables: SampleTables | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file at a video track.

    Args:
        file: a path, the file's bytes, or an open file.
        name: what messages call it.
        track: which video track, the first being 1; without it the film, see `_the_film`.
        tables: read through this instead.

    Raises:
        VideoError: not a video, without such a track, or of a codec that FFmpeg cannot decode.
    """
    source = tables or (f"file:{file}" if isinstance(file, Path) else open_file(file))
    options = {"format_whitelist": CONTAINERS} | (UNPARSED if tables else {})
    try:
        container = av.open(source, "r", container_options=options, **TAGS)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(_why_unreadable(file, name, error)) from error
    with container:
        stream = the_track(container, name, track)
        if stream.codec_context is None:
            raise VideoError(f"{name}: its video codec is not supported. Convert it to H.264.")
        yield container, stream


def _why_unreadable(file: File, name: str, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{name} cannot be opened: {error.strerror}."
    with open_file(file) as opened:
        head = opened.read(8)
    if head[4:] == b"ftyp":
        return (
            f"{name} is an MP4 file without its index (the moov box): it was cut off while being "
            "recorded or copied, and nothing in it can be decoded. Copy or record it again."
        )
    return f"{name} is not a video or image that longva can read. Give a video, image or folder."


def the_track(container: InputContainer, name: str, track: int | None = None) -> VideoStream:
    """Return a video track of a container; see `open_stream`."""
    videos = list(container.streams.video)
    films = [s for s in videos if not s.disposition & Disposition.attached_pic]
    if track is not None:
        if not 1 <= track <= len(videos):
            raise VideoError(
                f"{name} has {len(videos)} video tracks, numbered from 1; track {track} was asked "
                f"for. There are: {', '.join(map(_described, range(1, len(videos) + 1), videos))}."
            )
        return videos[track - 1]
    if films:
        return _the_film(films)
    others = sorted({s.type for s in container.streams} - {"video"})
    found = f", only {' and '.join(others)}" if others else ""
    raise VideoError(f"{name} has no video track{found}. Give a video, image or folder.")


def _the_film(tracks: list[VideoStream]) -> VideoStream:
    """The track that a player would show: no cover, marked as default, the largest, the first."""

    def rank(stream: VideoStream) -> tuple[bool, bool, bool, int]:
        context = stream.codec_context
        if context is None:
            return False, False, False, 0
        cover = context.name in STILLS and stream.frames <= 1
        is_default = bool(stream.disposition & Disposition.default)
        return True, not cover, is_default, context.width * context.height

    return max(tracks, key=rank)


def _described(number: int, stream: VideoStream) -> str:
    context = stream.codec_context
    what = f"{context.name} {context.width} x {context.height}" if context else "unknown codec"
    return f"{number} ({what})"


def is_whole_file(container: InputContainer) -> bool:
    """Whether the container tells that its beginning or end is missing."""
    return container.format.name.split(",")[0] in WHOLE_FILES


def on_one_clock(
    packets: Iterator[Packet], container: InputContainer, stream: VideoStream, offset: int = 0
) -> Iterator[tuple[Packet, Part]]:
    """Move the stamps of joined parts onto one clock, and drop what comes before a keyframe.

    Of the two packets before a join one may be marked as damaged, because the packet counter jumps
    there. It is taken for whole: if it is not, its decoder says so.

    Args:
        packets: of the track, in decoding order.
        container: what they come from.
        stream: the track.
        offset: of the first part; not 0 after a seek into a later one.

    Yields:
        a packet, and the part that it belongs to.
    """
    second = round(1 / stream.time_base) if stream.time_base else 1
    part, joining, started = Part(0, offset), False, is_whole_file(container)
    may_jump = not started and bool(container.format.flags & Flags.ts_discont.value)
    last, step, end = 0, 0, 0  # ticks: stamp in the file, from packet to packet, end on the clock
    held: list[Packet] = []  # the last two packets; at a join the keyframe and what leads up to it
    astray: list[Packet] = []  # off the clock: a part that begins midway, or a few wrong stamps

    def emit(*, but: int = 0) -> Iterator[tuple[Packet, Part]]:
        nonlocal part, joining, end
        if joining and held:
            part = Part(part.number + 1, end - min(_stamp(packet) for packet in held))
            joining = False
        while len(held) > but:
            packet = held.pop(0)
            if packet.pts is not None:
                packet.pts += part.offset
                end = max(end, packet.pts + (packet.duration or step))
            if packet.dts is not None:
                packet.dts += part.offset
            yield packet, part

    for packet in packets:
        if not packet.size or not started and not packet.is_keyframe:
            continue
        now = packet.dts if packet.dts is not None else packet.pts
        if may_jump and started and now is not None:
            ahead, marked = now - last, any(before.is_corrupt for before in held)
            far = ahead > (JUMP if marked else LONG_JUMP) * second
            if (ahead < 0 or far) and not packet.is_keyframe:
                astray.append(packet)
                continue
            for before in held if packet.is_keyframe else ():
                before.is_corrupt = False
            if ahead < 0 or far:
                yield from emit()
                joining = True
            else:
                held += astray
                step = ahead
            astray.clear()
        last = last if now is None else now
        if not (joining and held and _stamp(packet) < _stamp(held[0])):
            yield from emit(but=1)
        started = True
        held.append(packet)
    held += astray
    yield from emit()


def _stamp(packet: Packet) -> int:
    return 0 if packet.pts is None else packet.pts
