"""One video file, frame by frame: decode forward, seek when that is cheaper, check every step.

    index (media/video_index.py)    number   0   1   2   3   4   5   6   7   8 ...
                              stamp    0  40  80 120 160 200 240 280 320 ...    K = keyframe
                                       K               K               K
    wanted 1, 7:  decode 0, give 1; seek to 4; decode 4, 5, 6, give 7

From the place a seek lands, every frame the decoder gives must carry the next stamp of the index;
what no wanted frame needs is not decoded (needed.py). Any container may be asked to
seek: one that cannot, or that lands elsewhere, is found out and read from its beginning. If even
there another frame comes than the index promises (a container that lies, damaged data), that is an
`IndexMismatch`, and the file is indexed again by decoding all of it. No frame is ever returned in
place of another.

N: frames in the file. A stamp is a presentation time in the container's own ticks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import cast

import av
import numpy as np
from av.codec import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from longva.media.file import File
from longva.media.needed import Needed
from longva.media.screen import Screen
from longva.media.video_track import on_one_clock, open_stream

LIBVPX = {"vp8": "libvpx", "vp9": "libvpx-vp9"}

SEEK_GAIN = 8
"""Frames that a seek has to skip before it is cheaper than decoding them."""


class IndexMismatch(Exception):
    """The decoder gave another frame than the index promised."""


@dataclass(frozen=True, kw_only=True)
class Entrance:
    """A keyframe, and how to reach it."""

    number: int
    place: int | None = None
    """Byte where its packet begins; None to seek by its stamp."""

    offset: int = 0
    """Ticks between the file's stamps and the index's, see `on_one_clock`."""


@dataclass(frozen=True, kw_only=True)
class VideoFile:
    """A video file's frames: when each is shown and how to reach it."""

    file: File
    name: str
    track: int | None = None
    """Which video track, the first being 1; None for the film."""

    seconds: np.ndarray
    """[N] float64, presentation times relative to the first frame."""

    entrances: list[Entrance]
    """[K], by number."""

    duration: float
    """Seconds until the last frame leaves the screen."""

    stamps: list[int]
    """[N] what identifies each frame; empty if the container stores no stamps or repeats them."""

    scanned: bool = False
    """Whether the frames were found by decoding, so that an unknown one was left out on purpose."""

    damage: str = ""
    """What is missing, as in `412 of 600 frames could be decoded`."""

    height: int = 0
    width: int = 0

    @cached_property
    def keyframes(self) -> np.ndarray:
        """[K] int64 frame numbers."""
        return np.array([entrance.number for entrance in self.entrances], np.int64)

    @cached_property
    def number_of(self) -> dict[int | None, int]:
        """The frame of each stamp."""
        return {stamp: number for number, stamp in enumerate(self.stamps)}


def decoder_of(stream: VideoStream, *, single: bool) -> VideoCodecContext:
    """The decoder of a track: FFmpeg's own, or libvpx, which alone reads VP8's and VP9's alpha.

    Args:
        stream: the track.
        single: one thread, which reports an error with the packet that caused it; several decode
            ahead.
    """
    decoder, libvpx = stream.codec_context, LIBVPX.get(stream.codec_context.name)
    if stream.metadata.get("alpha_mode") == "1" and libvpx in av.codecs_available:
        decoder = cast(VideoCodecContext, CodecContext.create(libvpx, "r"))
    if single:
        decoder.thread_count = 1
    else:
        decoder.thread_type = "AUTO"
    return decoder


def decode(
    container: InputContainer,
    stream: VideoStream,
    decoder: VideoCodecContext,
    offset: int = 0,
    start: int | None = None,
    needed: Needed | None = None,
) -> Iterator[tuple[Packet, list[VideoFrame] | None]]:
    """Decode packet by packet, with the stamps of `on_one_clock`.

    Args:
        container: read from where it stands.
        stream: the track.
        decoder: the track's.
        offset: see `on_one_clock`.
        start: stamp of the keyframe to begin with; packets before it are passed over.
        needed: which packets to decode, and when to stop; all of the file without.

    Yields:
        a packet and the frames that came with it, None if they cannot be decoded; an empty packet
        with those that were still due at the end, or where the decoder has to begin anew.
    """
    number = 0
    for packet, part in on_one_clock(_readable(container, stream), container, stream, offset):
        if part.number != number:
            number = part.number
            yield _rest(decoder)
            decoder.flush_buffers()
        if start is not None:
            if packet.pts != start or not packet.is_keyframe:
                continue
            start = None
        if needed is None or needed.takes(packet):
            if needed and needed.restarts_at(packet):
                yield _rest(decoder)
                decoder.flush_buffers()
            try:
                frames = decoder.decode(packet)
            except av.FFmpegError:
                frames = None
            yield packet, frames
        if needed and needed.is_done:
            break
    yield _rest(decoder)


