"""One video file, frame by frame: decode forward, seek when that is cheaper, check every step.

    index (media/video_index.py)    number   0   1   2   3   4   5   6   7   8 ...
                              stamp    0  40  80 120 160 200 240 280 320 ...    K = keyframe
                                       K               K               K
    wanted 1, 7:  decode 0, give 1; seek to 4; decode 4, 5, 6, give 7

From the place a seek lands, every frame the decoder gives must carry the next stamp of the index.
The first that does not (a container that lies, a seek that lands elsewhere, damaged data) raises
`IndexMismatch`, and the file is indexed again by decoding all of it. No frame is ever returned in
place of another.

N: frames in the file. A stamp is a presentation time in the container's own ticks.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from longva.errors import VideoError
from longva.media.file import File, open_file

CONTAINERS = (
    "mov,matroska,avi,flv,asf,mpegts,mpeg,ogg,ivf,h264,hevc,m4v,mpegvideo,mxf,nut,dv,wtv,rm,"
    "wav,mp3,flac,aac"
)
"""What may be opened. Playlists (HLS, concat) are absent: they make FFmpeg open other files and
addresses. So is plain text, which FFmpeg would draw as a picture. Audio is here to be named."""

WHOLE_FILES = {"mov", "matroska", "avi", "flv", "asf"}
"""Containers that begin at their beginning and say how long they are. The others are streams, which
may have been joined midway: there, nothing before the first keyframe can be decoded."""

TAGS: dict[str, Any] = (
    {"metadata_errors": "replace"} if hasattr(InputContainer, "metadata_errors") else {}
)
"""Tags that are not UTF-8, as old cameras write, keep no film from being opened. PyAV takes them as
they are from version 19 on; before, it has to be told."""

SEEK_GAIN = 8
"""Frames that a seek has to skip before it is cheaper than decoding them."""


class IndexMismatch(Exception):
    """The decoder gave another frame than the index promised."""


@dataclass(frozen=True, kw_only=True)
class VideoFile:
    """A video file's frames: when each is shown and how to reach it."""

    file: File
    name: str
    seconds: np.ndarray
    """[N] float64, presentation times relative to the first frame."""

    keyframes: np.ndarray
    """[K] int64 frame numbers."""

    duration: float
    """Seconds until the last frame leaves the screen."""

    stamps: list[int]
    """[N] what identifies each frame; empty if the container stores no stamps or repeats them."""

    seekable: bool = False
    scanned: bool = False
    """Whether the frames were found by decoding, so that an unknown one was left out on purpose."""

    damage: str = ""
    """What is missing, as in `412 of 600 frames could be decoded`."""

    height: int = 0
    width: int = 0

    @cached_property
    def number_of(self) -> dict[int | None, int]:
        """The frame of each stamp."""
        return {stamp: number for number, stamp in enumerate(self.stamps)}


