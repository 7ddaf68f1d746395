"""Which frames a video file has and when they are shown, from its packets or by decoding it.

Demuxing gives each packet's presentation stamp without decoding anything:

    packets, in decoding order     I0  P4  B2  B1  B3  I8 ...
    their stamps, sorted           0   1   2   3   4   8  ...     frame number -> stamp

Packets hidden by an edit list, and pictures that need a keyframe before the file, are left out. If
the stamps cannot serve, or the first frames do not come as they promise, or the caller asks for it,
the whole file is decoded once instead, and its frames are known by having been seen. Decoding also
tells what a broken file still holds: a picture that cannot be decoded takes with it all that were
predicted from it.

N: frames in the file.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from longva.errors import VideoError
from longva.media.bounds import Bounds
from longva.media.file import File
from longva.media.sample_tables import SampleTables, has_sample_tables
from longva.media.screen import Screen
from longva.media.video_file import (
    Entrance,
    IndexMismatch,
    VideoFile,
    decode,
    decoder_of,
    video_frames,
)
from longva.media.video_track import Part, is_whole_file, on_one_clock, open_stream

VP8 = "vp8"

SOUGHT_BY_BYTE = {"mpegts", "mpeg"}
"""Containers that can be read from any packet on, and have no list of times to seek by."""

PROBED_FRAMES = 8
PROBED_PIXELS = PROBED_FRAMES * 3840 * 2160
"""An index is checked against so many first frames, but for two of 8K: that they follow one another
is checked at every read as well."""

NO_STAMP = -(1 << 63)


def open_video(
    file: File,
    name: str,
    *,
    track: int | None = None,
    exact: bool = False,
    allow_truncated: bool = False,
    bounds: Bounds,
) -> VideoFile:
    """Index a video file, and check the index against its first frames.

    Args:
        file: a path, or the file's bytes.
        name: what messages call it.
        track: which video track, the first being 1; without it the film.
        exact: decode the whole file once to index it, instead of trusting the container.
        allow_truncated: leave out what cannot be decoded instead of refusing the file; this also
            decodes the whole file once.
        bounds: refuse a video beyond them.

    Raises:
        VideoError: not a video, nothing to decode, beyond the bounds, or broken.
    """
    advice = "Copy or record it again, or take the frames that can be decoded."
    video, expected, problem = _read_index(file, name, track, bounds)
    if problem and not allow_truncated:
        raise VideoError(f"{name} is broken: {problem}. {advice}", allow_truncated=True)
    if video.stamps and not exact and not allow_truncated:
        try:
            return _probe(video)
        except IndexMismatch:
            pass
    video = _scan(file, name, track, expected, bounds, incomplete=bool(problem))
    if video.damage and not allow_truncated:
        raise VideoError(f"{name} is damaged: only {video.damage}. {advice}", allow_truncated=True)
    try:
        return _probe(video)
    except IndexMismatch as error:
        raise VideoError(f"{name} cannot be decoded reliably: {error}. Copy it again.") from error


def _probe(video: VideoFile) -> VideoFile:
    """Read the first frames, which checks the index and gives the upright size."""
    most = max(1, PROBED_PIXELS // max(1, video.width * video.height))
    frames = video_frames(video, range(min(PROBED_FRAMES, most, len(video.seconds))))
    screen, frame = next(frames)
    width, height = screen.upright_size(frame)
    for _ in frames:
        pass
    return replace(video, height=height, width=width)


def _read_index(
    file: File, name: str, track: int | None, bounds: Bounds
) -> tuple[VideoFile, int, str]:
    """Index a file, from its tables alone where it has such that can be believed; see `_index`."""
    if has_sample_tables(file):
        with (
            SampleTables(file) as tables,
            open_stream(file, name, track, tables=tables) as (container, stream),
        ):
            tables.blank = True
            codec = stream.codec_context.codec
            if stream.codec_context.name != VP8:
                index = _index(file, name, track, container, stream, bounds)
                # Some writers leave out which pictures are keyframes, as if every one were.
                if codec.intra_only or len(index[0].entrances) < max(2, len(index[0].seconds)):
                    return index
    with open_stream(file, name, track) as (container, stream):
        return _index(file, name, track, container, stream, bounds)


@dataclass(frozen=True, kw_only=True, order=True)
class _Listed:
    """A frame as its packet announces it; in order of presentation."""

    stamp: int
    is_key: bool
    hidden: bool
    duration: int
    place: int | None = field(compare=False)
    part: Part = field(compare=False)


def _index(
    file: File,
    name: str,
    track: int | None,
    container: InputContainer,
    stream: VideoStream,
    bounds: Bounds,
) -> tuple[VideoFile, int, str]:
    """Index a file without decoding.

    Returns:
        the index, without stamps if they cannot serve; how many frames there should be; and what is
        wrong with the file, an empty string if nothing seems to be.
    """
    width, height = Screen(stream, name).size(stream.codec_context)
    bounds.check_size(name, width, height)
    packets: list[_Listed] = []
    ends: dict[int, int] = {}  # track -> where it ends, in its own ticks
    begins: dict[int, int] = {}  # part -> stamp of its first keyframe
    places: list[int | None] = [None, None]  # where the packets begin that say so, the last two
    problem, is_vp8 = "", stream.codec_context.name == VP8
    by_byte = container.format.name in SOUGHT_BY_BYTE
    try:
        ours = _noting_ends(container, stream, ends)
        for packet, part in on_one_clock(ours, container, stream):
            stamp = _stamp(packet)
            if packet.pos is not None and packet.pos != places[-1]:
                places = [places[-1], packet.pos]
            # VP8 keeps reference pictures in packets of their own, without the bit for "show".
            hidden = packet.is_discard or is_vp8 and not bytes(packet)[0] & 0x10
            # Pictures shown before the first keyframe of a part need what was before it.
            leading = NO_STAMP < stamp < begins.setdefault(part.number, stamp)
            packets.append(
                _Listed(
                    stamp=stamp,
                    is_key=packet.is_keyframe,
                    hidden=hidden or leading,
                    duration=packet.duration or 0,
                    place=places[0] if by_byte else None,
                    part=part,
                )
            )
            bounds.check_count(name, len(packets), width * height)
            if packet.is_corrupt:
                problem = "some of its data are damaged"
    except (av.FFmpegError, IndexError) as error:  # IndexError: a track that begins midway
        problem = f"it cannot be read to its end ({error})"
    if not packets:
        raise VideoError(f"{name} has a video track without frames. Record or export it again.")

    shown = sorted(packet for packet in packets if not packet.hidden)
    num_hidden = len(packets) - len(shown)
    expected = max(len(shown), stream.frames - num_hidden)
    declared, found = _lengths(container, stream, ends)
    missing, interval = declared - found, found / len(packets)
    if stream.frames:  # then a missing packet is known, but may have been cut off by an edit list
        too_short = stream.frames > len(packets) and missing > 1.5 * interval
    else:  # the last frame's duration may be unknown
        too_short = missing > max(0.25, 2 * interval)
    if too_short:
        problem = f"its frames end at {found:.1f} s of {declared:.1f} s"
        if not stream.frames and found:
            expected = round(len(shown) * declared / found)

    stamps = [packet.stamp for packet in shown]
    usable = NO_STAMP not in stamps and len(set(stamps)) == len(stamps)
    declared = 0.0 if problem else _declared(container, stream)
    seconds, duration = _timeline(stamps, shown[-1].duration if shown else 0, declared, stream)
    entrances = [
        Entrance(number=number, place=packet.place, offset=packet.part.offset)
        for number, packet in enumerate(shown)
        if packet.is_key
    ]
    video = VideoFile(
        file=file,
        name=name,
        track=track,
        seconds=seconds,
        entrances=entrances or [Entrance(number=0)],  # an edit list may hide all of them
        duration=duration,
        stamps=stamps if usable else [],
        height=height,
        width=width,
    )
    return video, expected, problem


def _noting_ends(
    container: InputContainer, stream: VideoStream, ends: dict[int, int]
) -> Iterator[Packet]:
    """Yield the packets of one track, and note where each track ends, in its own ticks."""
    for packet in container.demux():
        if packet.pts is not None:
            end = packet.pts + (packet.duration or 0)
            ends[packet.stream_index] = max(end, ends.get(packet.stream_index, end))
        if packet.stream_index == stream.index:
            yield packet


def _stamp(timed: Packet | VideoFrame) -> int:
    return NO_STAMP if timed.pts is None else timed.pts


def _lengths(
    container: InputContainer, stream: VideoStream, ends: dict[int, int]
) -> tuple[float, float]:
    """Seconds that the header declares, and that were found; of all tracks if it lumps them."""
    ticks = {track.index: float(track.time_base or 0) for track in container.streams}
    ended = {track: end * ticks[track] for track, end in ends.items()}
    if not is_whole_file(container):
        return 0.0, 0.0
    if stream.duration:
        return _declared(container, stream), ended.get(stream.index, 0.0)
    return (container.duration or 0) / av.time_base, max(ended.values(), default=0.0)


def _declared(container: InputContainer, stream: VideoStream) -> float:
    """Seconds that the header gives for the video track; 0 if it does not, or only guesses."""
    if not is_whole_file(container) or not stream.duration or not stream.time_base:
        return 0.0
    return float(stream.duration * stream.time_base)


def _timeline(
    stamps: list[int], last_duration: int, declared: float, stream: VideoStream
) -> tuple[np.ndarray, float]:
    """Seconds since the first frame, and when the last one ends.

    The header knows best, because MP4 stores how long a frame takes in decoding order only. Failing
    that the last frame's own duration counts, and without one the usual time between frames.
    """
    if not stamps:
        return np.zeros(0), 0.0
    ticks = np.array(stamps, np.int64) - stamps[0]
    if not last_duration and len(ticks) > 1:
        last_duration = int(np.median(np.diff(ticks)))
    ticks = np.append(ticks, ticks[-1] + last_duration)
    tick = stream.time_base or Fraction(1)
    seconds = ticks * tick.numerator / tick.denominator
    end = declared if declared > seconds[-2] else float(seconds[-1])
    return seconds[:-1], end


def _scan(
    file: File, name: str, track: int | None, expected: int, bounds: Bounds, *, incomplete: bool
) -> VideoFile:
    """Index a file by decoding all of it, without broken frames and those predicted from them."""
    order: list[tuple[int, bool]] = []  # stamp and keyframe of each packet, decoding order
    found: list[tuple[int, bool, int]] = []  # stamp, keyframe, duration of each frame, as shown
    bad: set[int] = set()
    with open_stream(file, name, track) as (container, stream):
        for packet, frames in decode(container, stream, decoder_of(stream, single=True)):
            if packet.size:
                order.append((_stamp(packet), packet.is_keyframe))
                if frames is None or packet.is_corrupt:
                    bad.add(_stamp(packet))
            for frame in frames or ():
                found.append((_stamp(frame), frame.key_frame, frame.duration or 0))
                bounds.check_count(name, len(found), frame.width * frame.height)
                if frame.is_corrupt:
                    bad.add(_stamp(frame))
        lost = _lost(order, bad)
        usable = [frame for frame in found if frame[0] not in lost]
        if not usable:
            raise VideoError(f"{name}: none of its frames can be decoded. Copy it again.")
        num_missing = sum(stamp >= order[0][0] for stamp in lost)
        incomplete = incomplete or num_missing > 0
        declared = 0.0 if incomplete else _declared(container, stream)
        stamps = [stamp for stamp, *_ in usable]
        if NO_STAMP in stamps:
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            seconds, duration = np.arange(len(usable)) / rate, len(usable) / rate
        else:  # sorted, because AVI files may stamp in decoding order
            seconds, duration = _timeline(sorted(stamps), usable[-1][2], declared, stream)
    if len(set(stamps)) < len(stamps) or NO_STAMP in stamps:
        if lost:
            raise VideoError(
                f"{name} is damaged, and without timestamps its sound frames cannot be told apart. "
                "Copy or record it again."
            )
        stamps = []
    expected = max(expected, len(usable) + num_missing)
    damage = f"{len(usable)} of {expected} frames could be decoded"
    return VideoFile(
        file=file,
        name=name,
        track=track,
        seconds=seconds,
        entrances=[Entrance(number=n) for n, (_, is_key, _) in enumerate(usable) if is_key]
        or [Entrance(number=0)],
        duration=duration,
        stamps=stamps,
        scanned=True,
        damage=damage if incomplete else "",
        height=stream.codec_context.height,
        width=stream.codec_context.width,
    )


def _lost(order: list[tuple[int, bool]], bad: set[int]) -> set[int]:
    """Stamps of bad pictures and of those predicted from them: all up to the next keyframe.

    Pictures stored after a keyframe but shown before it need the group before; none needs them.

    >>> group = [(0, True), (3, False), (1, False), (2, False)]
    >>> following = [(6, True), (4, False), (5, False), (9, False)]
    >>> sorted(_lost(group + following, bad={3}))
    [1, 2, 3, 4, 5]
    """
    lost: set[int] = set()
    key_stamp, before, here = NO_STAMP, False, False  # is the group before, is this one broken?
    for stamp, is_key in order if bad else ():
        if is_key:
            key_stamp, before, here = stamp, here, False
        if stamp < key_stamp:
            before = broken = before or stamp in bad
        else:
            here = broken = here or stamp in bad
        if broken:
            lost.add(stamp)
    return lost