def _readable(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The packets up to where the file cannot be read; that frames do not come is noticed."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, IndexError):  # IndexError: a track that begins midway
            return
        if packet is None:
            return
        yield packet


def _rest(decoder: VideoCodecContext) -> tuple[Packet, list[VideoFrame] | None]:
    """What the decoder still holds."""
    try:
        return Packet(), decoder.decode(None)
    except av.EOFError:
        return Packet(), []
    except av.FFmpegError:
        return Packet(), None


def video_pictures(
    video: VideoFile, numbers: Sequence[int], *, at_least: int = 0
) -> Iterator[np.ndarray]:
    """Yield the upright [height, width, 3] uint8 pictures of frames; see `video_frames`."""
    for screen, frame in video_frames(video, numbers, at_least=at_least):
        yield screen.shown_picture(frame)


def video_frames(
    video: VideoFile, numbers: Sequence[int], *, at_least: int = 0
) -> Iterator[tuple[Screen, VideoFrame]]:
    """Yield frames of strictly increasing numbers, and the screen that shows them.

    Args:
        video: the file.
        numbers: of frames.
        at_least: pixels that the shorter side keeps if pictures are scaled down, see `Screen`; 0
            for full size.

    Raises:
        IndexMismatch: a frame cannot be had as the index promised.
    """
    given = 0
    if video.stamps and not video.scanned:
        try:
            for shown in _frames(video, numbers, at_least, shortcuts=True):
                yield shown
                given += 1
            return
        except IndexMismatch:
            pass  # the container cannot seek, its decoder needs every packet, or there is damage
    begin = max(0, given - 1)  # the last frame once more: it may have been found bad afterwards
    frames = _frames(video, numbers[begin:], at_least, shortcuts=False)
    yield from islice(frames, given - begin, None)


def _frames(
    video: VideoFile, numbers: Sequence[int], at_least: int, *, shortcuts: bool
) -> Iterator[tuple[Screen, VideoFrame]]:
    with open_stream(video.file, video.name, video.track) as (container, stream):
        screen = Screen(stream, video.name, at_least)
        decoder = decoder_of(stream, single=bool(video.damage))
        context = stream.codec_context if shortcuts else None
        for entrance, part in _parts(video, numbers, shortcuts=shortcuts):
            start, offset, needed = None, 0, None
            if entrance:
                _seek(video, container, stream, entrance)
                decoder.flush_buffers()
                start, offset = video.stamps[entrance.number], entrance.offset
            if not video.scanned:
                needed = Needed(
                    part,
                    entrance.number if entrance else 0,
                    sought=entrance is not None,
                    number_of=video.number_of,
                    keyframes=video.keyframes,
                    context=context,
                )
            decoded = decode(container, stream, decoder, offset, start, needed)
            told = not stream.codec_context.codec.intra_only  # else decoders may not set the flag
            frames = _checked(video, needed, decoded, told=told)
            for number in part:
                position, frame = next(
                    (one for one in frames if one[0] >= number), (len(video.seconds), None)
                )
                if frame is None:
                    raise IndexMismatch(f"frame {number} did not come")
                if position > number:
                    raise IndexMismatch(f"frame {position} came in place of frame {number}")
                yield screen, frame
            if needed:  # a picture may be shown before a damaged one that it was predicted from
                for _ in frames:
                    pass


def _parts(
    video: VideoFile, numbers: Sequence[int], *, shortcuts: bool
) -> Iterator[tuple[Entrance | None, list[int]]]:
    """Yield frames to be read one after another, and the keyframe to seek before; None for none."""
    entrance, part, position = None, [], -1
    for number in numbers:
        nearest = _entrance_before(video, number)
        if shortcuts and nearest.number - position > SEEK_GAIN:
            if part:
                yield entrance, part
            entrance, part = nearest, []
        part.append(number)
        position = number
    if part:
        yield entrance, part


def _entrance_before(video: VideoFile, number: int) -> Entrance:
    """The last keyframe at or before a frame; frame 0 if an edit list hides it."""
    place = int(np.searchsorted(video.keyframes, number, side="right"))
    return video.entrances[place - 1] if place else Entrance(number=0)


def _seek(
    video: VideoFile, container: InputContainer, stream: VideoStream, entrance: Entrance
) -> None:
    try:
        if entrance.place is None:
            container.seek(video.stamps[entrance.number] - entrance.offset, stream=stream)
        else:
            container.seek(entrance.place, unsupported_byte_offset=True)
    except av.FFmpegError as error:
        raise IndexMismatch(f"the container cannot seek ({error})") from error


def _checked(
    video: VideoFile,
    needed: Needed | None,
    decoded: Iterator[tuple[Packet, list[VideoFrame] | None]],
    *,
    told: bool,
) -> Iterator[tuple[int, VideoFrame]]:
    """Yield (number, frame), from a keyframe just sought or from frame 0 on.

    Args:
        video: the index.
        needed: what is decoded, and what is not; None for all of the file.
        decoded: what comes.
        told: whether the decoder tells which frames are keyframes.
    """
    first = expected = needed.first if needed else 0
    for _, frames in decoded:
        if frames is None and not video.damage:
            raise IndexMismatch(f"the data near frame {expected} cannot be decoded")
        for frame in frames or ():
            number = video.number_of.get(frame.pts) if video.stamps else expected
            if number is None and video.scanned:
                continue
            if number is not None and number < first:
                continue  # pictures that need the group before
            if frame.is_corrupt:
                raise IndexMismatch(f"the data of frame {number} are damaged")
            if needed and number is not None and number > needed.last:
                continue
            while needed and expected != number and expected in needed.left_out:
                expected += 1
            if number != expected:
                raise IndexMismatch(f"frame {number} came in place of frame {expected}")
            if needed and number in needed.entered and told and not frame.key_frame:
                raise IndexMismatch(f"frame {number} is not the keyframe that it was said to be")
            yield expected, frame
            expected += 1