@contextmanager
def open_stream(file: File, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its first video track that is not a cover picture."""
    source = f"file:{file}" if isinstance(file, Path) else open_file(file)
    options = {"format_whitelist": CONTAINERS}
    try:
        container = av.open(source, "r", container_options=options, **TAGS)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(_why_unreadable(file, name, error)) from error
    with container:
        videos = container.streams.video
        videos = [s for s in videos if not s.disposition & Disposition.attached_pic]
        if not videos:
            others = sorted({s.type for s in container.streams} - {"video"})
            found = f", only {' and '.join(others)}" if others else ""
            raise VideoError(f"{name} has no video track{found}. Give a video, image or folder.")
        if videos[0].codec_context is None:
            raise VideoError(f"{name}: its video codec is not supported. Convert it to H.264.")
        yield container, videos[0]


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


def is_whole_file(container: InputContainer) -> bool:
    """Whether the container tells that its beginning or end is missing."""
    return container.format.name.split(",")[0] in WHOLE_FILES


def decode(
    container: InputContainer, stream: VideoStream
) -> Iterator[tuple[Packet, list[VideoFrame] | None]]:
    """Decode packet by packet, a stream from a keyframe on; None for what cannot be decoded."""
    started = is_whole_file(container)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, IndexError):  # IndexError: a track that begins midway
            packet = None  # unreadable from here on; the frames that do not come are noticed
        if packet is None:
            return
        started = started or packet.is_keyframe
        if started:
            try:
                frames = packet.decode()
            except av.FFmpegError:
                frames = None
            yield packet, frames


def set_threads(stream: VideoStream, *, single: bool) -> None:
    """One thread reports an error with the packet that caused it; several decode ahead."""
    if single:
        stream.codec_context.thread_count = 1
    else:
        stream.thread_type = "AUTO"


def video_pictures(video: VideoFile, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the upright [height, width, 3] uint8 pictures of strictly increasing frame numbers.

    Raises:
        IndexMismatch: a frame cannot be had as the index promised.
    """
    to_rgb = VideoReformatter()  # one for all frames: it keeps its conversion tables
    matrix = None  # one for all frames: to read it keeps a frame alive until garbage is collected
    with open_stream(video.file, video.name) as (container, stream):
        set_threads(stream, single=bool(video.damage))
        frames, position = _checked(video, container, stream, start=0), -1
        for wanted in numbers:
            key = _keyframe_before(video, wanted)
            if video.seekable and key - position > SEEK_GAIN:
                _check_pending(video, stream)
                _seek(container, stream, video.stamps[key])
                frames = _checked(video, container, stream, start=key)
            for position, frame in frames:
                if position == wanted:
                    matrix = matrix or _display_matrix(frame)
                    picture = to_rgb.reformat(frame, format="rgb24").to_ndarray()
                    yield _upright(picture, matrix)
                    break
            else:
                raise IndexMismatch(f"frame {wanted} did not come")
        _check_pending(video, stream)


def _keyframe_before(video: VideoFile, number: int) -> int:
    """The last keyframe at or before a frame; 0 if an edit list hides it."""
    place = int(np.searchsorted(video.keyframes, number, side="right"))
    return int(video.keyframes[place - 1]) if place else 0


def _seek(container: InputContainer, stream: VideoStream, stamp: int) -> None:
    try:
        container.seek(stamp, stream=stream)
    except av.FFmpegError as error:
        raise IndexMismatch(f"the container cannot seek ({error})") from error


def _checked(
    video: VideoFile, container: InputContainer, stream: VideoStream, *, start: int
) -> Iterator[tuple[int, VideoFrame]]:
    """Yield (number, frame) from frame `start` on: a keyframe just sought, or 0."""
    expected = start
    for _, frames in decode(container, stream):
        if frames is None and not video.damage:
            raise IndexMismatch(f"the data near frame {expected} cannot be decoded")
        for frame in frames or ():
            number = video.number_of.get(frame.pts) if video.stamps else expected
            if number is None and video.scanned:
                continue
            if number is not None and number < start:
                continue  # the seek landed early, or at pictures that need the group before
            if number != expected or frame.is_corrupt:
                raise IndexMismatch(f"frame {number} came in place of frame {expected}")
            yield expected, frame
            expected += 1


def _check_pending(video: VideoFile, stream: VideoStream) -> None:
    """Before leaving a place, look at the frames decoded but not yet given out.

    A picture may be shown before a damaged one that it was predicted from.
    """
    if video.scanned:
        return
    try:
        pending = stream.decode(None)
    except av.EOFError:
        return
    except av.FFmpegError as error:
        raise IndexMismatch("the data cannot be decoded") from error
    if any(frame.is_corrupt for frame in pending):
        raise IndexMismatch("the data are damaged")


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d): the stored pixel (x, y) is shown at (a x + c y, b x + d y)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack("=9i", bytes(data))[:5]
    return a, b, c, d


def _upright(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Turn and mirror a picture by whole quarter turns; a view, not a copy.

    >>> _upright(np.array([[1, 2], [3, 4]])[..., None], (0, 1, -1, 0))[..., 0]  # clockwise
    array([[3, 1],
           [4, 2]])
    """
    a, b, c, d = matrix
    if abs(b) > abs(a):  # a quarter turn: rows become columns
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
